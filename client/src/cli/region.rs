//! `reduit region`: how whole the files of a region's nodes are, and what makes them whole. Other regions: see
//! [`super::regions`].
//!
//! Owns the words, the bars and the estimates: nodes give counts, and here they are divided. Refuses to call a region
//! repaired while a node does not answer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use client::ids::{NodeId, RegionId};
use client::{Error, NodeUpkeep, Region};
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use proto::v1::{GroupRepair, MemberRole, Refill, RepairStatusReply, ScrubPass};
use serde_json::{Value, json};

use super::failure::Failure;
use super::output::{line, time};
use super::{Session, regions};

/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(500);
/// How long a node may be silent while it is waited for.
const SILENT_MAX: Duration = Duration::from_secs(60);
/// How long repair may get nowhere: longer than a node waits between two tries of one block.
const STUCK_MAX: Duration = Duration::from_secs(180);

const STATUS_HELP: &str =
    "Counts are the node's own, taken now. Damaged and repaired count blocks since its process \
started. What is left of a refill is estimated from what was fetched so far.

Examples:
  reduit region status
  reduit region status --json | jq 'select(.damaged_found > 0)'";

const SCRUB_HELP: &str = "A pass looks at the name and header of every segment file, reads every block and checks it, \
then the state of every group and the Raft log. What is damaged is fetched from a peer; what was damaged already when the pass began is not counted again. It takes \
the place of the pass under way. With --wait it ends with 8 where a Raft log is damaged: that is not repaired, the \
member is to be replaced.

Examples:
  reduit region scrub
  reduit region scrub --node 2 --rate 200 --wait";

const REPAIR_HELP: &str = "Each node compares every block that it should hold with what it holds, and tries again at \
once what it had put off. With --wait it ends with 0 when nothing is missing on any of them, with 6 when three minutes \
brought nothing.

Examples:
  reduit region repair --wait
  reduit region repair --node 4 --wait --json";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Of every node: roles, positions, missing and damaged blocks, scrubs, room.
    #[command(after_help = STATUS_HELP)]
    Status,
    /// Begins a pass of the scrubber now.
    #[command(after_help = SCRUB_HELP)]
    Scrub(Scrub),
    /// Has missing blocks fetched from peers now.
    #[command(after_help = REPAIR_HELP)]
    Repair(Repair),
    /// What this region says of itself to others, or what a file of another one says.
    #[command(after_help = regions::SHOW_HELP)]
    Show(regions::Show),
    /// Trusts another region by its descriptor's fingerprint, approved by two other operators.
    #[command(after_help = regions::TRUST_HELP)]
    Trust(regions::Trust),
    /// Regions that this one knows: version, expiry, whether they are trusted, what waits.
    #[command(after_help = regions::PEERS_HELP)]
    Peers,
    /// Ends the trust in a region at once. Takes one operator.
    #[command(after_help = regions::DISTRUST_HELP)]
    Distrust {
        /// Which.
        region: RegionId,
    },
}

#[derive(Args)]
pub(crate) struct Scrub {
    /// One node, by its member id; else every node.
    #[arg(long)]
    node: Option<u64>,
    /// MiB a second that each node reads; else its own pace.
    #[arg(long, value_name = "MIB_PER_S", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    rate: Option<u64>,
    /// Waits until everything has been read.
    #[arg(long)]
    wait: bool,
}

#[derive(Args)]
pub(crate) struct Repair {
    /// One node, by its member id; else every node.
    #[arg(long)]
    node: Option<u64>,
    /// Waits until nothing is missing.
    #[arg(long)]
    wait: bool,
}

pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    // A file is shown offline.
    if let Command::Show(show) = &command
        && let Some(path) = &show.descriptor
    {
        return show.file(session, path);
    }
    let region = session.region().await?;
    match command {
        Command::Status => status(session, &region).await,
        Command::Scrub(scrub) => scrub.run(session, &region).await,
        Command::Repair(repair) => repair.run(session, &region).await,
        Command::Show(show) => show.own(session, &region).await,
        Command::Trust(trust) => trust.run(session, &region).await,
        Command::Peers => regions::peers(session, &region).await,
        Command::Distrust { region: other } => regions::distrust(session, &region, &other).await,
    }
}

async fn status(session: &Session, region: &Region) -> Result<(), Failure> {
    for node in region.upkeep(None).await? {
        // Who may not ask is told so once, and not for every node.
        if let Err(error @ Error::Denied { .. }) = node.answer {
            return Err(error.into());
        }
        if session.json {
            line(node_json(&node));
        } else {
            node_lines(&node).iter().for_each(line);
        }
    }
    Ok(())
}

impl Scrub {
    async fn run(self, session: &Session, region: &Region) -> Result<(), Failure> {
        let bytes_per_s = self.rate.map_or(0, |mib| mib << 20);
        let mut waiting = Vec::new();
        for node in region.upkeep(self.node.map(NodeId)).await? {
            let name = node.name().to_owned();
            let before = node.answer?;
            let number = region.scrub(node.node, bytes_per_s).await?;
            if !self.wait {
                match session.json {
                    true => line(json!({ "node": node.node.0, "pass": number })),
                    false => line(format!("{name}: pass {number} begins")),
                }
            }
            waiting.push((node.node, name, number, before));
        }
        if !self.wait {
            return Ok(());
        }
        let mut log_damaged = Vec::new();
        for (node, name, number, before) in waiting {
            let begun = (before.started_at_ms, number);
            let (status, pass) = waited_scrub(session, region, (node, &name), begun).await?;
            let repaired = status
                .repaired_blocks
                .saturating_sub(before.repaired_blocks);
            let missing = missing_of(&status);
            if !pass.log_damage.is_empty() {
                log_damaged.push(name.clone());
            }
            if session.json {
                let mut said = pass_json(&pass);
                said["node"] = node.0.into();
                said["repaired_blocks"] = repaired.into();
                said["missing_blocks"] = missing.into();
                line(said);
                continue;
            }
            line(format!(
                "{name}: {} blocks ({}) in {} segments looked at; {} damaged, {repaired} repaired, {missing} missing; \
                 state {}, log {}",
                pass.blocks,
                HumanBytes(pass.bytes),
                pass.segments,
                pass.damaged_blocks,
                HumanBytes(pass.state_bytes),
                HumanBytes(pass.log_bytes)
            ));
            pass_troubles(&pass).iter().for_each(line);
        }
        match log_damaged.is_empty() {
            true => Ok(()),
            false => Err(Failure::LogDamaged(log_damaged.join(", "))),
        }
    }
}

/// Waits for a pass of one node, or for a later one that was asked for: that has read everything since, too.
async fn waited_scrub(
    session: &Session,
    region: &Region,
    (node, name): (NodeId, &str),
    (started_at_ms, number): (u64, u64),
) -> Result<(RepairStatusReply, ScrubPass), Failure> {
    let template = "{msg}: {bar:30} {bytes}/{total_bytes} read, {eta} left";
    let bar = bar(session, template);
    bar.set_message(name.to_owned());
    let mut asking = Asking::new();
    loop {
        let Some(status) = asking.status(region, node).await? else {
            continue;
        };
        // The numbers of passes begin anew with the process.
        if status.started_at_ms != started_at_ms {
            let message = format!("node {node} was started anew before it had read everything");
            let reason = "node-restarted".to_owned();
            return Err(Error::Unavailable { reason, message }.into());
        }
        let ended = status.last_asked_scrub.clone();
        if let Some(pass) = ended.filter(|pass| pass.number >= number) {
            bar.finish_and_clear();
            return Ok((status, pass));
        }
        if let Some(pass) = status.scrub {
            bar.set_length(pass.total_bytes);
            bar.set_position(pass.bytes);
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl Repair {
    async fn run(self, session: &Session, region: &Region) -> Result<(), Failure> {
        let mut waiting = BTreeMap::new();
        for node in region.upkeep(self.node.map(NodeId)).await? {
            let name = node.name().to_owned();
            let before = node.answer?;
            region.repair(node.node).await?;
            if !self.wait {
                let missing = missing_of(&before);
                match session.json {
                    true => line(json!({ "node": node.node.0, "missing_blocks": missing })),
                    false => line(format!("{name}: asked; {missing} blocks missing")),
                }
            }
            waiting.insert(node.node, (name, before.repaired_blocks));
        }
        if !self.wait {
            return Ok(());
        }
        let repaired = waited_repair(session, region, &waiting).await?;
        for (node, repaired) in repaired {
            match session.json {
                true => line(
                    json!({ "node": node.0, "repaired_blocks": repaired, "missing_blocks": 0 }),
                ),
                false => line(format!(
                    "{}: {repaired} blocks repaired, nothing missing",
                    waiting[&node].0
                )),
            }
        }
        Ok(())
    }
}

/// Waits until nothing is missing on any of the nodes; answers how many blocks each has fetched meanwhile.
async fn waited_repair(
    session: &Session,
    region: &Region,
    nodes: &BTreeMap<NodeId, (String, u64)>,
) -> Result<BTreeMap<NodeId, u64>, Failure> {
    let bar = bar(session, "{bar:30} {pos}/{len} blocks, {eta} left");
    let mut askings: BTreeMap<_, _> = nodes.keys().map(|node| (*node, Asking::new())).collect();
    let (mut best, mut moved_at) = ((u64::MAX, 0), Instant::now());
    loop {
        let (mut missing, mut comparing, mut fetched) = (0, false, BTreeMap::new());
        for (node, asking) in &mut askings {
            let Some(status) = asking.status(region, *node).await? else {
                comparing = true;
                continue;
            };
            missing += missing_of(&status);
            comparing |= status.groups.iter().any(|group| group.comparing);
            let before = nodes[node].1;
            fetched.insert(*node, status.repaired_blocks.saturating_sub(before));
        }
        if missing == 0 && !comparing {
            bar.finish_and_clear();
            return Ok(fetched);
        }
        let done: u64 = fetched.values().sum();
        bar.set_length(done + missing);
        bar.set_position(done);
        if missing < best.0 || done > best.1 {
            best = (missing.min(best.0), done.max(best.1));
            moved_at = Instant::now();
        }
        if moved_at.elapsed() > STUCK_MAX {
            bar.finish_and_clear();
            return Err(Failure::StillMissing(missing));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn missing_of(status: &RepairStatusReply) -> u64 {
    status.groups.iter().map(|group| group.missing_blocks).sum()
}

/// Asking one node again and again: it may be started anew meanwhile.
struct Asking {
    heard: Instant,
}

impl Asking {
    fn new() -> Self {
        Self {
            heard: Instant::now(),
        }
    }

    /// What it says; nothing where it is silent, and not for too long yet.
    async fn status(
        &mut self,
        region: &Region,
        node: NodeId,
    ) -> Result<Option<RepairStatusReply>, Failure> {
        match region.repair_status(node).await {
            Ok(status) => {
                self.heard = Instant::now();
                Ok(Some(status))
            }
            Err(Error::Unavailable { .. } | Error::Unknown { .. })
                if self.heard.elapsed() < SILENT_MAX =>
            {
                tokio::time::sleep(LOOK).await;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn bar(session: &Session, template: &str) -> ProgressBar {
    let target = match session.json {
        true => ProgressDrawTarget::hidden(),
        false => ProgressDrawTarget::stderr(),
    };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// What is left of a refill, by what it has taken so far; nothing before the first block came.
fn left(refill: &Refill, missing: u64) -> Option<Duration> {
    let left = u128::from(missing) * u128::from(refill.elapsed_ms);
    let left = left.checked_div(u128::from(refill.fetched_blocks))?;
    Some(Duration::from_millis(u64::try_from(left).ok()?))
}

fn role(group: &GroupRepair) -> String {
    let name = group.role().as_str_name();
    name.trim_start_matches("MEMBER_ROLE_").to_lowercase()
}

fn node_lines(node: &NodeUpkeep) -> Vec<String> {
    let status = match &node.answer {
        Err(error) => return vec![format!("{}: no answer: {error}", node.name())],
        Ok(status) => status,
    };
    let mut lines = vec![format!(
        "{} (node {}): {} blocks, {}; {} of {} free; damaged {} now, {} found, {} repaired",
        node.name(),
        node.node,
        status.blocks,
        HumanBytes(status.block_bytes),
        HumanBytes(status.disk_free_bytes),
        HumanBytes(status.disk_bytes),
        status.damaged_blocks,
        status.damaged_found,
        status.repaired_blocks
    )];
    lines.push(format!("  {}", scrub_words(status)));
    lines.extend(status.last_scrub.iter().flat_map(pass_troubles));
    lines.extend(status.groups.iter().map(group_line));
    lines
}

fn scrub_words(status: &RepairStatusReply) -> String {
    let now = match &status.scrub {
        None => "scrub: none under way".to_owned(),
        Some(pass) => {
            let percent = (pass.bytes * 100)
                .checked_div(pass.total_bytes)
                .unwrap_or(100);
            format!(
                "scrub: {} % of {}, {} damaged, at {}/s",
                percent.min(100),
                HumanBytes(pass.total_bytes),
                pass.damaged_blocks,
                HumanBytes(pass.bytes_per_s)
            )
        }
    };
    match &status.last_scrub {
        None => format!("{now}; none finished since the start"),
        Some(last) => format!(
            "{now}; the last one ended {}: {} blocks, {} damaged",
            time(last.ended_at_ms),
            last.blocks,
            last.damaged_blocks
        ),
    }
}

fn group_line(group: &GroupRepair) -> String {
    let mut said = format!(
        "  group {:<4} {:<9} applied {} of {} committed",
        group.group,
        role(group),
        group.applied_index,
        group.committed_index
    );
    if group.role() != MemberRole::Leader && group.leader == 0 {
        said.push_str("; no leader is known");
    }
    if group.comparing {
        said.push_str("; references are being compared with the disk");
    }
    if group.missing_blocks > 0 {
        said.push_str(&format!("; {} blocks missing", group.missing_blocks));
        if let Some(refill) = &group.refill {
            said.push_str(&format!(", {} fetched", refill.fetched_blocks));
            if let Some(left) = left(refill, group.missing_blocks) {
                said.push_str(&format!(", about {} left", HumanDuration(left)));
            }
        }
    }
    said
}

/// What of a pass needs a person's eye.
fn pass_troubles(pass: &ScrubPass) -> Vec<String> {
    let mut found = Vec::new();
    if pass.lost_segments > 0 {
        found.push(format!(
            "  {} segment files were gone or not what was written: is somebody else at work in the data folder?",
            pass.lost_segments
        ));
    }
    if pass.mended_headers > 0 {
        found.push(format!(
            "  {} segment headers were damaged and written again",
            pass.mended_headers
        ));
    }
    if !pass.log_damage.is_empty() {
        found.push(format!(
            "  {}: this member will not start again; replace it while it serves",
            pass.log_damage
        ));
    }
    if pass.unread_blocks > 0 {
        found.push(format!(
            "  {} blocks could not be read for a reason that is not theirs: the node's log names it",
            pass.unread_blocks
        ));
    }
    found
}

fn node_json(node: &NodeUpkeep) -> Value {
    let identity = node.identity.as_ref().map(ToString::to_string);
    let status = match &node.answer {
        Err(error) => {
            return json!({
                "node": node.node.0, "identity": identity, "endpoint": node.endpoint,
                "error": { "reason": error.reason(), "message": error.to_string() },
            });
        }
        Ok(status) => status,
    };
    json!({
        "node": node.node.0, "identity": identity, "endpoint": node.endpoint,
        "disk_bytes": status.disk_bytes, "disk_free_bytes": status.disk_free_bytes,
        "blocks": status.blocks, "block_bytes": status.block_bytes,
        "damaged_blocks": status.damaged_blocks, "damaged_found": status.damaged_found,
        "repaired_blocks": status.repaired_blocks, "repairs_failed": status.repairs_failed,
        "scrub_bytes_per_s": status.scrub_bytes_per_s,
        "scrub": status.scrub.as_ref().map(pass_json),
        "last_scrub": status.last_scrub.as_ref().map(pass_json),
        "groups": status.groups.iter().map(group_json).collect::<Vec<_>>(),
    })
}

fn group_json(group: &GroupRepair) -> Value {
    let refill = group.refill.as_ref().map(|refill| {
        let left = left(refill, group.missing_blocks).map(|left| left.as_secs());
        json!({
            "began": time(refill.began_at_ms), "fetched_blocks": refill.fetched_blocks,
            "fetched_bytes": refill.fetched_bytes, "left_s": left,
        })
    });
    json!({
        "group": group.group, "role": role(group), "leader": (group.leader > 0).then_some(group.leader),
        "applied": group.applied_index, "committed": group.committed_index,
        "comparing": group.comparing, "missing_blocks": group.missing_blocks, "refill": refill,
    })
}

fn pass_json(pass: &ScrubPass) -> Value {
    json!({
        "pass": pass.number, "asked": pass.asked, "began": time(pass.began_at_ms),
        "ended": (pass.ended_at_ms > 0).then(|| time(pass.ended_at_ms)),
        "bytes_per_s": pass.bytes_per_s, "total_blocks": pass.total_blocks, "total_bytes": pass.total_bytes,
        "blocks": pass.blocks, "bytes": pass.bytes, "damaged_blocks": pass.damaged_blocks,
        "unread_blocks": pass.unread_blocks, "segments": pass.segments, "lost_segments": pass.lost_segments,
        "mended_headers": pass.mended_headers, "repaired_blocks": pass.repaired_blocks,
        "state_bytes": pass.state_bytes, "log_segments": pass.log_segments, "log_bytes": pass.log_bytes,
        "log_damage": (!pass.log_damage.is_empty()).then_some(&pass.log_damage),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_estimated_from_what_came_and_not_before_anything_did() {
        let refill = |fetched_blocks| Refill {
            elapsed_ms: 10_000,
            fetched_blocks,
            ..Refill::default()
        };
        assert_eq!(left(&refill(0), 50), None);
        assert_eq!(left(&refill(100), 50), Some(Duration::from_secs(5)));
        assert_eq!(left(&refill(1), u64::MAX), None);
    }

    #[test]
    fn a_node_says_in_words_what_it_misses_and_what_its_scrubber_found() {
        let group = GroupRepair {
            group: 16,
            role: MemberRole::Follower.into(),
            missing_blocks: 30,
            refill: Some(Refill {
                elapsed_ms: 60_000,
                fetched_blocks: 10,
                ..Refill::default()
            }),
            ..GroupRepair::default()
        };
        let last = ScrubPass {
            ended_at_ms: 1_795_305_599_000,
            blocks: 40,
            damaged_blocks: 3,
            ..ScrubPass::default()
        };
        let status = RepairStatusReply {
            groups: vec![group],
            last_scrub: Some(last),
            damaged_found: 7,
            ..RepairStatusReply::default()
        };
        let node = |answer| NodeUpkeep {
            node: NodeId(4),
            identity: None,
            endpoint: "n4:7000".to_owned(),
            answer,
        };
        let said = node_lines(&node(Ok(status.clone()))).join("\n");
        for word in [
            "n4:7000 (node 4)",
            "7 found",
            "follower",
            "no leader is known",
            "30 blocks missing, 10 fetched, about 3 minutes left",
            "ended 2026-11-21T23:59:59Z: 40 blocks, 3 damaged",
        ] {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert_eq!(
            node_json(&node(Ok(status)))["groups"][0]["refill"]["left_s"],
            180
        );
        let silent = Error::Unavailable {
            reason: "connection".to_owned(),
            message: "refused".to_owned(),
        };
        assert!(node_lines(&node(Err(silent)))[0].contains("no answer"));
    }
}
