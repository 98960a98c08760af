//! The layouts that Rust and the eBPF programs share: `bpf/config.h` and `bpf/maps.h`.

use std::net::IpAddr;

use aya::Pod;

/// So many own subnets, local addresses and devices of each family at most (`MOST`).
pub const MOST: usize = 8;

/// For how long after its last datagram a peer counts as one whose kernel decapsulates, in nanoseconds.
pub const FRESH_NS: u32 = 1_000_000_000;

/// `struct in4`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct In4 {
    pub address: [u8; 4],
    pub mask: [u8; 4],
}

/// `struct in6`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct In6 {
    pub address: [u8; 16],
    pub mask: [u8; 16],
}

/// `struct config`: constants of the programs.
#[repr(C, align(4))]
#[derive(Debug, Clone, Copy, Default)]
pub struct Config {
    pub tun: u32,
    pub tun_header: u32,
    pub joiner: u32,
    pub fresh_ns: u32,
    pub port: [u8; 2],
    pub own4s: u8,
    pub own6s: u8,
    pub local4s: u8,
    pub local6s: u8,
    pub finishings: u8,
    pub has_source4: u8,
    pub has_source6: u8,
    pub pad: [u8; 3],
    pub source4: [u8; 4],
    pub source6: [u8; 16],
    pub local4: [[u8; 4]; MOST],
    pub local6: [[u8; 16]; MOST],
    pub own4: [In4; MOST],
    pub own6: [In6; MOST],
    pub finishing: [u32; MOST],
}

/// `struct peer`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Peer {
    pub endpoint: [u8; 16],
    pub id: u32,
    pub port: [u8; 2],
    pub pad: [u8; 2],
    pub seen_ns: u64,
    pub joined_ns: u64,
    pub direct_ns: u64,
    pub uncut_ns: u64,
    pub train_in_ns: u64,
    pub train_out_ns: u64,
}

/// `struct traffic`: of inner packets, on one processor.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets that were encapsulated; a super-packet counts as its segments.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Packets that were decapsulated.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Datagrams from its endpoint that were refused.
    pub drops: u64,
}

impl Traffic {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Traffic) -> Traffic {
        Traffic {
            tx_packets: self.tx_packets + other.tx_packets,
            tx_bytes: self.tx_bytes + other.tx_bytes,
            rx_packets: self.rx_packets + other.rx_packets,
            rx_bytes: self.rx_bytes + other.rx_bytes,
            drops: self.drops + other.drops,
        }
    }

    /// Name and value of each.
    pub fn read(&self) -> [(&'static str, u64); 5] {
        [
            ("tx_packets", self.tx_packets),
            ("tx_bytes", self.tx_bytes),
            ("rx_packets", self.rx_packets),
            ("rx_bytes", self.rx_bytes),
            ("drops", self.drops),
        ]
    }
}

/// The words of `struct counts`, in their order. Reasons of drops are named as the user-space engine's.
pub const COUNTS: [&str; 9] = [
    "drop_no_route",
    "drop_not_a_peer",
    "drop_spoofed_source",
    "drop_not_ours",
    "drop_malformed",
    "drop_too_big",
    "drop_io",
    "passed_tx",
    "passed_rx",
];

/// `struct counts`, on one processor.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub of: [u64; COUNTS.len()],
}

// SAFETY: each is repr(C), of integers and arrays of them only, and without padding (asserted below).
unsafe impl Pod for Config {}
// SAFETY: as above.
unsafe impl Pod for Peer {}
// SAFETY: as above.
unsafe impl Pod for Traffic {}
// SAFETY: as above.
unsafe impl Pod for Counts {}

const _: () = {
    assert!(size_of::<Config>() == 16 + 12 + 4 + 16 + MOST * (4 + 16 + 8 + 32 + 4));
    assert!(size_of::<Peer>() == 72);
    assert!(size_of::<Traffic>() == 40);
    assert!(size_of::<Counts>() == 72);
};

/// An address as in `struct endpoint`: IPv4 in the first four bytes.
pub fn endpoint(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(ip) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&ip.octets());
            bytes
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}
