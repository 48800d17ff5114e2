//! Compiles the demo program a second time as a static executable, so that it can be the only file
//! of a container image. The compiler and linker that build Amphipod are all it takes.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("demo");
    println!("cargo::rerun-if-changed=src");
    let rustc = env::var_os("RUSTC").expect("cargo sets RUSTC");
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let status = Command::new(rustc)
        .args(["--edition=2024", "--crate-name=demo", "--crate-type=bin", "--target", &target])
        .args(["-Ctarget-feature=+crt-static", "-Copt-level=s", "-Cpanic=abort", "-Cstrip=symbols"])
        .args(["-Crelocation-model=static", "src/main.rs", "-o"])
        .arg(&out)
        .status()
        .expect("rustc can be run");
    assert!(
        status.success(),
        "the static demo program did not link; the static C library is needed (libc6-dev on Debian, \
         glibc-static on Fedora)"
    );
}
