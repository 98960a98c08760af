//! The packet threads.
//!
//! They sleep when there is nothing to do. Looking for a while before sleeping was tried and is worse where processors
//! are few: whoever is to answer waits for the one that looks, and since Linux 6.18 `sched_yield` gives up a whole
//! slice (measured on two cores, beside other load: 0.6 × the packets of a 64-byte flood, TCP 0.85 ×, no better RTT).

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{Builder, JoinHandle};

use crate::egress::Egress;
use crate::engine::Shared;
use crate::ingress::Ingress;
use crate::io::{readable, wait_readable};
use crate::queue::Queue;

/// For each queue one thread for both ways, or one for each way.
pub fn start(shared: &Arc<Shared>, queues: Vec<Queue>, threads: usize) -> io::Result<Vec<JoinHandle<()>>> {
    let ways: &[(&str, bool, bool)] = match threads {
        0 | 1 => &[("engine", true, true)],
        _ => &[("engine-out", true, false), ("engine-in", false, true)],
    };
    let mut found = Vec::new();
    for queue in queues.into_iter().map(Arc::new) {
        for (name, out, into) in ways {
            let (ours, queue) = (Arc::clone(shared), Arc::clone(&queue));
            let thread = Builder::new().name((*name).to_owned()).spawn(move || {
                let egress = out.then(|| Egress::new(Arc::clone(&ours), Arc::clone(&queue)));
                let ingress = into.then(|| Ingress::new(Arc::clone(&ours), Arc::clone(&queue)));
                let ended = catch_unwind(AssertUnwindSafe(|| run(&ours, &queue, egress, ingress)));
                let error = ended.unwrap_or_else(|_| Err(io::Error::other("a packet thread failed: please report it")));
                if let Err(error) = error {
                    ours.fail(&error);
                }
            });
            match thread {
                Ok(thread) => found.push(thread),
                Err(error) => {
                    shared.end();
                    return Err(error);
                }
            }
        }
    }
    Ok(found)
}

/// Serve whatever is ready, a burst each in turn: a flood one way doesn't hold up the other.
fn run(shared: &Shared, queue: &Queue, mut egress: Option<Egress>, mut ingress: Option<Ingress>) -> io::Result<()> {
    let mut fds = vec![readable(shared.bell.fd()), readable(queue.tun.fd())];
    fds.extend(queue.sockets.iter().map(|socket| readable(socket.fd())));
    // poll passes over negative descriptors.
    if egress.is_none() {
        fds[1].fd = -1;
    }
    if ingress.is_none() {
        fds[2..].iter_mut().for_each(|fd| fd.fd = -1);
    }
    let mut more = vec![false; fds.len()];
    loop {
        if !more.contains(&true) {
            wait_readable(&mut fds)?;
            more.iter_mut().zip(&fds).for_each(|(more, fd)| *more = fd.revents != 0);
        }
        if shared.ending.load(Relaxed) {
            return Ok(());
        }
        more[0] = false;
        if let (Some(egress), true) = (&mut egress, more[1]) {
            more[1] = egress.burst()?;
        }
        if let Some(ingress) = &mut ingress {
            for (socket, more) in queue.sockets.iter().zip(&mut more[2..]) {
                if *more {
                    *more = ingress.burst(socket)?;
                }
            }
        }
    }
}
