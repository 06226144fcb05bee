//! What becomes of a change of a key's aliases and tags.
//!
//! Owns the rule that an alias leads to one key, as a set of names for each.

use prost::Message as _;
use proto::v1::{KmsDone, KmsRefusal};
use tlog::Kind;

use super::model::{Judging, Ruled, dataset_id};

impl Judging<'_> {
    pub(super) fn label(&mut self, change: &proto::v1::LabelKey) -> Ruled<KmsDone> {
        let bare = proto::v1::LabelKey {
            state_version: 0,
            ..change.clone()
        };
        let asked = self.change_asked("label", &bare.encode_to_vec());
        if let Some(leaf) = self.changed_before(&change.request_id, &asked)? {
            return Ok(self.of_key(&dataset_id(&change.dataset_id)?, leaf));
        }
        let dataset = self.unmoved(&change.dataset_id, change.state_version)?;
        let (purpose, actor) = self.asked_for(change.claim.as_ref())?;
        let key = self.key(&dataset)?;
        let (mut aliases, mut tags) = (key.aliases.clone(), key.tags.clone());
        for alias in &change.remove_aliases {
            aliases.remove(alias);
        }
        for name in &change.remove_tags {
            tags.remove(name);
        }
        aliases.extend(change.add_aliases.iter().cloned());
        for tag in &change.set_tags {
            tags.insert(tag.name.clone(), tag.value.clone());
        }
        let malformed = aliases.iter().any(|alias| alias.contains(' '))
            || tags.contains_key("")
            || aliases.len() > 16
            || tags.len() > 32;
        if malformed {
            return Err(KmsRefusal::Malformed.into());
        }
        let of_others = self
            .model
            .keys
            .iter()
            .filter(|(other, _)| **other != dataset);
        if of_others
            .flat_map(|(_, other)| &other.aliases)
            .any(|taken| aliases.contains(taken))
        {
            return Err(KmsRefusal::AliasTaken.into());
        }
        let key = self.key(&dataset)?;
        (key.aliases, key.tags) = (aliases, tags);
        key.state_version += 1;
        let leaf = self.append(Kind::KeyLabelled, purpose, Some(&dataset), actor);
        self.remember_change(&change.request_id, asked, leaf);
        Ok(self.of_key(&dataset, leaf))
    }
}
