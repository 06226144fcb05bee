//! `reduit relocate status`: one look, or look after look.
//!
//! Owns when to look again, what is an event, and the bar. Refuses to go on for ever where nobody answers: the SDK's deadline
//! ends each look.

use std::time::{Duration, Instant};

use clap::Args;
use client::Region;
use client::ids::{GroupId, RelocationId};
use client::moving::{RelocationProgress, RelocationRate, is_over, is_served, rate};
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use proto::relocation::Named;
use proto::v1;
use proto::v1::ArrivalPhase as Phase;
use serde_json::Value;

use super::super::Session;
use super::super::failure::Failure;
use super::super::output::line;
use super::asked::{Seen, Which};
use super::shown;

/// Between two looks while it is watched.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(crate) struct Status {
    /// The relocation's id, or its plan; in the source its plan.
    which: Which,
    /// Looks again until it is over.
    #[arg(long)]
    watch: bool,
}

impl Status {
    pub(super) async fn run(self, session: &Session) -> Result<(), Failure> {
        let region = session.region().await?;
        let relocation = match self.which.seen_from(&region)? {
            Seen::Destination(relocation) => relocation,
            Seen::Source(plan) => {
                let named = plan.named();
                let mut last = None;
                loop {
                    let status = region.departure(&named, plan.shard).await?;
                    let standing = (status.changes, status.fence_ends_ms, status.dataset.clone());
                    if last.as_ref() != Some(&standing) {
                        shown::departure(session, &plan.relocation, &status);
                    }
                    let authority = standing.2.clone().unwrap_or_default().authority;
                    let authority = authority.unwrap_or_default();
                    let ended =
                        authority.departure.is_none() && authority.version > plan.from_version;
                    if !self.watch || ended || authority.moved.is_some() {
                        return Ok(());
                    }
                    last = Some(standing);
                    tokio::time::sleep(LOOK).await;
                }
            }
        };
        match self.watch {
            true => watch(session, &region, &relocation, is_over).await,
            false => look(session, &region, &relocation).await,
        }
    }
}

/// Watches until the dataset is served here, or will not be.
pub(super) async fn until_served(session: &Session, which: &Which) -> Result<(), Failure> {
    let region = session.region().await?;
    let relocation = which.arrives_in(&region)?;
    let until = |phase| is_served(phase) || matches!(phase, Phase::Aborting | Phase::Aborted);
    watch(session, &region, &relocation, until).await?;
    let status = region.arrival(&relocation).await?;
    match is_served(phase_of(&status)) {
        true => Ok(()),
        false => Err(Failure::Client(client::Error::Caller {
            reason: "relocation-aborted".to_owned(),
            message: "it was aborted, and the dataset stays where it was".to_owned(),
        })),
    }
}

fn phase_of(status: &v1::ArrivalStatus) -> Phase {
    let arrival = status.arrival.as_ref();
    arrival.map_or(Phase::Plan, v1::ArrivalRecord::phase)
}

/// Whether bytes are being moved: then two looks tell how fast.
fn moves(phase: Phase) -> bool {
    matches!(phase, Phase::Copying | Phase::CatchUp)
}

async fn look(
    session: &Session,
    region: &Region,
    relocation: &RelocationId,
) -> Result<(), Failure> {
    let mut status = region.arrival(relocation).await?;
    let mut progress = RelocationProgress::of(&status);
    let mut fast = None;
    if moves(phase_of(&status)) {
        let (before, began) = (progress, Instant::now());
        tokio::time::sleep(LOOK).await;
        status = region.arrival(relocation).await?;
        progress = RelocationProgress::of(&status);
        fast = Some(rate(&before, &progress, began.elapsed()));
    }
    if session.json {
        line(shown::status_json(&status, &progress, fast));
    } else {
        let lines = shown::status_lines(&status, &progress, fast);
        lines.iter().for_each(line);
    }
    Ok(())
}

/// Tells of an object only when it says something new.
struct Events {
    last: Option<Value>,
}

impl Events {
    fn tell(&mut self, told: Value) {
        if self.last.as_ref() != Some(&told) {
            line(&told);
            self.last = Some(told);
        }
    }
}

async fn watch(
    session: &Session,
    region: &Region,
    relocation: &RelocationId,
    until: impl Fn(Phase) -> bool,
) -> Result<(), Failure> {
    let mut status = region.arrival(relocation).await?;
    let dataset = status.dataset.clone().unwrap_or_default().dataset_id;
    let named = Named::parse(&dataset, relocation.as_bytes())?;
    let shard = GroupId(status.shard);
    let bar = Bar::new(session);
    let mut events = Events { last: None };
    let mut before: Option<(RelocationProgress, Instant)> = None;
    loop {
        let (progress, at) = (RelocationProgress::of(&status), Instant::now());
        let fast = before
            .as_ref()
            .map(|(before, then)| rate(before, &progress, at - *then));
        if session.json {
            events.tell(shown::status_json(&status, &progress, None));
        } else {
            bar.draw(&progress, fast);
        }
        if until(phase_of(&status)) {
            bar.clear();
            if !session.json {
                let lines = shown::status_lines(&status, &progress, None);
                lines.iter().for_each(line);
            }
            return Ok(());
        }
        before = Some((progress, at));
        tokio::time::sleep(LOOK).await;
        status = region.arrival_again(&named, shard).await?;
    }
}

/// Of the bytes that are here, with the rest in words.
struct Bar(ProgressBar);

impl Bar {
    fn new(session: &Session) -> Self {
        let target = match session.json {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr(),
        };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let style = ProgressStyle::with_template("{bar:30} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self(bar)
    }

    fn draw(&self, progress: &RelocationProgress, fast: Option<RelocationRate>) {
        self.0
            .set_length(progress.source_bytes.unwrap_or(progress.bytes));
        self.0.set_position(progress.bytes);
        self.0.set_message(message(progress, fast));
    }

    fn clear(&self) {
        self.0.finish_and_clear();
    }
}

/// What stands beside the bar.
fn message(progress: &RelocationProgress, fast: Option<RelocationRate>) -> String {
    let mut words = vec![progress.phase.to_owned(), shown::counts(progress)];
    if let Some(fast) = fast.filter(|fast| fast.bytes_per_s > 0) {
        words.push(format!("{}/s", HumanBytes(fast.bytes_per_s)));
        words.extend(
            fast.left
                .map(|left| format!("about {} left", HumanDuration(left))),
        );
    }
    if progress.compared > 0 {
        words.push(format!("{} % compared", progress.compared_percent()));
    }
    if let Some(behind) = progress.changes_behind.filter(|behind| *behind > 0) {
        words.push(format!("{behind} changes behind"));
    }
    if !progress.waits_for.is_empty() {
        words.push(format!("waits for {}", progress.waits_for));
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_beside_the_bar_says_what_is_known_and_no_more() {
        let mut progress = RelocationProgress {
            phase: "copying",
            versions: 3,
            bytes: 2_048,
            ..RelocationProgress::default()
        };
        assert_eq!(message(&progress, None), "copying, 3 versions, 2.00 KiB");
        progress.source_versions = Some(6);
        progress.source_bytes = Some(4_096);
        let fast = RelocationRate {
            bytes_per_s: 1_024,
            left: Some(Duration::from_secs(2)),
        };
        let said = message(&progress, Some(fast));
        assert!(said.contains("3 of 6 versions"), "{said}");
        assert!(said.contains("1.00 KiB/s, about 2 seconds left"), "{said}");
    }
}
