//! Groups against a model, bounds, and the way through a snapshot.

use std::collections::BTreeSet;

use bytes::BytesMut;
use mqtt_proto::v5::{Publish, RetainHandling};
use mqtt_proto::{Pid, QosPid, TopicName};
use proptest::prelude::*;

use super::*;
use crate::config::Limits;
use crate::credentials::Credentials;
use crate::journal::Journal;
use crate::presence::Admission;
use crate::session::Connection;

const GROUP: &str = "$share/g/t/#";

#[derive(Clone, Debug)]
enum Step {
    Join { member: usize, expiry_s: u32 },
    Leave(usize),
    End(usize),
    Publish,
    Acknowledge { member: usize, count: u16 },
}

fn step() -> impl Strategy<Value = Step> {
    let member = 0..4usize;
    prop_oneof![
        2 => (member.clone(), 0..2u32).prop_map(|(member, e)| Step::Join { member, expiry_s: e * 60 }),
        1 => member.clone().prop_map(Step::Leave),
        1 => member.clone().prop_map(Step::End),
        9 => Just(Step::Publish),
        3 => (member, 1..5u16).prop_map(|(member, count)| Step::Acknowledge { member, count }),
    ]
}

struct Fleet {
    broker: Broker,
    /// Link and next packet id of the members that are connected.
    links: [Option<(SessionId, Rc<Link>)>; 4],
}

impl Fleet {
    fn new(limits: Limits) -> Self {
        let broker = Broker::new(limits, Credentials::default(), Journal::closed());
        Self { broker, links: [const { None }; 4] }
    }

    fn join(&mut self, member: usize, expiry_s: u32) {
        let link = Link::new();
        let admission = Admission {
            client_id: format!("member-{member}").into(),
            user: "u".into(),
            clean_start: false,
            expiry_s,
            will: None,
            connection: Connection {
                link: link.clone(),
                password: self.broker.credentials.password("u"),
                receive_maximum: 3,
                max_packet_bytes: u32::MAX,
                keep_alive_s: 0,
            },
        };
        let (id, _) = self.broker.connect(admission).unwrap();
        let options =
            Options { durable: true, no_local: false, retain_as_published: false, identifier: 0 };
        self.broker.subscribe(id, &GROUP.into(), options, RetainHandling::DoNotSend);
        self.links[member] = Some((id, link));
    }

    fn publish(&mut self) -> (u64, Published) {
        let pid = QosPid::Level1(Pid::try_from(1).unwrap());
        let publish = Publish::new(pid, TopicName::try_from("t/x").unwrap(), "x".into());
        let id = self.broker.next_message();
        let message = Message::from_publish(id, publish);
        (id, self.broker.publish(0, &Link::new(), message, false))
    }

    /// Messages that wait in any session.
    fn waiting(&self) -> Vec<u64> {
        let sessions = self.broker.sessions.values();
        sessions.flat_map(Session::deliveries).map(|delivery| delivery.message.id).collect()
    }

    fn acknowledge(&mut self, member: usize, count: u16, acknowledged: &mut BTreeSet<u64>) {
        let Some((id, link)) = self.links[member].clone() else { return };
        self.broker.send(id, &link, &mut BytesMut::new(), usize::MAX);
        for packet_id in 1..=50 * count {
            let before: BTreeSet<_> = self.waiting().into_iter().collect();
            self.broker.acknowledge(id, packet_id);
            let after: BTreeSet<_> = self.waiting().into_iter().collect();
            acknowledged.extend(before.difference(&after));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_group_neither_loses_nor_doubles_while_it_has_members(
        steps in prop::collection::vec(step(), 0..80)
    ) {
        let mut fleet = Fleet::new(Limits::default());
        let (mut open, mut acknowledged) = (BTreeSet::new(), BTreeSet::new());
        for step in steps {
            match step {
                Step::Join { member, expiry_s } => {
                    if fleet.links[member].is_none() {
                        fleet.join(member, expiry_s);
                    }
                }
                Step::Leave(member) => {
                    if let Some((id, link)) = fleet.links[member].take() {
                        fleet.broker.disconnect(id, &link, false);
                    }
                }
                Step::End(member) => {
                    let name = format!("member-{member}");
                    if let Some(&id) = fleet.broker.clients.get(name.as_str()) {
                        fleet.broker.end(id, false);
                    }
                    fleet.links[member] = None;
                }
                Step::Publish => {
                    let (id, published) = fleet.publish();
                    if let Published::Taken(PubackReasonCode::Success, _) = published {
                        open.insert(id);
                    }
                }
                Step::Acknowledge { member, count } => {
                    fleet.acknowledge(member, count, &mut acknowledged);
                }
            }
            if fleet.broker.tree.group(GROUP).is_none() {
                // The last member took what was left with it.
                open.clear();
            }
            let waiting = fleet.waiting();
            let distinct: BTreeSet<_> = waiting.iter().copied().collect();
            prop_assert_eq!(waiting.len(), distinct.len());
            let expected: BTreeSet<_> = open.difference(&acknowledged).copied().collect();
            prop_assert_eq!(distinct, expected);
            let bytes: usize = fleet.broker.sessions.values().map(|session| session.bytes).sum();
            prop_assert_eq!(fleet.broker.bytes, bytes);
        }
    }
}

#[test]
fn a_full_group_blocks_until_a_member_has_room() {
    let mut fleet = Fleet::new(Limits { max_queued_messages: 4, ..Limits::default() });
    fleet.join(0, 60);
    fleet.join(1, 60);
    for _ in 0..8 {
        assert!(matches!(fleet.publish().1, Published::Taken(PubackReasonCode::Success, _)));
    }
    assert!(matches!(fleet.publish().1, Published::Blocked(_)));
    assert_eq!(fleet.broker.blocked.len(), 1);
    fleet.acknowledge(1, 3, &mut BTreeSet::new());
    assert!(fleet.broker.blocked.is_empty());
    assert!(matches!(fleet.publish().1, Published::Taken(PubackReasonCode::Success, _)));
}

#[test]
fn members_share_equally() {
    let mut fleet = Fleet::new(Limits::default());
    (0..4).for_each(|member| fleet.join(member, 60));
    for _ in 0..40 {
        fleet.publish();
    }
    assert!(fleet.broker.sessions.values().all(|session| session.len() == 10));
}

#[test]
fn the_state_comes_back_from_its_snapshot() {
    let mut fleet = Fleet::new(Limits::default());
    fleet.join(0, 60);
    fleet.join(1, 0);
    let published: BTreeSet<_> = (0..10).map(|_| fleet.publish().0).collect();
    let records = fleet.broker.snapshot();
    let mut again = Fleet::new(Limits::default());
    again.broker.restore(records.clone());
    assert_eq!(again.broker.snapshot(), records);
    assert_eq!(again.broker.session_count(), 1);
    let kept: BTreeSet<_> = again.waiting().into_iter().collect();
    assert!(kept.len() == 5 && kept.is_subset(&published));
}
