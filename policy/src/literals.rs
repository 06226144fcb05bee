//! The literals of a policy: whom and what it names.
//!
//! Owns reading them out of Cedar's JSON form, and the check that each is one that a request can have. Refuses a
//! purpose, an identity, a dataset or a region in a spelling that no request has: it would match nothing, silently.

use std::collections::BTreeSet;

use cedar_policy::Policy;
use proto::ids::{DatasetId, Identity, RegionId};
use serde_json::Value;
use tlog::Purpose;

use crate::errors::Problem;
use crate::place::Place;
use crate::schema::Kind;
use crate::text::Statement;

/// What one policy names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Literals {
    pub(crate) identities: BTreeSet<String>,
    pub(crate) roles: BTreeSet<String>,
    pub(crate) datasets: BTreeSet<String>,
    pub(crate) regions: BTreeSet<String>,
    pub(crate) purposes: BTreeSet<String>,
    pub(crate) cases: BTreeSet<String>,
    pub(crate) recipient_regions: BTreeSet<String>,
    /// Every number, whatever it is compared with.
    pub(crate) numbers: BTreeSet<i64>,
    /// Attributes of the context and of time that it reads.
    pub(crate) reads: BTreeSet<String>,
    /// Whether it matches by pattern somewhere.
    pub(crate) patterns: bool,
}

impl Literals {
    pub(crate) fn of(policy: &Policy) -> Self {
        let mut found = Self::default();
        for uid in policy.entity_literals() {
            let id: &str = uid.id().as_ref();
            let kind = match Kind::of(&uid) {
                Some(Kind::Identity) => &mut found.identities,
                Some(Kind::Dataset) => &mut found.datasets,
                Some(Kind::Region) => &mut found.regions,
                Some(Kind::Role) => &mut found.roles,
                Some(Kind::Action) | None => continue,
            };
            kind.insert(id.to_owned());
        }
        // A static policy always has a JSON form.
        if let Ok(json) = policy.to_json() {
            found.walk(&json["conditions"]);
        }
        found
    }

    /// Takes in what another policy names.
    pub(crate) fn join(&mut self, other: &Self) {
        let pairs = [
            (&mut self.identities, &other.identities),
            (&mut self.roles, &other.roles),
            (&mut self.datasets, &other.datasets),
            (&mut self.regions, &other.regions),
            (&mut self.purposes, &other.purposes),
            (&mut self.cases, &other.cases),
            (&mut self.recipient_regions, &other.recipient_regions),
            (&mut self.reads, &other.reads),
        ];
        for (ours, theirs) in pairs {
            ours.extend(theirs.iter().cloned());
        }
        self.numbers.extend(&other.numbers);
        self.patterns |= other.patterns;
    }

    // Depth is bounded by `shape`.
    pub(crate) fn walk(&mut self, json: &Value) {
        match json {
            Value::Array(items) => items.iter().for_each(|item| self.walk(item)),
            Value::Object(object) => {
                for (key, value) in object {
                    match key.as_str() {
                        "Value" => self.numbers.extend(value.as_i64()),
                        "." | "has" => self.read(value),
                        "like" => self.patterns = true,
                        "==" | "!=" | "contains" | "containsAny" | "containsAll" | "in" => {
                            self.compared(&value["left"], &value["right"]);
                            self.compared(&value["right"], &value["left"]);
                        }
                        _ => {}
                    }
                    self.walk(value);
                }
            }
            _ => {}
        }
    }

    fn read(&mut self, access: &Value) {
        if let Some(attribute) = access["attr"].as_str() {
            self.reads.insert(attribute.to_owned());
        }
    }

    /// `attribute`, where it is one of the context, is compared with `with`.
    fn compared(&mut self, attribute: &Value, with: &Value) {
        let access = &attribute["."];
        let of_context = access["left"]["Var"] == "context";
        let attribute = access["attr"].as_str().filter(|_| of_context);
        let into = match attribute {
            Some("purpose") => &mut self.purposes,
            Some("case") => &mut self.cases,
            Some("recipient_region") => &mut self.recipient_regions,
            _ => return,
        };
        strings(with, into);
    }
}

/// The strings of a literal or of a set of them.
fn strings(json: &Value, into: &mut BTreeSet<String>) {
    if let Some(text) = json["Value"].as_str() {
        into.insert(text.to_owned());
    }
    for item in json["Set"].as_array().into_iter().flatten() {
        strings(item, into);
    }
}

/// Says which literals no request can have.
pub(crate) fn check(text: &str, statement: &Statement, problems: &mut Vec<Problem>) {
    let found = &statement.literals;
    let mut say = |literal: &str, what: &str, hint: &str| {
        let within = &text[statement.span.clone()];
        let place = match within.find(&format!("\"{literal}\"")) {
            Some(at) => Place::of(text, statement.span.start + at),
            None => statement.place,
        };
        let message = format!("{literal:?} is no {what}, so this never matches");
        problems.push(
            Problem::new(place, message)
                .policy(&statement.name)
                .hint(hint),
        );
    };
    for literal in &found.identities {
        if !parses_to_itself::<Identity>(literal) {
            say(literal, "identity", "spiffe://<region>/<role>/<name>");
        }
    }
    for literal in &found.datasets {
        if !parses_to_itself::<DatasetId>(literal) {
            let hint = "the dataset's id, 32 hexadecimal digits in lower case; `reduit dataset info` prints it";
            say(literal, "dataset id", hint);
        }
    }
    for literal in found.regions.iter().chain(&found.recipient_regions) {
        if !parses_to_itself::<RegionId>(literal) {
            say(literal, "region", "such as ch-zrh");
        }
    }
    for literal in &found.purposes {
        if !parses_to_itself::<Purpose>(literal) {
            say(literal, "purpose", "1 to 64 of a-z, 0-9 and inner hyphens");
        }
    }
}

fn parses_to_itself<T: std::str::FromStr + ToString>(literal: &str) -> bool {
    literal
        .parse::<T>()
        .is_ok_and(|parsed| parsed.to_string() == literal)
}
