//! Pages, sealed and opened.
//!
//! Owns what a page is sealed as: part 1 of an object of its dataset that no catalog has, under an id and salts of its own.
//! Owns the tag by which an equal page is known again: keyed by a signature that its maker alone can make and shows
//! nobody, so that who has the backup cannot try out what a page might say. Refuses a page of another region or dataset
//! than the index has it for.

use bytes::Bytes;
use envelope::{
    DekSalt, NameCommitment, NameSalt, ObjectContext, OpenDek, PartNumber, StreamHeader, Suite,
};
use proto::ids::{DatasetId, ObjectKey, ObjectVersionId, RegionId};
use proto::storage_backup::{
    DIGEST_BYTES, Kind, PAGE_BYTES_MAX, PAGE_KEY, PageFile, items_from_bytes, items_to_bytes,
};
use proto::v1;
use transport::LocalIdentity;

use super::cut::Page;
use super::{Folder, Outcome, StorageBackupError};
use crate::error::Error;
use crate::lease::SealLease;
use crate::opens::Ask;
use crate::region::random;

const LABEL_TAG: &str = "reduit/v1/backup-page-tag";

/// Keys the tags of one dataset's pages, for one maker.
pub(super) struct Tags([u8; 32]);

impl Tags {
    /// Ed25519 signs the same twice: nothing has to be kept for the next backup.
    pub(super) fn of(maker: &LocalIdentity, dataset: &DatasetId) -> Self {
        let secret = maker.sign(LABEL_TAG, dataset.as_bytes());
        Self(blake3::derive_key(LABEL_TAG, &secret))
    }

    fn tag(&self, items: &[u8]) -> [u8; 32] {
        blake3::keyed_hash(&self.0, items).into()
    }
}

/// A page that is to be kept, not sealed yet.
pub(super) struct Plain {
    items: Vec<u8>,
    count: u32,
    blocks: Vec<v1::BlockRef>,
    pub(super) tag: [u8; 32],
}

impl Plain {
    pub(super) fn of(page: Page, tags: &Tags) -> Self {
        let items = items_to_bytes(&page.items);
        let block = |(digest, bytes)| v1::BlockRef { digest, bytes };
        Self {
            tag: tags.tag(&items),
            count: u32::try_from(page.items.len()).unwrap_or(u32::MAX),
            items,
            blocks: page.blocks.into_iter().map(block).collect(),
        }
    }

    /// Seals it.
    pub(super) fn seal(
        &self,
        lease: &SealLease,
        region: &RegionId,
        dataset: DatasetId,
    ) -> Result<PageFile, Error> {
        let id = ObjectVersionId(random()?);
        let (salt, name_salt) = (DekSalt::random()?, NameSalt::random()?);
        let dek = lease
            .key
            .seal_dek(&salt, &context(region, dataset, id, &name_salt))?;
        let sealed = dek.seal_part(PartNumber::FIRST, &self.items)?;
        Ok(PageFile {
            header: v1::BackupPageHeader {
                format: 1,
                region: region.to_string(),
                dataset_id: dataset.into(),
                page_id: id.into(),
                token: lease.token.clone(),
                dek_salt: Bytes::copy_from_slice(salt.as_bytes()),
                name_salt: Bytes::copy_from_slice(name_salt.as_bytes()),
                plain_bytes: self.items.len() as u64,
                items: self.count,
                blocks: self.blocks.clone(),
            },
            sealed: sealed.into(),
        })
    }
}

fn context(
    region: &RegionId,
    dataset: DatasetId,
    version: ObjectVersionId,
    name_salt: &NameSalt,
) -> ObjectContext {
    let key: ObjectKey = PAGE_KEY.parse().expect("a valid key");
    ObjectContext {
        suite: Suite::Cobblestone256,
        region: region.clone(),
        dataset,
        version,
        name: NameCommitment::of(name_salt, &key),
    }
}

/// What the KMS is asked to open a page.
pub(super) fn ask(page: &PageFile, region: &RegionId, dataset: DatasetId) -> Result<Ask, Error> {
    let header = &page.header;
    let version = ObjectVersionId::try_from(&header.page_id[..])?;
    let name_salt = NameSalt::try_from(&header.name_salt[..]).map_err(|_| Error::Protocol {
        what: "a name salt of another length",
    })?;
    Ok(Ask {
        context: context(region, dataset, version, &name_salt),
        token: header.token.clone(),
        dek_salt: header.dek_salt.clone(),
        plain_bytes: header.plain_bytes,
    })
}

/// The items of a page.
pub(super) fn open(page: &PageFile, dek: &OpenDek) -> Result<Vec<v1::BackupItem>, &'static str> {
    StreamHeader::split(&page.sealed).map_err(|_| "its stream has no header")?;
    let plain = dek
        .open_part(PartNumber::FIRST, &page.sealed)
        .map_err(|_| "it does not open")?;
    if plain.len() as u64 != page.header.plain_bytes {
        return Err("it is of another length than its header says");
    }
    let items = items_from_bytes(&plain).map_err(|_| "its items do not decode")?;
    match items.len() == page.header.items as usize {
        true => Ok(items),
        false => Err("it has not as many items as its header says"),
    }
}

/// A page as the index names it, whole. *Blocks.*
pub(super) fn read(
    folder: &Folder,
    region: &str,
    dataset: &[u8],
    named: &v1::BackupPage,
) -> Outcome<PageFile> {
    let digest: [u8; DIGEST_BYTES] = named.digest[..].try_into().unwrap_or_default();
    let name = Kind::Page.name(&digest);
    let damaged = || StorageBackupError::Damaged { name: name.clone() };
    let bytes = folder.read(&name, PAGE_BYTES_MAX)?.ok_or_else(damaged)?;
    if bytes.len() as u64 != named.bytes || *blake3::hash(&bytes).as_bytes() != digest {
        return Err(damaged());
    }
    let page = PageFile::parse(&bytes).map_err(|source| StorageBackupError::Malformed {
        name: name.clone(),
        source,
    })?;
    match page.header.region == region && page.header.dataset_id[..] == *dataset {
        true => Ok(page),
        false => Err(damaged()),
    }
}

/// A block as a page names it, whole. *Blocks.*
pub(super) fn read_block(folder: &Folder, block: &v1::BlockRef) -> Outcome<Bytes> {
    let digest: [u8; DIGEST_BYTES] = block.digest[..].try_into().unwrap_or_default();
    let name = Kind::Block.name(&digest);
    let bytes = folder.read(&name, u64::from(block.bytes))?;
    let whole = bytes.filter(|bytes| {
        bytes.len() == block.bytes as usize && *blake3::hash(bytes).as_bytes() == digest
    });
    whole.ok_or(StorageBackupError::Damaged { name })
}
