//! Texts made to exhaust a stack: each is refused by a bound, or handled well within a small stack.

use policy::{PolicyText, TEXT_BYTES_MAX};

use super::problems;

/// Half of what a thread of the runtime has. Cedar's evaluator gives up where 100 KiB are left of it.
const STACK_BYTES: usize = 1 << 20;

fn condition(body: &str) -> String {
    format!("permit (principal, action, resource) when {{ {body} }};")
}

/// Each way of nesting that the grammar has, `n` deep.
fn deep(n: usize) -> Vec<(&'static str, String)> {
    let around = |open: &str, middle: &str, close: &str| {
        condition(&format!("{}{middle}{}", open.repeat(n), close.repeat(n)))
    };
    let purpose = "context.purpose == \"a\"";
    vec![
        ("brackets", around("(", "true", ")")),
        ("sets", around("[", "1", "]").replace(" }", " == [[1]] }")),
        ("records", around("{a: ", "1", "}")),
        ("if", around("if true then ", purpose, " else false")),
        ("if in if", around("if ", "true", " then true else false")),
        ("and", around("", purpose, &format!(" && {purpose}"))),
        ("or", around("", purpose, &format!(" || {purpose}"))),
        (
            "and to the right",
            around(&format!("{purpose} && ("), "true", ")"),
        ),
        ("not", around("!(", purpose, ")")),
        (
            "minus",
            condition(&format!("context.time.hour == {}1", "-".repeat(n))),
        ),
        (
            "plus",
            condition(&format!("context.time.hour == 1{}", " + 1".repeat(n))),
        ),
        (
            "times",
            condition(&format!("context.time.hour == 1{}", " * 1".repeat(n))),
        ),
        (
            "access",
            condition(&format!("context{}", ".time".repeat(n))),
        ),
        (
            "index",
            condition(&format!("context{}", "[\"time\"]".repeat(n))),
        ),
        ("calls", around("[true].contains(", "true", ")")),
        (
            "has",
            condition(&format!("context has time{}", ".hour".repeat(n))),
        ),
        (
            "clauses",
            format!(
                "permit (principal, action, resource) {};",
                "when { true } ".repeat(n)
            ),
        ),
        (
            "unless",
            format!(
                "permit (principal, action, resource) {};",
                "unless { false } ".repeat(n)
            ),
        ),
    ]
}

fn on_a_small_stack(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    thread.spawn(work).unwrap().join().unwrap();
}

#[test]
fn no_depth_exhausts_a_small_stack() {
    // Up to where the bounds are, and far beyond.
    for n in [
        2, 8, 20, 23, 24, 30, 40, 50, 66, 90, 99, 132, 199, 400, 10_000,
    ] {
        for (what, text) in deep(n) {
            on_a_small_stack(move || {
                if let Ok(policy) = PolicyText::parse(&text) {
                    let decision = policy.decide(&request());
                    assert!(decision.errors.is_empty(), "{what} {n}: {decision:?}");
                    policy.explain(&request());
                }
            });
        }
    }
}

/// The bounds leave room for what people write.
#[test]
fn plain_texts_stay_within_the_bounds() {
    for n in [2, 8] {
        let parsed = deep(n)
            .into_iter()
            .filter(|(_, text)| PolicyText::parse(text).is_ok());
        assert!(parsed.count() >= 10, "{n}");
    }
    let many: Vec<_> = (0..2_000).map(|at| format!("\"p-{at}\"")).collect();
    super::parse(&condition(&format!(
        "[{}].contains(context.purpose)",
        many.join(", ")
    )));
}

#[test]
fn what_is_beyond_a_bound_is_named() {
    let said = |text: &str| problems(text)[0].to_string();
    assert!(said(&condition(&"(".repeat(100))).contains("brackets more than"));
    assert!(
        said(&condition(&"true && ".repeat(300))).contains("operators and brackets in one policy")
    );
    assert!(said(&condition(&format!("[{}1]", "1,".repeat(50_001)))).contains("commas"));
    assert!(said(&" ".repeat(TEXT_BYTES_MAX + 1)).contains("bytes, more than"));
    assert!(
        said(&"permit (principal, action, resource);".repeat(5_001))
            .contains("more than 5000 policies")
    );
}

fn request() -> policy::Request {
    policy::Request {
        principal: "spiffe://ch-zrh/client/app".parse().unwrap(),
        action: policy::Action::Read,
        dataset: None,
        purpose: "a".parse().unwrap(),
        case: None,
        recipient_region: "ch-zrh".parse().unwrap(),
        at: proto::ids::UnixMs(1_795_687_200_000),
    }
}
