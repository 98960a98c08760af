//! Programs at their hooks.
//!
//! A link (tcx, XDP) is pinned as `<hook>_<device's index>`: it stays when this process ends, and a new program
//! takes the old one's place in it at once. By index and not by name, as a name may have a dot, which a BPF file
//! system refuses, or be given to another device later.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::xdp::XdpLink;
use aya::programs::{LinkOrder, TcAttachType, XdpMode};

use crate::clsact;
use crate::device;
use crate::error::{Error, Result};
use crate::joiner;
use crate::link;
use crate::load;
use crate::options::{Hook, Xdp};

/// Behind everybody else's filters that have a priority of their own; no preference otherwise.
pub const PRIORITY: u16 = 49_152 - 5;
/// By which our filter is known.
pub const HANDLE: u16 = 0x8285;

/// One run of attaching: what was used is remembered, to remove the rest.
pub struct Attacher<'a> {
    /// Where links are pinned.
    pub pin: &'a Path,
    /// How at tc.
    pub hook: Hook,
    used: BTreeSet<PathBuf>,
}

fn direction(egress: bool) -> TcAttachType {
    if egress { TcAttachType::Egress } else { TcAttachType::Ingress }
}

impl<'a> Attacher<'a> {
    /// Into this directory.
    pub fn new(pin: &'a Path, hook: Hook) -> Attacher<'a> {
        Attacher { pin, hook, used: BTreeSet::new() }
    }

    /// Put a program at a device's tc hook. Gives how: `tcx` or `clsact`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn tc(&mut self, object: &mut Ebpf, program: &str, name: &str, egress: bool) -> Result<&'static str> {
        let tcx = match self.hook {
            Hook::Auto => load::kernel_is(6, 6),
            Hook::Tcx => true,
            Hook::Clsact => false,
        };
        if tcx { self.tcx(object, program, name, egress) } else { self.clsact(object, program, name, egress) }
    }

    fn tcx(&mut self, object: &mut Ebpf, program: &str, name: &str, egress: bool) -> Result<&'static str> {
        let index = device::index(name)?;
        let path = self.pin.join(format!("{}_{index}", if egress { "encap" } else { "decap" }));
        self.used.insert(path.clone());
        let classifier = load::classifier(object, program)?;
        if let Ok(old) = PinnedLink::from_pin(&path) {
            let replaced = SchedClassifierLink::try_from(FdLink::from(old))
                .ok()
                .and_then(|link| classifier.attach_to_link(link).ok())
                .map(|id| classifier.take_link(id));
            if replaced.is_some() {
                // The link's file stays; dropping our descriptor of it detaches nothing.
                return Ok("tcx");
            }
            // The device it was attached to is gone, and another one has its index.
            unpin(&path)?;
        }
        let refused = |error: &(dyn std::error::Error + 'static)| {
            Error::of(format!("attach to tcx of device {name}, pinned as {}", path.display()), error)
        };
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id = classifier.attach_with_options(name, direction(egress), options).map_err(|error| refused(&error))?;
        let link: FdLink = classifier
            .take_link(id)
            .map_err(|error| refused(&error))?
            .try_into()
            .map_err(|error: aya::programs::links::LinkError| refused(&error))?;
        link.pin(&path).map_err(|error| refused(&error))?;
        Ok("tcx")
    }

    fn clsact(&mut self, object: &mut Ebpf, program: &str, name: &str, egress: bool) -> Result<&'static str> {
        let index = device::index(name)?;
        let refused =
            |error: &(dyn std::error::Error + 'static)| Error::of(format!("attach to clsact of device {name}"), error);
        if clsact::add(name)? {
            // Remember that the qdisc is ours to remove: a file of this name, whatever it holds.
            let marker = self.pin.join(format!("qdisc_{index}"));
            unpin(&marker)?;
            load::classifier(object, program)?.pin(&marker).map_err(|error| refused(&error))?;
        }
        self.used.insert(self.pin.join(format!("qdisc_{index}")));
        let path = self.pin.join(format!("{}_{index}", if egress { "outfilter" } else { "infilter" }));
        self.used.insert(path.clone());
        let classifier = load::classifier(object, program)?;
        let there = path.exists();
        if there {
            let link = SchedClassifierLink::attached(name, direction(egress), PRIORITY, TcHandle::new(0, HANDLE), None)
                .map_err(|error| refused(&error))?;
            if let Ok(id) = classifier.attach_to_link(link) {
                std::mem::forget(classifier.take_link(id)); // a filter goes with its link object
                return Ok("clsact");
            }
        }
        let options =
            TcAttachOptions::Netlink(NlOptions { priority: PRIORITY, handle: TcHandle::new(0, HANDLE), classid: None });
        let id = classifier.attach_with_options(name, direction(egress), options).map_err(|error| refused(&error))?;
        std::mem::forget(classifier.take_link(id));
        if !there {
            classifier.pin(&path).map_err(|error| refused(&error))?;
        }
        Ok("clsact")
    }

    /// Put the decapsulating program at a device's native XDP hook. False if `wish` is not to, or `Auto` and it can't.
    ///
    /// # Errors
    /// `wish` is `Always`, and the driver can't or somebody else's program is there.
    pub fn xdp(&mut self, object: &mut Ebpf, name: &str, wish: Xdp) -> Result<bool> {
        let index = device::index(name)?;
        let path = self.pin.join(format!("xdp_{index}"));
        if wish == Xdp::Never || (wish == Xdp::Auto && !device::gains_by_xdp(name)) {
            return Ok(false);
        }
        self.used.insert(path.clone());
        let mut why = None;
        // Drivers that give frames in several buffers want a program that says it can take them, others refuse it.
        for program in ["flannel_frags", "flannel_xdp"] {
            match native(object, program, index, &path) {
                Ok(()) => return Ok(true),
                Err(error) => why = Some(error),
            }
        }
        self.used.remove(&path);
        match why {
            Some(error) if wish == Xdp::Always => Err(Error::of(
                format!(
                    "device {name}: native XDP (its driver can't, or another program is there; xdp=\"auto\" uses tc)"
                ),
                &error,
            )),
            _ => Ok(false),
        }
    }

    /// Detach what an earlier run attached and this one did not.
    ///
    /// # Errors
    /// A file can't be removed.
    pub fn sweep(&self) -> Result<()> {
        remove(self.pin, |path| !self.used.contains(path))
    }
}

fn native(object: &mut Ebpf, program: &str, index: u32, path: &Path) -> Result<()> {
    let xdp = load::xdp(object, program)?;
    let refused = |error: &(dyn std::error::Error + 'static)| Error::of("attach", error);
    if let Ok(old) = PinnedLink::from_pin(path) {
        let replaced = XdpLink::try_from(FdLink::from(old))
            .ok()
            .and_then(|link| xdp.attach_to_link(link).ok())
            .map(|id| xdp.take_link(id));
        if replaced.is_some() {
            return Ok(());
        }
        unpin(path)?;
    }
    let id = xdp.attach_to_if_index(index, XdpMode::Driver).map_err(|error| refused(&error))?;
    let link: FdLink = xdp
        .take_link(id)
        .map_err(|error| refused(&error))?
        .try_into()
        .map_err(|error: aya::programs::links::LinkError| refused(&error))?;
    link.pin(path).map_err(|error| refused(&error))?;
    Ok(())
}

fn unpin(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::of(format!("remove {}", path.display()), &error))
        }
        _ => Ok(()),
    }
}

/// Detach and unpin what `which` says of the hooks pinned in `pin`: first the ways out, last tc's way in.
///
/// # Errors
/// A file can't be removed.
pub fn remove(pin: &Path, which: impl Fn(&Path) -> bool) -> Result<()> {
    // XDP before tc: what XDP marks only tc can send on.
    for kind in ["encap", "outfilter", "xdp", "decap", "infilter", "qdisc"] {
        for path in crate::bpffs::pinned(pin) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(index) = name.strip_prefix(kind).and_then(|rest| rest.strip_prefix('_')) else { continue };
            if !which(&path) {
                continue;
            }
            let Ok(index) = index.parse::<u32>() else { continue };
            if matches!(kind, "encap" | "outfilter") {
                joiner::remove(index);
            }
            if let Some(name) = device::name(index) {
                match kind {
                    "outfilter" => clsact::detach(&name, TcAttachType::Egress),
                    "infilter" => clsact::detach(&name, TcAttachType::Ingress),
                    "qdisc" => clsact::remove_if_empty(index),
                    _ => {}
                }
            }
            if matches!(kind, "encap" | "decap" | "xdp") {
                // It fails where the device is gone already, or the kernel is older: the link goes with its file then.
                let _at_once = link::detach(&path);
            }
            unpin(&path)?;
        }
    }
    Ok(())
}
