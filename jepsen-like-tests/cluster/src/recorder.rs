//! What clients did, on disk as it happens and in memory for the judges.
//!
//! Owns the one clock of a run, the numbers of clients, and the file `history.jsonl`. Refuses histories that cannot be:
//! a workload that lets a client go on after an outcome it does not know is a broken harness, and the run says so.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use checker::history::Clients;
use checker::{F, Op, Outcome, Workload};
use parking_lot::Mutex;
use serde_json::Value;

use crate::report::Second;

/// Operations that wait for the disk; more callers wait.
const QUEUE_MAX: usize = 4_096;
const SECOND_NS: u64 = 1_000_000_000;

/// Throughput and latency by workload, second by second.
pub type Series = BTreeMap<String, Vec<Second>>;

/// Takes operations from every task of a run. Cheap to clone.
#[derive(Clone)]
pub struct Recorder(Arc<Inner>);

struct Inner {
    began: Instant,
    clients: AtomicU64,
    queue: SyncSender<Message>,
    writer: Mutex<Option<JoinHandle<Result<Written>>>>,
}

enum Message {
    /// An operation, and when its outcome was known to be what it is.
    Op(Box<Op>, u64),
    /// What has been recorded of a workload.
    Recall(Workload, SyncSender<Vec<Op>>),
    Close,
}

/// Everything of a run.
type Written = (Vec<Op>, Series);

impl Recorder {
    /// Begins a file, and the run's time.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
        let (queue, messages) = sync_channel(QUEUE_MAX);
        let writer = std::thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || write(BufWriter::new(file), &messages))?;
        Ok(Self(Arc::new(Inner {
            began: Instant::now(),
            clients: AtomicU64::new(0),
            queue,
            writer: Mutex::new(Some(writer)),
        })))
    }

    /// A client with a number of its own.
    pub fn client(&self, workload: Workload) -> Client {
        Client {
            number: self.0.clients.fetch_add(1, Ordering::Relaxed),
            recorder: self.clone(),
            workload,
        }
    }

    /// What has been recorded of a workload so far.
    pub fn recall(&self, workload: Workload) -> Result<Vec<Op>> {
        let (answer, answered) = sync_channel(1);
        let asked = self.0.queue.send(Message::Recall(workload, answer));
        if asked.is_err() {
            bail!("the recorder has ended");
        }
        answered.recv().context("the recorder has ended")
    }

    /// Ends the file. Nothing may be recorded any more.
    pub fn close(self) -> Result<(Vec<Op>, Series)> {
        let writer = self.0.writer.lock().take();
        let writer = writer.context("the recorder was closed before")?;
        // A writer that has ended says why below.
        drop(self.0.queue.send(Message::Close));
        match writer.join() {
            Ok(written) => written,
            Err(_) => bail!("the recorder panicked"),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// One sequence of operations, with a new number whenever an outcome is not known.
pub struct Client {
    recorder: Recorder,
    workload: Workload,
    number: u64,
}

/// An operation under way.
#[must_use = "an operation that is not recorded makes the history a lie"]
pub struct Asked(Op);

/// How an operation ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    /// Acknowledged, with what was answered where it says more than the request.
    Ok(Option<Value>),
    /// Acknowledged, as of a log index.
    At(u64, Value),
    /// Without effect, for this reason.
    Fail(String),
    /// Unknown, for this reason.
    Info(String),
}

impl Client {
    /// Begins an operation: its time starts now.
    pub fn begin(&self, key: &str, f: F) -> Asked {
        Asked(Op {
            client: self.number,
            workload: self.workload,
            key: key.to_owned(),
            f,
            value: Value::Null,
            old: Value::Null,
            index: None,
            call: self.recorder.now(),
            ret: None,
            outcome: Outcome::Info,
            last: false,
            error: None,
        })
    }

    /// Records how it ended: its time ends now.
    pub fn end(&mut self, asked: Asked, ended: Ended) {
        let now = self.recorder.now();
        let mut op = asked.0;
        match ended {
            Ended::Ok(value) => {
                op.outcome = Outcome::Ok;
                op.value = value.unwrap_or(op.value);
            }
            Ended::At(index, value) => {
                op.outcome = Outcome::Ok;
                op.index = Some(index);
                op.value = value;
            }
            Ended::Fail(why) => {
                op.outcome = Outcome::Fail;
                op.error = Some(why);
            }
            Ended::Info(why) => {
                op.error = Some(why);
                self.number = self.recorder.0.clients.fetch_add(1, Ordering::Relaxed);
            }
        }
        if op.outcome != Outcome::Info {
            op.ret = Some(now);
        }
        // Where the writer has ended, closing says why.
        drop(self.recorder.0.queue.send(Message::Op(Box::new(op), now)));
    }
}

impl Asked {
    /// What is written.
    pub fn value(mut self, value: impl Into<Value>) -> Self {
        self.0.value = value.into();
        self
    }

    /// What has to be there, or which request it is.
    pub fn old(mut self, old: impl Into<Value>) -> Self {
        self.0.old = old.into();
        self
    }

    /// After all faults were healed and all others had stopped.
    pub fn last(mut self) -> Self {
        self.0.last = true;
        self
    }
}

fn write(mut file: BufWriter<File>, messages: &Receiver<Message>) -> Result<Written> {
    let (mut ops, mut clients) = (Vec::new(), Clients::default());
    let mut rates: BTreeMap<Workload, Vec<Rate>> = BTreeMap::new();
    while let Ok(message) = messages.recv() {
        match message {
            Message::Op(op, seen) => {
                let admitted = clients.admit(&op);
                admitted.with_context(|| format!("the harness recorded {op:?}"))?;
                serde_json::to_writer(&mut file, &op).context("writing the history")?;
                file.write_all(b"\n").context("writing the history")?;
                let rates = rates.entry(op.workload).or_default();
                let second = usize::try_from(seen / SECOND_NS).unwrap_or(usize::MAX);
                if rates.len() <= second {
                    rates.resize_with(second + 1, Rate::default);
                }
                rates[second].count(&op);
                ops.push(*op);
            }
            Message::Recall(workload, answer) => {
                let own = ops.iter().filter(|op: &&Op| op.workload == workload);
                drop(answer.send(own.cloned().collect()));
            }
            Message::Close => break,
        }
    }
    file.flush().context("writing the history")?;
    let series = rates.into_iter().map(|(workload, rates)| {
        let seconds = rates.into_iter().map(Rate::second).collect();
        (workload.name().to_owned(), seconds)
    });
    Ok((ops, series.collect()))
}

/// What happened in one second.
#[derive(Default)]
struct Rate {
    ok_us: Vec<u32>,
    fail: u64,
    info: u64,
}

impl Rate {
    fn count(&mut self, op: &Op) {
        match op.outcome {
            Outcome::Ok => {
                let took_us = (op.end() - op.call) / 1_000;
                self.ok_us.push(u32::try_from(took_us).unwrap_or(u32::MAX));
            }
            Outcome::Fail => self.fail += 1,
            Outcome::Info => self.info += 1,
        }
    }

    fn second(mut self) -> Second {
        self.ok_us.sort_unstable();
        let part = |of: usize| {
            let at = (self.ok_us.len() * of / 100).min(self.ok_us.len().saturating_sub(1));
            self.ok_us.get(at).map_or(0.0, |us| f64::from(*us) / 1e3)
        };
        Second {
            ok: self.ok_us.len() as u64,
            fail: self.fail,
            info: self.info,
            p50_ms: part(50),
            p99_ms: part(99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_can_be_read_back_and_judged() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("history.jsonl");
        let recorder = Recorder::create(&path)?;
        let mut client = recorder.client(Workload::Register);
        for number in 1..=3_u64 {
            let asked = client.begin("k", F::Write).value(number);
            client.end(asked, Ended::Ok(None));
        }
        let asked = client.begin("k", F::Write).value(4);
        client.end(asked, Ended::Info("outcome-unknown".to_owned()));
        // Goes on under another number.
        let asked = client.begin("k", F::Read).last();
        client.end(asked, Ended::Ok(Some(3.into())));
        assert_eq!(recorder.recall(Workload::Register)?.len(), 5);
        assert_eq!(recorder.recall(Workload::Set)?, []);
        let (ops, series) = recorder.close()?;
        let read = checker::read_file(&path)?;
        assert_eq!(read[&Workload::Register], ops);
        let verdict = checker::judge(Workload::Register, &ops, &[(F::Write, 3)]);
        assert!(verdict.valid, "{verdict:#?}");
        let (ok, info) = series["register"]
            .iter()
            .fold((0, 0), |(ok, info), second| {
                (ok + second.ok, info + second.info)
            });
        assert_eq!((ok, info), (4, 1));
        Ok(())
    }

    #[test]
    fn a_client_that_overlaps_itself_breaks_the_run() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let recorder = Recorder::create(&folder.path().join("history.jsonl"))?;
        let mut client = recorder.client(Workload::Register);
        let (first, second) = (client.begin("k", F::Read), client.begin("k", F::Read));
        client.end(first, Ended::Ok(None));
        client.end(second, Ended::Ok(None));
        assert!(recorder.close().is_err());
        Ok(())
    }
}
