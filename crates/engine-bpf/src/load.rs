//! Loading the object into the kernel.

use std::path::Path;

use aya::maps::MapData;
use aya::programs::{SchedClassifier, Xdp};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};

use crate::abi::Config;
use crate::error::{Error, Result};
use crate::peers::MAPS;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/flannel.bpf.o"));

/// Is it Linux `major.minor` or newer?
pub fn kernel_is(major: u8, minor: u8) -> bool {
    KernelVersion::current().is_ok_and(|running| running >= KernelVersion::new(major, minor, 0))
}

/// The object with these constants, its maps taken from `pin` or pinned there. Nothing is attached.
///
/// # Errors
/// The kernel refuses a map; see [`program`] for programs.
pub fn object(config: &Config, pin: Option<&Path>) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    loader.override_global("config", config, true);
    for (name, key, value) in MAPS {
        if let Some(pin) = pin {
            let path = pin.join(name);
            discard_foreign(&path, key, value)?;
            loader.map_pin_path(name, path);
        }
    }
    loader.load(OBJECT).map_err(|error| Error::of("load the eBPF object", &error))
}

/// A pinned map of another layout, from another version, can't be taken over; it goes on with its own programs.
fn discard_foreign(path: &Path, key: u32, value: u32) -> Result<()> {
    let Ok(map) = MapData::from_pin(path) else { return Ok(()) };
    let info = map.info().map_err(|error| Error::of(format!("pinned map {}", path.display()), &error))?;
    if (info.key_size(), info.value_size()) != (key, value) {
        std::fs::remove_file(path).map_err(|error| Error::of(format!("remove {}", path.display()), &error))?;
    }
    Ok(())
}

/// A tc program of the object, loaded.
///
/// # Errors
/// The verifier refuses it: this kernel lacks something that it needs.
pub fn classifier<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = object.program_mut(name).ok_or_else(|| missing(name))?;
    let program: &mut SchedClassifier = program.try_into().map_err(|error| Error::of(name, &error))?;
    if program.fd().is_err() {
        program.load().map_err(|error| Error::of(format!("load the program {name}"), &error))?;
    }
    Ok(program)
}

/// An XDP program of the object, loaded.
///
/// # Errors
/// As for [`classifier`].
pub fn xdp<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = object.program_mut(name).ok_or_else(|| missing(name))?;
    let program: &mut Xdp = program.try_into().map_err(|error| Error::of(name, &error))?;
    if program.fd().is_err() {
        program.load().map_err(|error| Error::of(format!("load the program {name}"), &error))?;
    }
    Ok(program)
}

fn missing(name: &str) -> Error {
    Error::invalid(format!("program {name}: the eBPF object has none of that name"))
}
