//! What becomes of a replica's word that it erased what was ended.
//!
//! Owns the rule that a word is of the last end there is, and that a key is waited for until every replica gave one of
//! its end or a later one.

use std::collections::BTreeSet;

use proto::ids::{DatasetId, Role};
use proto::v1::{KmsDone, KmsRefusal};
use tlog::{Kind, Purpose};

use super::model::{Judging, Model, Ruled, identity};

impl Model {
    /// Replicas that have not given their word of a key's end, by name.
    pub(super) fn waited_for(&self, ended: u64) -> BTreeSet<String> {
        let replicas = self.enrolled.iter().filter(|(name, _)| {
            identity(name).is_some_and(|identity| identity.role() == Role::Kms)
        });
        let silent = replicas.filter(|(_, enrolment)| {
            let said = self.erased.get(&enrolment.node_id);
            said.copied().unwrap_or_default() < ended
        });
        silent.map(|(name, _)| name.clone()).collect()
    }
}

impl Judging<'_> {
    /// A leaf ends something of a key.
    pub(super) fn ended(&mut self, dataset: &DatasetId, leaf: u64) {
        self.model.ended = Some(leaf);
        if let Some(key) = self.model.keys.get_mut(dataset) {
            key.ended = leaf;
        }
    }

    pub(super) fn confirm_erased(&mut self, through: u64) -> Ruled<KmsDone> {
        self.of_role(Role::Kms)?;
        if self.model.ended != Some(through) {
            return Err(KmsRefusal::WrongState.into());
        }
        let member = self.model.enrolled[&self.command.requester].node_id;
        if self.model.erased.get(&member) == Some(&through) {
            return Ok(self.done(0));
        }
        let members: BTreeSet<u64> = self
            .model
            .enrolled
            .iter()
            .filter(|(name, _)| identity(name).is_some_and(|id| id.role() == Role::Kms))
            .map(|(_, enrolment)| enrolment.node_id)
            .collect();
        self.model.erased.retain(|id, _| members.contains(id));
        self.model.erased.insert(member, through);
        let (kind, service) = (Kind::KeysErased, Purpose::service());
        let leaf = self.append(kind, service, None, self.requester());
        Ok(self.done(leaf))
    }
}
