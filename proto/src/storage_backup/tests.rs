//! Golden bytes, and every field that cannot be.

use bytes::Bytes;

use super::*;
use crate::v1::{
    BackedVersion, BackupDataset, BackupKey, BackupKms, BackupPage, BackupRecord, BackupTotals,
    BlockRef, backup_item::Item,
};

fn header() -> BackupPageHeader {
    let block = |byte: u8| BlockRef {
        digest: vec![byte; 32].into(),
        bytes: 8,
    };
    BackupPageHeader {
        format: 1,
        region: "ch-zrh".to_owned(),
        dataset_id: vec![0xD5; 16].into(),
        page_id: vec![0xAB; 16].into(),
        token: Bytes::from_static(b"token"),
        dek_salt: vec![1; 32].into(),
        name_salt: vec![2; 32].into(),
        plain_bytes: 3,
        items: 1,
        blocks: vec![block(1), block(2)],
    }
}

fn index() -> BackupIndex {
    let page = BackupPage {
        digest: vec![3; 32].into(),
        bytes: 100,
        tag: vec![4; 32].into(),
        kek_version: 1,
    };
    BackupIndex {
        format: 1,
        backup_id: vec![0xBA; 16].into(),
        region: "ch-zrh".to_owned(),
        signer: "spiffe://ch-zrh/client/backup-1".to_owned(),
        begun_ms: 1_795_000_000_000,
        ended_ms: 1_795_000_000_001,
        catalog_index: 9,
        datasets: vec![BackupDataset {
            dataset_id: vec![0xD5; 16].into(),
            shard: 16,
            at_index: 7,
            kek_id: vec![0x4E; 16].into(),
            kek_versions: vec![1, 3],
            pages: vec![page],
            totals: Some(BackupTotals::default()),
            uploads: 0,
        }],
        kms: Some(BackupKms {
            record: Some(BackupRecord {
                digest: vec![5; 32].into(),
                ..Default::default()
            }),
            confirmed_leaf: 4,
            keys: vec![BackupKey {
                dataset_id: vec![0xD5; 16].into(),
                kek_id: vec![0x4E; 16].into(),
                versions: vec![1, 2, 3],
            }],
        }),
    }
}

fn file(index: BackupIndex) -> IndexFile {
    IndexFile {
        index,
        signature: BackupSignature {
            certificate: Bytes::from_static(b"certificate"),
            signature: vec![6; 64].into(),
        },
    }
}

#[test]
fn golden_bytes() {
    let page = PageFile {
        header: header(),
        sealed: Bytes::from_static(b"sealed"),
    };
    let text = hex::encode(page.to_bytes());
    let start = format!("{}000000c9080112", hex::encode(PAGE_MAGIC));
    assert!(text.starts_with(&start), "{text}");
    assert!(text.ends_with(&hex::encode(b"sealed")));
    let text = hex::encode(file(index()).to_bytes());
    let start = format!("{}0000011a080112", hex::encode(INDEX_MAGIC));
    assert!(text.starts_with(&start), "{text}");
    assert_eq!(
        file(index()).name(),
        format!("index/1795000000001-{}", "ba".repeat(16))
    );
    let name = Kind::Block.name(&[0xC3; 32]);
    assert_eq!(name, format!("blocks/c3/{}", "c3".repeat(32)));
    assert_eq!(Kind::Block.digest_in(&name), Some([0xC3; 32]));
    for other in ["blocks/c4/c3", "pages/c3/x", &name.replace("/c3/", "/c4/")] {
        assert_eq!(Kind::Block.digest_in(other), None, "{other}");
    }
    assert_eq!(Kind::Page.digest_in(&name), None);
}

#[test]
fn files_read_back_and_cut_ones_are_refused() {
    let page = PageFile {
        header: header(),
        sealed: Bytes::from_static(b"sealed"),
    };
    let bytes = Bytes::from(page.to_bytes());
    assert_eq!(PageFile::parse(&bytes), Ok(page));
    // A stream that is cut is the digest's to find.
    for cut in 0..bytes.len() - b"sealed".len() {
        assert!(PageFile::parse(&bytes.slice(..cut)).is_err(), "{cut}");
    }
    let whole = file(index());
    let bytes = whole.to_bytes();
    assert_eq!(IndexFile::parse(&bytes), Ok(whole));
    for cut in 0..bytes.len() {
        assert!(IndexFile::parse(&bytes[..cut]).is_err(), "{cut}");
    }
    assert_eq!(
        IndexFile::parse(&[&bytes[..], b"x"].concat()),
        Err(Malformed::Length)
    );
    let mut later = bytes.clone();
    later[INDEX_MAGIC.len() - 2] = b'2';
    assert_eq!(IndexFile::parse(&later), Err(Malformed::Magic));
}

#[test]
fn every_field_that_cannot_be_is_refused() {
    let page = |change: &dyn Fn(&mut BackupPageHeader)| {
        let mut header = header();
        change(&mut header);
        let sealed = Bytes::new();
        let bytes = PageFile { header, sealed }.to_bytes();
        PageFile::parse(&bytes.into()).expect_err("it cannot be")
    };
    page(&|header| header.format = 2);
    page(&|header| header.region = "CH".to_owned());
    page(&|header| header.dataset_id = vec![1; 15].into());
    page(&|header| header.page_id.clear());
    page(&|header| header.token.clear());
    page(&|header| header.dek_salt = vec![1; 31].into());
    page(&|header| header.name_salt.clear());
    page(&|header| header.blocks[0].digest.clear());
    page(&|header| header.blocks[1].bytes = 0);
    page(&|header| header.blocks.reverse());
    let of = |change: &dyn Fn(&mut BackupIndex)| {
        let mut index = index();
        change(&mut index);
        IndexFile::parse(&file(index).to_bytes()).expect_err("it cannot be")
    };
    of(&|index| index.format = 0);
    of(&|index| index.backup_id.clear());
    of(&|index| index.region.clear());
    of(&|index| index.signer = "somebody".to_owned());
    of(&|index| index.ended_ms = index.begun_ms - 1);
    of(&|index| index.ended_ms = u64::MAX);
    of(&|index| index.datasets.push(index.datasets[0].clone()));
    of(&|index| index.datasets[0].kek_id.clear());
    of(&|index| index.datasets[0].at_index = 0);
    of(&|index| index.datasets[0].pages.clear());
    of(&|index| index.datasets[0].pages[0].digest.clear());
    of(&|index| index.datasets[0].pages[0].bytes = PAGE_BYTES_MAX + 1);
    of(&|index| index.datasets[0].kek_versions = vec![3, 1]);
    of(&|index| index.kms.as_mut().expect("one").record = None);
    of(&|index| index.kms.as_mut().expect("one").keys[0].kek_id.clear());
    // An unknown field.
    let mut bytes = INDEX_MAGIC.to_vec();
    put(
        &mut bytes,
        &[&index().encode_to_vec()[..], &[0x78, 1]].concat(),
    );
    put(&mut bytes, b"");
    assert_eq!(IndexFile::parse(&bytes), Err(Malformed::Encoding));
}

#[test]
fn items_read_back_in_order() {
    let item = |key: &str| BackupItem {
        item: Some(Item::Version(BackedVersion {
            key: key.to_owned(),
            entry: None,
        })),
    };
    let items = [item("a"), item("b"), item(&"c".repeat(1000))];
    let bytes = items_to_bytes(&items);
    assert_eq!(items_from_bytes(&bytes), Ok(items.to_vec()));
    for cut in [1, 5, bytes.len() - 1] {
        let whole = items_from_bytes(&bytes[..cut]);
        assert!(whole.is_err(), "{cut}");
    }
    assert_eq!(items_from_bytes(&[0]), Err(Malformed::Field("item")));
}
