//! Bends a good command: one thing in it becomes stale, wrong or malformed.
//!
//! Owns the list of what can be wrong. Refuses to say what the shard makes of it.

mod locks;
mod uploads;

use bytes::Bytes;
use proto::ids::{RequestId, UploadEpoch};
use proto::v1;
use proto::v1::shard_command::Command;
use rand::Rng;
use rand::seq::IndexedRandom;

use super::draw::Draw;
use super::model::Model;

pub(super) fn bend(draw: &mut Draw, model: &Model, command: &mut v1::ShardCommand) {
    match draw.rng.random_range(0..4) {
        0 => verdict(draw, command),
        1 => request_id(draw, model, command),
        _ => body(draw, model, command),
    }
}

fn verdict(draw: &mut Draw, command: &mut v1::ShardCommand) {
    match draw.rng.random_range(0..5) {
        0 => command.verdict = None,
        4 => {
            if let Some(verdict) = &mut command.verdict {
                verdict.dataset_epoch = verdict.dataset_epoch.wrapping_sub(1);
            }
        }
        1 | 2 => {
            if let Some(verdict) = &mut command.verdict {
                verdict.authority_version = verdict.authority_version.wrapping_sub(1);
            }
        }
        _ => {
            if let Some(verdict) = &mut command.verdict {
                verdict.key_state_version = verdict.key_state_version.wrapping_sub(1);
            }
        }
    }
}

fn request_id(draw: &mut Draw, model: &Model, command: &mut v1::ShardCommand) {
    let of_epoch = |epoch| RequestId {
        epoch: UploadEpoch(epoch),
        nonce: [7; 16],
    };
    command.request_id = match draw.rng.random_range(0..4) {
        0 => Bytes::new(),
        1 => Bytes::from_static(b"short"),
        2 => Bytes::copy_from_slice(&of_epoch(model.epoch + 1).to_bytes()),
        _ => Bytes::copy_from_slice(&of_epoch(model.epoch.saturating_sub(25)).to_bytes()),
    };
}

fn body(draw: &mut Draw, model: &Model, command: &mut v1::ShardCommand) {
    match &mut command.command {
        Some(Command::CreateDataset(create)) => create_dataset(draw, create),
        Some(Command::SetKeyState(set)) => match draw.rng.random_range(0..3) {
            0 => set.state = 0,
            1 => set.version = 0,
            _ => set.dataset_id = Bytes::from_static(b"nothing"),
        },
        Some(Command::TombstoneDataset(drop)) => drop.dataset_id = Bytes::from_static(b"nothing"),
        Some(Command::SetVersioning(set)) => set.dataset_id = Bytes::new(),
        Some(Command::SetHold(set)) => match draw.rng.random_range(0..4) {
            0 => set.from_version = set.from_version.wrapping_sub(1),
            1 => set.dataset_id = Bytes::from_static(b"nothing"),
            2 => set.approvers.truncate(1),
            _ => set.retain_until_ms = 0,
        },
        Some(Command::RegisterToken(register)) => token(draw, model, register),
        Some(Command::PutObject(put)) => {
            if let Some(held) = &mut put.entry {
                match draw.rng.random_range(0..4) {
                    0 => held.inline = Bytes::new(),
                    1 => held.sealed_bytes += 1,
                    _ => entry(draw, held, &mut put.holder),
                }
            }
            object(draw, &mut put.key, &mut put.precondition);
        }
        Some(Command::FinishObject(finish)) => {
            if let Some(held) = &mut finish.entry {
                match draw.rng.random_range(0..6) {
                    0 => held.blocks.clear(),
                    1 => held.sealed_bytes += 1,
                    2 => held.upload_epoch = model.epoch + 1,
                    3 => receipts(draw, &mut finish.receipts),
                    _ => entry(draw, held, &mut finish.holder),
                }
            }
            object(draw, &mut finish.key, &mut finish.precondition);
        }
        Some(Command::DeleteObject(delete)) => {
            match draw.rng.random_range(0..3) {
                0 => delete.version_id = Bytes::from_static(b"short"),
                1 => delete.new_marker_id = Bytes::new(),
                _ => delete.version_id = draw.mint().into(),
            }
            object(draw, &mut delete.key, &mut delete.precondition);
        }
        Some(Command::SetAuthority(set)) => set.version = set.version.saturating_sub(2),
        Some(Command::AdvanceUploadEpoch(advance)) => advance.from += 1,
        Some(Command::AdvanceTime(advance)) => advance.clocks.truncate(1),
        Some(Command::CreateUpload(create)) => uploads::create(draw, create),
        Some(Command::FinishPart(finish)) => uploads::part(draw, model, finish),
        Some(Command::CompleteUpload(complete)) => uploads::complete(draw, complete),
        Some(Command::AbortUpload(abort)) => uploads::abort(draw, abort),
        Some(Command::SetObjectLock(set)) => locks::object_lock(draw, set),
        Some(Command::SetRetention(set)) => locks::retention(draw, model, set),
        Some(Command::SetLegalHold(set)) => locks::legal_hold(draw, set),
        Some(Command::SetMetadata(set)) => locks::metadata(draw, set),
        Some(Command::SetConfig(set)) => locks::config(draw, set),
        Some(Command::SetQuota(set)) => set.dataset_id = Bytes::from_static(b"nothing"),
        Some(Command::Depart(depart)) => depart.relocation_id = Bytes::new(),
        Some(Command::Arrive(arrive)) => arrive.relocation_id = Bytes::new(),
        Some(Command::Import(import)) => import.relocation_id = Bytes::new(),
        Some(Command::Restore(restore)) => restore.restore_id = Bytes::new(),
        Some(Command::Sweep(_) | Command::LifecycleStep(_)) | None => {}
    }
}

fn create_dataset(draw: &mut Draw, create: &mut v1::CreateDataset) {
    let Some(record) = &mut create.dataset else {
        return;
    };
    match draw.rng.random_range(0..8) {
        0 => create.dataset = None,
        1 => record.format = 2,
        2 => record.name = "No such name".to_owned(),
        3 => record.kek_id = Bytes::new(),
        4 => record.pseudonym = Bytes::from_static(b"short"),
        5 => record.set_status(v1::DatasetStatus::Fenced),
        6 => record.set_key_state(v1::KeyState::Disabled),
        // What a dataset holds is not for who creates it to say.
        _ => {
            record.objects = 7;
            record.sealed_bytes = 7;
            record.quota = Some(v1::Quota {
                objects_max: 1,
                sealed_bytes_max: 1,
            });
            record.lock = Some(v1::ObjectLock::default());
        }
    }
}

fn token(draw: &mut Draw, model: &Model, register: &mut v1::RegisterToken) {
    let Some(token) = &mut register.token else {
        return;
    };
    match draw.rng.random_range(0..8) {
        0 => register.token = None,
        1 => register.lease_id = Bytes::from_static(b"short"),
        2 => token.token = Bytes::new(),
        3 => token.holder = Bytes::from_static(b"short"),
        4 => token.kek_version = token.kek_version.saturating_sub(1),
        5 => token.expires_at_ms = model.time,
        6 => token.kek_version += 1,
        _ => token.holder = draw.holder(),
    }
}

fn entry(draw: &mut Draw, entry: &mut v1::ObjectEntry, holder: &mut Bytes) {
    match draw.rng.random_range(0..17) {
        0 => entry.format = 2,
        1 => entry.version_id = Bytes::new(),
        2 => entry.lease_id = draw.lease(),
        3 => entry.finished_index = 1,
        4 => entry.finished_at_ms = 1,
        5 => entry.delete_marker = true,
        6 => entry.versioned = true,
        7 => entry.dek_salt = Bytes::from_static(b"short"),
        8 => entry.plain_bytes = entry.sealed_bytes + 1,
        9 => entry.sealed_metadata = Bytes::from(vec![0; (17 << 10) + 1]),
        10 => entry.placement = 2,
        11 => entry.parts = 1,
        12 => entry.null_index = 1,
        13 => entry.changed_index = 1,
        14 => entry.source_index = 1,
        15 => entry.metadata_index = 1,
        _ => *holder = draw.holder(),
    }
}

fn receipts(draw: &mut Draw, receipts: &mut Vec<v1::ReceiptClaim>) {
    let Some(first) = receipts.first_mut() else {
        return;
    };
    match draw.rng.random_range(0..4) {
        0 => first.held.push(v1::BlockRange { first: 0, count: 1 }),
        1 => first.held = vec![v1::BlockRange { first: 9, count: 9 }],
        2 => first.held = vec![v1::BlockRange { first: 0, count: 0 }],
        _ => {
            let one = first.clone();
            receipts.extend(std::iter::repeat_n(one, 33));
        }
    }
}

/// Rarely also the object's own name or its condition.
fn object(draw: &mut Draw, key: &mut String, condition: &mut Option<v1::Precondition>) {
    match draw.rng.random_range(0..12) {
        0 => key.clear(),
        1 => *key = "k".repeat(1025),
        2 => {
            let both = [Bytes::from_static(b"short"), Bytes::from(vec![9; 16])];
            *condition = Some(v1::Precondition {
                if_none_match_any: true,
                if_match: both.choose(&mut draw.rng).cloned().unwrap_or_default(),
            });
        }
        _ => {}
    }
}
