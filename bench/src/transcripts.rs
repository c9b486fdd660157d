//! `herd-bench transcripts`: runs all transcripts against servers and reports failures.

use std::path::PathBuf;
use std::time::Instant;

use argh::FromArgs;
use herd_conformance::Extra;

use crate::{Failure, net, print};

/// Run the protocol's transcripts against servers, one after the other.
///
/// Prints a line per transcript; for a failure, file, line, expected and received text.
#[derive(FromArgs)]
#[argh(
    subcommand,
    name = "transcripts",
    help_triggers("-h", "--help", "help"),
    example = "{command_name} 127.0.0.1:12000",
    example = "{command_name} --slow --scripts tests/scripts 127.0.0.1:12000 127.0.0.1:12001"
)]
pub(crate) struct Transcripts {
    /// folder of the transcripts (default: tests/scripts)
    #[argh(option, default = "PathBuf::from(\"tests/scripts\")", arg_name = "dir")]
    scripts: PathBuf,

    /// also run the transcripts of the folder's `slow`, which wait out the protocol's time limits
    #[argh(switch)]
    slow: bool,

    /// also run those of the folder's `dialect2`, the protocol's second dialect
    #[argh(switch)]
    dialect2: bool,

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
        let extra = [(self.slow, Extra::Slow), (self.dialect2, Extra::Dialect2)];
        let extra: Vec<_> = extra
            .into_iter()
            .filter_map(|(is_wanted, extra)| is_wanted.then_some(extra))
            .collect();
        let transcripts = herd_conformance::transcripts(&self.scripts, &extra)
            .map_err(|error| Failure::Usage(format!("transcripts: {error}")))?;
        let (mut ran, mut failed) = (0, 0);
        for address in &self.addresses {
            for transcript in &transcripts {
                let start = Instant::now();
                let result = transcript.run(address);
                let millis = start.elapsed().as_millis();
                let name = transcript.name();
                let line = match &result {
                    Ok(()) => format!("ok      {address}  {name}  {millis} ms"),
                    Err(error) => format!("FAILED  {address}  {error}"),
                };
                print(&format!(
                    "{line}
"
                ))?;
                ran += 1;
                failed += u32::from(result.is_err());
            }
        }
        if failed > 0 {
            return Err(Failure::Failed(format!(
                "{failed} of {ran} transcripts failed"
            )));
        }
        Ok(())
    }
}
