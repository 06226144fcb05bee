//! Seeds of every kind are green, reach what they are to reach, and replay exactly.
//!
//! A subset for every build; `cargo run -p reduit-sim -- --seeds 10000` is the long run. Goes red with each switch of
//! the README's table.

mod support;

use support::sim;

fn green(args: &[&str]) -> support::Said {
    let said = sim(args);
    println!("{}", said.text);
    assert!(said.green, "{args:?}: {}", said.text);
    said
}

#[test]
fn pure_shards_and_catalogs_keep_every_invariant() {
    let said = green(&["--only", "node", "--seeds", "300"]);
    assert!(said.text.contains("300 seeds green"));
    assert!(!said.text.contains("never reached"), "{}", said.text);
}

#[test]
fn the_pure_kms_keeps_every_invariant() {
    let said = green(&["--only", "kms", "--seeds", "300"]);
    assert!(said.text.contains("300 seeds green"));
    assert!(!said.text.contains("never reached"), "{}", said.text);
}

#[test]
fn replicas_that_fail_keep_what_they_acknowledged() {
    let said = green(&["--only", "replica", "--seeds", "40"]);
    assert!(said.text.contains("40 seeds green"));
    for reached in [
        "acknowledged writes found",
        "leaves that were told of, found",
        "power cuts of all members",
    ] {
        assert!(said.count(reached) > 0, "{reached}: {}", said.text);
    }
}

#[test]
fn a_seed_replays_event_for_event() {
    let digest = |kind: &str, seed: u64| {
        let said = green(&["--only", kind, "--replay", &seed.to_string()]);
        let line = said.text.lines().find(|line| line.contains("digest"));
        line.expect("it says its digest").to_owned()
    };
    for kind in ["node", "kms", "replica"] {
        let first: Vec<_> = (20..26).map(|seed| digest(kind, seed)).collect();
        let again: Vec<_> = (20..26).map(|seed| digest(kind, seed)).collect();
        assert_eq!(first, again, "{kind}");
        assert!(first.windows(2).all(|pair| pair[0] != pair[1]), "{first:?}");
    }
}

#[test]
fn every_seed_that_failed_once_is_green() {
    green(&["--regressions"]);
}

#[test]
fn a_seed_that_fails_says_how_to_replay_it() {
    // Nothing fails here by itself: an unknown kind is the program's own refusal.
    let said = sim(&["--only", "nobody"]);
    assert!(!said.green && said.text.contains("nobody is none of"));
}
