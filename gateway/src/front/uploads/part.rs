//! Putting a part: its body checked as it is sealed, or read from another object.
//!
//! Owns which checksums are kept beside a part. A part has its upload's, whatever the client states of it: without, the
//! object could have none.

use std::collections::BTreeMap;

use bytes::Bytes;
use client::{PartId, PartOptions};
use futures::TryStreamExt as _;

use super::{PART_BYTES_MAX, UploadName};
use crate::body::{Checked, Incoming, Stated};
use crate::checksum::{Algorithm, Summed};
use crate::error::ApiError;
use crate::front::{Bucket, Front, Read, VersionSelector};
use crate::range::ByteRange;

/// A part to put.
pub(crate) struct PutPart {
    pub(crate) of: UploadName,
    pub(crate) number: u32,
    pub(crate) stated: Stated,
    pub(crate) body: Incoming,
}

/// A part to be read from an object, or from a range of it.
pub(crate) struct CopyPart {
    pub(crate) of: UploadName,
    pub(crate) number: u32,
    /// Its conditions are those of the source.
    pub(crate) source: Read,
}

/// A part that was put.
#[derive(Debug, Clone)]
pub(crate) struct StoredPart {
    pub(crate) id: PartId,
    pub(crate) checksums: BTreeMap<String, Bytes>,
    pub(crate) kek: String,
}

impl Front {
    /// Stores a part, in the place of an earlier one of its number.
    pub(crate) async fn put_part(&self, put: PutPart) -> Result<StoredPart, ApiError> {
        let bucket = self.bucket(&put.of.bucket).await?;
        self.put_part_in(&bucket, put).await
    }

    async fn put_part_in(&self, bucket: &Bucket, put: PutPart) -> Result<StoredPart, ApiError> {
        if put.stated.length > PART_BYTES_MAX {
            return Err(ApiError::EntityTooLarge(PART_BYTES_MAX));
        }
        let found = self.upload(bucket, &put.of).await?;
        let length = put.stated.length;
        let stated = Stated {
            sums: sums(found.summed, put.stated.sums)?,
            ..put.stated
        };
        let room = self.shared.transfers.upload(length).await?;
        let options = PartOptions::default();
        let body = Checked::new(put.body, stated, options.checksums.clone());
        let body = body.into_body().await?;
        let upload = &found.upload;
        let stored = bucket
            .dataset
            .upload_part(upload, put.number, body, &options)
            .await;
        drop(room);
        let stored = self.answer(&put.of.bucket, stored).await;
        if let Err(ApiError::NoSuchUpload) = stored {
            self.let_go(bucket, put.of.id);
        }
        let stored = stored?;
        Ok(StoredPart {
            id: stored.id,
            checksums: stored.checksums,
            kek: bucket.kek().to_string(),
        })
    }

    /// Stores a part that is opened on record and sealed again. Answers the version it was read from too, where the
    /// source's bucket has versions.
    pub(crate) async fn copy_part(
        &self,
        copy: CopyPart,
    ) -> Result<(StoredPart, Option<String>), ApiError> {
        let bucket = self.bucket(&copy.of.bucket).await?;
        // Before anything is opened for it.
        self.upload(&bucket, &copy.of).await?;
        let from = self.bucket(&copy.source.bucket).await?;
        let source = copy.source;
        let info = self.resolve(&from, &source.key, source.version).await?;
        if info.delete_marker {
            return Err(ApiError::InvalidRequest(
                "the source of a copy is a delete marker",
            ));
        }
        source
            .conditions
            .check_source(info.version, info.finished_at)?;
        if let Some(range) = source.range {
            within(range, info.bytes)?;
        }
        let exact = Read {
            version: Some(VersionSelector::Id(info.version)),
            conditions: Default::default(),
            ..source
        };
        let (view, reading) = self.get(&exact).await?;
        let stated = Stated {
            length: view.length(),
            ..Stated::default()
        };
        let put = PutPart {
            of: copy.of,
            number: copy.number,
            stated,
            body: Box::pin(reading.into_stream().map_err(crate::error::of_source)),
        };
        let stored = self.put_part_in(&bucket, put).await?;
        Ok((stored, view.version_id))
    }
}

/// A range of a source lies in it as a whole: it is not cut to it.
fn within(range: ByteRange, length: u64) -> Result<(), ApiError> {
    match range {
        ByteRange::From {
            first,
            last: Some(last),
        } if first <= last && last < length => Ok(()),
        _ => Err(ApiError::InvalidArgument(
            "the range to copy does not lie in its source",
        )),
    }
}

/// The checksums of a part: what its client states, and its upload's.
fn sums(
    summed: Option<Summed>,
    mut stated: Vec<(Algorithm, Option<Bytes>)>,
) -> Result<Vec<(Algorithm, Option<Bytes>)>, ApiError> {
    let wanted = summed.unwrap_or_default().algorithm;
    let has_it = stated.iter().any(|(algorithm, _)| *algorithm == wanted);
    if summed.is_some() && !stated.is_empty() && !has_it {
        return Err(ApiError::InvalidRequest(
            "the part's checksum is of another algorithm than its upload's",
        ));
    }
    if !has_it {
        stated.push((wanted, None));
    }
    Ok(stated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::Kind;

    #[test]
    fn a_part_has_its_uploads_checksum() {
        let value = Some(Bytes::from_static(&[1; 4]));
        let crc = (Algorithm::Crc32, value);
        let own = (Algorithm::Crc64Nvme, None);
        let of = |summed, stated| sums(summed, stated).map_err(|error| error.code());
        assert_eq!(of(None, vec![]), Ok(vec![own.clone()]));
        assert_eq!(of(None, vec![crc.clone()]), Ok(vec![crc.clone(), own]));
        let summed = |algorithm| {
            Some(Summed {
                algorithm,
                kind: Kind::Composite,
            })
        };
        let stated = of(summed(Algorithm::Crc32), vec![crc.clone()]);
        assert_eq!(stated, Ok(vec![crc.clone()]));
        let named = of(summed(Algorithm::Sha1), vec![]);
        assert_eq!(named, Ok(vec![(Algorithm::Sha1, None)]));
        let other = of(summed(Algorithm::Sha1), vec![crc]);
        assert_eq!(other, Err("InvalidRequest"));
    }

    #[test]
    fn a_range_to_copy_is_not_cut() {
        let of = |first, last| within(ByteRange::From { first, last }, 10).is_ok();
        assert!(of(0, Some(9)) && of(9, Some(9)) && of(0, Some(0)));
        assert!(!of(0, Some(10)) && !of(10, Some(10)) && !of(5, Some(4)) && !of(0, None));
        assert!(within(ByteRange::Last(1), 10).is_err());
    }
}
