//! The durable copy of a server's records.

pub mod journal;
