//! How far the first filling of a watch has come, and which changes it has left to tell.
//!
//! The cache is read in pieces, each under one lock, as the watcher takes them. A change of a client
//! in a piece that is not read yet will be seen when the piece is read. In a piece that was read, a
//! change counts if the piece had not seen it, which the numbers of the changes tell.

use crate::replica::cache::{HashPosition, PieceRead};

/// Progress of a filling.
#[derive(Debug, Default)]
pub(super) struct Filling {
    /// All clients before this position have been read.
    next: HashPosition,
    /// The pieces that saw changes which the publisher has still to look at, in order.
    fresh: Vec<Fresh>,
}

#[derive(Debug)]
struct Fresh {
    begin: HashPosition,
    end: HashPosition,
    last_change: u64,
}

impl Filling {
    /// Returns where the next piece begins.
    pub(super) fn next(&self) -> HashPosition {
        self.next
    }

    /// Returns whether the whole cache has been read.
    pub(super) fn is_over(&self) -> bool {
        self.next == HashPosition::END
    }

    /// Notes that the next piece was read. All changes up to `published` have been looked at.
    pub(super) fn advance(&mut self, piece: PieceRead, published: u64) {
        self.fresh.retain(|fresh| fresh.last_change > published);
        if piece.last_change > published {
            self.fresh.push(Fresh {
                begin: self.next,
                end: piece.end,
                last_change: piece.last_change,
            });
        }
        self.next = piece.end;
    }

    /// Returns whether a change of that number, of a client at that position, has to be told.
    pub(super) fn counts(&self, position: HashPosition, number: u64) -> bool {
        if position >= self.next {
            return false;
        }
        let index = self.fresh.partition_point(|fresh| fresh.end <= position);
        let fresh = self.fresh.get(index);
        fresh.is_none_or(|fresh| position < fresh.begin || number > fresh.last_change)
    }
}
