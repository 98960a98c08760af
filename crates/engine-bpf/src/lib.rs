//! The kernel engine of flannel's udp backend: eBPF programs that encapsulate at a TUN device's egress and
//! decapsulate where datagrams come in, and the loader that attaches, pins and feeds them.
//!
//! The programs are in `bpf/`, each header saying what it does and why. What they don't take goes on unchanged:
//! to the TUN device's reader or to the UDP socket, where the user-space engine is.

mod abi;
mod attach;
mod bpffs;
mod clsact;
mod device;
mod engine;
mod error;
mod joiner;
mod link;
mod load;
mod netlink;
mod options;
mod peers;
mod probe;

pub use abi::Traffic;
pub use engine::KernelEngine;
pub use error::{Error, Result};
pub use options::{Hook, Options, Xdp};
pub use probe::missing;
