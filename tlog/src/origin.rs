//! The name of one log: `<region>/<stream>/<epoch>`.
//!
//! Owns its text form, which is the first line of a checkpoint. Refuses: any second spelling of the same origin.

use std::fmt;
use std::str::FromStr;

use proto::ids::RegionId;
use serde::{Deserialize, Serialize};

/// Which log: a region's stream and the stream's epoch. A new epoch starts a new tree (DESIGN §7, roll-back).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Origin {
    region: RegionId,
    stream: String,
    epoch: u32,
}

/// Text that is no origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// Not three parts.
    #[error("an origin is not of the form <region>/<stream>/<epoch>")]
    NotThreeParts,
    /// The first part is no region id.
    #[error("the origin's region is not valid")]
    Region(#[source] proto::ids::IdError),
    /// The second part is no stream name.
    #[error("the origin's stream is not 1 to 32 of a-z, 0-9 and inner hyphens")]
    Stream,
    /// The third part is no epoch, or has a second spelling (sign, leading zero).
    #[error("the origin's epoch is not a decimal number from 1 without leading zeros")]
    Epoch,
}

impl Origin {
    /// Bytes a stream's name may have.
    pub const STREAM_BYTES_MAX: usize = 32;

    /// Builds an origin; epochs start at 1.
    pub fn new(region: RegionId, stream: &str, epoch: u32) -> Result<Self, OriginError> {
        let stream_ok = (1..=Self::STREAM_BYTES_MAX).contains(&stream.len())
            && stream
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !stream.starts_with('-')
            && !stream.ends_with('-');
        if !stream_ok {
            return Err(OriginError::Stream);
        }
        if epoch == 0 {
            return Err(OriginError::Epoch);
        }
        Ok(Self {
            region,
            stream: stream.to_owned(),
            epoch,
        })
    }

    /// The region whose KMS sequences this log.
    pub fn region(&self) -> &RegionId {
        &self.region
    }

    /// The stream; a dataset belongs to one.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// The stream's epoch, from 1.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }
}

impl FromStr for Origin {
    type Err = OriginError;
    fn from_str(text: &str) -> Result<Self, OriginError> {
        let mut parts = text.split('/');
        let (Some(region), Some(stream), Some(epoch), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(OriginError::NotThreeParts);
        };
        let number: u32 = epoch.parse().map_err(|_| OriginError::Epoch)?;
        if number.to_string() != epoch {
            return Err(OriginError::Epoch);
        }
        Self::new(region.parse().map_err(OriginError::Region)?, stream, number)
    }
}

impl TryFrom<String> for Origin {
    type Error = OriginError;
    fn try_from(text: String) -> Result<Self, OriginError> {
        text.parse()
    }
}

impl From<Origin> for String {
    fn from(origin: Origin) -> Self {
        origin.to_string()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.region, self.stream, self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_exactly_one_spelling() {
        let text = "ch-zrh/main/1";
        assert_eq!(text.parse::<Origin>().expect("valid").to_string(), text);
        for (bad, why) in [
            ("ch-zrh/main", OriginError::NotThreeParts),
            ("ch-zrh/main/1/", OriginError::NotThreeParts),
            ("ch-zrh/main/01", OriginError::Epoch),
            ("ch-zrh/main/+1", OriginError::Epoch),
            ("ch-zrh/main/0", OriginError::Epoch),
            ("ch-zrh/main/4294967296", OriginError::Epoch),
            ("ch-zrh//1", OriginError::Stream),
            ("ch-zrh/Main/1", OriginError::Stream),
            ("ch-zrh/-m/1", OriginError::Stream),
        ] {
            assert_eq!(bad.parse::<Origin>(), Err(why), "{bad}");
        }
        assert!(matches!(
            "CH/main/1".parse::<Origin>(),
            Err(OriginError::Region(_))
        ));
    }
}
