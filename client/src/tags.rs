//! Tags of a version that is there, changed in place; and tags and cross-origin rules of a dataset.
//!
//! Owns the way from what is sealed with a version to the same with other tags: whoever else changed it meanwhile is not
//! overwritten, the change is made anew on what they left. Refuses to write metadata of a format it does not know, of
//! which it would lose what it cannot read.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use proto::ids::{ObjectKey, ObjectVersionId};
use proto::v1;
use tokio::time::Instant;

use crate::dataset::{Dataset, ObjectInfo};
use crate::error::Error;

/// The format of metadata, and of settings, that this build writes.
const FORMAT: u32 = 1;
/// Before a change is decided anew.
const PAUSE_FIRST: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(64);

/// What one try of a change came to.
enum Try {
    Done(Box<ObjectInfo>),
    /// What it was decided on is not there any more.
    Moved(Error),
}

impl Dataset {
    /// Puts these tags in place of a version's, the current one's where none is named: its id, its order and everything
    /// else that is sealed with it stay. Answers what the version is then.
    pub async fn set_tags(
        &self,
        key: &ObjectKey,
        version: Option<ObjectVersionId>,
        tags: &BTreeMap<String, String>,
    ) -> Result<ObjectInfo, Error> {
        let deadline = Instant::now() + self.0.region.0.tuning.deadline;
        let mut pause = PAUSE_FIRST;
        loop {
            let moved = match self.try_set_tags(key, version, tags).await? {
                Try::Done(info) => return Ok(*info),
                Try::Moved(error) => error,
            };
            if Instant::now() + pause >= deadline {
                return Err(moved);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn try_set_tags(
        &self,
        key: &ObjectKey,
        version: Option<ObjectVersionId>,
        tags: &BTreeMap<String, String>,
    ) -> Result<Try, Error> {
        let found = self.find(key, version, true, &self.0.stated).await?;
        let mut entry = found.entry.ok_or(Error::NoSuchObject)?;
        if entry.delete_marker {
            return Err(Error::Caller {
                reason: "delete-marker".to_owned(),
                message: "the version is a delete marker: it has no tags".to_owned(),
            });
        }
        let id = ObjectVersionId::try_from(&entry.version_id[..])?;
        let held = self.object_metadata(id, &entry.sealed_metadata).await?;
        let wanted = tagged(held.clone(), tags)?;
        if held.tags != wanted.tags {
            let (sealed, key_version) = self.seal_metadata(id, &wanted).await.map_err(too_long)?;
            let request = v1::SetMetadataRequest {
                shard: self.shard().0,
                request_id: Bytes::new(),
                dataset_id: self.id().into(),
                key: key.as_str().to_owned(),
                version_id: id.into(),
                from_digest: Bytes::copy_from_slice(
                    blake3::hash(&entry.sealed_metadata).as_bytes(),
                ),
                sealed_metadata: Bytes::copy_from_slice(sealed.as_bytes()),
                metadata_key_version: key_version,
            };
            entry.sealed_metadata = request.sealed_metadata.clone();
            let mut request_id = self.request_id(None)?;
            let set = self.write_once(&mut request_id, |mut shard, request_id| {
                let request = v1::SetMetadataRequest {
                    request_id,
                    ..request.clone()
                };
                async move { Ok(shard.set_metadata(request).await?.into_inner()) }
            });
            match set.await {
                Err(error) if error.reason() == "metadata-moved" => return Ok(Try::Moved(error)),
                // The current version is another by now.
                Err(error @ Error::NoSuchObject) if version.is_none() => {
                    return Ok(Try::Moved(error));
                }
                done => done?,
            };
        }
        let info = self.info(key.clone(), &entry, version.is_none()).await?;
        Ok(Try::Done(Box::new(info)))
    }

    /// The dataset's own tags, as they were stated.
    pub async fn dataset_tags(&self) -> Result<Vec<(String, String)>, Error> {
        let held = self.setting(v1::ConfigKind::Tagging).await?;
        let held = v1::DatasetTags::decode(held.content).ok();
        let held = held.filter(|held| held.format <= FORMAT);
        let held = held.ok_or(Error::Protocol {
            what: "tags of an unknown format",
        })?;
        let pair = |tag: v1::DatasetTag| (tag.name, tag.value);
        Ok(held.tags.into_iter().map(pair).collect())
    }

    /// Puts these in place of the dataset's own tags. They are not sealed, as its name is not.
    pub async fn set_dataset_tags(&self, tags: &[(String, String)]) -> Result<(), Error> {
        let tags = tags.iter().map(|(name, value)| v1::DatasetTag {
            name: name.clone(),
            value: value.clone(),
        });
        let tags = v1::DatasetTags {
            format: FORMAT,
            tags: tags.collect(),
        };
        let content = match tags.tags.is_empty() {
            true => Vec::new(),
            false => tags.encode_to_vec(),
        };
        self.set_setting(v1::ConfigKind::Tagging, content, None)
            .await
    }

    /// The dataset's cross-origin rules, in order.
    pub async fn cors(&self) -> Result<Vec<v1::CorsRule>, Error> {
        let held = self.setting(v1::ConfigKind::Cors).await?;
        let held = v1::Cors::decode(held.content).ok();
        let held = held.filter(|held| held.format <= FORMAT);
        let held = held.ok_or(Error::Protocol {
            what: "cross-origin rules of an unknown format",
        })?;
        Ok(held.rules)
    }

    /// Puts these in place of the dataset's cross-origin rules; none ends them.
    pub async fn set_cors(&self, rules: Vec<v1::CorsRule>) -> Result<(), Error> {
        let content = match rules.is_empty() {
            true => Vec::new(),
            false => v1::Cors {
                format: FORMAT,
                rules,
            }
            .encode_to_vec(),
        };
        self.set_setting(v1::ConfigKind::Cors, content, None).await
    }
}

/// The same metadata with these tags.
fn tagged(
    held: v1::UserMetadata,
    tags: &BTreeMap<String, String>,
) -> Result<v1::UserMetadata, Error> {
    if held.format > FORMAT {
        return Err(Error::Protocol {
            what: "metadata of an unknown format",
        });
    }
    Ok(v1::UserMetadata {
        format: FORMAT,
        tags: tags.clone().into_iter().collect(),
        ..held
    })
}

fn too_long(error: Error) -> Error {
    match error {
        Error::Seal(envelope::SealError::TooLong) => Error::Caller {
            reason: "metadata-too-large".to_owned(),
            message: "metadata and tags are larger than what is sealed with an object".to_owned(),
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_tags_leave_everything_else_as_it_was() {
        let held = v1::UserMetadata {
            format: 1,
            content_type: "text/plain".to_owned(),
            user: [("a".to_owned(), "1".to_owned())].into(),
            tags: [("old".to_owned(), "1".to_owned())].into(),
            checksums: [("CRC32".to_owned(), Bytes::from_static(&[1; 4]))].into(),
            ..v1::UserMetadata::default()
        };
        let tags = [("new".to_owned(), "2".to_owned())].into();
        let wanted = tagged(held.clone(), &tags).expect("a known format");
        let expected = v1::UserMetadata {
            tags: tags.into_iter().collect(),
            ..held
        };
        assert_eq!(wanted, expected);
        let none = tagged(v1::UserMetadata::default(), &BTreeMap::new()).expect("none at all");
        assert_eq!((none.format, none.tags.len()), (1, 0));
    }

    /// Fields of a later format would be lost.
    #[test]
    fn metadata_of_a_later_format_is_left_alone() {
        let later = v1::UserMetadata {
            format: 2,
            ..v1::UserMetadata::default()
        };
        let refused = tagged(later, &BTreeMap::new()).err();
        assert_eq!(
            refused.map(|error| error.reason().to_owned()),
            Some("protocol".to_owned())
        );
    }
}
