//! The engine as others see it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use arc_swap::ArcSwap;
use flannel_engine::counters::Counters;
use flannel_engine::icmp::Limit;
use flannel_engine::peers::Peers;
use flannel_engine::prefix::Prefix;

use crate::io::{Bell, errno};
use crate::queue::Queue;
use crate::raw::Raw;
use crate::worker;

/// What an engine is to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// The TUN device, which is there already.
    pub device: String,
    /// Addresses to receive at, one per family.
    pub local: Vec<IpAddr>,
    /// UDP port there.
    pub port: u16,
    /// This node's subnets.
    pub own: Vec<Prefix>,
    /// Bytes of each socket's buffers.
    pub buffer: usize,
    /// Of the device, each with sockets and threads of its own: 1, or what a device made with `multi_queue` can have.
    pub queues: usize,
    /// Of each queue. 1: one for both ways; 2: one for each.
    pub threads: usize,
    /// Use what of [`Features`] the kernel has.
    pub offload: bool,
}

/// What this kernel lets it do. Without a feature it goes on packet by packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// The device has headers that tell of unfinished work.
    pub vnet_hdr: bool,
    /// It hands over TCP super-packets.
    pub tso: bool,
    /// It hands over and takes UDP trains.
    pub uso: bool,
    /// Datagrams are sent in trains.
    pub udp_gso: bool,
    /// Datagrams are received in trains.
    pub udp_gro: bool,
}

/// What the threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub raw: Raw,
    pub peers: ArcSwap<Peers>,
    pub counters: Counters,
    pub bell: Bell,
    pub ending: AtomicBool,
    pub began: Instant,
    limit: Mutex<Limit>,
    problem: Mutex<Option<String>>,
}

impl Shared {
    /// May one more ICMP error be sent now?
    pub fn may_answer(&self) -> bool {
        self.limit.lock().unwrap_or_else(PoisonError::into_inner).take(self.began.elapsed().as_secs_f64())
    }

    /// A thread can't go on: end all of them, and say why.
    pub fn fail(&self, error: &io::Error) {
        let why = match errno(error) {
            Some(libc::EBADFD | libc::EIO) => "the TUN device is gone".to_owned(),
            _ => error.to_string(),
        };
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        self.end();
    }

    /// Let all threads end.
    pub fn end(&self) {
        self.ending.store(true, Relaxed);
        self.bell.ring();
    }
}

/// A running engine. Dropping it ends it; the device stays.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    changes: Mutex<()>,
    features: Features,
}

impl Engine {
    /// Attach to the device, bind the sockets, start the threads.
    pub fn start(options: &Options) -> io::Result<Engine> {
        let queues = Queue::open(options)?;
        let Queue { tun, sockets } = &queues[0]; // the others are like it
        let features = Features {
            vnet_hdr: tun.vnet_hdr,
            tso: tun.tso,
            uso: tun.uso,
            udp_gso: sockets.iter().all(|socket| socket.gso),
            udp_gro: sockets.iter().all(|socket| socket.gro),
        };
        let shared = Arc::new(Shared {
            raw: Raw::open(),
            peers: ArcSwap::from_pointee(Peers::new(options.own.clone())),
            counters: Counters::default(),
            bell: Bell::new()?,
            ending: AtomicBool::new(false),
            began: Instant::now(),
            limit: Mutex::default(),
            problem: Mutex::new(None),
        });
        let threads = worker::start(&shared, queues, options.threads)?;
        Ok(Engine { shared, threads: Mutex::new(threads), changes: Mutex::new(()), features })
    }

    /// What it can do here.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Change the peers; packets go on meanwhile, by the former table or the new one.
    pub fn apply(&self, remove: &[Prefix], add: &[(Prefix, SocketAddr)]) {
        let _one_at_a_time = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.shared.peers.load().with(remove, add);
        self.shared.peers.store(Arc::new(next));
    }

    /// The peers now.
    pub fn peers(&self) -> Arc<Peers> {
        self.shared.peers.load_full()
    }

    /// What was carried and what was not.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Why it runs no more; `None` while it does.
    pub fn problem(&self) -> Option<String> {
        let found = self.shared.problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
        found.or_else(|| self.shared.ending.load(Relaxed).then(|| "it was closed".to_owned()))
    }

    /// End the threads, and wait for it. Once more does nothing.
    pub fn close(&self) {
        self.shared.end();
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _panicked = thread.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}
