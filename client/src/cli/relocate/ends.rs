//! Ends of a relocation: an abort, the words that go to the other region, the end of keys, the certificate's condition.
//!
//! Owns what is said of each. Refuses to wait in silence: what is not over says for what it waits, and ends with 4.

use std::path::{Path, PathBuf};

use clap::Args;
use client::Region;
use client::ids::GroupId;
use client::moving::{
    MoveAsked, RelocationPlan, RelocationProgress, RelocationWords, is_over, phase_name,
};
use proto::v1;
use serde_json::json;

use super::super::Session;
use super::super::failure::Failure;
use super::super::output::{line, time};
use super::asked::{Dual, Seen, Which, other_request};
use super::{files, shown};

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
                .destination_words(&named, GroupId(status.shard))
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
