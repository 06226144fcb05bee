//! Objects apart from a living region: a copy of their catalog entry and sealed bytes, from a disk or a backup.
//!
//! Owns the way back from such a copy: through a KMS, recorded like any other opening. What a KMS of another region
//! makes of it is the whole point of this product, and what the demo's enemy tries.

use bytes::Bytes;
use envelope::{
    Manifest, NameCommitment, NameSalt, ObjectContext, OpenDek, OpenError, StreamHeader, Suite,
};
use proto::ids::{DatasetId, ObjectKey, ObjectVersionId, RegionId};
use proto::v1;

use crate::dataset::agree;
use crate::error::Error;
use crate::opens::{self, Ask};
use crate::region::Region;

/// A copy of one object version.
#[derive(Debug, Clone)]
pub struct DetachedObject {
    /// The region it was sealed in.
    pub region: RegionId,
    /// Its dataset.
    pub dataset: DatasetId,
    /// Its key.
    pub key: ObjectKey,
    /// Its catalog entry.
    pub entry: v1::ObjectEntry,
    /// The token of the lease it was sealed under.
    pub token: Bytes,
    /// Its sealed stream, the inline bytes or its blocks in order; of one in parts, their streams in order.
    pub sealed: Bytes,
}

impl Region {
    /// Asks this region's KMS to open a copied object, under `claim`.
    pub async fn open_detached(
        &self,
        copy: &DetachedObject,
        claim: v1::Claim,
    ) -> Result<Bytes, Error> {
        let entry = &copy.entry;
        let salt = NameSalt::try_from(&entry.name_salt[..]).map_err(|_| Error::Protocol {
            what: "a name salt of another length",
        })?;
        let context = ObjectContext {
            suite: Suite::Cobblestone256,
            region: copy.region.clone(),
            dataset: copy.dataset,
            version: ObjectVersionId::try_from(&entry.version_id[..])?,
            name: NameCommitment::of(&salt, &copy.key),
        };
        let ask = Ask {
            context,
            token: copy.token.clone(),
            dek_salt: entry.dek_salt.clone(),
            plain_bytes: entry.plain_bytes,
        };
        let opened = opens::request(&self.0, copy.dataset, claim, vec![ask]).await?;
        let opened = opened.into_iter().next().ok_or(Error::Protocol {
            what: "no key in the answer",
        })??;
        let manifest = opened
            .dek
            .open_manifest(&entry.sealed_manifest)
            .map_err(Error::NotAuthentic)?;
        agree(&manifest, entry)?;
        let plain = streams(&opened.dek, &manifest, copy.sealed.clone());
        plain.map_err(Error::NotAuthentic)
    }
}

/// The plaintext of the streams that the manifest names, which lie one after the other.
fn streams(dek: &OpenDek, manifest: &Manifest, mut sealed: Bytes) -> Result<Bytes, OpenError> {
    if manifest.sealed_total() != sealed.len() as u64 {
        return Err(OpenError);
    }
    let mut plain = Vec::new();
    for part in manifest.parts() {
        let length = usize::try_from(part.sealed).map_err(|_| OpenError)?;
        // Their sum was compared above.
        let stream = sealed.split_to(length);
        let (header, _) = StreamHeader::split(&stream)?;
        // Another stream of the part, sealed under the same key: one that was replaced, say.
        if !part.matches(&header) {
            return Err(OpenError);
        }
        plain.append(&mut dek.open_part(part.number, &stream)?);
    }
    Ok(plain.into())
}

#[cfg(test)]
mod tests {
    use envelope::{
        DekSalt, Encapsulated, LeaseKey, ManifestPart, PartNumber, SealDek, SealedKey, SessionInfo,
        SessionOffer,
    };
    use proto::ids::LeaseId;

    use super::*;

    fn keys() -> (SealDek, OpenDek) {
        let region: RegionId = "ch-zrh".parse().expect("a region");
        let context = ObjectContext {
            suite: Suite::Cobblestone256,
            region: region.clone(),
            dataset: DatasetId([4; 16]),
            version: ObjectVersionId([5; 16]),
            name: NameCommitment([6; 32]),
        };
        let lease = LeaseKey::generate(region, LeaseId([1; 16])).expect("room");
        let open = lease.open_dek(&DekSalt::random().expect("room"), &context);
        let open = open.expect("room");
        let info = SessionInfo::of(&[b"here"]);
        let offer = SessionOffer::generate().expect("room");
        let (answer, sender) = envelope::establish(&offer.public(), &info).expect("an offer");
        let answer = Encapsulated::try_from(&answer.as_bytes()[..]).expect("well formed");
        let receiver = offer.accept(&answer, &info).expect("accepts");
        let sealed = sender.send_upload_dek(&open, b"").expect("sends");
        let sealed = SealedKey::try_from(&sealed.as_bytes()[..]).expect("well formed");
        let seal = receiver.receive_upload_dek(&sealed, context, b"");
        (seal.expect("receives"), open)
    }

    #[test]
    fn another_stream_of_the_same_part_is_not_taken_for_it() {
        let (seal, open) = keys();
        let stream = |number, plain: &[u8]| seal.seal_part(PartNumber(number), plain);
        let [one, two, replaced] = [
            stream(1, b"one").expect("seals"),
            stream(7, b"two").expect("seals"),
            stream(7, b"old").expect("seals"),
        ];
        let part = |number, stream: &[u8]| {
            let (header, _) = StreamHeader::split(stream).expect("a header");
            ManifestPart::new(PartNumber(number), 3, &header).expect("short")
        };
        let manifest = Manifest::new(vec![part(1, &one), part(7, &two)], Vec::new());
        let manifest = manifest.expect("a manifest");
        let opened = |parts: &[&[u8]]| streams(&open, &manifest, parts.concat().into());
        assert_eq!(opened(&[&one, &two]).expect("opens"), b"onetwo"[..]);
        assert!(opened(&[&one, &replaced]).is_err(), "it was replaced");
        assert!(opened(&[&two, &one]).is_err());
        assert!(opened(&[&one, &two, &two]).is_err());
        assert!(opened(&[&one]).is_err());
    }
}
