//! Fingerprints of this daemon's keys, for tests that search disks and memory for keys.
//!
//! `REDUIT_FINGERPRINTS` names the file they are appended to, `REDUIT_FINGERPRINT_SALT` is the salt in hex. Nothing
//! is written without them. Panics where the file cannot be written: the test would prove nothing.

use std::fs::File;
use std::io::Write as _;
use std::sync::OnceLock;

use envelope::fingerprints::{Fingerprint, Salt};

static LINES: OnceLock<File> = OnceLock::new();

pub(crate) fn install() {
    let Some(path) = std::env::var_os("REDUIT_FINGERPRINTS") else {
        return;
    };
    let salt = std::env::var("REDUIT_FINGERPRINT_SALT").expect("a salt");
    let mut bytes = [0; 32];
    hex::decode_to_slice(salt, &mut bytes).expect("32 bytes in hex");
    let file = File::options().append(true).create(true).open(path);
    LINES.get_or_init(|| file.expect("a file to append to"));
    envelope::fingerprints::install(Salt(bytes), append).expect("no key was made before");
}

fn append(fingerprint: &Fingerprint) {
    if let Some(mut file) = LINES.get() {
        // One write a line: replicas share the file.
        let line = format!("{fingerprint}\n");
        file.write_all(line.as_bytes()).expect("appended");
    }
}
