//! Running the delegate: its config on stdin, its result or error from stdout.

use crate::call::Call;
use crate::error::{Error, OTHER, Result, VERSION};
use serde_json::{Map, Value};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

const BUSY_TRIES: u32 = 6; // flannel's: a binary that is being replaced ("text file busy")
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// Where the plugin of that name is on CNI_PATH.
pub fn find(name: &str, path: &str) -> Result<PathBuf> {
    if name.is_empty() || name.contains('/') {
        return Err(Error::new(OTHER, format!("delegate.type is {name:?}, expected a plugin's name")));
    }
    let found = path.split(':').filter(|each| !each.is_empty()).map(|each| PathBuf::from(each).join(name));
    let mut found = found.filter(|each| each.is_file());
    found.next().ok_or_else(|| {
        Error::new(OTHER, format!("the delegate {name:?} isn't in CNI_PATH ({path}): install the CNI plugins there"))
    })
}

/// Have the delegate named by `config` do an ADD or DEL; one that ends at CNI 1.0.0 (many a distribution's) is asked again
/// in that. It refuses a version before it does anything, and a 1.0.0 result is a 1.1.0 one.
pub fn run(command: &str, call: &Call, config: &Map<String, Value>) -> Result<Vec<u8>> {
    let done = ask(command, call, config);
    if config.get("cniVersion") != Some(&"1.1.0".into()) || !done.as_ref().is_err_and(|error| error.code == VERSION) {
        return done;
    }
    let mut older = config.clone();
    older.insert("cniVersion".into(), "1.0.0".into());
    ask(command, call, &older)
}

/// Run the delegate named by `config` once. Its own error is passed through, code and message.
pub fn ask(command: &str, call: &Call, config: &Map<String, Value>) -> Result<Vec<u8>> {
    let name = config.get("type").and_then(Value::as_str).unwrap_or_default();
    let program = find(name, &call.path)?;
    let text = Value::Object(config.clone()).to_string();
    let mut tries = 0;
    let mut child = loop {
        let spawned = Command::new(&program)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &call.container)
            .env("CNI_IFNAME", &call.ifname)
            .env("CNI_NETNS", &call.netns)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        tries += 1;
        match spawned {
            Err(why) if why.kind() == ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES => {
                std::thread::sleep(BUSY_PAUSE);
            }
            Err(why) => return Err(Error::new(OTHER, format!("{} can't be run: {why}", program.display()))),
            Ok(child) => break child,
        }
    };
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(text.as_bytes()); // one that ends before it has read says why itself
    }
    let done = child.wait_with_output().map_err(|why| Error::new(OTHER, format!("{name}: {why}")))?;
    if done.status.success() {
        return Ok(done.stdout);
    }
    Err(refusal(name, &done.stdout, &String::from_utf8_lossy(&done.stderr), &done.status.to_string()))
}

fn refusal(name: &str, stdout: &[u8], stderr: &str, status: &str) -> Error {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    match serde_json::from_slice::<Value>(stdout) {
        Ok(value) if value.get("code").is_some_and(Value::is_u64) => {
            Error::new(value["code"].as_u64().unwrap_or(OTHER), text(&value, "msg"))
                .with_details(text(&value, "details"))
        }
        _ => {
            let said = if stderr.trim().is_empty() { "nothing" } else { stderr.trim() };
            Error::new(OTHER, format!("the delegate {name:?} failed ({status}), saying: {said}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals() {
        let found = refusal("bridge", br#"{"code":11,"msg":"m","details":"d"}"#, "", "exit status: 1");
        assert_eq!(found, Error::new(11, "m").with_details("d"));
        let found = refusal("bridge", b"", "no such thing\n", "exit status: 2");
        assert_eq!(
            (found.code, &*found.msg),
            (999, "the delegate \"bridge\" failed (exit status: 2), saying: no such thing")
        );
    }

    #[test]
    fn finding() {
        assert!(find("../sh", "/bin").unwrap_err().msg.contains("delegate.type"));
        assert!(find("sh", "/nowhere::/bin").is_ok());
        assert!(find("not-there", "/bin").unwrap_err().msg.contains("CNI_PATH (/bin)"));
    }
}
