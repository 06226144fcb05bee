//! HPKE (RFC 9180) to a key that stays: custodians' shares, hand-over, a restarted peer.
//!
//! Owns X-Wing key pairs and one-shot sealing in base mode with KEM 0x647a (MLKEM768-X25519),
//! HKDF-SHA-256 and AES-256-GCM. Base mode does not say who sealed: the sender signs what this
//! gives. Refuses keys that are none and ciphertext made for another purpose, which `info` names.

use ::hpke::aead::AesGcm256;
use ::hpke::kdf::HkdfSha256;
use ::hpke::kem::XWing;
use ::hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use zeroize::Zeroizing;

use crate::KeyError;
use crate::context::LABEL_HPKE_INFO;
use crate::kdf;
use crate::keys::KeySlot;

/// The HPKE suite, one place for sessions and one-shot use.
pub(crate) type HpkeKem = XWing;
pub(crate) type HpkeKdf = HkdfSha256;
pub(crate) type HpkeAead = AesGcm256;

/// Bytes of a public key: ML-KEM-768 encapsulation key, then X25519.
pub(crate) const PUBLIC_BYTES: usize = 1216;
/// Bytes of an encapsulation: ML-KEM-768 ciphertext, then X25519.
pub(crate) const ENCAPSULATED_BYTES: usize = 1120;
const TAG_BYTES: usize = 16;

/// Bytes by which [`hpke_seal`] makes a message longer.
pub const HPKE_OVERHEAD_BYTES: usize = ENCAPSULATED_BYTES + TAG_BYTES;

/// What a one-shot message is for: SHA-256 over a labelled, length-prefixed list. Sender and
/// receiver each build it from what they know, so a message made for another purpose does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HpkeInfo([u8; 32]);

impl HpkeInfo {
    /// Hashes everything the message is for, such as purpose, both identities and key ids.
    pub fn of(parts: &[&[u8]]) -> Self {
        Self(hash_list(LABEL_HPKE_INFO, parts))
    }

    /// The `info` that goes into HPKE, for independent tools.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// SHA-256 over a label and parts, each with its length (four bytes) before it.
pub(crate) fn hash_list(label: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut bytes = Vec::new();
    for part in std::iter::once(&label).chain(parts) {
        let length =
            u32::try_from(part.len()).expect("what a key is for is described in under 4 GiB");
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(part);
    }
    kdf::sha256(&[&bytes])
}

/// Why HPKE did not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HpkeError {
    /// The bytes are not an X-Wing public key.
    #[error("not an X-Wing public key")]
    BadPublicKey,
    /// Sealed to another key, for another purpose, or changed. Which of them is not said.
    #[error("the message does not open under this key and purpose")]
    NotAuthentic,
    /// There is no room for a key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// A public key that was checked to be one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HpkePublicKey(Box<[u8; PUBLIC_BYTES]>);

impl HpkePublicKey {
    /// Bytes of the encoded key.
    pub const BYTES: usize = PUBLIC_BYTES;

    /// As it is enrolled and sent.
    pub fn as_bytes(&self) -> &[u8; PUBLIC_BYTES] {
        &self.0
    }

    pub(crate) fn parsed(&self) -> Result<<HpkeKem as Kem>::PublicKey, HpkeError> {
        <HpkeKem as Kem>::PublicKey::from_bytes(&self.0[..]).map_err(|_| HpkeError::BadPublicKey)
    }
}

impl TryFrom<&[u8]> for HpkePublicKey {
    type Error = HpkeError;
    fn try_from(bytes: &[u8]) -> Result<Self, HpkeError> {
        let bytes: Box<[u8; PUBLIC_BYTES]> = Box::<[u8]>::from(bytes)
            .try_into()
            .map_err(|_| HpkeError::BadPublicKey)?;
        let key = Self(bytes);
        key.parsed()?;
        Ok(key)
    }
}

/// A private X-Wing key. Its 32-byte seed lies in locked memory and is expanded only while it is
/// used.
pub struct HpkePrivateKey(pub(crate) KeySlot);

impl HpkePrivateKey {
    /// A new key.
    pub fn generate() -> Result<Self, KeyError> {
        Ok(Self(KeySlot::random()?))
    }

    /// Loads a key from its seed.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, KeyError> {
        let load = |slot: &mut [u8; 32]| -> Result<(), KeyError> {
            slot.copy_from_slice(seed);
            Ok(())
        };
        Ok(Self(KeySlot::try_new(load)?))
    }

    /// The seed, to be kept where the key's owner keeps its secrets. The copy wipes itself.
    pub fn to_seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(*self.0.bytes())
    }

    /// The public half.
    pub fn public(&self) -> HpkePublicKey {
        let bytes = self.with_expanded(|key| HpkeKem::sk_to_pk(key).to_bytes());
        let mut public = Box::new([0; PUBLIC_BYTES]);
        public.copy_from_slice(&bytes);
        HpkePublicKey(public)
    }

    /// Expands the seed, runs `work`, and wipes what that left on the stack.
    pub(crate) fn with_expanded<T>(
        &self,
        work: impl FnOnce(&<HpkeKem as Kem>::PrivateKey) -> T,
    ) -> T {
        kdf::scrubbed_deep(|| {
            let key = <HpkeKem as Kem>::PrivateKey::from_bytes(self.0.bytes())
                .expect("every 32 bytes are the seed of an X-Wing key");
            work(&key)
        })
    }
}

/// Seals `plain` to a public key: encapsulation, then ciphertext and tag. `aad` is authenticated
/// and not sent.
///
/// # Errors
/// If the public key is none.
pub fn hpke_seal(
    to: &HpkePublicKey,
    info: &HpkeInfo,
    aad: &[u8],
    plain: &[u8],
) -> Result<Vec<u8>, HpkeError> {
    let public = to.parsed()?;
    let (encapsulated, sealed) = kdf::scrubbed_deep(|| {
        ::hpke::single_shot_seal::<HpkeAead, HpkeKdf, HpkeKem>(
            &OpModeS::Base,
            &public,
            &info.0,
            plain,
            aad,
        )
    })
    .map_err(|_| HpkeError::BadPublicKey)?;
    let mut out = Vec::with_capacity(ENCAPSULATED_BYTES + sealed.len());
    out.extend_from_slice(&encapsulated.to_bytes());
    out.extend_from_slice(&sealed);
    Ok(out)
}

/// Opens what [`hpke_seal`] made.
///
/// # Errors
/// If it was sealed to another key, for another purpose or with other `aad`, or changed.
pub fn hpke_open(
    key: &HpkePrivateKey,
    info: &HpkeInfo,
    aad: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, HpkeError> {
    let (encapsulated, sealed) = sealed
        .split_at_checked(ENCAPSULATED_BYTES)
        .ok_or(HpkeError::NotAuthentic)?;
    let encapsulated = <HpkeKem as Kem>::EncappedKey::from_bytes(encapsulated)
        .map_err(|_| HpkeError::NotAuthentic)?;
    key.with_expanded(|key| {
        ::hpke::single_shot_open::<HpkeAead, HpkeKdf, HpkeKem>(
            &OpModeR::Base,
            key,
            &encapsulated,
            &info.0,
            sealed,
            aad,
        )
    })
    .map(Zeroizing::new)
    .map_err(|_| HpkeError::NotAuthentic)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELLED: &[&[u8]] = &[b"purpose", b"to", b"from"];

    #[test]
    fn a_message_opens_under_its_key_purpose_and_aad_only() {
        let key = HpkePrivateKey::generate().expect("room");
        let info = HpkeInfo::of(LABELLED);
        let sealed = hpke_seal(&key.public(), &info, b"aad", b"a share").expect("seals");
        assert_eq!(sealed.len(), 7 + HPKE_OVERHEAD_BYTES);
        assert_eq!(
            &hpke_open(&key, &info, b"aad", &sealed).expect("opens")[..],
            b"a share"
        );

        let refused = |key: &HpkePrivateKey, info: &HpkeInfo, aad: &[u8], sealed: &[u8]| {
            assert_eq!(
                hpke_open(key, info, aad, sealed).err(),
                Some(HpkeError::NotAuthentic)
            );
        };
        refused(
            &HpkePrivateKey::generate().expect("room"),
            &info,
            b"aad",
            &sealed,
        );
        refused(
            &key,
            &HpkeInfo::of(&[b"purpose", b"tofrom"]),
            b"aad",
            &sealed,
        );
        refused(&key, &info, b"other", &sealed);
        refused(&key, &info, b"aad", &sealed[..sealed.len() - 1]);
        refused(&key, &info, b"aad", &sealed[..ENCAPSULATED_BYTES - 1]);
        for at in [
            0,
            ENCAPSULATED_BYTES - 1,
            ENCAPSULATED_BYTES,
            sealed.len() - 1,
        ] {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            refused(&key, &info, b"aad", &changed);
        }
    }

    #[test]
    fn a_key_survives_its_seed() {
        let key = HpkePrivateKey::generate().expect("room");
        let again = HpkePrivateKey::from_seed(&key.to_seed()).expect("room");
        assert_eq!(key.public(), again.public());
        let public = HpkePublicKey::try_from(&key.public().as_bytes()[..]).expect("a public key");
        let sealed = hpke_seal(&public, &HpkeInfo::of(&[]), b"", b"x").expect("seals");
        assert_eq!(
            &hpke_open(&again, &HpkeInfo::of(&[]), b"", &sealed).expect("opens")[..],
            b"x"
        );
    }

    #[test]
    fn bytes_that_are_no_public_key_are_refused() {
        let good = HpkePrivateKey::generate().expect("room").public();
        let mut bad = good.as_bytes().to_vec();
        // The first coefficient of the ML-KEM key becomes 0xFFF, above its modulus (FIPS 203
        // section 7.2).
        bad[0] = 0xFF;
        bad[1] |= 0x0F;
        assert_eq!(
            HpkePublicKey::try_from(&bad[..]).err(),
            Some(HpkeError::BadPublicKey)
        );
        let short = &good.as_bytes()[1..];
        assert_eq!(
            HpkePublicKey::try_from(short).err(),
            Some(HpkeError::BadPublicKey)
        );
    }

    #[test]
    fn the_purpose_is_hashed_with_lengths() {
        let hash = |parts: &[&[u8]]| HpkeInfo::of(parts);
        assert_ne!(hash(&[b"ab", b"c"]), hash(&[b"a", b"bc"]));
        assert_ne!(hash(&[b"ab"]), hash(&[b"ab", b""]));
        assert_eq!(
            hash(&[b"ab"]).0,
            kdf::sha256(&[b"\0\0\0\x13reduit/v1/hpke-info\0\0\0\x02ab"]),
            "label and parts, four bytes of length before each"
        );
    }
}
