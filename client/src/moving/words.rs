//! What goes from one region's people to the other's as files: an offered hand-over key, and words of replicas.
//!
//! Owns both forms. Refuses what has another encoding than its own, and what is longer than it may be. Who signed is for the
//! region that counts to check.

use prost::Message as _;
use proto::ids::{HandOverKeyId, RegionId};
use proto::relocation::{Named, words};
use proto::v1;

use super::malformed;
use crate::error::Error;

const FORMAT: u32 = 1;
const OFFER_HEADER: &[u8] = b"reduit hand-over key 1\n";
const WORDS_HEADER: &[u8] = b"reduit relocation words 1\n";
/// Bytes of an offer as a file.
pub const OFFER_BYTES_MAX: usize = 16 << 10;
/// Bytes of words as a file.
pub const WORDS_BYTES_MAX: usize = 1 << 20;
/// Words of one kind: no region's panel counts more.
const WORDS_MAX: usize = 32;
/// Bytes of an X-Wing public key.
const HAND_OVER_KEY_BYTES: usize = 1216;
/// Bytes of an Ed25519 public key (DER SubjectPublicKeyInfo) and of a signature.
const SIGNED_BYTES: (usize, usize) = (44, 64);

/// A message that stands behind a header in its one encoding.
fn decoded<M: prost::Message + Default>(
    file: &[u8],
    header: &[u8],
    (bytes_max, what): (usize, &str),
) -> Result<M, Error> {
    let none = || malformed(what);
    if file.len() > bytes_max {
        return Err(none());
    }
    let body = file.strip_prefix(header).ok_or_else(none)?;
    let message = M::decode(body).map_err(|_| none())?;
    match message.encode_to_vec() == body {
        true => Ok(message),
        false => Err(none()),
    }
}

/// A key that a destination offers to receive keys under, signed by a replica of its KMS.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    signed: v1::SignedHandOverKey,
    named: Named,
    destination: RegionId,
    source: RegionId,
}

impl Offer {
    /// As the destination's KMS answered it.
    pub fn new(signed: v1::SignedHandOverKey) -> Result<Self, Error> {
        let none = || malformed("that offer holds no hand-over key");
        let key = signed.key.as_ref().ok_or_else(none)?;
        HandOverKeyId::try_from(&key.hand_over_key_id[..])?;
        let signed_by = (signed.signer.len(), signed.signature.len());
        if key.public_key.len() != HAND_OVER_KEY_BYTES || key.destroyed || signed_by != SIGNED_BYTES
        {
            return Err(none());
        }
        Ok(Self {
            named: Named::parse(&key.dataset_id, &key.relocation_id)?,
            destination: signed.destination.parse()?,
            source: key.source.parse()?,
            signed,
        })
    }

    /// As a file.
    pub fn to_file(&self) -> Vec<u8> {
        [OFFER_HEADER, &self.signed.encode_to_vec()].concat()
    }

    /// From a file.
    pub fn from_file(file: &[u8]) -> Result<Self, Error> {
        let is = (OFFER_BYTES_MAX, "that file offers no hand-over key");
        Self::new(decoded(file, OFFER_HEADER, is)?)
    }

    /// As the source's KMS takes it.
    pub fn signed(&self) -> &v1::SignedHandOverKey {
        &self.signed
    }

    /// For which relocation.
    pub fn named(&self) -> Named {
        self.named
    }

    /// The region that made it.
    pub fn destination(&self) -> &RegionId {
        &self.destination
    }

    /// The region whose keys it is to receive.
    pub fn source(&self) -> &RegionId {
        &self.source
    }
}

/// Words of one region's replicas on one relocation.
#[derive(Debug, Clone, PartialEq)]
pub struct RelocationWords {
    /// Whose.
    pub region: RegionId,
    /// On which relocation.
    pub named: Named,
    /// A source's nodes.
    pub departures: Vec<v1::SignedDepartureState>,
    /// A destination's nodes.
    pub arrivals: Vec<v1::SignedArrivalState>,
    /// KMS replicas, of either.
    pub keys: Vec<v1::SignedHandOverState>,
}

impl RelocationWords {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.departures.len() + self.arrivals.len() + self.keys.len()
    }

    /// As a file.
    pub fn to_file(&self) -> Vec<u8> {
        let message = v1::RelocationWords {
            format: FORMAT,
            region: self.region.to_string(),
            relocation_id: self.named.relocation.into(),
            dataset_id: self.named.dataset.into(),
            departures: self.departures.clone(),
            arrivals: self.arrivals.clone(),
            keys: self.keys.clone(),
        };
        [WORDS_HEADER, &message.encode_to_vec()].concat()
    }

    /// From a file.
    pub fn from_file(file: &[u8]) -> Result<Self, Error> {
        let what = "that file holds no words on a relocation";
        let message: v1::RelocationWords = decoded(file, WORDS_HEADER, (WORDS_BYTES_MAX, what))?;
        if message.format != FORMAT {
            return Err(malformed("words of a later format"));
        }
        let counts = [
            message.departures.len(),
            message.arrivals.len(),
            message.keys.len(),
        ];
        if counts.iter().any(|count| *count > WORDS_MAX) {
            return Err(malformed("more words than a region has replicas"));
        }
        Ok(Self {
            region: message.region.parse()?,
            named: Named::parse(&message.dataset_id, &message.relocation_id)?,
            departures: message.departures,
            arrivals: message.arrivals,
            keys: message.keys,
        })
    }

    /// Refuses words of another region, or on another relocation.
    pub fn are_of(&self, region: &RegionId, named: &Named) -> Result<(), Error> {
        if self.named != *named {
            return Err(malformed("those words are of another relocation"));
        }
        if self.region != *region {
            let message = format!(
                "those are words of {}, it takes those of {region}",
                self.region
            );
            return Err(malformed(&message));
        }
        Ok(())
    }
}

/// What a KMS replica says, as far as it decodes.
pub(super) fn said(word: &v1::SignedHandOverState) -> Option<v1::HandOverState> {
    let said = v1::HandOverState::decode(word.state.clone()).ok()?;
    (said.format == words::FORMAT).then_some(said)
}

/// Which hand-over key the replicas know, whether it lives or not.
pub(super) fn known_key(said: &[v1::SignedHandOverState]) -> Option<v1::HandOverKeyRecord> {
    let mut known = said.iter().filter_map(self::said);
    known.find_map(|state| state.key)
}

/// Replicas that say what is asked, of how many were heard.
pub(super) fn saying<T>(
    heard: &[v1::SignedHandOverState],
    reads: impl Fn(&v1::HandOverState) -> Option<T>,
) -> usize {
    let states = heard.iter().filter_map(said);
    states.filter(|state| reads(state).is_some()).count()
}

#[cfg(test)]
mod tests {
    use proto::ids::{DatasetId, RelocationId};

    use super::*;

    fn offered() -> v1::SignedHandOverKey {
        v1::SignedHandOverKey {
            destination: "de-fra".to_owned(),
            key: Some(v1::HandOverKeyRecord {
                format: 1,
                hand_over_key_id: vec![3; 16].into(),
                relocation_id: vec![1; 16].into(),
                dataset_id: vec![2; 16].into(),
                source: "ch-zrh".to_owned(),
                public_key: vec![4; HAND_OVER_KEY_BYTES].into(),
                ..Default::default()
            }),
            signer: vec![5; 44].into(),
            signature: vec![6; 64].into(),
        }
    }

    fn words() -> RelocationWords {
        RelocationWords {
            region: "de-fra".parse().expect("a region"),
            named: Named {
                dataset: DatasetId([2; 16]),
                relocation: RelocationId([1; 16]),
            },
            departures: Vec::new(),
            arrivals: vec![v1::SignedArrivalState {
                state: vec![1, 2].into(),
                signer: vec![3; 44].into(),
                signature: vec![4; 64].into(),
            }],
            keys: vec![v1::SignedHandOverState::default()],
        }
    }

    #[test]
    fn an_offer_comes_back_as_it_went_and_names_its_relocation() {
        let offer = Offer::new(offered()).expect("an offer");
        let file = offer.to_file();
        assert_eq!(Offer::from_file(&file).expect("its own file"), offer);
        assert_eq!(offer.named().relocation, RelocationId([1; 16]));
        assert_eq!(offer.destination().as_str(), "de-fra");
        assert_eq!(offer.source().as_str(), "ch-zrh");
    }

    #[test]
    fn what_is_no_offer_is_refused() {
        let file = Offer::new(offered()).expect("an offer").to_file();
        for length in 0..file.len() {
            assert!(Offer::from_file(&file[..length]).is_err(), "{length}");
        }
        let mut longer = file.clone();
        // A field that nobody knows: a second encoding.
        longer.extend([0x78, 0x01]);
        assert!(Offer::from_file(&longer).is_err());
        let long = [OFFER_HEADER, &vec![0; OFFER_BYTES_MAX]].concat();
        assert!(Offer::from_file(&long).is_err());
        let change = |change: &dyn Fn(&mut v1::HandOverKeyRecord)| {
            let mut other = offered();
            change(other.key.as_mut().expect("it has one"));
            Offer::new(other)
        };
        assert!(change(&|key| key.destroyed = true).is_err());
        assert!(change(&|key| key.public_key.truncate(32)).is_err());
        assert!(change(&|key| key.hand_over_key_id.truncate(8)).is_err());
        assert!(change(&|key| key.source.clear()).is_err());
    }

    #[test]
    fn words_come_back_as_they_went_and_other_files_are_none() {
        let held = words();
        let file = held.to_file();
        assert_eq!(RelocationWords::from_file(&file).expect("its own"), held);
        for length in 0..file.len() {
            // Cut between two words it is a file with fewer of them.
            let cut = RelocationWords::from_file(&file[..length]);
            assert!(cut.ok().as_ref() != Some(&held), "{length}");
        }
        let offer = Offer::new(offered()).expect("an offer").to_file();
        assert!(RelocationWords::from_file(&offer).is_err());
        let long = [WORDS_HEADER, &vec![0; WORDS_BYTES_MAX]].concat();
        assert!(RelocationWords::from_file(&long).is_err());
        let mut many = words();
        many.keys = vec![v1::SignedHandOverState::default(); WORDS_MAX + 1];
        assert!(RelocationWords::from_file(&many.to_file()).is_err());
    }

    #[test]
    fn words_of_another_region_or_relocation_are_refused() {
        let held = words();
        let region: RegionId = "de-fra".parse().expect("a region");
        held.are_of(&region, &held.named).expect("its own");
        let other: RegionId = "ch-zrh".parse().expect("a region");
        assert!(held.are_of(&other, &held.named).is_err());
        let another = Named {
            relocation: RelocationId([9; 16]),
            ..held.named
        };
        assert!(held.are_of(&region, &another).is_err());
    }
}
