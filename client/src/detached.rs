//! Objects apart from a living region: a copy of their catalog entry and sealed bytes, from a disk or a backup.
//!
//! Owns the way back from such a copy: through a KMS, recorded like any other opening. What a KMS of another region
//! makes of it is the whole point of this product, and what the demo's enemy tries.

use bytes::Bytes;
use envelope::{NameCommitment, NameSalt, ObjectContext, OpenError, Suite};
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
        if manifest.sealed_total() != copy.sealed.len() as u64 {
            return Err(Error::NotAuthentic(OpenError));
        }
        let (mut plain, mut left) = (Vec::new(), copy.sealed.clone());
        for part in manifest.parts() {
            let length =
                usize::try_from(part.sealed).map_err(|_| Error::NotAuthentic(OpenError))?;
            // Their sum was compared above.
            let stream = left.split_to(length);
            let opened = opened.dek.open_part(part.number, &stream);
            plain.append(&mut opened.map_err(Error::NotAuthentic)?);
        }
        Ok(plain.into())
    }
}
