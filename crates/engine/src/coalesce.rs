//! Packets of one flow put together into one super-packet, so that the host's stack is crossed once for all of them.
//!
//! Only what can be taken apart again into the very same packets is put together (the conditions of the kernel's own
//! GRO), and only packets whose checksums are right: all else goes on as it came, and the kernel judges it. The order
//! within a flow is kept.

use crate::checksum;
use crate::packet::{Ip, TCP, UDP, be16, be32, put16, seal4};
use crate::vnet::{self, Header, NEEDS_CSUM};

/// Where a part lies in the buffer: offset and length in bytes.
pub type Part = (usize, usize);

const FLOWS: usize = 8;
const MAX_PARTS: usize = 64; // what a kernel before 6.9 takes as one UDP train
const MAX_TOTAL: usize = 65_535;
const MAX_HEADERS: usize = 40 + 60;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// One packet for the TUN: `vnet`, then `head`, then the parts.
pub struct Out<'a> {
    /// Of the packet that follows.
    pub vnet: Header,
    /// Headers of a super-packet; empty for a packet that goes as it came.
    pub head: &'a [u8],
    /// What follows, in the buffer.
    pub parts: &'a [Part],
    /// How many packets this is.
    pub packets: usize,
}

struct Flow {
    key: u64,
    udp: bool,
    head: [u8; MAX_HEADERS],
    headers: usize,
    transport: usize,
    size: usize,
    payload: usize,
    next: u32,
    first: Part,
    parts: Vec<Part>,
}

/// What is being put together. Every batch of packets ends with [`Coalescer::flush`].
pub struct Coalescer {
    flows: Vec<Flow>,
    spare: Vec<Vec<Part>>,
    tcp: bool,
    udp: bool,
}

struct View {
    key: u64,
    udp: bool,
    headers: usize,
    transport: usize,
    fit: bool,
}

impl Coalescer {
    /// Does the device take TCP super-packets, does it take trains of UDP datagrams?
    pub fn new(tcp: bool, udp: bool) -> Coalescer {
        Coalescer { flows: Vec::with_capacity(FLOWS), spare: Vec::new(), tcp, udp }
    }

    /// Take the packet `ip` at `part` of `buffer`; it, or others that wait, may go to `emit` now or later.
    pub fn push(&mut self, buffer: &[u8], part: Part, ip: &Ip, emit: &mut impl FnMut(&Out)) {
        let packet = &buffer[part.0..part.0 + part.1];
        let Some(view) = view(packet, ip) else {
            if ip.fragment || ip.protocol == TCP || ip.protocol == UDP {
                self.let_pass(packet, emit); // it may be of a flow that waits: its ports aren't known
            }
            emit(&Out { vnet: Header::default(), head: &[], parts: &[part], packets: 1 });
            return;
        };
        let at = self.flows.iter().position(|flow| flow.key == view.key && same_flow(flow, packet, &view));
        let fit = view.fit && (if view.udp { self.udp } else { self.tcp }) && verified(packet, ip, &view);
        if let Some(at) = at {
            if fit && self.flows[at].append(packet, part, &view) {
                if self.flows[at].closed(packet, &view) {
                    self.finish(at, emit);
                }
                return;
            }
            self.finish(at, emit);
        }
        if !fit || (!view.udp && packet[view.transport + 13] & PSH != 0) {
            emit(&Out { vnet: Header::default(), head: &[], parts: &[part], packets: 1 });
            return;
        }
        if self.flows.len() == FLOWS {
            self.finish(0, emit);
        }
        let mut flow = Flow {
            key: view.key,
            udp: view.udp,
            head: [0; MAX_HEADERS],
            headers: view.headers,
            transport: view.transport,
            size: packet.len() - view.headers,
            payload: packet.len() - view.headers,
            next: 0,
            first: part,
            parts: self.spare.pop().unwrap_or_default(),
        };
        flow.head[..view.headers].copy_from_slice(&packet[..view.headers]);
        if !view.udp {
            flow.next = be32(packet, view.transport + 4).unwrap_or(0).wrapping_add(flow.size as u32);
        }
        flow.parts.push((part.0 + view.headers, flow.size));
        self.flows.push(flow);
    }

    /// Let everything go that waits.
    pub fn flush(&mut self, emit: &mut impl FnMut(&Out)) {
        while !self.flows.is_empty() {
            self.finish(0, emit);
        }
    }

    /// Let those go that wait and are between the hosts of `packet`.
    fn let_pass(&mut self, packet: &[u8], emit: &mut impl FnMut(&Out)) {
        let addresses = if packet[0] >> 4 == 4 { 12..20 } else { 8..40 };
        let same = |flow: &Flow| {
            flow.head[0] >> 4 == packet[0] >> 4 && flow.head[addresses.clone()] == packet[addresses.clone()]
        };
        while let Some(at) = self.flows.iter().position(same) {
            self.finish(at, emit);
        }
    }

    fn finish(&mut self, at: usize, emit: &mut impl FnMut(&Out)) {
        let mut flow = self.flows.remove(at);
        if flow.parts.len() == 1 {
            emit(&Out { vnet: Header::default(), head: &[], parts: &[flow.first], packets: 1 });
        } else {
            let vnet = flow.seal();
            emit(&Out { vnet, head: &flow.head[..flow.headers], parts: &flow.parts, packets: flow.parts.len() });
        }
        flow.parts.clear();
        self.spare.push(flow.parts);
    }
}

/// What may belong to a flow: a TCP or UDP packet with its whole header. `fit` says that it may be put together.
fn view(packet: &[u8], ip: &Ip) -> Option<View> {
    let udp = ip.protocol == UDP;
    if ip.fragment || !(udp || ip.protocol == TCP) {
        return None;
    }
    let transport = ip.header_len;
    let ports = be32(packet, transport)?;
    let (headers, plain) = if udp {
        let whole = be16(packet, transport + 4)? as usize == packet.len() - transport;
        (transport + 8, whole && be16(packet, transport + 6)? != 0)
    } else {
        let offset = usize::from(packet.get(transport + 12)? >> 4) * 4;
        let flags = *packet.get(transport + 13)?;
        (transport + offset, offset >= 20 && flags & !PSH == ACK)
    };
    let options = ip.source.is_ipv4() && ip.header_len != 20;
    let fit = plain && !options && headers < packet.len() && headers <= MAX_HEADERS;
    let key = ip.addresses(packet).chunks(4).fold(u64::from(ports), |key, word| {
        (key.rotate_left(13) ^ u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]])))
            .wrapping_mul(0x9e37_79b9)
    });
    Some(View { key, udp, headers, transport, fit })
}

fn same_flow(flow: &Flow, packet: &[u8], view: &View) -> bool {
    let addresses = if flow.head[0] >> 4 == 4 { 12..20 } else { 8..40 };
    let ports = view.transport..view.transport + 4;
    flow.udp == view.udp
        && flow.transport == view.transport
        && flow.head[0] >> 4 == packet[0] >> 4
        && flow.head[addresses.clone()] == packet[addresses]
        && flow.head[ports.clone()] == packet[ports]
}

fn verified(packet: &[u8], ip: &Ip, view: &View) -> bool {
    let length = packet.len() - view.transport;
    let pseudo = checksum::pseudo(ip.addresses(packet), ip.protocol, length);
    checksum::fold(pseudo + checksum::sum(&packet[view.transport..])) == 0xffff
}

impl Flow {
    /// Add it, if cutting the whole would give it back.
    fn append(&mut self, packet: &[u8], part: Part, view: &View) -> bool {
        let size = packet.len() - view.headers;
        let total = self.headers + self.payload + size;
        let head = &self.head;
        let transport = self.transport;
        if view.headers != self.headers || size > self.size || total > MAX_TOTAL || self.parts.len() == MAX_PARTS {
            return false;
        }
        let network = if head[0] >> 4 == 4 {
            let id = be16(head, 4).unwrap_or(0).wrapping_add(self.parts.len() as u16);
            let fragment_bits = head[6] == packet[6] && head[7] == packet[7];
            // Cutting counts the id up. Where fragments are forbidden it means nothing (RFC 6864).
            head[1] == packet[1]
                && head[8] == packet[8]
                && fragment_bits
                && (head[6] & 0x40 != 0 || be16(packet, 4) == Some(id))
        } else {
            head[..4] == packet[..4] && head[7] == packet[7]
        };
        let same = network
            && (self.udp
                || (be32(packet, transport + 4) == Some(self.next)
                    && head[transport + 8..transport + 13] == packet[transport + 8..transport + 13]
                    && head[transport + 14..transport + 16] == packet[transport + 14..transport + 16]
                    && head[transport + 18..self.headers] == packet[transport + 18..self.headers]));
        if same {
            self.parts.push((part.0 + view.headers, size));
            self.payload += size;
            self.next = self.next.wrapping_add(size as u32);
            if !self.udp {
                self.head[transport + 13] |= packet[transport + 13] & PSH;
            }
        }
        same
    }

    /// Nothing may follow the packet that was just added.
    fn closed(&self, packet: &[u8], view: &View) -> bool {
        packet.len() - view.headers < self.size || (!self.udp && packet[view.transport + 13] & PSH != 0)
    }

    /// Make the headers those of the super-packet.
    fn seal(&mut self) -> Header {
        let (transport, headers) = (self.transport, self.headers);
        let total = headers + self.payload;
        let four = self.head[0] >> 4 == 4;
        if four {
            put16(&mut self.head, 2, total as u16);
            seal4(&mut self.head[..20]);
        } else {
            put16(&mut self.head, 4, (total - 40) as u16);
        }
        let length = total - transport;
        let (protocol, field) = if self.udp { (UDP, 6) } else { (TCP, 16) };
        if self.udp {
            put16(&mut self.head, transport + 4, length as u16);
        }
        let addresses = if four { 12..20 } else { 8..40 };
        let pseudo = checksum::fold(checksum::pseudo(&self.head[addresses], protocol, length));
        put16(&mut self.head, transport + field, pseudo);
        Header {
            flags: NEEDS_CSUM,
            gso_type: match (self.udp, four) {
                (true, _) => vnet::GSO_UDP_L4,
                (false, true) => vnet::GSO_TCPV4,
                (false, false) => vnet::GSO_TCPV6,
            },
            hdr_len: headers as u16,
            gso_size: self.size as u16,
            csum_start: transport as u16,
            csum_offset: field as u16,
        }
    }
}

#[cfg(test)]
mod tests;
