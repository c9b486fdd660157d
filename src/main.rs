//! The `herd` program: commands, exit codes, and what the user sees.
//!
//! Exit codes: 0 a clean end, 1 a failure, 2 bad usage or a bad configuration.

mod cli;

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use cli::{Command, Early, Serve};
use herd::config::keys::KeyErrorKind;
use herd::server::{Server, Sockets};
use log::{error, info};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// A stop that takes longer than this is given up, and the process ends all the same.
const STOP_LIMIT: Duration = Duration::from_secs(9);

/// Ways for a command to end badly, each with its exit code.
enum Failure {
    /// Bad usage or a bad configuration.
    Usage(String),
    /// Anything else.
    Failed(String),
    /// What is wrong has been said on standard output.
    Said,
}

fn main() -> ExitCode {
    let result = match cli::parse(std::env::args_os()) {
        Ok(arguments) if arguments.version => {
            print(&format!("herd {}\n", env!("CARGO_PKG_VERSION")))
        }
        Ok(arguments) => match arguments.command {
            Some(Command::Serve(serve)) => run(&serve),
            Some(Command::Check(check)) => check
                .report()
                .map_err(Failure::Usage)
                .and_then(|report| print(&report)),
            Some(Command::Status(status)) => match status.survey() {
                Ok(survey) => print(&survey.to_string()).and(if survey.is_whole() {
                    Ok(())
                } else {
                    Err(Failure::Said)
                }),
                Err(error) => Err(Failure::Usage(error)),
            },
            Some(Command::Key(key)) => match key.run() {
                Ok(said) => print(&said),
                Err(error) => Err(match error.kind {
                    KeyErrorKind::Write(_) => failed(error),
                    _ => Failure::Usage(error.to_string()),
                }),
            },
            None => Err(Failure::Usage(
                "a command is missing; see herd --help".to_owned(),
            )),
        },
        Err(Early::Help(text)) => print(&(text.trim_end().to_owned() + "\n")),
        Err(Early::Usage(text)) => Err(Failure::Usage(text.trim_end().to_owned())),
    };
    let (text, code) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(text)) => (text, 2),
        Err(Failure::Failed(text)) => (text, 1),
        Err(Failure::Said) => return ExitCode::FAILURE,
    };
    // With standard error gone there is nobody left to tell.
    let _ = writeln!(io::stderr(), "herd: {text}");
    ExitCode::from(code)
}

fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever closed the pipe has read enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(failed(error)),
        _ => Ok(()),
    }
}

fn failed(what: impl Display) -> Failure {
    Failure::Failed(what.to_string())
}

/// Reads again what may change while the server runs, and says what it changed.
fn reload(serve: &Serve, server: &mut Server) -> Result<String, String> {
    let (topology, keys) = serve.reread()?;
    let changes = server.reload(&topology, keys);
    changes.map_err(|error| error.to_string())
}

fn run(serve: &Serve) -> Result<(), Failure> {
    let config = serve.config().map_err(Failure::Usage)?;
    let name = &config.server.name;
    let upstream = serve.upstream().map_err(Failure::Usage)?;
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(failed)?;
    let sockets = Sockets::bind(&config.server, config.bind)
        .map_err(|error| Failure::Failed(format!("{name}: {error}")))?;
    let _log = herd::logging::start(&serve.log_dir, name, serve.log_level).map_err(|error| {
        Failure::Failed(format!(
            "cannot log to {}: {error}",
            serve.log_dir.display()
        ))
    })?;
    let places = serve
        .places(upstream)
        .map_err(|error| Failure::Failed(format!("{name}: {error}")))?;
    let mut server = Server::start(&config, sockets, places)
        .map_err(|error| Failure::Failed(format!("{name}: {error}")))?;
    print(&format!(
        "{name} is ready: clients {}, peers {}\n",
        server.client_address(),
        server.peer_address()
    ))?;

    for signal in signals.forever() {
        info!("signal {signal}");
        if signal != SIGHUP {
            break;
        }
        match reload(serve, &mut server) {
            Ok(changes) => info!("servers.txt and the key file read again: {changes}"),
            Err(reason) => error!(
                "servers.txt and the key file are not taken over, and what they said before stays in force: {}",
                reason.replace('\n', "; ")
            ),
        }
    }
    // Who asks twice does not want to wait.
    let at_once = Arc::new(AtomicBool::new(true));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&at_once))
            .map_err(failed)?;
    }
    let (done, finished) = crossbeam_channel::bounded::<()>(0);
    let watch = std::thread::Builder::new()
        .name("stop-watch".to_owned())
        .spawn(move || {
            if let Err(crossbeam_channel::RecvTimeoutError::Timeout) =
                finished.recv_timeout(STOP_LIMIT)
            {
                error!("not stopped after {} s; giving up", STOP_LIMIT.as_secs());
                std::process::exit(1);
            }
        });
    server.stop();
    drop(done);
    if let Ok(watch) = watch {
        let _ = watch.join();
    }
    Ok(())
}
