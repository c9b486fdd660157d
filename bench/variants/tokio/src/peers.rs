//! Links to the neighbors: records flow over a connection that the sender dials.
//!
//! A link begins with `HELLO NAME`, then come records. A connection that is made starts with all
//! that the cache holds, so a neighbor that was away catches up; newest wins where they meet.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::{Buf, BytesMut};
use herd::config::topology::Address;
use herd::model::record::{MAX_LINE_BYTES, RecordView};
use herd::model::time::Timestamp;
use herd::model::vector::Vector;
use herd::replica::outbox::{LinkId, NeighborStart, OutboxReceiver, Queued};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc};
use tracing::{info, warn};

use crate::Shared;

/// Shortest and longest pause before dialing again; it doubles with each failure.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Shortest time between two copies of the whole cache to one neighbor.
const RESYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes gathered for one write.
const WRITE_BYTES: usize = 256 << 10;

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// Pieces of a copy of the cache that wait to be written.
const COPY_PIECES: usize = 4;

/// A neighbor that is flooded to.
pub(crate) struct Link {
    name: String,
    id: LinkId,
    /// Notified when something is in the link's queue.
    pub(crate) queued: Notify,
}

impl Link {
    pub(crate) fn new(name: &str, id: LinkId) -> Link {
        Link {
            name: name.to_owned(),
            id,
            queued: Notify::new(),
        }
    }
}

/// Keeps a neighbor fed for as long as the server runs.
pub(crate) async fn feed(
    shared: Arc<Shared>,
    index: usize,
    outlet: OutboxReceiver,
    address: Address,
) {
    let link = &shared.links[index];
    let mut pause = BACK_OFF.0;
    loop {
        if let Ok(stream) = TcpStream::connect((address.host.as_str(), address.port)).await {
            pause = BACK_OFF.0;
            info!("connected to {}", link.name);
            let ended = converse(&shared, link, &outlet, stream).await;
            shared.herd.set_down(link.id);
            if let Err(error) = ended {
                warn!("link to {} lost: {error}", link.name);
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACK_OFF.1);
    }
}

async fn converse(
    shared: &Arc<Shared>,
    link: &Link,
    outlet: &OutboxReceiver,
    stream: TcpStream,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = stream.into_split();
    let hello = format!("HELLO {}\n", shared.herd.name());
    writer.write_all(hello.as_bytes()).await?;
    tokio::select! {
        sent = send(shared, link, outlet, &mut writer) => sent,
        ended = end(&mut reader) => ended,
    }
}

/// The neighbor sends nothing back, so whatever comes is the connection's end.
async fn end(reader: &mut OwnedReadHalf) -> io::Result<()> {
    match reader.read(&mut [0; 1]).await? {
        0 => Err(io::Error::other("closed by the neighbor")),
        _ => Err(io::Error::other("the neighbor spoke out of turn")),
    }
}

async fn send(
    shared: &Arc<Shared>,
    link: &Link,
    outlet: &OutboxReceiver,
    writer: &mut OwnedWriteHalf,
) -> io::Result<()> {
    loop {
        // From here on the queue gets what the copy may miss.
        shared.herd.set_live(start(link.id));
        copy(shared, writer).await?;
        let mut lines = Vec::new();
        let mut complete = true;
        while complete {
            while lines.len() < WRITE_BYTES {
                match outlet.try_take() {
                    Ok(Queued::Lines(queued)) => lines.extend_from_slice(&queued),
                    Ok(Queued::Overflowed) => complete = false,
                    Err(_) => break,
                }
            }
            if lines.is_empty() {
                link.queued.notified().await;
            } else {
                writer.write_all(&lines).await?;
                lines.clear();
            }
        }
        warn!("the queue for {} overflowed", link.name);
        tokio::time::sleep(RESYNC_INTERVAL).await;
    }
}

/// Sends every record of the cache. Walking through it takes as long as it is large, so that is
/// done on a thread for blocking work.
async fn copy(shared: &Arc<Shared>, writer: &mut OwnedWriteHalf) -> io::Result<()> {
    let (pieces, mut written) = mpsc::channel::<Vec<u8>>(COPY_PIECES);
    let shared = Arc::clone(shared);
    let scan = tokio::task::spawn_blocking(move || {
        let mut lines = Vec::with_capacity(WRITE_BYTES);
        shared.herd.records_above(
            &Vector::default(),
            Timestamp::now(),
            &mut lines,
            |lines, record| record.write_line(lines),
            // A connection that is lost needs no more pieces.
            |lines| {
                lines.len() < WRITE_BYTES || pieces.blocking_send(std::mem::take(lines)).is_ok()
            },
        );
        drop(pieces.blocking_send(lines));
    });
    while let Some(piece) = written.recv().await {
        writer.write_all(&piece).await?;
    }
    scan.await.map_err(io::Error::other)
}

/// Takes the records of a neighbor that has dialed, until it goes.
pub(crate) async fn receive(mut stream: TcpStream, shared: &Shared) -> Result<()> {
    let mut input = BytesMut::with_capacity(READ_BYTES);
    let mut from = None;
    while stream.read_buf(&mut input).await? > 0 {
        let whole = memchr::memrchr(b'\n', &input).map_or(0, |end| end + 1);
        let mut records = Vec::new();
        for line in input[..whole].split(|&byte| byte == b'\n') {
            if line.is_empty() {
                continue;
            }
            match from {
                None => from = Some(greet(line, shared)?),
                Some(_) => records.push(RecordView::parse_line(line).context("not a record")?),
            }
        }
        if let Some(from) = from
            && shared.herd.adopt(&records, from, Timestamp::now()) > 0
        {
            shared.wake_links();
        }
        input.advance(whole);
        ensure!(input.len() <= MAX_LINE_BYTES, "a line that does not end");
        input.reserve(READ_BYTES);
    }
    Ok(())
}

/// The link of the neighbor that has dialed.
fn greet(line: &[u8], shared: &Shared) -> Result<NeighborStart> {
    let name = line.strip_prefix(b"HELLO ").context("no HELLO")?;
    let link = shared
        .links
        .iter()
        .find(|link| link.name.as_bytes() == name)
        .context("not a neighbor")?;
    info!("heard from {}", link.name);
    Ok(start(link.id))
}

/// These links know no epochs: every start of a neighbor is the same.
fn start(link: LinkId) -> NeighborStart {
    NeighborStart { link, epoch: 0 }
}
