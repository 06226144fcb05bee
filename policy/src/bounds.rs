//! What a role can never go beyond, whatever a policy says (docs/decisions/0008).
//!
//! Owns the bounds and the purposes of persons. In code and not in the text, so that no change of policy, however
//! well approved, lets an operator read customer data.

use proto::danger::{Switch, broken};
use proto::ids::Role;
use tlog::Purpose;

use crate::request::Action;

/// Purposes that only a person may state, and only with dual control.
pub const HUMAN_PURPOSES: [&str; 4] = [
    "investigation",
    "third-party-request",
    "legal-request",
    "support",
];

/// Whether a purpose is a person's: no gateway and no service may state it.
pub fn is_human(purpose: &Purpose) -> bool {
    HUMAN_PURPOSES.contains(&purpose.as_str())
}

/// Whether a policy may allow this at all.
pub fn role_may(role: Role, action: Action, purpose: &Purpose) -> bool {
    let unbound = broken(Switch::AnyonesPurpose) && matches!(role, Role::Gateway | Role::Client);
    let human = is_human(purpose) && !unbound;
    match role {
        // A service principal acts through a gateway, and never beyond it.
        Role::Gateway | Role::Service => !human && action != Action::Keys,
        Role::Client => !human,
        // An operator runs the region and must not, by any interface, read customer data.
        Role::Operator => !human && matches!(action, Action::Create | Action::Keys),
        // A person who opens, opens for a person's purpose, with dual control. Evidence begins with what there is: to
        // list is a service, and opens nothing.
        Role::Auditor => match human {
            true => action == Action::Read,
            false => action == Action::List,
        },
        Role::Node | Role::Kms | Role::Custodian => false,
    }
}

/// The same in words, for whoever runs into it.
pub(crate) fn in_words(role: Role) -> &'static str {
    match role {
        Role::Service => "a service principal administers no keys and states no person's purpose",
        Role::Gateway => "a gateway administers no keys and states no person's purpose",
        Role::Client => "a client states no person's purpose",
        Role::Operator => {
            "an operator creates datasets and administers keys, never reads or writes"
        }
        Role::Auditor => "an auditor lists, and reads for a person's purpose alone",
        Role::Node => "a storage node uses no keys",
        Role::Kms => "a KMS replica uses no keys on its own behalf",
        Role::Custodian => "a custodian holds a share and uses no keys",
    }
}
