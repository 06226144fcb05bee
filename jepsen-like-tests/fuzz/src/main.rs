//! One target under libFuzzer: the process that `cargo xtask fuzz` starts.
//!
//! Owns the choice: `REDUIT_FUZZ_TARGET` names the target, libFuzzer's arguments say the rest. Without a name it prints
//! the targets; with `REDUIT_FUZZ_SEEDS` it writes the target's valid inputs into that folder.
#![no_main]

use std::sync::OnceLock;

use fuzz::mutate::{Rng, Shape, mutate};
use fuzz::{Target, target, targets};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

static CHOSEN: OnceLock<&'static Target> = OnceLock::new();

fn choose() {
    let Some(name) = std::env::var_os("REDUIT_FUZZ_TARGET") else {
        for target in targets() {
            println!("{} {}", target.name, target.len_max);
        }
        std::process::exit(0);
    };
    let Some(target) = name.to_str().and_then(target) else {
        eprintln!("no target is called {}", name.display());
        std::process::exit(2);
    };
    if let Some(folder) = std::env::var_os("REDUIT_FUZZ_SEEDS") {
        for (number, seed) in (target.seeds)().iter().enumerate() {
            let path = std::path::Path::new(&folder).join(format!("seed-{number}"));
            std::fs::write(path, seed).expect("the folder takes files");
        }
        std::process::exit(0);
    }
    target.warm_up();
    CHOSEN.set(target).ok().expect("chosen once");
}

fn chosen() -> &'static Target {
    CHOSEN.get().expect("libFuzzer initialises first")
}

fuzz_target!(init: choose(), |data: &[u8]| {
    chosen().run(data);
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut rng = Rng::seeded(seed.into());
    let shape = chosen().shape;
    // libFuzzer's own mutations know what was compared with what; ours know what a message is.
    if shape == Shape::Bytes || rng.below(3) == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let changed = mutate(shape, &data[..size], &mut rng, max_size);
    data[..changed.len()].copy_from_slice(&changed);
    changed.len()
});
