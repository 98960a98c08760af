//! A view of an IP packet's headers. No bytes make it panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum;

/// IP protocol numbers.
pub const ICMP: u8 = 1;
/// TCP (RFC 9293).
pub const TCP: u8 = 6;
/// UDP (RFC 768).
pub const UDP: u8 = 17;
/// ICMPv6 (RFC 4443).
pub const ICMPV6: u8 = 58;

/// These bytes are no IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// What the IP header says (RFC 791, RFC 8200).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip {
    /// From whom.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// Of the IP header in bytes, IPv4 options included; IPv6 extension headers are not.
    pub header_len: usize,
    /// Of the whole packet in bytes, as the header has it.
    pub total_len: usize,
    /// The next header's number.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// A part of a packet: the transport header may not be here.
    pub fragment: bool,
    /// Not the first part of a packet.
    pub later_fragment: bool,
    /// It may not be fragmented on its way (IPv6 never may).
    pub dont_fragment: bool,
}

impl Ip {
    /// Read the header. `data` may be longer or shorter than the packet: see [`Ip::total_len`].
    pub fn parse(data: &[u8]) -> Result<Ip, Malformed> {
        match data.first().map(|byte| byte >> 4) {
            Some(4) => Ip::parse4(data),
            Some(6) => Ip::parse6(data),
            _ => Err(Malformed),
        }
    }

    fn parse4(data: &[u8]) -> Result<Ip, Malformed> {
        let header: &[u8; 20] = data.first_chunk().ok_or(Malformed)?;
        let header_len = usize::from(header[0] & 15) * 4;
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header_len < 20 || data.len() < header_len || total_len < header_len {
            return Err(Malformed);
        }
        let fragment = u16::from_be_bytes([header[6], header[7]]);
        Ok(Ip {
            source: IpAddr::V4(Ipv4Addr::new(header[12], header[13], header[14], header[15])),
            destination: IpAddr::V4(Ipv4Addr::new(header[16], header[17], header[18], header[19])),
            header_len,
            total_len,
            protocol: header[9],
            ttl: header[8],
            fragment: fragment & 0x3fff != 0,
            later_fragment: fragment & 0x1fff != 0,
            dont_fragment: fragment & 0x4000 != 0,
        })
    }

    fn parse6(data: &[u8]) -> Result<Ip, Malformed> {
        let header: &[u8; 40] = data.first_chunk().ok_or(Malformed)?;
        let address = |at: usize| {
            let mut octets = [0u8; 16];
            octets.copy_from_slice(&header[at..at + 16]);
            IpAddr::V6(Ipv6Addr::from(octets))
        };
        Ok(Ip {
            source: address(8),
            destination: address(24),
            header_len: 40,
            total_len: 40 + usize::from(u16::from_be_bytes([header[4], header[5]])),
            protocol: header[6],
            ttl: header[7],
            fragment: header[6] == 44,
            later_fragment: header[6] == 44, // the whole chain isn't walked: treated as one
            dont_fragment: true,
        })
    }

    /// Is `data` this packet, whole and alone, with a sound header?
    pub fn is_sound(&self, data: &[u8]) -> bool {
        self.total_len == data.len()
            && self.ttl != 0
            && (self.source.is_ipv6() || checksum::fold(checksum::sum(&data[..self.header_len])) == 0xffff)
    }

    /// Source and destination as they stand in the header: what a pseudo header begins with.
    pub fn addresses<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        if self.source.is_ipv4() { &data[12..20] } else { &data[8..40] }
    }
}

/// Two bytes at `at`, big-endian; `None` beyond the end.
pub fn be16(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*data.get(at)?, *data.get(at + 1)?]))
}

/// Four bytes at `at`, big-endian; `None` beyond the end.
pub fn be32(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..at + 4).map(|bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// Put `value` at `at`, big-endian.
pub fn put16(data: &mut [u8], at: usize, value: u16) {
    data[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Put `value` at `at`, big-endian.
pub fn put32(data: &mut [u8], at: usize, value: u32) {
    data[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// Compute the checksum of an IPv4 header and put it there.
pub fn seal4(header: &mut [u8]) {
    put16(header, 10, 0);
    let check = checksum::finish(checksum::sum(header));
    put16(header, 10, check);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A sound UDP packet from 10.5.1.2 to 10.5.2.2.
    pub fn udp4(payload: &[u8]) -> Vec<u8> {
        let length = 28 + payload.len();
        let mut data = vec![0x45, 0, (length >> 8) as u8, length as u8, 0, 1, 0x40, 0, 64, UDP, 0, 0];
        data.extend([10, 5, 1, 2, 10, 5, 2, 2, 0x30, 0x39, 0, 53]);
        data.extend(((8 + payload.len()) as u16).to_be_bytes());
        data.extend([0, 0]);
        data.extend(payload);
        seal4(&mut data[..20]);
        let check = checksum::finish(checksum::pseudo(&data[12..20], UDP, length - 20) + checksum::sum(&data[20..]));
        put16(&mut data, 26, if check == 0 { 0xffff } else { check });
        data
    }

    #[test]
    fn a_header_is_read() {
        let data = udp4(b"hello");
        let ip = Ip::parse(&data).unwrap();
        assert_eq!((ip.source.to_string().as_str(), ip.destination.to_string().as_str()), ("10.5.1.2", "10.5.2.2"));
        assert_eq!((ip.header_len, ip.total_len, ip.protocol, ip.ttl), (20, 33, UDP, 64));
        assert!(ip.is_sound(&data) && ip.dont_fragment && !ip.fragment);
    }

    #[test]
    fn what_is_not_sound() {
        let good = udp4(b"hello");
        let sound = |data: &[u8]| Ip::parse(data).is_ok_and(|ip| ip.is_sound(data));
        assert!(sound(&good));
        assert!(!sound(&good[..32]), "truncated");
        assert!(!sound(&[good.as_slice(), b"x"].concat()), "with something behind it");
        assert!(!sound(&good[..19]) && !sound(&[]));
        for (at, byte) in [(0, 0x55), (0, 0x44), (0, 0x46), (8, 0), (10, 1), (12, 11)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert!(!sound(&bad), "byte {at} as {byte}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(data in prop::collection::vec(any::<u8>(), 0..100), first in 0x40u8..0x70) {
            for begin in [None, Some(first)] {
                let mut data = data.clone();
                if let (Some(byte), Some(at)) = (begin, data.first_mut()) {
                    *at = byte;
                }
                if let Ok(ip) = Ip::parse(&data) {
                    ip.is_sound(&data);
                    ip.addresses(&data);
                }
            }
        }
    }
}
