//! A record that owns its bytes, for tests that keep records of a server and compare them later.
//!
//! `RecordView` is the parent module's: one test program compiles the server's modules itself.

use super::RecordView;

/// A record in its packed form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record(Box<[u8]>);

impl Record {
    /// Copies the record.
    pub(crate) fn new(view: &RecordView<'_>) -> Record {
        let mut bytes = Vec::with_capacity(view.packed_bytes());
        view.pack(&mut bytes);
        Record(bytes.into())
    }

    pub(crate) fn view(&self) -> RecordView<'_> {
        RecordView::unpack(&mut &*self.0).unwrap()
    }
}
