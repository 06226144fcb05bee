//! Where keys are made, unwrapped and handed out.
//!
//! Owns KEKs and lease keys while they are unwrapped: in locked slots, bounded, for at most a minute. Releases take
//! a [`Recorded`] request and consume it; nothing else here gives key material to anyone. What leaves is wrapped
//! under a parent key or sealed to the caller's session. Refuses a key that is not the one its record names.

mod hand_over;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use envelope::{
    AccessSecret, Commitment, DekSalt, Kek, KeyError, LeaseKey, MetadataKey, NameCommitment,
    ObjectContext, RootKey, SessionError, SessionSender, Suite, UnwrapError, Wrapped, WrappedError,
};
use prost::Message as _;
use proto::ids::{AccessKeyId, DatasetId, KekId, KekVersion, LeaseId, RegionId, RootEpoch, UnixMs};
use proto::transcript;
use proto::v1;
use transport::LocalIdentity;

use crate::access_keys::{AccessKey, NewSecret, SecretAsked, epoch_of, given_until};
use crate::attest::Header;
use crate::leases::{Lease, MetadataLease};
use crate::ledger::{Leaf, Recorded};
use crate::opens::{OpenItem, OpenObjects, Purpose};
use crate::seal::{Seal, Sealed};
use crate::sessions::Session;
use crate::slots::Slots;

pub(crate) use hand_over::HeldHandOver;

/// KEKs unwrapped at once.
const KEKS_MAX: usize = 1024;
/// Lease keys unwrapped at once.
const LEASES_MAX: usize = 8192;

/// Why a key did not come out. Says nothing of whose it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CustodyError {
    /// The root key is not here.
    #[error(transparent)]
    Sealed(#[from] Sealed),
    /// The record holds no such version: destroyed, or never made.
    #[error("the key has no version {version}")]
    NoVersion {
        /// Which version.
        version: u32,
    },
    /// Wrapped by a later build, or not a wrapped key.
    #[error("the wrapped key cannot be read")]
    Wrapped(#[source] WrappedError),
    /// It does not open under its parent, or is not the key its record names.
    #[error("the wrapped key does not open")]
    NotAuthentic,
    /// No room for a key.
    #[error("no key memory")]
    Key(#[source] KeyError),
    /// The session sends nothing more.
    #[error("the session")]
    Session(#[source] SessionError),
}

impl From<UnwrapError> for CustodyError {
    fn from(error: UnwrapError) -> Self {
        match error {
            UnwrapError::NotAuthentic => Self::NotAuthentic,
            UnwrapError::Key(error) => Self::Key(error),
        }
    }
}

/// A KEK at one state of its record: a change of state leaves its unwrapped copies unfindable.
type KekName = (KekId, KekVersion, u64);

/// The keys of this process.
pub(crate) struct Custody {
    region: RegionId,
    seal: Arc<Seal>,
    keks: Slots<KekName, Kek>,
    leases: Slots<(LeaseId, [u8; 32]), LeaseKey>,
}

impl Custody {
    pub(crate) fn new(region: RegionId, seal: Arc<Seal>) -> Self {
        Self {
            region,
            seal,
            keks: Slots::new(KEKS_MAX),
            leases: Slots::new(LEASES_MAX),
        }
    }

    /// A new version of a dataset's key, wrapped: born here, and gone from here when this returns.
    pub(crate) fn born(
        &self,
        dataset: DatasetId,
        id: KekId,
        version: KekVersion,
        now: UnixMs,
        root_epoch: RootEpoch,
    ) -> Result<v1::KekVersionRecord, CustodyError> {
        let root = self.seal.root_of(root_epoch)?;
        let kek = Kek::generate(self.region.clone(), id, version).map_err(CustodyError::Key)?;
        let metadata = MetadataKey::generate(self.region.clone(), dataset, version.0)
            .map_err(CustodyError::Key)?;
        let wrapped_kek = root.wrap_kek(&kek).map_err(CustodyError::Key)?;
        let wrapped_metadata = kek
            .wrap_metadata_key(&metadata)
            .map_err(CustodyError::Key)?;
        Ok(v1::KekVersionRecord {
            version: version.0,
            root_epoch: root.epoch().0,
            wrapped_kek: wrapped_kek.to_bytes().into(),
            wrapped_metadata_key: wrapped_metadata.to_bytes().into(),
            created_at_ms: now.0,
            metadata_kek_version: 0,
        })
    }

    /// Releases a new lease under the terms its leaf states: the token for the shard, and the lease key sealed to the holder's session.
    pub(crate) fn release_lease(
        &self,
        recorded: Recorded<Lease>,
        session: &Session,
        signer: &LocalIdentity,
    ) -> Result<v1::IssueLeaseReply, CustodyError> {
        let (lease, record, Leaf { index: leaf, .. }) = recorded.into_parts();
        let terms = lease.terms;
        let kek = self.kek(&record, record.current_version)?;
        let key = LeaseKey::generate(self.region.clone(), lease.id).map_err(CustodyError::Key)?;
        let wrapped = kek.wrap_lease(&key).map_err(CustodyError::Key)?.to_bytes();
        let header = v1::LeaseHeader {
            format: 1,
            region: self.region.to_string(),
            dataset_id: lease.dataset.into(),
            dataset_epoch: lease.dataset_epoch.0,
            kek_id: record.kek_id.clone(),
            kek_version: record.current_version,
            lease_id: lease.id.into(),
            holder: lease.holder.to_vec().into(),
            issued_at_ms: terms.issued_at.0,
            expires_at_ms: terms.expires_at.0,
        };
        let token = signed_token(&header, wrapped, signer);
        let sealed = session
            .sender
            .send_lease(&key, &session.aad())
            .map_err(CustodyError::Session)?;
        Ok(v1::IssueLeaseReply {
            token: token.encode_to_vec().into(),
            sealed_lease_key: sealed.as_bytes().to_vec().into(),
            expires_at_ms: terms.expires_at.0,
            leaf_index: leaf.0,
            lease_id: lease.id.into(),
        })
    }

    /// A lease's token wrapped under the key's newest version, all else as it was. The lease key is unwrapped and wrapped
    /// here and goes to nobody.
    pub(crate) fn rewrap(
        &self,
        record: &v1::KekRecord,
        token: &v1::LeaseToken,
        signer: &LocalIdentity,
    ) -> Result<v1::LeaseToken, CustodyError> {
        let not_authentic = |_| CustodyError::NotAuthentic;
        let mut header = v1::LeaseHeader::decode(token.header.clone())
            .map_err(|_| CustodyError::NotAuthentic)?;
        let lease = LeaseId::try_from(header.lease_id.as_ref()).map_err(not_authentic)?;
        if header.kek_id != record.kek_id || header.dataset_id != record.dataset_id {
            return Err(CustodyError::NotAuthentic);
        }
        let (old, new) = (header.kek_version, record.current_version);
        let key = self.lease(record, lease, old, &token.wrapped)?;
        let newest = self.kek(record, new)?;
        let wrapped = newest.wrap_lease(&key).map_err(CustodyError::Key)?;
        header.kek_version = new;
        Ok(signed_token(&header, wrapped.to_bytes(), signer))
    }

    /// Releases every living version of a dataset's metadata key: metadata sealed before a rotation stays readable.
    pub(crate) fn release_metadata(
        &self,
        recorded: Recorded<MetadataLease>,
        session: &Session,
    ) -> Result<v1::IssueMetadataLeaseReply, CustodyError> {
        let (lease, record, Leaf { index: leaf, .. }) = recorded.into_parts();
        let terms = lease.terms;
        let aad = session.aad();
        let living = record
            .versions
            .iter()
            .filter(|version| !version.wrapped_metadata_key.is_empty());
        let keys = living
            .map(|version| {
                let key = self.metadata_key(&record, version, lease.dataset)?;
                let sealed = session
                    .sender
                    .send_metadata_key(&key, &aad)
                    .map_err(CustodyError::Session)?;
                let sealed = sealed.as_bytes().to_vec().into();
                Ok(v1::SealedMetadataKey {
                    version: version.version,
                    sealed,
                })
            })
            .collect::<Result<Vec<_>, CustodyError>>()?;
        Ok(v1::IssueMetadataLeaseReply {
            keys,
            expires_at_ms: terms.expires_at.0,
            leaf_index: leaf.0,
            current_version: record.current_version,
        })
    }

    fn metadata_key(
        &self,
        record: &v1::KekRecord,
        version: &v1::KekVersionRecord,
        dataset: DatasetId,
    ) -> Result<MetadataKey, CustodyError> {
        let kek = self.kek(record, kms_state::metadata_under(version))?;
        let wrapped =
            Wrapped::from_bytes(&version.wrapped_metadata_key).map_err(CustodyError::Wrapped)?;
        let key = kek.unwrap_metadata_key(&wrapped)?;
        if key.dataset() != dataset || key.version() != version.version {
            return Err(CustodyError::NotAuthentic);
        }
        Ok(key)
    }

    /// Metadata keys that would be lost with KEK versions below one, wrapped under the newest.
    pub(crate) fn rewrapped_metadata(
        &self,
        record: &v1::KekRecord,
        dataset: DatasetId,
        below_version: u32,
    ) -> Result<Vec<v1::RewrappedMetadataKey>, CustodyError> {
        let newest = self.kek(record, record.current_version)?;
        kms_state::metadata_below(record, below_version)
            .map(|version| {
                let key = self.metadata_key(record, version, dataset)?;
                let wrapped = newest.wrap_metadata_key(&key).map_err(CustodyError::Key)?;
                Ok(v1::RewrappedMetadataKey {
                    version: version.version,
                    wrapped_metadata_key: wrapped.to_bytes().into(),
                })
            })
            .collect()
    }

    /// Releases the DEKs asked for, in order. An item whose token does not unwrap comes out empty: its record stands,
    /// and the others are served.
    pub(crate) fn release_deks(
        &self,
        recorded: Recorded<OpenObjects>,
        session: &Session,
        now: UnixMs,
    ) -> Result<v1::OpenReply, CustodyError> {
        let (
            open,
            record,
            Leaf {
                index: leaf,
                recorded_at,
            },
        ) = recorded.into_parts();
        let aad = session.aad();
        let mut keys = Vec::with_capacity(open.items.len());
        // Items of one lease come together.
        let mut unwrapped: Option<(&OpenItem, Arc<LeaseKey>)> = None;
        for item in &open.items {
            let same = unwrapped.take().filter(|(of, _)| item.same_token(of));
            let lease = match same {
                Some((_, lease)) => self.seal.root().map(|_| lease).map_err(Into::into),
                None => self.lease(&record, item.lease, item.kek_version, &item.wrapped),
            };
            let sealed = lease.and_then(|lease| {
                let sealed = self.dek(&open, item, &lease, &session.sender, &aad);
                unwrapped = Some((item, lease));
                sealed
            });
            let sealed = match sealed {
                Ok(sealed) => sealed,
                Err(CustodyError::Sealed(sealed)) => return Err(sealed.into()),
                Err(error) => {
                    metrics::counter!("reduit_kms_items_not_opened_total").increment(1);
                    tracing::debug!(%error, leaf = leaf.0, "an item did not open");
                    Vec::new()
                }
            };
            keys.push(v1::OpenedKey {
                sealed_dek: sealed.into(),
            });
        }
        Ok(v1::OpenReply {
            request_id: open.request_id.to_vec().into(),
            keys,
            leaf_index: leaf.0,
            usable_ms: usable_ms(recorded_at, now),
            error: None,
            metadata_keys: Vec::new(),
        })
    }

    fn dek(
        &self,
        open: &OpenObjects,
        item: &OpenItem,
        lease: &LeaseKey,
        sender: &SessionSender,
        aad: &[u8],
    ) -> Result<Vec<u8>, CustodyError> {
        let context = self.context(open.dataset, item);
        let dek = lease
            .open_dek(&DekSalt(item.dek_salt), &context)
            .map_err(CustodyError::Key)?;
        let sealed = match open.purpose {
            // Who goes on with an upload gets a key that seals and cannot open what is there.
            Purpose::Multipart => sender.send_upload_dek(&dek, aad),
            Purpose::Read => sender.send_dek(&dek, aad),
        };
        Ok(sealed.map_err(CustodyError::Session)?.as_bytes().to_vec())
    }

    /// The commitment that a version's first stream has if it is sealed as said. Releases nothing.
    pub(crate) fn commitment(
        &self,
        dataset: DatasetId,
        record: &v1::KekRecord,
        header: &Header,
    ) -> Result<Commitment, CustodyError> {
        let Header { item, salt, part } = header;
        let lease = self.lease(record, item.lease, item.kek_version, &item.wrapped)?;
        let context = self.context(dataset, item);
        lease
            .commitment_of(&DekSalt(item.dek_salt), &context, *part, salt)
            .map_err(CustodyError::Key)
    }

    fn context(&self, dataset: DatasetId, item: &OpenItem) -> ObjectContext {
        ObjectContext {
            suite: Suite::Cobblestone256,
            region: self.region.clone(),
            dataset,
            version: item.version,
            name: NameCommitment(item.name_commitment),
        }
    }

    /// The lease key of an item's token. The wrapped key is authenticated under the dataset's own KEK together with
    /// lease id and KEK version, so a token lifted from another dataset or doctored does not unwrap here; the
    /// signature over the token is for the shard, which has no key to check with.
    fn lease(
        &self,
        record: &v1::KekRecord,
        lease: LeaseId,
        kek_version: u32,
        wrapped: &[u8],
    ) -> Result<Arc<LeaseKey>, CustodyError> {
        let kek = self.kek(record, kek_version)?;
        let name = (lease, crate::approvals::sha256(wrapped));
        let unwrap = || {
            let wrapped = Wrapped::from_bytes(wrapped).map_err(CustodyError::Wrapped)?;
            let header = wrapped.header();
            if header.id != lease.0 || header.version != kek_version || header.region != self.region
            {
                return Err(CustodyError::NotAuthentic);
            }
            Ok::<_, CustodyError>(kek.unwrap_lease(&wrapped)?)
        };
        // Asked after the KEK, which a change of the key's state makes unfindable.
        self.leases.take_or(name, Instant::now(), unwrap)
    }

    fn kek(&self, record: &v1::KekRecord, version: u32) -> Result<Arc<Kek>, CustodyError> {
        // The root first: sealed means sealed, whatever is still in a slot.
        self.seal.root()?;
        let id = KekId::try_from(record.kek_id.as_ref()).map_err(|_| CustodyError::NotAuthentic)?;
        let name = (id, KekVersion(version), record.state_version);
        self.keks.take_or(name, Instant::now(), || {
            let held = record
                .versions
                .iter()
                .find(|held| held.version == version && !held.wrapped_kek.is_empty())
                .ok_or(CustodyError::NoVersion { version })?;
            let wrapped = Wrapped::from_bytes(&held.wrapped_kek).map_err(CustodyError::Wrapped)?;
            let root = self.seal.root_of(RootEpoch(held.root_epoch))?;
            let kek = root.unwrap_kek(&wrapped)?;
            if kek.id() != id || kek.version().0 != version {
                return Err(CustodyError::NotAuthentic);
            }
            Ok(kek)
        })
    }

    /// A KEK version wrapped under another root key. It is unwrapped for that moment only.
    pub(crate) fn rewrapped(
        &self,
        key: &v1::KekRecord,
        version: u32,
        next: &RootKey,
    ) -> Result<Vec<u8>, CustodyError> {
        let kek = self.kek(key, version)?;
        let wrapped = next.wrap_kek(&kek).map_err(CustodyError::Key)?;
        Ok(wrapped.to_bytes())
    }

    /// A new access key's secret, wrapped: born here, and gone from here when this returns.
    pub(crate) fn born_access_secret(
        &self,
        id: AccessKeyId,
        root_epoch: RootEpoch,
    ) -> Result<Vec<u8>, CustodyError> {
        let root = self.seal.root_of(root_epoch)?;
        let secret = AccessSecret::generate(self.region.clone(), id).map_err(CustodyError::Key)?;
        let wrapped = root.wrap_access_secret(&secret);
        Ok(wrapped.map_err(CustodyError::Key)?.to_bytes())
    }

    /// Shows a new secret to the operator whose leaf says so. `None` where the access key was disabled since.
    pub(crate) fn show_new_secret(
        &self,
        recorded: Recorded<NewSecret, AccessKey>,
        session: &Session,
    ) -> Result<Option<v1::CreateAccessKeyReply>, CustodyError> {
        let (_, key, _) = recorded.into_parts();
        if key.record.state() != v1::AccessKeyState::Enabled {
            return Ok(None);
        }
        let sealed_secret = self.sealed_secret(&key, session)?;
        Ok(Some(v1::CreateAccessKeyReply {
            sealed_secret,
            key: Some(key.record.clone()),
        }))
    }

    /// Gives a gateway an access key's secret, for as long as the leaf says.
    pub(crate) fn release_access_secret(
        &self,
        recorded: Recorded<SecretAsked, AccessKey>,
        session: &Session,
    ) -> Result<v1::IssueAccessSecretReply, CustodyError> {
        let (asked, key, leaf) = recorded.into_parts();
        Ok(v1::IssueAccessSecretReply {
            sealed_secret: self.sealed_secret(&key, session)?,
            principal: key.record.principal.clone(),
            expires_at_ms: given_until(leaf.recorded_at, asked.seconds).0,
            leaf_index: leaf.index.0,
        })
    }

    fn sealed_secret(&self, key: &AccessKey, session: &Session) -> Result<Bytes, CustodyError> {
        let secret = self.access_secret(key)?;
        let sealed = session.sender.send_access_secret(&secret, &session.aad());
        let sealed = sealed.map_err(CustodyError::Session)?;
        Ok(Bytes::copy_from_slice(sealed.as_bytes()))
    }

    /// Unwrapped for one request: secrets are given once an hour to each gateway, and none is kept here.
    fn access_secret(&self, key: &AccessKey) -> Result<AccessSecret, CustodyError> {
        let root = self.seal.root_of(epoch_of(key))?;
        let wrapped = Wrapped::from_bytes(&key.wrapped).map_err(CustodyError::Wrapped)?;
        let secret = root.unwrap_access_secret(&wrapped)?;
        match secret.id() == key.id && *secret.region() == self.region {
            true => Ok(secret),
            false => Err(CustodyError::NotAuthentic),
        }
    }

    /// An access key's secret wrapped under another root key. It is unwrapped for that moment only.
    pub(crate) fn rewrapped_secret(
        &self,
        key: &AccessKey,
        next: &RootKey,
    ) -> Result<Vec<u8>, CustodyError> {
        let secret = self.access_secret(key)?;
        let wrapped = next.wrap_access_secret(&secret);
        Ok(wrapped.map_err(CustodyError::Key)?.to_bytes())
    }

    /// Drops every unwrapped key: sealed, stepped down, or a key's state has changed.
    pub(crate) fn clear(&self) {
        self.keks.clear();
        self.leases.clear();
    }

    /// Drops what has been unwrapped for too long.
    pub(crate) fn expire(&self) {
        let now = Instant::now();
        self.keks.expire(now);
        self.leases.expire(now);
    }

    /// Unwrapped keys held now.
    pub(crate) fn held(&self) -> usize {
        self.keks.len() + self.leases.len()
    }
}

/// A token over its header and the lease key it wraps.
fn signed_token(
    header: &v1::LeaseHeader,
    wrapped: Vec<u8>,
    signer: &LocalIdentity,
) -> v1::LeaseToken {
    let header = header.encode_to_vec();
    let signed = transcript::lease_token(&header, &wrapped);
    let signature = signer.sign(transcript::LABEL_LEASE_TOKEN, &signed);
    v1::LeaseToken {
        signature: signature.to_vec().into(),
        signer: signer.public_key().as_spki().to_vec().into(),
        header: header.into(),
        wrapped: wrapped.into(),
    }
}

/// How long keys released now may be used: until a minute after their leaf.
fn usable_ms(recorded_at: UnixMs, now: UnixMs) -> u64 {
    (recorded_at.0 + kms_state::USABLE_MS)
        .saturating_sub(now.0)
        .min(kms_state::USABLE_MS)
}
