//! What is put together is cut again into the very same packets, in order.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::packet::put32;
use crate::segment::{Cut, finish};

/// A packet with sound checksums.
#[derive(Debug, Clone)]
struct Spec {
    six: bool,
    udp: bool,
    flow: u8,
    size: usize,
    psh: bool,
    odd: u8, // what is unusual about it
}

fn build(spec: &Spec, sequence: u32, id: u16) -> Vec<u8> {
    let transport = if spec.udp { 8 } else { 32 };
    let payload: Vec<u8> = (0..spec.size).map(|at| (at as u32 ^ sequence) as u8).collect();
    let mut data: Vec<u8>;
    let offset;
    if spec.six {
        data = vec![0x60, 0, 0, 0, 0, 0, if spec.udp { UDP } else { TCP }, 64];
        data.extend([0xfd; 15]);
        data.push(spec.flow);
        data.extend([0xfc; 16]);
        put16(&mut data, 4, (transport + spec.size) as u16);
        offset = 40;
    } else {
        data = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, if spec.udp { UDP } else { TCP }, 0, 0];
        data.extend([10, 5, 1, spec.flow, 10, 5, 2, 2]);
        put16(&mut data, 2, (20 + transport + spec.size) as u16);
        put16(&mut data, 4, id);
        offset = 20;
    }
    data.extend([0x12, 0x34, 0, 80]);
    if spec.udp {
        data.extend(((8 + spec.size) as u16).to_be_bytes());
        data.extend([0, 0]);
    } else {
        data.extend([0; 16]);
        data.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        put32(&mut data, offset + 4, sequence);
        data[offset + 12] = 8 << 4;
        data[offset + 13] = ACK | if spec.psh { PSH } else { 0 };
    }
    match spec.odd {
        1 if !spec.six => data[6] = 0,    // fragments allowed: the id counts
        6 if !spec.six => data[6] = 0x20, // the first fragment of a packet
        2 => data[if spec.six { 7 } else { 8 }] = 63,
        3 if !spec.udp => data[offset + 13] |= 1, // FIN
        4 if !spec.udp => data[offset + 15] = 9,  // window
        _ => (),
    }
    data.extend(payload);
    if !spec.six {
        seal4(&mut data[..20]);
    }
    let ip = Ip::parse(&data).unwrap();
    let sum = checksum::pseudo(ip.addresses(&data), ip.protocol, data.len() - offset) + checksum::sum(&data[offset..]);
    let field = offset + if spec.udp { 6 } else { 16 };
    let check = checksum::finish(sum);
    put16(&mut data, field, if spec.udp && check == 0 { 0xffff } else { check });
    if spec.odd == 5 {
        data[field] ^= 1; // a wrong checksum
    }
    data
}

/// Every packet through the coalescer, and what comes out cut again.
fn through(packets: &[Vec<u8>], tcp: bool, udp: bool) -> (Vec<Vec<u8>>, usize) {
    let buffer: Vec<u8> = packets.concat();
    let mut coalescer = Coalescer::new(tcp, udp);
    let mut out = Vec::new();
    let mut emitted = 0;
    let mut emit = |one: &Out| {
        emitted += 1;
        let mut packet = one.head.to_vec();
        for (at, length) in one.parts {
            packet.extend(&buffer[*at..at + length]);
        }
        assert!(packet.len() <= MAX_TOTAL);
        let ip = Ip::parse(&packet).unwrap();
        match Cut::plan(&one.vnet, &ip, &packet).unwrap() {
            Some(cut) => {
                assert_eq!(cut.count, one.packets);
                out.extend((0..cut.count).map(|at| cut.whole(&packet, at)));
            }
            None => {
                finish(&one.vnet, &mut packet).unwrap();
                out.push(packet);
            }
        }
    };
    let mut at = 0;
    for packet in packets {
        coalescer.push(&buffer, (at, packet.len()), &Ip::parse(packet).unwrap(), &mut emit);
        at += packet.len();
    }
    coalescer.flush(&mut emit);
    (out, emitted)
}

fn by_flow(packets: &[Vec<u8>]) -> HashMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut found: HashMap<Vec<u8>, Vec<Vec<u8>>> = HashMap::new();
    for packet in packets {
        let ip = Ip::parse(packet).unwrap();
        let key = [ip.addresses(packet), &[ip.protocol]].concat();
        found.entry(key).or_default().push(packet.clone());
    }
    found
}

fn stream(specs: &[Spec]) -> Vec<Vec<u8>> {
    let mut state: HashMap<(bool, bool, u8), (u32, u16)> = HashMap::new();
    specs
        .iter()
        .map(|spec| {
            let (sequence, id) =
                state.entry((spec.six, spec.udp, spec.flow)).or_insert((u32::MAX - 3000, u16::MAX - 3));
            let packet = build(spec, *sequence, *id);
            *sequence = sequence.wrapping_add(spec.size as u32);
            *id = id.wrapping_add(1);
            packet
        })
        .collect()
}

fn spec() -> impl Strategy<Value = Spec> {
    (any::<bool>(), any::<bool>(), 0u8..3, prop_oneof![4 => Just(100usize), 1 => 0usize..200], any::<bool>(), 0u8..24)
        .prop_map(|(six, udp, flow, size, psh, odd)| Spec { six, udp, flow, size, psh: psh && odd > 12, odd })
}

proptest! {
    #[test]
    fn the_same_packets_come_out_in_order_per_flow(specs in prop::collection::vec(spec(), 0..60), tcp in any::<bool>(), udp in any::<bool>()) {
        let packets = stream(&specs);
        let (out, _) = through(&packets, tcp, udp);
        prop_assert_eq!(by_flow(&out), by_flow(&packets));
    }

    #[test]
    fn no_bytes_make_it_panic(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 20..90), 0..9)) {
        for first in [0x45u8, 0x46, 0x60] {
            let packets: Vec<Vec<u8>> = packets.iter().cloned().filter_map(|mut packet| {
                packet[0] = first;
                Ip::parse(&packet).ok().map(|_| packet)
            }).collect();
            let buffer: Vec<u8> = packets.concat();
            let mut coalescer = Coalescer::new(true, true);
            let mut at = 0;
            for packet in &packets {
                let ip = Ip::parse(packet).unwrap();
                coalescer.push(&buffer, (at, packet.len()), &ip, &mut |_: &Out| ());
                at += packet.len();
            }
            coalescer.flush(&mut |_: &Out| ());
        }
    }
}

#[test]
fn a_stream_becomes_one_packet() {
    for (six, udp) in [(false, false), (true, false), (false, true), (true, true)] {
        let specs = vec![Spec { six, udp, flow: 1, size: 1000, psh: false, odd: 9 }; 40];
        assert_eq!(through(&stream(&specs), true, true).1, 1);
        assert_eq!(through(&stream(&specs), true, false).1, if udp { 40 } else { 1 });
        assert_eq!(through(&stream(&specs), false, false).1, 40);
    }
}

#[test]
fn what_is_wrong_is_not_hidden() {
    let mut packets = stream(&vec![Spec { six: false, udp: false, flow: 1, size: 100, psh: false, odd: 9 }; 3]);
    packets[1][60] ^= 1;
    let (out, emitted) = through(&packets, true, true);
    assert_eq!((out, emitted), (packets, 3));
}
