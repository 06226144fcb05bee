//! What a leader proposes: pure functions that look at the state, ask policy and build the command.
//!
//! Owns the leader's half of every check, so that drivers stay thin: a command from here carries the versions it
//! was decided on. Refuses: what policy denies, before anything reaches the Raft log. Randomness, clock and
//! verified approvals are the driver's to give.

use bytes::Bytes;
use prost::Message;
use proto::ids::{DatasetId, Identity, KekId, LeafIndex, LeaseId, UnixMs};
use proto::store::Reader;
use proto::v1::kms_command::Command;
use proto::v1::record::Kind as Use;
use proto::v1::{
    Action, AdvanceTime, AllocateKmsId, ApprovalClaim, ApproveRestore, ChangeEnrolment,
    ChangeGrants, ChangeKeyState, ChangePolicy, ChangeWitnesses, Claim, ConfirmErased,
    ConfirmShard, CreateKek, DestroyKek, EndKekVersions, EnrolmentSet, InitKms, KekRecord,
    KekVersionRecord, KeyState, KmsCommand, KmsRegion, LabelKey, LeaseIssue, OpenedItem, Opens,
    PlanKeyRotation, RaiseMinVersion, Record, RecordBatch, RecordUnseal, RegisterShard,
    RewrappedMetadataKey, RotateKek, UnsealHow,
};
use tlog::Purpose;

mod access_keys;
mod regions;

pub use access_keys::{access_secret, create_access_key, delete_access_key, set_access_key_state};
pub use regions::{distrust_region, publish_region, trust_region, update_region};

use crate::append::purpose_of;
use crate::authority::{Authority, Question, Verdict};
use crate::keys::transition;
use crate::read;
use crate::records::RESEAL;
use crate::refusal::Refusal;

/// What a driver adds to a request.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Who asks, authenticated. For records: the leader itself.
    pub requester: Identity,
    /// The leader's clock.
    pub now: UnixMs,
    /// 32 bytes from the system's random generator, for this command alone.
    pub salts: [u8; 32],
    /// Approvals whose signatures, request hash and single-use id the leader has verified.
    pub approvals: Vec<ApprovalClaim>,
}

impl Asked {
    fn command(self, authority_version: u64, command: Command) -> KmsCommand {
        KmsCommand {
            now_ms: self.now.0,
            authority_version,
            salts: Bytes::copy_from_slice(&self.salts),
            approvals: self.approvals,
            requester: self.requester.to_string(),
            command: Some(command),
        }
    }
}

/// A record that policy allowed, ready for a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// Goes into [`batch`].
    pub record: Record,
    /// On what version of the authority, and whether it takes approvals and a batch of its own.
    pub verdict: Verdict,
}

/// The init ceremony.
pub fn init(asked: Asked, region: KmsRegion, set: &EnrolmentSet) -> KmsCommand {
    let init = InitKms {
        region: Some(region),
        enrolment_set: set.encode_to_vec().into(),
    };
    asked.command(0, Command::Init(init))
}

/// The birth of a dataset's KEK, `version` being its first, wrapped.
#[derive(Debug, Clone)]
pub struct NewKek {
    /// For which dataset.
    pub dataset: DatasetId,
    /// Random, minted by the leader.
    pub kek: KekId,
    /// Random, minted by the leader: the dataset's name in the public log.
    pub pseudonym: [u8; 16],
    /// The request's id; a retry answers as the first did.
    pub request_id: [u8; 16],
    /// Version 1.
    pub version: KekVersionRecord,
}

/// Creates a dataset's KEK, if the actor may create datasets.
pub fn create_kek(
    authority: &Authority,
    asked: Asked,
    claim: Claim,
    new: NewKek,
) -> Result<KmsCommand, Refusal> {
    let verdict = allowed(
        authority,
        &asked.requester,
        &new.dataset,
        Action::Create,
        &claim,
    )?;
    let create = CreateKek {
        kek_id: new.kek.into(),
        dataset_id: new.dataset.into(),
        pseudonym: Bytes::copy_from_slice(&new.pseudonym),
        version: Some(new.version),
        claim: Some(acting(claim, &asked.requester)),
        request_id: Bytes::copy_from_slice(&new.request_id),
    };
    Ok(asked.command(verdict.authority_version, Command::CreateKek(create)))
}

/// A change of the key of which dataset, under which request id. Who asks is in [`Asked`].
#[derive(Debug, Clone)]
pub struct KeyChange<'a> {
    /// Of which dataset.
    pub dataset: &'a DatasetId,
    /// The request's id; a retry while it is remembered has no second effect.
    pub request_id: [u8; 16],
    /// What the requester states.
    pub claim: Claim,
}

/// Adds a KEK version, wrapped; its number is the current one plus one.
pub fn rotate_kek(
    state: &dyn Reader,
    authority: &Authority,
    asked: Asked,
    change: KeyChange<'_>,
    version: KekVersionRecord,
) -> Result<KmsCommand, Refusal> {
    let (dataset, claim) = (change.dataset, change.claim);
    let verdict = allowed(authority, &asked.requester, dataset, Action::Keys, &claim)?;
    let key = read::key(state, dataset).ok_or(Refusal::NoSuchKey)?;
    let retried = read::request(state, &change.request_id).is_some();
    if !retried && !matches!(key.state(), KeyState::Enabled | KeyState::Compromised) {
        return Err(Refusal::KeyDisabled);
    }
    let rotate = RotateKek {
        dataset_id: (*dataset).into(),
        state_version: key.state_version,
        version: Some(version),
        claim: Some(acting(claim, &asked.requester)),
        request_id: Bytes::copy_from_slice(&change.request_id),
    };
    Ok(asked.command(verdict.authority_version, Command::RotateKek(rotate)))
}

/// Moves a key to another state. `destruction_days` is 7 to 30 for pending destruction and 0 otherwise.
pub fn change_key_state(
    state: &dyn Reader,
    authority: &Authority,
    asked: Asked,
    change: KeyChange<'_>,
    target: (KeyState, u32),
) -> Result<KmsCommand, Refusal> {
    let (dataset, claim) = (change.dataset, change.claim);
    let verdict = allowed(authority, &asked.requester, dataset, Action::Keys, &claim)?;
    let key = read::key(state, dataset).ok_or(Refusal::NoSuchKey)?;
    let (target, destruction_days) = target;
    // A retry is the state's to answer: where the key stands now may be what the first try did.
    let retried = read::request(state, &change.request_id).is_some();
    if !retried && transition(&key, target).is_none() {
        return Err(Refusal::WrongState);
    }
    let command = ChangeKeyState {
        dataset_id: (*dataset).into(),
        state_version: key.state_version,
        state: target.into(),
        claim: Some(acting(claim, &asked.requester)),
        destruction_days,
        request_id: Bytes::copy_from_slice(&change.request_id),
    };
    Ok(asked.command(verdict.authority_version, Command::ChangeKeyState(command)))
}

/// Replaces the plan by which a key is rotated: at most how old, at most how often used; 0 for no such reason.
pub fn plan_key_rotation(
    state: &dyn Reader,
    authority: &Authority,
    asked: Asked,
    change: KeyChange<'_>,
    max_age_ms: u64,
    max_uses: u64,
) -> Result<KmsCommand, Refusal> {
    let (dataset, claim) = (change.dataset, change.claim);
    let verdict = allowed(authority, &asked.requester, dataset, Action::Keys, &claim)?;
    let key = read::key(state, dataset).ok_or(Refusal::NoSuchKey)?;
    let plan = PlanKeyRotation {
        dataset_id: (*dataset).into(),
        state_version: key.state_version,
        max_age_ms,
        max_uses,
        claim: Some(acting(claim, &asked.requester)),
        request_id: Bytes::copy_from_slice(&change.request_id),
    };
    Ok(asked.command(verdict.authority_version, Command::PlanKeyRotation(plan)))
}

/// Changes a key's aliases and tags: `labels` says which; its other fields are filled in here.
pub fn label_key(
    state: &dyn Reader,
    authority: &Authority,
    asked: Asked,
    change: KeyChange<'_>,
    labels: LabelKey,
) -> Result<KmsCommand, Refusal> {
    let (dataset, claim) = (change.dataset, change.claim);
    let verdict = allowed(authority, &asked.requester, dataset, Action::Keys, &claim)?;
    let key = read::key(state, dataset).ok_or(Refusal::NoSuchKey)?;
    let command = LabelKey {
        dataset_id: (*dataset).into(),
        state_version: key.state_version,
        claim: Some(acting(claim, &asked.requester)),
        request_id: Bytes::copy_from_slice(&change.request_id),
        ..labels
    };
    Ok(asked.command(verdict.authority_version, Command::LabelKey(command)))
}

/// Has the shard refuse commits under versions below `min_version` from now on.
pub fn raise_min_version(
    state: &dyn Reader,
    authority: &Authority,
    asked: Asked,
    change: KeyChange<'_>,
    min_version: u32,
) -> Result<KmsCommand, Refusal> {
    let (dataset, claim) = (change.dataset, change.claim);
    let verdict = allowed(authority, &asked.requester, dataset, Action::Keys, &claim)?;
    let key = read::key(state, dataset).ok_or(Refusal::NoSuchKey)?;
    let raise = RaiseMinVersion {
        dataset_id: (*dataset).into(),
        state_version: key.state_version,
        min_version,
        claim: Some(acting(claim, &asked.requester)),
        request_id: Bytes::copy_from_slice(&change.request_id),
    };
    Ok(asked.command(verdict.authority_version, Command::RaiseMinVersion(raise)))
}

/// Purges versions below one, with the metadata keys that would be lost wrapped under the newest; needs the approvals
/// in `asked`.
pub fn end_kek_versions(
    state: &dyn Reader,
    authority: &Authority,
    asked: Asked,
    change: KeyChange<'_>,
    below_version: u32,
    metadata_keys: Vec<RewrappedMetadataKey>,
) -> Result<KmsCommand, Refusal> {
    let (dataset, claim) = (change.dataset, change.claim);
    let verdict = allowed(authority, &asked.requester, dataset, Action::Keys, &claim)?;
    let key = read::key(state, dataset).ok_or(Refusal::NoSuchKey)?;
    let end = EndKekVersions {
        dataset_id: (*dataset).into(),
        state_version: key.state_version,
        below_version,
        claim: Some(acting(claim, &asked.requester)),
        request_id: Bytes::copy_from_slice(&change.request_id),
        metadata_keys,
    };
    Ok(asked.command(verdict.authority_version, Command::EndKekVersions(end)))
}

/// What cancelling the destruction of a key leads back to: while it is pending, or where this very request has had
/// effect before. The record keeps the state of before afterwards too, when it says nothing of the present: going by it
/// then would take a key back to where nobody asked it to go.
pub fn cancels_to(state: &dyn Reader, key: &KekRecord, request_id: &[u8; 16]) -> Option<KeyState> {
    let pending = key.state() == KeyState::PendingDestruction;
    let retried = read::request(state, request_id).is_some();
    (pending || retried).then(|| key.state_before_destruction())
}

/// Who asks for keys of which dataset, and under which request id.
#[derive(Debug, Clone)]
pub struct KeyUse<'a> {
    /// The caller, authenticated; becomes the claim's actor.
    pub caller: &'a Identity,
    /// Of which dataset.
    pub dataset: &'a DatasetId,
    /// The request's id; a retry within 60 s reuses the leaf.
    pub request_id: [u8; 16],
    /// What the caller states.
    pub claim: Claim,
}

/// A lease that the leader has minted.
#[derive(Debug, Clone, Copy)]
pub struct NewLease {
    /// Random, minted by the leader for this attempt.
    pub id: LeaseId,
    /// SHA-256 of the holder's public key (DER SubjectPublicKeyInfo).
    pub holder: [u8; 32],
    /// From when.
    pub issued: UnixMs,
    /// Until when, at most an hour later.
    pub expires: UnixMs,
}

/// Records a lease that seals; answers with the key it was decided on, whose current version wraps the lease.
pub fn lease(
    state: &dyn Reader,
    authority: &Authority,
    used: KeyUse<'_>,
    new: NewLease,
) -> Result<(Prepared, KekRecord), Refusal> {
    let verdict = allowed(
        authority,
        used.caller,
        used.dataset,
        Action::Write,
        &used.claim,
    )?;
    let key = enabled(state, used.dataset)?;
    let kind = Use::Lease(issue(&new, &key));
    Ok((prepared(used, verdict, &key, kind), key))
}

/// Records a lease that opens metadata and nothing else.
pub fn metadata_lease(
    state: &dyn Reader,
    authority: &Authority,
    used: KeyUse<'_>,
    new: NewLease,
) -> Result<(Prepared, KekRecord), Refusal> {
    let verdict = allowed(
        authority,
        used.caller,
        used.dataset,
        Action::List,
        &used.claim,
    )?;
    let key = match enabled(state, used.dataset) {
        // To seal everything again, and for nothing else.
        Err(Refusal::KeyDisabled) if used.claim.purpose == RESEAL => {
            let key = read::key(state, used.dataset).ok_or(Refusal::NoSuchKey)?;
            if key.state() != KeyState::Compromised {
                return Err(Refusal::KeyDisabled);
            }
            key
        }
        other => other?,
    };
    let kind = Use::MetadataLease(issue(&new, &key));
    Ok((prepared(used, verdict, &key, kind), key))
}

/// Records the opening of object versions: 1 to [`crate::OPEN_ITEMS_MAX`], all of one dataset and claim.
pub fn opens(
    state: &dyn Reader,
    authority: &Authority,
    used: KeyUse<'_>,
    items: Vec<OpenedItem>,
) -> Result<(Prepared, KekRecord), Refusal> {
    let verdict = allowed(
        authority,
        used.caller,
        used.dataset,
        Action::Read,
        &used.claim,
    )?;
    let key = read::key(state, used.dataset).ok_or(Refusal::NoSuchKey)?;
    if !matches!(key.state(), KeyState::Enabled | KeyState::Compromised) {
        return Err(Refusal::KeyDisabled);
    }
    let recipient_region = authority.region().to_string();
    let kind = Use::Opens(Opens {
        items,
        recipient_region,
    });
    Ok((prepared(used, verdict, &key, kind), key))
}

/// Puts records of one authority version into one command. Records under dual control go alone.
pub fn batch(asked: Asked, authority_version: u64, records: Vec<Record>) -> KmsCommand {
    asked.command(authority_version, Command::Records(RecordBatch { records }))
}

/// Enrols and removes identities; needs the approvals in `asked`.
pub fn change_enrolment(
    authority: &Authority,
    asked: Asked,
    mut change: ChangeEnrolment,
) -> KmsCommand {
    change.claim = Some(acting(change.claim.unwrap_or_default(), &asked.requester));
    asked.command(authority.version(), Command::ChangeEnrolment(change))
}

/// Adds and removes grants; needs the approvals in `asked`.
pub fn change_grants(authority: &Authority, asked: Asked, mut change: ChangeGrants) -> KmsCommand {
    change.claim = Some(acting(change.claim.unwrap_or_default(), &asked.requester));
    asked.command(authority.version(), Command::ChangeGrants(change))
}

/// Replaces the policy text, which the driver has validated; needs the approvals in `asked`.
pub fn change_policy(authority: &Authority, asked: Asked, mut change: ChangePolicy) -> KmsCommand {
    change.claim = Some(acting(change.claim.unwrap_or_default(), &asked.requester));
    asked.command(authority.version(), Command::ChangePolicy(change))
}

/// Says that datasets may be restored from a backup, or are confirmed after it; needs the approvals in `asked`.
pub fn approve_restore(
    authority: &Authority,
    asked: Asked,
    mut approve: ApproveRestore,
) -> KmsCommand {
    approve.claim = Some(acting(approve.claim.unwrap_or_default(), &asked.requester));
    asked.command(authority.version(), Command::ApproveRestore(approve))
}

/// Destroys a key whose destruction is due. `witnessed_at` is a time that the witnesses' quorum has stated, 0 where the
/// region asks for none.
pub fn destroy_kek(
    authority: &Authority,
    asked: Asked,
    dataset: &DatasetId,
    state_version: u64,
    witnessed_at: UnixMs,
) -> KmsCommand {
    let destroy = DestroyKek {
        dataset_id: (*dataset).into(),
        state_version,
        witnessed_at_ms: witnessed_at.0,
    };
    asked.command(authority.version(), Command::DestroyKek(destroy))
}

/// Replaces the policy of witnesses; needs the approvals in `asked`.
pub fn change_witnesses(
    authority: &Authority,
    asked: Asked,
    mut change: ChangeWitnesses,
) -> KmsCommand {
    change.claim = Some(acting(change.claim.unwrap_or_default(), &asked.requester));
    asked.command(authority.version(), Command::ChangeWitnesses(change))
}

/// A step of custody of the root key, as the driver has made it; some need the approvals in `asked`.
pub fn custody(authority: &Authority, asked: Asked, mut step: Command) -> KmsCommand {
    let claim = match &mut step {
        Command::BeginCustody(begin) => Some(&mut begin.claim),
        Command::AbandonCustody(abandon) => Some(&mut abandon.claim),
        Command::RetireEpoch(retire) => Some(&mut retire.claim),
        Command::RecordSeal(seal) => Some(&mut seal.claim),
        Command::BeginBackup(begin) => Some(&mut begin.claim),
        Command::ConfirmBackup(confirm) => Some(&mut confirm.claim),
        Command::ProvisionSeal(provision) => Some(&mut provision.claim),
        Command::DropSeal(drop) => Some(&mut drop.claim),
        _ => None,
    };
    if let Some(claim) = claim {
        *claim = Some(acting(claim.take().unwrap_or_default(), &asked.requester));
    }
    asked.command(authority.version(), step)
}

/// Records that a replica received the root key in this life of it.
pub fn record_unseal(
    authority: &Authority,
    asked: Asked,
    replica: &Identity,
    boot_id: [u8; 16],
    how: UnsealHow,
) -> KmsCommand {
    let unseal = RecordUnseal {
        replica: replica.to_string(),
        boot_id: Bytes::copy_from_slice(&boot_id),
        how: how.into(),
        ..RecordUnseal::default()
    };
    asked.command(authority.version(), Command::RecordUnseal(unseal))
}

/// Allocates a member id for a KMS replica that is to be enrolled.
pub fn allocate_kms_id(authority: &Authority, asked: Asked, replica: &Identity) -> KmsCommand {
    let allocate = AllocateKmsId {
        identity: replica.to_string(),
    };
    asked.command(authority.version(), Command::AllocateKmsId(allocate))
}

/// Notes which shard holds a dataset; the requester is a KMS replica.
pub fn register_shard(
    authority: &Authority,
    asked: Asked,
    dataset: &DatasetId,
    shard: u64,
) -> KmsCommand {
    let register = RegisterShard {
        dataset_id: (*dataset).into(),
        shard,
    };
    asked.command(authority.version(), Command::RegisterShard(register))
}

/// Notes that a dataset's shard has committed a key's state; the requester is a KMS replica.
pub fn confirm_shard(
    authority: &Authority,
    asked: Asked,
    dataset: &DatasetId,
    state_version: u64,
) -> KmsCommand {
    let confirm = ConfirmShard {
        dataset_id: (*dataset).into(),
        state_version,
    };
    asked.command(authority.version(), Command::ConfirmShard(confirm))
}

/// Notes that a replica, the requester, has erased what was ended up to and with a leaf.
pub fn confirm_erased(authority: &Authority, asked: Asked, through: LeafIndex) -> KmsCommand {
    let confirm = ConfirmErased {
        through_leaf: through.0,
    };
    asked.command(authority.version(), Command::ConfirmErased(confirm))
}

/// Moves region time to the median of the clocks of a majority of voters, the leader's own included.
pub fn advance_time(asked: Asked, clocks: &[UnixMs]) -> KmsCommand {
    let clocks_ms = clocks.iter().map(|clock| clock.0).collect();
    asked.command(0, Command::AdvanceTime(AdvanceTime { clocks_ms }))
}

/// Whether a command at this clock would meet [`Refusal::ClockJump`], so that [`advance_time`] has to go first.
pub fn time_has_to_advance(state: &dyn Reader, clock: UnixMs) -> bool {
    crate::time::advanced(read::region_time(state), clock.0).is_err()
}

fn allowed(
    authority: &Authority,
    principal: &Identity,
    dataset: &DatasetId,
    action: Action,
    claim: &Claim,
) -> Result<Verdict, Refusal> {
    let purpose: Purpose = purpose_of(claim)?;
    let question = Question {
        principal,
        dataset,
        action,
        purpose: &purpose,
    };
    authority.may(question).map_err(Refusal::from)
}

/// The claim with the actor that was authenticated, whatever the caller wrote there.
fn acting(claim: Claim, actor: &Identity) -> Claim {
    Claim {
        actor: actor.to_string(),
        ..claim
    }
}

fn enabled(state: &dyn Reader, dataset: &DatasetId) -> Result<KekRecord, Refusal> {
    let key = read::key(state, dataset).ok_or(Refusal::NoSuchKey)?;
    if key.state() == KeyState::Enabled {
        Ok(key)
    } else {
        Err(Refusal::KeyDisabled)
    }
}

fn issue(new: &NewLease, key: &KekRecord) -> LeaseIssue {
    LeaseIssue {
        lease_id: new.id.into(),
        holder: Bytes::copy_from_slice(&new.holder),
        issued_at_ms: new.issued.0,
        expires_at_ms: new.expires.0,
        kek_version: key.current_version,
    }
}

fn prepared(used: KeyUse<'_>, verdict: Verdict, key: &KekRecord, kind: Use) -> Prepared {
    let record = Record {
        request_id: Bytes::copy_from_slice(&used.request_id),
        dataset_id: (*used.dataset).into(),
        state_version: key.state_version,
        claim: Some(acting(used.claim, used.caller)),
        kind: Some(kind),
    };
    Prepared { record, verdict }
}
