//! Between Python's values and the engine's.

use std::net::{IpAddr, SocketAddr};

use flannel_engine::prefix::Prefix;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

/// A peer: subnet in CIDR, endpoint's address and port.
pub type Route = (String, String, u16);

pub fn prefix(text: &str) -> PyResult<Prefix> {
    text.parse().map_err(PyValueError::new_err)
}

pub fn address(text: &str) -> PyResult<IpAddr> {
    text.parse().map_err(|_| PyValueError::new_err(format!("{text:?} is no IP address")))
}

pub fn prefixes(texts: &[String]) -> PyResult<Vec<Prefix>> {
    texts.iter().map(|text| prefix(text)).collect()
}

pub fn routes(routes: &[Route]) -> PyResult<Vec<(Prefix, SocketAddr)>> {
    routes
        .iter()
        .map(|(subnet, endpoint, port)| {
            let (subnet, endpoint) = (prefix(subnet)?, address(endpoint)?);
            if subnet.address().is_ipv4() != endpoint.is_ipv4() {
                return Err(PyValueError::new_err(format!("{subnet} at {endpoint}: both must be of one family")));
            }
            Ok((subnet, SocketAddr::new(endpoint, *port)))
        })
        .collect()
}

/// With its number and the words that say what was tried.
pub fn os_error(error: &std::io::Error, errno: Option<i32>) -> PyErr {
    match errno {
        Some(number) => PyOSError::new_err((number, error.to_string())),
        None => PyOSError::new_err(error.to_string()),
    }
}
