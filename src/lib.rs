//! An application server herd on a thread pool.

pub mod command;
pub mod decimal;
pub mod flood;
pub mod geo;
pub mod herd;
pub mod locations;
pub mod outbox;
pub mod places;
pub mod pool;
pub mod printable;
pub mod record;
pub mod session;
pub mod shutdown;
pub mod time;
pub mod topology;
pub mod vector;
