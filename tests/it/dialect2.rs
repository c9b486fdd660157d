//! Errors of the second dialect that depend on how a server was started, and on its herd.

use std::time::Instant;

use crate::support::{Client, PATIENCE, alone, atlas, config, free_ring, report};
use herd::config::Config;
use herd::server::Server;

/// Connects with the second dialect.
fn connect(server: &Server) -> Client {
    let mut client = Client::connect(server.client_address());
    let hello = client.ask("HELLO 2");
    assert!(hello.starts_with("HELLO 2 "), "{hello}");
    client
}

#[track_caller]
fn check(client: &mut Client, line: &str, start: &str) {
    let reply = client.ask(line);
    assert!(reply.starts_with(start), "{line}: {reply}");
}

/// Repeats a line until its reply begins so.
#[track_caller]
fn await_reply(client: &mut Client, line: &str, start: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let reply = client.ask(line);
        if reply.starts_with(start) {
            return;
        }
        assert!(Instant::now() < deadline, "still {reply}");
        std::thread::yield_now();
    }
}

#[test]
fn a_server_that_is_full_says_so() {
    let server = alone(|config: &mut Config| config.max_records = 1);
    let mut client = connect(&server);
    check(&mut client, &report("a", "+1+1"), "AT ");
    let full = "ERR FULL this server knows 1 clients and takes no new ones";
    check(&mut client, &report("b", "+1+1"), full);
    check(&mut client, "FORGET b", full);
    check(&mut client, &report("a", "+2+2"), "AT ");
    check(&mut client, "FORGET a", "FORGOT Alford a ");
    server.stop();
}

/// A server that nobody sends what it lacks knows no client for sure, until somebody does.
#[test]
fn a_server_that_could_not_catch_up_says_so_until_it_has() {
    let (text, mut sockets) = free_ring();
    let addresses: Vec<_> = text
        .lines()
        .take(2)
        .map(|line| line.rsplitn(3, ' '))
        .collect();
    let [first, second]: [String; 2] = addresses
        .into_iter()
        .map(|mut line| line.nth(2).unwrap().to_owned())
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    let text = format!("{first} Ball\n{second} Alford\n");
    let ball = sockets.remove(1);
    let alford = Server::start(&config(&text, "Alford"), sockets.remove(0), atlas()).unwrap();
    let mut client = connect(&alford);
    for line in ["WHERE kiwi", "NEARBY kiwi 1 1", "WHATSAT kiwi 1 1"] {
        check(&mut client, line, "ERR STARTING kiwi is unknown here");
    }
    check(&mut client, &report("known", "+1+1"), "AT Alford ");
    check(&mut client, "WHERE known", "AT Alford ");
    let ball = Server::start(&config(&text, "Ball"), ball, atlas()).unwrap();
    await_reply(&mut client, "WHERE kiwi", "ERR UNKNOWN no client kiwi");
    for server in [alford, ball] {
        server.stop();
    }
}

#[test]
fn a_server_that_was_removed_from_its_herd_says_so() {
    let (text, mut sockets) = free_ring();
    let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap();
    let end = |line: &str| line.rsplitn(3, ' ').nth(2).unwrap().to_owned();
    let (alford, ball) = (end(line("Alford")), end(line("Ball")));
    let ball_sockets = sockets.remove(1);
    // Ball does not know Alford, which knows Ball.
    let theirs = config(&ball, "Ball");
    let ball_server = Server::start(&theirs, ball_sockets, atlas()).unwrap();
    let mine = config(&format!("{alford} Ball\n{ball} Alford\n"), "Alford");
    let server = Server::start(&mine, sockets.remove(0), atlas()).unwrap();
    let mut client = connect(&server);
    let removed = "ERR REMOVED this server is no longer part of the herd";
    await_reply(&mut client, &report("a", "+1+1"), removed);
    check(&mut client, "FORGET a", removed);
    for server in [server, ball_server] {
        server.stop();
    }
}

/// A limit on the size of files is like a disk of that size.
#[cfg(unix)]
#[test]
fn a_server_whose_journal_cannot_be_written_says_so() {
    use crate::support::fleet::Fleet;
    use crate::support::process::behind;

    let mut fleet = Fleet::alone("dialect2-unwritable", &[]);
    // 300 KiB, in blocks of 512 bytes.
    let words = ["sh", "-c", "ulimit -f 600 && exec \"$0\" \"$@\""];
    let command = behind(&words, &fleet.command(0));
    fleet.start_as(0, command);
    let mut client = fleet.client(0);
    assert!(client.ask("HELLO 2").starts_with("HELLO 2 "));
    let id = |number: usize| format!("{number:0>250}");
    let unwritable = "ERR UNWRITABLE the journal can't be written: nothing was stored";
    // Where one file is full, the server begins another, so it may take some lines.
    let mut first_refusal = |line: &dyn Fn(usize) -> String, taken: &str| {
        for number in 0..10_000 {
            let reply = client.ask(&line(number));
            if reply == unwritable {
                return client.ask(&format!("WHERE {}", id(0)));
            }
            assert!(reply.starts_with(taken), "{reply}");
        }
        panic!("never full");
    };
    let where_is = first_refusal(&|number| report(&id(number), "+1+1"), "AT ");
    assert!(where_is.starts_with("AT "), "{where_is}");
    first_refusal(&|number| format!("FORGET x{number:0>250}"), "FORGOT ");
}
