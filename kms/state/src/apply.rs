//! The entry point: one committed command in, one answer out.
//!
//! Owns the order of checks that every command passes: known, initialised, time, authority version. Refuses: to
//! go on over a command this build does not know in full, because guessing would fork the replica.

use bytes::Bytes;
use prost::Message;
use proto::danger::{Switch, broken};
use proto::ids::{FeatureLevel, LogIndex, UnixMs};
use proto::store::Writer;
use proto::v1::kms_command::Command;
use proto::v1::{KmsAnswer, KmsCommand, KmsDone, kms_answer};

use crate::append::{Applying, done};
use crate::refusal::Refusal;
use crate::{
    access_keys, backup, custody, destroy, erase, hand_over, keys, labels, members, policy, read,
    records, regions, restore, restores, rotation, time, witnesses,
};

/// The highest feature level this build understands.
pub const LEVEL_MAX: FeatureLevel = FeatureLevel(if cfg!(feature = "level_0") { 0 } else { 10 });
/// From this level on a leader may propose [`Command::ChangeWitnesses`]: builds below stop at it.
pub const LEVEL_WITNESSES: FeatureLevel = FeatureLevel(2);

/// From this level on a leader may propose what changes custody of the root key: builds below stop at it.
pub const LEVEL_CUSTODY: FeatureLevel = FeatureLevel(3);

/// From this level on a leader may propose what makes, uses and ends a token's seal: builds below stop at it.
pub const LEVEL_SEALS: FeatureLevel = FeatureLevel(4);

/// From this level on a leader may propose [`Command::DestroyKek`]: builds below stop at it.
pub const LEVEL_DESTRUCTION: FeatureLevel = FeatureLevel(2);

/// From this level on queues remember where they begin: builds below would answer alike and hold another state.
pub const LEVEL_QUEUE_HEADS: FeatureLevel = FeatureLevel(3);

/// From this level on a leader may propose [`Command::ChangePolicy`]: builds below stop at it.
pub const LEVEL_POLICY: FeatureLevel = FeatureLevel(3);

/// From this level on a leader may propose [`Command::PlanKeyRotation`], [`Command::RaiseMinVersion`] and
/// [`Command::EndKekVersions`]: builds below stop at them.
pub const LEVEL_ROTATION: FeatureLevel = FeatureLevel(4);

/// From this level on a leader may propose [`Command::LabelKey`]: builds below stop at it.
pub const LEVEL_LABELS: FeatureLevel = FeatureLevel(5);

/// From this level on a compromised key gives metadata leases to reseal: builds below refuse them.
pub const LEVEL_RESEAL: FeatureLevel = FeatureLevel(5);

/// From this level on opens of one command, dataset and claim share a leaf: builds below would fork.
pub const LEVEL_SHARED_LEAVES: FeatureLevel = FeatureLevel(6);

/// From this level on a leader may propose [`Command::ConfirmErased`], and no long row holds a wrapped key: builds below
/// stop at it.
pub const LEVEL_ERASE: FeatureLevel = FeatureLevel(7);

/// From this level on the salts of a leaf come out of one stream and its openings are kept in fewer bytes: builds below
/// would fork.
pub const LEVEL_KEPT_OPENINGS: FeatureLevel = FeatureLevel(8);

/// From this level on a leader may propose what makes, changes, uses and ends access keys, and grants and policy texts may
/// speak of service principals: builds below stop at the one and cannot read the other.
pub const LEVEL_ACCESS_KEYS: FeatureLevel = FeatureLevel(9);

/// From this level on a leader may propose [`Command::ApproveRestore`]: builds below stop at it.
pub const LEVEL_DATASET_RESTORES: FeatureLevel = FeatureLevel(10);
/// From this level on a leader may propose [`Command::PublishRegion`], [`Command::TrustRegion`] and
/// [`Command::DistrustRegion`]: builds below stop at them.
pub const LEVEL_REGIONS: FeatureLevel = FeatureLevel(10);

/// From this level on a leader may propose what belongs to relocations: builds below stop at it, and this one refuses it
/// below.
pub const LEVEL_RELOCATION: FeatureLevel = FeatureLevel(10);

/// From this level on a leader may propose what belongs to backups: builds below stop at it.
pub const LEVEL_RESTORE: FeatureLevel = FeatureLevel(4);

/// Where a command stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Its log index.
    pub index: LogIndex,
    /// Distinct voters in force there; both sets together while a change is joint.
    pub voters: u32,
    /// The feature level in force there.
    pub level: FeatureLevel,
}

/// A command this build does not know. The replica stops.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a command this build does not know: {what}")]
pub struct UnknownCommand {
    /// What could be read of it.
    pub what: &'static str,
}

/// Why a handler ended without effect.
#[derive(Debug)]
pub(crate) enum Stop {
    Refused(Refusal),
    Unknown(&'static str),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Applies one command and answers with an encoded [`KmsAnswer`]. A refused command leaves the state as it was,
/// to the byte; so does an unknown one.
pub fn apply(at: At, command: &[u8], state: &mut dyn Writer) -> Result<Bytes, UnknownCommand> {
    // In one piece: fields then share it, and a batch has thousands of them.
    let shared = Bytes::copy_from_slice(command);
    let decoded = KmsCommand::decode(shared).map_err(|_| UnknownCommand {
        what: "it does not decode",
    })?;
    // Protobuf drops what it does not know: a newer build's field would be lost here and honoured there.
    if decoded.encode_to_vec() != command {
        return Err(UnknownCommand {
            what: "it holds fields this build does not know",
        });
    }
    let answer = match run(at, &decoded, state) {
        Ok(answer) => answer,
        Err(Stop::Refused(refusal)) => KmsAnswer {
            answer: Some(kms_answer::Answer::Refused(refusal.to_wire())),
        },
        Err(Stop::Unknown(what)) => return Err(UnknownCommand { what }),
    };
    Ok(answer.encode_to_vec().into())
}

fn run(at: At, command: &KmsCommand, state: &mut dyn Writer) -> Result<KmsAnswer, Stop> {
    let Some(body) = &command.command else {
        return Err(Stop::Unknown("it holds no command"));
    };
    let initialised = read::region(state).is_some();
    if let Command::Init(init) = body {
        if initialised {
            return Err(Refusal::AlreadyInitialised.into());
        }
        if restore::restoring(state).is_some() {
            return Err(Refusal::OtherRestore.into());
        }
        let mut applying = Applying::new(at, state, command, UnixMs(command.now_ms))?;
        let answer = members::init(&mut applying, init)?;
        applying.finish();
        return Ok(done(answer));
    }
    match body {
        Command::RestoreRows(_) | Command::FinishRestore(_) if initialised => {
            return Err(Refusal::AlreadyInitialised.into());
        }
        Command::RestoreRows(rows) => return restore::rows(state, rows),
        Command::FinishRestore(finish) => return restore::finish(at, state, command, finish),
        _ => {}
    }
    if !initialised {
        return Err(Refusal::NotInitialised.into());
    }
    let stands_at = read::region_time(state);
    if let Command::AdvanceTime(advance) = body {
        let mut applying = Applying::new(at, state, command, stands_at)?;
        let answer = time::advance(&mut applying, advance)?;
        records::forget_expired(&mut applying, 0);
        applying.finish();
        return Ok(answer);
    }
    let now = time::advanced(stands_at, command.now_ms)?;
    check_authority_version(command, read::authority_version(state))?;
    let mut applying = Applying::new(at, state, command, now)?;
    let answer = dispatch(&mut applying, body)?;
    let grown_by = match body {
        Command::Records(batch) => batch.records.len(),
        _ => 0,
    };
    records::forget_expired(&mut applying, grown_by);
    applying.finish();
    Ok(answer)
}

fn dispatch(applying: &mut Applying<'_>, body: &Command) -> Result<KmsAnswer, Stop> {
    let answer: KmsDone = match body {
        Command::Records(batch) => return records::batch(applying, batch),
        Command::CreateKek(create) => keys::create(applying, create)?,
        Command::RotateKek(rotate) => keys::rotate(applying, rotate)?,
        Command::ChangeKeyState(change) => keys::change_state(applying, change)?,
        Command::RegisterShard(register) => keys::register_shard(applying, register)?,
        Command::ConfirmShard(confirm) => keys::confirm_shard(applying, confirm)?,
        Command::ChangeEnrolment(change) => members::change_enrolment(applying, change)?,
        Command::ChangeGrants(change) => members::change_grants(applying, change)?,
        Command::ChangePolicy(change) => policy::change(applying, change)?,
        Command::AllocateKmsId(allocate) => members::allocate(applying, allocate)?,
        Command::RecordUnseal(unseal) => members::record_unseal(applying, unseal)?,
        Command::ChangeWitnesses(change) => witnesses::change(applying, change)?,
        Command::DestroyKek(destroy) => destroy::destroy(applying, destroy)?,
        Command::BeginCustody(begin) => custody::begin(applying, begin)?,
        Command::ConfirmShare(confirm) => custody::confirm(applying, confirm)?,
        Command::RewrapKeks(rewrap) => custody::rewrap::rewrap(applying, rewrap)?,
        Command::FinishCustody(finish) => custody::finish(applying, finish)?,
        Command::AbandonCustody(abandon) => custody::abandon(applying, abandon)?,
        Command::EraseShare(erase) => custody::retire::erase(applying, erase)?,
        Command::RetireEpoch(retire) => custody::retire::retire(applying, retire)?,
        Command::RecordSeal(seal) => custody::hold::seal(applying, seal)?,
        Command::ProvisionSeal(provision) => custody::token::provision(applying, provision)?,
        Command::DropSeal(drop) => custody::token::drop(applying, drop)?,
        Command::SendRoot(send) => custody::hold::send_root(applying, send)?,
        Command::PlanKeyRotation(plan) => rotation::plan(applying, plan)?,
        Command::LabelKey(change) => labels::label(applying, change)?,
        Command::RaiseMinVersion(raise) => rotation::raise_min(applying, raise)?,
        Command::EndKekVersions(end) => rotation::end(applying, end)?,
        Command::ConfirmErased(confirm) => erase::confirm(applying, confirm)?,
        Command::CreateAccessKey(create) => access_keys::create(applying, create)?,
        Command::SetAccessKeyState(set) => access_keys::set_state(applying, set)?,
        Command::DeleteAccessKey(delete) => access_keys::delete(applying, delete)?,
        Command::ApproveRestore(approve) => restores::approve(applying, approve)?,
        Command::GrantHandOver(grant) => hand_over::grant(applying, grant)?,
        Command::SetHandOver(set) => hand_over::set(applying, set)?,
        Command::ShredKey(shred) => hand_over::shred(applying, shred)?,
        Command::CreateHandOverKey(create) => hand_over::create(applying, create)?,
        Command::EndHandOverKey(end) => hand_over::end(applying, end)?,
        Command::PublishRegion(publish) => regions::publish(applying, publish)?,
        Command::TrustRegion(trust) => regions::trust(applying, trust)?,
        Command::DistrustRegion(distrust) => regions::distrust(applying, distrust)?,
        Command::BeginBackup(begin) => backup::begin(applying, begin)?,
        Command::ConfirmBackup(confirm) => backup::confirm(applying, confirm)?,
        Command::Init(_)
        | Command::AdvanceTime(_)
        | Command::RestoreRows(_)
        | Command::FinishRestore(_) => {
            return Err(Stop::Unknown("a command that is handled before dispatch"));
        }
    };
    Ok(done(answer))
}

/// The leader decided on one version of enrolments and grants; a removal that was acknowledged since must win.
fn check_authority_version(command: &KmsCommand, in_force: u64) -> Result<(), Refusal> {
    if command.authority_version == in_force || broken(Switch::UnboundVerdict) {
        Ok(())
    } else {
        Err(Refusal::AuthorityMoved { to: in_force })
    }
}
