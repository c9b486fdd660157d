//! An application server herd on a thread pool: equal servers keep the latest location of every
//! client, flood it to each other, and list the places near a client.
//!
//! # Layout
//!
//! In reading order:
//!
//! - `main` and `cli`, the program: subcommands, flags, signals and exit codes
//! - [`server`]: start, wiring, reload and stop of one server
//! - [`listener`] and [`client`]: the accept loop of a port; connections and sessions of clients
//! - [`link`]: connections to neighbors: handshake, flood, resync and audit
//! - [`status`]: the status of the whole herd, for `herd status`
//! - [`http`]: the HTTP port: health, metrics, status, and the live page
//! - [`health`]: whether a server is well, and if not, why
//! - `watch`: tells applications of what changes in an area, or of one client
//! - [`replica`]: the records and the version vector of one server; decides which record wins, finds what is near
//! - [`store`]: the journal on disk: writing, recovery and compaction
//! - [`places`]: providers of nearby places: the compiled-in atlas, Google and Overpass
//! - [`config`]: settings, `servers.txt`, the key file, and limits of the system
//! - [`model`]: values and their grammar: commands, records, version vectors, digests, times
//! - `metrics`: counters and histograms
//! - [`logging`], [`mod@thread`], [`exit`], [`disk`], [`poller`] and [`sync`]: the log, starting and stopping
//!   threads, the end of the process for a failure, permissions of files, and the primitives that a
//!   test's scheduler replaces

pub(crate) mod client;
pub mod config;
pub mod disk;
pub mod exit;
pub mod health;
pub mod http;
pub mod link;
pub mod listener;
pub mod logging;
pub(crate) mod metrics;
pub mod model;
pub mod places;
pub(crate) mod poller;
pub mod replica;
pub mod server;
pub mod status;
pub(crate) mod store;
pub(crate) mod sync;
pub mod thread;
pub(crate) mod watch;
