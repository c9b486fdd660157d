//! One point of a scenario: the parameters of a cell.

/// One combination of the values that a scenario lists.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Point {
    /// Connections that make requests.
    pub(crate) connections: usize,
    /// Requests in flight on each, in a closed loop.
    pub(crate) depth: usize,
    /// An open loop's rate, as a part of the capacity of the slowest of `slowest_of`.
    pub(crate) fraction: Option<f64>,
    /// Workers of the herd's pool; `None` for its default.
    pub(crate) workers: Option<usize>,
    /// Silent connections beside them.
    pub(crate) idle: usize,
}
