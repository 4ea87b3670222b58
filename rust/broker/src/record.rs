//! Records of the journal: what they say, and how they stand in the file.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::message::Message;
use crate::session::SessionId;
use crate::subscription::Options;

const HEADER: usize = 8;

/// One delivery of a message to one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Ascending in the order of queueing.
    pub delivery: u64,
    pub session: SessionId,
    pub retain: bool,
    pub subscription_ids: Vec<u32>,
    /// The shared filter through which it came.
    pub group: Option<Arc<str>>,
}

/// One change of the durable state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    Session {
        session: SessionId,
        client_id: Arc<str>,
        user: Arc<str>,
        expiry_s: u32,
    },
    SessionEnd {
        session: SessionId,
    },
    Subscribe {
        session: SessionId,
        filter: Arc<str>,
        options: Options,
    },
    Unsubscribe {
        session: SessionId,
        filter: Arc<str>,
    },
    Message {
        message: Message,
        targets: Vec<Target>,
    },
    Acknowledge {
        session: SessionId,
        delivery: u64,
    },
    /// An empty payload clears the topic.
    Retain {
        message: Message,
    },
}

/// Read a journal. Returns its records; a torn tail is left out and kept beside it.
pub fn read(directory: &Path) -> io::Result<Vec<Record>> {
    let path = directory.join("journal");
    let mut data = Vec::new();
    match File::open(&path) {
        Ok(mut file) => file.read_to_end(&mut data)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let (records, good) = decode(&data);
    if good < data.len() {
        let tail = data.len() - good;
        ::log::warn!(bytes = tail; "the journal ends in a torn record; its bytes are in journal.torn");
        std::fs::write(path.with_extension("torn"), &data[good..])?;
    }
    Ok(records)
}

/// Decode records up to the first that is not whole; also returns where that begins.
fn decode(data: &[u8]) -> (Vec<Record>, usize) {
    let (mut records, mut at) = (Vec::new(), 0);
    while let Some((record, length)) = decode_one(&data[at..]) {
        records.push(record);
        at += length;
    }
    (records, at)
}

fn decode_one(data: &[u8]) -> Option<(Record, usize)> {
    let (length, rest) = data.split_first_chunk()?;
    let (checksum, rest) = rest.split_first_chunk()?;
    let length = u32::from_le_bytes(*length) as usize;
    let body = rest.get(..length)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*checksum) {
        return None;
    }
    Some((postcard::from_bytes(body).ok()?, HEADER + length))
}

/// Append a record to `out`.
pub fn encode(record: &Record, out: &mut Vec<u8>) -> io::Result<()> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    let taken = postcard::to_extend(record, std::mem::take(out)).map_err(io::Error::other)?;
    *out = taken;
    let body = &out[start + HEADER..];
    let (length, checksum) = (body.len() as u32, crc32fast::hash(body));
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + HEADER].copy_from_slice(&checksum.to_le_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> impl Strategy<Value = Record> {
        prop_oneof![
            (any::<u64>(), "[a-z]{0,9}").prop_map(|(session, name)| Record::Session {
                session,
                client_id: name.as_str().into(),
                user: name.as_str().into(),
                expiry_s: 7
            }),
            (any::<u64>(), "[a-z]{1,9}", ".{0,40}").prop_map(|(id, topic, payload)| {
                Record::Message {
                    message: Message::of_broker(id, &topic, &payload),
                    targets: vec![Target {
                        delivery: id,
                        session: 1,
                        retain: false,
                        subscription_ids: vec![1, 2],
                        group: Some(topic.as_str().into()),
                    }],
                }
            }),
            (any::<u64>(), any::<u64>())
                .prop_map(|(session, delivery)| Record::Acknowledge { session, delivery }),
        ]
    }

    fn records() -> impl Strategy<Value = Vec<Record>> {
        prop::collection::vec(record(), 0..20)
    }

    fn encoded(records: &[Record]) -> (Vec<u8>, Vec<usize>) {
        let (mut data, mut ends) = (Vec::new(), vec![0]);
        for record in records {
            encode(record, &mut data).unwrap();
            ends.push(data.len());
        }
        (data, ends)
    }

    proptest! {
        #[test]
        fn a_torn_tail_costs_only_the_records_it_touches(records in records(), cut: prop::sample::Index) {
            let (data, ends) = encoded(&records);
            let cut = cut.index(data.len() + 1);
            let whole = ends.iter().filter(|&&end| end != 0 && end <= cut).count();
            let (read, good) = decode(&data[..cut]);
            prop_assert_eq!(&read[..], &records[..whole]);
            prop_assert_eq!(good, ends[whole]);
        }

        #[test]
        fn a_flipped_bit_ends_the_journal_there(
            records in records(), at: prop::sample::Index, bit in 0..8u8
        ) {
            prop_assume!(!records.is_empty());
            let (mut data, ends) = encoded(&records);
            let at = at.index(data.len());
            data[at] ^= 1 << bit;
            let before = ends.iter().filter(|&&end| end != 0 && end <= at).count();
            prop_assert_eq!(&decode(&data).0[..], &records[..before]);
        }

        #[test]
        fn any_bytes_are_read_without_panic(data in prop::collection::vec(any::<u8>(), 0..300)) {
            decode(&data);
        }
    }

    #[test]
    fn the_torn_tail_is_kept_aside() {
        let directory = tempfile::tempdir().unwrap();
        let acknowledgement = Record::Acknowledge { session: 1, delivery: 1 };
        let (mut data, _) = encoded(std::slice::from_ref(&acknowledgement));
        data.extend_from_slice(b"torn");
        std::fs::write(directory.path().join("journal"), &data).unwrap();
        assert_eq!(read(directory.path()).unwrap(), [acknowledgement]);
        assert_eq!(std::fs::read(directory.path().join("journal.torn")).unwrap(), b"torn");
    }
}
