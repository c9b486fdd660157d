//! Threads of the server: named, with a small stack, and stopped by a signal that they can wait on.
//!
//! Every thread is started by [`spawn`], belongs to one owner and is joined by it. The [`Stopper`]
//! of [`stop_pair`] stays with the owner, its [`Stop`] goes to the threads. Stopping drops the only
//! sender of a channel that never carries a value, so a thread can wait for the signal beside its
//! queue in a `select!`, or let it cut a pause short. Threads that end when their queue closes or
//! their socket is shut down need no signal. Joining is left to the owners: how a panic of a thread
//! is logged differs.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use parking_lot::Mutex;

/// Bytes of stack of every thread. Large buffers are on the heap.
pub const STACK_BYTES: usize = 256 << 10;

/// Starts a named thread with a stack of [`STACK_BYTES`]. Fails if the system has no thread left.
pub fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    spawn_with_stack(name, STACK_BYTES, run)
}

/// Starts a named thread whose stack has `stack_bytes`.
pub(crate) fn spawn_with_stack<T: Send + 'static>(
    name: impl Into<String>,
    stack_bytes: usize,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    thread::Builder::new()
        .name(name.into())
        .stack_size(stack_bytes)
        .spawn(run)
}

/// The owner's end of a stop signal. Dropping all its clones stops the threads too.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<Mutex<Option<Sender<Never>>>>);

/// The threads' end of a stop signal.
#[derive(Clone, Debug)]
pub struct Stop(Receiver<Never>);

/// A type without values: the channel only ever closes.
#[derive(Clone, Copy, Debug)]
pub enum Never {}

/// Creates a stop signal and its other end.
pub fn stop_pair() -> (Stopper, Stop) {
    let (sender, receiver) = bounded(0);
    (Stopper(Arc::new(Mutex::new(Some(sender)))), Stop(receiver))
}

impl Stopper {
    /// Signals every holder of a [`Stop`]. A second call changes nothing.
    pub fn stop(&self) {
        self.0.lock().take();
    }
}

impl Stop {
    /// Returns whether the signal has been given.
    pub fn is_set(&self) -> bool {
        matches!(self.0.try_recv(), Err(TryRecvError::Disconnected))
    }

    /// Pauses; returns `true` if the stop signal cut the pause short.
    pub fn wait(&self, pause: Duration) -> bool {
        matches!(
            self.0.recv_timeout(pause),
            Err(RecvTimeoutError::Disconnected)
        )
    }

    /// Returns the channel that closes with the signal, for a `select!`.
    pub fn channel(&self) -> &Receiver<Never> {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stopping_wakes_a_waiting_thread() {
        let (stopper, stop) = stop_pair();
        assert!(!stop.is_set());
        assert!(!stop.wait(Duration::from_millis(1)));
        let waiter = std::thread::spawn({
            let stop = stop.clone();
            move || stop.wait(Duration::from_secs(60))
        });
        stopper.stop();
        stopper.stop();
        assert!(waiter.join().expect("the waiter"));
        assert!(stop.is_set());
    }
}
