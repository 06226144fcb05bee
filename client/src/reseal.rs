//! Resealing: every version of a dataset whose key is held to be known to others, sealed again under the key of another.
//!
//! Owns the order of versions, and what makes a second run go on where the first one ended: each copy names, in its
//! sealed metadata, the version it is of. Refuses to cover what somebody else has put in the new dataset meanwhile, and
//! to end an object early: a read that fails fails the put.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::stream;
use proto::ids::{ObjectKey, ObjectVersionId};
use tokio_util::io::StreamReader;
use transport::Fault;

use crate::body::{Body, Reader};
use crate::dataset::{Checksums, Dataset, GetOptions, ObjectInfo, Precondition, PutOptions};
use crate::download::ObjectReader;
use crate::error::Error;
use crate::kms::now;
use crate::multipart::{CompleteOptions, PartId, PartOptions, Upload};

/// The purpose under which a compromised key still opens, and under which its metadata keys are still leased.
pub const RESEAL: &str = "reseal";
/// Names the version that a copy is of, in the copy's user metadata.
pub const RESEALED_FROM: &str = "reduit-resealed-from";
/// When that version was finished, in milliseconds since 1970 UTC, there too.
pub const RESEALED_FINISHED_AT: &str = "reduit-resealed-finished-at-ms";
/// Objects up to this are held in memory, so that their puts are tried again.
const IN_MEMORY_MAX: u64 = 1 << 20;
/// Versions of one page of a listing.
const PAGE: u32 = 500;

/// What became of one object's versions, or of many objects'.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resealed {
    /// Versions and delete markers that were sealed again now.
    pub versions: u64,
    /// Plaintext bytes of those.
    pub bytes: u64,
    /// Versions and delete markers that an earlier run had sealed again.
    pub already: u64,
}

impl std::ops::AddAssign for Resealed {
    fn add_assign(&mut self, other: Self) {
        self.versions += other.versions;
        self.bytes += other.bytes;
        self.already += other.already;
    }
}

impl Dataset {
    /// Every object and its versions, oldest first, delete markers among them.
    pub async fn histories(
        &self,
        prefix: &str,
    ) -> Result<Vec<(ObjectKey, Vec<ObjectInfo>)>, Error> {
        let mut all: Vec<(ObjectKey, Vec<ObjectInfo>)> = Vec::new();
        let mut after = None;
        loop {
            let page = self.list_versions(prefix, after, PAGE).await?;
            for info in page.versions {
                match all.last_mut() {
                    Some((key, versions)) if *key == info.key => versions.push(info),
                    _ => all.push((info.key.clone(), vec![info])),
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        for (_, versions) in &mut all {
            versions.reverse();
        }
        Ok(all)
    }

    /// One object's versions, oldest first, delete markers among them.
    async fn history(&self, key: &ObjectKey) -> Result<Vec<ObjectInfo>, Error> {
        let (mut versions, mut after) = (Vec::new(), None);
        loop {
            // A key stands before every other that begins with it.
            let page = self.list_versions(key.as_str(), after, PAGE).await?;
            let found = page.versions.len();
            let of_key = page
                .versions
                .into_iter()
                .take_while(|info| info.key == *key);
            let before = versions.len();
            versions.extend(of_key);
            match page.next {
                Some(next) if versions.len() - before == found => after = Some(next),
                _ => break,
            }
        }
        versions.reverse();
        Ok(versions)
    }

    /// Seals an object's versions, oldest first, again under the key of `to`. Called again it goes on. Refused where `to`
    /// holds a version of this object that is no such copy: nothing of it is covered.
    pub async fn reseal(
        &self,
        key: &ObjectKey,
        versions: &[ObjectInfo],
        to: &Dataset,
    ) -> Result<Resealed, Error> {
        let there = to.history(key).await?;
        let done = copied(versions, &there).ok_or_else(changed_meanwhile)?;
        let mut outcome = Resealed {
            already: done as u64,
            ..Resealed::default()
        };
        let current = there.last().filter(|last| !last.delete_marker);
        let mut precondition =
            current.map_or(Precondition::Absent, |last| Precondition::Is(last.version));
        for version in &versions[done..] {
            precondition = if version.delete_marker {
                to.delete(key, None, precondition).await?;
                Precondition::Absent
            } else {
                Precondition::Is(self.reseal_version(key, version, to, precondition).await?)
            };
            outcome.versions += 1;
            outcome.bytes += version.bytes;
        }
        Ok(outcome)
    }

    async fn reseal_version(
        &self,
        key: &ObjectKey,
        version: &ObjectInfo,
        to: &Dataset,
        precondition: Precondition,
    ) -> Result<ObjectVersionId, Error> {
        if version.parts > 0 {
            return self.reseal_parts(key, version, to, precondition).await;
        }
        let options = GetOptions {
            version: Some(version.version),
            purpose: RESEAL.to_owned(),
            ..GetOptions::default()
        };
        let object = self.get(key, &options).await?;
        let put = PutOptions {
            precondition,
            ..carried(&object.info)
        };
        let body = copied_body(object.body).await?;
        let outcome = match to.put(key, body, &put).await {
            Err(error) if error.reason() == "precondition-failed" => {
                return Err(changed_meanwhile());
            }
            other => other?,
        };
        if outcome.bytes != version.bytes {
            return Err(other_length());
        }
        Ok(outcome.version)
    }

    /// As what it came in: more than one stream holds, and of the same parts.
    async fn reseal_parts(
        &self,
        key: &ObjectKey,
        version: &ObjectInfo,
        to: &Dataset,
        precondition: Precondition,
    ) -> Result<ObjectVersionId, Error> {
        let upload = to.create_upload(key, &carried(version)).await?;
        let completed = async {
            let parts = self.copy_parts(key, version, to, &upload).await?;
            let options = CompleteOptions {
                precondition,
                ..CompleteOptions::default()
            };
            to.complete_upload(&upload, &parts, &options).await
        };
        match completed.await {
            Ok(outcome) => Ok(outcome.version),
            // It may have become the version: left as it is, the next run sees which.
            Err(error) if error.fault() == Fault::Unknown => Err(error),
            Err(error) => {
                // Where that fails what was put of it stays, and is listed, until somebody aborts it.
                if let Err(why) = to.abort_upload(key, upload.id()).await {
                    tracing::warn!(upload = %upload.id(), error = %why, "an upload was not ended");
                }
                match error.reason() {
                    "precondition-failed" => Err(changed_meanwhile()),
                    _ => Err(error),
                }
            }
        }
    }

    async fn copy_parts(
        &self,
        key: &ObjectKey,
        version: &ObjectInfo,
        to: &Dataset,
        upload: &Upload,
    ) -> Result<Vec<(u32, PartId)>, Error> {
        let (mut copied, mut at, mut after) = (Vec::new(), 0, 0);
        loop {
            let page = self.list_parts(key, version.version, after, 0).await?;
            for part in page.parts {
                let end = at + part.bytes;
                let options = GetOptions {
                    version: Some(version.version),
                    purpose: RESEAL.to_owned(),
                    range: Some((at, end)),
                    ..GetOptions::default()
                };
                let body = copied_body(self.get(key, &options).await?.body).await?;
                let options = PartOptions {
                    checksums: part.checksums.into(),
                };
                let copy = to.upload_part(upload, part.number, body, &options).await?;
                if copy.bytes != part.bytes {
                    return Err(other_length());
                }
                copied.push((part.number, copy.id));
                at = end;
            }
            match page.next {
                Some(next) => after = next,
                None if at == version.bytes => return Ok(copied),
                None => return Err(other_length()),
            }
        }
    }
}

/// What is read of an object, to be put elsewhere: a little of it at once, so that its put is tried again.
async fn copied_body(reader: ObjectReader) -> Result<Body, Error> {
    let bytes = reader.remaining();
    match bytes <= IN_MEMORY_MAX {
        true => Ok(Body::Bytes(reader.into_bytes().await?)),
        false => Ok(Body::Sized(streamed(reader), bytes)),
    }
}

fn other_length() -> Error {
    Error::Protocol {
        what: "a copy of another length than what it is of",
    }
}

/// How many of `versions` stand in `there` already; `None` where something else stands in their place.
fn copied(versions: &[ObjectInfo], there: &[ObjectInfo]) -> Option<usize> {
    let is_copy = |(of, copy): (&ObjectInfo, &ObjectInfo)| {
        let from = copy.metadata.user.get(RESEALED_FROM);
        match of.delete_marker {
            true => copy.delete_marker,
            false => from.is_some_and(|from| *from == of.version.to_string()),
        }
    };
    // What comes after all of them is somebody's who works with the copies.
    let all = versions.iter().zip(there).all(is_copy);
    all.then_some(there.len().min(versions.len()))
}

/// What is sealed with an object goes along, and says what it is of; so does what keeps it, for as long as it does. A
/// dataset without object lock takes no copy of what is kept.
fn carried(info: &ObjectInfo) -> PutOptions {
    let sealed = &info.metadata;
    let mut metadata: BTreeMap<String, String> = sealed.user.clone().into_iter().collect();
    metadata.insert(RESEALED_FROM.to_owned(), info.version.to_string());
    let finished_at = info.finished_at.0.to_string();
    let checksums = Checksums::default();
    for (name, value) in &sealed.checksums {
        checksums.set(name, value.clone());
    }
    metadata.insert(RESEALED_FINISHED_AT.to_owned(), finished_at);
    PutOptions {
        content_type: Some(sealed.content_type.clone()).filter(|kind| !kind.is_empty()),
        metadata,
        tags: sealed.tags.clone().into_iter().collect(),
        checksums,
        retention: info.retention.filter(|kept| kept.until > now()),
        legal_hold: info.legal_hold,
        ..PutOptions::default()
    }
}

/// The object as it opens: what fails to open is an error of the stream, never its end.
pub(crate) fn streamed(reader: ObjectReader) -> Reader {
    let chunks = stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        match reader.chunk().await {
            Ok(Some(chunk)) => Some((Ok::<Bytes, std::io::Error>(chunk), Some(reader))),
            Ok(None) => None,
            Err(error) => Some((Err(std::io::Error::other(error)), None)),
        }
    });
    Box::pin(StreamReader::new(Box::pin(chunks)))
}

/// Says which object by saying nothing: errors name no objects.
fn changed_meanwhile() -> Error {
    Error::Caller {
        reason: "changed-meanwhile".to_owned(),
        message: "the new dataset holds versions of the object that are no copies of the old one's: both are left alone"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proto::ids::{LogIndex, UnixMs};
    use proto::v1;

    use super::*;
    use crate::locks::{Retention, RetentionMode};

    fn version(number: u8, delete_marker: bool, from: Option<u8>) -> ObjectInfo {
        let mut metadata = v1::UserMetadata::default();
        if let Some(from) = from {
            let id = ObjectVersionId([from; 16]).to_string();
            metadata.user.insert(RESEALED_FROM.to_owned(), id);
        }
        ObjectInfo {
            key: "k".parse().expect("a key"),
            version: ObjectVersionId([number; 16]),
            bytes: 1,
            finished_at: UnixMs(7),
            delete_marker,
            is_current: false,
            parts: 0,
            versioned: true,
            finished_index: LogIndex(number.into()),
            retention: None,
            legal_hold: false,
            metadata,
        }
    }

    #[test]
    fn a_second_run_goes_on_after_copies_and_after_nothing_else() {
        let old = [
            version(1, false, None),
            version(2, true, None),
            version(3, false, None),
        ];
        let (first, marker) = (version(11, false, Some(1)), version(12, true, None));
        assert_eq!(copied(&old, &[]), Some(0));
        assert_eq!(copied(&old, std::slice::from_ref(&first)), Some(1));
        assert_eq!(copied(&old, &[first.clone(), marker.clone()]), Some(2));
        let third = version(13, false, Some(3));
        let whole = [first.clone(), marker.clone(), third.clone()];
        assert_eq!(copied(&old, &whole), Some(3));
        // Put after all of them, by who works with the copies.
        let more = [whole.as_slice(), &[version(16, false, None)]].concat();
        assert_eq!(copied(&old, &more), Some(3));
        // Somebody's own version, or another order.
        assert_eq!(copied(&old, &[version(14, false, None)]), None);
        assert_eq!(copied(&old, &[marker, first.clone()]), None);
        assert_eq!(
            copied(&old, &[first.clone(), version(15, false, None)]),
            None
        );
    }

    #[test]
    fn what_keeps_an_object_goes_along_while_it_does() {
        let kept_until = |until| {
            let mut info = version(1, false, None);
            let mode = RetentionMode::Compliance;
            info.retention = Some(Retention { mode, until });
            info.legal_hold = true;
            carried(&info)
        };
        let until = UnixMs(now().0 + 3_600_000);
        let put = kept_until(until);
        assert_eq!(put.retention.map(|kept| kept.until), Some(until));
        assert!(put.legal_hold);
        assert_eq!(kept_until(UnixMs(1)).retention, None);
    }

    #[test]
    fn what_was_sealed_with_an_object_goes_along() {
        let mut info = version(1, false, None);
        info.metadata.content_type = "text/plain".to_owned();
        info.metadata.user.insert("a".to_owned(), "b".to_owned());
        info.metadata.tags.insert("t".to_owned(), "v".to_owned());
        let sum = Bytes::from_static(b"sum");
        info.metadata
            .checksums
            .insert("CRC32".to_owned(), sum.clone());
        let put = carried(&info);
        assert_eq!(put.content_type.as_deref(), Some("text/plain"));
        assert_eq!(put.metadata["a"], "b");
        assert_eq!(put.metadata[RESEALED_FROM], info.version.to_string());
        assert_eq!(put.metadata[RESEALED_FINISHED_AT], "7");
        assert_eq!(put.tags["t"], "v");
        assert_eq!(put.checksums.all()["CRC32"], sum);
    }
}
