//! A hand-over key: what keys of another region are received under, for one relocation (DESIGN section 8).
//!
//! Owns the pair, born in a destination's KMS, and the two ends of a batch. A batch is a session of its own to that key:
//! one HPKE exchange whose info names everything the batch is for, then one message a key, from slot to slot. Nothing but
//! keys that open crosses, those of object versions and of a dataset's metadata: neither end has a method for any other. The
//! exchange does not say who sealed: the sender signs the whole batch.

use proto::ids::{DatasetId, HandOverKeyId, RegionId};

use crate::KeyError;
use crate::context::ObjectContext;
use crate::hpke_key::{HpkePrivateKey, HpkePublicKey};
use crate::keys::{MetadataKey, OpenDek, OpenMetadata};
use crate::session::{
    Encapsulated, SealedKey, SessionError, SessionInfo, SessionReceiver, SessionSender, establish,
    receiver,
};

/// The private half of a hand-over key. Rests wrapped under the root key; not `Clone`, `Debug`, `PartialEq` or `Serialize`.
pub struct HandOverKey {
    pub(crate) region: RegionId,
    pub(crate) id: HandOverKeyId,
    pub(crate) key: HpkePrivateKey,
}

impl HandOverKey {
    /// A new pair, born random.
    pub fn generate(region: RegionId, id: HandOverKeyId) -> Result<Self, KeyError> {
        let key = HpkePrivateKey::generate()?;
        Ok(Self { region, id, key })
    }

    /// Its id.
    pub fn id(&self) -> HandOverKeyId {
        self.id
    }

    /// The region it was born in.
    pub fn region(&self) -> &RegionId {
        &self.region
    }

    /// What another region's KMS seals to.
    pub fn public(&self) -> HpkePublicKey {
        self.key.public()
    }

    /// Opens a batch. One that was made for another key or purpose is accepted here and then opens nothing, as HPKE's base
    /// mode has it.
    ///
    /// # Errors
    /// If the encapsulation is none, or there is no room for a key.
    pub fn open(
        &self,
        encapsulated: &Encapsulated,
        info: &SessionInfo,
    ) -> Result<HandOverReceiver, SessionError> {
        receiver(&self.key, encapsulated, info).map(HandOverReceiver)
    }
}

/// Begins a batch to a hand-over key.
///
/// # Errors
/// If it is no public key, or there is no room for a key.
pub fn hand_over(
    to: &HpkePublicKey,
    info: &SessionInfo,
) -> Result<(Encapsulated, HandOverSender), SessionError> {
    let (encapsulated, sender) = establish(to, info)?;
    Ok((encapsulated, HandOverSender(sender)))
}

/// The side that hands keys over.
pub struct HandOverSender(SessionSender);

impl HandOverSender {
    /// Sends a DEK to open with. The caller has recorded the release.
    pub fn send(&self, dek: &OpenDek, aad: &[u8]) -> Result<SealedKey, SessionError> {
        self.0.send_dek(dek, aad)
    }

    /// Sends a dataset's metadata key to open with. The caller has recorded the release.
    pub fn send_metadata(&self, key: &MetadataKey, aad: &[u8]) -> Result<SealedKey, SessionError> {
        self.0.hand_metadata_over(key, aad)
    }
}

/// The side that receives them.
pub struct HandOverReceiver(SessionReceiver);

impl HandOverReceiver {
    /// Receives the DEK of the object version that `context` names, of the region that handed it over.
    pub fn receive(
        &self,
        sealed: &SealedKey,
        context: ObjectContext,
        aad: &[u8],
    ) -> Result<OpenDek, SessionError> {
        self.0.receive_dek(sealed, context, aad)
    }

    /// Receives version `version` of the metadata key of a dataset of `region`, which handed it over.
    pub fn receive_metadata(
        &self,
        sealed: &SealedKey,
        (region, dataset, version): (RegionId, DatasetId, u32),
        aad: &[u8],
    ) -> Result<OpenMetadata, SessionError> {
        self.0
            .receive_handed_metadata(sealed, region, dataset, version, aad)
    }
}

#[cfg(test)]
mod tests {
    use proto::ids::{DatasetId, LeaseId, ObjectVersionId};

    use super::*;
    use crate::{
        DekSalt, LeaseKey, MetadataContext, MetadataLease, NameCommitment, PartNumber,
        SealingLease, SessionOffer, Suite,
    };

    fn key() -> HandOverKey {
        let region = "de-fra".parse().expect("a valid region");
        HandOverKey::generate(region, HandOverKeyId([4; 16])).expect("room")
    }

    fn context(version: u8) -> ObjectContext {
        ObjectContext {
            suite: Suite::Cobblestone256,
            region: "ch-zrh".parse().expect("a valid region"),
            dataset: DatasetId([1; 16]),
            version: ObjectVersionId([version; 16]),
            name: NameCommitment([3; 32]),
        }
    }

    fn info(batch: &[u8]) -> SessionInfo {
        SessionInfo::of(&[b"hand-over", batch])
    }

    /// The DEK as the source's KMS derives it, and what a gateway sealed under it.
    fn sealed(version: u8) -> (OpenDek, Vec<u8>) {
        let region = "ch-zrh".parse().expect("a valid region");
        let lease = LeaseKey::generate(region, LeaseId([2; 16])).expect("room");
        let (salt, context) = (DekSalt([5; 32]), context(version));
        let dek = lease.open_dek(&salt, &context).expect("room");
        let sealing = SealingLease {
            id: lease.id,
            key: lease.key,
        };
        let seal = sealing.seal_dek(&salt, &context).expect("room");
        let stream = seal.seal_part(PartNumber::FIRST, b"plain").expect("seals");
        (dek, stream)
    }

    #[test]
    fn what_crossed_opens_in_the_destination_what_was_sealed_in_the_source() {
        let key = key();
        let (dek, stream) = sealed(7);
        let (encapsulated, sender) = hand_over(&key.public(), &info(b"1")).expect("a key");
        let sent = sender.send(&dek, b"aad").expect("sends");
        // Each batch is a session: the key opens as many as come.
        for _ in 0..2 {
            let receiver = key.open(&encapsulated, &info(b"1")).expect("opens");
            let received = receiver.receive(&sent, context(7), b"aad").expect("opens");
            let plain = received
                .open_part(PartNumber::FIRST, &stream)
                .expect("opens");
            assert_eq!(plain, b"plain");
        }
    }

    #[test]
    fn a_batch_opens_under_its_key_info_object_and_aad_alone() {
        let refused = Some(SessionError::NotAuthentic);
        let key = key();
        let (dek, _) = sealed(7);
        let (encapsulated, sender) = hand_over(&key.public(), &info(b"1")).expect("a key");
        let sent = sender.send(&dek, b"aad").expect("sends");
        let receive = |key: &HandOverKey, batch: &[u8], version: u8, aad: &[u8]| {
            let receiver = key.open(&encapsulated, &info(batch)).expect("accepted");
            receiver.receive(&sent, context(version), aad).err()
        };
        assert_eq!(receive(&key, b"1", 7, b"aad"), None);
        assert_eq!(receive(&self::key(), b"1", 7, b"aad"), refused);
        assert_eq!(receive(&key, b"2", 7, b"aad"), refused);
        assert_eq!(receive(&key, b"1", 8, b"aad"), refused);
        assert_eq!(receive(&key, b"1", 7, b"other"), refused);
        let mut changed = *sent.as_bytes();
        changed[20] ^= 1;
        let changed = SealedKey::try_from(&changed[..]).expect("of its length");
        let receiver = key.open(&encapsulated, &info(b"1")).expect("accepted");
        let opened = receiver.receive(&changed, context(7), b"aad");
        assert_eq!(opened.err(), refused);
    }

    #[test]
    fn a_metadata_key_crosses_to_open_what_was_sealed_before_and_as_no_other_key() {
        let region: RegionId = "ch-zrh".parse().expect("a valid region");
        let (dataset, version) = (DatasetId([1; 16]), 3);
        let born = MetadataKey::generate(region.clone(), dataset, version).expect("room");
        let key = key();
        let (encapsulated, sender) = hand_over(&key.public(), &info(b"m")).expect("a key");
        let sent = sender.send_metadata(&born, b"aad").expect("sends");
        let receiver = key.open(&encapsulated, &info(b"m")).expect("opens");
        let context = MetadataContext {
            suite: Suite::Cobblestone256,
            region: region.clone(),
            dataset,
            version: ObjectVersionId([7; 16]),
        };
        let lease = MetadataLease {
            region: region.clone(),
            dataset,
            version,
            key: born.key,
        };
        let sealed = lease.seal(&context, b"tags").expect("seals");
        let of = |dataset, version| (region.clone(), dataset, version);
        let received = receiver.receive_metadata(&sent, of(dataset, version), b"aad");
        let opened = received.expect("opens").open(&context, &sealed);
        assert_eq!(opened.expect("opens"), b"tags");
        let refused = Some(SessionError::NotAuthentic);
        let other = receiver.receive_metadata(&sent, of(DatasetId([2; 16]), version), b"aad");
        assert_eq!(other.err(), refused);
        let newer = receiver.receive_metadata(&sent, of(dataset, 4), b"aad");
        assert_eq!(newer.err(), refused);
        assert_eq!(
            receiver.receive(&sent, self::context(7), b"aad").err(),
            refused
        );
    }

    /// A session within the region and a batch to another one are not taken for each other, whatever their info: the keys
    /// differ, and so do the purposes.
    #[test]
    fn a_session_of_another_offer_opens_nothing_of_a_batch() {
        let key = key();
        let (dek, _) = sealed(7);
        let (encapsulated, sender) = hand_over(&key.public(), &info(b"1")).expect("a key");
        let sent = sender.send(&dek, b"aad").expect("sends");
        let offer = SessionOffer::generate().expect("room");
        let other = offer.accept(&encapsulated, &info(b"1")).expect("accepted");
        let opened = other.receive_dek(&sent, context(7), b"aad");
        assert_eq!(opened.err(), Some(SessionError::NotAuthentic));
    }
}
