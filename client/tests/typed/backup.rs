//! `reduit backup` as it is typed: what is refused before a region or a folder is asked, and that each says by example how
//! it is used.

use super::reduit;

#[test]
fn every_command_says_by_example_how_it_is_used() {
    for command in ["create", "ls", "verify", "drill", "prune"] {
        let help = reduit(&["backup", command, "--help"]);
        let text = String::from_utf8(help.stdout).unwrap();
        assert!(help.status.success(), "{command}");
        let examples = text.split("Examples:").nth(1).unwrap_or_default();
        assert!(
            examples.contains(&format!("backup {command} ")),
            "{command}: {text}"
        );
        assert!(text.contains("--json"), "{command}: {text}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused_before_anybody_is_asked() {
    let wrong: [&[&str]; 10] = [
        &["backup"],
        &["backup", "create", "--to", "b"],
        &["backup", "create", "--operator", "op-1"],
        &[
            "backup",
            "create",
            "--to",
            "b",
            "--operator",
            "op-1",
            "--without-kms",
        ],
        &["backup", "create", "--to", "gs://bucket/b", "--without-kms"],
        &[
            "backup",
            "create",
            "--to",
            "b",
            "--without-kms",
            "--dataset",
            "a/b",
        ],
        &["backup", "drill", "--from", "b", "--all", "--objects", "3"],
        &["backup", "prune", "--from", "b"],
        &["backup", "prune", "--from", "b", "--keep", "0"],
        &["backup", "restore", "--from", "b"],
    ];
    for words in wrong {
        let ran = reduit(words);
        assert_eq!(ran.status.code(), Some(2), "{words:?}: {ran:?}");
    }
    let said = reduit(&["backup", "create", "--to", "gs://bucket/b", "--without-kms"]);
    let text = String::from_utf8(said.stderr).unwrap();
    assert!(text.contains("backups go into folders"), "{text}");
    // There is no such folder, and none is made by looking.
    for command in ["ls", "verify", "prune --keep 1"] {
        let words = format!("backup {command} --from nowhere");
        let words: Vec<_> = words.split(' ').collect();
        let ran = reduit(&words);
        assert!(!ran.status.success(), "{words:?}: {ran:?}");
    }
    // As typed it is meant, and there is no region to ask.
    let ran = reduit(&["backup", "create", "--to", "b", "--without-kms"]);
    assert_eq!(ran.status.code(), Some(3), "{ran:?}");
}
