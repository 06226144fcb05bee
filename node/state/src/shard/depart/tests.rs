//! One claim a test.

use bytes::Bytes;
use proto::ids::{FeatureLevel, LogIndex, UnixMs};
use proto::v1;
use proto::v1::Refusal;
use proto::v1::depart::Step;
use proto::v1::shard_command::Command;

use crate::feed;
use crate::limits::EPOCHS_KEPT;
use crate::relocation::{Authority, Standing};
use crate::shard::RELOCATION_LEVEL;
use crate::shard::fixture::regions::{RELOCATION, begin, depart, fence, vouch};
use crate::shard::fixture::*;

fn shard() -> Shard {
    let mut shard = Shard::new();
    shard.level = RELOCATION_LEVEL;
    shard
}

fn departing() -> Shard {
    let mut shard = shard();
    done(shard.run(begin(0)));
    shard
}

/// Fenced, and where.
fn fenced() -> (Shard, u64) {
    let mut shard = departing();
    done(shard.run(fence(0)));
    let at = shard.index;
    (shard, at)
}

fn moved(fence: u64) -> v1::MovedRecord {
    v1::MovedRecord {
        relocation_id: Bytes::copy_from_slice(&RELOCATION),
        epoch: 2,
        fence,
        root: Bytes::from_static(&[9; 32]),
    }
}

fn standing(shard: &Shard) -> Standing {
    Authority::stored(&shard.dataset()).standing()
}

fn with(command: Command, change: impl FnOnce(&mut v1::Depart)) -> Command {
    let Command::Depart(mut depart) = command else {
        unreachable!("no departure");
    };
    change(&mut depart);
    Command::Depart(depart)
}

/// Everything that a user or an operator changes in a dataset, but for what cannot wait.
fn changes() -> Vec<Command> {
    let config = v1::SetConfig {
        dataset_id: DATASET.into(),
        kind: v1::ConfigKind::Cors.into(),
        content: Bytes::from_static(b"cors"),
        ..Default::default()
    };
    let versioning = v1::SetVersioning {
        dataset_id: DATASET.into(),
        enabled: true,
    };
    let lock = v1::SetObjectLock {
        dataset_id: DATASET.into(),
        lock: Some(v1::ObjectLock::default()),
    };
    let quota = v1::SetQuota {
        dataset_id: DATASET.into(),
        quota: None,
    };
    let retention = v1::SetRetention {
        dataset_id: DATASET.into(),
        key: "a".to_owned(),
        version_id: version(1).into(),
        ..Default::default()
    };
    let hold = v1::SetLegalHold {
        dataset_id: DATASET.into(),
        key: "a".to_owned(),
        version_id: version(1).into(),
        on: true,
    };
    let drop = v1::TombstoneDataset {
        dataset_id: DATASET.into(),
        force: true,
    };
    vec![
        Command::PutObject(put("a", version(7))),
        Command::FinishObject(finish("a", version(8), &[1, 3])),
        Command::DeleteObject(delete("a")),
        Command::CreateUpload(parts::create_upload("a", version(9))),
        Command::RegisterToken(v1::RegisterToken {
            lease_id: Bytes::from_static(&[0x2E; 16]),
            token: Some(token(HOLDER, 1, EXPIRY_MS)),
        }),
        Command::SetConfig(config),
        Command::SetVersioning(versioning),
        Command::SetObjectLock(lock),
        Command::SetQuota(quota),
        Command::SetRetention(retention),
        Command::SetLegalHold(hold),
        set_metadata("a", version(1), b"metadata", b"other"),
        Command::TombstoneDataset(drop),
    ]
}

fn set_key_state(version: u64) -> Command {
    Command::SetKeyState(v1::SetKeyState {
        dataset_id: DATASET.into(),
        state: v1::KeyState::Disabled.into(),
        version,
        min_kek_version: 1,
    })
}

fn set_hold() -> Command {
    Command::SetHold(v1::SetHold {
        dataset_id: DATASET.into(),
        from_version: 0,
        retain_until_ms: 0,
        legal: true,
        ..Default::default()
    })
}

#[test]
fn under_a_fence_every_change_is_refused_with_a_reason_to_try_again() {
    let (shard, _) = fenced();
    for change in changes() {
        let mut shard = shard.clone();
        let before = shard.dataset();
        let refused = reason(shard.run(change.clone()));
        assert_eq!(refused, Refusal::DatasetFenced, "{change:?}");
        assert_eq!(shard.dataset(), before);
    }
}

#[test]
fn an_upload_under_way_neither_grows_nor_completes_under_a_fence() {
    let mut shard = departing();
    let id = version(1);
    done(shard.run(Command::CreateUpload(parts::create_upload("a", id))));
    let stream = parts::Stream {
        number: 1,
        seed: 1,
        blocks: false,
    };
    let epoch = shard.meta().upload_epoch;
    let part = |seed| {
        let stream = parts::Stream { seed, ..stream };
        Command::FinishPart(parts::finish_part("a", id, stream, epoch))
    };
    done(shard.run(part(1)));
    done(shard.run(fence(0)));
    let complete = Command::CompleteUpload(parts::complete("a", id, &[stream]));
    for late in [part(2), complete.clone(), parts::abort("a", id)] {
        assert_eq!(reason(shard.run(late)), Refusal::DatasetFenced);
    }
    let at = shard.index - 3;
    done(shard.run(depart(Step::Revert(at))));
    done(shard.run(complete));
}

#[test]
fn a_hold_and_a_disabled_key_cannot_wait_and_end_the_fence() {
    for change in [set_hold(), set_key_state(2)] {
        let (mut shard, at) = fenced();
        done(shard.run(change));
        assert_eq!(standing(&shard), Standing::Active);
        // What moves now would be what was found equal without it.
        let late = depart(Step::Moved(moved(at)));
        assert_eq!(reason(shard.run(late)), Refusal::FenceOver);
        let mut none = 0;
        feed::fences_due(&shard.state, UnixMs(u64::MAX), &mut |_| none += 1);
        assert_eq!(none, 0);
    }
}

#[test]
fn lifecycles_stop_under_a_fence_and_go_on_after_it() {
    let (mut shard, at) = {
        let mut shard = departing();
        done(shard.run(Command::PutObject(put("a", version(1)))));
        let rule = v1::LifecycleRule {
            id: "r".to_owned(),
            enabled: true,
            expire_days: 1,
            ..Default::default()
        };
        let rules = v1::Lifecycle { rules: vec![rule] };
        done(shard.run(Command::SetConfig(v1::SetConfig {
            dataset_id: DATASET.into(),
            kind: v1::ConfigKind::Lifecycle.into(),
            content: prost::Message::encode_to_vec(&rules).into(),
            any_version: true,
            ..Default::default()
        })));
        let clocks = [1, 2].map(|node_id| v1::VoterClock {
            node_id,
            clock_ms: 1000 + 2 * 86_400_000,
        });
        done(shard.run(Command::AdvanceTime(v1::AdvanceGroupTime {
            clocks: clocks.to_vec(),
            by_operator: true,
        })));
        done(shard.run(fence(0)));
        let at = shard.index;
        (shard, at)
    };
    let step = || Command::LifecycleStep(v1::LifecycleStep { steps: 100 });
    done(shard.run(step()));
    assert_eq!(shard.dataset().objects, 1);
    done(shard.run(depart(Step::Revert(at))));
    let later = [1, 2].map(|node_id| v1::VoterClock {
        node_id,
        clock_ms: 1000 + 4 * 86_400_000,
    });
    done(shard.run(Command::AdvanceTime(v1::AdvanceGroupTime {
        clocks: later.to_vec(),
        by_operator: true,
    })));
    done(shard.run(step()));
    assert_eq!(shard.dataset().objects, 0);
}

#[test]
fn after_a_fence_one_of_revert_and_moved_applies() {
    let (shard, at) = fenced();
    let (revert, give) = (
        || depart(Step::Revert(at)),
        || depart(Step::Moved(moved(at))),
    );
    let mut first = shard.clone();
    done(first.run(revert()));
    assert_eq!(reason(first.run(give())), Refusal::FenceOver);
    done(first.run(Command::PutObject(put("a", version(1)))));

    let mut second = shard;
    done(second.run(give()));
    done(second.run(give()));
    let refused = refused(second.run(revert()));
    assert_eq!(refused.reason(), Refusal::DatasetMoved);
}

/// A revert keeps the epoch: a proposal of the fence before must not apply to the next one.
#[test]
fn a_cutover_of_one_fence_does_not_apply_under_a_later_one() {
    let (mut shard, at) = fenced();
    done(shard.run(depart(Step::Revert(at))));
    done(shard.run(Command::PutObject(put("a", version(1)))));
    done(shard.run(fence(1)));
    let late = depart(Step::Moved(moved(at)));
    assert_eq!(reason(shard.run(late)), Refusal::FenceOver);
    let now = shard.index - 1;
    done(shard.run(depart(Step::Moved(moved(now)))));
}

#[test]
fn who_writes_to_what_moved_is_told_where_it_went() {
    let (mut shard, at) = fenced();
    done(shard.run(depart(Step::Moved(moved(at)))));
    assert_eq!(shard.dataset().status(), v1::DatasetStatus::Moved);
    for change in changes().into_iter().chain([set_hold(), set_key_state(2)]) {
        let refused = refused(shard.run(change));
        assert_eq!(refused.reason(), Refusal::DatasetMoved);
        assert_eq!((refused.moved_to, refused.region.as_str()), (2, "de-fra"));
    }
    let again = reason(shard.run(create(DATASET, "cti")));
    assert_eq!(again, Refusal::DatasetExists);
}

#[test]
fn a_departure_takes_two_people_besides_who_asks() {
    for few in [&[][..], &["o2"], &["o1", "o2"], &["o2", "o2"]] {
        let mut shard = shard();
        let asked = with(begin(0), |depart| {
            let Some(Step::Begin(begin)) = &mut depart.step else {
                unreachable!("it begins");
            };
            begin.approvals = Some(v1::Approvals {
                requester: "o1".to_owned(),
                approvers: few.iter().map(|who| (*who).to_owned()).collect(),
            });
        });
        assert_eq!(
            reason(shard.run(asked)),
            Refusal::TooFewApprovals,
            "{few:?}"
        );
        assert_eq!(shard.dataset().authority, None);
    }
}

#[test]
fn the_dataset_is_given_away_on_a_majoritys_word_alone() {
    let (shard, at) = fenced();
    let some = vouch().expect("it is one");
    let none = [
        None,
        Some(v1::Vouch {
            signers: vec![1],
            ..some.clone()
        }),
        // Of no such group.
        Some(v1::Vouch {
            signers: vec![7, 8, 9],
            ..some.clone()
        }),
        Some(v1::Vouch {
            voters: Vec::new(),
            ..some
        }),
    ];
    for vouch in none {
        for step in [Step::Moved(moved(at)), Step::Superseded(moved(at))] {
            let mut shard = shard.clone();
            let asked = with(depart(step), |depart| depart.vouch = vouch.clone());
            assert_eq!(reason(shard.run(asked)), Refusal::NoMajority);
            assert!(matches!(standing(&shard), Standing::Fenced { .. }));
        }
    }
}

#[test]
fn a_step_is_of_one_relocation_epoch_and_fence() {
    let (mut shard, at) = fenced();
    let other = |command| {
        with(command, |depart| {
            depart.relocation_id = Bytes::from_static(&[1; 16]);
        })
    };
    let refused = |shard: &mut Shard, command| reason(shard.run(command));
    let revert = || depart(Step::Revert(at));
    assert_eq!(refused(&mut shard, other(revert())), Refusal::NotUnderWay);
    let taken = other(depart(Step::Taken(1)));
    assert_eq!(refused(&mut shard, taken), Refusal::NotUnderWay);
    // A record of another relocation than the step's.
    let mixed = other(depart(Step::Moved(moved(at))));
    assert_eq!(refused(&mut shard, mixed), Refusal::Malformed);
    let epoch = depart(Step::Moved(v1::MovedRecord {
        epoch: 3,
        ..moved(at)
    }));
    assert_eq!(refused(&mut shard, epoch), Refusal::DatasetEpochMoved);
    let earlier = depart(Step::Revert(at - 1));
    assert_eq!(refused(&mut shard, earlier), Refusal::FenceOver);
    let ahead = depart(Step::Taken(shard.index + 2));
    assert_eq!(refused(&mut shard, ahead), Refusal::Malformed);
    // Sent again the fence is the same, and one of another epoch is none.
    done(shard.run(fence(0)));
    assert_eq!(standing(&shard), Standing::Fenced { at: LogIndex(at) });
    done(shard.run(revert()));
    let of_epoch = depart(Step::Fence(v1::Fence {
        epoch: 2,
        from: 1,
        pause_ms: 1,
    }));
    assert_eq!(refused(&mut shard, of_epoch), Refusal::DatasetEpochMoved);
    assert_eq!(refused(&mut shard, fence(0)), Refusal::FenceOver);
}

#[test]
fn a_fence_is_bounded_and_says_when_it_is_due_to_be_reverted() {
    for pause_ms in [0, 5_001] {
        let asked = depart(Step::Fence(v1::Fence {
            epoch: 1,
            from: 0,
            pause_ms,
        }));
        assert_eq!(reason(departing().run(asked)), Refusal::Malformed);
    }
    let (shard, _) = fenced();
    let due = |now| {
        let mut due = Vec::new();
        feed::fences_due(&shard.state, UnixMs(now), &mut |id| due.push(id));
        due
    };
    let now = shard.meta().time.0;
    assert_eq!(due(now + 4_999), []);
    assert_eq!(due(now + 5_000), [DATASET]);
}

#[test]
fn what_no_key_opens_is_not_fenced() {
    let mut shard = departing();
    done(shard.run(set_key_state(2)));
    assert_eq!(reason(shard.run(fence(0))), Refusal::KeyDisabled);
}

#[test]
fn a_departing_dataset_is_not_dropped_and_what_was_ended_does_not_begin_again() {
    let mut shard = departing();
    let drop = || {
        Command::TombstoneDataset(v1::TombstoneDataset {
            dataset_id: DATASET.into(),
            force: true,
        })
    };
    assert_eq!(reason(shard.run(drop())), Refusal::DatasetDeparting);
    done(shard.run(fence(0)));
    done(shard.run(depart(Step::End(1))));
    assert_eq!(standing(&shard), Standing::Active);
    // Late requests of the plan it was of.
    let late = refused(shard.run(begin(0)));
    assert_eq!((late.reason(), late.moved_to), (Refusal::DepartureMoved, 1));
    assert_eq!(reason(shard.run(fence(1))), Refusal::NotUnderWay);
    done(shard.run(drop()));
    assert_eq!(reason(shard.run(begin(1))), Refusal::DatasetGone);
}

#[test]
fn a_source_that_was_passed_over_keeps_what_is_nowhere_else() {
    let (mut shard, at) = fenced();
    let mut same = shard.clone();
    done(same.run(depart(Step::Superseded(moved(at)))));
    assert!(matches!(standing(&same), Standing::Moved(_)));

    done(shard.run(depart(Step::Revert(at))));
    done(shard.run(Command::PutObject(put("a", version(1)))));
    done(shard.run(depart(Step::Superseded(moved(at)))));
    assert!(matches!(standing(&shard), Standing::Diverged(_)));
    let put = reason(shard.run(Command::PutObject(put("a", version(2)))));
    assert_eq!(put, Refusal::DatasetMoved);
    let finish = depart(Step::Finish(true));
    assert_eq!(reason(shard.run(finish)), Refusal::NotUnderWay);
    assert_eq!(shard.dataset().objects, 1);
}

#[test]
fn what_moved_goes_once_its_keys_are_destroyed_and_not_before() {
    let mut shard = departing();
    for n in 0..20 {
        done(shard.run(Command::PutObject(put(&format!("k{n}"), version(n)))));
    }
    done(shard.run(fence(0)));
    let at = shard.index;
    let finish = || depart(Step::Finish(true));
    assert_eq!(reason(shard.run(finish())), Refusal::NotUnderWay);
    done(shard.run(depart(Step::Moved(moved(at)))));
    let alone = with(finish(), |depart| depart.vouch = None);
    assert_eq!(reason(shard.run(alone)), Refusal::NoMajority);
    assert_eq!(shard.dataset().versions, 20);
    done(shard.run(finish()));
    done(shard.run(finish()));
    shard.sweep_all();
    assert_eq!((shard.dataset().versions, shard.meta().datasets), (0, 0));
    let late = refused(shard.run(Command::PutObject(put("a", version(99)))));
    assert_eq!(late.reason(), Refusal::DatasetMoved);
    assert_eq!(late.region, "de-fra");
}

#[test]
fn tombstones_stay_while_a_departure_needs_them_and_go_otherwise() {
    let mut shard = shard();
    let churn = |shard: &mut Shard, n: u64| {
        done(shard.run(Command::PutObject(put("a", version(n)))));
        done(shard.run(Command::DeleteObject(delete("a"))));
    };
    for n in 0..5 {
        churn(&mut shard, n);
    }
    assert_eq!(shard.dataset().tombstones, 0, "nobody reads them");
    done(shard.run(begin(0)));
    let base = LogIndex(shard.index);
    for n in 5..10 {
        churn(&mut shard, n);
    }
    assert_eq!(shard.dataset().tombstones, 5);
    let at = LogIndex(shard.index);
    let page = feed::changes(&shard.state, &DATASET, base, at, 100).expect("nothing dropped");
    assert_eq!((page.told.len(), page.through), (5, at));
    done(shard.run(depart(Step::Taken(at.0 - 2))));
    assert_eq!(shard.dataset().tombstones, 1);
    let overrun = feed::changes(&shard.state, &DATASET, base, at, 100);
    let dropped = overrun.expect_err("some were dropped").dropped_through;
    assert!(base < dropped && dropped < at);
    done(shard.run(depart(Step::End(1))));
    churn(&mut shard, 11);
    assert_eq!(shard.dataset().tombstones, 0);
}

#[test]
fn what_the_change_index_did_not_have_stands_there_once() {
    let mut shard = departing();
    let base = LogIndex(shard.index);
    let lock = Command::SetObjectLock(v1::SetObjectLock {
        dataset_id: DATASET.into(),
        lock: Some(v1::ObjectLock::default()),
    });
    done(shard.run(lock));
    done(shard.run(Command::PutObject(put("a", version(1)))));
    for on in [true, false, true] {
        done(shard.run(Command::SetLegalHold(v1::SetLegalHold {
            dataset_id: DATASET.into(),
            key: "a".to_owned(),
            version_id: version(1).into(),
            on,
        })));
    }
    for (from, to) in [("metadata", "second"), ("second", "third")] {
        let (from, to) = (from.as_bytes(), to.as_bytes());
        done(shard.run(set_metadata("a", version(1), from, to)));
    }
    for n in 0..3 {
        done(shard.run(Command::SetQuota(v1::SetQuota {
            dataset_id: DATASET.into(),
            quota: Some(v1::Quota {
                objects_max: 10 + n,
                sealed_bytes_max: 0,
            }),
        })));
    }
    let at = LogIndex(shard.index);
    let page = feed::changes(&shard.state, &DATASET, base, at, 100).expect("nothing dropped");
    use v1::imported_unit::Content;
    let kinds: Vec<_> = page
        .told
        .iter()
        .map(|told| match &told.content {
            Content::Version(_) => 'v',
            Content::Lock(lock) if lock.legal_hold => 'l',
            Content::Metadata(metadata) if metadata.sealed_metadata == b"third"[..] => 'm',
            Content::Settings(settings) if settings.quota.is_some_and(|q| q.objects_max == 12) => {
                's'
            }
            _ => '?',
        })
        .collect();
    assert_eq!(kinds, ['v', 'l', 'm', 's']);
    // Four changes, one a page, come in four pages.
    let first = feed::changes(&shard.state, &DATASET, base, at, 1).expect("nothing dropped");
    assert_eq!(first.told.len(), 1);
    assert_eq!(first.through, first.told[0].index);
}

#[test]
fn request_ids_are_found_by_dataset_final_refusals_among_them() {
    let mut shard = departing();
    let base = LogIndex(shard.index);
    done(shard.run(Command::PutObject(put("a", version(1)))));
    assert_eq!(
        reason(shard.run(Command::DeleteObject(delete("nothing")))),
        Refusal::NoSuchObject
    );
    done(shard.run(fence(0)));
    // Not final: it is not remembered.
    let late = reason(shard.run(Command::PutObject(put("b", version(2)))));
    assert_eq!(late, Refusal::DatasetFenced);
    let at = LogIndex(shard.index);
    let (all, through) = feed::requests(&shard.state, &DATASET, base, at, 100);
    assert_eq!((all.len(), through), (2, at));
    let (one, through) = feed::requests(&shard.state, &DATASET, base, at, 1);
    assert_eq!(one[..], all[..1]);
    let (rest, _) = feed::requests(&shard.state, &DATASET, through, at, 100);
    assert_eq!(rest[..], all[1..]);
    // Ids leave the window and the index together.
    shard.advance_epochs(EPOCHS_KEPT + 1);
    shard.sweep_all();
    let at = LogIndex(shard.index);
    assert_eq!(feed::requests(&shard.state, &DATASET, base, at, 100).0, []);
}

#[test]
fn ids_of_before_the_level_hold_a_departure_up_until_they_are_out_of_the_window() {
    let mut shard = Shard::new();
    done(shard.run(Command::PutObject(put("a", version(1)))));
    shard.level = RELOCATION_LEVEL;
    done(shard.run(Command::PutObject(put("a", version(2)))));
    let early = refused(shard.run(begin(0)));
    assert_eq!(early.reason(), Refusal::RequestsNotIndexed);
    shard.advance_epochs(early.moved_to - 1);
    let early = refused(shard.run(begin(0)));
    assert_eq!(early.reason(), Refusal::RequestsNotIndexed);
    shard.advance_epoch();
    done(shard.run(begin(0)));
}

#[test]
fn a_write_decided_in_another_epoch_is_refused() {
    let mut shard = departing();
    let mut command = shard.command(Command::PutObject(put("a", version(1))));
    let verdict = command.verdict.as_mut().expect("the fixture gives one");
    verdict.dataset_epoch = 2;
    let refused = refused(shard.apply(command));
    assert_eq!(refused.reason(), Refusal::DatasetEpochMoved);
    assert_eq!(refused.moved_to, 1);
}

#[test]
fn below_its_level_it_is_unknown_and_its_bytes_are_fixed() {
    let steps = || {
        vec![
            begin(3),
            depart(Step::Taken(4)),
            fence(1),
            depart(Step::Revert(9)),
            depart(Step::Moved(moved(9))),
            depart(Step::Superseded(moved(9))),
            depart(Step::End(3)),
            depart(Step::Finish(true)),
        ]
    };
    for kind in steps() {
        let mut shard = shard();
        let bytes = prost::Message::encode_to_vec(&shard.command(kind));
        shard.level = FeatureLevel(RELOCATION_LEVEL.0 - 1);
        assert!(shard.apply_bytes(bytes.into()).is_err());
    }
    assert_eq!(
        hashes(steps()),
        [
            "0672bc8c9ad962b7",
            "8efd8c882eb56740",
            "7f6e20c2529210f9",
            "d0dde1e889598b67",
            "c0ccea218e5b8fd7",
            "4618fb44214aae1e",
            "98c5db04f8c7c8c8",
            "5932fac9f34abbb9"
        ],
        "a change of any is a change of the format"
    );
}
