//! Attesting headers: which commitments streams have if they are keyed as somebody says.
//!
//! Owns the statement, which this replica signs: an auditor compares it with what lies on the nodes' disks, and an
//! offline verifier does again. Refuses everyone but auditors. It uses keys and releases none: a commitment is an
//! output of HKDF beside the key, and tells nothing of it, so no record stands behind it.

use std::sync::Arc;

use bytes::Bytes;
use envelope::{PartNumber, StreamSalt};
use prost::Message as _;
use proto::ids::{DatasetId, Identity, Role};
use proto::transcript::LABEL_ATTEST_HEADERS;
use proto::v1;
use transport::Peer;

use crate::core::{Core, StaleError};
use crate::opens::{OPEN_ITEMS_MAX, OpenError, OpenItem};
use crate::seal::Sealed;

/// Why nothing was attested.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttestError {
    /// The replica is sealed.
    #[error(transparent)]
    Sealed(#[from] Sealed),
    /// Only auditors ask.
    #[error("{0} is not an auditor")]
    NotAuditor(Identity),
    /// A field is not what it must be.
    #[error("the request's {field} is malformed")]
    Malformed {
        /// Which field.
        field: &'static str,
    },
    /// No headers, or too many.
    #[error("a request to attest has 1 to {OPEN_ITEMS_MAX} headers")]
    Items,
    /// A header that names no object version of this dataset and region.
    #[error("a header to attest is malformed")]
    Item(#[source] OpenError),
    /// No such key.
    #[error("there is no key of dataset {dataset}")]
    NoSuchKey {
        /// Of which dataset.
        dataset: DatasetId,
    },
    /// The state could not be read.
    #[error(transparent)]
    Stale(#[from] StaleError),
}

/// A version whose stream's commitment is asked for.
pub(crate) struct Header {
    pub(crate) item: OpenItem,
    pub(crate) salt: StreamSalt,
    pub(crate) part: PartNumber,
}

impl Header {
    fn parse(
        asked: v1::HeaderAsked,
        dataset: DatasetId,
        region: &str,
    ) -> Result<Self, AttestError> {
        let salt = asked.stream_salt.as_ref().try_into();
        let salt = salt.map_err(|_| AttestError::Malformed {
            field: "stream salt",
        })?;
        let item = v1::OpenItem {
            token: asked.token,
            version_id: asked.version_id,
            dek_salt: asked.dek_salt,
            name_commitment: asked.name_commitment,
            bytes: 0,
        };
        Ok(Self {
            item: OpenItem::parse(&item, dataset, region).map_err(AttestError::Item)?,
            salt: StreamSalt(salt),
            part: match asked.part {
                0 => PartNumber::FIRST,
                number => PartNumber(number),
            },
        })
    }
}

impl Core {
    /// Answers a signed statement; a header whose token does not unwrap is in it without a commitment.
    pub(crate) async fn attest_headers(
        self: &Arc<Self>,
        peer: &Peer,
        request: v1::AttestHeadersRequest,
    ) -> Result<v1::AttestHeadersReply, AttestError> {
        if peer.identity.role() != Role::Auditor {
            return Err(AttestError::NotAuditor(peer.identity.clone()));
        }
        self.serving()?;
        if request.headers.is_empty() || request.headers.len() > OPEN_ITEMS_MAX {
            return Err(AttestError::Items);
        }
        let dataset = DatasetId::try_from(request.dataset_id.as_ref());
        let dataset = dataset.map_err(|_| AttestError::Malformed {
            field: "dataset id",
        })?;
        let region = self.config.region.as_str();
        let headers = request.headers.into_iter();
        let headers: Vec<Header> = headers
            .map(|asked| Header::parse(asked, dataset, region))
            .collect::<Result<_, _>>()?;
        let state = self.current().await?;
        let key = kms_state::key(&*state, &dataset).ok_or(AttestError::NoSuchKey { dataset })?;
        drop(state);
        let mut attested = Vec::with_capacity(headers.len());
        for header in &headers {
            attested.push(self.attested(dataset, &key, header)?);
        }
        let statement = v1::HeaderStatement {
            format: 1,
            region: region.to_owned(),
            replica: self.identity().to_string(),
            dataset_id: dataset.into(),
            kek_id: key.kek_id,
            at_ms: self.now().0,
            headers: attested,
        };
        let statement = statement.encode_to_vec();
        let signature = self.local.sign(LABEL_ATTEST_HEADERS, &statement);
        Ok(v1::AttestHeadersReply {
            statement: statement.into(),
            signer: self.local.public_key().as_spki().to_vec().into(),
            signature: signature.to_vec().into(),
        })
    }

    fn attested(
        &self,
        dataset: DatasetId,
        key: &v1::KekRecord,
        header: &Header,
    ) -> Result<v1::AttestedHeader, Sealed> {
        let commitment = match self.custody.commitment(dataset, key, header) {
            Ok(commitment) => Bytes::copy_from_slice(&commitment.0),
            Err(crate::custody::CustodyError::Sealed(sealed)) => return Err(sealed),
            Err(error) => {
                tracing::debug!(%error, "a header is not keyed as said");
                Bytes::new()
            }
        };
        let item = &header.item;
        Ok(v1::AttestedHeader {
            version_id: item.version.into(),
            name_commitment: Bytes::copy_from_slice(&item.name_commitment),
            lease_id: item.lease.into(),
            kek_version: item.kek_version,
            stream_salt: Bytes::copy_from_slice(&header.salt.0),
            commitment,
            part: match header.part {
                PartNumber::FIRST => 0,
                PartNumber(number) => number,
            },
        })
    }
}
