//! Packets, built and checked apart from the engine's own code.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// RFC 1071, plainly.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

pub fn eth(ip: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend(if ip.first().is_some_and(|byte| byte >> 4 == 6) { [0x86, 0xdd] } else { [8, 0] });
    frame.extend(ip);
    frame
}

/// An IP packet; the fields that tests change have their own functions.
pub fn ip(from: &str, to: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (from.parse().unwrap(), to.parse().unwrap()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ip4(from, to, protocol, payload),
        (IpAddr::V6(from), IpAddr::V6(to)) => ip6(from, to, protocol, payload),
        _ => panic!("of one family"),
    }
}

fn ip4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend([0x12, 0x34, 0, 0, 64, protocol, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    mend(&mut packet);
    packet
}

fn ip6(from: Ipv6Addr, to: Ipv6Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([protocol, 64]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

/// Set an IPv4 header's checksum right again.
pub fn mend(packet: &mut [u8]) {
    let len = usize::from(packet[0] & 15) * 4;
    packet[10..12].copy_from_slice(&[0, 0]);
    let check = !sum(&packet[..len]);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
}

/// With a change, after which an IPv4 header is right again.
pub fn with(packet: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut packet = packet.to_vec();
    change(&mut packet);
    if packet[0] >> 4 == 4 {
        mend(&mut packet);
    }
    packet
}

/// A datagram without a checksum.
pub fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(8285u16.to_be_bytes());
    datagram.extend(port.to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// A TCP segment without a checksum: an acknowledgement with data.
pub fn tcp(payload: &[u8]) -> Vec<u8> {
    let mut segment = vec![0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0];
    segment.extend(payload);
    segment
}

/// The transport's part of a packet without options: where it begins, and the sum of its pseudo header.
fn pseudo(packet: &[u8]) -> (usize, u16) {
    let (at, addresses, protocol) =
        if packet[0] >> 4 == 4 { (20, &packet[12..20], packet[9]) } else { (40, &packet[8..40], packet[6]) };
    let len = (packet.len() - at) as u32;
    (at, sum(&[addresses, &len.to_be_bytes(), &[0, 0, 0, protocol]].concat()))
}

fn check_at(packet: &[u8]) -> usize {
    let (at, protocol) = if packet[0] >> 4 == 4 { (20, packet[9]) } else { (40, packet[6]) };
    at + if protocol == TCP { 16 } else { 6 }
}

/// As a pod hands it to a device that finishes checksums.
pub fn unfinished(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let (at, check) = (check_at(&packet), pseudo(&packet).1);
    packet[at..at + 2].copy_from_slice(&check.to_be_bytes());
    packet
}

/// With the right checksum.
pub fn finished(packet: &[u8]) -> Vec<u8> {
    let mut packet = unfinished(packet);
    let (at, start) = (check_at(&packet), pseudo(&packet).0);
    let check = match !sum(&packet[start..]) {
        0 => 0xffff,
        check => check,
    };
    packet[at..at + 2].copy_from_slice(&check.to_be_bytes());
    packet
}
