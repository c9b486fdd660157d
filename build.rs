//! Builds two things that are compiled into the server: the static index of the atlas's places, and
//! the files of the page.

use std::error::Error;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::{env, fs};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

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

/// Folder of the page's files.
const PAGE: &str = "src/http/page";

/// Content types by the ends of names. Scripts that make files of the page are not part of it.
const CONTENT_TYPES: [(&str, Option<&str>); 6] = [
    ("html", Some("text/html; charset=utf-8")),
    ("css", Some("text/css; charset=utf-8")),
    ("js", Some("text/javascript; charset=utf-8")),
    ("svg", Some("image/svg+xml")),
    ("bin", Some("application/octet-stream")),
    ("py", None),
];

#[allow(clippy::print_stdout, reason = "cargo reads standard output")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={DATA}");
    println!("cargo:rerun-if-changed={PAGE}");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    lay_out_atlas(&out)?;
    pack_page(&out)
}

fn lay_out_atlas(out: &Path) -> Result<(), Box<dyn Error>> {
    let mut data = String::new();
    GzDecoder::new(fs::File::open(Path::new(DATA))?).read_to_string(&mut data)?;
    let layout = layout::lay_out(&data).map_err(|error| format!("{DATA}: {error}"))?;
    fs::write(out.join("atlas.nodes"), &layout.nodes)?;
    fs::write(out.join("atlas.places"), &layout.places)?;
    fs::write(out.join("atlas.text"), &layout.text)?;
    Ok(())
}

/// Compresses the page's files, and writes the list of them as an expression of Rust.
fn pack_page(out: &Path) -> Result<(), Box<dyn Error>> {
    let root = fs::canonicalize(PAGE)?;
    let mut paths = Vec::new();
    collect(&root, &mut paths)?;
    paths.sort();
    let mut list = "&[\n".to_owned();
    for (number, path) in paths.iter().enumerate() {
        let extension = path.extension().unwrap_or_default();
        let known = CONTENT_TYPES.iter().find(|(end, _)| extension == *end);
        let Some((_, content_type)) = known else {
            return Err(format!("{}: no content type is known", path.display()).into());
        };
        let Some(content_type) = content_type else {
            continue;
        };
        let plain = fs::read(path)?;
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&plain)?;
        let packed = out.join(format!("page-{number}.gz"));
        fs::write(&packed, encoder.finish()?)?;
        let mut hasher = DefaultHasher::new();
        plain.hash(&mut hasher);
        // A weak one: the compressed bytes go by the same tag.
        let etag = format!("W/\"{:016x}\"", hasher.finish());
        let inside = path.strip_prefix(&root)?.to_str().ok_or("not UTF-8")?;
        let url = match inside {
            "index.html" => "/".to_owned(),
            _ => format!("/page/{inside}"),
        };
        writeln!(
            list,
            "    Asset {{ path: {url:?}, content_type: {content_type:?}, etag: {etag:?}, \
             plain: include_bytes!({path:?}), gzip: include_bytes!({packed:?}) }},",
        )?;
    }
    list.push_str("]\n");
    fs::write(out.join("page.rs"), list)?;
    Ok(())
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}
