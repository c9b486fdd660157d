//! Reads a journal file from front to back, past damage.
//!
//! The file is read in blocks, and records are shown straight from the block: a million of them
//! must be back in the cache before a restarted server gives its first reply.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use super::format::{FRAME_BYTES, HEADER_BYTES, Header, Kind, Seal, number_64};
use crate::model::record::RecordView;
use crate::model::vector::Vector;

/// Bytes per read.
const BLOCK_BYTES: usize = 1 << 20;

/// The contents of one file, apart from its records.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Number of records shown.
    pub records: u64,
    /// Bytes that those records take.
    pub record_bytes: u64,
    /// Vector that the file claims to cover, together with the files that it needs.
    pub vector: Vector,
    /// The highest epoch.
    pub epoch: u64,
    /// `Some` if this file needs no older one; then whether the older ones must be kept, since they
    /// were damaged.
    pub complete: Option<bool>,
    /// Offset of the end of the last intact frame.
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
                // An intact frame that this program would not have written.
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
