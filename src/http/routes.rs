//! The paths of the port, and their answers.

use std::sync::Arc;

use serde::Serialize;

use super::door::Reply;
use super::head::Request;
use super::health::{self, Readiness, STARTING};
use super::page::{self, Asset};
use super::response::{Body, EVENTS, JSON, Response, TEXT};
use super::{App, Port, metrics, places, v1};
use crate::health::{Problem, State};
use crate::link::status::ServerStatus;
use crate::model::time::Timestamp;

/// Version of the JSON of `/status`.
const VERSION: u32 = 1;

/// Answers a request, now or later.
pub(super) fn answer(port: &Arc<Port>, request: &Request, reply: Reply) {
    let app = port.app.get();
    let response = match (request.path.as_str(), app) {
        ("/livez", _) => health::live(port.liveness()),
        ("/readyz" | "/healthz", _) => readiness(port).response(is_verbose(request)),
        ("/metrics", Some(app)) => Response::new(
            200,
            metrics::CONTENT_TYPE,
            Body::Owned(app.sources.metrics.render(&port.counts).into_bytes()),
        ),
        ("/status", Some(app)) => status(app),
        ("/herd", Some(app)) => return app.desk.send(reply),
        ("/places", Some(_)) => places::answer(request.query.as_deref()),
        ("/metrics" | "/status" | "/herd" | "/events" | "/places", None) => {
            Response::unavailable(STARTING)
        }
        ("/events", Some(_)) => stream_head(),
        (path, app) if path.starts_with(v1::PREFIX) => {
            v1::answer(app, path, request.query.as_deref())
        }
        (path, _) => match page::find(path) {
            Some(asset) => file(asset, request),
            None => not_found(),
        },
    };
    reply.send(&response);
}

/// Returns the answer to a request before the server's parts are there.
pub(super) fn starting(request: &Request) -> Response {
    if request.path.starts_with(v1::PREFIX) {
        return v1::answer(None, &request.path, None);
    }
    Response::unavailable(STARTING)
}

fn is_verbose(request: &Request) -> bool {
    let query = request.query.as_deref().unwrap_or_default();
    let is = |part: &str| part.split('=').next() == Some("verbose");
    query.split('&').any(is)
}

fn readiness(port: &Port) -> Readiness {
    let problems = match port.app.get() {
        Some(app) => app
            .sources
            .metrics
            .health
            .problems(std::time::Instant::now()),
        None => vec![Problem {
            state: State::Starting,
            since: Timestamp::now(),
            for_ms: 0,
            reason: STARTING.to_owned(),
        }],
    };
    Readiness {
        problems,
        is_leaving: port.is_leaving(),
    }
}

/// Status of one server.
#[derive(Serialize)]
struct Status<'a> {
    version: u32,
    /// Nanoseconds since 1970, by the clock of this server.
    at: Timestamp,
    name: &'a str,
    #[serde(flatten)]
    status: ServerStatus,
}

fn status(app: &App) -> Response {
    let status = Status {
        version: VERSION,
        at: Timestamp::now(),
        name: app.sources.metrics.services.replica.name(),
        status: app.sources.status.status(),
    };
    // A map whose keys are no strings is the only thing that can't be written.
    let json = serde_json::to_string(&status).unwrap_or_default();
    Response::new(200, JSON, Body::Owned(json.into_bytes()))
}

/// Returns a file of the page, or that the client has it already.
fn file(asset: &'static Asset, request: &Request) -> Response {
    let etag = asset.etag;
    let is_known = request.if_none_match.as_deref().is_some_and(|tags| {
        let tags = tags.split(',').map(str::trim);
        let strong = tags.map(|tag| tag.strip_prefix("W/").unwrap_or(tag));
        strong.into_iter().any(|tag| tag == etag || tag == "*")
    });
    let (status, body) = match (is_known, request.takes_gzip) {
        (true, _) => (304, Body::Static(b"")),
        (false, true) => (200, Body::Static(asset.gzip)),
        (false, false) => (200, Body::Static(asset.plain)),
    };
    let mut response = Response::new(status, asset.content_type, body);
    // Asked for each time, so that a page and the server that it looks at are of one version.
    response.fields =
        format!("Cache-Control: no-cache\r\nETag: {etag}\r\nVary: Accept-Encoding\r\n");
    if status == 200 && request.takes_gzip {
        response.fields += "Content-Encoding: gzip\r\n";
    }
    response
}

/// Returns the head of the stream of events, for a request that asks for no more than that.
fn stream_head() -> Response {
    Response::new(200, EVENTS, Body::Static(b""))
}

/// Returns the answer to a request for a path that there is not.
fn not_found() -> Response {
    let text = "there is no such page here; the paths are / (the live page), /events, /herd, /livez, /metrics, /places, /readyz, /status and those below /v1/\n";
    Response::new(404, TEXT, Body::Static(text.as_bytes()))
}
