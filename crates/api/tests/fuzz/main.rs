//! Mutated input for everything that reads what clients send: no panic, no overflow of a server's
//! stack, no hang, no blow-up, and what was read means the same when it is written and read again.
//!
//! Inputs come from seeds, so a failure can be had again: it prints `FUZZ_SEED`, which tries that one
//! input, and the input itself, which belongs into `tests/corpus/<target>/` once the cause is found.
//! `FUZZ_ROUNDS` says how many inputs each target gets.

mod mutate;
#[path = "../properties/objects.rs"]
mod objects;
#[path = "../properties/rng.rs"]
mod rng;
mod targets;

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use rng::Rng;

/// Inputs per target where nothing else is said.
const ROUNDS: u64 = 1500;
/// The stack of a server's worker.
const STACK_BYTES: usize = 2 << 20;
/// One input that takes this long hangs.
const HANG: Duration = Duration::from_secs(30);

pub struct Target {
    pub name: &'static str,
    pub seeds: fn() -> Vec<Vec<u8>>,
    pub run: fn(&[u8]),
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
    let Ok(files) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("readable")).collect()
}

/// Every past find and every seed as it is, then mutants of the seeds: no file has a say in what a
/// number stands for, so it means the same wherever it is tried.
fn inputs(target: &Target) -> impl Iterator<Item = (u64, Vec<u8>)> {
    let seeds = (target.seeds)();
    let plain: Vec<_> = corpus(target.name).into_iter().chain(seeds.iter().cloned()).collect();
    let one = number("FUZZ_SEED");
    let range = one.map_or(0..number("FUZZ_ROUNDS").unwrap_or(ROUNDS), |seed| seed..seed + 1);
    let mutants = range.map(move |seed| (seed, mutate::mutant(&mut Rng::new(seed), &seeds)));
    let plain = plain.into_iter().filter(move |_| one.is_none());
    plain.map(|input| (u64::MAX, input)).chain(mutants)
}

fn fuzz(target: &'static Target) {
    let (tell, told) = mpsc::channel();
    let work = move || {
        for (seed, input) in inputs(target) {
            tell.send((seed, input.clone())).expect("someone listens");
            if let Err(cause) = std::panic::catch_unwind(AssertUnwindSafe(|| (target.run)(&input))) {
                eprintln!("{}: FUZZ_SEED={seed}: {}", target.name, String::from_utf8_lossy(&input));
                std::panic::resume_unwind(cause);
            }
        }
    };
    let worker = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work).expect("a thread");
    let mut last = None;
    loop {
        match told.recv_timeout(HANG) {
            Ok(begun) => last = Some(begun),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                panic!(
                    "{} hangs on {:?}",
                    target.name,
                    last.map(|(s, i)| (s, String::from_utf8_lossy(&i).into_owned()))
                )
            }
        }
    }
    if let Err(cause) = worker.join() {
        std::panic::resume_unwind(cause);
    }
}

macro_rules! fuzz_tests {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            fuzz(&targets::$name::TARGET);
        })*
    };
}

fuzz_tests!(json, yaml, rows, protobuf, patches, apply, owned, selectors, quantities, times);
