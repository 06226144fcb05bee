use policy::{Action, Request};
use proto::ids::{DatasetId, UnixMs};

use super::parse;

const TEXT: &str = r#"@id("cti-service")
permit (principal == Identity::"spiffe://ch-zrh/client/cti", action in [Action::"read", Action::"list"],
        resource == Dataset::"01010101010101010101010101010101")
when { context.purpose == "service" };
@id("investigators")
permit (principal in Role::"auditor", action == Action::"read", resource)
when { context.purpose == "investigation" && context has case && context.case like "2026-*" && context.time.hour < 18 };
@id("nothing-abroad")
forbid (principal, action, resource) unless { context.recipient_region == "ch-zrh" };
@id("overflows")
forbid (principal, action, resource == Dataset::"02020202020202020202020202020202")
when { context.time.unix_ms * 9223372036854775807 > 0 };
"#;

fn request() -> Request {
    Request {
        principal: "spiffe://ch-zrh/client/cti".parse().unwrap(),
        action: Action::Read,
        dataset: Some(DatasetId([1; 16])),
        purpose: "service".parse().unwrap(),
        case: None,
        recipient_region: "ch-zrh".parse().unwrap(),
        at: UnixMs(1_795_687_200_000),
    }
}

fn said(request: &Request) -> String {
    let policy = parse(TEXT);
    let explanation = policy.explain(request);
    assert_eq!(explanation.decision, policy.decide(request));
    explanation.to_string()
}

fn holds(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}

#[test]
fn a_yes_names_its_policy() {
    let text = said(&request());
    holds(
        &text,
        &["asks to read dataset 0101", "for service", "at 10:00 UTC"],
    );
    holds(&text, &["ALLOWED", "permitted by cti-service at 1:1"]);
    assert!(!text.contains("investigators"), "{text}");
}

#[test]
fn a_forbid_is_named_with_what_it_overrules() {
    let text = said(&Request {
        recipient_region: "de-fra".parse().unwrap(),
        ..request()
    });
    holds(
        &text,
        &[
            "DENIED",
            "forbidden by nothing-abroad at 8:1",
            "would be permitted by cti-service",
        ],
    );
}

#[test]
fn a_near_miss_is_named_with_what_it_failed_by() {
    let text = said(&Request {
        action: Action::Write,
        ..request()
    });
    holds(
        &text,
        &[
            "DENIED: no policy permits it",
            "nearly: cti-service at 1:1",
            "it is for the actions",
        ],
    );
    assert!(!text.contains("investigators"), "only the nearest: {text}");
    let text = said(&Request {
        purpose: "multipart".parse().unwrap(),
        ..request()
    });
    holds(
        &text,
        &[
            "nearly: cti-service",
            "it takes context.purpose == \"service\"",
            "here purpose is multipart",
        ],
    );
    let text = said(&Request {
        dataset: Some(DatasetId([3; 16])),
        ..request()
    });
    holds(&text, &["nearly: cti-service", "it is for dataset 0101"]);
    let late = Request {
        principal: "spiffe://ch-zrh/auditor/anna".parse().unwrap(),
        purpose: "investigation".parse().unwrap(),
        case: Some("2026-17".to_owned()),
        at: UnixMs(1_795_687_200_000 + 12 * 3_600_000),
        ..request()
    };
    let text = said(&late);
    holds(
        &text,
        &[
            "nearly: investigators",
            "context.time.hour < 18",
            "here hour is 22",
        ],
    );
    assert!(!text.contains("case like"), "only what failed: {text}");
    let text = said(&Request { case: None, ..late });
    holds(
        &text,
        &[
            "nearly: investigators",
            "context has case",
            "case is not stated",
        ],
    );
}

#[test]
fn a_bound_of_a_role_and_dual_control_are_said() {
    let operator = Request {
        principal: "spiffe://ch-zrh/operator/o".parse().unwrap(),
        ..request()
    };
    holds(
        &said(&operator),
        &[
            "DENIED: an operator creates datasets",
            "No policy widens this",
        ],
    );
    let auditor = Request {
        principal: "spiffe://ch-zrh/auditor/anna".parse().unwrap(),
        purpose: "investigation".parse().unwrap(),
        case: Some("2026-17".to_owned()),
        ..request()
    };
    holds(
        &said(&auditor),
        &["ALLOWED", "permitted by investigators", "dual control"],
    );
}

#[test]
fn a_policy_that_fails_is_named() {
    let text = said(&Request {
        dataset: Some(DatasetId([2; 16])),
        ..request()
    });
    holds(
        &text,
        &[
            "DENIED: a policy cannot be evaluated",
            "overflows",
            "overflow",
        ],
    );
}
