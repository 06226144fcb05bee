//! What a shard has to answer, said a second time: maps and lists instead of tables, rules instead of steps.
//!
//! Owns the expected answer of every command and what a user then sees. Refuses to share code with the machine: only
//! ids, messages and the bounds that are part of the format are the same.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use node_state::limits::EPOCHS_KEPT;
use prost::Message as _;
use proto::ids::{DatasetId, DatasetName, LeaseId, ObjectVersionId, RequestId};
use proto::v1;
use proto::v1::Refusal;
use proto::v1::shard_answer::Answer;
use proto::v1::shard_command::Command;

use super::lifecycle::Round;
use super::metadata::INDEX_LEVEL;
pub(super) use super::objects::Version;
use super::parts::{Doomed, Upload};

/// What a command comes to.
pub(super) type Outcome = Result<v1::Done, v1::Refused>;

/// Where a command stands.
#[derive(Debug, Clone)]
pub(super) struct Position {
    /// Its log index.
    pub(super) index: u64,
    /// The voters there: two sets while a change is joint.
    pub(super) voters: Vec<BTreeSet<u64>>,
    /// The feature level there.
    pub(super) level: u32,
}

impl Position {
    /// Whether `nodes` are a majority of every set.
    pub(super) fn majority(&self, nodes: &BTreeSet<u64>) -> bool {
        let of = |set: &BTreeSet<u64>| 2 * set.intersection(nodes).count() > set.len();
        self.voters.iter().all(of)
    }
}

/// A dataset as its users see it.
#[derive(Debug, Clone, Default)]
pub(super) struct Dataset {
    pub(super) record: v1::DatasetRecord,
    pub(super) tokens: BTreeMap<LeaseId, v1::TokenRecord>,
    /// Versions of each object, oldest first: the last is the current one.
    pub(super) objects: BTreeMap<String, Vec<Version>>,
    /// Uploads in parts under way.
    pub(super) uploads: BTreeMap<ObjectVersionId, Upload>,
    /// Settings by kind, removed ones included.
    pub(super) settings: BTreeMap<i32, v1::ConfigRecord>,
    /// What each log index changed: key, version, marker, gone.
    pub(super) changes: BTreeMap<u64, v1::ChangeRecord>,
}

impl Dataset {
    pub(super) fn dropped(&self) -> bool {
        self.record.status() == v1::DatasetStatus::Tombstoned
    }

    pub(super) fn versions(&self) -> impl Iterator<Item = &Version> {
        self.objects.values().flatten()
    }

    /// Whether retention or a legal hold, of the dataset or of a version, keeps it at this time.
    fn held(&self, time: u64) -> bool {
        let hold = self.record.hold.unwrap_or_default();
        hold.legal
            || hold.retain_until_ms > time
            || self.record.compliance_until_ms > time
            || self.versions().any(|version| version.entry.legal_hold)
    }
}

/// A request id that was used, what for, and what came of it.
#[derive(Debug, Clone)]
struct Used {
    asked: Vec<u8>,
    answer: v1::ShardAnswer,
}

/// The shard.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) time: u64,
    pub(super) authority: u64,
    pub(super) epoch: u64,
    pub(super) datasets: BTreeMap<DatasetId, Dataset>,
    /// Versions and parts in blocks that are gone, and the epoch in which they went.
    pub(super) freed: BTreeMap<ObjectVersionId, u64>,
    /// Versions, uploads and parts of dropped datasets: free again once the sweep has come by.
    pub(super) limbo: BTreeSet<ObjectVersionId>,
    /// Parts of what is gone, until the sweep has come to them.
    pub(super) doomed: BTreeMap<ObjectVersionId, Doomed>,
    /// Where lifecycles are.
    pub(super) round: Round,
    used: BTreeMap<RequestId, Used>,
}

/// A command while it is judged.
pub(super) struct Judging<'a> {
    pub(super) model: &'a mut Model,
    pub(super) at: &'a Position,
    /// The dataset epoch that a leader decided in, where one did.
    pub(super) decided_in: Option<u64>,
    /// Whether the shard still knows an id that the sweep may have come to.
    pub(super) swept: &'a dyn Fn(&ObjectVersionId) -> bool,
}

/// What a command has to come to.
pub(super) struct Expected {
    pub(super) answer: v1::ShardAnswer,
    /// Whether it is run: neither refused before that, nor answered from memory.
    pub(super) runs: bool,
}

impl Model {
    /// The answer the command has to get; everything it does has happened here afterwards, but for what a lifecycle
    /// ends. `swept` says whether an id that is due to be forgotten still stands in the state: when exactly it goes is
    /// nobody's promise.
    pub(super) fn expect(
        &mut self,
        at: &Position,
        command: &v1::ShardCommand,
        swept: &dyn Fn(&ObjectVersionId) -> bool,
    ) -> Expected {
        let decided = |answer| Expected {
            answer,
            runs: false,
        };
        let kind = command.command.as_ref().expect("the caller sends no other");
        let clocks = match kind {
            Command::AdvanceTime(advance) => Some(advance),
            _ => None,
        };
        let majority = |nodes: &BTreeSet<u64>| at.majority(nodes);
        match time_after(self.time, at.level, command.now_ms, clocks, &majority) {
            Ok(time) => self.time = time,
            Err(refused) => return decided(answer(Err(refused))),
        }
        let id = match self.request(command, kind) {
            Ok(id) => id,
            Err(answer) => return decided(*answer),
        };
        let mut judging = Judging {
            model: self,
            at,
            decided_in: None,
            swept,
        };
        let outcome = judging.run(command, kind);
        let last = match &outcome {
            Ok(_) => true,
            Err(refused) => matches!(
                refused.reason(),
                Refusal::PreconditionFailed | Refusal::NoSuchObject
            ),
        };
        let answer = answer(outcome);
        if let Some(id) = id.filter(|_| last) {
            let used = Used {
                asked: asked(command),
                answer: answer.clone(),
            };
            self.used.insert(id, used);
        }
        Expected { answer, runs: true }
    }

    /// How much is left was the shard's to say: what it said is what a retry is answered.
    pub(super) fn told_of_more(&mut self, command: &v1::ShardCommand, more: bool) {
        let id = RequestId::try_from(&command.request_id[..]).ok();
        let used = id.and_then(|id| self.used.get_mut(&id));
        if let Some(Answer::Done(done)) = used.and_then(|used| used.answer.answer.as_mut()) {
            done.more = more;
        }
    }

    /// The request id that is to be used, or the answer it already decides.
    fn request(
        &self,
        command: &v1::ShardCommand,
        kind: &Command,
    ) -> Result<Option<RequestId>, Box<v1::ShardAnswer>> {
        let refused = |reason| Err(Box::new(answer(refuse(reason))));
        if command.request_id.is_empty() {
            return match kind {
                Command::PutObject(_)
                | Command::FinishObject(_)
                | Command::DeleteObject(_)
                | Command::CreateUpload(_)
                | Command::FinishPart(_)
                | Command::CompleteUpload(_)
                | Command::AbortUpload(_)
                | Command::SetRetention(_)
                | Command::SetLegalHold(_)
                | Command::SetMetadata(_) => refused(Refusal::Malformed),
                _ => Ok(None),
            };
        }
        let Ok(id) = RequestId::try_from(&command.request_id[..]) else {
            return refused(Refusal::Malformed);
        };
        if id.epoch.0 > self.epoch {
            return refused(Refusal::Malformed);
        }
        if id.epoch.0 + EPOCHS_KEPT < self.epoch {
            return refused(Refusal::RequestTooOld);
        }
        match self.used.get(&id) {
            None => Ok(Some(id)),
            Some(used) if used.asked == asked(command) => Err(Box::new(used.answer.clone())),
            Some(used) => {
                let made = match &used.answer.answer {
                    Some(Answer::Done(done)) => done.version_id.clone(),
                    Some(Answer::Refused(_)) | None => Bytes::new(),
                };
                Err(Box::new(answer(Err(v1::Refused {
                    reason: Refusal::RequestIdReused.into(),
                    current_version_id: made,
                    ..v1::Refused::default()
                }))))
            }
        }
    }

    /// Requests whose retries are still answered.
    pub(super) fn answered(&self) -> impl Iterator<Item = (&RequestId, &v1::ShardAnswer)> {
        self.used
            .iter()
            .filter(|(id, _)| id.epoch.0 + EPOCHS_KEPT >= self.epoch)
            .map(|(id, used)| (id, &used.answer))
    }
}

impl Judging<'_> {
    fn run(&mut self, command: &v1::ShardCommand, kind: &Command) -> Outcome {
        match kind {
            Command::AdvanceUploadEpoch(advance) => {
                if advance.from != self.model.epoch {
                    return refuse(Refusal::StaleEpoch);
                }
                self.model.epoch += 1;
                return Ok(self.done());
            }
            Command::SetAuthority(set) => {
                if set.version < self.model.authority {
                    return moved(Refusal::AuthorityMoved, self.model.authority);
                }
                self.model.authority = set.version;
                return Ok(self.done());
            }
            // What they end is seen in the state.
            Command::Sweep(_) | Command::LifecycleStep(_) | Command::AdvanceTime(_) => {
                return Ok(self.done());
            }
            _ => {}
        }
        let Some(verdict) = command.verdict else {
            return refuse(Refusal::Malformed);
        };
        if verdict.authority_version != self.model.authority {
            return moved(Refusal::AuthorityMoved, self.model.authority);
        }
        if self.at.level >= INDEX_LEVEL {
            self.decided_in = Some(verdict.dataset_epoch);
        }
        let key_state = verdict.key_state_version;
        match kind {
            Command::CreateDataset(create) => self.create(create),
            Command::TombstoneDataset(drop) => self.drop_dataset(drop),
            Command::SetKeyState(set) => self.set_key_state(set),
            Command::SetVersioning(set) => self.set_versioning(set),
            Command::SetHold(set) => self.set_hold(set),
            Command::RegisterToken(register) => self.register(key_state, register),
            Command::PutObject(put) => self.put(key_state, put),
            Command::FinishObject(finish) => self.finish(key_state, finish),
            Command::DeleteObject(delete) => self.delete(delete),
            Command::CreateUpload(create) => self.create_upload(key_state, create),
            Command::FinishPart(finish) => self.finish_part(key_state, finish),
            Command::CompleteUpload(complete) => self.complete_upload(key_state, complete),
            Command::AbortUpload(abort) => self.abort_upload(abort),
            Command::SetObjectLock(set) => self.set_object_lock(set),
            Command::SetRetention(set) => self.set_retention(set),
            Command::SetLegalHold(set) => self.set_legal_hold(set),
            Command::SetMetadata(set) => self.set_metadata(key_state, set),
            Command::SetConfig(set) => self.set_config(set),
            Command::SetQuota(set) => self.set_quota(set),
            Command::AdvanceUploadEpoch(_)
            | Command::SetAuthority(_)
            | Command::Sweep(_)
            | Command::LifecycleStep(_)
            | Command::AdvanceTime(_)
            // Drawn elsewhere.
            | Command::Depart(_)
            | Command::Arrive(_)
            | Command::Import(_)
            | Command::Restore(_) => refuse(Refusal::Malformed),
        }
    }

    pub(super) fn done(&self) -> v1::Done {
        v1::Done {
            log_index: self.at.index,
            upload_epoch: self.model.epoch,
            ..Default::default()
        }
    }

    fn create(&mut self, create: &v1::CreateDataset) -> Outcome {
        let Some(asked) = &create.dataset else {
            return refuse(Refusal::Malformed);
        };
        let good = asked.format == 1
            && asked.name.parse::<DatasetName>().is_ok()
            && asked.kek_id.len() == 16
            && asked.pseudonym.len() == 16
            && asked.status() == v1::DatasetStatus::Active
            && asked.key_state() == v1::KeyState::Enabled;
        let Some(id) = DatasetId::try_from(&asked.dataset_id[..])
            .ok()
            .filter(|_| good)
        else {
            return refuse(Refusal::Malformed);
        };
        if let Some(held) = self.model.datasets.get(&id) {
            if held.dropped() {
                return refuse(Refusal::DatasetGone);
            }
            let same = held.record.name == asked.name && held.record.kek_id == asked.kek_id;
            return if same {
                Ok(self.done())
            } else {
                refuse(Refusal::DatasetExists)
            };
        }
        // It begins with nothing, whatever the record asked for says.
        let record = v1::DatasetRecord {
            created_at_ms: self.model.time,
            objects: 0,
            versions: 0,
            sealed_bytes: 0,
            tombstones_from: 0,
            hold: None,
            lock: None,
            quota: None,
            ..asked.clone()
        };
        let dataset = Dataset {
            record,
            ..Dataset::default()
        };
        self.model.datasets.insert(id, dataset);
        Ok(self.done())
    }

    fn drop_dataset(&mut self, drop: &v1::TombstoneDataset) -> Outcome {
        let Ok(id) = DatasetId::try_from(&drop.dataset_id[..]) else {
            return refuse(Refusal::Malformed);
        };
        let time = self.model.time;
        let Some(dataset) = self.model.datasets.get_mut(&id) else {
            return refuse(Refusal::NoSuchDataset);
        };
        match dataset.record.status() {
            v1::DatasetStatus::Tombstoned => return Ok(self.done()),
            v1::DatasetStatus::Fenced => return refuse(Refusal::DatasetFenced),
            _ => {}
        }
        if dataset.held(time) {
            return refuse(Refusal::DatasetHeld);
        }
        if dataset.versions().next().is_some() && !drop.force {
            return refuse(Refusal::DatasetNotEmpty);
        }
        dataset.record.set_status(v1::DatasetStatus::Tombstoned);
        dataset.tokens.clear();
        dataset.changes.clear();
        dataset.settings.clear();
        let versions = std::mem::take(&mut dataset.objects).into_values().flatten();
        let uploads = std::mem::take(&mut dataset.uploads).into_iter();
        let limbo = &mut self.model.limbo;
        for (id, parts) in versions
            .map(|version| (version.id, version.parts))
            .chain(uploads.map(|(id, upload)| (id, upload.parts.into_values().collect())))
        {
            limbo.insert(id);
            limbo.extend(parts.iter().map(|part| part.id));
        }
        Ok(self.done())
    }

    fn set_key_state(&mut self, set: &v1::SetKeyState) -> Outcome {
        let level = self.at.level;
        let dataset = self.decided(&set.dataset_id)?;
        if set.state() == v1::KeyState::Unspecified {
            return refuse(Refusal::Malformed);
        }
        let held = &mut dataset.record;
        let version = held.key_state_version;
        let told_before = set.version == version
            && set.state() == held.key_state()
            && set.min_kek_version <= held.min_kek_version;
        if !told_before {
            if set.version <= version {
                return moved(Refusal::KeyStateMoved, version);
            }
            held.set_key_state(set.state());
            held.key_state_version = set.version;
            held.min_kek_version = held.min_kek_version.max(set.min_kek_version);
            dataset.unfence(level);
        }
        Ok(self.done())
    }

    fn set_hold(&mut self, set: &v1::SetHold) -> Outcome {
        let (index, level) = (self.at.index, self.at.level);
        let dataset = self.decided(&set.dataset_id)?;
        let held = &mut dataset.record.hold;
        let before = held.unwrap_or_default();
        if set.from_version == u64::MAX {
            return refuse(Refusal::Malformed);
        }
        let after = v1::DatasetHold {
            version: set.from_version + 1,
            retain_until_ms: set.retain_until_ms,
            legal: set.legal,
        };
        if before == after {
            return Ok(self.done());
        }
        if before.version != set.from_version {
            return moved(Refusal::HoldMoved, before.version);
        }
        if after.retain_until_ms < before.retain_until_ms {
            return refuse(Refusal::RetentionShortened);
        }
        let mut others = set.approvers.clone();
        others.retain(|who| *who != set.requester);
        others.sort();
        others.dedup();
        if before.legal && !after.legal && others.len() < 2 {
            return refuse(Refusal::TooFewApprovals);
        }
        *held = Some(after);
        dataset.unfence(level);
        dataset.settings_changed(level, index);
        Ok(self.done())
    }

    fn register(&mut self, key_state: u64, register: &v1::RegisterToken) -> Outcome {
        let Some(token) = &register.token else {
            return refuse(Refusal::Malformed);
        };
        let good = (1..=4096).contains(&token.token.len()) && token.holder.len() == 32;
        let Some(lease) = LeaseId::try_from(&register.lease_id[..])
            .ok()
            .filter(|_| good)
        else {
            return refuse(Refusal::Malformed);
        };
        let time = self.model.time;
        let dataset = self.sealable(&token.dataset_id, key_state)?;
        if token.kek_version < dataset.record.min_kek_version {
            return refuse(Refusal::TokenTooOld);
        }
        match dataset.tokens.get(&lease) {
            None if time >= token.expires_at_ms => return refuse(Refusal::TokenExpired),
            None => {}
            Some(held) if held.holder != token.holder => return refuse(Refusal::TokenNotHolders),
            Some(held) if held.kek_version == token.kek_version => return Ok(self.done()),
            Some(held) if held.kek_version > token.kek_version => {
                return refuse(Refusal::TokenTooOld);
            }
            Some(held) if held.expires_at_ms != token.expires_at_ms => {
                return refuse(Refusal::Malformed);
            }
            Some(_) => {}
        }
        dataset.tokens.insert(lease, token.clone());
        Ok(self.done())
    }

    pub(super) fn existing(&mut self, id: &[u8]) -> Result<&mut Dataset, v1::Refused> {
        let Ok(id) = DatasetId::try_from(id) else {
            return refuse(Refusal::Malformed);
        };
        match self.model.datasets.get_mut(&id) {
            None => refuse(Refusal::NoSuchDataset),
            Some(dataset) if dataset.dropped() => refuse(Refusal::DatasetGone),
            Some(dataset) => Ok(dataset),
        }
    }

    pub(super) fn writable(&mut self, id: &[u8]) -> Result<&mut Dataset, v1::Refused> {
        match self.existing(id)?.record.status() {
            v1::DatasetStatus::Fenced => refuse(Refusal::DatasetFenced),
            _ => self.decided(id),
        }
    }

    /// In the epoch that the leader decided in; under a fence or not.
    fn decided(&mut self, id: &[u8]) -> Result<&mut Dataset, v1::Refused> {
        let decided_in = self.decided_in;
        let dataset = self.existing(id)?;
        let epoch = dataset.record.epoch;
        match decided_in.is_some_and(|decided_in| decided_in != epoch) {
            true => moved(Refusal::DatasetEpochMoved, epoch),
            false => Ok(dataset),
        }
    }

    /// Writable, and its key as the leader saw it lets objects be sealed.
    pub(super) fn sealable(
        &mut self,
        id: &[u8],
        key_state: u64,
    ) -> Result<&mut Dataset, v1::Refused> {
        let dataset = self.writable(id)?;
        let held = dataset.record.key_state_version;
        if held != key_state {
            return moved(Refusal::KeyStateMoved, held);
        }
        match dataset.record.key_state() {
            v1::KeyState::Enabled => Ok(dataset),
            _ => refuse(Refusal::KeyDisabled),
        }
    }
}

/// A refusal with nothing but its reason.
pub(super) fn refuse<T>(reason: Refusal) -> Result<T, v1::Refused> {
    moved(reason, 0)
}

pub(super) fn moved<T>(reason: Refusal, moved_to: u64) -> Result<T, v1::Refused> {
    Err(v1::Refused {
        reason: reason.into(),
        moved_to,
        ..Default::default()
    })
}

fn answer(outcome: Outcome) -> v1::ShardAnswer {
    let answer = match outcome {
        Ok(done) => Answer::Done(done),
        Err(refused) => Answer::Refused(refused),
    };
    v1::ShardAnswer {
        answer: Some(answer),
    }
}

/// What time it is in a group after a command, or why the command is not taken: below level 1 as late as any leader
/// says; from then on a leader is believed for a minute, most of the voters for a day, and with an operator for ever.
pub(super) fn time_after(
    time: u64,
    level: u32,
    reading: u64,
    clocks: Option<&v1::AdvanceGroupTime>,
    majority: &dyn Fn(&BTreeSet<u64>) -> bool,
) -> Result<u64, v1::Refused> {
    const MINUTE: u64 = 60_000;
    const DAY: u64 = 86_400_000;
    let jump = || v1::Refused {
        reason: Refusal::ClockJump.into(),
        moved_to: time,
        ..Default::default()
    };
    if level == 0 {
        return Ok(time.max(reading));
    }
    let Some(advance) = clocks else {
        let taken = reading <= time.saturating_add(MINUTE);
        return taken.then(|| time.max(reading)).ok_or_else(jump);
    };
    let said: BTreeMap<u64, u64> = advance
        .clocks
        .iter()
        .map(|c| (c.node_id, c.clock_ms))
        .collect();
    if said.len() != advance.clocks.len() || !majority(&said.keys().copied().collect()) {
        return Err(v1::Refused {
            reason: Refusal::Malformed.into(),
            ..Default::default()
        });
    }
    let mut all: Vec<u64> = said.into_values().collect();
    all.sort_unstable();
    let median = all[(all.len() - 1) / 2];
    let far = time > 0 && median > time.saturating_add(DAY);
    if far && !advance.by_operator {
        return Err(jump());
    }
    Ok(time.max(median))
}

/// A request without what may differ between two tries of it: clock, verdict and receipts.
fn asked(command: &v1::ShardCommand) -> Vec<u8> {
    let mut bare = v1::ShardCommand {
        now_ms: 0,
        verdict: None,
        ..command.clone()
    };
    match &mut bare.command {
        Some(Command::FinishObject(finish)) => finish.receipts = Vec::new(),
        Some(Command::FinishPart(finish)) => finish.receipts = Vec::new(),
        _ => {}
    }
    bare.encode_to_vec()
}

/// The id in a field, if it is one.
pub(super) fn version_id(bytes: &Bytes) -> Option<ObjectVersionId> {
    ObjectVersionId::try_from(bytes.as_ref()).ok()
}
