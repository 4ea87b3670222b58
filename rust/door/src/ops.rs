//! The operations listener: `/health`, `/ready`, `/metrics`, as `iotistica.ops` has them.

use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::door::Worker;
use crate::request::Request;
use crate::scan::{HeadLimits, Scanner};

const LIMITS: HeadLimits = HeadLimits { line_bytes: 4096, head_bytes: 8192 };
const TIME: Duration = Duration::from_secs(5);

/// Answer on the listener for ever.
pub async fn serve(listener: TcpListener, worker: Rc<Worker>) {
    let started = Instant::now();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let worker = worker.clone();
                tokio::task::spawn_local(timeout(TIME, answer(stream, worker, started)));
            }
            Err(error) => {
                log::error!(error:display = error; "cannot accept a connection for operations");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One request, one answer, and the end.
async fn answer(mut stream: TcpStream, worker: Rc<Worker>, started: Instant) -> Option<()> {
    let (mut input, mut scanner) = (Vec::with_capacity(1024), Scanner::default());
    let found = loop {
        if let Some(found) = scanner.scan(&input, LIMITS).ok()? {
            break found;
        }
        if stream.read_buf(&mut input).await.ok()? == 0 {
            return None;
        }
    };
    let request = Request::parse(input.get(found.start..found.end)?, 64).ok()?;
    let path = request.target.split('?').next().unwrap_or_default();
    let (status, media_type, body) = match (request.method, path) {
        ("GET" | "HEAD", "/health") => (200, "application/json", health(started)),
        ("GET" | "HEAD", "/ready") => ready(&worker).await,
        ("GET" | "HEAD", "/metrics") => {
            let text = worker.door.counters.expose(worker.door.room.used());
            (200, "text/plain; version=0.0.4; charset=utf-8", text)
        }
        (method, path) => {
            let what = format!("Route {method} {path} not found");
            let body = serde_json::json!({"error": "Not found", "message": what});
            (404, "application/json", body.to_string())
        }
    };
    let length = body.len();
    let body = if request.method == "HEAD" { String::new() } else { body };
    let text = format!(
        "HTTP/1.1 {status} Answer\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes()).await.ok()
}

fn health(started: Instant) -> String {
    let body = serde_json::json!({
        "status": "healthy",
        "service": "iotistica-api door",
        "timestamp": iotistica_time(SystemTime::now()),
        "uptime": started.elapsed().as_secs_f64(),
    });
    body.to_string()
}

fn iotistica_time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

async fn ready(worker: &Worker) -> (u16, &'static str, String) {
    let mut reasons = Vec::new();
    if !worker.upstreams.is_any_there().await {
        reasons.push("no web process takes a connection");
    }
    if *worker.door.stop.borrow() {
        reasons.push("the process is stopping");
    }
    let status = if reasons.is_empty() { 200 } else { 503 };
    let body = serde_json::json!({"ready": reasons.is_empty(), "reasons": reasons});
    (status, "application/json", body.to_string())
}
