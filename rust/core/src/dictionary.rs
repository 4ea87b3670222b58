//! Key-compaction dictionaries: index to field name, and the enums that go with it.
//!
//! Two forms are read (reference section 2): the agent's own message `meta/dictionary`, and the
//! parts that Redis holds. They differ in where the names stand.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use serde_json::{Map, Value as Json};

/// Longest list of field names; an index beyond it is a mistake, not a dictionary.
const MAX_FIELDS: usize = 65_536;

const MAX_NAME_BYTES: usize = 1024;

/// Quality codes that agents use without announcing them.
const QUALITIES: [(i64, &str); 4] =
    [(1, "GOOD"), (2, "BAD"), (3, "UNCERTAIN"), (4, "NOT_CONNECTED")];

type Names = HashMap<i64, String, foldhash::fast::RandomState>;
type ByProtocol = BTreeMap<String, Names>;

/// A field's name within its object, and whether it is a path to be set nested.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) is_path: bool,
}

/// Whether a name is a path: `a.b`, `m[0].x`.
pub(crate) fn is_path(name: &str) -> bool {
    name.contains(['.', '['])
}

/// Field names and enums of one agent, at one version.
#[derive(Clone, Debug, Default)]
pub struct Dictionary {
    pub version: i64,
    /// SHA-256 over the field names, as the agent computed it; compared, never recomputed.
    pub hash: Option<String>,
    fields: Vec<Option<Field>>,
    metrics: ByProtocol,
    devices: ByProtocol,
    qualities: Names,
    quality_codes: Names,
    units: Names,
}

impl Dictionary {
    /// Parse either form. The error is a sentence for the log.
    pub fn parse(version: i64, json: &[u8]) -> Result<Self, String> {
        let parsed: Json = serde_json::from_slice(json)
            .map_err(|error| format!("dictionary is not JSON: {error}"))?;
        let Json::Object(parts) = parsed else {
            return Err("dictionary is not a JSON object".into());
        };
        let enums = parts.get("enums");
        let part = |name: &str| enums.and_then(|enums| enums.get(name));
        let mut qualities: Names =
            QUALITIES.iter().map(|&(code, name)| (code, name.to_owned())).collect();
        qualities.extend(names(part("quality")));
        // The agents write `devices`, the reference's cloud reads `agents`.
        let devices = parts.get("devices").or_else(|| parts.get("agents"));
        Ok(Self {
            version,
            hash: parts.get("hash").and_then(Json::as_str).map(str::to_owned),
            fields: fields(&parts)?,
            metrics: by_protocol(parts.get("metrics")),
            devices: by_protocol(devices),
            qualities,
            quality_codes: names(part("qualityCode")),
            units: names(part("unit")),
        })
    }

    /// Name of a field.
    pub(crate) fn field(&self, index: i64) -> Option<&Field> {
        self.fields.get(usize::try_from(index).ok()?)?.as_ref()
    }

    /// Name that a number stands for, in the field `key` of an object whose protocol is known
    /// or not. Numbers repeat between protocols, so the protocol's own map comes first.
    pub fn name(&self, key: &str, code: i64, protocol: Option<&str>) -> Option<&str> {
        let names = match key {
            "metric" => return find(&self.metrics, code, protocol),
            "deviceName" | "device_name" => return find(&self.devices, code, protocol),
            "quality" => &self.qualities,
            "qualityCode" => &self.quality_codes,
            "unit" => &self.units,
            _ => return None,
        };
        names.get(&code).map(String::as_str)
    }
}

fn find<'d>(maps: &'d ByProtocol, code: i64, protocol: Option<&str>) -> Option<&'d str> {
    let own = protocol.and_then(|protocol| maps.get(protocol)?.get(&code));
    own.or_else(|| maps.values().find_map(|names| names.get(&code))).map(String::as_str)
}

fn fields(parts: &Map<String, Json>) -> Result<Vec<Option<Field>>, String> {
    let given = parts.get("fields").or_else(|| parts.get("keys"));
    let by_domain = parts.get("fieldsByDomain").and_then(|domains| domains.get("key"));
    let listed: Vec<(i64, String)> = match given.or(by_domain) {
        Some(Json::Array(items)) => items.iter().enumerate().filter_map(listed_field).collect(),
        Some(map @ Json::Object(_)) => names(Some(map)).into_iter().collect(),
        _ => return Err("dictionary has no list or map `fields`".into()),
    };
    let mut fields = Vec::new();
    for (index, name) in listed {
        let slot = usize::try_from(index).ok().filter(|&index| index < MAX_FIELDS);
        let Some(slot) = slot else {
            return Err(format!(
                "dictionary field index {index} is not within 0 to {}",
                MAX_FIELDS - 1
            ));
        };
        if name.len() > MAX_NAME_BYTES {
            let bytes = name.len();
            return Err(format!(
                "dictionary field {index} has a name of {bytes} bytes; the limit is {MAX_NAME_BYTES}"
            ));
        }
        if fields.len() <= slot {
            fields.resize(slot + 1, None);
        }
        let name = relative(&name).to_owned();
        fields[slot] = Some(Field { is_path: is_path(&name), name });
    }
    Ok(fields)
}

/// Name of a field within its object: `messages[].readings[].metric` is `metric`.
pub(crate) fn relative(name: &str) -> &str {
    name.rsplit_once("[].").map_or(name, |(_, name)| name)
}

/// `"name"` at its position, or `{"name": …, "index": …}`.
fn listed_field((position, item): (usize, &Json)) -> Option<(i64, String)> {
    match item {
        Json::String(name) => Some((position as i64, name.clone())),
        Json::Object(field) => {
            let name = field.get("name")?.as_str()?;
            let index = field.get("index").and_then(Json::as_i64).unwrap_or(position as i64);
            Some((index, name.to_owned()))
        }
        _ => None,
    }
}

/// A map of names and codes in whichever direction it is written, or a list by index.
fn names(json: Option<&Json>) -> Names {
    let mut names = Names::default();
    match json {
        Some(Json::Object(map)) => {
            names.extend(map.iter().filter_map(|(key, value)| match value {
                Json::Number(code) => Some((code.as_i64()?, key.clone())),
                Json::String(name) => Some((key.parse().ok()?, name.clone())),
                _ => None,
            }));
        }
        Some(Json::Array(items)) => names.extend(items.iter().enumerate().filter_map(listed_field)),
        _ => {}
    }
    names
}

fn by_protocol(json: Option<&Json>) -> ByProtocol {
    match json {
        Some(Json::Object(map)) => {
            map.iter().map(|(protocol, map)| (protocol.clone(), names(Some(map)))).collect()
        }
        _ => ByProtocol::default(),
    }
}
