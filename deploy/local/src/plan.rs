//! What to build: regions, their members, their thresholds.

use proto::ids::{Jurisdiction, RegionId};

/// One region.
#[derive(Debug, Clone)]
pub struct RegionPlan {
    /// Its id.
    pub region: RegionId,
    /// Its jurisdiction.
    pub jurisdiction: Jurisdiction,
    /// Storage nodes.
    pub nodes: u32,
    /// KMS replicas.
    pub kms: u32,
    /// Gateways, each an S3 endpoint.
    pub gateways: u32,
    /// Shard groups.
    pub shards: u32,
    /// Custodians, and how many of their shares unseal.
    pub custodians: (u32, u32),
}

/// Every region.
#[derive(Debug, Clone)]
pub struct FederationPlan {
    /// In order of start.
    pub regions: Vec<RegionPlan>,
    /// Seconds of an upload epoch; the nodes' default when absent.
    pub upload_epoch_seconds: Option<u32>,
}

impl FederationPlan {
    /// `ch-zrh` with three of each, `de-fra` with one of each.
    pub fn demo() -> Self {
        let region = |id: &str, jurisdiction: &str, members| RegionPlan {
            region: id.parse().expect("a valid region id"),
            jurisdiction: jurisdiction.parse().expect("a valid jurisdiction"),
            nodes: members,
            kms: members,
            gateways: 0,
            shards: 2,
            custodians: (5, 3),
        };
        Self {
            regions: vec![region("ch-zrh", "CH", 3), region("de-fra", "DE", 1)],
            upload_epoch_seconds: None,
        }
    }

    /// The same with so many gateways in each region.
    pub fn with_gateways(mut self, gateways: u32) -> Self {
        for region in &mut self.regions {
            region.gateways = gateways;
        }
        self
    }

    /// Parses `ch-zrh:CH:3:3` (region, jurisdiction, nodes, KMS replicas).
    pub fn parse(texts: &[String]) -> anyhow::Result<Self> {
        let one = |text: &String| {
            let parts: Vec<_> = text.split(':').collect();
            let [region, jurisdiction, nodes, kms] = parts[..] else {
                anyhow::bail!("{text} is not REGION:JURISDICTION:NODES:KMS, such as ch-zrh:CH:3:3");
            };
            Ok(RegionPlan {
                region: region.parse()?,
                jurisdiction: jurisdiction.parse()?,
                nodes: nodes.parse()?,
                kms: kms.parse()?,
                gateways: 0,
                shards: 2,
                custodians: (5, 3),
            })
        };
        Ok(Self {
            regions: texts.iter().map(one).collect::<Result<_, _>>()?,
            upload_epoch_seconds: None,
        })
    }
}
