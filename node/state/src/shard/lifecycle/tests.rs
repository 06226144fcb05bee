use proto::v1::shard_command::Command;
use proto::v1::{ConfigKind, RetentionMode};

use super::super::CONFIG_LEVEL;
use super::super::fixture::parts::*;
use super::super::fixture::*;
use super::*;
use crate::read;

fn rule(prefix: &str) -> v1::LifecycleRule {
    v1::LifecycleRule {
        id: "r".to_owned(),
        enabled: true,
        prefix: prefix.to_owned(),
        ..Default::default()
    }
}

fn shard(rules: &[v1::LifecycleRule]) -> Shard {
    let mut shard = Shard::new();
    shard.level = CONFIG_LEVEL;
    let lifecycle = v1::Lifecycle {
        rules: rules.to_vec(),
    };
    done(shard.run(Command::SetConfig(v1::SetConfig {
        dataset_id: DATASET.into(),
        kind: ConfigKind::Lifecycle.into(),
        content: lifecycle.encode_to_vec().into(),
        any_version: true,
        ..Default::default()
    })));
    shard
}

impl Shard {
    fn versioning(&mut self, enabled: bool) {
        done(self.run(Command::SetVersioning(v1::SetVersioning {
            dataset_id: DATASET.into(),
            enabled,
        })));
    }

    fn days_later(&mut self, days: u64) {
        self.now_ms += days * DAY_MS;
        let clock = |node_id| v1::VoterClock {
            node_id,
            clock_ms: self.now_ms,
        };
        let clocks = vec![clock(1), clock(2)];
        done(self.run(Command::AdvanceTime(v1::AdvanceGroupTime {
            clocks,
            by_operator: true,
        })));
    }

    /// A whole round, a few records a step; answers how many steps it took.
    fn round(&mut self, steps: u32) -> usize {
        for taken in 1..1000 {
            let step = Command::LifecycleStep(v1::LifecycleStep { steps });
            if !done(self.run(step)).more {
                return taken;
            }
        }
        panic!("the round does not end");
    }

    fn versions(&self) -> Vec<(String, u8)> {
        let query = crate::listing::VersionsQuery {
            dataset: &DATASET,
            prefix: "",
            start_after_key: "",
            start_after_index: LogIndex(0),
            limit: 0,
        };
        let listed = crate::listing::versions(&self.state, query).versions;
        let short = listed.into_iter().map(|listed| {
            let head = listed.entry.expect("listed with its entry");
            let id = if head.delete_marker {
                0
            } else {
                head.version_id[15]
            };
            (listed.key, id)
        });
        short.collect()
    }
}

fn named(versions: &[(&str, u8)]) -> Vec<(String, u8)> {
    let owned = versions.iter().map(|(key, id)| ((*key).to_owned(), *id));
    owned.collect()
}

#[test]
fn what_is_old_enough_goes_and_what_is_younger_or_elsewhere_stays() {
    let old = v1::LifecycleRule {
        expire_days: 10,
        ..rule("tmp/")
    };
    let mut shard = shard(&[old]);
    for (n, key) in [(1, "keep"), (2, "tmp/a"), (3, "tmp/b")] {
        done(shard.run(Command::PutObject(put(key, version(n)))));
    }
    shard.days_later(9);
    shard.now_ms += 1;
    done(shard.run(Command::RegisterToken(v1::RegisterToken {
        lease_id: Bytes::copy_from_slice(&[9; 16]),
        token: Some(token(HOLDER, 1, u64::MAX)),
    })));
    let young = v1::PutObject {
        entry: Some(v1::ObjectEntry {
            lease_id: Bytes::copy_from_slice(&[9; 16]),
            ..put("tmp/c", version(4)).entry.expect("it has one")
        }),
        ..put("tmp/c", version(4))
    };
    done(shard.run(Command::PutObject(young)));
    shard.round(3);
    assert_eq!(shard.versions().len(), 4);
    shard.days_later(1);
    shard.round(3);
    assert_eq!(shard.versions(), named(&[("keep", 1), ("tmp/c", 4)]));
}

#[test]
fn where_versions_are_kept_a_marker_covers_and_goes_when_it_is_alone() {
    let old = v1::LifecycleRule {
        expire_days: 1,
        noncurrent_days: 1,
        ..rule("")
    };
    let markers = v1::LifecycleRule {
        expire_markers: true,
        ..rule("")
    };
    let mut shard = shard(&[old, markers]);
    shard.versioning(true);
    done(shard.run(Command::PutObject(put("k", version(1)))));
    shard.days_later(1);
    shard.round(64);
    assert_eq!(shard.versions(), named(&[("k", 0), ("k", 1)]));
    // The same day nothing begins anew.
    assert_eq!(shard.round(64), 1);
    shard.days_later(1);
    shard.round(64);
    assert_eq!(shard.versions(), named(&[]));
    assert_eq!(shard.dataset().versions, 0);
}

#[test]
fn the_newest_of_what_was_covered_are_kept_and_what_is_locked_too() {
    let covered = v1::LifecycleRule {
        noncurrent_days: 5,
        newer_noncurrent: 2,
        ..rule("")
    };
    for steps in [1, 2, 64] {
        let mut shard = shard(std::slice::from_ref(&covered));
        done(shard.run(Command::SetObjectLock(v1::SetObjectLock {
            dataset_id: DATASET.into(),
            lock: Some(v1::ObjectLock::default()),
        })));
        for n in 1..=6 {
            let mut asked = put("k", version(n));
            if n == 2 {
                asked.entry.as_mut().expect("it has one").retention = Some(v1::Retention {
                    mode: RetentionMode::Governance.into(),
                    until_ms: 100 * DAY_MS,
                });
            }
            done(shard.run(Command::PutObject(asked)));
        }
        shard.days_later(5);
        shard.round(steps);
        let left = named(&[("k", 6), ("k", 5), ("k", 4), ("k", 2)]);
        assert_eq!(shard.versions(), left, "{steps}");
    }
}

#[test]
fn uploads_that_nobody_ends_are_aborted() {
    let abandoned = v1::LifecycleRule {
        abort_days: 7,
        ..rule("big/")
    };
    let mut shard = shard(&[abandoned]);
    for (n, key) in [(1, "big/a"), (2, "other")] {
        done(shard.run(Command::CreateUpload(create_upload(key, version(n)))));
    }
    let part = Stream {
        number: 1,
        seed: 1,
        blocks: true,
    };
    let finish = finish_part("big/a", version(1), part, proto::ids::UploadEpoch(0));
    done(shard.run(Command::FinishPart(finish)));
    shard.days_later(6);
    shard.round(64);
    assert_eq!(shard.dataset().uploads, 2);
    shard.days_later(1);
    shard.round(64);
    shard.sweep_all();
    assert_eq!(
        (shard.dataset().uploads, shard.dataset().sealed_bytes),
        (1, 0)
    );
    assert!(read::version(&shard.state, &version(2)).is_some());
}

#[test]
fn a_round_is_due_where_there_are_rules_and_once_a_day() {
    let mut empty = Shard::new();
    empty.level = CONFIG_LEVEL;
    assert!(!is_due(&empty.state, UnixMs(u64::MAX)));
    let mut shard = shard(&[v1::LifecycleRule {
        expire_days: 1,
        ..rule("")
    }]);
    let began = shard.meta().time.0;
    assert!(is_due(&shard.state, UnixMs(began)));
    shard.round(1);
    assert!(!is_due(&shard.state, UnixMs(began + DAY_MS - 1)));
    assert!(is_due(&shard.state, UnixMs(began + DAY_MS)));
    // A rule that is off is none, and a dataset that is dropped has none.
    done(shard.run(Command::TombstoneDataset(v1::TombstoneDataset {
        dataset_id: DATASET.into(),
        force: true,
    })));
    assert!(!is_due(&shard.state, UnixMs(u64::MAX)));
}

#[test]
fn a_round_goes_over_every_dataset_in_steps_of_any_size() {
    let many = 40u8;
    for steps in [1, 7, 1024] {
        let mut shard = shard(&[]);
        let expire = v1::Lifecycle {
            rules: vec![v1::LifecycleRule {
                expire_days: 1,
                ..rule("")
            }],
        };
        for n in 0..many {
            let id = DatasetId([n.wrapping_mul(5).wrapping_add(3); 16]);
            done(shard.run(create(id, &format!("set-{n}"))));
            done(shard.run(Command::RegisterToken(v1::RegisterToken {
                lease_id: Bytes::copy_from_slice(&LEASE),
                token: Some(v1::TokenRecord {
                    dataset_id: id.into(),
                    ..token(HOLDER, 1, EXPIRY_MS)
                }),
            })));
            done(shard.run(Command::PutObject(v1::PutObject {
                dataset_id: id.into(),
                ..put("k", version(u64::from(n)))
            })));
            done(shard.run(Command::SetConfig(v1::SetConfig {
                dataset_id: id.into(),
                kind: ConfigKind::Lifecycle.into(),
                content: expire.encode_to_vec().into(),
                any_version: true,
                ..Default::default()
            })));
        }
        shard.days_later(1);
        shard.round(steps);
        assert_eq!(shard.meta().sealed_bytes, 0, "{steps}");
    }
}

#[test]
fn versions_are_counted_for_each_dataset_though_keys_are_the_same() {
    const OTHER: DatasetId = DatasetId([0xD6; 16]);
    let covered = v1::LifecycleRule {
        noncurrent_days: 1,
        newer_noncurrent: 1,
        ..rule("")
    };
    let mut shard = shard(std::slice::from_ref(&covered));
    shard.versioning(true);
    for n in 1..4 {
        done(shard.run(Command::PutObject(put("k", version(n)))));
    }
    done(shard.run(create(OTHER, "other")));
    done(shard.run(Command::SetVersioning(v1::SetVersioning {
        dataset_id: OTHER.into(),
        enabled: true,
    })));
    let lifecycle = v1::Lifecycle {
        rules: vec![covered],
    };
    done(shard.run(Command::SetConfig(v1::SetConfig {
        dataset_id: OTHER.into(),
        kind: ConfigKind::Lifecycle.into(),
        content: lifecycle.encode_to_vec().into(),
        any_version: true,
        ..Default::default()
    })));
    let lease = Bytes::from_static(&[9; 16]);
    done(shard.run(Command::RegisterToken(v1::RegisterToken {
        lease_id: lease.clone(),
        token: Some(v1::TokenRecord {
            dataset_id: OTHER.into(),
            ..token(HOLDER, 1, u64::MAX)
        }),
    })));
    shard.days_later(1);
    for n in 4..7 {
        let asked = put("k", version(n));
        done(shard.run(Command::PutObject(v1::PutObject {
            dataset_id: OTHER.into(),
            entry: Some(v1::ObjectEntry {
                lease_id: lease.clone(),
                ..asked.entry.clone().expect("it has one")
            }),
            ..asked
        })));
    }
    shard.round(1);
    assert_eq!(shard.versions(), named(&[("k", 3), ("k", 2)]));
    for n in 4..7 {
        let held = crate::read::head(&shard.state, &OTHER, "k", Some(&version(n)));
        assert!(held.is_some(), "version {n}, covered a moment ago");
    }
}
