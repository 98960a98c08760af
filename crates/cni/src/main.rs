//! `flannel`, the CNI plugin: makes a delegate's config out of subnet.env and runs the delegate (usually `bridge`).
//!
//! Commands and formats: CNI spec 1.1.0. Behaviour: flannel's own plugin (control-plane reference, 7); docs/guide/cni.md
//! says where this one goes further.

mod bridge;
mod call;
mod cause;
mod delegate;
mod error;
#[cfg(test)]
mod fuzz;
mod generate;
mod state;
mod subnet_env;

use call::{Call, Command, Config, SUPPORTED};
use error::{ENVIRONMENT, Error, IO, OTHER, Result, SAME_NETNS, TRY_AGAIN, UNAVAILABLE, VERSION};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;
use subnet_env::SubnetEnv;

const CONFIG_MOST: u64 = 4 << 20;

fn main() -> ExitCode {
    let word = std::env::var_os("CNI_COMMAND").unwrap_or_default();
    if word.is_empty() {
        eprintln!("CNI plugin flannel {} (pyflannel)", env!("CARGO_PKG_VERSION"));
        eprintln!("CNI protocol versions supported: {}", SUPPORTED.join(", "));
        return ExitCode::SUCCESS;
    }
    let done = answer(&word.to_string_lossy()).and_then(|text| {
        let mut out = std::io::stdout();
        out.write_all(&text).and_then(|()| out.flush()).map_err(|why| Error::new(IO, format!("stdout: {why}")))
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = std::io::stdout().write_all(&pretty(&error.json()));
            ExitCode::FAILURE
        }
    }
}

/// What goes to stdout.
fn answer(word: &str) -> Result<Vec<u8>> {
    let command = call::command(word)?;
    let call = Call::read(command, |name| std::env::var(name).unwrap_or_default())?;
    if command == Command::Version {
        let versions = json!({"cniVersion": SUPPORTED[SUPPORTED.len() - 1], "supportedVersions": SUPPORTED});
        return Ok(format!("{versions}\n").into_bytes());
    }
    let mut text = Vec::new();
    let stdin = std::io::stdin();
    stdin.take(CONFIG_MOST).read_to_end(&mut text).map_err(|why| Error::new(IO, format!("stdin: {why}")))?;
    let config = Config::parse(&text, command)?;
    match command {
        Command::Add => add(&call, &config),
        Command::Del => del(&call, &config).map(|()| Vec::new()),
        Command::Check => check(&call, &config).map(|()| Vec::new()),
        Command::Status => status(&call, &config).map(|()| Vec::new()),
        Command::Gc => gc(&call, &config).map(|()| Vec::new()),
        Command::Version => unreachable!("answered above"),
    }
}

fn add(call: &Call, config: &Config) -> Result<Vec<u8>> {
    refuse_own_netns(&call.netns)?;
    let env = subnet_env(config, TRY_AGAIN)?;
    let mut wanted = generate::delegate(config, &env)?;
    bridge::settle(&mut wanted, &env, config.mend_bridge)?;
    delegate::find(wanted["type"].as_str().unwrap_or_default(), &call.path)?;
    state::save(&config.data_dir, &call.container, &call.ifname, &wanted)?;
    let done = delegate::run("ADD", call, &wanted)?;
    let mut result: Value = serde_json::from_slice(&done)
        .map_err(|why| Error::new(OTHER, format!("the delegate's result is no JSON: {why}")))?;
    let named = result.get("cniVersion").and_then(Value::as_str).unwrap_or_default();
    if (named.is_empty() || config.version == "1.1.0") && result.is_object() && !config.version.is_empty() {
        result["cniVersion"] = config.version.clone().into();
    }
    Ok(pretty(&result))
}

/// Needs neither the daemon nor subnet.env; what isn't there any more is done.
fn del(call: &Call, config: &Config) -> Result<()> {
    let Some(saved) = state::load(&config.data_dir, &call.container, &call.ifname)? else { return Ok(()) };
    let wanted = match &saved.config {
        Some(config) => config.clone(),
        // Half a file, of flannel's plugin or a power cut: what the delegate needs of it can be made again.
        None => generate::delegate(config, &subnet_env(config, TRY_AGAIN)?)?,
    };
    let mut call = call.clone();
    if is_own_netns(&call.netns) {
        // The container's is gone, and its path (/proc/PID/ns/net) means the host's by now, whose eth0 must stay.
        call.netns.clear();
    }
    delegate::run("DEL", &call, &wanted)?;
    saved.forget()
}

/// The delegate isn't asked: `bridge` finds fault with its own routes when they carry no gateway, as flannel's do.
fn check(call: &Call, config: &Config) -> Result<()> {
    match state::load(&config.data_dir, &call.container, &call.ifname)? {
        Some(_) => Ok(()),
        None => {
            let msg = format!("container {} has no {} of this network: start it again", call.container, call.ifname);
            Err(Error::new(OTHER, msg))
        }
    }
}

/// Could an ADD succeed? The spec's code 50 says no. The delegate is asked, too.
fn status(call: &Call, config: &Config) -> Result<()> {
    let env = subnet_env(config, UNAVAILABLE)?;
    let mut wanted = generate::delegate(config, &env).map_err(unavailable)?;
    bridge::settle(&mut wanted, &env, config.mend_bridge).map_err(unavailable)?;
    for plugin in [&wanted["type"], &wanted["ipam"]["type"]] {
        delegate::find(plugin.as_str().unwrap_or_default(), &call.path).map_err(unavailable)?;
    }
    or_not_known(delegate::ask("STATUS", call, &wanted))
}

/// Take down what is kept of this network and isn't among the valid attachments; then let the delegate do likewise.
fn gc(call: &Call, config: &Config) -> Result<()> {
    let valid = config.valid_attachments()?;
    let mut failed = Vec::new();
    for saved in state::all(&config.data_dir) {
        let kept = saved.config.clone().unwrap_or_default();
        let ours = kept.get("name").and_then(Value::as_str) == Some(&config.name);
        if !ours || valid.contains(&(saved.container.clone(), saved.ifname.clone())) {
            continue;
        }
        let (container, ifname) = (saved.container.clone(), saved.ifname.clone());
        let stale = Call { container, ifname, netns: String::new(), path: call.path.clone() };
        if let Err(error) = delegate::run("DEL", &stale, &kept).and_then(|_| saved.forget()) {
            failed.push(format!("{}: {}", saved.container, error.msg));
        }
    }
    // An IPAM plugin may hold addresses of containers that we know nothing of (any more).
    if let Ok(env) = subnet_env(config, OTHER) {
        let mut wanted = generate::delegate(config, &env)?;
        wanted.insert(call::VALID.into(), config.valid.clone());
        if let Err(error) = or_not_known(delegate::ask("GC", call, &wanted)) {
            failed.push(error.msg);
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Error::new(OTHER, failed.join("; "))) }
}

/// STATUS and GC are new in 1.1.0: a delegate that doesn't know them has nothing to say.
fn or_not_known(done: Result<Vec<u8>>) -> Result<()> {
    match done {
        Err(error) if error.code == VERSION || error.code == ENVIRONMENT => Ok(()),
        other => other.map(|_| ()),
    }
}

fn subnet_env(config: &Config, code: u64) -> Result<SubnetEnv> {
    let path = &config.subnet_file;
    match std::fs::read_to_string(path) {
        Ok(text) => SubnetEnv::parse(&text, path),
        Err(why) if why.kind() == ErrorKind::NotFound => Err(cause::of_missing(path, code)),
        Err(why) => Err(Error::new(IO, format!("subnetFile {} can't be read: {why}", path.display()))),
    }
}

fn unavailable(error: Error) -> Error {
    Error { code: UNAVAILABLE, ..error }
}

/// A container in the host's own network namespace would have its devices made in the host's.
fn refuse_own_netns(netns: &str) -> Result<()> {
    if is_own_netns(netns) {
        let msg = format!("CNI_NETNS {netns:?} is the namespace this plugin runs in, expected the container's");
        return Err(Error::new(SAME_NETNS, msg));
    }
    Ok(())
}

/// Whether `netns` is the one we are in; never with CNI_NETNS_OVERRIDE.
fn is_own_netns(netns: &str) -> bool {
    let wanted = std::env::var("CNI_NETNS_OVERRIDE").unwrap_or_default();
    if wanted == "1" || wanted.eq_ignore_ascii_case("true") {
        return false;
    }
    let (Ok(theirs), Ok(ours)) = (std::fs::metadata(netns), std::fs::metadata("/proc/self/ns/net")) else {
        return false;
    };
    (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino())
}

/// JSON as flannel's plugin prints it: indented by four spaces.
fn pretty(value: &Value) -> Vec<u8> {
    let mut text = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut out = serde_json::Serializer::with_formatter(&mut text, format);
    let done = serde::Serialize::serialize(value, &mut out);
    debug_assert!(done.is_ok(), "a Value is always JSON");
    text.push(b'\n');
    text
}
