//! What objects and datasets look like when printed.

use client::ids::UnixMs;
use client::{DatasetInfo, ObjectInfo, Retention, RetentionMode};
use proto::v1::ObjectLock;
use serde_json::{Value, json};

/// Milliseconds since the epoch as RFC 3339 in UTC, to the second: one spelling in every report.
pub(crate) fn time(ms: u64) -> String {
    verifier::utc(ms)
}

/// RFC 3339 in UTC to the second, as [`time`] writes it, from 1970 on.
pub(crate) fn parse_time(text: &str) -> Result<UnixMs, &'static str> {
    const WRONG: &str = "a time is written 2026-11-26T22:00:00Z, in UTC, from 1970 on";
    let digits = |at: std::ops::Range<usize>| -> Result<u64, &'static str> {
        let part = text
            .get(at)
            .filter(|part| part.bytes().all(|b| b.is_ascii_digit()));
        part.and_then(|part| part.parse().ok()).ok_or(WRONG)
    };
    let (year, month, day) = (digits(0..4)?, digits(5..7)?, digits(8..10)?);
    let (hour, minute, second) = (digits(11..13)?, digits(14..16)?, digits(17..19)?);
    if year < 1970 {
        return Err(WRONG);
    }
    // A civil date to days: H. Hinnant, as above.
    let y = year - u64::from(month <= 2);
    let (era, yoe) = (y / 400, y % 400);
    let doy = (153 * ((month + 9) % 12) + 2) / 5 + day.saturating_sub(1);
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    let days = (era * 146_097 + doe).checked_sub(719_468).ok_or(WRONG)?;
    let ms = (days * 86_400 + hour * 3_600 + minute * 60 + second) * 1_000;
    // What is no date, or not written so, does not come back as it went.
    if time(ms) == text {
        Ok(UnixMs(ms))
    } else {
        Err(WRONG)
    }
}

pub(crate) fn object(info: &ObjectInfo) -> Value {
    json!({
        "key": info.key.as_str(),
        "version": info.version.to_string(),
        "bytes": info.bytes,
        "finished": time(info.finished_at.0),
        "delete_marker": info.delete_marker,
        "current": info.is_current,
        "parts": info.parts,
        "retention": info.retention.map(retention_json),
        "legal_hold": info.legal_hold,
        "content_type": info.metadata.content_type,
        "metadata": info.metadata.user,
        "tags": info.metadata.tags,
    })
}

pub(crate) fn dataset(info: &DatasetInfo) -> Value {
    json!({
        "name": info.name.as_str(),
        "id": info.id.to_string(),
        "shard": info.shard.0,
        "epoch": info.epoch,
        "versioning": info.versioning,
        "suspended": info.suspended,
        "object_lock": info.lock.map(lock_json),
        "objects": info.objects,
        "versions": info.versions,
        "sealed_bytes": info.sealed_bytes,
        "uploads": info.uploads,
        "objects_max": bound(info.quota.objects_max),
        "sealed_bytes_max": bound(info.quota.sealed_bytes_max),
        "created": time(info.created_at.0),
        "key_state": info.key_state.as_str_name().trim_start_matches("KEY_STATE_").to_lowercase(),
        "legal_hold": info.hold.legal,
        "retain_until": (info.hold.retain_until_ms > 0).then(|| time(info.hold.retain_until_ms)),
    })
}

/// What is no bound is no number.
fn bound(max: u64) -> Option<u64> {
    (max > 0).then_some(max)
}

fn mode(mode: RetentionMode) -> &'static str {
    match mode {
        RetentionMode::Governance => "governance",
        RetentionMode::Compliance => "compliance",
    }
}

/// How and until when a version is kept.
pub(crate) fn retention(held: Retention) -> String {
    format!("{} until {}", mode(held.mode), time(held.until.0))
}

pub(crate) fn retention_json(held: Retention) -> Value {
    json!({ "mode": mode(held.mode), "until": time(held.until.0) })
}

/// Object lock that is on, with its default.
pub(crate) fn lock(lock: ObjectLock) -> String {
    match default_mode(lock) {
        None => "on".to_owned(),
        Some(mode) => format!("on, {mode} for {} days by default", lock.default_days),
    }
}

fn lock_json(lock: ObjectLock) -> Value {
    let mode = default_mode(lock);
    json!({ "default_mode": mode, "default_days": mode.map(|_| lock.default_days) })
}

fn default_mode(lock: ObjectLock) -> Option<String> {
    let name = lock.default_mode().as_str_name();
    let name = name.trim_start_matches("RETENTION_MODE_").to_lowercase();
    (lock.default_mode != 0).then_some(name)
}

/// One line, or nothing where nobody listens any more.
pub(crate) fn line(text: impl std::fmt::Display) {
    use std::io::Write as _;
    // A closed pipe (`| head`) is no failure of ours.
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// A secret between two pieces of its line, straight to standard output: neither a text of all three nor the buffer of
/// `stdout` keeps a copy that nobody wipes.
pub(crate) fn secret_line(before: &str, secret: &str, after: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::fd::AsFd as _;
    let mut buffered = std::io::stdout().lock();
    buffered.flush()?;
    let mut out = std::fs::File::from(buffered.as_fd().try_clone_to_owned()?);
    for piece in [before, secret, after] {
        out.write_all(piece.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{parse_time, time};

    #[test]
    fn times_are_read_as_they_are_written() {
        for ms in [0, 951_782_400_000, 1_795_305_599_000, 4_102_444_800_000] {
            assert_eq!(parse_time(&time(ms)).map(|at| at.0), Ok(ms));
        }
        let wrong = [
            "",
            "2026-11-26",
            "2026-11-26T22:00:00",
            "2026-11-26t22:00:00Z",
            "2026-02-30T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2026-11-26T24:00:00Z",
            "2026-11-26T22:60:00Z",
            "+026-11-26T22:00:00Z",
            "2026-11-26T22:00:00ZZ",
        ];
        for text in wrong {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(time(1_795_305_599_999), "2026-11-21T23:59:59Z");
    }
}
