//! The clsact qdisc, for kernels without tcx.

use aya::programs::TcAttachType;
use aya::programs::tc::{SchedClassifierLink, TcError, TcHandle, qdisc_add_clsact};

use crate::attach::{HANDLE, PRIORITY};
use crate::error::{Error, Result};
use crate::netlink::Request;

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

const TC_H_CLSACT: u32 = 0xffff_fff1;
const HOOKS: [u32; 2] = [0xffff_fff2, 0xffff_fff3]; // ingress and egress of it (linux/pkt_sched.h)

/// `struct tcmsg` (linux/rtnetlink.h): family, index, handle, parent, info.
fn message(index: u32, parent: u32) -> Vec<u8> {
    [0, index, 0, parent, 0].into_iter().flat_map(u32::to_ne_bytes).collect()
}

/// Remove the qdisc of a device, unless somebody's filter is in it.
pub fn remove_if_empty(index: u32) {
    for hook in HOOKS {
        match Request::new(libc::RTM_GETTFILTER, libc::NLM_F_DUMP, &message(index, hook)).send() {
            Ok(0) => {}
            _ => return,
        }
    }
    let _gone_already = Request::new(libc::RTM_DELQDISC, libc::NLM_F_ACK, &message(index, TC_H_CLSACT)).send();
}
