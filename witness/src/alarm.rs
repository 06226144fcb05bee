//! Alarms: what a person must look at, in a file, in the log lines, and on the status page.
//!
//! Owns their words, the file (one JSON object a line), which conditions hold now, and evidence of what never ends.
//! Refuses to forget: an alarm that could not be written is an error, and who raised it does not go on from there.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use proto::ids::UnixMs;
use serde::{Deserialize, Serialize};

use crate::durable;

/// Alarms kept in memory for the status page.
pub const RECENT_MAX: usize = 200;
/// Pieces of evidence kept of one log: one is enough to show that it cannot be believed.
pub const EVIDENCE_MAX: usize = 16;
/// Two notes and words.
const EVIDENCE_BYTES_MAX: u64 = 4 << 20;

/// What an alarm is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// The log showed two histories.
    Fork,
    /// A dataset's leaves do not follow one another: one was left out, doubled or exchanged.
    ChainBroken,
    /// The log holds a leaf that is none.
    LeafMalformed,
    /// A leaf of a kind or schema that this build does not know.
    LeafUnknown,
    /// Keys were released outside the given hours.
    OutsideHours,
    /// A purpose that was never seen before.
    NewPurpose,
    /// More of a kind within an hour than allowed.
    Rate,
    /// A kind that alarms whenever it happens.
    Watched,
    /// Region time went back, or is ahead of the time here.
    RegionTime,
    /// No newer checkpoint for too long.
    Silence,
    /// The log serves older checkpoints than it did.
    RolledBack,
    /// What is served as checkpoint is none, or not signed by the log.
    CheckpointRefused,
    /// Fewer cosignatures than the policy asks for.
    CosignaturesMissing,
    /// Hash tiles are missing or are not of the signed tree.
    TilesRefused,
    /// Entries are not those whose hashes the log signed.
    EntriesRefused,
    /// Entries cannot be fetched.
    EntriesUnavailable,
    /// The copy cannot be written.
    CopyFailed,
}

impl Rule {
    /// As in the file, on the page and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fork => "fork",
            Self::ChainBroken => "chain-broken",
            Self::LeafMalformed => "leaf-malformed",
            Self::LeafUnknown => "leaf-unknown",
            Self::OutsideHours => "outside-hours",
            Self::NewPurpose => "new-purpose",
            Self::Rate => "rate",
            Self::Watched => "watched",
            Self::RegionTime => "region-time",
            Self::Silence => "silence",
            Self::RolledBack => "rolled-back",
            Self::CheckpointRefused => "checkpoint-refused",
            Self::CosignaturesMissing => "cosignatures-missing",
            Self::TilesRefused => "tiles-refused",
            Self::EntriesRefused => "entries-refused",
            Self::EntriesUnavailable => "entries-unavailable",
            Self::CopyFailed => "copy-failed",
        }
    }

    /// How it ends.
    pub fn weight(self) -> Weight {
        match self {
            Self::Fork | Self::ChainBroken | Self::LeafMalformed => Weight::Permanent,
            Self::LeafUnknown
            | Self::OutsideHours
            | Self::NewPurpose
            | Self::Rate
            | Self::Watched
            | Self::RegionTime => Weight::Event,
            Self::Silence
            | Self::RolledBack
            | Self::CheckpointRefused
            | Self::CosignaturesMissing
            | Self::TilesRefused
            | Self::EntriesRefused
            | Self::EntriesUnavailable
            | Self::CopyFailed => Weight::Condition,
        }
    }
}

/// How an alarm ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weight {
    /// It happened once.
    Event,
    /// It holds until it no longer does.
    Condition,
    /// Never: the log is caught.
    Permanent,
}

/// Something that a person must look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// When it was raised, by the clock here.
    pub time_ms: u64,
    /// Which log.
    pub origin: String,
    /// What it is about.
    pub rule: Rule,
    /// How it ends.
    pub weight: Weight,
    /// Which leaf, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaf: Option<u64>,
    /// Which dataset, by its pseudonym.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// What happened, in words.
    pub text: String,
    /// Whether the condition has ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
}

impl Alarm {
    /// An alarm about a log as a whole.
    pub fn new(now: UnixMs, origin: &str, rule: Rule, text: String) -> Self {
        Self {
            time_ms: now.0,
            origin: origin.to_owned(),
            rule,
            weight: rule.weight(),
            leaf: None,
            dataset: None,
            text,
            ended: false,
        }
    }
}

/// An alarm that never ends, and the signed notes that show why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The alarm.
    pub alarm: Alarm,
    /// Signed checkpoints, whole: whoever has the log's public key can check them.
    #[serde(default)]
    pub checkpoints: Vec<String>,
}

/// All alarms of a process.
#[derive(Debug)]
pub struct Alarms {
    file: PathBuf,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    recent: VecDeque<Alarm>,
    counts: BTreeMap<(String, Rule), u64>,
    conditions: BTreeMap<(String, Rule), Alarm>,
    evidence: BTreeMap<String, Vec<Evidence>>,
}

impl Alarms {
    /// Writes to this file, which is opened for each alarm anew, so that it may be rotated.
    pub fn to_file(file: PathBuf) -> Self {
        Self {
            file,
            book: Mutex::default(),
        }
    }

    /// Remembers what was kept of a log in earlier lives.
    pub(crate) fn remember(&self, origin: &str, folder: &Path) -> io::Result<()> {
        let mut kept = Vec::new();
        for number in 0..EVIDENCE_MAX {
            let path = evidence_file(folder, number);
            let Some(bytes) = durable::read(&path, EVIDENCE_BYTES_MAX)? else {
                break;
            };
            let evidence = serde_json::from_slice(&bytes)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            kept.push(evidence);
        }
        self.book.lock().evidence.insert(origin.to_owned(), kept);
        Ok(())
    }

    /// Raises alarms that happened once, in one write.
    pub fn raise(&self, alarms: Vec<Alarm>) -> io::Result<()> {
        self.write(&mut self.book.lock(), alarms)
    }

    /// Raises an alarm that never ends, and keeps its evidence beside the log's state. The same one twice is one.
    pub fn catch(&self, folder: &Path, evidence: Evidence) -> io::Result<()> {
        let mut book = self.book.lock();
        let origin = evidence.alarm.origin.clone();
        let kept = book.evidence.entry(origin.clone()).or_default();
        let same = |old: &Evidence| {
            (&old.checkpoints, &old.alarm.text) == (&evidence.checkpoints, &evidence.alarm.text)
        };
        if kept.iter().any(same) {
            return Ok(());
        }
        // Told first: kept without being told, it would count as known.
        self.write(&mut book, vec![evidence.alarm.clone()])?;
        let kept = book.evidence.entry(origin).or_default();
        if kept.len() < EVIDENCE_MAX {
            let bytes = serde_json::to_vec_pretty(&evidence)?;
            durable::replace(&evidence_file(folder, kept.len()), &bytes)?;
            kept.push(evidence);
        }
        Ok(())
    }

    /// A condition holds: raised when it begins.
    pub fn begin(&self, alarm: Alarm) -> io::Result<()> {
        let mut book = self.book.lock();
        let key = (alarm.origin.clone(), alarm.rule);
        if let Some(known) = book.conditions.get_mut(&key) {
            known.text = alarm.text;
            return Ok(());
        }
        self.write(&mut book, vec![alarm.clone()])?;
        book.conditions.insert(key, alarm);
        Ok(())
    }

    /// A condition no longer holds: said once.
    pub fn end(&self, now: UnixMs, origin: &str, rule: Rule) -> io::Result<()> {
        let mut book = self.book.lock();
        let key = (origin.to_owned(), rule);
        let Some(alarm) = book.conditions.get(&key) else {
            return Ok(());
        };
        let ended = Alarm {
            time_ms: now.0,
            ended: true,
            ..alarm.clone()
        };
        self.write(&mut book, vec![ended])?;
        book.conditions.remove(&key);
        Ok(())
    }

    fn write(&self, book: &mut Book, alarms: Vec<Alarm>) -> io::Result<()> {
        let lines = alarms.iter().map(serde_json::to_string);
        let lines: Vec<String> = lines.collect::<Result<_, _>>()?;
        if !lines.is_empty() {
            durable::append(&self.file, &(lines.join("\n") + "\n"))?;
        }
        for alarm in alarms {
            log(&alarm);
            if !alarm.ended {
                let count = book.counts.entry((alarm.origin.clone(), alarm.rule));
                *count.or_default() += 1;
            }
            if book.recent.len() == RECENT_MAX {
                book.recent.pop_front();
            }
            book.recent.push_back(alarm);
        }
        Ok(())
    }

    /// The newest alarms since the start, newest first.
    pub fn recent(&self) -> Vec<Alarm> {
        self.book.lock().recent.iter().rev().cloned().collect()
    }

    /// Conditions that hold now.
    pub fn conditions(&self) -> Vec<Alarm> {
        self.book.lock().conditions.values().cloned().collect()
    }

    /// Evidence of what never ends, of this life and earlier ones.
    pub fn evidence(&self) -> Vec<Evidence> {
        let book = self.book.lock();
        book.evidence.values().flatten().cloned().collect()
    }

    /// Alarms raised since the start, by log and rule.
    pub fn counts(&self) -> BTreeMap<(String, Rule), u64> {
        self.book.lock().counts.clone()
    }
}

fn log(alarm: &Alarm) {
    let (origin, rule, text) = (&alarm.origin, alarm.rule.name(), &alarm.text);
    match (alarm.weight, alarm.ended) {
        (_, true) => tracing::info!(%origin, rule, %text, "alarm has ended"),
        (Weight::Permanent, _) => {
            tracing::error!(%origin, rule, leaf = alarm.leaf, %text, "ALARM");
        }
        _ => tracing::warn!(%origin, rule, leaf = alarm.leaf, %text, "alarm"),
    }
}

fn evidence_file(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("evidence-{number:02}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alarm(rule: Rule, text: &str) -> Alarm {
        Alarm::new(UnixMs(1), "ch-zrh/main/1", rule, text.to_owned())
    }

    fn lines(path: &Path) -> Vec<Alarm> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines = text.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().expect("alarms")
    }

    #[test]
    fn a_condition_is_said_when_it_begins_and_when_it_ends() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("alarms");
        let alarms = Alarms::to_file(file.clone());
        for text in ["one", "two"] {
            alarms.begin(alarm(Rule::Silence, text)).expect("room");
        }
        assert_eq!(alarms.conditions()[0].text, "two");
        for _ in 0..2 {
            alarms
                .end(UnixMs(9), "ch-zrh/main/1", Rule::Silence)
                .expect("room");
        }
        assert!(alarms.conditions().is_empty());
        let said: Vec<_> = lines(&file).iter().map(|a| (a.time_ms, a.ended)).collect();
        assert_eq!(said, [(1, false), (9, true)]);
        assert_eq!(alarms.counts().values().sum::<u64>(), 1);
    }

    #[test]
    fn evidence_outlives_the_process_and_is_kept_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("alarms");
        let evidence = |note: usize| Evidence {
            alarm: alarm(Rule::Fork, "two trees"),
            checkpoints: vec![note.to_string()],
        };
        let alarms = Alarms::to_file(file.clone());
        for note in 0..EVIDENCE_MAX + 2 {
            for _ in 0..2 {
                alarms.catch(folder.path(), evidence(note)).expect("room");
            }
        }
        let again = Alarms::to_file(file.clone());
        again
            .remember("ch-zrh/main/1", folder.path())
            .expect("read");
        assert_eq!(again.evidence().len(), EVIDENCE_MAX);
        assert_eq!(again.evidence()[3], evidence(3));
        again.catch(folder.path(), evidence(3)).expect("known");
        // What is over the bound is in the file of alarms, each time.
        assert_eq!(lines(&file).len(), EVIDENCE_MAX + 4);
    }

    #[test]
    fn an_alarm_that_cannot_be_written_is_not_taken_for_raised() {
        let folder = tempfile::tempdir().expect("a folder");
        let alarms = Alarms::to_file(folder.path().join("none/alarms"));
        assert!(alarms.raise(vec![alarm(Rule::Rate, "x")]).is_err());
        assert!(alarms.begin(alarm(Rule::Silence, "x")).is_err());
        assert!(alarms.recent().is_empty() && alarms.conditions().is_empty());
    }
}
