//! The certificate of a relocation: collected from both regions, signed by a KMS replica of each, with its proofs.
//!
//! Owns collecting: what each KMS has on record becomes one statement, and the leaves that it names are asked for with their
//! proofs. Refuses a relocation whose source key's end is not scheduled by it, and an offer of two other regions. It judges
//! nothing else: each KMS signs what is as it has it, and `verifier` reads the rest offline.

use prost::Message as _;
use proto::descriptor::Descriptor;
use proto::ids::RegionId;
use proto::relocation::Named;
use proto::v1;
use serde::Deserialize;
use tlog::certificate::{
    DescriptorNamed, DestinationSide, DsseEnvelope, EnvelopeSignature, LIMITS, OpenedBy, Party,
    Relocation, SourceSide, Statement,
};
use tlog::{Field, Kind, Leaf, Openings, openings_of};
use verifier::{Bundle, CERTIFICATE_LEAVES_MAX, NamedLeaf, RegionPart};

use crate::error::Error;
use crate::kms::now;
use crate::peering::region_fingerprint;
use crate::region::Region;

/// What a reader of a certificate is shown of a leaf. Objects stay commitments.
const SHOWN: [Field; 4] = [
    Field::Actor,
    Field::RecipientRegion,
    Field::Approvals,
    Field::Details,
];

/// Told while a certificate is put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateStep {
    /// A region's log is read from the relocation's first leaf on.
    Reading(RegionId),
    /// So many of its leaves have their proofs.
    Proving {
        /// Whose.
        region: RegionId,
        /// Done.
        done: u64,
        /// Of them.
        total: u64,
    },
    /// The KMS of a region compares the statement with its records.
    Signing(RegionId),
}

fn refused(why: &str) -> Error {
    Error::Caller {
        reason: "no-certificate".to_owned(),
        message: why.to_owned(),
    }
}

fn differs(what: &'static str) -> Error {
    Error::Protocol { what }
}

/// A leaf of the relocation as the log has it.
struct Found {
    index: u64,
    kind: Kind,
    leaf: String,
    openings: Option<Openings>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Details {
    relocation: String,
    kek: String,
    through_leaf: u64,
    waiting_for: Option<Vec<String>>,
}

/// Which leaves of a log belong to a relocation.
struct Wanted {
    relocation: String,
    pseudonym: [u8; 16],
    kek: String,
    /// The end of the dataset's key, once it was met.
    destroyed: Option<u64>,
    erased: bool,
}

impl Wanted {
    /// Whether this leaf is one; in the order of the log.
    fn takes(&mut self, index: u64, leaf: &Leaf, details: &Details) -> bool {
        let Some(link) = leaf.dataset() else {
            let last = self
                .destroyed
                .is_some_and(|end| details.through_leaf >= end)
                && details.waiting_for.as_ref().is_some_and(Vec::is_empty);
            let takes = leaf.kind() == Kind::KeysErased && last && !self.erased;
            self.erased |= takes;
            return takes;
        };
        if link.pseudonym.0 != self.pseudonym {
            return false;
        }
        let ends = leaf.kind() == Kind::KeyDestroyed && details.kek == self.kek;
        if ends {
            self.destroyed = Some(index);
        }
        ends || details.relocation == self.relocation
    }
}

/// One region, asked.
struct Side<'r> {
    region: &'r Region,
    party: Party,
    descriptor: v1::SignedRegionDescriptor,
    state: v1::HandOverState,
    leaves: Vec<Found>,
}

impl<'r> Side<'r> {
    /// Who the region is, and what its KMS has of the relocation.
    async fn ask(region: &'r Region, named: &Named) -> Result<Self, Error> {
        let authority = region.authority().await?;
        let descriptor = authority
            .descriptor
            .ok_or_else(|| refused("the region has published no descriptor"))?;
        let parsed = Descriptor::parse(&descriptor).map_err(|error| refused(&error.to_string()))?;
        let info = region.keys().key_info(named.dataset).await?;
        let key = info.key.ok_or(differs("no key in the answer"))?;
        let state = region.keys().hand_over_state(named).await?;
        let party = Party {
            region: parsed.region().to_string(),
            jurisdiction: parsed.jurisdiction().to_string(),
            descriptor: DescriptorNamed {
                version: parsed.version(),
                fingerprint: hex::encode(region_fingerprint(&descriptor.descriptor)),
            },
            log: parsed.log_origin().to_owned(),
            pseudonym: hex::encode(&key.pseudonym),
            kek: hex::encode(&key.kek_id),
        };
        Ok(Self {
            region,
            party,
            descriptor,
            state,
            leaves: Vec::new(),
        })
    }

    /// Reads the log from a leaf of the relocation on.
    async fn read(&mut self, first: u64, relocation: &str) -> Result<(), Error> {
        let mut pseudonym = [0; 16];
        hex::decode_to_slice(&self.party.pseudonym, &mut pseudonym)
            .map_err(|_| differs("a pseudonym that is none"))?;
        let mut wanted = Wanted {
            relocation: relocation.to_owned(),
            pseudonym,
            kek: self.party.kek.clone(),
            destroyed: None,
            erased: false,
        };
        let mut reader = self.region.keys().leaves(first, true);
        loop {
            let page = reader.page().await?;
            if page.is_empty() {
                return Ok(());
            }
            for entry in page {
                if let Some(found) = found(&mut wanted, &entry)? {
                    self.leaves.push(found);
                }
            }
            if self.leaves.len() > CERTIFICATE_LEAVES_MAX {
                return Err(refused("the relocation has more leaves than a file takes"));
            }
        }
    }

    /// The last leaf of a kind.
    fn last(&self, kind: Kind) -> Option<u64> {
        let mut of_kind = self.leaves.iter().rev();
        let found = of_kind.find(|found| found.kind == kind)?;
        Some(found.index)
    }

    /// What a file has of this region.
    async fn part(self, told: &(dyn Fn(CertificateStep) + Sync)) -> Result<RegionPart, Error> {
        let total = self.leaves.len() as u64;
        let mut named = Vec::with_capacity(self.leaves.len());
        for (found, done) in self.leaves.into_iter().zip(1..) {
            let proof = self.region.keys().receipt(found.index).await?;
            let proof = String::from_utf8(proof.to_vec());
            named.push(NamedLeaf {
                leaf: found.leaf,
                openings: found.openings,
                proof: proof.map_err(|_| differs("a proof that is no text"))?,
            });
            told(CertificateStep::Proving {
                region: self.region.id().clone(),
                done,
                total,
            });
        }
        Ok(RegionPart::new(&self.descriptor, named))
    }
}

fn found(wanted: &mut Wanted, entry: &v1::LeafEntry) -> Result<Option<Found>, Error> {
    let leaf = Leaf::parse(&entry.leaf).map_err(|_| differs("a leaf that is none"))?;
    let openings = Openings::parse(&entry.openings).ok();
    let shown = openings
        .as_ref()
        .and_then(|openings| openings_of(&leaf, openings).ok());
    let details: Option<Details> = shown.as_ref().and_then(|shown| {
        let details = shown.fields.get(&Field::Details)?;
        serde_json::from_str(details).ok()
    });
    if !wanted.takes(entry.index, &leaf, &details.unwrap_or_default()) {
        return Ok(None);
    }
    let text = String::from_utf8(entry.leaf.to_vec());
    Ok(Some(Found {
        index: entry.index,
        kind: leaf.kind(),
        leaf: text.map_err(|_| differs("a leaf that is no text"))?,
        openings: openings.map(|openings| openings.reveal(&SHOWN, false)),
    }))
}

impl crate::kms::Keys {
    /// What the leading replica has applied of a relocation.
    async fn hand_over_state(&self, named: &Named) -> Result<v1::HandOverState, Error> {
        let request = v1::StateHandOverRequest {
            relocation_id: named.relocation.into(),
            dataset_id: named.dataset.into(),
        };
        let signed = self
            .call(move |mut kms| {
                let request = request.clone();
                async move { Ok(kms.state_hand_over(request).await?.into_inner()) }
            })
            .await?;
        v1::HandOverState::decode(signed.state)
            .map_err(|_| differs("a word on a relocation that does not decode"))
    }

    /// Has the KMS sign a statement on a relocation, if it is as it has it on record.
    pub async fn certify_relocation(
        &self,
        statement: &Statement,
    ) -> Result<v1::DsseSignature, Error> {
        let request = v1::CertifyRelocationRequest {
            statement: statement.encode().into(),
        };
        self.call(move |mut kms| {
            let request = request.clone();
            async move { Ok(kms.certify_relocation(request).await?.into_inner()) }
        })
        .await
    }
}

impl Region {
    /// The certificate of a relocation from this region to `destination`, signed by both, with its proofs. Both are asked as
    /// an auditor, who is shown what leaves commit to. `told` hears how far it is.
    pub async fn certify_relocation(
        &self,
        destination: &Region,
        named: &Named,
        told: &(dyn Fn(CertificateStep) + Sync),
    ) -> Result<Bundle, Error> {
        let mut from = Side::ask(self, named).await?;
        let mut to = Side::ask(destination, named).await?;
        let grant = from.state.grant.clone();
        let grant = grant.ok_or_else(|| refused("the source has granted it no keys"))?;
        let key = to.state.key.clone();
        let key = key.ok_or_else(|| refused("the destination has made no key for it"))?;
        let relocation = named.relocation.to_string();
        for (side, first) in [(&mut from, grant.leaf_index), (&mut to, key.created_leaf)] {
            told(CertificateStep::Reading(side.region.id().clone()));
            side.read(first, &relocation).await?;
        }
        let predicate = predicate(named, (&from, &grant), (&to, &key))?;
        let statement = Statement::new(predicate).map_err(|error| refused(&error.to_string()))?;
        let mut signatures = Vec::new();
        for region in [self, destination] {
            told(CertificateStep::Signing(region.id().clone()));
            let signed = region.keys().certify_relocation(&statement).await?;
            signatures.push(EnvelopeSignature::new(&signed.signer, &signed.signature));
        }
        let envelope = DsseEnvelope::new(&statement, signatures);
        let (source, destination) = (from.part(told).await?, to.part(told).await?);
        Bundle::new(envelope, source, destination).map_err(|error| refused(&error.to_string()))
    }
}

/// What both KMSs have of a relocation, in one statement.
fn predicate(
    named: &Named,
    (from, grant): (&Side<'_>, &v1::HandOverGrantRecord),
    (to, key): (&Side<'_>, &v1::HandOverKeyRecord),
) -> Result<Relocation, Error> {
    let moved = grant.moved.clone().ok_or_else(|| {
        refused("the end of the source's key is not scheduled by it: `reduit relocate shred` first")
    })?;
    let terms = grant.terms.clone().unwrap_or_default();
    let shred = from.last(Kind::KeyDestructionPending);
    let shred_leaf = shred.ok_or(differs("a shred without its leaf"))?;
    let released = grant.released.unwrap_or_default();
    Ok(Relocation {
        relocation: named.relocation.to_string(),
        dataset: named.dataset.to_string(),
        // Only what the source says that it moved has such a record there.
        opened: OpenedBy::Moved,
        epoch_from: moved.epoch.saturating_sub(1),
        epoch_to: moved.epoch,
        fence: moved.fence,
        catalog_root: hex::encode(&moved.root),
        hand_over_key: hex::encode(&terms.hand_over_key_id),
        issued_ms: now().0,
        source: SourceSide {
            party: from.party.clone(),
            approved: DescriptorNamed {
                version: terms.descriptor_version,
                fingerprint: hex::encode(&terms.descriptor_fingerprint),
            },
            grant_leaf: grant.leaf_index,
            released_objects: released.objects,
            released_through: released.leaves.checked_sub(1),
            shred_leaf,
            destroyed_leaf: from.last(Kind::KeyDestroyed),
            erased_leaf: from.last(Kind::KeysErased),
        },
        destination: DestinationSide {
            party: to.party.clone(),
            approved: DescriptorNamed {
                version: key.descriptor_version,
                fingerprint: hex::encode(&key.descriptor_fingerprint),
            },
            key_leaf: key.created_leaf,
            key_destroyed_leaf: to.last(Kind::HandOverKeyDestroyed),
        },
        limits: LIMITS.iter().map(|limit| (*limit).to_owned()).collect(),
    })
}
