//! The directory in which programs, links and maps are pinned.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;

use crate::error::{Error, Result};

/// Of a BPF file system (linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Is `path` on a BPF file system?
fn is_bpffs(path: &Path) -> bool {
    let Ok(text) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: all zero is a valid statfs, a struct of integers.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: both live through the call; `text` ends in 0.
    let done = unsafe { libc::statfs(text.as_ptr(), &raw mut found) };
    #[allow(clippy::unnecessary_cast, reason = "the type depends on the architecture")]
    let magic = found.f_type as i64;
    done == 0 && magic & 0xffff_ffff == BPF_FS_MAGIC
}

/// Make the directory, and mount a BPF file system on it if it isn't on one.
///
/// # Errors
/// It can't be made or mounted: the message says which and the way out.
pub fn prepare(pin: &Path) -> Result<()> {
    let failed = |what: &str, error: &io::Error| {
        Error::of(format!("{what} {}", pin.display()), error).way_out(
            "the kernel engine keeps its programs there: name an empty directory, or one on a bpffs (mount -t bpf bpf \
             DIRECTORY)",
        )
    };
    if !pin.is_absolute() {
        return Err(Error::invalid(format!("pin {}: an absolute path is needed", pin.display())));
    }
    fs::create_dir_all(pin).map_err(|error| failed("make directory", &error))?;
    if is_bpffs(pin) {
        return Ok(());
    }
    let mut entries = fs::read_dir(pin).map_err(|error| failed("read directory", &error))?;
    if entries.next().is_some() {
        return Err(failed("mount a bpffs on", &io::Error::from_raw_os_error(libc::ENOTEMPTY)));
    }
    let target = CString::new(pin.as_os_str().as_bytes()).map_err(|error| failed("mount", &error.into()))?;
    // SAFETY: every string ends in 0 and lives through the call; no data.
    let done = unsafe { libc::mount(c"bpf".as_ptr(), target.as_ptr(), c"bpf".as_ptr(), 0, ptr::null()) };
    if done != 0 {
        return Err(failed("mount a bpffs on", &io::Error::last_os_error()));
    }
    Ok(())
}

/// Every pinned object, sorted by name. None if there is no such directory, or it's on no bpffs.
pub fn pinned(pin: &Path) -> Vec<PathBuf> {
    if !is_bpffs(pin) {
        return Vec::new();
    }
    let Ok(entries) = fs::read_dir(pin) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// Remove what is empty by now: the mount if `prepare` made it, and the directory.
///
/// # Errors
/// It can't be removed (somebody else's files are in it).
pub fn discard(pin: &Path) -> io::Result<()> {
    if is_bpffs(pin) && is_mount(pin) {
        let target = CString::new(pin.as_os_str().as_bytes()).map_err(io::Error::from)?;
        // SAFETY: the string ends in 0 and lives through the call.
        if unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    match fs::remove_dir(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Is it the root of a mount, that is, on another device than its parent?
fn is_mount(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Some(parent) = path.parent() else { return true };
    match (fs::metadata(path), fs::metadata(parent)) {
        (Ok(own), Ok(parent)) => own.dev() != parent.dev(),
        _ => false,
    }
}
