//! Tests of the reader of `servers.txt`: its faults, its warnings, and what it takes.

use super::*;

#[track_caller]
fn check(text: &str, expected: &[&str]) {
    check_bytes(text.as_bytes(), expected);
}

#[track_caller]
fn check_bytes(text: &[u8], expected: &[&str]) {
    let got = match Topology::parse(text) {
        Ok(_) => Vec::new(),
        Err(faults) => faults
            .iter()
            .map(|fault| format!("{}: {}", fault.line, fault.message))
            .collect(),
    };
    assert_eq!(got, expected, "{}", String::from_utf8_lossy(text));
}

#[test]
fn reads_servers_comments_and_every_kind_of_address() {
    let text = "# herd\n\nA host.example:1 [::1]:2 B # first\r\n\tB 127.0.0.1:3   127.0.0.1:4 A";
    let topology = Topology::parse(text.as_bytes()).expect("a good file");
    let a = topology.server("A").expect("A");
    assert_eq!(a.client.to_string(), "host.example:1");
    assert_eq!(a.peer.to_string(), "[::1]:2");
    assert_eq!(a.neighbors, ["B"]);
    assert_eq!(topology.server("B").map(|b| b.line), Some(4));
    assert!(topology.server("a").is_none());
    assert!(topology.warnings().is_empty());
    check("Alone h:1 h:2", &[]);
}

#[test]
fn a_herd_on_one_machine_has_loopback_addresses_only() {
    let is_on_one_machine = |text: &str| {
        let topology = Topology::parse(text.as_bytes()).expect("a good file");
        topology.is_on_one_machine()
    };
    assert!(is_on_one_machine(
        "A 127.0.0.1:1 127.9.9.9:1\nB [::1]:1 LocalHost:1"
    ));
    for other in [
        "10.0.0.1",
        "0.0.0.0",
        "host.example",
        "[::]",
        "[2001:db8::1]",
    ] {
        assert!(
            !is_on_one_machine(&format!("A 127.0.0.1:1 {other}:2")),
            "{other}"
        );
        assert!(
            !is_on_one_machine(&format!("A {other}:1 127.0.0.1:2")),
            "{other}"
        );
    }
}

#[test]
fn every_fault_has_its_line_and_reason() {
    check("# empty\n", &["0: names no server"]);
    check(
        "A h:1\nB\nC h h:2\nD h:0 h:3\nE h:4 h:65536\nF :1 h:5\nG ::1:5 h:6\nH [x]:1 h:7\nI [::1] h:1",
        &[
            "1: A has no peer address; a line is NAME CLIENT_ADDRESS PEER_ADDRESS NEIGHBOR...",
            "2: B has no client address; a line is NAME CLIENT_ADDRESS PEER_ADDRESS NEIGHBOR...",
            "3: C's client address \"h\" is not an address: HOST:PORT is needed",
            "4: D's client address \"h:0\" is not an address: the port must be a number from 1 to 65535",
            "5: E's peer address \"h:65536\" is not an address: the port must be a number from 1 to 65535",
            "6: F's client address \":1\" is not an address: the host is missing",
            "7: G's client address \"::1:5\" is not an address: only an IPv6 address goes in brackets, as [ADDRESS]:PORT",
            "8: H's client address \"[x]:1\" is not an address: only an IPv6 address goes in brackets, as [ADDRESS]:PORT",
            "9: I's client address \"[::1]\" is not an address: an IPv6 address is written [ADDRESS]:PORT",
            "9: the address h:1 is taken by line 1",
        ],
    );
    check(
        "A h:1 h:2 A\nB h:3 h:4 A A\n../C h:5 h:6\n",
        &[
            "1: A is named as its own neighbor",
            "2: B names the neighbor A twice",
            "2: B names A as a neighbor, but A (line 1) does not name B",
            "3: the name \"../C\" is not made of letters, digits, '-', '_' and '.', beginning with a letter or a digit",
        ],
    );
    check(
        "A h:1 h:2 B C X\nB h:3 h:1\nC h:5 h:5 A\nA h:6 h:7\n",
        &[
            "1: A names B as a neighbor, but B (line 2) does not name A",
            "1: A's neighbor X is not a server of this file",
            "2: the address h:1 is taken by line 1",
            "3: C has one address, h:5, for clients and peers",
            "4: the name A is taken by line 1",
        ],
    );
}

#[test]
fn all_faults_of_a_line_are_reported_and_lines_beside_it_are_compared() {
    check(
        "Ä h:0 *:99999 B\nB h:1 h:1 B Ä b\nC h:3\nD h:5 h:6 C E\nE h:7 H.:1\n",
        &[
            "1: column 1: U+00C4 (Ä) is not allowed; only ASCII characters are",
            "1: Ä's client address \"h:0\" is not an address: the port must be a number from 1 to 65535",
            "1: Ä's peer address \"*:99999\" is not an address: * is no host; write the address that others dial here, and start the server with --bind 0.0.0.0; the port must be a number from 1 to 65535",
            "2: column 13: U+00C4 (Ä) is not allowed; only ASCII characters are",
            "2: B is named as its own neighbor",
            "2: B has one address, h:1, for clients and peers",
            "2: B's neighbor b is not a server of this file (B, line 2, is another name)",
            "3: C has no peer address; a line is NAME CLIENT_ADDRESS PEER_ADDRESS NEIGHBOR...",
            "4: D names E as a neighbor, but E (line 5) does not name D",
            "5: the address H.:1 is taken by line 2",
        ],
    );
}

#[test]
fn a_character_that_only_looks_like_white_space_is_named_with_its_column() {
    check(
        "A h:1\u{a0}h:2\u{a0} B C\nB\u{3000}h:3 h:4 \u{200b}A # \u{a0}\u{201c}free\u{201d}\nC\u{feff} h:5 h:6\u{7} A\n",
        &[
            "1: column 6: U+00A0 (no-break space) is not white space here; use spaces or tabs (2 in this line)",
            "2: column 2: U+3000 (ideographic space) is not white space here; use spaces or tabs",
            "2: column 11: U+200B (zero width space), which can't be seen, is not allowed",
            "3: column 2: U+FEFF (byte order mark), which can't be seen, is not allowed",
            "3: column 11: U+0007 (a control character) is not allowed",
        ],
    );
    for (space, name) in [
        ('\u{85}', "U+0085 (next line)"),
        ('\u{1680}', "U+1680 (ogham space mark)"),
        ('\u{2009}', "U+2009 (a space of fixed width)"),
        ('\u{2028}', "U+2028 (line separator)"),
        ('\u{2029}', "U+2029 (paragraph separator)"),
        ('\u{202f}', "U+202F (narrow no-break space)"),
        ('\u{205f}', "U+205F (medium mathematical space)"),
    ] {
        check(
            &format!("A h:1{space}h:2"),
            &[&format!(
                "1: column 6: {name} is not white space here; use spaces or tabs"
            )],
        );
    }
    check("A\th:1\x0bh:2\x0c\r\nB h:3 h:4\r\r\n", &[]);
    check_bytes(
        b"A h:1 h:2 \xe9\xe9 # \xff\n",
        &[
            "1: column 11: the byte 0xE9 is not UTF-8 text (2 in this line)",
            "1: A's neighbor \u{fffd}\u{fffd} is not a server of this file",
        ],
    );
}

#[test]
fn another_encoding_is_named_as_what_it_is() {
    let text = "A h:1 h:2 B\nB h:3 h:4\n";
    let little = |mark: &str| -> Vec<u8> {
        let units = mark.encode_utf16().chain(text.encode_utf16());
        units.flat_map(u16::to_le_bytes).collect()
    };
    let big = |mark: &str| -> Vec<u8> {
        let units = mark.encode_utf16().chain(text.encode_utf16());
        units.flat_map(u16::to_be_bytes).collect()
    };
    let wide: Vec<u8> = "\u{feff}A"
        .chars()
        .flat_map(|c| u32::from(c).to_le_bytes())
        .collect();
    for (bytes, name) in [
        (little("\u{feff}"), "UTF-16"),
        (big("\u{feff}"), "UTF-16"),
        (little(""), "UTF-16LE"),
        (big(""), "UTF-16BE"),
        (wide, "UTF-32"),
    ] {
        check_bytes(
            &bytes,
            &[&format!(
                "0: is {name} text; save it as UTF-8, for example by: iconv -f {name} -t UTF-8 FILE >NEW_FILE"
            )],
        );
    }
    check("A h:1 h:2\n\0", &["0: is not a text file: byte 11 is zero"]);
    check(
        &format!("\u{feff}{text}"),
        &[
            "1: the file begins with a byte order mark (U+FEFF), which an editor put there; save it as UTF-8 without one",
            "1: A names B as a neighbor, but B (line 2) does not name A",
        ],
    );
    check(
        &text.replace('\n', "\r"),
        &[
            "0: its lines end in CR (U+000D) alone; they must end in LF or CR LF, for example by: tr '\\r' '\\n' <FILE >NEW_FILE",
            "1: A names B as a neighbor, but B (line 2) does not name A",
        ],
    );
    check(
        "A h:1 h:2 # first\rB h:3 h:4\nC h:5 h:6\n",
        &["1: column 18: CR (U+000D) inside a line; a line ends in LF or CR LF"],
    );
}

#[test]
fn a_host_that_is_no_host_has_its_reason() {
    let number = "an IPv4 address is four numbers from 0 to 255 without leading zeros, and the name of a host does not end in a number";
    let multicast = "no server can listen on a multicast or broadcast address";
    for (host, reason) in [
        ("999.1.1.1", number),
        ("1.2.3", number),
        ("010.0.0.1", number),
        ("0x7f.1", number),
        ("host.0x1F", number),
        ("224.0.0.1", multicast),
        ("255.255.255.255", multicast),
        ("[ff02::1]", "no server can listen on a multicast address"),
        (
            "[fe80::1%eth0]",
            "an IPv6 address with a zone (%) is not supported",
        ),
        ("a..b", "a part of the host name is empty"),
        ("http//a", "a host name can't contain '/'"),
        (
            &"a".repeat(64),
            "a host name has at most 253 bytes, 63 between two dots",
        ),
    ] {
        check(
            &format!("A {host}:1 b:2"),
            &[&format!(
                "1: A's client address \"{host}:1\" is not an address: {reason}"
            )],
        );
    }
    check(
        "A h:+1 h:2",
        &[
            "1: A's client address \"h:+1\" is not an address: the port must be a number from 1 to 65535",
        ],
    );
    check(
        "A [::1]:1 [0:0::1]:1\nB LOCALHOST:1 localhost.:1",
        &[
            "1: A has one address, [::1]:1, for clients and peers",
            "2: B has one address, localhost.:1, for clients and peers",
        ],
    );
    check("A my_host-1.example.:1 xn--bcher-kva.example:2", &[]);
}

#[track_caller]
fn warns(text: &str, expected: &[&str]) {
    let topology = Topology::parse(text.as_bytes()).expect("a good file");
    let got: Vec<_> = topology
        .warnings()
        .iter()
        .map(|w| format!("{}: {}: {}", w.line, w.kind, w.message))
        .collect();
    assert_eq!(got, expected, "{text}");
}

/// A file with these links between servers of one letter.
fn linked(names: &str, links: &[&str]) -> String {
    let line = |(index, name): (usize, char)| {
        let neighbors = links.iter().filter(|link| link.contains(name));
        let neighbors = neighbors.map(|link| format!(" {}", link.replace(name, "")));
        let neighbors: String = neighbors.collect();
        format!(
            "{name} 127.0.0.1:{} [::1]:{}{neighbors}\n",
            index + 1,
            index + 1
        )
    };
    names.chars().enumerate().map(line).collect()
}

#[test]
fn servers_without_which_others_are_cut_off_are_found() {
    warns(
        &linked("ABCD", &["AB", "CD"]),
        &["0: partition: servers unreachable from A: C, D (the topology is partitioned)"],
    );
    warns(
        &linked("ABC", &["AB", "BC"]),
        &[
            "2: single-point: if B is down, A and C can't reach each other (a single point of failure)",
        ],
    );
    warns(
        &linked("ABCD", &["AB", "AC", "AD"]),
        &[
            "1: single-point: if A is down, B, C and D can't reach each other (a single point of failure)",
        ],
    );
    // Two rings that share a server, and one that hangs on a ring.
    warns(
        &linked("ABCDEF", &["AB", "BC", "CA", "CD", "DE", "EC", "EF"]),
        &[
            "3: single-point: if C is down, A and B can't reach D, E and F (a single point of failure)",
            "5: single-point: if E is down, A, B, C and D can't reach F (a single point of failure)",
        ],
    );
    warns(
        &linked("ABCDEF", &["AB", "BC", "CA", "CD", "CE", "EF"]),
        &[
            "3: single-point: if C is down, there are 3 parts that can't reach each other: A and B; D; E and F (a single point of failure)",
            "5: single-point: if E is down, A, B, C and D can't reach F (a single point of failure)",
        ],
    );
    warns(&linked("A", &[]), &[]);
    warns(&linked("AB", &["AB"]), &[]);
    warns(&linked("ABCDE", &["AB", "BC", "CD", "DE", "EA"]), &[]);
    let star: Vec<String> = "BCDEFGHIJKL"
        .chars()
        .map(|leaf| format!("A{leaf}"))
        .collect();
    let star: Vec<&str> = star.iter().map(String::as_str).collect();
    warns(
        &linked("ABCDEFGHIJKL", &star),
        &[
            "1: single-point: if A is down, B, C, D, E, F, G, H, I and 3 more can't reach each other (a single point of failure)",
        ],
    );
}

#[test]
fn addresses_that_others_can_not_dial_are_found() {
    let text =
        "A 10.0.0.1:1 0.0.0.0:2 B C\nB 10.0.0.2:1 10.0.0.2:2 A C\nC [::]:3 127.0.0.1:4 A B\n";
    warns(
        text,
        &[
            "1: wildcard: A's peer address 0.0.0.0:2 means all addresses of a machine, and neighbors elsewhere can't dial it; write the one that they dial, and start A with --bind 0.0.0.0",
            "3: wildcard: C's client address [::]:3 means all addresses of a machine, and clients elsewhere can't dial it; write the one that they dial, and start C with --bind ::",
            "3: loopback: C's peer address 127.0.0.1:4 can be dialed on its own machine only, and its neighbors on others (B) have addresses of a network",
        ],
    );
    // A server logs what concerns its own links.
    let topology = Topology::parse(text.as_bytes()).expect("a good file");
    let lines = |name: &str| -> Vec<usize> {
        let warnings = topology.warnings_for(name);
        warnings.iter().map(|warning| warning.line).collect()
    };
    assert_eq!(lines("A"), [1, 3, 3]);
    assert_eq!(lines("C"), [1, 3, 3]);
    let chain = Topology::parse(linked("ABC", &["AB", "BC"]).as_bytes()).expect("a good file");
    assert!(chain.warnings_for("B").is_empty());
    warns(
        "A 127.0.0.1:1 127.0.0.1:2 B\nB localhost:1 [::1]:2 A\n",
        &[],
    );
}

#[test]
fn a_file_that_is_no_list_of_servers_is_not_quoted_at_length() {
    let error = TopologyError::Faults(
        PathBuf::from("servers.txt"),
        Topology::parse("x\n".repeat(1000).as_bytes()).expect_err("faults"),
    );
    let shown = error.to_string();
    assert_eq!(shown.lines().count(), MAX_SHOWN + 1);
    assert!(
        shown.ends_with("\nservers.txt: and 1899 more faults"),
        "{shown}"
    );
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("servers.txt");
    std::fs::write(&path, vec![b'#'; MAX_FILE_BYTES + 1]).expect("written");
    let error = Topology::load(&path).expect_err("too long").to_string();
    assert!(
        error.ends_with("it is longer than 1048576 bytes, and so no list of servers"),
        "{error}"
    );
    std::fs::write(&path, "A h:1 h:2\n").expect("written");
    Topology::load(&path).expect("a good file");
}

#[test]
fn the_age_at_which_records_are_forgotten_is_read_once() {
    let age = |text: &str| {
        let topology = Topology::parse(text.as_bytes()).expect("a good file");
        topology.forget_after().map(|age| age.as_secs())
    };
    assert_eq!(age("A h:1 h:2"), None);
    assert_eq!(
        age("A h:1 h:2\n\tforget-after 30d # a month\r\n"),
        Some(2_592_000)
    );
    assert_eq!(age("forget-after 90m\nA h:1 h:2"), Some(5_400));
    // A server may still have a name that is close.
    assert_eq!(age("forget_after h:1 h:2"), None);
    check(
        "A h:1 h:2\nforget-after 1d\nforget-after 2d",
        &["3: forget-after is set by line 2 already"],
    );
    check("forget-after 1d", &["0: names no server"]);
}

#[test]
fn near_misses_of_the_age_are_told_the_right_line() {
    let cases = [
        (
            "forget-after",
            "forget-after has no age; a line is forget-after AGE, such as forget-after 30d",
        ),
        (
            "forget-after 0d",
            "forget-after: \"0d\" would forget every report at once; leave the line out to forget nothing",
        ),
        (
            "forget-after 1 d",
            "forget-after: the age is written without a space: forget-after 1d",
        ),
        (
            "forget-after 30 days",
            "forget-after: \"30days\" is not an age, which is digits and s, m, h or d without a space: 30d",
        ),
        (
            "forget-after 30days",
            "forget-after: \"30days\" is not an age, which is digits and s, m, h or d without a space: 30d",
        ),
        (
            "forget-after 1d 12h x",
            "forget-after has more than an age; a line is forget-after AGE, such as forget-after 30d",
        ),
        (
            "forget-after h:1 h:2 A",
            "forget-after has more than an age; a line is forget-after AGE, such as forget-after 30d",
        ),
        (
            "forget-after never",
            "forget-after: \"never\" is not an age, which is digits and s, m, h or d without a space; leave the line out to forget nothing",
        ),
        (
            "forget_after 30d",
            "\"forget_after\" is not a setting; the line is: forget-after 30d",
        ),
        (
            "Forget-After 30d",
            "\"Forget-After\" is not a setting; the line is: forget-after 30d",
        ),
        (
            "forget-after: 30d",
            "\"forget-after:\" is not a setting; the line is: forget-after 30d",
        ),
        (
            "forget-after=30d",
            "\"forget-after=30d\" is not a setting; the line is: forget-after 30d",
        ),
        (
            "forget-after = 30d",
            "forget-after: \"=30d\" is not an age, which is digits and s, m, h or d without a space, such as 30d",
        ),
        (
            "forget after 30 d",
            "\"forget\" is not a setting; the line is: forget-after 30d",
        ),
        (
            "forgetafter",
            "\"forgetafter\" is not a setting; the line is: forget-after AGE, such as 30d",
        ),
    ];
    for (line, expected) in cases {
        check(&format!("A h:1 h:2\n{line}"), &[&format!("2: {expected}")]);
    }
}

#[test]
fn an_age_under_an_hour_is_warned_of() {
    let warnings = |text: &str| {
        let topology = Topology::parse(text.as_bytes()).expect("a good file");
        let warnings = topology.warnings().into_iter();
        let shown = warnings.map(|one| format!("{}: {}: {}", one.line, one.kind, one.message));
        shown.collect::<Vec<_>>()
    };
    assert!(warnings("A h:1 h:2\nforget-after 1h").is_empty());
    assert_eq!(
        warnings("A h:1 h:2\nforget-after 59m"),
        [
            "2: forget-after: records are forgotten after 59 minutes: a device that is silent for so long is not known any more, and clocks of servers may differ by a minute"
        ]
    );
}
