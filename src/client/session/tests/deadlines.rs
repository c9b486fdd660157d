//! Deadlines of sessions that wait for several things at once.

use super::*;

/// The things that a session waits for at the same time.
#[derive(Clone, Copy, Debug)]
struct Waits {
    /// The end of a line.
    half_line: bool,
    /// The client, to take its replies.
    unread_replies: bool,
    /// A result of the server.
    result: Option<Of>,
    /// The end of the connection after too long a line.
    closing: bool,
}

/// Where the result comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// A stalled disk: the line is not executed yet.
    Stall,
    /// A sync or a places provider, which are alike to a session: the line is executed.
    SyncOrPlaces,
}

impl Waits {
    fn all() -> impl Iterator<Item = Waits> {
        (0..24).map(|number| Waits {
            half_line: number & 1 > 0,
            unread_replies: number & 2 > 0,
            closing: number & 4 > 0,
            result: [None, Some(Of::Stall), Some(Of::SyncOrPlaces)][number >> 3],
        })
    }

    /// Brings a new session to that state.
    fn enter(self, fixture: &mut Fixture) -> ScriptedStream {
        let mut script = ScriptedStream::new::<&str>(&[]);
        script.capacity = if self.unread_replies { 0 } else { usize::MAX };
        let mut input = b"x\n".to_vec();
        if self.result == Some(Of::Stall) {
            fixture.services.stall.wait(Box::new(|| ()));
            input.extend_from_slice(b"IAMAT a +1+1 1\n");
        }
        if self.closing {
            input.extend_from_slice(&[b'x'; lines::MAX_LINE_BYTES + 2]);
        } else if self.half_line {
            input.extend_from_slice(b"half");
        }
        script.segments.push_back(input);
        let result = fixture.run(&mut script);
        let stalled = self.result == Some(Of::Stall);
        assert_eq!(result == TurnResult::Blocked, stalled, "{self:?}");
        if stalled {
            let pending = fixture.session.take_pending();
            assert!(matches!(pending, Some(Pending::Stall(_))));
        } else if self.result.is_some() {
            fixture.session.progress = match self.closing {
                true => Progress::Closing(EndReason::LineTooLong),
                false => Progress::Open,
            };
            fixture.session.wait = Wait::Started;
        }
        script
    }

    /// Returns the time after which the session must have ended.
    fn limit(self, idle: Duration) -> Duration {
        let idle = match self.result {
            Some(_) => idle.max(MIN_WAIT),
            None => idle,
        };
        // Behind a line that is not executed nothing is looked at.
        let (half_line, closing) = match self.result {
            Some(Of::Stall) => (false, false),
            _ => (self.half_line && !self.closing, self.closing),
        };
        match self {
            _ if self.unread_replies => REPLY_TIMEOUT + UNREAD_DRAIN_TIMEOUT,
            _ if half_line => idle.min(LINE_TIMEOUT) + DRAIN_TIMEOUT,
            _ if closing && self.result.is_none() => DRAIN_TIMEOUT,
            _ => idle + DRAIN_TIMEOUT,
        }
    }
}

/// Runs turns as a sweep does, until the session ends. Returns the time that it took.
fn time_to_end(fixture: &mut Fixture, script: &mut ScriptedStream, limit: Duration) -> Duration {
    let start = fixture.now();
    loop {
        let deadline = fixture.session.deadline(&fixture.services);
        let taken = deadline.since(start);
        assert!(
            taken <= limit,
            "open after {taken:?}: {:?}",
            fixture.session
        );
        assert!(
            deadline > fixture.now(),
            "a deadline that has passed remains"
        );
        fixture.set_now(deadline);
        if let TurnResult::Ended(_) = fixture.turn(script) {
            return taken;
        }
    }
}

#[test]
fn a_session_ends_in_time_whatever_it_waits_for() {
    for waits in Waits::all() {
        for idle in [1, 9, 600, 1_000_000].map(Duration::from_secs) {
            let mut fixture = Fixture::new();
            fixture.services.idle_timeout = idle;
            let mut script = waits.enter(&mut fixture);
            let limit = waits.limit(idle);
            let taken = time_to_end(&mut fixture, &mut script, limit);
            assert_eq!(taken, limit, "{waits:?}, idle time-out {idle:?}");
            assert!(script.shut, "{waits:?}");
        }
    }
}

#[test]
fn a_stopping_session_ends_in_time_too() {
    for waits in Waits::all().filter(|waits| waits.result.is_none()) {
        let mut fixture = Fixture::new();
        let mut script = waits.enter(&mut fixture);
        fixture.services.stopping.store(true, Ordering::Relaxed);
        while fixture.turn(&mut script) == TurnResult::Again {}
        let limit = REPLY_TIMEOUT + DRAIN_TIMEOUT;
        time_to_end(&mut fixture, &mut script, limit);
    }
}

#[test]
fn a_client_that_reads_a_byte_now_and_then_gains_nothing() {
    let mut fixture = Fixture::new();
    let mut script = ScriptedStream::new(&["x\n".repeat(10)]);
    script.capacity = 0;
    assert_eq!(fixture.run(&mut script), TurnResult::NeedsOutput);
    let end = fixture.now().after(REPLY_TIMEOUT);
    while !script.shut {
        assert!(fixture.now() <= end);
        script.capacity = 1;
        fixture.turn(&mut script);
        fixture.set_now(fixture.now().after(Duration::from_secs(1)));
    }
    assert_eq!(script.taken.len(), 11);
}

#[test]
fn a_line_that_was_finished_while_nothing_was_read_is_in_time() {
    let mut fixture = Fixture::new();
    fixture.services.stall.wait(Box::new(|| ()));
    let mut script = ScriptedStream::new(&["IAMAT a +1+1 1\nhalf"]);
    assert_eq!(fixture.turn(&mut script), TurnResult::Blocked);
    let pending = fixture.session.take_pending().expect("a wait");
    script.segments.push_back(b" a line\nx\n".to_vec());
    fixture.set_now(fixture.now().after(LINE_TIMEOUT));
    assert_eq!(fixture.turn(&mut script), TurnResult::Blocked);
    assert!(script.taken.is_empty() && !script.shut);

    // Once the disk answers, everything is answered in order.
    let (stall, _stalled) = Stall::new();
    fixture.services.stall = stall;
    drop(pending);
    let released = Released {
        replies: Vec::new(),
        unlogged: false,
        next: None,
        received: None,
    };
    fixture.session.resume(released, fixture.now());
    assert_eq!(fixture.run(&mut script), TurnResult::NeedsInput);
    let replies = String::from_utf8(script.taken).expect("text");
    assert!(replies.ends_with("\n? half a line\n? x\n"), "{replies}");
}

#[test]
fn reports_wait_for_the_disk_and_questions_before_them_do_not() {
    let mut fixture = Fixture::new();
    let input = "IAMAT a +1+1 1\n";
    assert_eq!(
        fixture.turn(&mut ScriptedStream::new(&[input])),
        TurnResult::NeedsInput
    );
    fixture.services.stall.wait(Box::new(|| ()));
    let input = "WHATSAT a 0 0\nIAMAT a +1+1 2\nIAMAT b +1+1 2\nWHATSAT b 0 0\nx\n";
    let mut script = ScriptedStream::new(&[input]);
    assert_eq!(fixture.run(&mut script), TurnResult::Blocked);
    let early = String::from_utf8(script.taken.clone()).expect("text");
    assert!(
        early.contains(" a +1+1 1\n") && early.ends_with("}\n\n"),
        "{early}"
    );

    let pending = fixture.session.take_pending().expect("a wait");
    let (sender, released) = crossbeam_channel::bounded(1);
    pending.start(&fixture.services, move |released| {
        sender.send(released).expect("the test listens");
    });
    let callbacks: Vec<OnResponsive> = fixture.stalled.try_iter().collect();
    callbacks.into_iter().for_each(|callback| callback());
    let (stall, _stalled) = Stall::new();
    fixture.services.stall = stall;
    let released = released.recv().expect("the result of the wait");
    fixture.session.resume(*released, fixture.now());
    assert_eq!(fixture.run(&mut script), TurnResult::NeedsInput);
    let late = String::from_utf8(script.taken[early.len()..].to_vec()).expect("text");
    let lines: Vec<&str> = late.lines().filter(|line| !line.is_empty()).collect();
    assert!(
        lines[0].ends_with(" a +1+1 2") && lines[1].ends_with(" b +1+1 2"),
        "{late}"
    );
    assert_eq!(lines[1], lines[2]);
    assert_eq!(lines.last(), Some(&"? x"));
    assert_eq!(fixture.services.replica.len(), 2);
}
