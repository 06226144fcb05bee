//! Salted fingerprints of every key this process made: for tests that search disks and memory for
//! keys.
//!
//! Owns the registry, its line format and the scanner. Exists only under `danger_scannable_keys`,
//! which is refused in release builds: a fingerprint confirms a guess of a key and helps nobody
//! without one, but it has no place in production. Holds no key bytes.
//!
//! A scanner that knows fingerprints but no keys must find a key at any offset, so each fingerprint
//! has a rolling hash over 32 bytes, which is cheap to move by a byte, and a SHA-256 that confirms
//! a hit. Longer keys leave one for each 32 bytes.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::kdf;

/// Bytes that a fingerprint covers.
const WINDOW: usize = 32;
const STRONG_BYTES: usize = 16;
const PREFIX: &str = "reduit-key-fingerprint-v1";
/// Bits of the filter in front of the map: most offsets of a scan end there.
const FILTER_BITS: u32 = 20;

/// What daemons of one test run share, so that one scan looks for the keys of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Salt(pub [u8; 32]);

/// One key's fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    rolling: u64,
    strong: [u8; STRONG_BYTES],
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{PREFIX} {:016x} {:032x}",
            self.rolling,
            u128::from_be_bytes(self.strong)
        )
    }
}

/// A line that is not a fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a key fingerprint")]
pub struct NotAFingerprint;

impl FromStr for Fingerprint {
    type Err = NotAFingerprint;
    fn from_str(line: &str) -> Result<Self, NotAFingerprint> {
        let mut words = line.split_ascii_whitespace();
        let (Some(PREFIX), Some(rolling), Some(strong), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(NotAFingerprint);
        };
        let rolling = u64::from_str_radix(rolling, 16).map_err(|_| NotAFingerprint)?;
        let strong = u128::from_str_radix(strong, 16).map_err(|_| NotAFingerprint)?;
        Ok(Self {
            rolling,
            strong: strong.to_be_bytes(),
        })
    }
}

/// A key was made before the salt was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("keys were made before their fingerprints were asked for")]
pub struct TooLate;

struct Registry {
    salt: Salt,
    hook: Option<fn(&Fingerprint)>,
    all: Vec<Fingerprint>,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry {
    salt: Salt([0; 32]),
    hook: None,
    all: Vec::new(),
});

fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets the salt, and what is called with the fingerprint of each key from now on, such as a print.
/// A daemon calls it first of all. `hook` must not make keys.
///
/// # Errors
/// If a key was made already: a search with this salt would miss it.
pub fn install(salt: Salt, hook: fn(&Fingerprint)) -> Result<(), TooLate> {
    let mut registry = registry();
    if !registry.all.is_empty() {
        return Err(TooLate);
    }
    registry.salt = salt;
    registry.hook = Some(hook);
    Ok(())
}

/// Every fingerprint so far, and the salt they were made with.
pub fn all() -> (Salt, Vec<Fingerprint>) {
    let registry = registry();
    (registry.salt, registry.all.clone())
}

pub(crate) fn record(key: &[u8]) {
    let mut registry = registry();
    let salt = registry.salt;
    for window in key.windows(WINDOW).step_by(WINDOW) {
        let fingerprint = Fingerprint {
            rolling: Roller::new(&salt).of(window),
            strong: strong(&salt, window),
        };
        registry.all.push(fingerprint);
        if let Some(hook) = registry.hook {
            hook(&fingerprint);
        }
    }
}

fn strong(salt: &Salt, window: &[u8]) -> [u8; STRONG_BYTES] {
    let hash = kdf::scrubbed(|| kdf::sha256(&[b"reduit/v1/key-fingerprint", &salt.0, window]));
    let mut out = [0; STRONG_BYTES];
    out.copy_from_slice(&hash[..STRONG_BYTES]);
    out
}

/// A polynomial hash modulo 2^64 whose base is the salt's.
struct Roller {
    base: u64,
    /// base^WINDOW: what the byte that leaves the window was multiplied with.
    leaving: u64,
}

impl Roller {
    fn new(salt: &Salt) -> Self {
        let mut base = [0; 8];
        base.copy_from_slice(&kdf::sha256(&[b"reduit/v1/key-rolling", &salt.0])[..8]);
        // Odd, so that no byte is multiplied away.
        let base = u64::from_be_bytes(base) | 1;
        Self {
            base,
            leaving: base.wrapping_pow(WINDOW as u32),
        }
    }

    fn push(&self, hash: u64, byte: u8) -> u64 {
        // + 1, so that leading zeros count.
        hash.wrapping_mul(self.base)
            .wrapping_add(u64::from(byte) + 1)
    }

    fn slide(&self, hash: u64, leaves: u8, enters: u8) -> u64 {
        self.push(hash, enters)
            .wrapping_sub(self.leaving.wrapping_mul(u64::from(leaves) + 1))
    }

    fn of(&self, window: &[u8]) -> u64 {
        window.iter().fold(0, |hash, byte| self.push(hash, *byte))
    }
}

/// Searches bytes for keys by their fingerprints.
pub struct Scanner {
    salt: Salt,
    roller: Roller,
    filter: Vec<u64>,
    strong: HashMap<u64, Vec<[u8; STRONG_BYTES]>>,
}

impl Scanner {
    /// A scanner for `fingerprints`, all made with `salt`.
    pub fn new(salt: Salt, fingerprints: impl IntoIterator<Item = Fingerprint>) -> Self {
        let mut filter = vec![0u64; 1 << (FILTER_BITS - 6)];
        let mut strong: HashMap<u64, Vec<_>> = HashMap::new();
        for fingerprint in fingerprints {
            let (word, bit) = Self::slot(fingerprint.rolling);
            filter[word] |= 1 << bit;
            strong
                .entry(fingerprint.rolling)
                .or_default()
                .push(fingerprint.strong);
        }
        Self {
            salt,
            roller: Roller::new(&salt),
            filter,
            strong,
        }
    }

    /// Offsets in `bytes` at which a key starts. Pieces of a long search overlap by 31 bytes.
    pub fn scan(&self, bytes: &[u8]) -> Vec<usize> {
        let Some(first) = bytes.get(..WINDOW) else {
            return Vec::new();
        };
        let mut hash = self.roller.of(first);
        let mut hits = Vec::new();
        for start in 0.. {
            let (word, bit) = Self::slot(hash);
            if self.filter[word] >> bit & 1 == 1
                && self.confirmed(hash, &bytes[start..start + WINDOW])
            {
                hits.push(start);
            }
            let Some(enters) = bytes.get(start + WINDOW) else {
                break;
            };
            hash = self.roller.slide(hash, bytes[start], *enters);
        }
        hits
    }

    fn confirmed(&self, hash: u64, window: &[u8]) -> bool {
        self.strong
            .get(&hash)
            .is_some_and(|known| known.contains(&strong(&self.salt, window)))
    }

    /// High bits: the low ones of a product modulo 2^64 mix least.
    fn slot(hash: u64) -> (usize, u64) {
        let index = hash >> (64 - FILTER_BITS);
        ((index >> 6) as usize, index & 63)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, SeekFrom};

    use super::*;
    use crate::keys::KeySlot;

    #[test]
    fn a_key_is_found_at_any_offset_and_nothing_else_is() {
        let key = KeySlot::random().expect("room");
        let (salt, all) = all();
        let scanner = Scanner::new(salt, all);
        let mut bytes = vec![0; 100_000];
        aws_lc_rs::rand::fill(&mut bytes).expect("random");
        assert!(scanner.scan(&bytes).is_empty());
        for at in [0, 1, 4095, bytes.len() - WINDOW] {
            bytes[at..at + WINDOW].copy_from_slice(key.bytes());
            assert!(scanner.scan(&bytes).contains(&at), "{at}");
        }
        assert!(
            scanner.scan(&key.bytes()[1..]).is_empty(),
            "a part of a key is none"
        );
    }

    #[test]
    fn fingerprints_survive_their_line() {
        let _key = KeySlot::random().expect("room");
        let (_, all) = all();
        let line = all[0].to_string();
        assert_eq!(line.parse(), Ok(all[0]));
        assert_eq!(line.len(), PREFIX.len() + 1 + 16 + 1 + 32);
        for bad in [&line[1..], &line[..line.len() - 33], &format!("{line} 0")] {
            assert_eq!(bad.parse::<Fingerprint>(), Err(NotAFingerprint));
        }
        assert_eq!(install(Salt([1; 32]), |_| {}), Err(TooLate));
    }

    /// Bytes of this process's writable memory in which a key of `scanner` starts, the arena and
    /// `besides` left out.
    fn hits_in_own_memory(scanner: &Scanner) -> usize {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("this process has maps");
        let mut memory = std::fs::File::open("/proc/self/mem").expect("this process has memory");
        let mut hits = 0;
        for line in maps.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(range), Some(rights)) = (words.next(), words.next()) else {
                continue;
            };
            if !rights.starts_with("rw") || line.ends_with("[vvar]") {
                continue;
            }
            let (start, end) = range.split_once('-').expect("a range");
            let parse = |text| u64::from_str_radix(text, 16).expect("an address");
            let mut bytes = vec![0; (parse(end) - parse(start)) as usize];
            memory.seek(SeekFrom::Start(parse(start))).expect("seeks");
            if memory.read_exact(&mut bytes).is_ok() {
                hits += scanner.scan(&bytes).len();
            }
            zeroize::Zeroize::zeroize(&mut bytes);
        }
        hits
    }

    /// The positive control and the claim in one: a live key is found in its slot and nowhere else,
    /// though it was derived, wrapped and unwrapped; dropped, it is found nowhere.
    #[test]
    fn a_key_is_in_its_slot_alone_and_nowhere_after_drop() {
        let name = "fingerprints::tests::a_key_is_in_its_slot_alone_and_nowhere_after_drop";
        crate::locked::tests::alone(name, every_key_once);
    }

    fn every_key_once() {
        use crate::{
            DekSalt, Kek, LeaseKey, ObjectContext, RootKey, SessionInfo, SessionOffer, Suite,
            establish,
        };
        use proto::ids::{DatasetId, KekId, KekVersion, LeaseId, ObjectVersionId, RootEpoch};
        let region: proto::ids::RegionId = "ch-zrh".parse().expect("valid");
        let context = ObjectContext {
            suite: Suite::Cobblestone256,
            region: region.clone(),
            dataset: DatasetId([1; 16]),
            version: ObjectVersionId([2; 16]),
            name: crate::NameCommitment([3; 32]),
        };
        let mine = |key: &KeySlot| Fingerprint {
            rolling: Roller::new(&all().0).of(key.bytes()),
            strong: strong(&all().0, key.bytes()),
        };
        let root = RootKey::generate(RootEpoch(1)).expect("room");
        let kek = Kek::generate(region.clone(), KekId([4; 16]), KekVersion(1)).expect("room");
        let lease = LeaseKey::generate(region, LeaseId([5; 16])).expect("room");
        let dek = lease.open_dek(&DekSalt([6; 32]), &context).expect("room");
        let prints = [
            mine(&root.key),
            mine(&kek.key),
            mine(&lease.key),
            mine(&dek.key),
        ];
        let scanner = Scanner::new(all().0, prints);
        let wrapped = root.wrap_kek(&kek).expect("wraps");
        drop(root.unwrap_kek(&wrapped).expect("unwraps"));
        let token = kek.wrap_lease(&lease).expect("wraps");
        drop(kek.unwrap_lease(&token).expect("unwraps"));
        assert!(dek.open_part(crate::PartNumber::FIRST, &[0; 100]).is_err());
        let info = SessionInfo::of(&[b"test"]);
        let offer = SessionOffer::generate().expect("room");
        let (answer, sender) = establish(&offer.public(), &info).expect("an offer");
        let receiver = offer.accept(&answer, &info).expect("accepts");
        let item = sender.send_dek(&dek, b"").expect("sends");
        drop(receiver.receive_dek(&item, context, b"").expect("receives"));
        let item = sender.send_lease(&lease, b"").expect("sends");
        drop(
            receiver
                .receive_lease(&item, lease.id(), b"")
                .expect("receives"),
        );
        let item = sender.send_root(&root, b"").expect("sends");
        drop(
            receiver
                .receive_root(&item, RootEpoch(1), b"")
                .expect("receives"),
        );
        let (set, shares) = root.split(2, 3).expect("splits");
        drop(set.combine(&shares[1..]).expect("combines"));
        assert_eq!(
            hits_in_own_memory(&scanner),
            prints.len(),
            "each key in one place, its slot"
        );
        drop((root, kek, lease, dek, sender, receiver, shares));
        assert_eq!(hits_in_own_memory(&scanner), 0, "none of them anywhere");
        // Session keys, seeds of X-Wing and shares as well: every key there ever was.
        let (salt, everything) = all();
        assert!(everything.len() > 12, "{}", everything.len());
        assert_eq!(
            hits_in_own_memory(&Scanner::new(salt, everything)),
            0,
            "no key anywhere"
        );
    }
}
