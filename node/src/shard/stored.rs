//! What this node has of object versions, for auditors: roots over sealed bytes, and the pieces that a challenge chose.
//!
//! Owns the bounds of one answer and how much of the disk's time it takes. Every byte is read from where it lies and
//! hashed here; what is missing or damaged is said by the absence of a root, never made good from a peer. Refuses
//! everyone but auditors with a grant to list the dataset.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use node_state::listing::{self, PartsQuery};
use node_state::read;
use proto::ids::{DatasetId, GroupId, LeaseId, ObjectKey, ObjectVersionId};
use proto::v1;
use proto::v1::Action;
use tlog::{Hash, PieceTree, Pieces};
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;
use transport::Peer;

use crate::blocks::{BlockDigest, BlockKey, BlockNumber};
use crate::core::Core;
use crate::error::CallError;

/// Versions of one call.
const VERSIONS_MAX: usize = 256;
/// Pieces of one call: of each answer at most, too.
const PIECES_MAX: usize = 64;
/// Calls served at once: each reads whole objects, beside those who use them.
pub(crate) const AUDITS_MAX: usize = 2;
/// Salt and commitment at the start of a stream (docs/FORMATS.md section 2).
const HEADER_BYTES: usize = 56;

/// A version to hash, and which pieces of it are wanted.
struct Asked {
    key: ObjectKey,
    version: ObjectVersionId,
    pieces: Vec<u64>,
}

impl TryFrom<v1::StoredAsked> for Asked {
    type Error = CallError;

    fn try_from(asked: v1::StoredAsked) -> Result<Self, CallError> {
        Ok(Self {
            key: asked.key.parse()?,
            version: ObjectVersionId::try_from(asked.version_id.as_ref())?,
            pieces: asked.pieces,
        })
    }
}

type Answers = BoxStream<'static, Result<v1::StoredVersion, Status>>;

impl Core {
    /// One answer a version, each read and hashed when its turn comes.
    pub(crate) fn prove_stored(
        self: &Arc<Self>,
        peer: &Peer,
        request: v1::ProveStoredRequest,
    ) -> Result<Answers, CallError> {
        let shard = self.shard(request.shard)?.group.id();
        let dataset = DatasetId::try_from(request.dataset_id.as_ref())?;
        let table = self.enrolments.current();
        self.check(&table, peer, Some(&dataset), &[Action::List])?;
        let pieces: usize = request.versions.iter().map(|v| v.pieces.len()).sum();
        if request.versions.len() > VERSIONS_MAX || pieces > PIECES_MAX {
            return Err(CallError::Malformed(
                "it asks for more than 256 versions or 64 pieces",
            ));
        }
        let versions = request.versions.into_iter().map(Asked::try_from);
        let versions: Vec<Asked> = versions.collect::<Result<_, _>>()?;
        let permit = Arc::clone(&self.audits)
            .try_acquire_owned()
            .map_err(|_| CallError::TooManyAudits)?;
        let audit = Audit {
            core: Arc::clone(self),
            shard,
            dataset,
            _permit: permit,
        };
        let state = Some((Arc::new(audit), versions.into_iter()));
        let answers = stream::unfold(state, |state| async move {
            let (audit, mut versions) = state?;
            let asked = versions.next()?;
            let work = Arc::clone(&audit);
            let answer = tokio::task::spawn_blocking(move || work.answer(&asked)).await;
            match answer {
                Ok(Ok(answer)) => Some((Ok(answer), Some((audit, versions)))),
                Ok(Err(error)) => Some((Err(error.into_status()), None)),
                // Cancelled: the runtime is going down.
                Err(_) => Some((Err(Status::unavailable("stopping")), None)),
            }
        });
        Ok(answers.boxed())
    }
}

struct Audit {
    core: Arc<Core>,
    shard: GroupId,
    dataset: DatasetId,
    _permit: OwnedSemaphorePermit,
}

impl Audit {
    /// Blocks on the device.
    fn answer(&self, asked: &Asked) -> Result<v1::StoredVersion, CallError> {
        let mut answer = v1::StoredVersion {
            version_id: asked.version.into(),
            ..Default::default()
        };
        let (entry, token) = {
            // Not the majority's view: a version's bytes never change, and one that is not applied here is not held.
            let shard = self.core.shard(self.shard.0)?;
            let (view, _) = self.core.view(&shard.group)?;
            let state = &*view.state;
            let key = asked.key.as_str();
            let Some(entry) = read::object(state, &self.dataset, key, Some(&asked.version)) else {
                return Ok(answer);
            };
            let lease = LeaseId::try_from(entry.lease_id.as_ref()).ok();
            let token = lease.and_then(|lease| read::token(state, &self.dataset, &lease));
            (entry, token)
        };
        answer.token = token.map(|record| record.token).unwrap_or_default();
        if entry.delete_marker {
            return Ok(answer);
        }
        let tree = PieceTree::new(entry.sealed_bytes, &asked.pieces)
            .map_err(|_| CallError::Malformed("it asks for a piece past the end"))?;
        if let Some((header, part, pieces)) = self.hashed(asked, &entry, tree) {
            answer.header = header;
            answer.part = part;
            fill(&mut answer, pieces);
        }
        Ok(answer)
    }

    /// The first bytes, of which part they are, and the tree; `None` where bytes are missing or damaged.
    fn hashed(
        &self,
        asked: &Asked,
        entry: &v1::ObjectEntry,
        mut tree: PieceTree,
    ) -> Option<(Bytes, u32, Pieces)> {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        let mut take = |bytes: &[u8]| {
            let missing = HEADER_BYTES - header.len();
            header.extend_from_slice(&bytes[..missing.min(bytes.len())]);
            tree.push(bytes);
        };
        if entry.parts == 0 {
            self.read(asked.version, &entry.inline, &entry.blocks, &mut take)?;
        }
        // One part's blocks at a time: all of them are many.
        let (mut left, mut after, mut first) = (entry.parts, 0, 0);
        while left > 0 {
            let (part, number) = self.next_part(&asked.version, after)?;
            let id = ObjectVersionId::try_from(part.part?.part_id.as_ref()).ok()?;
            self.read(id, &part.inline, &part.blocks, &mut take)?;
            first = if first == 0 { number } else { first };
            (left, after) = (left - 1, number);
        }
        Some((header.into(), first, tree.finish()?))
    }

    /// The part after the one of number `after`, with where its bytes are.
    fn next_part(&self, of: &ObjectVersionId, after: u32) -> Option<(v1::ListedPart, u32)> {
        let shard = self.core.shard(self.shard.0).ok()?;
        let (view, _) = self.core.view(&shard.group).ok()?;
        let query = PartsQuery {
            of,
            start_after: after,
            limit: 1,
            with_bodies: true,
        };
        let part = listing::parts(&*view.state, query).0.pop()?;
        let number = part.part.as_ref()?.number;
        Some((part, number))
    }

    /// Gives one stream's bytes to `take`; `None` where some are missing or damaged.
    fn read(
        &self,
        version: ObjectVersionId,
        inline: &[u8],
        blocks: &[v1::BlockRef],
        take: &mut impl FnMut(&[u8]),
    ) -> Option<()> {
        if blocks.is_empty() {
            take(inline);
        }
        for (number, block) in blocks.iter().enumerate() {
            let number = BlockNumber(u32::try_from(number).ok()?);
            let read = self.core.store.read(BlockKey { version, number }, 0..0);
            let mut reader = read.ok()?;
            let digest = BlockDigest::try_from(block.digest.as_ref()).ok()?;
            if reader.head().digest != digest || reader.head().owner.dataset != self.dataset {
                return None;
            }
            // Damage is noted where it is found, and repaired from a peer in its time.
            while let Some(piece) = reader.piece().ok()? {
                take(&piece);
            }
        }
        Some(())
    }
}

fn fill(answer: &mut v1::StoredVersion, pieces: Pieces) {
    answer.root = bytes_of(&pieces.root);
    let chosen = pieces.chosen.into_iter().map(|piece| v1::StoredPiece {
        piece: piece.index,
        sealed: piece.bytes.into(),
        proof: piece.proof.iter().map(bytes_of).collect(),
    });
    answer.pieces = chosen.collect();
}

fn bytes_of(hash: &Hash) -> Bytes {
    Bytes::copy_from_slice(&hash.0)
}
