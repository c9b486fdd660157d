//! An application server herd on a thread pool.

pub mod command;
pub mod config;
pub mod decimal;
pub mod digest;
pub mod durability;
pub mod fields;
pub mod flood;
pub mod geo;
pub mod herd;
pub mod journal;
pub mod keys;
pub mod limits;
pub mod link;
pub mod links;
pub mod listener;
pub mod locations;
pub mod logging;
pub mod outbox;
pub mod places;
pub mod pool;
pub mod printable;
pub mod record;
pub mod server;
pub mod session;
pub mod shutdown;
pub mod status;
pub mod sync;
pub mod time;
pub mod topology;
pub mod vector;

/// Stack of every thread that the server makes. What is large is on the heap.
pub const STACK_BYTES: usize = 256 << 10;
