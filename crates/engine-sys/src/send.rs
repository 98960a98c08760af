//! Trains to the sockets: many with one system call; one by one what is refused as a train.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use flannel_engine::counters::Reason;
use flannel_engine::icmp::Trouble;
use flannel_engine::peers::Peer;
use flannel_engine::trains::{Packet, Train, Trains};
use socket2::SockAddr;

use crate::engine::Shared;
use crate::queue::Queue;
use crate::udp::{self, Controls, Udp};

/// What the spans of a train point into.
#[derive(Clone, Copy)]
pub struct Bytes<'a> {
    pub headers: &'a [u8],
    pub arena: &'a [u8],
}

impl Bytes<'_> {
    /// For each span of `packet` that isn't empty.
    fn iovecs(self, packet: &Packet) -> impl Iterator<Item = libc::iovec> {
        packet.iter().filter(|span| span.len > 0).map(move |span| {
            let from = &(if span.header { self.headers } else { self.arena })[span.at..span.at + span.len];
            libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: from.len() }
        })
    }

    fn copy(self, packet: &Packet) -> Vec<u8> {
        let from = |header| if header { self.headers } else { self.arena };
        packet.iter().flat_map(|span| &from(span.header)[span.at..span.at + span.len]).copied().collect()
    }
}

/// A packet that was refused, and what its sender is to be told; `None`: that it was too big, for a path unknown.
pub type Refused = (Arc<Peer>, Vec<u8>, Option<Trouble>);

/// Sends, and remembers what the kernel refuses.
#[derive(Debug)]
pub struct Sender {
    /// Trains are sent as trains.
    pub gso: bool,
}

impl Sender {
    pub fn new(gso: bool) -> Sender {
        Sender { gso }
    }

    /// Send all of `trains`.
    pub fn send(&mut self, shared: &Shared, queue: &Queue, trains: &Trains, bytes: Bytes) -> Vec<Refused> {
        let mut refused = Vec::new();
        for socket in &queue.sockets {
            let mine: Vec<&Train> = trains.iter().filter(|train| socket.serves(&train.peer.endpoint)).collect();
            if !mine.is_empty() {
                let mut job = Job { shared, socket, trains, bytes, refused: &mut refused };
                job.run(&mine, &mut self.gso);
            }
        }
        for train in trains.iter().filter(|train| queue.socket(&train.peer.endpoint).is_none()) {
            lost(shared, train, Reason::Io, train.count);
        }
        refused
    }
}

/// The trains of one socket, being sent.
struct Job<'a> {
    shared: &'a Shared,
    socket: &'a Udp,
    trains: &'a Trains,
    bytes: Bytes<'a>,
    refused: &'a mut Vec<Refused>,
}

impl Job<'_> {
    fn run(&mut self, mine: &[&Train], gso: &mut bool) {
        let mut iovecs: Vec<libc::iovec> = Vec::with_capacity(mine.iter().map(|train| 2 * train.count).sum());
        let mut ends = Vec::with_capacity(mine.len());
        for train in mine {
            iovecs.extend(self.trains.packets(train).flat_map(|packet| self.bytes.iovecs(packet)));
            ends.push(iovecs.len());
        }
        let mut names: Vec<SockAddr> = mine.iter().map(|train| train.peer.endpoint.into()).collect();
        let mut controls = vec![Controls([0; udp::CONTROL]); mine.len()];
        let mut messages: Vec<libc::mmsghdr> = Vec::with_capacity(mine.len());
        let mut begin = 0;
        for (((train, end), name), control) in mine.iter().zip(&ends).zip(&mut names).zip(&mut controls) {
            let mut header = message(name, &mut iovecs[begin..*end]);
            begin = *end;
            if train.count > 1 {
                header.msg_controllen = udp::put_segment(&mut control.0, train.size as u16);
                header.msg_control = control.0.as_mut_ptr().cast();
            }
            messages.push(libc::mmsghdr { msg_hdr: header, msg_len: 0 });
        }
        let (mut at, mut waited) = (0, false);
        while at < messages.len() {
            let train = mine[at];
            let error = match self.socket.send(&mut messages[at..]) {
                Ok(sent) => {
                    for train in &mine[at..at + sent] {
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
                    self.socket.wait_writable();
                    waited = true;
                    continue;
                }
                // Trains aren't fragmented, single datagrams are; older devices refuse trains altogether.
                Some(code @ (libc::EMSGSIZE | libc::EINVAL | libc::EIO)) if train.count > 1 => {
                    train.peer.state.looked_at.store(0, Relaxed);
                    *gso &= self.one_by_one(train) == 0 || code == libc::EMSGSIZE;
                }
                _ => self.failed(train, train.count, self.trains.packets(train).next(), &error),
            }
            (at, waited) = (at + 1, false);
        }
    }

    /// Each packet of `train` as a datagram of its own. How many went.
    fn one_by_one(&mut self, train: &Train) -> usize {
        let mut name: SockAddr = train.peer.endpoint.into();
        let (mut went, mut again) = (0, false);
        for packet in self.trains.packets(train) {
            let mut iovecs: Vec<libc::iovec> = self.bytes.iovecs(packet).collect();
            let header = message(&mut name, &mut iovecs);
            match self.socket.send(&mut [libc::mmsghdr { msg_hdr: header, msg_len: 0 }]) {
                Ok(_) => {
                    self.sent(train, 1, packet[0].len + packet[1].len);
                    went += 1;
                }
                // One answer a train is enough.
                Err(error) => self.failed(train, 1, (!std::mem::replace(&mut again, true)).then_some(packet), &error),
            }
        }
        went
    }

    /// `packets` of `train` were refused; the sender of `first` may want to know.
    fn failed(&mut self, train: &Train, packets: usize, first: Option<&Packet>, error: &io::Error) {
        let (reason, trouble) = match error.raw_os_error() {
            Some(libc::EMSGSIZE) => (Reason::TooBig, Some(None)),
            Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN) => (Reason::Io, Some(Some(Trouble::NoHost))),
            _ => (Reason::Io, None),
        };
        if reason == Reason::TooBig {
            train.peer.state.looked_at.store(0, Relaxed);
        }
        lost(self.shared, train, reason, packets);
        if let (Some(trouble), Some(packet)) = (trouble, first) {
            self.refused.push((Arc::clone(&train.peer), self.bytes.copy(packet), trouble));
        }
    }

    fn sent(&self, train: &Train, packets: usize, bytes: usize) {
        self.shared.counters.traffic.sent(packets as u64, bytes as u64);
        train.peer.state.traffic.sent(packets as u64, bytes as u64);
    }
}

fn lost(shared: &Shared, train: &Train, reason: Reason, packets: usize) {
    shared.counters.dropped(reason, packets as u64);
    train.peer.state.traffic.dropped(packets as u64);
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
