//! A range of addresses, as `10.0.0.0/8`; one address is a range of one.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its first address, as a number of 128 bits.
    first: u128,
    /// The bits that an address of the range shares with the first.
    mask: u128,
}

/// Why a text is no range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a range of addresses; write e.g. 10.0.0.0/8, 192.168.1.7 or fd00::/8")]
pub struct BadNetwork;

impl Network {
    /// Is `address` in the range?
    pub fn contains(self, address: IpAddr) -> bool {
        number(address) & self.mask == self.first
    }
}

/// Its first address and the number of bits that all have in common.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = IpAddr::from(self.first.to_be_bytes()).to_canonical();
        let bits = self.mask.count_ones() - if first.is_ipv4() { 96 } else { 0 };
        write!(f, "{first}/{bits}")
    }
}

impl FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| BadNetwork)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let length: u32 = match length {
            Some(length) => length.parse().map_err(|_| BadNetwork)?,
            None => bits,
        };
        let host_bits = bits.checked_sub(length).ok_or(BadNetwork)?;
        let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
        Ok(Self {
            first: number(address) & mask,
            mask,
        })
    }
}

/// An address of IPv6 that lacks its brackets, and the port behind it: `::1:8765`, which can be read in two ways.
pub(super) fn without_brackets(text: &str) -> Option<(Ipv6Addr, Option<u16>)> {
    let with_port = text.rsplit_once(':').and_then(|(address, port)| {
        let port = port.parse().ok()?;
        Some((address.parse().ok()?, Some(port)))
    });
    with_port.or_else(|| Some((text.parse().ok()?, None)))
}

/// IPv4 addresses are those that IPv6 maps them to, so that both kinds are compared alike.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_without_brackets() {
        for (text, expected) in [
            ("::1:8765", Some(("::1", Some(8765)))),
            (":::8765", Some(("::", Some(8765)))),
            ("fd00::2:8765", Some(("fd00::2", Some(8765)))),
            ("::1", Some(("::1", None))),
            ("1:2:3:4:5:6:7:8", Some(("1:2:3:4:5:6:7:8", None))),
            ("[::1]:8765", None),
            ("10.0.0.1:8765", None),
            (":8765", None),
            ("gpu:8765", None),
        ] {
            let expected = expected.map(|(ip, port)| (ip.parse().unwrap(), port));
            assert_eq!(without_brackets(text), expected, "{text}");
        }
    }

    #[test]
    fn ranges() {
        let table = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.9.9.9/8", "10.0.0.1", true),
            ("192.168.1.7", "192.168.1.7", true),
            ("192.168.1.7", "192.168.1.8", false),
            ("0.0.0.0/0", "203.0.113.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("10.0.0.0/8", "::ffff:10.1.1.1", true),
            ("fd00::/8", "fd12::1", true),
            ("::/0", "203.0.113.1", true),
        ];
        for (range, address, expected) in table {
            let range: Network = range.parse().unwrap();
            assert_eq!(
                range.contains(address.parse().unwrap()),
                expected,
                "{address}"
            );
        }
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "a", "::/129", "10.0.0.0/-1"] {
            assert_eq!(bad.parse::<Network>(), Err(BadNetwork), "{bad}");
        }
    }
}
