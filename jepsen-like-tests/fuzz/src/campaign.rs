//! Running a target without libFuzzer: what is kept, then changed inputs out of a seed.
//!
//! Owns the loop and the folders in the repository. Answers with the first input that fails, so that a test can show
//! it and a person can keep it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// Panics of this process, wherever they happen: a runtime keeps those of its tasks to itself.
static PANICS: AtomicU64 = AtomicU64::new(0);

fn count_panics() {
    static COUNTING: Once = Once::new();
    COUNTING.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            before(panic);
        }));
    });
}

/// One input.
pub fn one(target: &'static Target, input: &[u8]) -> Result<(), Failure> {
    count_panics();
    let failed = |said: &str| Failure {
        target: target.name,
        input: input.to_vec(),
        said: said.to_owned(),
    };
    let before = PANICS.load(Ordering::SeqCst);
    let ran = catch_unwind(AssertUnwindSafe(|| target.run(input)));
    match ran {
        Ok(()) if PANICS.load(Ordering::SeqCst) == before => Ok(()),
        Ok(()) => Err(failed("a task panicked")),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(failed(said.unwrap_or_default()))
        }
    }
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
