//! Today's grants (docs/decisions/0008) as a policy text that decides exactly as they do.
//!
//! Owns the translation: one permit a grant, named by its position. Refuses a grant that the KMS refuses.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use proto::ids::{DatasetId, Identity, Role};
use proto::v1;
use tlog::Purpose;

use crate::request::Action;
use crate::shape::{POLICIES_MAX, TEXT_BYTES_MAX};
use crate::text::PolicyText;

/// Why grants are no policy text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantsError {
    /// A grant the KMS would refuse too.
    #[error("grant {at} has no valid {what}")]
    Grant {
        /// Its position.
        at: usize,
        /// Which part of it.
        what: &'static str,
    },
    /// They do not fit.
    #[error("the grants make more than {POLICIES_MAX} policies or {TEXT_BYTES_MAX} bytes")]
    TooMany,
}

impl PolicyText {
    /// The exact equivalent of grants, in their order.
    pub fn from_grants(grants: &[v1::Grant]) -> Result<Self, GrantsError> {
        let mut text =
            String::from("// Made from grants: one permit each, what none permits is denied.\n");
        for (at, grant) in grants.iter().enumerate() {
            let permit = permit(at, grant).map_err(|what| GrantsError::Grant { at, what })?;
            text.push_str(&permit);
            if text.len() > TEXT_BYTES_MAX || at >= POLICIES_MAX {
                return Err(GrantsError::TooMany);
            }
        }
        Ok(Self(text))
    }
}

/// None of the parts can hold a quote: each has parsed as an id of ours.
fn permit(at: usize, grant: &v1::Grant) -> Result<String, &'static str> {
    let principal = match grant.principal.strip_prefix("role:") {
        Some(role) => {
            let role: Role = role.parse().map_err(|_| "principal")?;
            format!("principal in Role::\"{}\"", role.as_str())
        }
        None => {
            let identity: Identity = grant.principal.parse().map_err(|_| "principal")?;
            format!("principal == Identity::\"{identity}\"")
        }
    };
    let resource = match grant.dataset.as_str() {
        "*" => "resource".to_owned(),
        id => {
            let id: DatasetId = id.parse().map_err(|_| "dataset")?;
            // One spelling only: to the KMS another one is another dataset, which does not exist.
            if id.to_string() != grant.dataset {
                return Err("dataset");
            }
            format!("resource == Dataset::\"{id}\"")
        }
    };
    let number = |number: &i32| {
        let action = v1::Action::try_from(*number).map_err(|_| "action")?;
        Action::try_from(action).map_err(|_| "action")
    };
    let actions: BTreeSet<Action> = grant.actions.iter().map(number).collect::<Result<_, _>>()?;
    if actions.is_empty() {
        return Err("actions");
    }
    let actions = list(actions.iter().map(|action| format!("Action::\"{action}\"")));
    let mut purposes = BTreeSet::new();
    for purpose in &grant.purposes {
        purposes.insert(purpose.parse::<Purpose>().map_err(|_| "purpose")?);
    }
    if purposes.is_empty() {
        purposes.insert(Purpose::service());
    }
    let purposes = list(purposes.iter().map(|purpose| format!("\"{purpose}\"")));
    let mut text = String::new();
    write!(
        text,
        "\n@id(\"grant-{at}\")\npermit ({principal}, action in {actions}, {resource})\n\
         when {{ {purposes}.contains(context.purpose) }};\n"
    )
    .expect("a string takes what it is given");
    Ok(text)
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}
