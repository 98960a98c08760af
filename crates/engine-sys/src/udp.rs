//! UDP sockets: many datagrams a call, trains of them (UDP_SEGMENT, UDP_GRO: linux/udp.h) where the kernel can.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

use socket2::{Domain, Protocol, Socket, Type};

use crate::io::{check, explain};

const SOL_UDP: libc::c_int = 17;
const UDP_NO_CHECK6_RX: libc::c_int = 102;
/// Option and control message: cut the payload into datagrams of this size (u16).
pub const UDP_SEGMENT: libc::c_int = 103;
/// Option and control message: datagrams of this size (int) were put together.
pub const UDP_GRO: libc::c_int = 104;

/// Bytes of a control message of ours, with room for alignment.
pub const CONTROL: usize = 32;

/// A bound socket.
#[derive(Debug)]
pub struct Udp {
    socket: Socket,
    /// Its own address.
    pub local: SocketAddr,
    /// It receives trains.
    pub gro: bool,
    /// It sends trains.
    pub gso: bool,
}

impl Udp {
    /// Bind to `local`, with buffers of `buffer` bytes.
    ///
    /// `shared`: others of ours are bound to it too, and the kernel deals out what comes, by sender.
    /// `offload`: in trains, where the kernel can.
    pub fn bind(local: SocketAddr, buffer: usize, shared: bool, offload: bool) -> io::Result<Udp> {
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
        if local.is_ipv6() {
            socket.set_only_v6(true)?;
            // The kernel engine leaves the outer checksum out, as tunnels may (RFC 6935): the inner packet has its own.
            set(&socket, SOL_UDP, UDP_NO_CHECK6_RX, 1);
        }
        socket.set_reuse_port(shared)?;
        socket.bind(&local.into()).map_err(|error| {
            let why = match error.raw_os_error() {
                Some(libc::EADDRINUSE) => "is taken (another flannel? `ss -ulnp` tells)",
                Some(libc::EADDRNOTAVAIL) => "is no address of this host",
                _ => "can't be had",
            };
            explain(error, &format!("UDP {local} {why}"))
        })?;
        for (force, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
            if !set(&socket, libc::SOL_SOCKET, force, buffer as libc::c_int) {
                set(&socket, libc::SOL_SOCKET, plain, buffer as libc::c_int);
            }
        }
        let gro = offload && set(&socket, SOL_UDP, UDP_GRO, 1);
        let gso = offload && set(&socket, SOL_UDP, UDP_SEGMENT, 0);
        Ok(Udp { socket, local, gro, gso })
    }

    /// Can it send to `endpoint`?
    pub fn serves(&self, endpoint: &SocketAddr) -> bool {
        self.local.is_ipv4() == endpoint.is_ipv4()
    }

    /// For poll.
    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Send `messages`. How many were sent, or the first one's error.
    pub fn send(&self, messages: &mut [libc::mmsghdr]) -> io::Result<usize> {
        let count = messages.len() as libc::c_uint;
        // SAFETY: every pointer in `messages` is to memory that the caller keeps through the call.
        check(unsafe { libc::sendmmsg(self.fd(), messages.as_mut_ptr(), count, libc::MSG_DONTWAIT) })
            .map(|sent| sent as usize)
    }

    /// Receive into `messages`. How many came; WouldBlock: none.
    pub fn receive(&self, messages: &mut [libc::mmsghdr]) -> io::Result<usize> {
        let count = messages.len() as libc::c_uint;
        let none = std::ptr::null_mut();
        // SAFETY: likewise; no time-out is given.
        check(unsafe { libc::recvmmsg(self.fd(), messages.as_mut_ptr(), count, libc::MSG_DONTWAIT, none) })
            .map(|received| received as usize)
    }

    /// Wait a little until it takes more.
    pub fn wait_writable(&self) {
        let mut fds = [libc::pollfd { fd: self.fd(), events: libc::POLLOUT, revents: 0 }];
        // SAFETY: one pollfd, which lives through the call.
        unsafe { libc::poll(fds.as_mut_ptr(), 1, 10) };
    }

    /// The MTU in bytes of the path to `endpoint`, as the kernel knows it.
    pub fn path_mtu(&self, endpoint: &SocketAddr) -> Option<u32> {
        let probe = UdpSocket::bind((self.local.ip(), 0)).ok()?;
        probe.connect(endpoint).ok()?;
        let (level, name) = match endpoint.ip() {
            IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU),
            IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
        };
        let mut value: libc::c_int = 0;
        let mut length = size_of_val(&value) as libc::socklen_t;
        // SAFETY: an int and its size, which live through the call.
        let result =
            unsafe { libc::getsockopt(probe.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length) };
        (result == 0).then_some(value as u32)
    }
}

fn set(socket: &Socket, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> bool {
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: an int and its size, which live through the call.
    unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) == 0 }
}

/// A control message that asks for trains of `size`. Returns its length.
pub fn put_segment(control: &mut [u8; CONTROL], size: u16) -> usize {
    let mut header = libc::msghdr { msg_control: control.as_mut_ptr().cast(), msg_controllen: CONTROL, ..empty() };
    // SAFETY: the control buffer has room for one message of two bytes, and is aligned by its owner (see `Controls`).
    unsafe {
        let message = libc::CMSG_FIRSTHDR(&raw const header);
        (*message).cmsg_level = SOL_UDP;
        (*message).cmsg_type = UDP_SEGMENT;
        (*message).cmsg_len = libc::CMSG_LEN(2) as usize;
        libc::CMSG_DATA(message).cast::<u16>().write_unaligned(size);
        header.msg_controllen = libc::CMSG_SPACE(2) as usize;
    }
    header.msg_controllen
}

/// The size of the datagrams in a message that was received; `None` if it is a single one.
pub fn gro_size(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: `header` was filled in by the kernel, which writes whole control messages into the buffer it was given.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            if (*message).cmsg_level == SOL_UDP && (*message).cmsg_type == UDP_GRO {
                let size = libc::CMSG_DATA(message).cast::<libc::c_int>().read_unaligned();
                return usize::try_from(size).ok().filter(|size| *size > 0);
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    None
}

/// A control buffer, aligned as the kernel's macros expect it.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
pub struct Controls(pub [u8; CONTROL]);

/// A message header of nothing.
pub fn empty() -> libc::msghdr {
    // SAFETY: all of its fields are integers and pointers, for which zero is a value.
    unsafe { std::mem::zeroed() }
}
