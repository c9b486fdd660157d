//! Storage that is full at the worst moments, read-only or poorer than usual, limits on files, and the
//! permissions of the files that the server makes.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::disk::{copy, fill, own_mounts};
use super::form::{figure, has_tool, skipped};
use super::journal::{assert_held, report_all};
use crate::support::fleet::Fleet;
use crate::support::process::{behind, herd, wait_until};
use crate::support::report;

/// A limit on the size of files is like a disk of that size.
#[test]
fn a_limit_on_the_size_of_files_refuses_reports_and_is_survived() {
    let mut fleet = Fleet::alone("fsize", &[]);
    // 300 KiB, in blocks of 512 bytes.
    let words = ["sh", "-c", "ulimit -f 600 && exec \"$0\" \"$@\""];
    let command = behind(&words, &fleet.command(0));
    fleet.start_as(0, command);
    let mut client = fleet.client(0);
    let mut held = HashMap::new();
    // Few clients: what is live stays below the limit, so the journal is compacted and goes on.
    let mut refused = 0;
    for number in 0..6_000 {
        let name = format!("few-{}", number % 50);
        let line = report(&name, "+1+1");
        let reply = client.ask(&line);
        if reply == format!("? {line}") {
            refused += 1;
        } else {
            assert!(reply.starts_with("AT "), "{reply}");
            held.insert(name, reply);
        }
    }
    wait_until("reports are accepted again", || {
        let reply = client.ask(&report("few-0", "+1+1"));
        let accepted = reply.starts_with("AT ");
        if accepted {
            held.insert("few-0".to_owned(), reply);
        }
        accepted
    });
    // Many clients: once the live records are more, new ones are refused, and questions answered.
    let mut number = 0;
    let mut row = 0;
    while row < 3_000 {
        let name = format!("many-{number}");
        let reply = client.ask(&report(&name, "+1+1"));
        match reply.starts_with("AT ") {
            true => drop((held.insert(name, reply), row = 0)),
            false => row += 1,
        }
        number += 1;
        assert!(number < 200_000, "never full");
    }
    assert_eq!(client.whatsat("many-0"), held["many-0"]);
    fleet.kill(0);
    fleet.start(0);
    assert_held(&fleet, &held, "a limit on the size of files");
    figure(
        "limit on the size of files",
        format_args!(
            "survived, {refused} of 6,000 reports refused, 0 of {} lost",
            held.len()
        ),
    );
}

/// Reports that wait in memory can't be written on a full disk: the stop says so, and new ones are
/// refused.
#[test]
fn with_ack_memory_a_full_disk_refuses_reports_and_a_stop_says_what_is_lost() {
    let Some(words) = own_mounts() else {
        return skipped(
            "full disk and memory",
            "no permission to mount a file system",
        );
    };
    for heals in [false, true] {
        let mut fleet = Fleet::alone("memory-full", &["--ack", "memory"]);
        let script = "mount -t tmpfs -o size=16m tmpfs \"$0\" && exec \"$@\"";
        let data = fleet.directory.0.join("data");
        fs::create_dir_all(&data).unwrap();
        let text = data.display().to_string();
        let words = [&words[..], &["sh", "-c", script, &text]].concat();
        let command = behind(&words, &fleet.command(0));
        fleet.start_as(0, command);
        let root = fleet.process(0).proc("root");
        let seen = |path: PathBuf| root.join(path.strip_prefix("/").unwrap());
        let filler = seen(data.join("filler"));
        let mut held = report_all(&fleet, "before", 100);
        std::thread::sleep(Duration::from_millis(300));
        fill(&filler);
        // The window of the journal takes some; what does not fit is in memory only.
        let mut client = fleet.client(0);
        let mut refused = String::new();
        let mut number = 0;
        wait_until("reports are refused", || {
            for _ in 0..10 {
                let name = format!("full-{number}");
                number += 1;
                let line = report(&name, "+2+2");
                let reply = client.ask(&line);
                if reply == format!("? {line}") {
                    refused = name;
                    return true;
                }
                held.insert(name, reply);
            }
            false
        });
        assert_eq!(client.whatsat(&refused), format!("? WHATSAT {refused} 0 0"));
        assert!(client.whatsat("full-0").starts_with("AT "));
        if heals {
            fs::remove_file(&filler).unwrap();
            wait_until("reports are accepted again", || {
                let reply = client.ask(&report("healed", "+3+3"));
                reply.starts_with("AT ") && held.insert("healed".to_owned(), reply).is_none()
            });
            // The compaction writes what was in memory only.
            fleet.await_logged(0, "the journal can be written again");
            std::thread::sleep(Duration::from_millis(1_500));
            fleet.signal(0, "STOP");
            let left = fleet.directory.0.join("left");
            copy(&seen(fleet.data(0)), &left);
            fleet.signal(0, "CONT");
            fleet.signal(0, "TERM");
            assert_eq!(fleet.wait(0), Some(0));
            fs::rename(left, fleet.data(0)).unwrap();
            fleet.start(0);
            assert_held(&fleet, &held, "a full disk with --ack memory");
            continue;
        }
        fleet.signal(0, "TERM");
        assert_eq!(fleet.wait(0), Some(1));
        let notices = fs::read_to_string(fleet.directory.0.join("notices")).unwrap();
        assert!(
            notices.contains(" acknowledged reports are lost"),
            "{notices}"
        );
    }
}

/// A server whose disk is full when it starts answers questions, has links, and refuses reports.
#[test]
fn a_disk_that_is_full_at_the_start_refuses_reports_until_there_is_space() {
    let Some(words) = own_mounts() else {
        return skipped(
            "full disk at the start",
            "no permission to mount a file system",
        );
    };
    for has_data in [false, true] {
        let mut fleet = Fleet::pair("full-start", &[]);
        let (ball, welsh) = (0, 1);
        fleet.start(welsh);
        let data = fleet.directory.0.join("data");
        let seed = fleet.directory.0.join("seed");
        fs::create_dir_all(&seed).unwrap();
        let mut held = HashMap::new();
        if has_data {
            fleet.start(ball);
            held = report_all(&fleet, "before", 20);
            for (name, reply) in &held {
                fleet.client(welsh).await_whatsat(name, reply);
            }
            fleet.signal(ball, "TERM");
            assert_eq!(fleet.wait(ball), Some(0));
            copy(&fleet.data(ball), &seed.join("Ball"));
            fs::remove_dir_all(fleet.data(ball)).unwrap();
        }
        let script = format!(
            "mount -t tmpfs -o size=1m tmpfs \"$0\" && cp -r {}/. \"$0\" && {{ cat /dev/zero >\"$0/filler\" 2>/dev/null; exec \"$@\"; }}",
            seed.display()
        );
        let text = data.display().to_string();
        let words = [&words[..], &["sh", "-c", &script, &text]].concat();
        let command = behind(&words, &fleet.command(ball));
        fleet.start_as(ball, command);
        assert_held(&fleet, &held, "a start on a full disk");
        let mut at_ball = fleet.client(ball);
        // The rest of the journal's last page takes a few.
        let (mut row, mut number) = (0, 0);
        while row < 20 {
            let name = format!("page-{number}");
            let reply = at_ball.ask(&report(&name, "+1+1"));
            match reply.starts_with("AT ") {
                true => drop((held.insert(name, reply), row = 0)),
                false => row += 1,
            }
            number += 1;
            assert!(number < 200, "never full");
        }
        let theirs = fleet.client(welsh).ask(&report("theirs", "+2+2"));
        at_ball.await_whatsat("theirs", &theirs);
        fleet.await_logged(ball, "the journal can't be written");
        let filler = fleet.process(ball).proc("root");
        let filler = filler.join(data.join("filler").strip_prefix("/").unwrap());
        fs::remove_file(filler).unwrap();
        let mut reply = String::new();
        wait_until("reports are accepted", || {
            reply = at_ball.ask(&report("kiwi", "+1+1"));
            reply.starts_with("AT Ball ")
        });
        fleet.client(welsh).await_whatsat("kiwi", &reply);
        fleet.await_logged(ball, "the journal can be written again");
    }
}

/// Waiting repairs neither: the start is refused, and says why.
#[test]
fn a_read_only_disk_is_refused_at_the_start() {
    let Some(words) = own_mounts() else {
        return skipped("read-only disk", "no permission to mount a file system");
    };
    let fleet = Fleet::alone("read-only", &[]);
    let data = fleet.directory.0.join("data");
    fs::create_dir_all(&data).unwrap();
    let text = data.display().to_string();
    let script = "mount -t tmpfs -o ro tmpfs \"$0\" && exec \"$@\"";
    let words = [&words[..], &["sh", "-c", script, &text]].concat();
    let output = behind(&words, &fleet.command(0)).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("Read-only file system"), "{said}");
}

/// Words that run a command under strace with faults injected.
fn traced<'a>(words: &[&'a str]) -> Vec<&'a str> {
    [&["strace", "-D", "-f", "-q", "-o", "/dev/null"], words].concat()
}

/// Without mapped memory, or without room for it, appends are writes.
#[test]
fn windows_that_cannot_be_populated_or_mapped_cost_speed_only() {
    if !has_tool("windows that cannot be populated", "strace") {
        return;
    }
    for inject in [
        "inject=madvise:error=EFAULT",
        "inject=madvise:error=ENOSYS",
        "inject=madvise:error=EHWPOISON",
        "inject=madvise:error=EINVAL",
    ] {
        let mut fleet = Fleet::alone("populate", &[]);
        let words = traced(&["-e", "trace=madvise", "-e", inject]);
        let command = behind(&words, &fleet.command(0));
        fleet.start_as(0, command);
        let held = report_all(&fleet, "kept", 3_000);
        fleet.signal(0, "TERM");
        assert_eq!(fleet.wait(0), Some(0), "{inject}");
        fleet.start(0);
        assert_held(&fleet, &held, inject);
    }
}

/// File systems that can't link, rename without replacing, or sync a folder.
#[test]
fn poorer_file_systems_will_do() {
    if !has_tool("poorer file systems", "strace") {
        return;
    }
    for (rename, link) in [("EINVAL", "EPERM"), ("ENOSYS", "EOPNOTSUPP")] {
        let mut fleet = Fleet::alone("poor", &[]);
        let folder = fleet.directory.0.display().to_string();
        let data = fleet.data(0).display().to_string();
        let parent = fleet.directory.0.join("data").display().to_string();
        let rename = format!("inject=renameat2:error={rename}");
        let link = format!("inject=link,linkat:error={link}");
        let new = traced(&["-e", &rename, "-e", &link]);
        let key = herd(&fleet.directory, &["key", "new"]);
        let made = behind(&new, &key).output().unwrap();
        let said = String::from_utf8_lossy(&made.stderr).into_owned();
        assert!(made.status.success(), "{said}");
        let again = behind(&new, &key).output().unwrap();
        assert_eq!(again.status.code(), Some(2));
        assert_eq!(
            fs::read_dir(&fleet.directory.0)
                .unwrap()
                .filter(|entry| {
                    let name = entry.as_ref().unwrap().file_name();
                    name.to_str().unwrap().starts_with("herd.key")
                })
                .count(),
            1
        );
        for error in ["EINVAL", "EOPNOTSUPP"] {
            let sync = format!("inject=fsync:error={error}");
            let words = traced(&[
                "-P",
                &folder,
                "-P",
                &parent,
                "-P",
                &data,
                "-e",
                "trace=fsync",
                "-e",
                &sync,
            ]);
            let command = behind(&words, &fleet.command(0));
            fleet.start_as(0, command);
            let held = report_all(&fleet, error, 10);
            fleet.signal(0, "TERM");
            assert_eq!(fleet.wait(0), Some(0), "{error}");
            fleet.start(0);
            assert_held(&fleet, &held, error);
            fleet.kill(0);
            fs::remove_dir_all(&parent).unwrap();
        }
    }
}

/// The names of new folders are brought to disk, each in the one above it.
#[test]
fn a_new_data_folder_is_on_disk_before_the_server_is_ready() {
    if !has_tool("new data folder", "strace") {
        return;
    }
    let mut fleet = Fleet::alone("synced", &["--data-dir", "new/data"]);
    let calls = fleet.directory.0.join("calls");
    let output = calls.display().to_string();
    let words = [
        "strace",
        "-D",
        "-f",
        "-q",
        "-y",
        "-e",
        "trace=fsync",
        "-o",
        &output,
    ];
    let command = behind(&words, &fleet.command(0));
    fleet.start_as(0, command);
    let calls = fs::read_to_string(calls).unwrap();
    for folder in ["", "/new", "/new/data", "/new/data/Alone"] {
        let synced = format!("{}{folder}>)", fleet.directory.0.display());
        assert!(calls.contains(&synced), "{synced}: {calls}");
    }
}

/// Positions are for the owner, or for its group if that is wanted.
#[test]
fn the_data_folder_is_for_its_owner_or_its_group_and_for_nobody_else() {
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    for (flags, folder_mode, file_mode) in [
        (&[][..], 0o700, 0o600),
        (&["--group-readable"][..], 0o750, 0o640),
    ] {
        let mut fleet = Fleet::alone("modes", flags);
        let words = ["sh", "-c", "umask 022; exec \"$0\" \"$@\""];
        let check = |fleet: &Fleet| {
            assert_eq!(mode(&fleet.data(0)), folder_mode);
            let entries: Vec<_> = fs::read_dir(fleet.data(0)).unwrap().collect();
            assert!(entries.len() >= 3, "{entries:?}");
            for entry in entries {
                let path = entry.unwrap().path();
                assert_eq!(mode(&path), file_mode, "{}", path.display());
            }
        };
        let command = behind(&words, &fleet.command(0));
        fleet.start_as(0, command);
        report_all(&fleet, "kiwi", 1);
        check(&fleet);
        assert_eq!(mode(fleet.data(0).parent().unwrap()), folder_mode);
        fleet.kill(0);
        // As an earlier version left them.
        fs::set_permissions(fleet.data(0), fs::Permissions::from_mode(0o755)).unwrap();
        for entry in fs::read_dir(fleet.data(0)).unwrap() {
            let path = entry.unwrap().path();
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        }
        let command = behind(&words, &fleet.command(0));
        fleet.start_as(0, command);
        check(&fleet);
    }
}
