//! How threads are told to stop: one signal that all of them can wait on.
//!
//! Stopping drops the one sender of a channel that never carries anything, so a thread can wait
//! for it beside its queue in a `select!`, or let it cut a pause short.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use parking_lot::Mutex;

/// Stack of every thread that the server makes. What is large is on the heap.
pub const STACK_BYTES: usize = 256 << 10;

/// Starts a named thread with the server's stack size.
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

/// What the owner of the threads holds. Dropping it stops them too.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<Mutex<Option<Sender<Never>>>>);

/// What a thread holds.
#[derive(Clone, Debug)]
pub struct Stop(Receiver<Never>);

/// No value: the channel only ever closes.
#[derive(Clone, Copy, Debug)]
pub enum Never {}

/// A stop signal and its other end.
pub fn stop_pair() -> (Stopper, Stop) {
    let (sender, receiver) = bounded(0);
    (Stopper(Arc::new(Mutex::new(Some(sender)))), Stop(receiver))
}

impl Stopper {
    /// Tells every holder of a [`Stop`]. Telling twice changes nothing.
    pub fn stop(&self) {
        self.0.lock().take();
    }
}

impl Stop {
    /// Whether it is time to stop.
    pub fn is_set(&self) -> bool {
        matches!(self.0.try_recv(), Err(TryRecvError::Disconnected))
    }

    /// Pauses; `true` if the pause was cut short because it is time to stop.
    pub fn wait(&self, pause: Duration) -> bool {
        matches!(
            self.0.recv_timeout(pause),
            Err(RecvTimeoutError::Disconnected)
        )
    }

    /// A channel that closes when it is time to stop, for a `select!`.
    pub fn channel(&self) -> &Receiver<Never> {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stopping_wakes_who_waits() {
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
