//! Random histories of two regions: users write while a mover moves, fences come and go, messages arrive late and twice.
//!
//! Claims: what was acknowledged is where the dataset serves, equal to the last version; a batch of any time changes nothing
//! once it is behind; a retry is answered as it was; the same log gives the same bytes.

use proptest::prelude::*;
use proto::ids::{LogIndex, RequestId};
use proto::v1;
use proto::v1::arrive::Step as Arrives;
use proto::v1::depart::Step as Departs;
use proto::v1::shard_command::Command;
use proto::v1::{ArrivalPhase, ArrivalStep};

use super::fixture::parts::{Stream, complete, create_upload, finish_part};
use super::fixture::regions::{Regions, anew, arrive, depart, fence, plain};
use super::fixture::*;
use crate::limits::EPOCHS_KEPT;
use crate::listing::{VersionsQuery, versions};
use crate::read;
use crate::relocation::{Authority, Standing};

const KEYS: [&str; 3] = ["a", "a\0", "b"];

#[derive(Debug, Clone)]
enum Step {
    Put {
        key: usize,
        blocks: bool,
    },
    Delete {
        key: usize,
    },
    DeleteVersion {
        key: usize,
        made: u64,
    },
    Parts {
        key: usize,
        blocks: bool,
    },
    Versioning(bool),
    Lock,
    LegalHold {
        key: usize,
        made: u64,
        on: bool,
    },
    Tag {
        key: usize,
        made: u64,
        /// Decided on what is not there any more.
        stale: bool,
    },
    Quota(u64),
    /// Ends a fence.
    Hold,
    Epoch {
        source: bool,
    },
    List(usize),
    CatchUp,
    Follow(usize),
    Cross,
    Verify,
    Again,
    Fence,
    Revert,
    /// A command that one of the shards has had before, once more.
    Late {
        source: bool,
        back: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS.len();
    prop_oneof![
        8 => (key.clone(), any::<bool>()).prop_map(|(key, blocks)| Step::Put { key, blocks }),
        3 => key.clone().prop_map(|key| Step::Delete { key }),
        3 => (key.clone(), 0u64..30).prop_map(|(key, made)| Step::DeleteVersion { key, made }),
        2 => (key.clone(), any::<bool>()).prop_map(|(key, blocks)| Step::Parts { key, blocks }),
        2 => any::<bool>().prop_map(Step::Versioning),
        1 => Just(Step::Lock),
        2 => (key.clone(), 0u64..30, any::<bool>())
            .prop_map(|(key, made, on)| Step::LegalHold { key, made, on }),
        4 => (key, 0u64..30, prop::bool::weighted(0.2))
            .prop_map(|(key, made, stale)| Step::Tag { key, made, stale }),
        1 => (10u64..12).prop_map(Step::Quota),
        1 => Just(Step::Hold),
        1 => any::<bool>().prop_map(|source| Step::Epoch { source }),
        8 => (1usize..4).prop_map(Step::List),
        3 => Just(Step::CatchUp),
        4 => (1usize..4).prop_map(Step::Follow),
        2 => Just(Step::Cross),
        3 => Just(Step::Verify),
        1 => Just(Step::Again),
        2 => Just(Step::Fence),
        2 => Just(Step::Revert),
        5 => (any::<bool>(), 0usize..40).prop_map(|(source, back)| Step::Late { source, back }),
    ]
}

struct Run {
    regions: Regions,
    made: u64,
    seeds: u64,
    sent: Vec<(v1::ShardCommand, v1::ShardAnswer)>,
}

impl Run {
    fn new() -> Self {
        let mut regions = Regions::new();
        regions.begin();
        Self {
            regions,
            made: 0,
            seeds: 0,
            sent: Vec::new(),
        }
    }

    fn phase(&self) -> ArrivalPhase {
        self.regions.arrival().phase()
    }

    fn mint(&mut self) -> proto::ids::ObjectVersionId {
        self.made += 1;
        version(self.made)
    }

    fn ask(&mut self, kind: Command) -> v1::ShardAnswer {
        let command = self.regions.source.command(kind);
        let answer = self.regions.source.apply(command.clone());
        self.sent.push((command, answer.clone()));
        answer
    }

    fn step(&mut self, step: &Step) {
        let phase = self.phase();
        let fills = matches!(
            phase,
            ArrivalPhase::CatchUp | ArrivalPhase::Verifying | ArrivalPhase::Fenced
        );
        match step {
            Step::Put { key, blocks } => {
                let id = self.mint();
                let epoch = self.regions.source.meta().upload_epoch;
                let kind = match blocks {
                    true => Command::FinishObject(finish_at(KEYS[*key], id, &[1, 3], epoch)),
                    false => Command::PutObject(put(KEYS[*key], id)),
                };
                self.ask(kind);
            }
            Step::Delete { key } => {
                let marker = self.mint();
                self.ask(Command::DeleteObject(delete_with_marker(
                    KEYS[*key], marker,
                )));
            }
            Step::DeleteVersion { key, made } => {
                let asked = delete_version(KEYS[*key], version(*made));
                self.ask(Command::DeleteObject(asked));
            }
            Step::Parts { key, blocks } => self.upload(KEYS[*key], *blocks),
            Step::Versioning(enabled) => {
                self.ask(Command::SetVersioning(v1::SetVersioning {
                    dataset_id: DATASET.into(),
                    enabled: *enabled,
                }));
            }
            Step::Lock => {
                self.ask(Command::SetObjectLock(v1::SetObjectLock {
                    dataset_id: DATASET.into(),
                    lock: Some(v1::ObjectLock::default()),
                }));
            }
            Step::LegalHold { key, made, on } => {
                self.ask(Command::SetLegalHold(v1::SetLegalHold {
                    dataset_id: DATASET.into(),
                    key: KEYS[*key].to_owned(),
                    version_id: version(*made).into(),
                    on: *on,
                }));
            }
            Step::Tag { key, made, stale } => self.tag(KEYS[*key], version(*made), *stale),
            Step::Quota(objects_max) => {
                self.ask(Command::SetQuota(v1::SetQuota {
                    dataset_id: DATASET.into(),
                    quota: Some(v1::Quota {
                        objects_max: *objects_max,
                        sealed_bytes_max: 0,
                    }),
                }));
            }
            Step::Hold => {
                let held = self.regions.source.dataset().hold.unwrap_or_default();
                self.ask(Command::SetHold(v1::SetHold {
                    dataset_id: DATASET.into(),
                    from_version: held.version,
                    retain_until_ms: held.retain_until_ms + 1,
                    legal: held.legal,
                    ..Default::default()
                }));
                self.notice_end();
            }
            Step::Epoch { source: true } => self.regions.source.advance_epoch(),
            Step::Epoch { source: false } => self.regions.destination.advance_epoch(),
            Step::List(limit) if phase == ArrivalPhase::Copying => {
                self.regions.list(*limit);
            }
            Step::CatchUp => {
                self.regions.destination.run(plain(ArrivalStep::CatchUp));
            }
            Step::Follow(limit) if fills => {
                self.regions.follow(*limit);
            }
            Step::Cross if fills => self.regions.cross(),
            Step::Verify => {
                self.regions.destination.run(plain(ArrivalStep::Verify));
            }
            Step::Again if fills => {
                let base = self.regions.source.index;
                let again = arrive(Arrives::CopyAgain(base));
                self.regions.destination.run(again);
            }
            Step::Fence if phase == ArrivalPhase::Verifying => self.fence(),
            Step::Revert => {
                if let Standing::Fenced { at } = self.standing() {
                    done(self.regions.source.run(depart(Departs::Revert(at.0))));
                    self.notice_end();
                }
            }
            Step::Late { source, back } => {
                let shard = match source {
                    true => &mut self.regions.source,
                    false => &mut self.regions.destination,
                };
                let at = shard.log.len().checked_sub(back + 1);
                if let Some(command) = at.map(|at| shard.log[at].clone()) {
                    shard.apply_bytes(command).expect("a known command");
                }
                self.notice_end();
            }
            _ => {}
        }
    }

    fn standing(&self) -> Standing {
        Authority::stored(&self.regions.source.dataset()).standing()
    }

    fn fence(&mut self) {
        let authority = Authority::stored(&self.regions.source.dataset());
        let fences = authority.departure().expect("it is departing").fences.0;
        done(self.regions.source.run(fence(fences)));
        let fenced = self.regions.fenced();
        done(self.regions.destination.run(fenced));
    }

    /// The destination hears of a fence that is over.
    fn notice_end(&mut self) {
        let Some(fence) = self.regions.arrival().fence else {
            return;
        };
        let stands = Standing::Fenced {
            at: LogIndex(fence.fence),
        };
        if self.standing() != stands {
            let over = arrive(Arrives::Reverted(fence.fence));
            done(self.regions.destination.run(over));
        }
    }

    fn tag(&mut self, key: &str, id: proto::ids::ObjectVersionId, stale: bool) {
        self.seeds += 1;
        let held = read::head(&self.regions.source.state, &DATASET, key, Some(&id));
        let from = match held.filter(|_| !stale) {
            Some(head) => head.sealed_metadata,
            None => "stale".into(),
        };
        let to = format!("tagged {}", self.seeds);
        let answer = self.ask(set_metadata(key, id, &from, to.as_bytes()));
        // A version put anew under an id that is used is none: what is stale is never taken.
        if stale {
            refused(answer);
        }
    }

    fn upload(&mut self, key: &str, blocks: bool) {
        let id = self.mint();
        self.seeds += 1;
        let stream = Stream {
            number: 1,
            seed: self.seeds,
            blocks,
        };
        let epoch = self.regions.source.meta().upload_epoch;
        self.ask(Command::CreateUpload(create_upload(key, id)));
        self.ask(Command::FinishPart(finish_part(key, id, stream, epoch)));
        self.ask(Command::CompleteUpload(complete(key, id, &[stream])));
    }

    /// Goes on from wherever it is until the dataset has moved.
    fn finish(&mut self) {
        if self.phase() == ArrivalPhase::Copying {
            while self.regions.list(5) {}
            done(self.regions.destination.run(plain(ArrivalStep::CatchUp)));
        }
        while self.regions.follow(7) {}
        if self.phase() == ArrivalPhase::CatchUp {
            done(self.regions.destination.run(plain(ArrivalStep::Verify)));
        }
        if self.phase() == ArrivalPhase::Verifying {
            self.fence();
        }
        while self.regions.follow(7) {}
        self.regions.cross();
        self.regions.cut_over();
    }

    /// `sealed` is what sealed metadata looks like where the dataset came from.
    fn listed(
        shard: &Shard,
        sealed: impl Fn(bytes::Bytes) -> bytes::Bytes,
    ) -> Vec<(String, v1::ObjectEntry)> {
        let query = VersionsQuery {
            dataset: &DATASET,
            prefix: "",
            start_after_key: "",
            start_after_index: LogIndex(0),
            limit: 0,
        };
        // What users see of a version, wherever it is.
        let seen = |entry: v1::ObjectEntry| v1::ObjectEntry {
            version_id: entry.version_id,
            delete_marker: entry.delete_marker,
            plain_bytes: entry.plain_bytes,
            finished_at_ms: entry.finished_at_ms,
            versioned: entry.versioned,
            parts: entry.parts,
            retention: entry.retention,
            legal_hold: entry.legal_hold,
            sealed_metadata: match entry.delete_marker {
                true => entry.sealed_metadata,
                false => sealed(entry.sealed_metadata),
            },
            ..Default::default()
        };
        let listed = versions(&shard.state, query).versions.into_iter();
        listed
            .map(|one| (one.key, seen(one.entry.unwrap_or_default())))
            .collect()
    }
}

/// Listed before, changed after: the copy of before would differ in nothing but its tags.
#[test]
fn a_tag_that_was_changed_after_its_version_was_listed_moves_with_it() {
    let mut run = Run::new();
    let id = version(1);
    done(run.ask(Command::PutObject(put("a", id))));
    while run.regions.list(5) {}
    done(run.ask(set_metadata("a", id, b"metadata", b"red")));
    done(run.ask(set_metadata("a", id, b"red", b"blue")));
    let behind = run.regions.source_root();
    assert_ne!(run.regions.destination_root(), behind);
    done(run.regions.destination.run(plain(ArrivalStep::CatchUp)));
    while run.regions.follow(7) {}
    done(run.regions.destination.run(plain(ArrivalStep::Verify)));
    assert_eq!(run.regions.destination_root(), behind);
    run.fence();
    let late = run.ask(set_metadata("a", id, b"blue", b"green"));
    assert_eq!(reason(late), v1::Refusal::DatasetFenced);
    run.finish();
    let read = |shard: &Shard| read::head(&shard.state, &DATASET, "a", None).expect("it is there");
    assert_eq!(
        read(&run.regions.destination).sealed_metadata,
        anew(b"blue")
    );
    assert_eq!(run.regions.destination.dataset().epoch, 2);
    // It goes on here, and what the first region answered is answered again.
    let destination = &mut run.regions.destination;
    done(destination.run(set_metadata("a", id, b"anew: blue", b"green")));
    for (command, answer) in run.sent.clone() {
        if let Some(v1::shard_answer::Answer::Done(_)) = answer.answer {
            assert_eq!(run.regions.destination.apply(command), answer);
        }
    }
    assert_eq!(
        &read(&run.regions.destination).sealed_metadata[..],
        b"green"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn what_was_acknowledged_is_where_the_dataset_serves(
        steps in prop::collection::vec(step(), 1..80),
        late in prop::collection::vec(any::<prop::sample::Index>(), 8),
    ) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
        }
        let kept = run.regions.source.meta().upload_epoch.0;
        run.finish();
        let there = Run::listed(&run.regions.source, |sealed| anew(&sealed));
        let here = |run: &Run| Run::listed(&run.regions.destination, |sealed| sealed);
        prop_assert_eq!(here(&run), there.clone());
        // Whatever is still on its way to the destination.
        for at in &late {
            let log = run.regions.destination.log.clone();
            let command = at.get(&log).clone();
            let decoded: v1::ShardCommand =
                prost::Message::decode(command.clone()).expect("a command");
            if matches!(decoded.command, Some(Command::Import(_) | Command::Arrive(_))) {
                run.regions.destination.apply_bytes(command).expect("a known command");
            }
        }
        prop_assert_eq!(here(&run), there.clone());
        // Retries: of what is final the same answer, of what never ran none of having run.
        for (command, answer) in run.sent.clone() {
            let Ok(id) = RequestId::try_from(command.request_id.as_ref()) else {
                continue;
            };
            let again = run.regions.destination.apply(command);
            let final_answer = match &answer.answer {
                Some(v1::shard_answer::Answer::Refused(refused)) => matches!(
                    refused.reason(),
                    v1::Refusal::PreconditionFailed | v1::Refusal::NoSuchObject
                ),
                _ => true,
            };
            if final_answer && id.epoch.0 + EPOCHS_KEPT >= kept {
                prop_assert_eq!(again, answer);
            }
        }
        for shard in [&run.regions.source, &run.regions.destination] {
            let mut twin = Shard::empty();
            for (at, command) in shard.log.iter().enumerate() {
                // The fixture founds its source below the level.
                let founding = std::ptr::eq(shard, &run.regions.source) && at < 3;
                twin.level = if founding { Default::default() } else { shard.level };
                twin.apply_bytes(command.clone()).expect("a known command");
            }
            prop_assert_eq!(&twin.state, &shard.state);
            prop_assert_eq!(&twin.local, &shard.local);
        }
    }
}
