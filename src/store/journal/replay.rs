//! Reads a journal file from front to back, past damage.
//!
//! The file is read in blocks, and records are shown straight from the block: a million of them
//! must be back in the cache before a restarted server gives its first answer.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use super::format::{FRAME_BYTES, HEADER_BYTES, Header, Kind, Seal, number_64, read_record};
use crate::model::record::RecordView;
use crate::model::vector::Vector;

/// Bytes that are read at once.
const BLOCK_BYTES: usize = 1 << 20;

/// What one file held, apart from its records.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Records that were shown.
    pub records: u64,
    /// Bytes that those records take.
    pub record_bytes: u64,
    /// What the file claims to cover, together with the files that it needs.
    pub vector: Vector,
    /// The highest epoch.
    pub epoch: u64,
    /// Whether this file needs no older one; if so, whether the older ones must be kept, since
    /// they were damaged.
    pub complete: Option<bool>,
    /// Where the last intact frame ends.
    pub end: u64,
    /// Unreadable stretches before that, as offset and length.
    pub holes: Vec<(u64, u64)>,
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
            if at > contents.end {
                contents.holes.push((contents.end, at - contents.end));
            }
            if contents.take(kind, payload, show).is_none() {
                // Intact, but not as this program writes it.
                contents.holes.push((at, after - at));
            }
            contents.end = after;
            at = after;
        } else {
            at += 1;
        }
    }
    Ok(contents)
}

/// Behind the last byte of these that is not zero; `from` if there is none.
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
                    let record = read_record(&mut payload)?;
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
            Kind::PeerDigests => {
                let mut claims = Vector::default();
                claims.read_line(super::CLAIMS, payload)?;
                self.vector.merge(&claims);
            }
            Kind::Epoch => self.epoch = self.epoch.max(number_64(payload)),
            Kind::Complete => self.complete = Some(payload != [0]),
        }
        Some(())
    }
}

/// A window on a file that moves forward.
struct Blocks<'a> {
    file: &'a File,
    limit: u64,
    /// Where the bytes at hand begin in the file.
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Blocks<'a> {
    fn new(file: &'a File, limit: u64) -> Blocks<'a> {
        Blocks {
            file,
            limit,
            start: 0,
            bytes: Vec::new(),
        }
    }

    /// The frame that begins at `at`, if an intact one does.
    fn frame(&mut self, seal: Seal, at: u64) -> io::Result<Option<(Kind, &[u8])>> {
        let Some(bytes) = Seal::payload_bytes(self.window(at, FRAME_BYTES)?) else {
            return Ok(None);
        };
        let whole = FRAME_BYTES + bytes;
        let frame = self.window(at, whole)?;
        Ok((frame.len() == whole)
            .then(|| seal.open(frame, at))
            .flatten())
    }

    /// Up to `length` bytes from `at` on; fewer at the end.
    fn window(&mut self, at: u64, length: usize) -> io::Result<&[u8]> {
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
