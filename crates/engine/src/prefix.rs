//! Networks, and a table that finds the longest one that holds an address.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::IpAddr;
use std::str::FromStr;

/// A network in CIDR form, its host bits clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

impl Prefix {
    /// Its family's addresses have so many bits.
    fn bits(address: &IpAddr) -> u8 {
        if address.is_ipv4() { 32 } else { 128 }
    }

    /// The first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Its length in bits.
    pub fn prefix_len(&self) -> u8 {
        self.len
    }

    /// Does it hold `address`?
    pub fn contains(&self, address: &IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.len) == number(&self.address)
    }
}

fn number(address: &IpAddr) -> u128 {
    match address {
        IpAddr::V4(ip) => u128::from(u32::from(*ip)),
        IpAddr::V6(ip) => u128::from(*ip),
    }
}

fn masked(address: &IpAddr, len: u8) -> u128 {
    let host = u32::from(Prefix::bits(address) - len);
    if host >= 128 { 0 } else { number(address) >> host << host }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Prefix, String> {
        let wrong = || format!("{text:?} is no network such as 10.5.1.0/24");
        let (address, len) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let len: u8 = len.parse().map_err(|_| wrong())?;
        if len > Prefix::bits(&address) || masked(&address, len) != number(&address) {
            return Err(wrong());
        }
        Ok(Prefix { address, len })
    }
}

/// Addresses are well spread already in their low bits; one multiplication does.
#[derive(Default)]
pub struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(26) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 32;
    }

    fn write_u128(&mut self, value: u128) {
        self.write_u64(value as u64);
        self.write_u64((value >> 64) as u64);
    }
}

type Level<V> = (u8, HashMap<u128, V, BuildHasherDefault<Mix>>);

/// Longest-prefix match. A look-up costs one hash per length that is in use: one, in a flannel network.
#[derive(Debug, Clone)]
pub struct Table<V> {
    levels: [Vec<Level<V>>; 2],
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Table { levels: [Vec::new(), Vec::new()] }
    }
}

impl<V> Table<V> {
    /// Put `value` under `prefix`, in the place of what was there.
    pub fn insert(&mut self, prefix: Prefix, value: V) {
        let levels = &mut self.levels[usize::from(prefix.address.is_ipv6())];
        let at = match levels.binary_search_by(|(len, _)| prefix.len.cmp(len)) {
            Ok(at) => at,
            Err(at) => {
                levels.insert(at, (prefix.len, HashMap::default()));
                at
            }
        };
        levels[at].1.insert(number(&prefix.address), value);
    }

    /// What the longest prefix that holds `address` has.
    pub fn get(&self, address: &IpAddr) -> Option<&V> {
        let levels = &self.levels[usize::from(address.is_ipv6())];
        levels.iter().find_map(|(len, map)| map.get(&masked(address, *len)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_wins() {
        let mut table = Table::default();
        for (at, net) in ["10.0.0.0/8", "10.5.1.0/24", "0.0.0.0/0", "fd00::/8", "10.5.1.7/32"].iter().enumerate() {
            table.insert(prefix(net), at);
        }
        let found = |ip: &str| table.get(&ip.parse().unwrap()).copied();
        assert_eq!(found("10.5.1.7"), Some(4));
        assert_eq!(found("10.5.1.8"), Some(1));
        assert_eq!(found("10.5.2.8"), Some(0));
        assert_eq!(found("11.0.0.1"), Some(2));
        assert_eq!((found("fd00::1"), found("fe80::1")), (Some(3), None));
    }

    #[test]
    fn what_is_no_network_is_named() {
        for text in ["", "10.5.1.0", "10.5.1.1/24", "10.5.1.0/33", "x/8", "10.5.1.0/-1", "fd00::1/64"] {
            assert!(text.parse::<Prefix>().unwrap_err().contains(&format!("{text:?}")));
        }
    }

    proptest! {
        #[test]
        fn it_finds_what_a_plain_scan_finds(
            nets in prop::collection::vec((any::<u32>(), 0u8..=32), 0..20), asked in any::<u32>(), near in any::<bool>()
        ) {
            let mut table = Table::default();
            let mut plain: Vec<Prefix> = Vec::new();
            for (address, len) in &nets {
                let ip = IpAddr::V4((*address).into());
                let found = Prefix { address: IpAddr::V4((masked(&ip, *len) as u32).into()), len: *len };
                table.insert(found, found);
                plain.push(found);
            }
            let asked = if near { nets.first().map_or(asked, |net| net.0 ^ (asked & 3)) } else { asked };
            let ip = IpAddr::V4(asked.into());
            let best = plain.iter().filter(|net| net.contains(&ip)).max_by_key(|net| net.len);
            prop_assert_eq!(table.get(&ip), best);
        }
    }
}
