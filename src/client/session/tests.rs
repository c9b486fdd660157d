//! Sessions over a scripted stream: every edge of a turn without a socket.

mod deadlines;
mod second;
mod strangers;
mod watches;

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};

use crossbeam_channel::Receiver;

use super::input::LINE_TIMEOUT;
use super::output::{MAX_UNSENT_BYTES, REPLY_TIMEOUT};
use super::pushes::WakeSession;
use super::*;
use crate::model::time::CoarseClock;
use crate::places::Places;
use crate::places::atlas::Atlas;
use crate::replica::Replica;
use crate::replica::stall::{OnResponsive, Stall};
use crate::watch::Watches;

/// A client that sends the given segments and takes a limited number of bytes.
#[derive(Debug, Default)]
struct ScriptedStream {
    segments: VecDeque<Vec<u8>>,
    /// Set if the client closes after the last segment.
    closes: bool,
    taken: Vec<u8>,
    capacity: usize,
    writes: usize,
    shut: bool,
    kept_alive: Option<Duration>,
}

impl ScriptedStream {
    fn new<T: AsRef<[u8]>>(segments: &[T]) -> ScriptedStream {
        ScriptedStream {
            segments: segments
                .iter()
                .map(|segment| segment.as_ref().to_vec())
                .collect(),
            capacity: usize::MAX,
            ..ScriptedStream::default()
        }
    }
}

impl Read for ScriptedStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(mut segment) = self.segments.pop_front() else {
            return if self.closes {
                Ok(0)
            } else {
                Err(ErrorKind::WouldBlock.into())
            };
        };
        let bytes = segment.len().min(buffer.len());
        buffer[..bytes].copy_from_slice(&segment[..bytes]);
        if bytes < segment.len() {
            self.segments.push_front(segment.split_off(bytes));
        }
        Ok(bytes)
    }
}

impl Write for ScriptedStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = bytes.len().min(self.capacity);
        if written == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.capacity -= written;
        self.taken.extend_from_slice(&bytes[..written]);
        self.writes += 1;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for ScriptedStream {
    fn shutdown_write(&mut self) -> io::Result<()> {
        self.shut = true;
        Ok(())
    }

    fn read_available(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read(buffer)
    }

    fn limit_unsent(&mut self, _: Duration) -> io::Result<()> {
        Ok(())
    }

    fn keep_alive(&mut self, time: Duration) -> io::Result<()> {
        self.kept_alive = Some(time);
        Ok(())
    }
}

/// Turns of these sessions run when a test wants them to.
#[derive(Debug)]
struct NoPool;

impl WakeSession for NoPool {
    fn wake(&self, _: u64) {}
}

struct Fixture {
    session: Session,
    services: Services,
    scratch: Scratch,
    /// The callbacks of reports that wait for a stalled disk.
    stalled: Receiver<OnResponsive>,
    /// Rounds of changes that were made.
    rounds: u64,
}

impl Fixture {
    fn new() -> Fixture {
        let clock = CoarseClock::default();
        clock.set(Duration::from_secs(1_000));
        let (stall, stalled) = Stall::new();
        let counts = Arc::<ClientCounts>::default();
        let replica = Arc::new(Replica::new("Ball", 1, 100));
        Fixture {
            session: Session::new(([127, 0, 0, 1], 1).into(), clock.now()),
            services: Services {
                watches: Arc::new(Watches::new(&replica)),
                replica,
                places: Places::Atlas(Atlas),
                durability: None,
                stall,
                idle_timeout: Duration::from_secs(600),
                max_unsent_bytes: 256 << 20,
                clock,
                stopping: AtomicBool::new(false),
                counts: Arc::clone(&counts),
            },
            stalled,
            rounds: 0,
            scratch: Scratch::new(&counts, SessionWaker::new(Weak::<NoPool>::new())),
        }
    }

    fn now(&self) -> Tick {
        self.services.clock.now()
    }

    fn set_now(&self, now: Tick) {
        self.services.clock.set(Duration::from_millis(now.0));
    }

    fn turn(&mut self, script: &mut ScriptedStream) -> TurnResult {
        self.session.turn(script, &mut self.scratch, &self.services)
    }

    /// Runs turns until the session waits.
    fn run(&mut self, script: &mut ScriptedStream) -> TurnResult {
        loop {
            let waits = script.segments.is_empty();
            match self.turn(script) {
                TurnResult::Again => {}
                TurnResult::NeedsInput if !waits => {}
                result => return result,
            }
        }
    }
}

/// Checks the replies of a new session to the segments, with each `AT` line cut to `AT`, and its
/// last result.
#[track_caller]
fn check<T: AsRef<[u8]>>(segments: &[T], closes: bool, replies: &str, result: TurnResult) {
    let mut script = ScriptedStream::new(segments);
    script.closes = closes;
    let got = Fixture::new().run(&mut script);
    let shown: Vec<_> = script
        .taken
        .split_inclusive(|&byte| byte == b'\n')
        .map(|line| {
            if line.starts_with(b"AT ") {
                &b"AT\n"[..]
            } else {
                line
            }
        })
        .collect();
    assert_eq!(String::from_utf8_lossy(&shown.concat()), replies);
    assert_eq!(got, result);
}

#[test]
fn answers_in_order_however_the_input_is_cut() {
    let input =
        b"IAMAT a +1+1 1\r\nnonsense\nWHATSAT b 1 1\nIAMAT b +1+1 1\nIAMAT a +1+1 9999999999\nlast";
    let replies = "AT\n? nonsense\n? WHATSAT b 1 1\nAT\n? IAMAT a +1+1 9999999999\n? last\n";
    check(
        &[input],
        true,
        replies,
        TurnResult::Ended(EndReason::Client),
    );
    let bytes: Vec<_> = input.iter().map(|&byte| [byte]).collect();
    check(&bytes, true, replies, TurnResult::Ended(EndReason::Client));
    for cut in 1..input.len() {
        check(
            &[&input[..cut], &input[cut..]],
            true,
            replies,
            TurnResult::Ended(EndReason::Client),
        );
    }
}

#[test]
fn waits_with_an_unfinished_line() {
    check(&["IAMAT a"], false, "", TurnResult::NeedsInput);
    check(&["a\nb"], false, "? a\n", TurnResult::NeedsInput);
    check::<&[u8]>(&[], true, "", TurnResult::Ended(EndReason::Client));
}

#[test]
fn a_whatsat_sees_the_report_before_it_and_is_sent_in_one_write() {
    let mut script = ScriptedStream::new(&["IAMAT a +1+1 1\nWHATSAT a 0 0\n"]);
    assert_eq!(Fixture::new().run(&mut script), TurnResult::NeedsInput);
    let text = String::from_utf8(script.taken).expect("text");
    let (at_lines, json) = text.split_at(text.find('{').expect("a JSON text"));
    assert_eq!(at_lines.lines().count(), 2);
    assert_eq!(at_lines.lines().next(), at_lines.lines().nth(1));
    assert!(json.ends_with("}\n\n"), "{json}");
    assert_eq!(script.writes, 1);
}

#[test]
fn a_turn_answers_a_bounded_number_of_requests() {
    let mut fixture = Fixture::new();
    let mut script = ScriptedStream::new(&["x\n".repeat(TURN_REQUESTS + 1)]);
    assert_eq!(fixture.turn(&mut script), TurnResult::Again);
    assert_eq!(script.taken.len(), TURN_REQUESTS * "? x\n".len());
    assert_eq!(fixture.turn(&mut script), TurnResult::Again);
    assert_eq!(fixture.turn(&mut script), TurnResult::NeedsInput);
    assert_eq!(script.writes, 2);
}

#[test]
fn input_that_arrives_during_a_burst_is_read_without_another_event() {
    let mut fixture = Fixture::new();
    let mut script = ScriptedStream::new(&["x\n".repeat(TURN_REQUESTS + 1), "late\n".to_owned()]);
    while fixture.turn(&mut script) == TurnResult::Again {}
    assert!(script.taken.ends_with(b"? late\n"));
}

#[test]
fn an_endless_line_is_answered_once_and_the_connection_drained() {
    let mut fixture = Fixture::new();
    let mut script = ScriptedStream::new(&[vec![b'x'; 100_000]]);
    assert_eq!(fixture.run(&mut script), TurnResult::NeedsInput);
    let expected = [b"? ", &[b'x'; lines::MAX_LINE_BYTES][..], b"\n"].concat();
    assert_eq!(script.taken, expected);
    assert!(script.shut && script.segments.is_empty());
    fixture.set_now(fixture.session.deadline(&fixture.services));
    assert_eq!(
        fixture.turn(&mut script),
        TurnResult::Ended(EndReason::LineTooLong)
    );
}

#[test]
fn an_idle_session_owns_no_buffer() {
    let mut fixture = Fixture::new();
    let mut script = ScriptedStream::new(&["IAMAT a +1+1 1\n", "half", " a line\n"]);
    fixture.run(&mut script);
    assert_eq!(fixture.session.input.rest.capacity(), 0);
    assert_eq!(fixture.session.output.len(), 0);
}

#[test]
fn replies_not_taken_are_kept_in_order_and_stop_reads() {
    let mut fixture = Fixture::new();
    let request = "x\n".repeat(READ_BYTES / 2);
    let mut script = ScriptedStream::new(&vec![request; 100]);
    script.capacity = 10;
    while fixture.turn(&mut script) != TurnResult::NeedsOutput
        || fixture.session.output.len() < MAX_UNSENT_BYTES
    {}
    let left: usize = script.segments.iter().map(Vec::len).sum();
    assert_eq!(fixture.turn(&mut script), TurnResult::NeedsOutput);
    assert_eq!(left, script.segments.iter().map(Vec::len).sum::<usize>());
    script.capacity = usize::MAX;
    fixture.run(&mut script);
    assert_eq!(
        script.taken,
        "? x\n".repeat(100 * READ_BYTES / 2).as_bytes()
    );
}

#[test]
fn a_line_deadline_counts_from_its_first_byte() {
    let mut fixture = Fixture::new();
    let start = fixture.now();
    let mut script = ScriptedStream::new(&["dr"]);
    fixture.run(&mut script);
    assert_eq!(
        fixture.session.deadline(&fixture.services),
        start.after(LINE_TIMEOUT)
    );
    // A byte now and then does not extend it.
    fixture.set_now(start.after(Duration::from_secs(9)));
    script.segments.push_back(b"i".to_vec());
    fixture.run(&mut script);
    assert_eq!(
        fixture.session.deadline(&fixture.services),
        start.after(LINE_TIMEOUT)
    );
    fixture.set_now(start.after(LINE_TIMEOUT));
    script.closes = true;
    script.segments.push_back(b"p".to_vec());
    assert_eq!(
        fixture.run(&mut script),
        TurnResult::Ended(EndReason::LineTimeout)
    );
    assert!(script.taken.is_empty() && script.shut);
}

#[test]
fn each_reply_has_its_own_deadline() {
    let mut fixture = Fixture::new();
    let start = fixture.now();
    let mut script = ScriptedStream::new(&["x\n"]);
    script.capacity = 2;
    assert_eq!(fixture.run(&mut script), TurnResult::NeedsOutput);
    fixture.set_now(start.after(Duration::from_secs(5)));
    script.segments.push_back(b"y\n".to_vec());
    assert_eq!(fixture.turn(&mut script), TurnResult::NeedsOutput);
    assert_eq!(
        fixture.session.deadline(&fixture.services),
        start.after(REPLY_TIMEOUT)
    );
    // The first reply is taken; the deadline of the second counts from when it was written.
    script.capacity = 3;
    fixture.set_now(start.after(Duration::from_secs(9)));
    assert_eq!(fixture.turn(&mut script), TurnResult::NeedsOutput);
    let deadline = start.after(Duration::from_secs(5) + REPLY_TIMEOUT);
    assert_eq!(fixture.session.deadline(&fixture.services), deadline);
    fixture.set_now(start.after(Duration::from_secs(11)));
    assert_eq!(fixture.turn(&mut script), TurnResult::NeedsOutput);
    fixture.set_now(deadline);
    // The close is orderly: the client may still take what the system holds for it.
    assert_eq!(fixture.run(&mut script), TurnResult::NeedsInput);
    assert!(script.shut);
    fixture.set_now(fixture.now().after(UNREAD_DRAIN_TIMEOUT));
    assert_eq!(
        fixture.turn(&mut script),
        TurnResult::Ended(EndReason::ReplyTimeout)
    );
}

#[test]
fn an_idle_client_is_disconnected() {
    let mut fixture = Fixture::new();
    let mut script = ScriptedStream::new(&["x\n"]);
    fixture.run(&mut script);
    fixture.set_now(fixture.session.deadline(&fixture.services));
    assert_eq!(fixture.run(&mut script), TurnResult::NeedsInput);
    assert!(script.shut);
    script.closes = true;
    assert_eq!(
        fixture.turn(&mut script),
        TurnResult::Ended(EndReason::Idle)
    );
}

#[test]
fn input_is_read_up_to_its_reported_end() {
    let mut fixture = Fixture::new();
    let mut script = ScriptedStream::new(&["x\n"]);
    script.closes = true;
    fixture.session.report_end();
    assert_eq!(fixture.turn(&mut script), TurnResult::Again);
    assert_eq!(
        fixture.turn(&mut script),
        TurnResult::Ended(EndReason::Client)
    );
}

#[test]
fn a_stopping_session_answers_whole_lines_and_ignores_half_a_line() {
    let mut fixture = Fixture::new();
    let input = "x\n".repeat(TURN_REQUESTS + 1) + "IAMAT a +1+1 14";
    let mut script = ScriptedStream::new(&[input.as_str(), "79\n"]);
    fixture.services.stopping.store(true, Ordering::Relaxed);
    while fixture.turn(&mut script) == TurnResult::Again {}
    assert_eq!(script.taken, "? x\n".repeat(TURN_REQUESTS + 1).as_bytes());
    assert_eq!(script.segments.len(), 0, "the rest was drained");
    assert!(script.shut && fixture.services.replica.is_empty());
}

#[test]
fn a_read_cut_short_by_the_server_does_not_end_a_line() {
    for stopping in [true, false] {
        let mut fixture = Fixture::new();
        let mut script = ScriptedStream::new(&["IAMAT a +1+1 14"]);
        assert_eq!(fixture.run(&mut script), TurnResult::NeedsInput);
        let reason = if stopping {
            fixture.services.stopping.store(true, Ordering::Relaxed);
            EndReason::Stopping
        } else {
            fixture.set_now(fixture.session.deadline(&fixture.services));
            EndReason::LineTimeout
        };
        script.closes = true;
        assert_eq!(fixture.run(&mut script), TurnResult::Ended(reason));
        assert!(script.taken.is_empty() && fixture.services.replica.is_empty());
    }
}

#[test]
fn a_burst_larger_than_the_buffer_is_read_to_its_end_before_waiting() {
    let mut fixture = Fixture::new();
    let mut script = ScriptedStream::new(&["x\n".repeat(2 * READ_BYTES)]);
    while fixture.turn(&mut script) == TurnResult::Again {}
    assert_eq!(script.taken, "? x\n".repeat(2 * READ_BYTES).as_bytes());
}

#[test]
fn an_idle_session_stays_small() {
    // It was 248 bytes; a hundred thousand idle clients have one each.
    assert!(size_of::<Session>() <= 184, "{}", size_of::<Session>());
}

#[test]
fn released_replies_are_sent_before_the_next_line_is_answered() {
    let mut fixture = Fixture::new();
    let mut script = ScriptedStream::new(&["x\n"]);
    let released = Released {
        replies: b"held\n".to_vec(),
        unlogged: false,
        next: None,
        received: None,
    };
    fixture.session.wait = Wait::Started;
    fixture.session.resume(released, fixture.now());
    assert_eq!(fixture.turn(&mut script), TurnResult::NeedsInput);
    assert_eq!(script.taken, b"held\n? x\n");
    assert_eq!(script.writes, 2);
}
