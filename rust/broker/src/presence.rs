//! What happens to sessions when clients come and go.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mqtt_proto::v5::{ConnectReasonCode, DisconnectReasonCode, LastWill};

use crate::broker::Broker;
use crate::message::Message;
use crate::record::Record;
use crate::session::{Connection, Link, Session, SessionId};

/// A CONNECT whose user was authenticated.
#[derive(Debug)]
pub struct Admission {
    pub client_id: Arc<str>,
    pub user: Arc<str>,
    pub clean_start: bool,
    pub expiry_s: u32,
    pub will: Option<LastWill>,
    pub connection: Connection,
}

impl Broker {
    /// Give a client its session. Also says whether that was there before.
    pub fn connect(
        &mut self,
        admission: Admission,
    ) -> Result<(SessionId, bool), ConnectReasonCode> {
        let permissions = self.credentials.acl.permissions(&admission.user, &admission.client_id);
        if let Some(will) = &admission.will
            && !permissions.may_write(&will.topic_name)
        {
            return Err(ConnectReasonCode::NotAuthorized);
        }
        let old = self.clients.get(&admission.client_id).copied();
        if let Some(session) = old.and_then(|id| self.sessions.get(&id)) {
            // Otherwise a client id would be enough to get another user's messages.
            if session.user != admission.user {
                return Err(ConnectReasonCode::ClientIdentifierNotValid);
            }
        }
        if let Some(id) = old {
            self.take_over(id, admission.clean_start);
        }
        let kept = old.filter(|id| self.sessions.contains_key(id));
        if kept.is_none() && self.sessions.len() >= self.limits.max_sessions {
            return Err(ConnectReasonCode::QuotaExceeded);
        }
        let id = kept.unwrap_or_else(|| {
            self.last_session += 1;
            let (client_id, user) = (admission.client_id.clone(), admission.user.clone());
            self.clients.insert(client_id.clone(), self.last_session);
            let session = Session::new(self.last_session, client_id, user, permissions);
            self.sessions.insert(self.last_session, session);
            self.last_session
        });
        self.attach(id, admission);
        Ok((id, kept.is_some()))
    }

    fn take_over(&mut self, id: SessionId, clean_start: bool) {
        if let Some(connection) = self.sessions.get(&id).and_then(|s| s.connection.as_ref()) {
            let link = connection.link.clone();
            link.kick(DisconnectReasonCode::SessionTakenOver);
            self.disconnect(id, &link, true);
        }
        if clean_start {
            self.end(id, false);
        }
    }

    fn attach(&mut self, id: SessionId, admission: Admission) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let changed = session.expiry_s != admission.expiry_s;
        session.expiry_s = admission.expiry_s;
        session.will = admission.will;
        session.attach(admission.connection);
        self.statistics.connected += 1;
        if changed && (session.persistent || session.expiry_s > 0) {
            session.persistent = true;
            let record = session_record(session);
            self.journal.append(record);
        }
        self.wake_blocked();
    }

    /// A connection ended. A link that was taken over is not the session's any more.
    pub fn disconnect(&mut self, id: SessionId, link: &Rc<Link>, with_will: bool) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session.connection.as_ref().is_none_or(|c| !Rc::ptr_eq(&c.link, link)) {
            return;
        }
        session.detach();
        self.statistics.connected -= 1;
        let now = Instant::now();
        let expiry_s = session.expiry_s;
        if !with_will {
            session.will = None;
        }
        let delay_s = session.will.as_ref().and_then(|will| will.properties.delay_interval);
        session.will_at = session.will.is_some().then(|| after(now, delay_s.unwrap_or(0)));
        session.expires_at = Some(after(now, expiry_s));
        if delay_s.unwrap_or(0) == 0 {
            self.publish_will(id);
        }
        if expiry_s == 0 {
            self.end(id, false);
        }
    }

    /// Change the session's expiry with DISCONNECT; false if that is not allowed.
    pub fn set_expiry(&mut self, id: SessionId, expiry_s: u32) -> bool {
        let expiry_s = expiry_s.min(self.limits.max_session_expiry_s);
        let Some(session) = self.sessions.get_mut(&id) else {
            return true;
        };
        if session.expiry_s == 0 && expiry_s > 0 {
            return false;
        }
        session.expiry_s = expiry_s;
        if session.persistent {
            let record = session_record(session);
            self.journal.append(record);
        }
        true
    }

    /// End a session for good. Its share of a group goes to the other members.
    pub(crate) fn end(&mut self, id: SessionId, expired: bool) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if let Some(connection) = &session.connection {
            connection.link.kick(DisconnectReasonCode::NotAuthorized);
            session.detach();
            self.statistics.connected -= 1;
        }
        self.publish_will(id);
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        self.clients.remove(&session.client_id);
        for filter in session.subscriptions.keys() {
            self.tree.remove(filter, id);
        }
        self.bytes -= session.bytes;
        for delivery in session.deliveries() {
            if !self.redistribute(delivery) && expired {
                self.statistics.publishes_dropped += 1;
            }
        }
        if session.persistent {
            self.journal.append(Record::SessionEnd { session: id });
        }
        self.wake_blocked();
    }

    fn publish_will(&mut self, id: SessionId) {
        let will = self.sessions.get_mut(&id).and_then(|session| {
            session.will_at = None;
            session.will.take_if(|_| session.connection.is_none())
        });
        if let Some(will) = will {
            let retain = will.retain;
            let message = Message::from_will(self.next_message(), will);
            self.publish_anyway(message, retain);
        }
    }

    /// Once a second: wills, expired sessions, silent clients.
    pub fn tick(&mut self) {
        let now = Instant::now();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let wills: Vec<_> = self.ids(|session| due(session.will_at));
        for id in wills {
            self.publish_will(id);
        }
        let expired: Vec<_> = self.ids(|session| due(session.expires_at));
        for id in expired {
            if let Some(session) = self.sessions.get(&id).filter(|session| !session.is_empty()) {
                ::log::warn!(client_id = &*session.client_id, messages = session.len(); "a session expired with messages in it");
            }
            self.end(id, true);
        }
        for connection in self.sessions.values().filter_map(|session| session.connection.as_ref()) {
            let silent = now.duration_since(connection.link.last_seen.get()).as_secs_f32();
            let keep_alive = f32::from(connection.keep_alive_s);
            if keep_alive > 0.0 && silent > 1.5 * keep_alive && !connection.link.paused.get() {
                connection.link.kick(DisconnectReasonCode::KeepAliveTimeout);
            }
        }
        self.journal.flush();
    }

    pub(crate) fn ids(&self, wanted: impl Fn(&Session) -> bool) -> Vec<SessionId> {
        self.sessions.values().filter(|session| wanted(session)).map(|session| session.id).collect()
    }
}

pub(crate) fn session_record(session: &Session) -> Record {
    Record::Session {
        session: session.id,
        client_id: session.client_id.clone(),
        user: session.user.clone(),
        expiry_s: session.expiry_s,
    }
}

fn after(now: Instant, seconds: u32) -> Instant {
    now + Duration::from_secs(u64::from(seconds))
}
