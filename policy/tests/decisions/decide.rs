use policy::{Action, Request, Why};
use proto::ids::DatasetId;

use super::{parse, request};

const CLIENTS_READ: &str = r#"
@id("clients-read")
permit (principal in Role::"client", action == Action::"read", resource)
when { context.purpose == "service" };
"#;

#[test]
fn what_no_policy_permits_is_denied() {
    let nothing = parse("// nothing\n").decide(&request());
    assert_eq!((nothing.allowed, nothing.why), (false, Why::NothingPermits));
    let policy = parse(CLIENTS_READ);
    assert!(policy.decide(&request()).allowed);
    assert_eq!(policy.decide(&request()).by, ["clients-read"]);
    let others = [
        Request {
            action: Action::Write,
            ..request()
        },
        Request {
            purpose: "multipart".parse().unwrap(),
            ..request()
        },
        Request {
            principal: "spiffe://ch-zrh/gateway/app".parse().unwrap(),
            ..request()
        },
    ];
    for other in others {
        let decision = policy.decide(&other);
        assert_eq!(
            (decision.allowed, decision.why),
            (false, Why::NothingPermits),
            "{other:?}"
        );
        assert!(decision.by.is_empty());
    }
}

#[test]
fn a_forbid_wins_over_every_permit_whatever_it_names() {
    let forbids = [
        r#"@id("no") forbid (principal, action, resource);"#,
        r#"@id("no") forbid (principal in Role::"client", action, resource);"#,
        r#"@id("no") forbid (principal is Identity in Role::"client", action, resource is Dataset);"#,
        r#"@id("no") forbid (principal == Identity::"spiffe://ch-zrh/client/app", action, resource);"#,
        r#"@id("no") forbid (principal in Identity::"spiffe://ch-zrh/client/app", action, resource);"#,
        r#"@id("no") forbid (principal, action in [Action::"list", Action::"read"], resource);"#,
        r#"@id("no") forbid (principal, action, resource == Dataset::"01010101010101010101010101010101");"#,
        r#"@id("no") forbid (principal, action, resource in Dataset::"01010101010101010101010101010101");"#,
        r#"@id("no") forbid (principal, action, resource) when { context.recipient_region == "ch-zrh" };"#,
        r#"@id("no") forbid (principal, action, resource) unless { context has case };"#,
        r#"@id("no") forbid (principal, action, resource) when { principal.name like "a*" };"#,
    ];
    for forbid in forbids {
        let decision = parse(&format!("{CLIENTS_READ}{forbid}")).decide(&request());
        assert_eq!(
            (decision.allowed, decision.why),
            (false, Why::Forbidden),
            "{forbid}"
        );
        assert_eq!(decision.by, ["no"], "{forbid}");
    }
}

#[test]
fn a_policy_that_fails_denies_even_what_another_permits() {
    let fails = r#"
@id("overflows")
permit (principal, action, resource)
when { context.time.unix_ms * 9223372036854775807 > 0 && context.purpose == "service" };
"#;
    let decision = parse(&format!("{CLIENTS_READ}{fails}")).decide(&request());
    assert_eq!((decision.allowed, decision.why), (false, Why::Error));
    assert_eq!(decision.errors.len(), 1, "{decision:?}");
    assert!(decision.errors[0].contains("overflows"), "{decision:?}");
}

#[test]
fn case_region_and_time_decide() {
    let policy = parse(
        r#"
@id("in-hours")
permit (principal in Role::"auditor", action == Action::"read", resource)
when {
  context.purpose == "investigation" && context has case && context.case like "2026-*" &&
  context.recipient_region == "ch-zrh" &&
  context.time.weekday <= 5 && context.time.hour >= 8 && context.time.hour < 18
};
"#,
    );
    let asked = Request {
        principal: "spiffe://ch-zrh/auditor/anna".parse().unwrap(),
        purpose: "investigation".parse().unwrap(),
        case: Some("2026-17".to_owned()),
        ..request()
    };
    assert!(policy.decide(&asked).allowed);
    let mut late = asked.clone();
    late.at.0 += 8 * 3_600_000;
    let mut saturday = asked.clone();
    saturday.at.0 += 2 * 86_400_000;
    let no_case = Request {
        case: None,
        ..asked.clone()
    };
    let abroad = Request {
        recipient_region: "de-fra".parse().unwrap(),
        ..asked
    };
    for other in [late, saturday, no_case, abroad] {
        let decision = policy.decide(&other);
        assert_eq!(
            (decision.allowed, decision.why),
            (false, Why::NothingPermits),
            "{other:?}"
        );
    }
}

/// What concerns no dataset in particular takes a policy that names none.
#[test]
fn a_policy_for_one_dataset_does_not_reach_the_region() {
    let policy = parse(
        r#"permit (principal, action, resource == Dataset::"01010101010101010101010101010101")
           when { context.purpose == "service" };"#,
    );
    assert!(policy.decide(&request()).allowed);
    assert!(
        !policy
            .decide(&Request {
                dataset: None,
                ..request()
            })
            .allowed
    );
    assert!(
        !policy
            .decide(&Request {
                dataset: Some(DatasetId([2; 16])),
                ..request()
            })
            .allowed
    );
    let everywhere = parse(CLIENTS_READ);
    assert!(
        everywhere
            .decide(&Request {
                dataset: None,
                ..request()
            })
            .allowed
    );
    let region = parse(
        r#"permit (principal, action, resource == Region::"ch-zrh") when { context.purpose == "service" };"#,
    );
    assert!(
        region
            .decide(&Request {
                dataset: None,
                ..request()
            })
            .allowed
    );
    assert!(!region.decide(&request()).allowed);
}
