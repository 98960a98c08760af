//! flannel's `udp` data plane without input or output.
//!
//! The wire format is one inner IP packet as the payload of one UDP datagram. Everything here is a function of bytes
//! and tables: what a packet is ([`packet`]), who it goes to and who may send it ([`peers`]), how a super-packet of the
//! kernel is cut into packets ([`segment`]) and packets are put together into one ([`coalesce`]), which of them travel together ([`trains`]), and what is
//! answered when a packet can't go on ([`icmp`]).
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod checksum;
pub mod coalesce;
pub mod counters;
pub mod icmp;
pub mod packet;
pub mod peers;
pub mod prefix;
pub mod segment;
pub mod trains;
pub mod vnet;
