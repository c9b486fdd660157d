//! Clients that send forged input, and clients that report the same time at several servers.

use super::form::{choose, figure};
use crate::support::fleet::Fleet;
use crate::support::process::wait_until;
use crate::support::{Client, report};

/// One client reports different locations with the same time at every server at once.
#[test]
fn equal_times_at_all_servers_end_with_one_winner() {
    let rounds = choose(100, 3_000);
    let mut fleet = Fleet::ring("equal", &[]);
    fleet.start_all();
    let mut clients: Vec<_> = (0..fleet.len())
        .map(|server| fleet.client(server))
        .collect();
    // The links are up once all servers have a first report.
    let up = clients[0].ask(&report("up", "+1+1"));
    for client in &mut clients {
        client.await_whatsat("up", &up);
    }
    let mut contested = 0;
    for round in 0..rounds {
        let line = report(&format!("client-{round}"), "@");
        for (server, client) in clients.iter_mut().enumerate() {
            client.send(line.replace('@', &format!("+{server}+{server}")) + "\n");
        }
        let replies: Vec<_> = clients.iter_mut().map(Client::line).collect();
        let accepted = |name: &str| {
            let own = format!("AT {name} ");
            replies
                .iter()
                .filter(|reply| reply.starts_with(&own))
                .count()
        };
        assert!(replies.iter().all(|reply| reply.starts_with("AT ")));
        contested += usize::from((0..5).all(|server| accepted(fleet.name(server)) > 0));
    }
    let names: Vec<_> = (0..rounds).map(|round| format!("client-{round}")).collect();
    let mut shown = |server: usize| clients[server].whatsat_all(names.iter().map(String::as_str));
    wait_until("one winner of each", || {
        let first = shown(0);
        (1..5).all(|server| shown(server) == first)
    });
    figure(
        "equal times at all servers",
        format_args!(
            "{rounds} clients, {contested} of them accepted by all five, one winner everywhere"
        ),
    );
}

/// Times out of range, and the lines of the protocol between servers, sent by a client.
#[test]
fn poisoned_times_and_forged_lines_change_nothing() {
    let mut fleet = Fleet::pair("poison", &[]);
    let (ball, welsh) = (0, 1);
    fleet.start_all();
    let mut at_ball = fleet.client(ball);
    let good = report("kiwi", "+1+1");
    let reply = at_ball.ask(&good);
    fleet.client(welsh).await_whatsat("kiwi", &reply);
    let now = good.rsplit(' ').next().unwrap();
    let seconds: u64 = now.split('.').next().unwrap().parse().unwrap();
    let digits = "9".repeat(40);
    let many = "9".repeat(4_000);
    let ahead = format!("{}.5", seconds + 302);
    let times = [
        "253402300799",
        "NaN",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "1e9",
        "0x7fffffff",
        "-1",
        "+1",
        "-0",
        ".5",
        "5.",
        "1.2.3",
        "1.0000000001",
        "1,5",
        "\u{663}",
        "18446744073709551615",
        "18446744073709551616",
        "9223372036854775807",
        &digits,
        &many,
        &ahead,
    ];
    let mut poison: Vec<_> = times
        .iter()
        .map(|time| format!("IAMAT kiwi +9+9 {time}"))
        .collect();
    poison.extend([
        format!("AT Welsh +0.1 kiwi +9+9 {now}"),
        format!("AT Ball +0.1 kiwi +9+9 {}", seconds + 100),
        format!("RECORD Welsh 7 1 {seconds}000000000 kiwi +9+9 {now}"),
        "MARKER 0 Ball 1 18446744073709551615".to_owned(),
        "VECTOR 0 Ball 1 1".to_owned(),
        "RESYNC".to_owned(),
        "BYE stopping".to_owned(),
        "HELLO 1 1 0 Welsh 7 0 Ball".to_owned(),
    ]);
    for line in &poison {
        assert_eq!(at_ball.ask(line), format!("? {line}"));
    }
    let rounds = choose(1, 200);
    let mut random = fastrand::Rng::with_seed(14);
    for _ in 0..rounds {
        // Random text of the characters of a time.
        let letters: String = (0..random.usize(1..40))
            .map(|_| *random.choice(b"0123456789.eE+-").unwrap() as char)
            .collect();
        let line = format!("IAMAT kiwi +9+9 {letters}");
        let answer = at_ball.ask(&line);
        let later = letters
            .parse::<f64>()
            .is_ok_and(|time| time > seconds as f64);
        assert!(!later || answer == format!("? {line}"), "{line}: {answer}");
    }
    // A valid report passes over the same links after them.
    let last = at_ball.ask(&report("last", "+1+1"));
    for server in [ball, welsh] {
        let mut client = fleet.client(server);
        client.await_whatsat("last", &last);
        assert_eq!(client.whatsat("kiwi"), reply);
    }
    figure(
        "poisoned times and forged lines",
        format_args!(
            "{} chosen ones and {rounds} random ones, 0 accepted",
            poison.len()
        ),
    );
}

/// New client ids without end, at all servers at once.
#[test]
fn invented_ids_are_refused_beyond_the_limit_and_known_clients_go_on() {
    const MAX: usize = 2_000;
    let ids = choose(20_000, 400_000);
    let mut fleet = Fleet::ring("ids", &["--max-records", "2000"]);
    fleet.start_all();
    let mut known = fleet.client(0);
    let reply = known.ask(&report("known", "+1+1"));
    for server in 0..fleet.len() {
        fleet.client(server).await_whatsat("known", &reply);
    }
    let attack = |each: usize, label: &str| -> usize {
        let attackers: Vec<_> = fleet
            .addresses()
            .into_iter()
            .enumerate()
            .map(|(server, address)| {
                let label = format!("{label}-{server}");
                std::thread::spawn(move || invent(address, &label, each))
            })
            .collect();
        attackers
            .into_iter()
            .map(|attacker| attacker.join().unwrap())
            .sum()
    };
    let resident = || -> Vec<usize> {
        (0..fleet.len())
            .map(|server| fleet.process(server).resident_kib())
            .collect()
    };
    // Afterwards the limit is reached, and buffers have their final size.
    let accepted = attack(2 * MAX, "first");
    assert!(accepted >= MAX - 1, "{accepted}");
    // Each server compares its own count with the limit; what the others accept at that moment comes on
    // top. How much that is depends on the delay between servers, but no server accepts more than the
    // limit by itself.
    assert!(accepted <= fleet.len() * MAX, "{accepted}");
    let before = resident();
    assert_eq!(attack(ids / 5, "second"), 0);
    let grown = before.iter().zip(resident());
    let grown = grown.map(|(before, after)| after.saturating_sub(*before));
    let grown = grown.max().unwrap();
    assert!(grown < 4_096, "{grown} KiB more than before");
    let newer = known.ask(&report("known", "+2+2"));
    assert!(newer.contains(" known +2+2 "), "{newer}");
    for server in 0..fleet.len() {
        fleet.client(server).await_whatsat("known", &newer);
    }
    figure(
        "invented client ids",
        format_args!(
            "--max-records {MAX}: {accepted} accepted by five servers at once, {ids} more refused, {grown} KiB growth, known clients go on"
        ),
    );
}

/// Reports for `ids` new clients. Returns how many were accepted.
fn invent(address: std::net::SocketAddr, label: &str, ids: usize) -> usize {
    let mut client = Client::connect(address);
    let mut accepted = 0;
    for first in (0..ids).step_by(50) {
        let lines: Vec<_> = (first..(first + 50).min(ids))
            .map(|id| report(&format!("{label}-{id}"), "+1+1"))
            .collect();
        client.send(lines.join("\n") + "\n");
        for line in lines {
            let reply = client.line();
            if reply.starts_with("AT ") {
                accepted += 1;
            } else {
                assert_eq!(reply, format!("? {line}"));
            }
        }
    }
    accepted
}
