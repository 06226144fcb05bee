//! Opening: the DEKs of the object versions asked for, each on record before it leaves.
//!
//! Owns what an open request must look like. Refuses a malformed one before anything is recorded, callers whose
//! role never opens, and more items than one leaf holds.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use prost::Message as _;
use proto::ids::{DatasetId, Identity, LeaseId, ObjectVersionId, RegionId, Role};
use proto::v1;
use transport::Peer;

use crate::approvals::{self, Approved};
use crate::core::Core;
use crate::custody::CustodyError;
use crate::ledger::{CommitError, DatasetUse};
use crate::seal::Sealed;
use crate::sessions::NoSession;

/// Items of one open at most: they share a leaf, which is at most 65,535 bytes.
pub const OPEN_ITEMS_MAX: usize = kms_state::OPEN_ITEMS_MAX;
/// The purpose under which an upload's DEK is handed on, to seal with.
const MULTIPART: &str = "multipart";

/// Why nothing was opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The replica is sealed.
    #[error(transparent)]
    Sealed(#[from] Sealed),
    /// Only gateways, sealing clients and, with approvals, auditors receive keys.
    #[error("{actor} is of a role that never receives keys")]
    Role {
        /// Who asked.
        actor: Identity,
    },
    /// A field is not what it must be.
    #[error("the open request's {field} is malformed")]
    Malformed {
        /// Which field.
        field: &'static str,
    },
    /// No items, or too many.
    #[error("an open request has 1 to {OPEN_ITEMS_MAX} items")]
    Items,
    /// No such session.
    #[error(transparent)]
    Session(#[from] NoSession),
    /// Not recorded, so not opened.
    #[error("the open was not recorded")]
    Commit(#[from] CommitError),
    /// Recorded, and the keys did not come out.
    #[error("the open is on record and its keys did not come out")]
    Custody(#[from] CustodyError),
}

/// What a released key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To open: a DEK that opens.
    Read,
    /// To go on with an upload: a DEK that seals.
    Multipart,
}

/// One object version to open, and what its record says of it.
pub(crate) struct OpenItem {
    pub(crate) stated: v1::OpenedItem,
    pub(crate) lease: LeaseId,
    pub(crate) kek_version: u32,
    pub(crate) wrapped: Bytes,
    pub(crate) version: ObjectVersionId,
    pub(crate) dek_salt: [u8; 32],
    pub(crate) name_commitment: [u8; 32],
}

/// A parsed open request.
pub(crate) struct OpenObjects {
    pub(crate) actor: Identity,
    pub(crate) request_id: [u8; 16],
    pub(crate) dataset: DatasetId,
    pub(crate) claim: v1::Claim,
    pub(crate) purpose: Purpose,
    pub(crate) items: Vec<OpenItem>,
    recipient_region: RegionId,
    approved: Option<Approved>,
}

impl OpenObjects {
    pub(crate) fn parse(
        actor: &Identity,
        request: v1::OpenRequest,
        region: &str,
    ) -> Result<Self, OpenError> {
        let malformed = |field| OpenError::Malformed { field };
        let dataset = DatasetId::try_from(request.dataset_id.as_ref())
            .map_err(|_| malformed("dataset id"))?;
        let approved = approved(actor, &request);
        let recipient_region = match request.recipient_region.as_str() {
            // Keys of this region go to identities of this region; hand-over abroad is another request.
            "" => actor.region().clone(),
            stated => stated.parse().map_err(|_| malformed("recipient region"))?,
        };
        let claim = request.claim.unwrap_or_default();
        let purpose = if claim.purpose == MULTIPART {
            Purpose::Multipart
        } else {
            Purpose::Read
        };
        let items = items(request.items, dataset, region)?;
        Ok(Self {
            actor: actor.clone(),
            request_id: request_id(&request.request_id).ok_or(malformed("request id"))?,
            dataset,
            claim,
            purpose,
            items,
            recipient_region,
            approved,
        })
    }
}

/// The items of one request, with tokens of a region's dataset.
pub(crate) fn items(
    stated: Vec<v1::OpenItem>,
    dataset: DatasetId,
    region: &str,
) -> Result<Vec<OpenItem>, OpenError> {
    if stated.is_empty() || stated.len() > OPEN_ITEMS_MAX {
        return Err(OpenError::Items);
    }
    let mut items: Vec<OpenItem> = Vec::with_capacity(stated.len());
    let mut last: Option<(Bytes, Token)> = None;
    for item in stated {
        // Items of one lease come together: with the same token, or with none where it is the one before.
        let (of, parsed) = match last.take() {
            Some((of, parsed)) if item.token.is_empty() || item.token == of => (of, parsed),
            _ => (
                item.token.clone(),
                Token::parse(&item.token, dataset, region)?,
            ),
        };
        items.push(OpenItem::of(&item, &parsed)?);
        last = Some((of, parsed));
    }
    Ok(items)
}

/// What came with a request to approve it.
fn approved(actor: &Identity, request: &v1::OpenRequest) -> Option<Approved> {
    if request.approvals.is_empty() && request.single_use_id.is_empty() {
        return None;
    }
    Some(Approved {
        hash: approvals::open_hash(actor, request),
        single_use_id: request.single_use_id.clone(),
        approvals: request.approvals.clone(),
    })
}

/// What an open needs of a lease's token. Its signature is for the shard.
struct Token {
    lease: LeaseId,
    lease_id: Bytes,
    kek_version: u32,
    wrapped: Bytes,
}

impl Token {
    fn parse(token: &Bytes, dataset: DatasetId, region: &str) -> Result<Self, OpenError> {
        let malformed = |field| OpenError::Malformed { field };
        let token = v1::LeaseToken::decode(token.clone()).map_err(|_| malformed("token"))?;
        let header =
            v1::LeaseHeader::decode(token.header).map_err(|_| malformed("token header"))?;
        // A wrong dataset would not unwrap; said here, it costs no record.
        if header.format != 1
            || header.dataset_id.as_ref() != dataset.as_bytes()
            || header.region != region
        {
            return Err(malformed(
                "token: it is of another dataset, region or format",
            ));
        }
        Ok(Self {
            lease: LeaseId::try_from(header.lease_id.as_ref())
                .map_err(|_| malformed("lease id"))?,
            lease_id: header.lease_id,
            kek_version: header.kek_version,
            wrapped: token.wrapped,
        })
    }
}

impl OpenItem {
    pub(crate) fn parse(
        item: &v1::OpenItem,
        dataset: DatasetId,
        region: &str,
    ) -> Result<Self, OpenError> {
        Self::of(item, &Token::parse(&item.token, dataset, region)?)
    }

    /// Whether it is of the same token as another, so of the same lease key.
    pub(crate) fn same_token(&self, other: &Self) -> bool {
        self.lease == other.lease
            && self.kek_version == other.kek_version
            && self.wrapped == other.wrapped
    }

    fn of(item: &v1::OpenItem, token: &Token) -> Result<Self, OpenError> {
        let malformed = |field| OpenError::Malformed { field };
        let array = |bytes: &[u8], field| bytes.try_into().map_err(|_| malformed(field));
        Ok(Self {
            stated: v1::OpenedItem {
                version_id: item.version_id.clone(),
                name_commitment: item.name_commitment.clone(),
                lease_id: token.lease_id.clone(),
                bytes: item.bytes,
            },
            lease: token.lease,
            kek_version: token.kek_version,
            wrapped: token.wrapped.clone(),
            version: ObjectVersionId::try_from(item.version_id.as_ref())
                .map_err(|_| malformed("version id"))?,
            dek_salt: array(&item.dek_salt, "DEK salt")?,
            name_commitment: array(&item.name_commitment, "name commitment")?,
        })
    }
}

impl DatasetUse for OpenObjects {
    fn actor(&self) -> &Identity {
        &self.actor
    }

    fn dataset(&self) -> DatasetId {
        self.dataset
    }

    fn action(&self) -> v1::Action {
        match self.purpose {
            Purpose::Read => v1::Action::Read,
            Purpose::Multipart => v1::Action::Write,
        }
    }

    fn claim(&self) -> &v1::Claim {
        &self.claim
    }

    fn request_id(&self) -> [u8; 16] {
        self.request_id
    }

    fn kek_version_min(&self) -> u32 {
        self.items
            .iter()
            .map(|item| item.kek_version)
            .min()
            .unwrap_or_default()
    }

    fn recipient_region(&self) -> Option<&RegionId> {
        Some(&self.recipient_region)
    }

    fn approved(&self) -> Option<&Approved> {
        self.approved.as_ref()
    }

    fn kind(&self, _key: &v1::KekRecord) -> v1::record::Kind {
        let items = self.items.iter().map(|item| item.stated.clone());
        v1::record::Kind::Opens(v1::Opens {
            items: items.collect(),
            recipient_region: self.recipient_region.to_string(),
        })
    }
}

/// A request id as it must be: 16 bytes.
pub(crate) fn request_id(bytes: &[u8]) -> Option<[u8; 16]> {
    bytes.try_into().ok()
}

/// Whether identities of this role may ever hold lease keys (DESIGN section 3).
pub(crate) fn receives_keys(role: Role) -> bool {
    matches!(role, Role::Gateway | Role::Client)
}

/// Whether identities of this role may be given what opens single objects: an auditor is, with approvals.
fn opens_objects(role: Role) -> bool {
    receives_keys(role) || role == Role::Auditor
}

impl Core {
    /// Opens, on the leader: policy, record, release.
    pub(crate) async fn open(
        self: &Arc<Self>,
        peer: &Peer,
        request: v1::OpenRequest,
    ) -> Result<v1::OpenReply, OpenError> {
        let began = Instant::now();
        let actor = &peer.identity;
        if !opens_objects(actor.role()) {
            return Err(OpenError::Role {
                actor: actor.clone(),
            });
        }
        self.serving()?;
        let session = self
            .sessions
            .of(&request.session_id, &peer.public_key, self.now())?;
        let open = OpenObjects::parse(actor, request, self.config.region.as_str())?;
        let items = open.items.len() as u64;
        let recorded = self.ledger.commit(open, self.deadline()).await?;
        let reply = self.custody.release_deks(recorded, &session, self.now())?;
        metrics::counter!("reduit_kms_opens_total").increment(1);
        metrics::counter!("reduit_kms_items_released_total").increment(items);
        metrics::histogram!("reduit_kms_open_seconds").record(began.elapsed().as_secs_f64());
        Ok(reply)
    }
}
