//! Operations on objects.

use client::ids::ObjectKey;
use s3s::dto::*;
use s3s::{S3Request, S3Response};

use super::buckets::{found, only_private, owned, owner, owner_grant};
use super::multipart::page_of;
use super::requests::{self, StatedHeaders, Unoffered};
use super::{answers, convert, locks};
use crate::body::Stated;
use crate::checksum::Kind;
use crate::conditions::Conditions;
use crate::error::ApiError;
use crate::front::{
    Copy, Delete as FrontDelete, DeletedObject as FrontDeleted, Directive, Front, Put,
    PutCondition, Read,
};
use crate::metadata::{Described, parse_tags};

type Answer<T> = Result<S3Response<T>, ApiError>;

/// Keys of one request, as S3 bounds them.
const DELETES_MAX: usize = 1_000;

pub(super) async fn put_object(
    front: &Front,
    request: S3Request<PutObjectInput>,
) -> Answer<PutObjectOutput> {
    let (input, headers) = (request.input, request.headers);
    Unoffered {
        acl: input.acl.as_ref().map(ObjectCannedACL::as_str),
        grants: input.grant_full_control.is_some()
            || input.grant_read.is_some()
            || input.grant_read_acp.is_some()
            || input.grant_write_acp.is_some(),
        storage_class: input.storage_class.as_ref().map(StorageClass::as_str),
        website: input.website_redirect_location.is_some(),
        offset: input.write_offset_bytes.is_some(),
        expected_owner: [input.expected_bucket_owner.as_deref(), None],
    }
    .check(front.owner())?;
    let length = requests::length(input.content_length, &headers)?;
    let md5 = input.content_md5.as_deref();
    let put = Put {
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
            summed: None,
        },
        condition: requests::put_condition(input.if_match, input.if_none_match),
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
        stated: requests::stated(&headers, request.trailing_headers, length, md5)?,
        body: requests::incoming(input.body),
    };
    let stored = front.put(put).await?;
    let sums = answers::checksums(&stored.checksums, Kind::FullObject, None);
    Ok(S3Response::new(PutObjectOutput {
        checksum_crc32: sums.checksum_crc32,
        checksum_crc32c: sums.checksum_crc32c,
        checksum_crc64nvme: sums.checksum_crc64nvme,
        checksum_sha1: sums.checksum_sha1,
        checksum_sha256: sums.checksum_sha256,
        checksum_type: sums.checksum_type,
        e_tag: Some(convert::etag(stored.version)),
        server_side_encryption: Some(convert::aws_kms()),
        ssekms_key_id: Some(stored.kek),
        version_id: stored.version_id,
        ..PutObjectOutput::default()
    }))
}

pub(super) async fn get_object(
    front: &Front,
    request: S3Request<GetObjectInput>,
) -> Answer<GetObjectOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    no_customer_key(input.sse_customer_algorithm.is_some() || input.sse_customer_key.is_some())?;
    let read = Read {
        bucket: convert::bucket(&input.bucket)?,
        key: convert::key(&input.key)?,
        version: convert::version(input.version_id.as_deref())?,
        range: input.range.map(convert::range),
        part: convert::part(input.part_number)?,
        conditions: convert::conditions(
            input.if_match,
            input.if_none_match,
            input.if_modified_since,
            input.if_unmodified_since,
        ),
    };
    let (view, reading) = front.get(&read).await?;
    let with_checksums = asks_for_checksums(input.checksum_mode.as_ref());
    // `s3s` lays the request's response-… parameters over this.
    Ok(S3Response::new(answers::get(
        &view,
        reading,
        with_checksums,
    )))
}

pub(super) async fn head_object(
    front: &Front,
    request: S3Request<HeadObjectInput>,
) -> Answer<HeadObjectOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    no_customer_key(input.sse_customer_algorithm.is_some() || input.sse_customer_key.is_some())?;
    let read = Read {
        bucket: convert::bucket(&input.bucket)?,
        key: convert::key(&input.key)?,
        version: convert::version(input.version_id.as_deref())?,
        range: input.range.map(convert::range),
        part: convert::part(input.part_number)?,
        conditions: convert::conditions(
            input.if_match,
            input.if_none_match,
            input.if_modified_since,
            input.if_unmodified_since,
        ),
    };
    let view = front.head(&read).await?;
    let with_checksums = asks_for_checksums(input.checksum_mode.as_ref());
    let mut head = answers::head(&view, with_checksums);
    let over = |own: &mut Option<String>, asked: Option<String>| {
        if asked.is_some() {
            *own = asked;
        }
    };
    over(&mut head.cache_control, input.response_cache_control);
    over(
        &mut head.content_disposition,
        input.response_content_disposition,
    );
    over(&mut head.content_encoding, input.response_content_encoding);
    over(&mut head.content_language, input.response_content_language);
    over(&mut head.content_type, input.response_content_type);
    head.expires = input.response_expires.or(head.expires);
    Ok(answers::partial(head))
}

pub(super) async fn copy_object(
    front: &Front,
    request: S3Request<CopyObjectInput>,
) -> Answer<CopyObjectOutput> {
    let (input, headers) = (request.input, request.headers);
    Unoffered {
        acl: input.acl.as_ref().map(ObjectCannedACL::as_str),
        grants: input.grant_full_control.is_some()
            || input.grant_read.is_some()
            || input.grant_read_acp.is_some()
            || input.grant_write_acp.is_some(),
        storage_class: input.storage_class.as_ref().map(StorageClass::as_str),
        website: input.website_redirect_location.is_some(),
        offset: false,
        expected_owner: [
            input.expected_bucket_owner.as_deref(),
            input.expected_source_bucket_owner.as_deref(),
        ],
    }
    .check(front.owner())?;
    no_customer_key(
        input.copy_source_sse_customer_algorithm.is_some()
            || input.copy_source_sse_customer_key.is_some(),
    )?;
    let algorithm = requests::algorithm(input.checksum_algorithm.as_ref())?;
    let if_match = requests::header_condition(&headers, http::header::IF_MATCH)?;
    let if_none_match = requests::header_condition(&headers, http::header::IF_NONE_MATCH)?;
    let copy = Copy {
        source: Read {
            conditions: convert::conditions(
                input.copy_source_if_match,
                input.copy_source_if_none_match,
                input.copy_source_if_modified_since,
                input.copy_source_if_unmodified_since,
            ),
            ..source_of(input.copy_source)?
        },
        to: Put {
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
                summed: None,
            },
            condition: requests::put_condition(if_match, if_none_match),
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
            stated: Stated::default(),
            body: requests::incoming(None),
        },
        metadata: directive(
            input
                .metadata_directive
                .as_ref()
                .map(MetadataDirective::as_str),
        )?,
        tags: directive(
            input
                .tagging_directive
                .as_ref()
                .map(TaggingDirective::as_str),
        )?,
        algorithm,
    };
    let copied = front.copy(copy).await?;
    let sums = answers::checksums(&copied.stored.checksums, Kind::FullObject, None);
    Ok(S3Response::new(CopyObjectOutput {
        copy_object_result: Some(CopyObjectResult {
            checksum_crc32: sums.checksum_crc32,
            checksum_crc32c: sums.checksum_crc32c,
            checksum_crc64nvme: sums.checksum_crc64nvme,
            checksum_sha1: sums.checksum_sha1,
            checksum_sha256: sums.checksum_sha256,
            checksum_type: sums.checksum_type,
            e_tag: Some(convert::etag(copied.stored.version)),
            last_modified: Some(convert::timestamp(copied.finished_at)),
        }),
        copy_source_version_id: copied.source_version_id,
        server_side_encryption: Some(convert::aws_kms()),
        ssekms_key_id: Some(copied.stored.kek),
        version_id: copied.stored.version_id,
        ..CopyObjectOutput::default()
    }))
}

pub(super) async fn delete_object(
    front: &Front,
    request: S3Request<DeleteObjectInput>,
) -> Answer<DeleteObjectOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    no_mfa(input.mfa.is_some())?;
    if input.if_match_last_modified_time.is_some() || input.if_match_size.is_some() {
        return Err(ApiError::NotImplemented("deletes on a size or time"));
    }
    let delete = FrontDelete {
        key: convert::key(&input.key)?,
        version: convert::version(input.version_id.as_deref())?,
        condition: requests::put_condition(input.if_match, None),
        bypass_governance: input.bypass_governance_retention == Some(true),
    };
    let name = convert::bucket(&input.bucket)?;
    let done = front.delete(&name, &delete).await?;
    Ok(S3Response::new(DeleteObjectOutput {
        delete_marker: done.delete_marker.then_some(true),
        version_id: done.version_id.or(done.marker_id),
        ..DeleteObjectOutput::default()
    }))
}

pub(super) async fn delete_objects(
    front: &Front,
    request: S3Request<DeleteObjectsInput>,
) -> Answer<DeleteObjectsOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    no_mfa(input.mfa.is_some())?;
    let named = input.delete.objects;
    if !(1..=DELETES_MAX).contains(&named.len()) {
        return Err(ApiError::InvalidRequest("a request deletes 1 to 1000 keys"));
    }
    let bypass_governance = input.bypass_governance_retention == Some(true);
    let (mut wanted, mut errors, mut texts) = (Vec::new(), Vec::new(), Vec::new());
    for one in named {
        let text = (one.key.clone(), one.version_id.clone());
        match delete_of(one, bypass_governance) {
            Ok(delete) => {
                wanted.push(delete);
                texts.push(text);
            }
            Err(error) => errors.push(delete_error(text, &error)),
        }
    }
    let name = convert::bucket(&input.bucket)?;
    let outcomes = front.delete_many(&name, &wanted).await?;
    let mut deleted = Vec::new();
    for (text, outcome) in texts.into_iter().zip(outcomes) {
        match outcome {
            Ok(done) => deleted.push(deleted_object(text.0, done)),
            Err(error) => errors.push(delete_error(text, &error)),
        }
    }
    if input.delete.quiet == Some(true) {
        deleted.clear();
    }
    Ok(S3Response::new(DeleteObjectsOutput {
        deleted: Some(deleted),
        errors: (!errors.is_empty()).then_some(errors),
        ..DeleteObjectsOutput::default()
    }))
}

pub(super) async fn get_object_acl(
    front: &Front,
    request: S3Request<GetObjectAclInput>,
) -> Answer<GetObjectAclOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    exists(
        front,
        &input.bucket,
        &input.key,
        input.version_id.as_deref(),
    )
    .await?;
    Ok(S3Response::new(GetObjectAclOutput {
        grants: Some(vec![owner_grant(front)]),
        owner: Some(owner(front)),
        ..GetObjectAclOutput::default()
    }))
}

pub(super) async fn put_object_acl(
    front: &Front,
    request: S3Request<PutObjectAclInput>,
) -> Answer<PutObjectAclOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    exists(
        front,
        &input.bucket,
        &input.key,
        input.version_id.as_deref(),
    )
    .await?;
    let acl = input.acl.as_ref().map(ObjectCannedACL::as_str);
    let grants = input.grant_full_control.is_some()
        || input.grant_read.is_some()
        || input.grant_read_acp.is_some()
        || input.grant_write.is_some()
        || input.grant_write_acp.is_some();
    only_private(front, acl, grants, input.access_control_policy.as_ref())?;
    Ok(S3Response::new(PutObjectAclOutput::default()))
}

pub(super) async fn get_object_attributes(
    front: &Front,
    request: S3Request<GetObjectAttributesInput>,
) -> Answer<GetObjectAttributesOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    no_customer_key(input.sse_customer_algorithm.is_some() || input.sse_customer_key.is_some())?;
    let read = plain_read(&input.bucket, &input.key, input.version_id.as_deref())?;
    let view = front.head(&read).await?;
    // `s3s` leaves a list in one header in one piece.
    let stated = input.object_attributes.iter();
    let stated: Vec<_> = stated.flat_map(|one| one.as_str().split(',')).collect();
    let asked = |name: &str| stated.iter().any(|one| one.trim() == name);
    let kept = &view.info.metadata.checksums;
    let sums = answers::checksums(kept, view.described.kind(), None);
    let parts = match asked(ObjectAttributes::OBJECT_PARTS) && view.info.parts > 0 {
        true => {
            let (after, max) = page_of(input.part_number_marker, input.max_parts)?;
            let parts = front.object_parts(&read, &view.info, after, max).await?;
            Some(answers::object_parts(parts, after, max))
        }
        false => None,
    };
    let standard = || StorageClass::from_static(StorageClass::STANDARD);
    Ok(S3Response::new(GetObjectAttributesOutput {
        checksum: asked(ObjectAttributes::CHECKSUM).then_some(sums),
        e_tag: asked(ObjectAttributes::ETAG).then(|| convert::etag(view.info.version)),
        last_modified: Some(convert::timestamp(view.info.finished_at)),
        object_parts: parts,
        object_size: asked(ObjectAttributes::OBJECT_SIZE).then(|| convert::signed(view.info.bytes)),
        storage_class: asked(ObjectAttributes::STORAGE_CLASS).then(standard),
        version_id: view.version_id,
        ..GetObjectAttributesOutput::default()
    }))
}

/// What is copied.
pub(super) fn source_of(source: CopySource) -> Result<Read, ApiError> {
    match source {
        CopySource::Bucket {
            bucket,
            key,
            version_id,
        } => plain_read(&bucket, &key, version_id.as_deref()),
        _ => Err(ApiError::NotImplemented("access points and outposts")),
    }
}

pub(super) fn plain_read(bucket: &str, key: &str, version: Option<&str>) -> Result<Read, ApiError> {
    Ok(Read {
        bucket: convert::bucket(bucket)?,
        key: convert::key(key)?,
        version: convert::version(version)?,
        range: None,
        part: None,
        conditions: Conditions::default(),
    })
}

async fn exists(
    front: &Front,
    bucket: &str,
    key: &str,
    version: Option<&str>,
) -> Result<(), ApiError> {
    found(front, bucket, None).await?;
    front
        .head(&plain_read(bucket, key, version)?)
        .await
        .map(|_| ())
}

fn asks_for_checksums(mode: Option<&ChecksumMode>) -> bool {
    mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED)
}

pub(super) fn no_customer_key(brought: bool) -> Result<(), ApiError> {
    match brought {
        true => Err(ApiError::NotImplemented("keys of the customer (SSE-C)")),
        false => Ok(()),
    }
}

fn no_mfa(stated: bool) -> Result<(), ApiError> {
    match stated {
        true => Err(ApiError::NotImplemented("MFA delete")),
        false => Ok(()),
    }
}

fn directive(stated: Option<&str>) -> Result<Directive, ApiError> {
    match stated {
        None | Some("COPY") => Ok(Directive::Copy),
        Some("REPLACE") => Ok(Directive::Replace),
        Some(_) => Err(ApiError::InvalidArgument("a directive is COPY or REPLACE")),
    }
}

fn delete_of(one: ObjectIdentifier, bypass_governance: bool) -> Result<FrontDelete, ApiError> {
    if one.last_modified_time.is_some() || one.size.is_some() {
        return Err(ApiError::NotImplemented("deletes on a size or time"));
    }
    let key: ObjectKey = convert::key(&one.key)?;
    let if_match = one.e_tag.map(ETagCondition::ETag);
    Ok(FrontDelete {
        key,
        version: convert::version(one.version_id.as_deref())?,
        condition: PutCondition {
            if_match: if_match.map(convert::etag_condition),
            if_none_match: None,
        },
        bypass_governance,
    })
}

fn deleted_object(key: String, done: FrontDeleted) -> DeletedObject {
    let named = done.version_id.clone();
    // What marks a delete: the marker that was written, or the one that was removed.
    let marker = match done.delete_marker {
        true => done.marker_id.or(named),
        false => None,
    };
    DeletedObject {
        delete_marker: done.delete_marker.then_some(true),
        delete_marker_version_id: marker,
        key: Some(key),
        version_id: done.version_id,
    }
}

fn delete_error((key, version_id): (String, Option<String>), error: &ApiError) -> Error {
    Error {
        code: Some(error.code().to_owned()),
        key: Some(key),
        message: Some(error.to_string()),
        version_id,
    }
}
