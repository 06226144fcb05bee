//! `reduit policy` as a person and a script use it: what is printed, and the exit code.

#![allow(clippy::unwrap_used, reason = "a test that cannot begin has failed")]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

const VALID: &str = r#"@id("clients")
permit (principal in Role::"client", action == Action::"read", resource)
when { context.purpose == "service" };
@id("hours")
permit (principal in Role::"auditor", action == Action::"read", resource)
when { context.purpose == "investigation" && context.time.hour < 18 };
"#;

struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn reduit(folder: &Path, words: &[&str]) -> Ran {
    let done = Command::new(env!("CARGO_BIN_EXE_reduit"))
        .current_dir(folder)
        .env_remove("REDUIT_CONTEXT")
        .args(words)
        .output()
        .unwrap();
    Ran {
        code: done.status.code().unwrap(),
        out: String::from_utf8(done.stdout).unwrap(),
        err: String::from_utf8(done.stderr).unwrap(),
    }
}

fn folder(texts: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in texts {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

#[test]
fn check_tells_a_valid_text_from_a_wrong_one_and_from_none() {
    let wrong = VALID.replace("Role::\"client\"", "Role::\"cliant\"");
    let warned = VALID.replace("Role::\"client\"", "Role::\"node\"");
    let texts = [
        ("valid", VALID),
        ("wrong", wrong.as_str()),
        ("warned", warned.as_str()),
    ];
    let folder = folder(&texts);
    let ran = |words: &[&str]| reduit(folder.path(), &[&["policy", "check"], words].concat());
    let valid = ran(&["valid"]);
    assert_eq!(
        (valid.code, valid.out.as_str()),
        (0, "valid: valid, 2 policies\n")
    );
    let wrong = ran(&["wrong"]);
    assert_eq!(wrong.code, 1);
    assert!(
        wrong.out.starts_with("wrong:2:22: clients: "),
        "{}",
        wrong.out
    );
    assert!(wrong.out.contains("hint: roles are"), "{}", wrong.out);
    assert_eq!(wrong.err, "", "what is wrong is the answer, told once");
    let warned = ran(&["warned"]);
    assert_eq!(warned.code, 0);
    assert!(
        warned.out.contains("a storage node uses no keys"),
        "{}",
        warned.out
    );
    let none = ran(&["absent"]);
    assert_eq!((none.code, none.out.as_str()), (2, ""));
    assert!(none.err.contains("reading absent"), "{}", none.err);
    assert_eq!(ran(&[]).code, 2);
    let json: Value = serde_json::from_str(&ran(&["wrong", "--json"]).out).unwrap();
    assert_eq!(json["valid"], false);
    assert_eq!(json["problems"][0]["line"], 2);
    assert_eq!(json["problems"][0]["policy"], "clients");
}

#[test]
fn explain_says_yes_no_or_nothing() {
    let folder = folder(&[("valid", VALID), ("wrong", "permit")]);
    let ran = |file: &str, words: &[&str]| {
        reduit(
            folder.path(),
            &[&["policy", "explain", file], words].concat(),
        )
    };
    let client = [
        "--principal",
        "spiffe://ch-zrh/client/app",
        "--action",
        "read",
    ];
    let yes = ran("valid", &client);
    assert_eq!(yes.code, 0, "{}", yes.err);
    assert!(
        yes.out.contains("permitted by clients at 1:1"),
        "{}",
        yes.out
    );
    let no = ran("valid", &[&client[..], &["--purpose", "nightly"]].concat());
    assert_eq!((no.code, no.err.as_str()), (1, ""));
    assert!(no.out.contains("nearly: clients"), "{}", no.out);
    let auditor = [
        "--principal",
        "spiffe://ch-zrh/auditor/anna",
        "--action",
        "read",
        "--purpose",
        "investigation",
        "--json",
        "--at",
    ];
    for (at, code) in [("2026-11-26T17:59:59Z", 0), ("2026-11-26T18:00:00Z", 1)] {
        let ran = ran("valid", &[&auditor[..], &[at]].concat());
        assert_eq!(ran.code, code, "{}", ran.err);
        let json: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(json["decision"]["allowed"], code == 0);
    }
    let none = ran("wrong", &client);
    assert_eq!((none.code, none.out.as_str()), (2, ""));
    assert!(
        none.err.contains("wrong is no valid policy text"),
        "{}",
        none.err
    );
    assert_eq!(
        ran("valid", &["--principal", "anna", "--action", "read"]).code,
        2
    );
    assert_eq!(
        ran("valid", &[&client[..], &["--at", "noon"]].concat()).code,
        2
    );
}

#[test]
fn diff_names_what_changes() {
    let new = VALID.replace(
        "\"read\", resource)\nwhen { context.purpose == \"s",
        "\"write\", resource)\nwhen { context.purpose == \"s",
    );
    let folder = folder(&[("old", VALID), ("new", new.as_str()), ("wrong", "permit")]);
    let ran = |words: &[&str]| reduit(folder.path(), &[&["policy", "diff"], words].concat());
    let same = ran(&["old", "old"]);
    assert_eq!(same.code, 0);
    assert!(same.out.starts_with("no change in "), "{}", same.out);
    let differ = ran(&["old", "new"]);
    assert_eq!((differ.code, differ.err.as_str()), (1, ""));
    for row in [
        "- any other client: read any other dataset for service\n",
        "+ any other client: write any other dataset for service\n",
        "+ any other client: write the region as a whole for service\n",
    ] {
        assert!(differ.out.contains(row), "{row} in {}", differ.out);
    }
    let json: Value = serde_json::from_str(&ran(&["old", "new", "--json"]).out).unwrap();
    assert_eq!(json["changes"].as_array().unwrap().len(), 4);
    let none = ran(&["old", "wrong"]);
    assert_eq!((none.code, none.out.as_str()), (2, ""));
}

#[test]
fn help_has_examples_and_the_schema_is_printed() {
    let folder = folder(&[]);
    for command in ["check", "explain", "diff"] {
        let help = reduit(folder.path(), &["policy", command, "--help"]);
        assert_eq!(help.code, 0);
        assert!(
            help.out.contains(&format!("  reduit policy {command} ")),
            "{}",
            help.out
        );
        assert!(help.out.contains("Exit codes:"), "{}", help.out);
    }
    let schema = reduit(folder.path(), &["policy", "schema"]);
    assert!(
        schema.out.contains("entity Identity in [Role]"),
        "{}",
        schema.out
    );
}
