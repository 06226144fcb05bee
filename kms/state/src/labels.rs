//! Aliases and tags of keys: what people call a key, and what they note on it.
//!
//! Owns their bounds and the table that finds a key by an alias. Refuses an alias that is another key's: it is taken
//! from that one first, so that no name ever leads to two keys, and each step is on record.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use proto::ids::DatasetId;
use proto::store::Reader;
use proto::v1::{KekRecord, KeyTag, KmsDone, LabelKey};
use serde::Serialize;
use tlog::Kind;

use crate::append::Applying;
use crate::apply::Stop;
use crate::changing::begin;
use crate::keys::KeyDetails;
use crate::layout;
use crate::refusal::Refusal;

/// Aliases of one key.
pub const ALIASES_MAX: usize = 16;
/// Bytes of an alias.
pub const ALIAS_BYTES_MAX: usize = 64;
/// Tags of one key.
pub const TAGS_MAX: usize = 32;
/// Bytes of a tag's name.
pub const TAG_NAME_BYTES_MAX: usize = 64;
/// Bytes of a tag's value.
pub const TAG_VALUE_BYTES_MAX: usize = 256;

#[derive(Serialize)]
struct LabelDetails {
    #[serde(flatten)]
    key: KeyDetails,
    aliases: Vec<String>,
    tags: BTreeMap<String, String>,
}

/// Whether text may be an alias: 1 to 64 of `a-z 0-9 - _ .`, the first a letter or digit.
pub fn is_alias(text: &str) -> bool {
    let bytes = text.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    bytes.first().is_some_and(plain)
        && bytes.len() <= ALIAS_BYTES_MAX
        && bytes
            .iter()
            .all(|byte| plain(byte) || matches!(byte, b'-' | b'_' | b'.'))
}

/// Whether a tag is within its bounds: a name of 1 to 64 bytes, a value of at most 256, no control character.
pub fn is_tag(tag: &KeyTag) -> bool {
    let plain = |text: &str| !text.chars().any(char::is_control);
    (1..=TAG_NAME_BYTES_MAX).contains(&tag.name.len())
        && tag.value.len() <= TAG_VALUE_BYTES_MAX
        && plain(&tag.name)
        && plain(&tag.value)
}

/// The dataset whose key has an alias.
pub fn by_alias(state: &dyn Reader, alias: &str) -> Option<DatasetId> {
    let bytes = state.value(&layout::alias(alias))?;
    Some(DatasetId::try_from(&bytes[..]).expect("state holds what this machine wrote"))
}

pub(crate) fn label(applying: &mut Applying<'_>, command: &LabelKey) -> Result<KmsDone, Stop> {
    let mut changing = match begin(applying, command)? {
        ControlFlow::Break(done) => return Ok(done),
        ControlFlow::Continue(changing) => changing,
    };
    let (aliases, tags) = labelled(&changing.key, command)?;
    let of_another = |alias: &&String| {
        by_alias(&*applying.state, alias).is_some_and(|owner| owner != changing.dataset)
    };
    if aliases.iter().any(|alias| of_another(&alias)) {
        return Err(Refusal::AliasTaken.into());
    }
    for alias in changing
        .key
        .aliases
        .iter()
        .filter(|held| !aliases.contains(held))
    {
        applying.state.delete(&layout::alias(alias));
    }
    for alias in &aliases {
        applying
            .state
            .put(&layout::alias(alias), &changing.dataset.0);
    }
    (changing.key.aliases, changing.key.tags) = (aliases, tags);
    let said = |key: &KekRecord| LabelDetails {
        key: KeyDetails::of(key),
        aliases: key.aliases.clone(),
        tags: key
            .tags
            .iter()
            .map(|tag| (tag.name.clone(), tag.value.clone()))
            .collect(),
    };
    Ok(changing.finish(applying, Kind::KeyLabelled, said))
}

/// Aliases and tags as they are after a change, each in order. What is removed goes first; a name that is not there is
/// removed already.
fn labelled(key: &KekRecord, command: &LabelKey) -> Result<(Vec<String>, Vec<KeyTag>), Refusal> {
    let mut aliases = key.aliases.clone();
    aliases.retain(|held| !command.remove_aliases.contains(held));
    for alias in &command.add_aliases {
        if !is_alias(alias) {
            return Err(Refusal::Malformed("an alias"));
        }
        aliases.push(alias.clone());
    }
    aliases.sort_unstable();
    aliases.dedup();
    let mut tags: BTreeMap<&str, &KeyTag> = key
        .tags
        .iter()
        .map(|tag| (tag.name.as_str(), tag))
        .collect();
    for name in &command.remove_tags {
        tags.remove(name.as_str());
    }
    for tag in &command.set_tags {
        if !is_tag(tag) {
            return Err(Refusal::Malformed("a tag"));
        }
        tags.insert(&tag.name, tag);
    }
    if aliases.len() > ALIASES_MAX || tags.len() > TAGS_MAX {
        return Err(Refusal::Malformed(
            "more aliases or tags than a key may have",
        ));
    }
    Ok((aliases, tags.into_values().cloned().collect()))
}
