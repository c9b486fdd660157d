//! An application server herd on a thread pool.

pub mod command;
pub mod decimal;
pub mod geo;
pub mod places;
pub mod record;
pub mod time;
pub mod topology;
