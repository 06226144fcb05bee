//! What a signed word of one replica says: of a shard that a dataset leaves or comes to, or of a KMS that hands keys over.
//!
//! Owns the reading of each, so that nodes, KMSs and movers read alike. Refuses to read more into a word than its signer has
//! applied. Signatures, and how many replicas have to say the same, are for who counts.

use crate::ids::LogIndex;
use crate::v1::{
    ArrivalState, DepartureState, HandOverStage, HandOverState, KeyState, MovedRecord,
    ReleasedRecord,
};

/// The format of words that this build reads and writes.
pub const FORMAT: u32 = 1;

/// A fence that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fenced {
    /// The dataset's epoch.
    pub epoch: u64,
    /// Log index of the fence.
    pub fence: u64,
    /// The catalog there.
    pub root: [u8; 32],
}

/// Every change after this log index can be read.
pub fn opened(state: &DepartureState) -> Option<LogIndex> {
    (state.under_way && state.moved.is_none()).then_some(LogIndex(state.taken))
}

/// No write is taken, and this is what there is.
pub fn fenced(state: &DepartureState) -> Option<Fenced> {
    let root = state.root.as_ref().try_into().ok()?;
    (state.under_way && state.fence > 0).then_some(Fenced {
        epoch: state.epoch,
        fence: state.fence,
        root,
    })
}

/// The fence of this log index is over, and the dataset did not move by it.
pub fn reverted(state: &DepartureState, fence: LogIndex) -> bool {
    let moved_by_it = state
        .moved
        .as_ref()
        .is_some_and(|moved| moved.fence == fence.0);
    state.applied_index >= fence.0 && state.fence != fence.0 && (!moved_by_it || state.diverged)
}

/// The relocation took the dataset away by this record.
pub fn moved(state: &DepartureState) -> Option<MovedRecord> {
    let moved = state.moved.clone().filter(|_| !state.diverged)?;
    (moved.relocation_id == state.relocation_id).then_some(moved)
}

/// The relocation is over, or never was, and no request that was planned on `from` begins it.
pub fn ended(state: &DepartureState, from: u64) -> bool {
    !state.under_way && state.moved.is_none() && state.version > from
}

/// By what the source is asked to move.
pub fn proposed(state: &ArrivalState) -> Option<MovedRecord> {
    state.proposes.clone()
}

/// By what the dataset is served there, on two people's word alone.
pub fn forced(state: &ArrivalState) -> Option<MovedRecord> {
    state.moved.clone().filter(|_| state.by_force)
}

/// By what the dataset is served there, on the word of the region that it came from.
pub fn served(state: &ArrivalState) -> Option<MovedRecord> {
    state.moved.clone().filter(|_| !state.by_force)
}

/// To which region and hand-over key keys are handed over now.
pub fn granted(state: &HandOverState) -> Option<(String, bytes::Bytes)> {
    let grant = state.grant.as_ref()?;
    let terms = grant.terms.as_ref()?;
    let granted = matches!(grant.stage(), HandOverStage::Open | HandOverStage::Paused);
    granted.then(|| (terms.destination.clone(), terms.hand_over_key_id.clone()))
}

/// Under which fence nothing is handed over, and what was before it.
pub fn paused(state: &HandOverState) -> Option<(LogIndex, ReleasedRecord)> {
    let grant = state.grant.as_ref()?;
    let paused = grant.stage() == HandOverStage::Paused;
    paused.then(|| (LogIndex(grant.fence), grant.released.unwrap_or_default()))
}

/// Nothing is handed over any more, and this is all that was.
pub fn closed(state: &HandOverState) -> Option<ReleasedRecord> {
    let grant = state.grant.as_ref()?;
    let closed = grant.stage() == HandOverStage::Closed;
    closed.then(|| grant.released.unwrap_or_default())
}

/// This replica has destroyed the keys of a dataset that moved by this record.
pub fn shredded(state: &HandOverState) -> Option<MovedRecord> {
    let moved = state.grant.as_ref()?.moved.clone()?;
    (state.key_state() == KeyState::Destroyed && state.erased).then_some(moved)
}

/// The hand-over key that a relocation's keys are received under.
pub fn receives(state: &HandOverState) -> Option<bytes::Bytes> {
    let key = state.key.as_ref().filter(|key| !key.destroyed)?;
    Some(key.hand_over_key_id.clone())
}

/// The hand-over key is destroyed.
pub fn receives_no_more(state: &HandOverState) -> bool {
    state.key.as_ref().is_some_and(|key| key.destroyed)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message as _;

    use super::*;
    use crate::v1::{HandOverGrantRecord, HandOverKeyRecord, HandOverTerms};

    const ROOT: [u8; 32] = [9; 32];

    fn by(fence: u64) -> MovedRecord {
        MovedRecord {
            relocation_id: Bytes::from_static(&[7; 16]),
            epoch: 2,
            fence,
            root: Bytes::from_static(&ROOT),
        }
    }

    fn under_way() -> DepartureState {
        DepartureState {
            format: FORMAT,
            relocation_id: Bytes::from_static(&[7; 16]),
            applied_index: 30,
            epoch: 1,
            version: 1,
            under_way: true,
            taken: 12,
            ..DepartureState::default()
        }
    }

    #[test]
    fn a_fence_is_said_to_stand_with_its_root_alone() {
        assert_eq!(opened(&under_way()), Some(LogIndex(12)));
        assert_eq!(fenced(&under_way()), None);
        let mut state = DepartureState {
            fence: 20,
            root: Bytes::from_static(&ROOT),
            ..under_way()
        };
        let stands = fenced(&state).expect("it stands");
        assert_eq!((stands.epoch, stands.fence, stands.root), (1, 20, ROOT));
        assert!(!reverted(&state, LogIndex(20)));
        state.root = Bytes::new();
        assert_eq!(fenced(&state), None);
        state.under_way = false;
        assert_eq!(opened(&state), None);
    }

    /// A replica that has not come to a fence yet would else say that it is over.
    #[test]
    fn a_fence_is_said_to_be_over_by_who_has_applied_it_alone() {
        assert!(reverted(&under_way(), LogIndex(20)));
        assert!(!reverted(&under_way(), LogIndex(31)));
        let another = DepartureState {
            fence: 25,
            ..under_way()
        };
        assert!(reverted(&another, LogIndex(20)));
        assert!(!reverted(&another, LogIndex(25)));
        let mut gone = DepartureState {
            moved: Some(by(20)),
            ..under_way()
        };
        assert!(!reverted(&gone, LogIndex(20)));
        assert_eq!(moved(&gone), Some(by(20)));
        gone.diverged = true;
        assert!(reverted(&gone, LogIndex(20)));
        assert_eq!(moved(&gone), None);
        let another = DepartureState {
            relocation_id: Bytes::from_static(&[8; 16]),
            moved: Some(by(20)),
            ..under_way()
        };
        assert_eq!(moved(&another), None);
    }

    #[test]
    fn a_relocation_is_said_to_be_over_where_no_late_request_begins_it() {
        assert!(!ended(&under_way(), 0));
        let over = DepartureState {
            under_way: false,
            ..under_way()
        };
        assert!(ended(&over, 0));
        assert!(!ended(&over, 1));
        let gone = DepartureState {
            moved: Some(by(20)),
            ..over
        };
        assert!(!ended(&gone, 0));
    }

    #[test]
    fn what_was_opened_by_force_is_not_said_to_be_served_on_the_sources_word() {
        let mut state = ArrivalState {
            moved: Some(by(20)),
            ..ArrivalState::default()
        };
        assert_eq!((served(&state), forced(&state)), (Some(by(20)), None));
        state.by_force = true;
        assert_eq!((served(&state), forced(&state)), (None, Some(by(20))));
        assert_eq!(proposed(&state), None);
    }

    #[test]
    fn a_kms_says_what_its_grant_is_at_and_no_more() {
        let said = |stage: HandOverStage| HandOverState {
            grant: Some(HandOverGrantRecord {
                stage: stage.into(),
                fence: 20,
                released: Some(ReleasedRecord {
                    objects: 3,
                    leaves: 5,
                }),
                terms: Some(HandOverTerms {
                    destination: "de-fra".to_owned(),
                    hand_over_key_id: Bytes::from_static(&[8; 16]),
                    ..HandOverTerms::default()
                }),
                ..HandOverGrantRecord::default()
            }),
            ..HandOverState::default()
        };
        use HandOverStage::{Closed, Open, Paused};
        for (stage, of) in [
            (Open, (true, false, false)),
            (Paused, (true, true, false)),
            (Closed, (false, false, true)),
        ] {
            let state = said(stage);
            let says = (
                granted(&state).is_some(),
                paused(&state).is_some(),
                closed(&state).is_some(),
            );
            assert_eq!(says, of, "{stage:?}");
            assert_eq!(shredded(&state), None);
        }
        let mut state = said(Closed);
        state.set_key_state(KeyState::Destroyed);
        state.erased = true;
        assert_eq!(shredded(&state), None);
        state.grant.as_mut().expect("it has one").moved = Some(by(20));
        assert_eq!(shredded(&state), Some(by(20)));
        state.erased = false;
        assert_eq!(shredded(&state), None);
        let mut key = HandOverState {
            key: Some(HandOverKeyRecord {
                hand_over_key_id: Bytes::from_static(&[8; 16]),
                ..HandOverKeyRecord::default()
            }),
            ..HandOverState::default()
        };
        assert!(receives(&key).is_some() && !receives_no_more(&key));
        key.key.as_mut().expect("it has one").destroyed = true;
        assert!(receives(&key).is_none() && receives_no_more(&key));
    }

    #[test]
    fn golden_bytes_of_words() {
        let departure = DepartureState {
            format: 1,
            region: "s".into(),
            replica: "r".into(),
            shard: 4,
            relocation_id: Bytes::from_static(&[5]),
            dataset_id: Bytes::from_static(&[6]),
            applied_index: 7,
            epoch: 8,
            version: 9,
            under_way: true,
            taken: 11,
            fence: 12,
            root: Bytes::from_static(&[13]),
            request_epoch: 14,
            moved: Some(MovedRecord {
                relocation_id: Bytes::from_static(&[1]),
                epoch: 2,
                fence: 3,
                root: Bytes::from_static(&[4]),
            }),
            diverged: true,
        };
        let golden = "0801 120173 1a0172 2004 2a0105 320106 3807 4008 4809 5001 580b 600c 6a010d 700e \
                      7a0a 0a0101 1002 1803 220104 800101";
        assert_eq!(
            hex::encode(departure.encode_to_vec()),
            golden.replace(' ', "")
        );
        let arrival = ArrivalState {
            format: 1,
            region: "d".into(),
            replica: "r".into(),
            shard: 4,
            relocation_id: Bytes::from_static(&[5]),
            dataset_id: Bytes::from_static(&[6]),
            applied_index: 7,
            phase: 8,
            proposes: departure.moved.clone(),
            moved: departure.moved,
            by_force: true,
        };
        let golden = "0801 120164 1a0172 2004 2a0105 320106 3807 4008 \
                      4a0a 0a0101 1002 1803 220104 520a 0a0101 1002 1803 220104 5801";
        assert_eq!(
            hex::encode(arrival.encode_to_vec()),
            golden.replace(' ', "")
        );
    }
}
