use policy::{Action, Change, Dimensions, Request, diff, differing};
use proto::ids::{DatasetId, UnixMs};

use super::parse;

fn changes(old: &str, new: &str) -> Vec<Change> {
    let (old, new) = (parse(old), parse(new));
    diff(&old, &new, &Dimensions::of(&old, &new).unwrap()).changes
}

fn shown(changes: &[Change]) -> Vec<String> {
    let show = |change: &Change| {
        let Change {
            principal,
            action,
            purpose,
            dataset,
            ..
        } = change;
        let sign = if change.newly_allowed > 0 { '+' } else { '-' };
        format!("{sign} {principal} {action} {purpose} {dataset}")
    };
    changes.iter().map(show).collect()
}

const READ: &str = r#"permit (principal in Role::"client", action == Action::"read", resource)
when { context.purpose == "service" };"#;

#[test]
fn the_same_in_other_words_is_no_change() {
    let other = r#"permit (principal is Identity in Role::"client", action in [Action::"read"], resource)
                   unless { context.purpose != "service" };"#;
    assert_eq!(shown(&changes(READ, other)), Vec::<String>::new());
}

#[test]
fn what_changes_is_named_exactly() {
    let narrowed = READ.replace(
        "resource)",
        "resource == Dataset::\"01010101010101010101010101010101\")",
    );
    assert_eq!(
        shown(&changes(READ, &narrowed)),
        [
            "- any other client read service any other",
            "- any other client read service the region"
        ]
    );
    let one_more = format!(
        r#"{READ} permit (principal == Identity::"spiffe://ch-zrh/auditor/anna", action, resource == Dataset::"01010101010101010101010101010101")
           when {{ context.purpose == "investigation" }};"#
    );
    assert_eq!(
        shown(&changes(READ, &one_more)),
        ["+ spiffe://ch-zrh/auditor/anna read investigation 01010101010101010101010101010101"]
    );
    let another = READ.replace("service", "nightly");
    let expected = |sign: &str, purpose: &str| {
        ["any other", "the region"].map(|on| format!("{sign} any other client read {purpose} {on}"))
    };
    let found = shown(&changes(READ, &another));
    assert_eq!(found.len(), 4, "{found:?}");
    for line in [expected("+", "nightly"), expected("-", "service")].concat() {
        assert!(found.contains(&line), "{line}: {found:?}");
    }
}

#[test]
fn a_change_of_hours_cases_or_regions_is_counted() {
    let hours = READ.replace("};", "&& context.time.hour < 18 };");
    let found = changes(READ, &hours);
    let first = &found[0];
    assert_eq!(
        (first.newly_allowed, first.newly_denied, first.circumstances),
        (0, 42, 168)
    );
    let later = hours.replace("18", "19");
    let first = &changes(&hours, &later)[0];
    assert_eq!(
        (first.newly_allowed, first.newly_denied, first.circumstances),
        (7, 0, 168)
    );
    let until = READ.replace("};", "&& context.time.unix_ms < 1800000000000 };");
    let first = &changes(&until, &until.replace("1800000000000", "1800000000001"))[0];
    assert_eq!((first.newly_allowed, first.newly_denied), (1, 0));
    let home = READ.replace("};", "&& context.recipient_region != \"de-fra\" };");
    let first = &changes(READ, &home)[0];
    assert_eq!(
        (first.newly_allowed, first.newly_denied, first.circumstances),
        (0, 1, 3)
    );
    let case = READ.replace("};", "&& context has case };");
    let first = &changes(READ, &case)[0];
    assert_eq!(
        (first.newly_allowed, first.newly_denied, first.circumstances),
        (0, 1, 2)
    );
}

/// What a role may never do is no change, whatever texts say of it.
#[test]
fn what_no_policy_can_allow_does_not_change() {
    let all = "permit (principal in Role::\"operator\", action == Action::\"read\", resource);";
    assert_eq!(changes("", all), []);
    assert_eq!(changes("", &all.replace("operator", "node")), []);
}

#[test]
fn a_sample_says_that_it_is_one() {
    let sampled = |text: &str| {
        let policy = parse(text);
        diff(&policy, &policy, &Dimensions::of(&policy, &policy).unwrap()).sampled
    };
    assert!(!sampled(READ));
    assert!(sampled(
        &READ.replace("};", "&& principal.name like \"a*\" };")
    ));
    assert!(sampled(&READ.replace("};", "&& context.time.hour < 18 };")));
}

#[test]
fn too_many_combinations_are_refused() {
    let many: String = (0..100_u8)
        .map(|at| {
            let id = DatasetId([at; 16]);
            format!(
                "permit (principal == Identity::\"spiffe://ch-zrh/client/c{at}\", action, resource == Dataset::\"{id}\")\n\
                 when {{ context.purpose == \"p-{at}\" }};\n"
            )
        })
        .collect();
    let policy = parse(&many);
    assert!(Dimensions::of(&policy, &policy).is_err());
}

#[test]
fn requests_of_ones_own_are_compared_too() {
    let request = |action| Request {
        principal: "spiffe://ch-zrh/client/app".parse().unwrap(),
        action,
        dataset: None,
        purpose: "service".parse().unwrap(),
        case: None,
        recipient_region: "ch-zrh".parse().unwrap(),
        at: UnixMs(0),
    };
    let requests = Action::ALL.map(request);
    let (old, new) = (parse(READ), parse(&READ.replace("read", "write")));
    let found = differing(&old, &new, &requests);
    assert_eq!(found, [&request(Action::Read), &request(Action::Write)]);
}
