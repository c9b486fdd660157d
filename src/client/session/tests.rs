//! Sessions over a scripted stream: every edge of a turn without a socket.

use std::collections::VecDeque;

use super::*;
use crate::places::atlas::Atlas;

/// A client that sends given segments and takes a given number of bytes.
#[derive(Debug, Default)]
struct Script {
    segments: VecDeque<Vec<u8>>,
    /// Whether the client closes after the last segment.
    closes: bool,
    taken: Vec<u8>,
    room: usize,
    writes: usize,
    shut: bool,
}

impl Script {
    fn new<T: AsRef<[u8]>>(segments: &[T]) -> Script {
        Script {
            segments: segments
                .iter()
                .map(|segment| segment.as_ref().to_vec())
                .collect(),
            room: usize::MAX,
            ..Script::default()
        }
    }
}

impl Read for Script {
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

impl Write for Script {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = bytes.len().min(self.room);
        if written == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.room -= written;
        self.taken.extend_from_slice(&bytes[..written]);
        self.writes += 1;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Script {
    fn shutdown_write(&mut self) -> io::Result<()> {
        self.shut = true;
        Ok(())
    }
}

struct Bench {
    session: Session,
    services: Services,
    scratch: Scratch,
}

impl Bench {
    fn new() -> Bench {
        let clock = CoarseClock::default();
        clock.set(Duration::from_secs(1_000));
        Bench {
            session: Session::new(([127, 0, 0, 1], 1).into(), clock.now()),
            services: Services {
                replica: Arc::new(Replica::new("Ball", 1, 100)),
                places: Places::Atlas(Atlas::new()),
                durability: None,
                idle_timeout: Duration::from_secs(600),
                clock,
                stopping: AtomicBool::new(false),
            },
            scratch: Scratch::default(),
        }
    }

    fn now(&self) -> Tick {
        self.services.clock.now()
    }

    fn set_now(&self, now: Tick) {
        self.services.clock.set(Duration::from_millis(now.into()));
    }

    fn turn(&mut self, script: &mut Script) -> TurnResult {
        self.session.turn(script, &mut self.scratch, &self.services)
    }

    /// Turns until the session waits.
    fn run(&mut self, script: &mut Script) -> TurnResult {
        loop {
            let waits = script.segments.is_empty();
            match self.turn(script) {
                TurnResult::Again => {}
                TurnResult::Input if !waits => {}
                after => return after,
            }
        }
    }
}

/// All that a fresh session answers to the segments, with each `AT` line cut to `AT`, and what
/// it then waits for.
#[track_caller]
fn check<T: AsRef<[u8]>>(segments: &[T], closes: bool, replies: &str, after: TurnResult) {
    let mut script = Script::new(segments);
    script.closes = closes;
    let got = Bench::new().run(&mut script);
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
    assert_eq!(got, after);
}

#[test]
fn answers_in_order_however_the_input_is_cut() {
    let input =
        b"IAMAT a +1+1 1\r\nnonsense\nWHATSAT b 1 1\nIAMAT b +1+1 1\nIAMAT a +1+1 9999999999\nlast";
    let replies = "AT\n? nonsense\n? WHATSAT b 1 1\nAT\n? IAMAT a +1+1 9999999999\n? last\n";
    check(&[input], true, replies, TurnResult::Closed(Reason::Client));
    let bytes: Vec<_> = input.iter().map(|&byte| [byte]).collect();
    check(&bytes, true, replies, TurnResult::Closed(Reason::Client));
    for cut in 1..input.len() {
        check(
            &[&input[..cut], &input[cut..]],
            true,
            replies,
            TurnResult::Closed(Reason::Client),
        );
    }
}

#[test]
fn waits_with_an_unfinished_line() {
    check(&["IAMAT a"], false, "", TurnResult::Input);
    check(&["a\nb"], false, "? a\n", TurnResult::Input);
    check::<&[u8]>(&[], true, "", TurnResult::Closed(Reason::Client));
}

#[test]
fn a_whatsat_sees_the_report_before_it_and_leaves_in_one_write() {
    let mut script = Script::new(&["IAMAT a +1+1 1\nWHATSAT a 0 0\n"]);
    assert_eq!(Bench::new().run(&mut script), TurnResult::Input);
    let text = String::from_utf8(script.taken).expect("text");
    let (at_lines, json) = text.split_at(text.find('{').expect("a JSON text"));
    assert_eq!(at_lines.lines().count(), 2);
    assert_eq!(at_lines.lines().next(), at_lines.lines().nth(1));
    assert!(json.ends_with("}\n\n"), "{json}");
    assert_eq!(script.writes, 1);
}

#[test]
fn a_turn_answers_so_many_and_then_lets_others_in() {
    let mut bench = Bench::new();
    let mut script = Script::new(&["x\n".repeat(TURN_REQUESTS + 1)]);
    assert_eq!(bench.turn(&mut script), TurnResult::Again);
    assert_eq!(script.taken.len(), TURN_REQUESTS * "? x\n".len());
    assert_eq!(bench.turn(&mut script), TurnResult::Again);
    assert_eq!(bench.turn(&mut script), TurnResult::Input);
    assert_eq!(script.writes, 2);
}

#[test]
fn what_arrives_while_a_burst_is_answered_is_read_without_another_event() {
    let mut bench = Bench::new();
    let mut script = Script::new(&["x\n".repeat(TURN_REQUESTS + 1), "late\n".to_owned()]);
    while bench.turn(&mut script) == TurnResult::Again {}
    assert!(script.taken.ends_with(b"? late\n"));
}

#[test]
fn a_line_without_end_is_answered_once_and_the_connection_drained() {
    let mut bench = Bench::new();
    let mut script = Script::new(&[vec![b'x'; 100_000]]);
    assert_eq!(bench.run(&mut script), TurnResult::Input);
    let expected = [b"? ", &[b'x'; lines::MAX_LINE_BYTES][..], b"\n"].concat();
    assert_eq!(script.taken, expected);
    assert!(script.shut && script.segments.is_empty());
    bench.set_now(bench.session.deadline(&bench.services));
    assert_eq!(
        bench.turn(&mut script),
        TurnResult::Closed(Reason::LineTooLong)
    );
}

#[test]
fn an_idle_session_owns_no_buffer() {
    let mut bench = Bench::new();
    let mut script = Script::new(&["IAMAT a +1+1 1\n", "half", " a line\n"]);
    bench.run(&mut script);
    assert_eq!(bench.session.input.capacity(), 0);
    assert_eq!(bench.session.unsent.bytes.capacity(), 0);
}

#[test]
fn replies_not_taken_are_kept_in_order_and_stop_the_reading() {
    let mut bench = Bench::new();
    let request = "x\n".repeat(READ_BYTES / 2);
    let mut script = Script::new(&vec![request; 100]);
    script.room = 10;
    while bench.turn(&mut script) != TurnResult::Output
        || bench.session.unsent.bytes.len() < MAX_UNSENT_BYTES
    {}
    let left: usize = script.segments.iter().map(Vec::len).sum();
    assert_eq!(bench.turn(&mut script), TurnResult::Output);
    assert_eq!(left, script.segments.iter().map(Vec::len).sum::<usize>());
    script.room = usize::MAX;
    bench.run(&mut script);
    assert_eq!(
        script.taken,
        "? x\n".repeat(100 * READ_BYTES / 2).as_bytes()
    );
}

#[test]
fn deadlines_are_totals() {
    let mut bench = Bench::new();
    let start = bench.now();
    let mut script = Script::new(&["dr"]);
    bench.run(&mut script);
    assert_eq!(
        bench.session.deadline(&bench.services),
        start.after(LINE_TIMEOUT)
    );
    // A byte now and then extends nothing.
    bench.set_now(start.after(Duration::from_secs(9)));
    script.segments.push_back(b"i".to_vec());
    bench.run(&mut script);
    assert_eq!(
        bench.session.deadline(&bench.services),
        start.after(LINE_TIMEOUT)
    );
    bench.set_now(start.after(LINE_TIMEOUT));
    script.closes = true;
    script.segments.push_back(b"p".to_vec());
    assert_eq!(
        bench.run(&mut script),
        TurnResult::Closed(Reason::LineTimeout)
    );
    assert!(script.taken.is_empty() && script.shut);
}

#[test]
fn a_reply_must_be_taken_in_time_and_each_has_its_own() {
    let mut bench = Bench::new();
    let start = bench.now();
    let mut script = Script::new(&["x\n"]);
    script.room = 2;
    assert_eq!(bench.run(&mut script), TurnResult::Output);
    bench.set_now(start.after(Duration::from_secs(5)));
    script.segments.push_back(b"y\n".to_vec());
    assert_eq!(bench.turn(&mut script), TurnResult::Output);
    assert_eq!(
        bench.session.deadline(&bench.services),
        start.after(REPLY_TIMEOUT)
    );
    // The first reply goes; the second began to wait when it was its turn.
    script.room = 3;
    assert_eq!(bench.turn(&mut script), TurnResult::Output);
    let deadline = bench.now().after(REPLY_TIMEOUT);
    bench.set_now(start.after(Duration::from_secs(11)));
    assert_eq!(bench.turn(&mut script), TurnResult::Output);
    bench.set_now(deadline.after(REPLY_TIMEOUT));
    assert_eq!(
        bench.turn(&mut script),
        TurnResult::Closed(Reason::ReplyTimeout)
    );
}

#[test]
fn an_idle_client_is_let_go() {
    let mut bench = Bench::new();
    let mut script = Script::new(&["x\n"]);
    bench.run(&mut script);
    bench.set_now(bench.session.deadline(&bench.services));
    assert_eq!(bench.turn(&mut script), TurnResult::Input);
    assert!(script.shut);
    script.closes = true;
    assert_eq!(bench.turn(&mut script), TurnResult::Closed(Reason::Idle));
}

#[test]
fn an_announced_end_is_read_to() {
    let mut bench = Bench::new();
    let mut script = Script::new(&["x\n"]);
    script.closes = true;
    bench.session.announce_end();
    assert_eq!(bench.turn(&mut script), TurnResult::Again);
    assert_eq!(bench.turn(&mut script), TurnResult::Closed(Reason::Client));
}

#[test]
fn a_finishing_session_answers_whole_lines_and_carries_out_no_half_one() {
    let mut bench = Bench::new();
    let input = "x\n".repeat(TURN_REQUESTS + 1) + "IAMAT a +1+1 14";
    let mut script = Script::new(&[input.as_str(), "79\n"]);
    bench.services.stopping.store(true, Ordering::Relaxed);
    while bench.turn(&mut script) == TurnResult::Again {}
    assert_eq!(script.taken, "? x\n".repeat(TURN_REQUESTS + 1).as_bytes());
    assert_eq!(script.segments.len(), 0, "what had come was drained");
    assert!(script.shut && bench.services.replica.is_empty());
}

#[test]
fn a_read_that_our_own_side_cut_ends_no_line() {
    for stopping in [true, false] {
        let mut bench = Bench::new();
        let mut script = Script::new(&["IAMAT a +1+1 14"]);
        assert_eq!(bench.run(&mut script), TurnResult::Input);
        let reason = if stopping {
            bench.services.stopping.store(true, Ordering::Relaxed);
            Reason::Stopping
        } else {
            bench.set_now(bench.session.deadline(&bench.services));
            Reason::LineTimeout
        };
        script.closes = true;
        assert_eq!(bench.run(&mut script), TurnResult::Closed(reason));
        assert!(script.taken.is_empty() && bench.services.replica.is_empty());
    }
}

#[test]
fn a_burst_larger_than_the_buffer_is_read_to_its_end_before_waiting() {
    let mut bench = Bench::new();
    let mut script = Script::new(&["x\n".repeat(2 * READ_BYTES)]);
    while bench.turn(&mut script) == TurnResult::Again {}
    assert_eq!(script.taken, "? x\n".repeat(2 * READ_BYTES).as_bytes());
}
