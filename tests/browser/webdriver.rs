//! A WebDriver client for one headless browser: as much of the protocol as the stories need.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use ureq::Agent;

use crate::support::process::{Directory, Running, wait_for};

/// Time limit of one command, of which the start of the browser takes longest.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// Keys without a character, as WebDriver names them.
pub(crate) const TAB: &str = "\u{e004}";
pub(crate) const ENTER: &str = "\u{e007}";
pub(crate) const ESCAPE: &str = "\u{e00c}";
pub(crate) const RIGHT: &str = "\u{e014}";

/// A browser with an empty profile. It ends with its driver, on drop.
pub(crate) struct Browser {
    agent: Agent,
    /// URL of the session.
    session: String,
    /// chromedriver has the kernel kill the browser if it is itself killed.
    _driver: Running,
    _profile: Directory,
}

/// The tool that is missing for a browser, if any.
pub(crate) fn missing_tool() -> Option<&'static str> {
    let runs = |tool: &&str| {
        let output = Command::new(tool).arg("--version").output();
        output.is_ok_and(|output| output.status.success())
    };
    ["chromedriver", "chromium"]
        .into_iter()
        .find(|tool| !runs(tool))
}

/// The action of a pointer, `mouse` or `touch`, that is pressed at the first point, moved over the
/// others and released.
pub(crate) fn stroke(id: &str, kind: &str, points: &[(f64, f64)]) -> Value {
    let to = |(index, (x, y)): (usize, &(f64, f64))| {
        let duration = if index == 0 { 0 } else { 50 };
        json!({ "type": "pointerMove", "duration": duration, "x": x.round() as i64, "y": y.round() as i64 })
    };
    let mut steps: Vec<_> = points.iter().enumerate().map(to).collect();
    steps.insert(1, json!({ "type": "pointerDown", "button": 0 }));
    steps.push(json!({ "type": "pointerUp", "button": 0 }));
    json!({ "type": "pointer", "id": id, "parameters": { "pointerType": kind }, "actions": steps })
}

impl Browser {
    /// Starts a browser that knows no host but those of loopback.
    pub(crate) fn start() -> Browser {
        let profile = Directory::new("browser");
        let output = profile.path().join("chromedriver.out");
        let driver = Command::new("chromedriver")
            .arg("--port=0")
            // The browser leaves files behind where temporary files are.
            .env("TMPDIR", profile.path())
            .stdin(Stdio::null())
            .stdout(File::create(&output).unwrap())
            .stderr(Stdio::null())
            .spawn();
        let driver = Running(driver.unwrap());
        let mut port = String::new();
        wait_for("chromedriver prints its port", COMMAND_LIMIT, || {
            let printed = std::fs::read_to_string(&output).unwrap();
            let after = printed.split_once("started successfully on port ");
            let digits = after.and_then(|(_, rest)| rest.split_once('.'));
            digits.is_some_and(|(digits, _)| {
                digits.clone_into(&mut port);
                true
            })
        });
        let agent: Agent = Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .timeout_global(Some(COMMAND_LIMIT))
            .build()
            .into();
        let driver_url = format!("http://127.0.0.1:{port}");
        let status = format!("{driver_url}/status");
        wait_for("chromedriver is ready", COMMAND_LIMIT, || {
            agent.get(&status).call().is_ok()
        });
        let folder = profile.path().join("profile");
        let options = json!({ "args": [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-dev-shm-usage", "--no-proxy-server", "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.*",
            format!("--user-data-dir={}", folder.display()),
        ]});
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        }}});
        let mut browser = Browser {
            agent,
            session: format!("{driver_url}/session"),
            _driver: driver,
            _profile: profile,
        };
        let created = browser.post("", &wanted);
        browser.session += "/";
        browser.session += created["sessionId"].as_str().unwrap();
        // A new browser shows a page of its own, and its requests are in the log.
        browser.open("about:blank");
        browser.requests();
        browser
    }

    /// The value that a command of the session returns.
    #[track_caller]
    fn post(&self, command: &str, body: &Value) -> Value {
        let url = format!("{}{command}", self.session);
        let mut sent = self.agent.post(&url).send(body.to_string()).unwrap();
        let text = sent.body_mut().with_config().limit(64 << 20);
        let mut answer: Value = serde_json::from_str(&text.read_to_string().unwrap()).unwrap();
        let value = answer["value"].take();
        assert!(value.get("error").is_none(), "{command} {body}: {value:#}");
        value
    }

    #[track_caller]
    pub(crate) fn open(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    /// The value that a script returns in the page.
    #[track_caller]
    pub(crate) fn run(&self, script: &str, arguments: &[Value]) -> Value {
        let body = json!({ "script": script, "args": arguments });
        self.post("/execute/sync", &body)
    }

    /// Repeats an expression until it is true. Returns how long that took.
    #[track_caller]
    pub(crate) fn wait_until(&self, limit: Duration, expression: &str) -> Duration {
        let script = format!("return Boolean({expression})");
        wait_for(expression, limit, || self.run(&script, &[]) == true)
    }

    /// Performs the actions of input devices side by side, in the form of the protocol.
    #[track_caller]
    pub(crate) fn act(&self, devices: &[Value]) {
        self.post("/actions", &json!({ "actions": devices }));
    }

    /// Clicks a point of the window.
    #[track_caller]
    pub(crate) fn click(&self, x: f64, y: f64) {
        self.act(&[stroke("mouse", "mouse", &[(x, y)])]);
    }

    /// Types keys into the focused element.
    #[track_caller]
    pub(crate) fn keys(&self, keys: &str) {
        let press = |key| ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key }));
        let steps: Vec<_> = keys.chars().map(String::from).flat_map(press).collect();
        self.act(&[json!({ "type": "key", "id": "keyboard", "actions": steps })]);
    }

    /// Runs a command of the browser's own protocol.
    #[track_caller]
    fn devtools(&self, command: &str, parameters: &Value) -> Value {
        let body = json!({ "cmd": command, "params": parameters });
        self.post("/goog/cdp/execute", &body)
    }

    /// Sets the size of the page. No window is as narrow as a phone.
    #[track_caller]
    pub(crate) fn resize(&self, width: u32, height: u32) {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics);
    }

    /// Sets the color scheme that the user prefers: `light` or `dark`.
    #[track_caller]
    pub(crate) fn prefer(&self, scheme: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.devtools(
            "Emulation.setEmulatedMedia",
            &json!({ "features": [feature] }),
        );
    }

    /// Writes the visible part of the page to a PNG file.
    #[track_caller]
    pub(crate) fn screenshot(&self, path: &Path) {
        let shot = self.devtools("Page.captureScreenshot", &json!({ "format": "png" }));
        let bytes = STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// Entries of a log since the last call.
    #[track_caller]
    fn log(&self, kind: &str) -> Vec<Value> {
        let entries = self.post("/se/log", &json!({ "type": kind }));
        entries.as_array().unwrap().clone()
    }

    /// Lines that the page has logged to the console since the last call, or the browser about it.
    #[track_caller]
    pub(crate) fn console(&self) -> Vec<String> {
        let entries = self.log("browser");
        let line = |entry: &Value| format!("{}: {}", entry["level"], entry["message"]);
        entries.iter().map(line).collect()
    }

    /// URLs that the page has requested since the last call, whether or not the requests succeeded.
    #[track_caller]
    pub(crate) fn requests(&self) -> Vec<String> {
        let url = |entry: &Value| {
            let text = entry["message"].as_str().unwrap();
            let mut event: Value = serde_json::from_str(text).unwrap();
            let event = event["message"].take();
            let is_request = event["method"] == "Network.requestWillBeSent";
            let url = event["params"]["request"]["url"].as_str()?;
            is_request.then(|| url.to_owned())
        };
        self.log("performance").iter().filter_map(url).collect()
    }
}

impl Drop for Browser {
    /// Lets the browser end by itself, so that it does not write to its profile any more.
    fn drop(&mut self) {
        let _ = self.agent.delete(&self.session).call();
    }
}
