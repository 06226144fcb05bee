//! Keys that the source's KMS hands over and the own one opens, for as long as they serve.
//!
//! Owns one sealed version as its source describes it, its DEK and the renewal of that, and the source's metadata keys.
//! Refuses a version whose lease came without its token. Key bytes stay inside `envelope`'s types: what opens here seals
//! nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use envelope::{
    MetadataContext, NameCommitment, NameSalt, ObjectContext, OpenDek, OpenMetadata, SealedKey,
    SealedMetadata, Suite,
};
use prost::Message as _;
use proto::ids::{ObjectKey, ObjectVersionId, UnixMs};
use proto::v1;

use super::Inner;
use crate::dataset::time_left;
use crate::error::Error;
use crate::kms::now;
use crate::lease::usable_until;
use crate::opens::{self, Ask};
use crate::region::random_id;
use crate::session::Session;

/// Keys of one request at most.
pub(super) const ITEMS_MAX: usize = 256;
/// A key with less time than this is asked for again.
const RENEW_BEFORE: Duration = Duration::from_secs(5);

/// One version as it lies in the source.
pub(super) struct Sealed {
    pub(super) key: ObjectKey,
    pub(super) id: ObjectVersionId,
    pub(super) entry: v1::ObjectEntry,
    token: Bytes,
    context: ObjectContext,
}

/// A version and its key.
pub(super) struct Handed {
    pub(super) sealed: Arc<Sealed>,
    dek: OpenDek,
    usable_until: UnixMs,
}

/// Every version of the source's metadata key.
pub(super) struct MetadataHanded {
    versions: BTreeMap<u32, OpenMetadata>,
    usable_until: UnixMs,
}

/// Tokens of one page by their leases' ids.
pub(super) struct Tokens(BTreeMap<Bytes, Bytes>);

impl Tokens {
    pub(super) fn of(tokens: &[Bytes]) -> Result<Self, Error> {
        let what = "a lease token that does not decode";
        let wrong = |_| Error::Protocol { what };
        let one = |token: &Bytes| {
            let signed = v1::LeaseToken::decode(token.clone()).map_err(wrong)?;
            let header = v1::LeaseHeader::decode(signed.header).map_err(wrong)?;
            Ok((header.lease_id, token.clone()))
        };
        tokens.iter().map(one).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn of_lease(&self, lease: &Bytes) -> Result<Bytes, Error> {
        self.0.get(lease).cloned().ok_or(Error::Protocol {
            what: "a version without the token of its lease",
        })
    }
}

impl Sealed {
    /// As a page told of it.
    pub(super) fn of(
        mover: &Inner,
        key: &str,
        entry: v1::ObjectEntry,
        tokens: &Tokens,
    ) -> Result<Self, Error> {
        let protocol = |what| Error::Protocol { what };
        let token = tokens.of_lease(&entry.lease_id)?;
        let salt = NameSalt::try_from(&entry.name_salt[..]);
        let salt = salt.map_err(|_| protocol("a name salt of another length"))?;
        let key: ObjectKey = key.parse()?;
        let id = ObjectVersionId::try_from(&entry.version_id[..])?;
        let context = ObjectContext {
            suite: Suite::Cobblestone256,
            region: mover.source_region.clone(),
            dataset: mover.dataset_id,
            version: id,
            name: NameCommitment::of(&salt, &key),
        };
        Ok(Self {
            key,
            id,
            entry,
            token,
            context,
        })
    }

    fn ask(&self) -> Ask {
        Ask {
            context: self.context.clone(),
            token: self.token.clone(),
            dek_salt: self.entry.dek_salt.clone(),
            plain_bytes: self.entry.plain_bytes,
        }
    }
}

impl Handed {
    /// The key, with some time left.
    pub(super) async fn dek(&mut self, mover: &Inner) -> Result<&OpenDek, Error> {
        if self.is_ending() {
            let again = mover.handed(vec![self.sealed.clone()]).await?;
            let again = again.into_iter().next().ok_or(Error::Protocol {
                what: "no key in the answer",
            })?;
            (self.dek, self.usable_until) = (again.dek, again.usable_until);
        }
        Ok(&self.dek)
    }

    /// Whether nothing more should begin under it.
    pub(super) fn is_ending(&self) -> bool {
        time_left(self.usable_until) < RENEW_BEFORE
    }
}

/// What a batch came to, and the session that its keys are sealed to.
struct Received {
    reply: v1::OpenReply,
    session: Arc<Session>,
    usable_until: UnixMs,
}

impl Inner {
    async fn receive(&self, mut request: v1::HandOverRequest) -> Result<Received, Error> {
        let asked = now();
        request.request_id = random_id()?;
        request.relocation_id = self.of.relocation_id.clone();
        request.dataset_id = self.of.dataset_id.clone();
        request.hand_over_key_id = self.hand_over_key().await?;
        let source = self.source()?;
        let batch = source.hand_over(&self.region.0.tuning, |mut kms| {
            let request = request.clone();
            async move { Ok(kms.hand_over(request).await?.into_inner()) }
        });
        let batch = batch.await?;
        let request_id = random_id()?;
        let opened = self.region.keys().call_in_session(|mut kms, session| {
            let open = v1::OpenHandedOverRequest {
                session_id: session.id.clone(),
                request_id: request_id.clone(),
                claim: Some(self.region.1.claim()),
                request: Some(request.clone()),
                batch: Some(batch.clone()),
            };
            async move { Ok((kms.open_handed_over(open).await?.into_inner(), session)) }
        });
        let (reply, session) = opened.await?;
        Ok(Received {
            usable_until: usable_until(asked, reply.usable_ms),
            reply,
            session,
        })
    }

    /// Keys of up to [`ITEMS_MAX`] versions, in their order. On record in both regions before they are here.
    pub(super) async fn handed(&self, of: Vec<Arc<Sealed>>) -> Result<Vec<Handed>, Error> {
        if of.is_empty() {
            return Ok(Vec::new());
        }
        let asks: Vec<_> = of.iter().map(|sealed| sealed.ask()).collect();
        let request = v1::HandOverRequest {
            items: opens::items(&asks),
            ..v1::HandOverRequest::default()
        };
        let received = self.receive(request).await?;
        let keys = received.reply.keys;
        if keys.len() != of.len() {
            return Err(Error::Protocol {
                what: "another number of keys than was asked for",
            });
        }
        let aad = received.session.aad();
        let one = |(sealed, key): (Arc<Sealed>, v1::OpenedKey)| {
            if key.sealed_dek.is_empty() {
                return Err(Error::Damaged {
                    message: "the source's kms could not unwrap an object's lease".to_owned(),
                });
            }
            let wrapped = SealedKey::try_from(&key.sealed_dek[..])?;
            let receiver = &received.session.receiver;
            let dek = receiver.receive_dek(&wrapped, sealed.context.clone(), &aad)?;
            Ok(Handed {
                sealed,
                dek,
                usable_until: received.usable_until,
            })
        };
        of.into_iter().zip(keys).map(one).collect()
    }

    async fn metadata_handed(&self) -> Result<MetadataHanded, Error> {
        let request = v1::HandOverRequest {
            metadata: true,
            ..v1::HandOverRequest::default()
        };
        let received = self.receive(request).await?;
        let aad = received.session.aad();
        let receiver = &received.session.receiver;
        let mut versions = BTreeMap::new();
        for key in &received.reply.metadata_keys {
            let wrapped = SealedKey::try_from(&key.sealed[..])?;
            let region = self.source_region.clone();
            let opens = receiver.receive_handed_metadata(
                &wrapped,
                region,
                self.dataset_id,
                key.version,
                &aad,
            )?;
            versions.insert(opens.version(), opens);
        }
        Ok(MetadataHanded {
            versions,
            usable_until: received.usable_until,
        })
    }

    /// Opens what the source has sealed beside a version, or a part of it; nothing is nothing.
    pub(super) async fn source_metadata(
        &self,
        version: ObjectVersionId,
        sealed: &Bytes,
    ) -> Result<Vec<u8>, Error> {
        if sealed.is_empty() {
            return Ok(Vec::new());
        }
        let sealed = SealedMetadata::from_bytes(sealed.to_vec()).map_err(Error::NotAuthentic)?;
        let context = MetadataContext {
            suite: Suite::Cobblestone256,
            region: self.source_region.clone(),
            dataset: self.dataset_id,
            version,
        };
        let needs = sealed.key_version();
        let mut held = self.metadata.lock().await;
        let usable = |held: &MetadataHanded| {
            time_left(held.usable_until) >= RENEW_BEFORE && held.versions.contains_key(&needs)
        };
        if !held.as_ref().is_some_and(usable) {
            *held = Some(self.metadata_handed().await?);
        }
        let key = held.as_ref().and_then(|held| held.versions.get(&needs));
        let key = key.ok_or(Error::Protocol {
            what: "the source's kms does not hand over this metadata key's version",
        })?;
        key.open(&context, &sealed).map_err(Error::NotAuthentic)
    }
}
