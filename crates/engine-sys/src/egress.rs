//! From the TUN to the peers: a burst of packets is read, cut where it must be, gathered into trains by peer and size,
//! and sent with one system call. Payload isn't copied: a datagram is a new header and a place in what was read.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use flannel_engine::counters::Reason;
use flannel_engine::icmp::{self, Trouble};
use flannel_engine::packet::Ip;
use flannel_engine::peers::{Peer, Peers};
use flannel_engine::segment::{self, Cut};
use flannel_engine::trains::{Packet, Span, Trains};
use flannel_engine::vnet;

use crate::engine::Shared;
use crate::queue::Queue;
use crate::send::{Bytes, Sender};

const BURST: usize = 64;
const SLOT: usize = 65_536 + 64; // the largest packet with its header
const ARENA: usize = 8 * SLOT;
const SMALL: usize = 1_200; // fits through any path (IPv6's least is 1,280); larger ones need a look at the path's MTU
const ERRORS: u32 = 1_000; // reads that fail one after the other before the device is given up

pub struct Egress {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    arena: Box<[u8]>,
    headers: Vec<u8>,
    trains: Trains,
    sender: Sender,
    errors: u32,
}

impl Egress {
    pub fn new(shared: Arc<Shared>, queue: Arc<Queue>) -> Egress {
        Egress {
            sender: Sender::new(queue.sockets.iter().all(|socket| socket.gso)),
            shared,
            queue,
            arena: vec![0; ARENA].into(),
            headers: Vec::new(),
            trains: Trains::default(),
            errors: 0,
        }
    }

    /// Carry what there is, up to a burst. True: there may be more. An error means that the device is gone.
    pub fn burst(&mut self) -> io::Result<bool> {
        let peers = self.shared.peers.load_full();
        let (mut used, mut count, mut more) = (0, 0, true);
        while count < BURST && used + SLOT <= self.arena.len() {
            match self.queue.tun.read(&mut self.arena[used..used + SLOT]) {
                Ok(length) => {
                    self.errors = 0;
                    self.take(&peers, used, length);
                    used += length.next_multiple_of(8);
                    count += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    more = false;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.refused(error)?;
                    break;
                }
            }
        }
        self.flush(&peers);
        Ok(more)
    }

    /// One packet that can't be read is no reason to end; a device that has gone, or gives nothing else, is.
    fn refused(&mut self, error: io::Error) -> io::Result<()> {
        self.errors += 1;
        self.shared.counters.dropped(Reason::Io, 1);
        if self.errors >= ERRORS || matches!(error.raw_os_error(), Some(libc::EBADFD | libc::EBADF)) {
            return Err(error);
        }
        Ok(())
    }

    fn take(&mut self, peers: &Peers, at: usize, length: usize) {
        let skip = self.queue.tun.header_len();
        let header = match self.arena[at..at + length].first_chunk() {
            Some(bytes) if skip > 0 => vnet::Header::read(bytes),
            _ => vnet::Header::default(),
        };
        let whole = at + skip.min(length)..at + length;
        let packet = &self.arena[whole.clone()];
        let Ok(ip) = Ip::parse(packet) else {
            return self.shared.counters.dropped(Reason::Malformed, 1);
        };
        let Ok(cut) = Cut::plan(&header, &ip, packet) else {
            return self.shared.counters.dropped(Reason::Malformed, 1);
        };
        let count = cut.map_or(1, |cut| cut.count as u64);
        let Some(peer) = peers.route(&ip.destination) else {
            self.shared.counters.dropped(Reason::NoRoute, count);
            return self.answer(Trouble::NoRoute, peers, &self.arena[whole]);
        };
        let largest = cut.map_or(whole.len(), |cut| cut.headers + cut.size);
        let most = self.path(peer, largest);
        if largest > most && ip.dont_fragment {
            self.shared.counters.dropped(Reason::TooBig, count);
            peer.state.traffic.dropped(count);
            return self.answer(Trouble::TooBig(most as u32), peers, &self.arena[whole]);
        }
        match cut {
            Some(cut) => self.cut(peer, &cut, whole),
            None if segment::finish(&header, &mut self.arena[whole.clone()]).is_err() => {
                self.shared.counters.dropped(Reason::Malformed, 1);
            }
            None => self.append(peer, [Span { header: false, at: whole.start, len: whole.len() }, Span::default()]),
        }
    }

    /// Append the segments of the super-packet at `whole`.
    fn cut(&mut self, peer: &Arc<Peer>, cut: &Cut, whole: Range<usize>) {
        let base = self.headers.len();
        self.headers.resize(base + cut.headers * cut.count, 0);
        let packet = &self.arena[whole.clone()];
        for (index, out) in self.headers[base..].chunks_exact_mut(cut.headers).enumerate() {
            cut.header(packet, index, out);
        }
        for index in 0..cut.count {
            let begin = cut.headers + index * cut.size;
            self.append(
                peer,
                [
                    Span { header: true, at: base + index * cut.headers, len: cut.headers },
                    Span { header: false, at: whole.start + begin, len: cut.size.min(whole.len() - begin) },
                ],
            );
        }
    }

    fn append(&mut self, peer: &Arc<Peer>, packet: Packet) {
        self.trains.push(peer, packet, self.sender.gso);
    }

    /// The largest inner packet in bytes that the path takes whole; looked up once a second where it may matter.
    fn path(&self, peer: &Peer, largest: usize) -> usize {
        if largest <= SMALL {
            return usize::MAX;
        }
        let now = self.shared.began.elapsed().as_secs() as u32 + 1;
        if peer.state.looked_at.swap(now, Relaxed) != now {
            let mtu = self.queue.socket(&peer.endpoint).and_then(|socket| socket.path_mtu(&peer.endpoint));
            peer.state.path_mtu.store(mtu.unwrap_or(0), Relaxed);
        }
        match peer.state.path_mtu.load(Relaxed) as usize {
            0 => usize::MAX,
            mtu => mtu.saturating_sub(if peer.endpoint.is_ipv4() { 28 } else { 48 }),
        }
    }

    /// Tell the sender of `packet`, if one may.
    fn answer(&self, trouble: Trouble, peers: &Peers, packet: &[u8]) {
        let Ok(ip) = Ip::parse(packet) else { return };
        let Some(own) = peers.own_address(&ip.source) else { return };
        let Some(answer) = icmp::answer(trouble, &ip, packet, &own) else { return };
        if self.shared.may_answer() && self.shared.raw.send(&answer, ip.source) {
            self.shared.counters.answered();
        }
    }

    /// Send all trains, and tell the senders of what was refused.
    fn flush(&mut self, peers: &Peers) {
        let bytes = Bytes { headers: &self.headers, arena: &self.arena };
        let refused = self.sender.send(&self.shared, &self.queue, &self.trains, bytes);
        for (peer, packet, trouble) in refused {
            let trouble = match trouble {
                Some(trouble) => trouble,
                None => match self.path(&peer, usize::MAX) {
                    usize::MAX => continue,
                    most => Trouble::TooBig(most as u32),
                },
            };
            self.answer(trouble, peers, &packet);
        }
        self.headers.clear();
        self.trains.clear();
    }
}
