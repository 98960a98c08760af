//! The user-space engine: every system call of it. What a packet is and where it goes is `flannel_engine`'s business.
#![warn(missing_docs, clippy::undocumented_unsafe_blocks)]

mod egress;
mod engine;
mod ingress;
mod io;
mod queue;
mod raw;
mod send;
mod tun;
mod udp;
mod worker;

pub use engine::{Engine, Features, Options};
pub use io::errno;
