//! Packets on their way out: what is put before them, and unfinished checksums. Needs root.

mod common;
#[path = "common/packet.rs"]
mod packet;

use common::{Node, PORT};
use flannel_engine_bpf::Xdp;
use packet::{TCP, UDP, eth, finished, ip, sum, tcp, udp, unfinished, with};

const REDIRECT: i32 = 7;
const ON: i32 = -1;

/// Take the outer headers off, each field checked. Gives the inner packet.
fn unwrapped(frame: &[u8], end: &str, port: u16, ecn: u8, length: usize) -> Vec<u8> {
    let outer = &frame[14..42];
    assert_eq!(sum(&outer[..20]), 0xffff, "the header's checksum");
    let fresh = ip("10.213.0.1", end, UDP, &[]);
    assert_eq!((outer[0], outer[1], outer[8], outer[9]), (0x45, ecn, 64, UDP));
    assert_eq!(outer[2..4], (length as u16 + 28).to_be_bytes());
    assert_eq!(outer[6..8], [0, 0], "may be fragmented");
    assert_eq!(outer[12..20], fresh[12..20]);
    assert_eq!(outer[20..24], [PORT.to_be_bytes(), port.to_be_bytes()].concat());
    assert_eq!(outer[24..28], [&(length as u16 + 8).to_be_bytes()[..], &[0, 0]].concat());
    frame[42..].to_vec()
}

fn carried(node: &Node, packet: &[u8]) -> Vec<u8> {
    let (verdict, out) = node.run("encap", "flannel0", &eth(packet));
    assert_eq!(verdict, REDIRECT);
    unwrapped(&out, "10.213.0.2", PORT, packet[1] & 3, packet.len())
}

#[test]
fn packets_for_peers_are_wrapped() {
    let node = Node::new(Xdp::Never);
    let inner = ip("10.5.1.7", "10.5.2.9", 1, b"an echo");
    assert_eq!(carried(&node, &inner), inner);
    for tos in [1, 2, 3, 0xb8] {
        let inner = with(&inner, |ip| ip[1] = tos);
        assert_eq!(carried(&node, &inner), inner, "congestion is shown outside, the class is not");
    }
    let (verdict, out) = node.run("encap", "flannel0", &eth(&ip("10.5.1.7", "10.5.3.9", 1, b"x")));
    assert_eq!(verdict, REDIRECT);
    unwrapped(&out, "10.213.0.3", 8472, 0, 21);
    let peers = node.engine().peers();
    assert_eq!(peers[&"10.5.2.0/24".parse().unwrap()].tx_packets, 5);
    assert_eq!(peers[&"10.5.3.0/24".parse().unwrap()].tx_bytes, 21);
    assert_eq!(node.counter("tx_packets"), 6);
}

#[test]
fn what_is_not_for_peers_goes_on() {
    let node = Node::new(Xdp::Never);
    for packet in [ip("10.5.1.7", "10.5.9.9", 1, b"x"), ip("fd00:5:1::7", "fd00:5:9::9", UDP, &udp(1, b"x"))] {
        let before = node.counter("passed_tx");
        assert_eq!(node.run("encap", "flannel0", &eth(&packet)), (ON, eth(&packet)));
        assert_eq!(node.counter("passed_tx"), before + 1);
    }
    node.engine().apply(&["10.5.2.0/24".parse().unwrap()], &[]).unwrap();
    let gone = ip("10.5.1.7", "10.5.2.9", 1, b"x");
    assert_eq!(node.run("encap", "flannel0", &eth(&gone)), (ON, eth(&gone)), "a peer that was removed");
}

#[test]
fn without_a_way_it_goes_on() {
    let node = Node::new(Xdp::Never);
    let packet = ip("10.5.1.7", "10.5.2.9", 1, &[0; 1400]);
    common::sh("ip link set u0 mtu 1427");
    assert_eq!(node.run("encap", "flannel0", &eth(&packet)).0, ON, "too large for the underlay: to be fragmented");
    common::sh("ip link set u0 mtu 1448");
    assert_eq!(node.run("encap", "flannel0", &eth(&packet)).0, REDIRECT);
    common::sh("ip route add prohibit 10.213.0.2");
    assert_eq!(node.run("encap", "flannel0", &eth(&packet)).0, ON);
    common::sh("ip route replace 10.213.0.2 dev flannel0");
    assert_eq!(node.run("encap", "flannel0", &eth(&packet)).0, ON, "round in a circle");
}

#[test]
fn the_nodes_rules_choose_the_way() {
    let node = Node::new(Xdp::Never);
    let packet = eth(&ip("10.5.1.7", "10.5.2.9", 1, b"x"));
    common::sh("ip route add prohibit default table 77; ip rule add from 10.213.0.1 lookup 77 pref 10");
    assert_eq!(node.run("encap", "flannel0", &packet).0, ON);
    common::sh("ip route replace default via 10.213.0.3 dev u0 table 77");
    assert_eq!(node.run("encap", "flannel0", &packet).0, REDIRECT);
}

#[test]
fn checksums_are_finished() {
    let node = Node::new(Xdp::Never);
    let data: Vec<u8> = (0..3000u32).map(|at| (at * 31 % 251) as u8).collect();
    // Around each limit: shorter than what is pulled, chunk borders, odd lengths, jumbo.
    for length in [0, 1, 2, 3, 4, 15, 16, 17, 100, 471, 472, 473, 491, 492, 493, 504, 505, 1000, 1003, 1404, 1424] {
        let data = &data[..length];
        for packet in [ip("10.5.1.7", "10.5.2.9", UDP, &udp(53, data)), ip("10.5.1.7", "10.5.2.9", TCP, &tcp(data))] {
            let out = carried(&node, &unfinished(&packet));
            let right = finished(&packet);
            assert_eq!(out[..right.len()], right, "{length} bytes of {}", packet[9]);
            assert!(out[right.len()..].iter().all(|byte| *byte == 0) && out.len() <= right.len().max(44), "padding");
            assert_eq!(carried(&node, &right), right, "a finished one stays as it is");
        }
    }
    common::sh("ip link set u0 mtu 9000; ip link set flannel0 mtu 8972");
    let jumbo = ip("10.5.1.7", "10.5.2.9", TCP, &tcp(&data));
    assert_eq!(carried(&node, &unfinished(&jumbo)), finished(&jumbo));
    let nought = ip("10.5.1.7", "10.5.2.9", UDP, &udp(53, b"no checksum"));
    assert_eq!(node.run("encap", "flannel0", &eth(&nought)).0, ON, "may be a tunnel with more inside");
    let wrong = with(&finished(&ip("10.5.1.7", "10.5.2.9", UDP, &udp(53, b"x"))), |ip| ip[26] ^= 1);
    assert_eq!(carried(&node, &wrong), wrong, "a wrong one isn't made right");
    let fragment = with(&unfinished(&ip("10.5.1.7", "10.5.2.9", UDP, &udp(53, b"12345678"))), |ip| ip[6] = 0x20);
    assert_eq!(carried(&node, &fragment), fragment, "fragments have finished ones");
    let esp = ip("10.5.1.7", "10.5.2.9", 50, b"unknown");
    assert_eq!(node.run("encap", "flannel0", &eth(&esp)).0, ON, "who knows where it has one");
}

#[test]
fn a_peer_with_a_kernel_engine_finishes_them_itself() {
    let node = Node::new(Xdp::Never);
    let packet = unfinished(&ip("10.5.1.7", "10.5.2.9", TCP, &tcp(b"hello")));
    assert_eq!(carried(&node, &packet), finished(&packet));
    let hello = ip("10.213.0.2", "10.213.0.1", UDP, &udp(PORT, &ip("10.5.2.9", "10.5.1.7", 1, b"x")));
    let sockets = with(&hello, |ip| ip[27] = 1);
    assert_eq!(node.run("decap", "u0", &eth(&sockets)).0, REDIRECT);
    assert_eq!(carried(&node, &packet), finished(&packet), "a socket's datagram has a checksum");
    assert_eq!(node.run("decap", "u0", &eth(&hello)).0, REDIRECT);
    assert_eq!(carried(&node, &packet), packet, "a kernel's has none");
    let end = "10.213.0.2:9000".parse().unwrap();
    node.engine().apply(&[], &[("10.5.2.0/24".parse().unwrap(), end)]).unwrap();
    let (_, out) = node.run("encap", "flannel0", &eth(&packet));
    assert_eq!(
        unwrapped(&out, "10.213.0.2", 9000, 0, packet.len())[..packet.len()],
        finished(&packet),
        "elsewhere, another"
    );
}

#[test]
fn a_super_packet_for_a_sockets_reader_goes_on() {
    let node = Node::new(Xdp::Never);
    let packet = eth(&unfinished(&ip("10.5.1.7", "10.5.2.9", TCP, &tcp(&[0; 3000]))));
    common::sh("ip link set u0 mtu 9000");
    assert_eq!(node.run_with("encap", "flannel0", &packet, 1400), (ON, packet));
    assert_eq!(node.counter("passed_tx"), 1);
    let data = unfinished(&ip("10.5.1.7", "10.5.2.9", TCP, &tcp(b"behind it")));
    assert_eq!(node.run("encap", "flannel0", &eth(&data)), (ON, eth(&data)), "keeps its place");
    let acknowledgement = unfinished(&ip("10.5.1.7", "10.5.2.9", TCP, &tcp(&[])));
    let out = carried(&node, &acknowledgement);
    assert_eq!(out[..40], finished(&acknowledgement), "which only acknowledges may overtake");
}

#[test]
fn ipv6() {
    let node = Node::new(Xdp::Never);
    for length in [0, 1, 23, 24, 25, 463, 464, 1380] {
        for packet in [
            ip("fd00:5:1::7", "fd00:5:2::9", UDP, &udp(53, &vec![5; length])),
            ip("fd00:5:1::7", "fd00:5:2::9", TCP, &tcp(&vec![5; length])),
        ] {
            let packet = with(&packet, |ip| ip[1] = 0x20);
            let (verdict, out) = node.run("encap", "flannel0", &eth(&unfinished(&packet)));
            assert_eq!(verdict, REDIRECT);
            let size = (packet.len() as u16 + 8).to_be_bytes();
            let outer = [&[0x60, 0x20, 0, 0][..], &size, &[UDP, 64]].concat();
            assert_eq!(out[14..22], outer);
            assert_eq!(out[22..54], ip("fd00:213::1", "fd00:213::2", UDP, &[])[8..40]);
            assert_eq!(out[54..62], [&PORT.to_be_bytes()[..], &PORT.to_be_bytes(), &size, &[0, 0]].concat());
            assert_eq!(out[62..62 + packet.len()], finished(&packet), "{length} bytes");
        }
    }
    let fragment = ip("fd00:5:1::7", "fd00:5:2::9", 44, &[UDP, 0, 0, 1, 0, 0, 0, 1, 9, 9]);
    let (verdict, out) = node.run("encap", "flannel0", &eth(&fragment));
    assert_eq!((verdict, &out[62..]), (REDIRECT, &fragment[..]));
}
