//! The metrics of a server, in Prometheus' text format 0.0.4.
//!
//! Everything is counted where it happens; here the counts are only gathered and written. Nothing
//! looks at records or waits for the disk, so it takes as long with a million records as with none.
//! No label has a client's name or an address: but for the neighbors, the series are the same in
//! every server from its start.

mod process;
mod text;

use std::sync::Arc;
use std::time::Instant;

use super::counts::Counts;
use super::events::Totals;
use crate::client::limit::ConnectionLimit;
use crate::client::pool::Dispatcher;
use crate::client::requests::{CommandName, RequestOutcome, RequestTotals};
use crate::client::services::Services;
use crate::health::{Health, State};
use crate::link::figures::{LinkFigure, LinkFigures};
use crate::logging;
use crate::metrics::{Cell, HistogramSnapshot, NamedCounts};
use crate::store::journal::Syncer;
use process::Process;
use text::{Kind, Text};

/// Content type of the text.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Bytes reserved for a text; a longer one makes it grow.
const TEXT_BYTES: usize = 24 << 10;

/// The parts of a server whose counts are shown.
#[derive(Debug)]
pub(crate) struct Sources {
    /// The parts that sessions share.
    pub services: Arc<Services>,
    /// The number of clients.
    pub limit: ConnectionLimit,
    /// The pool.
    pub dispatcher: Dispatcher,
    /// The links.
    pub links: LinkFigures,
    /// The states that hold.
    pub health: Arc<Health>,
    /// The journal; `None` without one.
    pub journal: Option<Syncer>,
    /// Number of records read from the journal at the start.
    pub restored: u64,
}

impl Sources {
    /// Returns the counts of which the page shows the differences.
    pub(super) fn totals(&self) -> Totals {
        let requests = self.services.counts.requests();
        let sum =
            |outcomes: &[RequestOutcome]| outcomes.iter().map(|one| requests.of(*one)).sum::<u64>();
        Totals {
            reports: sum(&[RequestOutcome::Stored, RequestOutcome::NotNewer]),
            questions: sum(&[
                RequestOutcome::Answered,
                RequestOutcome::PlacesFailed,
                RequestOutcome::Done(CommandName::Where),
                RequestOutcome::Done(CommandName::Nearby),
                RequestOutcome::Done(CommandName::Within),
            ]),
            turn: self.services.counts.turns(),
            flood: self.links.delays(),
            clients: self.limit.fill().0 as u64,
            records: self.services.replica.clients() as u64,
        }
    }

    /// Returns the text.
    pub(super) fn render(&self, http: &Arc<Counts>) -> String {
        let mut text = Text::with_capacity(TEXT_BYTES);
        let now = Instant::now();
        let requests = self.services.counts.requests();
        let links = self.links.links(now);
        let delays = self.links.delays();
        self.clients(&mut text, &requests);
        self.connections(&mut text, http);
        self.records(&mut text, &requests, delays.count());
        self.watches(&mut text);
        self.places(&mut text, &requests);
        self.state(&mut text, now);
        write_links(&mut text, &links, &delays);
        self.journal(&mut text);
        text.counter(
            "herd_log_lines_dropped_total",
            "Lines of the log that were dropped, since they could not be written.",
            logging::dropped_lines(),
        );
        text.family(
            "herd_build_info",
            Kind::Gauge,
            "1, with the version of the program.",
        );
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        text.sample("herd_build_info", &version, 1);
        if let Some(process) = Process::read() {
            write_process(&mut text, &process);
        }
        text.into_string()
    }

    fn clients(&self, text: &mut Text, requests: &RequestTotals) {
        let name = "herd_requests_total";
        let help = "Lines of clients, by command and by what became of them.";
        text.family(name, Kind::Counter, help);
        for (outcome, count) in requests.all() {
            let labels = [
                ("command", outcome.command().name()),
                ("outcome", outcome.name()),
            ];
            text.sample(name, &labels, count);
        }
        text.histogram(
            "herd_turn_seconds",
            "Time in which a worker answered the lines of one client that it had read at once.",
            &self.services.counts.turns(),
        );
        let (connected, _) = self.limit.fill();
        text.gauge(
            "herd_clients",
            "Clients that are connected.",
            connected as u64,
        );
        text.gauge(
            "herd_workers_busy",
            "Workers that serve a client at the moment.",
            self.dispatcher.busy() as u64,
        );
    }

    fn connections(&self, text: &mut Text, http: &Arc<Counts>) {
        let name = "herd_connections_total";
        let help =
            "Connections by port: accepted, or why refused; of the HTTP port, how they ended.";
        text.family(name, Kind::Counter, help);
        let clients: Arc<dyn NamedCounts> = Arc::clone(&self.services.counts.connections) as _;
        let peers: Arc<dyn NamedCounts> = self.links.connections();
        let http: Arc<dyn NamedCounts> = Arc::clone(http) as _;
        for (door, outcomes) in [("client", clients), ("peer", peers), ("http", http)] {
            for (outcome, count) in outcomes.named() {
                text.sample(name, &[("door", door), ("outcome", outcome)], count);
            }
        }
    }

    fn records(&self, text: &mut Text, requests: &RequestTotals, adopted: u64) {
        let name = "herd_records_total";
        let help = "Records that were stored, by where they came from.";
        text.family(name, Kind::Counter, help);
        // That a client is to be forgotten is a record too.
        let forgotten = requests.of(RequestOutcome::Done(CommandName::Forget));
        for (source, count) in [
            ("client", requests.of(RequestOutcome::Stored) + forgotten),
            ("neighbor", adopted),
            ("journal", self.restored),
        ] {
            text.sample(name, &[("source", source)], count);
        }
        text.gauge(
            "herd_records",
            "Clients whose location is known.",
            self.services.replica.clients() as u64,
        );
        text.gauge(
            "herd_tombstones",
            "Clients that were forgotten; --max-records counts them too.",
            self.services.replica.tombstones() as u64,
        );
    }

    fn watches(&self, text: &mut Text) {
        let watches = &self.services.watches;
        let counts = watches.counts();
        text.gauge(
            "herd_watches",
            "Watches of areas and of clients.",
            watches.len() as u64,
        );
        text.counter(
            "herd_pushes_total",
            "Lines that watchers were sent.",
            counts.pushes.get(),
        );
        text.counter(
            "herd_watch_resets_total",
            "Connections whose watches were filled again, since there was too much to tell.",
            counts.resets.get(),
        );
        text.counter(
            "herd_watch_marks_dropped_total",
            "Changes that were not told for that.",
            counts.dropped.get(),
        );
    }

    fn places(&self, text: &mut Text, requests: &RequestTotals) {
        let name = "herd_places_calls_total";
        let help = "Searches for places, by provider and outcome.";
        text.family(name, Kind::Counter, help);
        let (provider, calls) = self.services.places.calls();
        // The atlas answers each question at once.
        let calls = match calls {
            None => vec![("ok", requests.of(RequestOutcome::Answered))],
            Some(calls) => calls.named(),
        };
        for (outcome, count) in calls {
            text.sample(name, &[("provider", provider), ("outcome", outcome)], count);
        }
    }

    fn state(&self, text: &mut Text, now: Instant) {
        let name = "herd_state";
        let help = "1 for each state of the server that holds; ok if no other does.";
        text.family(name, Kind::Gauge, help);
        let problems = self.health.problems(now);
        for state in State::ALL {
            let holds = match state {
                State::Ok => problems.is_empty(),
                _ => problems.iter().any(|problem| problem.state == state),
            };
            text.sample(name, &[("state", state.name())], u64::from(holds));
        }
    }

    fn journal(&self, text: &mut Text) {
        let journal = self.journal.as_ref();
        text.counter(
            "herd_journal_bytes_total",
            "Bytes appended to the journal, by compactions too.",
            journal.map_or(0, Syncer::appended_bytes),
        );
        text.gauge(
            "herd_journal_size_bytes",
            "Size of the journal's files.",
            journal.map_or(0, Syncer::size),
        );
        text.histogram(
            "herd_sync_seconds",
            "Time in which the journal was brought to disk.",
            &journal.map_or_else(HistogramSnapshot::default, Syncer::syncs),
        );
    }
}

fn write_links(text: &mut Text, links: &[LinkFigure], delays: &HistogramSnapshot) {
    let mut family = |name: &str, kind, help: &str, value: &dyn Fn(&LinkFigure) -> Option<f64>| {
        text.family(name, kind, help);
        for link in links {
            if let Some(value) = value(link) {
                text.sample(name, &[("neighbor", &*link.name)], value);
            }
        }
    };
    family(
        "herd_link_up",
        Kind::Gauge,
        "1 if there is a connection over which the neighbor is sent records.",
        &|link| Some(f64::from(u8::from(link.status.phase.is_connected()))),
    );
    family(
        "herd_link_lag_seconds",
        Kind::Gauge,
        "Age of the oldest record that the neighbor has not confirmed, while there is a connection.",
        &|link| link.status.lag_ms.map(|lag| lag as f64 / 1e3),
    );
    family(
        "herd_link_resyncs_total",
        Kind::Counter,
        "Times that the neighbor was sent the records that it lacked from the cache.",
        &|link| Some(link.status.resyncs as f64),
    );
    family(
        "herd_outbox_bytes",
        Kind::Gauge,
        "Bytes that are queued for the neighbor.",
        &|link| Some(link.status.queue.bytes as f64),
    );
    let name = "herd_link_bytes_total";
    let help = "Bytes on the sockets of the neighbor's connections, after the handshake.";
    text.family(name, Kind::Counter, help);
    for link in links {
        for (direction, bytes) in [("sent", link.sent), ("received", link.received)] {
            let labels = [("neighbor", &*link.name), ("direction", direction)];
            text.sample(name, &labels, bytes);
        }
    }
    text.histogram(
        "herd_flood_delay_seconds",
        "Time from a record's reception at its origin until it was adopted here, by both clocks.",
        delays,
    );
}

fn write_process(text: &mut Text, process: &Process) {
    let name = "process_cpu_seconds_total";
    let help = "Total user and system CPU time spent in seconds.";
    text.family(name, Kind::Counter, help);
    text.sample(name, &[], process.cpu_seconds);
    for (name, help, value) in [
        (
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            Some(process.resident_bytes as f64),
        ),
        (
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
            Some(process.virtual_bytes as f64),
        ),
        (
            "process_open_fds",
            "Number of open file descriptors.",
            process.open_descriptors.map(|number| number as f64),
        ),
        (
            "process_max_fds",
            "Maximum number of open file descriptors.",
            process.max_descriptors.map(|number| number as f64),
        ),
        (
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            process.start_seconds,
        ),
    ] {
        if let Some(value) = value {
            text.family(name, Kind::Gauge, help);
            text.sample(name, &[], value);
        }
    }
}
