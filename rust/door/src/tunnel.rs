//! A WebSocket after its handshake: bytes, both ways.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::connection::Connection;
use crate::upstream::Link;

const BUFFER_BYTES: usize = 8 * 1024;
/// For the other side to say goodbye after one has closed.
const CLOSING_TIME: Duration = Duration::from_secs(5);

/// Copy until one side ends, nothing has come for too long, or the door stops.
pub async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Connection<S>,
    mut link: Link,
) {
    let times = connection.worker.door.config.times;
    let early = std::mem::take(&mut connection.input);
    let mut stop = connection.stop.clone();
    let (client_reader, client_writer) = split(&mut connection.stream);
    let late = std::mem::take(&mut link.input);
    let (web_reader, web_writer) = link.stream.split();
    let active = Cell::new(Instant::now());
    let up = async {
        let copied = copy(early, client_reader, web_writer, times.write, &active).await;
        if copied.is_ok() {
            sleep(CLOSING_TIME).await;
        }
    };
    let idle = async {
        while active.get().elapsed() < times.stream_idle {
            sleep_until(active.get() + times.stream_idle).await;
        }
    };
    tokio::select! {
        () = up => {}
        _ = copy(late, web_reader, client_writer, times.write, &active) => {}
        () = idle => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// Copy `first` and what can be read until the end, then close the writer.
async fn copy(
    first: Vec<u8>,
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    write_time: Duration,
    active: &Cell<Instant>,
) -> io::Result<()> {
    let mut buffer = first;
    loop {
        timeout(write_time, async {
            writer.write_all(&buffer).await?;
            writer.flush().await
        })
        .await??;
        buffer.clear();
        buffer.reserve(BUFFER_BYTES);
        if reader.read_buf(&mut buffer).await? == 0 {
            return timeout(write_time, writer.shutdown()).await?;
        }
        active.set(Instant::now());
    }
}
