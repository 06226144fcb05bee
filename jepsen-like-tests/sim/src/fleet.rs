//! The members of a run over all its boots: where each lives, whether it runs, who replaces whom.
//!
//! Owns the list of members and their disks. Refuses to give an id twice: a member that lost its disk is replaced by
//! one under an id that the group allocated.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proto::ids::NodeId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use replica::host::{Admission, Force, MemberError, NothingBeside, OpenError};
use replica::log::{Driver, LogOptions};
use replica::{Group, disk::SimDisk};
use tokio::time::{Instant, sleep};

use crate::Broken;
use crate::cluster::{self, Running, Site, Store};
use crate::grid::Grid;
use crate::logbook::Logbook;
use crate::machine::Ledger;
use crate::net::Net;
use crate::roster::Roster;
use crate::run::Scenario;

const STATES: &str = "replica states";
/// How long a learner may take to catch up.
const CATCH_UP: Duration = Duration::from_secs(2);
/// Pause between attempts to change the membership.
const STEP: Duration = Duration::from_millis(50);

/// One member.
struct Member {
    /// Its disk and medium on the grid.
    at: usize,
    running: Option<Running>,
    boots: u64,
    /// Its disk is gone, and it with it.
    lost: bool,
}

/// A member on its way into the group, in place of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Replacement {
    pub(crate) old: NodeId,
    pub(crate) new: NodeId,
}

/// All members of a run.
pub(crate) struct Fleet {
    members: BTreeMap<NodeId, Member>,
    /// What was begun and is to be ended, over power cuts too.
    pub(crate) replacement: Option<Replacement>,
    pub(crate) grid: Grid,
    ledger: Ledger,
    book: Logbook,
    scenario: Scenario,
}

impl Fleet {
    /// The founders, none of them running.
    pub(crate) fn new(scenario: &Scenario, grid: Grid, ledger: Ledger, book: Logbook) -> Self {
        let founders = (0..scenario.members as usize).map(|at| {
            let member = Member {
                at,
                running: None,
                boots: 0,
                lost: false,
            };
            (NodeId(at as u64 + 1), member)
        });
        Self {
            members: founders.collect(),
            replacement: None,
            grid,
            ledger,
            book,
            scenario: scenario.clone(),
        }
    }

    /// Everyone there is, running or not.
    pub(crate) fn ids(&self) -> Vec<NodeId> {
        self.members.keys().copied().collect()
    }

    /// Everyone who has a disk to start from.
    pub(crate) fn whole(&self) -> Vec<NodeId> {
        let whole = |(node, member): (&NodeId, &Member)| (!member.lost).then_some(*node);
        self.members.iter().filter_map(whole).collect()
    }

    /// Those whose disk is gone.
    pub(crate) fn lost(&self) -> Vec<NodeId> {
        let lost = |(node, member): (&NodeId, &Member)| member.lost.then_some(*node);
        self.members.iter().filter_map(lost).collect()
    }

    /// Those that run.
    pub(crate) fn running(&self) -> Vec<NodeId> {
        let runs = |(node, member): (&NodeId, &Member)| member.running.is_some().then_some(*node);
        self.members.iter().filter_map(runs).collect()
    }

    pub(crate) fn group(&self, node: NodeId) -> Option<Group> {
        let running = self.members.get(&node)?.running.as_ref()?;
        Some(running.group.clone())
    }

    pub(crate) fn device(&self, node: NodeId) -> Option<SimDisk> {
        Some(self.grid.device(self.members.get(&node)?.at))
    }

    /// Whether somebody's log has no room for what needs any.
    pub(crate) fn is_full(&self) -> bool {
        let mut running = self.members.values().filter_map(|m| m.running.as_ref());
        running.any(|running| running.host.log().is_full())
    }

    /// Does one turn of every log: what was accepted reaches the caches.
    pub(crate) fn turn_logs(&self) {
        for member in self.members.values() {
            if let Some(running) = &member.running {
                running.host.log().turn();
            }
        }
    }

    /// Forgets whatever ran: the runtime it ran on is going, and the power is gone.
    pub(crate) fn lose_power(&mut self) {
        for member in self.members.values_mut() {
            member.running = None;
        }
    }

    fn site(&mut self, node: NodeId, admission: Admission) -> Option<Site> {
        let machine = self.ledger.machine(node);
        let member = self.members.get_mut(&node)?;
        member.boots += 1;
        let seed = self.scenario.seed ^ (node.0 << 40) ^ (member.boots << 20) ^ 0xB007;
        let mut rng = StdRng::seed_from_u64(seed);
        let salts = AtomicU64::new(rng.random());
        let least = self.scenario.sync_max / 4;
        let log = LogOptions {
            segment_bytes: self.scenario.segment_bytes,
            payload_bytes_max: 8 << 10,
            space_bytes_min: 0,
            retired: self.scenario.retired,
            driver: Driver::Manual,
            salt: Arc::new(move || salts.fetch_add(1, Ordering::Relaxed)),
            ..LogOptions::default()
        };
        Some(Site {
            node,
            machine,
            admission,
            dir: Path::new("/simulated").join(format!("n{node}")),
            disk: self.grid.disk(member.at),
            store: Store::Twin(self.grid.medium(member.at)),
            log,
            sync_takes: least + (self.scenario.sync_max - least).mul_f64(rng.random()),
        })
    }

    /// Starts a member that does not run.
    pub(crate) async fn start(
        &mut self,
        net: &Net,
        roster: &Roster,
        node: NodeId,
        admission: Admission,
    ) -> Result<(), OpenError> {
        let Some(site) = self.site(node, admission) else {
            return Ok(());
        };
        let running = cluster::start(net, site, &self.scenario.tuning).await?;
        roster.enter(running.group.clone());
        if let Some(member) = self.members.get_mut(&node) {
            member.running = Some(running);
        }
        Ok(())
    }

    /// Ends a member's process as `how` ends it.
    pub(crate) async fn end(&mut self, roster: &Roster, node: NodeId, how: End) {
        let Some(member) = self.members.get_mut(&node) else {
            return;
        };
        let running = member.running.take();
        match how {
            End::Killed => self.grid.kill(member.at),
            End::PowerCut => self.grid.cut_one(member.at),
            End::DiskLost => {
                member.lost = true;
                self.grid.wipe(member.at);
            }
        }
        roster.leave(node);
        if let Some(running) = running {
            running.kill().await;
        }
    }

    /// A member is no member any more: it ends and is forgotten.
    pub(crate) async fn retire(&mut self, net: &Net, roster: &Roster, node: NodeId) {
        self.end(roster, node, End::Killed).await;
        self.members.remove(&node);
        net.expel(node);
    }

    /// A process that cannot go on by itself: why.
    pub(crate) async fn failed(&self) -> Option<(NodeId, String)> {
        for (node, member) in &self.members {
            let Some(running) = &member.running else {
                continue;
            };
            if let Some(failure) = cluster::failure(running).await {
                return Some((*node, crate::run::chain(&failure)));
            }
        }
        None
    }

    /// Who leads, by its own linearizable word.
    pub(crate) async fn leader(&self) -> Option<Group> {
        for node in self.running() {
            let Some(group) = self.group(node) else {
                continue;
            };
            if group.is_leader() && group.read_index_as_leader().await.is_ok() {
                return Some(group);
            }
        }
        None
    }

    /// An id nobody ever had, and a disk for it.
    pub(crate) async fn replace(&mut self, net: &Net, old: NodeId) -> Option<NodeId> {
        let leader = self.leader().await?;
        let new = leader.allocate_node_id().await.ok()?;
        let member = Member {
            at: self.grid.add(),
            running: None,
            boots: 0,
            lost: false,
        };
        self.members.insert(new, member);
        net.enrol(new);
        self.replacement = Some(Replacement { old, new });
        self.book.count(STATES, "node ids allocated");
        Some(new)
    }

    /// Goes on with the replacement that was begun, for at most `within`. Each step may be done already, by an
    /// attempt whose answer was lost.
    pub(crate) async fn go_on(
        &mut self,
        net: &Net,
        roster: &Roster,
        within: Duration,
    ) -> Result<(), Broken> {
        let Some(Replacement { old, new }) = self.replacement else {
            return Ok(());
        };
        let end = Instant::now() + within;
        if self.group(new).is_none() {
            let started = self.start(net, roster, new, Admission::Join).await;
            if let Err(error) = started {
                let why = crate::run::chain(&error);
                // Nobody could be asked: the member comes later.
                if matches!(error, OpenError::NobodyToAsk(_)) {
                    return Ok(());
                }
                return Err(Broken(format!("new member {new} does not start: {why}")));
            }
        }
        while Instant::now() < end {
            if let Some(leader) = self.leader().await
                && self.step(&leader, old, new).await?
            {
                self.book.count(STATES, "members replaced");
                self.replacement = None;
                self.retire(net, roster, old).await;
                return Ok(());
            }
            sleep(STEP).await;
        }
        Ok(())
    }

    /// One step on from where the leader's membership stands. Answers whether the old member is out.
    async fn step(&self, leader: &Group, old: NodeId, new: NodeId) -> Result<bool, Broken> {
        let view = leader.status();
        let (voters, learners) = (view.voters.all(), view.learners);
        let guard = &NothingBeside;
        let outcome = if voters.contains(&new) && voters.contains(&old) {
            leader.remove(old, guard, Force::No).await
        } else if voters.contains(&new) {
            return Ok(view.voters.configs.len() == 1);
        } else if learners.contains(&new) {
            leader.promote(new, guard, Force::No, CATCH_UP).await
        } else {
            leader.add_learner(new).await
        };
        match outcome {
            Err(error @ MemberError::NotEnrolled(_)) => {
                Err(Broken(format!("member {new} is refused: {error}")))
            }
            // Done, or to be tried again: the next look says which.
            _ => Ok(false),
        }
    }
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The machine runs on: what was written is still in its cache.
    Killed,
    /// What was not synced is kept, lost or torn.
    PowerCut,
    /// Nothing is left.
    DiskLost,
}
