//! Claims about region time.

use kms_state::prepare::{self, Asked};
use kms_state::{IDLE_JUMP_MS_MAX, JUMP_MS_MAX};
use proto::ids::UnixMs;
use proto::v1::KmsRefusal;
use tlog::Kind;

use crate::lab::{HOUR, Lab, START, approval, reason};

#[test]
fn time_never_goes_back_and_a_slow_clock_is_no_reason_to_refuse() {
    let mut lab = Lab::with_key();
    lab.now += 1_000;
    let first = lab.open(1).expect("granted");
    lab.record(first);
    lab.now -= 500_000;
    let second = lab.open(2).expect("granted");
    let answer = lab.record(second);
    assert_eq!(reason(&answer), KmsRefusal::Unspecified);
    assert_eq!(answer.time_ms, START + 1_000);
    assert_eq!(kms_state::region_time(&lab.state), UnixMs(START + 1_000));
}

#[test]
fn a_leader_alone_moves_time_by_a_minute_at_most() {
    let mut lab = Lab::with_key();
    lab.now += JUMP_MS_MAX + 1;
    let open = lab.open(1).expect("granted");
    let command = prepare::batch(lab.asked("kms/r1"), 1, vec![open.clone()]);
    assert_eq!(lab.refused(&command), (KmsRefusal::ClockJump, START));
    assert!(prepare::time_has_to_advance(&lab.state, UnixMs(lab.now)));
    lab.now -= 1;
    assert!(!prepare::time_has_to_advance(&lab.state, UnixMs(lab.now)));
    assert_eq!(lab.record(open).time_ms, START + JUMP_MS_MAX);
}

#[test]
fn after_a_quiet_hour_the_clocks_of_a_majority_let_the_first_command_in() {
    let mut lab = Lab::with_key();
    lab.now += HOUR;
    let clocks = [UnixMs(lab.now), UnixMs(lab.now + 40)];
    let command = prepare::advance_time(lab.asked("kms/r1"), &clocks);
    lab.done(&command);
    let open = lab.open(1).expect("granted");
    assert_eq!(reason(&lab.record(open)), KmsRefusal::Unspecified);
    let (leaf, shown) = lab.leaf(lab.size() - 2);
    assert_eq!(leaf.kind(), Kind::TimeAdvanced);
    assert!(shown.fields[&tlog::Field::Details].contains("\"clocks\":2"));
}

#[test]
fn a_tick_of_less_than_a_minute_is_no_event() {
    let mut lab = Lab::new();
    let size = lab.size();
    lab.wait(30_000);
    assert_eq!(lab.size(), size);
    assert_eq!(kms_state::region_time(&lab.state), UnixMs(START + 30_000));
}

#[test]
fn time_becomes_the_median_so_that_one_wrong_clock_moves_nothing() {
    for (clocks, expected) in [
        ([START + 10, START + 20, START + 99 * HOUR], START + 20),
        ([0, START + 20, START + 30], START + 20),
        ([0, 0, START + HOUR], START),
    ] {
        let mut lab = Lab::new();
        let command = prepare::advance_time(lab.asked("kms/r1"), &clocks.map(UnixMs));
        lab.done(&command);
        assert_eq!(kms_state::region_time(&lab.state), UnixMs(expected));
    }
    // Of two clocks the earlier: a pair with one wrong clock does not jump ahead.
    let mut lab = Lab::new();
    let clocks = [UnixMs(START + 99 * HOUR), UnixMs(START + 5)];
    let command = prepare::advance_time(lab.asked("kms/r1"), &clocks);
    lab.done(&command);
    assert_eq!(kms_state::region_time(&lab.state), UnixMs(START + 5));
}

#[test]
fn a_minority_or_more_clocks_than_voters_move_nothing() {
    let mut lab = Lab::new();
    for count in [0, 1, 4] {
        let clocks = vec![UnixMs(START + 10); count];
        let command = prepare::advance_time(lab.asked("kms/r1"), &clocks);
        assert_eq!(lab.refused(&command).0, KmsRefusal::Malformed, "{count}");
    }
}

#[test]
fn more_than_a_day_takes_dual_control() {
    let mut lab = Lab::new();
    let clocks = [UnixMs(START + IDLE_JUMP_MS_MAX + 1); 2];
    let command = prepare::advance_time(lab.asked("kms/r1"), &clocks);
    assert_eq!(lab.refused(&command).0, KmsRefusal::TooFewApprovals);
    let command = prepare::advance_time(lab.approved("operator/o9", 1), &clocks);
    assert_eq!(lab.refused(&command).0, KmsRefusal::NotEnrolled);
    let command = prepare::advance_time(lab.approved("operator/o2", 1), &clocks);
    assert_eq!(lab.refused(&command).0, KmsRefusal::SelfApproval);
    let command = prepare::advance_time(lab.approved("operator/o1", 1), &clocks);
    lab.done(&command);
    assert_eq!(kms_state::region_time(&lab.state), clocks[0]);
    // Their expiry is measured against the time they bring about.
    let mut approvals = vec![approval("operator/o2", 2), approval("operator/o3", 2)];
    approvals[0].expires_at_ms = clocks[0].0 + 5;
    let later = [UnixMs(clocks[0].0 + IDLE_JUMP_MS_MAX + 1); 2];
    let asked = Asked {
        approvals,
        ..lab.asked("kms/r1")
    };
    let command = prepare::advance_time(asked, &later);
    assert_eq!(lab.refused(&command).0, KmsRefusal::ApprovalExpired);
}
