//! `/v1`: the questions of the line protocol's second dialect over HTTP, read-only, as JSON.
//!
//! `query` reads what is asked for, `fault` has the codes of what is wrong, `watch` the streams.

mod fault;
mod query;
pub(super) mod watch;

use std::time::Instant;

use super::App;
use super::door::WATCH_PATH;
use super::health::STARTING;
use super::json::{write_id, write_name, write_position, write_rfc3339};
use super::response::{Body, EVENTS, JSON, Response};
use crate::health::State;
use crate::model::area::Circle;
use crate::model::geo::Position;
use crate::model::location::{has_shape, with_signs};
use crate::model::printable::Printable;
use crate::model::record::RecordView;
use crate::model::time::Timestamp;
use crate::replica::Replica;
use crate::replica::search::Hits;
use fault::{Code, Fault};
use query::{Center, Nearby, Watch, Within};

/// Begin of the paths.
pub(super) const PREFIX: &str = "/v1/";

/// Begin of the path of a client, which its id follows.
const CLIENTS: &str = "/v1/clients/";

/// Returns the answer to a question; `None` before the server's parts are there.
pub(super) fn answer(app: Option<&App>, path: &str, query: Option<&str>) -> Response {
    let Some(app) = app else {
        return Fault::new(Code::Starting, STARTING).response();
    };
    let metrics = &app.sources.metrics;
    let answers = Answers {
        replica: &metrics.services.replica,
        now: Timestamp::now(),
        is_starting: &|| {
            let problems = metrics.health.problems(Instant::now());
            problems.iter().any(|one| one.state == State::Starting)
        },
    };
    match answers.of(path, query.unwrap_or_default()) {
        // A stream that is only asked for its head.
        Ok(_) if path == WATCH_PATH => Response::new(200, EVENTS, Body::Static(b"")),
        Ok(json) => Response::new(200, JSON, Body::Owned(json)),
        Err(fault) => fault.response(),
    }
}

/// Where answers come from.
struct Answers<'a> {
    replica: &'a Replica,
    now: Timestamp,
    /// Returns whether the server has not caught up with its herd.
    is_starting: &'a dyn Fn() -> bool,
}

impl Answers<'_> {
    /// Returns the JSON of an answer.
    fn of(&self, path: &str, query: &str) -> Result<Vec<u8>, Fault> {
        match path {
            "/v1/nearby" => self.nearby(&Nearby::parse(query)?),
            "/v1/within" => Ok(self.within(&Within::parse(query)?)),
            WATCH_PATH => Watch::parse_all(query).map(|_| Vec::new()),
            _ => match path.strip_prefix(CLIENTS) {
                Some(id) => self.client(id, query),
                None => Err(Fault::new(
                    Code::NoPath,
                    "there is no such path; there are /v1/clients/ID, /v1/nearby, /v1/within and /v1/watch",
                )),
            },
        }
    }

    fn client(&self, id: &str, query: &str) -> Result<Vec<u8>, Fault> {
        query::require_none(query, "/v1/clients/ID")?;
        let client = query::path_id(id)?;
        self.locate(&client, |record| {
            let mut json = Vec::new();
            write_client(record, Extra::None, &mut json);
            json
        })
    }

    /// Shows the record of a client to `look`, which runs under a lock.
    fn locate<R>(
        &self,
        client: &[u8],
        look: impl FnOnce(&RecordView<'_>) -> R,
    ) -> Result<R, Fault> {
        let found = self.replica.locate(client, self.now, |record| {
            record.map(|record| look(&record))
        });
        found.ok_or_else(|| match (self.is_starting)() {
            true => Fault::new(
                Code::Starting,
                format!(
                    "{} is unknown here, and this server has not caught up with its herd since it started",
                    Printable(client)
                ),
            ),
            false => unknown(client),
        })
    }

    fn nearby(&self, asked: &Nearby) -> Result<Vec<u8>, Fault> {
        let (center, left_out) = match &asked.center {
            Center::Position(center) => (*center, None),
            Center::Client(client) => {
                let located = self.locate(client, |record| Position::parse(record.location))?;
                // Every record that is shown has a location.
                (located.ok_or_else(|| unknown(client))?, Some(&client[..]))
            }
        };
        let circle = Circle {
            center,
            radius_km: asked.radius_km,
        };
        // The one more tells whether there is more.
        let bound = asked.limit + 1;
        let hits = self.replica.nearby(&circle, bound, left_out, self.now);
        Ok(list(&hits, asked.limit, Extra::Km))
    }

    fn within(&self, asked: &Within) -> Vec<u8> {
        let bound = asked.limit + 1;
        let hits = self.replica.within(&asked.rectangle, bound, self.now);
        list(&hits, asked.limit, |_| Extra::None)
    }
}

/// Returns the fault of a client that is not known, or may be a location that was given as one.
fn unknown(client: &[u8]) -> Fault {
    let mut text = format!("no client {}", Printable(client));
    if has_shape(client) || with_signs(client).is_some() {
        text += "; if it is a location, ask with lat and lon";
    }
    Fault::new(Code::Unknown, text)
}

/// A member of a client's object that not all answers have.
#[derive(Clone, Copy, Debug)]
pub(super) enum Extra<'a> {
    /// None.
    None,
    /// Distance in kilometers from the middle of the circle.
    Km(f64),
    /// Name of the watch that it is told by.
    Watch(&'a [u8]),
}

/// Returns the JSON of a list of up to `limit` clients.
fn list<'a>(hits: &Hits, limit: usize, extra: impl Fn(f64) -> Extra<'a>) -> Vec<u8> {
    let mut json = Vec::with_capacity(limit.min(hits.len()) * 192 + 32);
    json.extend_from_slice(b"{\"clients\":[");
    for (index, (km, record)) in hits.iter().take(limit).enumerate() {
        if index > 0 {
            json.push(b',');
        }
        write_client(&record, extra(km), &mut json);
    }
    json.extend_from_slice(b"],\"more\":");
    json.extend_from_slice(if hits.len() > limit {
        b"true"
    } else {
        b"false"
    });
    json.push(b'}');
    json
}

/// Appends a client.
pub(super) fn write_client(record: &RecordView<'_>, extra: Extra<'_>, json: &mut Vec<u8>) {
    json.push(b'{');
    write_id(record.client, json);
    write_position(record.location, json);
    for (name, time) in [("time", record.time), ("received", record.received)] {
        json.extend_from_slice(b",\"");
        json.extend_from_slice(name.as_bytes());
        json.extend_from_slice(b"\":");
        write_rfc3339(time, json);
    }
    json.extend_from_slice(b",\"server\":");
    write_name(record.origin, json);
    match extra {
        Extra::None => {}
        Extra::Km(km) => json.extend_from_slice(format!(",\"km\":{km:.3}").as_bytes()),
        Extra::Watch(name) => {
            json.extend_from_slice(b",\"watch\":");
            write_name(name, json);
        }
    }
    json.push(b'}');
}

#[cfg(test)]
mod tests;
