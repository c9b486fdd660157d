//! The bytes of a journal file: its header and its frames.
//!
//! The head of the parent module describes the layout. Records within a frame are packed by
//! [`RecordView::pack`](crate::model::record::RecordView::pack).

use crate::model::record::MAX_PACKED_BYTES;

/// Bytes of a file before its first frame: the header, twice.
pub(super) const HEADER_BYTES: u64 = 2 * COPY_BYTES as u64;

/// Bytes of one copy of the header. There are two, since without a header nothing of a file can
/// be read, and one flipped byte should not cost a whole file.
const COPY_BYTES: usize = 64;

const MAGIC: &[u8; 8] = b"herdjrnl";

/// Version of the layout that this program writes. The earlier ones are read too: in the first, there
/// are no tombstones and no [`Kind::Void`]. A later one is refused, not guessed at.
pub(super) const VERSION: u32 = 2;

/// Bytes of a frame before its payload.
pub(super) const FRAME_BYTES: usize = 8;

/// Maximum bytes in a frame's payload; a group that needs more takes several frames, in one write.
/// It also bounds the work of the search for an intact frame at every byte of a damaged file.
pub(super) const MAX_PAYLOAD_BYTES: usize = 64 << 10;

/// Maximum bytes that a record takes in a frame.
pub(super) const MAX_RECORD_BYTES: usize = MAX_PACKED_BYTES;

/// The fields of a file's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Version of the layout.
    pub version: u32,
    /// Number of the file.
    pub number: u64,
    /// Random; part of every checksum in the file.
    pub salt: u64,
    /// Highest epoch of this server so far.
    pub epoch: u64,
    /// Length of the previous file when it was closed.
    pub previous_bytes: u64,
    /// Number of the oldest file that was needed when this one was begun.
    pub first: u64,
}

/// A header that a later version of the program wrote.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct WrongVersion(pub u32);

impl Header {
    pub(super) fn write(&self) -> [u8; HEADER_BYTES as usize] {
        let mut copy = Vec::with_capacity(COPY_BYTES);
        copy.extend_from_slice(MAGIC);
        copy.extend_from_slice(&self.version.to_le_bytes());
        for number in [
            self.number,
            self.salt,
            self.epoch,
            self.previous_bytes,
            self.first,
        ] {
            copy.extend_from_slice(&number.to_le_bytes());
        }
        copy.resize(COPY_BYTES - 4, 0);
        copy.extend_from_slice(&crc32c::crc32c(&copy).to_le_bytes());
        let mut both = [0; HEADER_BYTES as usize];
        both[..COPY_BYTES].copy_from_slice(&copy);
        both[COPY_BYTES..].copy_from_slice(&copy);
        both
    }

    /// The header, from whichever copy is intact.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Header>, WrongVersion> {
        for copy in bytes.chunks_exact(COPY_BYTES).take(2) {
            let (body, checksum) = copy.split_at(COPY_BYTES - 4);
            if crc32c::crc32c(body) != number_32(checksum) || !body.starts_with(MAGIC) {
                continue;
            }
            let version = number_32(&body[8..12]);
            if !(1..=VERSION).contains(&version) {
                return Err(WrongVersion(version));
            }
            let field = |index: usize| number_64(&body[12 + 8 * index..20 + 8 * index]);
            return Ok(Some(Header {
                version,
                number: field(0),
                salt: field(1),
                epoch: field(2),
                previous_bytes: field(3),
                first: field(4),
            }));
        }
        Ok(None)
    }
}

/// The kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Records that this server numbered, in order: it holds everything of that origin and epoch up
    /// to the last of them.
    Own = 1,
    /// Records that claim nothing.
    Records = 2,
    /// Entries of a vector, each true by itself.
    Claims = 3,
    /// An epoch of this server.
    Epoch = 4,
    /// All live records have been written into this file: older files are not needed.
    Complete = 5,
    /// Takes back all that was claimed before, here and in older files.
    Void = 6,
}

/// Number of kinds; they are numbered from 1.
const KINDS: u8 = 6;

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        [
            Kind::Own,
            Kind::Records,
            Kind::Claims,
            Kind::Epoch,
            Kind::Complete,
            Kind::Void,
        ]
        .into_iter()
        .find(|&kind| kind as u8 == byte)
    }
}

/// Makes and checks the checksums of one file's frames.
///
/// They cover the frame's offset and the file's salt. So a frame that a client hides in its
/// id, or that an older file left in the same block, is not intact wherever the search for the
/// next frame after damage finds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seal(u32);

impl Seal {
    pub(super) fn new(header: &Header) -> Seal {
        Seal(crc32c::crc32c(&header.salt.to_le_bytes()))
    }

    fn checksum(self, offset: u64, body: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c_append(self.0, &offset.to_le_bytes()), body)
    }

    /// Begins a frame at the end of `out` and returns its offset there. The caller appends the
    /// payload and then calls [`close`](Self::close).
    pub(super) fn begin(out: &mut Vec<u8>) -> usize {
        let start = out.len();
        out.extend_from_slice(&[0; FRAME_BYTES]);
        start
    }

    /// Ends the frame that begins at `start` of `out` and will lie at `offset` in the file.
    pub(super) fn close(self, out: &mut [u8], start: usize, offset: u64, kind: Kind) {
        let payload = out.len() - start - FRAME_BYTES;
        debug_assert!((1..=MAX_PAYLOAD_BYTES).contains(&payload));
        let word = (kind as u32) << 24 | payload as u32;
        out[start + 4..start + FRAME_BYTES].copy_from_slice(&word.to_le_bytes());
        let checksum = self.checksum(offset, &out[start + 4..]);
        out[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Bytes of the payload of a frame that begins like this, or `None` if no frame does.
    pub(super) fn payload_bytes(start: &[u8]) -> Option<usize> {
        let word = number_32(start.get(4..FRAME_BYTES)?);
        Kind::of((word >> 24) as u8)?;
        let bytes = word as usize & 0xff_ffff;
        (1..=MAX_PAYLOAD_BYTES).contains(&bytes).then_some(bytes)
    }

    /// Offset of the first byte at which a frame may begin, by its kind and its length.
    pub(super) fn find_start(bytes: &[u8]) -> Option<usize> {
        // Bits 16 to 23 of a length are 0, or 1 for the longest payload.
        bytes.windows(FRAME_BYTES).position(|start| {
            start[7].wrapping_sub(1) < KINDS && start[6] < 2 && Seal::payload_bytes(start).is_some()
        })
    }

    /// The payload of a whole frame, if it is intact.
    pub(super) fn open(self, frame: &[u8], offset: u64) -> Option<(Kind, &[u8])> {
        let (checksum, body) = frame.split_at_checked(4)?;
        let intact = self.checksum(offset, body) == number_32(checksum);
        Some((Kind::of(*body.get(3).filter(|_| intact)?)?, body.get(4..)?))
    }
}

fn number_32(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(0, u32::from_le_bytes)
}

/// Reads a number of 8 bytes.
pub(super) fn number_64(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        version: VERSION,
        number: 3,
        salt: 0x1234_5678_9abc_def0,
        epoch: 77,
        previous_bytes: 4_096,
        first: 2,
    };

    #[test]
    fn a_header_survives_any_one_flipped_byte() {
        let bytes = HEADER.write();
        for at in 0..bytes.len() {
            let mut flipped = bytes;
            flipped[at] ^= 0x40;
            assert_eq!(Header::read(&flipped), Ok(Some(HEADER)), "byte {at}");
            flipped[(at + COPY_BYTES) % bytes.len()] ^= 0x40;
            assert_eq!(Header::read(&flipped), Ok(None), "byte {at} of both");
        }
        assert_eq!(Header::read(&bytes[..COPY_BYTES - 1]), Ok(None));
    }

    #[test]
    fn an_earlier_version_is_read_and_a_later_one_not_guessed_at() {
        for version in [0, VERSION + 1, 9] {
            let later = Header { version, ..HEADER };
            assert_eq!(Header::read(&later.write()), Err(WrongVersion(version)));
        }
        for version in 1..=VERSION {
            let header = Header { version, ..HEADER };
            assert_eq!(Header::read(&header.write()), Ok(Some(header)));
        }
    }

    #[test]
    fn a_frame_is_intact_only_where_and_as_it_was_written() {
        let seal = Seal::new(&HEADER);
        let mut frame = Vec::new();
        let start = Seal::begin(&mut frame);
        frame.extend_from_slice(&7u64.to_le_bytes());
        seal.close(&mut frame, start, 500, Kind::Epoch);
        assert_eq!(Seal::payload_bytes(&frame), Some(8));
        assert_eq!(
            seal.open(&frame, 500),
            Some((Kind::Epoch, &7u64.to_le_bytes()[..]))
        );
        assert_eq!(seal.open(&frame, 501), None);
        let other = Seal::new(&Header { salt: 1, ..HEADER });
        assert_eq!(other.open(&frame, 500), None);
        for bit in 0..frame.len() * 8 {
            let mut flipped = frame.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(seal.open(&flipped, 500), None, "bit {bit}");
        }
        assert_eq!(Seal::payload_bytes(&[0; FRAME_BYTES]), None);
    }
}
