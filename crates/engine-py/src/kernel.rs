//! The kernel engine as a Python class.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use flannel_engine_bpf::{Error, Hook, KernelEngine as Engine, Options};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

use crate::convert::{Route, address, prefixes, routes};

/// eBPF programs that carry packets between a TUN device and the underlay. See the stub for what each method does.
#[pyclass(frozen, module = "pyflannel_engine")]
pub struct KernelEngine(Engine);

fn raised(error: &Error) -> PyErr {
    match error.errno() {
        _ if error.is_invalid() => PyValueError::new_err(error.to_string()),
        Some(number) => PyOSError::new_err((number, error.to_string())),
        None => PyOSError::new_err(error.to_string()),
    }
}

#[pymethods]
impl KernelEngine {
    #[new]
    #[pyo3(signature = (device, underlays, local, port, own, pin, *, mtu, xdp = "auto"))]
    #[expect(clippy::too_many_arguments, reason = "they have names in Python")]
    fn new(
        py: Python<'_>,
        device: String,
        underlays: Vec<String>,
        local: Vec<String>,
        port: u16,
        own: Vec<String>,
        pin: PathBuf,
        mtu: u32,
        xdp: &str,
    ) -> PyResult<Self> {
        let _the_device_has_it = mtu;
        let local = local.iter().map(|text| address(text)).collect::<PyResult<_>>()?;
        let xdp = xdp.parse().map_err(|error| raised(&error))?;
        let options = Options { device, underlays, local, port, own: prefixes(&own)?, pin, xdp, hook: Hook::Auto };
        py.detach(|| Engine::start(&options)).map(KernelEngine).map_err(|error| raised(&error))
    }

    #[getter]
    fn features(&self) -> BTreeMap<String, String> {
        self.0.features().clone()
    }

    fn apply(&self, py: Python<'_>, remove: Vec<String>, add: Vec<Route>) -> PyResult<()> {
        let (remove, add) = (prefixes(&remove)?, routes(&add)?);
        py.detach(|| self.0.apply(&remove, &add)).map_err(|error| raised(&error))
    }

    fn routes(&self) -> Vec<Route> {
        self.0
            .routes()
            .into_iter()
            .map(|(subnet, end)| (subnet.to_string(), end.ip().to_string(), end.port()))
            .collect()
    }

    fn counters(&self) -> PyResult<BTreeMap<&'static str, u64>> {
        self.0.counters().map_err(|error| raised(&error))
    }

    fn peers(&self) -> BTreeMap<String, BTreeMap<&'static str, u64>> {
        let peers = self.0.peers();
        peers.iter().map(|(subnet, traffic)| (subnet.to_string(), traffic.read().into_iter().collect())).collect()
    }

    fn problem(&self) -> Option<String> {
        self.0.problem()
    }

    fn close(&self, py: Python<'_>, keep: bool) -> PyResult<()> {
        py.detach(|| self.0.close(keep)).map_err(|error| raised(&error))
    }

    #[staticmethod]
    fn remove(py: Python<'_>, pin: PathBuf) -> PyResult<()> {
        py.detach(|| Engine::remove(Path::new(&pin))).map_err(|error| raised(&error))
    }

    #[staticmethod]
    fn missing(py: Python<'_>) -> Option<String> {
        py.detach(flannel_engine_bpf::missing)
    }
}
