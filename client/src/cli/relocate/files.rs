//! Files of a relocation, read and written.
//!
//! Owns bounded reading: a file that is longer than it may be is refused and not loaded whole.

use std::io::Read as _;
use std::path::Path;

use client::moving::{
    OFFER_BYTES_MAX, Offer, RelocationNotice, RelocationPlan, RelocationWords, WORDS_BYTES_MAX,
};

use super::super::failure::{Failure, file};

/// More than any plan or notice has.
const TEXT_BYTES_MAX: usize = 512 << 10;

fn bytes(path: &Path, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let doing = format!("reading {}", path.display());
    let mut bytes = Vec::new();
    // One more than is accepted, so that the parser says so.
    std::fs::File::open(path)
        .and_then(|from| from.take(bytes_max as u64 + 1).read_to_end(&mut bytes))
        .map_err(file(doing))?;
    Ok(bytes)
}

fn text(path: &Path) -> Result<String, Failure> {
    let bytes = bytes(path, TEXT_BYTES_MAX)?;
    let none = |_| Failure::Usage(format!("{} is no text", path.display()));
    String::from_utf8(bytes).map_err(none)
}

pub(super) fn plan(path: &Path) -> Result<RelocationPlan, Failure> {
    Ok(RelocationPlan::parse(&text(path)?)?)
}

pub(super) fn notice(path: &Path) -> Result<RelocationNotice, Failure> {
    Ok(RelocationNotice::parse(&text(path)?)?)
}

pub(super) fn offer(path: &Path) -> Result<Offer, Failure> {
    Ok(Offer::from_file(&bytes(path, OFFER_BYTES_MAX)?)?)
}

pub(super) fn words(path: &Path) -> Result<RelocationWords, Failure> {
    Ok(RelocationWords::from_file(&bytes(path, WORDS_BYTES_MAX)?)?)
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes).map_err(file(format!("writing {}", path.display())))
}
