//! Claims about the witness policy: dual control, this region's log, and a quorum that is not the region's own.

use kms_state::prepare::{self, Asked};
use kms_state::{POLICY_TEXT_MAX, UNWITNESSED_MS, WitnessRule, witness_policy};
use proto::v1::{ApprovalClaim, ChangeWitnesses, KmsCommand, KmsRefusal, WitnessPolicy};
use tlog::{SignatureType, SignerKey};

use crate::lab::{HOUR, Lab, approval};

const LOG: &str = "ch-zrh/main/1";

fn vkey(name: &str, kind: SignatureType, seed: u8) -> String {
    let key = SignerKey::from_seed(name.parse().expect("a name"), kind, &[seed; 32]);
    key.expect("a key").verifier().to_string()
}

fn log(origin: &str) -> String {
    format!("log {}\n", vkey(origin, SignatureType::Ed25519, 1))
}

fn witness(name: &str, key: &str, seed: u8) -> String {
    let key = vkey(key, SignatureType::Ed25519Cosignature, seed);
    format!("witness {name} {key} http://127.0.0.1:1/\n")
}

pub(crate) fn one_witness() -> String {
    log(LOG) + &witness("w", "witness.example/w", 9) + "quorum w\n"
}

pub(crate) fn policy(text: &str) -> WitnessPolicy {
    WitnessPolicy {
        format: 1,
        policy: text.as_bytes().to_vec().into(),
        unwitnessed_max_ms: 24 * HOUR,
    }
}

fn two() -> Vec<ApprovalClaim> {
    vec![approval("operator/o2", 1), approval("operator/o3", 1)]
}

fn change(lab: &Lab, policy: WitnessPolicy, approvals: Vec<ApprovalClaim>) -> KmsCommand {
    let change = ChangeWitnesses {
        policy: Some(policy),
        claim: None,
        outgoing_size: 0,
    };
    let asked = Asked {
        approvals,
        ..lab.asked("operator/o1")
    };
    prepare::change_witnesses(&lab.authority(), asked, change)
}

/// Red with `ignore_approvals`.
#[test]
fn witnesses_change_under_dual_control_and_on_record() {
    let mut lab = Lab::new();
    let policy = policy(&one_witness());
    for approvals in [vec![], vec![approval("operator/o2", 1)]] {
        let command = change(&lab, policy.clone(), approvals);
        assert_eq!(lab.refused(&command).0, KmsRefusal::TooFewApprovals);
    }
    assert_eq!(witness_policy(&lab.state), None);
    let size = kms_state::frontier(&lab.state).size();
    let command = change(&lab, policy.clone(), two());
    let done = lab.done(&command);
    assert_eq!(done.leaf_index, size);
    assert_eq!(witness_policy(&lab.state), Some(policy));
}

#[test]
fn a_policy_is_of_this_log_and_its_quorum_is_not_the_regions_own() {
    let own = (1..=3).map(|n| witness(&format!("r{n}"), &format!("ch-zrh/kms-{n}"), n + 20));
    let own: String = own.collect();
    let outside = witness("w", "witness.example/w", 9);
    let both = "group replicas 2 r1 r2 r3\ngroup all-of-it all replicas w\nquorum all-of-it\n";
    let either = "group replicas 2 r1 r2 r3\ngroup one any replicas w\nquorum one\n";
    let good = [
        one_witness(),
        log(LOG) + "quorum none\n",
        log(LOG) + &own + &outside + both,
        // The name of a region that begins like this one's.
        log(LOG) + &witness("w", "ch-zrh2/kms-1", 9) + "quorum w\n",
    ];
    for text in good {
        WitnessRule::parse(&policy(&text), "ch-zrh", LOG).expect(&text);
    }
    let foreign = format!("log {}\n", vkey("de-fra/main/1", SignatureType::Ed25519, 2));
    let bad = [
        String::new(),
        outside.clone() + "quorum w\n",
        log("ch-zrh/main/2") + &outside + "quorum w\n",
        log(LOG) + &foreign + &outside + "quorum w\n",
        log(LOG) + &own + &outside + either,
        log(LOG) + &own + "group replicas 2 r1 r2 r3\nquorum replicas\n",
        log(LOG) + &outside,
    ];
    let mut lab = Lab::new();
    for text in bad {
        let command = change(&lab, policy(&text), two());
        assert_eq!(lab.refused(&command).0, KmsRefusal::Malformed, "{text}");
    }
}

#[test]
fn a_policy_is_bounded() {
    let mut lab = Lab::new();
    let long = one_witness() + &format!("# {}\n", "x".repeat(POLICY_TEXT_MAX));
    let with = |unwitnessed_max_ms| WitnessPolicy {
        unwitnessed_max_ms,
        ..policy(&one_witness())
    };
    let none = WitnessPolicy {
        format: 0,
        ..policy(&one_witness())
    };
    for bad in [
        policy(&long),
        with(UNWITNESSED_MS.start() - 1),
        with(UNWITNESSED_MS.end() + 1),
        none,
    ] {
        let command = change(&lab, bad, two());
        assert_eq!(lab.refused(&command).0, KmsRefusal::Malformed);
    }
    let command = change(&lab, with(*UNWITNESSED_MS.start()), two());
    lab.done(&command);
}
