//! The JSON of a frame.

use super::text::write_time;
use crate::model::time::{Timestamp, write_u64};

/// Form in which a frame shows the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Each of them.
    Clients,
    /// Their number in each cell of one degree.
    Grid,
}

/// A frame without its lists.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) at: Timestamp,
    pub(super) mode: Mode,
    pub(super) records: usize,
}

/// The entries of a frame's lists, each behind a comma.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lists<'a> {
    pub(super) clients: &'a [u8],
    pub(super) gone: &'a [u8],
    pub(super) cells: &'a [u8],
    pub(super) reports: &'a [u8],
}

impl Lists<'_> {
    /// Returns whether there is no entry.
    pub(super) fn is_empty(&self) -> bool {
        [self.clients, self.gone, self.cells, self.reports]
            .iter()
            .all(|list| list.is_empty())
    }
}

impl Frame {
    /// Returns the JSON text. `is_reset` if it is all that a viewer is to have, whatever it had.
    pub(super) fn render(&self, is_reset: bool, lists: Lists<'_>) -> Vec<u8> {
        let entries = lists.clients.len() + lists.gone.len() + lists.cells.len();
        let mut out = Vec::with_capacity(entries + lists.reports.len() + 256);
        out.extend_from_slice(b"{\"at\":");
        write_time(self.at, &mut out);
        out.extend_from_slice(match self.mode {
            Mode::Clients => b",\"mode\":\"clients\"",
            Mode::Grid => b",\"mode\":\"grid\"",
        });
        if is_reset {
            out.extend_from_slice(b",\"reset\":true");
        }
        out.extend_from_slice(b",\"records\":");
        write_u64(self.records as u64, &mut out);
        for (name, entries) in [
            ("clients", lists.clients),
            ("gone", lists.gone),
            ("cells", lists.cells),
        ] {
            write_list(name, [b'[', b']'], entries, &mut out);
        }
        write_list("reports", [b'{', b'}'], lists.reports, &mut out);
        out.push(b'}');
        out
    }
}

/// Appends a list, if it has entries.
fn write_list(name: &str, [begin, end]: [u8; 2], entries: &[u8], out: &mut Vec<u8>) {
    if let Some((_, entries)) = entries.split_first() {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&[b'"', b':', begin]);
        out.extend_from_slice(entries);
        out.push(end);
    }
}
