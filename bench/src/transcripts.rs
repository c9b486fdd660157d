//! `herd-bench transcripts`: runs all stories against servers and says which fail.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Instant;

use argh::FromArgs;

use crate::{Failure, net, transcript};

/// Run the protocol's stories against servers, one after the other.
///
/// A line per story; a failed one tells file, line, what was expected and what came.
#[derive(FromArgs)]
#[argh(
    subcommand,
    name = "transcripts",
    help_triggers("-h", "--help", "help"),
    example = "{command_name} 127.0.0.1:12000",
    example = "{command_name} --slow --scripts tests/scripts 127.0.0.1:12000 127.0.0.1:12001"
)]
pub(crate) struct Transcripts {
    /// folder of the stories (default: tests/scripts)
    #[argh(option, default = "PathBuf::from(\"tests/scripts\")", arg_name = "dir")]
    scripts: PathBuf,

    /// also run the stories of the folder's `slow`, which wait out the protocol's time limits
    #[argh(switch)]
    slow: bool,

    /// HOST:PORT of a server's client port
    #[argh(positional, arg_name = "address")]
    addresses: Vec<String>,
}

impl Transcripts {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        if self.addresses.is_empty() {
            return Err(Failure::Usage(
                "transcripts: no address; try `herd-bench transcripts 127.0.0.1:12000`".to_owned(),
            ));
        }
        for address in &self.addresses {
            net::resolve(address)
                .map_err(|error| Failure::Usage(format!("transcripts: {error}")))?;
        }
        let stories = transcript::stories(&self.scripts, self.slow)
            .map_err(|error| Failure::Usage(format!("transcripts: {error}")))?;
        let (mut ran, mut failed) = (0, 0);
        for address in &self.addresses {
            for story in &stories {
                let start = Instant::now();
                let result = story.run(address);
                let millis = start.elapsed().as_millis();
                let name = story.name();
                let line = match &result {
                    Ok(()) => format!("ok      {address}  {name}  {millis} ms"),
                    Err(error) => format!("FAILED  {address}  {error}"),
                };
                writeln!(io::stdout(), "{line}")
                    .map_err(|error| Failure::Failed(format!("can't write: {error}")))?;
                ran += 1;
                failed += u32::from(result.is_err());
            }
        }
        if failed > 0 {
            return Err(Failure::Failed(format!("{failed} of {ran} stories failed")));
        }
        Ok(())
    }
}
