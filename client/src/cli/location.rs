//! `dataset/key`: where an object is.

use std::str::FromStr;

use client::ids::{DatasetName, ObjectKey};

use super::failure::Failure;

/// A dataset and what stands after the first slash: a key, a prefix or nothing.
#[derive(Debug, Clone)]
pub(crate) struct Location {
    pub(crate) dataset: DatasetName,
    pub(crate) rest: String,
}

impl FromStr for Location {
    type Err = client::ids::IdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (dataset, rest) = text.split_once('/').unwrap_or((text, ""));
        Ok(Self {
            dataset: dataset.parse()?,
            rest: rest.to_owned(),
        })
    }
}

impl Location {
    pub(crate) fn key(&self) -> Result<ObjectKey, Failure> {
        if self.rest.is_empty() {
            return Err(Failure::Usage(format!(
                "{}: name an object, as in dataset/key",
                self.dataset
            )));
        }
        Ok(self.rest.parse()?)
    }
}
