//! One HTTP call to a places provider, bounded in time and size.
//!
//! The connections of one provider are kept and reused. Redirects are not followed, since they
//! would send the key elsewhere. Errors of the HTTP library are classified here and get texts of
//! our own: the library's may contain the URL, and a URL may contain the key.

use std::fmt;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Deserialize;
use ureq::http::Uri;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, Timeout};

use super::failure::{Failure, quote};

/// Maximum bytes of a response body after decompression; a longer one is [`Failure::TooLarge`].
const MAX_RESPONSE_BYTES: u64 = 2 << 20;

/// Maximum time for the name lookup, and again for the connection with its TLS handshake; past this
/// the call is [`Failure::Connect`].
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum number of idle connections; beyond it a connection is closed after its call.
const MAX_IDLE_CONNECTIONS: usize = 8;

/// Identifies the application; without it Overpass answers 406.
const USER_AGENT: &str = concat!("herd/", env!("CARGO_PKG_VERSION"), " (places lookup)");

/// Endpoint and trust anchors of a provider.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Endpoint that replaces the provider's own. May be plain HTTP, then what is sent can be read
    /// on the way, the key included.
    pub url: Option<String>,
    /// Trusted root certificates (PEM) that replace Mozilla's list, for an upstream with a certificate
    /// authority of its own.
    pub roots: Option<Vec<u8>>,
}

impl Options {
    /// Returns whether calls cross a network as plain HTTP, which anyone on the way can read: an
    /// `http:` URL of another machine.
    pub fn is_readable_on_the_way(&self) -> bool {
        let uri = self.url.as_deref().and_then(endpoint);
        uri.is_some_and(|uri| uri.scheme_str() == Some("http") && !is_loopback(&uri))
    }
}

/// Invalid [`Options`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetupError {
    /// The URL is not an absolute `http:` or `https:` URL without a fragment.
    Url,
    /// The PEM text contains no valid certificate.
    Certificate,
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SetupError::Url => {
                "--places-url must be an absolute http or https URL without a fragment"
            }
            SetupError::Certificate => "the PEM text contains no valid certificate",
        })
    }
}

impl std::error::Error for SetupError {}

/// An HTTP response, read to its end.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// An HTTP client of one endpoint.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    url: String,
    stopped: AtomicBool,
}

impl Client {
    /// Creates a client. Opens no connection yet.
    pub(super) fn new(default_url: &str, options: &Options) -> Result<Client, SetupError> {
        let url = options.url.as_deref().unwrap_or(default_url);
        let uri = endpoint(url).ok_or(SetupError::Url)?;
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .https_only(options.url.is_none())
            .max_redirects(0)
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .max_idle_connections(MAX_IDLE_CONNECTIONS)
            .max_idle_connections_per_host(MAX_IDLE_CONNECTIONS)
            .user_agent(USER_AGENT);
        if let Some(pem) = &options.roots {
            let roots = certificates(pem)?;
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        if is_loopback(&uri) {
            // A proxy from the environment could not reach services on this machine.
            config = config.proxy(None);
        }
        Ok(Client {
            agent: config.build().new_agent(),
            url: url.to_owned(),
            stopped: AtomicBool::new(false),
        })
    }

    /// Returns the endpoint.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Sends a GET request to `url`, which extends the endpoint.
    pub(super) fn get(&self, url: &str, timeout: Duration) -> Result<Response, Failure> {
        let request = self.agent.get(url).config().timeout_global(Some(timeout));
        self.finish(request.build().call())
    }

    /// Sends a POST request to the endpoint.
    pub(super) fn post(
        &self,
        headers: &[(&str, &str)],
        body: &str,
        timeout: Duration,
    ) -> Result<Response, Failure> {
        let mut request = self.agent.post(&self.url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.config().timeout_global(Some(timeout));
        self.finish(request.build().send(body))
    }

    /// Aborts the calls in flight and rejects all later ones.
    pub(super) fn abort(&self) {
        self.stopped.store(true, Ordering::Release);
        self.agent.clone().shutdown();
    }

    fn finish(
        &self,
        result: Result<ureq::http::Response<Body>, ureq::Error>,
    ) -> Result<Response, Failure> {
        let result = result.and_then(|response| {
            let status = response.status().as_u16();
            let mut body = response.into_body();
            let body = body.with_config().limit(MAX_RESPONSE_BYTES).read_to_vec()?;
            Ok(Response { status, body })
        });
        // An aborted call fails in one of several ways, or even seems to succeed.
        if self.stopped.load(Ordering::Acquire) {
            return Err(Failure::Stopped);
        }
        result.map_err(failure)
    }
}

impl Response {
    /// Parses the body as JSON in the provider's format.
    pub(super) fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let start = self.body.trim_ascii_start();
            if start.starts_with(b"<") {
                Failure::Malformed("it is HTML or XML, not JSON")
            } else if error.is_data() {
                Failure::Malformed("its JSON is not in the provider's format")
            } else if error.is_eof() {
                Failure::Truncated
            } else {
                Failure::Malformed("it is not JSON")
            }
        })
    }
}

/// Parses an absolute URL without a fragment.
fn endpoint(url: &str) -> Option<Uri> {
    let uri: Uri = url.parse().ok()?;
    let is_absolute = matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.host().is_some_and(|host| !host.is_empty());
    (is_absolute && !url.contains('#')).then_some(uri)
}

fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let address: Result<IpAddr, _> = host.trim_matches(['[', ']']).parse();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn certificates(pem: &[u8]) -> Result<RootCerts, SetupError> {
    let mut roots = Vec::new();
    for item in parse_pem(pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|_| SetupError::Certificate)? {
            roots.push(certificate);
        }
    }
    if roots.is_empty() {
        return Err(SetupError::Certificate);
    }
    Ok(RootCerts::from(roots))
}

/// Classifies an error of the HTTP library. Its own text is used only where it can't contain a URL,
/// and so no key; that of TLS contains names in the upstream's certificate.
fn failure(error: ureq::Error) -> Failure {
    use ureq::Error;
    let tls = |why: &dyn fmt::Display| Failure::Connect(quote(&format!("TLS failed: {why}"), None));
    match error {
        Error::Timeout(Timeout::Resolve) => Failure::Connect("name lookup timed out".to_owned()),
        Error::Timeout(Timeout::Connect) => Failure::Connect("connection timed out".to_owned()),
        Error::Timeout(_) => Failure::Timeout,
        Error::Io(error) => match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Failure::Timeout,
            ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::NotConnected => Failure::Truncated,
            // A read or a write reports TLS errors in this way.
            ErrorKind::InvalidData => tls(&error),
            _ => Failure::Connect(quote(&error.to_string(), None)),
        },
        Error::HostNotFound => Failure::Connect("host not found".to_owned()),
        Error::Tls(why) => tls(&why),
        Error::Rustls(why) => tls(&why),
        Error::InvalidProxyUrl | Error::ConnectProxyFailed(_) => {
            Failure::Connect("the proxy from the environment failed".to_owned())
        }
        Error::BodyExceedsLimit(_) | Error::LargeResponseHeader(..) => Failure::TooLarge,
        Error::Protocol(_) => Failure::Malformed("it is not HTTP"),
        Error::Decompress(..) => Failure::Malformed("it can't be decompressed"),
        _ => Failure::Connect("the HTTP request could not be made".to_owned()),
    }
}

/// Appends bytes percent-encoded for a URL's query or a form: all but letters, digits and `-._~`
/// (RFC 3986, section 2.3).
pub(super) fn write_url_encoded(bytes: &[u8], out: &mut String) {
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            *out += &format!("%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests;
