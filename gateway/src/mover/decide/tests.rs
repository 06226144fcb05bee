//! What a mover does in each phase, by what each side says.

use bytes::Bytes;

use super::*;

const RELOCATION: Bytes = Bytes::from_static(&[7; 16]);
const FENCE: u64 = 90;

fn record(phase: ArrivalPhase) -> v1::ArrivalRecord {
    v1::ArrivalRecord {
        relocation_id: RELOCATION,
        phase: phase.into(),
        terms: Some(v1::ArrivalTerms {
            epoch: 3,
            from_version: 2,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn here(record: v1::ArrivalRecord) -> v1::ArrivalStatus {
    v1::ArrivalStatus {
        arrival: Some(record),
        dataset: Some(v1::DatasetRecord {
            versions: 5,
            ..Default::default()
        }),
        time_ms: 1_000,
        ..Default::default()
    }
}

fn there(standing: Standing, fence: u64) -> v1::DepartureStatus {
    let authority = v1::AuthorityRecord {
        standing: standing.into(),
        fence,
        departure: Some(v1::Departure {
            relocation_id: RELOCATION,
            fences: 4,
            ..Default::default()
        }),
        ..Default::default()
    };
    v1::DepartureStatus {
        dataset: Some(v1::DatasetRecord {
            authority: Some(authority),
            ..Default::default()
        }),
        at_index: 200,
        ..Default::default()
    }
}

fn paced(mut record: v1::ArrivalRecord, pace: v1::ArrivalPace) -> v1::ArrivalRecord {
    record.pace = Some(pace);
    record
}

fn cutting_over() -> v1::ArrivalPace {
    v1::ArrivalPace {
        cutover: true,
        hold_ms: 50_000,
        ..Default::default()
    }
}

/// All is here and compared.
fn ready<'a>(here: &'a v1::ArrivalStatus, there: &'a v1::DepartureStatus) -> Seen<'a> {
    Seen {
        here,
        there: There::Known(there),
        compared: 5,
        caught_up: true,
        settled: true,
        overrun: false,
        rests: false,
    }
}

/// Nothing was done yet.
fn begun<'a>(here: &'a v1::ArrivalStatus, there: There<'a>) -> Seen<'a> {
    Seen {
        here,
        there,
        compared: 0,
        caught_up: false,
        settled: false,
        overrun: false,
        rests: false,
    }
}

#[test]
fn every_phase_has_its_step() {
    let active = there(Standing::Active, 0);
    let known = There::Known(&active);
    let ending = Next::End(Ending {
        ask: Some(2),
        shard: true,
        keys: true,
        hand_over_key: true,
    });
    let steps = [
        (ArrivalPhase::Plan, Next::Wait("planned"), false),
        (ArrivalPhase::Prepared, Next::Copy, true),
        (ArrivalPhase::Copying, Next::List, true),
        (ArrivalPhase::CatchUp, Next::Follow, true),
        (ArrivalPhase::Verifying, Next::Follow, true),
        (ArrivalPhase::Fenced, Next::HearReverted(0), true),
        (ArrivalPhase::Cutover, Next::Hold(11_000), true),
        (ArrivalPhase::Hold, Next::Over, false),
        (ArrivalPhase::Shred, Next::Over, false),
        (ArrivalPhase::Certified, Next::Over, false),
        (ArrivalPhase::Aborting, ending, true),
        (ArrivalPhase::Aborted, Next::Over, false),
    ];
    for (phase, expected, movers) in steps {
        let here = here(record(phase));
        assert_eq!(next(&begun(&here, known)), expected, "{phase:?}");
        assert_eq!(is_for_movers(&here), movers, "{phase:?}");
    }
}

#[test]
fn a_listing_ends_in_catching_up_and_that_in_verifying() {
    let active = there(Standing::Active, 0);
    let mut listed = record(ArrivalPhase::Copying);
    listed.image = Some(v1::ImageRecord {
        listed: Some(v1::Place {
            end: true,
            ..Default::default()
        }),
        ..Default::default()
    });
    let listed = here(listed);
    assert_eq!(next(&begun(&listed, There::Known(&active))), Next::CatchUp);
    let catching_up = here(record(ArrivalPhase::CatchUp));
    assert_eq!(next(&ready(&catching_up, &active)), Next::Verify);
    for phase in [ArrivalPhase::CatchUp, ArrivalPhase::Verifying] {
        let here = here(record(phase));
        let seen = Seen {
            overrun: true,
            ..ready(&here, &active)
        };
        assert_eq!(next(&seen), Next::CopyAgain(200), "{phase:?}");
    }
}

#[test]
fn writes_are_stopped_when_people_want_it_and_nothing_is_left() {
    let active = there(Standing::Active, 0);
    let unasked = here(record(ArrivalPhase::Verifying));
    assert_eq!(next(&ready(&unasked, &active)), Next::Follow);
    let asked = here(paced(record(ArrivalPhase::Verifying), cutting_over()));
    let fence = Next::Fence(v1::Fence {
        epoch: 3,
        from: 4,
        pause_ms: 5_000,
    });
    assert_eq!(next(&ready(&asked, &active)), fence);

    let seen = ready(&asked, &active);
    let not_yet = [
        Seen {
            compared: 4,
            ..seen
        },
        Seen {
            caught_up: false,
            ..seen
        },
        Seen {
            settled: false,
            ..seen
        },
        Seen {
            rests: true,
            ..seen
        },
    ];
    for seen in not_yet {
        assert_eq!(next(&seen), Next::Follow, "{seen:?}");
    }
    let behind = v1::DepartureStatus {
        changes: LEFT_MAX + 1,
        ..active.clone()
    };
    assert_eq!(next(&ready(&asked, &behind)), Next::Follow);
    let mut uploading = asked.clone();
    uploading.dataset.as_mut().expect("its counts").uploads = 1;
    assert_eq!(next(&ready(&uploading, &active)), Next::Follow);
}

#[test]
fn a_fence_is_gone_on_with_by_whoever_finds_it() {
    let fenced = there(Standing::Fenced, FENCE);
    let paused = v1::ArrivalPace {
        paused: true,
        ..Default::default()
    };
    let verifying = here(paced(record(ArrivalPhase::Verifying), paused));
    assert_eq!(next(&ready(&verifying, &fenced)), Next::GoOn(FENCE));
    let mut again = record(ArrivalPhase::Verifying);
    again.reverted = FENCE;
    let again = here(again);
    assert_eq!(next(&ready(&again, &fenced)), Next::Follow);

    let mut held = record(ArrivalPhase::Fenced);
    held.fence = Some(v1::ArrivalFence {
        fence: FENCE,
        ..Default::default()
    });
    let under = here(held.clone());
    assert_eq!(next(&ready(&under, &fenced)), Next::GoOn(FENCE));
    for over in [
        there(Standing::Active, 0),
        there(Standing::Fenced, FENCE + 1),
        there(Standing::Moved, 0),
    ] {
        assert_eq!(next(&ready(&under, &over)), Next::HearReverted(FENCE));
    }
    let mut moved = there(Standing::Moved, 0);
    let authority = moved.dataset.as_mut().and_then(|d| d.authority.as_mut());
    authority.expect("it has one").moved = Some(v1::MovedRecord {
        relocation_id: RELOCATION,
        ..Default::default()
    });
    assert_eq!(next(&ready(&under, &moved)), Next::HearMoved);

    held.aborting = true;
    let aborting = here(held);
    assert_eq!(next(&ready(&aborting, &fenced)), Next::Revert(FENCE));
    assert_eq!(next(&ready(&aborting, &moved)), Next::HearMoved);
}

#[test]
fn what_is_paused_waits_and_what_ended_there_ends_here() {
    let active = there(Standing::Active, 0);
    let paused = v1::ArrivalPace {
        paused: true,
        cutover: true,
        ..Default::default()
    };
    for phase in [
        ArrivalPhase::Prepared,
        ArrivalPhase::Copying,
        ArrivalPhase::CatchUp,
        ArrivalPhase::Verifying,
    ] {
        let here = here(paced(record(phase), paused));
        assert_eq!(
            next(&ready(&here, &active)),
            Next::Wait("paused"),
            "{phase:?}"
        );
    }
    for phase in [
        ArrivalPhase::Copying,
        ArrivalPhase::CatchUp,
        ArrivalPhase::Verifying,
        ArrivalPhase::Fenced,
    ] {
        let here = here(record(phase));
        let seen = begun(&here, There::NotUnderWay);
        assert_eq!(next(&seen), Next::HearEnded, "{phase:?}");
        assert!(needs_source(here.arrival.as_ref().expect("its record")));
    }
}

#[test]
fn ends_are_gone_through_whatever_part_is_left() {
    let mut aborting = record(ArrivalPhase::Aborting);
    aborting.ended = true;
    aborting.released = Some(v1::ReleasedRecord::default());
    let here_now = here(aborting);
    let left = Next::End(Ending {
        ask: None,
        shard: false,
        keys: false,
        hand_over_key: true,
    });
    assert_eq!(next(&begun(&here_now, There::NotUnderWay)), left);

    let held = here(paced(record(ArrivalPhase::Cutover), cutting_over()));
    assert_eq!(next(&begun(&held, There::Unasked)), Next::Hold(51_000));
    let mut forced = record(ArrivalPhase::Hold);
    forced.opened = Opened::ByForce.into();
    let forced = here(forced);
    assert!(is_for_movers(&forced));
    assert_eq!(next(&begun(&forced, There::Unasked)), Next::Supersede);
}

#[test]
fn a_claim_counts_while_it_lasts_and_is_anothers() {
    let mut claimed = record(ArrivalPhase::Copying);
    claimed.mover = Some(v1::MoverClaim {
        mover: "g1".to_owned(),
        until_ms: 1_001,
        report: None,
    });
    let mut status = here(claimed);
    assert!(is_claimed_by_another(&status, "g2"));
    assert!(!is_claimed_by_another(&status, "g1"));
    status.time_ms = 1_001;
    assert!(!is_claimed_by_another(&status, "g2"));
}
