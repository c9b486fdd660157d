//! Calls over real sockets, to a server that behaves well or badly.

mod fake;

use std::fmt::Write as _;
use std::net::TcpListener;
use std::sync::{Arc, Once};
use std::time::Instant;

use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::*;
use crate::places::answer::PlacesStatus;
use crate::places::google::Google;
use crate::places::google_legacy::GoogleLegacy;
use crate::places::key::ApiKey;
use crate::places::overpass::Overpass;
use crate::places::upstream::{Request, Upstream};
use fake::{Fake, Manner};

const LEGACY_OK: &str = include_str!("../../../tests/fixtures/places/google_legacy_ok.json");
const NEW_OK: &str = include_str!("../../../tests/fixtures/places/google_new_ok.json");
const OVERPASS_OK: &str = include_str!("../../../tests/fixtures/places/overpass_ok.json");
const KEY: &str = "SECRET-KEY+0001";

/// Time for calls that are expected to answer at once.
const AMPLE: Duration = Duration::from_secs(8);

fn campus() -> Request {
    Request::of("+34.068930-118.445127", "10", 20)
}

fn at(url: String) -> Options {
    Options {
        url: Some(url),
        roots: None,
    }
}

/// All three providers at one URL, the first being the legacy one.
fn providers(options: &Options) -> [Box<dyn Upstream>; 3] {
    let key = ApiKey::new(KEY).unwrap();
    [
        Box::new(GoogleLegacy::new(key.clone(), options).unwrap()),
        Box::new(Google::new(key, options).unwrap()),
        Box::new(Overpass::new(options).unwrap()),
    ]
}

/// What each provider makes of a server of this manner, and that it is told without the key.
#[track_caller]
fn check(manner: Manner, timeout: Duration, expected: &Failure) {
    let fake = Fake::start(manner);
    for provider in providers(&at(fake.url("http"))) {
        let failure = provider.fetch(&campus(), timeout).unwrap_err();
        assert_eq!(&failure, expected, "{provider:?}");
        let told = format!("{failure} {failure:?} {provider:?}");
        assert!(!told.contains("SECRET"), "{told}");
    }
    assert_eq!(fake.requests.len(), 3, "each provider makes one call");
}

fn json(body: &str) -> Manner {
    Manner::Answer(200, "Content-Type: application/json\r\n", body.into())
}

fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    request.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name).then_some(value)
    })
}

#[test]
fn legacy_is_asked_by_query() {
    let fake = Fake::start(json(LEGACY_OK));
    let [provider, ..] = providers(&at(fake.url("http") + "?sensor=false"));
    let reply = provider.fetch(&campus(), AMPLE).unwrap();
    assert!(
        String::from_utf8(reply)
            .unwrap()
            .contains("Fixture Village")
    );
    let request = fake.requests.recv().unwrap();
    assert_eq!(
        request.lines().next().unwrap(),
        "GET /places?sensor=false&location=34.068930,-118.445127&radius=10000&key=SECRET-KEY%2B0001 HTTP/1.1"
    );
    assert_eq!(header(&request, "user-agent"), Some(USER_AGENT));
    assert!(!provider.may_cache());
}

#[test]
fn google_is_asked_by_post_with_a_mask() {
    let fake = Fake::start(json(NEW_OK));
    let [_, provider, _] = providers(&at(fake.url("http")));
    let reply = provider.fetch(&campus(), AMPLE).unwrap();
    assert!(String::from_utf8(reply).unwrap().contains("Fixture Hall"));
    let request = fake.requests.recv().unwrap();
    assert!(
        request.starts_with("POST /places HTTP/1.1\r\n"),
        "{request}"
    );
    assert_eq!(header(&request, "content-type"), Some("application/json"));
    assert_eq!(header(&request, "x-goog-api-key"), Some(KEY));
    let mask = header(&request, "x-goog-fieldmask").unwrap();
    assert!(mask.starts_with("places.id,places.displayName,places.location,"));
    assert!(!mask.contains(' '), "{mask}");
    assert!(request.ends_with(r#""radius":10000}}}"#), "{request}");
    assert!(!provider.may_cache());
}

#[test]
fn overpass_is_asked_by_form_and_told_who_asks() {
    let fake = Fake::start(json(OVERPASS_OK));
    let [_, _, provider] = providers(&at(fake.url("http")));
    let reply = provider.fetch(&campus(), AMPLE).unwrap();
    assert!(String::from_utf8(reply).unwrap().contains("osm:node/1001"));
    let request = fake.requests.recv().unwrap();
    assert!(
        request.starts_with("POST /places HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(header(&request, "user-agent").unwrap().starts_with("herd/"));
    assert_eq!(
        header(&request, "content-type"),
        Some("application/x-www-form-urlencoded")
    );
    assert!(
        request.contains("\r\n\r\ndata=%5Bout%3Ajson%5D"),
        "{request}"
    );
    assert!(provider.may_cache());
}

#[test]
fn connections_are_used_again() {
    // The server is busy with the first connection, and would let a second one wait.
    let (root, server) = authority("127.0.0.1");
    for (scheme, tls) in [("http", None), ("https", Some(server))] {
        let fake = Fake::start_tls(Manner::Keep(LEGACY_OK.into()), tls);
        let options = Options {
            url: Some(fake.url(scheme)),
            roots: Some(root.clone()),
        };
        let [provider, ..] = providers(&options);
        for timeout in [AMPLE, Duration::from_secs(1), AMPLE] {
            provider.fetch(&campus(), timeout).unwrap();
        }
        assert_eq!(fake.requests.len(), 3);
    }
}

#[test]
fn silence_is_a_timeout() {
    let start = Instant::now();
    check(Manner::Hang, Duration::from_millis(200), &Failure::Timeout);
    assert!(start.elapsed() < AMPLE);
}

#[test]
fn a_dripping_answer_does_not_extend_its_time() {
    let start = Instant::now();
    check(Manner::Drip, Duration::from_millis(200), &Failure::Timeout);
    assert!(start.elapsed() < AMPLE);
}

#[test]
fn no_time_left_is_a_timeout() {
    let [provider, ..] = providers(&Options::default());
    let failure = provider.fetch(&campus(), Duration::ZERO);
    assert_eq!(failure, Err(Failure::Timeout));
}

#[test]
fn a_closed_port_can_not_be_reached() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    for provider in providers(&at(url)) {
        let failure = provider.fetch(&campus(), AMPLE).unwrap_err();
        assert!(matches!(failure, Failure::Connect(_)), "{failure:?}");
        assert!(failure.message().contains("refused"), "{failure}");
        assert!(!failure.message().contains("SECRET"));
    }
}

#[test]
fn broken_answers_are_told_apart() {
    let html = b"<html><body>Dispatcher</body></html>".to_vec();
    check(Manner::Reset, AMPLE, &Failure::Truncated);
    check(Manner::Truncate(b"{}".to_vec()), AMPLE, &Failure::Truncated);
    check(
        Manner::Unframed("", br#"{"results": ["#.to_vec()),
        AMPLE,
        &Failure::Truncated,
    );
    check(
        Manner::Answer(200, "", html.clone()),
        AMPLE,
        &Failure::Garbage("it is HTML or XML, not JSON"),
    );
    check(
        Manner::Answer(504, "Content-Type: text/html\r\n", html),
        AMPLE,
        &Failure::Http(504),
    );
    check(Manner::Babble, AMPLE, &Failure::Garbage("it is not HTTP"));
    check(
        Manner::Answer(200, "Content-Encoding: gzip\r\n", b"{}".to_vec()),
        AMPLE,
        &Failure::Garbage("it can't be decompressed"),
    );
}

#[test]
fn a_huge_answer_is_not_read() {
    let huge = vec![b' '; 3 << 20];
    check(
        Manner::Answer(200, "", huge.clone()),
        AMPLE,
        &Failure::TooLarge,
    );
    check(
        Manner::Unframed("", huge.clone()),
        AMPLE,
        &Failure::TooLarge,
    );
    // Nor one that is small on the wire.
    let mut small = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut small, &huge).unwrap();
    check(
        Manner::Answer(200, "Content-Encoding: gzip\r\n", small.finish().unwrap()),
        AMPLE,
        &Failure::TooLarge,
    );
}

#[test]
fn redirects_are_not_followed() {
    let elsewhere = Fake::start(json(LEGACY_OK));
    let location = format!("Location: {}\r\n", elsewhere.url("http"));
    let location: &'static str = location.leak();
    for status in [301, 302, 307, 308] {
        check(
            Manner::Answer(status, location, Vec::new()),
            AMPLE,
            &Failure::Http(status),
        );
    }
    assert!(elsewhere.requests.is_empty());
}

#[test]
fn calls_in_flight_can_be_cut() {
    for (which, manner) in [Manner::Hang, Manner::Drip].into_iter().enumerate() {
        let fake = Fake::start(manner);
        let provider = &providers(&at(fake.url("http")))[which];
        let start = Instant::now();
        std::thread::scope(|scope| {
            let call = scope.spawn(|| provider.fetch(&campus(), Duration::from_secs(60)));
            fake.requests.recv_timeout(AMPLE).unwrap();
            provider.cut();
            assert_eq!(call.join().unwrap(), Err(Failure::Stopped));
        });
        assert_eq!(provider.fetch(&campus(), AMPLE), Err(Failure::Stopped));
        assert!(start.elapsed() < AMPLE);
    }
}

#[test]
fn only_a_given_url_may_be_plain() {
    let client = Client::new("http://127.0.0.1:1/", &Options::default()).unwrap();
    let failure = client
        .get("http://127.0.0.1:1/?key=SECRET", AMPLE)
        .unwrap_err();
    assert_eq!(
        failure,
        Failure::Connect("the HTTP request could not be made".into())
    );
}

#[test]
fn setups_that_can_not_work_are_refused() {
    for url in [
        "",
        "localhost:1",
        "/places",
        "ftp://localhost/",
        "http://",
        "http://a/#b",
    ] {
        let error = Overpass::new(&at(url.into())).unwrap_err();
        assert_eq!(error, SetupError::Url, "{url}");
    }
    for pem in [
        "",
        "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
    ] {
        let options = Options {
            url: None,
            roots: Some(pem.into()),
        };
        let error = Overpass::new(&options).unwrap_err();
        assert_eq!(error, SetupError::Certificate, "{pem}");
    }
}

#[test]
fn urls_hold_unreserved_bytes_only() {
    let mut out = String::new();
    write_url_encoded("aZ09-._~ &=+%/\"é".as_bytes(), &mut out);
    assert_eq!(out, "aZ09-._~%20%26%3D%2B%25%2F%22%C3%A9");
}

/// An authority, as PEM, and a server with a certificate of its for the name.
fn authority(name: &str) -> (Vec<u8>, Arc<ServerConfig>) {
    let mut root = CertificateParams::new([]).unwrap();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_key = KeyPair::generate().unwrap();
    let pem = root.self_signed(&root_key).unwrap().pem();
    let issuer = Issuer::new(root, root_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new([name.to_owned()]).unwrap();
    let certificate = leaf.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    (pem.into_bytes(), Arc::new(config))
}

/// What a client that trusts `root` makes of the server's certificate; none trusts Mozilla's.
#[track_caller]
fn check_tls(root: Option<&[u8]>, server: &Arc<ServerConfig>, refusal: Option<&str>) {
    let fake = Fake::start_tls(json(LEGACY_OK), Some(Arc::clone(server)));
    let options = Options {
        url: Some(fake.url("https")),
        roots: root.map(<[u8]>::to_vec),
    };
    let [provider, ..] = providers(&options);
    match (provider.fetch(&campus(), AMPLE), refusal) {
        (Ok(reply), None) => {
            assert!(String::from_utf8(reply).unwrap().contains("Fixture Hall"));
            assert_eq!(fake.requests.len(), 1);
        }
        (Err(Failure::Connect(why)), Some(refusal)) => {
            assert!(
                why.starts_with("TLS failed: ") && why.contains(refusal),
                "{why}"
            );
            assert!(fake.requests.is_empty(), "the key must not be sent");
        }
        (result, _) => panic!("{result:?}, not {refusal:?}"),
    }
}

#[test]
fn certificates_are_checked() {
    let (root, server) = authority("127.0.0.1");
    let (other_root, _) = authority("127.0.0.1");
    check_tls(Some(&root), &server, None);
    check_tls(Some(&[&other_root[..], &root].concat()), &server, None);
    // Authorities of the same name are still not the same.
    check_tls(Some(&other_root), &server, Some("BadSignature"));
    check_tls(None, &server, Some("UnknownIssuer"));
    let (root, server) = authority("places.example");
    check_tls(Some(&root), &server, Some("not valid for name"));
}

/// All that was logged, by any test of this process.
static LOG: Mutex<String> = Mutex::new(String::new());

struct Recorder;

impl log::Log for Recorder {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {}\n", record.target(), record.args());
        let _ = LOG.lock().write_str(&line);
    }

    fn flush(&self) {}
}

#[test]
fn the_key_is_never_logged() {
    static START: Once = Once::new();
    START.call_once(|| {
        log::set_logger(&Recorder).unwrap();
        // The greatest level that the command line offers; ureq shows URLs at `trace`.
        log::set_max_level(log::LevelFilter::Debug);
    });
    let repeating = format!(
        r#"{{"status": "REQUEST_DENIED", "error_message": "No {KEY}", "error": {{"code": 403, "message": "No {KEY}"}}, "elements": []}}"#
    );
    let fake = Fake::start(json(&repeating));
    for provider in providers(&at(fake.url("http"))) {
        if let Err(failure) = provider.fetch(&campus(), AMPLE) {
            assert_eq!(failure.status(), PlacesStatus::RequestDenied);
            assert!(
                failure.message().starts_with("No (key). Check"),
                "{failure}"
            );
            log::warn!("{failure} {failure:?}");
        }
    }
    let log = LOG.lock().clone();
    assert!(log.contains("ureq"), "{log}");
    assert!(!log.contains("SECRET-KEY"), "{log}");
}
