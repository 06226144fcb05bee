//! Unwrapped keys, kept for a moment: a bounded set with a short life.
//!
//! Owns how long and how many. Refuses to keep a key past [`TTL`], or more than its bound: the oldest goes first.
//! Values are dropped, and so wiped, when they leave; a user of one holds it for the length of one request.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long a key stays unwrapped after it was needed to be unwrapped.
pub(crate) const TTL: Duration = Duration::from_secs(60);

/// Keys by what names them.
pub(crate) struct Slots<K, V> {
    bound: usize,
    held: Mutex<HashMap<K, (Instant, Arc<V>)>>,
}

impl<K: Eq + Hash + Copy, V> Slots<K, V> {
    /// Room for `bound` keys.
    pub(crate) fn new(bound: usize) -> Self {
        Self {
            bound,
            held: Mutex::new(HashMap::new()),
        }
    }

    /// The key at `name`, or what `unwrap` makes of it. Two that miss at once both unwrap; one copy stays.
    pub(crate) fn take_or<E>(
        &self,
        name: K,
        now: Instant,
        unwrap: impl FnOnce() -> Result<V, E>,
    ) -> Result<Arc<V>, E> {
        if let Some((since, key)) = self.held.lock().get(&name)
            && now.duration_since(*since) < TTL
        {
            return Ok(key.clone());
        }
        let key = Arc::new(unwrap()?);
        let mut held = self.held.lock();
        if held.len() >= self.bound && !held.contains_key(&name) {
            held.retain(|_, (since, _)| now.duration_since(*since) < TTL);
            if held.len() >= self.bound {
                let oldest = held
                    .iter()
                    .min_by_key(|(_, (since, _))| *since)
                    .map(|(name, _)| *name);
                oldest.and_then(|oldest| held.remove(&oldest));
            }
        }
        held.insert(name, (now, key.clone()));
        Ok(key)
    }

    /// Drops what has outlived [`TTL`].
    pub(crate) fn expire(&self, now: Instant) {
        self.held
            .lock()
            .retain(|_, (since, _)| now.duration_since(*since) < TTL);
    }

    /// Drops everything.
    pub(crate) fn clear(&self) {
        self.held.lock().clear();
    }

    /// Keys held.
    pub(crate) fn len(&self) -> usize {
        self.held.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(slots: &Slots<u32, u32>, name: u32, at: Instant) {
        slots.take_or::<()>(name, at, || Ok(name)).expect("made");
    }

    #[test]
    fn a_key_is_unwrapped_again_after_its_time() {
        let (slots, start) = (Slots::new(4), Instant::now());
        put(&slots, 1, start);
        let kept = slots
            .take_or::<()>(1, start + TTL / 2, || Err(()))
            .expect("still there");
        assert_eq!(*kept, 1);
        assert_eq!(
            slots.take_or(1, start + TTL, || Err("made anew")),
            Err("made anew")
        );
        slots.expire(start + TTL);
        assert_eq!(slots.len(), 0);
    }

    #[test]
    fn the_oldest_makes_room_and_the_bound_holds() {
        let (slots, start) = (Slots::new(2), Instant::now());
        for name in 1..=3u32 {
            put(&slots, name, start + Duration::from_secs(name.into()));
        }
        assert_eq!(slots.len(), 2);
        let now = start + Duration::from_secs(4);
        assert_eq!(slots.take_or(1, now, || Err("gone")), Err("gone"));
        assert!(slots.take_or(3, now, || Err("gone")).is_ok());
        slots.clear();
        assert_eq!(slots.len(), 0);
    }
}
