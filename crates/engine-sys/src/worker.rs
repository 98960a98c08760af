//! The packet threads.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{Builder, JoinHandle};

use crate::egress::Egress;
use crate::engine::Shared;
use crate::ingress::Ingress;
use crate::io::{readable, wait_readable};

/// One thread for both ways, or one for each.
pub fn start(shared: &Arc<Shared>, threads: usize) -> io::Result<Vec<JoinHandle<()>>> {
    let ways: &[(&str, bool, bool)] = match threads {
        0 | 1 => &[("engine", true, true)],
        _ => &[("engine-out", true, false), ("engine-in", false, true)],
    };
    ways.iter()
        .map(|(name, out, into)| {
            let shared = Arc::clone(shared);
            let egress = out.then(|| Egress::new(Arc::clone(&shared)));
            let ingress = into.then(|| Ingress::new(Arc::clone(&shared)));
            Builder::new().name((*name).to_owned()).spawn(move || {
                if let Err(error) = run(&shared, egress, ingress) {
                    shared.fail(&error);
                }
            })
        })
        .collect()
}

fn run(shared: &Shared, mut egress: Option<Egress>, mut ingress: Option<Ingress>) -> io::Result<()> {
    let mut fds = vec![readable(shared.bell.fd())];
    if egress.is_some() {
        fds.push(readable(shared.tun.fd()));
    }
    if ingress.is_some() {
        fds.extend(shared.sockets.iter().map(|socket| readable(socket.fd())));
    }
    while !shared.ending.load(Relaxed) {
        wait_readable(&mut fds)?;
        // Both ways in turn, a burst each, until both are dry: a flood one way doesn't hold up the other.
        loop {
            let mut busy = false;
            if let Some(egress) = &mut egress {
                busy |= egress.burst()?;
            }
            if let Some(ingress) = &mut ingress {
                for socket in &shared.sockets {
                    busy |= ingress.burst(socket)?;
                }
            }
            if !busy || shared.ending.load(Relaxed) {
                break;
            }
        }
    }
    Ok(())
}
