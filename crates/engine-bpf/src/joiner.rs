//! A pair of devices whose only use is the kernel's GRO.
//!
//! At tc ingress GRO is over: it saw UDP datagrams, and left the TCP segments inside as they were. What is sent
//! into one end of a veth pair that doesn't segment by itself goes through GRO at the other end. Measured where
//! the underlay cuts super-packets: TCP 1.6 times as fast as without.

use crate::device::{self, ETHTOOL_SGRO, ETHTOOL_STSO};
use crate::error::{Error, Result};
use crate::netlink::Request;

// linux/if_link.h, linux/veth.h
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;

/// Any inner packet passes.
const MTU: u32 = 65_535;

/// Both ends.
#[derive(Debug)]
pub struct Joiner {
    /// Index of the device that packets are sent into.
    pub way_in: u32,
    /// Name of the device that they come out of, joined.
    pub way_out: String,
}

fn names(tun: u32) -> [String; 2] {
    ["in", "out"].map(|end| format!("fljoin{tun}{end}"))
}

/// `struct ifinfomsg` (linux/rtnetlink.h).
fn message(index: u32, up: bool) -> Vec<u8> {
    let flags = if up { libc::IFF_UP.cast_unsigned() } else { 0 };
    [0, index, flags, flags].into_iter().flat_map(u32::to_ne_bytes).collect()
}

fn named(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

/// Make the pair of a TUN device, or find it as it was made.
///
/// # Errors
/// The kernel has no veth, or one end can't do what is needed.
pub fn make(tun: u32) -> Result<Joiner> {
    let [way_in, way_out] = names(tun);
    if device::index(&way_in).is_err() || device::index(&way_out).is_err() {
        let created = Request::new(
            libc::RTM_NEWLINK,
            libc::NLM_F_CREATE | libc::NLM_F_EXCL | libc::NLM_F_ACK,
            &message(0, false),
        )
        .with(IFLA_IFNAME, &named(&way_in))
        .with(IFLA_MTU, &MTU.to_ne_bytes())
        .nest(IFLA_LINKINFO, |info| {
            info.with(IFLA_INFO_KIND, b"veth").nest(IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |peer| {
                    peer.raw(&message(0, false)).with(IFLA_IFNAME, &named(&way_out)).with(IFLA_MTU, &MTU.to_ne_bytes())
                })
            })
        });
        created.send().map_err(|error| Error::of("make a veth pair", &error))?;
    }
    let made = finish(&way_in, &way_out);
    if made.is_err() {
        remove(tun);
    }
    made
}

fn finish(way_in: &str, way_out: &str) -> Result<Joiner> {
    for name in [way_in, way_out] {
        // It has nothing to say of its own. Where this can't be written (a read-only /proc) it's merely talkative.
        let _without = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
    }
    // A sender that segments by itself is taken to have no need of GRO at the other end.
    device::switch(way_in, ETHTOOL_STSO, false)?;
    device::switch(way_out, ETHTOOL_SGRO, true)?;
    for name in [way_in, way_out] {
        Request::new(libc::RTM_NEWLINK, libc::NLM_F_ACK, &message(device::index(name)?, true))
            .send()
            .map_err(|error| Error::of(format!("set {name} up"), &error))?;
    }
    Ok(Joiner { way_in: device::index(way_in)?, way_out: way_out.to_owned() })
}

/// Remove the pair of a TUN device, if it's there.
pub fn remove(tun: u32) {
    if let Ok(index) = device::index(&names(tun)[0]) {
        let _gone_already = Request::new(libc::RTM_DELLINK, libc::NLM_F_ACK, &message(index, false)).send();
    }
}
