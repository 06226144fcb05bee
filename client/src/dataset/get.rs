//! How an object is read again: its opening recorded, its key released, its bytes checked on the way.
//!
//! Owns the claims under which this dataset has objects opened. Refuses to serve a byte before the sealed manifest
//! opened and agrees with the catalog entry.

use std::sync::Arc;

use bytes::Bytes;
use envelope::{NameCommitment, NameSalt};
use proto::ids::{NodeId, ObjectKey, ObjectVersionId};
use proto::v1;
use transport::Stated;

use super::{Claimed, Dataset, GetOptions, Object};
use crate::approval::{Approvable, ApprovalRequest};
use crate::download::{Found, ObjectReader};
use crate::error::Error;
use crate::opens::{self, Ask, MULTIPART, Opened, Opens};
use crate::region::random_id;

/// Claims with queues of their own at one time.
const CLAIMS_MAX: usize = 64;
/// Versions that one get finds, each replaced before it was read.
const GET_TRIES: u32 = 8;

impl Dataset {
    /// Finds an object, has its opening recorded, and starts reading it.
    pub async fn get(&self, key: &ObjectKey, options: &GetOptions) -> Result<Object, Error> {
        if options.purpose == MULTIPART {
            return Err(Error::Caller {
                reason: "purpose-not-for-reading".to_owned(),
                message: format!("under the purpose {MULTIPART} a key seals, and opens nothing"),
            });
        }
        let options = GetOptions {
            on_behalf_of: self.acting().on_behalf_of(&options.on_behalf_of),
            ..options.clone()
        };
        for _ in 0..GET_TRIES {
            match self.get_once(key, &options).await? {
                Some(object) => return Ok(object),
                None if options.version.is_some() => return Err(Error::NoSuchObject),
                None => tracing::debug!("the version that was found has been replaced"),
            }
        }
        Err(Error::Unavailable {
            reason: "object-replaced".to_owned(),
            message: "each version that was found was replaced before it could be read".to_owned(),
        })
    }

    /// Nothing where a version was found and is gone by the time that somebody asks where its parts lie: without one named,
    /// another may be in its place.
    async fn get_once(
        &self,
        key: &ObjectKey,
        options: &GetOptions,
    ) -> Result<Option<Object>, Error> {
        let reply = self
            .find(key, options.version, false, &options.stated())
            .await?;
        let entry = reply.entry.ok_or(Error::NoSuchObject)?;
        if entry.delete_marker {
            return Err(Error::NoSuchObject);
        }
        let (start, end) = options.range.unwrap_or((0, entry.plain_bytes));
        let plain = start..end.min(entry.plain_bytes);
        let found = Arc::new(Found {
            dataset: self.clone(),
            key: key.clone(),
            entry,
            token: reply.token,
            replicas: reply.replicas.into_iter().map(NodeId).collect(),
            options: options.clone(),
            arriving: None,
        });
        // Sealed bytes are asked for first: the KMS answers while they are on their way.
        let source = found.start(plain.clone())?;
        let (opened, info) = tokio::join!(
            self.open(&found),
            self.info(key.clone(), &found.entry, found.options.version.is_none()),
        );
        // Why it is not opened comes first: who may not open may have no metadata lease either.
        let (opened, info) = (opened?, info?);
        let leaf_index = opened.leaf_index;
        let body = match ObjectReader::open(found, source, opened, plain).await {
            Err(Error::NoSuchObject) => return Ok(None),
            body => body?,
        };
        Ok(Some(Object {
            info,
            leaf_index,
            body,
        }))
    }

    /// Reads a whole object into memory.
    pub async fn get_bytes(&self, key: &ObjectKey) -> Result<Bytes, Error> {
        self.get(key, &GetOptions::default())
            .await?
            .body
            .into_bytes()
            .await
    }

    /// Asks for approvals to open an object for a person's purpose: nothing is opened or recorded yet.
    pub async fn ask_open(
        &self,
        key: &ObjectKey,
        version: Option<ObjectVersionId>,
        claim: v1::Claim,
    ) -> Result<ApprovalRequest, Error> {
        let requester = self.0.region.identity().clone();
        let stated = Stated {
            purpose: claim.purpose.clone(),
            case: claim.case_id.clone(),
            ..Stated::default()
        };
        let reply = self.find(key, version, true, &stated).await?;
        let entry = reply.entry.ok_or(Error::NoSuchObject)?;
        if entry.delete_marker {
            return Err(Error::NoSuchObject);
        }
        let claim = v1::Claim {
            actor: requester.to_string(),
            ..claim
        };
        let (ask, name_salt) = self.ask_of(key, &entry, reply.token)?;
        let request = v1::OpenRequest {
            request_id: random_id()?,
            dataset_id: self.0.id.into(),
            claim: Some(claim),
            items: vec![ask.item()],
            single_use_id: random_id()?,
            ..v1::OpenRequest::default()
        };
        Ok(ApprovalRequest {
            region: self.0.region.id().clone(),
            requester,
            what: Approvable::Open {
                request,
                dataset: self.0.name.clone(),
                key: key.clone(),
                name_salt,
            },
        })
    }

    /// Opens what was approved, with the approvals, and starts reading it. Answers the leaf that records it. The key
    /// serves for a minute: what takes longer to read takes another request.
    pub async fn get_approved(
        &self,
        asked: &ApprovalRequest,
        approvals: Vec<v1::Approval>,
    ) -> Result<(u64, ObjectReader), Error> {
        let Approvable::Open { request, key, .. } = &asked.what else {
            return Err(not_approved("that request does not open an object"));
        };
        let [item] = request.items.as_slice() else {
            return Err(not_approved("that request opens other than one object"));
        };
        if request.dataset_id[..] != self.0.id.0[..] {
            return Err(not_approved("that request is of another dataset"));
        }
        let version = ObjectVersionId::try_from(&item.version_id[..])?;
        let claim = request.claim.clone().unwrap_or_default();
        let options = GetOptions {
            version: Some(version),
            purpose: claim.purpose,
            case: claim.case_id,
            on_behalf_of: claim.on_behalf_of,
            ..GetOptions::default()
        };
        let reply = self
            .find(key, options.version, false, &options.stated())
            .await?;
        let entry = reply.entry.ok_or(Error::NoSuchObject)?;
        let (ask, _) = self.ask_of(key, &entry, reply.token.clone())?;
        if ask.item() != *item {
            return Err(not_approved(
                "the object is stored otherwise than when approvals were asked for: ask again",
            ));
        }
        let plain = 0..entry.plain_bytes;
        let found = Arc::new(Found {
            dataset: self.clone(),
            key: key.clone(),
            entry,
            token: reply.token,
            replicas: reply.replicas.into_iter().map(NodeId).collect(),
            options,
            arriving: None,
        });
        let source = found.start(plain.clone())?;
        let request = v1::OpenRequest {
            approvals,
            ..request.clone()
        };
        let opened = opens::send(&self.0.region.0, request, vec![ask]).await?;
        let opened = opened.into_iter().next().ok_or(Error::Protocol {
            what: "no key in the answer",
        })??;
        let leaf_index = opened.leaf_index;
        let body = ObjectReader::open(found, source, opened, plain).await?;
        Ok((leaf_index, body))
    }

    fn ask_of(
        &self,
        key: &ObjectKey,
        entry: &v1::ObjectEntry,
        token: Bytes,
    ) -> Result<(Ask, NameSalt), Error> {
        let version = ObjectVersionId::try_from(&entry.version_id[..])?;
        let name_salt = NameSalt::try_from(&entry.name_salt[..]).map_err(|_| Error::Protocol {
            what: "a name salt of another length",
        })?;
        let ask = Ask {
            context: self.context(version, NameCommitment::of(&name_salt, key)),
            token,
            dek_salt: entry.dek_salt.clone(),
            plain_bytes: entry.plain_bytes,
        };
        Ok((ask, name_salt))
    }

    /// Has the KMS record the opening and release the object's DEK.
    pub(crate) async fn open(&self, found: &Found) -> Result<Opened, Error> {
        let claimed = Claimed {
            purpose: found.options.purpose.clone(),
            case: found.options.case.clone(),
            on_behalf_of: found.options.on_behalf_of.clone(),
        };
        let (ask, _) = self.ask_of(&found.key, &found.entry, found.token.clone())?;
        self.opens(claimed).open(ask).await
    }

    fn opens(&self, claimed: Claimed) -> Opens {
        let mut opens = self.0.opens.lock();
        let start = || {
            let claim = v1::Claim {
                actor: String::new(),
                on_behalf_of: claimed.on_behalf_of.clone(),
                purpose: claimed.purpose.clone(),
                case_id: claimed.case.clone(),
                legal_basis: String::new(),
            };
            Opens::start(self.0.region.0.clone(), self.0.id, claim)
        };
        if let Some(opens) = opens.get(&claimed) {
            return opens.clone();
        }
        if opens.len() >= CLAIMS_MAX {
            opens.clear();
        }
        let started = start();
        opens.insert(claimed, started.clone());
        started
    }
}

fn not_approved(why: &str) -> Error {
    Error::Caller {
        reason: "other-request".to_owned(),
        message: why.to_owned(),
    }
}
