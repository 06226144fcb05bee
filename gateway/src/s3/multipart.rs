//! Operations on uploads in parts.

use client::ids::LogIndex;
use futures::FutureExt as _;
use s3s::dto::*;
use s3s::{S3Error, S3Request, S3Response};

use super::buckets::{owned, owner};
use super::convert::{self, Spelling};
use super::objects::{no_customer_key, source_of};
use super::requests::{self, StatedHeaders, Unoffered};
use super::{answers, locks};
use crate::checksum::{Algorithm, Kind, Summed};
use crate::error::ApiError;
use crate::front::{
    Begin, Complete, Completed, CopyPart, Front, ListUploads, NamedPart, PARTS_MAX, PutPart, Read,
    UploadName, WholeStated,
};
use crate::metadata::{Described, parse_tags};
use crate::token::{self, VersionMarker};

type Answer<T> = Result<S3Response<T>, ApiError>;

/// Entries of one page, as S3 bounds them.
const PAGE_MAX: i32 = 1_000;

pub(super) async fn create_multipart_upload(
    front: &Front,
    request: S3Request<CreateMultipartUploadInput>,
) -> Answer<CreateMultipartUploadOutput> {
    let input = request.input;
    Unoffered {
        acl: input.acl.as_ref().map(ObjectCannedACL::as_str),
        grants: input.grant_full_control.is_some()
            || input.grant_read.is_some()
            || input.grant_read_acp.is_some()
            || input.grant_write_acp.is_some(),
        storage_class: input.storage_class.as_ref().map(StorageClass::as_str),
        website: input.website_redirect_location.is_some(),
        offset: false,
        expected_owner: [input.expected_bucket_owner.as_deref(), None],
    }
    .check(front.owner())?;
    let summed = Summed::stated(
        requests::algorithm(input.checksum_algorithm.as_ref())?,
        kind(input.checksum_type.as_ref())?,
    )?;
    let begin = Begin {
        bucket: convert::bucket(&input.bucket)?,
        key: convert::key(&input.key)?,
        described: Described {
            headers: StatedHeaders {
                content_type: input.content_type,
                cache_control: input.cache_control,
                content_disposition: input.content_disposition,
                content_encoding: input.content_encoding,
                content_language: input.content_language,
                expires: input.expires,
                metadata: input.metadata,
            }
            .read()?,
            tags: parse_tags(input.tagging.as_deref().unwrap_or_default())?,
            invocation: None,
            summed,
        },
        encryption: requests::encryption(
            input
                .server_side_encryption
                .as_ref()
                .map(ServerSideEncryption::as_str),
            input.ssekms_key_id,
            input.sse_customer_algorithm.is_some() || input.sse_customer_key.is_some(),
            input.ssekms_encryption_context.is_some() || input.bucket_key_enabled == Some(true),
        ),
        locks: locks::stated(
            input.object_lock_mode.as_ref(),
            input.object_lock_retain_until_date,
            input.object_lock_legal_hold_status.as_ref(),
        )?,
    };
    let begun = front.begin_upload(begin).await?;
    Ok(S3Response::new(CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        checksum_algorithm: summed.map(algorithm_of),
        checksum_type: summed.map(|summed| convert::checksum_type(summed.kind)),
        key: Some(input.key),
        server_side_encryption: Some(convert::aws_kms()),
        ssekms_key_id: Some(begun.kek),
        upload_id: Some(begun.id.to_string()),
        ..CreateMultipartUploadOutput::default()
    }))
}

pub(super) async fn upload_part(
    front: &Front,
    request: S3Request<UploadPartInput>,
) -> Answer<UploadPartOutput> {
    let (input, headers) = (request.input, request.headers);
    owned(front, input.expected_bucket_owner.as_deref())?;
    no_customer_key(input.sse_customer_algorithm.is_some() || input.sse_customer_key.is_some())?;
    let length = requests::length(input.content_length, &headers)?;
    let md5 = input.content_md5.as_deref();
    let put = PutPart {
        of: upload_name(&input.bucket, &input.key, &input.upload_id)?,
        number: number(input.part_number)?,
        stated: requests::stated(&headers, request.trailing_headers, length, md5)?,
        body: requests::incoming(input.body),
    };
    let stored = front.put_part(put).await?;
    let sums = answers::checksums(&stored.checksums, Kind::FullObject, None);
    Ok(S3Response::new(UploadPartOutput {
        checksum_crc32: sums.checksum_crc32,
        checksum_crc32c: sums.checksum_crc32c,
        checksum_crc64nvme: sums.checksum_crc64nvme,
        checksum_sha1: sums.checksum_sha1,
        checksum_sha256: sums.checksum_sha256,
        e_tag: Some(ETag::Strong(stored.id.to_string())),
        server_side_encryption: Some(convert::aws_kms()),
        ssekms_key_id: Some(stored.kek),
        ..UploadPartOutput::default()
    }))
}

pub(super) async fn upload_part_copy(
    front: &Front,
    request: S3Request<UploadPartCopyInput>,
) -> Answer<UploadPartCopyOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    owned(front, input.expected_source_bucket_owner.as_deref())?;
    no_customer_key(
        input.sse_customer_algorithm.is_some()
            || input.sse_customer_key.is_some()
            || input.copy_source_sse_customer_algorithm.is_some()
            || input.copy_source_sse_customer_key.is_some(),
    )?;
    let range = input.copy_source_range.as_deref();
    let source = Read {
        range: range.map(requests::copied_range).transpose()?,
        conditions: convert::conditions(
            input.copy_source_if_match,
            input.copy_source_if_none_match,
            input.copy_source_if_modified_since,
            input.copy_source_if_unmodified_since,
        ),
        ..source_of(input.copy_source)?
    };
    let copy = CopyPart {
        of: upload_name(&input.bucket, &input.key, &input.upload_id)?,
        number: number(input.part_number)?,
        source,
    };
    let (stored, source_version_id) = front.copy_part(copy).await?;
    let sums = answers::checksums(&stored.checksums, Kind::FullObject, None);
    Ok(S3Response::new(UploadPartCopyOutput {
        copy_part_result: Some(CopyPartResult {
            checksum_crc32: sums.checksum_crc32,
            checksum_crc32c: sums.checksum_crc32c,
            checksum_crc64nvme: sums.checksum_crc64nvme,
            checksum_sha1: sums.checksum_sha1,
            checksum_sha256: sums.checksum_sha256,
            e_tag: Some(ETag::Strong(stored.id.to_string())),
            last_modified: Some(convert::timestamp(crate::now())),
        }),
        copy_source_version_id: source_version_id,
        server_side_encryption: Some(convert::aws_kms()),
        ssekms_key_id: Some(stored.kek),
        ..UploadPartCopyOutput::default()
    }))
}

pub(super) async fn complete_multipart_upload(
    front: &Front,
    request: S3Request<CompleteMultipartUploadInput>,
) -> Answer<CompleteMultipartUploadOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    no_customer_key(input.sse_customer_algorithm.is_some() || input.sse_customer_key.is_some())?;
    let named = input.multipart_upload.and_then(|upload| upload.parts);
    let parts = named.unwrap_or_default().into_iter().map(named_part);
    let whole = requests::sums([
        (Algorithm::Crc32, input.checksum_crc32),
        (Algorithm::Crc32c, input.checksum_crc32c),
        (Algorithm::Crc64Nvme, input.checksum_crc64nvme),
        (Algorithm::Sha1, input.checksum_sha1),
        (Algorithm::Sha256, input.checksum_sha256),
    ])?;
    let bytes = input.mpu_object_size.map(u64::try_from).transpose();
    let complete = Complete {
        of: upload_name(&input.bucket, &input.key, &input.upload_id)?,
        parts: parts.collect::<Result<_, _>>()?,
        condition: requests::put_condition(input.if_match, input.if_none_match),
        whole: WholeStated {
            sums: whole,
            kind: kind(input.checksum_type.as_ref())?,
            bytes: bytes.map_err(|_| ApiError::InvalidArgument("a length is not negative"))?,
        },
    };
    let mut completed = front.complete(&complete).await?;
    let under_way = completed.under_way.take();
    let done = completed_output(&input.bucket, &input.key, completed);
    let Some(under_way) = under_way else {
        return Ok(S3Response::new(done));
    };
    // Headers go out now, and whitespace until there is something to say.
    let headers = CompleteMultipartUploadOutput {
        server_side_encryption: done.server_side_encryption.clone(),
        ssekms_key_id: done.ssekms_key_id.clone(),
        version_id: done.version_id.clone(),
        ..CompleteMultipartUploadOutput::default()
    };
    let rest = under_way.map(|outcome| match outcome {
        Ok(()) => Ok(done),
        Err(error) => Err(S3Error::from(error)),
    });
    Ok(S3Response::new(CompleteMultipartUploadOutput {
        future: Some(rest.boxed()),
        ..headers
    }))
}

fn completed_output(
    bucket: &str,
    key: &str,
    completed: Completed,
) -> CompleteMultipartUploadOutput {
    let stored = completed.stored;
    let sums = answers::checksums(&stored.checksums, completed.kind, Some(completed.parts));
    CompleteMultipartUploadOutput {
        bucket: Some(bucket.to_owned()),
        checksum_crc32: sums.checksum_crc32,
        checksum_crc32c: sums.checksum_crc32c,
        checksum_crc64nvme: sums.checksum_crc64nvme,
        checksum_sha1: sums.checksum_sha1,
        checksum_sha256: sums.checksum_sha256,
        checksum_type: sums.checksum_type,
        e_tag: Some(convert::etag(stored.version)),
        key: Some(key.to_owned()),
        location: Some(format!("/{bucket}/{}", Spelling::Url.write(key))),
        server_side_encryption: Some(convert::aws_kms()),
        ssekms_key_id: Some(stored.kek),
        version_id: stored.version_id,
        ..CompleteMultipartUploadOutput::default()
    }
}

pub(super) async fn abort_multipart_upload(
    front: &Front,
    request: S3Request<AbortMultipartUploadInput>,
) -> Answer<AbortMultipartUploadOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    if input.if_match_initiated_time.is_some() {
        return Err(ApiError::NotImplemented("aborts on a time"));
    }
    let name = upload_name(&input.bucket, &input.key, &input.upload_id)?;
    front.abort_upload(&name).await?;
    Ok(S3Response::new(AbortMultipartUploadOutput::default()))
}

pub(super) async fn list_parts(
    front: &Front,
    request: S3Request<ListPartsInput>,
) -> Answer<ListPartsOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    no_customer_key(input.sse_customer_algorithm.is_some() || input.sse_customer_key.is_some())?;
    let name = upload_name(&input.bucket, &input.key, &input.upload_id)?;
    let (after, max) = page_of(input.part_number_marker, input.max_parts)?;
    let page = front.list_parts(&name, after, max).await?;
    let parts = page.parts.into_iter().map(|part| {
        let sums = answers::checksums(&part.checksums, Kind::FullObject, None);
        Part {
            checksum_crc32: sums.checksum_crc32,
            checksum_crc32c: sums.checksum_crc32c,
            checksum_crc64nvme: sums.checksum_crc64nvme,
            checksum_sha1: sums.checksum_sha1,
            checksum_sha256: sums.checksum_sha256,
            e_tag: Some(ETag::Strong(part.id.to_string())),
            last_modified: Some(convert::timestamp(part.finished_at)),
            part_number: i32::try_from(part.number).ok(),
            size: Some(convert::signed(part.bytes)),
        }
    });
    Ok(S3Response::new(ListPartsOutput {
        bucket: Some(input.bucket),
        checksum_algorithm: page.summed.map(algorithm_of),
        checksum_type: page
            .summed
            .map(|summed| convert::checksum_type(summed.kind)),
        initiator: Some(initiator(front)),
        is_truncated: Some(page.next.is_some()),
        key: Some(input.key),
        max_parts: i32::try_from(max).ok(),
        next_part_number_marker: page.next.and_then(|next| i32::try_from(next).ok()),
        owner: Some(owner(front)),
        part_number_marker: i32::try_from(after).ok(),
        parts: Some(parts.collect()),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        upload_id: Some(input.upload_id),
        ..ListPartsOutput::default()
    }))
}

pub(super) async fn list_multipart_uploads(
    front: &Front,
    request: S3Request<ListMultipartUploadsInput>,
) -> Answer<ListMultipartUploadsOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    let spelling = Spelling::of(input.encoding_type.as_ref())?;
    let marker = input.upload_id_marker.filter(|marker| !marker.is_empty());
    let wanted = ListUploads {
        prefix: convert::listed_text(input.prefix)?,
        delimiter: convert::listed_text(input.delimiter)?,
        key_marker: convert::listed_text(input.key_marker)?,
        upload_marker: marker.as_deref().map(VersionMarker::parse).transpose()?,
        max_uploads: convert::max_keys(input.max_uploads)?,
    };
    let name = convert::bucket(&input.bucket)?;
    let page = front.list_uploads(&name, &wanted).await?;
    let uploads = page.uploads.into_iter().map(|upload| MultipartUpload {
        initiated: Some(convert::timestamp(upload.begun_at)),
        initiator: Some(initiator(front)),
        key: Some(spelling.write(upload.key.as_str())),
        owner: Some(owner(front)),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        upload_id: Some(upload.id.to_string()),
        ..MultipartUpload::default()
    });
    let prefixes = page.common_prefixes.iter().map(|prefix| CommonPrefix {
        prefix: Some(spelling.write(prefix)),
    });
    let next = page.next.as_ref();
    let next_index = next.map(|(_, index)| *index).filter(|index| *index > 0);
    Ok(S3Response::new(ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        common_prefixes: Some(prefixes.collect()),
        delimiter: spelling.write_some(&wanted.delimiter),
        encoding_type: input.encoding_type,
        is_truncated: Some(next.is_some()),
        key_marker: Some(spelling.write(&wanted.key_marker)),
        max_uploads: i32::try_from(wanted.max_uploads).ok(),
        next_key_marker: next.map(|(key, _)| spelling.write(key)),
        next_upload_id_marker: next_index.map(|index| token::version_marker(LogIndex(index))),
        prefix: Some(spelling.write(&wanted.prefix)),
        upload_id_marker: Some(marker.unwrap_or_default()),
        uploads: Some(uploads.collect()),
        ..ListMultipartUploadsOutput::default()
    }))
}

fn upload_name(bucket: &str, key: &str, id: &str) -> Result<UploadName, ApiError> {
    Ok(UploadName {
        bucket: convert::bucket(bucket)?,
        key: convert::key(key)?,
        id: id.parse().map_err(|_| ApiError::NoSuchUpload)?,
    })
}

fn number(stated: i32) -> Result<u32, ApiError> {
    let number = u32::try_from(stated).ok();
    number
        .filter(|number| (1..=PARTS_MAX).contains(number))
        .ok_or(ApiError::InvalidArgument("a part's number is 1 to 10000"))
}

fn named_part(named: CompletedPart) -> Result<NamedPart, ApiError> {
    let missing = ApiError::MalformedXml("a part is named by its number and its ETag");
    let (Some(stated), Some(etag)) = (named.part_number, named.e_tag) else {
        return Err(missing);
    };
    Ok(NamedPart {
        number: number(stated)?,
        id: etag.value().parse().ok(),
        sums: requests::sums([
            (Algorithm::Crc32, named.checksum_crc32),
            (Algorithm::Crc32c, named.checksum_crc32c),
            (Algorithm::Crc64Nvme, named.checksum_crc64nvme),
            (Algorithm::Sha1, named.checksum_sha1),
            (Algorithm::Sha256, named.checksum_sha256),
        ])?,
    })
}

/// Where a page of parts starts and how many it has at most.
pub(super) fn page_of(marker: Option<i32>, max: Option<i32>) -> Result<(u32, u32), ApiError> {
    let bad = |_| ApiError::InvalidArgument("a part number marker or max-parts is not negative");
    let after = u32::try_from(marker.unwrap_or_default()).map_err(bad)?;
    let max = u32::try_from(max.unwrap_or(PAGE_MAX).min(PAGE_MAX)).map_err(bad)?;
    Ok((after, max))
}

fn kind(stated: Option<&ChecksumType>) -> Result<Option<Kind>, ApiError> {
    let Some(stated) = stated else {
        return Ok(None);
    };
    let kind = Kind::named(stated.as_str());
    kind.map(Some)
        .ok_or(ApiError::InvalidRequest("the checksum type is not known"))
}

fn algorithm_of(summed: Summed) -> ChecksumAlgorithm {
    ChecksumAlgorithm::from_static(summed.algorithm.name())
}

fn initiator(front: &Front) -> Initiator {
    let owner = owner(front);
    Initiator {
        display_name: owner.display_name,
        id: owner.id,
    }
}
