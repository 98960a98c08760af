//! One queue of the device and the sockets that go with it: what one thread (or one for each way) serves.

use std::io;
use std::net::SocketAddr;

use crate::engine::Options;
use crate::tun::Tun;
use crate::udp::Udp;

/// A queue.
#[derive(Debug)]
pub struct Queue {
    pub tun: Tun,
    pub sockets: Vec<Udp>,
}

impl Queue {
    /// As many as `options` ask for, all of the same device and addresses.
    pub fn open(options: &Options) -> io::Result<Vec<Queue>> {
        let several = options.queues > 1;
        (0..options.queues.max(1))
            .map(|_| {
                let tun = Tun::attach(&options.device, several, options.offload)?;
                let bind = |ip| Udp::bind(SocketAddr::new(ip, options.port), options.buffer, several, options.offload);
                let sockets = options.local.iter().copied().map(bind).collect::<io::Result<_>>()?;
                Ok(Queue { tun, sockets })
            })
            .collect()
    }

    /// The socket that can send to `endpoint`.
    pub fn socket(&self, endpoint: &SocketAddr) -> Option<&Udp> {
        self.sockets.iter().find(|socket| socket.serves(endpoint))
    }
}
