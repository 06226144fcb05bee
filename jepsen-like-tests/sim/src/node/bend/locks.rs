//! Bent commands of locks and settings.

use bytes::Bytes;
use node_state::limits::{CONFIG_BYTES_MAX, RULES_MAX};
use prost::Message as _;
use proto::v1;
use rand::Rng;

use crate::node::draw::Draw;
use crate::node::model::Model;

pub(super) fn object_lock(draw: &mut Draw, set: &mut v1::SetObjectLock) {
    let (default_mode, default_days) = match draw.rng.random_range(0..6) {
        0 => (0, 1),
        1 => (1, 0),
        2 => (2, 36_501),
        3 => (7, 1),
        4 => {
            set.lock = None;
            return;
        }
        _ => {
            set.dataset_id = Bytes::from_static(b"nothing");
            return;
        }
    };
    set.lock = Some(v1::ObjectLock {
        default_mode,
        default_days,
    });
}

pub(super) fn retention(draw: &mut Draw, model: &Model, set: &mut v1::SetRetention) {
    match draw.rng.random_range(0..5) {
        0 => set.version_id = Bytes::from_static(b"short"),
        1 => set.key = "b".to_owned(),
        2 => {
            set.retention = Some(v1::Retention {
                mode: 1,
                until_ms: model.time,
            });
        }
        3 => {
            set.retention = Some(v1::Retention {
                mode: 7,
                until_ms: model.time + 1000,
            });
        }
        _ => set.dataset_id = Bytes::from_static(b"nothing"),
    }
}

pub(super) fn legal_hold(draw: &mut Draw, set: &mut v1::SetLegalHold) {
    match draw.rng.random_range(0..3) {
        0 => set.version_id = Bytes::from_static(b"short"),
        1 => set.key = "b".to_owned(),
        _ => set.dataset_id = Bytes::from_static(b"nothing"),
    }
}

pub(super) fn metadata(draw: &mut Draw, set: &mut v1::SetMetadata) {
    match draw.rng.random_range(0..6) {
        0 => set.version_id = Bytes::from_static(b"short"),
        1 => set.key = "b".to_owned(),
        2 => set.from_digest = Bytes::new(),
        3 => set.sealed_metadata = Bytes::new(),
        4 => set.sealed_metadata = Bytes::from(vec![0; (17 << 10) + 1]),
        _ => set.dataset_id = Bytes::from_static(b"nothing"),
    }
}

pub(super) fn config(draw: &mut Draw, set: &mut v1::SetConfig) {
    let rules = |rule: v1::LifecycleRule, many| {
        let rules = vec![rule; many];
        Bytes::from(v1::Lifecycle { rules }.encode_to_vec())
    };
    let rule = v1::LifecycleRule::default();
    let content = match draw.rng.random_range(0..8) {
        0 => {
            set.kind = [0, 7][draw.rng.random_range(0..2)];
            return;
        }
        1 => {
            set.from_version += 1;
            return;
        }
        2 => {
            set.dataset_id = Bytes::from_static(b"nothing");
            return;
        }
        3 => Bytes::from(vec![0; CONFIG_BYTES_MAX + 1]),
        4 => Bytes::from_static(&[0xFF; 9]),
        5 => rules(rule, RULES_MAX + 1),
        6 => rules(
            v1::LifecycleRule {
                newer_noncurrent: 1,
                ..rule
            },
            1,
        ),
        _ => rules(
            v1::LifecycleRule {
                abort_days: 36_501,
                ..rule
            },
            1,
        ),
    };
    set.kind = v1::ConfigKind::Lifecycle.into();
    set.content = content;
}
