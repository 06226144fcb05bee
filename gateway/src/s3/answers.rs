//! What objects look like in answers.

use std::collections::BTreeMap;

use bytes::Bytes;
use s3s::S3Response;
use s3s::dto::{self, StreamingBlob};

use super::{convert, locks};
use crate::checksum::{self, Algorithm, Kind};
use crate::front::{ObjectParts, Reading, View};

/// Checksums of an object as answers carry them: with how many parts it came in, a composite one says so.
pub(super) fn checksums(
    kept: &BTreeMap<String, Bytes>,
    kind: Kind,
    parts: Option<u32>,
) -> dto::Checksum {
    let count = parts.filter(|_| kind == Kind::Composite);
    let count = count.map_or(String::new(), |parts| format!("-{parts}"));
    let value = |algorithm: Algorithm| {
        let sum = kept.get(algorithm.name())?;
        Some(format!("{}{count}", checksum::text(sum)))
    };
    let any = Algorithm::ALL
        .iter()
        .any(|algorithm| kept.contains_key(algorithm.name()));
    dto::Checksum {
        checksum_crc32: value(Algorithm::Crc32),
        checksum_crc32c: value(Algorithm::Crc32c),
        checksum_crc64nvme: value(Algorithm::Crc64Nvme),
        checksum_sha1: value(Algorithm::Sha1),
        checksum_sha256: value(Algorithm::Sha256),
        checksum_type: any.then(|| convert::checksum_type(kind)),
    }
}

/// The checksums of an answer: those of the whole object, so only with the whole object and where they are asked for.
fn shown(view: &View, asked: bool) -> dto::Checksum {
    let whole = view.length() == view.info.bytes;
    if asked && whole {
        let kept = &view.info.metadata.checksums;
        checksums(kept, view.described.kind(), Some(view.info.parts))
    } else {
        dto::Checksum::default()
    }
}

fn content_range(view: &View) -> Option<String> {
    // A part may have no bytes.
    let range = view.range.as_ref().filter(|range| !range.is_empty())?;
    let (last, length) = (range.end.saturating_sub(1), view.info.bytes);
    Some(format!("bytes {}-{last}/{length}", range.start))
}

/// An object without its body.
pub(super) fn head(view: &View, with_checksums: bool) -> dto::HeadObjectOutput {
    let headers = &view.described.headers;
    let sums = shown(view, with_checksums);
    dto::HeadObjectOutput {
        accept_ranges: Some("bytes".to_owned()),
        cache_control: headers.cache_control.clone(),
        checksum_crc32: sums.checksum_crc32,
        checksum_crc32c: sums.checksum_crc32c,
        checksum_crc64nvme: sums.checksum_crc64nvme,
        checksum_sha1: sums.checksum_sha1,
        checksum_sha256: sums.checksum_sha256,
        checksum_type: sums.checksum_type,
        content_disposition: headers.content_disposition.clone(),
        content_encoding: headers.content_encoding.clone(),
        content_language: headers.content_language.clone(),
        content_length: Some(convert::signed(view.length())),
        content_range: content_range(view),
        content_type: Some(content_type(view)),
        e_tag: Some(convert::etag(view.info.version)),
        expires: expires(view),
        last_modified: Some(convert::timestamp(view.info.finished_at)),
        metadata: Some(headers.user.clone().into_iter().collect()),
        object_lock_legal_hold_status: view.info.legal_hold.then(|| {
            dto::ObjectLockLegalHoldStatus::from_static(dto::ObjectLockLegalHoldStatus::ON)
        }),
        object_lock_mode: view
            .info
            .retention
            .map(|retention| dto::ObjectLockMode::from_static(locks::mode_name(retention.mode))),
        object_lock_retain_until_date: view
            .info
            .retention
            .map(|retention| convert::timestamp(retention.until)),
        parts_count: view.parts.and_then(|parts| i32::try_from(parts).ok()),
        server_side_encryption: Some(convert::aws_kms()),
        ssekms_key_id: Some(view.kek.clone()),
        version_id: view.version_id.clone(),
        ..dto::HeadObjectOutput::default()
    }
}

/// An object with its body.
pub(super) fn get(view: &View, reading: Reading, with_checksums: bool) -> dto::GetObjectOutput {
    let head = head(view, with_checksums);
    let tags = view.described.tags.len();
    dto::GetObjectOutput {
        accept_ranges: head.accept_ranges,
        body: Some(blob(reading)),
        cache_control: head.cache_control,
        checksum_crc32: head.checksum_crc32,
        checksum_crc32c: head.checksum_crc32c,
        checksum_crc64nvme: head.checksum_crc64nvme,
        checksum_sha1: head.checksum_sha1,
        checksum_sha256: head.checksum_sha256,
        checksum_type: head.checksum_type,
        content_disposition: head.content_disposition,
        content_encoding: head.content_encoding,
        content_language: head.content_language,
        content_length: head.content_length,
        content_range: head.content_range,
        content_type: head.content_type,
        e_tag: head.e_tag,
        expires: head.expires,
        last_modified: head.last_modified,
        metadata: head.metadata,
        object_lock_legal_hold_status: head.object_lock_legal_hold_status,
        object_lock_mode: head.object_lock_mode,
        object_lock_retain_until_date: head.object_lock_retain_until_date,
        parts_count: head.parts_count,
        server_side_encryption: head.server_side_encryption,
        ssekms_key_id: head.ssekms_key_id,
        tag_count: (tags > 0).then(|| i32::try_from(tags).unwrap_or(i32::MAX)),
        version_id: head.version_id,
        ..dto::GetObjectOutput::default()
    }
}

/// Some parts of an object.
pub(super) fn object_parts(
    listed: ObjectParts,
    after: u32,
    max: u32,
) -> dto::GetObjectAttributesParts {
    let signed = |number: u32| i32::try_from(number).ok();
    let last = listed.parts.last().map(|(place, _)| *place);
    let parts = listed.parts.iter().map(|(place, part)| {
        let sums = checksums(&part.checksums, Kind::FullObject, None);
        dto::ObjectPart {
            checksum_crc32: sums.checksum_crc32,
            checksum_crc32c: sums.checksum_crc32c,
            checksum_crc64nvme: sums.checksum_crc64nvme,
            checksum_sha1: sums.checksum_sha1,
            checksum_sha256: sums.checksum_sha256,
            part_number: signed(*place),
            size: Some(convert::signed(part.bytes)),
        }
    });
    dto::GetObjectAttributesParts {
        is_truncated: Some(listed.truncated),
        max_parts: signed(max),
        next_part_number_marker: last.or(Some(after)).and_then(signed),
        part_number_marker: signed(after),
        parts: Some(parts.collect()),
        total_parts_count: signed(listed.total),
    }
}

/// Marks an answer whose status is 206: `s3s` writes 200 over every HEAD.
#[derive(Debug, Clone, Copy)]
pub(super) struct Partial;

/// A partial answer says so in its status.
pub(super) fn partial(head: dto::HeadObjectOutput) -> S3Response<dto::HeadObjectOutput> {
    let is_partial = head.content_range.is_some();
    let mut answer = S3Response::new(head);
    if is_partial {
        answer.extensions.insert(Partial);
    }
    answer
}

fn content_type(view: &View) -> String {
    let stated = view.described.headers.content_type.clone();
    stated.unwrap_or_else(|| "binary/octet-stream".to_owned())
}

fn expires(view: &View) -> Option<dto::Timestamp> {
    convert::parse_http_date(view.described.headers.expires.as_deref()?)
}

/// `s3s` shares a body between threads that never read it at once: the lock is gone through, never waited for.
struct Shared(parking_lot::Mutex<futures::stream::BoxStream<'static, std::io::Result<Bytes>>>);

impl futures::Stream for Shared {
    type Item = std::io::Result<Bytes>;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.get_mut().0.get_mut().as_mut().poll_next(cx)
    }
}

fn blob(reading: Reading) -> StreamingBlob {
    let stream = Box::pin(reading.into_stream());
    StreamingBlob::wrap(Shared(parking_lot::Mutex::new(stream)))
}

#[cfg(test)]
mod tests {
    use client::ids::{LogIndex, ObjectVersionId, UnixMs};
    use proto::v1;

    use super::*;
    use crate::metadata::Described;

    fn view(range: Option<std::ops::Range<u64>>) -> View {
        let mut metadata = v1::UserMetadata::default();
        let sum = Bytes::from_static(&[1, 2, 3, 4]);
        metadata.checksums.insert("CRC32".to_owned(), sum);
        View {
            info: client::ObjectInfo {
                key: "k".parse().expect("a key"),
                version: ObjectVersionId([0xab; 16]),
                bytes: 10,
                finished_at: UnixMs(1_000),
                delete_marker: false,
                is_current: true,
                versioned: false,
                finished_index: LogIndex(7),
                retention: None,
                legal_hold: false,
                parts: 0,
                metadata,
            },
            described: Described::default(),
            version_id: None,
            range,
            parts: None,
            kek: "07".repeat(16),
        }
    }

    #[test]
    fn an_answer_says_how_the_object_is_encrypted() {
        let head = head(&view(None), false);
        let algorithm = head.server_side_encryption.expect("stated");
        assert_eq!(algorithm.as_str(), "aws:kms");
        assert_eq!(head.ssekms_key_id, Some("07".repeat(16)));
        assert_eq!(head.content_type.as_deref(), Some("binary/octet-stream"));
        assert_eq!(head.e_tag.expect("stated").value(), "ab".repeat(16) + "-1");
    }

    #[test]
    fn a_checksum_goes_with_the_whole_object_alone() {
        let sum = |range, asked| head(&view(range), asked).checksum_crc32;
        assert_eq!(sum(None, true).as_deref(), Some("AQIDBA=="));
        assert_eq!(sum(Some(0..10), true).as_deref(), Some("AQIDBA=="));
        assert_eq!(sum(None, false), None);
        assert_eq!(sum(Some(0..9), true), None);
    }

    #[test]
    fn a_composite_checksum_says_of_how_many_parts_it_is() {
        let kept = view(None).info.metadata.checksums;
        let of = |kind, parts| checksums(&kept, kind, parts).checksum_crc32;
        assert_eq!(of(Kind::Composite, Some(3)).as_deref(), Some("AQIDBA==-3"));
        assert_eq!(of(Kind::Composite, None).as_deref(), Some("AQIDBA=="));
        assert_eq!(of(Kind::FullObject, Some(3)).as_deref(), Some("AQIDBA=="));
    }

    #[test]
    fn a_part_says_which_bytes_it_is() {
        let part = head(&view(Some(2..5)), false);
        assert_eq!(part.content_range.as_deref(), Some("bytes 2-4/10"));
        assert_eq!(part.content_length, Some(3));
        assert!(partial(part).extensions.get::<Partial>().is_some());
        let whole = partial(head(&view(None), false));
        assert!(whole.extensions.get::<Partial>().is_none());
    }
}
