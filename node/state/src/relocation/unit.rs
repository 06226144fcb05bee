//! What an overwrite replaces in the source: the unit in which a dataset moves.
//!
//! Owns which units there are. An overwrite of a null version leaves no tombstone, only its successor, so that the key
//! alone names it; a version made under versioning goes only by its id. Refuses to move what serves nobody yet: uploads in
//! parts under way end with the source.

use proto::ids::{ObjectKey, ObjectVersionId};

use super::image::Position;
use super::import::Import;

/// One thing that moves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// The dataset's settings.
    Settings,
    /// An object's null version: where versioning never was on its only one.
    Null(ObjectKey),
    /// Any other version of an object.
    Version(ObjectKey, ObjectVersionId),
}

impl Unit {
    /// The object's key; settings have none.
    pub fn key(&self) -> Option<&ObjectKey> {
        match self {
            Self::Settings => None,
            Self::Null(key) | Self::Version(key, _) => Some(key),
        }
    }

    /// Where an import of it stands in a listing.
    pub(super) fn place(&self, import: &Import) -> Option<Position> {
        let key = self.key()?.clone();
        Some(Position::Within(key, import.index))
    }
}
