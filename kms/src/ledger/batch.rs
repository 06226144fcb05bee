//! One task puts waiting records into entries: what waits together is recorded together.
//!
//! Owns the order of the queue and the bounds of an entry. A record that finds no entry on its way goes at once; what
//! arrives meanwhile shares the next one, which goes when the last has come back or when it is worth one of its own: an
//! entry costs every replica as much as several records do. Refuses to put two verdicts of different authority versions
//! into one entry, because an entry states one.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use prost::Message as _;
use proto::danger::{Switch, broken};
use proto::ids::{LeafIndex, NodeId, UnixMs};
use proto::v1;
use replica::host::{Group, ProposeError};
use tokio::sync::{mpsc, oneshot};
use transport::SharedClock;

use super::Leaf;
use crate::random;

/// Entries on their way at once. More would only make smaller entries.
const IN_FLIGHT_MAX: usize = 4;
/// Records for which another entry goes while one is on its way; so do fewer that fill one.
const WORTH_AN_ENTRY: usize = 32;
/// Records in one entry.
const RECORDS_MAX: usize = 256;
/// Bytes of records in one entry: half of what an entry may have.
const BYTES_MAX: usize = 512 * 1024;

/// A record that waits for its place.
pub(super) struct Waiting {
    record: v1::Record,
    /// Of the record, encoded.
    bytes: usize,
    /// The authority version its verdict was reached under.
    authority: u64,
    answer: oneshot::Sender<Outcome>,
}

impl Waiting {
    pub(super) fn new(
        record: v1::Record,
        authority: u64,
        answer: oneshot::Sender<Outcome>,
    ) -> Self {
        let bytes = record.encoded_len();
        Self {
            record,
            bytes,
            authority,
            answer,
        }
    }
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Committed and applied.
    Recorded(Leaf),
    /// Refused at apply.
    Refused(v1::KmsRefusal),
    /// Not proposed: another replica leads.
    NotLeader(Option<NodeId>),
    /// Not proposed: too much in flight.
    Busy,
    /// Not proposed: larger than an entry.
    TooLarge,
    /// Not proposed: the replica stops.
    Stopped,
    /// Proposed, and no word of it.
    Unknown,
}

/// Runs until every sender is gone and what was taken is answered.
pub(super) async fn write(group: Group, clock: SharedClock, mut waiting: mpsc::Receiver<Waiting>) {
    let mut in_flight = FuturesUnordered::new();
    let mut taken = VecDeque::new();
    let mut open = true;
    loop {
        while in_flight.len() < IN_FLIGHT_MAX {
            fill(&mut taken, &mut waiting);
            if !in_flight.is_empty() && !worth_an_entry(&taken) {
                break;
            }
            let batch = cut(&mut taken);
            if batch.is_empty() {
                break;
            }
            in_flight.push(propose(&group, &clock, batch));
        }
        if !open && in_flight.is_empty() {
            return;
        }
        tokio::select! {
            biased;
            Some(()) = in_flight.next(), if !in_flight.is_empty() => {}
            next = waiting.recv(), if open && !worth_an_entry(&taken) => match next {
                Some(next) => taken.push_back(next),
                None => open = false,
            },
        }
    }
}

fn worth_an_entry(taken: &VecDeque<Waiting>) -> bool {
    taken.len() >= WORTH_AN_ENTRY || taken.iter().map(|w| w.bytes).sum::<usize>() >= BYTES_MAX
}

/// Takes what waits, up to one entry's number: the rest waits in the bounded queue.
fn fill(taken: &mut VecDeque<Waiting>, waiting: &mut mpsc::Receiver<Waiting>) {
    while taken.len() < RECORDS_MAX
        && let Ok(next) = waiting.try_recv()
    {
        taken.push_back(next);
    }
}

/// The next entry: records of one authority version, within the bounds, in the order they came. Those whose caller
/// has gone are left out: nothing was recorded and nobody waits.
fn cut(taken: &mut VecDeque<Waiting>) -> Vec<Waiting> {
    let mut batch: Vec<Waiting> = Vec::new();
    let mut bytes = 0;
    while let Some(next) = taken.front() {
        let abandoned = next.answer.is_closed() && !broken(Switch::ReleaseBeforeRecord);
        if abandoned {
            taken.pop_front();
            continue;
        }
        bytes += next.bytes;
        let fits = batch.first().is_none_or(|first| {
            first.authority == next.authority && bytes <= BYTES_MAX && batch.len() < RECORDS_MAX
        });
        if !fits {
            break;
        }
        batch.extend(taken.pop_front());
    }
    batch
}

async fn propose(group: &Group, clock: &SharedClock, batch: Vec<Waiting>) {
    let (answers, records): (Vec<_>, Vec<_>) = batch
        .into_iter()
        .map(|w| ((w.answer, w.authority), w.record))
        .unzip();
    let authority_version = answers
        .first()
        .map(|(_, authority)| *authority)
        .unwrap_or_default();
    metrics::histogram!("reduit_kms_records_per_entry").record(records.len() as f64);
    let command = v1::KmsCommand {
        now_ms: clock.now().0,
        authority_version,
        salts: Bytes::copy_from_slice(&random::<32>()),
        approvals: Vec::new(),
        requester: String::new(),
        command: Some(v1::kms_command::Command::Records(v1::RecordBatch {
            records,
        })),
    };
    let proposed = group.propose_reserved(command.encode_to_vec().into()).await;
    let outcomes = match proposed {
        Ok(applied) => read(applied.answer, answers.len()),
        Err(error) => vec![outcome(error); answers.len()],
    };
    for ((answer, _), outcome) in answers.into_iter().zip(outcomes) {
        // Who went away has its record all the same, as the log says.
        let _ = answer.send(outcome);
    }
}

/// One outcome a record; an answer that is none of ours leaves every one unknown.
fn read(answer: Bytes, count: usize) -> Vec<Outcome> {
    let unknown = || vec![Outcome::Unknown; count];
    match v1::KmsAnswer::decode(answer)
        .ok()
        .and_then(|answer| answer.answer)
    {
        Some(v1::kms_answer::Answer::Records(records)) if records.answers.len() == count => {
            let outcomes = records.answers.iter().map(|answer| match answer.refused() {
                v1::KmsRefusal::Unspecified => Outcome::Recorded(Leaf {
                    index: LeafIndex(answer.leaf_index),
                    recorded_at: UnixMs(answer.time_ms),
                }),
                refused => Outcome::Refused(refused),
            });
            outcomes.collect()
        }
        Some(v1::kms_answer::Answer::Refused(refused)) => {
            vec![Outcome::Refused(refused.reason()); count]
        }
        _ => unknown(),
    }
}

/// The outcome of a record that went alone.
pub(super) fn read_one(answer: Bytes) -> Outcome {
    read(answer, 1).pop().unwrap_or(Outcome::Unknown)
}

/// What a failed proposal means for what was in it.
pub(super) fn outcome(error: ProposeError) -> Outcome {
    match error {
        ProposeError::NotLeader { leader } => Outcome::NotLeader(leader),
        ProposeError::TooLarge { .. } => Outcome::TooLarge,
        ProposeError::Overloaded | ProposeError::Full => Outcome::Busy,
        ProposeError::Stopped => Outcome::Stopped,
        ProposeError::Unknown => Outcome::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(authority: u64, bytes: usize) -> (Waiting, oneshot::Receiver<Outcome>) {
        let (answer, outcome) = oneshot::channel();
        let claim = v1::Claim {
            case_id: "c".repeat(bytes),
            ..Default::default()
        };
        let record = v1::Record {
            claim: Some(claim),
            ..Default::default()
        };
        (Waiting::new(record, authority, answer), outcome)
    }

    #[test]
    fn an_entry_holds_one_authority_version_and_keeps_the_order() {
        let (mut taken, mut kept) = (VecDeque::new(), Vec::new());
        for authority in [1, 1, 2, 1] {
            let (one, outcome) = waiting(authority, 1);
            taken.push_back(one);
            kept.push(outcome);
        }
        let versions = |batch: Vec<Waiting>| batch.iter().map(|w| w.authority).collect::<Vec<_>>();
        assert_eq!(versions(cut(&mut taken)), [1, 1]);
        assert_eq!(versions(cut(&mut taken)), [2]);
        assert_eq!(versions(cut(&mut taken)), [1]);
        assert!(cut(&mut taken).is_empty());
    }

    #[test]
    fn an_entry_is_bounded_in_bytes_and_number_and_a_large_record_goes_alone() {
        let (mut taken, mut kept) = (VecDeque::new(), Vec::new());
        for bytes in [BYTES_MAX, BYTES_MAX / 2, BYTES_MAX / 2] {
            let (one, outcome) = waiting(1, bytes);
            taken.push_back(one);
            kept.push(outcome);
        }
        assert_eq!(cut(&mut taken).len(), 1);
        assert_eq!(cut(&mut taken).len(), 1);
        assert_eq!(cut(&mut taken).len(), 1);
        for _ in 0..=RECORDS_MAX {
            let (one, outcome) = waiting(1, 0);
            taken.push_back(one);
            kept.push(outcome);
        }
        assert_eq!(cut(&mut taken).len(), RECORDS_MAX);
        assert_eq!(cut(&mut taken).len(), 1);
    }

    #[test]
    fn an_answer_of_another_length_leaves_every_outcome_unknown() {
        let answers = v1::RecordAnswers {
            answers: vec![v1::RecordAnswer::default()],
        };
        let answer = v1::KmsAnswer {
            answer: Some(v1::kms_answer::Answer::Records(answers)),
        };
        let bytes = Bytes::from(answer.encode_to_vec());
        assert_eq!(read(bytes.clone(), 2), [Outcome::Unknown; 2]);
        let recorded = Outcome::Recorded(Leaf {
            index: LeafIndex(0),
            recorded_at: UnixMs(0),
        });
        assert_eq!(read(bytes, 1), [recorded]);
        assert_eq!(read(Bytes::from_static(b"\xff"), 1), [Outcome::Unknown]);
    }
}
