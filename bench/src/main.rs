//! The herd's measuring tools: transcripts, load, churn, flood delay, watches, the run of all of them, and the
//! summary and comparison of records.
//!
//! Everything here speaks the client protocol alone, so it works on any server of it; only `run`
//! starts servers itself. Exit codes: 0 all is well, 1 a server failed or a run is void, 2 bad usage.

mod churn;
mod csv;
mod figures;
mod flood;
mod load;
mod net;
mod process;
mod progress;
mod run;
mod transcripts;
mod watch;

use std::io::{self, Write};
use std::process::ExitCode;

use argh::{EarlyExit, FromArgs};

/// Measure and check servers of the herd's client protocol.
#[derive(FromArgs)]
#[argh(
    help_triggers("-h", "--help", "help"),
    example = "{command_name} transcripts 127.0.0.1:12000",
    example = "{command_name} load --address 127.0.0.1:12000 --connections 64",
    example = "{command_name} flood --from 127.0.0.1:12000 --to 127.0.0.1:12001,127.0.0.1:12002",
    error_code(1, "A server failed, or a run is void."),
    error_code(2, "Bad usage.")
)]
struct Arguments {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Transcripts(transcripts::Transcripts),
    Load(load::Load),
    Flood(flood::Flood),
    Churn(churn::Churn),
    Watch(watch::Watch),
    Run(run::Run),
    Compare(run::Compare),
    Summary(run::Summary),
}

/// Reason why a command did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is malformed or asks for something impossible.
    Usage(String),
    /// A server failed, or a run is void.
    Failed(String),
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (name, rest) = arguments.split_first().unwrap_or((&"herd-bench", &[]));
    let name = name.rsplit('/').next().unwrap_or(name);
    let arguments = match Arguments::from_args(&[name], rest) {
        Ok(arguments) => arguments,
        Err(EarlyExit { output, status }) => {
            return match status {
                Ok(()) => say(&mut io::stdout(), output.trim_end(), 0),
                Err(()) => say(&mut io::stderr(), output.trim_end(), 2),
            };
        }
    };
    let result = match arguments.command {
        Command::Transcripts(command) => command.run(),
        Command::Load(command) => command.run(),
        Command::Flood(command) => command.run(),
        Command::Churn(command) => command.run(),
        Command::Watch(command) => command.run(),
        Command::Run(command) => command.run(),
        Command::Compare(command) => command.run(),
        Command::Summary(command) => command.run(),
    };
    let (error, code) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(error)) => (error, 2),
        Err(Failure::Failed(error)) => (error, 1),
    };
    say(&mut io::stderr(), &format!("{name}: {error}"), code)
}

/// Prints a result to standard output.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::Failed(format!("can't write: {error}")))
}

/// Parses a tool's options as they stand on its command line.
pub(crate) fn parse<T: FromArgs>(tool: &str, options: &str) -> Result<T, String> {
    let words: Vec<&str> = options.split_whitespace().collect();
    T::from_args(&[tool], &words).map_err(|exit| format!("{tool} {options}: {}", exit.output))
}

fn say(out: &mut dyn Write, text: &str, code: u8) -> ExitCode {
    // A failure means that the pipe behind it is closed, so there is nowhere to report it.
    let _ = writeln!(out, "{text}");
    ExitCode::from(code)
}
