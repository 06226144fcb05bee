//! Copying an object: opened on record and sealed again under the destination's own key.
//!
//! Owns what goes along. Refuses a copy whose bytes are not those its source's checksums are of.

use client::ids::UnixMs;
use futures::TryStreamExt as _;

use super::Front;
use super::put::{PUT_BYTES_MAX, Put, Stored};
use super::read::Read;
use crate::body::Stated;
use crate::checksum::{Algorithm, Kind};
use crate::error::ApiError;

/// Whether what is sealed with the source goes along, or what the request states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Directive {
    #[default]
    Copy,
    Replace,
}

/// An object to be copied.
pub(crate) struct Copy {
    /// Its conditions are those of the source.
    pub(crate) source: Read,
    /// Where to; its body and what is stated of it are the copy's own.
    pub(crate) to: Put,
    pub(crate) metadata: Directive,
    pub(crate) tags: Directive,
    /// The checksum to keep; the source's, where none is named.
    pub(crate) algorithm: Option<Algorithm>,
}

/// What a copy did.
#[derive(Debug, Clone)]
pub(crate) struct Copied {
    pub(crate) stored: Stored,
    pub(crate) finished_at: UnixMs,
    pub(crate) source_version_id: Option<String>,
}

impl Front {
    /// Copies an object.
    pub(crate) async fn copy(&self, copy: Copy) -> Result<Copied, ApiError> {
        let Copy {
            source,
            mut to,
            metadata,
            tags,
            algorithm,
        } = copy;
        let onto_itself = source.bucket == to.bucket
            && source.key == to.key
            && source.version.is_none()
            && metadata == Directive::Copy;
        if onto_itself {
            return Err(ApiError::InvalidRequest(
                "a copy of an object onto itself has to change its metadata",
            ));
        }
        let found = self.bucket(&source.bucket).await?;
        let info = self.resolve(&found, &source.key, source.version).await?;
        if info.delete_marker {
            return Err(ApiError::InvalidRequest(
                "the source of a copy is a delete marker",
            ));
        }
        source
            .conditions
            .check_source(info.version, info.finished_at)?;
        if info.bytes > PUT_BYTES_MAX {
            return Err(ApiError::InvalidRequest(
                "the source of a copy has at most 5 GiB: a larger one is copied in parts",
            ));
        }
        let exact = Read {
            version: Some(super::VersionSelector::Id(info.version)),
            conditions: Default::default(),
            ..source
        };
        let (view, reading) = self.get(&exact).await?;
        if metadata == Directive::Copy {
            to.described.headers = view.described.headers.clone();
        }
        if tags == Directive::Copy {
            to.described.tags = view.described.tags.clone();
        }
        to.stated = Stated {
            length: view.info.bytes,
            sums: sums(
                &view.info.metadata.checksums,
                view.described.kind(),
                algorithm,
            ),
            ..Stated::default()
        };
        to.body = Box::pin(reading.into_stream().map_err(crate::error::of_source));
        let (bucket, key) = (to.bucket.clone(), to.key.clone());
        let stored = self.put(to).await?;
        let finished_at = self.finished_at(&bucket, &key, &stored).await;
        Ok(Copied {
            stored,
            finished_at,
            source_version_id: view.version_id,
        })
    }

    /// When a copy was finished: the source's answer has to say it. A copy that was replaced since then says when that
    /// was looked at.
    async fn finished_at(
        &self,
        name: &client::ids::DatasetName,
        key: &client::ids::ObjectKey,
        stored: &Stored,
    ) -> UnixMs {
        let looked = async {
            let bucket = self.bucket(name).await?;
            let version = Some(super::VersionSelector::Id(stored.version));
            self.resolve(&bucket, key, version).await
        };
        match looked.await {
            Ok(info) => info.finished_at,
            Err(_) => crate::now(),
        }
    }
}

/// The source's own sums, which the bytes have to have; and the one that is asked for. A composite one is of parts, and
/// the copy is in one: it has the same algorithm over its bytes.
fn sums(
    source: &std::collections::BTreeMap<String, bytes::Bytes>,
    kind: Kind,
    asked: Option<Algorithm>,
) -> Vec<(Algorithm, Option<bytes::Bytes>)> {
    let kept = source.iter().filter_map(|(name, value)| {
        let value = (kind == Kind::FullObject).then(|| value.clone());
        Some((Algorithm::named(name)?, value))
    });
    let mut sums: Vec<_> = kept.collect();
    if let Some(asked) = asked {
        match sums.iter().position(|(algorithm, _)| *algorithm == asked) {
            Some(at) => sums = vec![sums.swap_remove(at)],
            None => sums.push((asked, None)),
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_its_sources_sums_and_the_one_asked_for() {
        let value = bytes::Bytes::from_static(&[1; 4]);
        let source = [("CRC32".to_owned(), value.clone())].into();
        let kept = vec![(Algorithm::Crc32, Some(value))];
        let of = |asked| sums(&source, Kind::FullObject, asked);
        assert_eq!(of(None), kept);
        assert_eq!(of(Some(Algorithm::Crc32)), kept);
        let both = [kept, vec![(Algorithm::Sha256, None)]].concat();
        assert_eq!(of(Some(Algorithm::Sha256)), both);
        assert!(sums(&Default::default(), Kind::FullObject, None).is_empty());
        let anew = vec![(Algorithm::Crc32, None)];
        assert_eq!(sums(&source, Kind::Composite, None), anew);
    }
}
