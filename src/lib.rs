//! An application server herd on a thread pool.

pub mod decimal;
pub mod geo;
pub mod places;
