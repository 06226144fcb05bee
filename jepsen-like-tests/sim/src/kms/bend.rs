//! Bends a good command: one thing in it becomes stale, wrong, malformed or unknown.
//!
//! Owns the list of what can be wrong. Refuses to say what the KMS makes of it.

use bytes::Bytes;
use proto::v1::kms_command::Command;
use proto::v1::record::Kind as Asked;
use proto::v1::{Claim, KekVersionRecord, KeyTag, KmsCommand, LeaseIssue, Record};
use rand::Rng;

use super::draw::Draw;
use super::region::{HOUR, id, item};

pub(super) fn bend(draw: &mut Draw, command: &mut KmsCommand) {
    match draw.rng.random_range(0..12) {
        0 => command.authority_version = command.authority_version.wrapping_sub(1),
        1 => command.salts = Bytes::from_static(b"short"),
        2 => command.now_ms += draw.rng.random_range(50_000..90_000),
        3 => command.now_ms = command.now_ms.saturating_sub(HOUR),
        4 => {
            let who = ["", "operator/o9", "gateway/g1", "operator/o2", "kms/r1"];
            let who = who[draw.rng.random_range(0..who.len())];
            command.requester = if who.is_empty() {
                String::new()
            } else {
                id(who).to_string()
            };
        }
        5 => command.approvals = draw.approvals(),
        6 => approvals(draw, command),
        _ => body(draw, command),
    }
}

fn approvals(draw: &mut Draw, command: &mut KmsCommand) {
    let Some(last) = command.approvals.last_mut() else {
        return;
    };
    match draw.rng.random_range(0..5) {
        0 => last.single_use_id = Bytes::from_static(b"short"),
        1 => last.approval_hash = Bytes::from_static(b"short"),
        2 => last.approver = "nobody".to_owned(),
        3 => last.single_use_id = Bytes::from(vec![0xEE; 16]),
        _ => {
            let one = last.clone();
            command.approvals.extend(std::iter::repeat_n(one, 16));
        }
    }
}

fn body(draw: &mut Draw, command: &mut KmsCommand) {
    let short = Bytes::from_static(b"short");
    let dice = draw.rng.random_range(0..6);
    match &mut command.command {
        Some(Command::CreateKek(create)) => match dice {
            0 => create.kek_id = short,
            1 => create.pseudonym = short,
            2 => create.request_id = short,
            3 => create.dataset_id = short,
            4 => wrapped(draw, create.version.as_mut()),
            _ => claim(draw, &mut create.claim),
        },
        Some(Command::RotateKek(rotate)) => match dice {
            0 => rotate.state_version = rotate.state_version.wrapping_sub(1),
            1 => rotate.dataset_id = short,
            2 if draw.rng.random() => rotate.request_id = short,
            2 => rotate.version = None,
            3 | 4 => wrapped(draw, rotate.version.as_mut()),
            _ => claim(draw, &mut rotate.claim),
        },
        Some(Command::ChangeKeyState(change)) => match dice {
            0 => change.state_version = change.state_version.wrapping_sub(1),
            1 => change.state = 9,
            2 => change.state = draw.rng.random_range(0..6),
            3 => change.destruction_days ^= 7,
            4 if draw.rng.random() => change.request_id.clear(),
            4 => change.dataset_id = draw.dataset().into(),
            _ => claim(draw, &mut change.claim),
        },
        Some(Command::CreateAccessKey(create)) => match dice {
            0 => create.access_key_id = short,
            1 if draw.rng.random() => create.request_id = vec![7; 16].into(),
            1 => create.request_id = short,
            2 => create.principal = id("client/s1").to_string(),
            3 => create.principal = "spiffe://de-fra/service/p0".to_owned(),
            4 if draw.rng.random() => create.root_epoch = 2,
            // As long as a secret in the clear.
            4 => create.wrapped_secret = vec![1; 32].into(),
            _ => claim(draw, &mut create.claim),
        },
        Some(Command::SetAccessKeyState(set)) => match dice {
            0 => set.state_version = set.state_version.wrapping_sub(1),
            1 => set.state = 9,
            2 => set.state = 0,
            3 => set.access_key_id = short,
            _ => claim(draw, &mut set.claim),
        },
        Some(Command::DeleteAccessKey(delete)) => match dice {
            0 | 1 => delete.state_version = delete.state_version.wrapping_sub(1),
            2 => delete.access_key_id = short,
            _ => claim(draw, &mut delete.claim),
        },
        Some(Command::RegisterShard(register)) => register.dataset_id = short,
        Some(Command::ConfirmErased(confirm)) => {
            confirm.through_leaf = confirm.through_leaf.wrapping_sub(1);
        }
        Some(Command::ConfirmShard(confirm)) => match dice {
            0..3 => confirm.state_version = confirm.state_version.wrapping_sub(1),
            _ => confirm.dataset_id = short,
        },
        Some(Command::ChangeEnrolment(change)) => match dice {
            0 => {
                change.add.clear();
                change.remove.clear();
            }
            1 => change.remove = vec![id("gateway/gone").to_string()],
            2 => {
                change.remove = ["kms/r1", "kms/r2", "kms/r3"]
                    .map(|r| id(r).to_string())
                    .to_vec()
            }
            _ => claim(draw, &mut change.claim),
        },
        Some(Command::ChangeGrants(change)) => match dice {
            0 => {
                change.add.clear();
                change.remove.clear();
            }
            1 => {
                for grant in &mut change.add {
                    grant.actions = vec![99];
                }
            }
            _ => claim(draw, &mut change.claim),
        },
        Some(Command::ChangePolicy(change)) => match dice {
            0 => change.text = " \n".to_owned(),
            1 => change.text = "/".repeat(900_001),
            _ => claim(draw, &mut change.claim),
        },
        Some(Command::ChangeWitnesses(change)) => match (dice, &mut change.policy) {
            (0, _) => change.policy = None,
            (1, Some(policy)) => policy.format = 0,
            (2, Some(policy)) => policy.policy = Bytes::from_static(b"quorum all\n"),
            (3, Some(policy)) => policy.unwitnessed_max_ms = 59_999,
            _ => claim(draw, &mut change.claim),
        },
        Some(Command::PlanKeyRotation(plan)) => match dice {
            0 | 1 => plan.state_version = plan.state_version.wrapping_sub(1),
            2 => plan.max_uses = 255,
            3 => plan.max_age_ms = 1,
            4 => plan.request_id = short,
            _ => claim(draw, &mut plan.claim),
        },
        Some(Command::LabelKey(label)) => match dice {
            0 | 1 => label.state_version = label.state_version.wrapping_sub(1),
            2 => label.add_aliases.push("Not An Alias".to_owned()),
            3 => label.set_tags.push(KeyTag::default()),
            4 => label.request_id = short,
            _ => claim(draw, &mut label.claim),
        },
        Some(Command::RaiseMinVersion(raise)) => match dice {
            0 | 1 => raise.state_version = raise.state_version.wrapping_sub(1),
            2 => raise.min_version = 0,
            3 => raise.min_version += 9,
            4 => raise.dataset_id = short,
            _ => claim(draw, &mut raise.claim),
        },
        Some(Command::EndKekVersions(end)) => match dice {
            0 => end.state_version = end.state_version.wrapping_sub(1),
            1 => end.below_version += 1,
            2 => end.metadata_keys.truncate(1),
            3 => end.metadata_keys.clear(),
            4 => end.request_id = short,
            _ => claim(draw, &mut end.claim),
        },
        Some(Command::DestroyKek(destroy)) => match dice {
            0 | 1 => destroy.state_version = destroy.state_version.wrapping_sub(1),
            2 => destroy.dataset_id = short,
            3 => command.requester = id("operator/o1").to_string(),
            _ => destroy.witnessed_at_ms = 1,
        },
        Some(Command::AllocateKmsId(allocate)) => {
            allocate.identity = match dice {
                0..2 => "nobody".to_owned(),
                2..4 => id("node/n9").to_string(),
                _ => "spiffe://de-fra/kms/r1".to_owned(),
            };
        }
        Some(Command::RecordUnseal(unseal)) => match dice {
            0 => unseal.boot_id = short,
            1 => unseal.replica = "nobody".to_owned(),
            2 => unseal.replica = id("node/n1").to_string(),
            3 => unseal.how = 0,
            _ => unseal.how = 9,
        },
        Some(Command::Records(batch)) => match dice {
            0 => batch.records.extend(batch.records.clone()),
            _ => {
                if let Some(first) = batch.records.first_mut() {
                    record(draw, first);
                }
            }
        },
        Some(Command::AdvanceTime(advance)) => advance.clocks_ms.clear(),
        // No run draws a change of custody, or another region.
        Some(
            Command::BeginCustody(_)
            | Command::ConfirmShare(_)
            | Command::RewrapKeks(_)
            | Command::FinishCustody(_)
            | Command::AbandonCustody(_)
            | Command::EraseShare(_)
            | Command::RetireEpoch(_)
            | Command::RecordSeal(_)
            | Command::SendRoot(_)
            | Command::BeginBackup(_)
            | Command::ConfirmBackup(_)
            | Command::RestoreRows(_)
            | Command::FinishRestore(_)
            | Command::ProvisionSeal(_)
            | Command::DropSeal(_)
            | Command::ApproveRestore(_)
            | Command::PublishRegion(_)
            | Command::TrustRegion(_)
            | Command::DistrustRegion(_),
        ) => {}
        // Nor a relocation, which is explored in a world of two regions.
        Some(
            Command::GrantHandOver(_)
            | Command::SetHandOver(_)
            | Command::ShredKey(_)
            | Command::CreateHandOverKey(_)
            | Command::EndHandOverKey(_),
        ) => {}
        Some(Command::Init(_)) => {}
        None => {}
    }
    if dice == 5 && draw.rng.random_ratio(1, 6) {
        command.command = None;
    }
}

fn wrapped(draw: &mut Draw, version: Option<&mut KekVersionRecord>) {
    let Some(version) = version else {
        return;
    };
    match draw.rng.random_range(0..4) {
        0 => version.version += 1,
        1 => version.root_epoch = 2,
        // As long as a key in the clear.
        2 => version.wrapped_kek = vec![1; 32].into(),
        _ => version.wrapped_metadata_key = vec![1; 32].into(),
    }
}

fn claim(draw: &mut Draw, claim: &mut Option<Claim>) {
    let Some(held) = claim else {
        return;
    };
    match draw.rng.random_range(0..5) {
        0 => *claim = None,
        1 => held.actor = "nobody".to_owned(),
        2 => held.actor = id("operator/o3").to_string(),
        3 => held.purpose = "No such purpose".to_owned(),
        _ => held.case_id = "c".repeat(1025),
    }
}

fn record(draw: &mut Draw, record: &mut Record) {
    match draw.rng.random_range(0..8) {
        0 => record.state_version = record.state_version.wrapping_sub(1),
        1 => record.request_id = Bytes::from_static(b"short"),
        2 => record.dataset_id = draw.dataset().into(),
        3 => record.kind = None,
        4 => actor(draw, record),
        _ => kind(draw, record),
    }
}

fn actor(draw: &mut Draw, record: &mut Record) {
    let Some(claim) = &mut record.claim else {
        return;
    };
    match draw.rng.random_range(0..4) {
        0 => claim.actor = "spiffe://de-fra/gateway/g1".to_owned(),
        1 => claim.actor = id("operator/o1").to_string(),
        2 => claim.actor = id("auditor/a1").to_string(),
        _ => claim.purpose = "investigation".to_owned(),
    }
}

fn kind(draw: &mut Draw, record: &mut Record) {
    let dice = draw.rng.random_range(0..8);
    match &mut record.kind {
        Some(Asked::Lease(issue) | Asked::MetadataLease(issue)) => lease(dice, issue),
        Some(Asked::Opens(opens)) => match dice {
            0 => opens.items.clear(),
            1 => opens.items = vec![item(1, 1); 257],
            2 => opens.recipient_region = "de-fra".to_owned(),
            3 => opens.items = vec![item(1, u64::MAX); 2],
            4 => opens.recipient_region.clear(),
            _ => {
                for one in &mut opens.items {
                    one.name_commitment = Bytes::from_static(b"short");
                }
            }
        },
        Some(Asked::AccessKey(issue)) => match dice {
            0 => issue.access_key_id = Bytes::from_static(b"short"),
            1 => issue.seconds = 0,
            2 => issue.seconds = 3_601,
            _ => issue.seconds /= 2,
        },
        Some(Asked::HandOver(_) | Asked::HandedOver(_)) | None => {}
    }
}

fn lease(dice: u32, issue: &mut LeaseIssue) {
    match dice {
        0 => issue.lease_id = Bytes::from_static(b"short"),
        1 => issue.holder = Bytes::from_static(b"short"),
        2 | 6 | 7 => issue.kek_version = issue.kek_version.wrapping_sub(1),
        3 => issue.kek_version += 1,
        4 => issue.expires_at_ms = issue.issued_at_ms,
        _ => issue.expires_at_ms += 2 * HOUR,
    }
}
