//! Fuzz targets for parsers of bytes from network, disk or person.
//!
//! Owns the table of targets ([`targets()`]), what each holds true besides "no panic", the bound on memory, and the
//! inputs that are kept: `corpus/TARGET` reaches what is known to be reachable, `crashes/TARGET` holds what once
//! failed. Without a target: what a follower answers to its leader, and TLS past a peer's first bytes, which is rustls'.
//!
//! `cargo xtask fuzz` runs them under libFuzzer, one process a target; `cargo test -p reduit-fuzz` runs every kept
//! input and some thousands of changed ones without it.

pub mod campaign;
mod input;
mod known;
pub mod mutate;
#[cfg(feature = "private")]
pub mod planted;
#[cfg(feature = "private")]
pub mod targets;

use peak_alloc::PeakAlloc;

pub use mutate::Shape;
#[cfg(feature = "private")]
pub use targets::targets;

/// Counts what is allocated: a length in an input must not be believed before its bytes are there.
#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Where a target's bytes come from outside of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A peer, enrolled or not.
    Network,
    /// A file or a device, after damage.
    Disk,
    /// Somebody's configuration, argument or typing.
    Person,
}

/// Bytes that handling one input may hold at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Whatever the input is.
    pub fixed: usize,
    /// For each of its bytes.
    pub per_byte: usize,
}

impl Memory {
    /// What a parser needs that copies what it reads and keeps a struct for each few bytes.
    pub const PARSER: Self = Self {
        fixed: 1 << 20,
        per_byte: 64,
    };
}

/// One parser, or a few that stand behind one another, and what holds of them for every input.
pub struct Target {
    /// Its name, and that of its folders.
    pub name: &'static str,
    /// Where its bytes come from.
    pub from: Source,
    /// Sources it stands for.
    pub parses: &'static [&'static str],
    /// How its inputs are changed.
    pub shape: Shape,
    /// Bytes of an input at most.
    pub len_max: usize,
    /// What it may allocate.
    pub memory: Memory,
    /// Panics where something does not hold.
    pub check: fn(&[u8]),
    /// Valid inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

impl Target {
    /// Makes what the target keeps between inputs, so that it counts for none of them.
    pub fn warm_up(&self) {
        (self.check)(&[]);
    }

    /// Handles one input.
    ///
    /// # Panics
    /// If a property does not hold, or if it allocated more than [`Memory`] allows.
    pub fn run(&self, data: &[u8]) {
        let before = HEAP.current_usage();
        HEAP.reset_peak_usage();
        (self.check)(data);
        let held = HEAP.peak_usage().saturating_sub(before);
        let Memory { fixed, per_byte } = self.memory;
        let most = fixed + per_byte * data.len();
        assert!(
            held <= most,
            "{}: {} bytes of input made it hold {held} bytes at once, more than {most}",
            self.name,
            data.len(),
        );
    }
}

/// The target of a name; of the [`planted`] ones too.
#[cfg(feature = "private")]
pub fn target(name: &str) -> Option<&'static Target> {
    let planted = [&planted::WORD, &planted::GREEDY];
    targets()
        .iter()
        .chain(planted)
        .find(|target| target.name == name)
}
