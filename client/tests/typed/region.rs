//! `reduit region` as it is typed: what is refused before a region is asked, and that each says by example how it is
//! used.

use super::reduit;

#[test]
fn every_command_says_by_example_how_it_is_used() {
    for command in ["status", "scrub", "repair"] {
        let help = reduit(&["region", command, "--help"]);
        let text = String::from_utf8(help.stdout).unwrap();
        assert!(help.status.success(), "{command}");
        let example = format!("Examples:\n  reduit region {command}");
        assert!(text.contains(&example), "{command}: {text}");
        let before = text.split("Examples:").next().unwrap_or_default();
        assert!(before.contains("--json"), "{command}: {text}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused_before_a_region_is_asked() {
    let wrong: [&[&str]; 6] = [
        &["region"],
        &["region", "scrub", "--rate", "0"],
        &["region", "scrub", "--rate", "8MiB"],
        &["region", "scrub", "--node", "n1"],
        &["region", "repair", "--rate", "8"],
        &["region", "status", "--wait"],
    ];
    for words in wrong {
        let ran = reduit(words);
        assert_eq!(ran.status.code(), Some(2), "{words:?}: {ran:?}");
    }
    // As typed they are meant, and there is no region to ask.
    let meant: [&[&str]; 3] = [
        &["region", "status", "--json"],
        &["region", "scrub", "--node", "2", "--rate", "200", "--wait"],
        &["region", "repair", "--node", "2", "--wait"],
    ];
    for words in meant {
        let ran = reduit(words);
        assert_eq!(ran.status.code(), Some(3), "{words:?}: {ran:?}");
    }
}
