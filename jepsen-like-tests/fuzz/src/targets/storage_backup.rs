//! The files of a backup of datasets: read off a folder that anybody may have written into.

use bytes::Bytes;
use prost::Message as _;
use proto::storage_backup::{
    INDEX_MAGIC, IndexFile, Kind, PAGE_MAGIC, PageFile, items_from_bytes, items_to_bytes,
};
use proto::v1;

use crate::{Memory, Shape, Source, Target};

pub(super) const STORAGE_BACKUP: Target = Target {
    name: "storage-backup",
    from: Source::Disk,
    parses: &[
        "proto/src/storage_backup.rs: parse",
        "proto/src/storage_backup.rs: items_from_bytes",
        "proto/src/storage_backup.rs: digest_in",
    ],
    shape: Shape::Message { after: 1 },
    len_max: 2048,
    memory: Memory::PARSER,
    check: files,
    seeds,
};

fn files(data: &[u8]) {
    let Some((how, rest)) = data.split_first() else {
        return;
    };
    let framed = |magic: &[u8], tail: &[u8]| {
        let length = u32::try_from(rest.len()).expect("inputs are short");
        [magic, &length.to_be_bytes(), rest, tail].concat()
    };
    match how % 6 {
        // A message as it is, its length stated.
        0 => page(framed(PAGE_MAGIC, b"sealed")),
        1 => index(&framed(INDEX_MAGIC, &[0; 4])),
        2 => page(rest.to_vec()),
        3 => index(rest),
        4 => items(rest),
        _ => name(rest),
    }
}

/// What is read is what stands there: it has one spelling.
fn page(file: Vec<u8>) {
    let file = Bytes::from(file);
    if let Ok(page) = PageFile::parse(&file) {
        assert_eq!(page.to_bytes(), file);
    }
}

fn index(file: &[u8]) {
    if let Ok(index) = IndexFile::parse(file) {
        assert_eq!(index.to_bytes(), file);
        assert!(index.name().starts_with("index/"));
    }
}

fn items(bytes: &[u8]) {
    let Ok(items) = items_from_bytes(bytes) else {
        return;
    };
    let again = items_from_bytes(&items_to_bytes(&items));
    assert_eq!(again, Ok(items));
}

fn name(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    for kind in Kind::ALL {
        if let Some(digest) = kind.digest_in(text) {
            assert_eq!(kind.name(&digest), text);
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let header = v1::BackupPageHeader {
        format: 1,
        region: "ch-zrh".to_owned(),
        dataset_id: vec![1; 16].into(),
        page_id: vec![2; 16].into(),
        token: Bytes::from_static(b"token"),
        dek_salt: vec![3; 32].into(),
        name_salt: vec![4; 32].into(),
        plain_bytes: 1,
        items: 1,
        blocks: vec![v1::BlockRef {
            digest: vec![5; 32].into(),
            bytes: 1,
        }],
    };
    let dataset = v1::BackupDataset {
        dataset_id: vec![1; 16].into(),
        shard: 16,
        at_index: 1,
        kek_id: vec![2; 16].into(),
        kek_versions: vec![1],
        pages: vec![v1::BackupPage {
            digest: vec![3; 32].into(),
            bytes: 1,
            tag: vec![4; 32].into(),
            kek_version: 1,
        }],
        totals: Some(v1::BackupTotals::default()),
        uploads: 0,
    };
    let said = v1::BackupIndex {
        format: 1,
        backup_id: vec![6; 16].into(),
        region: "ch-zrh".to_owned(),
        signer: "spiffe://ch-zrh/client/backup-1".to_owned(),
        begun_ms: 1,
        ended_ms: 2,
        datasets: vec![dataset],
        ..Default::default()
    };
    let token = v1::BackupItem {
        item: Some(v1::backup_item::Item::Token(v1::BackedToken {
            lease_id: vec![7; 16].into(),
            token: None,
        })),
    };
    let file = PageFile {
        header: header.clone(),
        sealed: Bytes::from_static(b"sealed"),
    };
    let signed = IndexFile {
        index: said.clone(),
        signature: v1::BackupSignature::default(),
    };
    let seed = |how: u8, bytes: Vec<u8>| [&[how][..], &bytes].concat();
    vec![
        seed(0, header.encode_to_vec()),
        seed(1, said.encode_to_vec()),
        seed(2, file.to_bytes()),
        seed(3, signed.to_bytes()),
        seed(4, items_to_bytes(&[token.clone(), token])),
        seed(5, Kind::Block.name(&[8; 32]).into_bytes()),
    ]
}
