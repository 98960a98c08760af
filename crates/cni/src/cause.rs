//! Why there is no subnet.env: the daemon of this node knows, and tells it on its socket beside that file.

use crate::error::Error;
use serde_json::Value;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_millis(200);
const MOST: usize = 1 << 20;

/// The error for a `subnet_file` that isn't there, with the cause as far as it can be known.
pub fn of_missing(subnet_file: &Path, code: u64) -> Error {
    let cause = match ask(&subnet_file.with_extension("sock")) {
        Some(status) => from(&status),
        None => "flanneld isn't running on this node, or is just starting: look at its log \
                 (`kubectl -n kube-flannel logs ds/kube-flannel-ds`, `journalctl -u flanneld`)"
            .into(),
    };
    Error::new(code, format!("the network isn't ready on this node: {cause}"))
        .with_details(format!("{} doesn't exist yet", subnet_file.display()))
}

/// One sentence from the daemon's status.
fn from(status: &Value) -> String {
    let problems: Vec<&str> =
        status["problems"].as_array().map(|list| list.iter().filter_map(Value::as_str).collect()).unwrap_or_default();
    if problems.is_empty() {
        "flanneld runs, but has written no subnet.env there: is its --subnet-file the plugin's subnetFile?".into()
    } else {
        format!("flanneld: {}", problems.join("; "))
    }
}

fn ask(socket: &Path) -> Option<Value> {
    let ends = Instant::now() + PATIENCE;
    let mut stream = UnixStream::connect(socket).ok()?;
    let mut text = Vec::new();
    let mut part = [0; 16384];
    loop {
        let left = ends.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        stream.set_read_timeout(Some(left)).ok()?;
        match stream.read(&mut part).ok()? {
            0 => return serde_json::from_slice(&text).ok(),
            count => text.extend_from_slice(&part[..count]),
        }
        if text.len() > MOST {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sentences() {
        let found = from(&json!({"problems": ["node n1 has no spec.podCIDR yet", "b"]}));
        assert_eq!(found, "flanneld: node n1 has no spec.podCIDR yet; b");
        assert!(from(&json!({"problems": []})).contains("--subnet-file"));
        assert!(from(&json!(5)).contains("--subnet-file"));
        assert!(of_missing(Path::new("/nowhere/subnet.env"), 11).msg.contains("isn't running"));
    }
}
