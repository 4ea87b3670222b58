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
/// The same when the door stops, or the web process has ended it.
const FAREWELL_TIME: Duration = Duration::from_secs(1);

/// Copy until one side ends, nothing has come for too long, or the door stops.
pub async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Connection<S>,
    mut link: Link,
) {
    let times = connection.worker.door.config.times;
    let early = std::mem::take(&mut connection.input);
    let mut stop = connection.stop.clone();
    let (mut client_reader, client_writer) = split(&mut connection.stream);
    let late = std::mem::take(&mut link.input);
    let (web_reader, web_writer) = link.stream.split();
    let active = Cell::new(Instant::now());
    let (client_ended, web_ended) = (Cell::new(false), Cell::new(false));
    let up = async {
        let copied = copy(early, &mut client_reader, web_writer, times.write, &active).await;
        client_ended.set(copied.is_ok());
        if copied.is_err() {
            // The web process takes no more, and its last words are on their way. What the client
            // still sends would reset the connection, and they might be lost with it.
            let _ = timeout(CLOSING_TIME, drain(client_reader)).await;
        } else if !*connection.stop.borrow() && !web_ended.get() {
            sleep(CLOSING_TIME).await;
        }
    };
    let down = Down { writer: client_writer, write_time: times.write, frames: Frames::default() };
    let down = async {
        let copied = down.run(late, web_reader, &active, connection.stop.clone()).await;
        web_ended.set(true);
        if copied.is_ok() && !client_ended.get() {
            sleep(FAREWELL_TIME).await;
        }
    };
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
        () = down => {}
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

/// Read to the end, for nothing.
async fn drain(mut reader: impl AsyncRead + Unpin) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    while reader.read(&mut buffer).await? > 0 {}
    Ok(())
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
                    return send(&mut self.writer, &GOING_AWAY, self.write_time).await;
                }
            };
            if count == 0 {
                return timeout(self.write_time, self.writer.shutdown()).await?;
            }
            active.set(Instant::now());
        }
    }
}
