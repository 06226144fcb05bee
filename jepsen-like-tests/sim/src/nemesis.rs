//! What goes wrong while clients are served: wires, processes, disks, members.
//!
//! Owns the choice and the order of faults, drawn from the seed, and that no more is taken away for good than a
//! minority: a member that lost its disk has to be replaced before another may lose its own. Refuses to let one back
//! under an old id, and says so if the product does.

use std::time::Duration;

use proto::ids::NodeId;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use replica::host::{Admission, FolderError, OpenError};
use tokio::time::{sleep, timeout};

use crate::Broken;
use crate::fleet::{End, Fleet};
use crate::logbook::Logbook;
use crate::net::{Net, Weather};
use crate::roster::Roster;
use crate::run::chain;

const FAULTS: &str = "faults";
const STATES: &str = "replica states";
/// How long a fault lasts at least.
const FAULT_MIN: Duration = Duration::from_millis(50);
/// And at most.
const FAULT_MAX: Duration = Duration::from_millis(1600);
/// How long a replacement may take before the next fault comes.
const REPLACE_MAX: Duration = Duration::from_secs(5);
/// Disk left to a member whose disk is full.
const ROOM_BYTES: u64 = 4096;

/// One kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// Nothing reaches the leader, and it reaches nobody.
    LeaderIsolated,
    /// The same for anybody.
    MemberIsolated,
    /// Nothing goes one way between two members.
    OneWay,
    /// A minority and a majority do not hear each other.
    Split,
    /// Messages are late, lost, doubled, and connections break.
    Storm,
    /// A process is killed and comes back.
    Killed,
    /// One machine loses its power and comes back.
    PowerCut,
    /// A sync fails, and with it the process.
    SyncFails,
    /// A disk is full for a while.
    DiskFull,
    /// A disk is lost, and its member with it.
    DiskLost,
    /// A member is replaced by another while everyone is well.
    Replaced,
    /// The leader hands over.
    HandOver,
}

impl Fault {
    pub(crate) const ALL: [Self; 12] = [
        Self::LeaderIsolated,
        Self::MemberIsolated,
        Self::OneWay,
        Self::Split,
        Self::Storm,
        Self::Killed,
        Self::PowerCut,
        Self::SyncFails,
        Self::DiskFull,
        Self::DiskLost,
        Self::Replaced,
        Self::HandOver,
    ];
}

/// The world of one era, while clients are served in it.
pub(crate) struct Nemesis<'a> {
    pub(crate) fleet: &'a mut Fleet,
    pub(crate) net: &'a Net,
    pub(crate) roster: &'a Roster,
    pub(crate) book: &'a Logbook,
    pub(crate) weather: Weather,
    pub(crate) rng: StdRng,
}

impl Nemesis<'_> {
    /// Brings `count` faults of `kinds`, one after the other, and mends after most what can be mended.
    pub(crate) async fn run(&mut self, kinds: &[Fault], count: u32) -> Result<(), Broken> {
        for _ in 0..count {
            let pause = self.a_while() / 4;
            sleep(pause).await;
            let Some(fault) = kinds.choose(&mut self.rng) else {
                return Ok(());
            };
            self.book.note(format_args!("fault {fault:?}"));
            self.book.count(FAULTS, &format!("{fault:?}"));
            self.bring(*fault).await?;
            // What the wires do may go on into the next fault.
            if self.rng.random_ratio(2, 3) {
                self.net.heal();
                self.net.set_weather(self.weather);
            } else {
                self.book.count(FAULTS, "not mended before the next");
            }
            self.supervise().await?;
        }
        Ok(())
    }

    fn a_while(&mut self) -> Duration {
        let span = (FAULT_MAX - FAULT_MIN).mul_f64(self.rng.random::<f64>().powi(2));
        FAULT_MIN + span
    }

    fn any(&mut self) -> Option<NodeId> {
        self.fleet.running().choose(&mut self.rng).copied()
    }

    /// Whether one member may go for good: none is on its way out, and a majority stays without it.
    fn may_lose(&self) -> bool {
        let all = self.fleet.ids();
        self.fleet.replacement.is_none()
            && all.len() >= 3
            && self.fleet.running().len() == all.len()
    }

    async fn bring(&mut self, fault: Fault) -> Result<(), Broken> {
        let lasts = self.a_while();
        match fault {
            Fault::LeaderIsolated => {
                let leads = self.fleet.leader().await.map(|leader| leader.node_id());
                if let Some(node) = leads.or_else(|| self.any()) {
                    self.net.isolate(node);
                }
                sleep(lasts).await;
            }
            Fault::MemberIsolated => {
                if let Some(node) = self.any() {
                    self.net.isolate(node);
                }
                sleep(lasts).await;
            }
            Fault::OneWay => {
                if let (Some(from), Some(to)) = (self.any(), self.any()) {
                    self.net.cut(from, to);
                }
                sleep(lasts).await;
            }
            Fault::Split => {
                self.split();
                sleep(lasts).await;
            }
            Fault::Storm => {
                self.net.set_weather(Weather {
                    delay_max: Duration::from_millis(self.rng.random_range(1..60)),
                    breaks_one_in: self.rng.random_range(20..200),
                    loses_one_in: self.rng.random_range(4..60),
                    doubles_one_in: self.rng.random_range(2..20),
                });
                sleep(lasts).await;
            }
            Fault::Killed => self.restart(End::Killed, lasts).await?,
            Fault::PowerCut => self.restart(End::PowerCut, lasts).await?,
            Fault::SyncFails => {
                if let Some(device) = self.any().and_then(|node| self.fleet.device(node)) {
                    device.fail_sync_in(self.rng.random_range(0..40));
                }
                sleep(lasts).await;
            }
            Fault::DiskFull => self.fill(lasts).await,
            Fault::DiskLost => self.lose_disk().await?,
            Fault::Replaced => {
                if self.may_lose()
                    && let Some(old) = self.any()
                    && self.fleet.replace(self.net, old).await.is_some()
                {
                    self.book.count(STATES, "replacements begun");
                }
                let (net, roster) = (self.net, self.roster);
                self.fleet.go_on(net, roster, REPLACE_MAX).await?;
            }
            Fault::HandOver => {
                if let Some(leader) = self.fleet.leader().await
                    && leader.hand_over().await.is_ok()
                {
                    self.book.count(STATES, "leadership handed over");
                }
            }
        }
        Ok(())
    }

    fn split(&mut self) {
        let mut sides: [Vec<NodeId>; 2] = Default::default();
        for node in self.fleet.running() {
            sides[self.rng.random_range(0..2)].push(node);
        }
        for one in &sides[0] {
            for other in &sides[1] {
                self.net.cut(*one, *other);
                self.net.cut(*other, *one);
            }
        }
    }

    /// Ends somebody's process and starts it again from its disk.
    async fn restart(&mut self, how: End, lasts: Duration) -> Result<(), Broken> {
        let Some(node) = self.any() else {
            return Ok(());
        };
        self.fleet.end(self.roster, node, how).await;
        sleep(lasts).await;
        self.come_back(node).await
    }

    async fn come_back(&mut self, node: NodeId) -> Result<(), Broken> {
        let (net, roster) = (self.net, self.roster);
        let started = self.fleet.start(net, roster, node, Admission::Resume).await;
        match started {
            Ok(()) => Ok(()),
            Err(error) => Err(Broken(format!(
                "member {node} does not come back from its disk: {}",
                chain(&error)
            ))),
        }
    }

    /// Leaves one disk, or all of them, no room.
    async fn fill(&mut self, lasts: Duration) {
        let mut nodes = self.fleet.running();
        if self.rng.random() {
            nodes.truncate(1);
        }
        let devices: Vec<_> = nodes
            .into_iter()
            .filter_map(|node| self.fleet.device(node))
            .collect();
        for device in &devices {
            device.set_capacity(device.used_bytes() + self.rng.random_range(0..ROOM_BYTES));
        }
        // Room goes as entries come, not at once.
        sleep(lasts * 3).await;
        if self.fleet.is_full() {
            self.book.count(STATES, "logs without room");
        }
        for device in &devices {
            device.set_capacity(u64::MAX);
        }
    }

    /// A member loses its disk. It may not come back under its old id, however it is started; another takes its
    /// place.
    async fn lose_disk(&mut self) -> Result<(), Broken> {
        let Some(node) = self.any().filter(|_| self.may_lose()) else {
            return Ok(());
        };
        self.fleet.end(self.roster, node, End::DiskLost).await;
        self.book.count(STATES, "disks lost");
        for admission in [Admission::Resume, Admission::Join] {
            self.must_not_return(node, admission).await?;
        }
        let (net, roster) = (self.net, self.roster);
        if self.fleet.replace(net, node).await.is_none() {
            // Nobody leads now: the replacement comes with the next look.
            return Ok(());
        }
        self.fleet.go_on(net, roster, REPLACE_MAX).await
    }

    async fn must_not_return(&mut self, node: NodeId, admission: Admission) -> Result<(), Broken> {
        let (net, roster) = (self.net, self.roster);
        let mut started = self.fleet.start(net, roster, node, admission).await;
        if matches!(
            &started,
            Err(OpenError::Reused { .. } | OpenError::NobodyToAsk(_))
        ) {
            // As a supervisor does, in the folder that the refused start made.
            started = self.fleet.start(net, roster, node, admission).await;
        }
        // What it wrote of itself goes with it: whoever tries again has an empty disk again.
        self.fleet.end(roster, node, End::DiskLost).await;
        let refused = match started {
            Ok(()) => {
                return Err(Broken(format!(
                    "member {node} has lost its disk and is let in again under its id, by {admission:?}"
                )));
            }
            Err(refused) => refused,
        };
        let how = match &refused {
            OpenError::Folder(FolderError::Empty(..)) => "an empty folder does not resume",
            OpenError::Reused { .. } => "an id that was a member does not join",
            OpenError::Behind { .. } => "a disk behind what was seen of it does not start",
            OpenError::NobodyToAsk(_) => "nobody could say whether the id is new",
            other => {
                return Err(Broken(format!(
                    "member {node} without its disk is refused for {}",
                    chain(other)
                )));
            }
        };
        self.book.count(STATES, how);
        Ok(())
    }

    /// Processes that ended by themselves are started again; what was begun goes on.
    async fn supervise(&mut self) -> Result<(), Broken> {
        while let Some((node, why)) = self.fleet.failed().await {
            self.book
                .count(STATES, "processes that ended by themselves");
            self.book.note(format_args!("{node} ended: {why}"));
            let behind = why.contains("acknowledged data is lost");
            if behind {
                return Err(Broken(format!("member {node} ended: {why}")));
            }
            self.fleet.end(self.roster, node, End::Killed).await;
            self.come_back(node).await?;
        }
        let (net, roster) = (self.net, self.roster);
        for node in self.fleet.lost() {
            if self.fleet.replacement.is_none() {
                let within = timeout(REPLACE_MAX, self.fleet.replace(net, node));
                // Tried again after the next fault, and in the next era.
                let _ = within.await;
            }
        }
        self.fleet.go_on(net, roster, REPLACE_MAX).await
    }
}
