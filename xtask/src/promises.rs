//! Each promise switched off once: the named test must go red, by failing and not by not compiling.
//!
//! The switches are in the shipped crates (`proto::danger`). One build with the feature `danger_switches`, which
//! release builds refuse, has them all; `REDUIT_DANGER` says which one is thrown.

use std::ffi::OsStr;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use cargo_metadata::Message;

/// Every crate of the workspace with switches and scannable keys, so that one selection is built once, for the tests too.
pub(crate) const FEATURES: &str = "reduit-proto/danger_switches,xtask-run/danger_scannable_keys,\
                        reduit-kms/danger_scannable_keys,reduit-jepsen/danger_scannable_keys,\
                        reduit-relocation-model/danger_switches";
/// What has daemons of such a build write down fingerprints of their keys: where, and under which salt.
const FINGERPRINTS: &str = "REDUIT_FINGERPRINTS";
const SALT: &str = "REDUIT_FINGERPRINT_SALT";
/// The folder of daemons that have the switches in.
const BIN: &str = "danger";
/// Runs of a test that has to notice.
const TRIES_MAX: u32 = 3;

/// One promise, the switch that breaks it, and the test that must notice.
struct Promise {
    says: &'static str,
    switch: &'static str,
    /// An integration test's target; unit tests of the libraries when absent.
    target: Option<&'static str>,
    test: &'static str,
}

const PROMISES: &[Promise] = &[
    Promise {
        says: "P5 acknowledged before the sync",
        switch: "ack_before_sync",
        target: Some("power_cut"),
        test: "power_cut_of_all_members_loses_no_acknowledged_write",
    },
    Promise {
        says: "P5 acknowledged before the sync, with RocksDB",
        switch: "ack_before_sync",
        target: Some("consensus"),
        test: "an_acknowledged_write_survives_a_power_cut",
    },
    Promise {
        says: "P6 read without asking the majority",
        switch: "read_without_barrier",
        target: Some("consensus"),
        test: "reads_and_writes_fit_one_order_while_leaders_die",
    },
    Promise {
        says: "P6 precondition ignored",
        switch: "ignore_precondition",
        target: None,
        test: "a_precondition_that_does_not_hold_refuses_the_put",
    },
    Promise {
        says: "P6 retry applied twice",
        switch: "retry_twice",
        target: None,
        test: "a_retried_request_has_effect_once",
    },
    Promise {
        says: "P6 retry applied twice, under power cuts",
        switch: "retry_twice",
        target: Some("power_cut"),
        test: "power_cut_of_all_members_loses_no_acknowledged_write",
    },
    Promise {
        says: "P5 a version under compliance retention removed",
        switch: "ignore_locks",
        target: None,
        test: "compliance_is_passed_over_by_nobody_and_only_extended",
    },
    Promise {
        says: "P5 one receipt instead of a majority",
        switch: "one_receipt",
        target: None,
        test: "one_receipt_is_no_majority",
    },
    Promise {
        says: "P5 receipts counted whoever votes",
        switch: "receipts_of_anyone",
        target: None,
        test: "while_membership_is_joint_both_majorities_count",
    },
    Promise {
        says: "P5 a lost member back under its old id",
        switch: "reuse_node_id",
        target: Some("consensus"),
        test: "an_empty_folder_does_not_start_under_a_known_id",
    },
    Promise {
        says: "P6 verdict not bound to the versions it was given on",
        switch: "unbound_verdict",
        target: None,
        test: "a_verdict_on_what_has_moved_is_refused",
    },
    Promise {
        says: "P3 verdict of the KMS not bound to the policy version",
        switch: "unbound_verdict",
        target: Some("machine"),
        test: "a_verdict_is_bound_to_the_versions_it_was_given_on",
    },
    Promise {
        says: "P2 approvals not counted",
        switch: "ignore_approvals",
        target: Some("machine"),
        test: "dual_control_takes_two_distinct_others",
    },
    Promise {
        says: "P2 a service principal brought in by one operator",
        switch: "ignore_approvals",
        target: Some("machine"),
        test: "a_service_principal_comes_in_by_dual_control_and_its_secret_is_shown_to_who_asked",
    },
    Promise {
        says: "P3 the KMS asks policy about the gateway alone",
        switch: "gateway_alone",
        target: Some("kms_region"),
        test: "what_a_gateway_opens_for_a_service_principal_is_allowed_to_both",
    },
    Promise {
        says: "P3 nodes ask policy about the gateway alone",
        switch: "gateway_alone",
        target: Some("node_region"),
        test: "a_gateway_widens_nothing_that_its_principal_may_and_is_not_widened_by_it",
    },
    Promise {
        says: "P2 ended keys left in the replicas' files",
        switch: "keep_ended",
        target: Some("kms_region"),
        test: "a_key_that_is_due_is_destroyed_on_every_replica_and_opens_nothing_for_ever",
    },
    Promise {
        says: "P6 precondition ignored, by seeds",
        switch: "ignore_precondition",
        target: Some("simulation"),
        test: "pure_shards_and_catalogs_keep_every_invariant",
    },
    Promise {
        says: "P6 retry applied twice, by seeds",
        switch: "retry_twice",
        target: Some("simulation"),
        test: "pure_shards_and_catalogs_keep_every_invariant",
    },
    Promise {
        says: "P5 one receipt instead of a majority, by seeds",
        switch: "one_receipt",
        target: Some("simulation"),
        test: "pure_shards_and_catalogs_keep_every_invariant",
    },
    Promise {
        says: "P5 receipts counted whoever votes, by seeds",
        switch: "receipts_of_anyone",
        target: Some("simulation"),
        test: "pure_shards_and_catalogs_keep_every_invariant",
    },
    Promise {
        says: "P6 verdict not bound, by seeds",
        switch: "unbound_verdict",
        target: Some("simulation"),
        test: "pure_shards_and_catalogs_keep_every_invariant",
    },
    Promise {
        says: "P3 verdict of the KMS not bound, by seeds",
        switch: "unbound_verdict",
        target: Some("simulation"),
        test: "the_pure_kms_keeps_every_invariant",
    },
    Promise {
        says: "P2 approvals not counted, by seeds",
        switch: "ignore_approvals",
        target: Some("simulation"),
        test: "the_pure_kms_keeps_every_invariant",
    },
    Promise {
        says: "P5 acknowledged before the sync, by seeds",
        switch: "ack_before_sync",
        target: Some("simulation"),
        test: "replicas_that_fail_keep_what_they_acknowledged",
    },
    Promise {
        says: "P6 read without asking the majority, by seeds",
        switch: "read_without_barrier",
        target: Some("simulation"),
        test: "replicas_that_fail_keep_what_they_acknowledged",
    },
    Promise {
        says: "P5 a lost member back under its old id, by seeds",
        switch: "reuse_node_id",
        target: Some("simulation"),
        test: "replicas_that_fail_keep_what_they_acknowledged",
    },
    Promise {
        says: "P3 released before the record",
        switch: "release_before_record",
        target: Some("kms_region"),
        test: "no_key_is_released_before_its_record_is_committed",
    },
    Promise {
        says: "P3 released without the word of the witnesses",
        switch: "ignore_witnesses",
        target: Some("kms_region"),
        test: "no_key_is_released_without_a_fresh_word_of_the_witnesses",
    },
    Promise {
        says: "P3 a person's purpose released before its record is witnessed",
        switch: "ignore_witnesses",
        target: None,
        test: "a_persons_purpose_waits_until_the_witnesses_have_seen_its_record",
    },
    Promise {
        says: "P3 an approved open released before its record is witnessed, on real replicas",
        switch: "ignore_witnesses",
        target: Some("kms_region"),
        test: "an_approved_open_is_released_once_the_witness_has_seen_its_record",
    },
    Promise {
        says: "P2 approvals not counted for an open, on real replicas",
        switch: "ignore_approvals",
        target: Some("kms_region"),
        test: "an_open_for_a_persons_purpose_is_refused_unless_two_others_approved_exactly_it",
    },
    Promise {
        says: "P3 purposes not bound to roles, on real replicas",
        switch: "anyones_purpose",
        target: Some("kms_region"),
        test: "an_open_for_a_persons_purpose_is_refused_unless_two_others_approved_exactly_it",
    },
    Promise {
        says: "P3 purposes not bound to roles, in the state",
        switch: "anyones_purpose",
        target: Some("machine"),
        test: "apply_holds_purposes_to_roles_even_where_a_leader_did_not",
    },
    Promise {
        says: "P3 policy not asked",
        switch: "ignore_policy",
        target: Some("kms_region"),
        test: "what_no_policy_permits_is_denied_and_a_forbid_is_named",
    },
    Promise {
        says: "P5 block unlinked by clock",
        switch: "unlink_by_clock",
        target: None,
        test: "an_old_upload_stays_until_the_shard_itself_has_moved_on",
    },
    Promise {
        says: "P5 a damaged block left as it is",
        switch: "leave_damaged",
        target: None,
        test: "a_damaged_block_is_fetched_again",
    },
    Promise {
        says: "P5 a node's damaged files left as they are, on real processes",
        switch: "leave_damaged",
        target: Some("regions"),
        test: "damage_to_one_node_s_files_is_found_and_repaired_under_load",
    },
    Promise {
        says: "P4 plaintext on a node",
        switch: "plaintext_on_node",
        target: Some("regions"),
        test: "no_disk_of_a_region_holds_plaintext",
    },
    Promise {
        says: "P7 keys of a source destroyed before a verified cutover",
        switch: "shred_before_verify",
        target: Some("model"),
        test: "no_interleaving_breaks_a_promise",
    },
    Promise {
        says: "P7 a revert that applies after the dataset moved",
        switch: "revert_races_cutover",
        target: Some("model"),
        test: "no_interleaving_breaks_a_promise",
    },
    Promise {
        says: "P7 an import that goes by its arrival",
        switch: "import_without_index",
        target: Some("model"),
        test: "no_interleaving_breaks_a_promise",
    },
    Promise {
        says: "P7 a write of another dataset epoch",
        switch: "epoch_ignored",
        target: Some("model"),
        test: "no_interleaving_breaks_a_promise",
    },
    Promise {
        says: "P7 a cutover without the source's request ids",
        switch: "requests_not_crossed",
        target: Some("model"),
        test: "no_interleaving_breaks_a_promise",
    },
    Promise {
        says: "P7 a destination that serves before the source has moved",
        switch: "serve_before_moved",
        target: Some("model"),
        test: "no_interleaving_breaks_a_promise",
    },
    Promise {
        says: "P7 a reader of changes not told of dropped tombstones",
        switch: "tombstone_forgotten",
        target: Some("model"),
        test: "no_interleaving_breaks_a_promise",
    },
    Promise {
        says: "P7 a cutover of an earlier fence",
        switch: "fence_unnamed",
        target: Some("model"),
        test: "no_interleaving_breaks_a_promise",
    },
    Promise {
        says: "P7 an import of an earlier listing",
        switch: "pass_ignored",
        target: Some("model"),
        test: "no_interleaving_breaks_a_promise",
    },
    Promise {
        says: "P7 an abort that states too little",
        switch: "grant_outlives_abort",
        target: Some("model"),
        test: "no_interleaving_breaks_a_promise",
    },
    Promise {
        says: "P4 a dataset told for a backup to who has no grant for one",
        switch: "backups_for_all",
        target: Some("node_region"),
        test: "a_dataset_is_told_to_who_may_back_up_and_has_its_lease_on_record",
    },
    Promise {
        says: "P5 a backup of many moments",
        switch: "backup_moves",
        target: Some("node_region"),
        test: "what_is_told_is_of_one_log_index_whatever_is_written_meanwhile",
    },
    Promise {
        says: "P1 keys that cross between regions on anyone's signature",
        switch: "unsigned_hand_over",
        target: Some("kms_region"),
        test: "keys_cross_for_one_relocation_and_open_there_what_was_sealed_here",
    },
];

/// A program of tests, built.
struct Program {
    name: String,
    /// Of a library's unit tests.
    unit: bool,
    path: PathBuf,
    /// The folder of its package, where cargo would start it.
    folder: PathBuf,
}

/// Throws every switch whose name contains `filter`, one a processor at once. A switch that nothing notices is an
/// error.
pub(crate) fn run(root: &Path, target: &Path, filter: Option<&str>) -> Result<()> {
    let bin = build(root, target)?;
    let programs = programs(root, target)?;
    let chosen: Vec<_> = PROMISES
        .iter()
        .filter(|p| filter.is_none_or(|f| p.switch.contains(f)))
        .collect();
    let next = AtomicUsize::new(0);
    let unnoticed = Mutex::new(Vec::new());
    let worker = || -> Result<()> {
        while let Some(promise) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            if !throw(promise, &programs, &bin)? {
                let mut unnoticed = unnoticed.lock().unwrap_or_else(PoisonError::into_inner);
                unnoticed.push(promise.switch);
            }
        }
        Ok(())
    };
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| {
            let ended = worker.join();
            ended.unwrap_or_else(|_| Err(anyhow!("a switch could not be thrown")))
        })
    })?;
    let unnoticed = unnoticed
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    if filter.is_none_or(|f| "keys".contains(f)) {
        search_keys(&bin)?;
        capture_keys(root, target, &bin)?;
    }
    if filter.is_none_or(|f| "relocation".contains(f)) {
        // Which promise of a relocation falls with which rule, and after how many steps.
        let mut seeded = cargo(root, target, "test");
        crate::call(seeded.args(["--test", "seeded", "--", "--nocapture"]))?;
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

/// Whether the promise's test goes red with its switch thrown.
fn throw(promise: &Promise, programs: &[Program], bin: &Path) -> Result<bool> {
    let of_promise = |program: &&Program| match promise.target {
        Some(target) => !program.unit && program.name == target,
        None => program.unit,
    };
    let programs: Vec<_> = programs.iter().filter(of_promise).collect();
    if programs.is_empty() {
        bail!("no tests of the name {:?}", promise.target);
    }
    // Some notice by chance, within a few tries.
    let mut tries = 0;
    let (text, red) = loop {
        tries += 1;
        let mut text = String::new();
        for program in &programs {
            let mut run = Command::new(&program.path);
            run.arg(promise.test).current_dir(&program.folder);
            run.env("CARGO_MANIFEST_DIR", &program.folder)
                .env("REDUIT_DANGER", promise.switch)
                .env("REDUIT_BIN", bin);
            let output = run
                .output()
                .with_context(|| format!("cannot start {}", program.path.display()))?;
            text.push_str(&String::from_utf8_lossy(&output.stdout));
            text.push_str(&String::from_utf8_lossy(&output.stderr));
        }
        let red = is_red(&text, promise.test);
        if red || tries == TRIES_MAX {
            break (text, red);
        }
    };
    let verdict = if red {
        "red, as it must be"
    } else {
        "NOT NOTICED"
    };
    println!(
        "promise: {} [{}] {}: {verdict} (run {tries} of at most {TRIES_MAX})",
        promise.says, promise.switch, promise.test
    );
    if !red {
        println!("{text}");
    }
    Ok(red)
}

/// Every program of tests of the workspace, built with the switches in.
fn programs(root: &Path, target: &Path) -> Result<Vec<Program>> {
    let mut build = cargo(root, target, "test");
    build.args([
        "--all-targets",
        "--no-run",
        "--message-format",
        "json-render-diagnostics",
    ]);
    let output = build
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the tests do not build: {}", output.status);
    }
    let mut programs = Vec::new();
    for message in Message::parse_stream(output.stdout.as_slice()) {
        let Message::CompilerArtifact(built) = message.context("what cargo says")? else {
            continue;
        };
        let (true, Some(path)) = (built.profile.test, built.executable) else {
            continue;
        };
        let folder = built.manifest_path.parent().context("a package's folder")?;
        let unit = built.target.is_lib();
        if unit || built.target.is_test() {
            programs.push(Program {
                name: built.target.name,
                unit,
                path: path.into(),
                folder: folder.into(),
            });
        }
    }
    Ok(programs)
}

fn is_red(text: &str, test: &str) -> bool {
    text.lines().any(|line| {
        let line = line.trim_end();
        line.starts_with("test ") && line.contains(test) && line.ends_with("FAILED")
    })
}

/// The daemons with all switches, none of them thrown.
pub(crate) fn build(root: &Path, target: &Path) -> Result<PathBuf> {
    // With the tests: by themselves they would unify features otherwise, and build all libraries once more.
    crate::call(cargo(root, target, "build").arg("--all-targets"))?;
    crate::placed(target, BIN)
}

/// P1, P4: no key that a region ever held is on its disks or in the memory of its storage nodes.
fn search_keys(bin: &Path) -> Result<()> {
    let (salt, lines) = (salt()?, fingerprints(bin, "disks"));
    let mut search = Command::new(bin.join("xtask-run"));
    search.arg("keys").env("REDUIT_BIN", bin);
    search.env(SALT, salt).env(FINGERPRINTS, &lines);
    let outcome = crate::call(&mut search);
    std::fs::remove_file(&lines).context("the daemons wrote no fingerprints")?;
    outcome
}

/// P1: no key that two regions ever held is seen between them while a dataset moves.
fn capture_keys(root: &Path, target: &Path, bin: &Path) -> Result<()> {
    let (salt, lines) = (salt()?, fingerprints(bin, "link"));
    let out = target.join("promises-relocation");
    let environment = [(SALT, OsStr::new(&salt)), (FINGERPRINTS, lines.as_os_str())];
    let played = crate::jepsen::captured_keys(bin, root, &out, &environment);
    if lines.exists() {
        std::fs::remove_file(&lines).context("fingerprints cannot be removed")?;
    }
    if !played? {
        println!("promises: keys between regions were not looked for: skipped, see above");
    }
    Ok(())
}

/// Where daemons of one search write the fingerprints of their keys.
fn fingerprints(bin: &Path, of: &str) -> PathBuf {
    bin.join(format!("fingerprints-{of}-{}", std::process::id()))
}

fn salt() -> Result<String> {
    let mut salt = [0; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut salt))
        .context("random bytes for a salt")?;
    Ok(salt.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn cargo(root: &Path, target: &Path, what: &str) -> Command {
    let mut command = crate::cargo(root, target);
    command.args([what, "--workspace", "--features", FEATURES]);
    command
}
