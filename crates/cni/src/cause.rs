//! Why there is no subnet.env: the daemon of this node knows, and tells it on its socket beside that file, or has left it
//! in a file when it gave up.

use crate::error::Error;
use serde_json::Value;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_millis(200);
const MOST: u64 = 1 << 20;
const LOG: &str = "look at its log (`kubectl -n kube-flannel logs ds/kube-flannel-ds`, `journalctl -u flanneld`)";

/// What came of asking the daemon.
#[derive(Debug, PartialEq)]
enum Answer {
    Status(Value),
    Nobody,
    Silence,
}

/// The error for a `subnet_file` that isn't there, with the cause as far as it can be known.
pub fn of_missing(subnet_file: &Path, code: u64) -> Error {
    let cause = match ask(&subnet_file.with_extension("sock")) {
        Answer::Status(status) => from(&status),
        Answer::Silence => format!("flanneld doesn't answer within {} ms, it hangs: {LOG}", PATIENCE.as_millis()),
        Answer::Nobody => match std::fs::read_to_string(subnet_file.with_extension("error")) {
            Ok(text) => format!("flanneld ended: {}", text.trim()),
            Err(_) => format!("flanneld isn't running on this node, or is just starting: {LOG}"),
        },
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

/// In a thread, which ends with the process: connect() has no time-out, and waits where a hung daemon's queue is full.
fn ask(socket: &Path) -> Answer {
    let (tell, told) = mpsc::channel();
    let socket = socket.to_owned();
    let asking = thread::Builder::new().spawn(move || tell.send(read(&socket)));
    match asking.ok().and_then(|_| told.recv_timeout(PATIENCE).ok()) {
        Some(answer) => answer,
        None => Answer::Silence,
    }
}

fn read(socket: &Path) -> Answer {
    let Ok(stream) = UnixStream::connect(socket) else { return Answer::Nobody };
    let mut text = Vec::new();
    match stream.take(MOST).read_to_end(&mut text) {
        Ok(_) => serde_json::from_slice(&text).map_or(Answer::Silence, Answer::Status),
        Err(_) => Answer::Silence,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::net::UnixListener;
    use std::time::Instant;

    #[test]
    fn sentences() {
        let found = from(&json!({"problems": ["node n1 has no spec.podCIDR yet", "b"]}));
        assert_eq!(found, "flanneld: node n1 has no spec.podCIDR yet; b");
        assert!(from(&json!({"problems": []})).contains("--subnet-file"));
        assert!(from(&json!(5)).contains("--subnet-file"));
        assert!(of_missing(Path::new("/nowhere/subnet.env"), 11).msg.contains("isn't running"));
    }

    #[test]
    fn last_words() {
        let folder = std::env::temp_dir().join(format!("flannel-cni-{}-words", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("subnet.error"), "no interface has 10.1.2.3\n").unwrap();
        let error = of_missing(&folder.join("subnet.env"), 11);
        assert_eq!(error.msg, "the network isn't ready on this node: flanneld ended: no interface has 10.1.2.3");
        std::fs::remove_dir_all(folder).unwrap();
    }

    /// Its queue fills up, as everybody who gave up still stands in it: from then on connect() waits.
    #[test]
    fn a_hung_daemon() {
        let path = std::env::temp_dir().join(format!("flannel-cni-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let _listener = UnixListener::bind(&path).unwrap();
        let full = (0..5000).find(|_| {
            let path = path.clone();
            let (tell, told) = mpsc::channel();
            thread::spawn(move || tell.send(UnixStream::connect(path).map(std::mem::forget)));
            told.recv_timeout(Duration::from_millis(500)).is_err()
        });
        assert!(full.is_some(), "the queue never fills up");
        let began = Instant::now();
        assert_eq!(ask(&path), Answer::Silence);
        assert!(began.elapsed() >= PATIENCE);
        std::fs::remove_file(path).unwrap();
    }
}
