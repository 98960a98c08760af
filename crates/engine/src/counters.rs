//! What was carried and what was not. Written by the packet threads, read by anybody at any time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why a packet was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No peer's subnet holds the inner destination.
    NoRoute,
    /// The outer source is no peer's endpoint.
    NotAPeer,
    /// The inner source is outside the subnet of the peer that sent it.
    SpoofedSource,
    /// The inner destination is outside our own subnets.
    NotOurs,
    /// Truncated, or with an unsound header.
    Malformed,
    /// Larger than the path takes, and not to be fragmented.
    TooBig,
    /// The device or the socket refused it.
    Io,
}

/// Every reason with the name by which it is told.
pub const REASONS: [(Reason, &str); 7] = [
    (Reason::NoRoute, "no_route"),
    (Reason::NotAPeer, "not_a_peer"),
    (Reason::SpoofedSource, "spoofed_source"),
    (Reason::NotOurs, "not_ours"),
    (Reason::Malformed, "malformed"),
    (Reason::TooBig, "too_big"),
    (Reason::Io, "io"),
];

/// Packets and bytes (of inner packets), each way.
#[derive(Debug, Default)]
pub struct Traffic {
    tx_packets: AtomicU64,
    tx_bytes: AtomicU64,
    rx_packets: AtomicU64,
    rx_bytes: AtomicU64,
    drops: AtomicU64,
}

impl Traffic {
    /// `packets` were sent, of `bytes` in all.
    pub fn sent(&self, packets: u64, bytes: u64) {
        self.tx_packets.fetch_add(packets, Relaxed);
        self.tx_bytes.fetch_add(bytes, Relaxed);
    }

    /// `packets` were received, of `bytes` in all.
    pub fn received(&self, packets: u64, bytes: u64) {
        self.rx_packets.fetch_add(packets, Relaxed);
        self.rx_bytes.fetch_add(bytes, Relaxed);
    }

    /// `packets` were dropped.
    pub fn dropped(&self, packets: u64) {
        self.drops.fetch_add(packets, Relaxed);
    }

    /// Name and value of each.
    pub fn read(&self) -> [(&'static str, u64); 5] {
        [
            ("tx_packets", self.tx_packets.load(Relaxed)),
            ("tx_bytes", self.tx_bytes.load(Relaxed)),
            ("rx_packets", self.rx_packets.load(Relaxed)),
            ("rx_bytes", self.rx_bytes.load(Relaxed)),
            ("drops", self.drops.load(Relaxed)),
        ]
    }
}

/// Of one engine: traffic in all, drops by reason, ICMP errors sent.
#[derive(Debug, Default)]
pub struct Counters {
    /// Of all peers.
    pub traffic: Traffic,
    drops: [AtomicU64; REASONS.len()],
    icmp: AtomicU64,
}

impl Counters {
    /// `packets` were dropped for `reason`.
    pub fn dropped(&self, reason: Reason, packets: u64) {
        self.drops[reason as usize].fetch_add(packets, Relaxed);
        self.traffic.dropped(packets);
    }

    /// An ICMP error was sent.
    pub fn answered(&self) {
        self.icmp.fetch_add(1, Relaxed);
    }

    /// Name and value of each: `tx_packets`, …, `drop_no_route`, …, `icmp_sent`.
    pub fn read(&self) -> Vec<(String, u64)> {
        let mut found: Vec<(String, u64)> = self.traffic.read()[..4].iter().map(|(k, v)| ((*k).into(), *v)).collect();
        found.extend(
            REASONS.iter().map(|(reason, name)| (format!("drop_{name}"), self.drops[*reason as usize].load(Relaxed))),
        );
        found.push(("icmp_sent".into(), self.icmp.load(Relaxed)));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_counted_under_its_name() {
        let counters = Counters::default();
        for (at, (reason, _)) in REASONS.iter().enumerate() {
            counters.dropped(*reason, at as u64 + 1);
        }
        let found = counters.read();
        for (at, (_, name)) in REASONS.iter().enumerate() {
            assert!(found.contains(&(format!("drop_{name}"), at as u64 + 1)));
        }
    }
}
