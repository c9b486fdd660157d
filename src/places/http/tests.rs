//! Calls over real sockets to a server that behaves well or badly.

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
use crate::places::remote::{Answer, Remote, Settings};
use crate::places::upstream::{Request, Upstream};
use fake::{Behavior, FakeServer};

const LEGACY_OK: &str = include_str!("../../../tests/fixtures/places/google_legacy_ok.json");
const NEW_OK: &str = include_str!("../../../tests/fixtures/places/google_new_ok.json");
const OVERPASS_OK: &str = include_str!("../../../tests/fixtures/places/overpass_ok.json");
const KEY: &str = "SECRET-KEY+0001";

/// Timeout for calls that are expected to be answered at once.
const LONG_TIMEOUT: Duration = Duration::from_secs(8);

fn campus() -> Request {
    Request::of("+34.068930-118.445127", "10", 20)
}

fn at(url: String) -> Options {
    Options {
        url: Some(url),
        roots: None,
    }
}

/// Returns the three providers with one endpoint: legacy, new, Overpass.
fn providers(options: &Options) -> [Box<dyn Upstream>; 3] {
    let key = ApiKey::new(KEY).unwrap();
    [
        Box::new(GoogleLegacy::new(key.clone(), options).unwrap()),
        Box::new(Google::new(key, options).unwrap()),
        Box::new(Overpass::new(options).unwrap()),
    ]
}

/// Checks the failure of each provider at such a server, and that no text contains the key.
#[track_caller]
fn check(behavior: Behavior, timeout: Duration, expected: &Failure) {
    let fake = FakeServer::start(behavior);
    for provider in providers(&at(fake.url("http"))) {
        let failure = provider.fetch(&campus(), timeout).unwrap_err();
        assert_eq!(&failure, expected, "{provider:?}");
        let texts = format!("{failure} {failure:?} {provider:?}");
        assert!(!texts.contains("SECRET"), "{texts}");
    }
    assert_eq!(fake.requests.len(), 3, "each provider makes one call");
}

fn json(body: &str) -> Behavior {
    Behavior::Answer(200, "Content-Type: application/json\r\n", body.into())
}

fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    request.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name).then_some(value)
    })
}

#[test]
fn legacy_requests_are_a_query() {
    let fake = FakeServer::start(json(LEGACY_OK));
    let [provider, ..] = providers(&at(fake.url("http") + "?sensor=false"));
    let reply = provider.fetch(&campus(), LONG_TIMEOUT).unwrap();
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
fn google_requests_are_a_post_with_a_field_mask() {
    let fake = FakeServer::start(json(NEW_OK));
    let [_, provider, _] = providers(&at(fake.url("http")));
    let reply = provider.fetch(&campus(), LONG_TIMEOUT).unwrap();
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
fn overpass_requests_are_a_form_and_name_the_application() {
    let fake = FakeServer::start(json(OVERPASS_OK));
    let [_, _, provider] = providers(&at(fake.url("http")));
    let reply = provider.fetch(&campus(), LONG_TIMEOUT).unwrap();
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
fn connections_are_reused() {
    // The server serves the first connection until it closes; a second one would have to wait.
    let (root, server) = authority("127.0.0.1");
    for (scheme, tls) in [("http", None), ("https", Some(server))] {
        let fake = FakeServer::start_tls(Behavior::Keep(LEGACY_OK.into()), tls);
        let options = Options {
            url: Some(fake.url(scheme)),
            roots: Some(root.clone()),
        };
        let [provider, ..] = providers(&options);
        for timeout in [LONG_TIMEOUT, Duration::from_secs(1), LONG_TIMEOUT] {
            provider.fetch(&campus(), timeout).unwrap();
        }
        assert_eq!(fake.requests.len(), 3);
    }
}

#[test]
fn a_server_that_sends_nothing_is_a_timeout() {
    let start = Instant::now();
    check(
        Behavior::Hang,
        Duration::from_millis(200),
        &Failure::Timeout,
    );
    assert!(start.elapsed() < LONG_TIMEOUT);
}

#[test]
fn a_slow_response_does_not_extend_the_timeout() {
    let start = Instant::now();
    check(
        Behavior::Drip,
        Duration::from_millis(200),
        &Failure::Timeout,
    );
    assert!(start.elapsed() < LONG_TIMEOUT);
}

#[test]
fn a_timeout_of_zero_fails_at_once() {
    let [provider, ..] = providers(&Options::default());
    let failure = provider.fetch(&campus(), Duration::ZERO);
    assert_eq!(failure, Err(Failure::Timeout));
}

#[test]
fn a_closed_port_refuses_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    for provider in providers(&at(url)) {
        let failure = provider.fetch(&campus(), LONG_TIMEOUT).unwrap_err();
        assert!(matches!(failure, Failure::Connect(_)), "{failure:?}");
        assert!(failure.to_string().contains("refused"), "{failure}");
        assert!(!failure.to_string().contains("SECRET"));
    }
}

#[test]
fn broken_responses_are_distinguished() {
    let html = b"<html><body>Dispatcher</body></html>".to_vec();
    check(Behavior::Reset, LONG_TIMEOUT, &Failure::Truncated);
    check(
        Behavior::Truncate(b"{}".to_vec()),
        LONG_TIMEOUT,
        &Failure::Truncated,
    );
    check(
        Behavior::Unframed("", br#"{"results": ["#.to_vec()),
        LONG_TIMEOUT,
        &Failure::Truncated,
    );
    check(
        Behavior::Answer(200, "", html.clone()),
        LONG_TIMEOUT,
        &Failure::Malformed("it is HTML or XML, not JSON"),
    );
    check(
        Behavior::Answer(504, "Content-Type: text/html\r\n", html),
        LONG_TIMEOUT,
        &Failure::Http(504),
    );
    check(
        Behavior::NotHttp,
        LONG_TIMEOUT,
        &Failure::Malformed("it is not HTTP"),
    );
    check(
        Behavior::Answer(200, "Content-Encoding: gzip\r\n", b"{}".to_vec()),
        LONG_TIMEOUT,
        &Failure::Malformed("it can't be decompressed"),
    );
}

#[test]
fn a_response_beyond_the_limit_is_rejected() {
    let huge = vec![b' '; 3 << 20];
    check(
        Behavior::Answer(200, "", huge.clone()),
        LONG_TIMEOUT,
        &Failure::TooLarge,
    );
    check(
        Behavior::Unframed("", huge.clone()),
        LONG_TIMEOUT,
        &Failure::TooLarge,
    );
    // Likewise for a response that is small only until it is decompressed.
    let mut small = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut small, &huge).unwrap();
    check(
        Behavior::Answer(200, "Content-Encoding: gzip\r\n", small.finish().unwrap()),
        LONG_TIMEOUT,
        &Failure::TooLarge,
    );
}

#[test]
fn redirects_are_not_followed() {
    let elsewhere = FakeServer::start(json(LEGACY_OK));
    let location = format!("Location: {}\r\n", elsewhere.url("http"));
    let location: &'static str = location.leak();
    for status in [301, 302, 307, 308] {
        check(
            Behavior::Answer(status, location, Vec::new()),
            LONG_TIMEOUT,
            &Failure::Http(status),
        );
    }
    assert!(elsewhere.requests.is_empty());
}

#[test]
fn calls_in_flight_can_be_aborted() {
    for (which, behavior) in [Behavior::Hang, Behavior::Drip].into_iter().enumerate() {
        let fake = FakeServer::start(behavior);
        let provider = &providers(&at(fake.url("http")))[which];
        let start = Instant::now();
        std::thread::scope(|scope| {
            let call = scope.spawn(|| provider.fetch(&campus(), Duration::from_secs(60)));
            fake.requests.recv_timeout(LONG_TIMEOUT).unwrap();
            provider.abort();
            assert_eq!(call.join().unwrap(), Err(Failure::Stopped));
        });
        assert_eq!(
            provider.fetch(&campus(), LONG_TIMEOUT),
            Err(Failure::Stopped)
        );
        assert!(start.elapsed() < LONG_TIMEOUT);
    }
}

#[test]
fn the_default_endpoint_must_not_be_plain_http() {
    let client = Client::new("http://127.0.0.1:1/", &Options::default()).unwrap();
    let failure = client
        .get("http://127.0.0.1:1/?key=SECRET", LONG_TIMEOUT)
        .unwrap_err();
    assert_eq!(
        failure,
        Failure::Connect("the HTTP request could not be made".into())
    );
}

#[test]
fn invalid_options_are_rejected() {
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
fn urls_contain_unreserved_bytes_only() {
    let mut out = String::new();
    write_url_encoded("aZ09-._~ &=+%/\"é".as_bytes(), &mut out);
    assert_eq!(out, "aZ09-._~%20%26%3D%2B%25%2F%22%C3%A9");
}

/// Returns a certificate authority, as PEM, and a server with a certificate that it issued for the
/// name.
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

/// Checks whether a client that trusts `root` accepts the server's certificate; without `root` it
/// trusts Mozilla's list.
#[track_caller]
fn check_tls(root: Option<&[u8]>, server: &Arc<ServerConfig>, error: Option<&str>) {
    let fake = FakeServer::start_tls(json(LEGACY_OK), Some(Arc::clone(server)));
    let options = Options {
        url: Some(fake.url("https")),
        roots: root.map(<[u8]>::to_vec),
    };
    let [provider, ..] = providers(&options);
    match (provider.fetch(&campus(), LONG_TIMEOUT), error) {
        (Ok(reply), None) => {
            assert!(String::from_utf8(reply).unwrap().contains("Fixture Hall"));
            assert_eq!(fake.requests.len(), 1);
        }
        (Err(Failure::Connect(why)), Some(error)) => {
            assert!(
                why.starts_with("TLS failed: ") && why.contains(error),
                "{why}"
            );
            assert!(fake.requests.is_empty(), "the key must not be sent");
        }
        (result, _) => panic!("{result:?}, not {error:?}"),
    }
}

#[test]
fn certificates_are_checked() {
    let (root, server) = authority("127.0.0.1");
    let (other_root, _) = authority("127.0.0.1");
    check_tls(Some(&root), &server, None);
    check_tls(Some(&[&other_root[..], &root].concat()), &server, None);
    // An authority of the same name is not trusted.
    check_tls(Some(&other_root), &server, Some("BadSignature"));
    check_tls(None, &server, Some("UnknownIssuer"));
    let (root, server) = authority("places.example");
    check_tls(Some(&root), &server, Some("not valid for name"));
}

/// Everything that any test of this process logged.
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

fn record_the_log() {
    static START: Once = Once::new();
    START.call_once(|| {
        log::set_logger(&Recorder).unwrap();
        // The most verbose level of the command line; ureq logs URLs at `trace`.
        log::set_max_level(log::LevelFilter::Debug);
    });
}

#[test]
fn a_providers_text_is_one_line_without_the_key_in_logs_and_replies() {
    record_the_log();
    // The limit on the length of a text falls into the key.
    let padding = "x".repeat(400 - r"error MARK\n[ERROR] forged \u{1b}[2J".len() - 12);
    // Overpass, the last, is sent no key.
    let sent = ["SECRET-KEY%2B0001", KEY, "my-key"];
    for (number, key) in sent.into_iter().enumerate() {
        let message = format!("error MARK\n[ERROR] forged \u{1b}[2J{padding}{key} is invalid");
        let body = serde_json::json!({
            "status": "REQUEST_DENIED",
            "error_message": &message,
            "error": {"code": 403, "message": &message},
            "elements": [],
            "remark": &message,
        });
        let fake = FakeServer::start(json(&body.to_string()));
        let provider = providers(&at(fake.url("http")))
            .into_iter()
            .nth(number)
            .unwrap();
        let settings = Settings {
            workers: 1,
            calls_per_minute: None,
        };
        let remote = Remote::start(provider, settings).unwrap();
        let (answer, answered) = crossbeam_channel::bounded(1);
        let on_answer = move |got: Answer<'_>| answer.send(got.json.to_vec()).unwrap();
        remote.search(campus(), Box::new(on_answer));
        let answer = answered.recv_timeout(LONG_TIMEOUT).unwrap();
        remote.stop();
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        let shown = answer["error_message"].as_str().unwrap();
        let start = r"error MARK\n[ERROR] forged \u{1b}[2Jxxx";
        assert!(shown.starts_with(start), "{shown}");
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
        let end = ["xxx(key) is in… Check", "xxxmy-key is i… Try"][number / 2];
        assert!(shown.contains(end), "{shown}");
    }
    let log = LOG.lock().clone();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("MARK")).collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    for line in lines {
        assert!(
            line.contains(r"places: error MARK\n[ERROR] forged"),
            "{line}"
        );
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
}

#[test]
fn texts_of_the_tls_library_are_escaped_and_cut() {
    let text = format!("bad name \u{1b}[2J\n{}", "n".repeat(10_000));
    for error in [
        ureq::Error::Io(std::io::Error::new(ErrorKind::InvalidData, text.clone())),
        ureq::Error::Io(std::io::Error::other(text.clone())),
    ] {
        let shown = failure(error).to_string();
        assert!(shown.contains(r"bad name \u{1b}[2J\nnnn"), "{shown}");
        assert!(shown.chars().count() < 600, "{shown}");
    }
}

#[test]
fn the_key_is_never_logged() {
    record_the_log();
    let repeating = format!(
        r#"{{"status": "REQUEST_DENIED", "error_message": "No {KEY}", "error": {{"code": 403, "message": "No {KEY}"}}, "elements": []}}"#
    );
    let fake = FakeServer::start(json(&repeating));
    for provider in providers(&at(fake.url("http"))) {
        if let Err(failure) = provider.fetch(&campus(), LONG_TIMEOUT) {
            assert_eq!(failure.status(), PlacesStatus::RequestDenied);
            assert!(
                failure.to_string().starts_with("No (key). Check"),
                "{failure}"
            );
            log::warn!("{failure} {failure:?}");
        }
    }
    let log = LOG.lock().clone();
    assert!(log.contains("ureq"), "{log}");
    assert!(!log.contains("SECRET-KEY"), "{log}");
}
