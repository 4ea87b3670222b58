//! What became of the messages of a batch, summed over each agent of each entry: what the loss
//! ledger counts, without an object for every message.

use hashbrown::HashMap;

use crate::batch::Batch;
use crate::ids::AgentId;
use crate::reject::Reason;
use crate::value::Value;

/// Beyond this a double, and with it JavaScript, no longer tells numbers apart.
const MAX_NUMBER: u64 = 1 << 53;

/// The messages of one agent in one entry.
///
/// `readings = rows + duplicates + collisions + dropped + rejected`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub entry: u32,
    /// `None` where it cannot be told.
    pub agent: Option<AgentId>,
    pub messages: u32,
    pub readings: u32,
    pub rows: u32,
    /// Replaced by a later reading of the same device.
    pub duplicates: u32,
    /// Replaced by a reading of another device.
    pub collisions: u32,
    pub dropped: u32,
    pub rejected: u32,
    pub reasons: Vec<Rejections>,
    /// Numbers of the messages that have one, as ranges: first and last, ascending, disjoint.
    pub numbers: Vec<(u64, u64)>,
}

/// How often a rule was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejections {
    pub reason: Reason,
    /// Whether whole messages are counted, whose readings were never known; else readings.
    pub whole: bool,
    pub count: u32,
}

/// Sum up a batch. Waiting messages are not in it.
pub fn tallies(batch: &Batch) -> Vec<Tally> {
    let mut found: Vec<Tally> = Vec::new();
    let mut index: HashMap<(u32, Option<AgentId>), usize, foldhash::fast::RandomState> =
        HashMap::default();
    let mut at = |found: &mut Vec<Tally>, entry, agent| {
        *index.entry((entry, agent)).or_insert_with(|| {
            found.push(Tally { entry, agent, ..Tally::default() });
            found.len() - 1
        })
    };
    for outcome in &batch.outcomes {
        let place = at(&mut found, outcome.entry, outcome.agent);
        let tally = &mut found[place];
        let duplicates = outcome.duplicates - outcome.collisions;
        tally.messages += 1;
        tally.rows += outcome.rows;
        tally.duplicates += duplicates;
        tally.collisions += outcome.collisions;
        tally.dropped += outcome.dropped;
        tally.rejected += outcome.rejected;
        tally.readings += outcome.rows + outcome.duplicates + outcome.dropped + outcome.rejected;
        tally.numbers.extend(outcome.number.map(|number| (number, number)));
    }
    for rejected in &batch.rejects {
        let place = at(&mut found, rejected.entry, rejected.agent);
        let (reason, whole) = (rejected.reject.reason, rejected.readings == 0);
        let (count, reasons) = (rejected.readings.max(1), &mut found[place].reasons);
        match reasons.iter_mut().find(|known| (known.reason, known.whole) == (reason, whole)) {
            Some(known) => known.count += count,
            None => reasons.push(Rejections { reason, whole, count }),
        }
    }
    for tally in &mut found {
        merge(&mut tally.numbers);
    }
    found
}

/// Sort ranges, and join those that touch.
fn merge(ranges: &mut Vec<(u64, u64)>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let touches = next.0 <= kept.1 + 1;
        if touches {
            kept.1 = kept.1.max(next.1);
        }
        touches
    });
}

/// The number of a message, where its agent numbers them: `msgId` is a whole number, its digits,
/// or `{agent UUID}-{number}`. The default form `{agent UUID}-{ms}-{random}` is no number.
pub fn number(payload: Value<'_>) -> Option<u64> {
    let number = match payload.get("msgId")? {
        Value::Int(number) => u64::try_from(number).ok()?,
        Value::Text(text) => digits(text)?,
        _ => return None,
    };
    (number <= MAX_NUMBER).then_some(number)
}

fn digits(text: &str) -> Option<u64> {
    const UUID_LENGTH: usize = 36;
    let own = match text.as_bytes().get(UUID_LENGTH) {
        Some(b'-') => {
            crate::ids::parse_uuid(text.get(..UUID_LENGTH)?)?;
            text.get(UUID_LENGTH + 1..)?
        }
        _ => text,
    };
    // No sign, which `parse` would take.
    own.bytes().all(|c| c.is_ascii_digit()).then(|| own.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_are_joined() {
        let mut ranges = vec![(7, 7), (1, 1), (2, 2), (2, 2), (9, 9), (8, 8), (4, 4)];
        merge(&mut ranges);
        assert_eq!(ranges, [(1, 2), (4, 4), (7, 9)]);
    }

    #[test]
    fn what_is_a_number_and_what_is_not() {
        let of = |id| number(Value::Map(&[("msgId", id)]));
        assert_eq!(of(Value::Int(17)), Some(17));
        assert_eq!(of(Value::Text("0017")), Some(17));
        assert_eq!(of(Value::Text("6f1c2f9e-1c1b-4f6e-9a55-0b6a2f6f0a01-5")), Some(5));
        assert_eq!(of(Value::Int(1 << 53)), Some(1 << 53));
        for not in [
            Value::Int(-1),
            Value::Int((1 << 53) + 1),
            Value::Float(1.0),
            Value::Null,
            Value::Text(""),
            Value::Text("+5"),
            Value::Text("5a"),
            Value::Text("99999999999999999999"),
            Value::Text("6f1c2f9e-1c1b-4f6e-9a55-0b6a2f6f0a01-1795454000000-k3j2h1g0"),
            Value::Text("6f1c2f9e-1c1b-4f6e-9a55-0b6a2f6f0a01"),
            Value::Text("6f1c2f9e-1c1b-4f6e-9a55-0b6a2f6f0a01-"),
        ] {
            assert_eq!(of(not), None, "{not:?}");
        }
        assert_eq!(number(Value::Text("17")), None);
    }
}
