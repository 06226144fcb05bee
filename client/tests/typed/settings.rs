//! `reduit dataset lock|lifecycle|quota`, `reduit object` and `reduit upload` as they are typed: what is refused before a
//! region is asked, and that each says by example how it is used.

use super::reduit;

const VERSION: &str = "99ac5040b118b0d6827113db4039df8b";

#[test]
fn every_command_says_by_example_how_it_is_used() {
    for words in [
        &["dataset", "versioning"][..],
        &["dataset", "lock"],
        &["dataset", "lifecycle"],
        &["dataset", "quota"],
        &["object", "lock"],
        &["object", "hold"],
        &["object", "tags"],
        &["upload", "ls"],
        &["upload", "list"],
        &["upload", "parts"],
        &["upload", "abort"],
    ] {
        let help = reduit(&[words, &["--help"]].concat());
        let text = String::from_utf8(help.stdout).unwrap();
        let command = format!("\n  reduit {} ", words.join(" ").replace(" list", " ls"));
        assert!(help.status.success(), "{words:?}");
        assert!(text.contains("Examples:\n"), "{words:?}: {text}");
        assert!(text.contains(&command), "{words:?}: {text}");
        let options = text.replace("Examples:", "").contains("--json");
        assert!(options, "{words:?} does not name --json");
    }
}

#[test]
fn what_cannot_be_meant_is_refused_before_a_region_is_asked() {
    let time = "2036-01-01T00:00:00Z";
    let wrong: [&[&str]; 20] = [
        &["dataset", "versioning", "cti", "maybe"],
        &["dataset", "lock", "cti", "--default", "compliance"],
        &["dataset", "lock", "cti", "--days", "3"],
        &["dataset", "lock", "cti", "--default", "both", "--days", "3"],
        &["dataset", "lifecycle", "cti", "--set", "f", "--clear"],
        &["dataset", "quota", "cti", "--bytes", "1GB"],
        &["dataset", "quota", "cti", "--objects", "7", "--clear"],
        &["object", "lock", "cti/a"],
        &["object", "lock", "cti/a", "--mode", "compliance"],
        &["object", "lock", "cti/a", "--until", time],
        &[
            "object",
            "lock",
            "cti/a",
            "--mode",
            "compliance",
            "--until",
            "2036",
        ],
        &["object", "lock", "cti/a", "--end", "--until", time],
        &["object", "hold", "cti/a"],
        &["object", "tags", "cti/a"],
        &["object", "tags", "cti/a", "=red"],
        &["object", "tags", "cti/a", "colour=red", "--none"],
        &["upload", "abort", "cti/a"],
        &["upload", "abort", "cti/a", VERSION, "-r"],
        &["rm", "cti/a", "--bypass-governance"],
        &["put", "f", "cti/a", "--retain-until", time],
    ];
    for words in wrong {
        let ran = reduit(words);
        assert_eq!(ran.status.code(), Some(2), "{words:?}: {ran:?}");
    }
    // As typed they are meant, and there is no region to ask.
    let meant: [&[&str]; 5] = [
        &[
            "dataset",
            "lock",
            "cti",
            "--default",
            "governance",
            "--days",
            "3",
        ],
        &["dataset", "quota", "cti", "--bytes", "2TiB"],
        &[
            "object",
            "lock",
            "cti/a",
            "--mode",
            "governance",
            "--until",
            time,
        ],
        &["upload", "abort", "-r", "cti/a", "--begun-before", time],
        &[
            "put",
            "f",
            "cti/a",
            "--retain-until",
            time,
            "--retention",
            "compliance",
        ],
    ];
    for words in meant {
        let ran = reduit(words);
        assert_eq!(ran.status.code(), Some(3), "{words:?}: {ran:?}");
    }
}
