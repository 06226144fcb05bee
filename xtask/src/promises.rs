//! Each promise switched off once: the named test must go red, by failing and not by not compiling.
//!
//! The switches are cargo features of the shipped crates, refused by them in release builds.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// One promise, the switch that breaks it, and the test that must notice.
struct Promise {
    says: &'static str,
    package: &'static str,
    feature: &'static str,
    test: &'static str,
}

const PROMISES: &[Promise] = &[
    Promise {
        says: "P5 acknowledged before the sync",
        package: "reduit-sim",
        feature: "danger_ack_before_sync",
        test: "power_cut_of_all_members_loses_no_acknowledged_write",
    },
    Promise {
        says: "P6 precondition ignored",
        package: "reduit-node-state",
        feature: "danger_ignore_precondition",
        test: "a_precondition_that_does_not_hold_refuses_the_put",
    },
    Promise {
        says: "P6 retry applied twice",
        package: "reduit-node-state",
        feature: "danger_retry_twice",
        test: "a_retried_request_has_effect_once",
    },
    Promise {
        says: "P5 one receipt instead of a majority",
        package: "reduit-node-state",
        feature: "danger_one_receipt",
        test: "one_receipt_is_no_majority",
    },
    Promise {
        says: "P6 verdict not bound to the versions it was given on",
        package: "reduit-node-state",
        feature: "danger_unbound_verdict",
        test: "a_verdict_on_what_has_moved_is_refused",
    },
    Promise {
        says: "P3 verdict of the KMS not bound to the policy version",
        package: "reduit-kms-state",
        feature: "danger_unbound_verdict",
        test: "a_verdict_is_bound_to_the_versions_it_was_given_on",
    },
    Promise {
        says: "P2 approvals not counted",
        package: "reduit-kms-state",
        feature: "danger_ignore_approvals",
        test: "dual_control_takes_two_distinct_others",
    },
    Promise {
        says: "P3 released before the record",
        package: "reduit-kms",
        feature: "danger_release_before_record",
        test: "no_key_is_released_before_its_record_is_committed",
    },
    Promise {
        says: "P5 block unlinked by clock",
        package: "reduit-node",
        feature: "danger_unlink_by_clock",
        test: "an_old_upload_stays_until_the_shard_itself_has_moved_on",
    },
    Promise {
        says: "P4 plaintext on a node",
        package: "reduit-local",
        feature: "danger_plaintext_on_node",
        test: "no_disk_of_a_region_holds_plaintext",
    },
];

/// Runs every switch whose feature contains `filter`. A switch that nothing notices is an error.
pub(crate) fn run(root: &Path, target: &Path, filter: Option<&str>) -> Result<()> {
    let chosen: Vec<_> = PROMISES
        .iter()
        .filter(|p| filter.is_none_or(|f| p.feature.contains(f)))
        .collect();
    let mut unnoticed = Vec::new();
    for promise in &chosen {
        let mut build = test(root, target, promise);
        build.arg("--no-run").stderr(Stdio::null());
        if !build.status().context("cannot start cargo")?.success() {
            bail!(
                "{} does not build with {}",
                promise.package,
                promise.feature
            );
        }
        let mut run = test(root, target, promise);
        run.arg("--").arg(promise.test);
        let output = run.output().context("cannot start cargo")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let failed = text.contains("test result: FAILED");
        let verdict = if failed {
            "red, as it must be"
        } else {
            "NOT NOTICED"
        };
        println!(
            "promise: {} [{}] {}: {verdict}",
            promise.says, promise.feature, promise.test
        );
        if !failed {
            println!("{text}{}", String::from_utf8_lossy(&output.stderr));
            unnoticed.push(promise.feature);
        }
    }
    println!(
        "promises: {} passed, {} failed",
        chosen.len() - unnoticed.len(),
        unnoticed.len()
    );
    if !unnoticed.is_empty() {
        bail!(
            "switched off without a test going red: {}",
            unnoticed.join(", ")
        );
    }
    Ok(())
}

fn test(root: &Path, target: &Path, promise: &Promise) -> Command {
    let mut command = crate::cargo(root, target);
    command.args([
        "test",
        "--package",
        promise.package,
        "--features",
        promise.feature,
        "--tests",
    ]);
    command.env("REDUIT_BIN", target.join("debug"));
    command
}
