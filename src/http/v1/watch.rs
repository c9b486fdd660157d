//! The streams of `/v1/watch`: what watches tell, as server-sent events.
//!
//! One thread writes all of them, and waits for none: a stream takes its next pushes only once its
//! connection has taken those before. A slow reader therefore costs one batch of bytes, and is told
//! the newest of each client; one that does not take a batch in time is closed.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use log::debug;
use socket2::SockRef;

use super::fault::{Code, Fault};
use super::query::{Target, Watch};
use super::{Extra, write_client};
use crate::http::door::{MAX_VIEWERS, Seat};
use crate::http::json::{write_event, write_id, write_name};
use crate::http::response;
use crate::http::viewer::{Closed, Viewer};
use crate::model::time::{Timestamp, write_u64};
use crate::poller::{Poller, Waker};
use crate::thread::{self, Stop, Stopper, stop_pair};
use crate::watch::{self, Push, Subscription, WatchError, Watches};

/// Number of descriptors of the thread, but for those of its streams: its poller's.
pub(in crate::http) const DESCRIPTORS: usize = 2;

/// Bytes of pushes that a stream takes at once, as lines of the other protocol; as JSON they are a few
/// times as long.
const BATCH_BYTES: usize = 64 << 10;

/// Times of streams.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// Time within which a batch must have been taken.
    batch: Duration,
    /// Time without events after which a comment is sent: a proxy sees that the connection is in use,
    /// and its end is noticed.
    quiet: Duration,
}

const TIMES: Times = Times {
    batch: Duration::from_secs(10),
    quiet: Duration::from_secs(15),
};

/// A comment: a line that begins with a colon, and an empty one.
const COMMENT: &[u8] = b":\n\n";

/// Bytes that the kernel may hold for a stream: what it holds is no longer the newest.
const SEND_BUFFER: usize = 256 << 10;

/// Time after which a stream is dropped that takes none of that, or whose other end is no longer there:
/// the comments are what is not taken then.
#[cfg(target_os = "linux")]
const UNTAKEN: Duration = Duration::from_secs(60);

/// A connection that becomes a stream.
struct Newcomer {
    stream: TcpStream,
    subscription: Subscription,
    seat: Seat,
}

/// The thread that writes the streams.
#[derive(Debug)]
pub(in crate::http) struct Streams {
    entrance: Entrance,
    stopper: Stopper,
    thread: JoinHandle<()>,
}

/// A way to open streams.
#[derive(Clone, Debug)]
pub(in crate::http) struct Entrance {
    watches: Arc<Watches>,
    newcomers: Sender<Newcomer>,
    waker: Waker,
}

impl Entrance {
    /// Opens a stream on a connection, which must not block; or returns it with the reason. `seat` is
    /// dropped once the stream has ended.
    pub(in crate::http) fn open(
        &self,
        stream: TcpStream,
        query: &str,
        seat: Option<Seat>,
    ) -> Result<(), (TcpStream, response::Response)> {
        let prepared = Watch::parse_all(query).and_then(|watches| {
            let seat = seat.ok_or_else(|| {
                let text = format!("{MAX_VIEWERS} streams of watches are open already");
                Fault::new(Code::Busy, text)
            })?;
            Ok((self.subscribe(watches)?, seat))
        });
        let (subscription, seat) = match prepared {
            Ok(prepared) => prepared,
            Err(fault) => return Err((stream, fault.response())),
        };
        let newcomer = Newcomer {
            stream,
            subscription,
            seat,
        };
        // One that is refused, since the thread has stopped, is dropped and so closed.
        let _ = self.newcomers.send(newcomer);
        self.waker.wake();
        Ok(())
    }

    fn subscribe(&self, watches: Vec<Watch>) -> Result<Subscription, Fault> {
        let waker = self.waker.clone();
        let mut subscription = self.watches.subscribe(Box::new(move || waker.wake()));
        for Watch { name, target } in watches {
            let target = match target {
                Target::Area(circle) => watch::Target::Area(circle),
                Target::Client(client) => watch::Target::Client(client.into()),
            };
            let begun = subscription.watch(name.as_bytes(), target);
            begun.map_err(|error| match error {
                WatchError::Busy => Fault::new(
                    Code::Busy,
                    "there are too many watches: of this stream, of the server, or of the wide ones of the server",
                ),
                WatchError::NameInUse => {
                    Fault::new(Code::Name, format!("two watches have the name {name}"))
                }
            })?;
        }
        Ok(subscription)
    }
}

impl Streams {
    /// Starts the thread.
    pub(in crate::http) fn start(watches: &Arc<Watches>) -> io::Result<Streams> {
        Streams::start_with(watches, TIMES)
    }

    fn start_with(watches: &Arc<Watches>, times: Times) -> io::Result<Streams> {
        let (newcomers, received) = unbounded();
        let poller = Poller::new()?;
        let entrance = Entrance {
            watches: Arc::clone(watches),
            newcomers,
            waker: poller.waker(),
        };
        let (stopper, stop) = stop_pair();
        let run = Run {
            newcomers: received,
            stop,
            times,
            poller,
            last_id: 0,
            streams: Vec::new(),
        };
        let thread = thread::spawn("http-watches", move || {
            crate::http::yield_to_clients();
            run.run();
        })?;
        Ok(Streams {
            entrance,
            stopper,
            thread,
        })
    }

    /// Returns a way to open streams.
    pub(in crate::http) fn entrance(&self) -> Entrance {
        self.entrance.clone()
    }

    /// Closes all streams and waits for the thread to end.
    pub(in crate::http) fn stop(self) {
        self.stopper.stop();
        self.entrance.waker.wake();
        let _ = self.thread.join();
    }
}

/// One stream.
struct Stream {
    /// Id of its connection with the poller.
    id: u64,
    viewer: Viewer,
    subscription: Subscription,
    /// Its watches have told only a part.
    has_more: bool,
    /// Time of the last bytes for it.
    sent: Instant,
}

impl Stream {
    /// Returns whether there are pushes that its connection has room for.
    fn is_due(&self) -> bool {
        !self.viewer.has_unsent() && (self.has_more || self.subscription.has_news())
    }

    /// Sends the next pushes if they are due, or a comment after a quiet time.
    fn go_on(&mut self, quiet: Duration, now: Instant) -> Result<(), Closed> {
        let mut events = Vec::new();
        if self.is_due() {
            let show = &mut |push: Push<'_>| write_push(&push, &mut events);
            self.has_more = self.subscription.take(Timestamp::now(), BATCH_BYTES, show);
        }
        if events.is_empty() && now >= self.sent + quiet && !self.viewer.has_unsent() {
            events.extend_from_slice(COMMENT);
        }
        if !events.is_empty() {
            self.sent = now;
            self.viewer.send(events.into(), now)?;
        }
        Ok(())
    }
}

/// State of the thread.
struct Run {
    newcomers: Receiver<Newcomer>,
    stop: Stop,
    times: Times,
    poller: Poller,
    last_id: u64,
    streams: Vec<Stream>,
}

impl Run {
    /// Writes the streams until the stop signal.
    fn run(mut self) {
        let mut ready = Vec::new();
        loop {
            let next = self.next_wake();
            let pause = next.map(|next| next.saturating_duration_since(Instant::now()));
            let ids = self.streams.iter().map(|stream| stream.id);
            self.poller.wait(pause, ids, &mut ready);
            if self.stop.is_set() {
                return;
            }
            let now = Instant::now();
            self.serve(&ready, now);
            ready.clear();
            self.take_newcomers(now);
            let quiet = self.times.quiet;
            self.keep(|stream| stream.go_on(quiet, now));
            self.watch();
        }
    }

    /// Returns the moment at which there is something to do, whatever the connections and the watches
    /// do.
    fn next_wake(&self) -> Option<Instant> {
        let next = |stream: &Stream| match stream.viewer.deadline() {
            Some(deadline) => deadline,
            None if stream.has_more => stream.sent,
            None => stream.sent + self.times.quiet,
        };
        self.streams.iter().map(next).min()
    }

    /// Reads from and writes to the connections that are ready, and closes those that are too slow.
    fn serve(&mut self, ready: &[u64], now: Instant) {
        self.keep(|stream| {
            let viewer = &mut stream.viewer;
            if ready.contains(&stream.id) {
                viewer.read()?;
                viewer.write(now)?;
            }
            viewer.check(now)
        });
    }

    /// Has each connection watched for what its stream needs.
    fn watch(&mut self) {
        for stream in &mut self.streams {
            if let Err(error) = stream.viewer.wait_in(&self.poller, stream.id) {
                debug!("a stream of /v1/watch can't be watched: {error}");
            }
        }
    }

    /// Keeps the streams for which `serve` succeeds.
    fn keep(&mut self, mut serve: impl FnMut(&mut Stream) -> Result<(), Closed>) {
        self.streams.retain_mut(|stream| {
            serve(stream)
                .inspect_err(|reason| debug!("a stream of /v1/watch is closed: {reason}"))
                .is_ok()
        });
    }

    /// Sends their heads to the connections that have come.
    fn take_newcomers(&mut self, now: Instant) {
        while let Ok(newcomer) = self.newcomers.try_recv() {
            let Newcomer {
                stream,
                subscription,
                seat,
            } = newcomer;
            limit(&stream);
            let mut viewer = Viewer::new(stream, self.times.batch, Box::new(seat));
            self.last_id += 1;
            let id = self.last_id;
            let head = response::stream_head();
            if self.poller.add(viewer.stream(), id).is_ok() && viewer.send(head.into(), now).is_ok()
            {
                self.streams.push(Stream {
                    id,
                    viewer,
                    subscription,
                    has_more: true,
                    sent: now,
                });
            }
        }
    }
}

/// Limits what the system holds for a stream, and for how long. Where it can't, more is held.
fn limit(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let _ = socket.set_send_buffer_size(SEND_BUFFER);
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_user_timeout(Some(UNTAKEN));
}

/// Appends the event of a push.
fn write_push(push: &Push<'_>, events: &mut Vec<u8>) {
    let of_record = |event: &str, name: &[u8], record, events: &mut Vec<u8>| {
        write_event(event, events, |json| {
            write_client(record, Extra::Watch(name), json);
        });
    };
    match push {
        Push::Inside { name, record } => of_record("inside", name, record, events),
        Push::Enter { name, record } => of_record("enter", name, record, events),
        Push::Move { name, record } => of_record("move", name, record, events),
        Push::Leave { name, record } => of_record("leave", name, record, events),
        Push::Reset { name } => write_event("reset", events, |json| {
            json.push(b'{');
            write_watch(name, json);
            json.push(b'}');
        }),
        Push::Settled { name, clients } => write_event("settled", events, |json| {
            json.push(b'{');
            write_watch(name, json);
            json.extend_from_slice(b",\"clients\":");
            write_u64(*clients as u64, json);
            json.push(b'}');
        }),
        Push::Gone { name, client } => write_event("gone", events, |json| {
            json.push(b'{');
            write_id(client, json);
            json.push(b',');
            write_watch(name, json);
            json.push(b'}');
        }),
    }
}

/// Appends the name of a watch as a member of an object.
fn write_watch(name: &[u8], json: &mut Vec<u8>) {
    json.extend_from_slice(b"\"watch\":");
    write_name(name, json);
}

#[cfg(test)]
#[path = "watch/tests.rs"]
mod tests;
