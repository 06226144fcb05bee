//! The vocabulary of policy texts: the Cedar schema, and the names of its types.
//!
//! Owns the one schema that every text is strictly validated against. It is part of what a text means, so it changes
//! with a feature level alone.

use std::sync::LazyLock;

use cedar_policy::{EntityId, EntityTypeName, EntityUid, Schema, Validator};

/// The schema, in Cedar's schema format.
pub const SCHEMA: &str = include_str!("schema.cedarschema");

/// An entity type of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Role,
    Identity,
    Dataset,
    Region,
    Action,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [
        Self::Role,
        Self::Identity,
        Self::Dataset,
        Self::Region,
        Self::Action,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Role => "Role",
            Self::Identity => "Identity",
            Self::Dataset => "Dataset",
            Self::Region => "Region",
            Self::Action => "Action",
        }
    }

    pub(crate) fn of(uid: &EntityUid) -> Option<Self> {
        let name = uid.type_name().basename();
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    pub(crate) fn type_name(self) -> &'static EntityTypeName {
        &NAMES[self as usize]
    }

    pub(crate) fn uid(self, id: &str) -> EntityUid {
        EntityUid::from_type_name_and_id(self.type_name().clone(), EntityId::new(id))
    }
}

/// Parsed once: a name costs more to parse than a decision to take.
static NAMES: LazyLock<[EntityTypeName; 5]> =
    LazyLock::new(|| Kind::ALL.map(|kind| kind.as_str().parse().expect("names of ours are names")));

static VALIDATOR: LazyLock<Validator> = LazyLock::new(|| {
    let (schema, warnings) =
        Schema::from_cedarschema_str(SCHEMA).expect("the schema of this build parses");
    debug_assert_eq!(warnings.count(), 0);
    Validator::new(schema)
});

pub(crate) fn validator() -> &'static Validator {
    &VALIDATOR
}
