//! An application server herd on a thread pool.

pub mod client;
pub mod config;
pub mod link;
pub mod listener;
pub mod logging;
pub mod model;
pub mod places;
pub mod replica;
pub mod server;
pub mod status;
pub mod store;
pub mod sync;
pub mod thread;
