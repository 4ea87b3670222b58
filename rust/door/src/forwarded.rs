//! Who the client is, and what the web process is told about it.

use std::net::IpAddr;
use std::str::FromStr;

use crate::fields::{Field, members};

/// Addresses of one prefix, such as `10.0.0.0/8` or `::1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    pub fn contains(&self, address: IpAddr) -> bool {
        let (one, other, bits) = match (self.address, address) {
            (IpAddr::V4(one), IpAddr::V4(other)) => {
                (u128::from(one.to_bits()), u128::from(other.to_bits()), 32)
            }
            (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits(), other.to_bits(), 128),
            _ => return false,
        };
        (one ^ other).checked_shr(bits - self.prefix).unwrap_or(0) == 0
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not an IP address or network");
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.trim().parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            Some(digits) => digits.trim().parse().map_err(|_| wrong())?,
        };
        match prefix <= most {
            true => Ok(Self { address, prefix }),
            false => Err(wrong()),
        }
    }
}

/// Where a request comes from.
#[derive(Debug, PartialEq, Eq)]
pub struct Origin<'a> {
    pub client: IpAddr,
    /// What a trusted proxy has said; empty where it is not one.
    pub kept: &'a [Field<'a>],
}

impl<'a> Origin<'a> {
    /// `peer` is the other end of the connection. Only what trusted proxies say is believed, from
    /// the last one backward.
    pub fn of(peer: IpAddr, forwarded: &'a [Field<'a>], trusted: &[Network]) -> Self {
        let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
        if !is_trusted(peer) {
            return Self { client: peer, kept: &[] };
        }
        let mut client = peer;
        let hops: Vec<&str> = values(forwarded, "x-forwarded-for").flat_map(members).collect();
        for hop in hops.into_iter().rev() {
            let Ok(address) = hop.parse::<IpAddr>() else { break };
            client = address.to_canonical();
            if !is_trusted(client) {
                break;
            }
        }
        Self { client, kept: forwarded }
    }

    /// Append the fields that the web process may believe.
    pub fn write(&self, peer: IpAddr, host: &str, is_tls: bool, out: &mut Vec<u8>) {
        let mut line = |name: &str, value: &str| {
            for part in [name, ": ", value, "\r\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        };
        for field in self.kept {
            if !field.name.eq_ignore_ascii_case("x-forwarded-for") {
                line(field.name, field.value);
            }
        }
        let mut hops: Vec<&str> = values(self.kept, "x-forwarded-for").collect();
        let peer = peer.to_string();
        hops.push(&peer);
        line("X-Forwarded-For", &hops.join(", "));
        line("X-Real-IP", &self.client.to_string());
        if values(self.kept, "x-forwarded-proto").next().is_none() {
            line("X-Forwarded-Proto", if is_tls { "https" } else { "http" });
        }
        if values(self.kept, "x-forwarded-host").next().is_none() {
            line("X-Forwarded-Host", host);
        }
    }
}

fn values<'a>(fields: &'a [Field<'a>], name: &'static str) -> impl Iterator<Item = &'a str> {
    fields
        .iter()
        .filter(move |field| field.name.eq_ignore_ascii_case(name))
        .map(|field| field.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn client(peer: &str, forwarded: &str) -> String {
        let fields = [Field { name: "X-Forwarded-For", value: forwarded }];
        let trusted = ["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()];
        Origin::of(address(peer), &fields, &trusted).client.to_string()
    }

    #[test]
    fn networks_contain_their_addresses() {
        let contains =
            |network: &str, text| Network::from_str(network).unwrap().contains(address(text));
        assert!(contains("10.0.0.0/8", "10.255.0.1"));
        assert!(!contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("0.0.0.0/0", "11.0.0.1"));
        assert!(contains("::/0", "fe80::1"));
        assert!(!contains("::/0", "1.2.3.4"));
        assert!(contains("1.2.3.4", "1.2.3.4"));
        for wrong in ["", "x", "1.2.3.4/33", "::1/129", "1.2.3.4/-1", "1.2.3.4/"] {
            assert!(Network::from_str(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        assert_eq!(client("9.9.9.9", "1.1.1.1"), "9.9.9.9");
        assert_eq!(client("10.0.0.1", "1.1.1.1"), "1.1.1.1");
        assert_eq!(client("10.0.0.1", "6.6.6.6, 1.1.1.1, 10.0.0.2"), "1.1.1.1");
        assert_eq!(client("10.0.0.1", "10.0.0.3, 10.0.0.2"), "10.0.0.3");
        assert_eq!(client("10.0.0.1", "1.1.1.1, unknown"), "10.0.0.1");
        assert_eq!(client("::1", "fe80::1"), "fe80::1");
    }

    fn written(peer: &str, fields: &[Field<'_>]) -> String {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let mut out = Vec::new();
        Origin::of(address(peer), fields, &trusted).write(address(peer), "h", false, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_client_cannot_say_who_it_is() {
        let fields = [
            Field { name: "X-Forwarded-For", value: "1.1.1.1" },
            Field { name: "x-forwarded-proto", value: "https" },
        ];
        assert_eq!(
            written("9.9.9.9", &fields),
            "X-Forwarded-For: 9.9.9.9\r\nX-Real-IP: 9.9.9.9\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: h\r\n"
        );
        assert_eq!(
            written("10.0.0.1", &fields),
            "x-forwarded-proto: https\r\nX-Forwarded-For: 1.1.1.1, 10.0.0.1\r\nX-Real-IP: 1.1.1.1\r\nX-Forwarded-Host: h\r\n"
        );
    }
}
