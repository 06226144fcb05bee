//! A member alone on a disk that forgets what was not synced: an acknowledged write survives a power cut.
//!
//! Goes red with the switch `ack_before_sync`.

use std::path::Path;
use std::sync::Arc;

use crate::support::{GROUP, Kv, get, put, quick};
use proto::ids::{Identity, NodeId, RegionId, Role};
use replica::Member;
use replica::disk::SimDisk;
use replica::host::{Admission, Host, HostOptions};
use replica::log::LogOptions;
use replica::net::link::{Dialer, Lane, Link, LinkError, LinkFault, LinkResult};
use replica::state::{StateOptions, TwinMedium, TwinState};

/// A member without peers.
struct Alone;

impl Dialer for Alone {
    fn link(&self, _: NodeId, _: &Member, _: Lane) -> LinkResult<Arc<dyn Link>> {
        Err(LinkError::new(LinkFault::Unreachable, "nobody there"))
    }
    fn own(&self) -> Member {
        Member {
            identity: "spiffe://ch-zrh/node/n1".into(),
            endpoint: String::new(),
            jurisdiction: "CH".into(),
        }
    }
    fn peers(&self) -> Vec<(NodeId, Member)> {
        Vec::new()
    }
}

async fn open(disk: &SimDisk, medium: &TwinMedium) -> (Host, replica::Group) {
    let region: RegionId = "ch-zrh".parse().expect("valid");
    let dir = Path::new("/no/such/folder/member");
    let options = HostOptions {
        node_id: NodeId(1),
        identity: Identity::new(region, Role::Node, "n1").expect("valid"),
        jurisdiction: crate::support::jurisdiction(),
        cluster: [1; 16],
        admission: Admission::Found,
        dir: dir.to_owned(),
        disk: disk.boot(),
        dialer: Arc::new(Alone),
        log: LogOptions {
            segment_bytes: 1 << 20,
            payload_bytes_max: 1 << 17,
            ..LogOptions::default()
        },
        state: StateOptions::default(),
        tuning: quick(),
    };
    let host = Host::open(options).expect("own folder");
    let state = TwinState::open(medium, &dir.join("state"), disk.boot());
    let machine = Arc::new(Kv { level_max: 0 });
    let group = host
        .open_group_on(GROUP, machine, Arc::new(state))
        .await
        .expect("own state");
    (host, group)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_write_survives_a_power_cut() {
    for seed in 0..24u64 {
        let (disk, medium) = (SimDisk::new(seed), TwinMedium::new(seed));
        let (host, group) = open(&disk, &medium).await;
        group.initialize([NodeId(1)]).await.expect("pristine");
        group.led().await;
        for i in 0..=(seed % 5) {
            let value = [seed as u8, i as u8];
            group
                .propose(put(&format!("k{i}"), &value))
                .await
                .expect("acknowledged");
        }
        disk.power_cut();
        medium.power_cut();
        host.abandon().await;
        drop((group, host));
        let (host, group) = open(&disk, &medium).await;
        group.led().await;
        group.read_index().await.expect("a majority of one");
        for i in 0..=(seed % 5) {
            let held = get(&group, &format!("k{i}")).map(|(_, value)| value);
            assert_eq!(
                held,
                Some(vec![seed as u8, i as u8]),
                "seed {seed} lost write {i}"
            );
        }
        host.stop().await;
    }
}
