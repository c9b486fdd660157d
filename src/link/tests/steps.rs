//! The work of a link's threads, one step at a time.

use std::io::{self, ErrorKind};
use std::net::Shutdown;

use super::{Dialed, Script, link};
use crate::link::receiver::registry::Shut;
use crate::link::sender::acks::PeerMessage;
use crate::model::record::RecordView;

impl Script {
    /// Sends the signs of life of a second over all connections.
    pub(super) fn pulse(&mut self) {
        for Dialed {
            from,
            to,
            dialer,
            acceptor,
            ..
        } in &mut self.connections
        {
            if let Some(end) = dialer {
                let link = link(&mut self.servers, from, to);
                let _ = link.feed.keep_alive(&mut end.out);
            }
            if let Some(end) = acceptor {
                let _ = end.out.pong(self.servers[to.as_str()].clock(&self.clock));
            }
        }
    }

    /// Does what is due by the clock at both ends of all connections.
    pub(super) fn tick(&mut self) {
        for index in 0..self.connections.len() {
            let now = self.clock.now();
            let connection = &mut self.connections[index];
            if let Some(end) = &connection.dialer
                && now >= end.protocol.deadline()
            {
                let error = end.protocol.silence(now);
                self.lose(index, &error);
            }
            let connection = &self.connections[index];
            if let Some(end) = &connection.acceptor
                && let Err(reason) = end.protocol.tick(now)
            {
                self.gone(index, &reason.reason());
            }
        }
    }

    /// Sends what is due and takes what has come over the connections that are picked; whether there
    /// was anything.
    pub(super) fn step(&mut self, is_picked: impl Fn(&Dialed) -> bool) -> bool {
        self.tick();
        let mut any = false;
        for index in 0..self.connections.len() {
            if !is_picked(&self.connections[index]) {
                continue;
            }
            any |= self.send(index);
            any |= self.receive(index);
            any |= self.hear(index);
        }
        any
    }

    /// Does what the sender thread does.
    pub(super) fn send(&mut self, index: usize) -> bool {
        let Dialed {
            from, to, dialer, ..
        } = &mut self.connections[index];
        let Some(end) = dialer else {
            return false;
        };
        let link = link(&mut self.servers, from, to);
        let now = self.clock.now();
        let result = if let Ok(request) = link.requests.try_recv() {
            link.feed.take_request(&request, &mut end.out)
        } else if link.feed.resync_due().is_some_and(|due| due <= now) {
            link.feed.resync(&mut end.out)
        } else if let Ok(queued) = link.feed.outbox().try_take() {
            link.feed.send_queued(queued, &mut end.out)
        } else {
            return false;
        };
        // The end of the connection is heard by the reader.
        let _ = result;
        true
    }

    /// Does what the receiver thread does.
    fn receive(&mut self, index: usize) -> bool {
        let now = self.clock.now();
        let clock = self.servers[&self.connections[index].to].clock(&self.clock);
        let connection = &mut self.connections[index];
        let Some(end) = &mut connection.acceptor else {
            return false;
        };
        let mut lines = String::new();
        let result = match end.reader.fill(&connection.far) {
            Ok(filled) => end.protocol.note(filled, now).and_then(|()| {
                let block = end.reader.take_block().unwrap();
                lines = String::from_utf8_lossy(block).into_owned();
                end.protocol.apply(block, now, clock)
            }),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => Err(error.into()),
        };
        let heading = format!("{} > {}", connection.from, connection.to);
        // A scan of the cache shows records in no particular order.
        let mut lines: Vec<_> = lines.lines().collect();
        let are_records = |one: &&str, other: &&str| {
            [one, other]
                .iter()
                .all(|l| RecordView::is_line(l.as_bytes()))
        };
        lines
            .chunk_by_mut(are_records)
            .for_each(<[_]>::sort_unstable);
        for line in lines {
            self.say(&format!("{heading}: {line}"));
        }
        if let Err(reason) = result {
            self.gone(index, &reason.reason());
        }
        true
    }

    /// Does what the sender's reader thread does.
    fn hear(&mut self, index: usize) -> bool {
        let now = self.clock.now();
        let Dialed {
            from, to, dialer, ..
        } = &mut self.connections[index];
        let clock = self.servers[from.as_str()].clock(&self.clock);
        let Some(end) = dialer else {
            return false;
        };
        let heading = format!("{to} > {from}");
        let link = link(&mut self.servers, from, to);
        let mut lines = Vec::new();
        let mut result = match end.reader.fill(&end.out.pipe) {
            Ok(filled) => end.protocol.note(filled, now),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => Err(error),
        };
        while let Ok(()) = result
            && let Some(line) = end.reader.take_line().unwrap()
        {
            lines.push(format!("{heading}: {}", String::from_utf8_lossy(line)));
            result = match end.protocol.take_line(line, now, clock) {
                Ok(Some(PeerMessage::Vector(vector))) => {
                    link.feed.take_vector(vector);
                    Ok(())
                }
                Ok(Some(PeerMessage::Refuse(reason))) => {
                    link.feed.refuse(&reason, &mut end.out).unwrap();
                    Err(io::Error::other(reason.to_string()))
                }
                Ok(Some(PeerMessage::Lost(error))) | Err(error) => Err(error),
                Ok(None) => Ok(()),
            };
        }
        lines.iter().for_each(|line| self.say(line));
        if let Err(error) = result {
            self.lose(index, &error);
        }
        true
    }

    /// Ends the dialer's end.
    fn lose(&mut self, index: usize, error: &io::Error) {
        let (now, wall) = (self.clock.now(), self.clock.wall());
        let Dialed {
            from, to, dialer, ..
        } = &mut self.connections[index];
        dialer.take().unwrap().out.pipe.shut(Shutdown::Both);
        let text = format!("{from}: connection to {to} lost: {error}");
        let link = link(&mut self.servers, from, to);
        link.feed.disconnected();
        link.dialer.lost(error, now, wall);
        self.say(&text);
    }

    /// Ends the other end.
    fn gone(&mut self, index: usize, reason: &str) {
        let Dialed {
            from,
            to,
            number,
            far,
            acceptor,
            ..
        } = &mut self.connections[index];
        acceptor.take();
        far.shut(Shutdown::Both);
        let text = format!("{to}: neighbor {from} gone: {reason}");
        self.servers.get_mut(to).unwrap().registry.remove(*number);
        self.say(&text);
    }
}
