//! The user-space engine as a Python class.

use std::collections::BTreeMap;

use flannel_engine_sys::{Engine, Options, errno};
use pyo3::prelude::*;

use crate::convert::{Route, address, os_error, prefixes, routes};

/// Threads that carry packets between a TUN device and UDP sockets. See the stub for what each method does.
#[pyclass(frozen, module = "pyflannel_engine")]
pub struct UserEngine(Engine);

#[pymethods]
impl UserEngine {
    #[new]
    #[pyo3(signature = (device, local, port, own, *, mtu, queues = 1, threads = 1, offload = true, buffer = 8 << 20))]
    #[expect(clippy::too_many_arguments, reason = "they have names in Python")]
    fn new(
        py: Python<'_>,
        device: String,
        local: Vec<String>,
        port: u16,
        own: Vec<String>,
        mtu: u32,
        queues: usize,
        threads: usize,
        offload: bool,
        buffer: usize,
    ) -> PyResult<Self> {
        let _the_device_has_it = mtu;
        let local = local.iter().map(|text| address(text)).collect::<PyResult<_>>()?;
        let options = Options { device, local, port, own: prefixes(&own)?, buffer, queues, threads, offload };
        py.detach(|| Engine::start(&options)).map(UserEngine).map_err(|error| os_error(&error, errno(&error)))
    }

    #[getter]
    fn features(&self) -> BTreeMap<&'static str, bool> {
        let found = self.0.features();
        BTreeMap::from([
            ("vnet_hdr", found.vnet_hdr),
            ("tso", found.tso),
            ("uso", found.uso),
            ("udp_gso", found.udp_gso),
            ("udp_gro", found.udp_gro),
        ])
    }

    fn apply(&self, py: Python<'_>, remove: Vec<String>, add: Vec<Route>) -> PyResult<()> {
        let (remove, add) = (prefixes(&remove)?, routes(&add)?);
        py.detach(|| self.0.apply(&remove, &add));
        Ok(())
    }

    fn routes(&self) -> Vec<Route> {
        let peers = self.0.peers();
        peers
            .iter()
            .map(|peer| (peer.subnet.to_string(), peer.endpoint.ip().to_string(), peer.endpoint.port()))
            .collect()
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        self.0.counters().read().into_iter().collect()
    }

    fn peers(&self) -> BTreeMap<String, BTreeMap<&'static str, u64>> {
        let peers = self.0.peers();
        peers.iter().map(|peer| (peer.subnet.to_string(), peer.state.traffic.read().into_iter().collect())).collect()
    }

    fn problem(&self) -> Option<String> {
        self.0.problem()
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.0.close());
    }
}
