//! Substitutes for the primitives of `src/sync.rs`, built on shuttle: at each use its scheduler may
//! switch to another thread. The signatures are those of parking_lot and crossbeam.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

pub use shuttle::sync::MutexGuard;
pub use shuttle::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use shuttle::sync::{RwLockReadGuard, RwLockWriteGuard};

pub use crossbeam_channel::{RecvTimeoutError, TryRecvError, TrySendError};

#[derive(Debug, Default)]
pub struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub fn new(value: T) -> Mutex<T> {
        Mutex(shuttle::sync::Mutex::new(value))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap()
    }

    /// There is no time here: it waits.
    pub fn try_lock_for(&self, _: Duration) -> Option<MutexGuard<'_, T>> {
        Some(self.lock())
    }
}

#[derive(Debug, Default)]
pub struct RwLock<T>(shuttle::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub fn new(value: T) -> RwLock<T> {
        RwLock(shuttle::sync::RwLock::new(value))
    }

    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap()
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap()
    }
}

/// A channel with capacity `capacity`, as far as it is used by threads that never block on it.
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let queue = Arc::new(Mutex::new(VecDeque::new()));
    let sender = Sender {
        queue: Arc::clone(&queue),
        capacity,
    };
    (sender, Receiver { queue })
}

#[derive(Debug)]
pub struct Sender<T> {
    queue: Arc<Mutex<VecDeque<T>>>,
    capacity: usize,
}

impl<T> Sender<T> {
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        let mut queue = self.queue.lock();
        if queue.len() == self.capacity {
            return Err(TrySendError::Full(value));
        }
        queue.push_back(value);
        Ok(())
    }
}

#[derive(Debug)]
pub struct Receiver<T> {
    queue: Arc<Mutex<VecDeque<T>>>,
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Receiver<T> {
        Receiver {
            queue: Arc::clone(&self.queue),
        }
    }
}

impl<T> Receiver<T> {
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        self.queue.lock().pop_front().ok_or(TryRecvError::Empty)
    }

    pub fn len(&self) -> usize {
        self.queue.lock().len()
    }

    /// There is no time here: it times out at once.
    pub fn recv_timeout(&self, _: Duration) -> Result<T, RecvTimeoutError> {
        self.try_recv().map_err(|_| RecvTimeoutError::Timeout)
    }
}
