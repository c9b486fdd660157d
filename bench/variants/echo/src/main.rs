//! A bare echo on tokio's multi-thread runtime: the floor that the server's CPU per request is
//! compared with.
//!
//! It sends back what it has read, without looking at it: no lines, no limits, no deadlines, no
//! state. Anything a real server does comes on top, so nothing here flatters the comparison.

use std::error::Error;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// As the server reads at once.
const READ_BYTES: usize = 16 << 10;

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let usage = "usage: herd-echo NAME HOST:PORT [WORKERS]";
    let (name, address) = (words.next().ok_or(usage)?, words.next().ok_or(usage)?);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    // By default it makes a worker for each core, which suits it best.
    if let Some(workers) = words.next() {
        runtime.worker_threads(workers.parse()?);
    }
    runtime.enable_io().build()?.block_on(async {
        let listener = TcpListener::bind(address).await?;
        println!("{name} is ready: clients {}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            // A connection that breaks is the client's loss.
            tokio::spawn(async { drop(echo(stream).await) });
        }
    })
}

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..read]).await?;
    }
}
