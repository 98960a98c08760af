//! Can this kernel, and this process, do it? The surest answer is to try, in a network namespace of its own.

use std::thread;

use aya::programs::{LinkOrder, TcAttachType, tc::TcAttachOptions};

use crate::abi::Config;
use crate::clsact;
use crate::error::Result;
use crate::load;

/// Bits of capabilities (linux/capability.h).
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

fn capabilities() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0)
}

/// Why the kernel engine can't be had here, in plain words; none if it can.
pub fn missing() -> Option<String> {
    let have = capabilities();
    let has = |bit: u32| have & (1 << bit) != 0;
    if !has(CAP_NET_ADMIN) {
        return Some("CAP_NET_ADMIN is missing: run as root, or grant it".to_owned());
    }
    if !has(CAP_SYS_ADMIN) && !has(CAP_BPF) {
        return Some("CAP_BPF is missing: run as root, or grant it".to_owned());
    }
    if !load::kernel_is(5, 11) {
        return Some("the kernel is older than 5.11 and lacks helpers that the programs use".to_owned());
    }
    // A thread, as the namespace is a thread's; it's gone with it, and all that was attached there.
    match thread::Builder::new().name("bpf-probe".into()).spawn(attempt).map(thread::JoinHandle::join) {
        Ok(Ok(Ok(()))) => None,
        Ok(Ok(Err(error))) => Some(plain(&error)),
        Ok(Err(_)) => Some("the attempt to load the programs failed".to_owned()),
        Err(error) => Some(format!("no thread to try it in: {error}")),
    }
}

fn plain(error: &crate::Error) -> String {
    match error.errno() {
        Some(libc::ENOSYS) => format!("the kernel has no bpf() system call (CONFIG_BPF_SYSCALL): {error}"),
        Some(libc::EPERM | libc::EACCES) => {
            format!("bpf() is forbidden (a container's seccomp profile, or kernel lockdown): {error}")
        }
        Some(libc::ENOENT | libc::EOPNOTSUPP) => {
            format!("the kernel has neither tcx (6.6) nor clsact (CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_BPF): {error}")
        }
        _ => error.to_string(),
    }
}

fn attempt() -> Result<()> {
    let mut object = load::object(&Config::default(), None)?;
    for name in ["flannel_encap", "flannel_decap"] {
        load::classifier(&mut object, name)?;
    }
    // SAFETY: no pointers; only this thread changes, which ends soon.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Ok(()); // attaching can't be tried where it would do no harm
    }
    let classifier = load::classifier(&mut object, "flannel_decap")?;
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    if classifier.attach_with_options("lo", TcAttachType::Ingress, options).is_err() {
        clsact::add("lo")?;
    }
    Ok(())
}
