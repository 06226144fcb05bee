//! The members that run now, by id.
//!
//! Owns the list that clients ask from: it changes while they do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use proto::ids::NodeId;
use rand::Rng;
use rand::rngs::StdRng;
use replica::Group;

/// Members that run. Clones are handles on the same list.
#[derive(Clone, Default)]
pub struct Roster(Arc<Mutex<BTreeMap<NodeId, Group>>>);

impl From<Vec<Group>> for Roster {
    fn from(groups: Vec<Group>) -> Self {
        let named = groups.into_iter().map(|group| (group.node_id(), group));
        Self(Arc::new(Mutex::new(named.collect())))
    }
}

impl Roster {
    /// A member runs.
    pub fn enter(&self, group: Group) {
        self.0.lock().insert(group.node_id(), group);
    }

    /// A member has ended.
    pub fn leave(&self, node: NodeId) {
        // Dropped outside the lock: what goes with it may look here.
        let left = self.0.lock().remove(&node);
        drop(left);
    }

    /// All of them, by id.
    pub fn groups(&self) -> Vec<Group> {
        self.0.lock().values().cloned().collect()
    }

    /// One of them.
    pub fn of(&self, node: NodeId) -> Option<Group> {
        self.0.lock().get(&node).cloned()
    }

    /// Any of them.
    pub fn pick(&self, rng: &mut StdRng) -> Option<Group> {
        let members = self.0.lock();
        let count = members.len();
        (count > 0)
            .then(|| members.values().nth(rng.random_range(0..count)).cloned())
            .flatten()
    }

    /// The member after `node` in a circle.
    pub fn after(&self, node: NodeId) -> Option<Group> {
        let members = self.0.lock();
        let next = members.range(NodeId(node.0 + 1)..).next();
        next.or_else(|| members.iter().next())
            .map(|(_, group)| group.clone())
    }

    /// The voters as one of the members sees them; it may be behind.
    pub fn voters(&self, rng: &mut StdRng) -> BTreeSet<NodeId> {
        self.pick(rng)
            .map(|group| group.status().voters.all())
            .unwrap_or_default()
    }
}
