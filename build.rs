//! Builds the static index of the atlas's places that is compiled into the server.

use std::error::Error;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::{env, fs};

#[allow(
    dead_code,
    missing_docs,
    reason = "the build needs only a part of these modules"
)]
/// Numbers and distances, as in the server.
#[path = "src/model"]
pub mod model {
    pub mod decimal;
    pub mod geo;
}
#[path = "src/places/atlas/format.rs"]
mod format;
#[path = "src/places/atlas/layout.rs"]
mod layout;

const DATA: &str = "src/places/atlas/atlas.tsv.gz";

#[allow(clippy::print_stdout, reason = "cargo reads standard output")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={DATA}");
    let mut data = String::new();
    flate2::read::GzDecoder::new(fs::File::open(Path::new(DATA))?).read_to_string(&mut data)?;
    let layout = layout::lay_out(&data).map_err(|error| format!("{DATA}: {error}"))?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    fs::write(out.join("atlas.nodes"), &layout.nodes)?;
    fs::write(out.join("atlas.places"), &layout.places)?;
    fs::write(out.join("atlas.text"), &layout.text)?;
    Ok(())
}
