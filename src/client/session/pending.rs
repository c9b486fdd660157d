//! The long waits of a session: for a disk that stalls, for a sync, and for a places provider on the
//! network.
//!
//! No worker has to block in them. While such a wait lasts, the replies that depend on it are with
//! the wait and not with the session, so a session cannot send them early or mix up two waits.

use crate::client::counts::LateRequest;
use crate::client::services::Services;
use crate::model::time::Timestamp;
use crate::places::RemoteSearch;
use crate::store::journal::SyncPosition;

/// A wait that a session needs before it can continue, with the replies held until it is over.
#[derive(Debug)]
pub(crate) enum Pending {
    /// Until records can be changed again: the disk has not answered another worker's append. The
    /// session has stored the lines that wait for it, received at that time.
    Stall(Timestamp),
    /// Until the journal is on disk up to the position behind the last report of a turn.
    Sync(SyncPosition, Box<Released>),
    /// Until a places provider on the network has answered.
    Places(Box<PlacesCall>),
}

/// A `WHATSAT` that a provider on the network answers. Boxed where it is stored, since it is large
/// and few sessions have one.
#[derive(Debug)]
pub(crate) struct PlacesCall {
    /// The beginning of the reply: the `AT` line.
    pub(super) reply: Vec<u8>,
    /// The search, not yet started.
    pub(super) search: RemoteSearch,
    /// Counts it, once it is answered or given up.
    pub(super) request: LateRequest,
}

/// Replies that are sent once their wait is over.
#[derive(Debug)]
pub(crate) struct Released {
    pub(super) replies: Vec<u8>,
    /// Set if the replies still have to be logged as sent.
    pub(super) unlogged: bool,
    /// The search to be started once the replies are sent.
    pub(super) next: Option<Box<PlacesCall>>,
    /// Time at which the lines were received that are stored, if they waited.
    pub(super) received: Option<Timestamp>,
}

impl Pending {
    /// Starts the wait and returns. `done` is called once, at once or later, on any thread.
    pub(crate) fn start(
        self,
        services: &Services,
        done: impl FnOnce(Box<Released>) + Send + 'static,
    ) {
        match self {
            Pending::Stall(received) => {
                let released = Box::new(Released {
                    replies: Vec::new(),
                    unlogged: false,
                    next: None,
                    received: Some(received),
                });
                services.stall.wait(Box::new(move || done(released)));
            }
            Pending::Sync(position, released) => match &services.durability {
                Some(durability) => {
                    durability.wait(position, Box::new(move || done(released)));
                }
                // Without a journal there is nothing to wait for.
                None => done(released),
            },
            Pending::Places(call) => {
                let PlacesCall {
                    mut reply,
                    search,
                    mut request,
                } = *call;
                search.start(Box::new(move |answer| {
                    if answer.is_ok {
                        request.answered();
                    }
                    drop(request);
                    reply.extend_from_slice(answer.json);
                    end_places(&mut reply);
                    done(Box::new(Released {
                        replies: reply,
                        unlogged: true,
                        next: None,
                        received: None,
                    }));
                }));
            }
        }
    }
}

/// Appends the two newlines that end a reply with places.
pub(super) fn end_places(reply: &mut Vec<u8>) {
    reply.extend_from_slice(b"\n\n");
}
