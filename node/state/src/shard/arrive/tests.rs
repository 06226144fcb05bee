//! One claim a test.

use bytes::Bytes;
use proto::ids::FeatureLevel;
use proto::v1;
use proto::v1::arrive::Step;
use proto::v1::shard_command::Command;
use proto::v1::{ArrivalPhase, ArrivalStep, Refusal};

use crate::limits::EPOCHS_KEPT;
use crate::read;
use crate::relocation::{Authority, Standing};
use crate::shard::RELOCATION_LEVEL;
use crate::shard::fixture::regions::{
    KEK, Regions, approvals, arrive, depart, plain, prepare, vouch,
};
use crate::shard::fixture::*;

mod work;

/// Some of everything that moves in the source.
fn furnish(source: &mut Shard) {
    let run = |source: &mut Shard, kind| done(source.run(kind));
    let dataset_id: Bytes = DATASET.into();
    run(source, Command::PutObject(put("null", version(1))));
    run(
        source,
        Command::FinishObject(finish("blocks", version(2), &[1, 3])),
    );
    let lock = v1::SetObjectLock {
        dataset_id: dataset_id.clone(),
        lock: Some(v1::ObjectLock::default()),
    };
    run(source, Command::SetObjectLock(lock));
    for n in 3..6 {
        run(source, Command::PutObject(put("null", version(n))));
    }
    run(
        source,
        Command::DeleteObject(delete_with_marker("blocks", version(6))),
    );
    let retention = v1::SetRetention {
        dataset_id: dataset_id.clone(),
        key: "null".to_owned(),
        version_id: version(3).into(),
        retention: Some(v1::Retention {
            mode: v1::RetentionMode::Compliance.into(),
            until_ms: 9_000_000,
        }),
        bypass_governance: false,
    };
    run(source, Command::SetRetention(retention));
    let id = version(7);
    run(
        source,
        Command::CreateUpload(parts::create_upload("parts", id)),
    );
    let streams = [(1, false), (2, true)].map(|(number, blocks)| parts::Stream {
        number,
        seed: u64::from(number),
        blocks,
    });
    let epoch = source.meta().upload_epoch;
    for stream in streams {
        run(
            source,
            Command::FinishPart(parts::finish_part("parts", id, stream, epoch)),
        );
    }
    run(
        source,
        Command::CompleteUpload(parts::complete("parts", id, &streams)),
    );
    for (kind, content) in [
        (v1::ConfigKind::Cors, Bytes::from_static(b"cors")),
        (v1::ConfigKind::Tagging, Bytes::from_static(b"tags")),
    ] {
        let set = v1::SetConfig {
            dataset_id: dataset_id.clone(),
            kind: kind.into(),
            content,
            any_version: true,
            ..Default::default()
        };
        run(source, Command::SetConfig(set));
    }
}

fn verifying() -> Regions {
    let mut regions = Regions::new();
    furnish(&mut regions.source);
    regions.begin();
    regions.fill();
    regions
}

fn fenced() -> Regions {
    let mut regions = verifying();
    regions.stop(0);
    regions
}

fn moved() -> Regions {
    let mut regions = fenced();
    regions.cut_over();
    regions
}

fn phase(regions: &Regions) -> ArrivalPhase {
    regions.arrival().phase()
}

fn refuses(regions: &mut Regions, command: Command) -> Refusal {
    let before = regions.destination.state.clone();
    let reason = reason(regions.destination.run(command));
    let same = |shard: &Shard| read::dataset(&shard.state, &DATASET);
    let held = read::dataset(&before, &DATASET);
    assert_eq!(same(&regions.destination), held);
    reason
}

fn with(command: Command, change: impl FnOnce(&mut v1::Arrive)) -> Command {
    let Command::Arrive(mut arrive) = command else {
        unreachable!("no arrival");
    };
    change(&mut arrive);
    Command::Arrive(arrive)
}

#[test]
fn all_that_moves_arrives_equal_and_serves_once_the_source_has_moved() {
    let mut regions = fenced();
    assert_eq!(regions.source_root(), regions.destination_root());
    let put_here = || Command::PutObject(put("new", version(90)));
    assert_eq!(refuses(&mut regions, put_here()), Refusal::DatasetArriving);
    regions.cut_over();
    let (here, there) = (regions.destination.dataset(), regions.source.dataset());
    assert_eq!((here.status(), here.epoch), (v1::DatasetStatus::Active, 2));
    assert_eq!(there.status(), v1::DatasetStatus::Moved);
    let counts = |held: &v1::DatasetRecord| {
        (
            held.objects,
            held.versions,
            held.legal_holds,
            held.compliance_until_ms,
        )
    };
    assert_eq!(counts(&here), counts(&there));
    for (key, current) in [("null", 5), ("parts", 7)] {
        assert_eq!(regions.destination.current_id(key), Some(version(current)));
    }
    assert_eq!(regions.destination.current_id("blocks"), None);
    let null = read::null_version(&regions.destination.state, &DATASET, "null");
    assert_eq!(
        null.map(|head| head.version_id),
        Some(Bytes::from(version(1)))
    );
    done(regions.destination.run(put_here()));
    let late = refused(regions.source.run(put_here()));
    assert_eq!(late.region, "de-fra");
}

#[test]
fn writes_of_before_and_after_the_listing_all_arrive() {
    let mut regions = Regions::new();
    furnish(&mut regions.source);
    regions.begin();
    let first = Command::PutObject(put("null", version(19)));
    done(regions.source.run(first));
    let mut n = 20;
    // One unit a page, and the source goes on all the while.
    while regions.list(1) {
        done(
            regions
                .source
                .run(Command::PutObject(put("null", version(n)))),
        );
        done(regions.source.run(Command::DeleteObject(delete_version(
            "null",
            version(n - 1),
        ))));
        n += 1;
        if n > 40 {
            while regions.list(3) {}
            break;
        }
    }
    done(regions.destination.run(plain(ArrivalStep::CatchUp)));
    while regions.follow(2) {}
    regions.cross();
    done(regions.destination.run(plain(ArrivalStep::Verify)));
    done(
        regions
            .source
            .run(Command::PutObject(put("last", version(99)))),
    );
    regions.stop(0);
    regions.cut_over();
    assert_eq!(regions.destination.current_id("last"), Some(version(99)));
}

#[test]
fn a_retry_of_what_ran_before_the_move_is_answered_and_not_run() {
    let mut regions = verifying();
    let command = regions
        .source
        .command(Command::PutObject(put("r", version(50))));
    let answer = regions.source.apply(command.clone());
    let refused = regions.source.command(Command::DeleteObject(delete_version(
        "nothing",
        version(77),
    )));
    let no = regions.source.apply(refused.clone());
    regions.stop(0);
    // Before it serves it says nothing, not even that.
    let early = regions.destination.apply(command.clone());
    assert_eq!(reason(early), Refusal::DatasetArriving);
    regions.cut_over();
    assert_eq!(regions.destination.apply(command.clone()), answer);
    assert_eq!(regions.destination.apply(refused), no);
    let other = v1::ShardCommand {
        command: Some(Command::PutObject(put("r", version(51)))),
        ..command
    };
    assert_eq!(
        reason(regions.destination.apply(other)),
        Refusal::RequestIdReused
    );
}

/// An id that the source has forgotten must not look fresh here, whatever the two counters are.
#[test]
fn an_id_too_old_for_the_source_is_too_old_here() {
    for (behind, ahead) in [(0, 200), (200, 0), (3, 3)] {
        let mut regions = Regions::new();
        let old = regions
            .source
            .command(Command::PutObject(put("a", version(1))));
        done(regions.source.apply(old.clone()));
        regions.source.advance_epochs(EPOCHS_KEPT + 1 + ahead);
        regions.destination.advance_epochs(behind);
        regions.source.now_ms = 2000;
        done(regions.source.run(Command::DeleteObject(delete("a"))));
        regions.source.sweep_all();
        regions.begin();
        regions.fill();
        regions.stop(0);
        regions.cut_over();
        for _ in 0..=EPOCHS_KEPT {
            let again = reason(regions.destination.apply(old.clone()));
            assert_eq!(again, Refusal::RequestTooOld);
            regions.destination.advance_epoch();
        }
        // Ids that are minted as answers say are taken, and have effect once.
        let offset = regions.destination.dataset().request_offset;
        let epoch = regions.destination.meta().upload_epoch.0 + offset;
        let id = regions.destination.fresh_id();
        assert_eq!(id.epoch.0, epoch);
        let mut fresh = regions
            .destination
            .command(Command::DeleteObject(delete("nothing")));
        fresh.request_id = Bytes::copy_from_slice(&id.to_bytes());
        let first = regions.destination.apply(fresh.clone());
        assert_eq!(reason(first.clone()), Refusal::NoSuchObject);
        assert_eq!(regions.destination.apply(fresh), first);
    }
}

#[test]
fn what_the_arrival_needed_goes_and_request_ids_stay_for_their_window() {
    use crate::keys::{self, table};
    let mut regions = moved();
    let rows = |regions: &Regions, of| {
        let (start, end) = keys::range(of, &[]);
        let mut count = 0;
        proto::store::Reader::scan(&regions.destination.state, &start, &end, &mut |_, _| {
            count += 1;
            true
        });
        count
    };
    regions.destination.sweep_all();
    assert_eq!(rows(&regions, table::KNOWN), 0);
    let crossed = rows(&regions, table::CROSSED);
    assert!(crossed > 0);
    regions.destination.advance_epochs(EPOCHS_KEPT);
    regions.destination.sweep_all();
    assert_eq!(rows(&regions, table::CROSSED), crossed);
    // Until then the ids that came here are in no index: the dataset stays.
    let next = crate::shard::fixture::regions::begin(0);
    let early = refused(regions.destination.run(next.clone()));
    assert_eq!(early.reason(), Refusal::RequestsNotIndexed);
    regions.destination.advance_epoch();
    regions.destination.sweep_all();
    assert_eq!(rows(&regions, table::CROSSED), 0);
    done(regions.destination.run(next));
}

#[test]
fn no_cutover_of_anything_but_all() {
    let mut regions = fenced();
    let total = regions.destination.dataset().versions;
    let compared = |regions: &Regions, change: fn(&mut v1::Compared)| {
        with(regions.compared(), |arrive| {
            let Some(Step::Compared(compared)) = &mut arrive.step else {
                unreachable!("a comparison");
            };
            change(compared);
        })
    };
    assert!(total > 1);
    type Change = fn(&mut v1::Compared);
    let cases: [(Change, Refusal); 6] = [
        (|c| c.equal -= 1, Refusal::NotEqual),
        (|c| c.root = Bytes::from_static(&[1; 32]), Refusal::NotEqual),
        (|c| c.root = Bytes::new(), Refusal::Malformed),
        (
            |c| (c.equal, c.total) = (c.equal - 1, c.total - 1),
            Refusal::Malformed,
        ),
        (|c| c.fence -= 1, Refusal::FenceOver),
        (|c| c.at += 1000, Refusal::Malformed),
    ];
    for (change, expected) in cases {
        let asked = compared(&regions, change);
        assert_eq!(refuses(&mut regions, asked), expected);
    }
    let left = parts::create_upload("left", version(70));
    done(regions.destination.run(Command::CreateUpload(left)));
    let asked = regions.compared();
    assert_eq!(refuses(&mut regions, asked), Refusal::NotEqual);
    let abort = parts::abort("left", version(70));
    done(regions.destination.run(abort));
    let before = compared(&regions, |c| c.at = 1);
    assert_eq!(refuses(&mut regions, before), Refusal::ComparedBefore);
    assert!(!regions.arrival().equal);
    // Nor one whose releases are not stated, or that nobody found equal.
    let moved = arrive(Step::Moved(regions.moved()));
    assert_eq!(refuses(&mut regions, moved.clone()), Refusal::OutOfOrder);
    let asked = regions.compared();
    done(regions.destination.run(asked));
    assert_eq!(refuses(&mut regions, moved), Refusal::OutOfOrder);
}

#[test]
fn what_is_left_at_the_fence_is_waited_for() {
    let mut regions = verifying();
    done(
        regions
            .source
            .run(Command::PutObject(put("late", version(60)))),
    );
    done(regions.source.run(crate::shard::fixture::regions::fence(0)));
    let fenced = regions.fenced();
    done(regions.destination.run(fenced));
    let asked = regions.compared();
    assert_eq!(refuses(&mut regions, asked), Refusal::Behind);
    while regions.follow(1) {}
    // Changes are here; the id of the last put is not.
    let asked = regions.compared();
    assert_eq!(refuses(&mut regions, asked), Refusal::Behind);
    regions.cross();
    let asked = regions.compared();
    done(regions.destination.run(asked));
}

#[test]
fn a_reverted_fence_lets_both_go_on_and_its_word_stops_nothing_again() {
    let mut regions = fenced();
    let asked = regions.compared();
    done(regions.destination.run(asked));
    let fence = regions.arrival().fence.expect("it stands").fence;
    let word = regions.fenced();
    done(regions.source.run(depart(v1::depart::Step::Revert(fence))));
    done(regions.destination.run(arrive(Step::Reverted(fence))));
    assert_eq!(phase(&regions), ArrivalPhase::CatchUp);
    done(
        regions
            .source
            .run(Command::PutObject(put("more", version(61)))),
    );
    while regions.follow(10) {}
    done(regions.destination.run(plain(ArrivalStep::Verify)));
    assert_eq!(refuses(&mut regions, word), Refusal::FenceOver);
    regions.stop(1);
    regions.cut_over();
    assert_eq!(regions.destination.current_id("more"), Some(version(61)));
}

#[test]
fn the_word_of_a_few_of_an_old_descriptor_or_of_another_relocation_counts_for_nothing() {
    let mut regions = fenced();
    let paused = |regions: &Regions| regions.paused();
    let few = with(paused(&regions), |arrive| {
        arrive.vouch = vouch().map(|vouch| v1::Vouch {
            signers: vec![2],
            ..vouch
        });
    });
    assert_eq!(refuses(&mut regions, few), Refusal::NoMajority);
    let old = with(paused(&regions), |arrive| {
        arrive.vouch = vouch().map(|vouch| v1::Vouch {
            descriptor_version: 0,
            ..vouch
        });
    });
    let refused = refused(regions.destination.run(old));
    assert_eq!(refused.reason(), Refusal::DescriptorOld);
    assert_eq!(refused.moved_to, 1);
    let other = with(paused(&regions), |arrive| {
        arrive.relocation_id = Bytes::from_static(&[1; 16]);
    });
    assert_eq!(refuses(&mut regions, other), Refusal::NotUnderWay);
    assert_eq!(regions.arrival().released, None);
}

#[test]
fn preparing_forcing_and_shredding_take_two_people_besides_who_asks() {
    let alone = |command| {
        with(command, |arrive| {
            let one = approvals().expect("it is some");
            arrive.approvals = Some(v1::Approvals {
                approvers: one.approvers[..1].to_vec(),
                ..one
            });
        })
    };
    let mut regions = Regions::new();
    let plan = regions.plan();
    done(regions.destination.run(plan));
    assert_eq!(
        reason(regions.destination.run(alone(prepare()))),
        Refusal::TooFewApprovals
    );
    let mut regions = fenced();
    let force = plain(ArrivalStep::Force);
    assert_eq!(
        refuses(&mut regions, alone(force)),
        Refusal::TooFewApprovals
    );
    regions.cut_over();
    done(regions.destination.run(arrive(Step::HoldUntilMs(2000))));
    let shred = arrive(Step::Shred(v1::Shred::default()));
    assert_eq!(
        refuses(&mut regions, alone(shred)),
        Refusal::TooFewApprovals
    );
}

#[test]
fn forced_open_it_serves_and_waits_for_the_sources_word_before_it_shreds() {
    let mut regions = fenced();
    let force = || plain(ArrivalStep::Force);
    assert_eq!(refuses(&mut regions, force()), Refusal::OutOfOrder);
    let asked = regions.compared();
    done(regions.destination.run(asked));
    let asked = regions.paused();
    done(regions.destination.run(asked));
    let moved = regions.moved();
    done(regions.destination.run(force()));
    assert_eq!(regions.arrival().opened(), v1::Opened::ByForce);
    done(
        regions
            .destination
            .run(Command::PutObject(put("new", version(90)))),
    );
    done(regions.destination.run(arrive(Step::HoldUntilMs(1000))));
    let shred = || arrive(Step::Shred(v1::Shred::default()));
    assert_eq!(refuses(&mut regions, shred()), Refusal::SourceNotMoved);
    done(
        regions
            .source
            .run(depart(v1::depart::Step::Superseded(moved.clone()))),
    );
    let standing = Authority::stored(&regions.source.dataset()).standing();
    assert!(matches!(standing, Standing::Moved(_)));
    done(regions.destination.run(arrive(Step::Moved(moved))));
    assert_eq!(regions.arrival().opened(), v1::Opened::ByForceThenMoved);
    done(regions.destination.run(shred()));
}

#[test]
fn keys_are_asked_to_end_after_the_hold_by_time_and_witness() {
    let mut regions = moved();
    let until = 5000;
    let early = arrive(Step::HoldUntilMs(1));
    assert_eq!(refuses(&mut regions, early), Refusal::Malformed);
    done(regions.destination.run(arrive(Step::HoldUntilMs(until))));
    let shred = |witnessed_ms| arrive(Step::Shred(v1::Shred { witnessed_ms }));
    let held = refused(regions.destination.run(shred(0)));
    assert_eq!(
        (held.reason(), held.moved_to),
        (Refusal::HoldNotOver, until)
    );
    regions.destination.now_ms = until;
    assert_eq!(
        refuses(&mut regions, shred(until - 1)),
        Refusal::HoldNotOver
    );
    done(regions.destination.run(shred(until)));
    done(regions.destination.run(plain(ArrivalStep::Shredded)));
    assert_eq!(phase(&regions), ArrivalPhase::Shred);
    done(regions.destination.run(plain(ArrivalStep::HandOverEnded)));
    assert_eq!(phase(&regions), ArrivalPhase::Certified);
    // A new relocation may follow; this one never begins again.
    let plan = regions.plan();
    assert_eq!(refuses(&mut regions, plan), Refusal::OutOfOrder);
}

#[test]
fn an_abort_empties_it_in_bounded_steps_and_ends_when_all_have_spoken() {
    let mut regions = Regions::new();
    for n in 0..40 {
        let key = format!("k{n:02}");
        done(
            regions
                .source
                .run(Command::FinishObject(finish(&key, version(n), &[1, 2]))),
        );
    }
    regions.begin();
    regions.fill();
    assert_eq!(regions.destination.dataset().versions, 40);
    done(regions.destination.run(plain(ArrivalStep::Abort)));
    assert!(
        regions.destination.dataset().versions > 20,
        "a few a command"
    );
    assert_eq!(
        reason(
            regions
                .destination
                .run(Command::PutObject(put("k", version(90))))
        ),
        Refusal::DatasetGone
    );
    for (step, then) in [
        (plain(ArrivalStep::Ended), ArrivalPhase::Aborting),
        (plain(ArrivalStep::HandOverEnded), ArrivalPhase::Aborting),
        (
            arrive(Step::Closed(v1::ReleasedRecord {
                objects: 40,
                leaves: 9,
            })),
            ArrivalPhase::Aborted,
        ),
    ] {
        done(regions.destination.run(step));
        assert_eq!(phase(&regions), then);
    }
    assert_eq!(
        regions.arrival().released.map(|held| held.objects),
        Some(40)
    );
    // The next one waits until nothing is left of it, and finds the same ids free once nodes have unlinked the blocks.
    let next = |command| {
        with(command, |arrive| {
            arrive.relocation_id = Bytes::from_static(&[0x7F; 16]);
        })
    };
    let plan = regions.plan();
    assert_eq!(
        refuses(&mut regions, next(plan.clone())),
        Refusal::DatasetExists
    );
    regions.destination.sweep_all();
    assert_eq!(regions.destination.dataset().versions, 0);
    done(regions.destination.run(next(plan)));
    done(regions.destination.run(next(prepare())));
    let again = prepare();
    assert_eq!(refuses(&mut regions, again), Refusal::NotUnderWay);
}

#[test]
fn an_abort_under_a_fence_waits_for_what_the_source_says() {
    let mut regions = fenced();
    done(regions.destination.run(plain(ArrivalStep::Abort)));
    assert!(regions.arrival().aborting);
    let fence = regions.arrival().fence.expect("it stands").fence;
    done(regions.source.run(depart(v1::depart::Step::Revert(fence))));
    done(regions.destination.run(arrive(Step::Reverted(fence))));
    assert_eq!(phase(&regions), ArrivalPhase::Aborting);
}

#[test]
fn a_dataset_comes_home_as_it_went() {
    let mut regions = moved();
    let finish = depart(v1::depart::Step::Finish(true));
    done(regions.source.run(finish));
    let back = |epoch| {
        arrive(Step::Plan(v1::ArrivalTerms {
            source: "de-fra".to_owned(),
            destination: "ch-zrh".to_owned(),
            epoch,
            from_version: 0,
        }))
    };
    assert_eq!(
        reason(regions.source.run(back(2))),
        Refusal::DatasetExists,
        "what was here is still being removed"
    );
    regions.source.sweep_all();
    // In the epoch it left in it is nobody's.
    assert_eq!(reason(regions.source.run(back(1))), Refusal::DatasetGone);
    done(regions.source.run(back(2)));
    let Command::Arrive(mut made) = prepare() else {
        unreachable!("no arrival");
    };
    let Some(Step::Prepare(v1::PrepareArrival {
        dataset: Some(dataset),
        ..
    })) = &mut made.step
    else {
        unreachable!("it prepares");
    };
    dataset.epoch = 2;
    done(regions.source.run(Command::Arrive(made)));
    assert_eq!(
        regions.source.dataset().status(),
        v1::DatasetStatus::Arriving
    );
}

#[test]
fn an_arrival_is_of_no_dataset_that_is_here_and_of_one_epoch() {
    let mut regions = Regions::new();
    let plan = regions.plan();
    done(regions.destination.run(create(DATASET, "cti")));
    assert_eq!(refuses(&mut regions, plan), Refusal::DatasetExists);
    let mut regions = Regions::new();
    let plan = regions.plan();
    done(regions.destination.run(plan.clone()));
    done(regions.destination.run(plan));
    let bad: [fn(&mut v1::DatasetRecord); 3] = [
        |d| d.epoch = 2,
        |d| d.kek_id = Bytes::new(),
        |d| d.dataset_id = Bytes::from_static(&[1; 16]),
    ];
    for change in bad {
        let asked = with(prepare(), |arrive| {
            if let Some(Step::Prepare(prepare)) = &mut arrive.step {
                change(prepare.dataset.as_mut().expect("it has one"));
            }
        });
        assert_eq!(reason(regions.destination.run(asked)), Refusal::Malformed);
    }
    done(regions.destination.run(prepare()));
    let drop = Command::TombstoneDataset(v1::TombstoneDataset {
        dataset_id: DATASET.into(),
        force: true,
    });
    assert_eq!(refuses(&mut regions, drop), Refusal::DatasetArriving);
    let made = create(DATASET, "cti");
    assert_eq!(refuses(&mut regions, made), Refusal::DatasetExists);
    // The key that DEKs were granted for is the one that was made.
    let copy = arrive(Step::Copy(v1::BeginCopy {
        base: 1,
        hand_over_key_id: Bytes::from_static(&[1; 16]),
        granted: vouch(),
    }));
    assert_eq!(refuses(&mut regions, copy), Refusal::OtherHandOverKey);
    // Its key may be disabled here before it serves.
    let disable = Command::SetKeyState(v1::SetKeyState {
        dataset_id: DATASET.into(),
        state: v1::KeyState::Disabled.into(),
        version: 2,
        min_kek_version: 1,
    });
    done(regions.destination.run(disable));
    assert_eq!(regions.destination.dataset().kek_id, KEK[..]);
}

#[test]
fn below_its_level_it_is_unknown_and_its_bytes_are_fixed() {
    let regions = fenced();
    let steps = || {
        vec![
            regions.plan(),
            prepare(),
            arrive(Step::Copy(v1::BeginCopy {
                base: 4,
                hand_over_key_id: Bytes::from_static(&[7; 16]),
                granted: vouch(),
            })),
            arrive(Step::CopyAgain(9)),
            arrive(Step::Reverted(9)),
            arrive(Step::Closed(v1::ReleasedRecord {
                objects: 1,
                leaves: 2,
            })),
            arrive(Step::HoldUntilMs(9)),
            arrive(Step::Shred(v1::Shred { witnessed_ms: 3 })),
            plain(ArrivalStep::Abort),
        ]
    };
    for kind in steps() {
        let mut shard = regions.destination.clone();
        let bytes = prost::Message::encode_to_vec(&shard.command(kind));
        shard.level = FeatureLevel(RELOCATION_LEVEL.0 - 1);
        assert!(shard.apply_bytes(bytes.into()).is_err());
    }
    assert_eq!(
        hashes(steps()),
        [
            "a8a14cc7045c19e3",
            "4c0c1e9ae8dcafca",
            "9d26a416641bd443",
            "b7dbe969b6429888",
            "980aa1ad521d0876",
            "1c22a4f380fee3ef",
            "4d72698d3e3ea45e",
            "e2829e0fdfbf476e",
            "257832a9e0575522"
        ]
    );
}
