//! The exporter: what the region shows of its log becomes an evidence folder about one dataset.
//!
//! Owns collecting and the proofs, which are made here out of the leaves. Refuses leaves that do not make the tree of
//! the last checkpoint. It judges nothing else: `verifier` does, offline, for whoever the folder is handed to.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proto::ids::{DatasetName, UnixMs};
use proto::v1;
use tlog::{
    Checkpoint, Frontier, Hash, HashReader, Kind, Leaf, Note, Openings, Policy, StoredAt,
    leaf_hash, prove_consistency, prove_inclusion, root_at,
};
use transport::LocalIdentity;
use verifier::{CheckpointLine, DatasetNames, Folder, LeafLine, Parts, Period, Signer};

use crate::error::Error;
use crate::kms::now;
use crate::region::Region;

mod stored;

/// Leaves of one folder: what its format takes.
const LEAVES_MAX: u64 = 1_000_000;
/// How long a checkpoint is waited for that covers what was recorded before the objects were listed. Then the newest
/// one has to do: witnesses may be down.
const COVERED_WAIT: Duration = Duration::from_secs(10);
const COVERED_PAUSE: Duration = Duration::from_millis(100);

/// What an evidence folder is to be about.
#[derive(Clone, Debug)]
pub struct EvidenceRequest {
    /// The dataset.
    pub dataset: DatasetName,
    /// Start of the period.
    pub from: UnixMs,
    /// End of the period.
    pub to: UnixMs,
    /// Signed checkpoints kept from before and during the period. The newest one is added.
    pub checkpoints: Vec<Bytes>,
    /// The trust policy, by which gaps are counted.
    pub policy: Policy,
    /// Whether the dataset's sealed objects are listed, with what the KMS signs of them. Each is read by a node.
    pub objects: bool,
    /// The investigator's nonce: the nodes show the pieces of ciphertext that it chooses of the list.
    pub nonce: Option<[u8; 32]>,
}

struct Enrolled<'a>(&'a LocalIdentity);

impl Signer for Enrolled<'_> {
    fn public_key(&self) -> Vec<u8> {
        self.0.public_key().as_spki().to_vec()
    }

    fn sign(&self, label: &'static str, message: &[u8]) -> [u8; 64] {
        self.0.sign(label, message)
    }
}

impl Region {
    /// Reads the log up to its newest witnessed checkpoint and writes what it shows of a dataset. Openings are in it as
    /// far as the caller may see them: ask as an auditor.
    pub async fn export_evidence(&self, request: EvidenceRequest) -> Result<Folder, Error> {
        let keys = self.keys();
        let about = self.dataset(&request.dataset).await?;
        let dataset = about.id();
        // Before the log is read: every lease that is listed is then in it.
        let sealed = match request.objects {
            true => Some(about.sealed_objects().await?),
            false => None,
        };
        let (mut challenge, mut headers) = (None, None);
        if let Some(sealed) = &sealed {
            if let Some(nonce) = &request.nonce {
                challenge = Some(about.challenged(nonce, sealed).await?);
            }
            headers = Some(keys.attested(&about, sealed).await?);
        }
        let info = keys.key_info(dataset).await?;
        let key = info.key.ok_or(Error::Protocol {
            what: "no key in the answer",
        })?;
        let found = self.covering_checkpoint().await?;
        let newest = best_of(&found).clone();
        let mut notes = request.checkpoints;
        notes.push(newest);
        let checkpoints = in_order(&notes)?;
        let size = checkpoints.last().map_or(0, |(tree, _)| tree.size());
        if size > LEAVES_MAX {
            return Err(refused("the log has more leaves than a folder takes"));
        }
        let (mut reader, mut entries) = (keys.leaves(0, true), Vec::new());
        while (entries.len() as u64) < size {
            let page = reader.page().await?;
            if page.is_empty() {
                return Err(refused("the log is shorter than its checkpoint"));
            }
            entries.extend(page);
        }
        let names = DatasetNames {
            id: dataset.to_string(),
            pseudonym: hex::encode(&key.pseudonym),
            kek: hex::encode(&key.kek_id),
        };
        let (checkpoints, leaves) = collected(&checkpoints, &entries, &key.pseudonym)?;
        let parts = Parts {
            region: self.id().to_string(),
            origin: origin_of(&notes)?,
            dataset: names,
            period: Period {
                from_ms: request.from.0,
                to_ms: request.to.0,
            },
            made_ms: now().0,
            exporter: self.identity().to_string(),
            checkpoints,
            leaves,
            objects: sealed.map(|sealed| sealed.iter().map(|one| one.line().clone()).collect()),
            challenge,
            headers,
            witness_policy: found.policy.map(|policy| policy.policy.to_vec()),
        };
        Folder::write(parts, &request.policy, &Enrolled(&keys.local))
            .map_err(|error| refused(&error.to_string()))
    }
}

impl Region {
    /// The newest checkpoint, waited for until it covers what is recorded now.
    async fn covering_checkpoint(&self) -> Result<v1::FindCheckpointReply, Error> {
        let keys = self.keys();
        let size = keys.tree_head().await?.size;
        let end = tokio::time::Instant::now() + COVERED_WAIT;
        loop {
            let found = keys.checkpoint().await?;
            let tree = in_order(std::slice::from_ref(best_of(&found)));
            let covers = tree.is_ok_and(|tree| tree.iter().any(|(tree, _)| tree.size() >= size));
            if covers || tokio::time::Instant::now() > end {
                return Ok(found);
            }
            tokio::time::sleep(COVERED_PAUSE).await;
        }
    }
}

/// The newest that the region's witnesses vouch for; where it has none, the newest.
fn best_of(found: &v1::FindCheckpointReply) -> &Bytes {
    match found.witnessed.is_empty() {
        true => &found.newest,
        false => &found.witnessed,
    }
}

fn refused(why: &str) -> Error {
    Error::Caller {
        reason: "no-evidence".to_owned(),
        message: why.to_owned(),
    }
}

fn origin_of(notes: &[Bytes]) -> Result<String, Error> {
    let checkpoints = in_order(notes)?;
    let last = checkpoints
        .last()
        .ok_or(refused("there is no checkpoint"))?;
    Ok(last.0.origin().to_string())
}

/// Checkpoints by size, each note once.
fn in_order(notes: &[Bytes]) -> Result<Vec<(Checkpoint, String)>, Error> {
    let read = |bytes: &Bytes| {
        let note = Note::parse(bytes).ok()?;
        Some((note.text().parse().ok()?, note.to_string()))
    };
    let read: Option<Vec<(Checkpoint, String)>> = notes.iter().map(read).collect();
    let mut read = read.ok_or(refused("a checkpoint is no signed note of a tree"))?;
    read.sort_by_key(|(tree, _)| tree.size());
    read.dedup_by(|a, b| a.1 == b.1);
    Ok(read)
}

#[derive(Default)]
struct Stored(BTreeMap<StoredAt, Hash>);

impl HashReader for Stored {
    fn stored(&self, first: StoredAt, count: u64) -> Option<Vec<Hash>> {
        let at = |index| StoredAt {
            level: first.level,
            index,
        };
        let indices = first.index..first.index + count;
        indices
            .map(|index| self.0.get(&at(index)).copied())
            .collect()
    }
}

/// Every leaf of the last tree with its proof. What is opened of other datasets is left out.
fn collected(
    checkpoints: &[(Checkpoint, String)],
    entries: &[v1::LeafEntry],
    pseudonym: &[u8],
) -> Result<(Vec<CheckpointLine>, Vec<LeafLine>), Error> {
    let (last, _) = checkpoints
        .last()
        .ok_or(refused("there is no checkpoint"))?;
    let size = last.size();
    let (mut frontier, mut stored) = (Frontier::default(), Stored::default());
    let entries = entries.get(..usize::try_from(size).unwrap_or(usize::MAX));
    let entries = entries.ok_or(refused("the log is shorter than its checkpoint"))?;
    for entry in entries {
        let hash = leaf_hash(&entry.leaf);
        frontier
            .append(hash, &mut |at, hash| {
                stored.0.insert(at, hash);
            })
            .map_err(|error| refused(&error.to_string()))?;
    }
    if root_at(&stored, size).ok() != Some(last.root()) {
        return Err(refused(
            "the leaves do not make the tree of the newest checkpoint",
        ));
    }
    let failed = |error: tlog::ProveError| refused(&error.to_string());
    let mut lines = Vec::new();
    let mut before: Option<u64> = None;
    for (tree, note) in checkpoints {
        let consistency = match before.replace(tree.size()) {
            Some(old) => prove_consistency(&stored, old, tree.size()).map_err(failed)?,
            None => Vec::new(),
        };
        lines.push(CheckpointLine {
            note: note.clone(),
            consistency,
        });
    }
    let leaf = |(index, entry): (usize, &v1::LeafEntry)| {
        let index = proto::ids::LeafIndex(index as u64);
        let text =
            String::from_utf8(entry.leaf.to_vec()).map_err(|_| refused("a leaf is no text"))?;
        Ok(LeafLine {
            index: index.0,
            proof: prove_inclusion(&stored, index, size).map_err(failed)?,
            openings: is_shown(&entry.leaf, pseudonym)
                .then(|| Openings::parse(&entry.openings).ok())
                .flatten(),
            leaf: text,
        })
    };
    let leaves: Result<Vec<LeafLine>, Error> = entries.iter().enumerate().map(leaf).collect();
    Ok((lines, leaves?))
}

/// Whether a leaf is of the dataset or of the region as a whole.
fn is_shown(leaf: &[u8], pseudonym: &[u8]) -> bool {
    let Ok(leaf) = Leaf::parse(leaf) else {
        return false;
    };
    match leaf.dataset() {
        Some(link) => link.pseudonym.0 == pseudonym,
        None => !matches!(leaf.kind(), Kind::Open | Kind::Lease | Kind::MetadataLease),
    }
}

#[cfg(test)]
mod tests;
