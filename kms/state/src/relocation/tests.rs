//! One claim a test.

use proptest::prelude::*;
use proto::ids::DatasetEpoch;
use proto::relocation::CatalogRoot;

use super::*;

const RELOCATION: RelocationId = RelocationId([7; 16]);
const KEY: HandOverKeyId = HandOverKeyId([8; 16]);

fn granted() -> HandOverGrant {
    HandOverGrant::grant(None, RELOCATION, KEY).expect("nothing is held")
}

fn moved(fence: u64) -> Moved {
    Moved {
        relocation: RELOCATION,
        epoch: DatasetEpoch(2),
        fence: LogIndex(fence),
        root: CatalogRoot([9; 32]),
    }
}

#[test]
fn a_grant_that_was_closed_is_never_granted_again_even_if_it_never_began() {
    for held in [None, Some(granted())] {
        let closed = HandOverGrant::close(held, RELOCATION);
        let again = HandOverGrant::grant(Some(closed), RELOCATION, KEY);
        assert_eq!(again, Err(GrantRefused::Closed(RELOCATION)));
        let release = closed.release(1, LeafIndex(1));
        assert_eq!(release, Err(GrantRefused::NotOpen(RELOCATION)));
    }
}

#[test]
fn a_grant_is_for_one_key() {
    let other = HandOverGrant::grant(Some(granted()), RELOCATION, HandOverKeyId([1; 16]));
    assert_eq!(other, Err(GrantRefused::OtherKey(RELOCATION)));
    let same = HandOverGrant::grant(Some(granted()), RELOCATION, KEY);
    assert_eq!(same, Ok(granted()));
}

#[test]
fn under_a_fence_nothing_is_released_until_that_fence_is_reverted() {
    let paused = granted().pause(LogIndex(9)).expect("open");
    assert!(paused.release(1, LeafIndex(1)).is_err());
    // The word of an earlier fence does not open what a later one paused.
    assert!(paused.resume(LogIndex(5)).is_err());
    let open = paused.resume(LogIndex(9)).expect("that fence");
    assert!(open.release(1, LeafIndex(1)).is_ok());
    // Nor does a pause that was under way all the while stop it again.
    assert!(open.pause(LogIndex(9)).is_err());
    assert!(open.pause(LogIndex(12)).is_ok());
}

#[test]
fn keys_end_only_where_both_sides_name_the_same_cutover() {
    let paused = granted().pause(LogIndex(9)).expect("open");
    let ask = |grant, ours, theirs| may_shred(Some(&grant), ours, theirs);
    let (ours, theirs) = (Some(moved(9)), Some(moved(9)));
    assert_eq!(ask(paused, ours, theirs), Ok(()));
    assert_eq!(ask(paused, None, theirs), Err(ShredRefused::NotMoved));
    assert_eq!(ask(paused, ours, None), Err(ShredRefused::NotServed));
    let other = ask(paused, ours, Some(moved(5)));
    assert_eq!(other, Err(ShredRefused::NotServed));
    let open = ask(granted(), ours, theirs);
    assert_eq!(open, Err(ShredRefused::StillGranted(RELOCATION)));
    assert!(may_shred(None, ours, theirs).is_err());
}

#[test]
fn a_destroyed_hand_over_key_opens_nothing_nor_does_one_of_another_relocation() {
    let key = HandOverKey {
        relocation: RELOCATION,
        id: KEY,
        destroyed: false,
    };
    assert!(key.opens(RELOCATION).is_ok());
    assert!(key.opens(RelocationId([1; 16])).is_err());
    assert!(key.destroy().opens(RELOCATION).is_err());
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Release,
    Pause(u64),
    Resume(u64),
    Close,
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Release),
        2 => (1u64..6).prop_map(Event::Pause),
        2 => (1u64..6).prop_map(Event::Resume),
        1 => Just(Event::Close),
    ]
}

proptest! {
    /// What a grant states is what was released, it never shrinks, and after it is closed nothing is added.
    #[test]
    fn a_grant_states_what_it_released(events in prop::collection::vec(any_event(), 0..24)) {
        let (mut grant, mut leaves, mut closed) = (granted(), 0u64, false);
        for event in events {
            let stage = grant.stage();
            let after = match event {
                Event::Release => grant.release(1, LeafIndex(leaves)),
                Event::Pause(fence) => grant.pause(LogIndex(fence)),
                Event::Resume(fence) => grant.resume(LogIndex(fence)),
                Event::Close => Ok(HandOverGrant::close(Some(grant), RELOCATION)),
            };
            if let (Event::Release, Ok(_)) = (event, after) {
                prop_assert_eq!(stage, GrantStage::Open);
                leaves += 1;
            }
            grant = after.unwrap_or(grant);
            closed |= matches!(event, Event::Close);
            prop_assert_eq!(grant.stage() == GrantStage::Closed, closed);
            prop_assert_eq!(grant.released().objects, leaves);
            prop_assert_eq!(grant.released().through, leaves.checked_sub(1).map(LeafIndex));
        }
    }
}
