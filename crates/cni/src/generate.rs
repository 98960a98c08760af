//! The delegate's config, from ours and subnet.env. Pure (control-plane reference, 7.3; flannel's own README).

use crate::call::{Config, wrong};
use crate::error::{CONFIG, Error, Result};
use crate::subnet_env::{Net, SubnetEnv};
use serde_json::{Map, Value, json};

const ROUTE_KEYS: [&str; 7] = ["dst", "gw", "mtu", "advmss", "priority", "table", "scope"];

/// What the delegate gets. Raises an error on keys that are flannel's to set.
pub fn delegate(config: &Config, env: &SubnetEnv) -> Result<Map<String, Value>> {
    let mut found = config.delegate.clone();
    for taken in ["name", "ipam"] {
        if found.contains_key(taken) {
            let out = if taken == "name" { "leave it out" } else { "put it beside `delegate`" };
            return Err(Error::new(CONFIG, format!("delegate.{taken} is set, but flannel sets it: {out}")));
        }
    }
    if let Some(kind) = found.get("type").filter(|kind| !kind.is_string()) {
        return Err(wrong("delegate.type", kind, "a plugin's name", CONFIG));
    }
    if let Some(runtime) = &config.runtime_config {
        found.insert("runtimeConfig".into(), runtime.clone());
    }
    found.insert("name".into(), config.name.clone().into());
    found.entry("type").or_insert_with(|| "bridge".into());
    found.entry("ipMasq").or_insert_with(|| (!env.ip_masq).into());
    found.entry("mtu").or_insert_with(|| env.mtu.into());
    if found["type"] == "bridge" {
        found.entry("isGateway").or_insert_with(|| true.into());
    }
    if !config.version.is_empty() {
        found.insert("cniVersion".into(), config.version.clone().into());
    }
    found.insert("ipam".into(), ipam(config, env)?.into());
    Ok(found)
}

fn ipam(config: &Config, env: &SubnetEnv) -> Result<Map<String, Value>> {
    let mut found = config.ipam.clone();
    found.entry("type").or_insert_with(|| "host-local".into());
    let ranges: Vec<Value> =
        [env.subnet, env.subnet6].iter().flatten().map(|net| json!([{"subnet": net.to_string()}])).collect();
    found.insert("ranges".into(), ranges.into());
    let mut routes = routes(&config.ipam)?;
    routes.extend(env.networks.iter().chain(&env.networks6).map(|net| json!({"dst": net.to_string()})));
    found.insert("routes".into(), routes.into());
    Ok(found)
}

fn routes(ipam: &Map<String, Value>) -> Result<Vec<Value>> {
    let Some(value) = ipam.get("routes").filter(|value| !value.is_null()) else { return Ok(Vec::new()) };
    let expected = "a list of routes such as {\"dst\": \"10.0.0.0/8\"}";
    let list = value.as_array().ok_or_else(|| wrong("ipam.routes", value, expected, CONFIG))?;
    let mut found = Vec::new();
    for (at, each) in list.iter().enumerate() {
        let route = each.as_object().ok_or_else(|| wrong("ipam.routes", value, expected, CONFIG))?;
        let dst = route.get("dst").unwrap_or(&Value::Null);
        if dst.as_str().and_then(Net::parse).is_none() {
            return Err(wrong(&format!("ipam.routes[{at}].dst"), dst, "a network such as 10.0.0.0/8", CONFIG));
        }
        let kept = route.iter().filter(|(key, _)| ROUTE_KEYS.contains(&key.as_str()));
        found.push(Value::Object(kept.map(|(key, value)| (key.clone(), value.clone())).collect()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Command;
    use std::path::Path;

    const ENV: &str =
        "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

    fn generated(config: &str, env: &str) -> Result<Value> {
        let config = Config::parse(config.as_bytes(), Command::Add).unwrap();
        delegate(&config, &SubnetEnv::parse(env, Path::new("f")).unwrap()).map(Value::Object)
    }

    #[test]
    fn the_manifests() {
        let config = r#"{"cniVersion":"0.3.1","name":"cbr0","type":"flannel",
                         "delegate":{"hairpinMode":true,"isDefaultGateway":true}}"#;
        let expected = json!({
            "cniVersion": "0.3.1", "hairpinMode": true, "ipMasq": false, "isDefaultGateway": true, "isGateway": true,
            "mtu": 1450, "name": "cbr0", "type": "bridge",
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.5.72.0/24"}]], "routes": [{"dst": "10.5.0.0/16"}]},
        });
        assert_eq!(generated(config, ENV).unwrap(), expected);
    }

    #[test]
    fn dual_stack_and_what_was_given() {
        let env = ENV.to_owned() + "FLANNEL_IPV6_NETWORK=fd00::/48\nFLANNEL_IPV6_SUBNET=fd00:0:0:1::1/64\n";
        let config = r#"{"name":"a","runtimeConfig":{"portMappings":[]},
            "ipam":{"type":"mine","dataDir":"/d","ranges":1,"routes":[{"dst":"0.0.0.0/0","gw":"10.5.72.1","x":1}]},
            "delegate":{"type":"macvlan","mtu":9000,"ipMasq":true}}"#;
        let found = generated(config, &env).unwrap();
        assert_eq!(found["ipam"]["ranges"], json!([[{"subnet": "10.5.72.0/24"}], [{"subnet": "fd00:0:0:1::/64"}]]));
        let routes = json!([{"dst": "0.0.0.0/0", "gw": "10.5.72.1"}, {"dst": "10.5.0.0/16"}, {"dst": "fd00::/48"}]);
        assert_eq!(found["ipam"]["routes"], routes);
        assert_eq!((&found["ipam"]["type"], &found["ipam"]["dataDir"]), (&json!("mine"), &json!("/d")));
        assert_eq!(
            (&found["mtu"], &found["ipMasq"], &found["runtimeConfig"]),
            (&json!(9000), &json!(true), &json!({"portMappings": []}))
        );
        assert!(found.get("isGateway").is_none() && found.get("cniVersion").is_none());
    }

    #[test]
    fn refused() {
        for (part, word) in [
            (r#""delegate":{"name":"x"}"#, "delegate.name"),
            (r#""delegate":{"ipam":{}}"#, "delegate.ipam"),
            (r#""delegate":{"type":1}"#, "delegate.type is 1"),
            (r#""ipam":{"routes":5}"#, "ipam.routes is 5"),
            (r#""ipam":{"routes":[{"dst":"here"}]}"#, "ipam.routes[0].dst is \"here\""),
        ] {
            let error = generated(&format!(r#"{{"name":"a",{part}}}"#), ENV).unwrap_err();
            assert!(error.msg.contains(word), "{}", error.msg);
        }
    }
}
