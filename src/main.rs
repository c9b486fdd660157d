//! The `herd` program: subcommands, exit codes, and the texts that the user sees.
//!
//! Exit codes: 0 success, 1 failure, 2 bad usage or bad configuration. A server that is stopped by
//! SIGTERM or SIGINT exits with 0, also before it is ready. The reason for any other end is the last
//! line on standard error, and in the log if there is one.

mod cli;

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Duration;

use argh::EarlyExit;
use cli::{ServeArguments, Subcommand};
use crossbeam_channel::{Receiver, bounded, never, select, unbounded};
use herd::config::keys::KeyErrorKind;
use herd::config::keys::KeyFile;
use herd::config::topology::Topology;
use herd::link::catch_up::Readiness;
use herd::logging::{EVENT, LogWriter};
use herd::server::{ReloadError, Server, Sockets};
use herd::thread::{Group, Stop};
use log::{debug, error, info, warn};
use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXFSZ,
};
use signal_hook::iterator::Signals;

/// Time limit for a stop, after which the process exits with a failure. It takes up to 5 s where
/// clients do not take their replies, and 3 s more where neighbors do not answer.
const STOP_LIMIT: Duration = Duration::from_secs(9);

/// Time that the start has to end if the server is to stop meanwhile. From its last moment on neighbors
/// may be connected, and they are told of a stop; before that nothing is lost by an exit.
const START_PATIENCE: Duration = Duration::from_secs(2);

/// Signals that would end the process by default, and mean nothing to it: of timers that it does not
/// have, of a program that took its process id for another's. SIGXFSZ comes with a write beyond the
/// limit on the size of files, which fails then like one on a full disk.
const IGNORED: [i32; 6] = [SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGXFSZ];

/// More of them, which other systems lack.
#[cfg(target_os = "linux")]
const IGNORED_ON_LINUX: [i32; 2] = [libc::SIGPWR, libc::SIGSTKFLT];

/// Maximum wait for standard error to take what a start announces.
const ANNOUNCEMENT_PATIENCE: Duration = Duration::from_millis(500);

/// Bytes of stack of the thread that starts the server, as the main thread has.
const START_STACK_BYTES: usize = 8 << 20;

/// Failures of a subcommand, which determine the exit code.
enum Failure {
    /// Bad usage or bad configuration; exit code 2.
    Usage(String),
    /// Any other failure; exit code 1.
    Other(String),
    /// A failure that standard output already reports; exit code 1.
    Reported,
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Other(error.to_string())
    }
}

fn usage(error: impl Display) -> Failure {
    Failure::Usage(error.to_string())
}

fn main() -> ExitCode {
    let mut log = None;
    let result = catch_unwind(AssertUnwindSafe(|| dispatch(&mut log)));
    let result = result.unwrap_or_else(|panic| {
        let reason = herd::thread::message(&*panic);
        Err(Failure::Other(format!(
            "the main thread has panicked: {reason}"
        )))
    });
    let (text, code) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(text)) => (text, 2),
        Err(Failure::Other(text)) => (text, 1),
        Err(Failure::Reported) => return ExitCode::FAILURE,
    };
    herd::exit::report(&text);
    ExitCode::from(code)
}

/// Runs the subcommand of the command line. A server's log is put into `log`.
fn dispatch(log: &mut Option<LogWriter>) -> Result<(), Failure> {
    match cli::parse(std::env::args_os()) {
        Ok(arguments) if arguments.version => {
            print(&format!("herd {}\n", env!("CARGO_PKG_VERSION")))
        }
        Ok(arguments) => match arguments.subcommand {
            Some(Subcommand::Serve(serve)) => run(&serve, log),
            Some(Subcommand::Check(check)) => check
                .report()
                .map_err(usage)
                .and_then(|report| print(&report)),
            Some(Subcommand::Status(status)) => status.survey().map_err(usage).and_then(|survey| {
                print(&status.shown(&survey))?;
                survey.is_whole().then_some(()).ok_or(Failure::Reported)
            }),
            Some(Subcommand::Key(key)) => match key.run() {
                Ok(next) => print(&next),
                Err(error) if matches!(error.kind, KeyErrorKind::Write(_)) => Err(error.into()),
                Err(error) => Err(usage(error)),
            },
            None => Err(usage("a command is missing; see herd --help")),
        },
        Err(EarlyExit { output, status }) => match status {
            Ok(()) => print(&(output.trim_end().to_owned() + "\n")),
            Err(()) => Err(usage(output.trim_end())),
        },
    }
}

fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        // The reader has closed the pipe: it needs no more.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Reads the files that may change while the server runs, and returns a summary of the changes.
///
/// `None` means that the server is to stop: the files may be on a file system that does not answer.
fn reload(
    serve: &ServeArguments,
    server: &mut Server,
    signals: &mut SignalQueue,
) -> io::Result<Option<Result<String, Box<dyn Error>>>> {
    let reader = serve.clone();
    let read = move || reader.read_again().map_err(|error| error.to_string());
    let read = signals.during(Duration::ZERO, read)?;
    Ok(read.map(|read| adopt(serve, server, read?)))
}

fn adopt(
    serve: &ServeArguments,
    server: &mut Server,
    (topology, keys): (Topology, KeyFile),
) -> Result<String, Box<dyn Error>> {
    let changes = server.reload(&topology, keys)?;
    warn_of_addresses(serve, &topology, serve.name());
    Ok(changes)
}

/// Logs which addresses of this server and its neighbors others will not be able to dial.
fn warn_of_addresses(serve: &ServeArguments, topology: &Topology, name: &str) {
    for warning in topology.warnings_for(name) {
        let (file, line) = (serve.servers().display(), warning.line);
        warn!("{file}:{line}: {}", warning.message);
    }
}

/// Says something to the user that starts the server, whatever the level of the log is. The log has it
/// too. Standard error may be a pipe that nobody reads, so it has a moment to take it.
fn announce(name: &str, news: &[String]) {
    let mut lines = String::new();
    for text in news {
        info!(target: EVENT, "{text}");
        lines += &format!("{name}: {text}\n");
    }
    let (done, written) = bounded::<()>(1);
    let write = move || {
        // Without standard error, the log still has it.
        let _ = io::stderr().write_all(lines.as_bytes());
        drop(done);
    };
    if !news.is_empty() && herd::thread::spawn_helper("announce", write).is_ok() {
        let _ = written.recv_timeout(ANNOUNCEMENT_PATIENCE);
    }
}

/// Events that the main thread waits for.
enum Event {
    /// A signal came.
    Signal(i32),
    /// The server serves clients from now on.
    Ready,
}

/// The signals that this process has been sent and that the main thread acts on, in their order.
struct SignalQueue {
    received: Receiver<i32>,
    /// SIGHUP came during the start.
    reload_due: bool,
    /// SIGTERM or SIGINT did.
    stop_due: bool,
}

impl SignalQueue {
    /// Starts the thread that takes signals. A second SIGTERM or SIGINT ends the process at once.
    ///
    /// The ignored ones have a handler too, since a signal that is ignored in the system's sense stays
    /// so in programs that a process starts. The one exception is SIGPIPE, which Rust's start-up code
    /// sets; the server starts no other program.
    fn start() -> io::Result<SignalQueue> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
        // A signal that a debugger or a sandbox keeps for itself does not get through to end the process.
        for signal in IGNORED {
            let _ = signals.add_signal(signal);
        }
        #[cfg(target_os = "linux")]
        for signal in IGNORED_ON_LINUX
            .into_iter()
            .chain(libc::SIGRTMIN()..=libc::SIGRTMAX())
        {
            let _ = signals.add_signal(signal);
        }
        let (queue, received) = unbounded();
        let _entered = Group::process().enter();
        // Not joined: it ends with the process.
        herd::thread::spawn("signals", move || {
            let mut is_stopping = false;
            loop {
                let received: Vec<i32> = herd::thread::waiting(|| signals.wait().collect());
                for signal in received {
                    if signal == SIGHUP || signal == SIGUSR1 {
                        herd::logging::reopen();
                    }
                    if ![SIGTERM, SIGINT, SIGHUP].contains(&signal) {
                        debug!("signal {signal}");
                        continue;
                    }
                    let is_stop = signal != SIGHUP;
                    if is_stop && is_stopping {
                        herd::exit::fail(format_args!(
                            "signal {signal}, the second: not waiting for the end of the stop"
                        ));
                    }
                    is_stopping |= is_stop;
                    // The queue is gone when the process is about to end.
                    let _ = queue.send(signal);
                }
            }
        })?;
        Ok(SignalQueue {
            received,
            reload_due: false,
            stop_due: false,
        })
    }

    /// Does a part of the start or of a reload on a thread of its own, since looking up a name can't be
    /// interrupted, and reading a damaged journal takes seconds. If the server is to stop meanwhile,
    /// the part has `patience` to end; `None` means that it has not, and nothing waits for it.
    fn during<T: Send + 'static>(
        &mut self,
        patience: Duration,
        part: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Option<T>> {
        let (done, result) = bounded(1);
        let run = move || drop(done.send(part()));
        herd::thread::spawn_with_stack("start", START_STACK_BYTES, run)?;
        loop {
            select! {
                recv(result) -> result => match result {
                    Ok(result) => return Ok(Some(result)),
                    Err(_) => herd::exit::wait(),
                },
                recv(self.received) -> signal => match signal {
                    Ok(SIGHUP) => self.reload_due = true,
                    Ok(_) => {
                        self.stop_due = true;
                        return Ok(result.recv_timeout(patience).ok());
                    }
                    Err(_) => herd::exit::wait(),
                },
            }
        }
    }

    /// Waits for the next signal; those that came during the start are the first. Or for the server to
    /// become ready, if `ready` is the signal for that.
    fn next(&mut self, ready: Option<&Stop>) -> Event {
        if self.stop_due {
            return Event::Signal(SIGTERM);
        }
        if std::mem::take(&mut self.reload_due) {
            return Event::Signal(SIGHUP);
        }
        let never = never();
        let ready = ready.map_or(&never, Stop::channel);
        select! {
            recv(self.received) -> signal => match signal {
                Ok(signal) => Event::Signal(signal),
                Err(_) => herd::exit::wait(),
            },
            recv(ready) -> _ => Event::Ready,
        }
    }
}

fn run(serve: &ServeArguments, log: &mut Option<LogWriter>) -> Result<(), Failure> {
    let (config, news) = serve.config().map_err(usage)?;
    let name = config.server.name.clone();
    let of_server = |error: &dyn Display| Failure::Other(format!("{name}: {error}"));
    let upstream = serve.upstream().map_err(usage)?;
    let log_settings = serve.log().map_err(usage)?;
    let mut signals = SignalQueue::start()?;
    let (entry, bind) = (config.server.clone(), config.bind);
    let bound = signals.during(Duration::ZERO, move || Sockets::bind(&entry, bind))?;
    let Some(bound) = bound else {
        return Ok(());
    };
    let sockets = bound.map_err(|error| of_server(&error))?;
    *log = Some(herd::logging::start(&log_settings).map_err(|error| of_server(&error))?);
    warn_of_addresses(serve, &config.topology, &name);
    let places = serve.places(upstream).map_err(|error| of_server(&error))?;
    let start = move || Server::start(&config, sockets, places);
    let Some(started) = signals.during(START_PATIENCE, start)? else {
        info!(target: EVENT, "stopped before the start was complete");
        return Ok(());
    };
    let mut server = started.map_err(|error| of_server(&error))?;
    announce(&name, &news);
    let mut ready = Some(server.ready());

    loop {
        let signal = match signals.next(ready.as_ref()) {
            Event::Signal(signal) => signal,
            Event::Ready => {
                ready = None;
                print(&ready_line(&name, &server))?;
                continue;
            }
        };
        info!(target: EVENT, "signal {signal}");
        if signal != SIGHUP {
            break;
        }
        let Some(reloaded) = reload(serve, &mut server, &mut signals)? else {
            continue;
        };
        match reloaded {
            Ok(changes) => info!(target: EVENT, "reloaded: {changes}"),
            Err(reason) => {
                let kept = if matches!(reason.downcast_ref(), Some(ReloadError::Threads(_))) {
                    ""
                } else {
                    ", keeping the current configuration"
                };
                let reason = reason.to_string().replace('\n', "; ");
                error!("reload failed{kept}: {reason}");
            }
        }
    }
    let lost = stop(server);
    if lost > 0 {
        return Err(Failure::Other(format!(
            "{name}: the journal can't be written: {lost} acknowledged reports are lost, but for those that the neighbors have"
        )));
    }
    drop(log.take());
    Ok(())
}

/// Returns the line that says that a server is ready, and how that came about. Scripts rely on its
/// beginning.
fn ready_line(name: &str, server: &Server) -> String {
    let (clients, peers) = (server.client_address(), server.peer_address());
    let http = server.http_address();
    let http = http.map_or(String::new(), |address| format!(", http {address}"));
    let how = match server.readiness() {
        None | Some(Readiness::HerdOfOne) => String::new(),
        Some(readiness) => format!("; {readiness}"),
    };
    format!("{name} is ready: clients {clients}, peers {peers}{http}{how}\n")
}

/// Stops the server, or ends the process with a failure. Returns the number of acknowledged reports
/// that are lost.
fn stop(server: Server) -> u64 {
    let stage = server.stop_stage();
    let (stopper, stopped) = herd::thread::stop_pair();
    let watch = herd::thread::spawn("stop-watch", move || {
        if !stopped.wait(STOP_LIMIT) {
            let (seconds, part) = (STOP_LIMIT.as_secs(), stage.part());
            herd::exit::fail(format_args!(
                "not stopped after {seconds} s, still waiting for {part}: giving up"
            ));
        }
    });
    let lost = server.finish();
    stopper.stop();
    if let Ok(watch) = watch {
        let _ = watch.join();
    }
    lost
}
