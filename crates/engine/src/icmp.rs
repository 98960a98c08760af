//! What a router answers when a packet can't go on (RFC 792, RFC 1812, RFC 4443).

use std::net::IpAddr;

use crate::checksum;
use crate::packet::{ICMP, ICMPV6, Ip, put16, put32, seal4};

const TTL: u8 = 64;
const QUOTED4: usize = 548; // RFC 1812: as much as fits into 576 bytes
const QUOTED6: usize = 1232; // RFC 4443: as much as fits into 1,280 bytes

/// Why a packet can't go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// No peer has the destination: network unreachable (IPv6: no route).
    NoRoute,
    /// The peer can't be reached: host unreachable (IPv6: address unreachable).
    NoHost,
    /// It is too big for the path: the largest packet that isn't, in bytes.
    TooBig(u32),
}

/// The answer to `packet`, from `own`; `None` where none may be given: to errors, to fragments but the first, to
/// packets of or to nobody in particular.
pub fn answer(trouble: Trouble, ip: &Ip, packet: &[u8], own: &IpAddr) -> Option<Vec<u8>> {
    if ip.later_fragment && ip.source.is_ipv4() || !is_somebody(&ip.source) || !is_somebody(&ip.destination) {
        return None;
    }
    match (own, ip.source) {
        (IpAddr::V4(own), IpAddr::V4(_)) => {
            // Only echo and timestamp are no errors: answer nothing but those.
            let kind = packet.get(ip.header_len).copied();
            if ip.protocol == ICMP && !matches!(kind, Some(0 | 8 | 13 | 14)) {
                return None;
            }
            let quote = &packet[..packet.len().min(QUOTED4)];
            let mut out = vec![0x45, 0, 0, 0, 0, 0, 0, 0, TTL, ICMP, 0, 0];
            out.extend(own.octets());
            out.extend(&packet[12..16]);
            let (code, mtu) = match trouble {
                Trouble::NoRoute => (0, 0),
                Trouble::NoHost => (1, 0),
                Trouble::TooBig(mtu) => (4, mtu.min(0xffff)),
            };
            out.extend([3, code, 0, 0]);
            out.extend(mtu.to_be_bytes());
            out.extend(quote);
            let length = out.len();
            put16(&mut out, 2, length as u16);
            seal4(&mut out[..20]);
            let check = checksum::finish(checksum::sum(&out[20..]));
            put16(&mut out, 22, check);
            Some(out)
        }
        (IpAddr::V6(own), IpAddr::V6(_)) => {
            if ip.protocol == ICMPV6 && packet.get(40).is_none_or(|kind| *kind < 128) {
                return None;
            }
            let quote = &packet[..packet.len().min(QUOTED6)];
            let mut out = vec![0x60, 0, 0, 0, 0, 0, ICMPV6, TTL];
            out.extend(own.octets());
            out.extend(&packet[8..24]);
            let (kind, code, value) = match trouble {
                Trouble::NoRoute => (1, 0, 0),
                Trouble::NoHost => (1, 3, 0),
                Trouble::TooBig(mtu) => (2, 0, mtu),
            };
            out.extend([kind, code, 0, 0, 0, 0, 0, 0]);
            put32(&mut out, 44, value);
            out.extend(quote);
            let length = out.len() - 40;
            put16(&mut out, 4, length as u16);
            let sum = checksum::pseudo(&out[8..40], ICMPV6, length) + checksum::sum(&out[40..]);
            put16(&mut out, 42, checksum::finish(sum));
            Some(out)
        }
        _ => None,
    }
}

fn is_somebody(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => {
            !(ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_broadcast()
                || ip.is_loopback()
                || ip.octets()[0] >= 240)
        }
        IpAddr::V6(ip) => !(ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || ip.is_unicast_link_local()),
    }
}

/// A token bucket: so many answers a second, that many at once.
#[derive(Debug)]
pub struct Limit {
    tokens: f64,
    at: f64,
}

const PER_SECOND: f64 = 100.0;
const BURST: f64 = 50.0;

impl Default for Limit {
    fn default() -> Self {
        Limit { tokens: BURST, at: 0.0 }
    }
}

impl Limit {
    /// May one be sent at `now` (seconds)?
    pub fn take(&mut self, now: f64) -> bool {
        self.tokens = (self.tokens + (now - self.at).max(0.0) * PER_SECOND).min(BURST);
        self.at = now;
        let may = self.tokens >= 1.0;
        if may {
            self.tokens -= 1.0;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::UDP;
    use crate::packet::tests::udp4;
    use proptest::prelude::*;

    fn four() -> IpAddr {
        "10.5.1.0".parse().unwrap()
    }

    #[test]
    fn network_unreachable_as_flannel_says_it() {
        let packet = udp4(b"who is there?");
        let ip = Ip::parse(&packet).unwrap();
        let found = answer(Trouble::NoRoute, &ip, &packet, &four()).unwrap();
        let outer = Ip::parse(&found).unwrap();
        assert!(outer.is_sound(&found));
        assert_eq!((outer.source, outer.destination, outer.protocol), (four(), ip.source, ICMP));
        assert_eq!(found[20..22], [3, 0]);
        assert_eq!(checksum::fold(checksum::sum(&found[20..])), 0xffff);
        assert_eq!(found[28..], packet);
    }

    #[test]
    fn fragmentation_needed_names_the_mtu() {
        let packet = udp4(&[7; 1400]);
        let ip = Ip::parse(&packet).unwrap();
        let found = answer(Trouble::TooBig(1372), &ip, &packet, &four()).unwrap();
        assert_eq!((&found[20..22], &found[26..28], found.len()), (&[3, 4][..], &1372u16.to_be_bytes()[..], 576));
    }

    #[test]
    fn packet_too_big_for_ipv6() {
        let mut packet = vec![0x60, 0, 0, 0, 0, 8, UDP, 64];
        packet.extend([0xfd; 16]);
        packet.extend([0xfc; 16]);
        packet.extend([0; 8]);
        let ip = Ip::parse(&packet).unwrap();
        let own = "fd00::1".parse().unwrap();
        let found = answer(Trouble::TooBig(1352), &ip, &packet, &own).unwrap();
        let outer = Ip::parse(&found).unwrap();
        assert_eq!((found[40], &found[44..48]), (2, &1352u32.to_be_bytes()[..]));
        assert_eq!(
            checksum::fold(
                checksum::pseudo(outer.addresses(&found), ICMPV6, found.len() - 40) + checksum::sum(&found[40..])
            ),
            0xffff
        );
        assert!(answer(Trouble::NoRoute, &ip, &packet, &four()).is_none());
    }

    #[test]
    fn what_is_not_answered() {
        let answered = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut packet = udp4(&[0; 40]);
            change(&mut packet);
            answer(Trouble::NoRoute, &Ip::parse(&packet).unwrap(), &packet, &four()).is_some()
        };
        assert!(answered(&|_| ()));
        assert!(
            answered(&|packet| {
                packet[9] = ICMP;
                packet[20] = 8
            }),
            "an echo is no error"
        );
        assert!(
            !answered(&|packet| {
                packet[9] = ICMP;
                packet[20] = 3
            }),
            "an error"
        );
        assert!(
            !answered(&|packet| {
                packet[9] = ICMP;
                packet[20] = 5
            }),
            "a redirect"
        );
        assert!(!answered(&|packet| packet[7] = 1), "a later fragment");
        assert!(answered(&|packet| packet[6] = 0x20), "the first one is answered");
        assert!(!answered(&|packet| packet[16] = 224), "multicast");
        assert!(!answered(&|packet| packet[12] = 0xff), "from nobody");
    }

    #[test]
    fn not_too_many() {
        let mut limit = Limit::default();
        assert_eq!((0..1000).filter(|_| limit.take(10.0)).count(), 50);
        assert_eq!((0..1000).filter(|_| limit.take(10.125)).count(), 12);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut packet in prop::collection::vec(any::<u8>(), 20..90), six in any::<bool>()) {
            packet[0] = if six { 0x60 } else { 0x45 };
            if let Ok(ip) = Ip::parse(&packet) {
                for own in ["10.5.1.0", "fd00::1"] {
                    answer(Trouble::TooBig(1400), &ip, &packet, &own.parse().unwrap());
                }
            }
        }
    }
}
