//! A server's report on its journal, and its treatment of it at a stop.

use std::fs;

use crate::support::process::{Directory, wait_until};
use crate::support::{Client, alone, report};

#[test]
fn a_journal_that_is_deleted_is_a_problem_that_can_be_seen_and_is_written_again() {
    let directory = Directory::new("seen");
    let data = directory.path().join("data");
    let server = alone(|config| config.data_dir = Some(data.clone()));
    assert_eq!(server.replica().journal_problem(), None);
    let mut client = Client::connect(server.client_address());
    let reply = client.ask(&report("kiwi", "+1+1"));
    assert!(reply.starts_with("AT "), "{reply}");
    let folder = data.join("Alford");
    fs::remove_file(folder.join("journal-1.log")).unwrap();
    wait_until("the problem is known", || {
        let problem = server.replica().journal_problem();
        problem.is_some_and(|problem| {
            problem.contains("journal-1.log was deleted or moved while the server ran")
        })
    });
    wait_until("a new journal", || folder.join("journal-2.log").exists());
    wait_until("the end of the problem", || {
        server.replica().journal_problem().is_none()
    });
    server.stop();
    let server = alone(|config| config.data_dir = Some(data.clone()));
    assert_eq!(server.replica().len(), 1);
    assert_eq!(server.replica().journal_problem(), None);
    server.stop();
}

/// A stop that comes before the next check checks too.
#[test]
fn a_journal_that_is_deleted_just_before_a_stop_is_written_again() {
    let directory = Directory::new("late");
    let data = directory.path().join("data");
    let server = alone(|config| config.data_dir = Some(data.clone()));
    let mut client = Client::connect(server.client_address());
    let reply = client.ask(&report("kiwi", "+1+1"));
    assert!(reply.starts_with("AT "), "{reply}");
    drop(client);
    fs::remove_dir_all(&data).unwrap();
    server.stop();
    let server = alone(|config| config.data_dir = Some(data.clone()));
    assert_eq!(server.replica().len(), 1);
    server.stop();
}
