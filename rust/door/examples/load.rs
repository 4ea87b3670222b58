//! Load for `benches/door.py`: clients that ask again as soon as they have their answer.
//!
//! `load PORT CONNECTIONS SECONDS PATH`; prints requests a second, and the median and the 99th
//! percentile of their times in microseconds.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, port, connections, seconds, path] = arguments.as_slice() else {
        return Err("usage: load PORT CONNECTIONS SECONDS PATH".into());
    };
    let (port, connections): (u16, usize) = (port.parse()?, connections.parse()?);
    let time = Duration::from_secs_f64(seconds.parse()?);
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nIf-None-Match: \"abc\"\r\nAccept: */*\r\n\
         User-Agent: load\r\nAuthorization: Bearer 0123456789abcdef0123456789abcdef\r\n\r\n"
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut times = LocalSet::new().block_on(&runtime, async {
        let end = Instant::now() + time;
        let mut clients = JoinSet::new();
        for _ in 0..connections {
            clients.spawn_local(ask(port, request.clone(), end));
        }
        let mut all = Vec::new();
        while let Some(one) = clients.join_next().await {
            all.extend(one.map_err(std::io::Error::other)??);
        }
        Ok::<Vec<u32>, std::io::Error>(all)
    })?;
    times.sort_unstable();
    let rate = times.len() as f64 / time.as_secs_f64();
    let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
    println!("{rate:.0} {} {}", at(50), at(99));
    Ok(())
}

/// Ask until `end`; microseconds of each request.
async fn ask(port: u16, request: String, end: Instant) -> std::io::Result<Vec<u32>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let (mut times, mut answer) = (Vec::new(), Vec::with_capacity(64 * 1024));
    while Instant::now() < end {
        let began = Instant::now();
        stream.write_all(request.as_bytes()).await?;
        answer.clear();
        while !is_whole(&answer)? {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err(std::io::Error::other("the connection was closed"));
            }
        }
        times.push(began.elapsed().as_micros() as u32);
    }
    Ok(times)
}

/// Whether all of the answer is there; the error is an answer that was not asked for.
fn is_whole(answer: &[u8]) -> std::io::Result<bool> {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(false) };
    if head.starts_with("HTTP/1.1 304") {
        return Ok(true);
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().ok())?
    });
    match (head.starts_with("HTTP/1.1 200"), length) {
        (true, Some(length)) => Ok(body.len() >= length),
        _ => Err(std::io::Error::other(format!("answered {}", head.lines().next().unwrap_or("")))),
    }
}
