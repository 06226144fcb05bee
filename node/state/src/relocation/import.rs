//! One object of the source, taken or passed over.
//!
//! Owns the order of imports: the source's log index, tombstones included, whatever the order of arrival. Refuses
//! content that is not sealed under the destination's own key: what a source's keys open must not be stored here.
//!
//! The unit is what an overwrite replaces: the key, or with versioning the key and version id.

use proto::danger::{Switch, broken};
use proto::ids::{KekId, LogIndex};

/// What is known here of an object of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Known {
    /// Its log index there.
    pub index: LogIndex,
    /// Whether it is stored; if not, it is known to be gone.
    pub stored: bool,
}

/// One object as it is to be here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Import {
    /// Log index of the change in the source; for what a listing no longer has, of the listing.
    pub index: LogIndex,
    /// What it is to be.
    pub content: Content,
}

/// What an object is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Content {
    /// There, sealed anew under a lease of this KEK.
    Sealed(KekId),
    /// There, with nothing in it that a lease seals: a delete marker, a lock, settings; metadata, which has a key of its own.
    Unsealed,
    /// Gone.
    Tombstone,
}

/// What an import does to the state. The index becomes the known one with each but [`Effect::Nothing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Stores it, in place of what there is.
    Stores,
    /// Removes what there is, and remembers the tombstone while the relocation lasts.
    Removes,
    /// Nothing: this index or a later one is known.
    Nothing,
}

/// An object that is sealed under another key than the destination's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[error("sealed under KEK {0}, which is not the destination's")]
pub struct NotResealed(pub KekId);

/// Judges one import by what is known of the object. The caller holds it to the steps in which imports are taken.
pub fn import(known: Option<Known>, import: Import, kek: KekId) -> Result<Effect, NotResealed> {
    if let Content::Sealed(under) = import.content
        && under != kek
    {
        return Err(NotResealed(under));
    }
    let newer = known.is_none_or(|known| known.index < import.index);
    if !newer && !broken(Switch::ImportWithoutIndex) {
        return Ok(Effect::Nothing);
    }
    Ok(match import.content {
        Content::Sealed(_) | Content::Unsealed => Effect::Stores,
        Content::Tombstone => Effect::Removes,
    })
}
