//! Reading an object: what it is, and its bytes.
//!
//! Owns when an object is opened. Refuses to open one whose conditions do not hold: what is not opened is not recorded.

use std::ops::Range;

use bytes::Bytes;
use client::ids::{DatasetName, ObjectKey};
use client::{GetOptions, Object, ObjectInfo, ObjectReader};
use futures::{Stream, stream};

use super::versions::{VersionSelector, version_text};
use super::{Bucket, Front};
use crate::conditions::Conditions;
use crate::error::ApiError;
use crate::metadata::Described;
use crate::range::ByteRange;
use crate::transfers::Room;

/// How often a read that met another version in between begins again.
const READ_TRIES: u32 = 3;

/// What a download may have in memory without more room than each begins with.
const SMALL_BYTES_MAX: u64 = 32 << 10;

/// What is to be read.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    pub(crate) bucket: DatasetName,
    pub(crate) key: ObjectKey,
    pub(crate) version: Option<VersionSelector>,
    pub(crate) range: Option<ByteRange>,
    pub(crate) part: Option<u32>,
    pub(crate) conditions: Conditions,
}

/// What an object version is.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) info: ObjectInfo,
    pub(crate) described: Described,
    /// As S3 names the version, where the bucket has versions.
    pub(crate) version_id: Option<String>,
    /// The bytes asked for, where it is not all of them.
    pub(crate) range: Option<Range<u64>>,
    /// How many parts it came in, where one of them is asked for.
    pub(crate) parts: Option<u32>,
    pub(crate) kek: String,
}

impl View {
    fn new(
        bucket: &Bucket,
        read: &Read,
        info: ObjectInfo,
        range: Option<Range<u64>>,
    ) -> Result<Self, ApiError> {
        let has_versions = bucket.has_versions() || info.versioned;
        Ok(Self {
            described: Described::read(&info.metadata)?,
            version_id: has_versions.then(|| version_text(&info)),
            range,
            parts: read.part.and(Some(info.parts)).filter(|parts| *parts > 0),
            kek: bucket.kek().to_string(),
            info,
        })
    }

    /// Bytes that the answer has.
    pub(crate) fn length(&self) -> u64 {
        let bytes = self.info.bytes;
        self.range
            .as_ref()
            .map_or(bytes, |range| range.end - range.start)
    }
}

/// An object on its way out.
pub(crate) struct Reading {
    reader: Option<ObjectReader>,
    _room: Room,
}

impl Reading {
    /// Its bytes as they open. What fails to open ends the stream in an error: the connection breaks before the length
    /// that was stated is reached.
    pub(crate) fn into_stream(self) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
        stream::unfold(self, |mut reading| async move {
            let mut reader = reading.reader.take()?;
            match reader.chunk().await {
                Ok(Some(chunk)) => {
                    reading.reader = Some(reader);
                    Some((Ok(chunk), reading))
                }
                Ok(None) => None,
                Err(error) => {
                    tracing::warn!(%error, "an object broke off while it was read");
                    Some((Err(std::io::Error::other(error)), reading))
                }
            }
        })
    }
}

impl Read {
    /// The bytes of an object of that length, `None` for all of them. `part` is where the part lies that is asked for, of
    /// an object that came in parts.
    fn bytes_of(
        &self,
        length: u64,
        part: Option<Range<u64>>,
    ) -> Result<Option<Range<u64>>, ApiError> {
        match (self.range, self.part) {
            (Some(_), Some(_)) => Err(ApiError::InvalidRequest(
                "a range and a part number cannot both be asked for",
            )),
            (None, Some(_)) if part.is_some() => Ok(part),
            // Of an object that was put in one piece.
            (None, Some(1)) => Ok((length > 0).then_some(0..length)),
            (None, Some(_)) => Err(ApiError::InvalidPartNumber),
            (Some(range), None) => range.of(length).map(Some),
            (None, None) => Ok(None),
        }
    }
}

impl Front {
    /// What an object is.
    pub(crate) async fn head(&self, read: &Read) -> Result<View, ApiError> {
        let bucket = self.bucket(&read.bucket).await?;
        let info = self.looked_at(&bucket, read).await?;
        let part = self.part_bytes(&bucket, read, &info).await?;
        let range = read.bytes_of(info.bytes, part)?;
        View::new(&bucket, read, info, range)
    }

    /// Opens an object, on record, and starts reading it.
    pub(crate) async fn get(&self, read: &Read) -> Result<(View, Reading), ApiError> {
        let bucket = self.bucket(&read.bucket).await?;
        let needs_a_look = !read.conditions.is_empty()
            || read.part.is_some()
            || matches!(read.range, Some(ByteRange::Last(_)))
            || read.version.is_some();
        if !needs_a_look {
            return self.get_current(&bucket, read).await;
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let info = self.looked_at(&bucket, read).await?;
            let part = self.part_bytes(&bucket, read, &info).await?;
            let range = read.bytes_of(info.bytes, part)?;
            let options = GetOptions {
                version: Some(info.version),
                range: range.as_ref().map(|range| (range.start, range.end)),
                ..GetOptions::default()
            };
            let length = range
                .as_ref()
                .map_or(info.bytes, |range| range.end - range.start);
            let room = self.shared.transfers.download(length).await?;
            match bucket.dataset.get(&read.key, &options).await {
                // Replaced since it was looked at.
                Err(client::Error::NoSuchObject)
                    if read.version.is_none() && tries < READ_TRIES => {}
                answer => {
                    let object = self.answer(&read.bucket, answer).await?;
                    let view = View::new(&bucket, read, info, range)?;
                    return Ok((view, reading(object, room)));
                }
            }
        }
    }

    /// One call of the region: what there is to know comes along.
    async fn get_current(&self, bucket: &Bucket, read: &Read) -> Result<(View, Reading), ApiError> {
        let range = match read.range {
            Some(ByteRange::From { first, last }) => {
                Some((first, last.map_or(u64::MAX, |last| last.saturating_add(1))))
            }
            _ => None,
        };
        let options = GetOptions {
            range,
            ..GetOptions::default()
        };
        // Its length is not known yet: most objects are small.
        let room = self.shared.transfers.download(0).await?;
        let object = bucket.dataset.get(&read.key, &options).await;
        let object = self.answer(&read.bucket, object).await?;
        let range = read.bytes_of(object.info.bytes, None)?;
        let view = View::new(bucket, read, object.info.clone(), range)?;
        let room = match view.length() > SMALL_BYTES_MAX {
            true => room.and(self.shared.transfers.download(view.length()).await?),
            false => room,
        };
        Ok((view, reading(object, room)))
    }

    /// The version that is read, its conditions checked.
    pub(super) async fn looked_at(
        &self,
        bucket: &Bucket,
        read: &Read,
    ) -> Result<ObjectInfo, ApiError> {
        let info = self.resolve(bucket, &read.key, read.version).await?;
        if info.delete_marker {
            return Err(ApiError::MethodNotAllowed);
        }
        read.conditions.check(info.version, info.finished_at)?;
        Ok(info)
    }
}

fn reading(object: Object, room: Room) -> Reading {
    Reading {
        reader: Some(object.body),
        _room: room,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_has_one_part() {
        let read = |range, part| Read {
            bucket: "bucket".parse().expect("a name"),
            key: "key".parse().expect("a key"),
            version: None,
            range,
            part,
            conditions: Conditions::default(),
        };
        let of = |range, part| {
            let bytes = read(range, part).bytes_of(10, None);
            bytes.map_err(|error| error.code())
        };
        assert_eq!(of(None, None), Ok(None));
        assert_eq!(of(None, Some(1)), Ok(Some(0..10)));
        assert_eq!(of(None, Some(2)), Err("InvalidPartNumber"));
        let last = Some(ByteRange::Last(3));
        assert_eq!(of(last, None), Ok(Some(7..10)));
        assert_eq!(of(last, Some(1)), Err("InvalidRequest"));
        assert_eq!(read(None, Some(1)).bytes_of(0, None).ok(), Some(None));
        let second = read(None, Some(2)).bytes_of(10, Some(4..10));
        assert_eq!(second.ok(), Some(Some(4..10)));
    }
}
