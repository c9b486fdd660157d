//! The files of the page, as `build.rs` has compressed them into the program.
//!
//! The page is plain HTML, CSS and ES modules in the folder of this name. It names no other host, so
//! that it works without a network, and contains no script and no style inline, so that the strictest
//! content security policy holds.

/// A file of the page.
#[derive(Debug)]
pub(super) struct Asset {
    /// Path of its URL.
    pub(super) path: &'static str,
    /// Value of the header `Content-Type`.
    pub(super) content_type: &'static str,
    /// The file.
    pub(super) plain: &'static [u8],
    /// The file, compressed.
    pub(super) gzip: &'static [u8],
    /// Value of the header `ETag`, the same for both.
    pub(super) etag: &'static str,
}

static ASSETS: &[Asset] = include!(concat!(env!("OUT_DIR"), "/page.rs"));

/// Returns the file of a path.
pub(super) fn find(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Read;

    use super::*;

    /// Maximum size of all files, compressed.
    const MAX_BYTES: usize = 120 << 10;

    /// Maximum size of the map, compressed.
    const MAX_MAP_BYTES: usize = 38 << 10;

    fn text(asset: &Asset) -> &'static str {
        std::str::from_utf8(asset.plain).unwrap()
    }

    fn is_text(asset: &Asset) -> bool {
        asset.content_type != "application/octet-stream"
    }

    /// Returns every quoted string of `text` that `is_wanted` accepts.
    fn quoted(text: &str, is_wanted: impl Fn(&str) -> bool) -> BTreeSet<&str> {
        let ends = ['"', '\'', '`', '\n'];
        let parts = text.split(ends).filter(|part| is_wanted(part));
        parts.collect()
    }

    #[test]
    fn the_page_is_light() {
        let total: usize = ASSETS.iter().map(|asset| asset.gzip.len()).sum();
        assert!(total <= MAX_BYTES, "{total} bytes");
        let map = find("/page/map/world.bin").unwrap().gzip.len();
        assert!(map <= MAX_MAP_BYTES, "{map} bytes");
        assert!(
            find("/").unwrap().gzip.len() + find("/page/style.css").unwrap().gzip.len() < 14 << 10
        );
    }

    #[test]
    fn compressed_files_are_the_files() {
        for asset in ASSETS {
            let mut plain = Vec::new();
            let mut decoder = flate2::read::GzDecoder::new(asset.gzip);
            decoder.read_to_end(&mut plain).unwrap();
            assert!(plain == asset.plain, "{}", asset.path);
        }
    }

    #[test]
    fn every_file_that_is_named_exists_and_every_file_is_named() {
        let mut named = BTreeSet::from(["/"]);
        for asset in ASSETS.iter().filter(|asset| is_text(asset)) {
            let absolute = quoted(text(asset), |part| part.starts_with("/page/"));
            // The modules lie in one folder.
            let relative = quoted(text(asset), |part| part.starts_with("./"));
            let relative = relative
                .into_iter()
                .map(|name| name.replacen('.', "/page", 1));
            for path in absolute.iter().map(|&path| path.to_owned()).chain(relative) {
                let found = find(&path);
                let found = found.unwrap_or_else(|| panic!("{}: no {path}", asset.path));
                named.insert(found.path);
            }
        }
        let all: BTreeSet<_> = ASSETS.iter().map(|asset| asset.path).collect();
        assert_eq!(named, all);
    }

    #[test]
    fn modules_are_loaded_with_the_page() {
        let index = text(find("/").unwrap());
        for asset in ASSETS.iter().filter(|asset| asset.path.ends_with(".js")) {
            assert!(
                index.contains(&format!("\"{}\"", asset.path)),
                "{}",
                asset.path
            );
        }
    }

    #[test]
    fn no_file_names_another_host() {
        for asset in ASSETS.iter().filter(|asset| is_text(asset)) {
            // The namespace is a name, which nobody fetches.
            let text = text(asset).replace("\"http://www.w3.org/2000/svg\"", "");
            for word in [
                "http://", "https://", "ws://", "wss://", "@import", "url(", "\"//", "'//",
            ] {
                assert!(!text.contains(word), "{} has {word}", asset.path);
            }
        }
    }

    #[test]
    fn no_script_and_no_style_is_inline() {
        let index = text(find("/").unwrap());
        for word in [
            "<style",
            " style=",
            " on",
            "javascript:",
            "<base",
            "<form action",
        ] {
            let found = index.split('<').skip(1).any(|rest| {
                // Attributes only: text may say anything.
                let tag = format!("<{}", rest.split('>').next().unwrap());
                let is_event = |part: &str| part.starts_with("on") && part.contains('=');
                match word {
                    " on" => tag.split_whitespace().any(is_event),
                    _ => tag.contains(word),
                }
            });
            assert!(!found, "{word}");
        }
        for script in index.split("<script").skip(1) {
            let (tag, rest) = script.split_once('>').unwrap();
            assert!(
                tag.contains(" src=\"/page/") && rest.starts_with("</script>"),
                "{tag}"
            );
        }
        for asset in ASSETS.iter().filter(|asset| asset.path.ends_with(".js")) {
            // A text that was sent is never taken for HTML, nor for a program.
            for word in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                "'style'",
                "\"style\"",
                "cssText",
                "console.",
            ] {
                assert!(!text(asset).contains(word), "{} has {word}", asset.path);
            }
        }
    }

    #[test]
    fn files_are_found_by_their_paths_with_their_types() {
        let check = |path: &str, expected: Option<&str>| {
            let found = find(path).map(|asset| asset.content_type);
            assert_eq!(found, expected, "{path}");
        };
        check("/", Some("text/html; charset=utf-8"));
        check("/page/style.css", Some("text/css; charset=utf-8"));
        check("/page/main.js", Some("text/javascript; charset=utf-8"));
        check("/page/icon.svg", Some("image/svg+xml"));
        check("/page/map/world.bin", Some("application/octet-stream"));
        check("/page/index.html", None);
        check("/page/map/make.py", None);
        check("/page/../page.rs", None);
        check("", None);
    }

    #[test]
    fn tags_differ_between_files_and_are_quoted() {
        let tags: BTreeSet<_> = ASSETS.iter().map(|asset| asset.etag).collect();
        assert_eq!(tags.len(), ASSETS.len());
        let is_tag = |tag: &&str| tag.starts_with("W/\"") && tag.ends_with('"') && tag.len() == 20;
        assert!(tags.iter().all(is_tag), "{tags:?}");
    }
}
