//! subnet.env, as flannel's plugin reads it: exact names, split at the first '=' (control-plane reference, 7.2).

use crate::error::{Error, OTHER, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// A network with its host bits cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Net {
    pub base: IpAddr,
    pub len: u8,
}

impl Net {
    pub fn parse(text: &str) -> Option<Net> {
        let (address, len) = text.split_once('/')?;
        let base: IpAddr = address.parse().ok()?;
        let len = Some(len).filter(|len| len.bytes().all(|each| each.is_ascii_digit()))?.parse().ok()?;
        Some(match base {
            IpAddr::V4(ip) if len <= 32 => Net {
                base: Ipv4Addr::from_bits(ip.to_bits() & u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)).into(),
                len,
            },
            IpAddr::V6(ip) if len <= 128 => Net {
                base: Ipv6Addr::from_bits(ip.to_bits() & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0))
                    .into(),
                len,
            },
            _ => return None,
        })
    }

    /// The subnet's first address: the bridge's.
    pub fn gateway(&self) -> IpAddr {
        match self.base {
            IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits().wrapping_add(1)).into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits().wrapping_add(1)).into(),
        }
    }
}

impl std::fmt::Display for Net {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}/{}", self.base, self.len)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct SubnetEnv {
    pub networks: Vec<Net>,
    pub networks6: Vec<Net>,
    pub subnet: Option<Net>,
    pub subnet6: Option<Net>,
    pub mtu: u32,
    pub ip_masq: bool,
}

impl SubnetEnv {
    pub fn parse(text: &str, path: &Path) -> Result<SubnetEnv> {
        let file = path.display();
        let (mut networks, mut networks6, mut subnet, mut subnet6) = (Vec::new(), Vec::new(), None, None);
        let (mut mtu, mut ip_masq) = (None, None);
        for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
            let wrong = |expected: &str| Error::new(OTHER, format!("{file}: {name} is {value:?}, expected {expected}"));
            let net = |text: &str, v4: bool| {
                let found = Net::parse(text).filter(|net| net.base.is_ipv4() == v4);
                found.ok_or_else(|| wrong(if v4 { "an IPv4 network such as 10.5.0.0/16" } else { "an IPv6 network" }))
            };
            match name {
                "FLANNEL_NETWORK" | "FLANNEL_IPV6_NETWORK" => {
                    let v4 = name == "FLANNEL_NETWORK";
                    let list = if v4 { &mut networks } else { &mut networks6 };
                    for each in value.split(',') {
                        let found = net(each, v4)?;
                        if !list.contains(&found) {
                            list.push(found);
                        }
                    }
                }
                "FLANNEL_SUBNET" => subnet = Some(net(value, true)?),
                "FLANNEL_IPV6_SUBNET" => subnet6 = Some(net(value, false)?),
                "FLANNEL_MTU" => mtu = Some(value.parse::<u32>().map_err(|_| wrong("an MTU in bytes"))?),
                "FLANNEL_IPMASQ" => ip_masq = Some(value == "true"),
                _ => {}
            }
        }
        let mut missing = Vec::new();
        if networks.is_empty() && networks6.is_empty() {
            missing.extend(["FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK"]);
        }
        if subnet.is_none() && subnet6.is_none() {
            missing.extend(["FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"]);
        }
        missing.extend(mtu.is_none().then_some("FLANNEL_MTU"));
        missing.extend(ip_masq.is_none().then_some("FLANNEL_IPMASQ"));
        let (Some(mtu), Some(ip_masq), true) = (mtu, ip_masq, missing.is_empty()) else {
            return Err(Error::new(OTHER, format!("{file} is missing {}", missing.join(", "))));
        };
        Ok(SubnetEnv { networks, networks6, subnet, subnet6, mtu, ip_masq })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<SubnetEnv> {
        SubnetEnv::parse(text, Path::new("f"))
    }

    #[test]
    fn whole() {
        let text = "FLANNEL_NETWORK=10.5.0.0/16,10.6.0.0/16,10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\n\
                    FLANNEL_IPV6_NETWORK=fd00::/48\nFLANNEL_IPV6_SUBNET=fd00:0:0:1::1/64\nFLANNEL_MTU=1450\n\
                    FLANNEL_IPMASQ=true\nX=1\nnonsense\n";
        let found = parse(text).unwrap();
        assert_eq!(found.networks.len(), 2);
        assert_eq!(found.subnet.unwrap().to_string(), "10.5.72.0/24");
        assert_eq!(found.subnet.unwrap().gateway().to_string(), "10.5.72.1");
        assert_eq!(found.subnet6.unwrap().to_string(), "fd00:0:0:1::/64");
        assert!(found.ip_masq && found.mtu == 1450);
    }

    #[test]
    fn missing() {
        let all = "f is missing FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK, FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ";
        assert_eq!(parse("").unwrap_err().msg, all);
        assert_eq!(parse("FLANNEL_NETWORK\n FLANNEL_MTU=5\n").unwrap_err().msg, all);
    }

    #[test]
    fn wrong() {
        for line in [
            "FLANNEL_SUBNET=10.5.72.1",
            "FLANNEL_SUBNET=fd00::/64",
            "FLANNEL_NETWORK=10.5.0.0/33",
            "FLANNEL_MTU=-1",
            "FLANNEL_NETWORK=10.5.0.0/16,",
            "FLANNEL_NETWORK=10.5.0.0/+16",
            "FLANNEL_MTU=5000000000",
        ] {
            let (name, value) = line.split_once('=').unwrap();
            let error = parse(line).unwrap_err();
            assert!(error.msg.starts_with(&format!("f: {name} is {value:?}, expected")), "{}", error.msg);
        }
    }

    #[test]
    fn the_widest_networks() {
        assert_eq!(Net::parse("1.2.3.4/0").unwrap().to_string(), "0.0.0.0/0");
        assert_eq!(Net::parse("fd00::1/0").unwrap().to_string(), "::/0");
        assert_eq!(Net::parse("fd00::1/128").unwrap().to_string(), "fd00::1/128");
    }
}
