//! Propagation in the ring of five, over real sockets.

use std::time::Instant;

use crate::support::{Client, RING, atlas, config, free_ring, report, ring};
use herd::server::{Server, Sockets};

fn clients(servers: &[Server]) -> Vec<Client> {
    servers
        .iter()
        .map(|server| Client::connect(server.client_address()))
        .collect()
}

#[test]
fn a_report_to_any_server_reaches_all_with_its_origin() {
    let servers = ring();
    let mut clients = clients(&servers);
    for origin in 0..servers.len() {
        let name = format!("client-of-{}", RING[origin].0);
        let reply = clients[origin].ask(&report(&name, "+1.5-2.5"));
        assert!(
            reply.starts_with(&format!("AT {} ", RING[origin].0)),
            "{reply}"
        );
        for client in &mut clients {
            client.await_whatsat(&name, &reply);
        }
    }
    servers.into_iter().for_each(Server::stop);
}

#[test]
fn equal_times_at_two_servers_have_one_winner_everywhere() {
    let servers = ring();
    let mut clients = clients(&servers);
    for round in 0..20 {
        let client = format!("tie-{round}");
        let (one, other) = (round % 5, (round + 2) % 5);
        let line = |location: &str| format!("IAMAT {client} {location} 1479413884.5\n");
        // Both are sent before either is answered.
        clients[one].send(line("+1+1"));
        clients[other].send(line("+2+2"));
        let replies = [clients[one].line(), clients[other].line()];
        let deadline = Instant::now() + crate::support::PATIENCE;
        loop {
            let shown: Vec<_> = clients
                .iter_mut()
                .map(|each| each.whatsat(&client))
                .collect();
            if shown.iter().all(|line| *line == shown[0]) && replies.contains(&shown[0]) {
                break;
            }
            assert!(Instant::now() < deadline, "no single winner: {shown:?}");
        }
    }
    servers.into_iter().for_each(Server::stop);
}

#[test]
fn a_server_that_starts_late_gets_all_records_that_it_missed() {
    let (text, sockets) = free_ring();
    let mut sockets: Vec<Option<Sockets>> = sockets.into_iter().map(Some).collect();
    let mut start = |index: usize| {
        let sockets: Sockets = sockets[index].take().unwrap();
        Server::start(&config(&text, RING[index].0), sockets, atlas()).unwrap()
    };
    let first: Vec<_> = [0, 4].into_iter().map(&mut start).collect();
    let mut early = Client::connect(first[0].client_address());
    let replies: Vec<_> = (0..3_000)
        .map(|number| early.ask(&report(&format!("early-{number}"), "+1+1")))
        .collect();
    let late: Vec<_> = [1, 2, 3].into_iter().map(&mut start).collect();
    for server in &late {
        let mut client = Client::connect(server.client_address());
        client.await_whatsat("early-2999", &replies[2_999]);
        for (number, reply) in replies.iter().enumerate() {
            client.await_whatsat(&format!("early-{number}"), reply);
        }
    }
    // Later reports arrive too, in both directions.
    let mut client = Client::connect(late[1].client_address());
    let reply = client.ask(&report("after", "+2+2"));
    early.await_whatsat("after", &reply);
    late.into_iter().chain(first).for_each(Server::stop);
}

#[test]
fn without_any_single_server_the_other_four_still_flood() {
    for gone in 0..RING.len() {
        let mut servers = ring();
        let mut all = clients(&servers);
        let reply = all[gone].ask(&report("before", "+1+1"));
        for client in &mut all {
            client.await_whatsat("before", &reply);
        }
        all.remove(gone);
        servers.remove(gone).stop();
        for origin in 0..servers.len() {
            let name = format!("without-{gone}-{origin}");
            let reply = all[origin].ask(&report(&name, "+3+3"));
            for client in &mut all {
                client.await_whatsat(&name, &reply);
            }
        }
        drop(all);
        servers.into_iter().for_each(Server::stop);
    }
}
