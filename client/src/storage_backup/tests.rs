//! A folder of backups, as its files alone are judged and thinned out: no region is asked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use proto::ids::{Identity, RegionId, UnixMs};
use proto::storage_backup::{IndexFile, Kind, LABEL_INDEX, PageFile};
use proto::v1;
use tempfile::TempDir;
use transport::{KeyPair, LocalIdentity, RegionCa, ca};

use super::*;
use crate::backup::BackupFile;

const NOW: UnixMs = UnixMs(1_795_000_000_000);
const DATASET: [u8; 16] = [0xD5; 16];
const KEK: [u8; 16] = [0x4E; 16];

struct World {
    _place: TempDir,
    folder: Folder,
    ca: RegionCa,
    maker: LocalIdentity,
}

fn certified(ca: &RegionCa, who: &str) -> LocalIdentity {
    let (identity, key): (Identity, _) = (who.parse().expect("valid"), KeyPair::generate());
    let request = ca::Request {
        identity: &identity,
        public_key: key.public_key(),
        dns_names: &[],
        ip_addresses: &[],
        now: NOW,
        validity: Duration::from_secs(3600),
    };
    let pem = ca.issue(&request).expect("certified");
    LocalIdentity::new(pem.as_bytes(), key).expect("it fits")
}

impl World {
    fn new() -> Self {
        let place = tempfile::tempdir().expect("a folder");
        let region: RegionId = "ch-zrh".parse().expect("valid");
        let ca = RegionCa::create(region, NOW, Duration::from_secs(7200)).expect("a CA");
        Self {
            folder: Folder::create(place.path()).expect("made"),
            maker: certified(&ca, "spiffe://ch-zrh/client/backup-1"),
            ca,
            _place: place,
        }
    }

    fn block(&self, content: &[u8]) -> v1::BlockRef {
        let digest: [u8; 32] = blake3::hash(content).into();
        let name = Kind::Block.name(&digest);
        self.folder
            .write(&name, &Bytes::copy_from_slice(content))
            .expect("written");
        v1::BlockRef {
            digest: Bytes::copy_from_slice(&digest),
            bytes: content.len() as u32,
        }
    }

    fn page(&self, text: &str, mut blocks: Vec<v1::BlockRef>) -> v1::BackupPage {
        blocks.sort_by(|a, b| a.digest.cmp(&b.digest));
        let header = v1::BackupPageHeader {
            format: 1,
            region: "ch-zrh".to_owned(),
            dataset_id: Bytes::from_static(&DATASET),
            page_id: vec![1; 16].into(),
            token: token(2),
            dek_salt: vec![2; 32].into(),
            name_salt: vec![3; 32].into(),
            plain_bytes: 9,
            items: 1,
            blocks,
        };
        let sealed = Bytes::copy_from_slice(text.as_bytes());
        let bytes = PageFile { header, sealed }.to_bytes();
        let digest: [u8; 32] = blake3::hash(&bytes).into();
        let name = Kind::Page.name(&digest);
        self.folder
            .write(&name, &bytes.clone().into())
            .expect("written");
        v1::BackupPage {
            digest: Bytes::copy_from_slice(&digest),
            bytes: bytes.len() as u64,
            tag: vec![4; 32].into(),
            kek_version: 2,
        }
    }

    /// A backup of the KMS, whole as far as anybody can tell without shares.
    fn kms(&self) -> v1::BackupKms {
        let holder = |index: u32| v1::ShareHolder {
            identity: format!("spiffe://ch-zrh/custodian/c{index}"),
            share_check: vec![1; 32].into(),
            share_index: index,
        };
        let region = v1::KmsRegion {
            format: 1,
            region: "ch-zrh".to_owned(),
            root_epoch: 1,
            root_check: vec![2; 32].into(),
            shares_needed: 2,
            custodians: vec![holder(1), holder(2)],
            share_set: vec![3; 40].into(),
            ..Default::default()
        };
        let start = proto::backup::Start::new(v1::KmsBackupHeader {
            format: 1,
            region: Some(region),
            root_hash: vec![4; 32].into(),
            ..Default::default()
        });
        let body = [&start.expect("a start").bytes[..], b"sealed"].concat();
        let file = [&body[..], &crate::operator::sha256(&body)].concat();
        let name = Kind::Kms.name(&crate::operator::sha256(&file));
        self.folder.write(&name, &file.into()).expect("written");
        let file = BackupFile::open(&self.folder.path(&name)).expect("whole");
        v1::BackupKms {
            record: Some(file.backup),
            confirmed_leaf: 3,
            keys: vec![v1::BackupKey {
                dataset_id: Bytes::from_static(&DATASET),
                kek_id: Bytes::from_static(&KEK),
                versions: vec![1, 2],
            }],
        }
    }

    fn index(&self, minutes: u64, pages: Vec<v1::BackupPage>, blocks: (u64, u64)) -> IndexFile {
        let totals = v1::BackupTotals {
            blocks: blocks.0,
            block_bytes: blocks.1,
            ..Default::default()
        };
        let dataset = v1::BackupDataset {
            dataset_id: Bytes::from_static(&DATASET),
            shard: 16,
            at_index: 9,
            kek_id: Bytes::from_static(&KEK),
            kek_versions: vec![1, 2],
            pages,
            totals: Some(totals),
            uploads: 0,
        };
        let ended_ms = NOW.0 + minutes * 60_000;
        let index = v1::BackupIndex {
            format: 1,
            backup_id: vec![minutes as u8; 16].into(),
            region: "ch-zrh".to_owned(),
            signer: self.maker.identity().to_string(),
            begun_ms: NOW.0,
            ended_ms,
            catalog_index: 1,
            datasets: vec![dataset],
            kms: Some(self.kms()),
        };
        self.keep(self.signed(index, &self.maker))
    }

    fn signed(&self, index: v1::BackupIndex, by: &LocalIdentity) -> IndexFile {
        let signature = by.sign(LABEL_INDEX, &IndexFile::signed(&index));
        IndexFile {
            signature: v1::BackupSignature {
                certificate: by.certificate().into(),
                signature: Bytes::copy_from_slice(&signature),
            },
            index,
        }
    }

    fn keep(&self, file: IndexFile) -> IndexFile {
        let written = self.folder.write(&file.name(), &file.to_bytes().into());
        written.expect("written");
        file
    }

    async fn problems(&self, file: &IndexFile) -> Vec<String> {
        let trust = self.ca.trust();
        let found = self.folder.verify(file, &trust, |_| ()).await;
        let found = found.expect("looked at");
        found.problems.iter().map(ToString::to_string).collect()
    }

    /// Two pages and three blocks, one of which both name.
    fn backup(&self) -> IndexFile {
        let [a, b, c] = [&b"first"[..], b"second", b"third"].map(|content| self.block(content));
        let pages = vec![
            self.page("one", vec![a, b.clone()]),
            self.page("two", vec![b, c]),
        ];
        self.index(1, pages, (3, 16))
    }

    fn files(&self) -> Vec<PathBuf> {
        fn under(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                match path.is_dir() {
                    true => under(&path, found),
                    false => found.push(path),
                }
            }
        }
        let mut found = Vec::new();
        for kind in Kind::ALL {
            under(&self.folder.path(kind.folder()), &mut found);
        }
        found.sort();
        found
    }
}

fn token(kek_version: u32) -> Bytes {
    let header = v1::LeaseHeader {
        format: 1,
        region: "ch-zrh".to_owned(),
        dataset_id: Bytes::from_static(&DATASET),
        kek_id: Bytes::from_static(&KEK),
        kek_version,
        ..Default::default()
    };
    let token = v1::LeaseToken {
        header: header.encode_to_vec().into(),
        ..Default::default()
    };
    token.encode_to_vec().into()
}

#[tokio::test]
async fn a_flipped_bit_a_cut_and_a_loss_in_any_file_are_found() {
    let world = World::new();
    let file = world.backup();
    assert!(world.problems(&file).await.is_empty(), "whole");
    let files = world.files();
    assert_eq!(files.len(), 2 + 3 + 1);
    for path in files {
        let whole = std::fs::read(&path).expect("read");
        for at in [0, whole.len() / 2, whole.len() - 1] {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            std::fs::write(&path, flipped).expect("written");
            let found = world.problems(&file).await;
            assert!(!found.is_empty(), "{} at {at}", path.display());
        }
        std::fs::write(&path, &whole[..whole.len() - 1]).expect("written");
        assert!(
            !world.problems(&file).await.is_empty(),
            "{}",
            path.display()
        );
        std::fs::remove_file(&path).expect("removed");
        assert!(
            !world.problems(&file).await.is_empty(),
            "{}",
            path.display()
        );
        std::fs::write(&path, whole).expect("written");
    }
    assert!(world.problems(&file).await.is_empty(), "whole again");
}

#[tokio::test]
async fn an_index_counts_by_its_makers_signature_and_what_it_states() {
    let world = World::new();
    let file = world.backup();
    let trust = world.ca.trust();
    signer_of("it", &file, &trust).expect("signed");
    let changed = |change: &dyn Fn(&mut v1::BackupIndex)| {
        let mut index = file.index.clone();
        change(&mut index);
        index
    };
    // Changed, and not signed again.
    let forged = IndexFile {
        index: changed(&|index| index.datasets[0].at_index += 1),
        signature: file.signature.clone(),
    };
    assert!(!world.problems(&forged).await.is_empty());
    // Signed again, by another one of the region, and by nobody of it.
    let other = certified(&world.ca, "spiffe://ch-zrh/client/app-1");
    let by_other = world.signed(file.index.clone(), &other);
    assert!(!world.problems(&by_other).await.is_empty());
    let elsewhere = World::new();
    let by_forger = world.signed(file.index.clone(), &elsewhere.maker);
    assert!(!world.problems(&by_forger).await.is_empty());
    let later = world.signed(changed(&|index| index.ended_ms += 7_300_000), &world.maker);
    let found = world.problems(&later).await;
    assert!(found[0].contains("not for that time"), "{found:?}");
    // By its maker, and wrong all the same.
    let wrong: [&dyn Fn(&mut v1::BackupIndex); 5] = [
        &|index| index.datasets[0].kek_versions.push(3),
        &|index| index.kms.as_mut().expect("one").keys.clear(),
        &|index| index.kms.as_mut().expect("one").keys[0].versions = vec![2],
        &|index| index.datasets[0].totals.as_mut().expect("some").blocks += 1,
        &|index| index.datasets[0].pages[0].kek_version = 1,
    ];
    for (at, change) in wrong.iter().enumerate() {
        let file = world.signed(changed(change), &world.maker);
        assert!(!world.problems(&file).await.is_empty(), "{at}");
    }
}

#[tokio::test]
async fn what_is_damaged_is_put_aside_and_nothing_else() {
    let world = World::new();
    let file = world.backup();
    let path = world.files().remove(0);
    std::fs::write(&path, b"damaged").expect("written");
    let trust = world.ca.trust();
    let found = world
        .folder
        .verify(&file, &trust, |_| ())
        .await
        .expect("looked at");
    let before = world.files().len();
    assert_eq!(
        world
            .folder
            .set_aside(&found.problems)
            .await
            .expect("moved"),
        1
    );
    assert_eq!(world.files().len(), before - 1);
    assert!(!path.exists());
    assert_eq!(
        world
            .folder
            .set_aside(&found.problems)
            .await
            .expect("moved"),
        0
    );
}

#[tokio::test]
async fn a_prune_removes_what_no_kept_backup_names_and_nothing_that_one_does() {
    let world = World::new();
    let [a, b, c] = [&b"first"[..], b"second", b"third"].map(|content| world.block(content));
    let shared = world.page("shared", vec![a]);
    let old = world.page("old", vec![b]);
    let new = world.page("new", vec![c]);
    world.index(1, vec![shared.clone(), old], (2, 11));
    let newest = world.index(2, vec![shared, new.clone()], (2, 10));
    std::fs::write(world.folder.path("blocks/cut-off.part"), b"half").expect("written");
    let nothing = world.folder.prune(2).await.expect("pruned");
    assert_eq!((nothing.kept, nothing.backups, nothing.files), (2, 0, 1));
    // A page that is kept cannot be read: what it names is not known.
    let path = world
        .folder
        .path(&Kind::Page.name(&new.digest[..].try_into().expect("a digest")));
    let whole = std::fs::read(&path).expect("read");
    std::fs::write(&path, b"damaged").expect("written");
    assert!(world.folder.prune(1).await.is_err());
    assert_eq!(
        world.folder.backups().expect("listed").len(),
        2,
        "nothing went"
    );
    std::fs::write(&path, whole).expect("written");
    let pruned = world.folder.prune(1).await.expect("pruned");
    assert_eq!((pruned.kept, pruned.backups, pruned.files), (1, 1, 2));
    assert!(world.problems(&newest).await.is_empty(), "whole");
    assert_eq!(world.folder.backup(None).expect("the newest"), newest);
    assert_eq!(world.folder.backup(Some("02")).expect("by its id"), newest);
    assert!(world.folder.backup(Some("01")).is_err());
    let again = world.folder.prune(0).await.expect("pruned");
    assert_eq!((again.kept, again.files), (1, 0), "one is kept always");
}
