//! What happened in one run: a digest of every event, counts of what was reached, and the first broken promise.
//!
//! Owns the order of events, so that two runs of one seed can be compared by 32 bytes. Refuses to forget the first
//! violation for a later one.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::Broken;

/// How often each thing was reached: (section, name) to a count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Coverage(BTreeMap<(String, String), u64>);

impl Coverage {
    /// Counts `name` of `section` `by` more times.
    pub fn add(&mut self, section: &str, name: &str, by: u64) {
        let key = (section.to_owned(), name.to_owned());
        *self.0.entry(key).or_default() += by;
    }

    /// Both together.
    pub fn merge(&mut self, other: &Self) {
        for ((section, name), count) in &other.0 {
            self.add(section, name, *count);
        }
    }

    /// How often `name` of `section` was reached.
    pub fn of(&self, section: &str, name: &str) -> u64 {
        let key = (section.to_owned(), name.to_owned());
        self.0.get(&key).copied().unwrap_or(0)
    }

    /// All of them in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, u64)> {
        self.0
            .iter()
            .map(|((section, name), count)| (section.as_str(), name.as_str(), *count))
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = "";
        for (section, name, count) in self.iter() {
            if section != last {
                writeln!(f, "{section}")?;
                last = section;
            }
            writeln!(f, "  {count:>12}  {name}")?;
        }
        Ok(())
    }
}

/// What one seed came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Events in order of which the digest was made.
    pub events: u64,
    /// BLAKE3 over all events, in hexadecimal digits.
    pub digest: String,
    /// What was reached.
    pub coverage: Coverage,
}

/// The book of one run. Clones are handles on the same one.
#[derive(Clone)]
pub struct Logbook {
    inner: Arc<Mutex<Inner>>,
    broken: Arc<watch::Sender<Option<Broken>>>,
}

struct Inner {
    hasher: blake3::Hasher,
    events: u64,
    coverage: Coverage,
    line: String,
    /// Where each event goes beside the digest: to find where two runs of a seed part.
    copy: Option<Box<dyn std::io::Write + Send>>,
}

impl Default for Logbook {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Logbook {
    /// An empty book; `copy` receives every event as a line.
    pub fn new(copy: Option<Box<dyn std::io::Write + Send>>) -> Self {
        let inner = Inner {
            hasher: blake3::Hasher::new(),
            events: 0,
            coverage: Coverage::default(),
            line: String::new(),
            copy,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            broken: Arc::new(watch::Sender::new(None)),
        }
    }

    /// Something happened.
    pub fn note(&self, what: fmt::Arguments<'_>) {
        let inner = &mut *self.inner.lock();
        inner.events += 1;
        inner.line.clear();
        // Writing to a string cannot fail.
        let _ = inner.line.write_fmt(what);
        inner.line.push('\n');
        inner.hasher.update(inner.line.as_bytes());
        if let Some(copy) = &mut inner.copy
            && let Err(error) = copy.write_all(inner.line.as_bytes())
        {
            eprintln!("the copy of the events ends here: {error}");
            inner.copy = None;
        }
    }

    /// `name` of `section` was reached.
    pub fn count(&self, section: &str, name: &str) {
        self.inner.lock().coverage.add(section, name, 1);
    }

    /// Counts that were kept elsewhere.
    pub fn count_by(&self, section: &str, name: &str, by: u64) {
        if by > 0 {
            self.inner.lock().coverage.add(section, name, by);
        }
    }

    /// A promise was broken. Only the first counts.
    pub fn blame(&self, broken: Broken) {
        self.broken.send_if_modified(|held| {
            let first = held.is_none();
            if first {
                *held = Some(broken);
            }
            first
        });
    }

    /// The first broken promise, if there is one.
    pub fn check(&self) -> Result<(), Broken> {
        match &*self.broken.borrow() {
            Some(broken) => Err(broken.clone()),
            None => Ok(()),
        }
    }

    /// Waits for a broken promise.
    pub async fn blamed(&self) -> Broken {
        let mut watch = self.broken.subscribe();
        loop {
            if let Some(broken) = watch.borrow_and_update().clone() {
                return broken;
            }
            if watch.changed().await.is_err() {
                // The sender lives in `self`.
                std::future::pending::<()>().await;
            }
        }
    }

    /// What it has come to so far.
    pub fn report(&self) -> Report {
        let inner = self.inner.lock();
        Report {
            events: inner.events,
            digest: inner.hasher.finalize().to_hex().to_string(),
            coverage: inner.coverage.clone(),
        }
    }
}

/// The hash of bytes as events name them: enough to tell two apart.
pub fn short(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_tells_order_and_the_first_violation_stays() {
        let book = |events: [u32; 2]| {
            let book = Logbook::default();
            for event in events {
                book.note(format_args!("{event}"));
            }
            book.report().digest
        };
        assert_eq!(book([1, 2]), book([1, 2]));
        assert_ne!(book([1, 2]), book([2, 1]));
        let book = Logbook::default();
        assert_eq!(book.check(), Ok(()));
        book.blame(Broken("first".to_owned()));
        book.blame(Broken("second".to_owned()));
        assert_eq!(book.check(), Err(Broken("first".to_owned())));
    }

    #[test]
    fn counts_add_up_and_print_by_section() {
        let mut coverage = Coverage::default();
        coverage.add("b", "x", 2);
        coverage.add("a", "y", 1);
        let mut both = coverage.clone();
        both.merge(&coverage);
        assert_eq!((both.of("b", "x"), both.of("b", "z")), (4, 0));
        let text = both.to_string();
        assert!(text.find("a\n") < text.find("b\n") && text.contains("4  x"));
    }
}
