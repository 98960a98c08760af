//! A node in a network namespace of the test's own thread: an underlay device, a device that stands for the TUN
//! (with Ethernet headers, as the packets of `BPF_PROG_TEST_RUN` have), and a kernel engine between them.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{ProgramInfo, SchedClassifier, TestRun, TestRunOptions, Xdp as XdpProgram, loaded_programs};
use aya_obj::programs::XdpAttachType;
use flannel_engine_bpf::{Hook, KernelEngine, Options, Xdp};

pub const PORT: u16 = 8285;

/// Run a command in this thread's network namespace. Gives what it prints.
pub fn sh(line: &str) -> String {
    let done = Command::new("sh").args(["-ec", line]).output().expect("a shell");
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

pub fn index(name: &str) -> u32 {
    sh(&format!("ip -o link show {name}"))
        .split(':')
        .next()
        .and_then(|text| text.trim().parse().ok())
        .expect("an index")
}

pub struct Node {
    pub pin: PathBuf,
    pub engine: Option<KernelEngine>,
}

impl Node {
    /// Devices without an engine.
    pub fn bare() -> Node {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // SAFETY: no pointers; only this thread changes its namespace.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "these tests need root");
        sh("ip link set lo up
            sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0
            ip link add u0 type veth peer name x0
            ip link add flannel0 mtu 1472 type veth peer name y0
            sysctl -qw net.ipv6.conf.flannel0.disable_ipv6=1 # it would talk
            for dev in u0 x0 flannel0 y0; do ip link set $dev up; done
            ip addr add 10.213.0.1/24 dev u0; ip addr add fd00:213::1/64 dev u0
            ip neigh replace 10.213.0.2 lladdr 02:00:00:00:00:02 dev u0
            ip neigh replace 10.213.0.3 lladdr 02:00:00:00:00:03 dev u0
            ip neigh replace fd00:213::2 lladdr 02:00:00:00:00:02 dev u0");
        let pin = std::env::temp_dir().join(format!(
            "flannel-bpf-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        ));
        Node { pin, engine: None }
    }

    /// With an engine that knows two peers of each family.
    pub fn new(xdp: Xdp) -> Node {
        let mut node = Node::bare();
        node.start(xdp, Hook::Auto);
        let add: Vec<_> = [
            ("10.5.2.0/24", "10.213.0.2:8285"),
            ("10.5.3.0/24", "10.213.0.3:8472"),
            ("fd00:5:2::/64", "[fd00:213::2]:8285"),
        ]
        .map(|(subnet, end)| (subnet.parse().unwrap(), end.parse::<SocketAddr>().unwrap()))
        .into();
        node.engine().apply(&[], &add).unwrap();
        node
    }

    pub fn options(&self, xdp: Xdp, hook: Hook) -> Options {
        Options {
            device: "flannel0".into(),
            underlays: vec!["u0".into()],
            local: vec!["10.213.0.1".parse().unwrap(), "fd00:213::1".parse().unwrap()],
            port: PORT,
            own: vec!["10.5.1.0/24".parse().unwrap(), "fd00:5:1::/64".parse().unwrap()],
            pin: self.pin.clone(),
            xdp,
            hook,
        }
    }

    pub fn start(&mut self, xdp: Xdp, hook: Hook) {
        self.engine = Some(KernelEngine::start(&self.options(xdp, hook)).unwrap());
    }

    pub fn engine(&self) -> &KernelEngine {
        self.engine.as_ref().unwrap()
    }

    pub fn counter(&self, name: &str) -> u64 {
        self.engine().counters().unwrap()[name]
    }

    pub fn link(&self, kind: &str, device: &str) -> PathBuf {
        self.pin.join(format!("{kind}_{}", index(device)))
    }

    /// Run the program behind a pinned link over a packet. Gives its verdict and what became of the packet.
    pub fn run(&self, kind: &str, device: &str, packet: &[u8]) -> (i32, Vec<u8>) {
        self.run_with(kind, device, packet, 0)
    }

    /// The same of a super-packet with segments of `gso` bytes, if that isn't 0.
    pub fn run_with(&self, kind: &str, device: &str, packet: &[u8], gso: u32) -> (i32, Vec<u8>) {
        let info = program(&self.link(kind, device));
        let mut out = vec![0; packet.len() + 256];
        let mut context = [0u8; 192]; // struct __sk_buff
        context[176..180].copy_from_slice(&gso.to_ne_bytes());
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: (gso != 0).then_some(&context[..]),
            ..TestRunOptions::default()
        };
        let done = if kind == "xdp" {
            XdpProgram::from_program_info(info, "xdp".into(), XdpAttachType::Interface).unwrap().test_run(options)
        } else {
            SchedClassifier::from_program_info(info, "tc".into()).unwrap().test_run(options)
        };
        let done = done.unwrap();
        out.truncate(done.data_size_out as usize);
        (done.return_value.cast_signed(), out)
    }
}

/// The program that a pinned link runs.
pub fn program(link: &Path) -> ProgramInfo {
    let link = FdLink::from(PinnedLink::from_pin(link).unwrap());
    let id = link.info().unwrap().program_id();
    loaded_programs().filter_map(Result::ok).find(|info| info.id() == id).expect("the program")
}

impl Drop for Node {
    fn drop(&mut self) {
        let _gone_already = KernelEngine::remove(&self.pin);
    }
}
