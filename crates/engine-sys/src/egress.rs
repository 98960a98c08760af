//! From the TUN to the peers: a burst of packets is read, cut where it must be, put into trains by peer and size, and
//! sent with one system call. Payload isn't copied: a datagram is a new header and a place in what was read.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use flannel_engine::counters::Reason;
use flannel_engine::icmp::{self, Limit, Trouble};
use flannel_engine::packet::Ip;
use flannel_engine::peers::{Peer, Peers};
use flannel_engine::segment::{self, Cut};
use flannel_engine::vnet;
use socket2::SockAddr;

use crate::engine::Shared;
use crate::udp::{self, Controls, MAX_BYTES, MAX_TRAIN, Udp};

const BURST: usize = 64;
const SLOT: usize = 65_536 + 64; // the largest packet with its header
const ARENA: usize = 8 * SLOT;
const SMALL: usize = 1_200; // fits through any path (IPv6's least is 1,280); larger ones need a look at the path's MTU

/// Bytes in `headers` or in what was read.
#[derive(Clone, Copy)]
struct Span {
    header: bool,
    at: usize,
    len: usize,
}

/// Datagrams of one size (the last may be shorter) to one peer.
struct Train {
    peer: Arc<Peer>,
    spans: std::ops::Range<usize>,
    size: usize,
    count: usize,
    bytes: usize,
    closed: bool,
}

pub struct Egress {
    shared: Arc<Shared>,
    arena: Box<[u8]>,
    headers: Vec<u8>,
    spans: Vec<Span>,
    trains: Vec<Train>,
    limit: Limit,
    gso: bool,
}

impl Egress {
    pub fn new(shared: Arc<Shared>) -> Egress {
        let gso = shared.sockets.iter().all(|socket| socket.gso);
        Egress {
            shared,
            arena: vec![0; ARENA].into(),
            headers: Vec::new(),
            spans: Vec::new(),
            trains: Vec::new(),
            limit: Limit::default(),
            gso,
        }
    }

    /// Carry what there is, up to a burst. False: there was nothing. An error means that the device is gone.
    pub fn burst(&mut self) -> io::Result<bool> {
        let peers = self.shared.peers.load_full();
        let (mut used, mut count) = (0, 0);
        while count < BURST && used + SLOT <= self.arena.len() {
            match self.shared.tun.read(&mut self.arena[used..used + SLOT]) {
                Ok(length) => {
                    self.take(&peers, used, length);
                    used += length.next_multiple_of(8);
                    count += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
        }
        self.flush();
        Ok(count > 0)
    }

    fn take(&mut self, peers: &Peers, at: usize, length: usize) {
        let skip = self.shared.tun.header_len();
        let header = match self.arena[at..at + length].first_chunk() {
            Some(bytes) if skip > 0 => vnet::Header::read(bytes),
            _ => vnet::Header::default(),
        };
        let (from, until) = (at + skip.min(length), at + length);
        let packet = &self.arena[from..until];
        let Ok(ip) = Ip::parse(packet) else {
            return self.shared.counters.dropped(Reason::Malformed, 1);
        };
        let Ok(cut) = Cut::plan(&header, &ip, packet) else {
            return self.shared.counters.dropped(Reason::Malformed, 1);
        };
        let Some(peer) = peers.route(&ip.destination) else {
            self.shared.counters.dropped(Reason::NoRoute, 1);
            return self.answer(Trouble::NoRoute, &ip, peers, from..until);
        };
        let largest = cut.map_or(until - from, |cut| cut.headers + cut.size);
        let most = self.path(peer, largest);
        if largest > most && ip.dont_fragment {
            self.shared.counters.dropped(Reason::TooBig, 1);
            peer.state.traffic.dropped(1);
            return self.answer(Trouble::TooBig(most as u32), &ip, peers, from..until);
        }
        match cut {
            None => {
                if segment::finish(&header, &mut self.arena[from..until]).is_err() {
                    return self.shared.counters.dropped(Reason::Malformed, 1);
                }
                self.append(peer, until - from, [Span { header: false, at: from, len: until - from }]);
            }
            Some(cut) => {
                let base = self.headers.len();
                self.headers.resize(base + cut.headers * cut.count, 0);
                let packet = &self.arena[from..until];
                for (index, out) in self.headers[base..].chunks_exact_mut(cut.headers).enumerate() {
                    cut.header(packet, index, out);
                }
                for index in 0..cut.count {
                    let begin = cut.headers + index * cut.size;
                    let size = cut.size.min(until - from - begin);
                    self.append(
                        peer,
                        cut.headers + size,
                        [
                            Span { header: true, at: base + index * cut.headers, len: cut.headers },
                            Span { header: false, at: from + begin, len: size },
                        ],
                    );
                }
            }
        }
    }

    /// Add a packet to the last train, or begin one.
    fn append<const N: usize>(&mut self, peer: &Arc<Peer>, length: usize, spans: [Span; N]) {
        let fits = self.trains.last().is_some_and(|train| {
            self.gso
                && !train.closed
                && Arc::ptr_eq(&train.peer, peer)
                && length <= train.size
                && train.count < MAX_TRAIN
                && train.bytes + length <= MAX_BYTES
        });
        if !fits {
            let begin = self.spans.len();
            let peer = Arc::clone(peer);
            self.trains.push(Train { peer, spans: begin..begin, size: length, count: 0, bytes: 0, closed: false });
        }
        self.spans.extend(spans);
        if let Some(train) = self.trains.last_mut() {
            train.spans.end = self.spans.len();
            train.count += 1;
            train.bytes += length;
            train.closed = length < train.size;
        }
    }

    /// The largest inner packet in bytes that the path takes whole; looked up once a second where it may matter.
    fn path(&self, peer: &Peer, largest: usize) -> usize {
        if largest <= SMALL {
            return usize::MAX;
        }
        let now = self.shared.began.elapsed().as_secs() as u32 + 1;
        if peer.state.looked_at.swap(now, Relaxed) != now {
            let mtu = self.socket(&peer.endpoint).and_then(|socket| socket.path_mtu(&peer.endpoint));
            peer.state.path_mtu.store(mtu.unwrap_or(0), Relaxed);
        }
        match peer.state.path_mtu.load(Relaxed) as usize {
            0 => usize::MAX,
            mtu => mtu.saturating_sub(if peer.endpoint.is_ipv4() { 28 } else { 48 }),
        }
    }

    fn socket(&self, endpoint: &SocketAddr) -> Option<&Udp> {
        self.shared.sockets.iter().find(|socket| socket.local.is_ipv4() == endpoint.is_ipv4())
    }

    /// Tell the sender of the packet at `at`, if one may.
    fn answer(&mut self, trouble: Trouble, ip: &Ip, peers: &Peers, at: std::ops::Range<usize>) {
        let Some(own) = peers.own_address(&ip.source) else { return };
        let Some(answer) = icmp::answer(trouble, ip, &self.arena[at], &own) else { return };
        if self.limit.take(self.shared.began.elapsed().as_secs_f64()) && self.shared.raw.send(&answer, ip.source) {
            self.shared.counters.answered();
        }
    }

    /// Send all trains.
    fn flush(&mut self) {
        let shared = Arc::clone(&self.shared);
        for socket in &shared.sockets {
            let mine: Vec<usize> = (0..self.trains.len())
                .filter(|at| self.trains[*at].peer.endpoint.is_ipv4() == socket.local.is_ipv4())
                .collect();
            if !mine.is_empty() {
                self.send(socket, &mine);
            }
        }
        for train in &self.trains {
            if self.socket(&train.peer.endpoint).is_none() {
                self.lost(train, Reason::Io, train.count);
            }
        }
        self.headers.clear();
        self.spans.clear();
        self.trains.clear();
    }

    /// Send the trains `which` over `socket`.
    fn send(&mut self, socket: &Udp, which: &[usize]) {
        let mut iovecs: Vec<libc::iovec> = self.spans.iter().map(|span| self.iovec(span)).collect();
        let mut names: Vec<SockAddr> = which.iter().map(|at| udp::raw(self.trains[*at].peer.endpoint)).collect();
        let mut controls = vec![Controls([0; udp::CONTROL]); which.len()];
        let mut messages: Vec<libc::mmsghdr> = Vec::with_capacity(which.len());
        for ((at, name), control) in which.iter().zip(&mut names).zip(&mut controls) {
            let train = &self.trains[*at];
            let mut header = message(name, &mut iovecs[train.spans.clone()]);
            if train.count > 1 {
                header.msg_controllen = udp::put_segment(&mut control.0, train.size as u16);
                header.msg_control = control.0.as_mut_ptr().cast();
            }
            messages.push(libc::mmsghdr { msg_hdr: header, msg_len: 0 });
        }
        let (mut at, mut waited) = (0, false);
        while at < messages.len() {
            let train = &self.trains[which[at]];
            let error = match socket.send(&mut messages[at..]) {
                Ok(sent) => {
                    for train in which[at..at + sent].iter().map(|at| &self.trains[*at]) {
                        self.sent(train, train.count, train.bytes);
                    }
                    (at, waited) = (at + sent, false);
                    continue;
                }
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::EINTR) => continue,
                Some(libc::EAGAIN | libc::ENOBUFS) if !waited => {
                    socket.wait_writable();
                    waited = true;
                    continue;
                }
                // Trains aren't fragmented, single datagrams are; older devices refuse trains altogether.
                Some(code @ (libc::EMSGSIZE | libc::EINVAL | libc::EIO)) if train.count > 1 => {
                    self.one_by_one(socket, train);
                    self.gso = self.gso && code == libc::EMSGSIZE;
                }
                Some(libc::EMSGSIZE) => self.lost(train, Reason::TooBig, train.count),
                _ => self.lost(train, Reason::Io, train.count),
            }
            (at, waited) = (at + 1, false);
        }
    }

    fn one_by_one(&self, socket: &Udp, train: &Train) {
        let mut name = udp::raw(train.peer.endpoint);
        let mut rest = &self.spans[train.spans.clone()];
        while !rest.is_empty() {
            let mut bytes = 0;
            let until = rest.iter().position(|span| {
                bytes += span.len;
                bytes >= train.size
            });
            let (one, more) = rest.split_at(until.map_or(rest.len(), |at| at + 1));
            rest = more;
            let mut iovecs: Vec<libc::iovec> = one.iter().map(|span| self.iovec(span)).collect();
            let header = message(&mut name, &mut iovecs);
            match socket.send(&mut [libc::mmsghdr { msg_hdr: header, msg_len: 0 }]) {
                Ok(_) => self.sent(train, 1, bytes),
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => self.lost(train, Reason::TooBig, 1),
                Err(_) => self.lost(train, Reason::Io, 1),
            }
        }
    }

    fn iovec(&self, span: &Span) -> libc::iovec {
        let from = if span.header { &self.headers[span.at..] } else { &self.arena[span.at..] };
        libc::iovec { iov_base: from[..span.len].as_ptr().cast_mut().cast(), iov_len: span.len }
    }

    fn sent(&self, train: &Train, packets: usize, bytes: usize) {
        self.shared.counters.traffic.sent(packets as u64, bytes as u64);
        train.peer.state.traffic.sent(packets as u64, bytes as u64);
    }

    fn lost(&self, train: &Train, reason: Reason, packets: usize) {
        self.shared.counters.dropped(reason, packets as u64);
        train.peer.state.traffic.dropped(packets as u64);
    }
}

/// To `name`, from `iovecs`; both must outlive it.
fn message(name: &mut SockAddr, iovecs: &mut [libc::iovec]) -> libc::msghdr {
    libc::msghdr {
        msg_name: name.as_ptr().cast_mut().cast(),
        msg_namelen: name.len(),
        msg_iov: iovecs.as_mut_ptr(),
        msg_iovlen: iovecs.len() as _,
        ..udp::empty()
    }
}
