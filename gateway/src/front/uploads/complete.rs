//! Completing an upload: what S3 asks of the parts named, the object's checksum, and a retry that comes when it is done.
//!
//! Owns S3's rules of parts. Refuses before the region is asked to complete anything, so that what is wrong has its own
//! code and status and the upload stays as it is.

use std::time::Duration;

use bytes::Bytes;
use client::ids::{ObjectKey, ObjectVersionId};
use client::{CompleteOptions, Dataset, Error, Part, PartId, Precondition, Upload};
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::{PARTS_MAX, UploadName};
use crate::checksum::{Algorithm, Kind, Summed};
use crate::error::ApiError;
use crate::front::put::{PutCondition, Stored};
use crate::front::versions::{VersionSelector, version_text};
use crate::front::{Bucket, Front};
use crate::metadata::Described;

/// Bytes of every part but the last one at least.
const PART_BYTES_MIN: u64 = 5 << 20;
/// Bytes of an object at most.
const OBJECT_BYTES_MAX: u64 = 5 << 40;
/// Parts of one page.
const PAGE: u32 = 1_000;
/// How long an answer waits for a completion before it begins: after that its status is 200, whatever comes.
const PATIENCE: Duration = Duration::from_secs(2);

/// A part, as the completion of its upload names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedPart {
    pub(crate) number: u32,
    /// `None` where its ETag is none of a part.
    pub(crate) id: Option<PartId>,
    pub(crate) sums: Vec<(Algorithm, Bytes)>,
}

/// What a client says of the object that its parts become.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct WholeStated {
    pub(crate) sums: Vec<(Algorithm, Bytes)>,
    pub(crate) kind: Option<Kind>,
    pub(crate) bytes: Option<u64>,
}

/// An upload to complete.
pub(crate) struct Complete {
    pub(crate) of: UploadName,
    pub(crate) parts: Vec<NamedPart>,
    pub(crate) condition: PutCondition,
    pub(crate) whole: WholeStated,
}

/// The object that an upload becomes.
pub(crate) struct Completed {
    pub(crate) stored: Stored,
    pub(crate) kind: Kind,
    pub(crate) parts: u32,
    /// What is still to come: whether it has become that.
    pub(crate) under_way: Option<BoxFuture<'static, Result<(), ApiError>>>,
}

impl Front {
    /// Makes the parts named one object. It has effect once: a retry is answered as the first try, by any gateway.
    pub(crate) async fn complete(&self, complete: &Complete) -> Result<Completed, ApiError> {
        let Complete { of, parts, .. } = complete;
        let named = in_order(parts)?;
        let bucket = self.bucket(&of.bucket).await?;
        // One that is held and was completed elsewhere is answered by the region as it was.
        let found = match self.upload(&bucket, of).await {
            Err(ApiError::NoSuchUpload) => return self.completed_before(&bucket, of, &named).await,
            found => found?,
        };
        let dataset = bucket.dataset.clone();
        let held = self.parts_of(&bucket, &of.key, of.id).await?;
        let used = used(&held, parts, found.summed)?;
        let summed = found.summed.unwrap_or_default();
        let sum = summed.whole(used.iter().map(|part| {
            let sum = part.checksums.get(summed.algorithm.name());
            (sum, part.bytes)
        }));
        complete.whole.check(
            summed,
            sum.as_ref(),
            used.iter().map(|part| part.bytes).sum(),
        )?;
        let precondition = self
            .precondition(&bucket, &of.key, &complete.condition)
            .await?;
        let metadata = dataset.upload_metadata(&found.upload).await;
        let mut metadata = self.answer(&of.bucket, metadata).await?;
        let sum = sum.map(|sum| (summed.algorithm.name().to_owned(), sum));
        metadata.checksums = sum.into_iter().collect();
        let stored = Stored {
            version: of.id,
            version_id: bucket.version_id(of.id),
            kek: bucket.kek().to_string(),
            checksums: metadata.checksums.clone().into_iter().collect(),
        };
        let options = CompleteOptions {
            precondition,
            metadata: Some(metadata),
            // Tries are told by the upload they complete.
            invocation: None,
        };
        let mut work = finish(dataset, found.upload, named, options).boxed();
        let under_way = match tokio::time::timeout(PATIENCE, &mut work).await {
            Ok(done) => {
                done?;
                self.let_go(&bucket, of.id);
                None
            }
            Err(_) => Some(work),
        };
        Ok(Completed {
            stored,
            kind: summed.kind,
            parts: u32::try_from(parts.len()).unwrap_or(PARTS_MAX),
            under_way,
        })
    }

    /// What an upload became that is found no more, if it was completed with these very parts.
    async fn completed_before(
        &self,
        bucket: &Bucket,
        of: &UploadName,
        named: &[(u32, PartId)],
    ) -> Result<Completed, ApiError> {
        let done = bucket.dataset.completed_upload(&of.key, of.id, named).await;
        self.answer(&of.bucket, done).await?;
        let selector = Some(VersionSelector::Id(of.id));
        let info = match self.resolve(bucket, &of.key, selector).await {
            Err(ApiError::NoSuchVersion) => return Err(ApiError::NoSuchUpload),
            info => info?,
        };
        let described = Described::read(&info.metadata)?;
        Ok(Completed {
            stored: Stored {
                version: info.version,
                version_id: bucket.has_versions().then(|| version_text(&info)),
                kek: bucket.kek().to_string(),
                checksums: info.metadata.checksums.into_iter().collect(),
            },
            kind: described.kind(),
            parts: info.parts,
            under_way: None,
        })
    }

    /// Every part of an upload, or of an object that came in parts.
    pub(in crate::front) async fn parts_of(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        id: ObjectVersionId,
    ) -> Result<Vec<Part>, ApiError> {
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let page = bucket.dataset.list_parts(key, id, after, PAGE).await;
            let page = self.answer(bucket.dataset.name(), page).await?;
            all.extend(page.parts);
            match page.next {
                Some(next) => after = next,
                None => return Ok(all),
            }
        }
    }
}

async fn finish(
    dataset: Dataset,
    upload: Upload,
    named: Vec<(u32, PartId)>,
    options: CompleteOptions,
) -> Result<(), ApiError> {
    let done = dataset.complete_upload(&upload, &named, &options).await;
    if let (Err(Error::PreconditionFailed { .. }), Precondition::Is(_)) =
        (&done, options.precondition)
    {
        // S3 says of an object that is not there that it is not there.
        dataset.head(upload.key(), None).await?;
    }
    Ok(done.map(drop)?)
}

/// Number and id of each part named: ascending numbers, each of a part.
fn in_order(named: &[NamedPart]) -> Result<Vec<(u32, PartId)>, ApiError> {
    if named.is_empty() {
        return Err(ApiError::MalformedXml("it names no part"));
    }
    if named
        .iter()
        .any(|part| !(1..=PARTS_MAX).contains(&part.number))
    {
        return Err(ApiError::InvalidArgument("a part's number is 1 to 10000"));
    }
    if !named.is_sorted_by(|a, b| a.number < b.number) {
        return Err(ApiError::InvalidPartOrder);
    }
    let ids = named
        .iter()
        .map(|part| Ok((part.number, part.id.ok_or(ApiError::InvalidPart)?)));
    ids.collect()
}

/// The parts named, of those that are there.
fn used<'a>(
    held: &'a [Part],
    named: &[NamedPart],
    summed: Option<Summed>,
) -> Result<Vec<&'a Part>, ApiError> {
    let composite = summed.filter(|summed| summed.kind == Kind::Composite);
    let mut used = Vec::with_capacity(named.len());
    for name in named {
        let at = held.binary_search_by_key(&name.number, |part| part.number);
        let part = at.ok().map(|at| &held[at]);
        let part = part.filter(|part| Some(part.id) == name.id);
        let part = part.ok_or(ApiError::InvalidPart)?;
        let differs = |(algorithm, stated): &(Algorithm, Bytes)| {
            part.checksums.get(algorithm.name()) != Some(stated)
        };
        if name.sums.iter().any(differs) {
            return Err(ApiError::InvalidPart);
        }
        let states = |summed: &Summed| name.sums.iter().any(|(of, _)| *of == summed.algorithm);
        if composite.as_ref().is_some_and(|summed| !states(summed)) {
            return Err(ApiError::InvalidRequest(
                "the upload has a composite checksum: its completion names the checksum of each part",
            ));
        }
        used.push(part);
    }
    let but_last = &used[..used.len().saturating_sub(1)];
    if but_last.iter().any(|part| part.bytes < PART_BYTES_MIN) {
        return Err(ApiError::EntityTooSmall(PART_BYTES_MIN));
    }
    let total: u64 = used.iter().map(|part| part.bytes).sum();
    if total > OBJECT_BYTES_MAX {
        return Err(ApiError::EntityTooLarge(OBJECT_BYTES_MAX));
    }
    Ok(used)
}

impl WholeStated {
    /// Refuses parts that become another object than was said.
    fn check(&self, summed: Summed, sum: Option<&Bytes>, bytes: u64) -> Result<(), ApiError> {
        if self.kind.is_some_and(|kind| kind != summed.kind) {
            return Err(ApiError::InvalidRequest(
                "the checksum type is another than the upload's",
            ));
        }
        if self.bytes.is_some_and(|stated| stated != bytes) {
            return Err(ApiError::InvalidRequest(
                "the parts have another length than was stated of the object",
            ));
        }
        for (algorithm, stated) in &self.sums {
            if *algorithm != summed.algorithm {
                return Err(ApiError::InvalidRequest(
                    "the checksum is of another algorithm than the upload's",
                ));
            }
            if sum != Some(stated) {
                return Err(ApiError::BadDigest);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use client::ids::UnixMs;

    use super::*;

    fn held(number: u32, bytes: u64) -> Part {
        let sum = Bytes::copy_from_slice(&[number as u8; 4]);
        Part {
            number,
            id: PartId([number as u8; 16]),
            bytes,
            finished_at: UnixMs(0),
            checksums: [("CRC32".to_owned(), sum)].into(),
        }
    }

    fn named(number: u32) -> NamedPart {
        let part = held(number, 0);
        NamedPart {
            number,
            id: Some(part.id),
            sums: vec![(Algorithm::Crc32, part.checksums["CRC32"].clone())],
        }
    }

    fn code<T>(answer: Result<T, ApiError>) -> &'static str {
        answer.err().map_or("ok", |error| error.code())
    }

    #[test]
    fn parts_are_named_in_ascending_order() {
        let of = |numbers: &[u32]| {
            let parts: Vec<_> = numbers.iter().copied().map(named).collect();
            code(in_order(&parts))
        };
        assert_eq!(of(&[1, 2, 7]), "ok");
        assert_eq!(of(&[]), "MalformedXML");
        assert_eq!(of(&[2, 1]), "InvalidPartOrder");
        assert_eq!(of(&[1, 1]), "InvalidPartOrder");
        for none in [0, 10_001] {
            assert_eq!(of(&[none]), "InvalidArgument");
        }
        let unknown = NamedPart {
            id: None,
            ..named(1)
        };
        assert_eq!(code(in_order(&[unknown])), "InvalidPart");
    }

    #[test]
    fn every_part_named_is_there_and_but_the_last_large_enough() {
        let all = [held(1, PART_BYTES_MIN), held(2, PART_BYTES_MIN), held(9, 1)];
        let of = |parts: &[NamedPart]| code(used(&all, parts, None));
        assert_eq!(of(&[named(1), named(2), named(9)]), "ok");
        assert_eq!(of(&[named(9)]), "ok");
        assert_eq!(of(&[named(3)]), "InvalidPart");
        let mut other = named(1);
        other.id = Some(PartId([7; 16]));
        assert_eq!(of(&[other]), "InvalidPart");
        let mut summed = named(1);
        summed.sums[0].1 = Bytes::from_static(&[7; 4]);
        assert_eq!(of(&[summed]), "InvalidPart");
        let small = [held(1, PART_BYTES_MIN - 1), held(2, 1)];
        let refused = used(&small, &[named(1), named(2)], None);
        assert_eq!(code(refused), "EntityTooSmall");
        let large = [held(1, OBJECT_BYTES_MAX), held(2, 1)];
        let refused = used(&large, &[named(1), named(2)], None);
        assert_eq!(code(refused), "EntityTooLarge");
    }

    #[test]
    fn a_composite_checksum_takes_that_of_each_part() {
        let all = [held(1, 1)];
        let without = NamedPart {
            sums: Vec::new(),
            ..named(1)
        };
        let summed = |kind| {
            Some(Summed {
                algorithm: Algorithm::Crc32,
                kind,
            })
        };
        let of = |kind| code(used(&all, std::slice::from_ref(&without), summed(kind)));
        assert_eq!(of(Kind::Composite), "InvalidRequest");
        assert_eq!(of(Kind::FullObject), "ok");
    }

    #[test]
    fn what_was_said_of_the_object_holds() {
        let summed = Summed::default();
        let sum = Bytes::from_static(&[1; 8]);
        let check = |stated: WholeStated| code(stated.check(summed, Some(&sum), 10));
        let none = WholeStated::default;
        assert_eq!(check(none()), "ok");
        let exact = WholeStated {
            sums: vec![(summed.algorithm, sum.clone())],
            kind: Some(summed.kind),
            bytes: Some(10),
        };
        assert_eq!(check(exact.clone()), "ok");
        let kind = Some(Kind::Composite);
        assert_eq!(check(WholeStated { kind, ..none() }), "InvalidRequest");
        let bytes = Some(9);
        assert_eq!(check(WholeStated { bytes, ..none() }), "InvalidRequest");
        let sums = vec![(Algorithm::Sha1, Bytes::from_static(&[1; 20]))];
        assert_eq!(check(WholeStated { sums, ..none() }), "InvalidRequest");
        let sums = vec![(summed.algorithm, Bytes::from_static(&[2; 8]))];
        assert_eq!(check(WholeStated { sums, ..none() }), "BadDigest");
        assert_eq!(code(exact.check(summed, None, 10)), "BadDigest");
    }
}
