//! What the runtime asks: CNI_* variables and the config on stdin, checked before anything is done.

use crate::error::{CONFIG, DECODING, ENVIRONMENT, Error, Result, VERSION};
use serde_json::{Map, Value};
use std::path::PathBuf;

pub const SUPPORTED: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
const SUBNET_FILE: &str = "/run/flannel/subnet.env";
const DATA_DIR: &str = "/var/lib/cni/flannel";
pub const VALID: &str = "cni.dev/valid-attachments";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Add,
    Del,
    Check,
    Status,
    Gc,
    Version,
}

/// The CNI_* variables. What a command doesn't need may be empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Call {
    pub container: String,
    pub netns: String,
    pub ifname: String,
    pub path: String,
}

impl Call {
    /// Read what `command` needs from `get`, a look-up of environment variables.
    pub fn read(command: Command, get: impl Fn(&str) -> String) -> Result<Call> {
        let needed: &[&str] = match command {
            Command::Add | Command::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
            Command::Del => &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"],
            Command::Status | Command::Gc => &["CNI_PATH"],
            Command::Version => &[],
        };
        let missing: Vec<&str> = needed.iter().copied().filter(|name| get(name).is_empty()).collect();
        if !missing.is_empty() {
            return Err(Error::new(ENVIRONMENT, format!("required env variables [{}] missing", missing.join(","))));
        }
        let call = Call {
            container: get("CNI_CONTAINERID"),
            netns: get("CNI_NETNS"),
            ifname: get("CNI_IFNAME"),
            path: get("CNI_PATH"),
        };
        if needed.contains(&"CNI_CONTAINERID") && !is_word(&call.container) {
            let expected = "letters, digits, '_', '.' and '-', the first a letter or digit";
            let msg = format!("CNI_CONTAINERID is {:?}, expected {expected}", call.container);
            return Err(Error::new(ENVIRONMENT, msg));
        }
        if needed.contains(&"CNI_IFNAME") && !is_interface(&call.ifname) {
            let expected = "1 to 15 bytes without '/', ':' or white space";
            return Err(Error::new(ENVIRONMENT, format!("CNI_IFNAME is {:?}, expected {expected}", call.ifname)));
        }
        Ok(call)
    }
}

pub fn command(text: &str) -> Result<Command> {
    Ok(match text {
        "ADD" => Command::Add,
        "DEL" => Command::Del,
        "CHECK" => Command::Check,
        "STATUS" => Command::Status,
        "GC" => Command::Gc,
        "VERSION" => Command::Version,
        _ => {
            let expected = "ADD, DEL, CHECK, STATUS, GC or VERSION";
            return Err(Error::new(ENVIRONMENT, format!("CNI_COMMAND is {text:?}, expected {expected}")));
        }
    })
}

/// The network config. `delegate` and `ipam` are what the generated config starts from.
#[derive(Debug, Clone)]
pub struct Config {
    pub version: String,
    pub name: String,
    pub subnet_file: PathBuf,
    pub data_dir: PathBuf,
    pub delegate: Map<String, Value>,
    pub ipam: Map<String, Value>,
    pub runtime_config: Option<Value>,
    pub mend_bridge: bool,
    /// GC's list, as it was given.
    pub valid: Value,
}

impl Config {
    pub fn parse(text: &[u8], command: Command) -> Result<Config> {
        let value: Value = serde_json::from_slice(text)
            .map_err(|why| Error::new(DECODING, format!("the network config on stdin is no JSON: {why}")))?;
        let Value::Object(fields) = value else {
            return Err(Error::new(DECODING, "the network config on stdin is no JSON object"));
        };
        let version = text_of(&fields, "cniVersion", DECODING)?;
        let named = if version.is_empty() { "0.1.0" } else { &version };
        let Some(age) = SUPPORTED.iter().position(|each| *each == named) else {
            let msg = format!("cniVersion is {named:?}, expected one of {}", SUPPORTED.join(", "));
            return Err(Error::new(VERSION, msg));
        };
        let (first, what) = match command {
            Command::Check => (4, "CHECK"),
            Command::Status => (6, "STATUS"),
            Command::Gc => (6, "GC"),
            _ => (0, ""),
        };
        if age < first {
            let msg = format!("cniVersion is {named:?}, expected {} or later for {what}", SUPPORTED[first]);
            return Err(Error::new(VERSION, msg));
        }
        let name = text_of(&fields, "name", CONFIG)?;
        if !is_word(&name) {
            let expected = "letters, digits, '_', '.' and '-', the first a letter or digit";
            return Err(Error::new(CONFIG, format!("name is {name:?}, expected {expected}")));
        }
        let path = |key: &str, default: &str| -> Result<PathBuf> {
            let found = text_of(&fields, key, CONFIG)?;
            match found.as_str() {
                "" => Ok(PathBuf::from(default)),
                text if text.starts_with('/') => Ok(PathBuf::from(text)),
                _ => Err(wrong(key, &found.into(), "a path from the root", CONFIG)),
            }
        };
        Ok(Config {
            subnet_file: path("subnetFile", SUBNET_FILE)?,
            data_dir: path("dataDir", DATA_DIR)?,
            delegate: object_of(&fields, "delegate")?,
            ipam: object_of(&fields, "ipam")?,
            runtime_config: field(&fields, "runtimeConfig").filter(|value| !value.is_null()).cloned(),
            mend_bridge: match field(&fields, "mendBridge") {
                None | Some(Value::Null) => false,
                Some(Value::Bool(found)) => *found,
                Some(other) => return Err(wrong("mendBridge", other, "true or false", CONFIG)),
            },
            valid: match (command, field(&fields, VALID)) {
                (Command::Gc, None) => {
                    let msg = format!("{VALID} is missing: GC takes down all that isn't in that list");
                    return Err(Error::new(CONFIG, msg));
                }
                (_, found) => found.cloned().unwrap_or_default(),
            },
            version,
            name,
        })
    }

    /// The attachments that GC is to leave: container and interface. null is Go's empty list.
    pub fn valid_attachments(&self) -> Result<Vec<(String, String)>> {
        let pair = |each: &Value| {
            let word = |name: &str| each.get(name).and_then(Value::as_str).map(String::from);
            Some((word("containerID")?, word("ifname")?))
        };
        let found = match &self.valid {
            Value::Null => Some(Vec::new()),
            Value::Array(list) => list.iter().map(pair).collect(),
            _ => None,
        };
        found.ok_or_else(|| wrong(VALID, &self.valid, "a list of objects with containerID and ifname", CONFIG))
    }
}

/// The value of `key`, in whichever case it is written: Go's JSON, and so flannel's plugin, takes any.
fn field<'a>(fields: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    fields.get(key).or_else(|| fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value))
}

fn text_of(fields: &Map<String, Value>, key: &str, code: u64) -> Result<String> {
    match field(fields, key) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(wrong(key, other, "a string", code)),
    }
}

fn object_of(fields: &Map<String, Value>, key: &str) -> Result<Map<String, Value>> {
    match field(fields, key) {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(found)) => Ok(found.clone()),
        Some(other) => Err(wrong(key, other, "an object", CONFIG)),
    }
}

/// An error about field `key`, whose value is shown, shortened.
pub fn wrong(key: &str, value: &Value, expected: &str, code: u64) -> Error {
    let mut shown = value.to_string();
    if shown.len() > 80 {
        let end = (0..=80).rev().find(|end| shown.is_char_boundary(*end)).unwrap_or(0);
        shown.truncate(end);
        shown.push('…');
    }
    Error::new(code, format!("{key} is {shown}, expected {expected}"))
}

/// CNI's pattern for container ids and network names.
pub fn is_word(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|each| each.is_ascii_alphanumeric() || b"_.-".contains(&each))
}

pub fn is_interface(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && !text.chars().any(|each| each == '/' || each == ':' || each.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(command: Command, pairs: &[(&str, &str)]) -> Result<Call> {
        Call::read(command, |name| pairs.iter().find(|pair| pair.0 == name).map_or(String::new(), |pair| pair.1.into()))
    }

    #[test]
    fn variables() {
        let all = [("CNI_CONTAINERID", "a"), ("CNI_NETNS", "/n"), ("CNI_IFNAME", "eth0"), ("CNI_PATH", "/p")];
        assert!(call(Command::Add, &all).is_ok());
        assert!(call(Command::Del, &[all[0], all[2], all[3]]).is_ok());
        let error = call(Command::Add, &all[..1]).unwrap_err();
        assert_eq!((error.code, &*error.msg), (4, "required env variables [CNI_NETNS,CNI_IFNAME,CNI_PATH] missing"));
        for (name, value) in [("CNI_CONTAINERID", "../x"), ("CNI_CONTAINERID", "-a"), ("CNI_IFNAME", "a b")] {
            let mut changed: Vec<(&str, &str)> = all.iter().copied().filter(|pair| pair.0 != name).collect();
            changed.push((name, value));
            let error = call(Command::Add, &changed).unwrap_err();
            assert!(error.code == 4 && error.msg.contains(value), "{error:?}");
        }
    }

    #[test]
    fn interfaces() {
        assert!(is_interface("eth0") && is_interface("abcdefghijklmno"));
        for text in ["", "abcdefghijklmnop", ".", "..", "a/b", "a:1", "a b", "a\tb"] {
            assert!(!is_interface(text), "{text:?}");
        }
    }

    #[test]
    fn configs() {
        let parse = |text: &str, command| Config::parse(text.as_bytes(), command);
        let config = parse(r#"{"name":"cbr0","type":"flannel"}"#, Command::Add).unwrap();
        assert_eq!(config.subnet_file, PathBuf::from(SUBNET_FILE));
        let config =
            parse(r#"{"NAME":"a","SubnetFile":"/f","datadir":"/d","Delegate":{"mtu":1}}"#, Command::Add).unwrap();
        assert_eq!((config.name.as_str(), config.subnet_file, config.data_dir), ("a", "/f".into(), "/d".into()));
        assert_eq!(config.delegate["mtu"], 1);
        for (text, command, code, word) in [
            ("{", Command::Add, 6, "no JSON"),
            ("[]", Command::Add, 6, "no JSON object"),
            (r#"{"cniVersion":1,"name":"a"}"#, Command::Add, 6, "cniVersion is 1"),
            (r#"{"cniVersion":"9.0.0","name":"a"}"#, Command::Add, 1, "9.0.0"),
            (r#"{"cniVersion":"0.3.1","name":"a"}"#, Command::Check, 1, "0.4.0 or later for CHECK"),
            (r#"{"cniVersion":"1.0.0","name":"a"}"#, Command::Gc, 1, "1.1.0 or later for GC"),
            (r#"{"cniVersion":"1.1.0","name":"a"}"#, Command::Gc, 7, "cni.dev/valid-attachments is missing"),
            (r#"{}"#, Command::Del, 7, "name"),
            (r#"{"name":"a/b"}"#, Command::Del, 7, "a/b"),
            (r#"{"name":"a","delegate":[]}"#, Command::Add, 7, "delegate is []"),
            (r#"{"name":"a","dataDir":5}"#, Command::Add, 7, "dataDir is 5"),
            (r#"{"name":"a","subnetFile":"run/x"}"#, Command::Add, 7, "from the root"),
            (r#"{"name":"a","mendBridge":"yes"}"#, Command::Add, 7, "mendBridge"),
        ] {
            let error = parse(text, command).unwrap_err();
            assert!(error.code == code && error.msg.contains(word), "{text}: {error:?}");
        }
    }
}
