//! Values and their grammar: what a command, a record, a version vector or a digest is.
//!
//! Nothing here does I/O, reads a clock or holds a lock, so the build script and the model of the
//! scheduler in `tests/interleavings` compile it as it is.

pub mod command;
pub mod decimal;
pub mod digest;
pub mod fields;
pub mod geo;
pub mod printable;
pub mod record;
pub mod time;
pub mod vector;
