//! What goes over wires while datasets move from one region to the other, watched and judged.
//!
//! Owns what may be seen nowhere in plaintext, and how regions may talk: all that the design has between them is mTLS
//! to the federation listeners of nodes and KMS replicas, so that any other port, protocol or datagram is wrong.
//! Refuses to call a link clean over which less went than was moved: that would be another wire.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::oracle::{Keys, Oracle, Seen, Watching};
use crate::workload::moving::{LAID, LAID_BYTES, Texts, plaintexts};
use crate::world::{FEDERATION_PORT, World};

/// Packets of a wire that are kept for a look.
const LOOK_BYTES_MAX: u64 = 4 << 20;
/// Packets of the link that are kept to be searched for keys: a relocation takes some ten MB.
const SEARCH_BYTES_MAX: u64 = 1 << 30;

/// Wires that are being watched.
pub(super) struct Wires {
    oracle: Oracle,
    keys: Option<Keys>,
}

impl Wires {
    /// Begins to watch all of them.
    pub(super) fn watched(
        world: &World,
        texts: &Texts,
        keys: Option<Keys>,
        out: &Path,
    ) -> Result<Self> {
        let watching = Watching {
            region_bytes_max: LOOK_BYTES_MAX,
            link_bytes_max: if keys.is_some() {
                SEARCH_BYTES_MAX
            } else {
                LOOK_BYTES_MAX
            },
            planted: keys.as_ref().map(Keys::planted).unwrap_or_default(),
        };
        let mut canaries = texts.all();
        canaries.extend(plaintexts());
        let oracle = Oracle::start(world, canaries, &out.join("captures"), &watching)?;
        Ok(Self { oracle, keys })
    }

    /// Stops, and says what is wrong. So many datasets have moved from `source`.
    pub(super) async fn judged(
        self,
        world: &World,
        source: &str,
        moved: u64,
    ) -> Result<Vec<String>> {
        let found = self.oracle.finish_wires(world, &[FEDERATION_PORT]).await?;
        println!("wires: {}", found.of_wires());
        let mut wrong = found.complaints();
        let link = found.link().context("no link between the regions")?;
        let (sent, laid) = (sent(link, &addresses(world, source)?), moved * LAID_BYTES);
        println!(
            "wires: {source} sent {sent} bytes to the other region; {laid} bytes lay in what moved"
        );
        if sent <= laid {
            wrong.push(format!(
                "{source} sent {sent} bytes over the {}, and {laid} bytes moved: by another way?",
                link.name
            ));
        }
        if let Some(keys) = &self.keys {
            // Every object's key is opened by the source's KMS.
            let keys_min = (moved * LAID) as usize;
            let found = tokio::task::block_in_place(|| keys.search(link, keys_min))?;
            println!(
                "wires: {} hits of {} keys in {} bytes between the regions; the planted key found {} times",
                found.hits, found.fingerprints, found.bytes, found.controls
            );
            if found.hits > 0 {
                wrong.push(format!(
                    "key bytes stand in {} places on the {}: {}",
                    found.hits,
                    link.name,
                    link.file.display()
                ));
            }
        }
        Ok(wrong)
    }
}

fn addresses(world: &World, region: &str) -> Result<Vec<Ipv4Addr>> {
    let services = world.local.federation.region(region)?.services.iter();
    let services = services.filter(|service| !service.removed);
    services
        .map(|service| world.net().address(&service.name))
        .collect()
}

/// Bytes that these sent over a wire to federation listeners, or as one.
fn sent(wire: &Seen, from: &[Ipv4Addr]) -> u64 {
    let crossings = wire.crossings.iter();
    let own = crossings.filter(|one| from.contains(&one.from) && one.is_by(&[FEDERATION_PORT]));
    own.map(|one| one.bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::Crossing;

    #[test]
    fn what_counts_as_sent_is_what_one_side_sent_by_the_listeners() {
        let (here, there): (Ipv4Addr, Ipv4Addr) = ([10, 77, 1, 10].into(), [10, 77, 2, 10].into());
        let crossing = |from, to, port, bytes| Crossing {
            protocol: 6,
            from,
            to,
            port,
            bytes,
        };
        let wire = Seen {
            crossings: vec![
                crossing(here, there, FEDERATION_PORT, 1_000),
                crossing(here, there, FEDERATION_PORT + 1, 100),
                crossing(there, here, FEDERATION_PORT, 10),
            ],
            ..Seen::default()
        };
        assert_eq!(sent(&wire, &[here]), 1_000);
        assert_eq!(sent(&wire, &[there]), 10);
        assert_eq!(sent(&wire, &[]), 0);
    }
}
