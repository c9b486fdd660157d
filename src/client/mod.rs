//! Everything between a client's socket and the replica: the worker pool and the sessions.

pub mod accept;
pub mod pool;
pub mod session;
