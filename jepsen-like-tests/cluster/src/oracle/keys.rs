//! Every key of two regions, looked for in what was captured of the link between them.
//!
//! Owns what is planted, and the search of a kept capture. Nothing exports keys: KMS replicas of a build with
//! `danger_scannable_keys` append a salted fingerprint of each key to the file that `REDUIT_FINGERPRINTS` names; the
//! keys of this process, which is the clients and the custodians, are looked for as well. Refuses a capture that does
//! not have every packet, and to say anything unless the planted key was found.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use envelope::RootKey;
use envelope::fingerprints::{self, Fingerprint, Salt, Scanner};
use proto::ids::RootEpoch;

use super::packets::{Ip, Packets, Tails};
use super::{KeySearch, Seen};

/// Bytes that a fingerprint covers, less one.
const OVERLAP: usize = 31;
/// Of a root key that nobody uses.
const PLANTED: RootEpoch = RootEpoch(9);

/// What it takes to know a key where it is seen.
pub struct Keys {
    lines: PathBuf,
    planted: Vec<u8>,
    /// Of the planted key, and of what was made with it: the first that this process has.
    controls: Vec<Fingerprint>,
}

impl Keys {
    /// Keys of this process count from now on. `REDUIT_FINGERPRINTS` and `REDUIT_FINGERPRINT_SALT` have to be set, as
    /// the daemons inherit them.
    pub fn watched() -> Result<Self> {
        let lines = std::env::var_os("REDUIT_FINGERPRINTS");
        let lines =
            lines.context("REDUIT_FINGERPRINTS names no file: `cargo xtask promises` does")?;
        let salt =
            std::env::var("REDUIT_FINGERPRINT_SALT").context("no REDUIT_FINGERPRINT_SALT")?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(&salt, &mut bytes).context("the salt is 32 bytes in hex")?;
        fingerprints::install(Salt(bytes), |_| {})?;
        let (_, shares) = RootKey::generate(PLANTED)?.split(2, 2)?;
        let planted = shares[0].to_bytes().to_vec();
        let (_, controls) = fingerprints::all();
        Ok(Self {
            lines: lines.into(),
            planted,
            controls,
        })
    }

    /// Bytes with a key in them that nobody uses: to be sent over a wire in the clear.
    pub fn planted(&self) -> Vec<u8> {
        self.planted.clone()
    }

    /// Searches what was captured of the link. The KMSs have to have held `keys_min` keys at least.
    pub fn search(&self, link: &Seen, keys_min: usize) -> Result<KeySearch> {
        ensure!(
            link.missed == 0 && link.left_out == 0,
            "of the {} {} packets were missed and {} not kept: a search for keys says nothing",
            link.name,
            link.missed,
            link.left_out
        );
        let theirs = std::fs::read_to_string(&self.lines).context(
            "the KMSs wrote no fingerprints: are they built with danger_scannable_keys?",
        )?;
        let theirs: HashSet<Fingerprint> = theirs
            .lines()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .context("a fingerprint of a KMS replica")?;
        ensure!(
            theirs.len() >= keys_min,
            "the KMSs of both regions held only {} keys of at least {keys_min}",
            theirs.len()
        );
        let (salt, mine) = fingerprints::all();
        let mut keys: HashSet<_> = mine.into_iter().skip(self.controls.len()).collect();
        keys.extend(theirs);
        let fingerprints = keys.len();
        let scanners = Scanners {
            keys: Scanner::new(salt, keys),
            controls: Scanner::new(salt, self.controls.iter().copied()),
        };
        let file = File::open(&link.file);
        let file = file.with_context(|| format!("opening {}", link.file.display()))?;
        let mut found = scanners.search(BufReader::new(file))?;
        found.fingerprints = fingerprints;
        ensure!(
            found.controls > 0,
            "the planted key is not found on the {}",
            link.name
        );
        Ok(found)
    }
}

struct Scanners {
    keys: Scanner,
    controls: Scanner,
}

impl Scanners {
    /// Every byte of every packet, and the joints between segments of a connection.
    fn search(&self, capture: impl Read) -> Result<KeySearch> {
        let mut found = KeySearch::default();
        let mut packets = Packets::open(capture)?;
        let mut tails = Tails::new(OVERLAP);
        while let Some(packet) = packets.take()? {
            found.bytes += packet.bytes.len() as u64;
            self.look(packet.bytes, &mut found);
            if let Some(ip) = Ip::of(packet.bytes) {
                tails.follow(&ip, &mut |joint| self.look(joint, &mut found));
            }
        }
        Ok(found)
    }

    fn look(&self, bytes: &[u8], found: &mut KeySearch) {
        found.hits += self.keys.scan(bytes).len();
        found.controls += self.controls.scan(bytes).len();
    }
}

#[cfg(test)]
mod tests {
    use super::super::packets::testing::{capture, segment};
    use super::*;

    #[test]
    fn a_key_is_found_in_a_packet_and_where_two_segments_join() {
        let (_, shares) = RootKey::generate(PLANTED)
            .expect("a key")
            .split(2, 2)
            .expect("shares");
        let (salt, all) = fingerprints::all();
        let scanners = Scanners {
            keys: Scanner::new(salt, all),
            controls: Scanner::new(salt, []),
        };
        let share = shares[0].to_bytes();
        let hits = |packets: &[Vec<u8>]| {
            let bytes = capture(packets);
            scanners.search(&bytes[..]).expect("searched").hits
        };
        assert_eq!(hits(&[segment(7000, 1, &share)]), 1);
        assert_eq!(hits(&[segment(7000, 1, &[7; 500])]), 0);
        // The key is near the end of the share.
        let (one, two) = share.split_at(share.len() - 20);
        let next = 1 + one.len() as u32;
        assert_eq!(hits(&[segment(7000, 1, one), segment(7000, next, two)]), 1);
        let gap = hits(&[segment(7000, 1, one), segment(7000, next + 1, two)]);
        assert_eq!(gap, 0, "a gap lies between them");
    }
}
