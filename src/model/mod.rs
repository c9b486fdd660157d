//! Values and their grammar: commands, records, version vectors, digests, times and positions.
//!
//! Nothing here does I/O or holds a lock, and only `time` reads a clock, so the build script and
//! the scheduler of `tests/interleavings` compile these modules as they are.

pub mod age;
pub mod area;
pub mod command;
pub mod decimal;
pub mod digest;
pub(crate) mod fields;
pub mod geo;
pub(crate) mod grid;
pub(crate) mod location;
pub mod printable;
pub mod record;
pub mod request;
pub(crate) mod text;
pub mod time;
pub mod vector;
