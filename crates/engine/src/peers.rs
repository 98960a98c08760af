//! Who the peers are, and what may come from them.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use crate::counters::{Reason, Traffic};
use crate::packet::Ip;
use crate::prefix::{Prefix, Table};

/// What outlives a change of the table.
#[derive(Debug, Default)]
pub struct State {
    /// Packets to and from this subnet.
    pub traffic: Traffic,
    /// The path's MTU in bytes as last looked up; 0: not yet.
    pub path_mtu: AtomicU32,
    /// When that was, in seconds of the engine's clock.
    pub looked_at: AtomicU32,
}

/// One subnet and where it lies.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its pods' addresses.
    pub subnet: Prefix,
    /// Where its datagrams go to, and come from (from any port).
    pub endpoint: SocketAddr,
    /// Counters and path MTU.
    pub state: Arc<State>,
}

/// All peers and our own subnets: never changed, but replaced as a whole, so that the packet threads don't wait.
#[derive(Debug, Clone, Default)]
pub struct Peers {
    own: Vec<Prefix>,
    all: BTreeMap<Prefix, Peer>,
    table: Table<Arc<Peer>>,
    endpoints: HashMap<IpAddr, Arc<Peer>>,
}

impl Peers {
    /// Nobody, for a node with these subnets.
    pub fn new(own: Vec<Prefix>) -> Peers {
        Peers { own, ..Peers::default() }
    }

    /// These peers without `remove`, with `add`. A peer that stays keeps its counters.
    pub fn with(&self, remove: &[Prefix], add: &[(Prefix, SocketAddr)]) -> Peers {
        let mut all = self.all.clone();
        for subnet in remove {
            all.remove(subnet);
        }
        for (subnet, endpoint) in add {
            let state = all.get(subnet).map_or_else(Arc::default, |peer| Arc::clone(&peer.state));
            all.insert(*subnet, Peer { subnet: *subnet, endpoint: *endpoint, state });
        }
        let mut found = Peers { own: self.own.clone(), ..Peers::default() };
        for (subnet, peer) in &all {
            let peer = Arc::new(peer.clone());
            found.endpoints.insert(peer.endpoint.ip(), Arc::clone(&peer));
            found.table.insert(*subnet, peer);
        }
        found.all = all;
        found
    }

    /// Every peer, by subnet.
    pub fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.all.values()
    }

    /// Our own address of the family of `other`, for what we say ourselves: the subnet's first, which the TUN has.
    pub fn own_address(&self, other: &IpAddr) -> Option<IpAddr> {
        self.own.iter().map(Prefix::address).find(|ip| ip.is_ipv4() == other.is_ipv4())
    }

    /// Who carries packets to `destination`?
    pub fn route(&self, destination: &IpAddr) -> Option<&Arc<Peer>> {
        self.table.get(destination)
    }

    /// A peer whose endpoint this is.
    pub fn at(&self, endpoint: &IpAddr) -> Option<&Arc<Peer>> {
        self.endpoints.get(endpoint)
    }

    /// May this packet have come from `outer`? The peer it is from, or why not.
    pub fn admit(&self, outer: &IpAddr, ip: &Ip) -> Result<&Arc<Peer>, Reason> {
        match self.table.get(&ip.source) {
            Some(peer) if peer.endpoint.ip() == *outer => {
                if self.own.iter().any(|net| net.contains(&ip.destination)) {
                    Ok(peer)
                } else {
                    Err(Reason::NotOurs)
                }
            }
            _ if self.endpoints.contains_key(outer) => Err(Reason::SpoofedSource),
            _ => Err(Reason::NotAPeer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::tests::udp4;

    fn peers() -> Peers {
        let own = vec!["10.5.2.0/24".parse().unwrap()];
        Peers::new(own).with(
            &[],
            &[
                ("10.5.1.0/24".parse().unwrap(), "192.168.7.1:8285".parse().unwrap()),
                ("10.5.3.0/24".parse().unwrap(), "192.168.7.3:8285".parse().unwrap()),
            ],
        )
    }

    fn admitted(peers: &Peers, outer: &str, change: impl Fn(&mut Ip)) -> Result<String, Reason> {
        let mut ip = Ip::parse(&udp4(b"x")).unwrap();
        change(&mut ip);
        peers.admit(&outer.parse().unwrap(), &ip).map(|peer| peer.subnet.to_string())
    }

    #[test]
    fn only_who_belongs_gets_in() {
        let peers = peers();
        assert_eq!(admitted(&peers, "192.168.7.1", |_| ()), Ok("10.5.1.0/24".into()));
        assert_eq!(admitted(&peers, "192.168.7.9", |_| ()), Err(Reason::NotAPeer));
        assert_eq!(admitted(&peers, "192.168.7.3", |_| ()), Err(Reason::SpoofedSource));
        let elsewhere = |ip: &mut Ip| ip.source = "8.8.8.8".parse().unwrap();
        assert_eq!(admitted(&peers, "192.168.7.1", elsewhere), Err(Reason::SpoofedSource));
        assert_eq!(admitted(&peers, "192.168.7.9", elsewhere), Err(Reason::NotAPeer));
        let third = |ip: &mut Ip| ip.destination = "10.5.3.1".parse().unwrap();
        assert_eq!(admitted(&peers, "192.168.7.1", third), Err(Reason::NotOurs));
    }

    #[test]
    fn a_change_keeps_the_counters_of_those_who_stay() {
        let before = peers();
        let ip: IpAddr = "10.5.1.9".parse().unwrap();
        before.route(&ip).unwrap().state.traffic.sent(3, 300);
        let moved = before.with(
            &["10.5.3.0/24".parse().unwrap()],
            &[("10.5.1.0/24".parse().unwrap(), "192.168.7.8:8285".parse().unwrap())],
        );
        let peer = moved.route(&ip).unwrap();
        assert_eq!(peer.endpoint, "192.168.7.8:8285".parse().unwrap());
        assert_eq!(peer.state.traffic.read()[0], ("tx_packets", 3));
        assert!(moved.route(&"10.5.3.1".parse().unwrap()).is_none());
        assert_eq!(before.iter().count(), 2, "who reads the former table isn't disturbed");
    }
}
