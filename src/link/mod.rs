//! One neighbor's connection, in each direction.
//!
//! A server dials each of its neighbors: that connection carries its own records to the
//! neighbor, and the neighbor's vector and liveness back. So between two neighbors there are two
//! connections, one for each direction of the flood, and neither side has to agree on who dials.
//!
//! - [`sender`] is what keeps one neighbor fed, as its owner sees it; `feeder` is its thread: dial,
//!   shake hands, send what the neighbor lacks, drain the queue; `reader` hears the neighbor's side
//!   meanwhile.
//! - [`receiver`] takes what a neighbor floods.
//! - [`audit`] compares what both hold, now and then.
//! - [`handshake`] says who is who before a record is taken, and refuses with a reason.
//! - [`keyring`] holds the keys that they are asked for.
//! - [`noise`] is what lets in who has the herd's key, and nobody else.
//! - [`monitor`] counts what a neighbor has yet to apply, and knows how its link is doing.
//! - [`observe`] answers who asks how the server is.
//! - [`refusals`] counts what came that no neighbor sent.
//! - `silence` tells a neighbor that is gone from a frame that does not end.
//! - [`wire`] is lines over the socket, encrypted.

pub mod audit;
pub mod framing;
pub mod handshake;
pub mod keyring;
pub mod links;
mod liveness;
pub mod neighbor;
pub mod noise;
pub mod receiver;
pub mod refusals;
pub mod sender;
pub mod status;

use std::time::Duration;

/// How often a receiver says that it is alive.
pub const PONG_INTERVAL: Duration = Duration::from_secs(1);

/// Liveness after which the other side is taken for dead: neither keepalive nor
/// `TCP_USER_TIMEOUT` notices a peer whose process is frozen.
///
/// Where packets are lost one way only, the side that still hears the other learns of it by a
/// reset, which the side that does not sends now. A plain close would not tell it: that waits in
/// the send queue behind a `PONG` that is never acknowledged. So both know within this time, the
/// receiver's watch interval and one packet's way.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(4);

/// What a neighbor is told that is one no longer.
const DISMISSED: &str = "servers.txt there no longer names this server a neighbor";

/// Send buffer of a link's socket. A larger one would only hide how far behind a neighbor is.
const SEND_BUFFER_BYTES: usize = 256 << 10;
