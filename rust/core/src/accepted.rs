//! Messages that were accepted, by agent: what the loss ledger counts, without an object for any.

use hashbrown::HashMap;

use crate::entry::Header;
use crate::ids::{self, AgentId};
use crate::topic::Topic;

/// What follows the agent in a field of the ledger.
const COUNTER: &[u8] = b"|accepted";
const MOST_FIELD_BYTES: usize = 36 + COUNTER.len();
const MOST_NUMBER_BYTES: usize = 9;

/// Numbers of messages, each with its agent; `None` where it cannot be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted(HashMap<Option<AgentId>, u64, foldhash::fast::RandomState>);

impl Accepted {
    /// Count the message of an entry whose field this is.
    pub fn count(&mut self, header: &[u8]) {
        *self.0.entry(agent(header)).or_default() += 1;
    }

    /// Count what the others counted.
    pub fn add(&mut self, others: &Self) {
        for (agent, messages) in &others.0 {
            *self.0.entry(*agent).or_default() += messages;
        }
    }

    /// Agents, `None` among them.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no message.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Agents that can be told.
    pub fn agents(&self) -> impl Iterator<Item = String> {
        self.0.keys().flatten().map(ids::format_uuid)
    }

    /// Fields of the ledger, each followed by its number, as one array of MessagePack.
    pub fn pack(&self) -> Vec<u8> {
        let mut packed =
            Vec::with_capacity(5 + self.0.len() * (MOST_FIELD_BYTES + 2 + MOST_NUMBER_BYTES));
        packed.push(0xDD); // array 32
        packed.extend_from_slice(&(2 * self.0.len() as u32).to_be_bytes());
        for (agent, messages) in &self.0 {
            let agent = agent.as_ref().map(ids::format_uuid).unwrap_or_default();
            packed.push(0xD9); // str 8
            packed.push((agent.len() + COUNTER.len()) as u8);
            packed.extend_from_slice(agent.as_bytes());
            packed.extend_from_slice(COUNTER);
            match *messages {
                few @ 0..=0x7F => packed.push(few as u8), // positive fixint
                many => {
                    packed.push(0xCF); // uint 64
                    packed.extend_from_slice(&many.to_be_bytes());
                }
            }
        }
        packed
    }
}

fn agent(header: &[u8]) -> Option<AgentId> {
    Topic::parse(Header::parse(header).ok()?.topic).ok()?.agent_id()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: AgentId = [0xAB; 16];

    fn header(agent: &str) -> Vec<u8> {
        format!("1764115200000-0 i/ASNFZ4mr/a/{agent}/endpoints/modbus").into_bytes()
    }

    #[test]
    fn every_spelling_of_an_agent_is_one() {
        let mut accepted = Accepted::default();
        let uuid = ids::format_uuid(&AGENT);
        for spelling in [&ids::encode_agent(&uuid), uuid.as_str(), &uuid.to_uppercase()] {
            accepted.count(&header(spelling));
        }
        assert_eq!(accepted.0.into_iter().collect::<Vec<_>>(), [(Some(AGENT), 3)]);
    }

    #[test]
    fn what_names_no_agent_is_nobodys() {
        let mut accepted = Accepted::default();
        for header in [&b""[..], b"1-0", b"1-0 i/T/a", b"\xFF 1-0", &header("press-1")] {
            accepted.count(header);
        }
        assert_eq!(accepted.0.iter().collect::<Vec<_>>(), [(&None, &5)]);
        assert_eq!(accepted.agents().count(), 0);
        assert_eq!(accepted.pack(), b"\xDD\0\0\0\x02\xD9\x09|accepted\x05");
    }

    #[test]
    fn sums_are_packed_as_messagepack() {
        let (mut sum, mut one) = (Accepted::default(), Accepted::default());
        one.count(&header(&ids::format_uuid(&AGENT)));
        for _ in 0..300 {
            sum.add(&one);
        }
        let mut expected = b"\xDD\0\0\0\x02\xD9\x2D".to_vec();
        expected.extend_from_slice(b"abababab-abab-abab-abab-abababababab|accepted");
        expected.extend_from_slice(b"\xCF\0\0\0\0\0\0\x01\x2C");
        assert_eq!(sum.pack(), expected);
        assert_eq!(Accepted::default().pack(), b"\xDD\0\0\0\0");
    }
}
