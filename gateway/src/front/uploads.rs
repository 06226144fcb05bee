//! Uploads in parts: which one a request names, and the handles of those under way.
//!
//! Owns how many handles are held and for how long: each has a key that seals, so one that nobody has put a part of for a
//! while is dropped. Any gateway goes on with an upload that another one began: what is not held is found.

mod begin;
mod complete;
mod list;
mod part;

use std::collections::HashMap;
use std::time::Duration;

use client::Upload;
use client::ids::{DatasetId, DatasetName, Identity, ObjectKey, ObjectVersionId};
use parking_lot::Mutex;
use tokio::time::Instant;

pub(crate) use begin::Begin;
pub(crate) use complete::{Complete, Completed, NamedPart, WholeStated};
pub(crate) use list::ListUploads;
pub(crate) use part::{CopyPart, PutPart};

use super::{Bucket, Front};
use crate::checksum::Summed;
use crate::error::ApiError;
use crate::metadata::Described;

/// Uploads held at once: each has a slot or two of the 65,536 of key memory.
const HELD_MAX: usize = 4_096;
/// How long one is held that no part comes for.
const HELD_FOR: Duration = Duration::from_secs(120);

/// The parts of an object, as S3 bounds them.
pub(crate) const PARTS_MAX: u32 = 10_000;
/// Bytes of one part at most.
pub(crate) const PART_BYTES_MAX: u64 = 5 << 30;

/// Which upload a request names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UploadName {
    pub(crate) bucket: DatasetName,
    pub(crate) key: ObjectKey,
    pub(crate) id: ObjectVersionId,
}

/// An upload that is under way, and how it is summed where it said so.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) upload: Upload,
    pub(super) summed: Option<Summed>,
}

/// Whose an upload is, to go on with: the lease of one principal seals for no other.
type Whose = (Identity, DatasetId, ObjectVersionId);

/// The handles that are held.
#[derive(Default)]
pub(super) struct HeldUploads(Mutex<HashMap<Whose, (Found, Instant)>>);

impl HeldUploads {
    fn get(&self, whose: &Whose) -> Option<Found> {
        let mut held = self.0.lock();
        let (found, used_at) = held.get_mut(whose)?;
        *used_at = Instant::now();
        Some(found.clone())
    }

    fn hold(&self, whose: Whose, found: Found) {
        let mut held = self.0.lock();
        held.retain(|_, (_, used_at)| used_at.elapsed() < HELD_FOR);
        // One that is found again costs a key from the KMS, and nothing else.
        if held.len() < HELD_MAX {
            held.insert(whose, (found, Instant::now()));
        }
    }

    fn drop(&self, whose: &Whose) {
        self.0.lock().remove(whose);
    }
}

impl Front {
    fn whose(&self, bucket: &Bucket, id: ObjectVersionId) -> Whose {
        (self.caller.principal.clone(), bucket.dataset.id(), id)
    }

    /// An upload that is held, or found.
    async fn upload(&self, bucket: &Bucket, name: &UploadName) -> Result<Found, ApiError> {
        let held = self.shared.uploads.get(&self.whose(bucket, name.id));
        if let Some(held) = held.filter(|held| *held.upload.key() == name.key) {
            return Ok(held);
        }
        let found = self.find_upload(bucket, name).await?;
        self.hold(bucket, found.clone());
        Ok(found)
    }

    /// An upload that is under way now.
    async fn find_upload(&self, bucket: &Bucket, name: &UploadName) -> Result<Found, ApiError> {
        let found = async {
            let upload = bucket.dataset.find_upload(&name.key, name.id).await?;
            let metadata = bucket.dataset.upload_metadata(&upload).await?;
            Ok((upload, metadata))
        };
        let (upload, metadata) = self.answer(&name.bucket, found.await).await?;
        Ok(Found {
            summed: Described::read(&metadata)?.summed,
            upload,
        })
    }

    fn hold(&self, bucket: &Bucket, found: Found) {
        let whose = self.whose(bucket, found.upload.id());
        self.shared.uploads.hold(whose, found);
    }

    fn let_go(&self, bucket: &Bucket, id: ObjectVersionId) {
        self.shared.uploads.drop(&self.whose(bucket, id));
    }
}
