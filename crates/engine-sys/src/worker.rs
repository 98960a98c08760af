//! The packet threads.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{Builder, JoinHandle, yield_now};
use std::time::{Duration, Instant};

use crate::egress::Egress;
use crate::engine::Shared;
use crate::ingress::Ingress;
use crate::io::{is_readable, readable, wait_readable};

// Ours to tune.
const SPIN: Duration = Duration::from_micros(60); // how long to look before sleeping: about what waking up costs
const PAYS: u32 = 64; // of 256: spinning goes on while at least a quarter of the tries finds work
const PROBE: u32 = 32; // after so many sleeps another try is made

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
    let mut patience = Patience::default();
    while !shared.ending.load(Relaxed) {
        patience.wait(&mut fds)?;
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

/// Waiting for work: by looking for a short while, and giving way to others, if that has paid lately (an answer is
/// under way); else by going to sleep.
struct Patience {
    pays: u32, // of 256: how often looking found work
    slept: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { pays: 256, slept: 0 }
    }
}

impl Patience {
    fn wait(&mut self, fds: &mut [libc::pollfd]) -> io::Result<()> {
        self.slept += 1;
        if self.pays >= PAYS || self.slept >= PROBE {
            self.slept = 0;
            let until = Instant::now() + SPIN;
            loop {
                if is_readable(fds)? {
                    self.pays += (256 - self.pays) / 8;
                    return Ok(());
                }
                if Instant::now() >= until {
                    break;
                }
                yield_now();
            }
            self.pays -= self.pays / 8;
        }
        wait_readable(fds)
    }
}
