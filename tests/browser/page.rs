//! The herd of a story, each server with an HTTP port, and the page of one of them in the browser.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::webdriver::{Browser, missing_tool};
use crate::support::fleet::Fleet;
use crate::support::process::{free_addresses, wait_for};
use crate::support::{Client, report};

/// Time within which the page must show the end of a server and its return.
pub(super) const SHOWN: Duration = Duration::from_secs(5);

/// Time limit of a wait whose length is no promise of the page.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Latitude and longitude in degrees.
pub(super) type Position = (f64, f64);

/// Size of a window on a desk.
pub(super) const DESK: (u32, u32) = (1400, 900);

/// Prints that a story did not run and returns false if there is no browser. `./test.sh` looks for the
/// prefix.
pub(super) fn can_browse(story: &str) -> bool {
    let missing = missing_tool();
    if let Some(tool) = missing {
        print(&format!("skipped: {story}: {tool} is not installed"));
    }
    missing.is_none()
}

/// Prints a measured figure. `./test.sh --slow` looks for the prefix.
pub(super) fn figure(subject: &str, measured: impl std::fmt::Display) {
    print(&format!("measured: {subject}: {measured}"));
}

/// Prints past the test harness, which hides the output of a test that passes.
fn print(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Folder of the screenshots.
pub(super) fn pictures() -> PathBuf {
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    temporary.parent().unwrap().join("page")
}

/// A herd whose servers keep their HTTP addresses over restarts.
pub(super) struct Site {
    pub(super) fleet: Fleet,
    http: Vec<SocketAddr>,
}

impl Site {
    /// Starts all servers of a herd.
    pub(super) fn start(fleet: Fleet) -> Site {
        let http = (0..fleet.len()).map(|_| free_addresses()[0]).collect();
        let mut site = Site { fleet, http };
        let all: Vec<_> = (0..site.fleet.len()).collect();
        site.restart(&all);
        site
    }

    /// Starts servers that are not running, and waits until they are ready.
    #[track_caller]
    pub(super) fn restart(&mut self, servers: &[usize]) {
        for &server in servers {
            let mut command = self.fleet.command(server);
            command.args(["--http", &self.http[server].to_string()]);
            self.fleet.launch_as(server, command);
        }
        for &server in servers {
            self.fleet.await_ready(server);
        }
    }

    /// Kills servers, as a crash would.
    pub(super) fn kill(&mut self, servers: &[usize]) {
        servers.iter().for_each(|&server| self.fleet.kill(server));
    }

    /// Index of the server of a name.
    pub(super) fn index(&self, name: &str) -> usize {
        let mut all = 0..self.fleet.len();
        all.find(|&server| self.fleet.name(server) == name).unwrap()
    }

    pub(super) fn origin(&self, server: usize) -> String {
        format!("http://{}", self.http[server])
    }

    /// Follows the events of a server as one more viewer, until the connection is dropped.
    #[track_caller]
    pub(super) fn view(&self, server: usize) -> TcpStream {
        let address = self.http[server];
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET /events HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
        stream
    }

    /// JSON text of a path of a server.
    #[track_caller]
    pub(super) fn get(&self, server: usize, path: &str) -> Value {
        let url = format!("{}{path}", self.origin(server));
        let text = ureq::get(&url).call().unwrap().body_mut().read_to_string();
        serde_json::from_str(&text.unwrap()).unwrap()
    }

    /// Reports a client's location to a server.
    #[track_caller]
    pub(super) fn report(&self, server: usize, client: &str, at: Position) {
        let reply = self.fleet.client(server).ask(&report(client, &iso(at)));
        assert!(reply.starts_with("AT "), "{reply}");
    }

    /// Has a client forgotten.
    #[track_caller]
    pub(super) fn forget(&self, server: usize, client: &str) {
        let mut connection = self.fleet.client(server);
        assert!(connection.ask("HELLO 2").starts_with("HELLO 2 "));
        let reply = connection.ask(&format!("FORGET {client}"));
        assert!(reply.starts_with("FORGOT "), "{reply}");
    }

    /// Reports clients to the servers in turn.
    #[track_caller]
    pub(super) fn report_all(&self, clients: &[(String, Position)]) {
        let addresses = self.fleet.addresses();
        for (server, address) in addresses.iter().enumerate() {
            let own: Vec<_> = clients
                .iter()
                .skip(server)
                .step_by(self.fleet.len())
                .collect();
            let mut connection = Client::connect(*address);
            for some in own.chunks(500) {
                let line = |(client, at): &&(String, Position)| report(client, &iso(*at)) + "\n";
                connection.send(some.iter().map(line).collect::<String>());
                for _ in some {
                    assert!(connection.line().starts_with("AT "));
                }
            }
        }
    }
}

/// A position in the form of the line protocol.
fn iso((latitude, longitude): Position) -> String {
    format!("{latitude:+.6}{longitude:+.6}")
}

/// Positions spread evenly over the sphere between 60 degrees south and 70 north.
pub(super) fn spread(count: usize) -> Vec<Position> {
    let golden = 180.0 * (3.0 - 5_f64.sqrt());
    let (south, north) = (-60_f64.to_radians().sin(), 70_f64.to_radians().sin());
    let position = |index: usize| {
        let part = (index as f64 + 0.5) / count as f64;
        let latitude = (south + part * (north - south)).asin().to_degrees();
        let longitude = (golden * index as f64).rem_euclid(360.0) - 180.0;
        (latitude, longitude)
    };
    (0..count).map(position).collect()
}

/// The page of one server.
pub(super) struct Page {
    pub(super) browser: Browser,
    origin: String,
}

impl Page {
    /// Opens the page.
    #[track_caller]
    pub(super) fn visit(site: &Site, server: usize, size: (u32, u32)) -> Page {
        let browser = Browser::start();
        browser.resize(size.0, size.1);
        let origin = site.origin(server);
        browser.open(&format!("{origin}/"));
        Page { browser, origin }
    }

    /// Opens the page and waits until it is live and shows all servers of the herd as ok.
    #[track_caller]
    pub(super) fn open(site: &Site, server: usize, size: (u32, u32)) -> Page {
        let page = Page::visit(site, server, size);
        page.await_connection("live", PATIENCE);
        page.browser
            .wait_until(PATIENCE, "window.herd && herd.ready");
        let all: Vec<_> = (0..site.fleet.len()).collect();
        page.await_states(site, &all, "ok", PATIENCE);
        page
    }

    /// Waits until the page shows a state of each of the servers.
    #[track_caller]
    pub(super) fn await_states(
        &self,
        site: &Site,
        servers: &[usize],
        state: &str,
        limit: Duration,
    ) -> Duration {
        let shown = |&server: &usize| {
            let name = site.fleet.name(server);
            format!("document.querySelector('[data-server=\"{name}\"][data-state=\"{state}\"]')")
        };
        let all: Vec<_> = servers.iter().map(shown).collect();
        self.browser.wait_until(limit, &all.join(" && "))
    }

    /// Waits until the page shows a state of its own connection.
    #[track_caller]
    pub(super) fn await_connection(&self, state: &str, limit: Duration) -> Duration {
        let shown = format!("document.querySelector('#connection[data-state=\"{state}\"]')");
        self.browser.wait_until(limit, &shown)
    }

    /// Waits until the page has drawn what it knows now, in the size that it has now.
    #[track_caller]
    pub(super) fn await_frame(&self) {
        // A size that was observed is handled after the next frame begins, and drawn in the second.
        let script = "window.drawn = false;
            const frames = (left) => { if (left === 0) drawn = true; else requestAnimationFrame(() => frames(left - 1)); };
            frames(3);";
        self.browser.run(script, &[]);
        self.browser.wait_until(PATIENCE, "drawn");
    }

    /// Waits until the page knows of a client's position.
    #[track_caller]
    pub(super) fn await_client(&self, client: &str, at: Position) -> Duration {
        let ((latitude, longitude), client) = (at, json!(client));
        let known = format!(
            "(({{ lat, lon }}) => Math.abs(lat - {latitude}) + Math.abs(lon - {longitude}) < 0.001)\
             (window.herd.client({client}) || {{}})"
        );
        self.browser.wait_until(PATIENCE, &known)
    }

    /// The point of the window at which the map shows a position.
    #[track_caller]
    pub(super) fn point(&self, (latitude, longitude): Position) -> (f64, f64) {
        let script = "const map = document.querySelector('#map').getBoundingClientRect();
            const { x, y } = window.herd.project(...arguments);
            return [map.left + x, map.top + y];";
        let point = self
            .browser
            .run(script, &[json!(latitude), json!(longitude)]);
        (point[0].as_f64().unwrap(), point[1].as_f64().unwrap())
    }

    /// Colors of the pixels around a position of the map.
    #[track_caller]
    pub(super) fn colors(&self, (latitude, longitude): Position) -> Value {
        // The pixels are read from a copy: reading those of the map itself would slow the map down.
        let script = "const map = document.querySelector('#map');
            const { x, y } = window.herd.project(...arguments);
            const scale = map.width / map.clientWidth;
            const copy = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
            copy.drawImage(map, (x - 3) * scale, (y - 3) * scale, 7 * scale, 7 * scale, 0, 0, 7, 7);
            return Array.from(copy.getImageData(0, 0, 7, 7).data);";
        self.browser
            .run(script, &[json!(latitude), json!(longitude)])
    }

    /// Waits until the colors around a position are, or are not, the ones given.
    #[track_caller]
    pub(super) fn await_colors(&self, at: Position, colors: &Value, are_same: bool) -> Duration {
        let what = if are_same {
            "no point any more"
        } else {
            "a point"
        };
        wait_for(&format!("{what} at {at:?}"), PATIENCE, || {
            (self.colors(at) == *colors) == are_same
        })
    }

    /// Waits until the text that an element shows contains another, whatever the letters' case.
    #[track_caller]
    pub(super) fn await_text(&self, selector: &str, wanted: &str, limit: Duration) -> Duration {
        let (selector, wanted) = (json!(selector), json!(wanted.to_lowercase()));
        let script = format!(
            "[...document.querySelectorAll({selector})].some((element) => element.checkVisibility() \
             && element.innerText.replace(/\\s+/g, ' ').toLowerCase().includes({wanted}))"
        );
        self.browser.wait_until(limit, &script)
    }

    /// Asserts that the console is empty, and that all requests went to the page's own server.
    #[track_caller]
    pub(super) fn assert_quiet(&self) {
        assert_eq!(self.browser.console(), [""; 0]);
        self.assert_own_origin();
    }

    /// Asserts that all requests went to the page's own server.
    #[track_caller]
    pub(super) fn assert_own_origin(&self) {
        let requests = self.browser.requests();
        let own = format!("{}/", self.origin);
        let is_foreign = |url: &&String| !url.starts_with(&own) && !url.starts_with("data:");
        let foreign: Vec<_> = requests.iter().filter(is_foreign).collect();
        assert!(foreign.is_empty(), "{foreign:?}");
        let has_own = requests.iter().any(|url| url.starts_with(&own));
        assert!(has_own, "the log has no requests: {requests:?}");
    }

    /// Asserts that nothing in the page overlaps or is cut off.
    #[track_caller]
    pub(super) fn assert_layout(&self, form: &str) {
        let faults = layout_faults(&self.browser);
        assert!(faults.is_empty(), "{form}: {faults:#?}");
    }
}

/// The faults of a page's layout, as sentences.
#[track_caller]
pub(super) fn layout_faults(browser: &Browser) -> Vec<String> {
    let faults = browser.run(include_str!("layout.js"), &[]);
    let sentences = faults.as_array().unwrap().iter();
    sentences
        .map(|fault| fault.as_str().unwrap().to_owned())
        .collect()
}
