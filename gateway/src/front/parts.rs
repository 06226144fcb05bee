//! The parts of an object that came in some, as S3 counts them: from 1 in the order they were completed in, whatever their
//! numbers were while they were put. A client that reads part by part counts to what it is told there are.

use std::ops::Range;

use client::{ObjectInfo, Part};

use super::read::Read;
use super::{Bucket, Front};
use crate::error::ApiError;

/// Parts of one page.
const PAGE: u32 = 1_000;

/// Some parts of an object.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ObjectParts {
    /// Each with its place, from 1.
    pub(crate) parts: Vec<(u32, Part)>,
    /// How many there are.
    pub(crate) total: u32,
    pub(crate) truncated: bool,
}

impl Front {
    /// The bytes of the part that is asked for, of an object that came in parts.
    pub(super) async fn part_bytes(
        &self,
        bucket: &Bucket,
        read: &Read,
        info: &ObjectInfo,
    ) -> Result<Option<Range<u64>>, ApiError> {
        let Some(place) = read.part.filter(|_| info.parts > 0) else {
            return Ok(None);
        };
        if !(1..=info.parts).contains(&place) {
            return Err(ApiError::InvalidPartNumber);
        }
        let (mut start, mut passed, mut after) = (0, 0, 0);
        loop {
            let page = bucket
                .dataset
                .list_parts(&read.key, info.version, after, PAGE);
            let page = self.answer(&read.bucket, page.await).await?;
            for part in page.parts {
                passed += 1;
                let end = start + part.bytes;
                if passed == place {
                    return Ok(Some(start..end));
                }
                start = end;
            }
            after = page.next.ok_or(ApiError::Damaged)?;
        }
    }

    /// Up to `max` parts of an object after the one at the place `after`.
    pub(crate) async fn object_parts(
        &self,
        read: &Read,
        info: &ObjectInfo,
        after: u32,
        max: u32,
    ) -> Result<ObjectParts, ApiError> {
        let bucket = self.bucket(&read.bucket).await?;
        let all = self.parts_of(&bucket, &read.key, info.version).await?;
        let total = u32::try_from(all.len()).unwrap_or(u32::MAX);
        let end = after.saturating_add(max);
        let parts = (1..).zip(all);
        Ok(ObjectParts {
            parts: parts
                .filter(|(place, _)| *place > after && *place <= end)
                .collect(),
            total,
            truncated: end < total,
        })
    }
}
