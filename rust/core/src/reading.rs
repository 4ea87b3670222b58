//! The vocabulary of the `readings` table: quality and protocol.

use crate::value::Value;

/// Column `quality`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quality {
    Good,
    Bad,
    Uncertain,
    Stale,
    Unknown,
}

/// OPC UA status codes that mean an old value, whatever their top bits say.
const STALE_CODES: [u32; 2] = [0x4094_0000, 0x409B_0000];

impl Quality {
    pub const ALL: [Self; 5] = [Self::Good, Self::Bad, Self::Uncertain, Self::Stale, Self::Unknown];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Uncertain => "uncertain",
            Self::Stale => "stale",
            Self::Unknown => "unknown",
        }
    }

    /// Quality as agents write it (reference section 4.1): word, status code or flag.
    pub fn parse(value: Value<'_>) -> Self {
        match value {
            Value::Text(text) => Self::from_text(text),
            Value::Bool(true) => Self::Good,
            Value::Bool(false) => Self::Bad,
            value => value.as_integer().map_or(Self::Unknown, Self::from_code),
        }
    }

    fn from_text(text: &str) -> Self {
        // What nearly every reading says.
        if text == "good" {
            return Self::Good;
        }
        let word = text.trim().to_lowercase();
        if let Some(quality) = Self::ALL.into_iter().find(|quality| quality.name() == word) {
            return quality;
        }
        let says = |parts: &[&str]| parts.iter().any(|part| word.contains(part));
        if word == "ok" || word == "valid" || word.contains("good") {
            Self::Good
        } else if says(&["uncertain", "questionable"]) {
            Self::Uncertain
        } else if says(&["stale", "old", "timeout"]) {
            Self::Stale
        } else if says(&["bad", "error", "invalid", "fail"]) {
            Self::Bad
        } else {
            Self::Unknown
        }
    }

    /// An OPC UA status code, unsigned 32 bits; a signed one is the same bits.
    fn from_code(code: i64) -> Self {
        let Ok(code) = u32::try_from(code).or_else(|_| i32::try_from(code).map(|code| code as u32))
        else {
            return Self::Unknown;
        };
        if STALE_CODES.contains(&(code & 0xFFFF_0000)) {
            return Self::Stale;
        }
        match code >> 30 {
            _ if code == 1 => Self::Good,
            0b00 => Self::Good,
            0b01 => Self::Uncertain,
            0b10 => Self::Bad,
            _ => Self::Unknown,
        }
    }
}

/// Column `protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Modbus,
    Opcua,
    Snmp,
    Can,
    Mqtt,
    Bacnet,
    System,
}

impl Protocol {
    pub const ALL: [Self; 7] =
        [Self::Modbus, Self::Opcua, Self::Snmp, Self::Can, Self::Mqtt, Self::Bacnet, Self::System];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Modbus => "modbus",
            Self::Opcua => "opcua",
            Self::Snmp => "snmp",
            Self::Can => "can",
            Self::Mqtt => "mqtt",
            Self::Bacnet => "bacnet",
            Self::System => "system",
        }
    }

    /// A protocol that the platform knows, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        let written = Self::ALL.into_iter().find(|protocol| protocol.name() == text);
        written.or_else(|| Self::parse_any_case(text))
    }

    #[cold]
    fn parse_any_case(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.name().eq_ignore_ascii_case(text))
    }

    /// Agents put the protocol in front of the device's name.
    pub fn of_device(name: &str) -> Option<Self> {
        let (prefix, _) = name.split_once('_')?;
        let protocol = Self::parse(prefix)?;
        matches!(protocol, Self::Modbus | Self::Opcua | Self::Snmp | Self::Can).then_some(protocol)
    }
}
