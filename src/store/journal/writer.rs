//! Appends frames to the newest file of a journal.
//!
//! Frames gather in a buffer and reach the file in one append: by a copy into the mapped
//! [`Window`], or by a write, which opens the next window. An append that fails is cut off again;
//! from then on the writer is *frozen* until a compaction has succeeded. Which records are
//! appended, and what the journal claims, is decided by the parent module.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::Syncer;
use super::format::{FRAME_BYTES, HEADER_BYTES, Kind, MAX_PAYLOAD_BYTES, MAX_RECORD_BYTES};
use super::format::{Header, Seal};
use super::window::{self, WINDOW_BYTES, Window};
use crate::model::record::RecordView;

/// Bytes of appends that wait for a flush; past this an append writes them all.
pub(super) const LAZY_BYTES: usize = 512 << 10;

/// Bytes that the buffer for a write may keep; a larger one is freed after use.
const KEPT_BUFFER_BYTES: usize = 1 << 20;

/// The file that is appended to.
#[derive(Debug)]
pub(super) struct Writer {
    file: Arc<File>,
    seal: Seal,
    /// Length of the file up to the last whole append.
    end: u64,
    /// Whether bytes behind `end` are left from a failed append and could not be cut off yet.
    torn: bool,
    /// Whether claims are left out, after a failed append or after damage.
    frozen: bool,
    /// Number of appends that have failed.
    failures: u64,
    /// Frames for the next append.
    buffer: Vec<u8>,
    /// The last frame in `buffer` while it may grow: its offset there, and its kind. Appends that
    /// gather share frames, and so the cost of a checksum.
    open: Option<(usize, Kind)>,
    /// Whether appends wait in `buffer` for a flush.
    lazy: bool,
    /// Whether small appends go through windows.
    windowed: bool,
    /// The current window; it begins before `end`, and behind `end` it is zeros.
    window: Option<Window>,
    syncer: Syncer,
    /// Bytes that can still be written before the disk is "full".
    #[cfg(test)]
    pub(super) room: Option<u64>,
}

impl Writer {
    /// Appends to `file` from `end` on, which must be the file's length.
    pub(super) fn new(
        file: Arc<File>,
        header: &Header,
        end: u64,
        frozen: bool,
        syncer: Syncer,
    ) -> Writer {
        Writer {
            seal: Seal::new(header),
            file,
            end,
            torn: false,
            frozen,
            failures: 0,
            buffer: Vec::new(),
            open: None,
            lazy: false,
            windowed: false,
            window: None,
            syncer,
            #[cfg(test)]
            room: None,
        }
    }

    /// Length of the file up to the last whole append.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Whether claims are to be left out.
    pub(super) fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Ends the freeze: all that is live has been appended again.
    pub(super) fn thaw(&mut self) {
        self.frozen = false;
    }

    /// Number of appends that have failed so far.
    pub(super) fn failures(&self) -> u64 {
        self.failures
    }

    /// Whether frames wait to be written.
    pub(super) fn is_behind(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// A handle that brings the file to disk.
    pub(super) fn syncer(&self) -> &Syncer {
        &self.syncer
    }

    /// Lets appends gather, up to [`LAZY_BYTES`].
    pub(super) fn set_lazy(&mut self) {
        self.lazy = true;
    }

    /// Lets small appends go through windows, where the file system suits them.
    pub(super) fn set_windowed(&mut self) {
        self.windowed = window::suits(&self.file);
    }

    /// Adds a record to the frame that is open, or to a new one. Returns the bytes added, frame
    /// headers included.
    pub(super) fn put_record(&mut self, kind: Kind, record: &RecordView<'_>) -> usize {
        let before = self.buffer.len();
        let grows = self.open.is_some_and(|(start, open)| {
            let payload = self.buffer.len() - start - FRAME_BYTES;
            open == kind && payload <= MAX_PAYLOAD_BYTES - MAX_RECORD_BYTES
        });
        if !grows {
            self.open_frame(kind);
        }
        record.pack(&mut self.buffer);
        self.buffer.len() - before
    }

    /// Adds a frame to the next append.
    pub(super) fn put(&mut self, kind: Kind, payload: &[u8]) {
        self.open_frame(kind);
        self.buffer.extend_from_slice(payload);
        self.close_frame();
    }

    fn open_frame(&mut self, kind: Kind) {
        self.close_frame();
        self.open = Some((Seal::begin(&mut self.buffer), kind));
    }

    fn close_frame(&mut self) {
        if let Some((start, kind)) = self.open.take() {
            let offset = self.end + start as u64;
            self.seal.close(&mut self.buffer, start, offset, kind);
        }
    }

    /// Writes the frames that were put, unless they may wait.
    pub(super) fn end_append(&mut self) -> io::Result<()> {
        if self.lazy && self.buffer.len() < LAZY_BYTES {
            return Ok(());
        }
        self.write_out()
    }

    /// Writes the frames that were put, in one append. After an error none of them is in the file,
    /// and the writer is frozen.
    pub(super) fn write_out(&mut self) -> io::Result<()> {
        self.close_frame();
        let mut buffer = std::mem::take(&mut self.buffer);
        let length = buffer.len() as u64;
        let written = self.write(&mut buffer);
        buffer.clear();
        buffer.shrink_to(KEPT_BUFFER_BYTES);
        self.buffer = buffer;
        if written.is_err() {
            self.frozen = true;
            self.failures += 1;
            // A part that was written must not stand between this append and the next.
            self.torn = true;
            // The cut is tried again before the next append, which fails if the cut does.
            drop(self.cut());
            return written;
        }
        self.end += length;
        self.syncer.advance(length);
        Ok(())
    }

    /// Brings bytes to the end of the file: into the window, or else by a write, which opens the
    /// next window too. May append zeros to `bytes`.
    fn write(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        self.cut()?;
        if self
            .window
            .as_mut()
            .is_some_and(|window| window.put(self.end, bytes))
        {
            return Ok(());
        }
        self.window = None;
        let end = self.end + bytes.len() as u64;
        let window_end = end.next_multiple_of(WINDOW_BYTES);
        // A large append would find no window large enough, and after a full disk only the bytes
        // that are needed are written.
        let opens = self.windowed && !self.frozen && bytes.len() as u64 <= WINDOW_BYTES / 4;
        if opens {
            bytes.resize((window_end - self.end) as usize, 0);
        }
        #[cfg(test)]
        if let Some(room) = &mut self.room {
            let fits = (*room).min(bytes.len() as u64);
            *room -= fits;
            if fits < bytes.len() as u64 {
                write_at(&self.file, &bytes[..fits as usize], self.end)?;
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        write_at(&self.file, bytes, self.end)?;
        if opens {
            // Without a window the next append is a write like this one.
            self.window = Window::open(&self.file, end..window_end).ok();
        }
        Ok(())
    }

    /// Cuts off the remains of a failed append.
    fn cut(&mut self) -> io::Result<()> {
        if self.torn {
            self.trim()?;
            self.torn = false;
        }
        Ok(())
    }

    /// Cuts off everything behind the last whole append.
    fn trim(&mut self) -> io::Result<()> {
        self.window = None;
        self.file.set_len(self.end)
    }

    /// Goes on in a new file.
    pub(super) fn switch_to(&mut self, file: File, header: &Header) {
        // If this fails, the new file's header says where the old one ends.
        drop(self.trim());
        self.file = Arc::new(file);
        self.syncer.begin_file(&self.file);
        self.seal = Seal::new(header);
        self.end = HEADER_BYTES;
        self.torn = false;
    }

    #[cfg(test)]
    pub(super) fn buffered_bytes(&self) -> usize {
        self.buffer.len()
    }

    #[cfg(test)]
    pub(super) fn is_windowed(&self) -> bool {
        self.windowed
    }

    #[cfg(test)]
    pub(super) fn has_window(&self) -> bool {
        self.window.is_some()
    }

    /// Closes the window, so that the next append is a write.
    #[cfg(test)]
    pub(super) fn close_window(&mut self) {
        self.window = None;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Zeros that stay behind do no harm: they are cut off when the journal is opened.
        drop(self.trim());
    }
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(not(unix))]
fn write_at(mut file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    use std::io::{Seek, SeekFrom, Write};
    file.seek(SeekFrom::Start(at))?;
    file.write_all(bytes)
}

const _: () = assert!(MAX_RECORD_BYTES + FRAME_BYTES < MAX_PAYLOAD_BYTES);
