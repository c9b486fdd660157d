//! Everything between a client's socket and the replica.
//!
//! [`accept`] admits a new connection within the [`limit`] and hands it to a [`pool`], whose workers
//! give each [`connection`] its turns; a turn runs the protocol of the connection's [`session`] on
//! the [`services`] that all sessions share.

pub(crate) mod accept;
pub(crate) mod connection;
pub(crate) mod counts;
pub(crate) mod limit;
pub(crate) mod pool;
pub(crate) mod refused_lines;
pub(crate) mod rejections;
pub(crate) mod requests;
pub(crate) mod services;
pub(crate) mod session;
