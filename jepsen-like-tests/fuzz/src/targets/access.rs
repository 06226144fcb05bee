//! Access policy: a text in Cedar, as somebody proposes it.
//!
//! Besides no panic: a mistake's place is in the text, a role's bounds hold whatever the text says, an explanation
//! agrees with the decision, and the same text decides the same twice.

use policy::{Action, Policy, PolicyText, Request};
use proto::ids::{DatasetId, UnixMs};

use crate::{Memory, Shape, Source, Target};

pub(super) const ACCESS_POLICY: Target = Target {
    name: "access-policy",
    from: Source::Person,
    parses: &[
        "policy/src/text.rs: parse",
        "policy/src/shape.rs: statements",
        "policy/src/literals.rs: walk",
    ],
    shape: Shape::Bytes,
    len_max: 2048,
    // Cedar's syntax trees keep a node and a location for each level of its grammar.
    memory: Memory {
        fixed: 8 << 20,
        per_byte: 4 << 10,
    },
    check,
    seeds,
};

const SCOPE: &str = "permit (principal, action, resource) when { ";

fn check(bytes: &[u8]) {
    let Some((wrap, bytes)) = bytes.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    // Few random changes leave a scope whole; a condition by itself reaches further.
    let text = match wrap % 2 {
        0 => text.to_owned(),
        _ => format!("{SCOPE}{text} }};"),
    };
    match PolicyText::parse(&text) {
        Ok(policy) => decide(&text, &policy),
        Err(errors) => {
            let lines: Vec<_> = text.split('\n').collect();
            assert!(!errors.problems().is_empty());
            for problem in errors.problems() {
                let line = lines.get(problem.place.line - 1).expect("its line exists");
                assert!(
                    problem.place.column <= line.chars().count() + 1,
                    "{problem}"
                );
            }
        }
    }
}

fn decide(text: &str, policy: &Policy) {
    let again = PolicyText::parse(text).expect("it parsed before");
    for request in requests() {
        let decision = policy.decide(&request);
        assert_eq!(decision, again.decide(&request), "the same twice");
        let explained = policy.explain(&request);
        assert_eq!(explained.decision, decision);
        let role = request.principal.role();
        let bound = policy::role_may(role, request.action, &request.purpose);
        assert!(bound || !decision.allowed, "{request:?}");
        if decision.allowed {
            assert!(explained.forbids.is_empty() && !explained.permits.is_empty());
            assert!(decision.errors.is_empty());
        }
    }
    assert!(policy.warnings().len() <= policy.len());
}

fn requests() -> Vec<Request> {
    let mut requests = Vec::new();
    for principal in ["client/cti", "auditor/anna", "operator/o", "node/n-1"] {
        for (action, purpose) in [
            (Action::Read, "service"),
            (Action::Read, "investigation"),
            (Action::Keys, "service"),
        ] {
            requests.push(Request {
                principal: format!("spiffe://ch-zrh/{principal}")
                    .parse()
                    .expect("an identity"),
                action,
                dataset: Some(DatasetId([1; 16])),
                purpose: purpose.parse().expect("a purpose"),
                case: None,
                recipient_region: "ch-zrh".parse().expect("a region"),
                at: UnixMs(1_795_687_200_000),
            });
        }
    }
    requests
}

fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "@id(\"cti\")\npermit (principal == Identity::\"spiffe://ch-zrh/client/cti\", action in [Action::\"read\", \
         Action::\"list\"],\n resource == Dataset::\"01010101010101010101010101010101\")\n\
         when { [\"service\", \"multipart\"].contains(context.purpose) };",
        "// hours\nforbid (principal in Role::\"auditor\", action, resource is Dataset)\n\
         unless { context has case && context.case like \"2026-*\" && context.time.hour < 18 };",
        "permit (principal is Identity in Role::\"client\", action == Action::\"read\", resource in Region::\"ch-zrh\");",
    ];
    let conditions = [
        "context.time.unix_ms * 9223372036854775807 > 0",
        "if principal.name == \"a\" then context.purpose != \"b\" else !(context.recipient_region == \"ch-zrh\")",
        "{a: [1, 2], b: {c: true}}.b.c || context[\"purpose\"] like \"*\"",
    ];
    let raw = texts.iter().map(|text| [&[0], text.as_bytes()].concat());
    let wrapped = conditions
        .iter()
        .map(|text| [&[1], text.as_bytes()].concat());
    raw.chain(wrapped).collect()
}
