//! One claim a test; what holds for any order of requests, by proptest.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proto::ids::{
    DatasetEpoch, DatasetId, HandOverKeyId, KekId, LogIndex, NodeId, ObjectKey, RegionId,
    RelocationId, UnixMs,
};
use proto::relocation::{CatalogRoot, Moved, Released};

use super::*;

const RELOCATION: RelocationId = RelocationId([7; 16]);
const OTHER: RelocationId = RelocationId([8; 16]);
const EPOCH: DatasetEpoch = DatasetEpoch(3);
const KEK: KekId = KekId([4; 16]);
const ROOT: CatalogRoot = CatalogRoot([9; 32]);

fn region(name: &str) -> RegionId {
    name.parse().expect("a region's name")
}

fn key(name: &str) -> ObjectKey {
    name.parse().expect("a key")
}

fn vouched<R>(record: R) -> Vouched<R> {
    let signers = BTreeSet::from([NodeId(1), NodeId(2)]);
    let voters = |nodes: &BTreeSet<NodeId>| nodes.len() >= 2;
    Vouched::by_majority(record, &signers, &voters).expect("two of three")
}

fn approved() -> Approved {
    Approved::by_two_others("o1", ["o2", "o3"]).expect("two others")
}

fn opened() -> Authority {
    let authority = Authority::founded(EPOCH);
    let from = DepartureVersion(0);
    let opened = authority.open(RELOCATION, region("de-fra"), from, LogIndex(10));
    opened.expect("nothing is under way")
}

fn fence(from: u32) -> Fence {
    Fence {
        relocation: RELOCATION,
        epoch: EPOCH,
        from: FenceCount(from),
    }
}

fn moved(fence: u64) -> Moved {
    Moved {
        relocation: RELOCATION,
        epoch: DatasetEpoch(4),
        fence: LogIndex(fence),
        root: ROOT,
    }
}

#[test]
fn one_replicas_word_is_no_majoritys() {
    let voters = |nodes: &BTreeSet<NodeId>| nodes.len() >= 2;
    let one = BTreeSet::from([NodeId(1)]);
    let refused = Vouched::by_majority((), &one, &voters);
    assert_eq!(refused, Err(NoMajority { signers: 1 }));
}

#[test]
fn what_was_equal_at_one_fence_does_not_move_under_the_next() {
    let first = opened().fence(fence(0), LogIndex(20)).expect("active");
    let active = first.revert(RELOCATION, LogIndex(20)).expect("it stands");
    let second = active.fence(fence(1), LogIndex(30)).expect("active again");
    let late = second.clone().moved(moved(20));
    assert_eq!(late, Err(AuthorityRefused::FenceOver(LogIndex(20))));
    // Nor does the revert of the first end the second, nor a late request for the first stop writes again.
    assert!(second.clone().revert(RELOCATION, LogIndex(20)).is_err());
    assert!(second.clone().fence(fence(0), LogIndex(31)).is_err());
    let gone = second.moved(moved(30)).expect("the fence that stands");
    assert_eq!(gone.standing(), Standing::Moved(moved(30)));
}

#[test]
fn a_request_of_an_ended_relocation_opens_and_fences_nothing() {
    let ended = opened()
        .end(RELOCATION, DepartureVersion(0))
        .expect("active");
    assert!(ended.clone().fence(fence(0), LogIndex(20)).is_err());
    let again = ended.clone().open(
        RELOCATION,
        region("de-fra"),
        DepartureVersion(0),
        LogIndex(21),
    );
    assert_eq!(
        again,
        Err(AuthorityRefused::VersionMoved(DepartureVersion(1)))
    );
    // Ended before it was opened.
    let never = Authority::founded(EPOCH)
        .end(RELOCATION, DepartureVersion(0))
        .expect("active");
    let late = never.open(
        RELOCATION,
        region("de-fra"),
        DepartureVersion(0),
        LogIndex(5),
    );
    assert!(late.is_err());
}

#[test]
fn one_relocation_at_a_time_leaves() {
    let second = opened().open(OTHER, region("at-vie"), DepartureVersion(1), LogIndex(12));
    assert!(second.is_err());
    let fenced = opened().fence(fence(0), LogIndex(20)).expect("active");
    let other = Fence {
        relocation: OTHER,
        ..fence(1)
    };
    assert!(fenced.fence(other, LogIndex(21)).is_err());
}

#[test]
fn what_cannot_wait_ends_the_fence_and_the_rest_waits() {
    let fenced = opened().fence(fence(0), LogIndex(20)).expect("active");
    for waits in [
        Change::Write,
        Change::Lifecycle,
        Change::Tags,
        Change::Lock,
        Change::Config,
    ] {
        let refused = fenced.clone().admit(waits, EPOCH);
        assert_eq!(refused, Err(NotAdmitted::Fenced), "{waits:?}");
    }
    for urgent in [Change::Hold, Change::KeyState] {
        let active = fenced.clone().admit(urgent, EPOCH).expect("it cannot wait");
        assert_eq!(active.standing(), Standing::Active);
        // So it does not move without that change.
        assert!(active.moved(moved(20)).is_err());
    }
}

#[test]
fn a_source_that_was_superseded_after_a_revert_has_diverged() {
    let fenced = opened().fence(fence(0), LogIndex(20)).expect("active");
    let clean = fenced.clone().superseded(moved(20)).expect("not moved");
    assert_eq!(clean.standing(), Standing::Moved(moved(20)));
    let active = fenced.revert(RELOCATION, LogIndex(20)).expect("it stands");
    let diverged = active.superseded(moved(20)).expect("not moved");
    assert_eq!(diverged.standing(), Standing::Diverged(moved(20)));
    assert_eq!(
        diverged.admit(Change::Write, EPOCH),
        Err(NotAdmitted::Moved)
    );
}

#[test]
fn a_restored_dataset_is_closed_until_somebody_says_which_epoch_it_is_in() {
    let restored = opened().restored();
    let refused = restored.clone().admit(Change::Write, EPOCH);
    assert_eq!(refused, Err(NotAdmitted::Unconfirmed));
    assert!(restored.clone().fence(fence(0), LogIndex(20)).is_err());
    assert!(restored.clone().confirmed(DatasetEpoch(4)).is_err());
    let active = restored.confirmed(EPOCH).expect("its epoch");
    assert!(active.admit(Change::Write, EPOCH).is_ok());
}

#[test]
fn a_reader_that_is_behind_dropped_tombstones_is_told() {
    let reader = opened();
    let reader = reader.departure();
    let mut tombstones = Tombstones::default().added().added();
    assert!(
        !tombstones.drops(LogIndex(11), reader, 2),
        "needed, and within the bound"
    );
    assert!(tombstones.drops(LogIndex(11), reader, 1), "over the bound");
    assert!(tombstones.drops(LogIndex(10), reader, 2), "taken already");
    assert!(tombstones.drops(LogIndex(11), None, 2), "nobody reads");
    tombstones = tombstones.dropped(LogIndex(11));
    assert_eq!(tombstones.kept, 1);
    assert!(tombstones.readable(LogIndex(11)).is_ok());
    let dropped_through = LogIndex(11);
    assert_eq!(
        tombstones.readable(LogIndex(10)),
        Err(Overrun { dropped_through })
    );
}

#[test]
fn a_known_request_is_answered_whatever_has_become_of_the_dataset() {
    let gone = opened()
        .fence(fence(0), LogIndex(20))
        .and_then(|at| at.moved(moved(20)));
    let gone = gone.expect("fenced");
    let judge = |known| retry::<u8>(known, &gone, Change::Write, EPOCH);
    assert_eq!(judge(Some(5)), Retry::Answered(5));
    assert_eq!(judge(None), Retry::NotRun(NotAdmitted::Moved));
    let there = Authority::founded(DatasetEpoch(4));
    let old = retry::<u8>(None, &there, Change::Write, EPOCH);
    let epoch = DatasetEpoch(4);
    assert_eq!(old, Retry::NotRun(NotAdmitted::EpochMoved(epoch)));
    assert!(matches!(
        retry::<u8>(None, &there, Change::Write, epoch),
        Retry::Runs(_)
    ));
}

#[test]
fn what_is_not_sealed_anew_is_not_imported() {
    let foreign = Import {
        index: LogIndex(5),
        content: Content::Sealed(KekId([1; 16])),
    };
    assert_eq!(import(None, foreign, KEK), Err(NotResealed(KekId([1; 16]))));
}

fn planned() -> Arrival {
    Arrival::planned(Terms {
        relocation: RELOCATION,
        dataset: DatasetId([5; 16]),
        source: region("ch-zrh"),
        destination: region("de-fra"),
        epoch: EPOCH,
        from_version: DepartureVersion(0),
    })
}

fn copying() -> Arrival {
    let hand_over = HandOverKeyId([6; 16]);
    let relocation = RELOCATION;
    let base = LogIndex(10);
    let prepared = planned().prepare(
        Prepared {
            kek: KEK,
            hand_over,
        },
        approved(),
    );
    let departed = vouched(DepartureRecord { relocation, base });
    let granted = vouched(GrantRecord {
        relocation,
        hand_over,
    });
    let copying = prepared.and_then(|arrival| arrival.copy(&departed, &granted));
    copying.expect("in order")
}

fn batch(span: Span, imports: &[(&str, u64, bool)]) -> Batch {
    let one = |&(name, index, live): &(&str, u64, bool)| {
        let content = if live {
            Content::Sealed(KEK)
        } else {
            Content::Tombstone
        };
        let index = LogIndex(index);
        (Unit::Null(key(name)), Import { index, content })
    };
    Batch {
        relocation: RELOCATION,
        pass: LogIndex(10),
        span,
        imports: imports.iter().map(one).collect(),
    }
}

fn page(after: Position, through: Position, at: u64) -> Span {
    let at = LogIndex(at);
    Span::Page { after, through, at }
}

fn changes(after: u64, through: u64) -> Span {
    let (after, through) = (LogIndex(after), LogIndex(through));
    Span::Changes { after, through }
}

fn take(arrival: Arrival, at: u64, batch: &Batch) -> Arrival {
    let taken = arrival.take(LogIndex(at), batch, |_| None);
    taken.expect("it is taken").0
}

/// Listed at 12, one object; fenced at 20, all taken.
fn fenced() -> Arrival {
    let whole = batch(page(Position::Start, Position::End, 12), &[("a", 4, true)]);
    let listed = take(copying(), 1, &whole).catch_up().expect("listed");
    let relocation = RELOCATION;
    let record = FenceRecord {
        relocation,
        epoch: EPOCH,
        fence: LogIndex(20),
        root: ROOT,
    };
    let verifying = listed.verify().expect("caught up");
    let fenced = verifying.fenced(&vouched(record)).expect("verifying");
    let fenced = take(fenced, 2, &batch(changes(10, 20), &[]));
    let (after, through) = (LogIndex(0), LogIndex(20));
    take(fenced, 3, &batch(Span::Requests { after, through }, &[]))
}

fn comparison() -> Comparison {
    Comparison {
        fence: LogIndex(20),
        root: ROOT,
        equal: 1,
        total: 1,
        at: LogIndex(3),
    }
}

fn paused() -> Vouched<Paused> {
    vouched(Paused {
        relocation: RELOCATION,
        fence: LogIndex(20),
        released: Released::default(),
    })
}

#[test]
fn a_page_counts_only_where_it_goes_on_and_in_its_own_pass() {
    let later = batch(page(Position::After(key("m")), Position::End, 12), &[]);
    let gap = copying().take(LogIndex(1), &later, |_| None);
    assert_eq!(gap.map(|_| ()), Err(ImportRefused::Gap));
    let stale = batch(page(Position::Start, Position::End, 9), &[("a", 4, true)]);
    let taken = take(copying(), 1, &stale);
    assert!(
        taken.catch_up().is_err(),
        "listed before its changes can be followed"
    );
}

#[test]
fn a_batch_is_within_its_span_and_in_order_or_refused_whole() {
    let all = || page(Position::Start, Position::After(key("m")), 12);
    for wrong in [
        batch(all(), &[("n", 4, true)]),
        batch(all(), &[("a", 13, true)]),
        batch(all(), &[("b", 4, true), ("a", 5, true)]),
        batch(changes(10, 15), &[("a", 16, true)]),
        batch(changes(10, 15), &[("a", 12, false), ("a", 11, true)]),
    ] {
        let refused = copying().take(LogIndex(1), &wrong, |_| None);
        assert_eq!(
            refused.map(|_| ()),
            Err(ImportRefused::Malformed),
            "{wrong:?}"
        );
    }
}

#[test]
fn after_an_overrun_it_lists_again_and_takes_nothing_that_was_read_before() {
    let whole = batch(page(Position::Start, Position::End, 12), &[]);
    let following = take(copying(), 1, &whole).catch_up().expect("listed");
    let again = following.copy_again(LogIndex(30)).expect("behind");
    assert_eq!(again.phase(), Phase::Copying);
    // Nobody here knows that what it has was removed since: that tombstone is the one that was dropped.
    for late in [whole, batch(changes(10, 12), &[("a", 11, true)])] {
        let refused = again.clone().take(LogIndex(2), &late, |_| None).map(|_| ());
        assert_eq!(refused, Err(ImportRefused::OtherPass(LogIndex(30))));
    }
    let fresh = Batch {
        pass: LogIndex(30),
        ..batch(page(Position::Start, Position::End, 30), &[])
    };
    assert!(take(again, 3, &fresh).catch_up().is_ok());
}

#[test]
fn equality_is_all_of_one_fence_as_it_stands_now() {
    let ask = |result: Comparison| fenced().compared(result).map(|_| ());
    assert_eq!(ask(comparison()), Ok(()));
    let fence = LogIndex(19);
    assert!(
        ask(Comparison {
            fence,
            ..comparison()
        })
        .is_err()
    );
    let root = CatalogRoot([0; 32]);
    assert!(
        ask(Comparison {
            root,
            ..comparison()
        })
        .is_err()
    );
    assert_eq!(
        ask(Comparison {
            equal: 0,
            ..comparison()
        }),
        Err(StepRefused::NotEqual { equal: 0, total: 1 })
    );
    let at = LogIndex(0);
    let before = ask(Comparison { at, ..comparison() });
    assert_eq!(before, Err(StepRefused::ComparedBefore(LogIndex(1))));
}

#[test]
fn nothing_is_imported_once_copies_were_found_equal() {
    let equal = fenced().compared(comparison()).expect("equal");
    let late = batch(page(Position::Start, Position::End, 12), &[("b", 5, true)]);
    let refused = equal.take(LogIndex(9), &late, |_| None).map(|_| ());
    assert_eq!(refused, Err(ImportRefused::FoundEqual(LogIndex(20))));
}

#[test]
fn it_proposes_to_move_only_once_all_is_equal_and_the_grant_is_paused() {
    let proposal = |arrival: &Arrival| match arrival.state() {
        State::Fenced(fenced) => fenced.proposal(),
        _ => None,
    };
    assert_eq!(proposal(&fenced()), None);
    let equal = fenced().compared(comparison()).expect("equal");
    assert_eq!(proposal(&equal), None);
    let ready = equal.paused(&paused()).expect("fenced");
    assert_eq!(proposal(&ready), Some(moved(20)));
    assert!(ready.arrived().is_none(), "nothing is served yet");
    let wished = ready.abort().expect("not moved yet");
    assert_eq!(proposal(&wished), None);
    // The source has moved all the same: the wish came too late.
    let cut = wished.moved(&vouched(moved(20))).expect("its fence");
    assert!(cut.arrived().is_some());
    assert!(cut.abort().is_err());
}

#[test]
fn force_opens_what_is_equal_and_destroys_nothing_before_the_source_says_it_moved() {
    assert!(fenced().force(approved()).is_err());
    let equal = fenced()
        .compared(comparison())
        .and_then(|at| at.paused(&paused()));
    let forced = equal.and_then(|at| at.force(approved())).expect("equal");
    let held = forced.hold(UnixMs(5)).expect("cut over");
    let early = held.clone().shred(approved(), UnixMs(5));
    assert_eq!(early, Err(StepRefused::NotMoved));
    let confirmed = held.moved(&vouched(moved(20))).expect("the same");
    let early = confirmed.clone().shred(approved(), UnixMs(4));
    assert_eq!(early, Err(StepRefused::Held(UnixMs(5))));
    assert!(confirmed.shred(approved(), UnixMs(5)).is_ok());
}

#[test]
fn aborted_is_said_once_both_parts_of_the_source_and_the_own_kms_have_spoken() {
    let relocation = RELOCATION;
    let released = Released {
        objects: 3,
        through: None,
    };
    let ended = |arrival: Arrival| arrival.ended(&vouched(Ended { relocation }));
    let closed = |arrival: Arrival| {
        arrival.closed(&vouched(Closed {
            relocation,
            released,
        }))
    };
    let erased = |arrival: Arrival| arrival.hand_over_ended(&vouched(HandOverEnded { relocation }));
    let aborting = copying().abort().expect("before the cutover");
    assert!(aborting.filling().is_none(), "no imports from here on");
    let two = ended(aborting).and_then(erased).expect("aborting");
    assert_eq!(two.phase(), Phase::Aborting);
    let State::Aborted(aborted) = *closed(two).expect("aborting").state() else {
        panic!("not aborted");
    };
    assert_eq!(aborted.disclosed, released);
    assert_eq!(planned().abort().map(|at| at.phase()), Ok(Phase::Aborted));
}

#[derive(Debug, Clone)]
enum Asked {
    Fence(u32),
    Revert(usize),
    Moved(usize),
    End,
    Write,
}

fn any_asked() -> impl Strategy<Value = Asked> {
    prop_oneof![
        3 => (0u32..4).prop_map(Asked::Fence),
        2 => (0usize..4).prop_map(Asked::Revert),
        2 => (0usize..4).prop_map(Asked::Moved),
        1 => Just(Asked::End),
        3 => Just(Asked::Write),
    ]
}

proptest! {
    /// A fence ends in one way: what follows it is a revert of it or a move of it, and after a move no write is taken.
    #[test]
    fn exactly_one_of_revert_and_moved_ends_a_fence(asked in prop::collection::vec(any_asked(), 0..40)) {
        let mut authority = opened();
        let mut fences = Vec::new();
        for (at, one) in (11u64..).zip(asked) {
            let before = authority.standing();
            let at = LogIndex(at);
            let place = |number: usize| fences.get(number).copied().unwrap_or(LogIndex(1));
            let after = match one {
                Asked::Fence(from) => authority.clone().fence(fence(from), at),
                Asked::Revert(number) => authority.clone().revert(RELOCATION, place(number)),
                Asked::Moved(number) => authority.clone().moved(moved(place(number).0)),
                Asked::End => authority.clone().end(RELOCATION, DepartureVersion(0)),
                Asked::Write => {
                    let taken = authority.clone().admit(Change::Write, EPOCH).is_ok();
                    prop_assert_eq!(taken, before == Standing::Active);
                    Ok(authority.clone())
                }
            };
            authority = after.unwrap_or(authority);
            match (before, authority.standing()) {
                (same, now) if same == now => {}
                (Standing::Active, Standing::Fenced { at }) => fences.push(at),
                (Standing::Fenced { .. }, Standing::Active) => {}
                (Standing::Fenced { at }, Standing::Moved(to)) => prop_assert_eq!(to.fence, at),
                (from, to) => prop_assert!(false, "from {from:?} to {to:?}"),
            }
        }
    }

    /// Whatever the order of arrival, and however often, what is known is what has the highest index.
    #[test]
    fn imports_end_in_the_order_of_the_source(order in prop::collection::vec((0u64..8, 0usize..3), 0..40)) {
        let mut known: BTreeMap<usize, Known> = BTreeMap::new();
        let mut highest: BTreeMap<usize, u64> = BTreeMap::new();
        for (index, object) in order {
            // A log index is of one object.
            let index = index * 3 + object as u64;
            let live = index.is_multiple_of(2);
            let content = if live { Content::Sealed(KEK) } else { Content::Tombstone };
            let one = Import { index: LogIndex(index), content };
            let effect = import(known.get(&object).copied(), one, KEK).expect("sealed anew");
            if effect != Effect::Nothing {
                let stored = effect == Effect::Stores;
                known.insert(object, Known { index: LogIndex(index), stored });
            }
            let newest = highest.entry(object).or_insert(index);
            *newest = index.max(*newest);
            let held = known[&object];
            prop_assert_eq!(held.index, LogIndex(*newest));
            prop_assert_eq!(held.stored, newest.is_multiple_of(2));
        }
    }
}
