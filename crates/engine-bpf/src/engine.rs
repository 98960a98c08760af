//! The kernel engine: what is attached, and its peers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use flannel_engine::prefix::Prefix;

use crate::abi::Traffic;
use crate::attach::{self, Attacher};
use crate::bpffs;
use crate::device;
use crate::error::{Error, Result};
use crate::joiner;
use crate::load;
use crate::options::Options;
use crate::peers::{MAPS, Peers};

/// eBPF programs that carry packets between a TUN device and the underlay, and the peers they know.
///
/// They are pinned: dropping this leaves them carrying. [`close`](KernelEngine::close) or
/// [`remove`](KernelEngine::remove) ends them.
#[derive(Debug)]
pub struct KernelEngine {
    pin: PathBuf,
    features: BTreeMap<String, String>,
    devices: Vec<(String, u32)>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    peers: Peers,
    closed: bool,
}

impl KernelEngine {
    /// Load the programs, take over what is pinned, attach. Programs that are pinned already are replaced
    /// without a gap, and go on with the peers they had.
    ///
    /// # Errors
    /// A device isn't there, an option can't be, or the kernel refuses: what, and the way out.
    pub fn start(options: &Options) -> Result<KernelEngine> {
        let fresh = bpffs::pinned(&options.pin).is_empty();
        let started = KernelEngine::try_start(options);
        if started.is_err() && fresh {
            // What was attached until it failed; the first error is the one to tell.
            let _also = KernelEngine::remove(&options.pin);
        }
        started
    }

    fn try_start(options: &Options) -> Result<KernelEngine> {
        let mut devices = vec![(options.device.clone(), device::index(&options.device)?)];
        for name in &options.underlays {
            devices.push((name.clone(), device::index(name)?));
        }
        let finishing: Vec<u32> =
            devices[1..].iter().filter(|(name, _)| device::finishes(name)).map(|(_, index)| *index).collect();
        bpffs::prepare(&options.pin)?;
        let joiner = joiner::make(devices[0].1);
        let header = if device::is_ethernet(&options.device)? { 14 } else { 0 };
        let config =
            options.config(devices[0].1, header, joiner.as_ref().map_or(0, |joiner| joiner.way_in), &finishing)?;
        let mut object = load::object(&config, Some(&options.pin))?;
        let mut features = BTreeMap::new();
        let mut attacher = Attacher::new(&options.pin, options.hook);
        features.insert("join".to_owned(), if joiner.is_ok() { "gro" } else { "no" }.to_owned());
        if let Ok(joiner) = &joiner {
            attacher.tc(&mut object, "flannel_deliver", &joiner.way_out, false)?;
        }
        // The way in first: what peers answer must find it.
        for (name, index) in &devices[1..] {
            let program = if device::is_ethernet(name)? { "flannel_decap" } else { "flannel_decap_l3" };
            let mut how = attacher.tc(&mut object, program, name, false)?;
            if attacher.xdp(&mut object, name, options.xdp)? {
                how = "xdp native";
            }
            features.insert(format!("decap {name}"), how.to_owned());
            let who = if finishing.contains(index) { "device" } else { "engine" };
            features.insert(format!("checksums {name}"), who.to_owned());
        }
        let how = attacher.tc(&mut object, "flannel_encap", &options.device, true)?;
        features.insert("encap".to_owned(), how.to_owned());
        attacher.sweep()?;
        let peers = Peers::open(|name| object.take_map(name))?;
        let state = Mutex::new(State { peers, closed: false });
        Ok(KernelEngine { pin: options.pin.clone(), features, devices, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing here is half done when a thread panics: the kernel's maps are the truth.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is used: `encap` (`tcx`, `clsact`), for each underlay device `decap <device>` (`xdp native`, `tcx`,
    /// `clsact`) and `checksums <device>` (who finishes inner checksums: `device` or `engine`), and `join` (what
    /// joins TCP segments behind tc: `gro`, or `no` without veth).
    pub fn features(&self) -> &BTreeMap<String, String> {
        &self.features
    }

    /// Forget the subnets `remove`, learn or change `add`; packets don't wait.
    ///
    /// # Errors
    /// A value is wrong (nothing is done then), or the kernel refuses.
    pub fn apply(&self, remove: &[Prefix], add: &[(Prefix, SocketAddr)]) -> Result<()> {
        self.state().peers.apply(remove, add)
    }

    /// Every peer: subnet and endpoint.
    pub fn routes(&self) -> Vec<(Prefix, SocketAddr)> {
        self.state().peers.routes()
    }

    /// `tx_packets`, `tx_bytes`, `rx_packets`, `rx_bytes`, `drop_<reason>`; `passed_tx` and `passed_rx` were left
    /// to the user-space engine.
    ///
    /// # Errors
    /// The kernel refuses to tell.
    pub fn counters(&self) -> Result<BTreeMap<&'static str, u64>> {
        self.state().peers.counters()
    }

    /// What each peer's packets count.
    pub fn peers(&self) -> BTreeMap<Prefix, Traffic> {
        self.state().peers.traffic()
    }

    /// Why it carries nothing any more, or not everywhere; none while it does.
    pub fn problem(&self) -> Option<String> {
        if self.state().closed {
            return Some("it was closed".to_owned());
        }
        for (name, index) in &self.devices {
            match device::index(name) {
                Ok(now) if now == *index => {}
                Ok(_) => return Some(format!("device {name} was made anew: start the engine again")),
                Err(error) => return Some(error.to_string()),
            }
        }
        let links = bpffs::pinned(&self.pin);
        let here = |kinds: [&str; 2], index: u32| {
            kinds.iter().any(|kind| links.contains(&self.pin.join(format!("{kind}_{index}"))))
        };
        for (at, (name, index)) in self.devices.iter().enumerate() {
            let kinds = if at == 0 { ["encap", "outfilter"] } else { ["decap", "infilter"] };
            if !here(kinds, *index) {
                return Some(format!("the program at device {name} was removed from {}", self.pin.display()));
            }
        }
        None
    }

    /// End this object. With `keep` the programs go on carrying, for the next one to take over.
    ///
    /// # Errors
    /// Something pinned can't be removed.
    pub fn close(&self, keep: bool) -> Result<()> {
        let mut state = self.state();
        if state.closed {
            return Ok(());
        }
        state.closed = true;
        if keep { Ok(()) } else { KernelEngine::remove(&self.pin) }
    }

    /// Detach and remove whatever is pinned at `pin`, and the directory. Nothing there is no error.
    ///
    /// # Errors
    /// Something can't be removed.
    pub fn remove(pin: &Path) -> Result<()> {
        attach::remove(pin, |_| true)?;
        for (name, ..) in MAPS {
            match std::fs::remove_file(pin.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::of(format!("remove {}", pin.join(name).display()), &error));
                }
                _ => {}
            }
        }
        bpffs::discard(pin).map_err(|error| Error::of(format!("remove {}", pin.display()), &error))
    }
}
