//! The durable copy of a server's records: a [`journal`] in a folder of its own.
//!
//! The store knows files. What is in the cache, and which record wins, is the replica's business.

pub(crate) mod journal;
