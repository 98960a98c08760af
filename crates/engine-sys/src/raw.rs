//! ICMP errors of ours go out as any host's own do: through raw sockets. Written to the TUN they would seem to come from
//! outside with an address of this host, which kernels drop.

use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

/// Whole packets, by family; none where that isn't allowed (no CAP_NET_RAW).
#[derive(Debug)]
pub struct Raw {
    four: Option<Socket>,
    six: Option<Socket>,
}

impl Raw {
    /// Open what may be opened.
    pub fn open() -> Raw {
        // IPPROTO_RAW: what is sent has its IP header (raw(7)), and nothing is received.
        let open = |domain| {
            Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(Protocol::from(libc::IPPROTO_RAW))).ok()
        };
        Raw { four: open(Domain::IPV4), six: open(Domain::IPV6) }
    }

    /// Send `packet` to `destination`. False: it can't be.
    pub fn send(&self, packet: &[u8], destination: IpAddr) -> bool {
        let socket = if destination.is_ipv4() { &self.four } else { &self.six };
        socket.as_ref().is_some_and(|socket| socket.send_to(packet, &SocketAddr::new(destination, 0).into()).is_ok())
    }
}
