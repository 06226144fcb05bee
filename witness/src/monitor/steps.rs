//! The steps of a look at a log, in their order.
//!
//! Owns what is verified before what. Refuses, at each step, to go on with anything that the step before did not show.

use proto::ids::{LeafIndex, UnixMs};
use tlog::{
    Checkpoint, HashReader as _, Latest, Note, PolicyRefused, SignedCheckpoint, StoredAt,
    TILE_WIDTH, Tile, TileKind, TileRefused, TileTree, bundle_bytes, tiles_changed,
};

use super::fetch::{FetchError, Tiles};
use super::{Finding, Follower, ROUNDS_OF_GRACE, Trouble};
use crate::alarm::{Alarm, Evidence, Rule, Weight};

/// Tiles hashed between two savings of the position.
const TILES_A_SAVE: u64 = 256;
/// Bundles read between two savings of the position.
const BUNDLES_A_SAVE: u64 = 32;

type Tree = TileTree<Tiles>;

impl Follower {
    /// A whole look. Whatever was verified is kept although a later step fails.
    pub(super) fn look(&mut self) -> Result<(), Trouble> {
        let tree = match self.checkpoint()? {
            Some(signed) => self.advance(&signed)?,
            None => {
                let text = "the log has no checkpoint".to_owned();
                return Err(Trouble::Refused(Rule::CheckpointRefused, text));
            }
        };
        let tree = match tree {
            Some(tree) => tree,
            None if self.is_done() => return self.end(Rule::TilesRefused),
            None => match self.position.held.as_ref().map(|h| h.checkpoint().clone()) {
                Some(held) => self.tree_of(&held)?,
                None => return Ok(()),
            },
        };
        self.hash(&tree)?;
        self.compare(&tree)?;
        self.end(Rule::TilesRefused)?;
        self.copy_tiles(&tree)?;
        self.read(&tree)?;
        self.end(Rule::CopyFailed)
    }

    /// Whether everything of the checkpoint held was done.
    fn is_done(&self) -> bool {
        let (position, size) = (&self.position, self.position.size());
        position.frontier.size() == size
            && (position.read == size || !self.fetch.has_entries())
            && (position.copied == size || self.copy.is_none())
            && self.cosigned_to_compare().is_none()
    }

    /// Fetches a checkpoint that the log signed, and judges its cosignatures.
    fn checkpoint(&mut self) -> Result<Option<SignedCheckpoint>, Trouble> {
        let Some(bytes) = self.fetch.checkpoint().map_err(Trouble::Absent)? else {
            return Ok(None);
        };
        let log = self.watched.log.clone();
        let refused = |why: String| Trouble::Refused(Rule::CheckpointRefused, why);
        let note = Note::parse(&bytes).map_err(|e| refused(e.to_string()))?;
        let signed =
            SignedCheckpoint::verify_note(&note, log.keys()).map_err(|e| refused(e.to_string()))?;
        let found = signed.checkpoint().origin();
        if found != log.origin() {
            return Err(refused(format!("the checkpoint is of the log {found}")));
        }
        self.end(Rule::CheckpointRefused)?;
        self.cosignatures(&note)?;
        Ok(Some(signed))
    }

    fn cosignatures(&mut self, note: &Note) -> Result<(), Trouble> {
        let Some(policy) = &self.policy else {
            return Ok(());
        };
        let keys: Vec<_> = policy.witnesses().map(|(_, w)| w.key.clone()).collect();
        // A bad signature of one of them leaves no times; the policy's answer says so.
        let signed = note.verify(&keys).unwrap_or_default();
        let newest = signed.iter().filter_map(|s| s.time).max();
        let newest = newest.map_or(0, |time| time.get());
        match policy.check(note) {
            Ok(_) => self.end(Rule::CosignaturesMissing)?,
            Err(PolicyRefused::Signatures(refused)) => {
                self.begin(Rule::CosignaturesMissing, refused.to_string())?;
            }
            Err(refused) => self.begin(Rule::CosignaturesMissing, refused.to_string())?,
        }
        if newest > self.position.cosigned_s {
            self.position.cosigned_s = newest;
            self.news_ms = self.watched.clock.now().0;
        }
        Ok(())
    }

    /// Holds a checkpoint against the one before. Answers the tree of a larger one, which is held from now on.
    fn advance(&mut self, signed: &SignedCheckpoint) -> Result<Option<Tree>, Trouble> {
        let new = signed.checkpoint();
        let Some(held) = self.position.held.clone() else {
            let tree = self.tree_of(new)?;
            self.hold(signed)?;
            return Ok(Some(tree));
        };
        let old = held.checkpoint();
        if new.size() < old.size() {
            return self.older(signed, &held).map(|()| None);
        }
        self.older_rounds = 0;
        self.end(Rule::RolledBack)?;
        if new.size() == old.size() {
            if new.root() != old.root() {
                let text = format!("the log signed two trees of {} leaves", new.size());
                return self.caught(text, vec![held.note(), signed.note()]);
            }
            return Ok(None);
        }
        let tree = self.tree_of(new)?;
        if self.root_at(&tree, old.size())? != old.root() {
            let text = format!(
                "the tree of {} leaves that the log signed does not begin with the one of {} that it signed before",
                new.size(),
                old.size(),
            );
            return self.caught(text, vec![held.note(), signed.note()]);
        }
        self.hold(signed)?;
        Ok(Some(tree))
    }

    /// A smaller checkpoint than the one held: a replica that lags, a log that went back, or another tree.
    fn older(&mut self, signed: &SignedCheckpoint, held: &Latest) -> Result<(), Trouble> {
        let (new, old) = (signed.checkpoint(), held.checkpoint());
        self.older_rounds = self.older_rounds.saturating_add(1);
        if self.older_rounds >= ROUNDS_OF_GRACE {
            let text = format!(
                "the log serves a checkpoint of {} leaves and signed one of {} before",
                new.size(),
                old.size()
            );
            self.begin(Rule::RolledBack, text)?;
        }
        let tree = self.tree_of(old)?;
        if self.root_at(&tree, new.size())? != new.root() {
            let text = format!(
                "the tree of {} leaves that the log shows is not the beginning of the one of {} that it signed before",
                new.size(),
                old.size(),
            );
            return self.caught(text, vec![held.note(), signed.note()]);
        }
        Ok(())
    }

    fn hold(&mut self, signed: &SignedCheckpoint) -> Result<(), Trouble> {
        let latest = Latest::parse(signed.note().to_string().as_bytes());
        self.position.held = Some(latest.expect("a note of a checkpoint, written back"));
        self.news_ms = self.watched.clock.now().0;
        Ok(self.save()?)
    }

    fn tree_of(&self, checkpoint: &Checkpoint) -> Result<Tree, Trouble> {
        let tiles = Tiles(self.fetch.clone());
        let tree = TileTree::open(checkpoint.size(), checkpoint.root(), tiles);
        tree.map_err(|error| self.refused(Rule::TilesRefused, error))
    }

    fn root_at(&self, tree: &Tree, size: u64) -> Result<tlog::Hash, Trouble> {
        if size == 0 {
            return Ok(tlog::Hash::empty_root());
        }
        let root = tree.root_at(size);
        root.map_err(|error| self.refused(Rule::TilesRefused, error))
    }

    /// Puts every new leaf's hash into our own tree, which must come to the signed root.
    fn hash(&mut self, tree: &Tree) -> Result<(), Trouble> {
        let begun = self.position.frontier.size();
        let mut tiles = 0;
        while self.position.frontier.size() < tree.size() {
            let index = self.position.frontier.size();
            let end = (index / TILE_WIDTH + 1) * TILE_WIDTH;
            let count = end.min(tree.size()) - index;
            let Some(hashes) = tree.stored(StoredAt { level: 0, index }, count) else {
                // The tree says why through its proofs alone.
                let why = tree.prove_inclusion(LeafIndex(index)).err();
                let why = why.unwrap_or(TileRefused::RootMismatch(tree.size()));
                return Err(self.refused(Rule::TilesRefused, why));
            };
            for hash in hashes {
                let appended = self.position.frontier.append(hash, &mut |_, _| {});
                appended.expect("a checkpoint's size is bounded");
            }
            tiles += 1;
            if tiles % TILES_A_SAVE == 0 {
                self.save()?;
            }
        }
        let Some(held) = self.position.held.clone() else {
            return Ok(());
        };
        if self.position.frontier.root() != held.checkpoint().root() {
            let text = format!(
                "hashing all {} leaves again does not come to the root that the log signed",
                tree.size()
            );
            return self.caught(text, vec![held.note()]);
        }
        if self.position.frontier.size() > begun {
            self.save()?;
        }
        Ok(())
    }

    /// What the witness of this process cosigned and was not yet found in the log's tree, as far as that reaches.
    fn cosigned_to_compare(&self) -> Option<Checkpoint> {
        let cosigned = self.watched.log.checkpoint()?;
        let is_new = self.compared != Some((cosigned.size(), cosigned.root()));
        (is_new && cosigned.size() <= self.position.size()).then_some(cosigned)
    }

    /// The log may show one tree to the witness and another one to those who look.
    fn compare(&mut self, tree: &Tree) -> Result<(), Trouble> {
        let Some(cosigned) = self.cosigned_to_compare() else {
            return Ok(());
        };
        if self.root_at(tree, cosigned.size())? != cosigned.root() {
            let text = format!(
                "the tree of {} leaves that the log had cosigned here is not the beginning of the one that it serves",
                cosigned.size()
            );
            let shown = self.watched.log.shown();
            let held = self.position.held.clone();
            let notes = [shown.as_ref(), held.as_ref().map(Latest::note)];
            return self.caught(text, notes.into_iter().flatten().collect());
        }
        self.compared = Some((cosigned.size(), cosigned.root()));
        Ok(())
    }

    fn copy_tiles(&mut self, tree: &Tree) -> Result<(), Trouble> {
        let Some(copy) = &self.copy else {
            return Ok(());
        };
        let failed = |e: std::io::Error| Trouble::Refused(Rule::CopyFailed, e.to_string());
        let is_hashes = |tile: &Tile| matches!(tile.kind(), TileKind::Hashes(_));
        for tile in tiles_changed(self.position.copied, tree.size()).filter(is_hashes) {
            if copy.has(&tile) {
                continue;
            }
            let bytes = tile
                .hash_bytes(tree)
                .map_err(|error| self.refused(Rule::TilesRefused, TileRefused::Prove(error)))?;
            copy.write(&tile, &bytes).map_err(failed)?;
        }
        if let Some(held) = &self.position.held {
            copy.checkpoint(held.note()).map_err(failed)?;
        }
        if self.position.copied < tree.size() {
            self.position.copied = tree.size();
            self.save()?;
        }
        Ok(())
    }

    /// Reads the entries of leaves that were hashed: each must be what its hash says.
    fn read(&mut self, tree: &Tree) -> Result<(), Trouble> {
        if !self.fetch.has_entries() {
            return Ok(());
        }
        let (begun, mut bundles) = (self.position.read, 0);
        while self.position.read < tree.size() {
            let index = self.position.read / TILE_WIDTH;
            let entries = match tree.entries(index) {
                Ok(entries) => entries,
                Err(refused) => return Err(self.no_entries(refused)),
            };
            self.copy_entries(index, &entries)?;
            let now = self.watched.clock.now();
            let mut found = Vec::new();
            for (leaf, bytes) in (index * TILE_WIDTH..).zip(&entries) {
                if leaf >= self.position.read {
                    let (rules, leaf) = (&self.config.rules, LeafIndex(leaf));
                    found.extend(self.position.reader.read(rules, leaf, bytes, now));
                }
            }
            // Told before it is remembered as read: told twice is better than never.
            self.tell(found, now)?;
            self.position.read = index * TILE_WIDTH + entries.len() as u64;
            self.entry_rounds = 0;
            bundles += 1;
            if bundles % BUNDLES_A_SAVE == 0 {
                self.save()?;
            }
        }
        if self.position.read > begun {
            self.save()?;
        }
        self.end(Rule::EntriesRefused)?;
        self.end(Rule::EntriesUnavailable)
    }

    fn no_entries(&mut self, refused: TileRefused) -> Trouble {
        // What was read before the trouble is read.
        if let Err(error) = self.save() {
            return Trouble::Disk(error);
        }
        let is_missing = matches!(refused, TileRefused::Missing(_));
        let trouble = self.refused(Rule::EntriesRefused, refused);
        // A long log is read in many looks, each of which ends before the log does.
        let ended = matches!(trouble, Trouble::Absent(FetchError::Ended(_)));
        if !is_missing || ended {
            return trouble;
        }
        self.entry_rounds = self.entry_rounds.saturating_add(1);
        if self.entry_rounds < ROUNDS_OF_GRACE {
            return trouble;
        }
        let why = match trouble {
            Trouble::Absent(error) => error.to_string(),
            Trouble::Refused(_, text) => text,
            other => return other,
        };
        Trouble::Refused(Rule::EntriesUnavailable, why)
    }

    fn copy_entries(&self, index: u64, entries: &[Vec<u8>]) -> Result<(), Trouble> {
        let Some(copy) = &self.copy else {
            return Ok(());
        };
        let failed = |why: String| Trouble::Refused(Rule::CopyFailed, why);
        let tile = Tile::new(TileKind::Entries, index, entries.len() as u16)
            .map_err(|e| failed(e.to_string()))?;
        let bytes = bundle_bytes(entries.iter().map(Vec::as_slice));
        let bytes = bytes.map_err(|e| failed(e.to_string()))?;
        copy.write(&tile, &bytes).map_err(|e| failed(e.to_string()))
    }

    fn tell(&self, found: Vec<Finding>, now: UnixMs) -> Result<(), Trouble> {
        let origin = self.watched.log.origin().as_str();
        let alarms = found.into_iter().map(|finding| Alarm {
            leaf: Some(finding.leaf.0),
            dataset: finding.dataset.map(String::from),
            ..Alarm::new(now, origin, finding.rule, finding.text)
        });
        let (lasting, once): (Vec<_>, Vec<_>) =
            alarms.partition(|alarm| alarm.weight == Weight::Permanent);
        self.watched.alarms.raise(once)?;
        for alarm in lasting {
            self.keep(alarm, Vec::new())?;
        }
        Ok(())
    }

    fn keep(&self, alarm: Alarm, checkpoints: Vec<&Note>) -> Result<(), Trouble> {
        let evidence = Evidence {
            alarm,
            checkpoints: checkpoints.iter().map(ToString::to_string).collect(),
        };
        let folder = self.watched.log.folder();
        Ok(self.watched.alarms.catch(folder, evidence)?)
    }

    /// The log signed what excludes one another. It is told, kept with what proves it, and followed no further.
    fn caught<T>(&mut self, text: String, checkpoints: Vec<&Note>) -> Result<T, Trouble> {
        self.keep(self.alarm(Rule::Fork, text), checkpoints)?;
        self.position.is_stopped = true;
        self.save()?;
        Err(Trouble::Caught)
    }
}
