//! Packets gathered into trains: datagrams of one size to one peer, which one UDP_SEGMENT message carries (udp(7)).
//!
//! What goes to one peer stays in order. A packet joins the latest train of its peer or begins a new one, so packets to
//! several peers may come mixed and still fill their trains.

use std::sync::Arc;

use crate::peers::Peer;

/// Datagrams of one train: the limit of kernels before 6.9, and of UDP_GRO.
pub const MAX_COUNT: usize = 64;
/// Bytes of one train: the largest UDP payload over IPv4.
pub const MAX_BYTES: usize = 65_507;

const LOOK_BACK: usize = 8; // trains; where more peers than these come in turn, trains are shorter
const NONE: u32 = u32::MAX;

/// A place among the headers that were written anew, or in what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// In the headers.
    pub header: bool,
    /// First byte there.
    pub at: usize,
    /// Bytes.
    pub len: usize,
}

/// One packet: what its two spans hold, one after the other. The second may be empty.
pub type Packet = [Span; 2];

/// A train: as many bytes in each packet, but for the last, which may be shorter.
#[derive(Debug)]
pub struct Train {
    /// To whom.
    pub peer: Arc<Peer>,
    /// Bytes of each packet but the last.
    pub size: usize,
    /// Packets.
    pub count: usize,
    /// Bytes in all.
    pub bytes: usize,
    closed: bool,
    first: u32,
    last: u32,
}

/// The trains of one burst, in the order in which they are to go.
#[derive(Debug, Default)]
pub struct Trains {
    trains: Vec<Train>,
    packets: Vec<(Packet, u32)>, // and the next one of its train
}

impl Trains {
    /// Add a packet. `joined`: may it travel with others?
    pub fn push(&mut self, peer: &Arc<Peer>, packet: Packet, joined: bool) {
        let length = packet[0].len + packet[1].len;
        let index = self.packets.len() as u32;
        self.packets.push((packet, NONE));
        let latest = self.trains.iter_mut().rev().take(LOOK_BACK).find(|train| Arc::ptr_eq(&train.peer, peer));
        match latest {
            Some(train) if joined && train.takes(length) => {
                self.packets[train.last as usize].1 = index;
                train.last = index;
                train.count += 1;
                train.bytes += length;
                train.closed = length < train.size;
            }
            _ => self.trains.push(Train {
                peer: Arc::clone(peer),
                size: length,
                count: 1,
                bytes: length,
                closed: !joined,
                first: index,
                last: index,
            }),
        }
    }

    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Train> {
        self.trains.iter()
    }

    /// The packets of one of these trains, in order.
    pub fn packets(&self, train: &Train) -> impl Iterator<Item = &Packet> {
        let mut at = train.first;
        std::iter::from_fn(move || {
            let (packet, next) = self.packets.get(at as usize)?;
            at = *next;
            Some(packet)
        })
    }

    /// Forget them.
    pub fn clear(&mut self) {
        self.trains.clear();
        self.packets.clear();
    }
}

impl Train {
    fn takes(&self, length: usize) -> bool {
        !self.closed && length <= self.size && self.count < MAX_COUNT && self.bytes + length <= MAX_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn peers(count: usize) -> Vec<Arc<Peer>> {
        (0..count)
            .map(|at| {
                let subnet = format!("10.5.{at}.0/24").parse().unwrap();
                let endpoint = format!("192.168.7.{at}:8285").parse().unwrap();
                Arc::new(Peer { subnet, endpoint, state: Arc::default() })
            })
            .collect()
    }

    fn packet(at: usize, len: usize) -> Packet {
        [Span { header: false, at, len }, Span::default()]
    }

    fn sizes(trains: &Trains) -> Vec<Vec<usize>> {
        trains.iter().map(|train| trains.packets(train).map(|packet| packet[0].len).collect()).collect()
    }

    #[test]
    fn a_shorter_packet_ends_a_train_a_longer_one_begins_another() {
        let (mut trains, peers) = (Trains::default(), peers(1));
        for len in [100, 100, 40, 40, 41, 41] {
            trains.push(&peers[0], packet(0, len), true);
        }
        assert_eq!(sizes(&trains), [vec![100, 100, 40], vec![40], vec![41, 41]]);
    }

    #[test]
    fn peers_in_turn_fill_their_own() {
        let (mut trains, peers) = (Trains::default(), peers(3));
        for at in 0..30 {
            trains.push(&peers[at % 3], packet(0, 64), true);
        }
        assert_eq!(sizes(&trains), vec![vec![64; 10]; 3]);
    }

    #[test]
    fn limits_are_kept() {
        let (mut trains, peers) = (Trains::default(), peers(1));
        for _ in 0..65 {
            trains.push(&peers[0], packet(0, 64), true);
        }
        for _ in 0..3 {
            trains.push(&peers[0], packet(0, 30_000), true);
        }
        trains.push(&peers[0], packet(0, 30_000), false);
        trains.push(&peers[0], packet(0, 30_000), true);
        let counts: Vec<usize> = trains.iter().map(|train| train.count).collect();
        assert_eq!(counts, [64, 1, 2, 1, 1, 1]);
    }

    proptest! {
        #[test]
        fn every_packet_goes_to_its_peer_in_order(
            sent in prop::collection::vec((0usize..12, prop_oneof![Just(64usize), 1usize..3000]), 0..200)
        ) {
            let (mut trains, peers) = (Trains::default(), peers(12));
            for (at, (to, len)) in sent.iter().enumerate() {
                trains.push(&peers[*to], packet(at, *len), true);
            }
            for (to, peer) in peers.iter().enumerate() {
                let want: Vec<usize> = (0..sent.len()).filter(|at| sent[*at].0 == to).collect();
                let mut found = Vec::new();
                for train in trains.iter().filter(|train| Arc::ptr_eq(&train.peer, peer)) {
                    let packets: Vec<&Packet> = trains.packets(train).collect();
                    let lens: Vec<usize> = packets.iter().map(|packet| packet[0].len).collect();
                    let (last, before) = lens.split_last().unwrap();
                    prop_assert!(before.iter().all(|len| *len == train.size) && *last <= train.size);
                    prop_assert_eq!((lens.len(), lens.iter().sum::<usize>()), (train.count, train.bytes));
                    prop_assert!(train.count <= MAX_COUNT && train.bytes <= MAX_BYTES);
                    found.extend(packets.iter().map(|packet| packet[0].at));
                }
                prop_assert_eq!(found, want);
            }
        }
    }
}
