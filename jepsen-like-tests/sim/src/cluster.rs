//! Members of one group in this process, started and started again.
//!
//! Owns what a boot takes. Refuses an orderly stop: a boot ends with its runtime, with a kill or with the power.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto::ids::{GroupId, NodeId};
use replica::disk::Disk;
use replica::host::{Admission, Host, HostOptions, OpenError, Tuning};
use replica::log::{Driver, LogOptions};
use replica::machine::Machine;
use replica::state::{StateOptions, TwinMedium, TwinState};
use replica::{Group, host::HostFailure};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::net::{Net, identity};
use crate::{Broken, hold};

/// The group all members are in.
pub const GROUP: GroupId = GroupId(16);

/// Where a member's state is kept.
pub enum Store {
    /// In memory, with what was flushed on this medium.
    Twin(TwinMedium),
    /// In RocksDB, below the member's folder.
    Rocks,
}

/// What one member of one boot stands on.
pub struct Site {
    /// Its id.
    pub node: NodeId,
    /// What it runs.
    pub machine: Arc<dyn Machine>,
    /// How it is let in.
    pub admission: Admission,
    /// Its folder.
    pub dir: PathBuf,
    /// The disk of its log.
    pub disk: Arc<dyn Disk>,
    /// Its state.
    pub store: Store,
    /// How its log is kept.
    pub log: LogOptions,
    /// Pause before each turn of a log under [`Driver::Manual`]: how long a sync takes.
    pub sync_takes: Duration,
}

/// A running member.
pub struct Running {
    /// The process.
    pub host: Host,
    /// Its part of the group.
    pub group: Group,
    turner: Option<Turner>,
    presence: Presence,
}

/// Turns a log until dropped.
struct Turner(JoinHandle<()>);

impl Drop for Turner {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A member that can be reached, until dropped.
struct Presence {
    net: Net,
    node: NodeId,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.net.leave(self.node);
    }
}

impl Running {
    /// Ends the process, whose disk is dead or about to be. Whatever it still does reaches nobody.
    pub async fn kill(self) {
        let Self {
            host,
            group,
            turner,
            presence,
        } = self;
        drop(presence);
        drop(group);
        // The log is turned on until the engine has noticed that nothing of it works any more.
        host.abandon().await;
        drop(turner);
    }
}

/// Times short enough that an era is a few seconds of simulated time.
pub fn tuning() -> Tuning {
    Tuning {
        heartbeat: Duration::from_millis(50),
        election_min: Duration::from_millis(300),
        election_max: Duration::from_millis(600),
        response_max: Duration::from_millis(500),
        lease_wait: Duration::from_millis(500),
        propose_wait: Duration::from_secs(2),
        read_wait: Duration::from_secs(1),
        flush_every: Duration::from_secs(1),
        keep_bytes: 0,
        ..Tuning::default()
    }
}

/// Starts a member.
pub async fn start(net: &Net, site: Site, tuning: &Tuning) -> Result<Running, OpenError> {
    let manual = site.log.driver == Driver::Manual;
    let options = HostOptions {
        node_id: site.node,
        identity: identity(site.node),
        jurisdiction: "CH".parse().expect("a valid jurisdiction"),
        cluster: [0x51; 16],
        admission: site.admission,
        dir: site.dir.clone(),
        disk: Arc::clone(&site.disk),
        dialer: net.dialer(site.node),
        log: site.log,
        state: StateOptions::default(),
        tuning: tuning.clone(),
    };
    let host = Host::open(options)?;
    net.join(site.node, host.handler());
    let presence = Presence {
        net: net.clone(),
        node: site.node,
    };
    let turner = manual.then(|| Turner(tokio::spawn(turn(host.clone(), site.sync_takes))));
    let opened = match site.store {
        Store::Twin(medium) => {
            let state = TwinState::open(&medium, &site.dir.join("state"), site.disk);
            host.open_group_on(GROUP, site.machine, Arc::new(state))
                .await
        }
        Store::Rocks => host.open_group(GROUP, site.machine).await,
    };
    match opened {
        Ok(group) => Ok(Running {
            host,
            group,
            turner,
            presence,
        }),
        Err(error) => {
            drop(presence);
            host.abandon().await;
            Err(error)
        }
    }
}

/// Does the log's work in simulated time.
async fn turn(host: Host, sync_takes: Duration) {
    let mut idle: u32 = 0;
    loop {
        sleep(sync_takes * (1 + idle.min(3))).await;
        if host.log().turn() {
            idle = 0;
        } else {
            idle += 1;
        }
    }
}

/// Founds the group with every member.
pub async fn found(members: &[Group]) -> Result<(), Broken> {
    let founders: Vec<NodeId> = members.iter().map(Group::node_id).collect();
    let founded = members[0].initialize(founders).await;
    founded.map_err(|e| Broken(format!("not founded: {e}")))
}

/// How long members may take to agree once nothing fails any more.
pub const AGREE_MAX: Duration = Duration::from_secs(60);

/// Waits until every one of `members` answers linearizable reads.
pub async fn agree(members: &[Group]) -> Result<(), Broken> {
    for member in members {
        let read = async {
            while member.read_index().await.is_err() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let agreed = timeout(AGREE_MAX, read).await.is_ok();
        hold!(
            agreed,
            "member {} does not come back: {:?}",
            member.node_id(),
            member.status()
        );
    }
    Ok(())
}

/// Why a member's process would have to exit, if it has to.
pub async fn failure(member: &Running) -> Option<HostFailure> {
    timeout(Duration::from_millis(1), member.host.failed())
        .await
        .ok()
}
