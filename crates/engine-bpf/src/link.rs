//! Detaching a pinned link at once: removing its file alone does it some time later.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

// enum bpf_cmd (linux/bpf.h)
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_LINK_DETACH: libc::c_long = 34;

/// The part of `union bpf_attr` that BPF_OBJ_GET reads.
#[repr(C)]
struct Get {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The part that BPF_LINK_DETACH reads.
#[repr(C)]
struct Detach {
    fd: u32,
}

/// Detach the link pinned there. Linux 5.9.
///
/// # Errors
/// There is none, or it's of a kind that can't be detached so.
pub fn detach(path: &Path) -> io::Result<()> {
    let text = CString::new(path.as_os_str().as_bytes())?;
    let get = Get { path: text.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: the kernel reads as many bytes as told, and the path, which ends in 0; both live through the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const get, size_of::<Get>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor of ours that nobody else closes; descriptors are ints.
    let link = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let detach = Detach { fd: link.as_raw_fd().cast_unsigned() };
    // SAFETY: the kernel reads as many bytes as told, of a struct that lives through the call.
    match unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_DETACH, &raw const detach, size_of::<Detach>()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
