//! The runtime that a region's daemons run on.
//!
//! Owns how many threads serve. `TOKIO_WORKER_THREADS` says otherwise.

use std::io;
use std::num::NonZeroUsize;

use tokio::runtime::{Builder, Runtime};

/// How many threads of a daemon serve; the log, the state store and blocking work have threads of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    /// One for each core: where calls are many and each is work, as a KMS's are.
    AllCores,
    /// One less. Two that serve on two cores wake each other for every message, and bytes pass through several
    /// processes: with one, eight readers were served half as often again.
    SparesOne,
}

impl Serving {
    /// Makes the runtime of a daemon. An error where the system has no room for its threads.
    pub fn runtime(self) -> io::Result<Runtime> {
        let mut builder = Builder::new_multi_thread();
        if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
            let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
            builder.worker_threads(self.threads_of(cores));
        }
        builder.enable_all().build()
    }

    fn threads_of(self, cores: usize) -> usize {
        match self {
            Self::AllCores => cores.max(1),
            Self::SparesOne => cores.saturating_sub(1).max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Serving;

    #[test]
    fn a_core_is_left_where_one_is_and_there_is_a_thread() {
        let spared = |cores| Serving::SparesOne.threads_of(cores);
        assert_eq!([0, 1, 2, 3, 64].map(spared), [1, 1, 1, 2, 63]);
        assert_eq!(
            [0, 1, 2].map(|cores| Serving::AllCores.threads_of(cores)),
            [1, 1, 2]
        );
    }
}
