//! A bridge left over from another subnet: the delegate refuses it, with words that help nobody. Found before it runs.

use crate::error::{Error, OTHER, Result};
use crate::subnet_env::{Net, SubnetEnv};
use serde_json::{Map, Value};
use std::ffi::CStr;
use std::net::{IpAddr, Ipv4Addr};

const DEFAULT: &str = "cni0"; // the bridge plugin's

/// Refuse a leftover bridge, or, if `mend`, let the delegate put it right (its `forceAddress`).
pub fn settle(config: &mut Map<String, Value>, env: &SubnetEnv, mend: bool) -> Result<()> {
    let yes = |key: &str| config.get(key) == Some(&Value::Bool(true));
    if config.get("type") != Some(&"bridge".into())
        || yes("forceAddress")
        || !(yes("isGateway") || yes("isDefaultGateway"))
    {
        return Ok(());
    }
    let name =
        config.get("bridge").and_then(Value::as_str).filter(|name| !name.is_empty()).unwrap_or(DEFAULT).to_owned();
    let Some(subnet) = env.subnet else { return Ok(()) }; // IPv6: a bridge may have several addresses
    let Some(found) = leftover(&addresses(&name), subnet) else { return Ok(()) };
    if mend {
        config.insert("forceAddress".into(), true.into());
        return Ok(());
    }
    let wanted = format!("{}/{}", subnet.gateway(), subnet.len);
    Err(Error::new(
        OTHER,
        format!(
            "the bridge {name} has the address {found}, but this node's subnet is {subnet}: it is left over from \
             another lease or another network"
        ),
    )
    .with_details(format!(
        "if no pod of {found} is needed any more, `ip link delete {name}` (the next pod makes it anew), or set \
         \"mendBridge\": true beside \"type\": \"flannel\" in the CNI config to have {wanted} put in its place; pods \
         started before keep their old addresses and have to be started again"
    )))
}

/// The address in the way, if there is one: an IPv4 address before the gateway's, where `bridge` looks no further.
fn leftover(addresses: &[(IpAddr, u8)], subnet: Net) -> Option<String> {
    let first = addresses.iter().find(|(ip, _)| ip.is_ipv4())?;
    (*first != (subnet.gateway(), subnet.len)).then(|| format!("{}/{}", first.0, first.1))
}

/// The IPv4 addresses of device `name`, with their prefix lengths.
fn addresses(name: &str) -> Vec<(IpAddr, u8)> {
    let mut found = Vec::new();
    let mut first: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: getifaddrs makes a list that stays valid until freeifaddrs; each pointer of it is checked for null, and
    // an AF_INET address is a sockaddr_in.
    unsafe {
        if libc::getifaddrs(&raw mut first) != 0 {
            return found;
        }
        let mut at = first;
        while let Some(entry) = at.as_ref() {
            at = entry.ifa_next;
            let Some(address) = entry.ifa_addr.as_ref() else { continue };
            if i32::from(address.sa_family) != libc::AF_INET
                || CStr::from_ptr(entry.ifa_name).to_bytes() != name.as_bytes()
            {
                continue;
            }
            let ip = (*entry.ifa_addr.cast::<libc::sockaddr_in>()).sin_addr.s_addr;
            let mask =
                entry.ifa_netmask.cast::<libc::sockaddr_in>().as_ref().map_or(u32::MAX, |mask| mask.sin_addr.s_addr);
            found.push((Ipv4Addr::from(ip.to_ne_bytes()).into(), mask.count_ones() as u8));
        }
        libc::freeifaddrs(first);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_read() {
        assert_eq!(addresses("lo"), [(IpAddr::from([127, 0, 0, 1]), 8)]);
        assert!(addresses("not-there").is_empty());
    }

    #[test]
    fn leftovers() {
        let subnet = Net::parse("10.5.72.0/24").unwrap();
        let at = |text: &str, len| (text.parse().unwrap(), len);
        assert_eq!(leftover(&[], subnet), None);
        assert_eq!(leftover(&[at("10.5.72.1", 24)], subnet), None);
        assert_eq!(leftover(&[at("10.5.72.1", 24), at("10.9.9.1", 24)], subnet), None);
        assert_eq!(leftover(&[at("10.9.9.1", 24), at("10.5.72.1", 24)], subnet), Some("10.9.9.1/24".into()));
        assert_eq!(leftover(&[at("10.9.9.1", 24)], subnet), Some("10.9.9.1/24".into()));
        assert_eq!(leftover(&[at("10.5.72.1", 16)], subnet), Some("10.5.72.1/16".into()));
    }
}
