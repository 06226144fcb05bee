//! Bent commands of uploads in parts.

use bytes::Bytes;
use proto::v1;
use rand::Rng;

use super::{object, receipts};
use crate::node::draw::Draw;
use crate::node::model::Model;

pub(super) fn create(draw: &mut Draw, create: &mut v1::CreateUpload) {
    if let Some(upload) = &mut create.upload {
        match draw.rng.random_range(0..12) {
            0 => create.upload = None,
            1 => upload.format = 2,
            2 => upload.version_id = Bytes::from_static(b"short"),
            3 => upload.lease_id = draw.lease(),
            4 => upload.dek_salt = Bytes::new(),
            5 => upload.name_salt = Bytes::from_static(b"short"),
            6 => upload.sealed_metadata = Bytes::from(vec![0; (17 << 10) + 1]),
            7 => upload.placement = 2,
            8 => upload.begun_index = 1,
            9 => upload.sealed_bytes = 1,
            10 => create.holder = draw.holder(),
            _ => create.dataset_id = Bytes::from_static(b"nothing"),
        }
    }
    object(draw, &mut create.key, &mut None);
}

pub(super) fn part(draw: &mut Draw, model: &Model, finish: &mut v1::FinishPart) {
    if let Some(part) = &mut finish.part {
        match draw.rng.random_range(0..14) {
            0 => finish.part = None,
            1 => part.number = 0,
            2 => part.number = 10_001,
            // The id of another stream than the one that is committed to.
            3 => part.part_id = draw.mint().into(),
            4 => part.part_id = part.part_id.slice(..8),
            5 => part.commitment = part.part_id.clone(),
            6 => part.plain_bytes = part.sealed_bytes + 1,
            7 => part.sealed_bytes += 1,
            8 => part.finished_index = 1,
            9 => part.sealed_metadata = Bytes::from(vec![0; (1 << 10) + 1]),
            10 => finish.upload_epoch = model.epoch + 1,
            11 => finish.inline = Bytes::from_static(b"beside blocks"),
            12 => finish.blocks.clear(),
            _ => receipts(draw, &mut finish.receipts),
        }
    }
    object(draw, &mut finish.key, &mut None);
}

pub(super) fn complete(draw: &mut Draw, complete: &mut v1::CompleteUpload) {
    match draw.rng.random_range(0..10) {
        0 => complete.version_id = Bytes::from_static(b"short"),
        1 => complete.parts.clear(),
        2 => complete.parts.reverse(),
        3 => complete.plain_bytes += 1,
        4 => complete.sealed_bytes += 1,
        5 => complete.sealed_manifest = Bytes::new(),
        6 => complete.sealed_metadata = Bytes::from(vec![0; (17 << 10) + 1]),
        7 => complete.plain_bytes = (5 << 40) + 1,
        8 => {
            let number = complete.parts.last().map_or(1, |last| last.number + 1);
            let part_id = draw.mint().into();
            complete.parts.push(v1::PartName { number, part_id });
        }
        _ => {
            if let Some(first) = complete.parts.first_mut() {
                first.part_id = draw.mint().into();
            }
        }
    }
    object(draw, &mut complete.key, &mut complete.precondition);
}

pub(super) fn abort(draw: &mut Draw, abort: &mut v1::AbortUpload) {
    match draw.rng.random_range(0..3) {
        0 => abort.version_id = Bytes::from_static(b"short"),
        1 => abort.version_id = draw.mint().into(),
        _ => abort.dataset_id = Bytes::from_static(b"nothing"),
    }
}
