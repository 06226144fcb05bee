//! Backups of datasets in a folder or a bucket: made, listed, verified, opened for a drill, restored, thinned out.
//!
//! Owns the order in which one is made (catalog, pages, blocks, KMS, index last), and that what is there already is not
//! copied again. Content stays sealed as it is; names and settings are sealed in pages, each like an object of its
//! dataset, under an ordinary seal lease: nothing but the region's KMS, restored from its own backup, opens either. Refuses to
//! write an index before everything it names is on the disk, and to take another region's backup for this one's.

mod check;
mod create;
mod cut;
mod drill;
mod folder;
mod pages;
mod prune;
mod reading;
mod restore;
#[cfg(test)]
mod tests;
mod verify;
mod warrant;

use std::io;
use std::path::PathBuf;

use proto::storage_backup::{IndexFile, LABEL_INDEX, Malformed};
use transport::{PublicKey, RegionTrust};

use crate::backup::BackupFileError;
use crate::error::Error;

pub use create::{Copied, Created, Wanted};
pub use drill::{Drilled, Sample};
pub use folder::{BucketError, Folder, S3Error, S3Place};
pub use prune::Pruned;
pub use restore::{Restored, index_digest};
pub use verify::{Problem, UNKNOWN, Verified};
pub use warrant::Warrant;

/// What a lease is taken for, and what nodes are asked for, to make a backup.
pub const BACKUP: &str = "backup";
/// What pages and objects of a backup are opened for.
pub const DRILL: &str = "backup-drill";
/// What pages are opened for, and nodes are asked for, to restore a dataset.
pub const RESTORE: &str = "restore";

/// Why a backup was not made, read, or thinned out.
#[derive(Debug, thiserror::Error)]
pub enum StorageBackupError {
    /// A file or folder.
    #[error("{}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another command changes the folder.
    #[error(
        "another backup or prune is at work in this folder; a bucket is free again two minutes after one was cut off"
    )]
    InUse,
    /// The S3 store.
    #[error(transparent)]
    Store(#[from] S3Error),
    /// No backup, or none of that id.
    #[error("no such backup in this folder: {0}")]
    NoSuchBackup(String),
    /// A file of it says something else than it has to.
    #[error("{name} is damaged")]
    Damaged {
        /// Which.
        name: String,
    },
    /// A file of it is none.
    #[error("{name} is no file of a backup that this build reads")]
    Malformed {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: Malformed,
    },
    /// Its signature does not hold.
    #[error("{name}: {why}")]
    Signature {
        /// Which.
        name: String,
        /// Why.
        why: String,
    },
    /// The region.
    #[error(transparent)]
    Region(#[from] Error),
    /// The backup of the KMS.
    #[error("the backup of the kms")]
    Kms(#[from] BackupFileError),
    /// The shard told something that no dataset is.
    #[error("what the region says of dataset {dataset} does not fit together: {what}")]
    Unsound {
        /// Of which dataset.
        dataset: String,
        /// What.
        what: &'static str,
    },
    /// Blocks that no replica has.
    #[error(
        "{blocks} blocks of dataset {dataset} are not to be had from any replica, although objects need them: \
         `reduit region status` says what is missing"
    )]
    Missing {
        /// Of which dataset.
        dataset: String,
        /// How many.
        blocks: usize,
        /// What the last one came to.
        #[source]
        source: Error,
    },
    /// A warrant that is for something else.
    #[error("the warrant does not allow this: {why}")]
    Warrant {
        /// What it is of.
        why: String,
    },
    /// The KMS has a key version no more, or not yet.
    #[error(
        "the kms has no version {version} of the key of dataset {dataset}: what lies under it would not open. Restore the \
         kms from the backup that was taken with this one"
    )]
    NoKeyVersion {
        /// Of which dataset.
        dataset: String,
        /// Which.
        version: u32,
    },
    /// A key version ended while the backup was made.
    #[error(
        "the kms's backup may lack a version of the key of dataset {dataset}: one was ended meanwhile. Run it again"
    )]
    KeyEnded {
        /// Of which dataset.
        dataset: String,
    },
}

/// Everything that goes by here.
type Outcome<T> = Result<T, StorageBackupError>;

/// Whose index it is, if the region's CA certified who signed it, for when it says to have been made.
fn signer_of(name: &str, file: &IndexFile, trust: &RegionTrust) -> Outcome<()> {
    let refused = |why: String| StorageBackupError::Signature {
        name: name.to_owned(),
        why,
    };
    let at = proto::ids::UnixMs(file.index.ended_ms);
    let (identity, key) = trust
        .identify(&file.signature.certificate, at)
        .map_err(|error| refused(error.to_string()))?;
    if file.index.region != trust.region().as_str() {
        return Err(refused(format!("it is of region {}", file.index.region)));
    }
    if identity.to_string() != file.index.signer {
        return Err(refused(format!(
            "{identity} signed what another identity says"
        )));
    }
    match signed_by(file, &key) {
        true => Ok(()),
        false => Err(refused("its signature does not verify".to_owned())),
    }
}

fn signed_by(file: &IndexFile, key: &PublicKey) -> bool {
    let signed = IndexFile::signed(&file.index);
    key.verify(LABEL_INDEX, &signed, &file.signature.signature)
        .is_ok()
}

/// A dataset's id, as people read it.
fn hex_id(id: &[u8]) -> String {
    hex::encode(id)
}
