//! Commands for a shard, drawn from a seed: mostly what a leader would propose, now and then stale, late, repeated,
//! stolen or malformed.
//!
//! Owns the dice. Refuses to know the answers: whether a command is good is the model's to say. What levels of the
//! shard's log do not know yet is not drawn: a leader proposes none of it.

mod locks;
mod uploads;

use std::collections::BTreeSet;

use bytes::Bytes;
use node_state::limits::EPOCHS_KEPT;
use proto::ids::{DatasetId, ObjectVersionId, RequestId, UploadEpoch};
use proto::v1;
use proto::v1::shard_command::Command;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::bend;
use super::locks::DAY;
use super::model::{Model, Position};

/// Datasets of a run.
pub(super) const DATASETS: [DatasetId; 3] = [
    DatasetId([0xD1; 16]),
    DatasetId([0xD2; 16]),
    DatasetId([0xD3; 16]),
];
pub(super) const KEYS: [&str; 5] = ["a", "a/b", "a\0", "b", "\u{fc}/x"];
/// Leases a run may have: a token that ended stays, and another is needed.
const LEASES: u8 = 40;
const HOLDERS: u8 = 2;
/// Nodes that ever sign receipts: more than ever vote at once.
pub(super) const NODES: u64 = 7;
/// Commands kept back to arrive late.
const HELD_MAX: usize = 6;
/// Commands most runs begin with: the authority, the datasets, some tokens.
const FOUNDED: u32 = 10;
/// Levels from which uploads in parts, object lock, and settings are commands.
pub(super) const PARTS_LEVEL: u32 = 3;
pub(super) const LOCKS_LEVEL: u32 = 4;
pub(super) const SETTINGS_LEVEL: u32 = 5;
/// The level from which sealed metadata is changed in place.
const METADATA_LEVEL: u32 = 6;

/// The dice of one seed.
pub(super) struct Draw {
    pub(super) rng: StdRng,
    /// Percent of commands that are bent.
    bent: u32,
    /// Percent of commands that are of uploads in parts, and the highest part number.
    uploads: (u32, u32),
    minted: u64,
    streams: u64,
    nonce: u64,
    /// Upload epochs still to pass at a run.
    epochs: u64,
    /// How much of what most runs begin with is there.
    begun: u32,
    held: Vec<v1::ShardCommand>,
    sent: Vec<v1::ShardCommand>,
}

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let bent = *[0, 10, 30].choose(&mut rng).expect("not empty");
        let begun = if rng.random_ratio(1, 10) { FOUNDED } else { 0 };
        let uploads = [(10, 3), (25, 4), (60, 30)];
        let uploads = *uploads.choose(&mut rng).expect("not empty");
        Self {
            rng,
            bent,
            uploads,
            minted: 0,
            streams: 0,
            nonce: 0,
            epochs: 0,
            begun,
            held: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// The next command.
    pub(super) fn next(&mut self, model: &Model, at: &Position) -> v1::ShardCommand {
        let command = loop {
            if let Some(command) = self.late() {
                break command;
            }
            let mut command = self.fresh(model, at);
            if at.level >= LOCKS_LEVEL {
                self.lock_new(model, &mut command);
            }
            if self.rng.random_range(0..100) < self.bent {
                bend::bend(self, model, &mut command);
            }
            if self.held.len() < HELD_MAX && self.rng.random_ratio(1, 14) {
                self.held.push(command);
                continue;
            }
            break command;
        };
        self.sent.push(command.clone());
        command
    }

    /// A command that was kept back: what it was decided on may have moved.
    fn late(&mut self) -> Option<v1::ShardCommand> {
        if self.held.is_empty() || !self.rng.random_ratio(1, 12) {
            return None;
        }
        let at = self.rng.random_range(0..self.held.len());
        Some(self.held.swap_remove(at))
    }

    fn fresh(&mut self, model: &Model, at: &Position) -> v1::ShardCommand {
        if self.begun < FOUNDED {
            self.begun += 1;
            return self.found(model);
        }
        if self.epochs > 0 {
            self.epochs -= 1;
            return self.advance(model);
        }
        if at.level > 0 && self.rng.random_ratio(1, 20) {
            return self.advance_time(model, at);
        }
        if at.level > 1 && self.rng.random_ratio(1, 30) {
            return self.hold(model);
        }
        let of_uploads = self.uploads.0;
        if at.level >= PARTS_LEVEL && self.rng.random_range(0..100) < of_uploads {
            return self.upload(model, at);
        }
        if at.level >= LOCKS_LEVEL && self.rng.random_ratio(1, 9) {
            return self.lock(model);
        }
        if at.level >= SETTINGS_LEVEL && self.rng.random_ratio(1, 9) {
            return self.setting(model);
        }
        if at.level >= METADATA_LEVEL && self.rng.random_ratio(1, 9) {
            return self.metadata(model);
        }
        match self.rng.random_range(0..108) {
            0..44 if !self.may_seal(model) => self.register(model),
            0..26 => self.put(model),
            26..44 => self.finish(model, at),
            44..58 => self.delete(model, at),
            58..66 => self.register(model),
            66..72 => self.key_state(model),
            72..75 => self.versioning(model),
            75..78 => self.create(model),
            78 => self.drop_dataset(model),
            79..82 => self.again(model, at),
            82..86 => {
                let all = EPOCHS_KEPT + self.rng.random_range(0..3);
                let many = [0, 0, 0, 0, 1, 1, 3, all];
                self.epochs = *many.choose(&mut self.rng).expect("not empty");
                self.advance(model)
            }
            86..90 => {
                let version = model.authority + self.rng.random_range(0..2);
                let set = Command::SetAuthority(v1::SetAuthority { version });
                self.by_itself(model, set)
            }
            90..93 => {
                let steps = *[0, 1, 64, 5000].choose(&mut self.rng).expect("not empty");
                let sweep = Command::Sweep(v1::Sweep { steps });
                self.by_itself(model, sweep)
            }
            93..103 => self.again(model, at),
            _ => self.stolen(model),
        }
    }

    /// What most runs begin with.
    fn found(&mut self, model: &Model) -> v1::ShardCommand {
        match self.begun {
            1 => {
                let set = Command::SetAuthority(v1::SetAuthority { version: 1 });
                self.by_itself(model, set)
            }
            n @ 2..5 => self.create_as(model, DATASETS[n as usize - 2]),
            _ => self.register(model),
        }
    }

    /// The leader's clock: near the shard's time, behind it, or a jump.
    pub(super) fn clock(&mut self, model: &Model) -> u64 {
        let time = model.time;
        match self.rng.random_range(0..40) {
            0 | 1 => time.saturating_sub(self.rng.random_range(0..10_000)),
            2 => time + self.rng.random_range(0..7_200_000),
            _ => time + self.rng.random_range(0..3000),
        }
    }

    pub(super) fn verdict(&self, model: &Model, dataset: &DatasetId) -> v1::Verdict {
        let held = model.datasets.get(dataset);
        v1::Verdict {
            authority_version: model.authority,
            key_state_version: held.map_or(0, |dataset| dataset.record.key_state_version),
            dataset_epoch: held.map_or(0, |dataset| dataset.record.epoch),
        }
    }

    /// One that is there and takes changes, more often than not; one is busier than the others.
    pub(super) fn dataset(&mut self, model: &Model) -> DatasetId {
        let mut any = || DATASETS[[0, 0, 0, 1, 2][self.rng.random_range(0..5)]];
        let first = any();
        let active = |id: &DatasetId| {
            let held = model.datasets.get(id);
            held.is_some_and(|d| d.record.status() == v1::DatasetStatus::Active)
        };
        if active(&first) { first } else { any() }
    }

    /// Whether any dataset has a token that has not ended.
    fn may_seal(&self, model: &Model) -> bool {
        let mut tokens = model.datasets.values().flat_map(|d| d.tokens.values());
        tokens.any(|token| token.expires_at_ms > model.time)
    }

    fn by_itself(&mut self, model: &Model, kind: Command) -> v1::ShardCommand {
        v1::ShardCommand {
            now_ms: self.clock(model),
            verdict: None,
            request_id: Bytes::new(),
            command: Some(kind),
        }
    }

    fn decided(&mut self, model: &Model, on: &DatasetId, kind: Command) -> v1::ShardCommand {
        v1::ShardCommand {
            verdict: Some(self.verdict(model, on)),
            ..self.by_itself(model, kind)
        }
    }

    fn asked(&mut self, model: &Model, on: &DatasetId, kind: Command) -> v1::ShardCommand {
        self.nonce += 1;
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.nonce.to_be_bytes());
        let back = if self.rng.random_ratio(1, 8) { 30 } else { 2 };
        let epoch = UploadEpoch(model.epoch.saturating_sub(self.rng.random_range(0..back)));
        let id = RequestId { epoch, nonce };
        v1::ShardCommand {
            request_id: Bytes::copy_from_slice(&id.to_bytes()),
            ..self.decided(model, on, kind)
        }
    }

    fn advance(&mut self, model: &Model) -> v1::ShardCommand {
        let stale = u64::from(self.rng.random_ratio(1, 10));
        let from = model.epoch.saturating_sub(stale);
        let advance = Command::AdvanceUploadEpoch(v1::AdvanceUploadEpoch { from });
        self.by_itself(model, advance)
    }

    fn advance_time(&mut self, model: &Model, at: &Position) -> v1::ShardCommand {
        let voters: BTreeSet<u64> = at.voters.iter().flatten().copied().collect();
        let advance = clocks(&mut self.rng, model.time, &voters);
        self.by_itself(model, Command::AdvanceTime(advance))
    }

    fn create(&mut self, model: &Model) -> v1::ShardCommand {
        let id = self.dataset(model);
        self.create_as(model, id)
    }

    fn create_as(&mut self, model: &Model, id: DatasetId) -> v1::ShardCommand {
        let other = u8::from(self.rng.random_ratio(1, 8));
        let record = v1::DatasetRecord {
            format: 1,
            dataset_id: id.into(),
            name: format!("d{}", id.0[0]),
            epoch: 1,
            status: v1::DatasetStatus::Active.into(),
            versioning: self.rng.random(),
            kek_id: Bytes::copy_from_slice(&[0x6B ^ id.0[0] ^ other; 16]),
            min_kek_version: 1,
            key_state: v1::KeyState::Enabled.into(),
            key_state_version: 1,
            pseudonym: Bytes::copy_from_slice(&[0x9D; 16]),
            ..Default::default()
        };
        let create = Command::CreateDataset(v1::CreateDataset {
            dataset: Some(record),
        });
        self.decided(model, &id, create)
    }

    fn drop_dataset(&mut self, model: &Model) -> v1::ShardCommand {
        // The busy one rarely: it never comes back.
        let id = DATASETS[[0, 1, 1, 1, 2, 2, 2, 2][self.rng.random_range(0..8)]];
        let drop = Command::TombstoneDataset(v1::TombstoneDataset {
            dataset_id: id.into(),
            force: self.rng.random_ratio(1, 3),
        });
        self.decided(model, &id, drop)
    }

    fn versioning(&mut self, model: &Model) -> v1::ShardCommand {
        let id = self.dataset(model);
        let set = Command::SetVersioning(v1::SetVersioning {
            dataset_id: id.into(),
            enabled: self.rng.random(),
        });
        self.decided(model, &id, set)
    }

    fn hold(&mut self, model: &Model) -> v1::ShardCommand {
        let id = self.dataset(model);
        let held = model.datasets.get(&id).and_then(|d| d.record.hold);
        let held = held.unwrap_or_default();
        let later = model.time + self.rng.random_range(0..7_200_000);
        let until = [held.retain_until_ms, held.retain_until_ms, later];
        let approvers: [&[&str]; 4] = [&["o2", "o3"], &["o2", "o3"], &["o1", "o2"], &[]];
        let approvers = *approvers.choose(&mut self.rng).expect("not empty");
        let stale = u64::from(self.rng.random_ratio(1, 8));
        let set = Command::SetHold(v1::SetHold {
            dataset_id: id.into(),
            from_version: held.version.saturating_sub(stale),
            retain_until_ms: *until.choose(&mut self.rng).expect("not empty"),
            // Mostly none, or nothing could be dropped.
            legal: self.rng.random_ratio(1, 3),
            requester: "o1".to_owned(),
            approvers: approvers.iter().map(|who| (*who).to_owned()).collect(),
        });
        self.decided(model, &id, set)
    }

    fn key_state(&mut self, model: &Model) -> v1::ShardCommand {
        use v1::KeyState::{Compromised, Destroyed, Disabled, Enabled, PendingDestruction};
        let id = self.dataset(model);
        let held = model.datasets.get(&id).map(|d| d.record.clone());
        let held = held.unwrap_or_default();
        // Most disabled keys come back, or runs would end in refusals.
        let to = [
            Enabled,
            Enabled,
            Enabled,
            Disabled,
            Compromised,
            PendingDestruction,
            Destroyed,
        ];
        let to = match held.key_state() {
            Enabled if self.rng.random_ratio(1, 2) => Enabled,
            Enabled => *to.choose(&mut self.rng).expect("not empty"),
            _ if self.rng.random_ratio(3, 4) => Enabled,
            _ => *to.choose(&mut self.rng).expect("not empty"),
        };
        let set = Command::SetKeyState(v1::SetKeyState {
            dataset_id: id.into(),
            state: to.into(),
            version: held.key_state_version + self.rng.random_range(0..3),
            min_kek_version: held.min_kek_version + u32::from(self.rng.random_ratio(1, 5)),
        });
        self.decided(model, &id, set)
    }

    pub(super) fn lease(&mut self) -> Bytes {
        Bytes::copy_from_slice(&[0x1E + self.rng.random_range(0..LEASES); 16])
    }

    pub(super) fn holder(&mut self) -> Bytes {
        Bytes::copy_from_slice(&[0x40 + self.rng.random_range(0..HOLDERS); 32])
    }

    fn register(&mut self, model: &Model) -> v1::ShardCommand {
        let id = self.dataset(model);
        let held = model.datasets.get(&id);
        let known: Vec<Bytes> = held
            .into_iter()
            .flat_map(|dataset| dataset.tokens.keys())
            .map(|lease| (*lease).into())
            .collect();
        let lease = match known.choose(&mut self.rng) {
            Some(lease) if self.rng.random_ratio(1, 3) => lease.clone(),
            _ => self.lease(),
        };
        let min = held.map_or(1, |dataset| dataset.record.min_kek_version);
        let token = held.and_then(|d| {
            let lease = proto::ids::LeaseId::try_from(&lease[..]).ok()?;
            d.tokens.get(&lease)
        });
        // Days too: a region's time may be moved on by as much, and objects are put under what is left.
        let lasts = [1, 2000, 60_000, 3_600_000, 3_600_000, 20 * DAY];
        let lasts = *lasts.choose(&mut self.rng).expect("not empty");
        let fresh = v1::TokenRecord {
            token: Bytes::from_static(b"token"),
            holder: self.holder(),
            expires_at_ms: model.time + lasts,
            kek_version: min,
            dataset_id: id.into(),
        };
        // One that is here already comes again, wrapped anew where the dataset asks for it.
        let token = match token {
            Some(token) if self.rng.random_ratio(4, 5) => v1::TokenRecord {
                kek_version: min.max(token.kek_version),
                ..token.clone()
            },
            _ => fresh,
        };
        let register = Command::RegisterToken(v1::RegisterToken {
            lease_id: lease,
            token: Some(token),
        });
        self.decided(model, &id, register)
    }

    /// A version id nobody has used, or now and then one that somebody has.
    pub(super) fn mint(&mut self) -> ObjectVersionId {
        let n = if self.minted > 0 && self.rng.random_ratio(1, 16) {
            self.rng.random_range(0..self.minted)
        } else {
            self.minted += 1;
            self.minted - 1
        };
        let mut id = [0xAB; 16];
        id[8..].copy_from_slice(&n.to_be_bytes());
        ObjectVersionId(id)
    }

    fn condition(&mut self, model: &Model, on: &DatasetId, key: &str) -> Option<v1::Precondition> {
        let current = model.datasets.get(on).and_then(|d| d.current(key));
        let current = current.filter(|version| !version.entry.delete_marker);
        match self.rng.random_range(0..8) {
            0..4 => None,
            4 => Some(v1::Precondition {
                if_none_match_any: true,
                ..Default::default()
            }),
            5 | 6 => Some(v1::Precondition {
                if_match: current
                    .map_or_else(|| self.mint(), |version| version.id)
                    .into(),
                ..Default::default()
            }),
            _ => Some(v1::Precondition {
                if_match: self.mint().into(),
                ..Default::default()
            }),
        }
    }

    /// An entry without content, under a token of the dataset where there is one.
    fn entry(&mut self, model: &Model, on: &DatasetId) -> (v1::ObjectEntry, Bytes) {
        let tokens = model.datasets.get(on).map(|dataset| &dataset.tokens);
        let alive: Vec<_> = tokens
            .into_iter()
            .flatten()
            .filter(|(_, token)| token.expires_at_ms > model.time)
            .collect();
        let (lease, holder) = match alive.choose(&mut self.rng) {
            Some((lease, token)) if self.rng.random_ratio(9, 10) => {
                ((**lease).into(), token.holder.clone())
            }
            _ => (self.lease(), self.holder()),
        };
        let salt = |byte: u8| Bytes::copy_from_slice(&[byte; 32]);
        let entry = v1::ObjectEntry {
            format: 1,
            version_id: self.mint().into(),
            lease_id: lease,
            dek_salt: salt(self.rng.random()),
            name_salt: salt(self.rng.random()),
            plain_bytes: 1,
            sealed_manifest: Bytes::from_static(b"manifest"),
            sealed_metadata: Bytes::from_static(b"metadata"),
            metadata_key_version: 1,
            placement: 1,
            ..Default::default()
        };
        (entry, holder)
    }

    fn put(&mut self, model: &Model) -> v1::ShardCommand {
        let id = self.dataset(model);
        let key = *KEYS.choose(&mut self.rng).expect("not empty");
        let (entry, holder) = self.entry(model, &id);
        let bytes = self.rng.random_range(1..80);
        let inline = Bytes::from(vec![self.rng.random(); bytes]);
        let put = v1::PutObject {
            dataset_id: id.into(),
            key: key.to_owned(),
            precondition: self.condition(model, &id, key),
            entry: Some(v1::ObjectEntry {
                inline,
                sealed_bytes: bytes as u64,
                ..entry
            }),
            holder,
        };
        self.asked(model, &id, Command::PutObject(put))
    }

    fn finish(&mut self, model: &Model, at: &Position) -> v1::ShardCommand {
        let id = self.dataset(model);
        let key = *KEYS.choose(&mut self.rng).expect("not empty");
        let (entry, holder) = self.entry(model, &id);
        let blocks = self.blocks();
        let finish = v1::FinishObject {
            dataset_id: id.into(),
            key: key.to_owned(),
            precondition: self.condition(model, &id, key),
            receipts: self.receipts(model, at, blocks.len() as u32),
            entry: Some(v1::ObjectEntry {
                sealed_bytes: blocks.iter().map(|block| u64::from(block.bytes)).sum(),
                blocks,
                upload_epoch: self.upload_epoch(model),
                ..entry
            }),
            holder,
        };
        self.asked(model, &id, Command::FinishObject(finish))
    }

    fn blocks(&mut self) -> Vec<v1::BlockRef> {
        (0..self.rng.random_range(1..5))
            .map(|_| v1::BlockRef {
                digest: Bytes::copy_from_slice(&[self.rng.random(); 32]),
                bytes: self.rng.random_range(1..1000),
            })
            .collect()
    }

    fn upload_epoch(&mut self, model: &Model) -> u64 {
        let back = if self.rng.random_ratio(1, 6) { 30 } else { 2 };
        model.epoch.saturating_sub(self.rng.random_range(0..back))
    }

    /// Receipts of the voters, of some of them, or of whoever it is.
    pub(super) fn receipts(
        &mut self,
        model: &Model,
        at: &Position,
        blocks: u32,
    ) -> Vec<v1::ReceiptClaim> {
        let voters: BTreeSet<u64> = at.voters.iter().flatten().copied().collect();
        let nodes: Vec<u64> = match self.rng.random_range(0..10) {
            0..5 => voters.into_iter().collect(),
            5..8 => {
                let some = voters.into_iter().filter(|_| self.rng.random_ratio(2, 3));
                some.collect()
            }
            8 => (1..=NODES).filter(|node| !voters.contains(node)).collect(),
            _ => (1..=NODES).filter(|_| self.rng.random()).collect(),
        };
        let whole = self.rng.random_ratio(3, 4);
        let began = |rng: &mut StdRng| match rng.random_range(0..4) {
            0 => 0,
            1 => model.time + 1,
            _ => model.time.saturating_sub(rng.random_range(0..3_600_000)),
        };
        nodes
            .into_iter()
            .map(|node_id| {
                let held = if whole || self.rng.random_ratio(1, 2) {
                    vec![(0, blocks)]
                } else {
                    // In two parts, perhaps with a hole.
                    let cut = self.rng.random_range(0..=blocks);
                    let hole = u32::from(self.rng.random_ratio(1, 3)).min(blocks - cut);
                    vec![(0, cut), (cut + hole, blocks - cut - hole)]
                };
                let held = held
                    .into_iter()
                    .filter(|(_, count)| *count > 0)
                    .map(|(first, count)| v1::BlockRange { first, count });
                v1::ReceiptClaim {
                    node_id,
                    begun_at_ms: began(&mut self.rng),
                    held: held.collect(),
                }
            })
            .collect()
    }

    fn delete(&mut self, model: &Model, at: &Position) -> v1::ShardCommand {
        let id = self.dataset(model);
        let bypass_governance = at.level >= LOCKS_LEVEL && self.rng.random_ratio(1, 4);
        let key = *KEYS.choose(&mut self.rng).expect("not empty");
        let versions = model.datasets.get(&id).and_then(|d| d.objects.get(key));
        let named = versions
            .and_then(|versions| versions.choose(&mut self.rng))
            .filter(|_| self.rng.random_ratio(1, 3))
            .map(|version| version.id.into());
        let delete = v1::DeleteObject {
            dataset_id: id.into(),
            key: key.to_owned(),
            precondition: self.condition(model, &id, key),
            version_id: named.unwrap_or_default(),
            new_marker_id: self.mint().into(),
            bypass_governance,
        };
        self.asked(model, &id, Command::DeleteObject(delete))
    }

    /// An earlier command again: the same bytes, or as a leader proposes a retry, with what is in force now.
    fn again(&mut self, model: &Model, at: &Position) -> v1::ShardCommand {
        let back = self.rng.random_range(1..=24).min(self.sent.len().max(1));
        let Some(earlier) = self.sent.len().checked_sub(back).map(|n| &self.sent[n]) else {
            return self.put(model);
        };
        let mut command = earlier.clone();
        if self.rng.random() {
            command.now_ms = self.clock(model);
            if command.verdict.is_some() {
                let dataset = subject(&command).unwrap_or(DATASETS[0]);
                command.verdict = Some(self.verdict(model, &dataset));
            }
            match &mut command.command {
                Some(Command::FinishObject(finish)) => {
                    let blocks = finish.entry.as_ref().map_or(1, |e| e.blocks.len() as u32);
                    finish.receipts = self.receipts(model, at, blocks);
                }
                Some(Command::FinishPart(finish)) if finish.inline.is_empty() => {
                    finish.receipts = self.receipts(model, at, finish.blocks.len() as u32);
                }
                _ => {}
            }
        }
        command
    }

    /// An earlier request id with another request.
    fn stolen(&mut self, model: &Model) -> v1::ShardCommand {
        let ids: Vec<Bytes> = self
            .sent
            .iter()
            .rev()
            .take(24)
            .map(|command| command.request_id.clone())
            .filter(|id| !id.is_empty())
            .collect();
        let command = self.put(model);
        match ids.choose(&mut self.rng) {
            Some(id) => v1::ShardCommand {
                request_id: id.clone(),
                ..command
            },
            None => command,
        }
    }
}

/// Clocks of some voters, most of them right; now and then one twice, or an operator's word.
pub(super) fn clocks(rng: &mut StdRng, time: u64, voters: &BTreeSet<u64>) -> v1::AdvanceGroupTime {
    let passed = match rng.random_range(0..12) {
        0 => DAY,
        1 => DAY + 1,
        2..5 => 90_000,
        n => n * 2_000,
    };
    let truth = time + passed;
    let mut clocks = Vec::new();
    for node_id in voters.iter().copied() {
        let clock_ms = match rng.random_range(0..12) {
            0 => continue,
            1 => truth + 400 * DAY,
            2 => truth / 2,
            _ => truth,
        };
        clocks.push(v1::VoterClock { node_id, clock_ms });
    }
    if let Some(twice) = clocks.first().copied()
        && rng.random_ratio(1, 16)
    {
        clocks.push(twice);
    }
    let by_operator = rng.random_ratio(1, 6);
    v1::AdvanceGroupTime {
        clocks,
        by_operator,
    }
}

/// The dataset a command is about, or makes.
pub(super) fn subject(command: &v1::ShardCommand) -> Option<DatasetId> {
    match command.command.as_ref()? {
        Command::CreateDataset(create) => {
            DatasetId::try_from(&create.dataset.as_ref()?.dataset_id[..]).ok()
        }
        other => node_state::shard::subject(other),
    }
}
