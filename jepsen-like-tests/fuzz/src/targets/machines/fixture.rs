//! A shard, a catalog and a KMS that hold something, and commands that they accept.

use bytes::Bytes;
use proto::ids::{DatasetId, ObjectVersionId, RequestId, UploadEpoch};
use proto::v1;
use proto::v1::catalog_command::Command as OfCatalog;
use proto::v1::shard_command::Command as OfShard;

use crate::known::DATASET;

const HOLDER: [u8; 32] = [0x40; 32];
const LEASE: [u8; 16] = [0x1E; 16];
const LEASE_END_MS: u64 = 3_600_000;

fn verdict() -> Option<v1::Verdict> {
    Some(v1::Verdict {
        authority_version: 1,
        key_state_version: 1,
        dataset_epoch: 1,
    })
}

/// As a leader would propose it, under the request id of a number where it takes one.
fn of_shard(number: u64, kind: OfShard) -> v1::ShardCommand {
    let needs_id = matches!(
        kind,
        OfShard::PutObject(_)
            | OfShard::FinishObject(_)
            | OfShard::DeleteObject(_)
            | OfShard::CreateUpload(_)
            | OfShard::FinishPart(_)
            | OfShard::CompleteUpload(_)
            | OfShard::AbortUpload(_)
            | OfShard::SetMetadata(_)
    );
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&number.to_be_bytes());
    let id = RequestId {
        epoch: UploadEpoch(0),
        nonce,
    };
    v1::ShardCommand {
        now_ms: 1000 + number,
        verdict: verdict(),
        request_id: match needs_id {
            true => Bytes::copy_from_slice(&id.to_bytes()),
            false => Bytes::new(),
        },
        command: Some(kind),
    }
}

fn dataset_record(id: DatasetId, name: &str, versioning: bool) -> v1::DatasetRecord {
    v1::DatasetRecord {
        format: 1,
        dataset_id: id.into(),
        name: name.to_owned(),
        epoch: 1,
        status: v1::DatasetStatus::Active.into(),
        versioning,
        kek_id: Bytes::from_static(&[0x6B; 16]),
        min_kek_version: 1,
        key_state: v1::KeyState::Enabled.into(),
        key_state_version: 1,
        pseudonym: Bytes::copy_from_slice(id.as_bytes()),
        ..Default::default()
    }
}

fn entry(version: u8) -> v1::ObjectEntry {
    v1::ObjectEntry {
        format: 1,
        version_id: ObjectVersionId([version; 16]).into(),
        lease_id: Bytes::from_static(&LEASE),
        dek_salt: Bytes::from_static(&[1; 32]),
        name_salt: Bytes::from_static(&[2; 32]),
        plain_bytes: 3,
        sealed_manifest: Bytes::from_static(b"manifest"),
        sealed_metadata: Bytes::from_static(b"metadata"),
        metadata_key_version: 1,
        placement: 1,
        ..Default::default()
    }
}

fn put(dataset: DatasetId, key: &str, version: u8) -> OfShard {
    OfShard::PutObject(v1::PutObject {
        dataset_id: dataset.into(),
        key: key.to_owned(),
        precondition: None,
        entry: Some(v1::ObjectEntry {
            inline: Bytes::from_static(b"sealed stream"),
            sealed_bytes: 13,
            ..entry(version)
        }),
        holder: Bytes::from_static(&HOLDER),
    })
}

fn finish(key: &str, version: u8) -> OfShard {
    let block = v1::BlockRef {
        digest: Bytes::from_static(&[3; 32]),
        bytes: 50,
    };
    let receipt = |node_id| v1::ReceiptClaim {
        node_id,
        begun_at_ms: 1000,
        held: vec![v1::BlockRange { first: 0, count: 2 }],
    };
    OfShard::FinishObject(v1::FinishObject {
        dataset_id: DATASET.into(),
        key: key.to_owned(),
        precondition: Some(v1::Precondition {
            if_none_match_any: true,
            if_match: Bytes::new(),
        }),
        entry: Some(v1::ObjectEntry {
            blocks: vec![block.clone(), block],
            sealed_bytes: 100,
            ..entry(version)
        }),
        holder: Bytes::from_static(&HOLDER),
        receipts: vec![receipt(1), receipt(2)],
    })
}

fn delete(key: &str, version: &[u8], marker: &[u8]) -> OfShard {
    OfShard::DeleteObject(v1::DeleteObject {
        dataset_id: DATASET.into(),
        key: key.to_owned(),
        precondition: None,
        version_id: Bytes::copy_from_slice(version),
        new_marker_id: Bytes::copy_from_slice(marker),
        bypass_governance: false,
    })
}

fn tag(key: &str, version: u8, from: &[u8], to: &[u8]) -> OfShard {
    OfShard::SetMetadata(v1::SetMetadata {
        dataset_id: DATASET.into(),
        key: key.to_owned(),
        version_id: ObjectVersionId([version; 16]).into(),
        from_digest: Bytes::copy_from_slice(blake3::hash(from).as_bytes()),
        sealed_metadata: Bytes::copy_from_slice(to),
        metadata_key_version: 2,
    })
}

fn create_upload(key: &str, version: u8) -> OfShard {
    let of = entry(version);
    OfShard::CreateUpload(v1::CreateUpload {
        dataset_id: DATASET.into(),
        key: key.to_owned(),
        upload: Some(v1::UploadRecord {
            format: 1,
            version_id: of.version_id,
            lease_id: of.lease_id,
            dek_salt: of.dek_salt,
            name_salt: of.name_salt,
            placement: 1,
            ..Default::default()
        }),
        holder: Bytes::from_static(&HOLDER),
    })
}

fn finish_part(key: &str, version: u8, number: u32) -> OfShard {
    let commitment = Bytes::from(vec![0x70 + number as u8; 32]);
    OfShard::FinishPart(v1::FinishPart {
        dataset_id: DATASET.into(),
        key: key.to_owned(),
        version_id: ObjectVersionId([version; 16]).into(),
        part: Some(v1::PartRecord {
            number,
            part_id: commitment.slice(..16),
            commitment,
            plain_bytes: 3,
            sealed_bytes: 13,
            ..Default::default()
        }),
        inline: Bytes::from_static(b"sealed stream"),
        ..Default::default()
    })
}

fn complete_upload(key: &str, version: u8, numbers: &[u32]) -> OfShard {
    let named = numbers.iter().map(|number| v1::PartName {
        number: *number,
        part_id: vec![0x70 + *number as u8; 16].into(),
    });
    OfShard::CompleteUpload(v1::CompleteUpload {
        dataset_id: DATASET.into(),
        key: key.to_owned(),
        version_id: ObjectVersionId([version; 16]).into(),
        parts: named.collect(),
        sealed_manifest: Bytes::from_static(b"manifest"),
        plain_bytes: 3 * numbers.len() as u64,
        sealed_bytes: 13 * numbers.len() as u64,
        ..Default::default()
    })
}

fn abort_upload(key: &str, version: u8) -> OfShard {
    OfShard::AbortUpload(v1::AbortUpload {
        dataset_id: DATASET.into(),
        key: key.to_owned(),
        version_id: ObjectVersionId([version; 16]).into(),
    })
}

fn token(dataset: DatasetId) -> OfShard {
    OfShard::RegisterToken(v1::RegisterToken {
        lease_id: Bytes::from_static(&LEASE),
        token: Some(v1::TokenRecord {
            token: Bytes::from_static(b"token"),
            holder: Bytes::from_static(&HOLDER),
            expires_at_ms: LEASE_END_MS,
            kek_version: 1,
            dataset_id: dataset.into(),
        }),
    })
}

/// A dataset that keeps versions, besides [`DATASET`], which does not.
pub(super) const VERSIONED: DatasetId = DatasetId([0xD6; 16]);

/// What made the shard that inputs are applied to.
pub(super) fn shard_history() -> Vec<v1::ShardCommand> {
    let create = |id, name, versioning| {
        OfShard::CreateDataset(v1::CreateDataset {
            dataset: Some(dataset_record(id, name, versioning)),
        })
    };
    let kinds = [
        OfShard::SetAuthority(v1::SetAuthority { version: 1 }),
        create(DATASET, "cti", false),
        create(VERSIONED, "kept", true),
        token(DATASET),
        token(VERSIONED),
        put(DATASET, "a/1", 1),
        put(DATASET, "a/2", 2),
        put(DATASET, "a/2", 3),
        finish("b", 4),
        put(VERSIONED, "k", 5),
        put(VERSIONED, "k", 6),
        put(VERSIONED, "l/1", 7),
        put(VERSIONED, "é\0", 8),
        delete("a/1", &[], &[]),
    ];
    (0..)
        .zip(kinds)
        .map(|(at, kind)| of_shard(at, kind))
        .collect()
}

/// Commands that the shard accepts next, in lists that make sense together.
pub(super) fn shard_seeds() -> Vec<Vec<v1::ShardCommand>> {
    let of = |kinds: Vec<OfShard>| -> Vec<v1::ShardCommand> {
        let commands = (100..).zip(kinds).map(|(at, kind)| of_shard(at, kind));
        commands.collect()
    };
    let epochs = |count| {
        let advance = |from| OfShard::AdvanceUploadEpoch(v1::AdvanceUploadEpoch { from });
        (0..count).map(advance).collect::<Vec<_>>()
    };
    let key_state = |state: v1::KeyState, version| {
        OfShard::SetKeyState(v1::SetKeyState {
            dataset_id: DATASET.into(),
            state: state.into(),
            version,
            min_kek_version: 1,
        })
    };
    let drop_dataset = OfShard::TombstoneDataset(v1::TombstoneDataset {
        dataset_id: VERSIONED.into(),
        force: true,
    });
    let versioning = OfShard::SetVersioning(v1::SetVersioning {
        dataset_id: DATASET.into(),
        enabled: true,
    });
    let hold = |from_version, legal| {
        OfShard::SetHold(v1::SetHold {
            dataset_id: VERSIONED.into(),
            from_version,
            retain_until_ms: 5_000,
            legal,
            requester: "o1".to_owned(),
            approvers: vec!["o2".to_owned(), "o3".to_owned()],
        })
    };
    let sweep = OfShard::Sweep(v1::Sweep { steps: 100 });
    let again = of_shard(100, put(DATASET, "new", 20));
    vec![
        of(vec![put(DATASET, "new", 20), finish("big", 21)]),
        vec![again.clone(), again],
        of(vec![delete("a/2", &[], &[]), delete("b", &[4; 16], &[])]),
        of(vec![versioning, delete("a/2", &[], &[30; 16])]),
        of([epochs(11), vec![sweep.clone()]].concat()),
        of(vec![
            key_state(v1::KeyState::Disabled, 2),
            key_state(v1::KeyState::Enabled, 3),
        ]),
        of(vec![hold(0, true), drop_dataset.clone(), hold(1, false)]),
        of(vec![drop_dataset, sweep.clone(), sweep.clone()]),
        of(vec![
            create_upload("big", 40),
            finish_part("big", 40, 1),
            finish_part("big", 40, 2),
            finish_part("big", 40, 9),
            complete_upload("big", 40, &[1, 9]),
            delete("big", &[40; 16], &[]),
            sweep.clone(),
        ]),
        of(vec![
            create_upload("b", 41),
            finish_part("b", 41, 3),
            abort_upload("b", 41),
            sweep,
        ]),
        of(vec![
            tag("a/2", 3, b"metadata", b"one"),
            tag("a/2", 3, b"one", b"two"),
            delete("a/2", &[3; 16], &[]),
        ]),
        of(vec![
            token(DATASET),
            OfShard::SetAuthority(v1::SetAuthority { version: 2 }),
        ]),
    ]
}

/// What made the catalog that inputs are applied to.
pub(super) fn catalog_history() -> Vec<v1::CatalogCommand> {
    let kinds = [
        OfCatalog::SetAuthority(v1::SetAuthority { version: 1 }),
        OfCatalog::FoundRegion(v1::FoundRegion {
            region: "ch-zrh".to_owned(),
            jurisdiction: "CH".to_owned(),
            shards: vec![16, 17],
        }),
        place(DATASET),
        publish(DATASET, "cti"),
    ];
    kinds.map(of_catalog).into()
}

pub(super) fn catalog_seeds() -> Vec<Vec<v1::CatalogCommand>> {
    let unpublish = OfCatalog::UnpublishDataset(v1::UnpublishDataset {
        name: "cti".to_owned(),
        dataset_id: DATASET.into(),
    });
    let allocate = OfCatalog::AllocateNodeId(v1::AllocateNodeId {
        identity: "spiffe://ch-zrh/node/n9".to_owned(),
    });
    [
        vec![place(VERSIONED), publish(VERSIONED, "kept")],
        vec![unpublish, publish(DATASET, "renamed")],
        vec![allocate],
        vec![OfCatalog::SetAuthority(v1::SetAuthority { version: 2 })],
    ]
    .map(|kinds| kinds.into_iter().map(of_catalog).collect())
    .into()
}

fn of_catalog(kind: OfCatalog) -> v1::CatalogCommand {
    v1::CatalogCommand {
        now_ms: 1000,
        verdict: verdict(),
        command: Some(kind),
    }
}

fn place(id: DatasetId) -> OfCatalog {
    OfCatalog::PlaceDataset(v1::PlaceDataset {
        dataset_id: id.into(),
        shard: 16,
    })
}

fn publish(id: DatasetId, name: &str) -> OfCatalog {
    OfCatalog::PublishDataset(v1::PublishDataset {
        name: name.to_owned(),
        dataset_id: id.into(),
        shard: 16,
        created_at_ms: 0,
    })
}

/// As it stands in an entry.
pub(super) fn encoded(command: &impl prost::Message) -> Bytes {
    command.encode_to_vec().into()
}
