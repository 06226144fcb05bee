//! `reduit relocate`: a dataset's move to another region, by the people of both.
//!
//! Owns the commands and which region each is for: the source's or the destination's, by the context. Refuses to do in one
//! what is the other's. Data is moved by gateways of the destination; what goes between people are files.

mod asked;
mod ends;
mod files;
mod planned;
mod shown;
mod steps;
mod watch;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use client::ids::{DatasetName, RegionId};
use client::moving::Planned;

use self::asked::{Which, parse_rate};
use super::Session;
use super::certificate::Certificate;
use super::failure::{Failure, file};
use super::output::line;

pub(crate) const HELP: &str = "Each region has people of its own, and each command is for one of the two, by the context:

  zurich$     reduit relocate plan cti --to de-fra --out cti.plan
  frankfurt$  reduit relocate begin cti.plan --out cti.offer      two others approve
  zurich$     reduit relocate grant cti.plan cti.offer            two others approve
  frankfurt$  reduit relocate status cti.plan --watch             gateways copy by themselves
  frankfurt$  reduit relocate cutover cti.plan --wait             writes wait for some seconds at most
  …           the hold: nothing of the source is destroyed
  frankfurt$  reduit relocate shred cti.plan                      two others approve
  frankfurt$  reduit relocate words cti.plan --out fra.words
  zurich$     reduit relocate shred cti.plan fra.words --days 7   two others approve
  zurich$     reduit relocate finalize cti.plan                   once the key is destroyed
  zurich$     reduit relocate words cti.plan --out zrh.words
  frankfurt$  reduit relocate finalize cti.plan --words zrh.words
  auditors$   reduit relocate certificate cti.plan --source-context zrh --destination-context fra --out cert.json

Before the cutover `reduit relocate abort` gives it up, in both regions. After it the way back is a new relocation.

Examples:
  reduit relocate plan cti --to de-fra --rate 100MiB
  reduit relocate list
  reduit relocate status 7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e --json --watch";

const PLAN_HELP: &str = "Changes nothing. Everything that is in the way is named at once, and the plan is written where nothing is; with
--leave-uploads also where uploads in parts are under way, which end with the source.
--notice prints the plan as a statement that is signed by your key, to be sent ahead: `reduit relocate notice` reads it.

Examples:
  reduit relocate plan cti --to de-fra --out cti.plan
  reduit relocate plan cti --to de-fra --rate 100MiB --json
  reduit relocate plan cti --to de-fra --out cti.plan --notice > cti.notice";

const NOTICE_HELP: &str = "The signature is checked by the key in the file. Whose key that is, its fingerprint says: compare it with the operator.

Examples:
  reduit relocate notice cti.notice";

const BEGIN_HELP: &str = "In the destination. Makes the dataset's key and the key that the source's are received under, and takes the dataset's
name, which serves nobody yet. Done again it goes on where it was.

Examples:
  reduit relocate begin cti.plan --out cti.offer --certificate op-2.pem --key op-2.key --certificate op-3.pem --key op-3.key
  reduit relocate begin cti.plan --ask cti.request
  reduit relocate begin cti.plan --out cti.offer --request cti.request --approval cti.berta --approval cti.carlo";

const GRANT_HELP: &str = "In the source. From then on gateways of the destination read the dataset, with every key on record here before it
leaves. Done again it goes on where it was.

Examples:
  reduit relocate grant cti.plan cti.offer --certificate op-2.pem --key op-2.key --certificate op-3.pem --key op-3.key
  reduit relocate grant cti.plan cti.offer --ask cti.request
  reduit relocate grant cti.plan cti.offer --request cti.request --approval cti.berta --approval cti.carlo";

const STATUS_HELP: &str = "Counts are exact: those of the destination's shard, and what its mover last said of the source. Rate and rest come
from two looks. With --watch until it is over; with --json one object for each change. In the source it shows the departure.

Examples:
  reduit relocate status cti.plan --watch
  reduit relocate status 7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e --json --watch";

const CUTOVER_HELP: &str = "In the destination. Once every copy was read back and found equal, writes to the source wait, what is left is taken, and
the dataset is served here. What is not equal in time ends the pause, and it is tried again.

Examples:
  reduit relocate cutover cti.plan
  reduit relocate cutover cti.plan --pause-ms 2000 --hold-days 14 --wait";

const ABORT_HELP: &str = "Before the cutover. In the destination it stops and destroys the key that others were received under; in the source
nothing is handed over any more. What was handed over counts as disclosed to the other region. Gateways of the destination bring
the source's word; where none reaches it, people do: `reduit relocate words` there, after its own abort.

Examples:
  reduit relocate abort cti.plan
  reduit relocate abort cti.plan --words zrh.words";

const SHRED_HELP: &str = "After the hold. In the destination it lets the source destroy its keys. In the source it schedules the end of the
dataset's key, on words of the destination's nodes (`reduit relocate words` there); until then it can be cancelled.

Examples:
  reduit relocate shred cti.plan --certificate op-2.pem --key op-2.key --certificate op-3.pem --key op-3.key
  reduit relocate shred cti.plan fra.words --days 7 --ask shred.request
  reduit relocate shred cti.plan --request shred.request --approval shred.berta --approval shred.carlo";

const FINALIZE_HELP: &str = "In the source, once each replica of its KMS has destroyed and erased the key: frees what was kept. In the destination,
with words of the source's KMS: the relocation is certified. Says what it still waits for, and ends with 4.

Examples:
  reduit relocate finalize cti.plan
  reduit relocate finalize cti.plan --words zrh.words";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// In the source: what is in the way, how much it is, what moves along; writes the plan.
    #[command(after_help = PLAN_HELP)]
    Plan(Plan),
    /// Reads a notice of a relocation that somebody signed.
    #[command(after_help = NOTICE_HELP)]
    Notice {
        /// The file.
        notice: PathBuf,
    },
    /// In the destination: makes the keys and the dataset's place, and writes the offer for the source.
    #[command(after_help = BEGIN_HELP)]
    Begin(steps::Begin),
    /// In the source: grants the dataset's keys to what was offered, and lets the destination read.
    #[command(after_help = GRANT_HELP)]
    Grant(steps::Grant),
    /// Where a relocation is, how fast it goes, and for whom it waits.
    #[command(after_help = STATUS_HELP)]
    Status(watch::Status),
    /// In the destination: every relocation to this region.
    #[command(
        after_help = "Examples:\n  reduit relocate list\n  reduit relocate list --json | jq -r .relocation"
    )]
    List,
    /// In the destination: how fast the source is read at most.
    #[command(
        after_help = "Examples:\n  reduit relocate throttle cti.plan 50MiB\n  reduit relocate throttle cti.plan off"
    )]
    Throttle {
        /// The relocation's id, or its plan.
        which: Which,
        /// Bytes a second, as 50MiB or 400K; `off`: as fast as it goes.
        #[arg(value_parser = parse_rate)]
        rate: u64,
    },
    /// In the destination: nothing is read of the source until it is resumed.
    #[command(after_help = "Examples:\n  reduit relocate pause cti.plan")]
    Pause {
        /// The relocation's id, or its plan.
        which: Which,
    },
    /// In the destination: goes on after a pause.
    #[command(after_help = "Examples:\n  reduit relocate resume cti.plan")]
    Resume {
        /// The relocation's id, or its plan.
        which: Which,
    },
    /// In the destination: it moves as soon as all copies are found equal.
    #[command(after_help = CUTOVER_HELP)]
    Cutover(steps::Cutover),
    /// Before the cutover: gives it up, in the region of the context.
    #[command(after_help = ABORT_HELP)]
    Abort {
        /// The relocation's id, or its plan; in the source its plan.
        which: Which,
        /// In the destination: words of the source.
        #[arg(long)]
        words: Option<PathBuf>,
    },
    /// Collects signed words of this region's replicas, for the other one.
    #[command(
        after_help = "Examples:\n  reduit relocate words cti.plan --out fra.words\n  reduit relocate words 7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e --out fra.words"
    )]
    Words {
        /// The relocation's id, or its plan; in the source its plan.
        which: Which,
        /// Where to write them.
        #[arg(short, long)]
        out: PathBuf,
    },
    /// After the hold: ends the source's key, in the destination by leave and in the source by a schedule.
    #[command(after_help = SHRED_HELP)]
    Shred(ends::Shred),
    /// The end: in the source what was kept is freed, in the destination the relocation is certified.
    #[command(after_help = FINALIZE_HELP)]
    Finalize {
        /// The relocation's id, or its plan; in the source its plan.
        which: Which,
        /// In the destination: words of the source.
        #[arg(long)]
        words: Option<PathBuf>,
    },
    /// What both regions sign of it, as one file that `reduit verify` reads.
    Certificate(Certificate),
}

#[derive(Args)]
pub(crate) struct Plan {
    /// The dataset.
    dataset: DatasetName,
    /// The region it is to go to.
    #[arg(long)]
    to: RegionId,
    /// Where to write the plan, for every later command.
    #[arg(short, long)]
    out: Option<PathBuf>,
    /// Bytes a second to estimate by, as 100MiB.
    #[arg(long, value_parser = parse_rate)]
    rate: Option<u64>,
    /// Uploads in parts that are under way may end with the source.
    #[arg(long)]
    leave_uploads: bool,
    /// Prints the plan as a statement signed by your key.
    #[arg(long)]
    notice: bool,
}

impl Plan {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let region = session.region().await?;
        let planned = region.plan_relocation(&self.dataset, &self.to).await?;
        let Planned { plan, .. } = &planned;
        let left = |name: &str| self.leave_uploads && name == "uploads-under-way";
        let stops = planned.blockers.iter();
        let stops = stops.filter(|blocker| !left(blocker.name())).count();
        if !self.notice {
            planned::planned(session, &planned, self.rate);
        }
        if stops > 0 {
            if self.notice {
                planned::blockers(session, &planned.blockers);
            }
            return Err(Failure::Blocked(stops));
        }
        if let Some(out) = &self.out {
            let doing = format!("writing {}", out.display());
            std::fs::write(out, plan.to_text()).map_err(file(doing))?;
        }
        if self.notice {
            let identity = super::approve::identity(session)?;
            let notice = client::moving::RelocationNotice::sign(plan, &identity);
            line(notice.trim_end());
        } else if let (Some(out), false) = (&self.out, session.json) {
            let out = out.display();
            line(format!(
                "{out}: the plan; next, in {}: `reduit relocate begin {out}`",
                plan.destination
            ));
        }
        Ok(())
    }
}

pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::Plan(plan) => plan.run(session).await,
        Command::Notice { notice } => {
            planned::notice(session, &files::notice(&notice)?);
            Ok(())
        }
        Command::Begin(begin) => begin.run(session).await,
        Command::Grant(grant) => grant.run(session).await,
        Command::Status(status) => status.run(session).await,
        Command::List => list(session).await,
        Command::Throttle { which, rate } => {
            steps::pace(session, &which, |pace| pace.bytes_per_s = rate).await
        }
        Command::Pause { which } => steps::pace(session, &which, |pace| pace.paused = true).await,
        Command::Resume { which } => steps::pace(session, &which, |pace| pace.paused = false).await,
        Command::Cutover(cutover) => cutover.run(session).await,
        Command::Abort { which, words } => ends::abort(session, &which, words.as_deref()).await,
        Command::Words { which, out } => ends::words(session, &which, &out).await,
        Command::Shred(shred) => shred.run(session).await,
        Command::Finalize { which, words } => {
            ends::finalize(session, &which, words.as_deref()).await
        }
        Command::Certificate(certificate) => certificate.run(session).await,
    }
}

async fn list(session: &Session) -> Result<(), Failure> {
    let region = session.region().await?;
    let arrivals = region.arrivals().await?;
    for status in &arrivals {
        let progress = client::moving::RelocationProgress::of(status);
        if session.json {
            line(shown::status_json(status, &progress, None));
        } else {
            line(shown::brief(status, &progress));
        }
    }
    if arrivals.is_empty() && !session.json {
        line("no relocation comes to this region: see `reduit relocate --help`");
    }
    Ok(())
}
