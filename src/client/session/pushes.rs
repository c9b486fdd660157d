//! The watches of a session, and the pushes by which its client is told of them, between replies.
//!
//! A batch is taken only while the client has taken everything that it was sent before. So it is
//! written like replies are, with their deadline, and what a client that reads slowly has not been
//! told yet is kept once for each of its clients, by the room `watch`.

use std::fmt;
use std::io::{self, Write};
use std::sync::Weak;
use std::time::Duration;

use super::sent_lines::log_sent;
use super::{Progress, Scratch, Session, Stream};
use crate::client::services::Services;
use crate::model::time::Timestamp;
use crate::watch::{Push, Subscription, Target, WatchError};

/// Bytes of one batch of pushes: a turn with one must not take much longer than others, since in a first
/// filling it is followed by the next at once.
const BATCH_BYTES: usize = 16 << 10;

/// Silence after which the system asks whether the client of a session with a watch is still there:
/// such a session is never idle.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// A pool, as far as the publisher of pushes knows it.
pub(crate) trait WakeSession: fmt::Debug + Send + Sync {
    /// Gives the session of that key another turn. Does not block. The session may be gone.
    fn wake(&self, key: u64);
}

/// The way to wake the session whose turn runs.
#[derive(Clone, Debug)]
pub(crate) struct SessionWaker {
    pool: Weak<dyn WakeSession>,
    /// Key of the session in the pool.
    pub(crate) key: u64,
}

impl SessionWaker {
    /// Creates one for sessions of that pool.
    pub(crate) fn new(pool: Weak<dyn WakeSession>) -> SessionWaker {
        SessionWaker { pool, key: 0 }
    }
}

/// The watches of a session. Most have none.
#[derive(Debug, Default)]
pub(super) struct Watching {
    subscription: Option<Box<Subscription>>,
    /// Number of watches.
    count: usize,
    /// The system looks after the connection.
    is_kept_alive: bool,
}

impl Watching {
    /// Returns whether there is a watch.
    pub(super) fn is_active(&self) -> bool {
        self.count > 0
    }

    /// Begins a watch, of which the session is to be woken by `waker`.
    pub(super) fn watch(
        &mut self,
        name: &[u8],
        target: Target,
        services: &Services,
        waker: &SessionWaker,
    ) -> Result<(), WatchError> {
        let subscription = self.subscription.get_or_insert_with(|| {
            let SessionWaker { pool, key } = waker.clone();
            let wake = move || {
                if let Some(pool) = pool.upgrade() {
                    pool.wake(key);
                }
            };
            Box::new(services.watches.subscribe(Box::new(wake)))
        });
        subscription.watch(name, target)?;
        self.count += 1;
        Ok(())
    }

    /// Ends the watch of that name. Returns whether there was one.
    pub(super) fn unwatch(&mut self, name: &[u8]) -> bool {
        let subscription = self.subscription.as_mut();
        let was_there = subscription.is_some_and(|subscription| subscription.unwatch(name));
        self.count -= usize::from(was_there);
        was_there
    }

    /// Returns whether there are pushes to be sent.
    fn has_news(&self) -> bool {
        let subscription = self.subscription.as_ref();
        subscription.is_some_and(|subscription| subscription.has_news())
    }
}

impl Session {
    /// Returns whether the client watches something.
    pub(crate) fn is_watching(&self) -> bool {
        self.watching.is_active()
    }

    /// Returns whether another turn can send pushes.
    pub(crate) fn has_news(&self) -> bool {
        self.may_push() && self.watching.has_news()
    }

    /// Pushes wait for replies that the client has not taken, and for those that are still to be made.
    fn may_push(&self) -> bool {
        self.progress == Progress::Open && !self.is_waiting() && self.output.is_empty()
    }

    /// Sends a batch of pushes, if that is possible now. Returns whether there are more.
    pub(super) fn deliver<S: Stream>(
        &mut self,
        stream: &mut S,
        scratch: &mut Scratch,
        services: &Services,
    ) -> io::Result<bool> {
        if self.progress != Progress::Open || self.input.has_ended() {
            self.watching = Watching::default();
        }
        if self.watching.is_active() && !self.watching.is_kept_alive {
            stream.keep_alive(KEEP_ALIVE)?;
            self.watching.is_kept_alive = true;
        }
        if !self.may_push() {
            return Ok(false);
        }
        let Some(subscription) = &mut self.watching.subscription else {
            return Ok(false);
        };
        let batch = &mut scratch.output;
        batch.clear();
        let has_more = subscription.take(Timestamp::now(), BATCH_BYTES, &mut |push| {
            write_push(&push, batch);
        });
        if !batch.is_empty() {
            log_sent(self.client, batch);
            let now = services.clock.now();
            if self.output.send(stream, batch, now)? {
                self.last_active = now;
            }
        }
        Ok(has_more)
    }
}

/// Appends the line of a push.
fn write_push(push: &Push<'_>, out: &mut Vec<u8>) {
    let (word, name, record) = match push {
        Push::Inside { name, record } => ("INSIDE", name, record),
        Push::Enter { name, record } => ("ENTER", name, record),
        Push::Move { name, record } => ("MOVE", name, record),
        Push::Leave { name, record } => ("LEAVE", name, record),
        Push::Reset { name } => return write_line(b"RESET", &[name], out),
        Push::Gone { name, client } => return write_line(b"GONE", &[name, client], out),
        Push::Settled { name, clients } => {
            write_line(b"SETTLED", &[name], out);
            out.pop();
            // Memory takes any text.
            let _ = writeln!(out, " {clients}");
            return;
        }
    };
    out.extend_from_slice(word.as_bytes());
    out.push(b' ');
    out.extend_from_slice(name);
    out.push(b' ');
    record.write_at_line(out);
}

fn write_line(word: &[u8], fields: &[&[u8]], out: &mut Vec<u8>) {
    out.extend_from_slice(word);
    for field in fields {
        out.push(b' ');
        out.extend_from_slice(field);
    }
    out.push(b'\n');
}
