//! Access keys: whose secret signs a request, and on whose behalf it is done.
//!
//! Owns how long a secret is held here: as long as its grant says, an hour at most, a few seconds where there is none.
//! Refuses ids that no access key has without asking for them. Grants come from the region's KMS, each on record there
//! before it is here; [`AccessKeys`] is the seam for tests.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::ids::AccessKeyId;
use client::{AccessGrant, Fault, Region};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::error::ApiError;

/// Access keys held at once; over that, those that are not known go first, then those that end first.
const HELD_MAX: usize = 10_000;
/// How long a secret is held at most.
const HELD_FOR_MAX: Duration = Duration::from_secs(3_600);
/// How long it is remembered that there is no such access key.
const UNKNOWN_FOR: Duration = Duration::from_secs(5);

/// Why there is no grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AccessError {
    /// No such access key, or it has ended.
    #[error("no such access key")]
    Unknown,
    /// Nobody could be asked in time.
    #[error("access keys cannot be asked for right now")]
    Unavailable,
}

impl From<AccessError> for ApiError {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::Unknown => Self::InvalidAccessKeyId,
            AccessError::Unavailable => Self::ServiceUnavailable,
        }
    }
}

/// Where access keys are.
#[async_trait::async_trait]
pub(crate) trait AccessKeys: Send + Sync + 'static {
    /// The grant for one, recorded where it is given.
    async fn grant(&self, id: AccessKeyId) -> Result<AccessGrant, AccessError>;
}

#[async_trait::async_trait]
impl AccessKeys for Region {
    async fn grant(&self, id: AccessKeyId) -> Result<AccessGrant, AccessError> {
        self.access_secret(&id)
            .await
            .map_err(|error| match (error.fault(), error.reason()) {
                (_, "no-such-access-key" | "access-key-disabled") => AccessError::Unknown,
                (Fault::Unavailable | Fault::Busy | Fault::Unknown, _) => AccessError::Unavailable,
                // Who may not be given secrets cannot let anybody in: an operator has to look.
                _ => {
                    let reason = error.reason();
                    tracing::error!(%error, reason, "the kms gives this gateway no access secret");
                    AccessError::Unavailable
                }
            })
    }
}

/// What is held of one access key: asked for by one request at a time, the others wait for its answer.
type Slot = Arc<tokio::sync::Mutex<Option<Held>>>;

struct Held {
    grant: Option<Arc<AccessGrant>>,
    until: Instant,
}

/// Access keys, asked for once and held for a while.
pub(crate) struct HeldKeys {
    source: Arc<dyn AccessKeys>,
    slots: Mutex<HashMap<AccessKeyId, Slot>>,
}

impl HeldKeys {
    pub(crate) fn new(source: Arc<dyn AccessKeys>) -> Self {
        Self {
            source,
            slots: Mutex::default(),
        }
    }

    /// The grant for an access key.
    pub(crate) async fn grant(&self, id: &str) -> Result<Arc<AccessGrant>, AccessError> {
        let id: AccessKeyId = id.parse().map_err(|_| AccessError::Unknown)?;
        let slot = self.slot(id);
        let mut held = slot.lock().await;
        if let Some(held) = held.as_ref().filter(|held| held.until > Instant::now()) {
            return held.grant.clone().ok_or(AccessError::Unknown);
        }
        *held = None;
        let (grant, held_for) = match self.source.grant(id).await {
            Ok(grant) => {
                let left = grant.expires.0.saturating_sub(crate::now().0);
                let held_for = Duration::from_millis(left).min(HELD_FOR_MAX);
                (Some(Arc::new(grant)), held_for)
            }
            Err(AccessError::Unknown) => (None, UNKNOWN_FOR),
            Err(AccessError::Unavailable) => return Err(AccessError::Unavailable),
        };
        *held = Some(Held {
            grant: grant.clone(),
            until: Instant::now() + held_for,
        });
        grant.ok_or(AccessError::Unknown)
    }

    fn slot(&self, id: AccessKeyId) -> Slot {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(&id) {
            return slot.clone();
        }
        if slots.len() >= HELD_MAX {
            make_room(&mut slots);
        }
        slots.entry(id).or_default().clone()
    }
}

/// Half the room: what is not known or over first, then what ends first. What is being asked for stays.
fn make_room(slots: &mut HashMap<AccessKeyId, Slot>) {
    let now = Instant::now();
    slots.retain(|_, slot| match slot.try_lock() {
        Ok(held) => held
            .as_ref()
            .is_some_and(|held| held.grant.is_some() && held.until > now),
        Err(_) => true,
    });
    if slots.len() <= HELD_MAX / 2 {
        return;
    }
    let mut ends: Vec<_> = slots
        .iter()
        .filter_map(|(id, slot)| Some((slot.try_lock().ok()?.as_ref()?.until, *id)))
        .collect();
    ends.sort();
    for (_, id) in ends.into_iter().take(slots.len() - HELD_MAX / 2) {
        slots.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use envelope::AccessSecret;

    use super::*;

    const ID: &str = "RDTAAAAAAAAAAAAAAAAA";

    struct Counted {
        asked: AtomicUsize,
        answer: fn() -> Result<AccessGrant, AccessError>,
    }

    #[async_trait::async_trait]
    impl AccessKeys for Counted {
        async fn grant(&self, _: AccessKeyId) -> Result<AccessGrant, AccessError> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(10)).await;
            (self.answer)()
        }
    }

    fn held(answer: fn() -> Result<AccessGrant, AccessError>) -> (HeldKeys, Arc<Counted>) {
        let asked = AtomicUsize::new(0);
        let source = Arc::new(Counted { asked, answer });
        (HeldKeys::new(source.clone()), source)
    }

    fn granted() -> Result<AccessGrant, AccessError> {
        let region: client::ids::RegionId = "ch-zrh".parse().expect("a region");
        let id = ID.parse().expect("an access key id");
        Ok(AccessGrant {
            secret: AccessSecret::generate(region, id).expect("room"),
            principal: "spiffe://ch-zrh/service/app".parse().expect("valid"),
            expires: client::ids::UnixMs(u64::MAX),
            leaf_index: 0,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn requests_at_once_ask_once_and_an_hour_later_again() {
        let (keys, source) = held(granted);
        let all = futures::future::join_all((0..50).map(|_| keys.grant(ID))).await;
        assert!(all.iter().all(Result::is_ok));
        assert_eq!(source.asked.load(Ordering::SeqCst), 1);
        tokio::time::advance(HELD_FOR_MAX - Duration::from_secs(1)).await;
        keys.grant(ID).await.expect("held");
        assert_eq!(source.asked.load(Ordering::SeqCst), 1);
        tokio::time::advance(Duration::from_secs(2)).await;
        keys.grant(ID).await.expect("asked for again");
        assert_eq!(source.asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_known_is_asked_for_again_after_seconds() {
        let (keys, source) = held(|| Err(AccessError::Unknown));
        for _ in 0..10 {
            assert_eq!(keys.grant(ID).await.err(), Some(AccessError::Unknown));
        }
        assert_eq!(source.asked.load(Ordering::SeqCst), 1);
        tokio::time::advance(UNKNOWN_FOR).await;
        assert!(keys.grant(ID).await.is_err());
        assert_eq!(source.asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn that_nobody_answers_is_not_remembered() {
        let (keys, source) = held(|| Err(AccessError::Unavailable));
        for _ in 0..3 {
            assert_eq!(keys.grant(ID).await.err(), Some(AccessError::Unavailable));
        }
        assert_eq!(source.asked.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_ids_do_not_push_out_who_is_known() {
        let (keys, _) = held(granted);
        keys.grant(ID).await.expect("granted");
        let strangers = (0..HELD_MAX + 10).map(|n| {
            let unknown = Held {
                grant: None,
                until: Instant::now() + UNKNOWN_FOR,
            };
            let slot = keys.slot(AccessKeyId::from_bits(1 + n as u128));
            *slot.try_lock().expect("nobody else") = Some(unknown);
        });
        strangers.for_each(drop);
        assert!(keys.slots.lock().len() <= HELD_MAX);
        let known = keys
            .slots
            .lock()
            .get(&ID.parse().expect("an id"))
            .cloned()
            .expect("still there");
        assert!(known.try_lock().expect("nobody asks").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_id_that_is_none_is_not_asked_for() {
        let (keys, source) = held(granted);
        for bad in ["", "short", "AKIAIOSFODNN7EXAMPLE", &"A".repeat(129)] {
            assert_eq!(keys.grant(bad).await.err(), Some(AccessError::Unknown));
        }
        assert_eq!(source.asked.load(Ordering::SeqCst), 0);
    }
}
