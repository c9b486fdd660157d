//! The rules that a run can leave out, to show that it fails without.

/// A rule that is left out, by its name in `docs/replication.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Without {
    Nothing,
    /// Records compare by time only: "the same or an older time stops".
    TotalOrder,
    /// Every server judges a time by its own clock, not only the origin.
    OriginClock,
    /// A single record advances the vector, not only a marker.
    VectorByMarker,
    /// An overflow drops the queued records and the link stays live.
    Overflow,
    /// The vector claims a report a step before it is stored.
    OneGroup,
    /// A new connection is live without a resync: earlier records are not sent.
    Resync,
    /// Records reach the disk later than the vector that covers them.
    DurableVector,
    /// The start of a neighbor that a record came from: it is left out for the neighbor instead.
    StartOfSource,
    /// A compaction of the journal leaves out tombstones before their time.
    TombstonesUntilDeath,
    /// A tombstone has the present time, also where the device's clock is ahead of it.
    TombstoneBehindRecord,
    /// The age is lengthened although a server is away, which comes back with its folder.
    LengtheningTogether,
    /// Every clock is believed.
    ConfirmedClock,
    /// Records that are dead are adopted, and sent.
    NoAdoptionOfTheDead,
    /// Markers are taken of a server that forgets earlier.
    MarkersByAge,
    /// A server that forgets later from now on keeps the claims of what it dropped.
    ClaimsLostByLengthening,
    /// A server that forgets later from now on keeps what had expired in its journal.
    ExpiredLostByLengthening,
}
