//! The root key in shares: any k of n custodians rebuild it, fewer learn nothing.
//!
//! Owns splitting and combining over GF(2^8) and the public record of a split ([`ShareSet`]), by
//! which one share is checked by itself. Refuses, by name, a share that is damaged, forged,
//! repeated or of another split, and refuses a combined key that is not the one that was split:
//! nothing is ever combined silently into a wrong key.

mod gf256;
mod share;

use proto::ids::RootEpoch;
use zeroize::Zeroizing;

use crate::KeyError;
use crate::encode::{Malformed, Reader};
use crate::kdf;
use crate::keys::{KeySlot, RootKey};

pub use share::Share;

const FORMAT: u8 = 1;

/// Identifies one split of one root key. Random, public.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SetId(pub [u8; 16]);

/// Tells a root key without telling it ([`RootKey::check_value`]). Public.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RootCheck(pub [u8; 16]);

impl RootCheck {
    /// Bytes of a check value.
    pub const BYTES: usize = 16;
}

/// Why a root key was not split or combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    /// k must be at least 2 and at most n, n at most 255.
    #[error("a split needs 2 <= k <= n, not k = {k}, n = {n}")]
    Threshold {
        /// Shares needed.
        k: u8,
        /// Shares made.
        n: u8,
    },
    /// The text or bytes are not a share.
    #[error("not a share")]
    Malformed,
    /// Made by a later version.
    #[error("share of unknown format {0}")]
    UnknownFormat(u8),
    /// The checksum does not fit: a character was mistyped or a byte was lost.
    #[error("the share has a mistyped or missing character")]
    Checksum,
    /// The share belongs to another split: an older one, another region's, or one that was
    /// replaced.
    #[error("share {index} belongs to another split")]
    WrongSet {
        /// Its index.
        index: u8,
    },
    /// The share says it belongs to this split and is not the one that was made.
    #[error("share {index} is not the share that was made")]
    Forged {
        /// Its index.
        index: u8,
    },
    /// The same share came twice.
    #[error("share {index} was given twice")]
    Repeated {
        /// Its index.
        index: u8,
    },
    /// Not enough shares.
    #[error("{have} shares are not enough, {need} are needed")]
    TooFew {
        /// Shares given.
        have: usize,
        /// Shares needed.
        need: u8,
    },
    /// The combined key is not the one that was split. Checking each share against the [`ShareSet`]
    /// names the one.
    #[error("the shares do not combine to the root key that was split")]
    NotTheRoot,
    /// There is no room for a key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl From<Malformed> for ShareError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// The public record of a split: kept in KMS state, so that each share can be checked alone and
/// before old ones are given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareSet {
    set: SetId,
    epoch: RootEpoch,
    k: u8,
    root_check: RootCheck,
    /// One check value a share, in order of index from 1.
    share_checks: Vec<[u8; 32]>,
}

impl RootKey {
    /// Splits the root key into `n` shares of which any `k` rebuild it. Every split is a new set:
    /// shares of two splits do not mix.
    pub fn split(&self, k: u8, n: u8) -> Result<(ShareSet, Vec<Share>), ShareError> {
        if k < 2 || k > n {
            return Err(ShareError::Threshold { k, n });
        }
        let set = SetId(kdf::random()?);
        let root_check = self.check_value();
        let mut coefficients = Zeroizing::new(vec![[0u8; 32]; usize::from(k) - 1]);
        for row in coefficients.iter_mut() {
            aws_lc_rs::rand::fill(row).map_err(|_| KeyError::Random)?;
        }
        let shares = (1..=n)
            .map(|index| {
                let value = KeySlot::try_new::<ShareError>(|value| {
                    gf256::evaluate(self.key.bytes(), &coefficients, index, value);
                    Ok(())
                })?;
                Ok(Share {
                    set,
                    epoch: self.epoch,
                    k,
                    n,
                    index,
                    root_check,
                    value,
                })
            })
            .collect::<Result<Vec<_>, ShareError>>()?;
        let share_checks = shares.iter().map(Share::check_value).collect();
        Ok((
            ShareSet {
                set,
                epoch: self.epoch,
                k,
                root_check,
                share_checks,
            },
            shares,
        ))
    }
}

/// Combines shares by what they say themselves. Prefer [`ShareSet::combine`], which also names a
/// forged share.
///
/// # Errors
/// As [`ShareError`] says. Shares beyond the k needed are checked for their set and not used.
pub fn combine(shares: &[Share]) -> Result<RootKey, ShareError> {
    let first = shares
        .first()
        .ok_or(ShareError::TooFew { have: 0, need: 2 })?;
    for (position, share) in shares.iter().enumerate() {
        if !share.same_split(first) {
            return Err(ShareError::WrongSet { index: share.index });
        }
        if shares[..position]
            .iter()
            .any(|other| other.index == share.index)
        {
            return Err(ShareError::Repeated { index: share.index });
        }
    }
    let needed = shares.get(..first.k.into()).ok_or(ShareError::TooFew {
        have: shares.len(),
        need: first.k,
    })?;
    let points: Vec<(u8, &[u8; 32])> = needed
        .iter()
        .map(|share| (share.index, share.value.bytes()))
        .collect();
    let key = KeySlot::try_new::<ShareError>(|secret| {
        gf256::interpolate_at_zero(&points, secret);
        Ok(())
    })?;
    let root = RootKey {
        epoch: first.epoch,
        key,
    };
    if kdf::equal(&root.check_value().0, &first.root_check.0) {
        Ok(root)
    } else {
        Err(ShareError::NotTheRoot)
    }
}

impl ShareSet {
    /// The split it records.
    pub fn set(&self) -> SetId {
        self.set
    }

    /// The epoch of the root key.
    pub fn epoch(&self) -> RootEpoch {
        self.epoch
    }

    /// Shares needed.
    pub fn needed(&self) -> u8 {
        self.k
    }

    /// Shares made.
    pub fn made(&self) -> u8 {
        self.share_checks.len() as u8
    }

    /// The check value of the root key that was split.
    pub fn root_check(&self) -> RootCheck {
        self.root_check
    }

    /// Checks one share by itself.
    ///
    /// # Errors
    /// [`ShareError::WrongSet`] or [`ShareError::Forged`].
    pub fn verify(&self, share: &Share) -> Result<(), ShareError> {
        let index = share.index;
        let same = share.set == self.set && share.epoch == self.epoch && share.k == self.k;
        if !same || share.n != self.made() || share.root_check != self.root_check {
            return Err(ShareError::WrongSet { index });
        }
        let expected = usize::from(index)
            .checked_sub(1)
            .and_then(|position| self.share_checks.get(position));
        match expected {
            Some(expected) if kdf::equal(expected, &share.check_value()) => Ok(()),
            _ => Err(ShareError::Forged { index }),
        }
    }

    /// Verifies every share, then combines.
    pub fn combine(&self, shares: &[Share]) -> Result<RootKey, ShareError> {
        shares.iter().try_for_each(|share| self.verify(share))?;
        if shares.is_empty() {
            return Err(ShareError::TooFew {
                have: 0,
                need: self.k,
            });
        }
        combine(shares)
    }

    /// Format 1: format byte, set id, epoch, k, n, root check, then the check value of each share.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.extend_from_slice(&self.set.0);
        out.extend_from_slice(&self.epoch.0.to_be_bytes());
        out.extend_from_slice(&[self.k, self.made()]);
        out.extend_from_slice(&self.root_check.0);
        self.share_checks
            .iter()
            .for_each(|check| out.extend_from_slice(check));
        out
    }

    /// Reads [`to_bytes`](Self::to_bytes).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ShareError> {
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            FORMAT => {}
            other => return Err(ShareError::UnknownFormat(other)),
        }
        let set = SetId(reader.array()?);
        let epoch = RootEpoch(reader.u32()?);
        let (k, n) = (reader.u8()?, reader.u8()?);
        if k < 2 || k > n {
            return Err(ShareError::Threshold { k, n });
        }
        let root_check = RootCheck(reader.array()?);
        let share_checks = (0..n).map(|_| reader.array()).collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(Self {
            set,
            epoch,
            k,
            root_check,
            share_checks,
        })
    }
}

#[cfg(test)]
mod tests;
