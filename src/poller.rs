//! Waits for any of many sockets to become ready, and for a call from another thread.
//!
//! On Linux this is epoll. Elsewhere every socket is reported several times a second while there
//! is one, whether it is ready or not: a read or a write that would block costs little.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

#[cfg(target_os = "linux")]
pub(crate) use linux::{Poller, Waker};
#[cfg(not(target_os = "linux"))]
pub(crate) use portable::{Poller, Waker};

/// Readiness that is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    /// Bytes to read, or an end.
    Input,
    /// Room for bytes to write, or a broken connection.
    Output,
    /// Either of them.
    Both,
}

#[cfg(target_os = "linux")]
mod linux {
    use super::{Duration, Interest, TcpStream, io};
    use std::mem::MaybeUninit;
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
    use rustix::event::{EventfdFlags, Timespec, eventfd};

    use crate::thread::waiting;

    /// Events taken from the kernel at once; the next wait takes the rest.
    const EVENTS: usize = 64;

    /// Data of the event that only ends a wait. No socket has this id.
    const WAKE: u64 = u64::MAX;

    /// The sockets.
    #[derive(Debug)]
    pub(crate) struct Poller {
        epoll: OwnedFd,
        wake: Arc<OwnedFd>,
    }

    /// A way to end a wait.
    #[derive(Clone, Debug)]
    pub(crate) struct Waker(Arc<OwnedFd>);

    impl Waker {
        /// Ends the wait of now, or else the next.
        pub(crate) fn wake(&self) {
            // It only fails if the counter is full, and then the wait has ended.
            let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
        }
    }

    impl Poller {
        /// No sockets.
        pub(crate) fn new() -> io::Result<Poller> {
            let epoll = epoll::create(CreateFlags::CLOEXEC)?;
            let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            // Edge-triggered: the counter need not be read.
            let interest = EventFlags::IN | EventFlags::ET;
            epoll::add(&epoll, &wake, EventData::new_u64(WAKE), interest)?;
            Ok(Poller {
                epoll,
                wake: Arc::new(wake),
            })
        }

        /// Returns a way to end a wait.
        pub(crate) fn waker(&self) -> Waker {
            Waker(Arc::clone(&self.wake))
        }

        /// Adds a socket under that id, for input. It leaves by itself when it is closed.
        pub(crate) fn add(&self, stream: &TcpStream, id: u64) -> io::Result<()> {
            let data = EventData::new_u64(id);
            Ok(epoll::add(&self.epoll, stream, data, EventFlags::IN)?)
        }

        /// Changes what a socket is watched for.
        pub(crate) fn set_interest(
            &self,
            stream: &TcpStream,
            id: u64,
            interest: Interest,
        ) -> io::Result<()> {
            let flags = match interest {
                Interest::Input => EventFlags::IN,
                Interest::Output => EventFlags::OUT,
                Interest::Both => EventFlags::IN | EventFlags::OUT,
            };
            Ok(epoll::modify(
                &self.epoll,
                stream,
                EventData::new_u64(id),
                flags,
            )?)
        }

        /// Removes a socket that stays open.
        pub(crate) fn remove(&self, stream: &TcpStream) {
            // It only fails for a socket that was not added.
            let _ = epoll::delete(&self.epoll, stream);
        }

        /// Waits for at most `timeout`. Appends the ids of the sockets that are ready to `ready`; all
        /// ids are known here.
        pub(crate) fn wait(
            &mut self,
            timeout: Option<Duration>,
            _: impl Iterator<Item = u64>,
            ready: &mut Vec<u64>,
        ) {
            let timeout = timeout.map(|timeout| Timespec {
                tv_sec: timeout.as_secs() as _,
                tv_nsec: timeout.subsec_nanos().into(),
            });
            // The only possible error is a signal, after which the owner looks at its deadlines.
            let mut events = [MaybeUninit::<Event>::uninit(); EVENTS];
            let waited = waiting(|| epoll::wait(&self.epoll, &mut events[..], timeout.as_ref()));
            if let Ok((events, _)) = waited {
                let ids = events.iter().map(|event| event.data.u64());
                ready.extend(ids.filter(|&id| id != WAKE));
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod portable {
    use super::{Duration, Interest, TcpStream, io};

    use crossbeam_channel::{Receiver, Sender, bounded};

    use crate::thread::waiting;

    /// Longest wait while there is a socket.
    const INTERVAL: Duration = Duration::from_millis(5);

    /// The sockets.
    #[derive(Debug)]
    pub(crate) struct Poller {
        wake: Sender<()>,
        woken: Receiver<()>,
    }

    /// A way to end a wait.
    #[derive(Clone, Debug)]
    pub(crate) struct Waker(Sender<()>);

    impl Waker {
        /// Ends the wait of now, or else the next.
        pub(crate) fn wake(&self) {
            // A channel that is full ends the wait as well.
            let _ = self.0.try_send(());
        }
    }

    impl Poller {
        /// No sockets.
        pub(crate) fn new() -> io::Result<Poller> {
            let (wake, woken) = bounded(1);
            Ok(Poller { wake, woken })
        }

        /// Returns a way to end a wait.
        pub(crate) fn waker(&self) -> Waker {
            Waker(self.wake.clone())
        }

        /// Adds a socket under that id.
        pub(crate) fn add(&self, _: &TcpStream, _: u64) -> io::Result<()> {
            Ok(())
        }

        /// Changes what a socket is watched for: all are reported anyway.
        pub(crate) fn set_interest(&self, _: &TcpStream, _: u64, _: Interest) -> io::Result<()> {
            Ok(())
        }

        /// Removes a socket that stays open.
        pub(crate) fn remove(&self, _: &TcpStream) {}

        /// Waits for at most `timeout`, and less if there is a socket. Appends all ids to `ready`.
        pub(crate) fn wait(
            &mut self,
            timeout: Option<Duration>,
            ids: impl Iterator<Item = u64>,
            ready: &mut Vec<u64>,
        ) {
            let _ = waiting(|| match timeout {
                Some(timeout) => self.woken.recv_timeout(timeout.min(INTERVAL)).ok(),
                None => self.woken.recv().ok(),
            });
            ready.extend(ids);
        }
    }
}
