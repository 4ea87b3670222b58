//! A WebSocket after its handshake: bytes, both ways.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::connection::Connection;
use crate::frames::{Frames, GOING_AWAY};
use crate::upstream::Link;

const BUFFER_BYTES: usize = 8 * 1024;
/// For the other side to say goodbye after one has closed.
const CLOSING_TIME: Duration = Duration::from_secs(5);
/// The same when the door stops.
const FAREWELL_TIME: Duration = Duration::from_secs(1);

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
        if copied.is_ok() && !*connection.stop.borrow() {
            sleep(CLOSING_TIME).await;
        }
    };
    let down = Down { writer: client_writer, write_time: times.write, frames: Frames::default() };
    let idle = async {
        while active.get().elapsed() < times.stream_idle {
            sleep_until(active.get() + times.stream_idle).await;
        }
    };
    let cut = async {
        let _ = stop.wait_for(|stop| *stop).await;
        sleep(FAREWELL_TIME).await;
    };
    tokio::select! {
        () = up => {}
        _ = down.run(late, web_reader, &active, connection.stop.clone()) => {}
        () = idle => {}
        () = cut => {}
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
        send(&mut writer, &buffer, write_time).await?;
        buffer.clear();
        buffer.reserve(BUFFER_BYTES);
        if reader.read_buf(&mut buffer).await? == 0 {
            return timeout(write_time, writer.shutdown()).await?;
        }
        active.set(Instant::now());
    }
}

async fn send(
    writer: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    write_time: Duration,
) -> io::Result<()> {
    timeout(write_time, async {
        writer.write_all(bytes).await?;
        writer.flush().await
    })
    .await?
}

/// The way to the client, who is told when the door stops.
struct Down<W> {
    writer: W,
    write_time: Duration,
    frames: Frames,
}

impl<W: AsyncWrite + Unpin> Down<W> {
    async fn run(
        mut self,
        first: Vec<u8>,
        mut reader: impl AsyncRead + Unpin,
        active: &Cell<Instant>,
        mut stop: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let mut buffer = first;
        loop {
            send(&mut self.writer, &buffer, self.write_time).await?;
            self.frames.push(&buffer);
            buffer.clear();
            buffer.reserve(BUFFER_BYTES);
            let count = tokio::select! {
                biased;
                read = reader.read_buf(&mut buffer) => read?,
                _ = stop.wait_for(|stop| *stop), if self.frames.is_between() => {
                    send(&mut self.writer, &GOING_AWAY, self.write_time).await?;
                    sleep(FAREWELL_TIME).await;
                    return Ok(());
                }
            };
            if count == 0 {
                return timeout(self.write_time, self.writer.shutdown()).await?;
            }
            active.set(Instant::now());
        }
    }
}
