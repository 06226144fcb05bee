//! Who holds the root key: a replica that receives the one under way, and everybody who drops it.
//!
//! Owns the records of both. Refuses to record a release of a root key that is not the one under way, or to a replica
//! that is not enrolled.

use proto::ids::{Identity, Role};
use proto::v1::{KmsDone, RecordSeal, SendRoot};
use serde::Serialize;
use tlog::Kind;

use super::{loaded, of_requester, store};
use crate::append::{Applying, array, stated};
use crate::apply::Stop;
use crate::keys::of_replica;
use crate::members::of_operator;
use crate::refusal::Refusal;

#[derive(Serialize)]
struct SentDetails<'a> {
    replica: &'a str,
    boot_id: String,
    root_epoch: u32,
}

pub(crate) fn send_root(applying: &mut Applying<'_>, command: &SendRoot) -> Result<KmsDone, Stop> {
    of_replica(applying)?;
    let boot_id = array::<16>(&command.boot_id).ok_or(Refusal::Malformed("boot id"))?;
    let replica: Identity = command
        .replica
        .parse()
        .map_err(|_| Refusal::Malformed("replica"))?;
    let authority = applying.authority()?;
    if replica.role() != Role::Kms || authority.enrolment(&replica).is_none() {
        return Err(Refusal::NotEnrolled.into());
    }
    let (region, custody) = loaded(applying)?;
    let sent = custody
        .pending
        .is_some_and(|plan| plan.root_epoch == command.root_epoch);
    if !sent || command.root_epoch == region.root_epoch {
        return Err(Refusal::RootMoved {
            to: region.root_epoch,
        }
        .into());
    }
    let shown = SentDetails {
        replica: &command.replica,
        boot_id: hex::encode(boot_id),
        root_epoch: command.root_epoch,
    };
    Ok(of_requester(applying, Kind::RootSent, &shown))
}

#[derive(Serialize)]
struct SealDetails {
    root_epoch: u32,
}

/// One operator is enough to seal: it takes custodians or an approval to undo, and no time is to be lost.
pub(crate) fn seal(applying: &mut Applying<'_>, command: &RecordSeal) -> Result<KmsDone, Stop> {
    let (actor, purpose, mut private) = stated(command.claim.as_ref())?;
    let authority = applying.authority()?;
    if of_operator(applying, &authority)? != actor {
        return Err(Refusal::Malformed("the claim's actor is not the requester").into());
    }
    let (region, mut custody) = loaded(applying)?;
    let shown = SealDetails {
        root_epoch: region.root_epoch,
    };
    crate::append::details(&mut private, &shown);
    let leaf = applying.append(Kind::RegionSealed, purpose, None, private);
    custody.sealed_leaf = leaf.index.0 + 1;
    store(applying, custody);
    Ok(KmsDone {
        leaf_index: leaf.index.0,
        ..applying.answer()
    })
}
