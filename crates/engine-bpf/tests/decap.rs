//! Every kind of datagram at both hooks: the verdict, the bytes, the counters. Needs root.

mod common;
#[path = "common/packet.rs"]
mod packet;

use common::{Node, PORT};
use flannel_engine::checksum;
use flannel_engine_bpf::Xdp;
use packet::{TCP, UDP, eth, finished, ip, tcp, udp, with};

/// What is to become of a frame.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate<'a> {
    /// This packet comes in on the TUN device.
    In(&'a [u8]),
    /// It's dropped, and counted under this name.
    Drop(&'a str),
    /// The user-space engine gets it, unchanged.
    Left,
    /// It's none of ours.
    Other,
}

const HERE: &str = "10.213.0.1";
const PEER: &str = "10.213.0.2";
const HERE6: &str = "fd00:213::1";
const PEER6: &str = "fd00:213::2";

/// A hook and how it tells its verdict.
struct At {
    kind: &'static str,
    taken: i32,
    dropped: i32,
    passed: i32,
}

const HOOKS: [At; 2] = [
    At { kind: "decap", taken: 7, dropped: 2, passed: -1 }, // TC_ACT_REDIRECT, _SHOT, _UNSPEC
    At { kind: "xdp", taken: 2, dropped: 1, passed: 2 },    // XDP_PASS, _DROP, _PASS
];

fn check(node: &Node, name: &str, frame: &[u8], fate: Fate) {
    for at in &HOOKS {
        let before = node.engine().counters().unwrap();
        let (verdict, out) = node.run(at.kind, "u0", frame);
        let after = node.engine().counters().unwrap();
        let changed: Vec<(&str, u64)> =
            after.iter().map(|(name, count)| (*name, count - before[name])).filter(|(_, count)| *count > 0).collect();
        let what = format!("{name} at {}", at.kind);
        match fate {
            Fate::In(inner) => {
                // What XDP cut bears a mark before the frame, by which the tc hook sends it on.
                let mark = if at.kind == "xdp" { 0x666c_616e_u32.to_ne_bytes().to_vec() } else { Vec::new() };
                assert_eq!((verdict, out), (at.taken, [mark, eth(inner)].concat()), "{what}");
                assert_eq!(changed, [("rx_bytes", inner.len() as u64), ("rx_packets", 1)], "{what}");
            }
            Fate::Drop(reason) => {
                assert_eq!(verdict, at.dropped, "{what}");
                assert_eq!(changed, [(reason, 1)], "{what}");
            }
            Fate::Left => {
                assert_eq!((verdict, out.as_slice()), (at.passed, frame), "{what}");
                let expected: &[(&str, u64)] = if at.kind == "xdp" { &[] } else { &[("passed_rx", 1)] };
                assert_eq!(changed, expected, "{what}");
            }
            Fate::Other => {
                assert_eq!((verdict, out.as_slice()), (at.passed, frame), "{what}");
                assert_eq!(changed, [], "{what}");
            }
        }
    }
}

fn wrapped(inner: &[u8]) -> Vec<u8> {
    ip(PEER, HERE, UDP, &udp(PORT, inner))
}

#[test]
fn what_belongs_comes_in() {
    let node = Node::new(Xdp::Always);
    let inner = ip("10.5.2.9", "10.5.1.7", UDP, &udp(53, b"hello"));
    check(&node, "a datagram", &eth(&wrapped(&inner)), Fate::In(&inner));
    let segment = finished(&ip("10.5.2.9", "10.5.1.7", TCP, &tcp(&[7; 1400])));
    check(&node, "a TCP segment", &eth(&wrapped(&segment)), Fate::In(&segment));
    let acknowledgement = finished(&ip("10.5.2.9", "10.5.1.7", TCP, &tcp(&[])));
    check(&node, "an acknowledgement", &eth(&wrapped(&acknowledgement)), Fate::In(&acknowledgement));
    let fragment = with(&inner, |ip| ip[6..8].copy_from_slice(&[0x20, 0x10]));
    check(&node, "an inner fragment", &eth(&wrapped(&fragment)), Fate::In(&fragment));
    let options = with(&inner, |ip| {
        ip[0] = 0x46;
        ip.splice(20..20, [1, 1, 1, 0]);
        ip[3] += 4;
    });
    check(&node, "inner options", &eth(&wrapped(&options)), Fate::In(&options));
    let bare = ip("10.5.2.9", "10.5.1.7", 1, &[]);
    check(&node, "a header without payload", &eth(&wrapped(&bare)), Fate::In(&bare));
    let other_port = with(&wrapped(&inner), |ip| ip[20..22].copy_from_slice(&[0xc0, 1]));
    check(&node, "from another port", &eth(&other_port), Fate::In(&inner));
    let padded = [eth(&wrapped(&bare)), vec![0; 6]].concat();
    let (verdict, out) = node.run("decap", "u0", &padded);
    assert_eq!((verdict, &out[..34]), (7, &eth(&bare)[..]), "the link's padding is behind the packet's end");
    let peers = node.engine().peers();
    assert_eq!(peers[&"10.5.2.0/24".parse().unwrap()].rx_packets, 15);
    assert_eq!(peers[&"10.5.3.0/24".parse().unwrap()].rx_packets, 0);
}

/// What a socket's datagram bears across veth: the pseudo header's sum. Decapsulated, it would go on as the inner packet's.
#[test]
fn an_unfinished_outer_checksum_is_left() {
    let node = Node::new(Xdp::Always);
    for (name, inner, outer) in [
        ("IPv4", ip("10.5.2.9", "10.5.1.7", UDP, &udp(53, b"hello")), [HERE, PEER]),
        ("IPv6", ip("fd99:0:0:2::9", "fd99:0:0:1::7", UDP, &udp(53, b"hello")), [HERE6, PEER6]),
    ] {
        let unfinished = with(&ip(outer[1], outer[0], UDP, &udp(PORT, &inner)), |ip| {
            let (addresses, at) = if ip[0] >> 4 == 4 { (12..20, 20) } else { (8..40, 40) };
            let sum = checksum::fold(checksum::pseudo(&ip[addresses], UDP, ip.len() - at));
            ip[at + 6..at + 8].copy_from_slice(&sum.to_be_bytes());
        });
        check(&node, name, &eth(&unfinished), Fate::Left);
    }
}

#[test]
fn what_does_not_belong_is_dropped() {
    let node = Node::new(Xdp::Always);
    let inner = ip("10.5.2.9", "10.5.1.7", UDP, &udp(53, b"hello"));
    let from = |outer: &str, inner: &[u8]| eth(&ip(outer, HERE, UDP, &udp(PORT, inner)));
    check(&node, "a stranger", &from("10.213.0.9", &inner), Fate::Drop("drop_not_a_peer"));
    check(&node, "another peer", &from("10.213.0.3", &inner), Fate::Drop("drop_spoofed_source"));
    let foreign = ip("8.8.8.8", "10.5.1.7", UDP, &udp(53, b""));
    check(&node, "a source of nobody's", &from(PEER, &foreign), Fate::Drop("drop_spoofed_source"));
    let transit = ip("10.5.2.9", "10.5.3.7", UDP, &udp(53, b""));
    check(&node, "for a third node", &from(PEER, &transit), Fate::Drop("drop_not_ours"));
    let away = ip("10.5.2.9", "8.8.8.8", UDP, &udp(53, b""));
    check(&node, "for the world", &from(PEER, &away), Fate::Drop("drop_not_ours"));
    let peers = node.engine().peers();
    assert_eq!(peers[&"10.5.2.0/24".parse().unwrap()].drops, 6);
    assert_eq!(peers[&"10.5.3.0/24".parse().unwrap()].drops, 2);
}

#[test]
fn what_is_unsound_is_dropped() {
    let node = Node::new(Xdp::Always);
    let inner = ip("10.5.2.9", "10.5.1.7", UDP, &udp(53, b"hello"));
    let malformed = Fate::Drop("drop_malformed");
    check(&node, "nothing inside", &eth(&wrapped(&[])), malformed);
    check(&node, "less than a header", &eth(&wrapped(&inner[..19])), malformed);
    check(&node, "longer than the datagram", &eth(&wrapped(&inner[..inner.len() - 1])), malformed);
    check(&node, "version 5", &eth(&wrapped(&with(&inner, |ip| ip[0] = 0x55))), malformed);
    check(&node, "IPv6 in IPv4", &eth(&wrapped(&ip("fd00:5:2::9", "fd00:5:1::7", UDP, &udp(53, b"")))), malformed);
    check(&node, "a header of 16 bytes", &eth(&wrapped(&with(&inner, |ip| ip[0] = 0x44))), malformed);
    let mut short = inner.clone();
    short[2..4].copy_from_slice(&[0, 19]);
    check(&node, "shorter than its header", &eth(&wrapped(&with(&short, |_| ()))), malformed);
    check(&node, "no hops left", &eth(&wrapped(&with(&inner, |ip| ip[8] = 0))), malformed);
    let mut broken = inner.clone();
    broken[11] ^= 1;
    check(&node, "a wrong header checksum", &eth(&wrapped(&broken)), malformed);
    let mut options = with(&inner, |ip| {
        ip[0] = 0x46;
        ip.splice(20..20, [1, 1, 1, 0]);
        ip[3] += 4;
    });
    options[20] = 2;
    check(&node, "a wrong checksum with options", &eth(&wrapped(&options)), malformed);
}

#[test]
fn the_rest_goes_where_it_went_before() {
    let node = Node::new(Xdp::Always);
    let inner = ip("10.5.2.9", "10.5.1.7", UDP, &udp(53, b"hello"));
    let good = wrapped(&inner);
    check(&node, "a train", &eth(&wrapped(&[inner.clone(), inner.clone()].concat())), Fate::Left);
    check(
        &node,
        "an outer header that is wrong",
        &eth(&{
            let mut ip = good.clone();
            ip[10] ^= 1;
            ip
        }),
        Fate::Left,
    );
    check(&node, "a frame that was cut", &eth(&good)[..good.len() + 13], Fate::Left);
    check(&node, "an outer fragment", &eth(&with(&good, |ip| ip[6] = 0x20)), Fate::Other);
    check(
        &node,
        "outer options",
        &eth(&with(&good, |ip| {
            ip[0] = 0x46;
            ip.splice(20..20, [1, 1, 1, 0]);
            ip[3] += 4;
        })),
        Fate::Other,
    );
    check(&node, "another port", &eth(&ip(PEER, HERE, UDP, &udp(PORT + 1, &inner))), Fate::Other);
    check(&node, "another address", &eth(&ip(PEER, "10.213.0.7", UDP, &udp(PORT, &inner))), Fate::Other);
    check(&node, "TCP to the port", &eth(&ip(PEER, HERE, TCP, &udp(PORT, &inner))), Fate::Other);
    check(&node, "cut inside the UDP header", &eth(&good)[..40], Fate::Other);
    let mut vlan = eth(&good);
    vlan.splice(12..12, [0x81, 0, 0, 5]);
    let (verdict, out) = node.run("xdp", "u0", &vlan);
    assert_eq!((verdict, out), (2, vlan), "a tagged frame is for the VLAN's device");
}

#[test]
fn congestion_is_carried_inside() {
    let node = Node::new(Xdp::Always);
    // RFC 6040, figure 4: inner, outer, what comes in.
    for (inside, outside, result) in [
        (0u8, 0u8, Some(0u8)),
        (0, 2, Some(0)),
        (0, 3, None),
        (2, 0, Some(2)),
        (2, 1, Some(1)),
        (2, 3, Some(3)),
        (1, 2, Some(1)),
        (1, 3, Some(3)),
        (3, 0, Some(3)),
        (3, 3, Some(3)),
    ] {
        let inner = with(&ip("10.5.2.9", "10.5.1.7", UDP, &udp(53, b"x")), |ip| ip[1] = 0x40 | inside);
        let frame = eth(&with(&wrapped(&inner), |ip| ip[1] = outside));
        let expected = result.map(|ecn| with(&inner, |ip| ip[1] = 0x40 | ecn));
        let fate = expected.as_deref().map_or(Fate::Drop("drop_malformed"), Fate::In);
        check(&node, &format!("{inside} in {outside}"), &frame, fate);
    }
}

#[test]
fn ipv6() {
    let node = Node::new(Xdp::Always);
    let inner = ip("fd00:5:2::9", "fd00:5:1::7", UDP, &udp(53, b"hello"));
    let from = |outer: &str, inner: &[u8]| eth(&ip(outer, HERE6, UDP, &udp(PORT, inner)));
    check(&node, "a datagram", &from(PEER6, &inner), Fate::In(&inner));
    check(&node, "a stranger", &from("fd00:213::9", &inner), Fate::Drop("drop_not_a_peer"));
    let foreign = ip("fd00:5:9::9", "fd00:5:1::7", UDP, &udp(53, b""));
    check(&node, "a source of nobody's", &from(PEER6, &foreign), Fate::Drop("drop_spoofed_source"));
    let away = ip("fd00:5:2::9", "fd00:5:3::7", UDP, &udp(53, b""));
    check(&node, "for another", &from(PEER6, &away), Fate::Drop("drop_not_ours"));
    check(&node, "cut", &from(PEER6, &inner[..inner.len() - 1]), Fate::Drop("drop_malformed"));
    check(&node, "no hops left", &from(PEER6, &with(&inner, |ip| ip[7] = 0)), Fate::Drop("drop_malformed"));
    let ect = with(&inner, |ip| ip[1] = 0x20);
    let marked = with(&ip(PEER6, HERE6, UDP, &udp(PORT, &ect)), |ip| ip[1] = 0x30);
    check(&node, "congestion", &eth(&marked), Fate::In(&with(&inner, |ip| ip[1] = 0x30)));
    let extended = ip(PEER6, HERE6, 44, &[&[UDP, 0, 0, 1, 0, 0, 0, 1], &udp(PORT, &inner)[..]].concat());
    check(&node, "an outer fragment", &eth(&extended), Fate::Other);
    check(&node, "a train", &from(PEER6, &[inner.clone(), inner.clone()].concat()), Fate::Left);
    check(&node, "a datagram behind it", &from(PEER6, &inner), Fate::Left);
}

#[test]
fn what_follows_a_train_keeps_its_place() {
    let node = Node::new(Xdp::Always);
    let data = finished(&ip("10.5.2.9", "10.5.1.7", TCP, &tcp(b"data")));
    let acknowledgement = finished(&ip("10.5.2.9", "10.5.1.7", TCP, &tcp(&[])));
    let end = with(&acknowledgement, |ip| ip[33] |= 1);
    check(&node, "data", &eth(&wrapped(&data)), Fate::In(&data));
    let spoofed = eth(&ip("10.213.0.9", HERE, UDP, &udp(PORT, &[data.clone(), data.clone()].concat())));
    check(&node, "a stranger's train", &spoofed, Fate::Left);
    check(&node, "data as before", &eth(&wrapped(&data)), Fate::In(&data));
    check(&node, "a train", &eth(&wrapped(&[data.clone(), data.clone()].concat())), Fate::Left);
    check(&node, "data behind it", &eth(&wrapped(&data)), Fate::Left);
    check(&node, "the end of the connection", &eth(&wrapped(&end)), Fate::Left);
    check(&node, "an acknowledgement", &eth(&wrapped(&acknowledgement)), Fate::In(&acknowledgement));
    std::thread::sleep(std::time::Duration::from_millis(1100));
    check(&node, "data long behind it", &eth(&wrapped(&data)), Fate::In(&data));
}
