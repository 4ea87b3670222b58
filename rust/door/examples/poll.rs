//! Load for `benches/poll.py`: agents that ask again as soon as they have their answer.
//!
//! `poll PORT CONNECTIONS SECONDS FILE SKIP`; each line of the file is a request: path, device key
//! and `ETag`, with spaces between. Each connection goes round its share of them, `SKIP` later in
//! it than at its beginning, or once through it where `SECONDS` is 0. Prints the answers, how many a
//! second, how many of them were 304, and the 99th percentile of their times in microseconds.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

const HEAD_END: &[u8] = b"\r\n\r\n";

#[derive(Default)]
struct Answers {
    micros: Vec<u32>,
    not_modified: usize,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, port, connections, seconds, file, skip] = arguments.as_slice() else {
        return Err("usage: poll PORT CONNECTIONS SECONDS FILE SKIP".into());
    };
    let (port, connections): (u16, usize) = (port.parse()?, connections.parse()?);
    let time = Duration::from_secs_f64(seconds.parse()?);
    let skip: usize = skip.parse()?;
    let requests: Vec<String> =
        std::fs::read_to_string(file)?.lines().filter_map(request).collect();
    let share = requests.len().div_ceil(connections).max(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let began = Instant::now();
    let mut all = LocalSet::new().block_on(&runtime, async {
        let end = (!time.is_zero()).then(|| began + time);
        let mut clients = JoinSet::new();
        for number in 0..connections {
            // With fewer requests than connections all of them ask for the same.
            let first = number * share % requests.len();
            let last = (first + share).min(requests.len());
            let mut mine = requests[first..last].to_vec();
            let skip = skip % mine.len();
            mine.rotate_left(skip);
            clients.spawn_local(ask(port, mine, end));
        }
        let mut all = Answers::default();
        while let Some(one) = clients.join_next().await {
            let one = one.map_err(std::io::Error::other)??;
            all.micros.extend(one.micros);
            all.not_modified += one.not_modified;
        }
        Ok::<Answers, std::io::Error>(all)
    })?;
    all.micros.sort_unstable();
    let count = all.micros.len();
    let at = |part: usize| all.micros.get(count * part / 100).copied().unwrap_or_default();
    let rate = count as f64 / began.elapsed().as_secs_f64();
    println!("{count} {rate:.0} {} {}", all.not_modified, at(99));
    Ok(())
}

fn request(line: &str) -> Option<String> {
    let mut parts = line.splitn(3, ' ');
    let (path, key, etag) = (parts.next()?, parts.next()?, parts.next()?);
    Some(format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Device-API-Key: {key}\r\n\
         If-None-Match: {etag}\r\nAccept: application/json\r\nUser-Agent: agent\r\n\r\n"
    ))
}

/// Ask until `end`, or each once, one request after the other.
async fn ask(port: u16, requests: Vec<String>, end: Option<Instant>) -> std::io::Result<Answers> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let (mut answers, mut buffer) = (Answers::default(), Vec::with_capacity(64 * 1024));
    let turns = if end.is_some() { usize::MAX } else { requests.len() };
    for request in requests.iter().cycle().take(turns) {
        let began = Instant::now();
        if end.is_some_and(|end| began >= end) {
            break;
        }
        stream.write_all(request.as_bytes()).await?;
        buffer.clear();
        let status = loop {
            if let Some(status) = whole(&buffer)? {
                break status;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Err(std::io::Error::other("the connection was closed"));
            }
        };
        answers.micros.push(began.elapsed().as_micros() as u32);
        answers.not_modified += usize::from(status == 304);
    }
    Ok(answers)
}

/// Status of an answer that is all there.
fn whole(answer: &[u8]) -> std::io::Result<Option<u16>> {
    let Some(end) = answer.windows(HEAD_END.len()).position(|four| four == HEAD_END) else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&answer[..end]);
    let status = head.get(9..12).and_then(|text| text.parse().ok()).unwrap_or(0);
    if status == 304 {
        return Ok(Some(status));
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().ok())?
    });
    match length {
        Some(length) if status == 200 => {
            Ok((answer.len() >= end + HEAD_END.len() + length).then_some(status))
        }
        _ => Err(std::io::Error::other(format!("answered {head}"))),
    }
}
