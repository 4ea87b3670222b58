//! Load for any MQTT 5 broker: QoS 1 publishers, one shared subscriber that acknowledges.
//!
//! `load PORT USER PASSWORD MESSAGES BYTES PUBLISHERS` prints messages per second, from the first
//! publish until the last message was received, and fails if one is missing.

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use mqtt_proto::v5::{Connect, Packet, Puback, Publish, Subscribe, SubscriptionOptions};
use mqtt_proto::{Pid, QoS, QosPid, TopicFilter, TopicName};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const WINDOW: usize = 100;

struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    start: usize,
}

impl Client {
    fn connect(arguments: &Arguments, client_id: &str, expiry_s: u32) -> Outcome<Self> {
        let stream = TcpStream::connect(("127.0.0.1", arguments.port))?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream, input: Vec::new(), start: 0 };
        let mut connect = Connect::new(client_id.into(), 0);
        connect.username = Some(arguments.user.as_str().into());
        connect.password = Some(arguments.password.clone().into_bytes().into());
        connect.properties.session_expiry_interval = Some(expiry_s);
        connect.properties.receive_max = Some(2000);
        client.send(&Packet::Connect(connect))?;
        client.next()?;
        Ok(client)
    }

    fn send(&mut self, packet: &Packet) -> Outcome<()> {
        Ok(self.stream.write_all(packet.encode()?.as_ref())?)
    }

    /// The next packet, as first byte and body.
    fn next(&mut self) -> Outcome<(u8, &[u8])> {
        loop {
            if let Some((header, length)) = head(&self.input[self.start..]) {
                let begin = self.start + header;
                if self.input.len() >= begin + length {
                    let first = self.input[self.start];
                    self.start = begin + length;
                    return Ok((first, &self.input[begin..begin + length]));
                }
            }
            self.input.drain(..self.start);
            self.start = 0;
            let mut data = [0; 16_384];
            match self.stream.read(&mut data)? {
                0 => return Err("the broker closed the connection".into()),
                count => self.input.extend_from_slice(&data[..count]),
            }
        }
    }

    /// Is a whole packet here already?
    fn has_next(&self) -> bool {
        head(&self.input[self.start..])
            .is_some_and(|(header, length)| self.input.len() >= self.start + header + length)
    }
}

fn head(data: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (index, &byte) in data.get(1..)?.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Some((index + 2, length));
        }
    }
    None
}

#[derive(Clone)]
struct Arguments {
    port: u16,
    user: String,
    password: String,
    messages: usize,
    bytes: usize,
    publishers: usize,
}

fn publish(arguments: &Arguments, index: usize, messages: usize) -> Outcome<()> {
    let mut client = Client::connect(arguments, &format!("load-{index}"), 0)?;
    let topic = format!("i/load/a/{index}/endpoints/modbus");
    let payload = vec![b'x'; arguments.bytes];
    let mut waiting = 0;
    let mut batch = Vec::new();
    for number in 0..messages {
        let pid = Pid::try_from((number % 60_000) as u16 + 1)?;
        let topic = TopicName::try_from(topic.as_str())?;
        let publish = Publish::new(QosPid::Level1(pid), topic, payload.clone().into());
        batch.extend_from_slice(Packet::Publish(publish).encode()?.as_ref());
        waiting += 1;
        if waiting == WINDOW || number + 1 == messages {
            client.stream.write_all(&batch)?;
            batch.clear();
            let keep = if number + 1 == messages { 0 } else { WINDOW / 2 };
            while waiting > keep {
                client.next()?;
                waiting -= 1;
            }
        }
    }
    Ok(())
}

fn receive(mut client: Client, messages: usize) -> Outcome<()> {
    let mut answers = Vec::new();
    for _ in 0..messages {
        let (_, body) = client.next()?;
        let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let pid = Pid::try_from(u16::from_be_bytes([body[2 + topic], body[3 + topic]]))?;
        answers.extend_from_slice(Packet::Puback(Puback::new_success(pid)).encode()?.as_ref());
        if !client.has_next() {
            client.stream.write_all(&answers)?;
            answers.clear();
        }
    }
    Ok(())
}

fn main() -> Outcome<()> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let [port, user, password, messages, bytes, publishers] = &given[..] else {
        return Err("usage: load PORT USER PASSWORD MESSAGES BYTES PUBLISHERS".into());
    };
    let arguments = Arguments {
        port: port.parse()?,
        user: user.clone(),
        password: password.clone(),
        messages: messages.parse()?,
        bytes: bytes.parse()?,
        publishers: publishers.parse()?,
    };
    let mut subscriber = Client::connect(&arguments, "load-subscriber", 300)?;
    let filter = TopicFilter::try_from("$share/load/i/load/a/+/endpoints/#")?;
    let options = SubscriptionOptions::new(QoS::Level1);
    let subscribe = Subscribe::new(Pid::try_from(1)?, vec![(filter, options)]);
    subscriber.send(&Packet::Subscribe(subscribe))?;
    subscriber.next()?;
    let start = Instant::now();
    let each = arguments.messages / arguments.publishers;
    let publishers: Vec<_> = (0..arguments.publishers)
        .map(|index| {
            let arguments = arguments.clone();
            std::thread::spawn(move || publish(&arguments, index, each))
        })
        .collect();
    receive(subscriber, each * publishers.len())?;
    for publisher in publishers {
        publisher.join().map_err(|_| "a publisher failed")??;
    }
    println!("{:.0}", (each * arguments.publishers) as f64 / start.elapsed().as_secs_f64());
    Ok(())
}
