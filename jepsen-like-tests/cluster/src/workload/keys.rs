//! Keys that are in use, and when they are not used any more.
//!
//! Owns the bounds that keep judging cheap: so many operations a key, so few of unknown outcome. A key is never used
//! again once it was replaced.

use checker::Op;
use parking_lot::Mutex;
use rand::Rng;

/// Outcomes of a key that may be unknown: the orders to try double with each.
const INFOS_MAX: u32 = 8;

/// A few keys at a time.
pub(super) struct Keys {
    prefix: &'static str,
    operations_max: u32,
    state: Mutex<State>,
}

struct State {
    next: u64,
    active: Vec<Used>,
}

struct Used {
    name: String,
    operations: u32,
    infos: u32,
}

impl Keys {
    pub(super) fn new(prefix: &'static str, count: usize, operations_max: u32) -> Self {
        let keys = Self {
            prefix,
            operations_max,
            state: Mutex::new(State {
                next: 0,
                active: Vec::new(),
            }),
        };
        for _ in 0..count {
            let mut state = keys.state.lock();
            let fresh = keys.fresh(&mut state);
            state.active.push(fresh);
        }
        keys
    }

    fn fresh(&self, state: &mut State) -> Used {
        state.next += 1;
        Used {
            // Of one length: no key is the beginning of another.
            name: format!("{}/{:06}", self.prefix, state.next),
            operations: 0,
            infos: 0,
        }
    }

    /// One of them, for one more operation.
    pub(super) fn pick(&self, rng: &mut impl Rng) -> String {
        let mut state = self.state.lock();
        let at = rng.random_range(0..state.active.len());
        let used = &state.active[at];
        if used.operations >= self.operations_max || used.infos >= INFOS_MAX {
            state.active[at] = self.fresh(&mut state);
        }
        state.active[at].operations += 1;
        state.active[at].name.clone()
    }

    /// An outcome on it is not known.
    pub(super) fn doubt(&self, name: &str) {
        let mut state = self.state.lock();
        if let Some(used) = state.active.iter_mut().find(|used| used.name == name) {
            used.infos += 1;
        }
    }
}

/// Keys on which something may have had effect, in order.
pub(super) fn touched(ops: &[Op], counts: impl Fn(&Op) -> bool) -> Vec<String> {
    let mut keys: Vec<String> = ops
        .iter()
        .filter(|op| op.may_count() && counts(op))
        .map(|op| op.key.clone())
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn keys_are_replaced_after_their_operations_or_doubts() {
        let mut rng = SmallRng::seed_from_u64(1);
        let keys = Keys::new("k", 1, 3);
        let picked: Vec<_> = (0..7).map(|_| keys.pick(&mut rng)).collect();
        assert_eq!(picked[2], "k/000001");
        assert_eq!(picked[3], "k/000002");
        assert_eq!(picked[6], "k/000003");
        (0..INFOS_MAX).for_each(|_| keys.doubt("k/000003"));
        assert_eq!(keys.pick(&mut rng), "k/000004");
        keys.doubt("k/000001");
    }
}
