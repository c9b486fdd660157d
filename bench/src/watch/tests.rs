use super::*;

const SECOND: u64 = 1_000_000_000;

/// A watcher of two watches, over a connection that nobody uses.
fn watcher() -> Watcher {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("an address");
    Watcher {
        stream: TcpStream::connect(address).expect("a connection"),
        partial: Vec::new(),
        unsettled: 2,
        is_slow: false,
        last_read: Instant::now(),
    }
}

#[test]
fn ages_are_those_of_the_reports_however_the_lines_are_cut() {
    let input = b"WATCHING w0\nRESET w0\nINSIDE w0 AT A +0.1 a +1+1 1.000000000\nSETTLED w0 1\n\
                  MOVE w0 AT A +0.1 a +1+1 7.500000000\nLEAVE w0 AT A +0.1 a +9+9 8.000000000\nSETTLED w1 0\n";
    for cut in 0..=input.len() {
        let mut pushes = Pushes::new(1).expect("a histogram");
        let mut watcher = watcher();
        for part in [&input[..cut], &input[cut..]] {
            watcher
                .lines(part, 10 * SECOND, &mut pushes)
                .expect("lines");
        }
        assert_eq!((watcher.unsettled, pushes.count, pushes.resets), (0, 2, 1));
        let ages = [pushes.ages.min(), pushes.ages.max()].map(|age| (age as f64 / 1e8).round());
        assert_eq!(ages, [20.0, 25.0]);
    }
}

#[test]
fn wrong_lines_are_found() {
    for wrong in [
        "ERR BUSY x\n",
        "\n",
        "? WATCH\n",
        "MOVE w0 AT A +0.1 a +1+1 7.5\n",
    ] {
        let mut pushes = Pushes::new(1).expect("a histogram");
        let found = watcher().lines(wrong.as_bytes(), SECOND, &mut pushes);
        assert!(found.is_err(), "{wrong}");
    }
}

#[test]
fn only_possible_watches_are_begun() {
    for (options, is_possible) in [
        ("", true),
        ("--watches 10 --connections 11", false),
        ("--watches 65 --connections 1", false),
        ("--radius 20017", false),
        ("--each 0", false),
    ] {
        let options = format!("--address 127.0.0.1:1 {options}");
        let watch: Watch = crate::parse("watch", &options).expect("options");
        assert_eq!(watch.check().is_ok(), is_possible, "{options}");
    }
    assert_eq!(watch_line(0, 5.0).split(' ').count(), 4);
}
