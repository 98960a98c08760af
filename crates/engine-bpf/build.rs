//! Compiles the eBPF programs; the object is embedded in the library.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("flannel.bpf.o");
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-env-changed=CLANG");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let endian = if env::var("CARGO_CFG_TARGET_ENDIAN").as_deref() == Ok("big") { "bpfeb" } else { "bpfel" };
    let mut command = Command::new(&clang);
    // -g: the maps are described in BTF. v3: 32-bit arithmetic and jumps, Linux 5.1.
    command.args(["-O2", "-g", "-Wall", "-Werror", "-target", endian, "-mcpu=v3"]);
    // <asm/types.h> is in the architecture's own directory on Debian and its kin, where -target bpf doesn't look.
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let headers = format!("/usr/include/{arch}-linux-gnu");
    if Path::new(&headers).is_dir() {
        command.args(["-idirafter", &headers]);
    }
    command.arg("-c").arg("bpf/flannel.bpf.c").arg("-o").arg(&out);
    let why = match command.output() {
        Ok(done) if done.status.success() => return,
        Ok(done) => String::from_utf8_lossy(&done.stderr).into_owned(),
        Err(error) => format!("{clang}: {error}"),
    };
    // Cargo shows what follows `cargo::error=` in one line each.
    for line in why.lines() {
        println!("cargo::error={line}");
    }
    println!(
        "cargo::error=the eBPF programs need clang (11 or newer), libbpf's and the kernel's headers to be built: \
         apt-get install clang libbpf-dev linux-libc-dev; CLANG names another clang"
    );
    exit(1);
}
