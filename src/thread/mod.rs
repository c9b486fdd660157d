//! Threads of the server: named, with a small stack, and stopped by a signal that they can wait on.
//!
//! Every thread is started by [`spawn`], belongs to one owner and is joined by it. The [`Stopper`]
//! of [`stop_pair`] stays with the owner, its [`Stop`] goes to the threads. Stopping drops the only
//! sender of a channel that never carries a value, so a thread can wait for the signal beside its
//! queue in a `select!`, or let it cut a pause short. Threads that end when their queue closes or
//! their socket is shut down need no signal.
//!
//! A panic of such a thread ends the process with exit code 1: a server that goes on without its
//! timer or without a link looks well and is not, and what starts it again does not know. Panics of
//! sessions are caught by their connections and end those alone. A [helper](spawn_helper) only
//! computes a result for somebody who waits for it; its panic is the waiter's error.
//!
//! A thread that hangs, or ends before its time, is noticed by its [`Group`] (see there), which is
//! why threads mark their waits by [`waiting`] and, in loops that do not wait, the pieces of their
//! work by [`next_piece`].

#[cfg(debug_assertions)]
mod fault;
mod group;
mod kernel;

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use parking_lot::Mutex;

use crate::exit;
use group::{Joining, Member};

pub use group::{Entered, Group, Liveness, dismissed, next_piece, waiting};

/// Bytes of stack of every thread. Large buffers are on the heap.
pub const STACK_BYTES: usize = 256 << 10;

/// Starts a named thread with a stack of [`STACK_BYTES`]. Fails if the system has no thread left.
/// A panic of the thread ends the process. If the caller has [entered](Group::enter) a group, the
/// thread belongs to it.
pub fn spawn(
    name: impl Into<String>,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    spawn_with_stack(name, STACK_BYTES, run)
}

/// Does the same; the thread's stack has `stack_bytes`.
pub fn spawn_with_stack(
    name: impl Into<String>,
    stack_bytes: usize,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let name = name.into();
    let of_thread = name.clone();
    let joining = Joining::new(&name);
    let member = joining.member();
    let run = move || {
        let run = || {
            let _membership = member.map(Member::begin);
            #[cfg(debug_assertions)]
            if !fault::strike(&of_thread) {
                return;
            }
            run();
        };
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
            let reason = message(&*panic);
            exit::fail(format_args!("thread {of_thread} has panicked: {reason}"))
        })
    };
    let thread = build(name, stack_bytes, run)?;
    joining.complete();
    Ok(thread)
}

/// Starts a named thread that computes something for somebody who waits for it, and that nothing
/// joins. A panic of the thread drops what it holds, which ends the wait, and is logged.
pub fn spawn_helper(
    name: impl Into<String>,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    build(name.into(), STACK_BYTES, run).map(drop)
}

fn build(
    name: String,
    stack_bytes: usize,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let builder = thread::Builder::new().name(name);
    builder.stack_size(stack_bytes).spawn(run)
}

/// Returns the text of a panic.
pub fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message")
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
        let received = waiting(|| self.0.recv_timeout(pause));
        matches!(received, Err(RecvTimeoutError::Disconnected))
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
