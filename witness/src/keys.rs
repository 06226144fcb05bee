//! The witness's signing keys: made here, kept in files of mode 0600, and nowhere else.
//!
//! Owns those files. Refuses to overwrite one, to read one that others on the host can read, and keys that do not
//! cosign: a key of type 0x01 is a log's.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tlog::{KeyName, SEED_BYTES, SignatureType, SignerKey, VerifierKey};
use zeroize::Zeroizing;

use crate::durable;

/// A key's text is a line of a name and 44 characters.
const KEY_FILE_BYTES_MAX: u64 = 4096;

/// How a cosigner signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Algorithm {
    /// Type 0x04: what every log and verifier understands.
    Ed25519,
    /// Type 0x06: for when Ed25519 no longer holds.
    #[value(name = "ml-dsa-44")]
    MlDsa44,
}

impl Algorithm {
    fn signature_type(self) -> SignatureType {
        match self {
            Self::Ed25519 => SignatureType::Ed25519Cosignature,
            Self::MlDsa44 => SignatureType::MlDsa44Cosignature,
        }
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file could not be read or written. It is never overwritten.
    #[error("key file {}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Somebody else on the host can read the private key.
    #[error("key file {} has mode {mode:o}; group and others must have no access (chmod 600)", path.display())]
    Readable {
        /// Which file.
        path: PathBuf,
        /// Permission bits found.
        mode: u32,
    },
    /// Other text than a key's.
    #[error("key file {} holds no key", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: tlog::KeyError,
    },
    /// A log's key.
    #[error("key file {} holds a log's key, which does not cosign", path.display())]
    NotACosigner {
        /// Which file.
        path: PathBuf,
    },
    /// The system gave no randomness.
    #[error("the system gave no randomness for a key")]
    Random,
}

/// Makes a key of fresh randomness in a new file and answers its public half.
pub fn generate(
    name: &KeyName,
    algorithm: Algorithm,
    path: &Path,
) -> Result<VerifierKey, KeyFileError> {
    let mut seed = Zeroizing::new([0; SEED_BYTES]);
    aws_lc_rs::rand::fill(seed.as_mut_slice()).map_err(|_| KeyFileError::Random)?;
    let kind = algorithm.signature_type();
    let key = |source| KeyFileError::Key {
        path: path.to_owned(),
        source,
    };
    let text = SignerKey::text_of(name, kind, &seed).map_err(key)?;
    let signer = SignerKey::from_seed(name.clone(), kind, &seed).map_err(key)?;
    durable::create_private(path, text.as_bytes()).map_err(|source| KeyFileError::File {
        path: path.to_owned(),
        source,
    })?;
    Ok(signer.verifier().clone())
}

/// Reads a cosigner's key that only its owner can read.
pub fn load(path: &Path) -> Result<SignerKey, KeyFileError> {
    let failed = |source| KeyFileError::File {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    // Of the opened file, not of the path: what is checked is what is read.
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let path = path.to_owned();
        return Err(KeyFileError::Readable { path, mode });
    }
    let mut text = Zeroizing::new(String::with_capacity(KEY_FILE_BYTES_MAX as usize));
    file.take(KEY_FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(failed)?;
    let key = SignerKey::parse(text.trim_end()).map_err(|source| KeyFileError::Key {
        path: path.to_owned(),
        source,
    })?;
    match key.verifier().kind() {
        SignatureType::Ed25519 => Err(KeyFileError::NotACosigner {
            path: path.to_owned(),
        }),
        SignatureType::Ed25519Cosignature | SignatureType::MlDsa44Cosignature => Ok(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> KeyName {
        "witness.example/w1".parse().expect("a name")
    }

    #[test]
    fn a_key_comes_back_from_its_file_and_is_made_once() {
        let folder = tempfile::tempdir().expect("a folder");
        for (file, algorithm) in [("a", Algorithm::Ed25519), ("b", Algorithm::MlDsa44)] {
            let path = folder.path().join(file);
            let public = generate(&name(), algorithm, &path).expect("made");
            let mode = std::fs::metadata(&path)
                .expect("there")
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600);
            assert_eq!(load(&path).expect("read").verifier(), &public);
            let again = generate(&name(), algorithm, &path);
            assert!(matches!(again, Err(KeyFileError::File { .. })));
            assert_eq!(load(&path).expect("the first").verifier(), &public);
        }
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_a_log_s_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        generate(&name(), Algorithm::Ed25519, &path).expect("made");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("set");
        assert!(matches!(
            load(&path),
            Err(KeyFileError::Readable { mode: 0o640, .. })
        ));
        let log = SignerKey::text_of(&name(), SignatureType::Ed25519, &[1; 32]).expect("a key");
        let path = folder.path().join("log");
        durable::create_private(&path, log.as_bytes()).expect("room");
        assert!(matches!(
            load(&path),
            Err(KeyFileError::NotACosigner { .. })
        ));
        let path = folder.path().join("none");
        durable::create_private(&path, b"PRIVATE").expect("room");
        assert!(matches!(load(&path), Err(KeyFileError::Key { .. })));
    }
}
