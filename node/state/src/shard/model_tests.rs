//! Random command sequences against a map that says what a user should see.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use proto::ids::{LogIndex, ObjectVersionId, RequestId, UploadEpoch};
use proto::v1;
use proto::v1::Refusal;
use proto::v1::shard_command::Command;

use super::fixture::parts::{Stream, abort, complete, create_upload, finish_part};
use super::fixture::*;
use crate::limits::EPOCHS_KEPT;
use crate::listing::{ObjectsQuery, VersionsQuery, objects, versions};
use crate::read;
use crate::shard::CONFIG_LEVEL;

const KEYS: [&str; 4] = ["a", "a/b", "a\0", "b"];

#[derive(Debug, Clone)]
enum Condition {
    None,
    Absent,
    /// The current version, as the model sees it.
    Current,
    Wrong,
}

#[derive(Debug, Clone)]
enum Step {
    Put {
        key: usize,
        condition: Condition,
        blocks: bool,
        reuse: Option<u64>,
    },
    Delete {
        key: usize,
        condition: Condition,
    },
    /// The version at this place of all ever made, whether it lives or not.
    DeleteVersion {
        key: usize,
        made: u64,
    },
    Versioning(bool),
    Epochs(u64),
    /// An earlier command again, under a new verdict.
    Retry {
        back: usize,
    },
    /// An earlier request id with another request.
    Steal {
        back: usize,
    },
    Begin {
        key: usize,
        reuse: Option<u64>,
    },
    /// Of the id at this place of all ever made, be it an upload's or not.
    Part {
        made: u64,
        number: u32,
        seed: u64,
        blocks: bool,
    },
    /// Names the parts whose bits are set, as the model sees them, and perhaps one that is not there.
    Complete {
        made: u64,
        condition: Condition,
        named: u32,
        wrong: bool,
    },
    Abort {
        made: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let condition = prop_oneof![
        4 => Just(Condition::None),
        1 => Just(Condition::Absent),
        2 => Just(Condition::Current),
        1 => Just(Condition::Wrong),
    ];
    let key = 0..KEYS.len();
    prop_oneof![
        6 => (key.clone(), condition.clone(), any::<bool>(), prop::option::weighted(0.1, 0u64..20))
            .prop_map(|(key, condition, blocks, reuse)| Step::Put { key, condition, blocks, reuse }),
        3 => (key.clone(), condition).prop_map(|(key, condition)| Step::Delete { key, condition }),
        2 => (key, 0u64..20).prop_map(|(key, made)| Step::DeleteVersion { key, made }),
        1 => any::<bool>().prop_map(Step::Versioning),
        1 => prop_oneof![Just(1u64), Just(EPOCHS_KEPT), Just(EPOCHS_KEPT + 1)].prop_map(Step::Epochs),
        2 => (0usize..6).prop_map(|back| Step::Retry { back }),
        1 => (0usize..6).prop_map(|back| Step::Steal { back }),
        3 => (0..KEYS.len(), prop::option::weighted(0.1, 0u64..20))
            .prop_map(|(key, reuse)| Step::Begin { key, reuse }),
        6 => (0u64..20, 1u32..5, 0u64..40, any::<bool>())
            .prop_map(|(made, number, seed, blocks)| Step::Part { made, number, seed, blocks }),
        3 => (0u64..20, condition_of_any(), 0u32..32, prop::bool::weighted(0.1))
            .prop_map(|(made, condition, named, wrong)| Step::Complete { made, condition, named, wrong }),
        1 => (0u64..20).prop_map(|made| Step::Abort { made }),
    ]
}

fn condition_of_any() -> impl Strategy<Value = Condition> {
    prop_oneof![
        6 => Just(Condition::None),
        1 => Just(Condition::Absent),
        1 => Just(Condition::Current),
        1 => Just(Condition::Wrong),
    ]
}

#[derive(Debug, Clone, PartialEq)]
struct Version {
    id: ObjectVersionId,
    marker: bool,
    kept: bool,
    blocks: bool,
    parts: Vec<Stream>,
}

#[derive(Debug, Clone, PartialEq)]
struct Upload {
    key: &'static str,
    parts: BTreeMap<u32, Stream>,
}

#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    Done(Option<ObjectVersionId>),
    Refused(Refusal),
}

/// What a user should see.
#[derive(Default)]
struct Model {
    versioning: bool,
    epoch: u64,
    /// Oldest first; the last is the current one.
    objects: BTreeMap<&'static str, Vec<Version>>,
    freed: BTreeMap<ObjectVersionId, u64>,
    uploads: BTreeMap<ObjectVersionId, Upload>,
    answered: BTreeMap<RequestId, (Command, Outcome)>,
}

impl Model {
    fn live(&self, key: &str) -> Option<&Version> {
        self.objects
            .get(key)?
            .last()
            .filter(|version| !version.marker)
    }

    fn condition_holds(&self, key: &str, precondition: &Option<v1::Precondition>) -> bool {
        let live = self
            .live(key)
            .map(|version| Bytes::copy_from_slice(version.id.as_bytes()));
        match precondition {
            None => true,
            Some(asked) if asked.if_none_match_any => live.is_none(),
            Some(asked) => live.as_ref() == Some(&asked.if_match),
        }
    }

    fn id_taken(&self, id: &ObjectVersionId) -> bool {
        let is_part = |parts: &[Stream]| parts.iter().any(|part| part.id() == *id);
        self.objects
            .values()
            .flatten()
            .any(|version| version.id == *id || is_part(&version.parts))
            || self
                .uploads
                .iter()
                .any(|(of, upload)| of == id || upload.parts.values().any(|part| part.id() == *id))
            || self
                .freed
                .get(id)
                .is_some_and(|epoch| epoch + EPOCHS_KEPT >= self.epoch)
    }

    fn free(&mut self, version: &Version) {
        if version.blocks {
            self.freed.insert(version.id, self.epoch);
        }
        self.free_parts(&version.parts);
    }

    /// With so few parts, the very command that ends them removes them all.
    fn free_parts(&mut self, parts: &[Stream]) {
        for part in parts {
            self.free_part(part);
        }
    }

    fn free_part(&mut self, part: &Stream) {
        if part.blocks {
            self.freed.insert(part.id(), self.epoch);
        }
    }

    fn upload(&mut self, id: &Bytes, key: &str) -> Option<(ObjectVersionId, &mut Upload)> {
        let id = ObjectVersionId::try_from(id.as_ref()).expect("an id");
        let upload = self.uploads.get_mut(&id)?;
        (upload.key == key).then_some((id, upload))
    }

    fn finish_part(&mut self, asked: &v1::FinishPart, stream: Stream) -> Outcome {
        use Outcome::{Done, Refused};
        let epoch = self.epoch;
        let Some((of, upload)) = self.upload(&asked.version_id, &asked.key) else {
            return Refused(Refusal::NoSuchUpload);
        };
        let held = upload.parts.get(&stream.number).copied();
        if held.is_some_and(|held| held.id() == stream.id()) {
            return Done(Some(stream.id()));
        }
        if self.id_taken(&stream.id()) {
            return Refused(Refusal::VersionIdReused);
        }
        if stream.blocks && epoch - asked.upload_epoch > EPOCHS_KEPT {
            return Refused(Refusal::UploadTooOld);
        }
        if let Some(held) = held {
            self.free_part(&held);
        }
        let upload = self.uploads.get_mut(&of).expect("found above");
        upload.parts.insert(stream.number, stream);
        Done(Some(stream.id()))
    }

    fn complete(&mut self, asked: &v1::CompleteUpload) -> Outcome {
        use Outcome::{Done, Refused};
        let key = static_key(&asked.key);
        let id = ObjectVersionId::try_from(asked.version_id.as_ref()).expect("an id");
        if asked.parts.is_empty() {
            return Refused(Refusal::Malformed);
        }
        let Some(upload) = self.uploads.get(&id).filter(|upload| upload.key == key) else {
            let held = self.objects.get(key).into_iter().flatten();
            let same = held.filter(|version| version.id == id).any(|version| {
                let names = version.parts.iter().map(Stream::name);
                !version.parts.is_empty() && names.eq(asked.parts.iter().cloned())
            });
            return match same {
                true => Done(Some(id)),
                false => Refused(Refusal::NoSuchUpload),
            };
        };
        let named: Vec<Stream> = upload
            .parts
            .values()
            .filter(|part| asked.parts.contains(&part.name()))
            .copied()
            .collect();
        if named.len() != asked.parts.len() {
            return Refused(Refusal::InvalidPart);
        }
        if !self.condition_holds(key, &asked.precondition) {
            return Refused(Refusal::PreconditionFailed);
        }
        let upload = self.uploads.remove(&id).expect("found above");
        for part in upload.parts.values().filter(|part| !named.contains(part)) {
            self.free_part(part);
        }
        let new = Version {
            id,
            marker: false,
            kept: self.versioning,
            blocks: false,
            parts: named,
        };
        self.add(key, new);
        Done(Some(id))
    }

    fn add(&mut self, key: &'static str, new: Version) {
        let versions = self.objects.entry(key).or_default();
        let mut dropped = Vec::new();
        if !self.versioning {
            // What is put then is the null version, and there is one.
            dropped.extend(versions.extract_if(.., |version| !version.kept));
        }
        versions.push(new);
        for version in dropped {
            self.free(&version);
        }
    }

    fn run(&mut self, kind: &Command) -> Outcome {
        use Outcome::{Done, Refused};
        match kind {
            Command::PutObject(_) | Command::FinishObject(_) => {
                let (key, precondition, entry) = match kind {
                    Command::PutObject(put) => (&put.key, &put.precondition, &put.entry),
                    Command::FinishObject(put) => (&put.key, &put.precondition, &put.entry),
                    _ => unreachable!("matched above"),
                };
                let entry = entry.as_ref().expect("the fixture has one");
                let id = ObjectVersionId::try_from(entry.version_id.as_ref()).expect("an id");
                if self.id_taken(&id) {
                    return Refused(Refusal::VersionIdReused);
                }
                let blocks = !entry.blocks.is_empty();
                if blocks && self.epoch - entry.upload_epoch > EPOCHS_KEPT {
                    return Refused(Refusal::UploadTooOld);
                }
                if !self.condition_holds(key, precondition) {
                    return Refused(Refusal::PreconditionFailed);
                }
                let new = Version {
                    id,
                    marker: false,
                    kept: self.versioning,
                    blocks,
                    parts: Vec::new(),
                };
                self.add(static_key(key), new);
                Done(Some(id))
            }
            Command::DeleteObject(asked) => self.delete(asked),
            Command::CreateUpload(asked) => {
                let upload = asked.upload.as_ref().expect("the fixture has one");
                let id = ObjectVersionId::try_from(upload.version_id.as_ref()).expect("an id");
                if self.id_taken(&id) {
                    return Refused(Refusal::VersionIdReused);
                }
                let new = Upload {
                    key: static_key(&asked.key),
                    parts: BTreeMap::new(),
                };
                self.uploads.insert(id, new);
                Done(Some(id))
            }
            Command::FinishPart(asked) => {
                let part = asked.part.as_ref().expect("the fixture has one");
                // The seed is not in the command: it is found by what it gives.
                let stream = (0..40)
                    .map(|seed| Stream {
                        number: part.number,
                        seed,
                        blocks: asked.inline.is_empty(),
                    })
                    .find(|stream| stream.id().as_bytes()[..] == part.part_id[..]);
                self.finish_part(asked, stream.expect("one of the streams"))
            }
            Command::CompleteUpload(asked) => self.complete(asked),
            Command::AbortUpload(asked) => {
                let Some((id, _)) = self.upload(&asked.version_id, &asked.key) else {
                    return Refused(Refusal::NoSuchUpload);
                };
                let upload = self.uploads.remove(&id).expect("found above");
                self.free_parts(&upload.parts.into_values().collect::<Vec<_>>());
                Done(Some(id))
            }
            other => unreachable!("the steps make no {other:?}"),
        }
    }

    fn delete(&mut self, asked: &v1::DeleteObject) -> Outcome {
        use Outcome::{Done, Refused};
        let key = static_key(&asked.key);
        let versions = self.objects.get(key).cloned().unwrap_or_default();
        let named = ObjectVersionId::try_from(asked.version_id.as_ref()).ok();
        let marker = ObjectVersionId::try_from(asked.new_marker_id.as_ref()).ok();
        let with_marker = named.is_none()
            && (self.versioning
                || versions.len() > 1
                || versions
                    .last()
                    .is_some_and(|version| version.kept || version.marker));
        if let (true, Some(marker)) = (with_marker, marker)
            && self.id_taken(&marker)
        {
            return Refused(Refusal::VersionIdReused);
        }
        if !self.condition_holds(key, &asked.precondition) {
            return Refused(Refusal::PreconditionFailed);
        }
        if with_marker {
            let id = marker.expect("the steps always give one");
            self.add(
                key,
                Version {
                    id,
                    marker: true,
                    kept: self.versioning,
                    blocks: false,
                    parts: Vec::new(),
                },
            );
            return Done(Some(id));
        }
        let at = match named {
            Some(id) => versions.iter().position(|version| version.id == id),
            None => versions.len().checked_sub(1),
        };
        let Some(at) = at else {
            return Refused(Refusal::NoSuchObject);
        };
        let gone = self
            .objects
            .get_mut(key)
            .expect("it has a version")
            .remove(at);
        self.free(&gone);
        Done(Some(gone.id))
    }
}

fn static_key(key: &str) -> &'static str {
    KEYS.into_iter()
        .find(|known| *known == key)
        .expect("one of the keys")
}

struct Run {
    shard: Shard,
    model: Model,
    made: u64,
    sent: Vec<v1::ShardCommand>,
}

impl Run {
    fn new() -> Self {
        let mut shard = Shard::new();
        shard.level = CONFIG_LEVEL;
        Self {
            shard,
            model: Model::default(),
            made: 0,
            sent: Vec::new(),
        }
    }

    fn precondition(&self, key: &str, condition: &Condition) -> Option<v1::Precondition> {
        let if_match = |id: ObjectVersionId| v1::Precondition {
            if_match: id.into(),
            ..Default::default()
        };
        match condition {
            Condition::None => None,
            Condition::Absent => Some(v1::Precondition {
                if_none_match_any: true,
                ..Default::default()
            }),
            Condition::Current => Some(if_match(self.model.live(key).map_or(version(0), |v| v.id))),
            Condition::Wrong => Some(if_match(version(1_000_000))),
        }
    }

    fn mint(&mut self, reuse: Option<u64>) -> ObjectVersionId {
        match reuse {
            Some(made) if made < self.made => version(made),
            _ => {
                self.made += 1;
                version(self.made - 1)
            }
        }
    }

    fn step(&mut self, step: &Step) {
        let kind = match step {
            Step::Put {
                key,
                condition,
                blocks,
                reuse,
            } => {
                let precondition = self.precondition(KEYS[*key], condition);
                let id = self.mint(*reuse);
                if *blocks {
                    let epoch = UploadEpoch(self.model.epoch);
                    let asked = finish_at(KEYS[*key], id, &[1, 3], epoch);
                    Command::FinishObject(v1::FinishObject {
                        precondition,
                        ..asked
                    })
                } else {
                    Command::PutObject(v1::PutObject {
                        precondition,
                        ..put(KEYS[*key], id)
                    })
                }
            }
            Step::Delete { key, condition } => {
                let precondition = self.precondition(KEYS[*key], condition);
                let marker = self.mint(None);
                let asked = delete_with_marker(KEYS[*key], marker);
                Command::DeleteObject(v1::DeleteObject {
                    precondition,
                    ..asked
                })
            }
            Step::DeleteVersion { key, made } => {
                Command::DeleteObject(delete_version(KEYS[*key], version(*made)))
            }
            Step::Versioning(enabled) => {
                let set = v1::SetVersioning {
                    dataset_id: DATASET.into(),
                    enabled: *enabled,
                };
                done(self.shard.run(Command::SetVersioning(set)));
                self.model.versioning = *enabled;
                return;
            }
            Step::Epochs(by) => {
                self.shard.advance_epochs(*by);
                // Ids of freed versions stay taken until their records are removed.
                self.shard.sweep_all();
                self.model.epoch += by;
                return;
            }
            Step::Begin { key, reuse } => {
                let id = self.mint(*reuse);
                Command::CreateUpload(create_upload(KEYS[*key], id))
            }
            Step::Part {
                made,
                number,
                seed,
                blocks,
            } => {
                let stream = Stream {
                    number: *number,
                    seed: *seed,
                    blocks: *blocks,
                };
                let epoch = UploadEpoch(self.model.epoch);
                let key = self.key_of(*made);
                Command::FinishPart(finish_part(key, version(*made), stream, epoch))
            }
            Step::Complete {
                made,
                condition,
                named,
                wrong,
            } => {
                let key = self.key_of(*made);
                let precondition = self.precondition(key, condition);
                let held = self.model.uploads.get(&version(*made));
                let held = held.map(|upload| upload.parts.values().copied());
                let of_version = self.model.objects.values().flatten();
                let of_version = of_version.filter(|held| held.id == version(*made));
                let mut parts: Vec<Stream> = held.into_iter().flatten().collect();
                parts.retain(|part| named & (1 << (part.number - 1)) != 0);
                // An upload that was completed before, asked for again.
                parts.extend(of_version.flat_map(|held| held.parts.clone()));
                if *wrong {
                    parts.push(Stream {
                        number: 9,
                        seed: 0,
                        blocks: false,
                    });
                }
                let asked = complete(key, version(*made), &parts);
                Command::CompleteUpload(v1::CompleteUpload {
                    precondition,
                    ..asked
                })
            }
            Step::Abort { made } => abort(self.key_of(*made), version(*made)),
            Step::Retry { back } => {
                if let Some(command) = self.earlier(*back) {
                    self.send(command);
                }
                return;
            }
            Step::Steal { back } => {
                if let Some(command) = self.earlier(*back) {
                    let id = self.mint(None);
                    let other = Some(Command::PutObject(put("b", id)));
                    self.steal(v1::ShardCommand {
                        command: other,
                        ..command
                    });
                }
                return;
            }
        };
        let command = self.shard.command(kind);
        self.sent.push(command.clone());
        self.send(command);
    }

    /// The key of an upload, or of the version that it became.
    fn key_of(&self, made: u64) -> &'static str {
        let id = version(made);
        let upload = self.model.uploads.get(&id).map(|upload| upload.key);
        let object = self.model.objects.iter();
        let mut object = object.filter(|(_, held)| held.iter().any(|version| version.id == id));
        upload
            .or_else(|| object.next().map(|(key, _)| *key))
            .unwrap_or(KEYS[0])
    }

    fn earlier(&self, back: usize) -> Option<v1::ShardCommand> {
        let at = self.sent.len().checked_sub(back + 1)?;
        let now_ms = self.shard.now_ms;
        let verdict = Some(self.shard.verdict());
        Some(v1::ShardCommand {
            now_ms,
            verdict,
            ..self.sent[at].clone()
        })
    }

    fn send(&mut self, command: v1::ShardCommand) {
        let id = RequestId::try_from(command.request_id.as_ref()).expect("the fixture gives one");
        let kind = command.command.clone().expect("the fixture gives one");
        let expected = if self.model.epoch - id.epoch.0 > EPOCHS_KEPT {
            Outcome::Refused(Refusal::RequestTooOld)
        } else if let Some((asked, answered)) = self.model.answered.get(&id) {
            // A request that had no effect leaves its id free, and another may have taken it since.
            match *asked == kind {
                true => answered.clone(),
                false => Outcome::Refused(Refusal::RequestIdReused),
            }
        } else {
            let outcome = self.model.run(&kind);
            let is_final = match &outcome {
                Outcome::Done(_) => true,
                Outcome::Refused(reason) => {
                    matches!(reason, Refusal::PreconditionFailed | Refusal::NoSuchObject)
                }
            };
            if is_final {
                let bound = (kind.clone(), outcome.clone());
                self.model.answered.insert(id, bound);
            }
            outcome
        };
        let got = match self.shard.apply(command).answer.expect("an answer") {
            v1::shard_answer::Answer::Done(done) => {
                Outcome::Done(ObjectVersionId::try_from(done.version_id.as_ref()).ok())
            }
            v1::shard_answer::Answer::Refused(refused) => Outcome::Refused(refused.reason()),
        };
        assert_eq!(got, expected, "{kind:?}");
    }

    fn steal(&mut self, command: v1::ShardCommand) {
        let id = RequestId::try_from(command.request_id.as_ref()).expect("the fixture gives one");
        if !self.model.answered.contains_key(&id) {
            return self.send(command);
        }
        let expected = match self.model.epoch - id.epoch.0 > EPOCHS_KEPT {
            true => Refusal::RequestTooOld,
            false => Refusal::RequestIdReused,
        };
        assert_eq!(reason(self.shard.apply(command)), expected);
    }

    /// Point reads and both listings show what the model says.
    fn compare(&self) {
        let state = &self.shard.state;
        let mut all = Vec::new();
        let mut live = Vec::new();
        for (key, held) in self
            .model
            .objects
            .iter()
            .filter(|(_, held)| !held.is_empty())
        {
            let current = read::object(state, &DATASET, key, None).expect("it has a current one");
            let last = held.last().expect("not empty");
            assert_eq!(current.version_id, last.id.as_bytes()[..]);
            assert_eq!(current.delete_marker, last.marker);
            let null = held.iter().find(|version| !version.kept);
            let found = read::null_version(state, &DATASET, key);
            assert_eq!(
                found.map(|head| head.version_id),
                null.map(|version| Bytes::copy_from_slice(version.id.as_bytes()))
            );
            if !last.marker {
                live.push((*key).to_owned());
            }
            for version in held.iter().rev() {
                let found = read::object(state, &DATASET, key, Some(&version.id));
                let found = found.expect("every version can be read");
                assert_eq!(found.blocks.is_empty(), !version.blocks);
                assert_eq!(found.parts as usize, version.parts.len());
                all.push(((*key).to_owned(), version.id));
            }
        }
        let listed = objects(
            state,
            ObjectsQuery {
                dataset: &DATASET,
                prefix: "",
                delimiter: "",
                start_after: "",
                limit: 0,
            },
        );
        let listed: Vec<_> = listed
            .objects
            .into_iter()
            .map(|object| object.key)
            .collect();
        assert_eq!(listed, live);
        let listed = versions(
            state,
            VersionsQuery {
                dataset: &DATASET,
                prefix: "",
                start_after_key: "",
                start_after_index: LogIndex(0),
                limit: 0,
            },
        );
        let id = |entry: v1::ObjectEntry| {
            ObjectVersionId::try_from(entry.version_id.as_ref()).expect("an id")
        };
        let listed: Vec<_> = listed
            .versions
            .into_iter()
            .map(|listed| (listed.key, id(listed.entry.expect("listed with its entry"))))
            .collect();
        assert_eq!(listed, all);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn users_see_what_the_model_says(steps in prop::collection::vec(step(), 1..60)) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
            run.compare();
        }
        // The same log gives the same bytes.
        let mut twin = Shard::empty();
        twin.level = CONFIG_LEVEL;
        for command in run.shard.log.clone() {
            twin.apply_bytes(command).expect("a known command");
        }
        prop_assert_eq!(&twin.state, &run.shard.state);
        prop_assert_eq!(&twin.local, &run.shard.local);
    }
}
