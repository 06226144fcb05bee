use policy::Place;

use super::{parse, problems};

/// What is wrong, where (line, column), and a word of the message or the hint.
const WRONG: &[(&str, (usize, usize), &str)] = &[
    (
        "permit (principal, action, resource)",
        (1, 37),
        "unexpected end",
    ),
    (
        "permit (principal, action, resource);\n  nonsense (principal, action, resource);",
        (2, 3),
        "permit",
    ),
    (
        "permit (principal, action, resource)\nwhen { context.purpose == \"a };",
        (2, 27),
        "string without an end",
    ),
    (
        "permit (principal, action == Action::\"open\", resource);",
        (1, 30),
        "create, list, read, write and keys",
    ),
    (
        "permit (principal in Role::\"cliant\", action, resource);",
        (1, 22),
        "roles are",
    ),
    (
        "permit (principal == User::\"a\", action, resource);",
        (1, 22),
        "types are",
    ),
    (
        "permit (principal, action, resource) when { context.purpos == \"a\" };",
        (1, 45),
        "context.purpose",
    ),
    (
        "permit (principal, action, resource) when { context.case == \"a\" };",
        (1, 45),
        "context has case",
    ),
    (
        "permit (principal, action, resource) when { context.purpose == 7 };",
        (1, 45),
        "type",
    ),
    (
        "permit (principal, action, resource) when { context.purpose };",
        (1, 45),
        "type",
    ),
    (
        "permit (principal == Identity::\"anna\", action, resource);",
        (1, 32),
        "spiffe://",
    ),
    (
        "permit (principal, action, resource == Dataset::\"cti\");",
        (1, 49),
        "32 hexadecimal",
    ),
    (
        "permit (principal, action, resource == Region::\"CH ZRH\");",
        (1, 48),
        "ch-zrh",
    ),
    (
        "permit (principal, action, resource) when { context.purpose == \"Service\" };",
        (1, 64),
        "is no purpose",
    ),
    (
        "permit (principal, action, resource) when { [\"a\", \"b c\"].contains(context.purpose) };",
        (1, 51),
        "is no purpose",
    ),
    (
        "permit (principal == ?principal, action, resource);",
        (1, 1),
        "template",
    ),
    (
        "permit (principal, action, resource);\n@id(\"x\") permit (principal, action, resource);\n@id(\"x\") forbid (principal, action, resource);",
        (3, 1),
        "named x",
    ),
    (
        "@id(\"a b\") permit (principal, action, resource);",
        (1, 1),
        "@id is no name",
    ),
    (
        "permit (principal == Dataset::\"01010101010101010101010101010101\", action, resource);",
        (1, 1),
        "never apply",
    ),
    (
        "permit (principal, action, resource) when { principal == Role::\"client\" };",
        (1, 1),
        "can never apply",
    ),
    (
        "permit (principal, action, resource) when { context.purpose == \"s\u{435}rvice\" };",
        (1, 64),
        "plain ASCII",
    ),
];

#[test]
fn every_kind_of_mistake_is_told_with_its_place_and_a_hint() {
    let mut amiss = String::new();
    for (text, place, word) in WRONG {
        let found = problems(text);
        let said = found.iter().any(|problem| {
            let at = (problem.place.line, problem.place.column);
            at == *place && problem.to_string().contains(word)
        });
        if !said {
            let shown: Vec<_> = found.iter().map(ToString::to_string).collect();
            let shown = shown.join("\n");
            amiss += &format!("{text}\nwants {place:?} {word:?}, found\n{shown}\n\n");
        }
    }
    assert!(amiss.is_empty(), "{amiss}");
}

/// A text is corrected in one go.
#[test]
fn all_mistakes_are_told_at_once() {
    let text = "permit (principal in Role::\"cliant\", action, resource);\n\
                permit (principal, action == Action::\"open\", resource);\n\
                permit (principal, action, resource == Dataset::\"cti\");\n\
                permit (principal, action, resource) when { context.case == \"a\" };\n";
    let lines: Vec<_> = problems(text)
        .iter()
        .map(|problem| problem.place.line)
        .collect();
    for line in 1..=4 {
        assert!(lines.contains(&line), "line {line}: {lines:?}");
    }
    let text = "permit (principal, action, resource) when { 1 1 };\npermit (principal, action, resource) when { + };\n";
    let lines: Vec<_> = problems(text)
        .iter()
        .map(|problem| problem.place.line)
        .collect();
    assert!(lines.contains(&1) && lines.contains(&2), "{lines:?}");
}

#[test]
fn statements_go_by_their_id_or_their_position() {
    let policy = parse(
        "// a comment; with a semicolon\n\
         permit (principal, action, resource) when { context.purpose == \"a;b\" || true };\n\
         @id(\"two\")\n  permit (principal, action, resource); forbid (principal, action, resource);\n"
            .replace("a;b", "ab")
            .as_str(),
    );
    let names: Vec<_> = policy.names().collect();
    let place = |line, column| Place { line, column };
    assert_eq!(
        names,
        [
            ("policy0", place(2, 1)),
            ("two", place(3, 1)),
            ("policy2", place(4, 41))
        ]
    );
}

#[test]
fn a_permit_without_effect_or_without_a_purpose_is_warned_of() {
    let warned = |text: &str| {
        let warnings = parse(text).warnings();
        let shown: Vec<_> = warnings.iter().map(ToString::to_string).collect();
        shown.join("\n")
    };
    let service = "when { context.purpose == \"service\" };";
    let nodes = warned(&format!(
        "permit (principal in Role::\"node\", action, resource) {service}"
    ));
    assert!(
        nodes.contains("nothing that its principal's role may ever do"),
        "{nodes}"
    );
    let operator = "permit (principal == Identity::\"spiffe://ch-zrh/operator/o\", action == Action::\"read\", resource)";
    assert!(warned(&format!("{operator} {service}")).contains("never reads or writes"));
    let any = warned("permit (principal in Role::\"client\", action, resource);");
    assert!(any.contains("whatever purpose"), "{any}");
    let fine = format!(
        "permit (principal in Role::\"client\", action, resource) {service}\n\
         forbid (principal in Role::\"node\", action, resource);"
    );
    assert_eq!(warned(&fine), "");
}
