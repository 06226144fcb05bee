//! This replica's PKCS#11 token: a key that it made and does not give out, and what the key answers.
//!
//! Owns the library, one use of it at a time: load, initialise, log in, work, finalise, so that neither a session nor
//! the PIN outlives the use. Refuses another token than the one a seal was made with, a key that could be read out of
//! it, a PIN that others can read, and to try a PIN that is known to be wrong or whose failure would lock the token.
//! Everything here blocks: [`Token::run`] is the way in.

use std::fs::Metadata;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::RawAuthPin;
use envelope::{HALF_BYTES, TokenHalf, TokenSealError, TokenSealId};
use parking_lot::Mutex;
use zeroize::Zeroizing;

use crate::config::{PinSource, Pkcs11Config};

/// PKCS#11 is initialised once in a process, and replicas of a test share one.
static ONE: Mutex<()> = Mutex::new(());
/// How long a use waits for the one before it.
const TURN_MAX: Duration = Duration::from_secs(5);
/// How long a token may take, its turn included.
const ANSWER_MAX: Duration = Duration::from_secs(20);
const PIN_BYTES_MAX: u64 = 256;

/// Why the token gave nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    /// This replica is not told of any.
    #[error("this replica has no token: [seal.pkcs11] is not in its configuration")]
    NotConfigured,
    /// The library.
    #[error("{} is not a PKCS#11 module that loads: {why}", module.display())]
    Module {
        /// Which file.
        module: PathBuf,
        /// What the loader said.
        why: String,
    },
    /// No token of that label.
    #[error("no token labelled {label} is there: is it plugged in, and is this the right module?")]
    Absent {
        /// The label sought.
        label: String,
    },
    /// One of that label, and not the one meant.
    #[error(
        "the token labelled {label} has serial number {found}, and the seal was made with the one with {expected}"
    )]
    Other {
        /// Its label.
        label: String,
        /// Serial number found.
        found: String,
        /// Serial number on record.
        expected: String,
    },
    /// More than one of that label.
    #[error("{count} tokens are labelled {label}: give them labels of their own")]
    Ambiguous {
        /// Their label.
        label: String,
        /// How many.
        count: usize,
    },
    /// No PIN.
    #[error("there is no PIN in {from}: {why}")]
    NoPin {
        /// Where it was sought.
        from: String,
        /// Why not.
        why: String,
    },
    /// The PIN's file can be read by others.
    #[error("others can read {}: its mode is {mode:o}, and must be 600", file.display())]
    PinOpen {
        /// Which file.
        file: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Tried once.
    #[error("the token refuses the PIN in {from}. It is not tried again until that changes")]
    PinWrong {
        /// Where it came from.
        from: String,
    },
    /// Not tried.
    #[error(
        "the PIN in {from} was refused before and has not changed since: not tried, so that the token does not lock"
    )]
    PinWrongBefore {
        /// Where it came from.
        from: String,
    },
    /// Not tried.
    #[error(
        "the token says that one more wrong PIN locks it: not tried; log in with the token's own tool first, which \
         resets its count"
    )]
    PinLastTry,
    /// Too late.
    #[error(
        "the token's PIN is locked: its security officer sets a new one; custodians can unseal meanwhile"
    )]
    PinLocked,
    /// The key is gone.
    #[error("the token has no key for seal {0}")]
    NoKey(String),
    /// Two keys of one name.
    #[error("the token has more than one key for seal {0}")]
    TwoKeys(String),
    /// A key that is no seal.
    #[error("the token would give its key for seal {0} out: it is not used")]
    Exportable(String),
    /// Still there.
    #[error("the token still has its key for seal {0} after it was deleted")]
    NotDeleted(String),
    /// What came is no half.
    #[error("the token's answer")]
    Answer(#[source] TokenSealError),
    /// Others use it.
    #[error("the token is in use: try again")]
    Busy,
    /// Nothing came.
    #[error("the token did not answer within {} s", ANSWER_MAX.as_secs())]
    Silent,
    /// Anything else that it says.
    #[error("the token failed: {0}")]
    Device(String),
}

fn device(error: Error) -> TokenError {
    match error {
        Error::Pkcs11(RvError::PinLocked, _) => TokenError::PinLocked,
        error => TokenError::Device(error.to_string()),
    }
}

/// Which token there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) serial: String,
    pub(crate) label: String,
}

/// What a PIN was read from, to know it again without keeping it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum PinMark {
    Environment,
    File {
        inode: u64,
        changed: (i64, i64),
        bytes: u64,
    },
}

impl PinMark {
    fn of(file: &Metadata) -> Self {
        Self::File {
            inode: file.ino(),
            changed: (file.ctime(), file.ctime_nsec()),
            bytes: file.len(),
        }
    }
}

/// The token, as the configuration names it.
pub(crate) struct Token {
    config: Pkcs11Config,
    /// Loaded once and never unloaded: libraries that end badly do so with the process.
    library: Mutex<Option<Pkcs11>>,
    /// The PIN that was refused last.
    refused: Mutex<Option<PinMark>>,
}

impl Token {
    /// Touches nothing yet.
    pub(crate) fn new(config: Pkcs11Config) -> Self {
        Self {
            config,
            library: Mutex::new(None),
            refused: Mutex::new(None),
        }
    }

    /// What the token's keys are labelled with.
    pub(crate) fn key_label(&self) -> &str {
        &self.config.key
    }

    /// Works with the token on a thread that may block.
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, TokenError> + Send + 'static,
    ) -> Result<T, TokenError> {
        let token = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&token));
        match tokio::time::timeout(ANSWER_MAX, done).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_stopping) => Err(TokenError::Busy),
            },
            Err(_) => Err(TokenError::Silent),
        }
    }

    /// Which token is there. No PIN is tried.
    pub(crate) fn look(&self) -> Result<Seen, TokenError> {
        self.with(|library| {
            let (_, info) = self.slot(library, None)?;
            if info.user_pin_locked() {
                return Err(TokenError::PinLocked);
            }
            Ok(seen(&info))
        })
    }

    /// Makes the key of a new seal, and answers its challenge.
    pub(crate) fn provision(
        &self,
        id: TokenSealId,
        challenge: &[u8],
    ) -> Result<(Seen, TokenHalf), TokenError> {
        self.with(|library| {
            let (slot, info) = self.slot(library, None)?;
            let session = library.open_rw_session(slot).map_err(device)?;
            self.login(&session, &info)?;
            let key = session
                .generate_key(&Mechanism::GenericSecretKeyGen, &self.key_template(id))
                .map_err(device)?;
            let answered = kept(&session, key, id).and_then(|()| answer(&session, key, challenge));
            match answered {
                Ok(half) => Ok((seen(&info), half)),
                Err(error) => {
                    // Nothing was sealed under it.
                    let _ = session.destroy_object(key);
                    Err(error)
                }
            }
        })
    }

    /// The half of a seal that was made with the token of this serial number.
    pub(crate) fn half(
        &self,
        serial: &str,
        id: TokenSealId,
        challenge: &[u8],
    ) -> Result<TokenHalf, TokenError> {
        self.with(|library| {
            let (slot, info) = self.slot(library, Some(serial))?;
            let session = library.open_ro_session(slot).map_err(device)?;
            self.login(&session, &info)?;
            let key = find(&session, id)?.ok_or_else(|| TokenError::NoKey(name(id)))?;
            kept(&session, key, id)?;
            answer(&session, key, challenge)
        })
    }

    /// Deletes the key of a seal, and looks that it is gone. It may have been before.
    pub(crate) fn delete(&self, serial: &str, id: TokenSealId) -> Result<(), TokenError> {
        self.with(|library| {
            let (slot, info) = self.slot(library, Some(serial))?;
            let session = library.open_rw_session(slot).map_err(device)?;
            self.login(&session, &info)?;
            if let Some(key) = find(&session, id)? {
                session.destroy_object(key).map_err(device)?;
            }
            match find(&session, id)? {
                None => Ok(()),
                Some(_) => Err(TokenError::NotDeleted(name(id))),
            }
        })
    }

    fn with<T>(
        &self,
        work: impl FnOnce(&Pkcs11) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let _one = ONE.try_lock_for(TURN_MAX).ok_or(TokenError::Busy)?;
        let library = self.library()?;
        let args = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
        match library.initialize(args) {
            // An earlier use could not end it.
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(device(error)),
        }
        let outcome = work(&library);
        // Sessions are closed by now; what the library remembers of the login goes with it.
        if let Err(error) = library.finalize() {
            tracing::warn!(%error, "the PKCS#11 module does not end its use");
        }
        outcome
    }

    fn library(&self) -> Result<Pkcs11, TokenError> {
        let mut library = self.library.lock();
        if let Some(library) = &*library {
            return Ok(library.clone());
        }
        let loaded = Pkcs11::new(&self.config.module).map_err(|error| TokenError::Module {
            module: self.config.module.clone(),
            why: error.to_string(),
        })?;
        Ok(library.insert(loaded).clone())
    }

    fn slot(
        &self,
        library: &Pkcs11,
        serial: Option<&str>,
    ) -> Result<(Slot, TokenInfo), TokenError> {
        let label = &self.config.token;
        let mut found = Vec::new();
        for slot in library.get_slots_with_token().map_err(device)? {
            // A slot that does not answer is none of ours.
            let Ok(info) = library.get_token_info(slot) else {
                continue;
            };
            if info.label() == label {
                found.push((slot, info));
            }
        }
        let count = found.len();
        let label = label.clone();
        match (serial, found.pop()) {
            (_, None) => Err(TokenError::Absent { label }),
            (None, Some(one)) if count == 1 => Ok(one),
            (None, Some(_)) => Err(TokenError::Ambiguous { label, count }),
            (Some(serial), Some(last)) => {
                let other = last.1.serial_number().to_owned();
                let mut found = found.into_iter().chain([last]);
                found
                    .find(|(_, info)| info.serial_number() == serial)
                    .ok_or_else(|| TokenError::Other {
                        label,
                        found: other,
                        expected: serial.to_owned(),
                    })
            }
        }
    }

    fn login(&self, session: &Session, info: &TokenInfo) -> Result<(), TokenError> {
        if info.user_pin_locked() {
            return Err(TokenError::PinLocked);
        }
        if info.user_pin_final_try() {
            return Err(TokenError::PinLastTry);
        }
        let (pin, mark) = self.pin()?;
        let from = self.config.pin.to_string();
        let mut refused = self.refused.lock();
        if refused.as_ref() == Some(&mark) {
            return Err(TokenError::PinWrongBefore { from });
        }
        match session.login_with_raw(UserType::User, &pin) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                *refused = None;
                Ok(())
            }
            Err(Error::Pkcs11(
                RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange,
                _,
            )) => {
                *refused = Some(mark);
                Err(TokenError::PinWrong { from })
            }
            Err(error) => Err(device(error)),
        }
    }

    fn pin(&self) -> Result<(RawAuthPin, PinMark), TokenError> {
        let no_pin = |why: &dyn std::fmt::Display| TokenError::NoPin {
            from: self.config.pin.to_string(),
            why: why.to_string(),
        };
        let (bytes, mark) = match &self.config.pin {
            PinSource::Environment(name) => {
                let value = std::env::var_os(name).ok_or_else(|| no_pin(&"it is not set"))?;
                (
                    Zeroizing::new(value.into_encoded_bytes()),
                    PinMark::Environment,
                )
            }
            PinSource::File(path) => {
                read_pin(path).map_err(|refused| refused.unwrap_or_else(&no_pin))?
            }
        };
        let pin = bytes.trim_ascii();
        if pin.is_empty() {
            return Err(no_pin(&"it is empty"));
        }
        Ok((RawAuthPin::new(Box::new(pin.to_vec())), mark))
    }

    fn key_template(&self, id: TokenSealId) -> Vec<Attribute> {
        vec![
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::GENERIC_SECRET),
            Attribute::ValueLen((HALF_BYTES as u64).into()),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
            Attribute::Verify(false),
            Attribute::Encrypt(false),
            Attribute::Decrypt(false),
            Attribute::Wrap(false),
            Attribute::Unwrap(false),
            Attribute::Derive(false),
            Attribute::Label(self.config.key.clone().into_bytes()),
            Attribute::Id(id.0.to_vec()),
        ]
    }
}

/// A refusal of its own, or what the system said.
enum PinFile {
    Refused(TokenError),
    System(std::io::Error),
}

impl PinFile {
    fn unwrap_or_else(self, no_pin: &dyn Fn(&dyn std::fmt::Display) -> TokenError) -> TokenError {
        match self {
            Self::Refused(error) => error,
            Self::System(error) => no_pin(&error),
        }
    }
}

fn read_pin(path: &Path) -> Result<(Zeroizing<Vec<u8>>, PinMark), PinFile> {
    let file = std::fs::File::open(path).map_err(PinFile::System)?;
    let about = file.metadata().map_err(PinFile::System)?;
    let mode = about.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(PinFile::Refused(TokenError::PinOpen {
            file: path.to_owned(),
            mode,
        }));
    }
    // As much room as there may be: a buffer that grew would leave a copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(PIN_BYTES_MAX as usize + 1));
    file.take(PIN_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(PinFile::System)?;
    Ok((bytes, PinMark::of(&about)))
}

fn seen(info: &TokenInfo) -> Seen {
    Seen {
        serial: info.serial_number().to_owned(),
        label: info.label().to_owned(),
    }
}

fn name(id: TokenSealId) -> String {
    hex::encode(id.0)
}

fn find(session: &Session, id: TokenSealId) -> Result<Option<ObjectHandle>, TokenError> {
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::Token(true),
        Attribute::Id(id.0.to_vec()),
    ];
    let found = session.find_objects(&template).map_err(device)?;
    match found[..] {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        _ => Err(TokenError::TwoKeys(name(id))),
    }
}

/// A key that could leave the token is half of no seal.
fn kept(session: &Session, key: ObjectHandle, id: TokenSealId) -> Result<(), TokenError> {
    let asked = [AttributeType::Sensitive, AttributeType::Extractable];
    let said = session.get_attributes(key, &asked).map_err(device)?;
    let kept =
        said.contains(&Attribute::Sensitive(true)) && said.contains(&Attribute::Extractable(false));
    match kept {
        true => Ok(()),
        false => Err(TokenError::Exportable(name(id))),
    }
}

fn answer(session: &Session, key: ObjectHandle, challenge: &[u8]) -> Result<TokenHalf, TokenError> {
    let answer = session
        .sign(&Mechanism::Sha256Hmac, key, challenge)
        .map_err(device)?;
    TokenHalf::take(answer).map_err(TokenError::Answer)
}
