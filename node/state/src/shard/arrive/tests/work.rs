//! The pace of an arrival, and who moves it.

use super::*;
use crate::limits::HOLD_MS_MAX;
use crate::shard::{MOVER_LEVEL, PACE_LEVEL};

fn at_level(mut regions: Regions) -> Regions {
    regions.destination.level = MOVER_LEVEL;
    regions
}

fn planned() -> Regions {
    let mut regions = at_level(Regions::new());
    let plan = regions.plan();
    done(regions.destination.run(plan));
    regions
}

fn prepared() -> Regions {
    let mut regions = planned();
    done(regions.destination.run(prepare()));
    regions
}

fn claim(mover: &str, for_ms: u32) -> v1::ClaimArrival {
    v1::ClaimArrival {
        mover: mover.to_owned(),
        for_ms,
        report: None,
    }
}

fn claims(mover: &str, for_ms: u32) -> Command {
    arrive(Step::Claim(claim(mover, for_ms)))
}

fn paces(pace: v1::ArrivalPace) -> Command {
    arrive(Step::Pace(pace))
}

fn reports(mover: &str, report: v1::MoverReport) -> Command {
    arrive(Step::Claim(v1::ClaimArrival {
        report: Some(report),
        ..claim(mover, 1_000)
    }))
}

fn mover(regions: &Regions) -> v1::MoverClaim {
    regions.arrival().mover.expect("it was claimed")
}

fn slow() -> v1::ArrivalPace {
    v1::ArrivalPace {
        paused: true,
        bytes_per_s: 1 << 20,
        cutover: true,
        pause_ms: 100,
        hold_ms: 86_400_000,
        version: 0,
    }
}

#[test]
fn a_claim_keeps_others_out_until_it_ends_or_is_given_up() {
    let mut regions = prepared();
    let now = regions.destination.now_ms;
    done(regions.destination.run(claims("g1", 30_000)));
    regions.destination.now_ms = now + 29_999;
    let told = refused(regions.destination.run(claims("g2", 30_000)));
    assert_eq!(
        (told.reason(), told.moved_to),
        (Refusal::MoverAtWork, now + 30_000)
    );
    // Nor may another give it up.
    let given_up = refused(regions.destination.run(claims("g2", 0)));
    assert_eq!(given_up.reason(), Refusal::MoverAtWork);
    done(regions.destination.run(claims("g1", 30_000)));
    assert_eq!(mover(&regions).until_ms, now + 59_999);
    regions.destination.now_ms = now + 59_999;
    done(regions.destination.run(claims("g2", 60_000)));
    assert_eq!(mover(&regions).mover, "g2");
    done(regions.destination.run(claims("g2", 0)));
    done(regions.destination.run(claims("g3", 1)));
    assert_eq!(mover(&regions).mover, "g3");
}

#[test]
fn totals_of_a_relocation_never_go_down_and_the_rest_is_the_newest() {
    let mut regions = prepared();
    let first = v1::MoverReport {
        moved_bytes: 900,
        failures: 2,
        failure: "too-few-words".to_owned(),
        compared: 7,
        source_index: 40,
        ..Default::default()
    };
    done(regions.destination.run(reports("g1", first.clone())));
    assert_eq!(mover(&regions).report, Some(first));
    let second = v1::MoverReport {
        moved_bytes: 500,
        failures: 3,
        compared: 1,
        ..Default::default()
    };
    done(regions.destination.run(reports("g1", second.clone())));
    let kept = v1::MoverReport {
        moved_bytes: 900,
        ..second
    };
    assert_eq!(mover(&regions).report, Some(kept.clone()));
    // Who says nothing takes nothing back, whoever it is.
    done(regions.destination.run(claims("g1", 0)));
    done(regions.destination.run(claims("g2", 5)));
    assert_eq!(mover(&regions).report, Some(kept));
}

#[test]
fn neither_pace_nor_claim_changes_what_the_arrival_decides() {
    let mut regions = at_level(fenced());
    let before = regions.arrival();
    done(regions.destination.run(paces(slow())));
    done(regions.destination.run(claims("g1", 60_000)));
    let after = regions.arrival();
    assert_eq!(
        (after.pace, mover(&regions).mover),
        (Some(slow()), "g1".to_owned())
    );
    let as_it_was = v1::ArrivalRecord {
        pace: None,
        mover: None,
        ..after.clone()
    };
    assert_eq!(as_it_was, before);
    // What is done to the arrival leaves them as they are.
    regions.cut_over();
    let moved = regions.arrival();
    assert_eq!((moved.pace, moved.mover), (after.pace, after.mover));
    assert_eq!(
        regions.destination.dataset().status(),
        v1::DatasetStatus::Active
    );
}

#[test]
fn a_pace_is_taken_over_whole() {
    let mut regions = planned();
    done(regions.destination.run(paces(slow())));
    assert_eq!(regions.arrival().pace, Some(slow()));
    let other = v1::ArrivalPace {
        pause_ms: 5_000,
        ..Default::default()
    };
    done(regions.destination.run(paces(other)));
    assert_eq!(regions.arrival().pace, Some(other));
    let none = v1::ArrivalPace::default();
    done(regions.destination.run(paces(none)));
    assert_eq!(regions.arrival().pace, Some(none));
}

/// One pauses and another throttles, each by what both have read.
#[test]
fn a_pace_that_was_decided_on_another_one_is_refused_and_takes_nothing_back() {
    let mut regions = planned();
    regions.destination.level = PACE_LEVEL;
    let read = v1::ArrivalPace::default();
    let throttled = v1::ArrivalPace {
        bytes_per_s: 1 << 20,
        ..read
    };
    let paused = |read: v1::ArrivalPace| v1::ArrivalPace {
        paused: true,
        ..read
    };
    done(regions.destination.run(paces(throttled)));
    let told = refused(regions.destination.run(paces(paused(read))));
    assert_eq!((told.reason(), told.moved_to), (Refusal::PaceMoved, 1));
    let read = regions.arrival().pace.expect("throttled");
    let first = v1::ArrivalPace {
        version: 1,
        ..throttled
    };
    assert_eq!(read, first);
    done(regions.destination.run(paces(paused(read))));
    let both = v1::ArrivalPace {
        version: 2,
        paused: true,
        ..throttled
    };
    assert_eq!(regions.arrival().pace, Some(both));
    // Nor one that claims to know what nobody has said yet.
    let ahead = v1::ArrivalPace { version: 3, ..both };
    assert_eq!(refuses(&mut regions, paces(ahead)), Refusal::PaceMoved);
    assert_eq!(regions.arrival().pace, Some(both));
}

/// A build that does not know the field stores none.
#[test]
fn below_its_level_a_pace_has_no_version_whatever_it_says() {
    let mut regions = planned();
    for version in [7, 0, u64::MAX] {
        let asked = v1::ArrivalPace { version, ..slow() };
        done(regions.destination.run(paces(asked)));
        assert_eq!(regions.arrival().pace, Some(slow()));
    }
    regions.destination.level = PACE_LEVEL;
    done(regions.destination.run(paces(slow())));
    assert_eq!(regions.arrival().pace.expect("it has one").version, 1);
}

#[test]
fn a_hold_is_at_most_thirty_days_and_a_longer_one_of_before_may_be_paused_and_shortened() {
    let held_for = |hold_ms, version| v1::ArrivalPace {
        hold_ms,
        version,
        ..Default::default()
    };
    let mut regions = planned();
    done(regions.destination.run(paces(held_for(u64::MAX, 0))));
    regions.destination.level = PACE_LEVEL;
    let paused = v1::ArrivalPace {
        paused: true,
        ..held_for(u64::MAX, 0)
    };
    done(regions.destination.run(paces(paused)));
    let longer = paces(held_for(HOLD_MS_MAX + 1, 1));
    assert_eq!(refuses(&mut regions, longer.clone()), Refusal::Malformed);
    done(regions.destination.run(paces(held_for(HOLD_MS_MAX, 1))));
    assert_eq!(refuses(&mut regions, longer), Refusal::PaceMoved);
    let longer = paces(held_for(u64::MAX, 2));
    assert_eq!(refuses(&mut regions, longer), Refusal::Malformed);
}

#[test]
fn a_hold_that_has_begun_is_as_long_as_it_was_said() {
    let until = |ms| arrive(Step::HoldUntilMs(ms));
    let held_for = |hold_ms, version| v1::ArrivalPace {
        hold_ms,
        version,
        ..Default::default()
    };
    let mut regions = moved();
    regions.destination.level = PACE_LEVEL;
    let longest = regions.destination.now_ms + HOLD_MS_MAX;
    assert_eq!(
        refuses(&mut regions, until(longest + 1)),
        Refusal::Malformed
    );
    assert_eq!(refuses(&mut regions, until(u64::MAX)), Refusal::Malformed);
    done(regions.destination.run(paces(held_for(5_000, 0))));
    done(regions.destination.run(until(longest)));
    for hold_ms in [0, 4_999, 5_001] {
        let changed = paces(held_for(hold_ms, 1));
        assert_eq!(refuses(&mut regions, changed), Refusal::OutOfOrder);
    }
    let paused = v1::ArrivalPace {
        paused: true,
        ..held_for(5_000, 1)
    };
    done(regions.destination.run(paces(paused)));
}

#[test]
fn what_is_out_of_bounds_is_malformed() {
    let mut regions = prepared();
    for pause_ms in [1, 99, 5_001, u32::MAX] {
        let pace = v1::ArrivalPace {
            pause_ms,
            ..Default::default()
        };
        assert_eq!(refuses(&mut regions, paces(pace)), Refusal::Malformed);
    }
    let failed = |failure: String| {
        let report = v1::MoverReport {
            failure,
            ..Default::default()
        };
        reports("g1", report)
    };
    for bad in [
        claims("", 1),
        claims(&"g".repeat(257), 1),
        claims("g1", 60_001),
        failed("f".repeat(65)),
    ] {
        assert_eq!(refuses(&mut regions, bad), Refusal::Malformed);
    }
    assert_eq!(
        (regions.arrival().pace, regions.arrival().mover),
        (None, None)
    );
    done(regions.destination.run(failed("f".repeat(64))));
    done(regions.destination.run(claims("g1", 60_000)));
}

/// Nobody moves a plan, and nothing is left to do once it has ended.
#[test]
fn it_is_claimed_from_its_keys_on_and_neither_is_taken_once_it_has_ended() {
    let mut regions = planned();
    assert_eq!(refuses(&mut regions, claims("g1", 1)), Refusal::OutOfOrder);
    done(regions.destination.run(prepare()));
    done(regions.destination.run(claims("g1", 1)));
    done(regions.destination.run(paces(slow())));
    done(regions.destination.run(plain(ArrivalStep::Abort)));
    done(regions.destination.run(claims("g1", 2)));
    done(regions.destination.run(paces(slow())));
    for step in [
        plain(ArrivalStep::Ended),
        plain(ArrivalStep::HandOverEnded),
        arrive(Step::Closed(v1::ReleasedRecord::default())),
    ] {
        done(regions.destination.run(step));
    }
    assert_eq!(phase(&regions), ArrivalPhase::Aborted);
    assert_eq!(refuses(&mut regions, claims("g1", 1)), Refusal::OutOfOrder);
    assert_eq!(refuses(&mut regions, paces(slow())), Refusal::OutOfOrder);
    assert_eq!(regions.arrival().pace, Some(slow()));
    // The next relocation of the dataset begins with neither.
    regions.destination.sweep_all();
    let plan = with(regions.plan(), |arrive| {
        arrive.relocation_id = Bytes::from_static(&[0x7F; 16]);
    });
    done(regions.destination.run(plan));
    assert_eq!(
        (regions.arrival().pace, regions.arrival().mover),
        (None, None)
    );
}

#[test]
fn below_its_level_the_work_is_unknown_and_its_bytes_are_fixed() {
    let regions = prepared();
    let report = v1::MoverReport {
        source_versions: 1,
        source_bytes: 2,
        source_index: 3,
        changes_behind: 4,
        compared: 5,
        moved_bytes: 6,
        failures: 7,
        failure: "too-few-words".to_owned(),
        pause_ms: 8,
    };
    let steps = || vec![paces(slow()), reports("g1", report.clone())];
    for kind in steps() {
        let mut shard = regions.destination.clone();
        let bytes = prost::Message::encode_to_vec(&shard.command(kind));
        shard.level = FeatureLevel(MOVER_LEVEL.0 - 1);
        assert!(shard.apply_bytes(bytes.into()).is_err());
    }
    assert_eq!(hashes(steps()), ["bc18b2287b8d555e", "1830a292acf1ce2e"]);
    let versioned = v1::ArrivalPace {
        version: 9,
        ..slow()
    };
    assert_eq!(hashes(vec![paces(versioned)]), ["02f4c1b03f311daa"]);
}
