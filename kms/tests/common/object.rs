//! An object as a gateway leaves it behind, and reading it back through a recorded open.

use bytes::Bytes;
use envelope::{
    DekSalt, NameCommitment, NameSalt, ObjectContext, PartNumber, SealedKey, SealingLease, Suite,
};
use proto::ids::{DatasetId, LeaseId, ObjectVersionId};
use proto::v1;
use tonic::Status;

use super::{Caller, random, region_id};

/// What every object here says.
pub(crate) const BODY: &[u8] = b"telemetry that nobody else may read";

/// Sealed bytes, and what the catalog keeps of them.
pub(crate) struct Object {
    bytes: Vec<u8>,
    context: ObjectContext,
    item: v1::OpenItem,
}

impl Caller {
    /// Seals an object under a lease of a dataset that has a key.
    pub(crate) async fn put_object(&self, dataset: [u8; 16]) -> Result<Object, Status> {
        let (reply, session) = self.lease(dataset).await?;
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
        let bytes = dek.seal_part(PartNumber::FIRST, BODY).expect("sealed");
        let item = v1::OpenItem {
            token: reply.token.clone(),
            version_id: context.version.into(),
            dek_salt: Bytes::copy_from_slice(salt.as_bytes()),
            name_commitment: Bytes::copy_from_slice(context.name.as_bytes()),
            bytes: BODY.len() as u64,
        };
        Ok(Object {
            bytes,
            context,
            item,
        })
    }

    /// Opens an object. Fails where the KMS does, or gives no key for it.
    pub(crate) async fn get_object(&self, object: &Object) -> Result<Vec<u8>, Status> {
        let dataset = object.context.dataset.0;
        let (claim, items) = (v1::Claim::default(), vec![object.item.clone()]);
        let (reply, session) = self.open(dataset, random(), claim, items).await?;
        let key = SealedKey::try_from(reply.keys[0].sealed_dek.as_ref());
        let key = key.map_err(|_| Status::failed_precondition("no key"))?;
        let dek = session
            .receiver
            .receive_dek(&key, object.context.clone(), &session.aad())
            .expect("the DEK of this object");
        Ok(dek
            .open_part(PartNumber::FIRST, &object.bytes)
            .expect("opens"))
    }
}
