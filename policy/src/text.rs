//! From text to policy: parsed, named, and strictly validated against the schema.
//!
//! Owns every reason to refuse a text. What Cedar merely warns of is an error here: two people approve a text by
//! reading it, so one that cannot apply, or that looks like what it is not, says something else than they read.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use cedar_policy::{
    ParseErrors, PolicyId, PolicySet, ValidationError, ValidationMode, ValidationWarning,
};
use miette::Diagnostic;

use crate::decide::Index;
use crate::errors::{PolicyErrors, Problem};
use crate::literals::Literals;
use crate::place::Place;
use crate::{literals, schema, shape};

/// Bytes of a policy's `@id`.
const NAME_BYTES_MAX: usize = 128;

/// A policy text as it is kept and approved. Holding one says nothing of its validity; [`PolicyText::parse`] does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyText(pub(crate) String);

impl PolicyText {
    /// Parses and validates a text.
    pub fn parse(text: &str) -> Result<Policy, PolicyErrors> {
        let starts = shape::statements(text)?;
        let parsed = PolicySet::from_str(text).map_err(|errors| of_parser(text, &errors))?;
        let mut problems = Vec::new();
        for template in parsed.templates() {
            let place = place_of(text, &starts, template.id());
            problems.push(
                Problem::new(place, "a template: it is for somebody yet to be named")
                    .hint("write the identity, role or dataset in the place of the slot"),
            );
        }
        let statements = named(text, &starts, &parsed, &mut problems);
        let policies = statements.iter().map(|statement| statement.policy.clone());
        let set = match PolicySet::from_policies(policies) {
            Ok(set) if problems.is_empty() => set,
            // Two of one name, told already.
            _ => return Err(refused(problems)),
        };
        validate(text, &statements, &set, &mut problems);
        for statement in &statements {
            literals::check(text, statement, &mut problems);
        }
        match PolicyErrors::of(problems) {
            Some(errors) => Err(errors),
            None => Ok(Policy {
                index: Index::build(&statements),
                statements,
            }),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A valid policy text, ready to decide.
#[derive(Debug, Clone)]
pub struct Policy {
    pub(crate) statements: Vec<Statement>,
    pub(crate) index: Index,
}

impl Policy {
    /// How many statements it has.
    pub fn len(&self) -> usize {
        self.statements.len()
    }

    /// Whether it says nothing, and so denies everything.
    pub fn is_empty(&self) -> bool {
        self.statements.is_empty()
    }

    /// The names of its statements with their places, in the order of the text.
    pub fn names(&self) -> impl Iterator<Item = (&str, Place)> {
        self.statements
            .iter()
            .map(|statement| (statement.name.as_str(), statement.place))
    }
}

/// One `permit` or `forbid`.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    /// Its `@id`, or `policy<n>` by its position from 0.
    pub(crate) name: String,
    pub(crate) place: Place,
    /// Bytes of the text that are this statement.
    pub(crate) span: std::ops::Range<usize>,
    pub(crate) policy: cedar_policy::Policy,
    pub(crate) literals: Literals,
}

fn refused(problems: Vec<Problem>) -> PolicyErrors {
    PolicyErrors::of(problems)
        .unwrap_or_else(|| Problem::new(Place::START, "the text is no set of policies").into())
}

/// Cedar numbers the statements of a text from 0.
fn position(id: &PolicyId) -> Option<usize> {
    let text: &str = id.as_ref();
    text.strip_prefix("policy")?.parse().ok()
}

fn place_of(text: &str, starts: &[usize], id: &PolicyId) -> Place {
    let start = position(id).and_then(|at| starts.get(at));
    start.map_or(Place::START, |start| Place::of(text, *start))
}

/// The statements in order, each under the name its author gave it.
fn named(
    text: &str,
    starts: &[usize],
    parsed: &PolicySet,
    problems: &mut Vec<Problem>,
) -> Vec<Statement> {
    let in_order: BTreeMap<usize, &cedar_policy::Policy> = parsed
        .policies()
        .filter_map(|policy| Some((position(policy.id())?, policy)))
        .collect();
    let mut names = BTreeSet::new();
    let mut statements = Vec::with_capacity(in_order.len());
    for (at, policy) in in_order {
        let start = starts.get(at).copied().unwrap_or(0);
        let end = starts.get(at + 1).copied().unwrap_or(text.len());
        let place = Place::of(text, start);
        let name = match policy.annotation("id") {
            Some(name) => name.to_owned(),
            None => policy.id().to_string(),
        };
        let plain = !name.is_empty()
            && name.len() <= NAME_BYTES_MAX
            && name.bytes().all(|byte| byte.is_ascii_graphic());
        if !plain {
            problems.push(Problem::new(place, "its @id is no name").hint(format!(
                "1 to {NAME_BYTES_MAX} printable ASCII characters without spaces"
            )));
        } else if !names.insert(name.clone()) {
            problems.push(
                Problem::new(place, format!("a second policy named {name}"))
                    .hint("records name the policy that decided, so each @id stands once"),
            );
        }
        let policy = policy.new_id(PolicyId::new(&name));
        statements.push(Statement {
            literals: Literals::of(&policy),
            name,
            place,
            span: start..end,
            policy,
        });
    }
    statements
}

fn validate(text: &str, statements: &[Statement], set: &PolicySet, problems: &mut Vec<Problem>) {
    let result = schema::validator().validate(set, ValidationMode::Strict);
    let starts: BTreeMap<&str, Place> = statements
        .iter()
        .map(|statement| (statement.name.as_str(), statement.place))
        .collect();
    let errors = result
        .validation_errors()
        .map(|error| (error.policy_id(), error as &dyn Diagnostic, hint_of(error)));
    let warnings = result.validation_warnings().map(|warning| {
        let hint = match warning {
            ValidationWarning::ImpossiblePolicy(_)
            | ValidationWarning::InvalidActionApplication(_) => {
                "it can never apply: correct it, or take it out"
            }
            _ => "write it in plain ASCII: a reader could take it for something else",
        };
        (
            warning.policy_id(),
            warning as &dyn Diagnostic,
            Some(hint.to_owned()),
        )
    });
    for (id, diagnostic, hint) in errors.chain(warnings) {
        let name: &str = id.as_ref();
        let start = starts.get(name).copied().unwrap_or(Place::START);
        let mut problem = of_diagnostic(text, start, diagnostic, hint).policy(name);
        // Cedar begins with the name, which is told beside.
        if let Some(rest) = problem
            .message
            .strip_prefix(&format!("for policy `{name}`, "))
        {
            problem.message = rest.to_owned();
        }
        problems.push(problem);
    }
}

fn of_parser(text: &str, errors: &ParseErrors) -> PolicyErrors {
    let problems = errors
        .iter()
        .map(|error| of_diagnostic(text, Place::START, error, None))
        .collect();
    refused(problems)
}

fn of_diagnostic(
    text: &str,
    start: Place,
    diagnostic: &dyn Diagnostic,
    hint: Option<String>,
) -> Problem {
    let label = diagnostic.labels().and_then(|mut labels| labels.next());
    let place = label
        .as_ref()
        .map_or(start, |label| Place::of(text, label.offset()));
    let mut message = diagnostic.to_string();
    if let Some(said) = label.as_ref().and_then(|label| label.label()) {
        message = format!("{message}: {said}");
    }
    let hint = hint.or_else(|| diagnostic.help().map(|help| help.to_string()));
    Problem {
        hint,
        ..Problem::new(place, message)
    }
}

/// What this schema offers in the place of what was written.
fn hint_of(error: &ValidationError) -> Option<String> {
    let hint = match error {
        ValidationError::UnrecognizedActionId(_) => {
            "actions are create, list, read, write and keys: Action::\"read\""
        }
        ValidationError::UnrecognizedEntityType(_) => {
            "types are Identity, Role, Dataset, Region and Action"
        }
        ValidationError::InvalidEnumEntity(_) => {
            "roles are node, kms, gateway, client, operator, custodian, auditor and service"
        }
        ValidationError::UnsafeOptionalAttributeAccess(_) => {
            "a request may come without it: write `context has case && ...` before it"
        }
        ValidationError::UnsafeAttributeAccess(_) => {
            "there is context.purpose, context.case, context.recipient_region, context.time.unix_ms, \
             .weekday, .hour, .minute, and principal.name"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}
