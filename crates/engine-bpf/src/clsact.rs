//! The clsact qdisc, for kernels without tcx.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use aya::programs::TcAttachType;
use aya::programs::tc::{SchedClassifierLink, TcError, TcHandle, qdisc_add_clsact};

use crate::attach::{HANDLE, PRIORITY};
use crate::error::{Error, Result};

/// Add it to a device. False if it was there.
///
/// # Errors
/// The kernel refuses, for example because it has none.
pub fn add(name: &str) -> Result<bool> {
    match qdisc_add_clsact(name) {
        Ok(()) => Ok(true),
        Err(TcError::AlreadyAttached) => Ok(false),
        Err(error) => {
            let error = Error::of(format!("add the clsact qdisc to device {name}"), &error);
            if error.errno() == Some(libc::EEXIST) { Ok(false) } else { Err(error) }
        }
    }
}

/// Remove our filter; nothing if it isn't there.
pub fn detach(name: &str, direction: TcAttachType) {
    // Dropping it is detaching it.
    drop(SchedClassifierLink::attached(name, direction, PRIORITY, TcHandle::new(0, HANDLE), None));
}

/// `struct tcmsg` behind `struct nlmsghdr` (linux/rtnetlink.h, linux/netlink.h).
#[repr(C)]
struct Request {
    len: u32,
    kind: u16,
    flags: u16,
    seq: u32,
    pid: u32,
    family: u8,
    pad: [u8; 3],
    index: i32,
    handle: u32,
    parent: u32,
    info: u32,
}

const _: () = assert!(size_of::<Request>() == 36);

const TC_H_CLSACT: u32 = 0xffff_fff1;
const HOOKS: [u32; 2] = [0xffff_fff2, 0xffff_fff3]; // TC_H_MIN_INGRESS, TC_H_MIN_EGRESS below it

/// Remove the qdisc of a device, unless somebody's filter is in it.
pub fn remove_if_empty(index: u32) {
    let Ok(socket) = open() else { return };
    for hook in HOOKS {
        match ask(&socket, libc::RTM_GETTFILTER, libc::NLM_F_DUMP, index, hook) {
            Ok(0) => {}
            _ => return,
        }
    }
    let _gone_already = ask(&socket, libc::RTM_DELQDISC, libc::NLM_F_ACK, index, TC_H_CLSACT);
}

fn open() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let socket = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor of ours that nobody else closes.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

/// Send a request and count the objects in the answer, up to its end or acknowledgement.
fn ask(socket: &OwnedFd, kind: u16, flags: i32, index: u32, parent: u32) -> io::Result<usize> {
    let request = Request {
        len: size_of::<Request>() as u32,
        kind,
        flags: (libc::NLM_F_REQUEST | flags) as u16,
        seq: 1,
        pid: 0,
        family: 0,
        pad: [0; 3],
        index: index.cast_signed(),
        handle: 0,
        parent,
        info: 0,
    };
    // SAFETY: the request is read to its length only, and lives through the call.
    let sent =
        unsafe { libc::send(socket.as_raw_fd(), (&raw const request).cast(), size_of::<Request>(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = 0;
    let mut buffer = vec![0u8; 32 * 1024];
    loop {
        // SAFETY: the buffer is ours, writable and as long as told.
        let got = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let mut rest = match usize::try_from(got) {
            Ok(got) => &buffer[..got],
            Err(_) => return Err(io::Error::last_os_error()),
        };
        while let Some((header, body)) = rest.split_at_checked(16) {
            let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            match i32::from(u16::from_ne_bytes([header[4], header[5]])) {
                libc::NLMSG_DONE => return Ok(found),
                libc::NLMSG_ERROR => {
                    let code = body.first_chunk::<4>().map_or(0, |code| i32::from_ne_bytes(*code));
                    return if code == 0 { Ok(found) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                _ => found += 1,
            }
            rest = rest.get(len.max(16).next_multiple_of(4)..).unwrap_or_default();
        }
    }
}
