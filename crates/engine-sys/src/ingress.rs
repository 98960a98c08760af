//! From the peers to the TUN: many datagrams are received with one system call, each is admitted or counted, and what
//! belongs together goes to the device as one super-packet. Payload isn't copied.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use flannel_engine::coalesce::{Coalescer, Out};
use flannel_engine::counters::Reason;
use flannel_engine::packet::Ip;
use flannel_engine::peers::{Peer, Peers};

use crate::engine::Shared;
use crate::queue::Queue;
use crate::tun::Tun;
use crate::udp::{self, Controls, Udp};

const BATCH: usize = 16;
const SLOT: usize = 65_536;
const PARTS: usize = 66; // header of the device, of the packet, and 64 payloads

pub struct Ingress {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    buffer: Box<[u8]>,
    names: Box<[libc::sockaddr_storage]>,
    controls: Box<[Controls]>,
    coalescer: Coalescer,
}

impl Ingress {
    pub fn new(shared: Arc<Shared>, queue: Arc<Queue>) -> Ingress {
        // SAFETY: an address of nothing: integers, for which zero is a value.
        let nobody: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        Ingress {
            coalescer: Coalescer::new(queue.tun.vnet_hdr, queue.tun.uso),
            shared,
            queue,
            buffer: vec![0; BATCH * SLOT].into(),
            names: vec![nobody; BATCH].into(),
            controls: vec![Controls([0; udp::CONTROL]); BATCH].into(),
        }
    }

    /// Deliver what there is, up to a batch. True: there may be more. An error means that the device is gone.
    pub fn burst(&mut self, socket: &Udp) -> io::Result<bool> {
        let mut iovecs: [libc::iovec; BATCH] = std::array::from_fn(|at| libc::iovec {
            iov_base: self.buffer[at * SLOT..].as_mut_ptr().cast(),
            iov_len: SLOT,
        });
        let mut messages: [libc::mmsghdr; BATCH] = std::array::from_fn(|at| libc::mmsghdr {
            msg_hdr: libc::msghdr {
                msg_name: (&raw mut self.names[at]).cast(),
                msg_namelen: size_of::<libc::sockaddr_storage>() as libc::socklen_t,
                msg_iov: &raw mut iovecs[at],
                msg_iovlen: 1,
                msg_control: self.controls[at].0.as_mut_ptr().cast(),
                msg_controllen: udp::CONTROL,
                ..udp::empty()
            },
            msg_len: 0,
        });
        let count = match socket.receive(&mut messages) {
            Ok(count) => count,
            // What others answered to datagrams of ours (port unreachable) is no trouble of the socket.
            Err(_) => return Ok(false),
        };
        let peers = self.shared.peers.load_full();
        let Ingress { shared, queue, buffer, names, coalescer, .. } = self;
        let buffer: &[u8] = buffer;
        let mut trouble = None;
        let mut emit = |out: &Out| {
            if let Err(error) = write(&queue.tun, buffer, out) {
                shared.counters.dropped(Reason::Io, out.packets as u64);
                if matches!(error.raw_os_error(), Some(libc::EBADFD)) {
                    trouble = Some(error);
                }
            }
        };
        for at in 0..count {
            let (header, length) = (&messages[at].msg_hdr, messages[at].msg_len as usize);
            let Some(outer) = source(&names[at]) else { continue };
            if header.msg_flags & libc::MSG_TRUNC != 0 {
                shared.counters.dropped(Reason::Malformed, 1);
                continue;
            }
            let size = udp::gro_size(header).unwrap_or(length).max(1);
            let mut tally: Option<(&Arc<Peer>, u64, u64)> = None;
            for from in (0..length.max(1)).step_by(size) {
                let part = (at * SLOT + from, size.min(length - from));
                match admit(&peers, &outer, &buffer[part.0..part.0 + part.1]) {
                    Ok((peer, ip)) => {
                        tally = match tally {
                            Some((before, packets, bytes)) if Arc::ptr_eq(before, peer) => {
                                Some((before, packets + 1, bytes + part.1 as u64))
                            }
                            other => {
                                count_received(shared, other);
                                Some((peer, 1, part.1 as u64))
                            }
                        };
                        coalescer.push(buffer, part, &ip, &mut emit);
                    }
                    Err(reason) => {
                        shared.counters.dropped(reason, 1);
                        if let Some(peer) = peers.at(&outer) {
                            peer.state.traffic.dropped(1);
                        }
                    }
                }
            }
            count_received(shared, tally);
        }
        coalescer.flush(&mut emit);
        trouble.map_or(Ok(count == BATCH), Err)
    }
}

fn admit<'a>(peers: &'a Peers, outer: &IpAddr, packet: &[u8]) -> Result<(&'a Arc<Peer>, Ip), Reason> {
    let ip = Ip::parse(packet).ok().filter(|ip| ip.is_sound(packet)).ok_or(Reason::Malformed)?;
    peers.admit(outer, &ip).map(|peer| (peer, ip))
}

fn count_received(shared: &Shared, tally: Option<(&Arc<Peer>, u64, u64)>) {
    if let Some((peer, packets, bytes)) = tally {
        shared.counters.traffic.received(packets, bytes);
        peer.state.traffic.received(packets, bytes);
    }
}

fn write(tun: &Tun, buffer: &[u8], out: &Out) -> io::Result<()> {
    let vnet = out.vnet.bytes();
    let mut slices = [IoSlice::new(&[]); PARTS];
    slices[0] = IoSlice::new(&vnet);
    slices[1] = IoSlice::new(out.head);
    for (slice, (at, length)) in slices[2..].iter_mut().zip(out.parts) {
        *slice = IoSlice::new(&buffer[*at..at + length]);
    }
    tun.write(&slices[..2 + out.parts.len()])
}

/// The address in what the kernel filled in.
fn source(name: &libc::sockaddr_storage) -> Option<IpAddr> {
    let name: *const libc::sockaddr_storage = name;
    // SAFETY: the family tells which of the two it is; both are smaller than the storage, which is aligned for them.
    unsafe {
        match libc::c_int::from((*name).ss_family) {
            libc::AF_INET => {
                Some(IpAddr::V4(Ipv4Addr::from(u32::from_be((*name.cast::<libc::sockaddr_in>()).sin_addr.s_addr))))
            }
            libc::AF_INET6 => Some(IpAddr::V6(Ipv6Addr::from((*name.cast::<libc::sockaddr_in6>()).sin6_addr.s6_addr))),
            _ => None,
        }
    }
}
