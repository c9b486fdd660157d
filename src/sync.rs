//! What the apply lock, the cache and the queues between threads are made of.
//!
//! They are named in one place so that `tests/interleavings.rs` can compile those modules with
//! primitives of the same shape at whose every use a scheduler decides which thread goes on. Here
//! they are only names, so nothing is paid for that.

pub use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

pub use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
pub use parking_lot::{Mutex, RwLock};
