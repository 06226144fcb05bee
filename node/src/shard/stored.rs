//! What this node has of object versions, for auditors: roots over sealed bytes, and the pieces that a challenge chose.
//!
//! Owns the bounds of one answer and how much of the disk's time it takes. Every byte is read from where it lies and
//! hashed here; what is missing or damaged is said by the absence of a root, never made good from a peer. While a large
//! object is read the call says so, and who has gone away is read for no longer than a block takes. Refuses everyone but
//! auditors with a grant to list the dataset.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

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
use tokio::task::JoinHandle;
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
/// How often a call says that it reads on.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
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
        let asker = Arc::new(Asker);
        let audit = Audit {
            core: Arc::clone(self),
            shard,
            dataset,
            asker: Arc::downgrade(&asker),
            read_bytes: AtomicU64::new(0),
            _permit: permit,
        };
        let proving = Proving {
            audit: Arc::new(audit),
            versions: versions.into_iter(),
            running: None,
            told_bytes: 0,
            _asker: asker,
        };
        let answers = stream::unfold(
            Some(proving),
            |proving| async move { proving?.next().await },
        );
        Ok(answers.boxed())
    }
}

/// Dropped with the call, whose peer went away or was told everything.
struct Asker;

/// A call, and what of it is being read.
struct Proving {
    audit: Arc<Audit>,
    versions: std::vec::IntoIter<Asked>,
    running: Option<Running>,
    told_bytes: u64,
    _asker: Arc<Asker>,
}

struct Running {
    version: ObjectVersionId,
    work: JoinHandle<Result<v1::StoredVersion, CallError>>,
}

impl Proving {
    async fn next(mut self) -> Option<(Result<v1::StoredVersion, Status>, Option<Self>)> {
        let mut running = match self.running.take() {
            Some(running) => running,
            None => {
                let asked = self.versions.next()?;
                let (version, audit) = (asked.version, Arc::clone(&self.audit));
                let work = tokio::task::spawn_blocking(move || audit.answer(&asked));
                Running { version, work }
            }
        };
        loop {
            let answer = tokio::time::timeout(PROGRESS_EVERY, &mut running.work).await;
            let read_bytes = self.audit.read_bytes.load(Ordering::Relaxed);
            return match answer {
                // A disk that does not answer is no progress.
                Err(_) if read_bytes == self.told_bytes => continue,
                Err(_) => {
                    let progress = v1::StoredVersion {
                        version_id: running.version.into(),
                        read_bytes,
                        ..Default::default()
                    };
                    (self.told_bytes, self.running) = (read_bytes, Some(running));
                    Some((Ok(progress), Some(self)))
                }
                Ok(Ok(Ok(answer))) => Some((Ok(answer), Some(self))),
                Ok(Ok(Err(error))) => Some((Err(error.into_status()), None)),
                // Cancelled: the runtime is going down.
                Ok(Err(_)) => Some((Err(Status::unavailable("stopping")), None)),
            };
        }
    }
}

struct Audit {
    core: Arc<Core>,
    shard: GroupId,
    dataset: DatasetId,
    asker: Weak<Asker>,
    read_bytes: AtomicU64,
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
        let mut tree = PieceTree::new(entry.sealed_bytes, &asked.pieces)
            .map_err(|_| CallError::Malformed("it asks for a piece past the end"))?;
        let header = match entry.parts {
            0 => self.stream(asked.version, &entry.inline, &entry.blocks, &mut tree),
            parts => {
                answer.parts = self.parts(&asked.version, parts, &mut tree);
                let headers = answer.parts.iter().map(|part| &part.header);
                let whole = answer.parts.len() == parts as usize
                    && headers.clone().all(|header| !header.is_empty());
                headers.take(1).find(|_| whole).cloned()
            }
        };
        match header.zip(tree.finish()) {
            Some((header, pieces)) => {
                answer.header = header;
                fill(&mut answer, pieces);
            }
            // Said of what was there when it was begun: a replica that has not applied it yet says nothing.
            None => answer.gone = self.is_gone(asked)?,
        }
        Ok(answer)
    }

    /// The parts of a version, as far as they are here; from the first one on of which bytes are missing or damaged
    /// they have no headers.
    fn parts(&self, of: &ObjectVersionId, count: u32, tree: &mut PieceTree) -> Vec<v1::StoredPart> {
        let (mut parts, mut after, mut whole) = (Vec::new(), 0, true);
        // One part's blocks at a time: all of them are many.
        while parts.len() < count as usize
            && self.is_awaited()
            && let Some((part, record)) = self.next_part(of, after)
        {
            let id = ObjectVersionId::try_from(record.part_id.as_ref()).ok();
            let id = id.filter(|_| whole);
            let header = id.and_then(|id| self.stream(id, &part.inline, &part.blocks, tree));
            whole = header.is_some();
            after = record.number;
            parts.push(v1::StoredPart {
                number: record.number,
                plain_bytes: record.plain_bytes,
                sealed_bytes: record.sealed_bytes,
                header: header.unwrap_or_default(),
            });
        }
        parts
    }

    /// Whether somebody waits for the answer.
    fn is_awaited(&self) -> bool {
        self.asker.strong_count() > 0
    }

    /// Whether the version that was there is there no more.
    fn is_gone(&self, asked: &Asked) -> Result<bool, CallError> {
        let shard = self.core.shard(self.shard.0)?;
        let (view, _) = self.core.view(&shard.group)?;
        let key = asked.key.as_str();
        let held = read::head(&*view.state, &self.dataset, key, Some(&asked.version));
        Ok(held.is_none())
    }

    /// Gives one stream's bytes to the tree. Its first ones; `None` where some are missing or damaged.
    fn stream(
        &self,
        id: ObjectVersionId,
        inline: &[u8],
        blocks: &[v1::BlockRef],
        tree: &mut PieceTree,
    ) -> Option<Bytes> {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        let mut take = |bytes: &[u8]| {
            let missing = HEADER_BYTES - header.len();
            header.extend_from_slice(&bytes[..missing.min(bytes.len())]);
            tree.push(bytes);
        };
        self.read(id, inline, blocks, &mut take)?;
        Some(header.into())
    }

    /// The part after the one of number `after`, with where its bytes are.
    fn next_part(
        &self,
        of: &ObjectVersionId,
        after: u32,
    ) -> Option<(v1::ListedPart, v1::PartRecord)> {
        let shard = self.core.shard(self.shard.0).ok()?;
        let (view, _) = self.core.view(&shard.group).ok()?;
        let query = PartsQuery {
            of,
            start_after: after,
            limit: 1,
            with_bodies: true,
        };
        let part = listing::parts(&*view.state, query).0.pop()?;
        let record = part.part.clone()?;
        Some((part, record))
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
            if !self.is_awaited() {
                return None;
            }
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
            let bytes = u64::from(block.bytes);
            self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
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
