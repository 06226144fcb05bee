//! The power of all members is cut at once, over and over, among other faults: what was acknowledged is there, once.
//!
//! `REDUIT_SEEDS` says how many seeds (100 where it is not set), `REDUIT_SEED` replays one. Goes red with the switch
//! `ack_before_sync`, and with `retry_twice`.

mod support;

use support::sim;

const SEEDS: u64 = 100;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
    )
}

#[test]
fn power_cut_of_all_members_loses_no_acknowledged_write() {
    let seed = number("REDUIT_SEED").map(|seed| seed.to_string());
    let seeds = number("REDUIT_SEEDS").unwrap_or(SEEDS);
    let said = match &seed {
        Some(seed) => sim(&["--only", "replica", "--replay", seed]),
        None => sim(&["--only", "replica", "--seeds", &seeds.to_string()]),
    };
    println!("{}", said.text);
    assert!(said.green, "{}", said.text);
    if seed.is_some() {
        return;
    }
    // What was meant to happen did: a run without cuts in the middle of writes would show nothing.
    for reached in [
        "power cuts of all members",
        "acknowledged writes found",
        "answers given again",
    ] {
        assert!(said.count(reached) > 0, "{reached}: {}", said.text);
    }
    if seeds >= 100 {
        for reached in [
            "requests of unknown outcome",
            "unsynced sectors lost",
            "unsynced sectors torn",
        ] {
            assert!(said.count(reached) > 0, "{reached}: {}", said.text);
        }
    }
}
