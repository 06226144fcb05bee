//! Sealing a backup whole, to whoever can rebuild the root key.
//!
//! Owns the backup key, derived from the root key and used for nothing else, and what a stream under it is bound to: the
//! bytes before it in the file. Refuses a stream that follows other bytes. With a root key's end its backups end too.

use crate::cobblestone::{Opener, Sealer, StreamHeader};
use crate::context::{LABEL_BACKUP, LABEL_BACKUP_KEY};
use crate::encode::put_field;
use crate::keys::{KeySlot, RootKey};
use crate::wrap::UnwrapError;
use crate::{KeyError, kdf};

impl RootKey {
    /// Seals a backup, after `start`: the bytes in the clear that come before it.
    pub fn seal_backup(&self, start: &[u8]) -> Result<Sealer, KeyError> {
        Sealer::new(self.backup_key()?.bytes(), &context(start))
    }

    /// Opens a backup that follows `start`.
    ///
    /// # Errors
    /// If it was sealed under another root key, or after other bytes.
    pub fn open_backup(&self, start: &[u8], header: &StreamHeader) -> Result<Opener, UnwrapError> {
        let key = self.backup_key().map_err(UnwrapError::Key)?;
        Opener::new(key.bytes(), header, &context(start)).map_err(|_| UnwrapError::NotAuthentic)
    }

    fn backup_key(&self) -> Result<KeySlot, KeyError> {
        let mut info = Vec::with_capacity(4 + LABEL_BACKUP_KEY.len());
        put_field(&mut info, LABEL_BACKUP_KEY);
        KeySlot::try_new::<KeyError>(|slot| {
            kdf::derive(self.key.bytes(), &self.epoch.0.to_be_bytes(), &info, slot);
            Ok(())
        })
    }
}

fn context(start: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + LABEL_BACKUP.len() + 32);
    put_field(&mut out, LABEL_BACKUP);
    put_field(&mut out, &kdf::sha256(&[start]));
    out
}

#[cfg(test)]
mod tests {
    use proto::ids::RootEpoch;

    use super::*;
    use crate::HEADER_BYTES;

    const START: &[u8] = b"what stands in the clear";
    const PLAIN: &[u8] = b"rows";

    fn root(byte: u8, epoch: u32) -> RootKey {
        let key = KeySlot::try_new::<KeyError>(|bytes| {
            bytes.fill(byte);
            Ok(())
        });
        RootKey {
            epoch: RootEpoch(epoch),
            key: key.expect("room"),
        }
    }

    fn sealed(root: &RootKey) -> Vec<u8> {
        let mut sealer = root.seal_backup(START).expect("room");
        let mut out = Vec::new();
        sealer.update(PLAIN, &mut out).expect("short");
        sealer.finish(&mut out).expect("short");
        out
    }

    fn opened(root: &RootKey, start: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (header, chunks) = StreamHeader::split(sealed).ok()?;
        let mut opener = root.open_backup(start, &header).ok()?;
        let mut out = Vec::new();
        opener.update(chunks, &mut out).ok()?;
        opener.finish(&mut out).ok()?;
        Some(out)
    }

    #[test]
    fn a_backup_opens_under_its_root_key_after_its_own_start_whole_and_not_otherwise() {
        let key = root(1, 2);
        let made = sealed(&key);
        assert_eq!(opened(&key, START, &made).as_deref(), Some(PLAIN));
        assert_eq!(opened(&root(2, 2), START, &made), None, "another root key");
        assert_eq!(opened(&root(1, 3), START, &made), None, "another epoch");
        assert_eq!(opened(&key, b"other", &made), None, "another start");
        assert_eq!(opened(&key, START, &made[..made.len() - 1]), None, "cut");
        for at in 0..made.len() {
            let mut other = made.clone();
            other[at] ^= 1;
            assert_eq!(
                opened(&key, START, &other),
                None,
                "byte {at} of {}",
                HEADER_BYTES
            );
        }
    }
}
