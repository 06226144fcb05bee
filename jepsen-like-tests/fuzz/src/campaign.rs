//! Running a target without libFuzzer: what is kept, then changed inputs out of a seed.
//!
//! Owns the loop and the folders in the repository. Answers with the first input that fails, so that a test can show
//! it and a person can keep it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use crate::Target;
use crate::mutate::{Rng, mutate};

/// An input on which a property does not hold.
#[derive(Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which target.
    pub target: &'static str,
    /// The input.
    pub input: Vec<u8>,
    /// What the panic said.
    pub said: String,
}

impl std::fmt::Debug for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let input: String = self
            .input
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        write!(f, "{}: {} on {input}", self.target, self.said)
    }
}

/// The folder of a target's inputs that are kept in the repository: `corpus` or `crashes`.
pub fn folder(kind: &str, target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(kind)
        .join(target.name)
}

/// The inputs of a folder, in order of their names; none where there is no such folder.
pub fn inputs(folder: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        paths.push(entry?.path());
    }
    paths.sort();
    paths.iter().map(std::fs::read).collect()
}

/// One input.
pub fn one(target: &'static Target, input: &[u8]) -> Result<(), Failure> {
    let ran = catch_unwind(AssertUnwindSafe(|| target.run(input)));
    ran.map_err(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()));
        Failure {
            target: target.name,
            input: input.to_vec(),
            said: said.unwrap_or_default(),
        }
    })
}

/// The target's own inputs and those given, then `count` changed ones out of `seed`.
pub fn run(
    target: &'static Target,
    given: &[Vec<u8>],
    count: u32,
    seed: u64,
) -> Result<(), Failure> {
    target.warm_up();
    let mut pool = (target.seeds)();
    pool.extend_from_slice(given);
    pool.iter().try_for_each(|input| one(target, input))?;
    let mut rng = Rng::seeded(seed);
    for _ in 0..count {
        // Some changes are made on top of others: a pool of fixed size, in which the last ones stand too.
        let at = rng.below(pool.len());
        let changed = mutate(target.shape, &pool[at], &mut rng, target.len_max);
        one(target, &changed)?;
        if rng.below(4) == 0 && pool.len() < POOL_MAX {
            pool.push(changed);
        }
    }
    Ok(())
}

/// Inputs that changes start from.
const POOL_MAX: usize = 512;
