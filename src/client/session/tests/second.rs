//! The second dialect.

use super::*;
use crate::client::requests::{CommandName, RequestOutcome};
use crate::config::{Ack, Config};

/// The reply to `HELLO 2`.
const HELLO: &str = concat!("HELLO 2 Ball ", env!("CARGO_PKG_VERSION"), "\n");

impl Fixture {
    /// A server that has caught up, with a session whose first line was `HELLO 2`.
    fn second() -> Fixture {
        let mut fixture = Fixture::new();
        fixture.services.replica.set_caught_up();
        fixture.ask("HELLO 2\n", HELLO);
        fixture
    }

    /// Checks the replies to lines, in which differences and the times of the server are left out.
    #[track_caller]
    fn ask(&mut self, lines: &str, replies: &str) {
        let mut script = ScriptedStream::new(&[lines]);
        assert_eq!(self.run(&mut script), TurnResult::NeedsInput, "{lines}");
        assert_eq!(shown(&script.taken), replies, "{lines}");
    }

    fn count(&self, outcome: RequestOutcome) -> u64 {
        self.services.counts.requests().of(outcome)
    }
}

/// Shows replies without what depends on the clock.
fn shown(replies: &[u8]) -> String {
    let replies = String::from_utf8_lossy(replies);
    let show = |line: &str| {
        let mut words: Vec<_> = line.split(' ').collect();
        for at in 0..words.len() {
            let is_head = |word: &&str| ["AT", "OLD"].contains(word);
            if at >= 2 && is_head(&words[at - 2]) {
                words[at] = "D";
            }
        }
        if words[0] == "FORGOT" {
            words[3] = "T";
        }
        words.join(" ")
    };
    replies.split('\n').map(show).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_first_line_chooses_the_dialect() {
    let mut fixture = Fixture::second();
    fixture.ask(
        "HELLO 2\nx\n",
        "ERR SYNTAX HELLO 2 is taken only as a connection's first line\n\
         ERR SYNTAX no command x: IAMAT, WHATSAT, WHERE, NEARBY, WITHIN, FORGET, WATCH, UNWATCH, PING, AUTH\n",
    );
    for (lines, replies) in [
        ("HELLO 1\nHELLO 2\n", "? HELLO 1\n? HELLO 2\n"),
        ("HELLO\nPING\n", "? HELLO\n? PING\n"),
        ("HELLO 2 HTTP/1.1\n", "? HELLO 2 HTTP/1.1\n"),
        ("x\nHELLO 2\n", "? x\n? HELLO 2\n"),
    ] {
        let mut script = ScriptedStream::new(&[lines]);
        Fixture::new().run(&mut script);
        assert_eq!(String::from_utf8_lossy(&script.taken), replies, "{lines}");
    }
}

#[test]
fn pipelined_commands_are_answered_in_order_however_the_input_is_cut() {
    let input = b" HELLO\t2\r\nIAMAT a +1+1 5\nIAMAT a +2+2 5\nIAMAT a +2+2 7\nIAMAT a +3+3 6\nWHERE a\nPING\nPING x\nWHERE b\nFORGET a\nWHERE a\nIAMAT a +1+1 8";
    let at = "AT Ball D a";
    let replies = format!(
        "{HELLO}{at} +1+1 5\nOLD Ball D a +1+1 5\n{at} +2+2 7\nOLD Ball D a +2+2 7\n{at} +2+2 7\n\
         PONG\nPONG x\nERR UNKNOWN no client b\nFORGOT Ball a T\nERR UNKNOWN no client a\n"
    );
    for cut in 1..input.len() {
        let mut fixture = Fixture::new();
        fixture.services.replica.set_caught_up();
        let mut script = ScriptedStream::new(&[&input[..cut], &input[cut..]]);
        script.closes = true;
        let result = fixture.run(&mut script);
        assert_eq!(result, TurnResult::Ended(EndReason::Client));
        let got = shown(&script.taken);
        let (start, last) = got.trim_end().rsplit_once('\n').expect("lines");
        assert_eq!(format!("{start}\n"), replies, "{cut}");
        assert!(
            last.starts_with("ERR FORGOTTEN a was forgotten at "),
            "{last}"
        );
    }
}

/// A report that is not newer is compared with the one before it, though a later one wins in the end.
#[test]
fn an_old_report_is_shown_what_was_stored_before_it() {
    let mut fixture = Fixture::second();
    fixture.ask("IAMAT a +1+1 5\n", "AT Ball D a +1+1 5\n");
    fixture.ask(
        "IAMAT a +2+2 4\nIAMAT b +9+9 1\nIAMAT a +3+3 7\nIAMAT b +8+8 1\nIAMAT a +4+4 6\nIAMAT a +5+5 8\n",
        "OLD Ball D a +1+1 5\nAT Ball D b +9+9 1\nAT Ball D a +3+3 7\nOLD Ball D b +9+9 1\nOLD Ball D a +3+3 7\nAT Ball D a +5+5 8\n",
    );
    assert_eq!(fixture.count(RequestOutcome::Stored), 4);
    assert_eq!(fixture.count(RequestOutcome::NotNewer), 3);
}

#[test]
fn clients_are_found_by_point_by_client_and_in_a_box() {
    let mut fixture = Fixture::second();
    fixture.ask(
        "IAMAT a +0+0 1\nIAMAT b +0+1 1\nIAMAT c +0+2 1\nIAMAT far -40+179 1\n",
        "AT Ball D a +0+0 1\nAT Ball D b +0+1 1\nAT Ball D c +0+2 1\nAT Ball D far -40+179 1\n",
    );
    fixture.ask(
        "NEARBY +0+0 200 10\nNEARBY b 200 1\nNEARBY far 1 9\nNEARBY +0+2 0.001 1\n",
        "NEAR 0.000 AT Ball D a +0+0 1\nNEAR 111.195 AT Ball D b +0+1 1\n\n\
         NEAR 111.195 AT Ball D a +0+0 1\n\n\n\
         NEAR 0.000 AT Ball D c +0+2 1\n\n",
    );
    fixture.ask(
        "WITHIN -50+170 +0-170 10\nWITHIN +1+1 +2+2 1\n",
        "AT Ball D far -40+179 1\n\n\n",
    );
    fixture.ask(
        "FORGET far\nWITHIN -50+170 +0-170 10\nNEARBY 0+0 1 1\nNEARBY far 1 1\n",
        "FORGOT Ball far T\n\nERR UNKNOWN no client 0+0; if it is a location, write +0+0\n\
         ERR UNKNOWN no client far\n",
    );
    assert_eq!(fixture.count(RequestOutcome::Done(CommandName::Nearby)), 4);
    assert_eq!(fixture.count(RequestOutcome::Done(CommandName::Within)), 3);
    assert_eq!(fixture.count(RequestOutcome::Done(CommandName::Forget)), 1);
    let unknown = RequestOutcome::Refused(CommandName::Nearby, Refusal::UnknownClient);
    assert_eq!(fixture.count(unknown), 2);
}

#[test]
fn an_unknown_client_may_be_known_elsewhere_until_the_server_has_caught_up() {
    let mut fixture = Fixture::new();
    fixture.ask("HELLO 2\n", HELLO);
    let error = "ERR STARTING a is unknown here, and this server has not caught up with its herd since it started\n";
    for line in ["WHERE a\n", "WHATSAT a 1 1\n", "NEARBY a 1 1\n"] {
        fixture.ask(line, error);
    }
    fixture.ask(
        "IAMAT a +1+1 1\nWHERE a\n",
        "AT Ball D a +1+1 1\nAT Ball D a +1+1 1\n",
    );
    fixture.services.replica.set_caught_up();
    fixture.ask("WHERE b\n", "ERR UNKNOWN no client b\n");
}

#[test]
fn reports_that_are_not_stored_say_why() {
    let mut fixture = Fixture::second();
    let now = Timestamp::now().as_nanos() / 1_000_000_000;
    let mut script = ScriptedStream::new(&[format!("IAMAT a +1+1 {}\n", now + 1_000)]);
    fixture.run(&mut script);
    let reply = String::from_utf8_lossy(&script.taken).into_owned();
    let start = format!(
        "ERR AHEAD {} is over 300 s ahead of this server's time, which is ",
        now + 1_000
    );
    assert!(reply.starts_with(&start), "{reply}");
    let day = Duration::from_secs(86_400);
    fixture.services.replica.set_forget_after(Some(day));
    let mut script = ScriptedStream::new(&[format!("IAMAT a +1+1 {}\n", now - 90_000)]);
    fixture.run(&mut script);
    let reply = String::from_utf8_lossy(&script.taken).into_owned();
    assert!(reply.starts_with("ERR TIME "), "{reply}");
    fixture.services.replica.set_removed(true);
    let removed = "ERR REMOVED this server is no longer part of the herd: use another\n";
    fixture.ask(&format!("IAMAT a +1+1 {now}\n"), removed);
    fixture.ask("FORGET a\n", removed);
    for (command, reason) in [
        (CommandName::Iamat, Refusal::TooFarAhead),
        (CommandName::Iamat, Refusal::Expired),
        (CommandName::Iamat, Refusal::Removed),
        (CommandName::Forget, Refusal::Removed),
    ] {
        let outcome = RequestOutcome::Refused(command, reason);
        assert_eq!(fixture.count(outcome), 1, "{command:?} {reason}");
    }
}

#[test]
fn each_refused_line_is_counted_once_with_its_command() {
    let mut fixture = Fixture::second();
    let long = "x".repeat(256);
    let mut total = 0;
    for (line, command, reason) in [
        ("", CommandName::Other, "unknown_command"),
        ("PING a b", CommandName::Ping, "field_count"),
        ("AUTH", CommandName::Auth, "field_count"),
        ("IAMAT a b c", CommandName::Iamat, "bad_location"),
        ("IAMAT a +1+1 1479413884392", CommandName::Iamat, "bad_time"),
        (
            "IAMAT a +1+1 20000000000",
            CommandName::Iamat,
            "too_far_ahead",
        ),
        ("NEARBY a 0 1", CommandName::Nearby, "bad_radius"),
        ("WITHIN +1+1 +0+0 1", CommandName::Within, "bad_location"),
        ("WITHIN +1+1 +2+2 0", CommandName::Within, "bad_bound"),
        (&format!("WATCH {long} a"), CommandName::Watch, "bad_name"),
        (
            &format!("WATCH w {long}"),
            CommandName::Watch,
            "client_too_long",
        ),
        ("UNWATCH w", CommandName::Unwatch, "unknown_watch"),
        (
            &format!("FORGET {long}"),
            CommandName::Forget,
            "client_too_long",
        ),
        ("WHATSAT a 1 1", CommandName::Whatsat, "unknown_client"),
    ] {
        let mut script = ScriptedStream::new(&[format!("{line}\n")]);
        fixture.run(&mut script);
        assert!(script.taken.starts_with(b"ERR "), "{line}");
        total += 1;
        let requests = fixture.services.counts.requests();
        let mut counts = requests.all().filter(|(_, count)| *count > 0);
        let is_it = |(outcome, count): (RequestOutcome, u64)| {
            (outcome.command(), outcome.name(), count) == (command, reason, 1)
        };
        assert!(counts.any(is_it), "{line}");
        // All of them, and the greeting.
        let sum: u64 = requests.all().map(|(_, count)| count).sum();
        assert_eq!(sum, total + 1, "{line}");
    }
}

#[test]
fn a_line_that_is_too_long_closes_the_connection() {
    let mut fixture = Fixture::second();
    let mut script = ScriptedStream::new(&["PING ".to_owned() + &"x".repeat(5_000)]);
    fixture.run(&mut script);
    let taken = String::from_utf8_lossy(&script.taken);
    assert_eq!(
        taken,
        "ERR LONG a line has at most 4096 bytes: the connection closes\n"
    );
    assert!(script.shut);
}

/// Replies of lists are whole, whatever their length, and a turn does not answer many of them.
#[test]
fn a_long_list_ends_a_turn_and_is_written_at_once() {
    let mut fixture = Fixture::second();
    fixture.services.replica = Arc::new(Replica::new("Ball", 1, 2_000));
    let id = "x".repeat(240);
    let reports: String = (0..1_000)
        .map(|number| format!("IAMAT {id}{number} +1+1 1\n"))
        .collect();
    let mut script = ScriptedStream::new(&[reports]);
    fixture.run(&mut script);
    let mut script = ScriptedStream::new(&["NEARBY +1+1 1 1000\n".repeat(3)]);
    assert_eq!(fixture.turn(&mut script), TurnResult::Again);
    assert_eq!(script.writes, 1);
    let one = script.taken.len();
    assert!(one > 1_000 * 280, "{one}");
    fixture.run(&mut script);
    assert_eq!((script.writes, script.taken.len()), (3, 3 * one));
    let lines = script.taken.split(|&byte| byte == b'\n');
    assert_eq!(
        lines
            .filter(|line| line.starts_with(b"NEAR 0.000 AT "))
            .count(),
        3_000
    );
    // A worker does not keep the memory.
    let mut script = ScriptedStream::new(&["PING\n"]);
    fixture.run(&mut script);
    assert!(fixture.scratch.output.capacity() < one);
}

/// While the disk stalls, a client is not forgotten, and the lines before are answered once.
#[test]
fn a_stalled_disk_delays_forget_and_what_is_behind_it() {
    let mut fixture = Fixture::second();
    let started = Stall::new();
    (fixture.services.stall, fixture.stalled) = started;
    fixture.services.stall.wait(Box::new(|| ()));
    assert!(fixture.services.stall.is_stalled());
    let mut script = ScriptedStream::new(&["PING\nFORGET a\nPING 2\n"]);
    assert_eq!(fixture.turn(&mut script), TurnResult::Blocked);
    assert_eq!(script.taken, b"PONG\n");
    assert!(fixture.services.replica.is_empty());
    let pending = fixture.session.take_pending().expect("a wait");
    assert!(matches!(pending, Pending::Stall(_)));
    // It is over.
    (fixture.services.stall, fixture.stalled) = Stall::new();
    let released = Released {
        replies: Vec::new(),
        unlogged: false,
        next: None,
        received: Some(Timestamp::now()),
    };
    fixture.session.resume(released, fixture.now());
    assert_eq!(fixture.run(&mut script), TurnResult::NeedsInput);
    assert_eq!(shown(&script.taken), "PONG\nFORGOT Ball a T\nPONG 2\n");
}

/// Returns a replica whose journal must be on disk before anything is acknowledged.
fn durable(folder: &std::path::Path) -> Arc<Replica> {
    let config = Config {
        data_dir: Some(folder.to_owned()),
        ack: Ack::Disk,
        ..Config::of_lone_server()
    };
    Replica::open(&config).expect("a replica").0
}

/// With `--ack disk` the reply to a `FORGET` waits for the disk, and those behind it wait too.
#[test]
fn a_forgotten_client_is_acknowledged_once_that_is_on_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut fixture = Fixture::second();
    fixture.services.replica = durable(folder.path());
    let mut script = ScriptedStream::new(&["PING 1\nFORGET a\nPING 2\n"]);
    assert_eq!(fixture.turn(&mut script), TurnResult::Blocked);
    assert_eq!(script.taken, b"");
    let Some(Pending::Sync(_, released)) = fixture.session.take_pending() else {
        panic!("no wait for the disk");
    };
    fixture.session.resume(*released, fixture.now());
    assert_eq!(fixture.run(&mut script), TurnResult::NeedsInput);
    assert_eq!(shown(&script.taken), "PONG 1\nFORGOT Ball a T\nPONG 2\n");
}
