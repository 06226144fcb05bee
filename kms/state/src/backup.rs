//! Backups of this state: on record before one leaves, and again when an operator holds it whole.
//!
//! Owns which backup is the newest, and under which root key: a former root key is not retired before one stands under a
//! later one. What is in a backup is the driver's to write; that an operator holds it is the operator's word.

use proto::ids::FeatureLevel;
use proto::v1::{BackupRecord, BeginBackup, ConfirmBackup, KmsDone};
use serde::Serialize;
use tlog::Kind;

use crate::append::{Applying, details, stated};
use crate::apply::{LEVEL_RESTORE, Stop};
use crate::custody::{loaded, store};
use crate::members::of_operator;
use crate::refusal::Refusal;

#[derive(Serialize)]
struct BegunDetails {
    root_epoch: u32,
    tree_size: u64,
}

#[derive(Serialize)]
pub(crate) struct BackupDetails {
    backup_sha256: String,
    tree_size: u64,
    root_hash: String,
    root_epoch: u32,
    taken_at_ms: u64,
}

impl BackupDetails {
    pub(crate) fn of(backup: &BackupRecord) -> Self {
        Self {
            backup_sha256: hex::encode(&backup.digest),
            tree_size: backup.tree_size,
            root_hash: hex::encode(&backup.root_hash),
            root_epoch: backup.root_epoch,
            taken_at_ms: backup.taken_at_ms,
        }
    }
}

/// Lengths that a backup's record has.
pub(crate) fn check(backup: &BackupRecord) -> Result<(), Refusal> {
    if backup.digest.len() == 32 && backup.root_hash.len() == 32 {
        Ok(())
    } else {
        Err(Refusal::Malformed("the record of the backup"))
    }
}

pub(crate) fn begin(applying: &mut Applying<'_>, command: &BeginBackup) -> Result<KmsDone, Stop> {
    let (actor, purpose, mut private) = stated(command.claim.as_ref())?;
    let authority = applying.authority()?;
    if of_operator(applying, &authority)? != actor {
        return Err(Refusal::Malformed("the claim's actor is not the requester").into());
    }
    let (region, _) = loaded(applying)?;
    let shown = BegunDetails {
        root_epoch: region.root_epoch,
        tree_size: crate::read::frontier(&*applying.state).size(),
    };
    details(&mut private, &shown);
    let leaf = applying.append(Kind::BackupBegun, purpose, None, private);
    Ok(KmsDone {
        leaf_index: leaf.index.0,
        ..applying.answer()
    })
}

pub(crate) fn confirm(
    applying: &mut Applying<'_>,
    command: &ConfirmBackup,
) -> Result<KmsDone, Stop> {
    let backup = command
        .backup
        .clone()
        .ok_or(Refusal::Malformed("no backup"))?;
    check(&backup)?;
    let (actor, purpose, mut private) = stated(command.claim.as_ref())?;
    let authority = applying.authority()?;
    if of_operator(applying, &authority)? != actor {
        return Err(Refusal::Malformed("the claim's actor is not the requester").into());
    }
    let (region, mut custody) = loaded(applying)?;
    if backup.root_epoch != region.root_epoch {
        return Err(Refusal::RootMoved {
            to: region.root_epoch,
        }
        .into());
    }
    let held = custody.backup.as_ref();
    if held.is_some_and(|held| held.digest == backup.digest) {
        return Ok(applying.answer());
    }
    details(&mut private, &BackupDetails::of(&backup));
    let leaf = applying.append(Kind::BackupConfirmed, purpose, None, private);
    // One that was taken earlier and confirmed later is on record, and is not the newest.
    if held.is_none_or(|held| held.tree_size < backup.tree_size) {
        custody.backup = Some(backup);
        store(applying, custody);
    }
    Ok(KmsDone {
        leaf_index: leaf.index.0,
        ..applying.answer()
    })
}

/// A root key ends only when what stood under it is in a backup that a later one opens.
pub(crate) fn check_backed_up(
    level: FeatureLevel,
    newest: Option<&BackupRecord>,
    root_epoch: u32,
) -> Result<(), Refusal> {
    let later = newest.is_some_and(|backup| backup.root_epoch > root_epoch);
    if later || level < LEVEL_RESTORE {
        Ok(())
    } else {
        Err(Refusal::NotBackedUp)
    }
}
