//! What ADD asked of the delegate, kept until a DEL of it has succeeded.
//!
//! An attachment on eth0 is kept under flannel's name, `<dataDir>/<container id>`, so that either plugin can take down
//! what the other set up; others under `<container id>@<interface>`, so that two attachments don't overwrite each other.

use crate::error::{Error, IO, Result};
use serde_json::{Map, Value};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const FLANNELS: &str = "eth0";

/// One attachment's file, read. Without a config if it holds none: flannel's plugin writes in place, and may be killed.
#[derive(Debug)]
pub struct Saved {
    pub container: String,
    pub ifname: String,
    pub config: Option<Map<String, Value>>,
    path: PathBuf,
    /// False if the file may be another interface's: then it isn't ours to remove.
    ours: bool,
}

pub fn save(folder: &Path, container: &str, ifname: &str, config: &Map<String, Value>) -> Result<()> {
    let path = folder.join(file_name(container, ifname));
    let new = half(&path); // one name: nobody ADDs one attachment twice at a time, and a killed ADD's is found by DEL
    let text = Value::Object(config.clone()).to_string();
    let write = || {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|why| {
        let _ = fs::remove_file(&new);
        Error::new(IO, format!("{} can't be written: {why}", path.display()))
    })
}

/// What is kept of this attachment; None if there is nothing (any more).
pub fn load(folder: &Path, container: &str, ifname: &str) -> Result<Option<Saved>> {
    let exact = folder.join(file_name(container, ifname));
    match read(&exact, container, ifname, true)? {
        None => {
            let _ = fs::remove_file(half(&exact)); // a killed ADD's, from before anything was made
            if ifname == FLANNELS { Ok(None) } else { read(&folder.join(container), container, ifname, false) }
        }
        found => Ok(found),
    }
}

/// Everything kept; what can't be read is left out.
pub fn all(folder: &Path) -> Vec<Saved> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| !name.starts_with('.'))
        .filter_map(|name| {
            let (container, ifname) = name.split_once('@').unwrap_or((&name, FLANNELS));
            read(&folder.join(&name), container, ifname, true).ok().flatten()
        })
        .collect()
}

impl Saved {
    pub fn forget(&self) -> Result<()> {
        if !self.ours {
            return Ok(());
        }
        let _ = fs::remove_file(half(&self.path));
        match fs::remove_file(&self.path) {
            Err(why) if why.kind() != ErrorKind::NotFound => {
                Err(Error::new(IO, format!("{} can't be removed: {why}", self.path.display())))
            }
            _ => Ok(()),
        }
    }
}

fn read(path: &Path, container: &str, ifname: &str, ours: bool) -> Result<Option<Saved>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(None),
        Err(why) => return Err(Error::new(IO, format!("{} can't be read: {why}", path.display()))),
    };
    let (container, ifname, config) = (container.into(), ifname.into(), parse(&text));
    Ok(Some(Saved { container, ifname, config, path: path.into(), ours }))
}

/// The config in a file's text, if it holds one.
pub fn parse(text: &[u8]) -> Option<Map<String, Value>> {
    let Ok(Value::Object(config)) = serde_json::from_slice(text) else { return None };
    config.get("type").is_some_and(Value::is_string).then_some(config)
}

/// Where a file is written before it gets its name.
fn half(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}"))
}

fn file_name(container: &str, ifname: &str) -> String {
    if ifname == FLANNELS { container.into() } else { format!("{container}@{ifname}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("flannel-cni-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    fn config(kind: &str) -> Map<String, Value> {
        json!({"type": kind}).as_object().unwrap().clone()
    }

    #[test]
    fn each_interface_its_own() {
        let folder = folder("own");
        save(&folder, "c", "eth0", &config("bridge")).unwrap();
        save(&folder, "c", "net1", &config("macvlan")).unwrap();
        assert_eq!(fs::read_to_string(folder.join("c")).unwrap(), r#"{"type":"bridge"}"#);
        assert_eq!(all(&folder).len(), 2);
        let net1 = load(&folder, "c", "net1").unwrap().unwrap();
        assert_eq!(net1.config.as_ref().unwrap()["type"], "macvlan");
        net1.forget().unwrap();
        net1.forget().unwrap();
        // What is left might be flannel's plugin's file of net1, or eth0's: it is used, and stays.
        let other = load(&folder, "c", "net1").unwrap().unwrap();
        other.forget().unwrap();
        let eth0 = load(&folder, "c", "eth0").unwrap().unwrap();
        eth0.forget().unwrap();
        assert!(load(&folder, "c", "eth0").unwrap().is_none() && all(&folder).is_empty());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn half_a_file() {
        let folder = folder("half");
        fs::create_dir_all(&folder).unwrap();
        for text in ["", "{", "{}", "[]", r#"{"type":1}"#] {
            fs::write(folder.join("c"), text).unwrap();
            assert!(load(&folder, "c", "eth0").unwrap().unwrap().config.is_none(), "{text}");
        }
        fs::write(folder.join(".c"), "{").unwrap();
        load(&folder, "c", "eth0").unwrap().unwrap().forget().unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::write(folder.join(".c"), "{").unwrap();
        assert!(load(&folder, "c", "eth0").unwrap().is_none());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::remove_dir_all(folder).unwrap();
    }
}
