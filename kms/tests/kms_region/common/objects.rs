//! Objects as gateways leave them behind: sealed under a lease, opened with a key that the KMS released.

use bytes::Bytes;
use envelope::{
    DekSalt, NameCommitment, NameSalt, ObjectContext, PartNumber, SealedKey, SealingLease, Suite,
};
use proto::ids::{DatasetId, LeaseId, ObjectVersionId};
use proto::v1;
use tonic::Status;

use super::{Caller, Session, random, region_id};

/// What objects say where a test does not care.
pub(crate) const BODY: &[u8] = b"telemetry that nobody else may read";

/// The dataset of the tests that need one.
pub(crate) const DATASET: [u8; 16] = [0xD5; 16];

/// Sealed bytes, and what the catalog keeps of them.
pub(crate) struct Sealed {
    pub bytes: Vec<u8>,
    pub context: ObjectContext,
    pub item: v1::OpenItem,
}

/// Seals an object under a lease that the KMS gave.
pub(crate) fn seal(
    dataset: [u8; 16],
    body: &[u8],
    reply: &v1::IssueLeaseReply,
    session: &Session,
) -> Sealed {
    let id = LeaseId::try_from(reply.lease_id.as_ref()).expect("a lease id");
    let sealed = SealedKey::try_from(reply.sealed_lease_key.as_ref()).expect("a sealed key");
    let lease: SealingLease = session
        .receiver
        .receive_lease(&sealed, id, &session.aad())
        .expect("the lease key");
    let (salt, name_salt) = (
        DekSalt::random().expect("room"),
        NameSalt::random().expect("room"),
    );
    let context = ObjectContext {
        suite: Suite::Cobblestone256,
        region: region_id(),
        dataset: DatasetId(dataset),
        version: ObjectVersionId(random()),
        name: NameCommitment::of(&name_salt, &"a/b.json".parse().expect("a key")),
    };
    let dek = lease.seal_dek(&salt, &context).expect("room");
    let bytes = dek.seal_part(PartNumber::FIRST, body).expect("sealed");
    let item = v1::OpenItem {
        token: reply.token.clone(),
        version_id: context.version.into(),
        dek_salt: Bytes::copy_from_slice(salt.as_bytes()),
        name_commitment: Bytes::copy_from_slice(context.name.as_bytes()),
        bytes: body.len() as u64,
    };
    Sealed {
        bytes,
        context,
        item,
    }
}

/// Opens an object with a DEK that the KMS released.
pub(crate) fn open(sealed: &Sealed, reply: &v1::OpenReply, session: &Session) -> Vec<u8> {
    let key = SealedKey::try_from(reply.keys[0].sealed_dek.as_ref()).expect("a sealed DEK");
    let dek = session
        .receiver
        .receive_dek(&key, sealed.context.clone(), &session.aad())
        .expect("the DEK of this object");
    dek.open_part(PartNumber::FIRST, &sealed.bytes)
        .expect("opens")
}

/// What a caller states.
pub(crate) fn claim(purpose: &str) -> v1::Claim {
    v1::Claim {
        purpose: purpose.to_owned(),
        ..v1::Claim::default()
    }
}

/// An object of a dataset whose key is made with it.
pub(crate) async fn sealed_object(app: &Caller) -> Sealed {
    app.create_key(DATASET).await.expect("a key");
    app.put_object(DATASET).await.expect("an object")
}

/// What one disables, rotates or enables a key with.
pub(crate) fn change() -> v1::KeyChangeRequest {
    v1::KeyChangeRequest {
        dataset_id: Bytes::copy_from_slice(&DATASET),
        claim: None,
        request_id: Bytes::copy_from_slice(&random::<16>()),
    }
}

impl Caller {
    /// Seals an object of [`BODY`] under a lease of a dataset that has a key.
    pub(crate) async fn put_object(&self, dataset: [u8; 16]) -> Result<Sealed, Status> {
        let (reply, session) = self.lease(dataset).await?;
        Ok(seal(dataset, BODY, &reply, &session))
    }

    /// Opens an object. Fails where the KMS does, or gives no key for it.
    pub(crate) async fn get_object(&self, object: &Sealed) -> Result<Vec<u8>, Status> {
        let dataset = object.context.dataset.0;
        let (claim, items) = (v1::Claim::default(), vec![object.item.clone()]);
        let (reply, session) = self.open(dataset, random(), claim, items).await?;
        if reply.keys[0].sealed_dek.is_empty() {
            return Err(Status::failed_precondition("no key"));
        }
        Ok(open(object, &reply, &session))
    }
}
