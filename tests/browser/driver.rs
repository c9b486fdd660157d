//! The tests of the tests: a page without faults has none, and each fault of a page is found.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;

use super::page::{can_browse, layout_faults, pictures};
use super::webdriver::{Browser, ENTER, TAB};

const GOOD: &str = r#"<!doctype html><html lang="en"><meta name="viewport" content="width=device-width"><title>good</title>
<link rel="stylesheet" href="/style.css"><link rel="icon" href="data:,"><script type="module" src="/script.js"></script>
<header><h1>One heading</h1></header><p>Some text <b>in two</b> elements</p>
<form><label for="name">Name</label> <input id="name"></form><button id="button">Press here</button>"#;

const STYLE: &str = "body { background: #fff } header, form { padding: 4px }
@media (prefers-color-scheme: dark) { body { background: #000 } }";

const SCRIPT: &str = "const button = document.querySelector('#button');
button.addEventListener('click', () => { button.textContent = 'Pressed'; });
document.querySelector('form').addEventListener('submit', (event) => {
    event.preventDefault();
    document.title = document.querySelector('#name').value;
});";

const BAD: &str = r#"<!doctype html><html lang="en"><meta name="viewport" content="width=device-width"><title>bad</title>
<link rel="icon" href="data:,"><style>
#below, #above { position: absolute; left: 10px; top: 200px } #above { top: 203px }
#wide { width: 3000px } #faint { color: #aaa } #cut { width: 30px; overflow: hidden; white-space: nowrap }
#under { position: absolute; top: 300px } #over { position: absolute; top: 300px; width: 80px; height: 40px; background: red }
</style><script>console.warn('a warning'); throw new Error('an error');</script>
<img src="http://elsewhere.invalid/picture.png" alt=""><div id="wide">wide</div><div id="cut">A text that is too long</div>
<div id="below">Below it</div><div id="above">Above it</div><div id="under">Covered</div><div id="over"></div>
<div id="faint">Faint</div>"#;

/// A server of a few files, until it is dropped.
struct Files {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Files {
    fn start() -> Files {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                // A browser opens connections in advance and may leave them unused.
                std::thread::spawn(|| drop(answer(stream)));
            }
        });
        Files {
            address,
            is_over,
            thread: Some(thread),
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // Ends the wait for the next connection.
        if TcpStream::connect(self.address).is_ok() {
            let _ = self.thread.take().unwrap().join();
        }
    }
}

/// Answers the request of one connection.
fn answer(stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while reader.read_line(&mut head)? > 2 {}
    let (kind, policy, body) = match head.split(' ').nth(1) {
        Some("/good") => (
            "text/html",
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:",
            GOOD,
        ),
        Some("/style.css") => ("text/css", "default-src 'none'", STYLE),
        Some("/script.js") => ("text/javascript", "default-src 'none'", SCRIPT),
        _ => ("text/html", "default-src * 'unsafe-inline'", BAD),
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {}\r\n\
         Content-Security-Policy: {policy}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    reader.get_mut().write_all((head + body).as_bytes())
}

#[test]
fn the_driver_finds_the_faults_of_a_page() {
    if !can_browse("the driver's own test") {
        return;
    }
    let files = Files::start();
    let browser = Browser::start();
    let origin = format!("http://{}", files.address);
    browser.resize(360, 640);

    browser.open(&format!("{origin}/good"));
    assert_eq!(layout_faults(&browser), [""; 0]);
    assert_eq!(
        browser.run("return [innerWidth, arguments[0]]", &[json!("é")]),
        json!([360, "é"])
    );
    let center = "const { left, top, width, height } = document.querySelector('#button').getBoundingClientRect();
        return [left + width / 2, top + height / 2];";
    let at = browser.run(center, &[]);
    browser.click(at[0].as_f64().unwrap(), at[1].as_f64().unwrap());
    let limit = Duration::from_secs(10);
    browser.wait_until(
        limit,
        "document.querySelector('#button').textContent === 'Pressed'",
    );
    browser.run("document.activeElement.blur(); document.querySelector('h1').tabIndex = -1; document.querySelector('h1').focus();", &[]);
    browser.keys(&format!("{TAB}kiwi{ENTER}"));
    browser.wait_until(limit, "document.title === 'kiwi'");
    let background = "return getComputedStyle(document.body).backgroundColor";
    for (scheme, color) in [("light", "rgb(255, 255, 255)"), ("dark", "rgb(0, 0, 0)")] {
        browser.prefer(scheme);
        assert_eq!(browser.run(background, &[]), color);
    }
    let picture = pictures().join("driver.png");
    browser.screenshot(&picture);
    assert!(std::fs::read(&picture).unwrap().starts_with(b"\x89PNG"));
    assert_eq!(browser.console(), [""; 0]);
    let mut requests = browser.requests();
    requests.retain(|url| !url.starts_with("data:"));
    requests.sort();
    let own = ["/good", "/script.js", "/style.css"].map(|path| format!("{origin}{path}"));
    assert_eq!(requests, own);

    browser.open(&format!("{origin}/bad"));
    let faults = layout_faults(&browser);
    for wanted in [
        "the page is 3008 px wide in a window of 360",
        "div#below \"Below it\" at",
        "overlaps div#above \"Above it\" at",
        "div#cut \"A text that is too long\" is cut off by div#cut",
        "is covered by div#over",
        "div#faint \"Faint\" has a contrast of 2.32",
    ] {
        assert!(
            faults.iter().any(|fault| fault.contains(wanted)),
            "{wanted}: {faults:#?}"
        );
    }
    let console = browser.console();
    for wanted in ["a warning", "an error", "elsewhere.invalid"] {
        assert!(
            console.iter().any(|line| line.contains(wanted)),
            "{wanted}: {console:#?}"
        );
    }
    let requests = browser.requests();
    assert!(
        requests
            .iter()
            .any(|url| url.starts_with("http://elsewhere.invalid/")),
        "{requests:?}"
    );
}
