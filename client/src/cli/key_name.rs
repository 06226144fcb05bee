//! How a person names a key: by its dataset, or by an alias as `alias/NAME`.
//!
//! Owns how the two are told apart: no dataset's name has a slash. Refuses to guess.

use std::fmt;
use std::str::FromStr;

use client::Region;
use client::ids::{DatasetId, DatasetName};

use super::failure::Failure;

const ALIAS: &str = "alias/";

/// A dataset or an alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeyName {
    Dataset(DatasetName),
    Alias(String),
}

impl FromStr for KeyName {
    type Err = <DatasetName as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix(ALIAS) {
            Some(alias) => Ok(Self::Alias(alias.to_owned())),
            None => text.parse().map(Self::Dataset),
        }
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dataset(name) => f.write_str(name.as_str()),
            Self::Alias(alias) => write!(f, "{ALIAS}{alias}"),
        }
    }
}

impl KeyName {
    /// The dataset whose key it names.
    pub(crate) async fn find(&self, region: &Region) -> Result<DatasetId, Failure> {
        match self {
            Self::Dataset(name) => Ok(region.dataset_info(name).await?.id),
            Self::Alias(alias) => {
                let key = region.keys().key_by_alias(alias).await?.key;
                let key = key.ok_or(client::Error::Protocol {
                    what: "no key in the answer",
                })?;
                let id = DatasetId::try_from(key.dataset_id.as_ref());
                Ok(id.map_err(client::Error::from)?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_by_its_dataset_or_by_an_alias() {
        let named = |text: &str| text.parse::<KeyName>().expect("a name");
        assert_eq!(named("alias/cases"), KeyName::Alias("cases".to_owned()));
        assert_eq!(named("cases").to_string(), "cases");
        assert_eq!(named("alias/cases").to_string(), "alias/cases");
        assert!("a/b".parse::<KeyName>().is_err());
    }
}
