//! A member that lost its disk is known by whoever counts on its vote, applied or not.
//!
//! In this process the engine's jitter comes from the system: the test waits for what it needs instead of for a time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proto::ids::NodeId;
use replica::Group;
use replica::host::{Admission, OpenError};
use replica::log::{Driver, LogOptions};
use sim::cluster::{self, Running, Site, Store, tuning};
use sim::grid::Grid;
use sim::machine::Shard;
use sim::net::{Net, Weather};
use tokio::time::{sleep, timeout};

const NEW: NodeId = NodeId(4);
const WEATHER: Weather = Weather {
    delay_max: Duration::from_millis(5),
    ..Weather::CALM
};

async fn start(
    net: &Net,
    grid: &Grid,
    node: NodeId,
    admission: Admission,
) -> Result<Running, OpenError> {
    let at = node.0 as usize - 1;
    let site = Site {
        node,
        machine: Arc::new(Shard),
        admission,
        dir: Path::new("/simulated").join(format!("n{node}")),
        disk: grid.disk(at),
        store: Store::Twin(grid.medium(at)),
        log: LogOptions {
            segment_bytes: 256 << 10,
            payload_bytes_max: 8 << 10,
            space_bytes_min: 0,
            driver: Driver::Manual,
            ..LogOptions::default()
        },
        sync_takes: Duration::from_micros(200),
    };
    cluster::start(net, site, &tuning()).await
}

/// Cuts `node` off once the new member stands in its log and before that is committed there.
async fn cut_off_in_between(net: &Net, node: &Group) -> bool {
    let mut watch = node.watch();
    let knows = watch.wait_for(|view| view.learners.contains(&NEW));
    if timeout(cluster::AGREE_MAX, knows).await.is_err() {
        return false;
    }
    net.isolate(node.node_id());
    // What was under way arrives, or does not.
    sleep(Duration::from_millis(50)).await;
    true
}

/// Three founders that agree, and a new member that runs and is none yet.
struct Scene {
    net: Net,
    grid: Grid,
    /// Kept running.
    _founders: Vec<Running>,
    groups: Vec<Group>,
    leader: Group,
    behind: Group,
    new: Option<Running>,
}

impl Scene {
    async fn set() -> Self {
        let grid = Grid::new(4, 7);
        let founders = (1..=3).map(NodeId);
        let net = Net::between(founders, WEATHER, 7, sim::logbook::Logbook::default());
        let mut members = Vec::new();
        for node in 1..=3 {
            let started = start(&net, &grid, NodeId(node), Admission::Found).await;
            members.push(started.expect("an empty folder"));
        }
        let groups: Vec<Group> = members.iter().map(|m| m.group.clone()).collect();
        cluster::found(&groups).await.expect("three founders");
        cluster::agree(&groups).await.expect("they agree");
        net.enrol(NEW);
        let new = start(&net, &grid, NEW, Admission::Join).await;
        let new = new.expect("an id that never was one");
        let leader = groups.iter().find(|group| group.is_leader());
        let leader = leader.expect("they agreed").clone();
        let behind = groups.iter().find(|group| !group.is_leader());
        let behind = behind.expect("two follow").clone();
        Self {
            net,
            grid,
            _founders: members,
            groups,
            leader,
            behind,
            new: Some(new),
        }
    }

    /// The new member loses its disk and comes again, while it reaches the one behind alone, and that one nobody else.
    async fn comes_again_empty(&mut self) -> Option<OpenError> {
        self.grid.wipe(3);
        if let Some(new) = self.new.take() {
            new.kill().await;
        }
        self.net.heal();
        for group in &self.groups {
            let node = group.node_id();
            if node != self.behind.node_id() {
                for other in [NEW, self.behind.node_id()] {
                    self.net.cut(node, other);
                    self.net.cut(other, node);
                }
            }
        }
        let applied = self.behind.applied();
        let again = start(&self.net, &self.grid, NEW, Admission::Join).await;
        assert_eq!(
            self.behind.applied(),
            applied,
            "it has applied it meanwhile"
        );
        again.err()
    }
}

/// Goes red where a peer looks at what it has applied alone: the follower here has the new member in its log and
/// counts on it, and has not applied that.
#[tokio::test(start_paused = true)]
async fn a_lost_member_is_known_to_a_peer_that_has_it_in_its_log_alone() {
    let mut scene = Scene::set().await;
    let (added, cut) = tokio::join!(
        scene.leader.add_learner(NEW),
        cut_off_in_between(&scene.net, &scene.behind)
    );
    assert_eq!((added, cut), (Ok(()), true));
    let (behind, leader) = (scene.behind.applied(), scene.leader.applied());
    assert!(behind < leader, "it was cut off too late");
    let refused = scene.comes_again_empty().await;
    assert!(
        matches!(refused, Some(OpenError::Reused { .. })),
        "{refused:?}"
    );
}

/// Goes red where the word of a peer that lags is enough to join on: the follower here never heard of the new member.
#[tokio::test(start_paused = true)]
async fn a_lost_member_does_not_join_on_the_word_of_a_peer_that_never_heard_of_it() {
    let mut scene = Scene::set().await;
    scene.net.isolate(scene.behind.node_id());
    assert_eq!(scene.leader.add_learner(NEW).await, Ok(()));
    assert!(!scene.behind.status().learners.contains(&NEW));
    let refused = scene.comes_again_empty().await;
    assert!(
        matches!(refused, Some(OpenError::NobodyToAsk(_))),
        "{refused:?}"
    );
    // In the folder that the refused start made, and with everybody to ask.
    scene.net.heal();
    cluster::agree(&scene.groups).await.expect("they agree");
    let refused = start(&scene.net, &scene.grid, NEW, Admission::Join)
        .await
        .err();
    assert!(
        matches!(refused, Some(OpenError::Reused { .. })),
        "{refused:?}"
    );
}
