//! The root key under two halves: one that a token gives, one that a person holds.
//!
//! Owns the sealed form of a root key that a PKCS#11 token and a holder open together, and both halves while they are
//! here. The token sees neither the root key nor the other half: it answers a public challenge. Refuses a half alone,
//! a half of another seal, epoch or region, and a root key that is not the one that was sealed.

use proto::ids::{RegionId, RootEpoch};
use zeroize::{Zeroize as _, Zeroizing};

use crate::KeyError;
use crate::cobblestone::{HEADER_BYTES, TAG_BYTES, open_short, seal_short};
use crate::context::{LABEL_TOKEN_CHALLENGE, LABEL_TOKEN_SEAL, Suite};
use crate::encode::{Malformed, Reader, put_field};
use crate::hpke_key::{HpkeError, HpkeInfo, HpkePrivateKey, HpkePublicKey, hpke_open, hpke_seal};
use crate::kdf;
use crate::keys::{KeySlot, RootKey};
use crate::shamir::RootCheck;

const FORMAT: u8 = 1;
/// Bytes of either half.
pub const HALF_BYTES: usize = 32;
const BODY_BYTES: usize = HEADER_BYTES + 32 + TAG_BYTES;

/// Names one sealing of one root key under one token. Random, public.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenSealId(pub [u8; 16]);

/// Why a root key was not sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenSealError {
    /// The bytes are not a sealed root key.
    #[error("not a sealed root key")]
    Malformed,
    /// Made by a later version.
    #[error("sealed root key of unknown format {0}")]
    UnknownFormat(u8),
    /// Made with algorithms that this build does not have.
    #[error("sealed root key of unknown suite {0}")]
    UnknownSuite(u8),
    /// What the token gave is no half.
    #[error("the token's answer is not {HALF_BYTES} bytes long")]
    NotAHalf,
    /// One half or both are of another seal, or the sealed root key was changed. Which of them is not said.
    #[error("the two halves do not open the root key")]
    NotAuthentic,
    /// The person's half.
    #[error("the holder's half does not open under this key and purpose")]
    Half(#[source] HpkeError),
    /// There is no room for a key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl From<Malformed> for TokenSealError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// What the token is asked: its HMAC-SHA-256 of this is its half.
pub fn token_challenge(region: &RegionId, epoch: RootEpoch, id: TokenSealId) -> Vec<u8> {
    let mut out = Vec::with_capacity(96);
    put_field(&mut out, LABEL_TOKEN_CHALLENGE);
    put_field(&mut out, region.as_str().as_bytes());
    out.extend_from_slice(&epoch.0.to_be_bytes());
    out.extend_from_slice(&id.0);
    out
}

/// The token's half.
pub struct TokenHalf(KeySlot);

impl TokenHalf {
    /// Takes the token's answer into locked memory and wipes where it came in.
    pub fn take(mut answer: Vec<u8>) -> Result<Self, TokenSealError> {
        let taken = KeySlot::try_new(|half| {
            let whole: &[u8; HALF_BYTES] = answer[..]
                .try_into()
                .map_err(|_| TokenSealError::NotAHalf)?;
            half.copy_from_slice(whole);
            Ok(())
        });
        answer.zeroize();
        taken.map(Self)
    }
}

/// The half that a person holds. It leaves sealed to its holder, and comes back sealed to a replica.
pub struct PersonHalf(KeySlot);

impl PersonHalf {
    /// Seals it to a holder's key.
    pub fn seal_to(
        &self,
        holder: &HpkePublicKey,
        info: &HpkeInfo,
        aad: &[u8],
    ) -> Result<Vec<u8>, HpkeError> {
        hpke_seal(holder, info, aad, self.0.bytes())
    }

    /// Opens one that a holder sealed to this key.
    pub fn open(
        key: &HpkePrivateKey,
        info: &HpkeInfo,
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Self, TokenSealError> {
        let bytes = hpke_open(key, info, aad, sealed).map_err(TokenSealError::Half)?;
        let half = KeySlot::try_new(|half| {
            let whole: &[u8; HALF_BYTES] =
                bytes[..].try_into().map_err(|_| TokenSealError::NotAHalf)?;
            half.copy_from_slice(whole);
            Ok::<_, TokenSealError>(())
        })?;
        Ok(Self(half))
    }
}

/// A root key under both halves. Public bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedRoot {
    id: TokenSealId,
    region: RegionId,
    epoch: RootEpoch,
    check: RootCheck,
    body: [u8; BODY_BYTES],
}

impl RootKey {
    /// Seals the root key under the token's half and a new half for a person.
    pub fn seal_under_token(
        &self,
        region: &RegionId,
        id: TokenSealId,
        token: &TokenHalf,
    ) -> Result<(SealedRoot, PersonHalf), TokenSealError> {
        let person = PersonHalf(KeySlot::random()?);
        let mut sealed = SealedRoot {
            id,
            region: region.clone(),
            epoch: self.epoch,
            check: self.check_value(),
            body: [0; BODY_BYTES],
        };
        let parent = sealed.parent(token, &person)?;
        sealed.body = seal_short(parent.bytes(), &sealed.context(), self.key.bytes())?
            .try_into()
            .expect("a sealed key is as long as the body: both are constants");
        Ok((sealed, person))
    }
}

impl SealedRoot {
    /// Its name.
    pub fn id(&self) -> TokenSealId {
        self.id
    }

    /// The epoch of the root key.
    pub fn epoch(&self) -> RootEpoch {
        self.epoch
    }

    /// Tells which root key it is.
    pub fn root_check(&self) -> RootCheck {
        self.check
    }

    /// What the token is asked for its half.
    pub fn challenge(&self) -> Vec<u8> {
        token_challenge(&self.region, self.epoch, self.id)
    }

    /// The root key, for both halves.
    pub fn open(&self, token: &TokenHalf, person: &PersonHalf) -> Result<RootKey, TokenSealError> {
        let parent = self.parent(token, person)?;
        let key = KeySlot::try_new::<TokenSealError>(|key| {
            open_short(parent.bytes(), &self.context(), &self.body, key)
                .map_err(|_| TokenSealError::NotAuthentic)
        })?;
        let root = RootKey {
            epoch: self.epoch,
            key,
        };
        match kdf::equal(&root.check_value().0, &self.check.0) {
            true => Ok(root),
            false => Err(TokenSealError::NotAuthentic),
        }
    }

    /// HKDF-SHA-512 of both halves, the token's first, with the seal's name as salt.
    fn parent(&self, token: &TokenHalf, person: &PersonHalf) -> Result<KeySlot, KeyError> {
        KeySlot::try_new(|parent| {
            let mut both = Zeroizing::new([0; 2 * HALF_BYTES]);
            both[..HALF_BYTES].copy_from_slice(token.0.bytes());
            both[HALF_BYTES..].copy_from_slice(person.0.bytes());
            kdf::derive(&both[..], &self.id.0, LABEL_TOKEN_SEAL, parent);
            Ok(())
        })
    }

    fn head(&self) -> Vec<u8> {
        let mut out = vec![FORMAT, Suite::Cobblestone256.to_byte()];
        out.extend_from_slice(&self.id.0);
        put_field(&mut out, self.region.as_str().as_bytes());
        out.extend_from_slice(&self.epoch.0.to_be_bytes());
        out.extend_from_slice(&self.check.0);
        out
    }

    fn context(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        put_field(&mut out, LABEL_TOKEN_SEAL);
        out.extend_from_slice(&self.head());
        out
    }

    /// Format 1: format and suite (a byte each), id, region with its length before it, epoch, root check, then the
    /// sealed key (104 bytes).
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.head();
        out.extend_from_slice(&self.body);
        out
    }

    /// Reads [`to_bytes`](Self::to_bytes).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TokenSealError> {
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            FORMAT => {}
            other => return Err(TokenSealError::UnknownFormat(other)),
        }
        let suite = reader.u8()?;
        Suite::from_byte(suite).ok_or(TokenSealError::UnknownSuite(suite))?;
        let id = TokenSealId(reader.array()?);
        let region = std::str::from_utf8(reader.field()?).map_err(|_| Malformed)?;
        let region = region.parse().map_err(|_| Malformed)?;
        let (epoch, check) = (RootEpoch(reader.u32()?), RootCheck(reader.array()?));
        let body = reader.array()?;
        reader.end()?;
        Ok(Self {
            id,
            region,
            epoch,
            check,
            body,
        })
    }
}

#[cfg(test)]
mod tests;
