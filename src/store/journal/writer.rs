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
use super::end_mark::EndMark;
use super::format::{FRAME_BYTES, HEADER_BYTES, Kind, MAX_PAYLOAD_BYTES, MAX_RECORD_BYTES};
use super::format::{Header, Seal};
use super::raw::write_at;
use super::window::{self, Put, WINDOW_BYTES, Window};
use crate::model::record::RecordView;

/// Bytes of appends that wait for a flush; past this an append writes them all.
pub(super) const LAZY_BYTES: usize = 512 << 10;

/// Maximum bytes of an append: those that have gathered, and a group. What an interrupted append
/// leaves is shorter, so a longer tail is damage. (Claims of 20,000 epochs would be longer; torn,
/// they would count as damage, which costs a resync.)
pub(super) const MAX_APPEND_BYTES: u64 = 2 * LAZY_BYTES as u64;

/// Bytes that the buffer for a write may keep; a larger one is freed after use.
const KEPT_BUFFER_BYTES: usize = 1 << 20;

/// The file that is appended to.
#[derive(Debug)]
pub(super) struct Writer {
    /// `None` while there is none, on a disk that was full from the start.
    file: Option<Arc<File>>,
    seal: Seal,
    /// The note of where the journal ends.
    end_mark: EndMark,
    /// Length of the file up to the last whole append.
    end: u64,
    /// True if bytes behind `end` are left from a failed append and could not be cut off yet.
    torn: bool,
    /// True if claims are left out, after a failed append or after damage.
    frozen: bool,
    /// Number of appends that have failed, and of other events for which a compaction begins again.
    failures: u64,
    /// Frames for the next append.
    buffer: Vec<u8>,
    /// The last frame in `buffer` while it may grow: its offset there, and its kind. Appends that
    /// gather share frames, and so the cost of a checksum.
    open: Option<(usize, Kind)>,
    /// True if appends wait in `buffer` for a flush.
    lazy: bool,
    /// True if small appends are to go through windows, where that works.
    wants_windows: bool,
    /// True if small appends go through windows.
    windowed: bool,
    /// True if an append found a part of the file gone: until the next file, none can succeed.
    lost: bool,
    /// True if the file has reached the limit on the size of files.
    outgrown: bool,
    /// The current window; it begins before `end`, and behind `end` it is zeros.
    window: Option<Window>,
    syncer: Syncer,
    /// Bytes that can still be written before the disk is "full".
    #[cfg(test)]
    pub(super) room: Option<u64>,
}

impl Writer {
    /// Appends to `file` from `end` on, which must be the file's length. Without a file, appends
    /// fail until there is one.
    pub(super) fn new(
        file: Option<Arc<File>>,
        header: &Header,
        end: u64,
        frozen: bool,
        syncer: Syncer,
    ) -> Writer {
        Writer {
            seal: Seal::new(header),
            file,
            end_mark: EndMark::default(),
            end,
            torn: false,
            frozen,
            failures: 0,
            buffer: Vec::new(),
            open: None,
            lazy: false,
            wants_windows: false,
            windowed: false,
            lost: false,
            outgrown: false,
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

    /// Returns whether claims are to be left out.
    pub(super) fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Ends the freeze: all that is live has been appended again.
    pub(super) fn thaw(&mut self) {
        self.frozen = false;
    }

    /// Number of events so far for which a compaction begins again, failed appends among them.
    pub(super) fn failures(&self) -> u64 {
        self.failures
    }

    /// Has a compaction that is under way begin again, as after a failed append.
    pub(super) fn interrupt_compaction(&mut self) {
        self.failures += 1;
    }

    /// Returns whether frames wait to be written.
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
        self.wants_windows = true;
        self.windowed = self.file.as_deref().is_some_and(window::suits);
    }

    /// Notes the end of every append in `end_mark` from now on.
    pub(super) fn set_end_mark(&mut self, mut end_mark: EndMark, header: &Header) {
        end_mark.begin_file(header, self.end);
        self.end_mark = end_mark;
    }

    /// The file that is appended to.
    pub(super) fn file(&self) -> Option<&Arc<File>> {
        self.file.as_ref()
    }

    /// The note of where the journal ends.
    pub(super) fn end_mark(&self) -> &EndMark {
        &self.end_mark
    }

    /// Returns whether the file has reached the limit on the size of files.
    pub(super) fn is_outgrown(&self) -> bool {
        self.outgrown
    }

    /// Returns whether an append found a part of the file gone.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
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
        if let Err(error) = &written {
            self.outgrown |= error.kind() == io::ErrorKind::FileTooLarge;
            self.frozen = true;
            self.failures += 1;
            // A part that was written must not stand between this append and the next.
            self.torn = true;
            // The cut is tried again before the next append, which fails if the cut does.
            drop(self.cut());
            return written;
        }
        self.end += length;
        self.end_mark.advance(self.end);
        self.syncer.advance(length);
        Ok(())
    }

    /// Brings bytes to the end of the file: into the window, or else by a write, which opens the
    /// next window too. May append zeros to `bytes`.
    fn write(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        self.cut()?;
        let Some(file) = self.file.as_ref().filter(|_| !self.lost) else {
            return Err(io::Error::other("its file is gone"));
        };
        if let Some(window) = &mut self.window {
            match window.put(self.end, bytes) {
                Put::Done => return Ok(()),
                Put::Outside => {}
                // Another window of this file would fare no better.
                Put::Unpopulated => self.windowed = false,
                Put::Lost => {
                    self.window = None;
                    self.lost = true;
                    return Err(io::Error::other(
                        "a part of its file is gone: it was cut short, or its disk has failed",
                    ));
                }
            }
        }
        self.window = None;
        // A write behind the end of a file that was cut short would lengthen it over the gap, and
        // then nothing would show that records are gone.
        if file.metadata()?.len() < self.end {
            self.lost = true;
            return Err(io::Error::other("its file was cut short"));
        }
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
                write_at(file, &bytes[..fits as usize], self.end)?;
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        write_at(file, bytes, self.end)?;
        if opens {
            // Without a window, appends are writes.
            self.window = Window::open(file, end..window_end).ok();
            self.windowed = self.window.is_some();
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

    /// Cuts off everything behind the last whole append. A file that somebody has cut shorter stays
    /// as it is: lengthened, it would hide that. So does one that was changed: it is to be inspected.
    fn trim(&mut self) -> io::Result<()> {
        self.window = None;
        match &self.file {
            Some(file) if !self.lost && file.metadata()?.len() > self.end => file.set_len(self.end),
            _ => Ok(()),
        }
    }

    /// Goes on in a new file.
    pub(super) fn switch_to(&mut self, file: File, header: &Header) {
        // If this fails, the new file's header says where the old one ends.
        drop(self.trim());
        let file = Arc::new(file);
        self.syncer.begin_file(&file);
        self.file = Some(file);
        self.seal = Seal::new(header);
        self.end = HEADER_BYTES;
        self.end_mark.begin_file(header, self.end);
        self.torn = false;
        self.lost = false;
        self.outgrown = false;
        if self.wants_windows {
            self.set_windowed();
        }
    }

    /// Drops the frames that wait, and leaves out claims from now on: the files that were appended
    /// to are not what they were.
    pub(super) fn give_up(&mut self) {
        self.buffer.clear();
        self.open = None;
        self.lost = true;
        self.frozen = true;
        self.failures += 1;
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

const _: () = assert!(MAX_RECORD_BYTES + FRAME_BYTES < MAX_PAYLOAD_BYTES);
