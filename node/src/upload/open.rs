//! Opening an upload: who may, under which epoch, and since when.
//!
//! Owns the time at which a version's or part's upload began, shared by all its streams. Refuses what [`super`] lists. The
//! checks here save work and disk; what makes an upload count is apply, which checks epoch and token again.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest;
use node_state::limits::EPOCHS_KEPT;
use node_state::read;
use parking_lot::Mutex;
use proto::ids::{DatasetId, GroupId, LeaseId, ObjectVersionId, Role, UnixMs, UploadEpoch};
use proto::store::Reader;
use proto::v1;
use proto::v1::ArrivalPhase;
use transport::{Peer, PublicKey};

use super::Inner;
use super::error::UploadError;
use crate::blocks::{BlockOwner, BlockStore, PutMode};
use crate::repair;

/// An upload that may go on.
pub(super) struct Upload {
    pub(super) version: ObjectVersionId,
    pub(super) owner: BlockOwner,
    /// A mover's, of a version that keeps its id: each of its tries seals it anew.
    moves: bool,
    _open: OpenGuard,
}

/// When the uploads under way began.
#[derive(Clone, Default)]
pub(crate) struct OpenUploads(Arc<Mutex<HashMap<ObjectVersionId, Begun>>>);

struct Begun {
    at: UnixMs,
    streams: usize,
}

struct OpenGuard {
    uploads: OpenUploads,
    version: ObjectVersionId,
}

impl OpenUploads {
    /// The earliest time known at which a first frame of the version came: of its other streams, of its blocks on
    /// disk, or now. Never earlier than true, because a time is written down only after its frame came.
    fn begin(
        &self,
        version: ObjectVersionId,
        now: UnixMs,
        on_disk: Option<UnixMs>,
    ) -> (UnixMs, OpenGuard) {
        let mut uploads = self.0.lock();
        let begun = uploads.entry(version).or_insert(Begun {
            at: now,
            streams: 0,
        });
        begun.streams += 1;
        begun.at = begun.at.min(on_disk.unwrap_or(now));
        (
            begun.at,
            OpenGuard {
                uploads: self.clone(),
                version,
            },
        )
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        let mut uploads = self.uploads.0.lock();
        if let Some(begun) = uploads.get_mut(&self.version) {
            begun.streams -= 1;
            if begun.streams == 0 {
                uploads.remove(&self.version);
            }
        }
    }
}

/// Checks an upload's first frame. *Blocks.*
pub(super) fn open(
    inner: &Inner,
    peer: &Peer,
    frame: &v1::OpenUpload,
    first_frame_at: UnixMs,
) -> Result<Upload, UploadError> {
    let shard = GroupId(frame.shard);
    let dataset = DatasetId::try_from(frame.dataset_id.as_ref())?;
    let version = ObjectVersionId::try_from(frame.version_id.as_ref())?;
    let lease = LeaseId::try_from(frame.lease_id.as_ref())?;
    let upload_epoch = UploadEpoch(frame.upload_epoch);
    inner.authority.may_write_blocks(peer, dataset)?;
    if let Some(percent) = inner.authority.disk_full() {
        return Err(UploadError::DiskFull { percent });
    }
    let replica = inner
        .shards
        .shard(shard)
        .ok_or(UploadError::NoSuchShard(shard))?;
    let view = replica.view()?;
    let current = repair::upload_epoch(view.state.as_ref());
    if !in_window(upload_epoch, current) {
        return Err(UploadError::Epoch {
            upload: upload_epoch,
            shard: current,
        });
    }
    let state = view.state.as_ref();
    if frame.part_of.is_empty() {
        // A token that is not there may not have been applied here yet.
        let holder = repair::lease_holder(state, &dataset, &lease);
        let own = holder_of(&peer.public_key);
        // Who restores the dataset brings blocks of others' leases.
        let restores = || {
            read::restore(state, &dataset).is_some_and(|held| {
                held.phase() == v1::RestorePhase::Filling && held.restorer == own
            })
        };
        if holder.is_some_and(|holder| holder != own) && !restores() {
            return Err(UploadError::NotHolder);
        }
    } else {
        // An upload that is not there may not have been applied here yet; what became a version takes no parts.
        let of = ObjectVersionId::try_from(frame.part_of.as_ref())?;
        if repair::is_object(state, &of) {
            return Err(UploadError::NoSuchUpload);
        }
    }
    let moves = frame.part_of.is_empty()
        && peer.identity.role() == Role::Gateway
        && is_filled_by_movers(state, &dataset);
    let on_disk = begun_on_disk(&inner.store, version);
    let (begun_at, guard) = inner.open.begin(version, first_frame_at, on_disk);
    let owner = BlockOwner {
        shard,
        dataset,
        upload_epoch,
        begun_at,
    };
    Ok(Upload {
        version,
        owner,
        moves,
        _open: guard,
    })
}

impl Upload {
    /// Whether [`mode`] has to be asked.
    pub(super) fn may_replace(&self) -> bool {
        self.moves
    }
}

/// Whether a block of a mover takes the place of one that an earlier try left. Only while the state refers to nothing of
/// the version: what was imported is compared block by block afterwards, and repaired by its digests. What was freed is
/// unlinked with its epoch, and would take the new blocks with it. *Blocks.*
pub(super) fn mode(inner: &Inner, version: &ObjectVersionId, owner: &BlockOwner) -> PutMode {
    let view = inner.shards.shard(owner.shard).map(|shard| shard.view());
    let Some(Ok(view)) = view else {
        return PutMode::Upload;
    };
    let state = view.state.as_ref();
    let free = is_filled_by_movers(state, &owner.dataset)
        && !repair::is_referenced(state, version)
        && !repair::is_freed(state, version);
    match free {
        true => PutMode::Repair,
        false => PutMode::Upload,
    }
}

fn is_filled_by_movers(state: &dyn Reader, dataset: &DatasetId) -> bool {
    read::arrival(state, dataset).is_some_and(|record| {
        matches!(
            record.phase(),
            ArrivalPhase::Copying
                | ArrivalPhase::CatchUp
                | ArrivalPhase::Verifying
                | ArrivalPhase::Fenced
        )
    })
}

/// A holder as tokens state it: SHA-256 of the public key's DER SubjectPublicKeyInfo.
fn holder_of(key: &PublicKey) -> Vec<u8> {
    digest::digest(&digest::SHA256, key.as_spki())
        .as_ref()
        .to_vec()
}

fn in_window(upload: UploadEpoch, current: UploadEpoch) -> bool {
    upload.0.saturating_add(EPOCHS_KEPT) >= current.0
        && upload.0 <= current.0.saturating_add(super::EPOCHS_AHEAD_MAX)
}

fn begun_on_disk(store: &BlockStore, version: ObjectVersionId) -> Option<UnixMs> {
    let healthy = store
        .of_version(version)
        .into_iter()
        .find(|held| !held.damaged)?;
    store.head(healthy.key).ok().map(|head| head.owner.begun_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_what_apply_still_takes_and_a_lagging_replica_may_not_know_yet() {
        let window = |upload, current| in_window(UploadEpoch(upload), UploadEpoch(current));
        assert!(window(6, 30));
        assert!(!window(5, 30));
        assert!(window(54, 30));
        assert!(!window(55, 30));
        assert!(window(0, 0));
    }

    #[test]
    fn an_upload_began_with_its_first_stream() {
        let uploads = OpenUploads::default();
        let version = ObjectVersionId([1; 16]);
        let (at, first) = uploads.begin(version, UnixMs(100), None);
        assert_eq!(at, UnixMs(100));
        let (at, second) = uploads.begin(version, UnixMs(200), None);
        assert_eq!(at, UnixMs(100));
        drop((first, second));
        assert!(uploads.0.lock().is_empty());
        let (at, _third) = uploads.begin(version, UnixMs(300), Some(UnixMs(150)));
        assert_eq!(at, UnixMs(150));
    }
}
