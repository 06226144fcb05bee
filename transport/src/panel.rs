//! Replicas whose word counts, and what a majority of them says.
//!
//! Owns signature, signer and subject of each word. Refuses one that does not hold with all others, so that whoever
//! collected them learns of it, and less than a majority for the very same record.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;
use proto::descriptor::DescriptorError;
use proto::ids::{Identity, RegionId, Role, UnixMs};
use proto::relocation::{Named, words};
use proto::transcript;
use proto::v1;

use crate::enrolment::EnrolmentTable;
use crate::{Fault, Faulty, verify};

/// Words that are heard at once: as many replicas as a group may have.
pub const WORDS_MAX: usize = 32;

/// Why words of replicas do not carry a step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    /// More than a group has replicas.
    #[error("there are more than {WORDS_MAX} words")]
    TooMany,
    /// It does not decode, or is of a format this build does not know.
    #[error("a word does not decode, or is of an unknown format")]
    Malformed,
    /// The region is not trusted here.
    #[error("region {0} is not trusted here: trust it first (`reduit region trust`)")]
    NotTrusted(RegionId),
    /// Its descriptor is not good now.
    #[error("the descriptor of region {region} is not good now")]
    Descriptor {
        /// Whose.
        region: RegionId,
        /// Why.
        #[source]
        source: DescriptorError,
    },
    /// Signed by nobody whose word counts.
    #[error("a word is signed by none of the replicas of region {0} that count")]
    NotAReplica(RegionId),
    /// Its signature does not verify, or it is said in another's name.
    #[error("{0} did not sign its word")]
    Signature(Identity),
    /// Of another relocation, dataset or region.
    #[error("the word of {0} is of another relocation")]
    OtherRelocation(Identity),
    /// Less than a majority says the same.
    #[error("{have} of {of} replicas of region {region} say so, it takes {need}")]
    TooFew {
        /// Whose replicas.
        region: RegionId,
        /// Who say so.
        have: usize,
        /// How many there are.
        of: usize,
        /// How many it takes.
        need: usize,
    },
}

impl Faulty for WordError {
    fn fault(&self) -> Fault {
        match self {
            Self::TooMany | Self::Malformed | Self::OtherRelocation(_) => Fault::Caller,
            Self::NotTrusted(_) | Self::NotAReplica(_) | Self::Signature(_) => Fault::Denied,
            Self::Descriptor { .. } | Self::TooFew { .. } => Fault::Precondition,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::TooMany => "words-too-many",
            Self::Malformed => "word-malformed",
            Self::NotTrusted(_) => "region-not-trusted",
            Self::Descriptor { .. } => "descriptor-not-good",
            Self::NotAReplica(_) => "word-not-a-replicas",
            Self::Signature(_) => "word-signature",
            Self::OtherRelocation(_) => "word-other-relocation",
            Self::TooFew { .. } => "too-few-words",
        }
    }
}

/// A signed statement of one replica.
pub trait Word: Message + Default {
    /// As it travels.
    type Signed;
    /// What its signature is over, besides itself.
    const LABEL: &'static str;

    /// Statement, signer, signature.
    fn parts(signed: &Self::Signed) -> (&Bytes, &[u8], &[u8]);

    /// Of what it is.
    fn about(&self) -> About<'_>;
}

/// What a word is of.
pub struct About<'a> {
    format: u32,
    region: &'a str,
    replica: &'a str,
    dataset: &'a [u8],
    relocation: &'a [u8],
}

macro_rules! word {
    ($state:ty, $signed:ty, $label:expr) => {
        impl Word for $state {
            type Signed = $signed;
            const LABEL: &'static str = $label;

            fn parts(signed: &$signed) -> (&Bytes, &[u8], &[u8]) {
                (&signed.state, &signed.signer, &signed.signature)
            }

            fn about(&self) -> About<'_> {
                About {
                    format: self.format,
                    region: &self.region,
                    replica: &self.replica,
                    dataset: &self.dataset_id,
                    relocation: &self.relocation_id,
                }
            }
        }
    };
}

word!(
    v1::DepartureState,
    v1::SignedDepartureState,
    transcript::LABEL_DEPARTURE_STATE
);
word!(
    v1::ArrivalState,
    v1::SignedArrivalState,
    transcript::LABEL_ARRIVAL_STATE
);
word!(
    v1::HandOverState,
    v1::SignedHandOverState,
    transcript::LABEL_HAND_OVER_STATE
);

/// The replicas of one group.
pub struct Panel {
    region: RegionId,
    version: u64,
    members: Vec<Member>,
}

struct Member {
    number: u64,
    identity: Identity,
    key: Bytes,
}

/// What a majority says.
#[derive(Debug)]
pub struct Heard<R, W> {
    /// The record that each of them states.
    pub record: R,
    /// Who they are.
    pub vouch: v1::Vouch,
    /// Their words, for what need not be the same in each.
    pub words: Vec<W>,
}

impl Panel {
    /// Replicas of another region by its newest descriptor: all of its storage nodes, or all of its KMS. They are numbered
    /// by their place in it, from 1 on.
    pub fn abroad(
        table: &EnrolmentTable,
        region: &RegionId,
        role: Role,
        now: UnixMs,
    ) -> Result<Self, WordError> {
        let trusted = table.trusted(region);
        let trusted = trusted.ok_or_else(|| WordError::NotTrusted(region.clone()))?;
        let descriptor = trusted.descriptor();
        descriptor
            .good_at(now)
            .map_err(|source| WordError::Descriptor {
                region: region.clone(),
                source,
            })?;
        let members = descriptor.members().iter().zip(1..);
        let members = members
            .filter(|(member, _)| member.identity.role() == role)
            .map(|(member, number)| Member {
                number,
                identity: member.identity.clone(),
                key: member.public_key.clone(),
            });
        Ok(Self {
            region: region.clone(),
            version: descriptor.version(),
            members: members.collect(),
        })
    }

    /// KMS replicas of this region, by their enrolment.
    pub fn own_kms(table: &EnrolmentTable) -> Self {
        Self::own(table, Role::Kms)
    }

    /// Storage nodes of this region, by their enrolment.
    pub fn own_nodes(table: &EnrolmentTable) -> Self {
        Self::own(table, Role::Node)
    }

    fn own(table: &EnrolmentTable, role: Role) -> Self {
        let members = table.members(role).filter_map(|enrolled| {
            Some(Member {
                number: enrolled.node_id?.0,
                identity: enrolled.identity.clone(),
                key: Bytes::copy_from_slice(enrolled.public_key.as_spki()),
            })
        });
        Self {
            region: table.region().clone(),
            version: 0,
            members: members.collect(),
        }
    }

    /// What a majority says, read out of each word by `read`; who says nothing of the kind does not count.
    pub fn hear<W: Word, R: PartialEq>(
        &self,
        named: &Named,
        said: &[W::Signed],
        read: impl Fn(&W) -> Option<R>,
    ) -> Result<Heard<R, W>, WordError> {
        self.hear_most(named, said, read, self.members.len() / 2 + 1)
    }

    /// As [`Self::hear`], of every one of them.
    pub fn hear_all<W: Word, R: PartialEq>(
        &self,
        named: &Named,
        said: &[W::Signed],
        read: impl Fn(&W) -> Option<R>,
    ) -> Result<Heard<R, W>, WordError> {
        self.hear_most(named, said, read, self.members.len().max(1))
    }

    fn hear_most<W: Word, R: PartialEq>(
        &self,
        named: &Named,
        said: &[W::Signed],
        read: impl Fn(&W) -> Option<R>,
        need: usize,
    ) -> Result<Heard<R, W>, WordError> {
        if said.len() > WORDS_MAX {
            return Err(WordError::TooMany);
        }
        let mut by_member = BTreeMap::new();
        for signed in said {
            let (number, word) = self.word::<W>(named, signed)?;
            by_member.insert(number, word);
        }
        let mut groups: Vec<(R, BTreeSet<u64>)> = Vec::new();
        for (number, word) in &by_member {
            let Some(record) = read(word) else {
                continue;
            };
            match groups.iter_mut().find(|(held, _)| *held == record) {
                Some((_, signers)) => {
                    signers.insert(*number);
                }
                None => groups.push((record, BTreeSet::from([*number]))),
            }
        }
        let most = groups.into_iter().max_by_key(|(_, signers)| signers.len());
        let have = most.as_ref().map_or(0, |(_, signers)| signers.len());
        match most {
            Some((record, signers)) if have >= need => {
                by_member.retain(|number, _| signers.contains(number));
                Ok(Heard {
                    record,
                    vouch: v1::Vouch {
                        signers: signers.into_iter().collect(),
                        voters: self.members.iter().map(|member| member.number).collect(),
                        descriptor_version: self.version,
                    },
                    words: by_member.into_values().collect(),
                })
            }
            _ => Err(WordError::TooFew {
                region: self.region.clone(),
                have,
                of: self.members.len(),
                need,
            }),
        }
    }

    fn word<W: Word>(&self, named: &Named, signed: &W::Signed) -> Result<(u64, W), WordError> {
        let (state, signer, signature) = W::parts(signed);
        let member = self.members.iter().find(|member| member.key[..] == *signer);
        let member = member.ok_or_else(|| WordError::NotAReplica(self.region.clone()))?;
        let forged = || WordError::Signature(member.identity.clone());
        verify(signer, W::LABEL, state, signature).map_err(|_| forged())?;
        let word = W::decode(state.clone()).map_err(|_| WordError::Malformed)?;
        let about = word.about();
        if about.format != words::FORMAT {
            return Err(WordError::Malformed);
        }
        if about.replica != member.identity.to_string() {
            return Err(forged());
        }
        let same = about.region == self.region.as_str()
            && about.dataset == named.dataset.as_bytes()
            && about.relocation == named.relocation.as_bytes();
        if !same {
            return Err(WordError::OtherRelocation(member.identity.clone()));
        }
        Ok((member.number, word))
    }
}

#[cfg(test)]
mod tests;
