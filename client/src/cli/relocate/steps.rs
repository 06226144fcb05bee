//! Steps of a relocation up to its cutover: begin, grant, pace, cut over.
//!
//! Owns their arguments and what is said once each is done: what comes next, and who does it. Refuses what was approved for
//! something else.

use std::path::PathBuf;

use clap::Args;
use client::ids::DatasetName;
use client::moving::MoveAsked;
use proto::v1;
use serde_json::json;

use super::super::Session;
use super::super::failure::Failure;
use super::super::output::line;
use super::asked::{Dual, Which, other_request};
use super::{files, planned, shown, watch};

/// Milliseconds of a day.
const DAY_MS: u64 = 24 * 3_600 * 1_000;
/// The longest hold that a shard takes.
const HOLD_DAYS_MAX: u64 = 30;
/// What a cutover has where nobody says otherwise.
const PAUSE_MS_DEFAULT: u32 = 5_000;
const HOLD_DAYS_DEFAULT: u64 = 7;

#[derive(Args)]
pub(crate) struct Begin {
    /// The plan, as the source's people made it.
    plan: PathBuf,
    /// Where to write the offer, for the source's people.
    #[arg(short, long, required_unless_present = "ask")]
    out: Option<PathBuf>,
    /// The dataset's name here; default: as in the source.
    #[arg(long)]
    name: Option<DatasetName>,
    #[command(flatten)]
    dual: Dual,
}

#[derive(Args)]
pub(crate) struct Grant {
    /// The plan.
    plan: PathBuf,
    /// The destination's offer, as `reduit relocate begin` wrote it there.
    offer: PathBuf,
    #[command(flatten)]
    dual: Dual,
}

#[derive(Args)]
pub(crate) struct Cutover {
    /// The relocation's id, or its plan.
    which: Which,
    /// How long writes may wait for it: milliseconds; default: 5000, or as somebody said before.
    #[arg(long, value_parser = clap::value_parser!(u32).range(100..=5_000))]
    pause_ms: Option<u32>,
    /// How long keys of the source are kept for sure after it: days, at most 30; default: 7, or as somebody said before.
    /// Nobody changes it once it has begun.
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..=HOLD_DAYS_MAX))]
    hold_days: Option<u64>,
    /// Waits until the dataset is served here.
    #[arg(long)]
    wait: bool,
}

impl Begin {
    pub(super) async fn run(self, session: &Session) -> Result<(), Failure> {
        let plan = files::plan(&self.plan)?;
        let region = session.region().await?;
        let name = self.name.as_ref().unwrap_or(&plan.name);
        let blockers = region.arrival_blockers(&plan, name).await?;
        if !blockers.is_empty() {
            planned::blockers(session, &blockers);
            return Err(Failure::Blocked(blockers.len()));
        }
        let approved = match self.dual.earlier()? {
            Some(approved) => Some(approved),
            None => {
                let fresh = region.hand_over_key_request(&plan).await?;
                let asked = MoveAsked::HandOverKey(fresh);
                self.dual.settle(session, &region, asked)?
            }
        };
        let Some((asked, approvals)) = approved else {
            return Ok(());
        };
        let MoveAsked::HandOverKey(request) = asked else {
            return Err(other_request());
        };
        let begun = region
            .begin_relocation(&plan, name, (request, approvals))
            .await?;
        let Some(out) = &self.out else {
            return Ok(());
        };
        files::write(out, &begun.offer.to_file())?;
        if session.json {
            line(json!({
                "relocation": plan.relocation.to_string(), "dataset": plan.dataset.to_string(), "name": name.to_string(),
                "shard": begun.shard.0, "offer": out,
            }));
        } else {
            let (offer, path) = (out.display(), self.plan.display());
            line(format!(
                "{offer}: the offer; next, in {}: `reduit relocate grant {path} {offer}`",
                plan.source
            ));
        }
        Ok(())
    }
}

impl Grant {
    pub(super) async fn run(self, session: &Session) -> Result<(), Failure> {
        let plan = files::plan(&self.plan)?;
        let offer = files::offer(&self.offer)?;
        let region = session.region().await?;
        let fresh = region.grant_request(&plan, &offer).await?;
        let approved = match self.dual.earlier()? {
            Some(approved) => Some(approved),
            None => {
                let asked = MoveAsked::Grant(Box::new(fresh));
                self.dual.settle(session, &region, asked)?
            }
        };
        let Some((asked, approvals)) = approved else {
            return Ok(());
        };
        let MoveAsked::Grant(request) = asked else {
            return Err(other_request());
        };
        if request.key.as_ref() != Some(offer.signed()) {
            let why = "what was approved is another offer than this one";
            return Err(Failure::Usage(why.to_owned()));
        }
        region.grant_relocation(&plan, *request, approvals).await?;
        let (relocation, to) = (plan.relocation, &plan.destination);
        if session.json {
            line(
                json!({ "relocation": relocation.to_string(), "destination": to.as_str(), "granted": true }),
            );
        } else {
            line(format!(
                "{}: its keys are granted to {to}, whose gateways copy it from now on; there: `reduit relocate status {relocation}`",
                plan.name
            ));
        }
        Ok(())
    }
}

/// Changes how a relocation is moved.
pub(super) async fn pace(
    session: &Session,
    which: &Which,
    change: impl Fn(&mut v1::ArrivalPace),
) -> Result<(), Failure> {
    let region = session.region().await?;
    let relocation = which.arrives_in(&region)?;
    let pace = region.pace_relocation(&relocation, change).await?;
    if session.json {
        let mut told = shown::pace_json(&pace);
        told["relocation"] = relocation.to_string().into();
        line(told);
    } else {
        line(format!("{relocation}: {}", shown::pace_words(&pace)));
    }
    Ok(())
}

impl Cutover {
    pub(super) async fn run(self, session: &Session) -> Result<(), Failure> {
        pace(session, &self.which, |pace| self.asks(pace)).await?;
        match self.wait {
            true => watch::until_served(session, &self.which).await,
            false => Ok(()),
        }
    }

    /// What is not said stays as somebody who asked for a cutover before has said it.
    fn asks(&self, pace: &mut v1::ArrivalPace) {
        let first = !pace.cutover;
        pace.cutover = true;
        if let Some(ms) = self.pause_ms.or(first.then_some(PAUSE_MS_DEFAULT)) {
            pace.pause_ms = ms;
        }
        if let Some(days) = self.hold_days.or(first.then_some(HOLD_DAYS_DEFAULT)) {
            pace.hold_ms = days * DAY_MS;
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Asked {
        #[command(flatten)]
        cutover: Cutover,
    }

    fn asked(words: &[&str]) -> Result<Cutover, clap::Error> {
        let id = "0123456789abcdef0123456789abcdef";
        let words = [&["cutover", id], words].concat();
        Asked::try_parse_from(words).map(|asked| asked.cutover)
    }

    fn says(pace: &mut v1::ArrivalPace, words: &[&str]) -> (u32, u64) {
        asked(words).expect("within bounds").asks(pace);
        assert!(pace.cutover);
        (pace.pause_ms, pace.hold_ms / DAY_MS)
    }

    #[test]
    fn what_one_person_says_of_a_cutover_another_one_does_not_take_back_unsaid() {
        let mut pace = v1::ArrivalPace::default();
        assert_eq!(says(&mut pace, &["--hold-days", "30"]), (5_000, 30));
        assert_eq!(says(&mut pace, &["--pause-ms", "2000"]), (2_000, 30));
        assert_eq!(says(&mut pace, &[]), (2_000, 30));
        assert_eq!(says(&mut pace, &["--hold-days", "0"]), (2_000, 0));
        assert_eq!(says(&mut v1::ArrivalPace::default(), &[]), (5_000, 7));
    }

    #[test]
    fn a_hold_has_no_more_days_than_a_shard_takes() {
        assert!(asked(&["--hold-days", "31"]).is_err());
        assert!(asked(&["--pause-ms", "5001"]).is_err());
    }
}
