//! The files of a backup of datasets: pages, which are sealed, and the index that names all there is.
//!
//! Owns their layout and bounds, and the names they go by; `docs/FORMATS.md` section 18 has the byte tables. Refuses
//! another format, a header or an index with a field that cannot be, and one that is spelled otherwise than we spell it.
//! What a page's header says is bound to nothing but the file's digest: the index names that, and its signature the index.

use prost::Message as _;

use crate::ids::{BackupId, DatasetId, Identity, KekId, ObjectVersionId, RegionId, UnixMs};
use crate::v1::{BackupIndex, BackupItem, BackupPageHeader, BackupSignature};

/// The first bytes of a page.
pub const PAGE_MAGIC: &[u8] = b"reduit page 1\n";
/// The first bytes of an index.
pub const INDEX_MAGIC: &[u8] = b"reduit backup index 1\n";
/// What an index is signed under.
pub const LABEL_INDEX: &str = "reduit/v1/backup-index";
/// The key under which a page is an object of its dataset: of nobody's, since the page's id is in no catalog.
pub const PAGE_KEY: &str = "reduit/backup-page";
/// Bytes of items at which a page is closed, whatever comes next.
pub const PAGE_ITEMS_BYTES: usize = 2 << 20;
/// Bytes of a page's file, at most: items up to the bound, the largest item beyond it, and a header that names a block
/// for each of them.
pub const PAGE_BYTES_MAX: u64 = 16 << 20;
/// Bytes of an index, at most: about ten million versions.
pub const INDEX_BYTES_MAX: u64 = 256 << 20;
/// Bytes of a digest.
pub const DIGEST_BYTES: usize = 32;

const SIGNATURE_BYTES_MAX: usize = 16 << 10;
const SALT_BYTES: usize = 32;
const LENGTH_BYTES: usize = 4;

/// Why bytes are no file of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Other first bytes.
    #[error("it is another kind of file, or of a later build")]
    Magic,
    /// It ends early, or goes on.
    #[error("it is cut, or goes on where it should end")]
    Length,
    /// A message in it does not decode, or is spelled otherwise than this build spells it.
    #[error("it has another encoding, or fields of a later build")]
    Encoding,
    /// A field that cannot be.
    #[error("its {0} cannot be")]
    Field(&'static str),
}

/// A page's file.
#[derive(Debug, Clone, PartialEq)]
pub struct PageFile {
    /// What stands in the clear.
    pub header: BackupPageHeader,
    /// One stream, part 1 of the version that the page's id stands for.
    pub sealed: bytes::Bytes,
}

impl PageFile {
    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = PAGE_MAGIC.to_vec();
        put(&mut out, &self.header.encode_to_vec());
        out.extend_from_slice(&self.sealed);
        out
    }

    /// Reads a file.
    pub fn parse(file: &bytes::Bytes) -> Result<Self, Malformed> {
        let rest = file.strip_prefix(PAGE_MAGIC).ok_or(Malformed::Magic)?;
        let (header, rest) = take(rest)?;
        let header: BackupPageHeader = decode(header)?;
        check_header(&header)?;
        Ok(Self {
            header,
            sealed: file.slice_ref(rest),
        })
    }
}

fn check_header(header: &BackupPageHeader) -> Result<(), Malformed> {
    known(header.format == 1, "format")?;
    known(header.region.parse::<RegionId>().is_ok(), "region")?;
    id::<DatasetId>(&header.dataset_id, "dataset")?;
    id::<ObjectVersionId>(&header.page_id, "page id")?;
    known(header.dek_salt.len() == SALT_BYTES, "salt")?;
    known(header.name_salt.len() == SALT_BYTES, "name salt")?;
    known(!header.token.is_empty(), "token")?;
    let digest =
        |block: &crate::v1::BlockRef| block.digest.len() == DIGEST_BYTES && block.bytes > 0;
    known(header.blocks.iter().all(digest), "block")?;
    let ascending = header.blocks.is_sorted_by(|a, b| a.digest < b.digest);
    known(ascending, "order of blocks")
}

/// An index's file.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexFile {
    /// What it says.
    pub index: BackupIndex,
    /// Who says so.
    pub signature: BackupSignature,
}

impl IndexFile {
    /// What is signed of an index: all of it.
    pub fn signed(index: &BackupIndex) -> Vec<u8> {
        index.encode_to_vec()
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = INDEX_MAGIC.to_vec();
        put(&mut out, &self.index.encode_to_vec());
        put(&mut out, &self.signature.encode_to_vec());
        out
    }

    /// Reads a file. Whose signature it is, and whether it holds, is the caller's to check.
    pub fn parse(file: &[u8]) -> Result<Self, Malformed> {
        let rest = file.strip_prefix(INDEX_MAGIC).ok_or(Malformed::Magic)?;
        let (index, rest) = take(rest)?;
        let (signature, rest) = take(rest)?;
        known_length(rest.is_empty() && signature.len() <= SIGNATURE_BYTES_MAX)?;
        let index: BackupIndex = decode(index)?;
        check_index(&index)?;
        Ok(Self {
            index,
            signature: decode(signature)?,
        })
    }

    /// The backup it is of.
    pub fn id(&self) -> BackupId {
        BackupId::try_from(self.index.backup_id.as_ref()).expect("checked when it was read or made")
    }

    /// The name it goes by: newer ones after older ones.
    pub fn name(&self) -> String {
        index_name(UnixMs(self.index.ended_ms), &self.id())
    }
}

/// The name an index goes by.
pub fn index_name(ended: UnixMs, id: &BackupId) -> String {
    format!("index/{:013}-{id}", ended.0)
}

fn check_index(index: &BackupIndex) -> Result<(), Malformed> {
    known(index.format == 1, "format")?;
    id::<BackupId>(&index.backup_id, "id")?;
    known(index.region.parse::<RegionId>().is_ok(), "region")?;
    known(index.signer.parse::<Identity>().is_ok(), "signer")?;
    known(index.begun_ms <= index.ended_ms, "time")?;
    known(index.ended_ms < 10_u64.pow(13), "time")?;
    let ordered = index
        .datasets
        .is_sorted_by(|a, b| a.dataset_id < b.dataset_id);
    known(ordered, "order of datasets")?;
    for dataset in &index.datasets {
        id::<DatasetId>(&dataset.dataset_id, "dataset")?;
        id::<KekId>(&dataset.kek_id, "KEK")?;
        known(dataset.at_index > 0, "log index")?;
        known(!dataset.pages.is_empty(), "pages")?;
        known(
            dataset.kek_versions.is_sorted_by(|a, b| a < b),
            "KEK versions",
        )?;
        let page = |page: &crate::v1::BackupPage| {
            let digests = page.digest.len() == DIGEST_BYTES && page.tag.len() == DIGEST_BYTES;
            digests && (1..=PAGE_BYTES_MAX).contains(&page.bytes)
        };
        known(dataset.pages.iter().all(page), "page")?;
    }
    let Some(kms) = &index.kms else {
        return Ok(());
    };
    let record = kms
        .record
        .as_ref()
        .ok_or(Malformed::Field("backup of the KMS"))?;
    known(record.digest.len() == DIGEST_BYTES, "backup of the KMS")?;
    for key in &kms.keys {
        id::<DatasetId>(&key.dataset_id, "key's dataset")?;
        id::<KekId>(&key.kek_id, "key's KEK")?;
    }
    Ok(())
}

/// A kind of file that is named by its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Sealed items, by BLAKE3-256.
    Page,
    /// A sealed block, by BLAKE3-256.
    Block,
    /// A backup of the KMS, by SHA-256.
    Kms,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Page, Self::Block, Self::Kms];

    /// The folder they lie in.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Page => "pages",
            Self::Block => "blocks",
            Self::Kms => "kms",
        }
    }

    /// The name of one: spread over 256 folders.
    pub fn name(self, digest: &[u8; DIGEST_BYTES]) -> String {
        let hex = hex::encode(digest);
        format!("{}/{}/{hex}", self.folder(), &hex[..2])
    }

    /// The digest in such a name; `None` for another name.
    pub fn digest_in(self, name: &str) -> Option<[u8; DIGEST_BYTES]> {
        let mut digest = [0; DIGEST_BYTES];
        hex::decode_to_slice(name.rsplit('/').next()?, &mut digest).ok()?;
        (self.name(&digest) == name).then_some(digest)
    }
}

/// Items as they stand in a page.
pub fn items_to_bytes(items: &[BackupItem]) -> Vec<u8> {
    let mut out = Vec::new();
    for item in items {
        out.reserve(item.encoded_len() + 10);
        item.encode_length_delimited(&mut out)
            .expect("a vector has room");
    }
    out
}

/// The items of a page.
pub fn items_from_bytes(mut bytes: &[u8]) -> Result<Vec<BackupItem>, Malformed> {
    let mut items = Vec::new();
    while !bytes.is_empty() {
        let item = BackupItem::decode_length_delimited(&mut bytes);
        let item = item.map_err(|_| Malformed::Encoding)?;
        known(item.item.is_some(), "item")?;
        items.push(item);
    }
    Ok(items)
}

fn put(out: &mut Vec<u8>, message: &[u8]) {
    let length = u32::try_from(message.len()).expect("messages are far under 4 GiB");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(message);
}

fn take(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let (length, rest) = bytes
        .split_first_chunk::<LENGTH_BYTES>()
        .ok_or(Malformed::Length)?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
        .ok_or(Malformed::Length)
}

fn decode<M: prost::Message + Default>(bytes: &[u8]) -> Result<M, Malformed> {
    let message = M::decode(bytes).map_err(|_| Malformed::Encoding)?;
    // Protobuf drops what it does not know, and what it knows has more than one spelling.
    match message.encode_to_vec() == bytes {
        true => Ok(message),
        false => Err(Malformed::Encoding),
    }
}

fn known(holds: bool, what: &'static str) -> Result<(), Malformed> {
    match holds {
        true => Ok(()),
        false => Err(Malformed::Field(what)),
    }
}

fn known_length(holds: bool) -> Result<(), Malformed> {
    match holds {
        true => Ok(()),
        false => Err(Malformed::Length),
    }
}

fn id<'a, T: TryFrom<&'a [u8]>>(bytes: &'a [u8], what: &'static str) -> Result<(), Malformed> {
    known(T::try_from(bytes).is_ok(), what)
}

#[cfg(test)]
mod tests;
