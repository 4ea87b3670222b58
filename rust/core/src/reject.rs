//! What can be wrong with a message: a closed list of reasons, each belonging to one stage.

use std::fmt;

/// The stage that refused a message, in the order a message passes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Entry,
    Topic,
    Inflate,
    Decode,
    Expand,
    Normalize,
}

impl Stage {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Entry => "entry",
            Self::Topic => "topic",
            Self::Inflate => "inflate",
            Self::Decode => "decode",
            Self::Expand => "expand",
            Self::Normalize => "normalize",
        }
    }
}

macro_rules! reasons {
    ($($variant:ident = $stage:ident $name:literal,)*) => {
        /// The rule that a message broke. Names are fit for metric labels and never change meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason { $($variant,)* }

        impl Reason {
            pub const fn stage(self) -> Stage {
                match self { $(Self::$variant => Stage::$stage,)* }
            }

            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

reasons! {
    EntryForm = Entry "entry_form",
    EntryEncoding = Entry "entry_encoding",
    MessageTooLarge = Entry "message_too_large",
    Panicked = Entry "panicked",
    TopicForm = Topic "topic_form",
    TopicKind = Topic "topic_kind",
    ForeignTenant = Topic "foreign_tenant",
    AgentForm = Topic "agent_form",
    UnknownAgent = Topic "unknown_agent",
    InflateCorrupt = Inflate "inflate_corrupt",
    InflateTooLarge = Inflate "inflate_too_large",
    Json = Decode "json",
    MessagePack = Decode "messagepack",
    Utf8 = Decode "utf8",
    TooDeep = Decode "too_deep",
    TooManyElements = Decode "too_many_elements",
    CompactionOff = Expand "compaction_off",
    DictionaryMissing = Expand "dictionary_missing",
    DictionaryHash = Expand "dictionary_hash",
    CompactForm = Expand "compact_form",
    ReadingForm = Normalize "reading_form",
    MetricMissing = Normalize "metric_missing",
    TextTooLong = Normalize "text_too_long",
    TextNul = Normalize "text_nul",
    ValueNotFinite = Normalize "value_not_finite",
    TimeInvalid = Normalize "time_invalid",
    TimeTooOld = Normalize "time_too_old",
    TimeInFuture = Normalize "time_in_future",
    ExtraTooLarge = Normalize "extra_too_large",
}

/// Why a message, or one of its readings, can never pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    pub reason: Reason,
    /// One sentence that names field, value and rule; never the payload.
    ///
    /// Boxed because every stage returns this type: two words less to move for each good value.
    pub detail: Box<str>,
}

impl Reject {
    pub fn new(reason: Reason, detail: impl Into<Box<str>>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.stage().name(), self.detail)
    }
}

impl std::error::Error for Reject {}
