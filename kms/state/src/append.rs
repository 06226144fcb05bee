//! Applying one command: the state it writes, the region time it sets, the leaves it appends.
//!
//! Owns the way from an event to a leaf in the tree. Refuses: an event without a leaf; callers check everything
//! before they append, and write only after, so that a refused command changes nothing.

use std::collections::BTreeMap;

use proto::ids::{Identity, LeafIndex, UnixMs};
use proto::store::Writer;
use proto::v1::{Claim, KekRecord, KmsAnswer, KmsCommand, KmsDone, kms_answer};
use serde::Serialize;
use tlog::{
    DatasetLink, Field, Frontier, Hash, KeptLeaf, Kind, LeafError, OpenedObject, Pseudonym, Public,
    Purpose, SaltSeed, SaltedLeaf,
};

use crate::apply::{At, LEVEL_KEPT_OPENINGS};
use crate::approvals::{Approved, check_approvals};
use crate::authority::Authority;
use crate::layout;
use crate::read;
use crate::records::CLAIM_TEXT_MAX;
use crate::refusal::Refusal;

/// What a leaf commits to.
pub(crate) type Private = tlog::Private<OpenedObject>;

/// One command on its way into the state.
pub(crate) struct Applying<'a> {
    pub(crate) at: At,
    pub(crate) state: &'a mut dyn Writer,
    pub(crate) command: &'a KmsCommand,
    /// Region time that this command sets.
    pub(crate) now: UnixMs,
    seed: SaltSeed,
    frontier: Frontier,
    appended: u64,
}

/// Where an event stands in the log.
pub(crate) struct Appended {
    pub(crate) index: LeafIndex,
    pub(crate) hash: Hash,
}

impl<'a> Applying<'a> {
    pub(crate) fn new(
        at: At,
        state: &'a mut dyn Writer,
        command: &'a KmsCommand,
        now: UnixMs,
    ) -> Result<Self, Refusal> {
        let seed =
            array::<32>(&command.salts).ok_or(Refusal::Malformed("salts are not 32 bytes"))?;
        let frontier = read::frontier(state);
        let seed = SaltSeed::new(&seed);
        Ok(Self {
            at,
            state,
            command,
            now,
            seed,
            frontier,
            appended: 0,
        })
    }

    /// Appends a leaf. With a KEK the leaf joins its dataset's chain and the record's chain fields move on; the
    /// caller stores the record.
    pub(crate) fn append(
        &mut self,
        kind: Kind,
        purpose: Purpose,
        kek: Option<&mut KekRecord>,
        private: Private,
    ) -> Appended {
        let dataset = kek.as_deref().map(chain_link);
        let public = Public {
            kind,
            time_ms: self.now,
            purpose,
            dataset,
        };
        let made = self
            .made(public, private)
            .expect("claims, items and approvals are bounded far below a leaf's size");
        let hash = tlog::leaf_hash(&made.bytes);
        let state = &mut *self.state;
        let index = self
            .frontier
            .append(hash, &mut |at, hash| state.put(&layout::hash(at), &hash.0))
            .expect("a tree of 2^62 leaves is out of reach");
        self.state.put(&layout::leaf(index.0), &made.bytes);
        self.state.put(&layout::openings(index.0), &made.openings);
        self.appended += 1;
        if let Some(kek) = kek {
            kek.leaf_sequence += 1;
            kek.last_leaf_hash = bytes::Bytes::copy_from_slice(&hash.0);
        }
        Appended { index, hash }
    }

    fn made(&self, public: Public, private: Private) -> Result<KeptLeaf, LeafError> {
        if self.at.level >= LEVEL_KEPT_OPENINGS {
            return KeptLeaf::build(public, &private, &self.seed, self.appended);
        }
        let private = tlog::Private {
            fields: private.fields,
            objects: private.objects.iter().map(OpenedObject::value).collect(),
        };
        let made = SaltedLeaf::build(public, private, &self.seed, self.appended)?;
        Ok(KeptLeaf {
            openings: made.openings.encode(),
            bytes: made.bytes,
        })
    }

    /// Where the next leaf will stand.
    pub(crate) fn next_leaf(&self) -> LeafIndex {
        LeafIndex(self.frontier.size())
    }

    /// Stores what every accepted command changes: time and frontier.
    pub(crate) fn finish(self) {
        self.state.put(layout::TIME, &self.now.0.to_be_bytes());
        if self.appended > 0 {
            self.state.put(layout::FRONTIER, &self.frontier.to_bytes());
        }
    }

    pub(crate) fn authority(&self) -> Result<Authority, Refusal> {
        Authority::load(&*self.state).ok_or(Refusal::NotInitialised)
    }

    /// The requester, enrolled.
    pub(crate) fn requester(&self, authority: &Authority) -> Result<Identity, Refusal> {
        let identity: Identity = self
            .command
            .requester
            .parse()
            .map_err(|_| Refusal::Malformed("requester"))?;
        authority.enrolment(&identity).ok_or(Refusal::NotEnrolled)?;
        Ok(identity)
    }

    /// Checks that at least `needed` distinct enrolled operators approved and none of them is the requester.
    pub(crate) fn approvals(
        &self,
        authority: &Authority,
        needed: u32,
    ) -> Result<Approved, Refusal> {
        check_approvals(&*self.state, authority, self.command, self.now, needed)
    }

    /// Marks the approvals' id as used and puts them into the leaf. Writes: call it when nothing can fail.
    pub(crate) fn use_approvals(&mut self, approved: &Approved, private: &mut Private) {
        if let Some(id) = approved.single_use_id {
            self.state
                .put(&layout::used_approval(&id), &self.at.index.0.to_be_bytes());
        }
        if !approved.json.is_empty() {
            private
                .fields
                .insert(Field::Approvals, approved.json.clone());
        }
    }

    /// What a leaf says about an event that the requester itself caused and stated nothing about.
    pub(crate) fn private_of_requester(&self) -> Private {
        let mut fields = BTreeMap::new();
        if !self.command.requester.is_empty() {
            fields.insert(Field::Actor, self.command.requester.clone());
        }
        Private {
            fields,
            objects: Vec::new(),
        }
    }

    /// An answer with what every one states.
    pub(crate) fn answer(&self) -> KmsDone {
        KmsDone {
            authority_version: read::authority_version(&*self.state),
            ..KmsDone::default()
        }
    }
}

/// What a claim says, checked and ready for a leaf.
pub(crate) fn stated(claim: Option<&Claim>) -> Result<(Identity, Purpose, Private), Refusal> {
    let claim = claim.ok_or(Refusal::Malformed("no claim"))?;
    let actor: Identity = claim
        .actor
        .parse()
        .map_err(|_| Refusal::Malformed("actor"))?;
    let purpose = purpose_of(claim)?;
    let mut fields = BTreeMap::from([(Field::Actor, claim.actor.clone())]);
    let stated = [
        (Field::OnBehalfOf, &claim.on_behalf_of),
        (Field::Case, &claim.case_id),
        (Field::LegalBasis, &claim.legal_basis),
    ];
    for (field, text) in stated {
        if text.len() > CLAIM_TEXT_MAX {
            return Err(Refusal::Malformed("a statement of the claim is too long"));
        }
        if !text.is_empty() {
            fields.insert(field, text.clone());
        }
    }
    Ok((
        actor,
        purpose,
        Private {
            fields,
            objects: Vec::new(),
        },
    ))
}

/// A claim's purpose; empty means `service`.
pub(crate) fn purpose_of(claim: &Claim) -> Result<Purpose, Refusal> {
    if claim.purpose.is_empty() {
        return Ok(Purpose::service());
    }
    claim
        .purpose
        .parse()
        .map_err(|_| Refusal::Malformed("purpose"))
}

/// Adds the kind's own words to a leaf, as JSON in the struct's field order.
pub(crate) fn details(private: &mut Private, details: &impl Serialize) {
    let json = serde_json::to_string(details).expect("strings, numbers and lists always encode");
    private.fields.insert(Field::Details, json);
}

pub(crate) fn done(answer: KmsDone) -> KmsAnswer {
    KmsAnswer {
        answer: Some(kms_answer::Answer::Done(answer)),
    }
}

/// Fixed-size bytes of a field, or `None`.
pub(crate) fn array<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

fn chain_link(kek: &KekRecord) -> DatasetLink {
    let pseudonym = array(&kek.pseudonym).expect("a stored pseudonym is 16 bytes");
    let previous = Hash::try_from(&kek.last_leaf_hash[..]).ok();
    DatasetLink {
        pseudonym: Pseudonym(pseudonym),
        sequence: kek.leaf_sequence,
        previous,
    }
}
