//! The peers in the kernel's maps, with a mirror of them here.
//!
//! The maps outlive this process: what is found in them at the start is taken over.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap as KernelMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues};
use aya::util::nr_cpus;
use flannel_engine::prefix::Prefix;

use crate::abi::{COUNTS, Counts, Peer, Traffic, endpoint};
use crate::error::{Error, Result};

/// Key of the traffic of peers that are gone: it's part of the totals. Written by us only.
const GONE: u32 = 0;

/// Names of the maps that are pinned, and the sizes of their keys and values, by which they are recognised.
pub const MAPS: [(&str, u32, u32); 5] = [
    ("flannel_peers4", 8, size_of::<Peer>() as u32),
    ("flannel_peers6", 20, size_of::<Peer>() as u32),
    ("flannel_ends", 16, 4),
    ("flannel_traffic", 4, size_of::<Traffic>() as u32),
    ("flannel_counts", 4, size_of::<Counts>() as u32),
];

/// Peers and counters.
pub struct Peers {
    four: LpmTrie<MapData, [u8; 4], Peer>,
    six: LpmTrie<MapData, [u8; 16], Peer>,
    ends: KernelMap<MapData, [u8; 16], u32>,
    traffic: PerCpuHashMap<MapData, u32, Traffic>,
    counts: PerCpuArray<MapData, Counts>,
    cpus: usize,
    all: BTreeMap<Prefix, Peer>,
    free: u32,
}

fn failed(what: &str) -> impl Fn(MapError) -> Error + '_ {
    move |error| Error::of(what, &error)
}

impl Peers {
    /// The peers that the maps hold now. `take` gives a map by its name.
    ///
    /// # Errors
    /// A map is missing or can't be read.
    pub fn open(mut take: impl FnMut(&str) -> Option<Map>) -> Result<Peers> {
        let mut map = |name: &'static str| {
            take(name).ok_or_else(|| Error::invalid(format!("map {name}: the eBPF object has none of that name")))
        };
        let opened = failed("map");
        let mut peers = Peers {
            four: map("flannel_peers4")?.try_into().map_err(&opened)?,
            six: map("flannel_peers6")?.try_into().map_err(&opened)?,
            ends: map("flannel_ends")?.try_into().map_err(&opened)?,
            traffic: map("flannel_traffic")?.try_into().map_err(&opened)?,
            counts: map("flannel_counts")?.try_into().map_err(&opened)?,
            cpus: nr_cpus().map_err(|(what, error)| Error::of(what, &error))?,
            all: BTreeMap::new(),
            free: GONE + 1,
        };
        peers.read()?;
        Ok(peers)
    }

    fn read(&mut self) -> Result<()> {
        let wrong = |text: String| Error::invalid(format!("pinned map of peers: {text}"));
        for item in self.four.iter() {
            let (key, peer) = item.map_err(failed("read map flannel_peers4"))?;
            let text = format!("{}/{}", Ipv4Addr::from(key.data()), key.prefix_len());
            self.all.insert(text.parse().map_err(wrong)?, peer);
        }
        for item in self.six.iter() {
            let (key, peer) = item.map_err(failed("read map flannel_peers6"))?;
            let text = format!("{}/{}", Ipv6Addr::from(key.data()), key.prefix_len());
            self.all.insert(text.parse().map_err(wrong)?, peer);
        }
        self.free = self.all.values().map(|peer| peer.id).max().unwrap_or(GONE) + 1;
        if self.traffic.get(&GONE, 0).is_err() {
            self.traffic.insert(GONE, self.nothing()?, 0).map_err(failed("write map flannel_traffic"))?;
        }
        Ok(())
    }

    fn nothing(&self) -> Result<PerCpuValues<Traffic>> {
        PerCpuValues::try_from(vec![Traffic::default(); self.cpus]).map_err(|error| Error::of("counters", &error))
    }

    /// Forget `remove`, learn or change `add`. Each subnet changes at once for the packets; additions come first.
    ///
    /// # Errors
    /// A value is wrong (then nothing is done), or the kernel refuses (a map is full).
    pub fn apply(&mut self, remove: &[Prefix], add: &[(Prefix, SocketAddr)]) -> Result<()> {
        for (subnet, end) in add {
            if subnet.address().is_ipv4() != end.is_ipv4() {
                return Err(Error::invalid(format!("{subnet} at {}: both must be of one family", end.ip())));
            }
        }
        let before: HashSet<[u8; 16]> = self.all.values().map(|peer| peer.endpoint).collect();
        for (subnet, end) in add {
            self.put(*subnet, *end)?;
        }
        for subnet in remove.iter().filter(|subnet| !add.iter().any(|(added, _)| added == *subnet)) {
            self.drop(*subnet)?;
        }
        let after: HashMap<[u8; 16], u32> = self.all.values().map(|peer| (peer.endpoint, peer.id)).collect();
        for end in before {
            match after.get(&end) {
                // Whose id is there may be gone, while another of its subnets stays.
                Some(id) if !remove.is_empty() => self.ends.insert(end, *id, 0),
                Some(_) => Ok(()),
                None => ignore_missing(self.ends.remove(&end)),
            }
            .map_err(failed("write map flannel_ends"))?;
        }
        Ok(())
    }

    fn put(&mut self, subnet: Prefix, end: SocketAddr) -> Result<()> {
        let old = self.all.get(&subnet).copied();
        let mut peer = Peer { endpoint: endpoint(end.ip()), port: end.port().to_be_bytes(), ..Peer::default() };
        if old.is_some_and(|old| old.endpoint == peer.endpoint && old.port == peer.port) {
            return Ok(());
        }
        // At another endpoint there may be another engine: what was noted of the old one doesn't count.
        peer.id = old.map_or(self.free, |old| old.id);
        if old.is_none() {
            self.free = self.free.checked_add(1).unwrap_or(GONE + 1);
            self.traffic.insert(peer.id, self.nothing()?, 0).map_err(failed("write map flannel_traffic"))?;
        }
        self.ends.insert(peer.endpoint, peer.id, 0).map_err(failed("write map flannel_ends"))?;
        let bits = u32::from(subnet.prefix_len());
        match subnet.address() {
            IpAddr::V4(ip) => self.four.insert(&Key::new(bits, ip.octets()), peer, 0),
            IpAddr::V6(ip) => self.six.insert(&Key::new(bits, ip.octets()), peer, 0),
        }
        .map_err(|error| Error::of(format!("peer {subnet} at {end}: write the map"), &error))?;
        self.all.insert(subnet, peer);
        Ok(())
    }

    fn drop(&mut self, subnet: Prefix) -> Result<()> {
        let Some(peer) = self.all.remove(&subnet) else { return Ok(()) };
        let bits = u32::from(subnet.prefix_len());
        ignore_missing(match subnet.address() {
            IpAddr::V4(ip) => self.four.remove(&Key::new(bits, ip.octets())),
            IpAddr::V6(ip) => self.six.remove(&Key::new(bits, ip.octets())),
        })
        .map_err(|error| Error::of(format!("peer {subnet}: remove from the map"), &error))?;
        // What it carried stays in the totals.
        let sum = self.sum(GONE).plus(self.sum(peer.id));
        let mut gone = vec![Traffic::default(); self.cpus];
        gone[0] = sum;
        let gone = PerCpuValues::try_from(gone).map_err(|error| Error::of("counters", &error))?;
        self.traffic.insert(GONE, gone, 0).map_err(failed("write map flannel_traffic"))?;
        ignore_missing(self.traffic.remove(&peer.id)).map_err(failed("write map flannel_traffic"))
    }

    fn sum(&self, id: u32) -> Traffic {
        let Ok(values) = self.traffic.get(&id, 0) else { return Traffic::default() };
        values.iter().fold(Traffic::default(), |sum, one| sum.plus(*one))
    }

    /// Every peer: subnet, endpoint.
    pub fn routes(&self) -> Vec<(Prefix, SocketAddr)> {
        self.all
            .iter()
            .map(|(subnet, peer)| {
                let ip = if subnet.address().is_ipv4() {
                    let [a, b, c, d, ..] = peer.endpoint;
                    IpAddr::from([a, b, c, d])
                } else {
                    IpAddr::from(peer.endpoint)
                };
                (*subnet, SocketAddr::new(ip, u16::from_be_bytes(peer.port)))
            })
            .collect()
    }

    /// What each peer's packets count.
    pub fn traffic(&self) -> BTreeMap<Prefix, Traffic> {
        self.all.iter().map(|(subnet, peer)| (*subnet, self.sum(peer.id))).collect()
    }

    /// Name and value of each counter.
    ///
    /// # Errors
    /// The map can't be read.
    pub fn counters(&self) -> Result<BTreeMap<&'static str, u64>> {
        let total = self.all.values().fold(self.sum(GONE), |sum, peer| sum.plus(self.sum(peer.id)));
        let mut found: BTreeMap<&'static str, u64> = total.read()[..4].iter().copied().collect();
        let counts = self.counts.get(&0, 0).map_err(failed("read map flannel_counts"))?;
        for (at, name) in COUNTS.iter().enumerate() {
            found.insert(name, counts.iter().map(|one| one.of[at]).sum());
        }
        Ok(found)
    }
}

fn ignore_missing(done: std::result::Result<(), MapError>) -> std::result::Result<(), MapError> {
    match done {
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<Peers: {}>", self.all.len())
    }
}
