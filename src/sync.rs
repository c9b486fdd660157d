//! The primitives of which the apply lock, the cache and the outboxes are made.
//!
//! They are re-exported in one place so that `tests/interleavings.rs` can compile the folder
//! `replica/` with substitutes, at each use of which a scheduler decides which thread runs next. So
//! this file lies outside that folder. Re-exports cost nothing.

pub use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

pub use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
pub use parking_lot::{Mutex, RwLock};
