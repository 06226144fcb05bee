//! One claim a test.

use bytes::Bytes;
use proto::ids::{FeatureLevel, ObjectVersionId};
use proto::v1;
use proto::v1::Refusal;
use proto::v1::import::Span;
use proto::v1::imported_unit::Content;
use proto::v1::shard_command::Command;

use crate::read;
use crate::shard::RELOCATION_LEVEL;
use crate::shard::fixture::regions::{KEK, Regions, import, plain};
use crate::shard::fixture::*;

mod late;

const DIGEST: &[u8; 32] = &[5; 32];

/// A destination that copies from source log index `base` on, and that base.
fn copying() -> (Shard, u64) {
    let mut regions = Regions::new();
    regions.begin();
    let base = regions.arrival().image.expect("it is being filled").base;
    (regions.destination, base)
}

/// A destination that follows changes, and through which index it has.
fn following() -> (Shard, u64) {
    let (mut shard, base) = copying();
    let all = v1::PageSpan {
        after: None,
        through: Some(v1::Place {
            end: true,
            ..Default::default()
        }),
        at: base,
    };
    done(shard.run(take(Span::Page(all), Vec::new(), base)));
    done(shard.run(plain(v1::ArrivalStep::CatchUp)));
    (shard, base)
}

fn take(span: Span, units: Vec<v1::ImportedUnit>, pass: u64) -> Command {
    Command::Import(import(span, units, pass))
}

fn span(after: u64, through: u64) -> Span {
    Span::Changes(v1::IndexSpan { after, through })
}

/// A put that was imported, under the key's null version or under its own id.
fn stored(index: u64, key: &str, id: ObjectVersionId, null: bool) -> v1::ImportedUnit {
    let put = put(key, id);
    v1::ImportedUnit {
        index,
        key: key.to_owned(),
        version_id: if null { Bytes::new() } else { id.into() },
        content: Some(Content::Version(v1::ImportedVersion {
            entry: put.entry.map(|entry| v1::ObjectEntry {
                finished_at_ms: 77,
                ..entry
            }),
            holder: put.holder,
            kek_id: Bytes::copy_from_slice(&KEK),
            source_digest: Bytes::from_static(DIGEST),
            ..Default::default()
        })),
    }
}

fn gone(index: u64, key: &str, id: Option<ObjectVersionId>) -> v1::ImportedUnit {
    v1::ImportedUnit {
        index,
        key: key.to_owned(),
        version_id: id.map(Bytes::from).unwrap_or_default(),
        content: Some(Content::Gone(true)),
    }
}

fn edited(
    unit: v1::ImportedUnit,
    change: impl FnOnce(&mut v1::ImportedVersion),
) -> v1::ImportedUnit {
    let Some(Content::Version(mut version)) = unit.content else {
        unreachable!("a version");
    };
    change(&mut version);
    v1::ImportedUnit {
        content: Some(Content::Version(version)),
        ..unit
    }
}

fn entry_of(version: &mut v1::ImportedVersion) -> &mut v1::ObjectEntry {
    version.entry.as_mut().expect("it has one")
}

/// Refused, and not even in part.
fn refuses(shard: &mut Shard, command: Command) -> v1::Refused {
    let before = shard.state.clone();
    let refused = refused(shard.run(command));
    let dataset = |state| read::dataset(state, &DATASET);
    assert_eq!(dataset(&shard.state), dataset(&before));
    refused
}

/// What is deleted in the source and imported late must not come back.
#[test]
fn no_import_goes_back_behind_what_is_known() {
    let (mut shard, at) = following();
    let batch = |shard: &mut Shard, unit: v1::ImportedUnit| {
        let index = unit.index;
        done(shard.run(take(span(at, index), vec![unit], at)));
    };
    batch(&mut shard, stored(at + 2, "a", version(2), true));
    batch(&mut shard, stored(at + 1, "a", version(1), true));
    assert_eq!(shard.current_id("a"), Some(version(2)));
    batch(&mut shard, gone(at + 4, "a", None));
    batch(&mut shard, stored(at + 3, "a", version(3), true));
    assert_eq!(shard.current_id("a"), None);
    batch(&mut shard, stored(at + 5, "a", version(4), true));
    batch(&mut shard, gone(at + 4, "a", None));
    assert_eq!(shard.current_id("a"), Some(version(4)));
    assert_eq!(shard.dataset().versions, 1);
}

#[test]
fn versions_stand_in_the_order_of_the_source_with_their_times() {
    let (mut shard, at) = following();
    for (n, null) in [(1, true), (2, false), (3, false)] {
        let unit = stored(at + n, "a", version(n), null);
        done(shard.run(take(span(at, at + n), vec![unit], at)));
    }
    let head = |id| read::head(&shard.state, &DATASET, "a", Some(&version(id))).expect("kept");
    assert_eq!(shard.current_id("a"), Some(version(3)));
    assert!(head(1).finished_index < head(2).finished_index);
    assert_eq!((head(2).finished_at_ms, head(2).source_index), (77, at + 2));
    let null = read::null_version(&shard.state, &DATASET, "a").expect("the first");
    assert_eq!(null.version_id, Bytes::from(version(1)));
    // Suspended in the source: a new null version takes the place of the old one, and is the current one.
    let unit = stored(at + 4, "a", version(4), true);
    done(shard.run(take(span(at, at + 4), vec![unit], at)));
    let left: Vec<_> = [1, 2, 3, 4]
        .into_iter()
        .filter(|n| read::head(&shard.state, &DATASET, "a", Some(&version(*n))).is_some())
        .collect();
    assert_eq!(left, [2, 3, 4]);
    // One below a newer one is of no source.
    let below = stored(at + 3, "a", version(9), false);
    let refused = refuses(&mut shard, take(span(at, at + 4), vec![below], at));
    assert_eq!(refused.reason(), Refusal::Malformed);
}

#[test]
fn what_is_not_sealed_anew_or_not_as_durable_as_a_commit_is_refused_whole() {
    let (shard, at) = following();
    let good = || stored(at + 1, "a", version(1), true);
    let bad = || stored(at + 2, "b", version(2), true);
    let cases: Vec<(v1::ImportedUnit, Refusal)> = vec![
        (
            edited(bad(), |v| v.kek_id = Bytes::from_static(&[1; 16])),
            Refusal::NotResealed,
        ),
        (
            edited(bad(), |v| v.kek_id = Bytes::new()),
            Refusal::Malformed,
        ),
        (
            edited(bad(), |v| v.holder = Bytes::from_static(&[1; 32])),
            Refusal::TokenNotHolders,
        ),
        (
            edited(bad(), |v| {
                entry_of(v).lease_id = Bytes::from_static(&[1; 16]);
            }),
            Refusal::NoSuchToken,
        ),
        (
            edited(bad(), |v| entry_of(v).sealed_bytes += 1),
            Refusal::Malformed,
        ),
        (
            edited(bad(), |v| entry_of(v).version_id = version(1).into()),
            Refusal::Malformed,
        ),
        (
            edited(bad(), |v| v.source_digest = Bytes::new()),
            Refusal::Malformed,
        ),
        (
            edited(bad(), |v| entry_of(v).finished_index = 1),
            Refusal::Malformed,
        ),
        (
            edited(bad(), |v| entry_of(v).delete_marker = true),
            Refusal::Malformed,
        ),
        (
            edited(bad(), |v| {
                let finish = finish("b", version(2), &[2]);
                v.receipts = finish.receipts;
                v.entry = finish.entry;
            }),
            Refusal::NotOnMajority,
        ),
        (
            edited(bad(), |v| {
                v.parts = vec![v1::PartName {
                    number: 1,
                    part_id: version(3).into(),
                }];
            }),
            Refusal::NoSuchUpload,
        ),
        (
            v1::ImportedUnit {
                content: Some(Content::Lock(v1::ImportedLock::default())),
                ..bad()
            },
            Refusal::Malformed,
        ),
        (
            v1::ImportedUnit {
                version_id: Bytes::from_static(b"short"),
                ..bad()
            },
            Refusal::Malformed,
        ),
        (
            v1::ImportedUnit {
                key: String::new(),
                ..bad()
            },
            Refusal::Malformed,
        ),
        (
            v1::ImportedUnit {
                content: None,
                ..bad()
            },
            Refusal::Malformed,
        ),
        // Two versions of one key would stand at one log index.
        (stored(at + 2, "a", version(2), false), Refusal::Malformed),
    ];
    for (case, expected) in cases {
        let mut shard = shard.clone();
        let batch = take(span(at, at + 2), vec![good(), case.clone()], at);
        assert_eq!(refuses(&mut shard, batch).reason(), expected, "{case:?}");
        assert_eq!(shard.current_id("a"), None);
    }
    let mut shard = shard;
    done(shard.run(take(span(at, at + 2), vec![good(), bad()], at)));
    // A version id is one version's, in a batch and after it.
    let twice = vec![
        stored(at + 3, "c", version(3), true),
        stored(at + 4, "d", version(3), true),
    ];
    let refused = refuses(&mut shard, take(span(at + 2, at + 4), twice, at));
    assert_eq!(refused.reason(), Refusal::Malformed);
    let again = stored(at + 3, "c", version(1), true);
    let refused = refuses(&mut shard, take(span(at + 2, at + 3), vec![again], at));
    assert_eq!(refused.reason(), Refusal::VersionIdReused);
}

#[test]
fn a_batch_says_where_it_goes_on_and_in_which_pass_it_was_read() {
    let (mut shard, at) = following();
    let unit = |index| vec![stored(index, "a", version(index), true)];
    let gap = refuses(&mut shard, take(span(at + 1, at + 3), unit(at + 2), at));
    assert_eq!(gap.reason(), Refusal::ImportGap);
    let pass = refuses(&mut shard, take(span(at, at + 2), unit(at + 1), at - 1));
    assert_eq!((pass.reason(), pass.moved_to), (Refusal::OtherPass, at));
    let outside = refuses(&mut shard, take(span(at, at + 2), unit(at + 3), at));
    assert_eq!(outside.reason(), Refusal::Malformed);
    let mut two = unit(at + 2);
    two.push(stored(at + 1, "b", version(9), true));
    let order = refuses(&mut shard, take(span(at, at + 2), two, at));
    assert_eq!(order.reason(), Refusal::Malformed);
    let mut other = import(span(at, at + 2), unit(at + 1), at);
    other.relocation_id = Bytes::from_static(&[1; 16]);
    let other = refuses(&mut shard, Command::Import(other));
    assert_eq!(other.reason(), Refusal::NotTaking);
}

/// After an overrun an object that was read before it and deleted since is known to nobody: its pass keeps it out.
#[test]
fn what_was_read_before_an_overrun_is_not_imported_after_it() {
    let (mut shard, at) = following();
    let late = take(
        span(at, at + 1),
        vec![stored(at + 1, "a", version(1), true)],
        at,
    );
    let again = crate::shard::fixture::regions::arrive(v1::arrive::Step::CopyAgain(at + 10));
    done(shard.run(again));
    let refused = refuses(&mut shard, late);
    assert_eq!(refused.reason(), Refusal::OtherPass);
    assert_eq!(shard.current_id("a"), None);
}

#[test]
fn nothing_is_imported_before_copying_nor_after_all_was_found_equal() {
    let mut regions = Regions::new();
    let plan = regions.plan();
    let early = take(span(1, 2), Vec::new(), 1);
    assert_eq!(
        reason(regions.destination.run(early.clone())),
        Refusal::NoSuchDataset
    );
    done(regions.destination.run(plan));
    done(
        regions
            .destination
            .run(crate::shard::fixture::regions::prepare()),
    );
    assert_eq!(reason(regions.destination.run(early)), Refusal::NotTaking);
    // Nor is there a token before somebody fills it.
    let token = regions.destination.run(register(LEASE, HOLDER));
    assert_eq!(reason(token), Refusal::DatasetArriving);

    let mut regions = Regions::new();
    done(regions.source.run(Command::PutObject(put("a", version(1)))));
    regions.begin();
    regions.fill();
    regions.stop(0);
    let compared = regions.compared();
    done(regions.destination.run(compared));
    let image = regions.arrival().image.expect("it is filled");
    let late = take(
        span(image.changes, image.changes + 1),
        vec![gone(image.changes + 1, "a", None)],
        image.base,
    );
    let refused = refuses(&mut regions.destination, late.clone());
    assert_eq!(refused.reason(), Refusal::FoundEqual);
    let paused = regions.paused();
    done(regions.destination.run(paused));
    done(regions.destination.run(plain(v1::ArrivalStep::Force)));
    let refused = refuses(&mut regions.destination, late);
    assert_eq!(refused.reason(), Refusal::NotTaking);
}

#[test]
fn settings_and_locks_arrive_in_any_order_and_locks_keep_the_dataset() {
    let (mut shard, at) = following();
    let retention = Some(v1::Retention {
        mode: v1::RetentionMode::Compliance.into(),
        until_ms: 9_000,
    });
    // Read at a state in which lock was on already; the settings that turned it on come after.
    let locked = edited(stored(at + 1, "a", version(1), false), |v| {
        entry_of(v).retention = retention;
    });
    done(shard.run(take(span(at, at + 1), vec![locked], at)));
    assert_eq!(shard.dataset().compliance_until_ms, 9_000);
    let lifecycle = v1::Lifecycle {
        rules: vec![v1::LifecycleRule {
            enabled: true,
            expire_days: 1,
            ..Default::default()
        }],
    };
    let config = |kind: v1::ConfigKind, content: Vec<u8>| v1::ConfigRecord {
        kind: kind.into(),
        version: 3,
        content: content.into(),
        changed_at_ms: 7,
    };
    let settings = v1::ImportedSettings {
        configs: vec![config(
            v1::ConfigKind::Lifecycle,
            prost::Message::encode_to_vec(&lifecycle),
        )],
        quota: Some(v1::Quota {
            objects_max: 1,
            sealed_bytes_max: 1,
        }),
        created_at_ms: 5,
        ..Default::default()
    };
    let unit = |index, settings| v1::ImportedUnit {
        index,
        content: Some(Content::Settings(settings)),
        ..Default::default()
    };
    let mut bad = settings.clone();
    bad.configs
        .push(config(v1::ConfigKind::Tagging, Vec::new()));
    let refused = refuses(
        &mut shard,
        take(span(at, at + 2), vec![unit(at + 2, bad)], at),
    );
    assert_eq!(refused.reason(), Refusal::Malformed);
    done(shard.run(take(
        span(at, at + 2),
        vec![unit(at + 2, settings.clone())],
        at,
    )));
    let held = shard.dataset();
    assert!(
        held.lock.is_some() && held.versioning,
        "what is locked stays so"
    );
    assert_eq!((held.quota, held.created_at_ms), (settings.quota, 5));
    // Older ones do not take their place; and no quota stands in the way of what the source took.
    let older = unit(at + 1, v1::ImportedSettings::default());
    done(shard.run(take(span(at, at + 2), vec![older], at)));
    assert_eq!(shard.dataset().quota, settings.quota);
    let more = stored(at + 3, "b", version(2), false);
    done(shard.run(take(span(at + 2, at + 3), vec![more], at)));
    let id = version(3);
    let upload = parts::create_upload("c", id);
    done(shard.run(Command::CreateUpload(upload)));
    let stream = parts::Stream {
        number: 1,
        seed: 1,
        blocks: false,
    };
    let epoch = shard.meta().upload_epoch;
    let part = parts::finish_part("c", id, stream, epoch);
    done(shard.run(Command::FinishPart(part)));
    done(shard.run(parts::abort("c", id)));
    let lock = v1::ImportedUnit {
        content: Some(Content::Lock(v1::ImportedLock {
            retention: None,
            legal_hold: true,
        })),
        ..stored(at + 4, "b", version(2), false)
    };
    done(shard.run(take(span(at + 3, at + 4), vec![lock.clone()], at)));
    done(shard.run(take(span(at + 3, at + 4), vec![lock], at)));
    assert_eq!(shard.dataset().legal_holds, 1);
    // Rules do not run before it serves.
    let clocks = [1, 2].map(|node_id| v1::VoterClock {
        node_id,
        clock_ms: 9 * 86_400_000,
    });
    done(shard.run(Command::AdvanceTime(v1::AdvanceGroupTime {
        clocks: clocks.to_vec(),
        by_operator: true,
    })));
    let step = Command::LifecycleStep(v1::LifecycleStep { steps: 100 });
    done(shard.run(step));
    assert_eq!(shard.dataset().versions, 2);
}

fn tagged(index: u64, key: &str, id: ObjectVersionId, sealed: &[u8]) -> v1::ImportedUnit {
    v1::ImportedUnit {
        content: Some(Content::Metadata(v1::ImportedMetadata {
            sealed_metadata: Bytes::copy_from_slice(sealed),
            metadata_key_version: 3,
            source_digest: Bytes::copy_from_slice(&[index as u8; 32]),
        })),
        ..stored(index, key, id, true)
    }
}

#[test]
fn metadata_that_was_changed_there_is_changed_here_and_so_is_what_the_source_states() {
    let (mut shard, at) = following();
    let id = version(1);
    let batch = |shard: &mut Shard, units: Vec<v1::ImportedUnit>| {
        let through = units.iter().map(|unit| unit.index).max().unwrap_or(at);
        shard.run(take(span(at, through), units, at))
    };
    // With the version in one batch, and after it.
    let both = vec![
        stored(at + 1, "a", id, true),
        tagged(at + 2, "a", id, b"two"),
    ];
    done(batch(&mut shard, both));
    let held = |shard: &Shard| {
        let head = read::head(&shard.state, &DATASET, "a", None).expect("it is there");
        let place = crate::keys::known(&DATASET, "a", None);
        let known: v1::KnownRecord = crate::record::load(&shard.state, &place).expect("known");
        let digest = known.source_digest[0];
        (
            head.sealed_metadata,
            head.metadata_key_version,
            known.index,
            digest,
        )
    };
    let expected =
        |index: u64, sealed: &'static [u8]| (Bytes::from_static(sealed), 3, index, index as u8);
    assert_eq!(held(&shard), expected(at + 2, b"two"));
    done(batch(&mut shard, vec![tagged(at + 4, "a", id, b"four")]));
    // What is behind changes nothing: neither older metadata nor the version as it was made.
    done(batch(&mut shard, vec![tagged(at + 3, "a", id, b"three")]));
    done(batch(&mut shard, vec![stored(at + 1, "a", id, true)]));
    assert_eq!(held(&shard), expected(at + 4, b"four"));
    assert_eq!(shard.dataset().versions, 1);
    // A lock that comes later leaves the digest alone, which has no lock in it.
    let lock = v1::ImportedUnit {
        content: Some(Content::Lock(v1::ImportedLock::default())),
        ..stored(at + 5, "a", id, true)
    };
    done(batch(&mut shard, vec![lock]));
    let (_, _, index, digest) = held(&shard);
    assert_eq!((index, digest), (at + 5, (at + 4) as u8));
    let of = |change: fn(&mut v1::ImportedMetadata)| {
        let unit = tagged(at + 6, "a", id, b"six");
        let Some(Content::Metadata(mut metadata)) = unit.content else {
            unreachable!("metadata");
        };
        change(&mut metadata);
        v1::ImportedUnit {
            content: Some(Content::Metadata(metadata)),
            ..unit
        }
    };
    let marker = edited(stored(at + 6, "b", version(2), true), |v| {
        v.kek_id = Bytes::new();
        v.holder = Bytes::new();
        v.entry = Some(v1::ObjectEntry {
            format: 1,
            version_id: version(2).into(),
            delete_marker: true,
            ..Default::default()
        });
    });
    for bad in [
        vec![of(|m| m.source_digest = Bytes::new())],
        vec![of(|m| m.sealed_metadata = Bytes::new())],
        vec![of(|m| m.sealed_metadata = vec![0; (17 << 10) + 1].into())],
        vec![tagged(at + 6, "nothing", version(9), b"six")],
        vec![marker.clone(), tagged(at + 7, "b", version(2), b"seven")],
    ] {
        let refused = refuses(&mut shard, take(span(at, at + 9), bad.clone(), at));
        assert_eq!(refused.reason(), Refusal::Malformed, "{bad:?}");
    }
    done(batch(&mut shard, vec![marker]));
}

#[test]
fn request_ids_cross_in_their_own_span_alone() {
    let (mut shard, at) = following();
    let crossed = |index, id: usize, hash: usize| v1::CrossedRequest {
        index,
        request_id: vec![1; id].into(),
        request_hash: vec![2; hash].into(),
        answer: Bytes::new(),
    };
    let requests = |after, through| Span::Requests(v1::IndexSpan { after, through });
    let with = |span, crossed| {
        Command::Import(v1::Import {
            crossed: vec![crossed],
            ..import(span, Vec::new(), at)
        })
    };
    for bad in [
        with(requests(0, 5), crossed(6, 24, 32)),
        with(requests(2, 5), crossed(2, 24, 32)),
        with(requests(0, 5), crossed(3, 23, 32)),
        with(requests(0, 5), crossed(3, 24, 31)),
        with(span(at, at + 9), crossed(at + 1, 24, 32)),
    ] {
        assert_eq!(refuses(&mut shard, bad).reason(), Refusal::Malformed);
    }
    let gap = refuses(&mut shard, with(requests(3, 5), crossed(4, 24, 32)));
    assert_eq!(gap.reason(), Refusal::ImportGap);
    done(shard.run(with(requests(0, 5), crossed(3, 24, 32))));
}

#[test]
fn below_its_level_it_is_unknown_and_its_bytes_are_fixed() {
    let (mut shard, at) = following();
    let page = Span::Page(v1::PageSpan {
        after: Some(v1::Place {
            key: "a".to_owned(),
            within: 3,
            end: false,
        }),
        through: None,
        at: 9,
    });
    let all = vec![
        take(span(1, 2), vec![stored(2, "a", version(1), true)], 1),
        take(span(1, 2), vec![gone(2, "a", Some(version(1)))], 1),
        take(page, Vec::new(), 1),
    ];
    assert_eq!(
        hashes(all),
        ["3875d4a86525c211", "9d3015031703e31e", "78bc6daacdca133c"]
    );
    let bytes = prost::Message::encode_to_vec(&shard.command(take(span(at, at), Vec::new(), at)));
    shard.level = FeatureLevel(RELOCATION_LEVEL.0 - 1);
    assert!(shard.apply_bytes(bytes.into()).is_err());
}
