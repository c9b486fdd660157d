//! The `herd` program: subcommands, exit codes, and the texts that the user sees.
//!
//! Exit codes: 0 success, 1 failure, 2 bad usage or bad configuration.

mod cli;

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use argh::EarlyExit;
use cli::{ServeArguments, Subcommand};
use herd::config::keys::KeyErrorKind;
use herd::server::{Server, Sockets};
use log::{error, info};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Time limit for a stop, after which the process exits with a failure.
const STOP_LIMIT: Duration = Duration::from_secs(9);

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
    let result = match cli::parse(std::env::args_os()) {
        Ok(arguments) if arguments.version => {
            print(&format!("herd {}\n", env!("CARGO_PKG_VERSION")))
        }
        Ok(arguments) => match arguments.subcommand {
            Some(Subcommand::Serve(serve)) => run(&serve),
            Some(Subcommand::Check(check)) => check
                .report()
                .map_err(usage)
                .and_then(|report| print(&report)),
            Some(Subcommand::Status(status)) => status.survey().map_err(usage).and_then(|survey| {
                print(&survey.to_string())?;
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
    };
    let (text, code) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(text)) => (text, 2),
        Err(Failure::Other(text)) => (text, 1),
        Err(Failure::Reported) => return ExitCode::FAILURE,
    };
    // Without standard error there is nowhere left to report to.
    let _ = writeln!(io::stderr(), "herd: {text}");
    ExitCode::from(code)
}

fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        // The reader has closed the pipe: it needs no more.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Reads the files that may change while the server runs, and returns a summary of the changes.
fn reload(serve: &ServeArguments, server: &mut Server) -> Result<String, Box<dyn Error>> {
    let (topology, keys) = serve.read_again()?;
    Ok(server.reload(&topology, keys)?)
}

fn run(serve: &ServeArguments) -> Result<(), Failure> {
    let config = serve.config().map_err(usage)?;
    let name = &config.server.name;
    let of_server = |error: &dyn Display| Failure::Other(format!("{name}: {error}"));
    let upstream = serve.upstream().map_err(usage)?;
    // A write beyond the limit on the size of files fails like one on a full disk; by default the
    // signal would end the process.
    #[cfg(unix)]
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default())?;
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let sockets = Sockets::bind(&config.server, config.bind).map_err(|error| of_server(&error))?;
    let _log = herd::logging::start(&serve.log_dir, name, serve.log_level()).map_err(|error| {
        Failure::Other(format!(
            "cannot log to {}: {error}",
            serve.log_dir.display()
        ))
    })?;
    let places = serve.places(upstream).map_err(|error| of_server(&error))?;
    let mut server = Server::start(&config, sockets, places).map_err(|error| of_server(&error))?;
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
            Ok(changes) => info!("reloaded: {changes}"),
            Err(reason) => error!(
                "reload failed, keeping the current configuration: {}",
                reason.to_string().replace('\n', "; ")
            ),
        }
    }
    // A second signal ends the process at once.
    let at_once = Arc::new(AtomicBool::new(true));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&at_once))?;
    }
    let (stopper, stopped) = herd::thread::stop_pair();
    let watch = herd::thread::spawn("stop-watch", move || {
        if !stopped.wait(STOP_LIMIT) {
            error!("not stopped after {} s; giving up", STOP_LIMIT.as_secs());
            std::process::exit(1);
        }
    });
    let lost = server.finish();
    stopper.stop();
    if let Ok(watch) = watch {
        let _ = watch.join();
    }
    if lost > 0 {
        let text = format!(
            "{name}: the journal can't be written: {lost} acknowledged reports are lost, but for those that the neighbors have"
        );
        error!("{text}");
        return Err(Failure::Other(text));
    }
    Ok(())
}
