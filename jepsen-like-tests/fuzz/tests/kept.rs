//! Every kept input, every crash that was once found, and some thousands of changed ones, through their targets.

use std::time::Instant;

use fuzz::{campaign, planted, targets};

/// Changed inputs of each target.
const CHANGED: u32 = 5_000;
/// Of targets that start a whole member, a service or a connection for each.
const CHANGED_SLOW: u32 = 1_000;
const SLOW: [&str; 6] = [
    "raft-peer",
    "upload",
    "handshake",
    "enrolment-file",
    "evidence",
    "relocation-certificate",
];
const SEED: u64 = 0x5EED;
/// Kept inputs, and their bytes, of all targets together.
const INPUTS_MAX: u32 = 2000;
const BYTES_MAX: u64 = 1 << 20;

/// One test, because targets count what this process allocates.
#[test]
fn nothing_known_or_changed_breaks_a_target_and_what_is_planted_is_found() {
    let mut failures = Vec::new();
    for target in targets() {
        let started = Instant::now();
        let mut given = Vec::new();
        for kind in ["corpus", "crashes"] {
            let folder = campaign::folder(kind, target);
            given.extend(campaign::inputs(&folder).expect("the folder can be read"));
        }
        let changed = match SLOW.contains(&target.name) {
            true => CHANGED_SLOW,
            false => CHANGED,
        };
        if let Err(failure) = campaign::run(target, &given, changed, SEED) {
            failures.push(failure);
        }
        let kept = given.len();
        println!(
            "{:<20} {kept:>4} kept, {:>6.2?}",
            target.name,
            started.elapsed()
        );
    }
    assert!(failures.is_empty(), "{failures:#?}");
    planted_faults_are_found();
}

/// The same loop on targets that are wrong: one fault is found by chance, the other when its input is given.
fn planted_faults_are_found() {
    let greedy = campaign::run(&planted::GREEDY, &[], CHANGED, SEED);
    let failure = greedy.expect_err("a length that is believed");
    assert!(failure.said.contains("more than"), "{failure:?}");
    let given = campaign::run(&planted::WORD, &[b"BOOM".to_vec()], 0, SEED);
    let failure = given.expect_err("the word");
    assert_eq!(failure.said, "the planted fault");
}

#[test]
fn folders_of_inputs_are_of_targets_and_small() {
    let (mut total, mut total_bytes) = (0, 0);
    for kind in ["corpus", "crashes"] {
        let Some(parent) = campaign::folder(kind, &targets()[0])
            .parent()
            .map(ToOwned::to_owned)
        else {
            continue;
        };
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let known = targets().iter().any(|target| name == target.name);
            assert!(known, "{kind}/{} is of no target", name.display());
            for file in std::fs::read_dir(entry.path()).expect("a folder").flatten() {
                let bytes = file.metadata().expect("a file").len();
                assert!(bytes < 4096, "{} is large", file.path().display());
                total += 1;
                total_bytes += bytes;
            }
        }
    }
    assert!(
        total < INPUTS_MAX && total_bytes < BYTES_MAX,
        "{total} inputs of {total_bytes} bytes are more than a repository should hold"
    );
}
