//! The pushes, as a watcher is shown them.

use crate::model::record::RecordView;

/// One line that a watcher is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Push<'a> {
    /// The filling of a watch begins: nothing that was told of it before is valid.
    Reset {
        /// Name of the watch.
        name: &'a [u8],
    },
    /// A client that is there at the filling.
    Inside {
        /// Name of the watch.
        name: &'a [u8],
        /// The client's record.
        record: RecordView<'a>,
    },
    /// The filling is over.
    Settled {
        /// Name of the watch.
        name: &'a [u8],
        /// Number of clients that the watcher has been told to be there.
        clients: usize,
    },
    /// A client has come.
    Enter {
        /// Name of the watch.
        name: &'a [u8],
        /// The client's record.
        record: RecordView<'a>,
    },
    /// A client has reported from inside, where it was before. Of a watched client: has reported.
    Move {
        /// Name of the watch.
        name: &'a [u8],
        /// The client's record.
        record: RecordView<'a>,
    },
    /// A client has left.
    Leave {
        /// Name of the watch.
        name: &'a [u8],
        /// The client's record, of a place outside.
        record: RecordView<'a>,
    },
    /// A client that was there was forgotten, or its record has expired.
    Gone {
        /// Name of the watch.
        name: &'a [u8],
        /// The client.
        client: &'a [u8],
    },
}
