//! Golden bytes of state keys, records and a whole state; what an unknown command does.

use bytes::Bytes;
use kms_state::{At, LEVEL_ERASE, LEVEL_MAX, LEVEL_SHARED_LEAVES, apply, layout};
use prost::Message;
use proto::ids::{
    AccessKeyId, DatasetId, FeatureLevel, LeaseId, LogIndex, NodeId, RelocationId, Role, UnixMs,
};
use proto::store::MemoryStore;
use proto::v1::{
    AccessKeyRecord, AccessKeyState, HandOverGrantRecord, HandOverKeyRecord, HandOverStage,
    HandOverTerms, KekRecord, KekVersionRecord, KeyRotation, KeyState, KeyTag, KmsCommand,
    LeaseRecord, MovedRecord, RegionRecord, RegionStanding, ReleasedRecord, RequestMemory,
    SignedRegionDescriptor, UnsealRecord,
};
use tlog::StoredAt;

use crate::lab::{Lab, OTHER, START};

#[test]
fn golden_bytes_of_state_keys() {
    let (dataset, lease) = (DatasetId([0xD1; 16]), LeaseId([0x1E; 16]));
    let (d, l) = ("d1".repeat(16), "1e".repeat(16));
    let time = UnixMs(0x0102_0304);
    let cases = [
        (layout::REGION.to_vec(), "52".to_owned()),
        (layout::AUTHORITY.to_vec(), "41".to_owned()),
        (layout::AUTHORITY_VERSION.to_vec(), "56".to_owned()),
        (layout::TIME.to_vec(), "54".to_owned()),
        (layout::FRONTIER.to_vec(), "46".to_owned()),
        (layout::WITNESSES.to_vec(), "57".to_owned()),
        (layout::LEASE_QUEUE_HEAD.to_vec(), "58".to_owned()),
        (layout::REQUEST_QUEUE_HEAD.to_vec(), "59".to_owned()),
        (layout::kek(&dataset), format!("6b{d}")),
        (
            layout::pseudonym(&[0xAB; 16]),
            format!("70{}", "ab".repeat(16)),
        ),
        (
            layout::kek_id(&[0xAC; 16]),
            format!("69{}", "ac".repeat(16)),
        ),
        (layout::lease(&dataset, &lease), format!("6c{d}{l}")),
        (layout::leases_of(&dataset), format!("6c{d}")),
        (
            layout::lease_queue(time, &dataset, &lease),
            format!("780000000001020304{d}{l}"),
        ),
        (layout::request(&[7; 16]), format!("71{}", "07".repeat(16))),
        (
            layout::request_queue(time, &[7; 16]),
            format!("790000000001020304{}", "07".repeat(16)),
        ),
        (
            layout::used_approval(&[8; 16]),
            format!("73{}", "08".repeat(16)),
        ),
        (
            layout::approved_restore(&[8; 16]),
            format!("6a{}", "08".repeat(16)),
        ),
        (layout::boot(&[9; 16]), format!("62{}", "09".repeat(16))),
        (
            layout::member(Role::Node, NodeId(5)),
            "6d010000000000000005".to_owned(),
        ),
        (
            layout::member(Role::Kms, NodeId(5)),
            "6d020000000000000005".to_owned(),
        ),
        (
            layout::access_key(&AccessKeyId::from_bits(31)),
            format!("63524454{}37", "41".repeat(16)),
        ),
        (
            layout::access_secret(&AccessKeyId::from_bits(31)),
            format!("64524454{}37", "41".repeat(16)),
        ),
        (
            layout::rewrapped_secret(&AccessKeyId::from_bits(31)),
            format!("6e524454{}37", "41".repeat(16)),
        ),
        (
            layout::hand_over_grant(&RelocationId([0xE1; 16])),
            format!("67{}", "e1".repeat(16)),
        ),
        (
            layout::hand_over_key(&RelocationId([0xE1; 16])),
            format!("66{}", "e1".repeat(16)),
        ),
        (
            layout::hand_over_private(&RelocationId([0xE1; 16])),
            format!("74{}", "e1".repeat(16)),
        ),
        (
            layout::rewrapped_hand_over(&RelocationId([0xE1; 16])),
            format!("75{}", "e1".repeat(16)),
        ),
        (
            layout::region(&"de-fra".parse().expect("a region")),
            "7264652d667261".to_owned(),
        ),
        (layout::leaf(0x0A0B), "650000000000000a0b".to_owned()),
        (layout::openings(0x0A0B), "6f0000000000000a0b".to_owned()),
        (
            layout::hash(StoredAt { level: 1, index: 2 }),
            "68010000000000000002".to_owned(),
        ),
    ];
    for (key, golden) in cases {
        assert_eq!(hex::encode(key), golden);
    }
}

/// Protobuf by hand: tag, length, value.
#[test]
fn golden_bytes_of_records() {
    let bytes = |byte: u8, count: usize| Bytes::from(vec![byte; count]);
    let lease = LeaseRecord {
        dataset_id: bytes(1, 2),
        holder: bytes(2, 3),
        expires_at_ms: 300,
        kek_version: 4,
        metadata: true,
    };
    assert_eq!(
        hex::encode(lease.encode_to_vec()),
        "0a0201011203020202 18ac02 2004 2801".replace(' ', "")
    );
    let memory = RequestMemory {
        request_hash: bytes(1, 2),
        leaf_index: 3,
        leaf_hash: bytes(4, 1),
        time_ms: 5,
        lease_id: bytes(6, 1),
        kept_ms: 300,
    };
    let golden = "0a020101 1003 1a0104 2005 2a0106 30ac02".replace(' ', "");
    assert_eq!(hex::encode(memory.encode_to_vec()), golden);
    let access_key = AccessKeyRecord {
        format: 1,
        access_key_id: bytes(2, 1),
        principal: "p".into(),
        state: AccessKeyState::Disabled.into(),
        state_version: 5,
        created_at_ms: 6,
        created_leaf: 7,
        created_by_request: bytes(8, 1),
        created_by: "o".into(),
        root_epoch: 10,
        given_until_ms: 300,
    };
    assert_eq!(
        hex::encode(access_key.encode_to_vec()),
        "0801 120102 1a0170 2002 2805 3006 3807 420108 4a016f 500a 58ac02".replace(' ', "")
    );
    let region = RegionRecord {
        format: 1,
        standing: RegionStanding::Trusted.into(),
        descriptor: Some(SignedRegionDescriptor {
            descriptor: bytes(1, 1),
            signer: bytes(2, 1),
            signature: bytes(3, 1),
        }),
        changed_leaf: 4,
        changed_at_ms: 300,
        pinned_leaf: 6,
    };
    assert_eq!(
        hex::encode(region.encode_to_vec()),
        "0801 1002 1a090a0101120102 1a0103 2004 28ac02 3006".replace(' ', "")
    );
    let boot = UnsealRecord {
        replica: "r".into(),
        how: 2,
        leaf_index: 3,
        time_ms: 4,
    };
    assert_eq!(
        hex::encode(boot.encode_to_vec()),
        "0a01721002180 32004".replace(' ', "")
    );
    let key = KekRecord {
        format: 1,
        kek_id: bytes(2, 1),
        dataset_id: bytes(3, 1),
        pseudonym: bytes(4, 1),
        state: KeyState::Disabled.into(),
        state_version: 6,
        current_version: 7,
        min_version: 8,
        versions: vec![KekVersionRecord {
            version: 1,
            root_epoch: 2,
            wrapped_kek: bytes(3, 1),
            wrapped_metadata_key: bytes(4, 1),
            created_at_ms: 5,
            metadata_kek_version: 6,
        }],
        leaf_sequence: 10,
        last_leaf_hash: bytes(11, 1),
        created_at_ms: 12,
        shard: 13,
        confirmed_state_version: 14,
        created_by_request: bytes(15, 1),
        created_leaf: 16,
        state_before_destruction: KeyState::Compromised.into(),
        destroy_after_ms: 18,
        rotation: Some(KeyRotation {
            max_age_ms: 1,
            max_uses: 2,
            uses: 3,
        }),
        aliases: vec!["a".into()],
        tags: vec![KeyTag {
            name: "b".into(),
            value: "c".into(),
        }],
        wrapped_apart: true,
        ended_leaf: 23,
        relocation_id: bytes(24, 1),
    };
    let golden = "0801 120102 1a0103 220104 2802 3006 3807 4008 \
                  4a0e08011002 1a0103 220104 2805 3006 500a 5a010b 600c 680d 700e 7a010f \
                  800110 880103 900112 9a0106 0801 1002 1803 \
                  a2010161 aa0106 0a0162 120163 b00101 b80117 c2010118"
        .replace(' ', "");
    assert_eq!(hex::encode(key.encode_to_vec()), golden);
}

#[test]
fn golden_bytes_of_records_of_relocations() {
    let bytes = |byte: u8, count: usize| Bytes::from(vec![byte; count]);
    let grant = HandOverGrantRecord {
        format: 1,
        relocation_id: bytes(2, 1),
        dataset_id: bytes(3, 1),
        stage: HandOverStage::Paused.into(),
        fence: 5,
        reverted: 6,
        released: Some(ReleasedRecord {
            objects: 1,
            leaves: 2,
        }),
        terms: Some(HandOverTerms {
            destination: "d".into(),
            jurisdiction: "j".into(),
            descriptor_version: 3,
            descriptor_fingerprint: bytes(4, 1),
            hand_over_key_id: bytes(5, 1),
            hand_over_key: bytes(6, 1),
        }),
        leaf_index: 9,
        moved: Some(MovedRecord {
            relocation_id: bytes(1, 1),
            epoch: 2,
            fence: 3,
            root: bytes(4, 1),
        }),
    };
    let golden = "0801 120102 1a0103 2002 2805 3006 3a0408011002 \
                  4211 0a0164 12016a 1803 220104 2a0105 320106 4809 520a 0a0101 1002 1803 220104";
    assert_eq!(hex::encode(grant.encode_to_vec()), golden.replace(' ', ""));
    let key = HandOverKeyRecord {
        format: 1,
        hand_over_key_id: bytes(2, 1),
        relocation_id: bytes(3, 1),
        dataset_id: bytes(4, 1),
        source: "s".into(),
        descriptor_version: 6,
        descriptor_fingerprint: bytes(7, 1),
        public_key: bytes(8, 1),
        root_epoch: 9,
        created_leaf: 10,
        destroyed: true,
    };
    let golden = "0801 120102 1a0103 220104 2a0173 3006 3a0107 420108 4809 500a 5801";
    assert_eq!(hex::encode(key.encode_to_vec()), golden.replace(' ', ""));
}

/// One digest over every key and value that a fixed log leaves behind: any change of a format shows here and
/// needs a new version or level of it, not a new digest.
#[test]
fn golden_digest_of_a_whole_state() {
    for (level, golden) in [
        (
            LEVEL_MAX,
            "5983d0b0e353f7afd1b836730be675ecadc0e818c098d054abeb9076af6da3a2",
        ),
        (
            LEVEL_ERASE,
            "aa4252c1e6ac7ad5208b5ffe553e8e41a43735bf82e3397fe2498a647c665686",
        ),
        (
            LEVEL_SHARED_LEAVES,
            "67ac83a4c40e428e702bd1b0e31124053c9c0f4bd42df0d522dbe8169814143f",
        ),
        (
            FeatureLevel(LEVEL_SHARED_LEAVES.0 - 1),
            "d405bf42bda363764d5afea5979d15c39d0e59d999ac17a4e5c00734aec2487f",
        ),
    ] {
        assert_eq!(digest_at(level), golden, "level {level}");
    }
}

fn digest_at(level: FeatureLevel) -> String {
    // The lower levels' log begins at the level whose build their digests are of.
    let mut lab = Lab::with_key_at(level.max(LEVEL_ERASE));
    lab.level = level;
    let mut commands =
        [lab.create(OTHER, 2), lab.rotate()].map(|command| command.expect("granted"));
    // As entries from before changes of keys had request ids.
    if let Some(proto::v1::kms_command::Command::RotateKek(rotate)) = &mut commands[1].command {
        rotate.request_id.clear();
    }
    for command in &commands {
        lab.done(command);
    }
    let records = vec![
        lab.open(1).expect("granted"),
        lab.lease(2, 2).expect("granted"),
        lab.metadata_lease(3, 3).expect("granted"),
    ];
    lab.records(records);
    let mut all = Vec::new();
    for (key, value) in lab.state.iter() {
        for part in [key, value] {
            all.extend_from_slice(&(part.len() as u32).to_be_bytes());
            all.extend_from_slice(part);
        }
    }
    assert_eq!(kms_state::region_time(&lab.state), UnixMs(START));
    hex::encode(tlog::sha256(&[&all]).0)
}

#[test]
fn a_command_this_build_does_not_know_in_full_stops_the_replica() {
    let lab = Lab::with_key();
    let good = lab.rotate().expect("granted").encode_to_vec();
    let unknown_field = [&good[..], &[0xF8, 0x3F, 0x01]].concat();
    let unknown_command = KmsCommand {
        command: None,
        ..KmsCommand::default()
    }
    .encode_to_vec();
    let mut state_99 = lab.change(KeyState::Disabled, 0, None).expect("granted");
    if let Some(proto::v1::kms_command::Command::ChangeKeyState(change)) = &mut state_99.command {
        change.state = 99;
    }
    let garbage = vec![0xFF; 9];
    for bytes in [
        unknown_field,
        unknown_command,
        state_99.encode_to_vec(),
        garbage,
    ] {
        let mut state = lab.state.clone();
        let at = At {
            index: LogIndex(9),
            voters: 3,
            level: LEVEL_MAX,
        };
        assert!(
            apply(at, &bytes, &mut state).is_err(),
            "{}",
            hex::encode(&bytes)
        );
        assert_eq!(state, lab.state);
    }
    let mut state = MemoryStore::default();
    assert!(
        apply(
            At {
                index: LogIndex(1),
                voters: 1,
                level: LEVEL_MAX,
            },
            &[],
            &mut state
        )
        .is_err()
    );
}
