//! Reads a journal file from front to back, past damage.
//!
//! The file is read in blocks, and records are shown straight from the block: a million of them
//! must be back in the cache before a restarted server gives its first reply.
//!
//! Behind a frame that is not intact, the next intact one is searched for at every byte. Garbage can
//! be such that a frame of 64 KiB could begin at every third byte, and checking all of them took 35 s
//! for 64 MiB. So a search may check the sums of only so many bytes for each byte that it goes
//! forward: whatever the garbage, it takes a few nanoseconds a byte. Where that makes it miss frames,
//! they are a few at the edge of such garbage, and count as damaged.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use super::format::{FRAME_BYTES, HEADER_BYTES, Header, Kind, Seal, number_64};
use crate::model::record::RecordView;
use crate::model::vector::Vector;

/// Bytes per read.
const BLOCK_BYTES: usize = 1 << 20;

/// Bytes whose checksum a search may compute for each byte that lies behind it.
const CHECKED_PER_BYTE: u64 = 4;

/// Bytes that a check costs beside those whose checksum it computes.
const CHECK_COST: u64 = 256;

/// Bytes whose checksum a search may compute at once, and so the most that it saves up. Several
/// frames, since the first thing behind damage may be the last thing in the file.
const CHECKED_AT_ONCE: u64 = 1 << 20;

/// Bytes that a search looks at in one go: a frame's worth, so that no block is read twice.
const SEARCH_BYTES: usize = 64 << 10;

/// Unreadable stretches that are listed one by one; the last one reaches to the end of all others.
const MAX_HOLES: usize = 64;

/// The contents of one file, apart from its records.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Number of records shown.
    pub records: u64,
    /// Bytes that those records take.
    pub record_bytes: u64,
    /// Vector that the file claims to cover, together with the files that it needs.
    pub vector: Vector,
    /// True if what older files claim was taken back.
    pub voids_older: bool,
    /// The highest epoch.
    pub epoch: u64,
    /// `Some` if this file needs no older one; then whether the older ones must be kept, since they
    /// were damaged.
    pub complete: Option<bool>,
    /// Offset of the end of the last intact frame.
    pub end: u64,
    /// Unreadable stretches before that, as offset and length.
    pub holes: Vec<(u64, u64)>,
    /// True if further stretches are added to the last one.
    holes_full: bool,
}

/// Shows every record of every intact frame before `limit` to `show`.
pub(super) fn replay(
    file: &File,
    header: &Header,
    limit: u64,
    show: &mut dyn FnMut(&RecordView<'_>),
) -> io::Result<Contents> {
    let seal = Seal::new(header);
    let mut blocks = Blocks::new(file, limit);
    let mut contents = Contents {
        epoch: header.epoch,
        end: HEADER_BYTES.min(limit),
        ..Contents::default()
    };
    let mut at = contents.end;
    while at < limit {
        if let Some((kind, payload)) = blocks.frame(seal, at)? {
            let after = at + (FRAME_BYTES + payload.len()) as u64;
            if contents.take(kind, payload, show).is_none() {
                // An intact frame that this program would not have written.
                contents.add_hole(at, after);
            }
            contents.end = after;
            blocks.advance((after - at) as usize);
            at = after;
        } else {
            let Some(next) = blocks.search(seal, at + 1)? else {
                break;
            };
            contents.add_hole(at, next);
            at = next;
        }
    }
    Ok(contents)
}

/// Returns the offset behind the last byte in `from..to` that is not zero; `from` if there is none.
pub(super) fn written_end(mut file: &File, from: u64, to: u64) -> io::Result<u64> {
    let (mut end, mut at) = (from, from);
    let mut block = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    while at < to {
        block.resize((to - at).min(BLOCK_BYTES as u64) as usize, 0);
        file.read_exact(&mut block)?;
        if let Some(last) = block.iter().rposition(|&byte| byte != 0) {
            end = at + last as u64 + 1;
        }
        at += block.len() as u64;
    }
    Ok(end)
}

impl Contents {
    fn add_hole(&mut self, from: u64, to: u64) {
        match self.holes.last_mut() {
            Some((first, bytes)) if *first + *bytes == from => *bytes = to - *first,
            Some((first, bytes)) if self.holes_full => *bytes = to - *first,
            _ => self.holes.push((from, to - from)),
        }
        self.holes_full = self.holes.len() >= MAX_HOLES;
    }

    fn take(
        &mut self,
        kind: Kind,
        mut payload: &[u8],
        show: &mut dyn FnMut(&RecordView<'_>),
    ) -> Option<()> {
        match kind {
            Kind::Own | Kind::Records => {
                self.record_bytes += (FRAME_BYTES + payload.len()) as u64;
                let mut last = None;
                while !payload.is_empty() {
                    let record = RecordView::unpack(&mut payload)?;
                    show(&record);
                    self.records += 1;
                    last = Some(record);
                }
                let last = last.filter(|_| kind == Kind::Own);
                if let Some(record) = last {
                    self.vector
                        .advance(record.origin, record.epoch, record.sequence);
                }
            }
            Kind::Claims => {
                let mut claims = Vector::default();
                claims.read_line(super::CLAIMS, payload)?;
                self.vector.merge(&claims);
            }
            Kind::Epoch => self.epoch = self.epoch.max(number_64(payload)),
            Kind::Complete => self.complete = Some(payload != [0]),
            Kind::Void => {
                self.vector = Vector::default();
                self.voids_older = true;
            }
        }
        Some(())
    }
}

/// A file that is read forward, in blocks.
struct Blocks<'a> {
    file: &'a File,
    limit: u64,
    /// Offset of `bytes` in the file.
    start: u64,
    bytes: Vec<u8>,
    /// Bytes whose checksum searches may compute now.
    allowed: u64,
}

impl<'a> Blocks<'a> {
    fn new(file: &'a File, limit: u64) -> Blocks<'a> {
        Blocks {
            file,
            limit,
            start: 0,
            bytes: Vec::new(),
            allowed: CHECKED_AT_ONCE,
        }
    }

    /// Returns the frame that begins at `at`, if it is intact.
    fn frame(&mut self, seal: Seal, at: u64) -> io::Result<Option<(Kind, &[u8])>> {
        let Some(bytes) = Seal::payload_bytes(self.read(at, FRAME_BYTES)?) else {
            return Ok(None);
        };
        let whole = FRAME_BYTES + bytes;
        let frame = self.read(at, whole)?;
        Ok((frame.len() == whole)
            .then(|| seal.open(frame, at))
            .flatten())
    }

    /// Allows a later search more, for so many bytes that lie behind.
    fn advance(&mut self, bytes: usize) {
        self.allowed = CHECKED_AT_ONCE.min(self.allowed + CHECKED_PER_BYTE * bytes as u64);
    }

    /// Returns the offset of the first intact frame from `at` on that is found.
    fn search(&mut self, seal: Seal, mut at: u64) -> io::Result<Option<u64>> {
        while at.saturating_add(FRAME_BYTES as u64) < self.limit {
            let block = self.read(at, SEARCH_BYTES)?;
            let (candidate, skipped) = match Seal::find_start(block) {
                Some(skipped) => (true, skipped),
                // The last bytes may be the start of a frame whose rest is in the next block.
                None => (false, block.len() - (FRAME_BYTES - 1)),
            };
            at += skipped as u64;
            self.advance(skipped);
            if !candidate {
                continue;
            }
            let start = self.read(at, FRAME_BYTES)?;
            let whole = Seal::payload_bytes(start).map_or(0, |bytes| (FRAME_BYTES + bytes) as u64);
            let cost = whole + CHECK_COST;
            let skipped = if whole > self.limit - at {
                1
            } else if cost <= self.allowed {
                if self.frame(seal, at)?.is_some() {
                    return Ok(Some(at));
                }
                self.allowed -= cost;
                1
            } else {
                // Goes on where so much would be allowed.
                (cost - self.allowed).div_ceil(CHECKED_PER_BYTE)
            };
            at += skipped;
            self.advance(skipped as usize);
        }
        Ok(None)
    }

    /// Returns up to `length` bytes from `at` on; fewer at the end.
    fn read(&mut self, at: u64, length: usize) -> io::Result<&[u8]> {
        let length = (self.limit - at).min(length as u64) as usize;
        if at < self.start || at + length as u64 > self.start + self.bytes.len() as u64 {
            let wanted = (self.limit - at).min(BLOCK_BYTES.max(length) as u64) as usize;
            self.bytes.resize(wanted, 0);
            self.start = at;
            let mut file = self.file;
            file.seek(SeekFrom::Start(at))?;
            file.read_exact(&mut self.bytes)?;
        }
        let from = (at - self.start) as usize;
        Ok(&self.bytes[from..from + length])
    }
}
