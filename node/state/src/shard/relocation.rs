//! What both sides of a relocation have in common in apply, and what every command has to do with it.
//!
//! Owns the way from a decision of [`crate::relocation`] to an answer, and the changes that only a departure reads. Refuses
//! to decide: who may write, what crosses and which step follows are decided there.

use std::collections::BTreeSet;

use prost::Message as _;
use proto::ids::{FeatureLevel, NodeId, RelocationId};
use proto::v1;

use super::refusal::{malformed, of, refuse};
use super::{Apply, Dataset};
use crate::keys::{self, table};
use crate::limits::SIGNERS_MAX;
use crate::relocation::{
    Approved, Authority, AuthorityRefused, Change, NotAdmitted, Standing, Vouched,
};

/// The feature level from which datasets depart and arrive.
pub const RELOCATION_LEVEL: FeatureLevel = FeatureLevel(6);

impl Dataset {
    /// Takes an authority on: what follows from it stands beside it.
    pub(super) fn settle(&mut self, authority: &Authority) {
        self.record.authority = Some(authority.record());
        let status = match authority.standing() {
            Standing::Active => v1::DatasetStatus::Active,
            // Neither takes changes, and both may take them again.
            Standing::Fenced { .. } | Standing::Unconfirmed => v1::DatasetStatus::Fenced,
            Standing::Moved(_) | Standing::Diverged(_) => v1::DatasetStatus::Moved,
        };
        self.record.set_status(status);
    }
}

impl Apply<'_> {
    /// The dataset, if it takes new versions: from whoever writes, or while it is being filled from its mover.
    pub(super) fn receiving(&self, id: &[u8]) -> Result<Dataset, v1::Refused> {
        let dataset = self.held(id)?;
        match dataset.record.status() {
            v1::DatasetStatus::Arriving => self.filling(dataset),
            _ => self.writable(id, Change::Write),
        }
    }

    /// Leaves the change of a version's retention or hold in the change index, which has its making alone; of each
    /// version the last. The caller saves the head.
    pub(super) fn lock_changed(
        &mut self,
        dataset: &Dataset,
        key: &str,
        head: &mut v1::ObjectEntry,
    ) {
        if self.level < RELOCATION_LEVEL {
            return;
        }
        self.forget_change(dataset, head.changed_index);
        head.changed_index = self.index.0;
        let change = v1::ChangeRecord {
            key: key.to_owned(),
            version_id: head.version_id.clone(),
            kind: v1::ChangeKind::Lock.into(),
            ..Default::default()
        };
        self.note(dataset, &change);
    }

    /// The same of a dataset's settings. The caller saves its record.
    pub(super) fn settings_changed(&mut self, dataset: &mut Dataset) {
        if self.level < RELOCATION_LEVEL {
            return;
        }
        self.forget_change(dataset, dataset.record.settings_index);
        dataset.record.settings_index = self.index.0;
        let change = v1::ChangeRecord {
            kind: v1::ChangeKind::Settings.into(),
            ..Default::default()
        };
        self.note(dataset, &change);
    }

    pub(super) fn note(&mut self, dataset: &Dataset, change: &v1::ChangeRecord) {
        let place = keys::change(table::CHANGE, &dataset.id, self.index);
        self.state.put(&place, &change.encode_to_vec());
    }

    /// Takes a change out of the index; 0 is none.
    pub(super) fn forget_change(&mut self, dataset: &Dataset, index: u64) {
        if index > 0 {
            let index = proto::ids::LogIndex(index);
            self.state
                .delete(&keys::change(table::CHANGE, &dataset.id, index));
        }
    }
}

/// Whether rules may remove something of a dataset.
pub(super) fn takes_lifecycle(record: &v1::DatasetRecord) -> bool {
    let authority = Authority::stored(record);
    let epoch = authority.epoch();
    let here = matches!(
        record.status(),
        v1::DatasetStatus::Active | v1::DatasetStatus::Fenced | v1::DatasetStatus::Moved
    );
    here && authority.admit(Change::Lifecycle, epoch).is_ok()
}

/// How a change is refused that is not admitted.
pub(super) fn not_admitted(refused: NotAdmitted, record: &v1::DatasetRecord) -> v1::Refused {
    match refused {
        NotAdmitted::Fenced => of(v1::Refusal::DatasetFenced),
        NotAdmitted::Unconfirmed => of(v1::Refusal::DatasetUnconfirmed),
        NotAdmitted::EpochMoved(epoch) => v1::Refused {
            moved_to: epoch.0,
            ..of(v1::Refusal::DatasetEpochMoved)
        },
        NotAdmitted::Moved => moved_away(record),
    }
}

/// Where a dataset went, for who wants to follow it.
fn moved_away(record: &v1::DatasetRecord) -> v1::Refused {
    let authority = Authority::stored(record);
    let epoch = match authority.standing() {
        Standing::Moved(moved) | Standing::Diverged(moved) => moved.epoch.0,
        _ => 0,
    };
    let departure = authority.departure();
    v1::Refused {
        moved_to: epoch,
        region: departure.map_or_else(String::new, |to| to.destination.as_str().to_owned()),
        ..of(v1::Refusal::DatasetMoved)
    }
}

/// A dataset that is dropped, or whose contents were after it moved.
pub(super) fn gone(record: &v1::DatasetRecord) -> v1::Refused {
    match Authority::stored(record).standing() {
        Standing::Moved(_) | Standing::Diverged(_) => moved_away(record),
        _ => of(v1::Refusal::DatasetGone),
    }
}

/// Why a dataset is not served here, if it is not: who asks for it is told where it went.
pub fn unserved(record: &v1::DatasetRecord) -> Option<v1::Refused> {
    match record.status() {
        v1::DatasetStatus::Active | v1::DatasetStatus::Fenced => None,
        v1::DatasetStatus::Arriving => Some(of(v1::Refusal::DatasetArriving)),
        v1::DatasetStatus::Moved
        | v1::DatasetStatus::Tombstoned
        | v1::DatasetStatus::Unspecified => Some(gone(record)),
    }
}

/// How a step of a departure is refused.
pub(super) fn not_authorised(refused: AuthorityRefused, record: &v1::DatasetRecord) -> v1::Refused {
    let at = |reason, moved_to| v1::Refused {
        moved_to,
        ..of(reason)
    };
    match refused {
        AuthorityRefused::NotUnderWay(_) => of(v1::Refusal::NotUnderWay),
        AuthorityRefused::VersionMoved(version) => at(v1::Refusal::DepartureMoved, version.0),
        AuthorityRefused::EpochMoved(epoch) => at(v1::Refusal::DatasetEpochMoved, epoch.0),
        AuthorityRefused::FenceOver(_) => of(v1::Refusal::FenceOver),
        AuthorityRefused::Moved => moved_away(record),
        AuthorityRefused::Unconfirmed => of(v1::Refusal::DatasetUnconfirmed),
    }
}

/// What another group says, if a majority of its replicas stand for it.
pub(super) fn vouched<R>(record: R, vouch: Option<&v1::Vouch>) -> Result<Vouched<R>, v1::Refused> {
    let Some(vouch) = vouch.filter(|vouch| {
        let few = |nodes: &[u64]| nodes.len() <= SIGNERS_MAX;
        few(&vouch.signers) && few(&vouch.voters)
    }) else {
        return refuse(v1::Refusal::NoMajority);
    };
    let nodes = |ids: &[u64]| -> BTreeSet<NodeId> { ids.iter().copied().map(NodeId).collect() };
    let voters = nodes(&vouch.voters);
    let majority =
        |signers: &BTreeSet<NodeId>| signers.intersection(&voters).count() * 2 > voters.len();
    Vouched::by_majority(record, &nodes(&vouch.signers), &majority)
        .map_err(|_| of(v1::Refusal::NoMajority))
}

/// That two people besides who asks have approved.
pub(super) fn approved(approvals: Option<&v1::Approvals>) -> Result<Approved, v1::Refused> {
    let Some(approvals) = approvals.filter(|those| those.approvers.len() <= SIGNERS_MAX) else {
        return refuse(v1::Refusal::TooFewApprovals);
    };
    let approvers = approvals.approvers.iter().map(String::as_str);
    Approved::by_two_others(&approvals.requester, approvers)
        .map_err(|_| of(v1::Refusal::TooFewApprovals))
}

/// The relocation that a step is of.
pub(super) fn relocation_id(id: &[u8]) -> Result<RelocationId, v1::Refused> {
    RelocationId::try_from(id).or_else(|_| malformed())
}
