//! The certificate of a relocation: what a statement has to say of this region for a replica to sign it.
//!
//! Owns the comparison of a statement with the own records, and in a destination with the words of its nodes. Refuses a
//! statement of which one field of the own side differs, and what nothing here shows yet. What the other side says of itself
//! is for its own KMS to sign. It states what leaves say, and so leaves none.

use bytes::Bytes;
use proto::ids::{Identity, Role};
use proto::relocation::{Named, words};
use proto::store::Reader;
use proto::v1;
use proto::v1::relocations_client::RelocationsClient;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tlog::certificate::{
    CertificateError, DescriptorNamed, OpenedBy, PAYLOAD_TYPE, Party, Relocation, Statement,
};
use tlog::{Field, Kind, Leaf, Openings, openings_of};
use transport::Peer;
use transport::panel::{Panel, WORDS_MAX, WordError};

use crate::confirm::{ConfirmError, timed};
use crate::core::{Core, LevelTooLow, StaleError};
use crate::ledger::CommitError;
use crate::seal::Sealed;

/// How far a statement's time may be from the region's.
const APART_MS: u64 = 600_000;

/// Why a statement on a relocation is not signed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertifyError {
    /// The replica is sealed.
    #[error(transparent)]
    Sealed(#[from] Sealed),
    /// Of a role that does not look after relocations.
    #[error("{0} is neither an operator nor an auditor")]
    Role(Identity),
    /// It is none.
    #[error("the request has no statement on a relocation")]
    Statement(#[from] CertificateError),
    /// This region is on neither side.
    #[error("the statement is of two other regions")]
    OtherRegions,
    /// It says something else than the records here.
    #[error("the statement's {0} is not what this region has on record")]
    Differs(&'static str),
    /// There is nothing to be certified yet.
    #[error("this region does not certify the relocation yet: {0}")]
    NotYet(&'static str),
    /// The own nodes could not be asked.
    #[error("the dataset's shard was not heard")]
    Shard(#[from] ConfirmError),
    /// They do not say that they serve it.
    #[error("the nodes of this region do not say that they serve the dataset")]
    Words(#[from] WordError),
    /// The state could not be confirmed.
    #[error(transparent)]
    Stale(#[from] StaleError),
    /// This replica does not lead.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// Relocations are of a later level.
    #[error(transparent)]
    Level(#[from] LevelTooLow),
}

#[derive(Deserialize)]
struct OfRelocation {
    relocation: String,
}

#[derive(Deserialize)]
struct Erased {
    through_leaf: u64,
    waiting_for: Vec<String>,
}

/// Refuses at the first field that differs.
fn same(fields: &[(bool, &'static str)]) -> Result<(), CertifyError> {
    match fields.iter().find(|(is, _)| !is) {
        Some(&(_, field)) => Err(CertifyError::Differs(field)),
        None => Ok(()),
    }
}

fn named(said: &Relocation) -> Result<Named, CertifyError> {
    let bytes = |text: &str| hex::decode(text).unwrap_or_default();
    Named::parse(&bytes(&said.dataset), &bytes(&said.relocation))
        .map_err(|_| CertificateError::Field("id").into())
}

fn key_of(state: &dyn Reader, named: &Named) -> Result<v1::KekRecord, CertifyError> {
    kms_state::key(state, &named.dataset).ok_or(CertifyError::NotYet("the dataset has no key here"))
}

/// What both sides have alike: who this region is, and that the statement is of now.
fn check_party(
    state: &dyn Reader,
    said: &Party,
    key: &v1::KekRecord,
    issued_ms: u64,
) -> Result<(), CertifyError> {
    let region = kms_state::region(state).ok_or(CertifyError::NotYet("it has not begun"))?;
    let own = kms_state::own_region(state)
        .ok_or(CertifyError::NotYet("it has published no descriptor"))?;
    let descriptor = DescriptorNamed {
        version: own.descriptor.version(),
        fingerprint: hex::encode(kms_state::region_fingerprint(
            &own.descriptor.signed().descriptor,
        )),
    };
    let now = kms_state::region_time(state).0;
    same(&[
        (said.region == region.region, "region"),
        (said.jurisdiction == region.jurisdiction, "jurisdiction"),
        (said.descriptor == descriptor, "descriptor of this region"),
        (said.log == region.log_origin, "log"),
        (said.pseudonym == hex::encode(&key.pseudonym), "pseudonym"),
        (said.kek == hex::encode(&key.kek_id), "key id"),
        (now.abs_diff(issued_ms) <= APART_MS, "time"),
    ])
}

/// The details of a leaf of this kind, and of this dataset where it is of one.
fn details<T: DeserializeOwned>(
    state: &dyn Reader,
    index: u64,
    (kind, pseudonym): (Kind, Option<&[u8]>),
) -> Option<T> {
    let asked = kms_state::LeavesAsked {
        start: proto::ids::LeafIndex(index),
        limit: 1,
        bytes_max: 1,
        with_openings: true,
    };
    let entry = kms_state::leaves(state, asked).pop()?;
    let leaf = Leaf::parse(&entry.leaf).ok()?;
    let of = leaf.dataset().map(|link| &link.pseudonym.0[..]);
    if entry.index != index || leaf.kind() != kind || of != pseudonym {
        return None;
    }
    let shown = openings_of(&leaf, &Openings::parse(&entry.openings).ok()?).ok()?;
    serde_json::from_str(shown.fields.get(&Field::Details)?).ok()
}

/// Whether a leaf of this kind is of the dataset and the relocation.
fn is_of(state: &dyn Reader, index: u64, kind: Kind, key: &v1::KekRecord, id: &str) -> bool {
    details::<OfRelocation>(state, index, (kind, Some(&key.pseudonym[..])))
        .is_some_and(|details| details.relocation == id)
}

fn moved_as_said(moved: &v1::MovedRecord, said: &Relocation) -> Result<(), CertifyError> {
    same(&[
        (
            hex::encode(&moved.relocation_id) == said.relocation,
            "relocation",
        ),
        (moved.epoch == said.epoch_to, "epoch"),
        (moved.fence == said.fence, "fence"),
        (hex::encode(&moved.root) == said.catalog_root, "root"),
    ])
}

fn as_source(state: &dyn Reader, said: &Relocation, named: &Named) -> Result<(), CertifyError> {
    let not_yet = CertifyError::NotYet;
    let (ours, theirs) = (&said.source, &said.destination);
    let key = key_of(state, named)?;
    check_party(state, &ours.party, &key, said.issued_ms)?;
    let grant = kms_state::hand_over_grant(state, &named.relocation)
        .filter(|grant| grant.dataset_id[..] == key.dataset_id[..])
        .ok_or(not_yet("no key was granted to it"))?;
    let terms = grant.terms.clone();
    let terms = terms.ok_or(not_yet("it was closed before it was granted"))?;
    let moved = grant.moved.clone();
    let moved = moved.ok_or(not_yet(
        "the end of its dataset's key was not scheduled by it",
    ))?;
    let destroyed = match key.state() {
        v1::KeyState::Destroyed => true,
        v1::KeyState::PendingDestruction => false,
        _ => return Err(not_yet("the end of its dataset's key was cancelled")),
    };
    moved_as_said(&moved, said)?;
    let released = grant.released.unwrap_or_default();
    let fingerprint = hex::encode(&terms.descriptor_fingerprint);
    let ended = destroyed.then_some(key.ended_leaf);
    let erased = destroyed && kms_state::not_erased(state, &key).is_empty();
    let id = said.relocation.as_str();
    let pending = Kind::KeyDestructionPending;
    same(&[
        (
            grant.stage() == v1::HandOverStage::Closed,
            "grant, which is not closed,",
        ),
        (said.opened == OpenedBy::Moved, "way of opening"),
        (
            terms.destination == theirs.party.region
                && terms.jurisdiction == theirs.party.jurisdiction,
            "destination",
        ),
        (
            terms.descriptor_version == ours.approved.version
                && fingerprint == ours.approved.fingerprint,
            "descriptor of the destination, as approved,",
        ),
        (
            hex::encode(&terms.hand_over_key_id) == said.hand_over_key,
            "hand-over key",
        ),
        (grant.leaf_index == ours.grant_leaf, "leaf of the grant"),
        (
            released.objects == ours.released_objects
                && released.leaves.checked_sub(1) == ours.released_through,
            "count of released keys",
        ),
        (
            is_of(state, ours.shred_leaf, pending, &key, id),
            "leaf of the shred",
        ),
        (ended == ours.destroyed_leaf, "leaf of the key's end"),
        (
            ours.erased_leaf.is_none() || erased,
            "word that the key is erased",
        ),
    ])?;
    let Some(leaf) = ours.erased_leaf else {
        return Ok(());
    };
    let said = details::<Erased>(state, leaf, (Kind::KeysErased, None));
    let covers = said.is_some_and(|said| {
        said.waiting_for.is_empty() && Some(said.through_leaf) >= ours.destroyed_leaf
    });
    same(&[(covers, "leaf of the last replica's word")])
}

fn as_destination(
    state: &dyn Reader,
    said: &Relocation,
    named: &Named,
) -> Result<(), CertifyError> {
    let ours = &said.destination;
    let key = key_of(state, named)?;
    check_party(state, &ours.party, &key, said.issued_ms)?;
    let record = kms_state::hand_over_key(state, &named.relocation)
        .filter(|record| record.dataset_id[..] == key.dataset_id[..] && !record.source.is_empty())
        .ok_or(CertifyError::NotYet("no hand-over key was made for it"))?;
    let fingerprint = hex::encode(&record.descriptor_fingerprint);
    same(&[
        (
            hex::encode(&record.hand_over_key_id) == said.hand_over_key,
            "hand-over key",
        ),
        (record.source == said.source.party.region, "source"),
        (
            record.descriptor_version == ours.approved.version
                && fingerprint == ours.approved.fingerprint,
            "descriptor of the source, as approved,",
        ),
        (
            record.created_leaf == ours.key_leaf,
            "leaf of the hand-over key",
        ),
        (
            record.destroyed == ours.key_destroyed_leaf.is_some(),
            "end of the hand-over key",
        ),
    ])?;
    let Some(leaf) = ours.key_destroyed_leaf else {
        return Ok(());
    };
    let kind = Kind::HandOverKeyDestroyed;
    let ended = is_of(state, leaf, kind, &key, &said.relocation);
    same(&[(ended, "leaf of the hand-over key's end")])
}

/// By what a node says that the dataset is served, and on whose word.
fn opened(state: &v1::ArrivalState) -> Option<(OpenedBy, v1::MovedRecord)> {
    let moved = words::served(state).map(|moved| (OpenedBy::Moved, moved));
    moved.or_else(|| words::forced(state).map(|moved| (OpenedBy::Forced, moved)))
}

impl Core {
    /// Signs a statement on a relocation of this region, or says what in it is not so.
    pub(crate) async fn certify_relocation(
        &self,
        peer: &Peer,
        request: &v1::CertifyRelocationRequest,
    ) -> Result<v1::DsseSignature, CertifyError> {
        if !matches!(peer.identity.role(), Role::Operator | Role::Auditor) {
            return Err(CertifyError::Role(peer.identity.clone()));
        }
        self.serving()?;
        self.ledger.leading()?;
        self.at_level(kms_state::LEVEL_RELOCATION)?;
        let statement = Statement::parse(&request.statement)?;
        let said = statement.predicate();
        let named = named(said)?;
        let own = self.config.region.as_str();
        if said.source.party.region == own {
            let state = self.current().await?;
            as_source(&*state, said, &named)?;
        } else if said.destination.party.region == own {
            let (by, moved) = self.opened_here(&named).await?;
            same(&[(by == said.opened, "way of opening")])?;
            moved_as_said(&moved, said)?;
            let state = self.current().await?;
            as_destination(&*state, said, &named)?;
        } else {
            return Err(CertifyError::OtherRegions);
        }
        tracing::info!(relocation = %named.relocation, by = %peer.identity, "relocation certified");
        let signature = self.local.sign_dsse(PAYLOAD_TYPE, &request.statement);
        Ok(v1::DsseSignature {
            signer: Bytes::copy_from_slice(self.local.public_key().as_spki()),
            signature: Bytes::copy_from_slice(&signature),
        })
    }

    /// By what a majority of the own nodes say that they serve a dataset that moved here.
    async fn opened_here(
        &self,
        named: &Named,
    ) -> Result<(OpenedBy, v1::MovedRecord), CertifyError> {
        let request = v1::ArrivalStateRequest {
            of: Some(v1::Relocated {
                shard: 0,
                dataset_id: named.dataset.into(),
                relocation_id: named.relocation.into(),
            }),
            follow: false,
        };
        let nodes = self.nodes();
        let mut asked = Vec::new();
        for (_, endpoint, expect) in nodes.iter().take(WORDS_MAX) {
            let mut node = RelocationsClient::new(self.channel(endpoint, expect)?);
            let request = timed(request.clone());
            asked.push(async move { node.state(request).await });
        }
        // Who does not answer says nothing; a majority has to.
        let answers = futures::future::join_all(asked).await;
        let said: Vec<_> = answers
            .into_iter()
            .flatten()
            .map(tonic::Response::into_inner)
            .collect();
        let panel = Panel::own_nodes(&self.enrolments.current());
        Ok(panel.hear(named, said.as_slice(), opened)?.record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved() -> v1::MovedRecord {
        v1::MovedRecord {
            fence: 9,
            ..v1::MovedRecord::default()
        }
    }

    #[test]
    fn on_whose_word_a_dataset_was_opened_is_what_the_nodes_say() {
        let mut state = v1::ArrivalState::default();
        assert_eq!(opened(&state), None);
        state.moved = Some(moved());
        assert_eq!(opened(&state), Some((OpenedBy::Moved, moved())));
        state.by_force = true;
        assert_eq!(opened(&state), Some((OpenedBy::Forced, moved())));
    }

    #[test]
    fn the_first_field_that_differs_is_named() {
        assert!(same(&[(true, "one"), (true, "two")]).is_ok());
        let refused = same(&[(true, "one"), (false, "two"), (false, "three")]);
        assert!(matches!(refused, Err(CertifyError::Differs("two"))));
    }
}
