//! What the door has counted, in the Prometheus text format.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::refusal::Refusal;

#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn subtract(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters of all threads of the door.
#[derive(Debug, Default)]
pub struct Counters {
    /// By the first digit of the status.
    pub answers: [Counter; 6],
    pub refused: [Counter; Refusal::ALL.len()],
    pub connections: Counter,
    pub accepted: Counter,
    pub tunnels: Counter,
    pub received_bytes: Counter,
    pub sent_bytes: Counter,
    pub upstream_failures: Counter,
    pub upstream_retries: Counter,
}

impl Counters {
    pub fn answered(&self, status: u16) {
        if let Some(counter) = self.answers.get(usize::from(status / 100)) {
            counter.add(1);
        }
    }

    pub fn refused(&self, refusal: Refusal) {
        if let Some(counter) = self.refused.get(refusal as usize) {
            counter.add(1);
        }
    }

    /// All metrics; `body_bytes` is what bodies hold now.
    pub fn expose(&self, body_bytes: usize) -> String {
        let mut text = Exposition(String::new());
        let classes = self.answers.iter().enumerate().skip(1);
        let classes = classes.map(|(class, counter)| (format!("{class}xx"), counter.get()));
        text.family(
            "requests_total",
            "counter",
            "Requests answered, by class of the status",
            "class",
            classes,
        );
        let reasons = Refusal::ALL.iter().zip(&self.refused);
        let reasons = reasons.map(|(one, counter)| (one.facts().label.to_owned(), counter.get()));
        text.family(
            "refused_total",
            "counter",
            "Requests that the door itself answered",
            "reason",
            reasons,
        );
        text.single("connections", "gauge", "Connections that are open", self.connections.get());
        text.single("accepted_total", "counter", "Connections accepted", self.accepted.get());
        text.single("tunnels", "gauge", "WebSockets that are open", self.tunnels.get());
        text.single(
            "received_bytes_total",
            "counter",
            "Bytes of heads and bodies of requests",
            self.received_bytes.get(),
        );
        text.single(
            "sent_bytes_total",
            "counter",
            "Bytes of heads and bodies of answers",
            self.sent_bytes.get(),
        );
        text.single(
            "body_bytes",
            "gauge",
            "Memory that bodies of requests take",
            body_bytes as u64,
        );
        text.single(
            "upstream_failures_total",
            "counter",
            "Connections to a web process that failed or broke",
            self.upstream_failures.get(),
        );
        text.single(
            "upstream_retries_total",
            "counter",
            "Requests sent once more after that",
            self.upstream_retries.get(),
        );
        text.0
    }
}

struct Exposition(String);

impl Exposition {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(
            self.0,
            "# HELP iotistica_door_{name} {help}\n# TYPE iotistica_door_{name} {kind}"
        );
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.head(name, kind, help);
        let _ = writeln!(self.0, "iotistica_door_{name} {value}");
    }

    fn family(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        label: &str,
        samples: impl Iterator<Item = (String, u64)>,
    ) {
        self.head(name, kind, help);
        for (value, count) in samples {
            let _ = writeln!(self.0, "iotistica_door_{name}{{{label}=\"{value}\"}} {count}");
        }
    }
}
