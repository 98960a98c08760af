//! What must be known of a network device.

use std::ffi::CString;
use std::io;

use crate::error::{Error, Result};

/// A device's index in this network namespace.
///
/// # Errors
/// There is no such device.
pub fn index(name: &str) -> Result<u32> {
    let text = CString::new(name).map_err(|_| Error::invalid(format!("device {name:?}: no device has such a name")))?;
    // SAFETY: `text` is a string that ends in 0 and lives through the call.
    let index = unsafe { libc::if_nametoindex(text.as_ptr()) };
    if index == 0 {
        return Err(Error::of(format!("device {name}"), &io::Error::last_os_error()));
    }
    Ok(index)
}

/// Kinds of link whose packets begin with an Ethernet header (linux/if_arp.h).
const ETHERNET: u16 = 1;

/// Has it Ethernet headers? A tunnel has none.
///
/// # Errors
/// The device can't be asked.
pub fn is_ethernet(name: &str) -> Result<bool> {
    // SAFETY: all zero is a valid ifreq, which has no pointers in the members used here.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    set_name(&mut request, name);
    ioctl(name, libc::SIOCGIFHWADDR, &mut request)?;
    // SAFETY: SIOCGIFHWADDR has filled this member of the union.
    let family = unsafe { request.ifr_ifru.ifru_hwaddr.sa_family };
    Ok(family == ETHERNET || family == libc::ARPHRD_LOOPBACK)
}

fn set_name(request: &mut libc::ifreq, name: &str) {
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
}

fn ioctl(name: &str, what: libc::Ioctl, request: &mut libc::ifreq) -> Result<()> {
    // SAFETY: no pointers.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(Error::of("socket", &io::Error::last_os_error()));
    }
    // SAFETY: `request` is a whole ifreq, and what it points to (if anything) is the caller's and alive.
    let done = unsafe { libc::ioctl(socket, what, request) };
    let error = io::Error::last_os_error();
    // SAFETY: it is ours and not used hereafter.
    unsafe { libc::close(socket) };
    if done < 0 { Err(Error::of(format!("device {name}"), &error)) } else { Ok(()) }
}

/// `struct ethtool_drvinfo` (linux/ethtool.h).
#[repr(C)]
#[derive(Debug, Default)]
struct DriverInfo {
    cmd: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    rom: [u8; 32],
    rest: [u8; 32],
}

const _: () = assert!(size_of::<DriverInfo>() == 196);

const ETHTOOL_GDRVINFO: u32 = 3;
/// Segmentation of TCP by the device, and joining what it receives.
pub const ETHTOOL_STSO: u32 = 0x1f;
/// See [`ETHTOOL_STSO`].
pub const ETHTOOL_SGRO: u32 = 0x2c;

/// Switch one of a device's offloads (linux/ethtool.h).
///
/// # Errors
/// The device has no such switch.
pub fn switch(name: &str, what: u32, on: bool) -> Result<()> {
    let mut value = [what, u32::from(on)]; // struct ethtool_value
    // SAFETY: as in `is_ethernet`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    set_name(&mut request, name);
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    ioctl(name, libc::SIOCETHTOOL as libc::Ioctl, &mut request)
}

/// What a device's driver says of itself; empty where it says nothing.
fn info(name: &str) -> DriverInfo {
    let mut info = DriverInfo { cmd: ETHTOOL_GDRVINFO, ..DriverInfo::default() };
    // SAFETY: as in `is_ethernet`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    set_name(&mut request, name);
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    if ioctl(name, libc::SIOCETHTOOL as libc::Ioctl, &mut request).is_err() {
        return DriverInfo::default();
    }
    info
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Devices of virtual machines: the other side may be told of an unfinished checksum instead of getting a finished one.
const VIRTUAL: [&str; 5] = ["virtio_net", "vif", "hv_netvsc", "vmxnet3", "xen_netfront"];

/// Does it surely finish checksums before the packet leaves this machine's memory?
///
/// Only a piece of hardware, on a bus, does. A veth pair, a bridge, a virtual machine's device may hand the packet
/// over unfinished with a note beside it, which is lost to who reads a tunnel's payload from a socket. Of what lies
/// upon other devices (VLAN, bond) it isn't known: no.
pub fn finishes(name: &str) -> bool {
    let info = info(name);
    info.bus[0] != 0 && !VIRTUAL.contains(&text(&info.driver).as_str())
}

/// The device of this index in this network namespace.
pub fn name(index: u32) -> Option<String> {
    let mut buffer = [0; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the size that the function asks for.
    let found = unsafe { libc::if_indextoname(index, buffer.as_mut_ptr()) };
    if found.is_null() {
        return None;
    }
    // SAFETY: the function has filled the buffer, and its text ends in 0 there.
    Some(unsafe { std::ffi::CStr::from_ptr(buffer.as_ptr()) }.to_string_lossy().into_owned())
}

/// Is native XDP worth it there, if the driver has it at all?
///
/// Not on a veth: it makes the other end cut every super-packet before the crossing.
pub fn gains_by_xdp(name: &str) -> bool {
    text(&info(name).driver) != "veth"
}
