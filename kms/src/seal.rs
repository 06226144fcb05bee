//! The seal of this replica: whether the root key is here, and how it comes and goes.
//!
//! Owns the root key's one place in this process, the shares gathered so far, and the keys of this life: a random
//! boot id, the X-Wing key that custodians seal shares to, and the offer that a peer answers. Refuses the root to
//! everyone while the unseal is not on record; a wrong, mixed or repeated share by name.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use envelope::{
    Encapsulated, HpkeInfo, HpkePrivateKey, KeyError, PersonHalf, RootCheck, RootKey, SealedKey,
    SealedRoot, SessionError, SessionInfo, SessionOffer, SetId, Share, ShareError, ShareSet,
    TokenHalf, TokenSealError, hpke_open,
};
use parking_lot::Mutex;
use proto::ids::RootEpoch;
use proto::v1;
use tokio::sync::watch;

use crate::approvals::sha256;
use crate::random;

/// One life of a replica, from start or sealing to the next. Random: a record names it, and no other has it.
pub(crate) type BootId = [u8; 16];

/// Where the replica stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Posture {
    /// The root key is not here.
    Sealed {
        /// Shares gathered.
        have: u8,
    },
    /// The root key is here and the unseal is not on record yet: votes, campaigns, serves nothing.
    Unrecorded,
    /// Serves.
    Unsealed,
}

/// The replica is sealed. Says what it takes only where that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this replica is sealed")]
pub(crate) struct Sealed;

/// Why a share or an answer did not unseal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnsealError {
    /// There is nothing to unseal.
    #[error("this replica is not sealed")]
    NotSealed,
    /// It does not open with this boot's key for this custodian and session.
    #[error("the share does not open: it was sealed for another session, replica or boot")]
    NotAuthentic,
    /// What came out is not a share of this region's root key.
    #[error("the share is refused")]
    Share(#[source] ShareError),
    /// It is another custodian's.
    #[error("the share is not the one this custodian was given")]
    NotTheHolders,
    /// A peer's answer does not open.
    #[error("the peer's answer does not open")]
    Answer(#[source] SessionError),
    /// A key that is not the region's root key.
    #[error("the key is not this region's root key")]
    NotTheRoot,
    /// A token's seal and its halves.
    #[error("the token's seal is refused")]
    Halves(#[source] TokenSealError),
    /// This life's offer has been answered; a restart makes a new one.
    #[error("the offer of this boot is used up: restart the replica, or unseal it by custodians")]
    OfferUsed,
}

/// The seal.
pub(crate) struct Seal {
    inner: Mutex<Inner>,
    posture: watch::Sender<Posture>,
}

struct Inner {
    life: Life,
    keys: Keys,
}

struct Life {
    boot: BootId,
    share_key: HpkePrivateKey,
    offer: Option<SessionOffer>,
    offer_public: Vec<u8>,
}

enum Keys {
    /// Shares by their split: one of the split in force does not mix with one of the next.
    Sealed {
        shares: HashMap<SetId, Vec<Share>>,
    },
    Held(Held),
}

/// How a token's seal was opened: what the record of the unseal has to say.
#[derive(Debug, Clone, Default)]
pub(crate) struct ByToken {
    pub(crate) seal_id: bytes::Bytes,
    pub(crate) single_use_id: bytes::Bytes,
    pub(crate) approvals: Vec<v1::Approval>,
}

struct Held {
    root: Arc<RootKey>,
    /// It came by a token and not by custodians.
    by_token: Option<ByToken>,
    recorded: bool,
    /// Made in this life, by the ceremony: there is no record of an unseal.
    made_here: bool,
    /// The one under way, until its split is in force or given up.
    next: Option<Arc<RootKey>>,
    /// The one before, for requests that began under it.
    former: Option<(Instant, Arc<RootKey>)>,
}

impl Held {
    fn new(root: Arc<RootKey>, recorded: bool) -> Self {
        Self {
            root,
            by_token: None,
            recorded,
            made_here: false,
            next: None,
            former: None,
        }
    }

    fn keys(&self) -> impl Iterator<Item = &Arc<RootKey>> {
        let former = self.former.as_ref().map(|(_, root)| root);
        std::iter::once(&self.root).chain(&self.next).chain(former)
    }
}

impl Life {
    fn begin() -> Result<Self, KeyError> {
        let offer = SessionOffer::generate()?;
        Ok(Self {
            boot: random(),
            share_key: HpkePrivateKey::generate()?,
            offer_public: offer.public().as_bytes().to_vec(),
            offer: Some(offer),
        })
    }
}

impl Seal {
    /// A sealed replica at the beginning of a life.
    pub(crate) fn new() -> Result<Self, KeyError> {
        let inner = Inner {
            life: Life::begin()?,
            keys: Keys::Sealed {
                shares: HashMap::new(),
            },
        };
        let posture = watch::Sender::new(Posture::Sealed { have: 0 });
        Ok(Self {
            inner: Mutex::new(inner),
            posture,
        })
    }

    /// The root key, once the unseal is on record.
    pub(crate) fn root(&self) -> Result<Arc<RootKey>, Sealed> {
        match &self.inner.lock().keys {
            Keys::Held(held) if held.recorded => Ok(held.root.clone()),
            Keys::Held(_) | Keys::Sealed { .. } => Err(Sealed),
        }
    }

    /// The root key, recorded or not: to open a backup with, which serves nobody.
    pub(crate) fn held(&self) -> Option<Arc<RootKey>> {
        match &self.inner.lock().keys {
            Keys::Held(held) => Some(held.root.clone()),
            Keys::Sealed { .. } => None,
        }
    }

    /// The root key of an epoch: while one takes another's place, both are held for a moment.
    pub(crate) fn root_of(&self, epoch: RootEpoch) -> Result<Arc<RootKey>, Sealed> {
        match &self.inner.lock().keys {
            Keys::Held(held) if held.recorded => {
                let mut keys = held.keys();
                keys.find(|root| root.epoch() == epoch)
                    .cloned()
                    .ok_or(Sealed)
            }
            Keys::Held(_) | Keys::Sealed { .. } => Err(Sealed),
        }
    }

    /// The root key under way, where it is here.
    pub(crate) fn next(&self) -> Option<Arc<RootKey>> {
        match &self.inner.lock().keys {
            Keys::Held(held) => held.next.clone(),
            Keys::Sealed { .. } => None,
        }
    }

    /// Whether the root key was made in this life, so that no record tells of its coming.
    pub(crate) fn made_here(&self) -> bool {
        match &self.inner.lock().keys {
            Keys::Held(held) => held.made_here,
            Keys::Sealed { .. } => false,
        }
    }

    /// Epoch of the root key held, recorded or not.
    pub(crate) fn held_epoch(&self) -> Option<RootEpoch> {
        match &self.inner.lock().keys {
            Keys::Held(held) => Some(held.root.epoch()),
            Keys::Sealed { .. } => None,
        }
    }

    /// Takes the root key under way. `false` on a sealed replica.
    pub(crate) fn set_next(&self, next: Arc<RootKey>) -> bool {
        match &mut self.inner.lock().keys {
            Keys::Held(held) if held.recorded => {
                held.next = Some(next);
                true
            }
            Keys::Held(_) | Keys::Sealed { .. } => false,
        }
    }

    /// Puts another root key under way, or none, in the place of the one that was `seen` here. `false` where another
    /// is here by now: what the caller knows of custody is older than it.
    pub(crate) fn replace_next(
        &self,
        seen: Option<&Arc<RootKey>>,
        next: Option<Arc<RootKey>>,
    ) -> bool {
        match &mut self.inner.lock().keys {
            Keys::Held(held)
                if held.recorded
                    && held.next.as_ref().map(Arc::as_ptr) == seen.map(Arc::as_ptr) =>
            {
                held.next = next;
                true
            }
            Keys::Held(_) | Keys::Sealed { .. } => false,
        }
    }

    /// The split under way is in force: its root key takes the place of the one held. `false` where that key is not
    /// here.
    pub(crate) fn advance(&self, check: RootCheck) -> bool {
        let mut inner = self.inner.lock();
        let Keys::Held(held) = &mut inner.keys else {
            return false;
        };
        let Some(next) = held.next.take() else {
            return false;
        };
        if next.check_value() != check {
            return false;
        }
        let former = std::mem::replace(&mut held.root, next);
        held.former = Some((Instant::now(), former));
        true
    }

    /// Drops the former root key once no request is left that began under it.
    pub(crate) fn forget_former(&self, after: Duration) {
        if let Keys::Held(held) = &mut self.inner.lock().keys
            && held
                .former
                .as_ref()
                .is_some_and(|(since, _)| since.elapsed() >= after)
        {
            held.former = None;
        }
    }

    /// Opens a share that a custodian shows, and checks it. It is not kept.
    pub(crate) fn shown(
        &self,
        split: &(ShareSet, u8),
        info: &HpkeInfo,
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<(), UnsealError> {
        let inner = self.inner.lock();
        let bytes = hpke_open(&inner.life.share_key, info, aad, sealed)
            .map_err(|_| UnsealError::NotAuthentic)?;
        let share = Share::from_bytes(&bytes).map_err(UnsealError::Share)?;
        let (set, index) = split;
        set.verify(&share).map_err(UnsealError::Share)?;
        if share.index() == *index {
            Ok(())
        } else {
            Err(UnsealError::NotTheHolders)
        }
    }

    /// Where the replica stands.
    pub(crate) fn posture(&self) -> Posture {
        *self.posture.borrow()
    }

    /// Told of every change.
    pub(crate) fn watch(&self) -> watch::Receiver<Posture> {
        self.posture.subscribe()
    }

    /// This life.
    pub(crate) fn boot_id(&self) -> BootId {
        self.inner.lock().life.boot
    }

    /// What custodians seal shares to in this life.
    pub(crate) fn share_public(&self) -> Vec<u8> {
        self.inner
            .lock()
            .life
            .share_key
            .public()
            .as_bytes()
            .to_vec()
    }

    /// This life's offer to its peers, and its boot id.
    pub(crate) fn offer(&self) -> (BootId, Vec<u8>) {
        let inner = self.inner.lock();
        (inner.life.boot, inner.life.offer_public.clone())
    }

    /// SHA-256 of the offer: what an operator approves.
    pub(crate) fn offer_hash(&self) -> [u8; 32] {
        sha256(&self.inner.lock().life.offer_public)
    }

    /// Takes a custodian's share, sealed to this life's share key. With the last one needed the root key is here,
    /// unrecorded. `splits` are those this custodian may hold a share of, with its number: the one in force, and the
    /// one under way, which may be in force by the time this replica hears of it.
    pub(crate) fn take_share(
        &self,
        splits: &[(ShareSet, u8)],
        info: &HpkeInfo,
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Posture, UnsealError> {
        let mut inner = self.inner.lock();
        let Inner { life, keys } = &mut *inner;
        let Keys::Sealed { shares } = keys else {
            return Err(UnsealError::NotSealed);
        };
        let bytes =
            hpke_open(&life.share_key, info, aad, sealed).map_err(|_| UnsealError::NotAuthentic)?;
        let share = Share::from_bytes(&bytes).map_err(UnsealError::Share)?;
        let (set, index) = splits
            .iter()
            .find(|(set, _)| set.set() == share.set())
            .ok_or(UnsealError::Share(ShareError::WrongSet {
                index: share.index(),
            }))?;
        set.verify(&share).map_err(UnsealError::Share)?;
        if share.index() != *index {
            return Err(UnsealError::NotTheHolders);
        }
        let shares = shares.entry(set.set()).or_default();
        // The same share again, from a custodian who did not see the answer, counts once and is no error.
        if shares.iter().all(|held| held.index() != share.index()) {
            shares.push(share);
        }
        if shares.len() < usize::from(set.needed()) {
            let have = u8::try_from(shares.len()).expect("a split has at most 255 shares");
            drop(inner);
            return Ok(self.now(Posture::Sealed { have }));
        }
        let root = set.combine(shares).map_err(UnsealError::Share)?;
        *keys = Keys::Held(Held::new(Arc::new(root), false));
        drop(inner);
        Ok(self.now(Posture::Unrecorded))
    }

    /// Opens the half of a token's seal that a holder sealed to this life's share key.
    pub(crate) fn open_half(
        &self,
        info: &HpkeInfo,
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<PersonHalf, UnsealError> {
        let inner = self.inner.lock();
        PersonHalf::open(&inner.life.share_key, info, aad, sealed).map_err(|error| match error {
            TokenSealError::Half(_) => UnsealError::NotAuthentic,
            error => UnsealError::Halves(error),
        })
    }

    /// Takes both halves of a token's seal, approved for the life `boot`: the root key is here, unrecorded.
    pub(crate) fn take_halves(
        &self,
        boot: BootId,
        sealed: &SealedRoot,
        token: &TokenHalf,
        person: &PersonHalf,
        check: RootCheck,
        by: ByToken,
    ) -> Result<Posture, UnsealError> {
        let mut inner = self.inner.lock();
        if inner.life.boot != boot || !matches!(inner.keys, Keys::Sealed { .. }) {
            return Err(UnsealError::NotSealed);
        }
        let root = sealed.open(token, person).map_err(UnsealError::Halves)?;
        if root.check_value() != check {
            return Err(UnsealError::NotTheRoot);
        }
        inner.keys = Keys::Held(Held {
            by_token: Some(by),
            ..Held::new(Arc::new(root), false)
        });
        drop(inner);
        Ok(self.now(Posture::Unrecorded))
    }

    /// How the root key held came, where a token's seal was opened for it.
    pub(crate) fn by_token(&self) -> Option<ByToken> {
        match &self.inner.lock().keys {
            Keys::Held(held) => held.by_token.clone(),
            Keys::Sealed { .. } => None,
        }
    }

    /// Takes a peer's answer to this life's offer. A key that is not the region's is dropped.
    pub(crate) fn take_answer(
        &self,
        encapsulated: &Encapsulated,
        info: &SessionInfo,
        sealed_root: &SealedKey,
        epoch: RootEpoch,
        aad: &[u8],
        check: RootCheck,
    ) -> Result<Posture, UnsealError> {
        let mut inner = self.inner.lock();
        if !matches!(inner.keys, Keys::Sealed { .. }) {
            return Err(UnsealError::NotSealed);
        }
        let offer = inner.life.offer.take().ok_or(UnsealError::OfferUsed)?;
        let receiver = offer
            .accept(encapsulated, info)
            .map_err(UnsealError::Answer)?;
        let root = receiver
            .receive_root(sealed_root, epoch, aad)
            .map_err(UnsealError::Answer)?;
        if root.check_value() != check {
            return Err(UnsealError::NotTheRoot);
        }
        // The peer recorded this life's unseal before it answered.
        inner.keys = Keys::Held(Held::new(Arc::new(root), true));
        drop(inner);
        Ok(self.now(Posture::Unsealed))
    }

    /// Takes a root key that was made here, with its record: the init ceremony.
    pub(crate) fn take_made(&self, root: Arc<RootKey>) -> Posture {
        let made_here = true;
        self.inner.lock().keys = Keys::Held(Held {
            made_here,
            ..Held::new(root, true)
        });
        self.now(Posture::Unsealed)
    }

    /// The unseal of `boot` is on record. `false` if that life has ended meanwhile.
    pub(crate) fn recorded(&self, boot: BootId) -> bool {
        let mut inner = self.inner.lock();
        if inner.life.boot != boot {
            return false;
        }
        let Keys::Held(held) = &mut inner.keys else {
            return false;
        };
        held.recorded = true;
        drop(inner);
        self.now(Posture::Unsealed);
        true
    }

    /// Drops the root key and every share, and begins a new life.
    pub(crate) fn seal(&self) -> Result<(), KeyError> {
        let life = Life::begin();
        let mut inner = self.inner.lock();
        // The key goes whether or not there is room for a new life.
        inner.keys = Keys::Sealed {
            shares: HashMap::new(),
        };
        if let Ok(life) = life {
            inner.life = life;
            drop(inner);
            self.now(Posture::Sealed { have: 0 });
            return Ok(());
        }
        drop(inner);
        self.now(Posture::Sealed { have: 0 });
        life.map(drop)
    }

    fn now(&self, posture: Posture) -> Posture {
        self.posture.send_replace(posture);
        posture
    }
}

#[cfg(test)]
mod tests;
