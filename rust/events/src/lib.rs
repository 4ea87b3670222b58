//! What our own servers have to tell: one JSON object a line on standard error, as `iotistica.log`
//! writes it in Python.

#![forbid(unsafe_code)]

use std::io::Write;
use std::sync::OnceLock;
use std::time::SystemTime;

use log::kv::{Error, Key, Value, VisitSource};
use log::{Log, Metadata, Record};
use serde_json::Map;

struct JsonLines;

/// Fields of every line.
static CONTEXT: OnceLock<Map<String, serde_json::Value>> = OnceLock::new();

struct Fields(Map<String, serde_json::Value>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let value = match (value.to_u64(), value.to_bool()) {
            (Some(number), _) => number.into(),
            (_, Some(flag)) => flag.into(),
            _ => value.to_string().into(),
        };
        self.0.insert(key.to_string(), value);
        Ok(())
    }
}

impl Log for JsonLines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level() && metadata.target().starts_with("iotistica")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut fields = Fields(Map::new());
        let level = match record.level() {
            log::Level::Warn => "warning".to_owned(),
            level => level.as_str().to_lowercase(),
        };
        let time = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
        fields.0.insert("level".into(), level.into());
        fields.0.insert("time".into(), time.into());
        fields.0.insert("msg".into(), record.args().to_string().into());
        fields.0.extend(CONTEXT.get().cloned().unwrap_or_default());
        // Our own visitor never fails.
        let _ = record.key_values().visit(&mut fields);
        // In one write, so that lines of two threads do not mix.
        let line = format!("{}\n", serde_json::Value::Object(fields.0));
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

/// Send the log of this process to standard error. `level`: debug, info, warning or error;
/// `context` (service, process) stands in every line.
pub fn configure(level: &str, context: &[(&str, &str)]) {
    let context = context.iter().map(|(name, value)| ((*name).to_owned(), (*value).into()));
    let _ = CONTEXT.set(context.collect());
    let level = match level {
        "debug" => log::LevelFilter::Debug,
        "warning" => log::LevelFilter::Warn,
        "error" => log::LevelFilter::Error,
        _ => log::LevelFilter::Info,
    };
    // A second server in the same process keeps the first one's logger.
    let _ = log::set_logger(&JsonLines);
    log::set_max_level(level);
}
