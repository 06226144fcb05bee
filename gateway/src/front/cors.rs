//! The cross-origin rules of a bucket.
//!
//! Owns how old what is known of them may be, for requests that nobody signed: a browser asks before it makes a page's
//! request. Refuses to say of a bucket without rules whether it is there, and to let askers without a name keep the region
//! busy.

use std::collections::HashMap;
use std::sync::Arc;

use client::Region;
use client::ids::DatasetName;
use parking_lot::Mutex;
use proto::v1::CorsRule;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::{Front, KNOWN_FOR, Shared};
use crate::error::ApiError;

/// Buckets whose rules are held at once, names that lead nowhere among them.
const HELD_MAX: usize = 10_000;
/// Buckets whose rules are asked for at once; more wait.
const ASKING_MAX: usize = 16;

type Rules = Arc<[CorsRule]>;

/// Rules as they were a moment ago.
pub(super) struct HeldRules {
    held: Mutex<HashMap<DatasetName, (Rules, Instant)>>,
    asking: Semaphore,
}

impl Default for HeldRules {
    fn default() -> Self {
        Self {
            held: Mutex::default(),
            asking: Semaphore::new(ASKING_MAX),
        }
    }
}

impl HeldRules {
    fn get(&self, name: &DatasetName) -> Option<Rules> {
        let held = self.held.lock();
        let (rules, at) = held.get(name)?;
        (at.elapsed() < KNOWN_FOR).then(|| rules.clone())
    }

    fn put(&self, name: &DatasetName, rules: Rules, asked: Instant) {
        let mut held = self.held.lock();
        if held.len() >= HELD_MAX {
            held.retain(|_, (_, at)| at.elapsed() < KNOWN_FOR);
            if held.len() >= HELD_MAX {
                held.clear();
            }
        }
        held.insert(name.clone(), (rules, asked));
    }

    fn forget(&self, name: &DatasetName) {
        self.held.lock().remove(name);
    }
}

impl Shared {
    /// The rules of a bucket, in order; none where it has none, or is none.
    pub(crate) async fn cors_rules(&self, name: &DatasetName) -> Result<Rules, ApiError> {
        if let Some(rules) = self.cors.get(name) {
            return Ok(rules);
        }
        let _turn = self.cors.asking.acquire().await;
        // Whoever had the turn before may have asked for the same.
        if let Some(rules) = self.cors.get(name) {
            return Ok(rules);
        }
        let asked = Instant::now();
        let rules: Rules = asked_for(&self.region, name).await?.into();
        self.cors.put(name, rules.clone(), asked);
        Ok(rules)
    }
}

async fn asked_for(region: &Region, name: &DatasetName) -> Result<Vec<CorsRule>, ApiError> {
    use client::Error::{Denied, Moved, NoSuchDataset};
    let rules = match region.dataset(name).await {
        Ok(dataset) => dataset.cors().await,
        Err(error) => Err(error),
    };
    match rules {
        Err(NoSuchDataset | Moved { .. } | Denied { .. }) => Ok(Vec::new()),
        rules => rules.map_err(ApiError::from),
    }
}

impl Front {
    /// The rules of a bucket that has some.
    pub(crate) async fn cors(&self, name: &DatasetName) -> Result<Vec<CorsRule>, ApiError> {
        let bucket = self.bucket(name).await?;
        let rules = bucket.dataset.cors().await;
        let rules = self.answer(name, rules).await?;
        match rules.is_empty() {
            true => Err(ApiError::NoSuchCorsConfiguration),
            false => Ok(rules),
        }
    }

    /// Sets the rules in place of those there are; none ends them.
    pub(crate) async fn set_cors(
        &self,
        name: &DatasetName,
        rules: Vec<CorsRule>,
    ) -> Result<(), ApiError> {
        let bucket = self.bucket(name).await?;
        let done = bucket.dataset.set_cors(rules).await;
        let done = self.answer(name, done).await;
        self.shared.cors.forget(name);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rules_are_held_for_a_moment_and_never_more_than_there_is_room_for() {
        let held = HeldRules::default();
        let name = |n: usize| {
            format!("bucket-{n}")
                .parse::<DatasetName>()
                .expect("a name")
        };
        let rules: Rules = vec![CorsRule::default()].into();
        held.put(&name(0), rules.clone(), Instant::now());
        assert_eq!(held.get(&name(0)), Some(rules.clone()));
        held.forget(&name(0));
        assert_eq!(held.get(&name(0)), None);
        held.put(&name(0), rules.clone(), Instant::now());
        tokio::time::advance(KNOWN_FOR).await;
        assert_eq!(held.get(&name(0)), None);
        for n in 0..=HELD_MAX {
            held.put(&name(n), rules.clone(), Instant::now());
        }
        assert!(held.held.lock().len() <= HELD_MAX);
    }
}
