//! Waits for many sockets at once, and for a call from another thread.
//!
//! On Unix this is poll, which is portable and for a few sockets as good as anything. Elsewhere every
//! socket is reported several times a second, whether it is ready or not: an attempt that would
//! block costs little.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

#[cfg(not(unix))]
pub(super) use portable::{Waiter, Waker, pair};
#[cfg(unix)]
pub(super) use unix::{Waiter, Waker, pair};

/// State of a socket after a wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ready {
    /// There are bytes to read, an end, or an error.
    pub(super) reads: bool,
    /// There is room for bytes.
    pub(super) writes: bool,
}

#[cfg(unix)]
mod unix {
    use super::{Duration, Ready, TcpStream, io};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    /// The waiting end.
    #[derive(Debug)]
    pub(in crate::http::events) struct Waiter(UnixStream);

    /// A way to end a wait.
    #[derive(Clone, Debug)]
    pub(in crate::http::events) struct Waker(Arc<UnixStream>);

    /// Makes both ends.
    pub(in crate::http::events) fn pair() -> io::Result<(Waiter, Waker)> {
        let (waiter, waker) = UnixStream::pair()?;
        waiter.set_nonblocking(true)?;
        waker.set_nonblocking(true)?;
        Ok((Waiter(waiter), Waker(Arc::new(waker))))
    }

    impl Waker {
        /// Ends the wait of now, or else the next.
        pub(in crate::http::events) fn wake(&self) {
            // It only fails if many bytes are there already.
            let _ = (&*self.0).write(&[0]);
        }
    }

    impl Waiter {
        /// Waits for at most `timeout`. Each socket is waited for until it has bytes or an end, and if
        /// it comes with `true`, until it takes bytes. Writes their states to `ready`.
        pub(in crate::http::events) fn wait<'a>(
            &mut self,
            timeout: Duration,
            sockets: impl Iterator<Item = (&'a TcpStream, bool)>,
            ready: &mut Vec<Ready>,
        ) {
            ready.clear();
            let mut polled = vec![PollFd::new(&self.0, PollFlags::IN)];
            polled.extend(sockets.map(|(socket, writes)| {
                let interest = if writes {
                    PollFlags::IN | PollFlags::OUT
                } else {
                    PollFlags::IN
                };
                PollFd::new(socket, interest)
            }));
            let timeout = Timespec {
                tv_sec: timeout.as_secs() as _,
                tv_nsec: timeout.subsec_nanos().into(),
            };
            // The only possible error is a signal, after which the owner looks at its deadlines.
            let _ = poll(&mut polled, Some(&timeout));
            ready.extend(polled[1..].iter().map(|socket| {
                let state = socket.revents();
                let ended = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
                Ready {
                    reads: state.intersects(PollFlags::IN | ended),
                    writes: state.intersects(PollFlags::OUT),
                }
            }));
            if polled[0].revents().intersects(PollFlags::IN) {
                drop(polled);
                // Bytes that are left end the next wait.
                let _ = (&self.0).read(&mut [0; 64]);
            }
        }
    }
}

#[cfg(not(unix))]
mod portable {
    use super::{Duration, Ready, TcpStream, io};

    use crossbeam_channel::{Receiver, Sender, bounded};

    /// Longest wait while there is a socket.
    const INTERVAL: Duration = Duration::from_millis(20);

    /// The waiting end.
    #[derive(Debug)]
    pub(in crate::http::events) struct Waiter(Receiver<()>);

    /// A way to end a wait.
    #[derive(Clone, Debug)]
    pub(in crate::http::events) struct Waker(Sender<()>);

    /// Makes both ends.
    pub(in crate::http::events) fn pair() -> io::Result<(Waiter, Waker)> {
        let (waker, waiter) = bounded(1);
        Ok((Waiter(waiter), Waker(waker)))
    }

    impl Waker {
        /// Ends the wait of now, or else the next.
        pub(in crate::http::events) fn wake(&self) {
            // A channel that is full ends the wait as well.
            let _ = self.0.try_send(());
        }
    }

    impl Waiter {
        /// Waits for at most `timeout`, and less if there is a socket. Writes to `ready` that each of
        /// them is.
        pub(in crate::http::events) fn wait<'a>(
            &mut self,
            timeout: Duration,
            sockets: impl Iterator<Item = (&'a TcpStream, bool)>,
            ready: &mut Vec<Ready>,
        ) {
            ready.clear();
            ready.extend(sockets.map(|(_, writes)| Ready {
                reads: true,
                writes,
            }));
            let limit = if ready.is_empty() { timeout } else { INTERVAL };
            let _ = self.0.recv_timeout(timeout.min(limit));
        }
    }
}
