//! As much of rtnetlink as the loader needs (linux/netlink.h, linux/rtnetlink.h): a request and its answer.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;

/// A request, built from its fixed part and attributes.
#[derive(Debug)]
pub struct Request(Vec<u8>);

impl Request {
    /// `kind` is an RTM_ constant, `fixed` the bytes of its own header.
    pub fn new(kind: u16, flags: i32, fixed: &[u8]) -> Request {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
        bytes.extend(fixed);
        Request(bytes)
    }

    /// With an attribute.
    #[must_use]
    pub fn with(self, kind: u16, value: &[u8]) -> Request {
        self.nest(kind, |inner| inner.raw(value))
    }

    /// With bytes that are no attribute.
    #[must_use]
    pub fn raw(mut self, value: &[u8]) -> Request {
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// With an attribute of attributes, which `fill` adds.
    #[must_use]
    pub fn nest(mut self, kind: u16, fill: impl FnOnce(Request) -> Request) -> Request {
        let at = self.0.len();
        self.0.extend([0, 0]);
        self.0.extend(kind.to_ne_bytes());
        let mut done = fill(self);
        let len = (done.0.len() - at) as u16;
        done.0[at..at + 2].copy_from_slice(&len.to_ne_bytes());
        done
    }

    /// Send it. Gives how many objects the answer told, up to its end or acknowledgement.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn send(mut self) -> io::Result<usize> {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        // SAFETY: no pointers.
        let socket =
            unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor of ours that nobody else closes.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        // SAFETY: the bytes are read to their length only, and live through the call.
        if unsafe { libc::send(socket.as_raw_fd(), self.0.as_ptr().cast(), self.0.len(), 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
        answer(&socket)
    }
}

fn answer(socket: &OwnedFd) -> io::Result<usize> {
    let mut found = 0;
    let mut buffer = vec![0u8; 32 * 1024];
    loop {
        // SAFETY: the buffer is ours, writable and as long as told.
        let got = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let mut rest = match usize::try_from(got) {
            Ok(got) => &buffer[..got],
            Err(_) => return Err(io::Error::last_os_error()),
        };
        while let Some((header, body)) = rest.split_at_checked(HEADER) {
            let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            match i32::from(u16::from_ne_bytes([header[4], header[5]])) {
                libc::NLMSG_DONE => return Ok(found),
                libc::NLMSG_ERROR => {
                    let code = body.first_chunk::<4>().map_or(0, |code| i32::from_ne_bytes(*code));
                    return if code == 0 { Ok(found) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                _ => found += 1,
            }
            rest = rest.get(len.max(HEADER).next_multiple_of(4)..).unwrap_or_default();
        }
    }
}
