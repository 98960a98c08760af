//! Programs beside other people's, across restarts, and nothing left when they are removed. Needs root.

mod common;
#[path = "common/packet.rs"]
mod packet;

use std::fs;
use std::path::PathBuf;

use aya::programs::{SchedClassifier, TcAttachType};
use common::{Node, PORT, program, sh};
use flannel_engine_bpf::{Hook, KernelEngine, Xdp, missing};
use packet::{UDP, eth, ip, udp};

/// How many tcx programs are at a hook.
fn tcx(device: &str, hook: TcAttachType) -> usize {
    SchedClassifier::query_tcx(device, hook).unwrap().1.len()
}

fn hello() -> Vec<u8> {
    eth(&ip("10.213.0.2", "10.213.0.1", UDP, &udp(PORT, &ip("10.5.2.9", "10.5.1.7", 1, b"x"))))
}

#[test]
fn here_it_can_be_had() {
    assert_eq!(missing(), None);
}

#[test]
fn nothing_is_left_behind() {
    for hook in [Hook::Auto, Hook::Clsact] {
        let mut node = Node::bare();
        let links =
            || sh("ip -o link | cut -d: -f2; tc qdisc show | grep -c clsact || true; tc filter show dev u0 ingress");
        let before = links();
        node.start(Xdp::Always, hook);
        assert_ne!(links(), before);
        assert!(node.pin.exists());
        assert_eq!(node.engine().features()["decap u0"], "xdp native");
        assert_eq!(node.engine().problem(), None);
        node.engine().close(false).unwrap();
        assert_eq!(links(), before, "{hook:?}");
        assert!(
            !node.pin.exists() && !fs::read_to_string("/proc/mounts").unwrap().contains(node.pin.to_str().unwrap())
        );
        assert_eq!((tcx("u0", TcAttachType::Ingress), tcx("flannel0", TcAttachType::Egress)), (0, 0));
        assert!(!sh("ip link show u0").contains("xdp"));
        assert_eq!(node.engine().problem().as_deref(), Some("it was closed"));
        node.engine().close(false).unwrap();
        KernelEngine::remove(&node.pin).unwrap();
    }
}

#[test]
fn what_is_pinned_is_taken_over() {
    let mut node = Node::new(Xdp::Always);
    node.run("decap", "u0", &hello());
    let (routes, counters) = (node.engine().routes(), node.engine().counters().unwrap());
    let links: Vec<PathBuf> =
        [("encap", "flannel0"), ("decap", "u0"), ("xdp", "u0")].map(|(kind, device)| node.link(kind, device)).into();
    let before: Vec<u32> = links.iter().map(|link| program(link).id()).collect();
    let revision = SchedClassifier::query_tcx("u0", TcAttachType::Ingress).unwrap().0;
    node.engine().close(true).unwrap();
    drop(node.engine.take());
    assert_eq!(node.run("decap", "u0", &hello()).0, 7, "carries while nobody is there");
    node.start(Xdp::Always, Hook::Auto);
    assert_eq!(node.engine().routes(), routes);
    assert_eq!(node.counter("rx_packets"), counters["rx_packets"] + 1);
    for (link, before) in links.iter().zip(before) {
        assert_ne!(program(link).id(), before, "{} has the new program", link.display());
    }
    let (after, programs) = SchedClassifier::query_tcx("u0", TcAttachType::Ingress).unwrap();
    assert_eq!((after, programs.len()), (revision + 1, 1), "replaced in one step");
    node.start(Xdp::Never, Hook::Auto);
    assert!(!node.link("xdp", "u0").exists() && !sh("ip link show u0").contains("xdp"), "what is no longer wanted");
    node.start(Xdp::Never, Hook::Clsact);
    assert_eq!(tcx("u0", TcAttachType::Ingress), 0);
    node.start(Xdp::Never, Hook::Clsact);
    let filters = sh("tc filter show dev u0 ingress; tc filter show dev flannel0 egress");
    assert_eq!(filters.matches("handle 0x8285").count(), 2, "{filters}");
    assert_eq!(node.engine().routes(), routes);
    node.start(Xdp::Never, Hook::Tcx);
    assert_eq!(sh("tc qdisc show | grep -c clsact || true").trim(), "0");
}

#[test]
fn others_stay_where_they_are() {
    let mut node = Node::bare();
    let filter = "tc filter add dev u0 ingress pref 7 bpf bytecode '1,6 0 0 0,' && tc filter show dev u0 ingress | grep -c 'pref 7 bpf.*handle'";
    sh("tc qdisc add dev u0 clsact");
    assert_eq!(sh(filter).trim(), "1");
    let mut other = Node { pin: node.pin.with_extension("other"), engine: None };
    let mut options = other.options(Xdp::Never, Hook::Tcx);
    options.port = 9999;
    options.device = "y0".into();
    other.engine = Some(KernelEngine::start(&options).unwrap());
    for hook in [Hook::Tcx, Hook::Clsact] {
        node.start(Xdp::Auto, hook);
        assert_eq!(tcx("u0", TcAttachType::Ingress), if hook == Hook::Tcx { 2 } else { 1 });
        node.engine().close(false).unwrap();
        assert_eq!(tcx("u0", TcAttachType::Ingress), 1);
        assert_eq!(sh("tc filter show dev u0 ingress | grep -c 'pref 7 bpf.*handle'").trim(), "1", "{hook:?}");
        assert_eq!(other.engine().problem(), None);
    }
    let mut xdp = other.options(Xdp::Always, Hook::Tcx);
    (xdp.port, xdp.device) = (9999, "y0".into());
    other.engine = Some(KernelEngine::start(&xdp).unwrap());
    let error = KernelEngine::start(&node.options(Xdp::Always, Hook::Auto)).unwrap_err();
    assert!(error.to_string().contains("device u0: native XDP"), "{error}");
    assert_eq!((tcx("u0", TcAttachType::Ingress), node.pin.exists()), (1, false), "what failed leaves nothing");
    node.start(Xdp::Never, Hook::Auto);
    assert!(sh("ip link show u0").contains("xdp"), "somebody else's");
}

#[test]
fn a_device_that_is_gone_is_told() {
    let mut node = Node::new(Xdp::Never);
    sh("ip link del u0");
    let problem = node.engine().problem().unwrap();
    assert!(problem.contains("u0"), "{problem}");
    sh("ip link add u0 type veth peer name x0; ip link set u0 up; ip addr add 10.213.0.1/24 dev u0");
    assert!(node.engine().problem().unwrap().contains("made anew"));
    node.start(Xdp::Never, Hook::Auto);
    assert_eq!(node.engine().problem(), None);
    assert_eq!(node.engine().routes().len(), 3);
    fs::remove_file(node.link("decap", "u0")).unwrap();
    assert!(node.engine().problem().unwrap().contains("u0 was removed"));
}

#[test]
fn wrong_values_change_nothing() {
    let node = Node::new(Xdp::Never);
    let routes = node.engine().routes();
    let good = ("10.5.8.0/24".parse().unwrap(), "10.213.0.8:8285".parse().unwrap());
    let mixed = ("10.5.9.0/24".parse().unwrap(), "[fd00::9]:8285".parse().unwrap());
    let error = node.engine().apply(&["10.5.2.0/24".parse().unwrap()], &[good, mixed]).unwrap_err();
    assert!(error.is_invalid() && error.to_string().contains("10.5.9.0/24"), "{error}");
    assert_eq!(node.engine().routes(), routes);
    let mut options = node.options(Xdp::Never, Hook::Auto);
    options.underlays.push("nowhere0".into());
    let error = KernelEngine::start(&options).unwrap_err();
    assert!(error.to_string().contains("nowhere0"), "{error}");
    assert_eq!(node.engine().problem(), None, "the one that runs goes on");
    options.underlays.pop();
    options.own = (0..9).map(|at| format!("10.6.{at}.0/24").parse().unwrap()).collect();
    assert!(KernelEngine::start(&options).unwrap_err().is_invalid());
}

#[test]
fn a_peer_that_goes_takes_its_endpoint_but_not_its_counts() {
    let node = Node::new(Xdp::Never);
    let second = ("10.5.4.0/24".parse().unwrap(), "10.213.0.2:8285".parse().unwrap());
    node.engine().apply(&[], &[second]).unwrap();
    node.run("decap", "u0", &hello());
    let subnet = "10.5.2.0/24".parse().unwrap();
    node.engine().apply(&[subnet], &[]).unwrap();
    assert_eq!(node.counter("rx_packets"), 1, "totals don't go back");
    node.run("decap", "u0", &hello());
    assert_eq!(node.counter("drop_spoofed_source"), 1, "the endpoint is the other subnet's still");
    assert_eq!(node.engine().peers()[&second.0].drops, 1);
    node.engine().apply(&[second.0], &[]).unwrap();
    node.run("decap", "u0", &hello());
    assert_eq!(node.counter("drop_not_a_peer"), 1);
}
