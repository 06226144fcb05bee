//! Commands of the KMS.

use std::sync::OnceLock;

use bytes::Bytes;
use kms_state::prepare::{self, Asked, KeyChange, KeyUse, NewKek, NewLease};
use kms_state::{At, Authority, LEVEL_MAX, apply, invariant};
use prost::Message as _;
use proto::ids::{DatasetId, Identity, KekId, LeaseId, LogIndex, ObjectVersionId, UnixMs};
use proto::store::MemoryStore;
use proto::v1;
use proto::v1::kms_answer::Answer;

use super::{COMMANDS_MAX, list_of};
use crate::known::{APPROVER, CLIENT, DATASET, KMS, Known, NOW, OPERATOR, set};
use crate::mutate::repeated;
use crate::{Memory, Shape, Source, Target};

pub(crate) const KMS_COMMANDS: Target = Target {
    name: "kms-commands",
    from: Source::Network,
    parses: &["kms/state/src/apply.rs: apply"],
    shape: Shape::MESSAGE,
    len_max: 8192,
    memory: Memory {
        // A state of some dozen records, cloned for each command; an enrolment set is parsed many times.
        fixed: 8 << 20,
        per_byte: 4096,
    },
    check,
    seeds: || seeds().iter().map(list_of).collect(),
};

/// Another dataset, whose key is there but no lease.
const OTHER: DatasetId = DatasetId([0xD7; 16]);
const HOUR_MS: u64 = 3_600_000;

/// A KMS with two keys, a lease, and records of opens.
#[derive(Clone, PartialEq)]
struct Region {
    state: MemoryStore,
    index: u64,
}

impl Region {
    fn apply(&mut self, command: &[u8]) -> Result<Bytes, kms_state::UnknownCommand> {
        self.index += 1;
        let at = At {
            index: LogIndex(self.index),
            voters: 3,
            level: LEVEL_MAX,
        };
        apply(at, command, &mut self.state)
    }

    fn authority(&self) -> Authority {
        Authority::load(&self.state).expect("initialised")
    }
}

/// The set that a KMS is initialised with: its custodians hold shares.
fn genesis() -> v1::EnrolmentSet {
    let mut genesis = set(1);
    for number in 1..=3 {
        let key = crate::known::key(100 + number).public_key();
        genesis.enrolments.push(v1::Enrolment {
            identity: format!("spiffe://ch-zrh/custodian/c{number}"),
            public_key: key.as_spki().to_vec().into(),
            jurisdiction: "CH".to_owned(),
            hpke_public_key: vec![7; 1216].into(),
            ..Default::default()
        });
    }
    genesis
        .enrolments
        .sort_by(|a, b| a.identity.cmp(&b.identity));
    genesis
}

fn region_record() -> v1::KmsRegion {
    let holder = |number: u32| v1::ShareHolder {
        identity: format!("spiffe://ch-zrh/custodian/c{number}"),
        share_check: Bytes::from_static(b"check"),
        share_index: number,
    };
    v1::KmsRegion {
        format: 1,
        region: "ch-zrh".to_owned(),
        jurisdiction: "CH".to_owned(),
        root_epoch: 1,
        root_check: Bytes::from_static(b"root-check"),
        shares_needed: 2,
        custodians: (1..=3).map(holder).collect(),
        log_origin: "ch-zrh/main/1".to_owned(),
        share_set: Bytes::from_static(b"share-set"),
    }
}

/// Salts differ from command to command.
fn asked(requester: Known, salt: u8) -> Asked {
    Asked {
        requester: requester.identity(),
        now: NOW,
        salts: [salt; 32],
        approvals: Vec::new(),
    }
}

fn approved(requester: Known, salt: u8) -> Asked {
    let approval = |approver: Identity| v1::ApprovalClaim {
        approver: approver.to_string(),
        single_use_id: vec![salt; 16].into(),
        expires_at_ms: NOW.0 + HOUR_MS,
        approval_hash: vec![0xCC; 32].into(),
    };
    let third: Identity = "spiffe://ch-zrh/operator/op-3".parse().expect("valid");
    Asked {
        approvals: vec![approval(APPROVER.identity()), approval(third)],
        ..asked(requester, salt)
    }
}

fn version(number: u32) -> v1::KekVersionRecord {
    v1::KekVersionRecord {
        version: number,
        root_epoch: 1,
        wrapped_kek: vec![0xAA; 150].into(),
        wrapped_metadata_key: vec![0xBB; 150].into(),
        created_at_ms: 0,
        metadata_kek_version: 0,
    }
}

fn create(region: &Region, dataset: DatasetId) -> v1::KmsCommand {
    let number = dataset.0[0];
    let new = NewKek {
        dataset,
        kek: KekId([number ^ 0x0F; 16]),
        pseudonym: [number ^ 0xF0; 16],
        request_id: [number; 16],
        version: version(1),
    };
    prepare::create_kek(
        &region.authority(),
        asked(CLIENT, number),
        v1::Claim::default(),
        new,
    )
    .expect("granted")
}

/// A lease and an open in one command.
fn records(region: &Region, request: u8) -> v1::KmsCommand {
    let (authority, caller) = (region.authority(), CLIENT.identity());
    let used = |request: u8| KeyUse {
        caller: &caller,
        dataset: &DATASET,
        request_id: [request; 16],
        claim: v1::Claim::default(),
    };
    let new = NewLease {
        id: LeaseId([request; 16]),
        holder: [0xEE; 32],
        issued: NOW,
        expires: UnixMs(NOW.0 + HOUR_MS),
    };
    let item = v1::OpenedItem {
        version_id: ObjectVersionId([1; 16]).into(),
        name_commitment: vec![1; 32].into(),
        lease_id: LeaseId([9; 16]).into(),
        bytes: 10,
    };
    let state = &region.state;
    let (lease, _) = prepare::lease(state, &authority, used(request), new).expect("granted");
    let (opens, _) =
        prepare::opens(state, &authority, used(request + 1), vec![item]).expect("granted");
    let version = authority.version();
    prepare::batch(
        asked(KMS, request),
        version,
        vec![lease.record, opens.record],
    )
}

/// The KMS that inputs are applied to.
fn grown() -> &'static Region {
    static GROWN: OnceLock<Region> = OnceLock::new();
    GROWN.get_or_init(|| {
        let mut region = Region {
            state: MemoryStore::default(),
            index: 0,
        };
        let init = prepare::init(asked(KMS, 1), region_record(), &genesis());
        done(&mut region, &init);
        for dataset in [DATASET, OTHER] {
            let command = create(&region, dataset);
            done(&mut region, &command);
        }
        let command = records(&region, 50);
        done(&mut region, &command);
        region
    })
}

fn done(region: &mut Region, command: &v1::KmsCommand) {
    let answer = region.apply(&command.encode_to_vec()).expect("known");
    let answer = v1::KmsAnswer::decode(answer).expect("an answer").answer;
    let accepted = match &answer {
        Some(Answer::Done(_)) => true,
        Some(Answer::Records(records)) => records.answers.iter().all(|one| one.refused == 0),
        Some(Answer::Refused(_)) | None => false,
    };
    assert!(accepted, "{command:?}: {answer:?}");
}

fn check(data: &[u8]) {
    let mut region = grown().clone();
    for command in repeated(data).into_iter().take(COMMANDS_MAX) {
        let (mut other, before) = (region.clone(), region.clone());
        let answer = region.apply(&command);
        assert_eq!(answer, other.apply(&command), "two replicas answer alike");
        assert!(region == other, "two replicas come to the same state");
        let Ok(answer) = answer else {
            assert!(
                region.state == before.state,
                "an unknown command changed the state"
            );
            return;
        };
        let answer = v1::KmsAnswer::decode(answer).expect("own answer").answer;
        if matches!(answer, Some(Answer::Refused(_))) {
            assert!(
                region.state == before.state,
                "a refused command changed the state"
            );
            continue;
        }
        if let Err(broken) = invariant::all(&region.state) {
            panic!("{broken}");
        }
        if let Err(broken) = invariant::invariant_only_grows(&before.state, &region.state) {
            panic!("{broken}");
        }
    }
}

/// Lists of commands that a KMS accepts.
fn seeds() -> Vec<Vec<v1::KmsCommand>> {
    let region = grown();
    let (authority, state) = (region.authority(), &region.state);
    let change = |salt, target, days| {
        let asked = approved(OPERATOR, salt);
        let change = key_change(&DATASET, salt);
        prepare::change_key_state(state, &authority, asked, change, (target, days))
            .expect("an allowed step")
    };
    let rotate = |salt| {
        let asked = asked(OPERATOR, salt);
        let change = key_change(&OTHER, salt);
        prepare::rotate_kek(state, &authority, asked, change, version(2)).expect("granted")
    };
    let enrolment = v1::ChangeEnrolment {
        add: vec![
            Known {
                name: "app-9",
                key: 90,
                ..CLIENT
            }
            .enrolment(),
        ],
        remove: vec!["spiffe://ch-zrh/auditor/a1".to_owned()],
        claim: None,
    };
    let grants = v1::ChangeGrants {
        add: vec![v1::Grant {
            principal: "role:gateway".to_owned(),
            dataset: DATASET.to_string(),
            actions: vec![v1::Action::Read.into()],
            purposes: vec!["reseal".to_owned()],
        }],
        remove: Vec::new(),
        claim: None,
    };
    let replica: Identity = "spiffe://ch-zrh/kms/k9".parse().expect("valid");
    let disabled = change(61, v1::KeyState::Disabled, 0);
    let later = UnixMs(NOW.0 + HOUR_MS);
    // Over a day at once takes approvals, and those expire.
    let waits = (1..=8).map(|days| {
        let then = UnixMs(NOW.0 + days * 23 * HOUR_MS);
        prepare::advance_time(asked(KMS, 80 + days as u8), &[then, then])
    });
    let mut destroyed = vec![disabled.clone(), pending(62)];
    destroyed.extend(waits);
    let destroy = prepare::destroy_kek(&authority, asked(KMS, 72), &DATASET, 3, UnixMs(0));
    destroyed.push(destroy);
    vec![
        vec![records(region, 70), records(region, 70)],
        vec![rotate(71)],
        vec![disabled.clone()],
        vec![disabled, pending(62)],
        destroyed,
        vec![prepare::change_enrolment(
            &authority,
            approved(OPERATOR, 63),
            enrolment,
        )],
        vec![prepare::change_grants(
            &authority,
            approved(OPERATOR, 64),
            grants,
        )],
        vec![prepare::allocate_kms_id(
            &authority,
            asked(OPERATOR, 65),
            &replica,
        )],
        vec![
            prepare::register_shard(&authority, asked(KMS, 66), &DATASET, 16),
            prepare::confirm_shard(&authority, asked(KMS, 67), &DATASET, 1),
        ],
        vec![prepare::advance_time(asked(KMS, 68), &[later, later])],
        vec![prepare::record_unseal(
            &authority,
            asked(KMS, 69),
            &KMS.identity(),
            [6; 16],
            v1::UnsealHow::Custodians,
        )],
        access_key(region.clone()),
    ]
}

/// An access key from its creation to its end, each command decided on what the one before left.
fn access_key(mut region: Region) -> Vec<v1::KmsCommand> {
    const SINGLE_USE: u8 = 93;
    let named = kms_state::access_key_id(&[SINGLE_USE; 16]);
    let gateway = Known {
        role: proto::ids::Role::Gateway,
        name: "g1",
        key: 91,
        node_id: 0,
    };
    let enrol = v1::ChangeEnrolment {
        add: vec![gateway.enrolment()],
        remove: Vec::new(),
        claim: None,
    };
    let create = v1::CreateAccessKey {
        access_key_id: named.to_string().into(),
        principal: "spiffe://ch-zrh/service/backup".to_owned(),
        wrapped_secret: vec![0xAA; 150].into(),
        root_epoch: 1,
        request_id: vec![SINGLE_USE; 16].into(),
        claim: None,
    };
    let claim = v1::Claim::default;
    let mut commands = Vec::new();
    for step in 0..6 {
        let (state, authority) = (&region.state, region.authority());
        let set = |asked, target| {
            prepare::set_access_key_state(state, &authority, asked, claim(), (named, target))
        };
        let command = match step {
            0 => prepare::change_enrolment(&authority, approved(OPERATOR, 92), enrol.clone()),
            1 => {
                let asked = approved(OPERATOR, SINGLE_USE);
                prepare::create_access_key(&authority, asked, claim(), create.clone())
            }
            2 => {
                let (gateway, request) = (gateway.identity(), [94; 16]);
                let (record, _) =
                    prepare::access_secret(state, &gateway, request, claim(), (named, 3_600))
                        .expect("enabled");
                prepare::batch(asked(KMS, 94), authority.version(), vec![record])
            }
            3 => set(asked(OPERATOR, 95), v1::AccessKeyState::Disabled).expect("there"),
            4 => set(approved(OPERATOR, 96), v1::AccessKeyState::Enabled).expect("there"),
            _ => set(asked(OPERATOR, 97), v1::AccessKeyState::Disabled).expect("there"),
        };
        done(&mut region, &command);
        commands.push(command);
    }
    let (state, authority) = (&region.state, region.authority());
    let delete = prepare::delete_access_key(state, &authority, asked(OPERATOR, 98), claim(), named);
    commands.push(delete.expect("disabled"));
    commands
}

fn key_change(dataset: &DatasetId, request: u8) -> KeyChange<'_> {
    KeyChange {
        dataset,
        request_id: [request; 16],
        claim: v1::Claim::default(),
    }
}

/// Destruction of a key that was disabled by the command before.
fn pending(salt: u8) -> v1::KmsCommand {
    let what = v1::ChangeKeyState {
        dataset_id: DATASET.into(),
        state_version: 2,
        state: v1::KeyState::PendingDestruction.into(),
        claim: Some(v1::Claim {
            actor: OPERATOR.identity().to_string(),
            ..Default::default()
        }),
        destruction_days: 7,
        request_id: vec![salt; 16].into(),
    };
    let like = prepare::advance_time(approved(OPERATOR, salt), &[]);
    v1::KmsCommand {
        authority_version: 1,
        command: Some(v1::kms_command::Command::ChangeKeyState(what)),
        ..like
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An input that is refused at once explores nothing.
    #[test]
    fn every_seed_is_accepted() {
        for commands in seeds() {
            let mut region = grown().clone();
            for command in commands {
                done(&mut region, &command);
            }
        }
    }
}
