//! The KMS as a pure machine, under commands drawn from a seed.
//!
//! Owns the run: two replicas are fed one log; after every command their answers and states are compared with each
//! other and with a model, every invariant is checked, and a refused command must have changed nothing. A replica is
//! now and then thrown away and taken up from its stored form; heads of the log that were seen once must be
//! contained for ever, by proof. Refuses key bytes: what stands for wrapped keys is constant.

mod access_keys;
mod bend;
mod compare;
mod draw;
mod erased;
mod labels;
mod model;
pub(crate) mod region;
mod uses;

use bytes::Bytes;
use kms_state::{At, LEVEL_MAX, LeavesAsked, apply, invariant};
use prost::Message as _;
use proto::ids::{LeafIndex, LogIndex};
use proto::store::MemoryStore;
use proto::v1::kms_command::Command;
use proto::v1::{KmsAnswer, KmsCommand, KmsRefusal, RecordAnswer, kms_answer};
use rand::Rng;

use self::compare::Head;
use self::draw::Draw;
use self::model::{Model, Outcome, Position};
use crate::logbook::{Logbook, short};
use crate::stored::reloaded;
use crate::{Broken, hold};

const COMMANDS: &str = "kms commands";
const REFUSALS: &str = "kms refusals";
const STATES: &str = "kms states";
const EVENTS: &str = "kms events";

/// A KMS under its model.
struct Run<'a> {
    book: &'a Logbook,
    draw: Draw,
    model: Model,
    at: Position,
    one: MemoryStore,
    other: MemoryStore,
    log: Vec<(Position, Bytes)>,
    seen: Option<Head>,
}

/// Runs one seed.
pub fn seed(seed: u64, book: &Logbook) -> Result<(), Broken> {
    let mut draw = Draw::new(seed);
    let steps = draw.rng.random_range(30..150);
    let mut run = Run {
        book,
        draw,
        model: Model::default(),
        at: Position {
            index: 0,
            voters: 3,
        },
        one: MemoryStore::default(),
        other: MemoryStore::default(),
        log: Vec::new(),
        seen: None,
    };
    for step in 0..steps {
        run.step()
            .map_err(|broken| Broken(format!("{broken}; step {step}")))?;
    }
    run.end()
}

impl Run<'_> {
    fn step(&mut self) -> Result<(), Broken> {
        match self.draw.rng.random_range(0..24) {
            0 => self.at.voters = [1, 3, 3, 4, 5][self.draw.rng.random_range(0..5)],
            1 => {
                self.book
                    .count(EVENTS, "state taken up from its stored form");
                self.other = reloaded(&self.one);
            }
            2 => self.stranger()?,
            3 => self.seen = Head::of(&self.one),
            _ => {}
        }
        // Elections and changes of membership take indexes too.
        self.at.index += self.draw.rng.random_range(1..3);
        let command = self.draw.next(&self.one);
        let bytes = Bytes::from(command.encode_to_vec());
        let (before, leaves) = (self.one.clone(), self.model.leaves.len() as u64);
        let expected = self.model.expect(self.at, &command);
        let outcome = self.apply(&command, &bytes)?;
        let index = self.at.index;
        hold!(
            outcome == expected,
            "index {index}: {command:?} came to {outcome:?}, the model says {expected:?}"
        );
        let changes_nothing = matches!(outcome, Outcome::Unknown | Outcome::Refused(_));
        hold!(
            !changes_nothing || self.one == before,
            "index {index}: a refused command changed the state: {command:?}"
        );
        let broken = |broken: invariant::Broken| Broken(format!("{broken}, after index {index}"));
        invariant::all(&self.one).map_err(broken)?;
        invariant::invariant_only_grows(&before, &self.one).map_err(broken)?;
        compare::state(&self.one, &self.model)?;
        compare::leaves(&self.one, &self.model, leaves)?;
        if let Some(seen) = &self.seen {
            compare::proofs(&self.one, seen, &mut self.draw.rng)?;
        }
        self.count(&command, &outcome);
        self.draw.follow(&self.one);
        Ok(())
    }

    /// Applies a command on both replicas and answers what it came to.
    fn apply(&mut self, command: &KmsCommand, bytes: &Bytes) -> Result<Outcome, Broken> {
        let at = At {
            index: LogIndex(self.at.index),
            voters: self.at.voters,
            level: LEVEL_MAX,
        };
        let answer = apply(at, bytes, &mut self.one);
        let again = apply(at, bytes, &mut self.other);
        self.book.note(format_args!(
            "{} {} {}",
            at.index,
            short(bytes),
            answer.as_ref().map_or("unknown".to_owned(), |a| short(a))
        ));
        hold!(
            answer == again && self.one == self.other,
            "two replicas differ after the same log, at {}: {command:?}",
            at.index
        );
        let Ok(answer) = answer else {
            return Ok(Outcome::Unknown);
        };
        self.log.push((self.at, bytes.clone()));
        let decoded = KmsAnswer::decode(answer).map(|answer| answer.answer);
        match decoded {
            Ok(Some(kms_answer::Answer::Refused(refused))) => Ok(Outcome::Refused(refused)),
            Ok(Some(kms_answer::Answer::Done(done))) => Ok(Outcome::Done(done)),
            Ok(Some(kms_answer::Answer::Records(records))) => {
                let answers = records.answers.into_iter();
                let answers: Result<_, _> = answers.map(|one| self.released(one)).collect();
                Ok(Outcome::Records(answers?))
            }
            other => Err(Broken(format!("an answer that is none: {other:?}"))),
        }
    }

    /// A record that was acknowledged names the hash of its leaf, and that leaf is in the log. Takes the hash out.
    fn released(&self, answer: RecordAnswer) -> Result<RecordAnswer, Broken> {
        if answer.refused != 0 {
            return Ok(answer);
        }
        let asked = LeavesAsked {
            start: LeafIndex(answer.leaf_index),
            limit: 1,
            bytes_max: usize::MAX,
            with_openings: false,
        };
        let leaf = kms_state::leaves(&self.one, asked).pop();
        let hash = leaf.map(|leaf| tlog::leaf_hash(&leaf.leaf).0.to_vec());
        hold!(
            hash.as_deref() == Some(&answer.leaf_hash[..]),
            "leaf {} was answered with another hash than it has",
            answer.leaf_index
        );
        Ok(RecordAnswer {
            leaf_hash: Bytes::new(),
            ..answer
        })
    }

    /// What a later build wrote stops the replica and leaves its state alone.
    fn stranger(&mut self) -> Result<(), Broken> {
        self.book.count(EVENTS, "unknown command");
        let mut bytes = self.draw.next(&self.one).encode_to_vec();
        // Field 99, which no message here has.
        bytes.extend_from_slice(&[0x98, 0x06, 0x01]);
        let before = self.one.clone();
        let at = At {
            index: LogIndex(self.at.index + 1),
            voters: self.at.voters,
            level: LEVEL_MAX,
        };
        hold!(
            apply(at, &bytes, &mut self.one).is_err() && self.one == before,
            "a command with a field of a later build was applied"
        );
        Ok(())
    }

    /// The same log gives the same bytes.
    fn end(&self) -> Result<(), Broken> {
        compare::leaves(&self.one, &self.model, 0)?;
        let mut replayed = MemoryStore::default();
        for (at, bytes) in &self.log {
            let at = At {
                index: LogIndex(at.index),
                voters: at.voters,
                level: LEVEL_MAX,
            };
            apply(at, bytes, &mut replayed)
                .map_err(|unknown| Broken(format!("in a replay: {unknown}")))?;
        }
        self.book.count(EVENTS, "whole log replayed");
        self.book
            .count_by(STATES, "leaves", self.model.leaves.len() as u64);
        hold!(
            replayed == self.one,
            "a replay of {} commands gives another state",
            self.log.len()
        );
        Ok(())
    }

    fn count(&self, command: &KmsCommand, outcome: &Outcome) {
        let (book, kind) = (self.book, kind(command));
        match outcome {
            Outcome::Unknown => book.count(COMMANDS, &format!("{kind} unknown")),
            Outcome::Done(_) => book.count(COMMANDS, &format!("{kind} done")),
            Outcome::Refused(refused) => {
                book.count(COMMANDS, &format!("{kind} refused"));
                book.count(REFUSALS, &format!("{:?}", refused.reason()));
            }
            Outcome::Records(answers) => {
                for answer in answers {
                    let how = match (answer.refused(), answer.reused) {
                        (KmsRefusal::Unspecified, false) => "recorded",
                        (KmsRefusal::Unspecified, true) => "found again",
                        (reason, _) => {
                            book.count(REFUSALS, &format!("{reason:?}"));
                            "refused"
                        }
                    };
                    book.count(COMMANDS, &format!("Record {how}"));
                }
            }
        }
        for key in self.model.keys.values() {
            book.count(STATES, &format!("key {:?}", key.state));
        }
    }
}

fn kind(command: &KmsCommand) -> &'static str {
    match &command.command {
        Some(Command::Init(_)) => "Init",
        Some(Command::CreateKek(_)) => "CreateKek",
        Some(Command::RotateKek(_)) => "RotateKek",
        Some(Command::ChangeKeyState(_)) => "ChangeKeyState",
        Some(Command::Records(_)) => "Records",
        Some(Command::ChangeEnrolment(_)) => "ChangeEnrolment",
        Some(Command::ChangeGrants(_)) => "ChangeGrants",
        Some(Command::ChangePolicy(_)) => "ChangePolicy",
        Some(Command::ChangeWitnesses(_)) => "ChangeWitnesses",
        Some(Command::DestroyKek(_)) => "DestroyKek",
        Some(Command::PlanKeyRotation(_)) => "PlanKeyRotation",
        Some(Command::RaiseMinVersion(_)) => "RaiseMinVersion",
        Some(Command::EndKekVersions(_)) => "EndKekVersions",
        Some(Command::LabelKey(_)) => "LabelKey",
        Some(Command::RecordUnseal(_)) => "RecordUnseal",
        Some(Command::ConfirmShard(_)) => "ConfirmShard",
        Some(Command::AllocateKmsId(_)) => "AllocateKmsId",
        Some(Command::ConfirmErased(_)) => "ConfirmErased",
        Some(Command::RegisterShard(_)) => "RegisterShard",
        Some(Command::AdvanceTime(_)) => "AdvanceTime",
        Some(Command::BeginCustody(_)) => "BeginCustody",
        Some(Command::ConfirmShare(_)) => "ConfirmShare",
        Some(Command::RewrapKeks(_)) => "RewrapKeks",
        Some(Command::FinishCustody(_)) => "FinishCustody",
        Some(Command::AbandonCustody(_)) => "AbandonCustody",
        Some(Command::EraseShare(_)) => "EraseShare",
        Some(Command::RetireEpoch(_)) => "RetireEpoch",
        Some(Command::RecordSeal(_)) => "RecordSeal",
        Some(Command::SendRoot(_)) => "SendRoot",
        Some(Command::BeginBackup(_)) => "BeginBackup",
        Some(Command::ConfirmBackup(_)) => "ConfirmBackup",
        Some(Command::RestoreRows(_)) => "RestoreRows",
        Some(Command::FinishRestore(_)) => "FinishRestore",
        Some(Command::ProvisionSeal(_)) => "ProvisionSeal",
        Some(Command::DropSeal(_)) => "DropSeal",
        Some(Command::ApproveRestore(_)) => "ApproveRestore",
        Some(Command::CreateAccessKey(_)) => "CreateAccessKey",
        Some(Command::SetAccessKeyState(_)) => "SetAccessKeyState",
        Some(Command::DeleteAccessKey(_)) => "DeleteAccessKey",
        Some(Command::GrantHandOver(_)) => "GrantHandOver",
        Some(Command::SetHandOver(_)) => "SetHandOver",
        Some(Command::ShredKey(_)) => "ShredKey",
        Some(Command::CreateHandOverKey(_)) => "CreateHandOverKey",
        Some(Command::EndHandOverKey(_)) => "EndHandOverKey",
        Some(Command::PublishRegion(_)) => "PublishRegion",
        Some(Command::TrustRegion(_)) => "TrustRegion",
        Some(Command::DistrustRegion(_)) => "DistrustRegion",
        None => "none",
    }
}
