//! From what the kernel gives (a packet with an unfinished checksum, or a super-packet) to packets as they travel.

use crate::checksum;
use crate::packet::{Ip, Malformed, TCP, UDP, be32, put16, put32, seal4};
use crate::vnet::{self, Header};

const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

/// How a super-packet is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Bytes of all headers, which each segment gets anew.
    pub headers: usize,
    /// Payload bytes of each segment but the last.
    pub size: usize,
    /// How many segments.
    pub count: usize,
    transport: usize,
    udp: bool,
    checksum: u32,
}

/// Finish the checksum of a packet that is no super-packet, if `header` asks for it.
pub fn finish(header: &Header, packet: &mut [u8]) -> Result<(), Malformed> {
    if header.flags & vnet::NEEDS_CSUM == 0 {
        return Ok(());
    }
    let start = usize::from(header.csum_start);
    let at = start + usize::from(header.csum_offset);
    if at + 2 > packet.len() {
        return Err(Malformed);
    }
    // The field holds the pseudo header's sum already.
    let check = checksum::finish(checksum::sum(&packet[start..]));
    put16(packet, at, if check == 0 && header.csum_offset == 6 { 0xffff } else { check });
    Ok(())
}

impl Cut {
    /// How to cut `packet`; `None` if it is to go as it is (after [`finish`]).
    pub fn plan(header: &Header, ip: &Ip, packet: &[u8]) -> Result<Option<Cut>, Malformed> {
        let udp = match header.gso_type & !vnet::GSO_ECN {
            vnet::GSO_NONE => return Ok(None),
            vnet::GSO_TCPV4 | vnet::GSO_TCPV6 => false,
            vnet::GSO_UDP_L4 => true,
            _ => return Err(Malformed),
        };
        let transport = usize::from(header.csum_start);
        if transport < ip.header_len || packet.len() < transport + if udp { 8 } else { 20 } {
            return Err(Malformed);
        }
        let headers = transport + if udp { 8 } else { usize::from(packet[transport + 12] >> 4) * 4 };
        let size = usize::from(header.gso_size);
        if size == 0 || headers >= packet.len() || (!udp && headers < transport + 20) {
            return Err(Malformed);
        }
        let count = (packet.len() - headers).div_ceil(size);
        let pseudo = checksum::sum(ip.addresses(packet)) + u32::from(if udp { UDP } else { TCP });
        Ok(Some(Cut { headers, size, count, transport, udp, checksum: pseudo }))
    }

    /// Payload of segment `at` within `packet`.
    pub fn payload<'a>(&self, packet: &'a [u8], at: usize) -> &'a [u8] {
        let from = self.headers + at * self.size;
        &packet[from..packet.len().min(from + self.size)]
    }

    /// Write the headers of segment `at` of `packet` to `out`, which has [`Cut::headers`] bytes.
    pub fn header(&self, packet: &[u8], at: usize, out: &mut [u8]) {
        let payload = self.payload(packet, at);
        let transport = self.transport;
        out.copy_from_slice(&packet[..self.headers]);
        let length = self.headers + payload.len();
        if out[0] >> 4 == 4 {
            put16(out, 2, length as u16);
            let id = u16::from_be_bytes([out[4], out[5]]).wrapping_add(at as u16);
            put16(out, 4, id);
            let header_len = usize::from(out[0] & 15) * 4;
            seal4(&mut out[..header_len]);
        } else {
            put16(out, 4, (length - 40) as u16);
        }
        let field = transport + if self.udp { 6 } else { 16 };
        if self.udp {
            put16(out, transport + 4, (length - transport) as u16);
        } else {
            let sequence = be32(out, transport + 4).unwrap_or(0).wrapping_add((at * self.size) as u32);
            put32(out, transport + 4, sequence);
            if at + 1 < self.count {
                out[transport + 13] &= !FIN_PSH;
            }
            if at > 0 {
                out[transport + 13] &= !CWR;
            }
        }
        put16(out, field, 0);
        let sum =
            self.checksum + (length - transport) as u32 + checksum::sum(&out[transport..]) + checksum::sum(payload);
        let check = checksum::finish(sum);
        put16(out, field, if self.udp && check == 0 { 0xffff } else { check });
    }

    /// Segment `at` of `packet` as a packet of its own: for tests and where speed is no matter.
    pub fn whole(&self, packet: &[u8], at: usize) -> Vec<u8> {
        let mut out = vec![0; self.headers];
        self.header(packet, at, &mut out);
        out.extend(self.payload(packet, at));
        out
    }
}
