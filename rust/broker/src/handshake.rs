//! From CONNECT to CONNACK.

use std::rc::Rc;
use std::sync::Arc;

use mqtt_proto::QoS;
use mqtt_proto::v5::{Connack, ConnackProperties, Connect, ConnectReasonCode};

use crate::config::Limits;
use crate::connection::Shared;
use crate::credentials::Password;
use crate::presence::Admission;
use crate::session::{Connection, Link, SessionId};

/// A client that was let in.
#[derive(Debug)]
pub struct Admitted {
    pub session: SessionId,
    pub client_id: Arc<str>,
    pub connack: Connack,
}

/// A CONNACK that turns the client away.
pub fn refusal(reason: ConnectReasonCode) -> Connack {
    Connack {
        session_present: false,
        reason_code: reason,
        properties: ConnackProperties::default(),
    }
}

/// Authenticate a client and give it a session.
pub async fn admit(
    broker: &Shared,
    connect: Connect,
    link: &Rc<Link>,
) -> Result<Admitted, ConnectReasonCode> {
    check(&connect)?;
    let (user, password) = authenticate(broker, &connect).await?;
    let mut broker = broker.borrow_mut();
    let assigned = connect.client_id.is_empty();
    let client_id = match assigned {
        true => format!("auto-{:016x}", broker.random_number()).into(),
        false => connect.client_id.clone(),
    };
    let asked_s = connect.properties.session_expiry_interval.unwrap_or(0);
    let expiry_s = asked_s.min(broker.limits.max_session_expiry_s);
    let connection = Connection {
        link: link.clone(),
        password,
        receive_maximum: connect.properties.receive_max.unwrap_or(u16::MAX),
        max_packet_bytes: connect.properties.max_packet_size.unwrap_or(u32::MAX),
        keep_alive_s: connect.keep_alive,
    };
    let admission = Admission {
        client_id: client_id.clone(),
        user,
        clean_start: connect.clean_start,
        expiry_s,
        will: connect.last_will,
        connection,
    };
    let (session, session_present) = broker.connect(admission)?;
    broker.journal.flush();
    let mut properties = announcement(&broker.limits);
    properties.assigned_client_id = assigned.then(|| client_id.clone());
    properties.session_expiry_interval = (expiry_s != asked_s).then_some(expiry_s);
    let reason_code = ConnectReasonCode::Success;
    Ok(Admitted {
        session,
        client_id,
        connack: Connack { session_present, reason_code, properties },
    })
}

/// Refuse what the standard forbids and what was not announced.
fn check(connect: &Connect) -> Result<(), ConnectReasonCode> {
    if connect.properties.auth_method.is_some() {
        return Err(ConnectReasonCode::BadAuthMethod);
    }
    if connect.last_will.as_ref().is_some_and(|will| will.qos == QoS::Level2) {
        return Err(ConnectReasonCode::QoSNotSupported);
    }
    if connect.properties.receive_max == Some(0) || connect.properties.max_packet_size == Some(0) {
        return Err(ConnectReasonCode::ProtocolError);
    }
    Ok(())
}

/// The user, and the password that it proved to know.
async fn authenticate(
    broker: &Shared,
    connect: &Connect,
) -> Result<(Arc<str>, Arc<Password>), ConnectReasonCode> {
    let (Some(user), Some(given)) = (connect.username.clone(), connect.password.clone()) else {
        return Err(ConnectReasonCode::BadUserNameOrPassword);
    };
    let password = broker.borrow().credentials.password(&user);
    let checked = password.clone();
    // Slow by design, so not on the thread that carries the messages.
    let verified = tokio::task::spawn_blocking(move || checked.verify(&given)).await;
    // A reload may have come between.
    let current = broker.borrow().credentials.passwords.get(&*user) == Some(&password);
    if current && verified.unwrap_or(false) {
        Ok((user, password))
    } else {
        Err(ConnectReasonCode::BadUserNameOrPassword)
    }
}

/// What every client is told about the broker.
fn announcement(limits: &Limits) -> ConnackProperties {
    ConnackProperties {
        receive_max: Some(limits.receive_maximum),
        max_qos: Some(QoS::Level1),
        max_packet_size: Some(limits.max_packet_bytes),
        topic_alias_max: Some(0),
        ..ConnackProperties::default()
    }
}
