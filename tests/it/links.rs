//! Links against strangers, forged and recorded streams, and silent peers, over real sockets.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::{
    Client, KEYS, PATIENCE, RING, alone, atlas, config, free_ring, report, send_and_read,
};
use herd::config::keys::KeyFile;
use herd::config::topology::Topology;
use herd::link::handshake::{self, Hello, Peer};
use herd::listener::Bound;
use herd::model::record::RecordView;
use herd::model::time::Timestamp;
use herd::server::{Server, Sockets};
use parking_lot::Mutex;

/// Bytes of each of the two handshake messages that prove the key, with their length prefix.
const MESSAGE_BYTES: usize = 50;

/// Connections from a neighbor's address that may wait at a time to prove themselves.
const HANDSHAKE_SLOTS: usize = 64;

/// Value of [`Proxy::flip`] at which no byte is changed.
const NONE: usize = usize::MAX;

/// A proxy between a dialer and the server that it dials. Records the dialer's bytes, and can change
/// them.
struct Proxy {
    address: SocketAddr,
    /// The dialer's bytes, by connection.
    recorded: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Index of the byte in the next part read in which a bit is changed, once.
    flip: Arc<AtomicUsize>,
}

impl Proxy {
    fn start(to: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy {
            address: listener.local_addr().unwrap(),
            recorded: Arc::default(),
            flip: Arc::new(AtomicUsize::new(NONE)),
        };
        let (recorded, flip) = (Arc::clone(&proxy.recorded), Arc::clone(&proxy.flip));
        std::thread::spawn(move || {
            for dialer in listener.incoming() {
                let (dialer, other) = (dialer.unwrap(), TcpStream::connect(to).unwrap());
                let connection = recorded.lock().len();
                recorded.lock().push(Vec::new());
                let (recorded, flip) = (Arc::clone(&recorded), Arc::clone(&flip));
                pass(&dialer, &other, move |part| {
                    recorded.lock()[connection].extend_from_slice(part);
                    let at = flip.load(Ordering::Relaxed);
                    if at < part.len() {
                        part[at] ^= 1;
                        flip.store(NONE, Ordering::Relaxed);
                    }
                });
                pass(&other, &dialer, |_| {});
            }
        });
        proxy
    }

    fn connections(&self) -> usize {
        self.recorded.lock().len()
    }
}

/// Copies from one socket to another until either ends.
fn pass(from: &TcpStream, to: &TcpStream, mut inspect: impl FnMut(&mut [u8]) + Send + 'static) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    std::thread::spawn(move || {
        let mut part = [0; 65_536];
        while let Ok(bytes @ 1..) = from.read(&mut part) {
            inspect(&mut part[..bytes]);
            if to.write_all(&part[..bytes]).is_err() {
                break;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    });
}

/// Two neighbors. Ball dials Welsh through a proxy.
struct Pair {
    ball: Server,
    welsh: Server,
    proxy: Proxy,
}

impl Pair {
    fn start() -> Pair {
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        let [ball, welsh] = [0, 1].map(|_| Sockets {
            clients: bind().into(),
            peers: bind().into(),
        });
        let address = |listener: &Bound| listener.local_addr().unwrap();
        let proxy = Proxy::start(address(&welsh.peers));
        let text = |welsh_peers: SocketAddr| {
            format!(
                "Ball {} {} Welsh\nWelsh {} {welsh_peers} Ball\n",
                address(&ball.clients),
                address(&ball.peers),
                address(&welsh.clients),
            )
        };
        let (as_ball_sees, as_is) = (text(proxy.address), text(address(&welsh.peers)));
        let welsh = Server::start(&config(&as_is, "Welsh"), welsh, atlas()).unwrap();
        let ball = Server::start(&config(&as_ball_sees, "Ball"), ball, atlas()).unwrap();
        let pair = Pair { ball, welsh, proxy };
        pair.flood("link-is-up");
        pair
    }

    /// Reports at Ball, and waits until Welsh answers with that record.
    #[track_caller]
    fn flood(&self, client: &str) {
        let reply = Client::connect(self.ball.client_address()).ask(&report(client, "+1+1"));
        assert!(reply.starts_with("AT Ball "), "{reply}");
        Client::connect(self.welsh.client_address()).await_whatsat(client, &reply);
    }

    fn stop(self) {
        self.ball.stop();
        self.welsh.stop();
    }
}

#[track_caller]
fn await_refused(server: &Server, count: u64) {
    let deadline = Instant::now() + PATIENCE;
    while server.peers_refused() < count {
        assert!(
            Instant::now() < deadline,
            "{} of {count}",
            server.peers_refused()
        );
        std::thread::yield_now();
    }
}

#[test]
fn a_recorded_stream_is_refused_and_cuts_no_link() {
    let pair = Pair::start();
    pair.flood("before");
    let connections = pair.proxy.connections();
    let recorded = pair.proxy.recorded.lock().last().unwrap().clone();
    let peers = pair.welsh.peer_address();
    let refused = pair.welsh.peers_refused();

    // The whole stream, to the side that received it and to the other.
    assert_eq!(send_and_read(peers, &recorded).len(), MESSAGE_BYTES);
    await_refused(&pair.welsh, refused + 1);
    assert!(send_and_read(pair.ball.peer_address(), &recorded).len() <= MESSAGE_BYTES);
    // Parts of it, without its beginning.
    for from in [MESSAGE_BYTES, MESSAGE_BYTES + 7, 1] {
        assert_eq!(send_and_read(peers, &recorded[from..]), b"");
    }
    await_refused(&pair.welsh, refused + 4);

    // Only the first message, which is answered. While that connection waits, the real link is in use.
    let mut half = TcpStream::connect(peers).unwrap();
    half.write_all(&recorded[..MESSAGE_BYTES]).unwrap();
    half.read_exact(&mut [0; MESSAGE_BYTES]).unwrap();
    pair.flood("during");
    await_refused(&pair.welsh, refused + 5);
    pair.flood("after");
    assert_eq!(pair.proxy.connections(), connections, "the link was cut");
    assert_eq!(pair.welsh.replica().len(), 4);
    pair.stop();
}

#[test]
fn altered_frames_are_refused_and_the_link_recovers() {
    let pair = Pair::start();
    // A byte of the length, of the ciphertext, of the tag.
    for (round, at) in [1, 2, 9, 17].into_iter().enumerate() {
        let (connections, refused) = (pair.proxy.connections(), pair.welsh.peers_refused());
        pair.proxy.flip.store(at, Ordering::Relaxed);
        pair.flood(&format!("altered-{at}"));
        await_refused(&pair.welsh, refused + 1);
        // The altered frame may have been a marker after the record.
        pair.flood(&format!("healed-{at}"));
        assert!(pair.proxy.connections() > connections, "byte {at}");
        assert_eq!(pair.welsh.replica().len(), 1 + 2 * (round + 1));
    }
    pair.stop();
}

/// Resident memory of this process, in KiB.
fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.unwrap().split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}

#[test]
fn strangers_without_the_key_get_no_answer_and_store_nothing() {
    let server = alone(|_| {});
    let peers = server.peer_address();
    let now = Timestamp::now().as_nanos();
    let plain = format!(
        "HELLO 1 1 Welsh 7 {now}\nRECORD Welsh 7 1 {now} kiwi +1+1 1479413884\nMARKER 0 Welsh 7 1\n"
    );
    let largest = vec![0xff; 70_000];
    let strangers = [
        plain.as_bytes(),
        b"GET / HTTP/1.0\r\n\r\n",
        b"\xff\xff",
        &largest,
    ];
    for stranger in strangers {
        assert_eq!(send_and_read(peers, stranger), b"");
    }
    await_refused(&server, strangers.len() as u64);

    let before = resident_kib();
    for _ in 0..500 {
        assert_eq!(send_and_read(peers, &largest), b"");
    }
    await_refused(&server, strangers.len() as u64 + 500);
    // Other tests of this program run at the same time and use memory too.
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB for 500 strangers");
    assert_eq!(server.replica().len(), 0);
    server.stop();
}

/// Dials a server under a name. Returns the name in the answer, or the error.
fn dial(address: SocketAddr, keys: &KeyFile, name: &str, to: &str) -> String {
    let stream = TcpStream::connect(address).unwrap();
    let own = Hello::new(keys.herd(), name, 7, Timestamp::now());
    let deadline = Instant::now() + PATIENCE;
    match handshake::dial(&stream, keys, &own, to, deadline) {
        Ok(peer) => format!("ok {}", peer.hello.name),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_wrong_key_is_refused_and_a_right_key_gets_the_reason() {
    let server = alone(|_| {});
    let foreign = KeyFile::generate().unwrap();
    let peers = server.peer_address();
    assert_eq!(
        dial(peers, &foreign, "Welsh", "Alford"),
        "it closed during the handshake: it probably has another key, or no handshake slot free"
    );
    assert_eq!(
        dial(peers, &KEYS, "Welsh", "Alford"),
        "refused: servers.txt here names no neighbor Welsh"
    );
    await_refused(&server, 2);
    server.stop();
}

/// A server with one neighbor, Welsh, which the test plays.
struct FakeNeighbor {
    ball: Server,
    welsh: TcpListener,
}

/// Receive buffer of the fake neighbor; anything beyond waits at the server.
const RECEIVE_BUFFER_BYTES: usize = 16 << 10;

impl FakeNeighbor {
    fn start() -> FakeNeighbor {
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        let [clients, peers, welsh] = [0, 1, 2].map(|_| bind());
        let socket = socket2::SockRef::from(&welsh);
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES).unwrap();
        let text = format!(
            "Ball {} {} Welsh\nWelsh 127.0.0.1:1 {} Ball\n",
            clients.local_addr().unwrap(),
            peers.local_addr().unwrap(),
            welsh.local_addr().unwrap(),
        );
        let [clients, peers] = [clients, peers].map(Bound::from);
        let sockets = Sockets { clients, peers };
        let ball = Server::start(&config(&text, "Ball"), sockets, atlas()).unwrap();
        FakeNeighbor { ball, welsh }
    }

    /// Answers Ball's handshake as Welsh, and sends an empty version vector.
    fn answer(stream: &TcpStream) -> Peer {
        let own = || Hello::new(KEYS.herd(), "Welsh", 7, Timestamp::now());
        let deadline = Instant::now() + PATIENCE;
        let mut peer = handshake::accept(stream, &KEYS, own, |_| true, deadline).unwrap();
        peer.writer.write(stream, b"VECTOR 0\n").unwrap();
        peer
    }
}

/// Waits until the other side has reset a connection. Returns the time since `since`.
#[track_caller]
fn await_reset(mut stream: &TcpStream, since: Instant) -> Duration {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut part = [0; 4_096];
    while stream.read(&mut part).is_ok_and(|bytes| bytes > 0) {}
    let after = since.elapsed();
    // A reset can first show as a plain end of the stream.
    let deadline = Instant::now() + Duration::from_secs(1);
    while Instant::now() < deadline {
        if stream.take_error().unwrap().is_some() || stream.peer_addr().is_err() {
            return after;
        }
        std::thread::yield_now();
    }
    panic!("closed in order, not reset");
}

/// Where packets are lost one way only, an orderly close would wait for ever behind unacknowledged
/// bytes, and the other side would take longer than the liveness limit to notice by itself.
#[test]
fn a_silent_peer_is_reset_by_either_end() {
    let fake = FakeNeighbor::start();
    let dialed = std::thread::spawn({
        let address = fake.ball.peer_address();
        move || {
            let stream = TcpStream::connect(address).unwrap();
            let own = Hello::new(KEYS.herd(), "Welsh", 7, Timestamp::now());
            let deadline = Instant::now() + PATIENCE;
            let _peer = handshake::dial(&stream, &KEYS, &own, "Ball", deadline).unwrap();
            await_reset(&stream, Instant::now())
        }
    });
    let (stream, _) = fake.welsh.accept().unwrap();
    let _peer = FakeNeighbor::answer(&stream);
    let accepted = await_reset(&stream, Instant::now());
    for after in [dialed.join().unwrap(), accepted] {
        let expected = Duration::from_millis(3_800)..Duration::from_secs(5);
        assert!(expected.contains(&after), "{after:?}");
    }
    fake.ball.stop();
}

/// Its vector must not be lost among the wake-ups of the sender.
#[test]
fn a_neighbor_that_connects_again_and_again_while_it_is_dialed_is_still_heard() {
    let fake = FakeNeighbor::start();
    let (stream, _) = fake.welsh.accept().unwrap();
    // Ball ends its own handshake after 2 s, in which a busy machine may not manage all of them.
    let start = Instant::now();
    for _ in 0..20 {
        let dialed = dial(fake.ball.peer_address(), &KEYS, "Welsh", "Ball");
        assert_eq!(dialed, "ok Ball");
        if start.elapsed() > Duration::from_secs(1) {
            break;
        }
    }
    let mut peer = FakeNeighbor::answer(&stream);
    // Before the link is closed for its silence.
    let deadline = Instant::now() + Duration::from_secs(3);
    let line = peer.reader.read_line(&stream, deadline).unwrap();
    assert!(line.starts_with(b"MARKER "), "{}", line.escape_ascii());
    drop((peer, stream));
    fake.ball.stop();
}

/// A link that breaks during every resync costs one scan a second, not one per connection.
#[test]
fn an_interrupted_resync_is_not_repeated_at_once() {
    let fake = FakeNeighbor::start();
    for index in 0..50_000 {
        let line = format!("RECORD Ball 1 {} 1 client-{index} +1+1 1", index + 1);
        let record = RecordView::parse_line(line.as_bytes()).unwrap();
        fake.ball.replica().restore(&record);
    }
    let mut last: Option<Instant> = None;
    for _ in 0..3 {
        let (stream, _) = fake.welsh.accept().unwrap();
        let mut peer = FakeNeighbor::answer(&stream);
        let deadline = Instant::now() + PATIENCE;
        let line = peer.reader.read_line(&stream, deadline).unwrap();
        assert!(line.starts_with(b"RECORD "), "{}", line.escape_ascii());
        if let Some(last) = last.replace(Instant::now()) {
            let pause = last.elapsed();
            assert!(pause > Duration::from_millis(900), "{pause:?}");
        }
    }
    fake.ball.stop();
}

#[test]
fn an_answer_without_the_key_is_counted_as_refused() {
    let fake = FakeNeighbor::start();
    let (mut stream, _) = fake.welsh.accept().unwrap();
    stream.read_exact(&mut [0; MESSAGE_BYTES]).unwrap();
    let answer = [&b"\x00\x30"[..], &[7; MESSAGE_BYTES - 2]].concat();
    stream.write_all(&answer).unwrap();
    await_refused(&fake.ball, 1);
    let error = fake.ball.links()["Welsh"].error.clone();
    assert_eq!(error.unwrap().reason, "wrong key or not a peer");
    fake.ball.stop();
}

#[test]
fn strangers_in_all_handshake_slots_are_gone_after_two_seconds_and_live_links_go_on() {
    let pair = Pair::start();
    let peers = pair.welsh.peer_address();
    let (connections, refused) = (pair.proxy.connections(), pair.welsh.peers_refused());
    let began = Instant::now();
    let strangers: Vec<_> = (0..HANDSHAKE_SLOTS + 24)
        .map(|index| {
            let mut stream = TcpStream::connect(peers).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            // Some send nothing, some begin a message.
            let _ = stream.write_all(&b"\x00\x30unfinished"[..index % 3 * 4]);
            stream
        })
        .collect();
    // Those that have waited longest are evicted.
    await_refused(&pair.welsh, refused + 24);
    assert!(began.elapsed() < Duration::from_secs(2));
    let mut floods = 0;
    while began.elapsed() < Duration::from_millis(1_500) {
        pair.flood(&format!("meanwhile-{floods}"));
        floods += 1;
    }
    let closed: Vec<JoinHandle<Duration>> = strangers
        .into_iter()
        .map(|mut stream| {
            std::thread::spawn(move || {
                let _ = stream.read_to_end(&mut Vec::new());
                began.elapsed()
            })
        })
        .collect();
    for thread in closed {
        let after = thread.join().unwrap();
        assert!(after < Duration::from_secs(4), "{after:?}");
    }
    await_refused(&pair.welsh, refused + HANDSHAKE_SLOTS as u64 + 24);
    assert_eq!(pair.proxy.connections(), connections, "the link was cut");
    let free = dial(peers, &KEYS, "Alford", "Welsh");
    assert_eq!(free, "refused: servers.txt here names no neighbor Alford");
    pair.stop();
}

#[test]
fn a_key_is_rotated_server_by_server_and_no_report_is_held_up() {
    let (text, sockets) = free_ring();
    let topology = Topology::parse(text.as_bytes()).unwrap();
    let start = |index: usize, keys: &KeyFile, sockets: Sockets| {
        let mut config = config(&text, RING[index].0);
        config.keys = keys.clone();
        Server::start(&config, sockets, atlas()).unwrap()
    };
    let mut keys = KeyFile::generate().unwrap();
    let mut servers: Vec<_> = sockets
        .into_iter()
        .enumerate()
        .map(|(index, sockets)| start(index, &keys, sockets))
        .collect();
    for step in 0..3 {
        keys = keys.rotated().unwrap();
        for (index, (name, _)) in RING.iter().enumerate() {
            servers.remove(index).stop();
            let sockets = Sockets::bind(topology.server(name).unwrap(), None).unwrap();
            servers.insert(index, start(index, &keys, sockets));
            // From the server with the newest file, and to it.
            for origin in [index, (index + 1) % RING.len()] {
                let client = format!("client-{step}-{index}-{origin}");
                let reply =
                    Client::connect(servers[origin].client_address()).ask(&report(&client, "+1+1"));
                for server in &servers {
                    Client::connect(server.client_address()).await_whatsat(&client, &reply);
                }
            }
        }
    }
    servers.into_iter().for_each(Server::stop);
}
