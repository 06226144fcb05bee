//! What a valid text may still have got wrong: said to whoever checks it, refused by nobody.

use cedar_policy::{Effect, PrincipalConstraint};
use proto::ids::{Identity, Role};

use crate::bounds::{self, HUMAN_PURPOSES};
use crate::decide::actions;
use crate::errors::Problem;
use crate::schema::Kind;
use crate::text::{Policy, Statement};

impl Policy {
    /// Whether it speaks of service principals, which builds from before them cannot read.
    pub fn names_service_principals(&self) -> bool {
        let of_service = |role: Option<Role>| role == Some(Role::Service);
        self.statements.iter().any(|statement| {
            let mut roles = statement.literals.roles.iter();
            let mut identities = statement.literals.identities.iter();
            roles.any(|role| of_service(role.parse().ok()))
                || identities
                    .any(|text| of_service(text.parse().ok().map(|id: Identity| id.role())))
        })
    }

    /// Permits that can have no effect, and permits for whatever purpose is stated.
    pub fn warnings(&self) -> Vec<Problem> {
        self.statements.iter().filter_map(warning).collect()
    }
}

fn warning(statement: &Statement) -> Option<Problem> {
    if statement.policy.effect() == Effect::Forbid {
        return None;
    }
    let say = |message: &str| Problem::new(statement.place, message).policy(&statement.name);
    let roles = roles(&statement.policy.principal_constraint());
    if !roles.iter().any(|role| has_effect(statement, *role)) {
        let words = roles
            .first()
            .map_or("no role fits it", |role| bounds::in_words(*role));
        let message = "it permits nothing that its principal's role may ever do";
        return Some(say(message).hint(words));
    }
    if !statement.literals.reads.contains("purpose") {
        let message = "it permits whatever purpose is stated, as far as the role may state it";
        return Some(say(message).hint("add: when { context.purpose == \"service\" }"));
    }
    None
}

/// Whether the bounds leave anything of it: for the purposes it names, and for others.
fn has_effect(statement: &Statement, role: Role) -> bool {
    let named = statement.literals.purposes.iter().map(String::as_str);
    let others = HUMAN_PURPOSES.into_iter().chain(["service"]);
    let purposes: Vec<_> = named
        .chain(others)
        .filter_map(|purpose| purpose.parse().ok())
        .collect();
    actions(&statement.policy.action_constraint())
        .into_iter()
        .any(|action| {
            purposes
                .iter()
                .any(|purpose| bounds::role_may(role, action, purpose))
        })
}

/// The roles that a scope lets through.
pub(crate) fn roles(constraint: &PrincipalConstraint) -> Vec<Role> {
    let uid = match constraint {
        PrincipalConstraint::Any | PrincipalConstraint::Is(_) => return Role::ALL.to_vec(),
        PrincipalConstraint::Eq(uid)
        | PrincipalConstraint::In(uid)
        | PrincipalConstraint::IsIn(_, uid) => uid,
    };
    let id: &str = uid.id().as_ref();
    let role = match Kind::of(uid) {
        Some(Kind::Role) => id.parse().ok(),
        _ => id.parse().ok().map(|identity: Identity| identity.role()),
    };
    role.into_iter().collect()
}
