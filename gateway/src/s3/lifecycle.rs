//! Lifecycle configurations, as rules of the shard.
//!
//! Owns which of S3's rules those can be: by prefix, after days. Refuses any other as a whole configuration: one that was
//! accepted in part would keep, or remove, what its owner does not expect.

use std::collections::HashSet;

use client::ids::ObjectKey;
use prost::Message as _;
use proto::v1;
use s3s::dto::*;
use s3s::{S3Request, S3Response};

use super::buckets::owned;
use super::convert;
use crate::error::ApiError;
use crate::front::Front;

type Answer<T> = Result<S3Response<T>, ApiError>;

/// Rules of one configuration, as S3 bounds them.
const RULES_MAX: usize = 1_000;
/// Characters of a rule's id.
const ID_MAX: usize = 255;
/// Days of the longest period: a hundred years.
const DAYS_MAX: u32 = 36_500;
/// Newer versions that a rule keeps at most, as S3 bounds them.
const NEWER_MAX: u32 = 100;
/// Bytes of all rules together, as they are kept.
const BYTES_MAX: usize = 64 << 10;

pub(super) async fn put_bucket_lifecycle_configuration(
    front: &Front,
    request: S3Request<PutBucketLifecycleConfigurationInput>,
) -> Answer<PutBucketLifecycleConfigurationOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    if input.transition_default_minimum_object_size.is_some() {
        return Err(ApiError::NotImplemented("transitions"));
    }
    let stated = input.lifecycle_configuration;
    let stated = stated.ok_or(ApiError::MalformedXml("it has no rules"))?;
    let rules = lifecycle(stated.rules)?;
    let name = convert::bucket(&input.bucket)?;
    front.set_lifecycle(&name, &rules).await?;
    Ok(S3Response::new(
        PutBucketLifecycleConfigurationOutput::default(),
    ))
}

pub(super) async fn get_bucket_lifecycle_configuration(
    front: &Front,
    request: S3Request<GetBucketLifecycleConfigurationInput>,
) -> Answer<GetBucketLifecycleConfigurationOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    let rules = front.lifecycle(&convert::bucket(&input.bucket)?).await?;
    Ok(S3Response::new(GetBucketLifecycleConfigurationOutput {
        rules: Some(rules.rules.into_iter().map(shown).collect()),
        ..GetBucketLifecycleConfigurationOutput::default()
    }))
}

pub(super) async fn delete_bucket_lifecycle(
    front: &Front,
    request: S3Request<DeleteBucketLifecycleInput>,
) -> Answer<DeleteBucketLifecycleOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    let name = convert::bucket(&input.bucket)?;
    front
        .set_lifecycle(&name, &v1::Lifecycle::default())
        .await?;
    Ok(S3Response::new(DeleteBucketLifecycleOutput {}))
}

fn lifecycle(stated: Vec<LifecycleRule>) -> Result<v1::Lifecycle, ApiError> {
    if !(1..=RULES_MAX).contains(&stated.len()) {
        return Err(ApiError::MalformedXml("a lifecycle has 1 to 1000 rules"));
    }
    let mut ids = HashSet::new();
    let mut rules = Vec::with_capacity(stated.len());
    for (place, stated) in (1..).zip(stated) {
        let mut rule = rule(stated)?;
        if rule.id.is_empty() {
            rule.id = format!("rule-{place}");
        }
        if !ids.insert(rule.id.clone()) {
            return Err(ApiError::InvalidArgument("two rules have the same id"));
        }
        rules.push(rule);
    }
    let rules = v1::Lifecycle { rules };
    match rules.encoded_len() > BYTES_MAX {
        true => Err(ApiError::InvalidRequest(
            "the rules are larger than 64 KiB together",
        )),
        false => Ok(rules),
    }
}

fn rule(stated: LifecycleRule) -> Result<v1::LifecycleRule, ApiError> {
    if stated.transitions.is_some() || stated.noncurrent_version_transitions.is_some() {
        return Err(ApiError::NotImplemented("transitions"));
    }
    let id = stated.id.unwrap_or_default();
    if id.chars().count() > ID_MAX {
        return Err(ApiError::InvalidArgument(
            "a rule's id has at most 255 characters",
        ));
    }
    let mut rule = v1::LifecycleRule {
        id,
        enabled: enabled(stated.status.as_str())?,
        prefix: prefix(stated.prefix, stated.filter)?,
        ..v1::LifecycleRule::default()
    };
    if let Some(expiration) = stated.expiration {
        if expiration.date.is_some() {
            return Err(ApiError::NotImplemented("expiry on a date"));
        }
        let markers = expiration.expired_object_delete_marker;
        match (expiration.days, markers) {
            (Some(stated), None) => rule.expire_days = days(stated)?,
            (None, Some(markers)) => rule.expire_markers = markers,
            _ => {
                return Err(ApiError::MalformedXml(
                    "an expiration has days, or is of delete markers",
                ));
            }
        }
    }
    if let Some(expiration) = stated.noncurrent_version_expiration {
        let after = expiration.noncurrent_days;
        rule.noncurrent_days = days(after.ok_or(ApiError::MalformedXml(
            "an expiration of noncurrent versions has days",
        ))?)?;
        if let Some(newer) = expiration.newer_noncurrent_versions {
            let newer = u32::try_from(newer).ok();
            let newer = newer.filter(|newer| (1..=NEWER_MAX).contains(newer));
            rule.newer_noncurrent = newer.ok_or(ApiError::InvalidArgument(
                "1 to 100 newer noncurrent versions are kept",
            ))?;
        }
    }
    if let Some(abort) = stated.abort_incomplete_multipart_upload {
        let after = abort.days_after_initiation;
        rule.abort_days =
            days(after.ok_or(ApiError::MalformedXml("an abort of uploads has days"))?)?;
    }
    let asks = rule.expire_days > 0
        || rule.expire_markers
        || rule.noncurrent_days > 0
        || rule.abort_days > 0;
    match asks {
        true => Ok(rule),
        false => Err(ApiError::InvalidRequest("a rule has an action")),
    }
}

fn enabled(status: &str) -> Result<bool, ApiError> {
    match status {
        ExpirationStatus::ENABLED => Ok(true),
        ExpirationStatus::DISABLED => Ok(false),
        _ => Err(ApiError::MalformedXml(
            "the status of a rule is Enabled or Disabled",
        )),
    }
}

/// The one prefix of a rule, wherever it stands.
fn prefix(alone: Option<String>, filter: Option<LifecycleRuleFilter>) -> Result<String, ApiError> {
    let prefix = match (alone, filter) {
        (Some(prefix), None) => prefix,
        (None, Some(filter)) => {
            let sized =
                filter.object_size_greater_than.is_some() || filter.object_size_less_than.is_some();
            if filter.tag.is_some() || sized || filter.and.is_some() {
                return Err(ApiError::NotImplemented(
                    "rules by tags and sizes: both are sealed",
                ));
            }
            filter.prefix.unwrap_or_default()
        }
        _ => {
            return Err(ApiError::MalformedXml(
                "a rule has a filter, or a prefix in its place",
            ));
        }
    };
    match prefix.len() > ObjectKey::BYTES_MAX {
        true => Err(ApiError::InvalidRequest("a prefix has at most 1024 bytes")),
        false => Ok(prefix),
    }
}

fn days(stated: i32) -> Result<u32, ApiError> {
    let days = u32::try_from(stated).ok();
    days.filter(|days| (1..=DAYS_MAX).contains(days))
        .ok_or(ApiError::InvalidArgument("days are 1 to 36500"))
}

fn shown(rule: v1::LifecycleRule) -> LifecycleRule {
    let some = |days: u32| i32::try_from(days).ok().filter(|days| *days > 0);
    let expires = rule.expire_days > 0 || rule.expire_markers;
    let status = match rule.enabled {
        true => ExpirationStatus::ENABLED,
        false => ExpirationStatus::DISABLED,
    };
    LifecycleRule {
        abort_incomplete_multipart_upload: some(rule.abort_days).map(|days| {
            AbortIncompleteMultipartUpload {
                days_after_initiation: Some(days),
            }
        }),
        expiration: expires.then(|| LifecycleExpiration {
            days: some(rule.expire_days),
            expired_object_delete_marker: rule.expire_markers.then_some(true),
            ..LifecycleExpiration::default()
        }),
        filter: Some(LifecycleRuleFilter {
            prefix: Some(rule.prefix),
            ..LifecycleRuleFilter::default()
        }),
        id: Some(rule.id),
        noncurrent_version_expiration: some(rule.noncurrent_days).map(|days| {
            NoncurrentVersionExpiration {
                newer_noncurrent_versions: some(rule.newer_noncurrent),
                noncurrent_days: Some(days),
            }
        }),
        noncurrent_version_transitions: None,
        prefix: None,
        status: ExpirationStatus::from_static(status),
        transitions: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stated(prefix: &str) -> LifecycleRule {
        shown(v1::LifecycleRule {
            enabled: true,
            prefix: prefix.to_owned(),
            expire_days: 7,
            ..v1::LifecycleRule::default()
        })
    }

    fn code<T>(answer: Result<T, ApiError>) -> &'static str {
        answer.err().map_or("ok", |error| error.code())
    }

    #[test]
    fn a_rule_that_the_shard_has_is_shown_as_it_was_stated() {
        let whole = v1::LifecycleRule {
            id: "tmp".to_owned(),
            enabled: false,
            prefix: "tmp/".to_owned(),
            expire_days: 7,
            expire_markers: false,
            noncurrent_days: 30,
            newer_noncurrent: 2,
            abort_days: 3,
        };
        let markers = v1::LifecycleRule {
            id: "markers".to_owned(),
            expire_days: 0,
            expire_markers: true,
            ..whole.clone()
        };
        let rules = v1::Lifecycle {
            rules: vec![whole, markers],
        };
        let again = rules.rules.clone().into_iter().map(shown).collect();
        assert_eq!(lifecycle(again).ok(), Some(rules));
        let alone = LifecycleRule {
            filter: None,
            prefix: Some("tmp/".to_owned()),
            id: None,
            ..stated("")
        };
        let rules = lifecycle(vec![alone]).expect("the older form").rules;
        assert_eq!((&*rules[0].prefix, &*rules[0].id), ("tmp/", "rule-1"));
    }

    #[test]
    fn what_the_shard_has_no_rule_for_is_refused() {
        let filter = |filter| LifecycleRule {
            filter: Some(filter),
            ..stated("")
        };
        let none = LifecycleRuleFilter::default;
        let tag = filter(LifecycleRuleFilter {
            tag: Some(Tag::default()),
            ..none()
        });
        let size = filter(LifecycleRuleFilter {
            object_size_less_than: Some(1),
            ..none()
        });
        let both = filter(LifecycleRuleFilter {
            and: Some(LifecycleRuleAndOperator::default()),
            ..none()
        });
        let moved = LifecycleRule {
            transitions: Some(vec![Transition::default()]),
            ..stated("")
        };
        let dated = LifecycleRule {
            expiration: Some(LifecycleExpiration {
                date: Some(convert::timestamp(client::ids::UnixMs(0))),
                ..LifecycleExpiration::default()
            }),
            ..stated("")
        };
        for other in [tag, size, both, moved, dated] {
            assert_eq!(code(lifecycle(vec![other])), "NotImplemented");
        }
    }

    #[test]
    fn a_rule_that_is_none_is_refused_by_s3s_codes() {
        assert_eq!(code(lifecycle(Vec::new())), "MalformedXML");
        let expiration = |days, expired_object_delete_marker| LifecycleRule {
            expiration: Some(LifecycleExpiration {
                date: None,
                days,
                expired_object_delete_marker,
            }),
            ..stated("")
        };
        let noncurrent = |noncurrent_days, newer_noncurrent_versions| LifecycleRule {
            noncurrent_version_expiration: Some(NoncurrentVersionExpiration {
                newer_noncurrent_versions,
                noncurrent_days,
            }),
            ..stated("")
        };
        let table = [
            (expiration(Some(1), Some(true)), "MalformedXML"),
            (expiration(None, None), "MalformedXML"),
            (expiration(Some(0), None), "InvalidArgument"),
            (expiration(Some(36_501), None), "InvalidArgument"),
            (expiration(None, Some(false)), "InvalidRequest"),
            (noncurrent(None, Some(1)), "MalformedXML"),
            (noncurrent(Some(0), None), "InvalidArgument"),
            (noncurrent(Some(1), Some(101)), "InvalidArgument"),
            (
                LifecycleRule {
                    prefix: Some(String::new()),
                    ..stated("")
                },
                "MalformedXML",
            ),
            (
                LifecycleRule {
                    filter: None,
                    ..stated("")
                },
                "MalformedXML",
            ),
            (
                LifecycleRule {
                    status: ExpirationStatus::from_static("enabled"),
                    ..stated("")
                },
                "MalformedXML",
            ),
            (
                LifecycleRule {
                    expiration: None,
                    ..stated("")
                },
                "InvalidRequest",
            ),
            (
                LifecycleRule {
                    id: Some("i".repeat(256)),
                    ..stated("")
                },
                "InvalidArgument",
            ),
            (stated(&"p".repeat(1_025)), "InvalidRequest"),
        ];
        for (rule, expected) in table {
            let text = format!("{rule:?}");
            assert_eq!(code(lifecycle(vec![rule])), expected, "{text}");
        }
        let named = || LifecycleRule {
            id: Some("same".to_owned()),
            ..stated("")
        };
        assert_eq!(code(lifecycle(vec![named(), named()])), "InvalidArgument");
        let many = (0..1_001).map(|_| stated("")).collect();
        assert_eq!(code(lifecycle(many)), "MalformedXML");
        let large = (0..100).map(|_| stated(&"p".repeat(1_000))).collect();
        assert_eq!(code(lifecycle(large)), "InvalidRequest");
    }
}
