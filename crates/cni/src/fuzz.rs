//! What comes in from outside, broken in every way: no panic, and what is taken keeps its promises. From `corpus/`, by seed.

use crate::call::{Call, Command, Config, is_word};
use crate::subnet_env::{Net, SubnetEnv};
use crate::{error, generate, state};
use serde_json::Value;
use std::path::Path;

const ROUNDS: usize = 30_000;
const TOKENS: [&str; 16] = [
    "null",
    "true",
    "-1",
    "1e999",
    "18446744073709551616",
    "\"\"",
    "{}",
    "[]",
    "{\"",
    "\\ud800",
    "\u{fe0f}",
    "\n",
    "=",
    "/",
    ",",
    "FLANNEL_SUBNET=",
];

/// xorshift64*: the same bytes on every machine.
struct Rng(u64);

impl Rng {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % most.max(1)
    }
}

fn corpus(kind: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(kind);
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 4, "{kind}");
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// One of `seeds`, changed up to five times.
fn broken(seeds: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut text = seeds[rng.below(seeds.len())].clone();
    for _ in 0..rng.below(6) {
        let at = rng.below(text.len() + 1);
        let end = (at + rng.below(12)).min(text.len());
        match rng.below(6) {
            0 if at < text.len() => text[at] = rng.below(256) as u8,
            1 => drop(text.drain(at..end)),
            2 => text.truncate(at),
            3 => {
                let part = text[at..end].to_vec();
                text.splice(at..at, part);
            }
            4 => {
                let other = &seeds[rng.below(seeds.len())];
                text.truncate(at);
                text.extend_from_slice(&other[rng.below(other.len() + 1)..]);
            }
            _ => drop(text.splice(at..end, TOKENS[rng.below(TOKENS.len())].bytes())),
        }
    }
    text
}

fn env() -> SubnetEnv {
    SubnetEnv::parse(std::str::from_utf8(&corpus("subnet.env")[0]).unwrap(), Path::new("f")).unwrap()
}

#[test]
fn configs() {
    let (seeds, env, mut rng) = (corpus("config"), env(), Rng(0x666c_616e));
    let commands = [Command::Add, Command::Del, Command::Check, Command::Status, Command::Gc];
    let (mut taken, mut made) = (0, 0);
    for _ in 0..ROUNDS {
        let text = broken(&seeds, &mut rng);
        let shown = String::from_utf8_lossy(&text);
        match Config::parse(&text, commands[rng.below(commands.len())]) {
            Ok(config) => {
                taken += 1;
                assert!(
                    is_word(&config.name) && config.data_dir.is_absolute() && config.subnet_file.is_absolute(),
                    "{shown}"
                );
                let _ = config.valid_attachments();
                let Ok(wanted) = generate::delegate(&config, &env) else { continue };
                made += 1;
                assert_eq!(wanted["name"], config.name.as_str(), "{shown}");
                assert_eq!(wanted["ipam"]["ranges"][0][0]["subnet"], env.subnet.or(env.subnet6).unwrap().to_string());
                let kept = Value::Object(wanted).to_string();
                assert_eq!(Value::Object(state::parse(kept.as_bytes()).unwrap()).to_string(), kept, "{shown}");
            }
            Err(error) => {
                let known = [error::VERSION, error::DECODING, error::CONFIG];
                assert!(
                    known.contains(&error.code) && !error.msg.is_empty() && error.msg.len() < 500,
                    "{shown}: {error:?}"
                );
            }
        }
    }
    assert!(
        taken > ROUNDS / 10 && made > ROUNDS / 20,
        "the corpus is broken too much to show anything: {taken}, {made}"
    );
}

#[test]
fn subnet_envs() {
    let (seeds, mut rng) = (corpus("subnet.env"), Rng(0x6e65_6c21));
    let config = Config::parse(br#"{"name":"a"}"#, Command::Add).unwrap();
    let mut taken = 0;
    for _ in 0..ROUNDS {
        let text = String::from_utf8_lossy(&broken(&seeds, &mut rng)).into_owned();
        let Ok(env) = SubnetEnv::parse(&text, Path::new("f")) else { continue };
        taken += 1;
        let subnets = [env.subnet, env.subnet6];
        for net in subnets.iter().flatten().chain(&env.networks).chain(&env.networks6) {
            assert_eq!(Net::parse(&net.to_string()), Some(*net), "{text}");
        }
        let wanted = generate::delegate(&config, &env).unwrap();
        assert_eq!(wanted["ipam"]["ranges"].as_array().unwrap().len(), subnets.iter().flatten().count(), "{text}");
        assert!(!wanted["ipam"]["routes"].as_array().unwrap().is_empty(), "{text}");
    }
    assert!(taken > ROUNDS / 20, "{taken}");
}

#[test]
fn states() {
    let (seeds, mut rng) = (corpus("state"), Rng(0x7374_6174));
    let mut taken = 0;
    for _ in 0..ROUNDS {
        if let Some(config) = state::parse(&broken(&seeds, &mut rng)) {
            taken += 1;
            assert!(config["type"].is_string());
        }
    }
    assert!(taken > ROUNDS / 20, "{taken}");
}

#[test]
fn variables() {
    let mut rng = Rng(0x7661_7273);
    for _ in 0..ROUNDS {
        let words: Vec<String> = (0..4)
            .map(|_| (0..rng.below(20)).map(|_| char::from_u32(rng.below(0x300) as u32).unwrap_or('a')).collect())
            .collect();
        let names = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"];
        let get = |name: &str| words[names.iter().position(|each| *each == name).unwrap()].clone();
        if let Ok(call) = Call::read(Command::Add, get) {
            assert!(!call.container.contains(['/', '@']) && !call.ifname.contains('/'), "{call:?}");
            assert!(!call.container.starts_with('.') && call.ifname.len() <= 15, "{call:?}");
        }
    }
}
