//! Listings as S3 writes them: markers of the first version, tokens of the second, versions.

use s3s::dto::*;
use s3s::{S3Request, S3Response};

use super::buckets::{owned, owner};
use super::convert::{self, Spelling};
use crate::error::ApiError;
use crate::front::{Front, List, ListVersions, ListedPage, ListedVersion};
use crate::token::{self, VersionMarker};

type Answer<T> = Result<S3Response<T>, ApiError>;

pub(super) async fn list_objects(
    front: &Front,
    request: S3Request<ListObjectsInput>,
) -> Answer<ListObjectsOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    no_attributes(input.optional_object_attributes.as_deref())?;
    let spelling = Spelling::of(input.encoding_type.as_ref())?;
    let wanted = List {
        prefix: convert::listed_text(input.prefix)?,
        delimiter: convert::listed_text(input.delimiter)?,
        start_after: convert::listed_text(input.marker)?,
        max_keys: convert::max_keys(input.max_keys)?,
    };
    let page = front
        .list(&convert::bucket(&input.bucket)?, &wanted)
        .await?;
    Ok(S3Response::new(ListObjectsOutput {
        name: Some(input.bucket),
        prefix: Some(spelling.write(&wanted.prefix)),
        marker: Some(spelling.write(&wanted.start_after)),
        max_keys: i32::try_from(wanted.max_keys).ok(),
        is_truncated: Some(page.next.is_some()),
        contents: Some(contents(front, &page, spelling, true)),
        common_prefixes: prefixes(&page.common_prefixes, spelling),
        delimiter: spelling.write_some(&wanted.delimiter),
        next_marker: page.next.as_deref().map(|next| spelling.write(next)),
        encoding_type: input.encoding_type,
        ..ListObjectsOutput::default()
    }))
}

pub(super) async fn list_objects_v2(
    front: &Front,
    request: S3Request<ListObjectsV2Input>,
) -> Answer<ListObjectsV2Output> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    no_attributes(input.optional_object_attributes.as_deref())?;
    let spelling = Spelling::of(input.encoding_type.as_ref())?;
    let start_after = convert::listed_text(input.start_after)?;
    let wanted = List {
        prefix: convert::listed_text(input.prefix)?,
        delimiter: convert::listed_text(input.delimiter)?,
        // A token goes before where the first page began.
        start_after: match &input.continuation_token {
            Some(token) => token::parse_continuation(token)?,
            None => start_after.clone(),
        },
        max_keys: convert::max_keys(input.max_keys)?,
    };
    let page = front
        .list(&convert::bucket(&input.bucket)?, &wanted)
        .await?;
    let count = page.objects.len() + page.common_prefixes.len();
    let with_owner = input.fetch_owner == Some(true);
    Ok(S3Response::new(ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: Some(spelling.write(&wanted.prefix)),
        max_keys: i32::try_from(wanted.max_keys).ok(),
        key_count: i32::try_from(count).ok(),
        continuation_token: input.continuation_token,
        is_truncated: Some(page.next.is_some()),
        next_continuation_token: page.next.as_deref().map(token::continuation),
        contents: Some(contents(front, &page, spelling, with_owner)),
        common_prefixes: prefixes(&page.common_prefixes, spelling),
        delimiter: spelling.write_some(&wanted.delimiter),
        encoding_type: input.encoding_type,
        start_after: spelling.write_some(&start_after),
        ..ListObjectsV2Output::default()
    }))
}

pub(super) async fn list_object_versions(
    front: &Front,
    request: S3Request<ListObjectVersionsInput>,
) -> Answer<ListObjectVersionsOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    no_attributes(input.optional_object_attributes.as_deref())?;
    let spelling = Spelling::of(input.encoding_type.as_ref())?;
    let marker = input.version_id_marker.filter(|marker| !marker.is_empty());
    let wanted = ListVersions {
        prefix: convert::listed_text(input.prefix)?,
        delimiter: convert::listed_text(input.delimiter)?,
        key_marker: convert::listed_text(input.key_marker)?,
        version_marker: marker.as_deref().map(VersionMarker::parse).transpose()?,
        max_keys: convert::max_keys(input.max_keys)?,
    };
    let name = convert::bucket(&input.bucket)?;
    let page = front.list_versions(&name, &wanted).await?;
    let (markers, versions): (Vec<_>, Vec<_>) =
        page.versions.into_iter().partition(|one| one.delete_marker);
    let next = page.next.as_ref();
    let next_index = next.map(|(_, index)| *index).filter(|index| *index > 0);
    let next_index = next_index.map(|index| token::version_marker(client::ids::LogIndex(index)));
    Ok(S3Response::new(ListObjectVersionsOutput {
        common_prefixes: prefixes(&page.common_prefixes, spelling),
        delete_markers: Some(
            markers
                .into_iter()
                .map(|one| delete_marker(front, one, spelling))
                .collect(),
        ),
        delimiter: spelling.write_some(&wanted.delimiter),
        encoding_type: input.encoding_type,
        is_truncated: Some(next.is_some()),
        key_marker: Some(spelling.write(&wanted.key_marker)),
        max_keys: i32::try_from(wanted.max_keys).ok(),
        name: Some(input.bucket),
        next_key_marker: next.map(|(key, _)| spelling.write(key)),
        next_version_id_marker: next_index,
        prefix: Some(spelling.write(&wanted.prefix)),
        version_id_marker: Some(marker.unwrap_or_default()),
        versions: Some(
            versions
                .into_iter()
                .map(|one| version(front, one, spelling))
                .collect(),
        ),
        ..ListObjectVersionsOutput::default()
    }))
}

/// Attributes of an archive, which there is none of.
fn no_attributes(asked: Option<&[OptionalObjectAttributes]>) -> Result<(), ApiError> {
    match asked {
        Some([_, ..]) => Err(ApiError::NotImplemented("optional attributes of a listing")),
        _ => Ok(()),
    }
}

fn contents(front: &Front, page: &ListedPage, spelling: Spelling, with_owner: bool) -> Vec<Object> {
    let objects = page.objects.iter().map(|object| Object {
        checksum_algorithm: algorithms(&object.algorithms),
        checksum_type: (!object.algorithms.is_empty()).then(|| convert::checksum_type(object.kind)),
        e_tag: Some(convert::etag(object.version)),
        key: Some(spelling.write(&object.key)),
        last_modified: Some(convert::timestamp(object.finished_at)),
        owner: with_owner.then(|| owner(front)),
        size: Some(convert::signed(object.bytes)),
        storage_class: Some(ObjectStorageClass::from_static(
            ObjectStorageClass::STANDARD,
        )),
        ..Object::default()
    });
    objects.collect()
}

fn version(front: &Front, one: ListedVersion, spelling: Spelling) -> ObjectVersion {
    let standard = ObjectVersionStorageClass::STANDARD;
    ObjectVersion {
        checksum_algorithm: algorithms(&one.algorithms),
        checksum_type: (!one.algorithms.is_empty()).then(|| convert::checksum_type(one.kind)),
        e_tag: Some(convert::etag(one.version)),
        is_latest: Some(one.is_latest),
        key: Some(spelling.write(&one.key)),
        last_modified: Some(convert::timestamp(one.finished_at)),
        owner: Some(owner(front)),
        size: Some(convert::signed(one.bytes)),
        storage_class: Some(ObjectVersionStorageClass::from_static(standard)),
        version_id: Some(one.version_id),
        ..ObjectVersion::default()
    }
}

fn delete_marker(front: &Front, one: ListedVersion, spelling: Spelling) -> DeleteMarkerEntry {
    DeleteMarkerEntry {
        is_latest: Some(one.is_latest),
        key: Some(spelling.write(&one.key)),
        last_modified: Some(convert::timestamp(one.finished_at)),
        owner: Some(owner(front)),
        version_id: Some(one.version_id),
    }
}

fn algorithms(names: &[&'static str]) -> Option<Vec<ChecksumAlgorithm>> {
    let named = names.iter().copied().map(ChecksumAlgorithm::from_static);
    (!names.is_empty()).then(|| named.collect())
}

fn prefixes(prefixes: &[String], spelling: Spelling) -> Option<Vec<CommonPrefix>> {
    let written = prefixes.iter().map(|prefix| CommonPrefix {
        prefix: Some(spelling.write(prefix)),
    });
    Some(written.collect())
}
