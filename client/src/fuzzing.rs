//! A side door for the fuzz target of the command's arguments, in no shipped build.
//!
//! Owns nothing. Each door answers with what the command would work with, or with nothing.

use clap::Parser as _;

use crate::cli::Arguments;
use crate::cli::location::Location;
use crate::ids::{DatasetName, ObjectKey};

/// The words after the command's name: whether it would begin, or what it tells the person.
pub fn arguments(words: &[&str]) -> Result<(), String> {
    let words = std::iter::once("reduit").chain(words.iter().copied());
    let parsed = Arguments::try_parse_from(words);
    parsed.map(drop).map_err(|error| error.to_string())
}

/// `dataset/key`, and the key if it is one.
pub fn location(text: &str) -> Option<(DatasetName, Option<ObjectKey>)> {
    let location: Location = text.parse().ok()?;
    let key = location.key().ok();
    Some((location.dataset, key))
}
