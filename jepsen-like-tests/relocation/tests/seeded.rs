//! What is broken on purpose is found, by the promise it breaks. Runs with `danger_switches`, under which the decisions
//! that ship can be told to be wrong: `cargo xtask promises` builds them so.
#![cfg(feature = "danger_switches")]

use std::process::Command;

/// Explores one scenario with a switch thrown; prints how many steps it took, and holds the promise to be one of these.
fn found(switch: &str, scenario: &str, promises: &[&str]) {
    let mut explore = Command::new(env!("CARGO_BIN_EXE_reduit-relocation-model"));
    explore.arg(scenario).env("REDUIT_DANGER", switch);
    let output = explore.env("RUST_BACKTRACE", "0").output();
    let output = output.expect("the model starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{switch} was not found");
    let broken = said
        .lines()
        .find_map(|line| line.split_once("broken after "));
    let (steps, promise) = broken
        .and_then(|(_, rest)| rest.split_once(" steps: "))
        .unwrap_or_else(|| panic!("{switch}: no counterexample but: {said}"));
    println!("{switch}: \"{promise}\" is broken after {steps} steps");
    assert!(promises.contains(&promise), "{switch} breaks \"{promise}\"");
}

#[test]
fn a_shred_before_the_cutover_is_found() {
    let promise = "no shred before a verified cutover";
    found("shred_before_verify", "moves", &[promise]);
}

#[test]
fn a_revert_that_races_the_cutover_is_found() {
    let promises = ["one writer", "nothing served before moved"];
    found("revert_races_cutover", "aborts", &promises);
}

#[test]
fn an_import_that_goes_by_its_arrival_is_found() {
    let promises = ["no import goes back", "a cursor hides no change"];
    found("import_without_index", "moves", &promises);
}

#[test]
fn a_write_of_another_epoch_is_found() {
    found("epoch_ignored", "moves", &["sealed anew"]);
}

#[test]
fn a_cutover_without_the_request_ids_is_found() {
    let promise = "a request has effect once";
    found("requests_not_crossed", "moves", &[promise]);
}

#[test]
fn a_destination_that_serves_too_early_is_found() {
    let promises = ["nothing served before moved", "one writer"];
    found("serve_before_moved", "moves", &promises);
}

#[test]
fn a_reader_that_is_not_told_of_dropped_tombstones_is_found() {
    found(
        "tombstone_forgotten",
        "overrun",
        &["a cursor hides no change"],
    );
}

#[test]
fn a_cutover_of_an_earlier_fence_is_found() {
    let promises = ["no write lost", "a request has effect once"];
    found("fence_unnamed", "two fences", &promises);
}

#[test]
fn an_import_of_an_earlier_listing_is_found() {
    found("pass_ignored", "overrun", &["a cursor hides no change"]);
}

#[test]
fn an_abort_that_does_not_wait_for_the_grant_is_found() {
    let promises = ["disclosed as stated", "keys handed over under a live grant"];
    found("grant_outlives_abort", "aborts", &promises);
}
