//! Object lock: operations on it, and how requests state it.

use client::ids::UnixMs;
use client::{Retention, RetentionMode};
use s3s::dto::*;
use s3s::{S3Request, S3Response};

use super::buckets::owned;
use super::convert;
use super::objects::plain_read;
use crate::error::ApiError;
use crate::front::{DefaultRetention, Front, Locks};

type Answer<T> = Result<S3Response<T>, ApiError>;

/// Days of a year of a default retention.
const YEAR_DAYS: i32 = 365;
/// Years of the longest default retention, as S3 bounds it.
const YEARS_MAX: i32 = 100;

pub(super) async fn put_object_lock_configuration(
    front: &Front,
    request: S3Request<PutObjectLockConfigurationInput>,
) -> Answer<PutObjectLockConfigurationOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    if input.token.is_some() {
        return Err(ApiError::NotImplemented("object lock tokens"));
    }
    let default = default_retention(input.object_lock_configuration)?;
    let name = convert::bucket(&input.bucket)?;
    front.set_object_lock(&name, default).await?;
    Ok(S3Response::new(PutObjectLockConfigurationOutput::default()))
}

pub(super) async fn get_object_lock_configuration(
    front: &Front,
    request: S3Request<GetObjectLockConfigurationInput>,
) -> Answer<GetObjectLockConfigurationOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    let default = front.object_lock(&convert::bucket(&input.bucket)?).await?;
    let rule = default.map(|(mode, days)| ObjectLockRule {
        default_retention: Some(s3s::dto::DefaultRetention {
            days: i32::try_from(days).ok(),
            mode: Some(ObjectLockRetentionMode::from_static(mode_name(mode))),
            years: None,
        }),
    });
    let enabled = ObjectLockEnabled::from_static(ObjectLockEnabled::ENABLED);
    Ok(S3Response::new(GetObjectLockConfigurationOutput {
        object_lock_configuration: Some(ObjectLockConfiguration {
            object_lock_enabled: Some(enabled),
            rule,
        }),
    }))
}

pub(super) async fn put_object_retention(
    front: &Front,
    request: S3Request<PutObjectRetentionInput>,
) -> Answer<PutObjectRetentionOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    let stated = input
        .retention
        .ok_or(ApiError::MalformedXml("it has no retention"))?;
    let retention = match (stated.mode, stated.retain_until_date) {
        (None, None) => None,
        (Some(mode), Some(until)) => Some(retention(mode.as_str(), until, malformed_mode)?),
        _ => {
            return Err(ApiError::MalformedXml(
                "a retention has a mode and a date, or is empty",
            ));
        }
    };
    let read = plain_read(&input.bucket, &input.key, input.version_id.as_deref())?;
    let bypass = input.bypass_governance_retention == Some(true);
    front.set_retention(&read, retention, bypass).await?;
    Ok(S3Response::new(PutObjectRetentionOutput::default()))
}

pub(super) async fn get_object_retention(
    front: &Front,
    request: S3Request<GetObjectRetentionInput>,
) -> Answer<GetObjectRetentionOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    let read = plain_read(&input.bucket, &input.key, input.version_id.as_deref())?;
    let retention = front.locked(&read).await?.retention;
    let retention = retention.ok_or(ApiError::NoSuchObjectLockConfiguration)?;
    Ok(S3Response::new(GetObjectRetentionOutput {
        retention: Some(ObjectLockRetention {
            mode: Some(ObjectLockRetentionMode::from_static(mode_name(
                retention.mode,
            ))),
            retain_until_date: Some(convert::timestamp(retention.until)),
        }),
    }))
}

pub(super) async fn put_object_legal_hold(
    front: &Front,
    request: S3Request<PutObjectLegalHoldInput>,
) -> Answer<PutObjectLegalHoldOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    let status = input.legal_hold.and_then(|hold| hold.status);
    let status = status.as_ref().map(ObjectLockLegalHoldStatus::as_str);
    let on = status.and_then(held).ok_or(ApiError::MalformedXml(
        "the status of a legal hold is ON or OFF",
    ))?;
    let read = plain_read(&input.bucket, &input.key, input.version_id.as_deref())?;
    front.set_legal_hold(&read, on).await?;
    Ok(S3Response::new(PutObjectLegalHoldOutput::default()))
}

pub(super) async fn get_object_legal_hold(
    front: &Front,
    request: S3Request<GetObjectLegalHoldInput>,
) -> Answer<GetObjectLegalHoldOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    let read = plain_read(&input.bucket, &input.key, input.version_id.as_deref())?;
    let status = match front.locked(&read).await?.legal_hold {
        true => ObjectLockLegalHoldStatus::ON,
        false => ObjectLockLegalHoldStatus::OFF,
    };
    Ok(S3Response::new(GetObjectLegalHoldOutput {
        legal_hold: Some(ObjectLockLegalHold {
            status: Some(ObjectLockLegalHoldStatus::from_static(status)),
        }),
    }))
}

/// What a new version is locked by, as the headers of its put state it.
pub(super) fn stated(
    mode: Option<&ObjectLockMode>,
    until: Option<Timestamp>,
    hold: Option<&ObjectLockLegalHoldStatus>,
) -> Result<Locks, ApiError> {
    let retention = match (mode, until) {
        (None, None) => None,
        (Some(mode), Some(until)) => Some(retention(mode.as_str(), until, unknown_mode)?),
        _ => {
            return Err(ApiError::InvalidArgument(
                "x-amz-object-lock-mode and x-amz-object-lock-retain-until-date go together",
            ));
        }
    };
    let legal_hold = match hold {
        None => false,
        Some(status) => {
            held(status.as_str()).ok_or(ApiError::InvalidArgument("a legal hold is ON or OFF"))?
        }
    };
    Ok(Locks {
        retention,
        legal_hold,
    })
}

pub(super) fn mode_name(mode: RetentionMode) -> &'static str {
    match mode {
        RetentionMode::Governance => ObjectLockRetentionMode::GOVERNANCE,
        RetentionMode::Compliance => ObjectLockRetentionMode::COMPLIANCE,
    }
}

fn mode_of(name: &str) -> Option<RetentionMode> {
    [RetentionMode::Governance, RetentionMode::Compliance]
        .into_iter()
        .find(|mode| mode_name(*mode) == name)
}

fn malformed_mode() -> ApiError {
    ApiError::MalformedXml("a mode is GOVERNANCE or COMPLIANCE")
}

fn unknown_mode() -> ApiError {
    ApiError::InvalidArgument("x-amz-object-lock-mode is GOVERNANCE or COMPLIANCE")
}

fn retention(
    mode: &str,
    until: Timestamp,
    unknown: fn() -> ApiError,
) -> Result<Retention, ApiError> {
    let mode = mode_of(mode).ok_or_else(unknown)?;
    let until: UnixMs = convert::unix_ms(until);
    if until <= crate::now() {
        return Err(ApiError::InvalidArgument(
            "the retain until date must be in the future",
        ));
    }
    Ok(Retention { mode, until })
}

fn held(status: &str) -> Option<bool> {
    match status {
        ObjectLockLegalHoldStatus::ON => Some(true),
        ObjectLockLegalHoldStatus::OFF => Some(false),
        _ => None,
    }
}

fn default_retention(
    stated: Option<ObjectLockConfiguration>,
) -> Result<Option<DefaultRetention>, ApiError> {
    let stated = stated.unwrap_or_default();
    let enabled = stated.object_lock_enabled;
    let enabled = enabled.is_some_and(|text| text.as_str() == ObjectLockEnabled::ENABLED);
    if !enabled {
        return Err(ApiError::MalformedXml("object lock is Enabled"));
    }
    let Some(rule) = stated.rule else {
        return Ok(None);
    };
    let missing = || ApiError::MalformedXml("a default retention has a mode, and days or years");
    let default = rule.default_retention.ok_or_else(missing)?;
    let mode = default.mode.ok_or_else(missing)?;
    let mode = mode_of(mode.as_str()).ok_or_else(malformed_mode)?;
    let years_of = |days: i32| days / YEAR_DAYS;
    let (days, years) = match (default.days, default.years) {
        (Some(days), None) => (days, years_of(days)),
        (None, Some(years)) => (years.saturating_mul(YEAR_DAYS), years),
        _ => return Err(missing()),
    };
    let days = u32::try_from(days).ok().filter(|days| *days > 0);
    let days = days.ok_or(ApiError::InvalidArgument(
        "the period of a default retention is positive",
    ))?;
    if years > YEARS_MAX || days > (YEARS_MAX * YEAR_DAYS).unsigned_abs() {
        return Err(ApiError::InvalidArgument(
            "the period of a default retention is 100 years at most",
        ));
    }
    Ok(Some((mode, days)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code<T>(answer: Result<T, ApiError>) -> &'static str {
        answer.err().map_or("ok", |error| error.code())
    }

    #[test]
    fn a_put_states_mode_and_date_together() {
        let mode = |name: &'static str| ObjectLockMode::from_static(name);
        let hour = UnixMs(crate::now().0 + 3_600_000);
        let later = || Some(convert::timestamp(hour));
        let governance = mode(ObjectLockMode::GOVERNANCE);
        let locks = stated(Some(&governance), later(), None).expect("both");
        let retention = locks.retention.expect("stated");
        assert_eq!(retention.mode, RetentionMode::Governance);
        assert_eq!(retention.until, hour);
        assert_eq!(stated(None, None, None).ok(), Some(Locks::default()));
        assert_eq!(
            code(stated(Some(&governance), None, None)),
            "InvalidArgument"
        );
        assert_eq!(code(stated(None, later(), None)), "InvalidArgument");
        let other = mode("governance");
        assert_eq!(code(stated(Some(&other), later(), None)), "InvalidArgument");
        let past = Some(convert::timestamp(UnixMs(1)));
        assert_eq!(
            code(stated(Some(&governance), past, None)),
            "InvalidArgument"
        );
        let hold = |text: &'static str| {
            let status = ObjectLockLegalHoldStatus::from_static(text);
            stated(None, None, Some(&status)).map(|locks| locks.legal_hold)
        };
        assert_eq!(
            (hold("ON").ok(), hold("OFF").ok()),
            (Some(true), Some(false))
        );
        assert_eq!(code(hold("on")), "InvalidArgument");
    }

    #[test]
    fn a_default_has_days_or_years() {
        let of = |mode: Option<&'static str>, days, years| {
            let default_retention = Some(s3s::dto::DefaultRetention {
                days,
                mode: mode.map(ObjectLockRetentionMode::from_static),
                years,
            });
            default_retention_of(Some(ObjectLockRule { default_retention }))
        };
        let compliance = Some("COMPLIANCE");
        let days = |days| Some(Some((RetentionMode::Compliance, days)));
        assert_eq!(of(compliance, Some(7), None).ok(), days(7));
        assert_eq!(of(compliance, None, Some(2)).ok(), days(730));
        assert_eq!(of(compliance, None, Some(100)).ok(), days(36_500));
        for (mode, days, years, expected) in [
            (None, Some(7), None, "MalformedXML"),
            (Some("compliance"), Some(7), None, "MalformedXML"),
            (compliance, None, None, "MalformedXML"),
            (compliance, Some(7), Some(1), "MalformedXML"),
            (compliance, Some(0), None, "InvalidArgument"),
            (compliance, Some(-1), None, "InvalidArgument"),
            (compliance, Some(36_501), None, "InvalidArgument"),
            (compliance, None, Some(i32::MAX), "InvalidArgument"),
        ] {
            assert_eq!(code(of(mode, days, years)), expected, "{days:?} {years:?}");
        }
        assert_eq!(default_retention_of(None).ok(), Some(None));
        assert_eq!(code(default_retention(None)), "MalformedXML");
    }

    fn default_retention_of(
        rule: Option<ObjectLockRule>,
    ) -> Result<Option<DefaultRetention>, ApiError> {
        let enabled = ObjectLockEnabled::from_static(ObjectLockEnabled::ENABLED);
        default_retention(Some(ObjectLockConfiguration {
            object_lock_enabled: Some(enabled),
            rule,
        }))
    }
}
