//! A TUN device (linux/if_tun.h), read and written in super-packets where it can.

use std::ffi::{CString, c_ulong};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use flannel_engine::vnet;

use crate::io::{check, explain};

const TUNSETIFF: c_ulong = 0x4004_54ca;
const TUNGETIFF: c_ulong = 0x8004_54d2;
const TUNSETOFFLOAD: c_ulong = 0x4004_54d0;
const IFF_TUN: i16 = 0x0001;
const IFF_MULTI_QUEUE: i16 = 0x0100;
const IFF_PERSIST: i16 = 0x0800;
const IFF_NO_PI: i16 = 0x1000;
const IFF_VNET_HDR: i16 = 0x4000;
const F_CSUM: c_ulong = 1;
const F_TSO: c_ulong = 2 | 4 | 8; // IPv4, IPv6, with ECN
const F_USO: c_ulong = 0x20 | 0x40; // Linux 6.2

/// An open TUN device.
#[derive(Debug)]
pub struct Tun {
    file: File,
    /// Packets have a `virtio_net_hdr` before them.
    pub vnet_hdr: bool,
    /// The kernel hands over TCP super-packets.
    pub tso: bool,
    /// And UDP trains, and takes them.
    pub uso: bool,
}

#[repr(C)]
struct IfReq {
    name: [u8; 16],
    flags: i16,
    pad: [u8; 22],
}

impl Tun {
    /// Attach to a queue of the device `name`, which is there already, with the best offloads that it has.
    ///
    /// `several`: it must be a device that can have several queues. `offload`: try them at all.
    pub fn attach(name: &str, several: bool, offload: bool) -> io::Result<Tun> {
        // TUNSETIFF would make one, in the place of what somebody just removed.
        let nobody = || {
            let error = io::Error::from_raw_os_error(libc::ENODEV);
            explain(error, &format!("{name}: make it first (`ip tuntap add {name} mode tun`)"))
        };
        if !exists(name) {
            return Err(nobody());
        }
        let path = "/dev/net/tun";
        let open = || OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = open().map_err(|error| explain(error, &format!("{path} can't be opened")))?;
        let all = IFF_TUN | IFF_NO_PI;
        // One queue of a device that may have several does as well.
        let ways = if several { &[IFF_MULTI_QUEUE][..] } else { &[0, IFF_MULTI_QUEUE] };
        let header = if offload { IFF_VNET_HDR } else { 0 };
        let ways = ways.iter().flat_map(|queues| [all | queues | header, all | queues]);
        let mut refused = None;
        let Some(flags) = ways.into_iter().find(|flags| match set_name(&file, name, *flags) {
            Ok(()) => true,
            Err(error) => {
                refused.get_or_insert(error); // the first is the one that says what is wrong
                false
            }
        }) else {
            let error = refused.unwrap_or_else(|| io::Error::from_raw_os_error(libc::EINVAL));
            let why = match error.raw_os_error() {
                Some(libc::EBUSY) => "another process holds it (a second flanneld?)",
                Some(libc::EINVAL) if several => "it can't have several queues: make it with multi_queue, or use one",
                Some(libc::EINVAL) => "it is no TUN device",
                Some(libc::EPERM) => "run with CAP_NET_ADMIN",
                _ => "it can't be attached to",
            };
            return Err(explain(error, &format!("{name}: {why}")));
        };
        let vnet_hdr = flags & IFF_VNET_HDR != 0;
        if !is_persistent(&file)? {
            return Err(nobody()); // it went in between, and this is a new one, which goes with the file
        }
        let mut tun = Tun { file, vnet_hdr, tso: false, uso: false };
        if vnet_hdr {
            let offers = [(F_CSUM | F_TSO | F_USO, true, true), (F_CSUM | F_TSO, true, false), (F_CSUM, false, false)];
            for (flags, tso, uso) in offers {
                // SAFETY: this ioctl takes an integer.
                if unsafe { libc::ioctl(tun.file.as_raw_fd(), TUNSETOFFLOAD, flags) } == 0 {
                    (tun.tso, tun.uso) = (tso, uso);
                    break;
                }
            }
        }
        Ok(tun)
    }

    /// For poll.
    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Bytes before each packet.
    pub fn header_len(&self) -> usize {
        if self.vnet_hdr { vnet::LEN } else { 0 }
    }

    /// One packet with its header, into `buffer`. WouldBlock: there is none.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// One packet, whose first slice is its header (left out where there is none).
    pub fn write(&self, slices: &[IoSlice]) -> io::Result<()> {
        let slices = if self.vnet_hdr { slices } else { &slices[1..] };
        (&self.file).write_vectored(slices).map(drop)
    }
}

fn exists(name: &str) -> bool {
    // SAFETY: a text that ends with zero and lives through the call.
    CString::new(name).is_ok_and(|name| unsafe { libc::if_nametoindex(name.as_ptr()) } != 0)
}

fn is_persistent(file: &File) -> io::Result<bool> {
    let mut request = IfReq { name: [0; 16], flags: 0, pad: [0; 22] };
    // SAFETY: a struct ifreq's size and layout, which lives through the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNGETIFF, &raw mut request) })?;
    Ok(request.flags & IFF_PERSIST != 0)
}

fn set_name(file: &File, name: &str, flags: i16) -> io::Result<()> {
    let mut request = IfReq { name: [0; 16], flags, pad: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: a struct ifreq's size and layout, which lives through the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) }).map(drop)
}
