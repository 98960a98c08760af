//! What a kernel engine is to do, and the constants it gives to its programs.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use flannel_engine::prefix::Prefix;

use crate::abi::{Config, FRESH_NS, In4, In6, MOST};
use crate::error::{Error, Result};

/// Whether to decapsulate in XDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Xdp {
    /// Where it is faster by our measurements: native drivers, but no veth.
    #[default]
    Auto,
    /// On every underlay device; an error if its driver can't.
    Always,
    /// On none.
    Never,
}

impl FromStr for Xdp {
    type Err = Error;

    fn from_str(text: &str) -> Result<Xdp> {
        match text {
            "auto" => Ok(Xdp::Auto),
            "always" => Ok(Xdp::Always),
            "never" => Ok(Xdp::Never),
            _ => Err(Error::invalid(format!("xdp {text:?}: expected \"auto\", \"always\" or \"never\""))),
        }
    }
}

/// How programs are put at tc hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hook {
    /// tcx where the kernel has it (6.6), else clsact.
    #[default]
    Auto,
    /// A link per hook (`tcx`): ordered beside others, replaced atomically.
    Tcx,
    /// A filter of the device's clsact qdisc.
    Clsact,
}

/// What a [`KernelEngine`](crate::KernelEngine) needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// The TUN device whose packets are carried.
    pub device: String,
    /// The devices at which datagrams come in.
    pub underlays: Vec<String>,
    /// This node's addresses: datagrams are sent from the first of each family, and accepted at all.
    pub local: Vec<IpAddr>,
    /// UDP port of the wire format.
    pub port: u16,
    /// This node's subnets.
    pub own: Vec<Prefix>,
    /// Directory in which the programs' links and maps are pinned.
    pub pin: PathBuf,
    /// Whether to use XDP.
    pub xdp: Xdp,
    /// How to attach at tc.
    pub hook: Hook,
}

impl Options {
    /// The programs' constants.
    ///
    /// # Errors
    /// More addresses or subnets than the programs take.
    pub(crate) fn config(&self, tun: u32, tun_header: u32, joiner: u32, finishing: &[u32]) -> Result<Config> {
        let mut config =
            Config { tun, tun_header, joiner, fresh_ns: FRESH_NS, port: self.port.to_be_bytes(), ..Config::default() };
        for address in &self.local {
            match address {
                IpAddr::V4(ip) => {
                    let at = next(&mut config.local4s, "local IPv4 addresses")?;
                    config.local4[at] = ip.octets();
                    if at == 0 {
                        (config.has_source4, config.source4) = (1, ip.octets());
                    }
                }
                IpAddr::V6(ip) => {
                    let at = next(&mut config.local6s, "local IPv6 addresses")?;
                    config.local6[at] = ip.octets();
                    if at == 0 {
                        (config.has_source6, config.source6) = (1, ip.octets());
                    }
                }
            }
        }
        for net in &self.own {
            match net.address() {
                IpAddr::V4(ip) => {
                    let at = next(&mut config.own4s, "own IPv4 subnets")?;
                    let mask = u32::MAX.checked_shl(32 - u32::from(net.prefix_len())).unwrap_or(0);
                    config.own4[at] = In4 { address: ip.octets(), mask: mask.to_be_bytes() };
                }
                IpAddr::V6(ip) => {
                    let at = next(&mut config.own6s, "own IPv6 subnets")?;
                    let mask = u128::MAX.checked_shl(128 - u32::from(net.prefix_len())).unwrap_or(0);
                    config.own6[at] = In6 { address: ip.octets(), mask: mask.to_be_bytes() };
                }
            }
        }
        for index in finishing {
            let at = next(&mut config.finishings, "underlay devices")?;
            config.finishing[at] = *index;
        }
        Ok(config)
    }
}

fn next(count: &mut u8, what: &str) -> Result<usize> {
    let at = usize::from(*count);
    if at == MOST {
        return Err(Error::invalid(format!(
            "more than {MOST} {what}: the kernel engine takes no more, use the user engine"
        )));
    }
    *count += 1;
    Ok(at)
}
