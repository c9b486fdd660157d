//! The primitives of which the apply lock, the cache and the outboxes are made.
//!
//! They are re-exported in one place so that `tests/interleavings.rs` can compile the folder
//! `replica/` with substitutes, at each use of which a scheduler decides which thread runs next. So
//! this file lies outside that folder. Re-exports cost nothing.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

pub(crate) use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
pub(crate) use parking_lot::{Mutex, MutexGuard, RwLock};
