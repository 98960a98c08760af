//! The kernel engine from a shell, for benches and for trying it by hand.
//!
//!     engine start DEVICE UNDERLAY[,…] LOCAL PORT OWN PIN auto|always|never SUBNET=ENDPOINT…
//!     engine show PIN | remove PIN | missing

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;

use flannel_engine_bpf::{Hook, KernelEngine, Options, missing};

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["start", device, underlays, local, port, own, pin, xdp, ref peers @ ..] => {
            let port: u16 = port.parse()?;
            let engine = KernelEngine::start(&Options {
                device: device.into(),
                underlays: underlays.split(',').map(str::to_owned).collect(),
                local: vec![local.parse()?],
                port,
                own: vec![own.parse()?],
                pin: pin.into(),
                xdp: xdp.parse()?,
                hook: if std::env::var_os("CLSACT").is_some() { Hook::Clsact } else { Hook::Auto },
            })?;
            let mut routes = Vec::new();
            for peer in peers {
                let (subnet, endpoint) = peer.split_once('=').ok_or("SUBNET=ENDPOINT")?;
                routes.push((subnet.parse()?, SocketAddr::new(endpoint.parse()?, port)));
            }
            engine.apply(&[], &routes)?;
            println!("{:?}\n{:?}", engine.features(), engine.counters()?);
            engine.close(true)?;
        }
        ["remove", pin] => KernelEngine::remove(Path::new(pin))?,
        ["missing"] => println!("{}", missing().unwrap_or_else(|| "nothing".into())),
        _ => return Err("see the head of this file".into()),
    }
    Ok(())
}
