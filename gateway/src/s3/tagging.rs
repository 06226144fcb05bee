//! Tags of objects and of buckets.

use s3s::dto::*;
use s3s::{S3Request, S3Response};

use super::buckets::owned;
use super::convert;
use super::objects::plain_read;
use crate::error::ApiError;
use crate::front::Front;
use crate::metadata::{BUCKET_TAGS_MAX, TAGS_MAX, check_tags};

type Answer<T> = Result<S3Response<T>, ApiError>;

pub(super) async fn get_object_tagging(
    front: &Front,
    request: S3Request<GetObjectTaggingInput>,
) -> Answer<GetObjectTaggingOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    let read = plain_read(&input.bucket, &input.key, input.version_id.as_deref())?;
    let view = front.head(&read).await?;
    Ok(S3Response::new(GetObjectTaggingOutput {
        tag_set: shown(view.described.tags),
        version_id: view.version_id,
    }))
}

pub(super) async fn put_object_tagging(
    front: &Front,
    request: S3Request<PutObjectTaggingInput>,
) -> Answer<PutObjectTaggingOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    let tags = stated(input.tagging, TAGS_MAX)?;
    let read = plain_read(&input.bucket, &input.key, input.version_id.as_deref())?;
    let version_id = front.set_tags(&read, &tags.into_iter().collect()).await?;
    Ok(S3Response::new(PutObjectTaggingOutput { version_id }))
}

pub(super) async fn delete_object_tagging(
    front: &Front,
    request: S3Request<DeleteObjectTaggingInput>,
) -> Answer<DeleteObjectTaggingOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    let read = plain_read(&input.bucket, &input.key, input.version_id.as_deref())?;
    let version_id = front.set_tags(&read, &Default::default()).await?;
    Ok(S3Response::new(DeleteObjectTaggingOutput { version_id }))
}

pub(super) async fn get_bucket_tagging(
    front: &Front,
    request: S3Request<GetBucketTaggingInput>,
) -> Answer<GetBucketTaggingOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    let tags = front.bucket_tags(&convert::bucket(&input.bucket)?).await?;
    let tag_set = shown(tags);
    Ok(S3Response::new(GetBucketTaggingOutput { tag_set }))
}

pub(super) async fn put_bucket_tagging(
    front: &Front,
    request: S3Request<PutBucketTaggingInput>,
) -> Answer<PutBucketTaggingOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    let tags = stated(input.tagging, BUCKET_TAGS_MAX)?;
    let name = convert::bucket(&input.bucket)?;
    front.set_bucket_tags(&name, &tags).await?;
    Ok(S3Response::new(PutBucketTaggingOutput {}))
}

pub(super) async fn delete_bucket_tagging(
    front: &Front,
    request: S3Request<DeleteBucketTaggingInput>,
) -> Answer<DeleteBucketTaggingOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    let name = convert::bucket(&input.bucket)?;
    front.set_bucket_tags(&name, &[]).await?;
    Ok(S3Response::new(DeleteBucketTaggingOutput {}))
}

/// The tags of a body, in its order.
fn stated(tagging: Tagging, many: usize) -> Result<Vec<(String, String)>, ApiError> {
    let pairs = tagging.tag_set.into_iter().map(|tag| {
        let missing = || ApiError::MalformedXml("a tag has a key and a value");
        let (key, value) = (tag.key.ok_or_else(missing)?, tag.value.ok_or_else(missing)?);
        Ok((key, value))
    });
    let pairs: Vec<_> = pairs.collect::<Result<_, ApiError>>()?;
    check_tags(&pairs, many)?;
    Ok(pairs)
}

fn shown(tags: impl IntoIterator<Item = (String, String)>) -> Vec<Tag> {
    let tags = tags.into_iter().map(|(name, value)| Tag {
        key: Some(name),
        value: Some(value),
    });
    tags.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs = Vec<(Option<String>, Option<String>)>;

    fn code(pairs: Pairs, many: usize) -> &'static str {
        let tag_set = pairs.into_iter().map(|(key, value)| Tag { key, value });
        let tagging = Tagging {
            tag_set: tag_set.collect(),
        };
        let stated = stated(tagging, many);
        stated.err().map_or("ok", |error| error.code())
    }

    #[test]
    fn tags_that_are_none_are_refused_by_s3s_codes() {
        let pair = |key: &str, value: &str| (Some(key.to_owned()), Some(value.to_owned()));
        let many =
            |count: usize| -> Pairs { (0..count).map(|n| pair(&n.to_string(), "")).collect() };
        assert_eq!(code(many(10), TAGS_MAX), "ok");
        assert_eq!(code(many(11), TAGS_MAX), "InvalidTag");
        assert_eq!(code(many(50), BUCKET_TAGS_MAX), "ok");
        assert_eq!(code(many(51), BUCKET_TAGS_MAX), "InvalidTag");
        let wide = pair(&"é".repeat(128), &"é".repeat(256));
        for (pairs, expected) in [
            (vec![pair("a", "1"), pair("a", "2")], "InvalidTag"),
            (vec![pair("", "1")], "InvalidTag"),
            (vec![wide], "ok"),
            (vec![pair(&"k".repeat(129), "1")], "InvalidTag"),
            (vec![pair("k", &"v".repeat(257))], "InvalidTag"),
            (vec![pair("aws:name", "1")], "InvalidTag"),
            (vec![(None, Some("1".to_owned()))], "MalformedXML"),
            (vec![(Some("a".to_owned()), None)], "MalformedXML"),
            (vec![], "ok"),
        ] {
            assert_eq!(code(pairs.clone(), TAGS_MAX), expected, "{pairs:?}");
        }
    }
}
