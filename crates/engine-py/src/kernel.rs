//! The kernel engine as a Python class.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use flannel_engine_bpf::{Error, Hook, Options};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::convert::{Route, address, prefixes, routes};

/// eBPF programs that carry packets beside a UserEngine. See the stub for what each method does.
#[pyclass(frozen, module = "pyflannel_engine")]
pub struct KernelEngine(flannel_engine_bpf::KernelEngine);

fn error(error: &Error) -> PyErr {
    if error.is_invalid() {
        return PyValueError::new_err(error.to_string());
    }
    crate::convert::os_error(error, error.errno())
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
        let xdp = xdp.parse().map_err(|why| error(&why))?;
        let options = Options { device, underlays, local, port, own: prefixes(&own)?, pin, xdp, hook: Hook::Auto };
        let started = py.detach(|| flannel_engine_bpf::KernelEngine::start(&options));
        started.map(KernelEngine).map_err(|why| error(&why))
    }

    #[getter]
    fn features(&self) -> BTreeMap<String, String> {
        self.0.features().clone()
    }

    fn apply(&self, py: Python<'_>, remove: Vec<String>, add: Vec<Route>) -> PyResult<()> {
        let (remove, add) = (prefixes(&remove)?, routes(&add)?);
        py.detach(|| self.0.apply(&remove, &add)).map_err(|why| error(&why))
    }

    fn routes(&self) -> Vec<Route> {
        let found = self.0.routes();
        found.iter().map(|(net, end)| (net.to_string(), end.ip().to_string(), end.port())).collect()
    }

    fn counters(&self) -> PyResult<BTreeMap<&'static str, u64>> {
        self.0.counters().map_err(|why| error(&why))
    }

    fn peers(&self) -> BTreeMap<String, BTreeMap<&'static str, u64>> {
        self.0.peers().iter().map(|(net, traffic)| (net.to_string(), traffic.read().into_iter().collect())).collect()
    }

    fn problem(&self) -> Option<String> {
        self.0.problem()
    }

    fn close(&self, py: Python<'_>, keep: bool) -> PyResult<()> {
        py.detach(|| self.0.close(keep)).map_err(|why| error(&why))
    }

    #[staticmethod]
    #[expect(clippy::needless_pass_by_value, reason = "extracted from Python")]
    fn remove(py: Python<'_>, pin: PathBuf) -> PyResult<()> {
        py.detach(|| flannel_engine_bpf::KernelEngine::remove(Path::new(&pin))).map_err(|why| error(&why))
    }

    #[staticmethod]
    fn missing(py: Python<'_>) -> Option<String> {
        py.detach(flannel_engine_bpf::missing)
    }
}
