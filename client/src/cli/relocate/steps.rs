//! Steps of a relocation that people take, one after the other.
//!
//! Owns their arguments and what is said once each is done: what comes next, and who does it. Refuses to wait in silence: what
//! is not over says for what it waits, and ends with 4.

use std::path::{Path, PathBuf};

use clap::Args;
use client::Region;
use client::ids::DatasetName;
use client::moving::{
    MoveAsked, RelocationPlan, RelocationProgress, RelocationWords, is_over, phase_name,
};
use proto::v1;
use serde_json::json;

use super::super::Session;
use super::super::failure::Failure;
use super::super::output::{line, time};
use super::asked::{Dual, Seen, Which, other_request};
use super::{files, shown, watch};

/// Milliseconds of a day.
const DAY_MS: u64 = 24 * 3_600 * 1_000;

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
    /// How long writes may wait for it: milliseconds.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(100..=5_000))]
    pause_ms: u32,
    /// How long keys of the source are kept for sure after it.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u64).range(0..=3_650))]
    hold_days: u64,
    /// Waits until the dataset is served here.
    #[arg(long)]
    wait: bool,
}

#[derive(Args)]
pub(crate) struct Shred {
    /// The relocation's id, or its plan; in the source its plan.
    which: Which,
    /// In the source: words of the destination.
    words: Option<PathBuf>,
    /// In the source: how long it can be cancelled.
    #[arg(long, value_parser = clap::value_parser!(u32).range(7..=30))]
    days: Option<u32>,
    #[command(flatten)]
    dual: Dual,
}

impl Begin {
    pub(super) async fn run(self, session: &Session) -> Result<(), Failure> {
        let plan = files::plan(&self.plan)?;
        let region = session.region().await?;
        let name = self.name.as_ref().unwrap_or(&plan.name);
        let blockers = region.arrival_blockers(&plan, name).await?;
        if !blockers.is_empty() {
            shown::blockers(session, &blockers);
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
                let asked = MoveAsked::Grant(fresh);
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
        region.grant_relocation(&plan, request, approvals).await?;
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
    change: impl FnOnce(&mut v1::ArrivalPace),
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
        let hold_ms = self.hold_days.saturating_mul(DAY_MS);
        pace(session, &self.which, |pace| {
            pace.cutover = true;
            pace.pause_ms = self.pause_ms;
            pace.hold_ms = hold_ms;
        })
        .await?;
        match self.wait {
            true => watch::until_served(session, &self.which).await,
            false => Ok(()),
        }
    }
}

pub(super) async fn abort(
    session: &Session,
    which: &Which,
    said: Option<&Path>,
) -> Result<(), Failure> {
    let region = session.region().await?;
    match which.seen_from(&region)? {
        Seen::Source(plan) => {
            let released = region.abort_departure(&plan).await?;
            let disclosed = released.unwrap_or_default();
            if session.json {
                line(json!({
                    "relocation": plan.relocation.to_string(), "ended": true, "disclosed_versions": released,
                }));
            } else {
                line(format!(
                    "{}: it stays here. Keys were released {disclosed} times, and count as disclosed to {} until what they open is \
                     sealed anew; next: `reduit relocate words` here, for the other region's abort",
                    plan.name, plan.destination
                ));
            }
            Ok(())
        }
        Seen::Destination(relocation) => {
            let said = said.map(files::words).transpose()?;
            let status = region.abort_arrival(&relocation, said.as_ref()).await?;
            ended(session, &status)
        }
    }
}

/// What it came to, or for what it waits.
fn ended(session: &Session, status: &v1::ArrivalStatus) -> Result<(), Failure> {
    let progress = RelocationProgress::of(status);
    if session.json {
        line(shown::status_json(status, &progress, None));
    } else {
        line(shown::brief(status, &progress));
        if let Some(released) = progress.released {
            line(format!(
                "keys were released {released} times: what they open counts as disclosed to this region until it is sealed anew"
            ));
        }
    }
    let arrival = status.arrival.clone().unwrap_or_default();
    if is_over(arrival.phase()) {
        return Ok(());
    }
    let waits = match progress.waits_for {
        "" => "what the source says of its fence",
        waits => waits,
    };
    Err(Failure::Waits(waits.to_owned()))
}

pub(super) async fn words(session: &Session, which: &Which, out: &Path) -> Result<(), Failure> {
    let region = session.region().await?;
    let said = match which.seen_from(&region)? {
        Seen::Source(plan) => region.source_words(&plan).await?,
        Seen::Destination(relocation) => {
            let status = region.arrival(&relocation).await?;
            let dataset = status.dataset.unwrap_or_default().dataset_id;
            let named = proto::relocation::Named::parse(&dataset, relocation.as_bytes())?;
            region
                .destination_words(&named, client::ids::GroupId(status.shard))
                .await
        }
    };
    if said.count() == 0 {
        let why =
            "no replica of this region has a word on it: it is not known here, or none answers";
        return Err(Failure::NoAnswer(why.to_owned()));
    }
    files::write(out, &said.to_file())?;
    told_words(session, &said, out);
    Ok(())
}

fn told_words(session: &Session, said: &RelocationWords, out: &Path) {
    let nodes = said.departures.len() + said.arrivals.len();
    let kms = said.keys.len();
    if session.json {
        line(json!({ "words": out, "nodes": nodes, "kms": kms, "region": said.region.as_str() }));
    } else {
        line(format!(
            "{}: words of {nodes} nodes and {kms} KMS replicas of {}",
            out.display(),
            said.region
        ));
    }
}

impl Shred {
    pub(super) async fn run(self, session: &Session) -> Result<(), Failure> {
        let region = session.region().await?;
        match self.which.seen_from(&region)? {
            Seen::Source(plan) => self.here(session, &region, &plan).await,
            Seen::Destination(relocation) => {
                let approved = match self.dual.earlier()? {
                    Some(approved) => Some(approved),
                    None => {
                        let fresh = region.shred_request(&relocation).await?;
                        let asked = MoveAsked::Shred(fresh);
                        self.dual.settle(session, &region, asked)?
                    }
                };
                let Some((asked, approvals)) = approved else {
                    return Ok(());
                };
                let of = asked.named()?;
                let MoveAsked::Shred(request) = asked else {
                    return Err(other_request());
                };
                if of.relocation != relocation {
                    return Err(other_request());
                }
                region.shred_relocation(request, approvals).await?;
                if session.json {
                    line(
                        json!({ "relocation": relocation.to_string(), "phase": phase_name(v1::ArrivalPhase::Shred) }),
                    );
                } else {
                    line(format!(
                        "{relocation}: the source may destroy its keys; next: `reduit relocate words` here, and `reduit relocate shred` there"
                    ));
                }
                Ok(())
            }
        }
    }

    /// In the source.
    async fn here(
        &self,
        session: &Session,
        region: &Region,
        plan: &RelocationPlan,
    ) -> Result<(), Failure> {
        let approved = match self.dual.earlier()? {
            Some(approved) => Some(approved),
            None => {
                let (Some(path), Some(days)) = (&self.words, self.days) else {
                    let why =
                        "in the source it takes words of the destination, and --days from 7 to 30";
                    return Err(Failure::Usage(why.to_owned()));
                };
                let said = files::words(path)?;
                let fresh = region.shred_key_request(plan, &said, days)?;
                let asked = MoveAsked::ShredKey(fresh);
                self.dual.settle(session, region, asked)?
            }
        };
        let Some((asked, approvals)) = approved else {
            return Ok(());
        };
        if asked.named()? != plan.named() {
            return Err(other_request());
        }
        let MoveAsked::ShredKey(request) = asked else {
            return Err(other_request());
        };
        let days = request.days;
        let info = region.shred_key(request, approvals).await?;
        let key = info.key.unwrap_or_default();
        let due = key.destroy_after_ms;
        if session.json {
            line(json!({
                "relocation": plan.relocation.to_string(), "days": days, "destroyed_at": time(due), "confirmed": info.shard_confirmed,
            }));
        } else {
            line(format!(
                "{}: its key here is destroyed at {}; until then `reduit key cancel-destruction` keeps it, after it `reduit relocate finalize`",
                plan.name,
                time(due)
            ));
        }
        Ok(())
    }
}

pub(super) async fn finalize(
    session: &Session,
    which: &Which,
    said: Option<&Path>,
) -> Result<(), Failure> {
    let region = session.region().await?;
    let relocation = match which.seen_from(&region)? {
        Seen::Source(plan) => return finalize_here(session, &region, &plan).await,
        Seen::Destination(relocation) => relocation,
    };
    let said = said.map(files::words).transpose()?;
    let done = region.finish_arrival(&relocation, said.as_ref()).await?;
    let phase = phase_name(done.phase);
    if session.json {
        line(json!({
            "relocation": relocation.to_string(), "phase": phase, "hand_over_key_destroyed": done.key_ended,
        }));
    } else {
        line(format!("{relocation}: {phase}"));
    }
    match done.phase {
        v1::ArrivalPhase::Certified => Ok(()),
        v1::ArrivalPhase::Shred => Err(Failure::Waits(
            "words of the source's KMS that the key is destroyed and erased: `reduit relocate finalize` and `words` there".to_owned(),
        )),
        _ => Err(Failure::Waits(format!(
            "`reduit relocate shred`: it is in the phase {phase}"
        ))),
    }
}

/// In the source.
async fn finalize_here(
    session: &Session,
    region: &Region,
    plan: &RelocationPlan,
) -> Result<(), Failure> {
    let (destroyed, all) = region.destroyed_here(&plan.named()).await;
    if destroyed < all {
        return Err(Failure::Waits(format!(
            "the end of the key on every KMS replica: {destroyed} of {all} have destroyed and erased it"
        )));
    }
    region.finish_departure(plan).await?;
    if session.json {
        line(
            json!({ "relocation": plan.relocation.to_string(), "finished": true, "replicas": all }),
        );
    } else {
        line(format!(
            "{}: the key is destroyed on all {all} KMS replicas, and what was kept of the dataset is freed; next: `reduit relocate words` \
             here, and `reduit relocate finalize` in {}",
            plan.name, plan.destination
        ));
    }
    Ok(())
}
