//! What the words of a command name: a relocation, a rate, and who approves.
//!
//! Owns their parsing, and the two ways to approvals: operators who are present, or a file that travels. Refuses a request that
//! was approved for something else.

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use client::ids::RelocationId;
use client::moving::{MoveAsked, RelocationPlan};
use client::{ApprovalRequest, Region};
use proto::v1;

use super::super::approvers::Approvers;
use super::super::failure::Failure;
use super::super::{Session, approve};
use super::files;

/// How long an approval of somebody who is present lasts.
const PRESENT_MINUTES: u32 = 5;

/// A relocation, by its id or by its plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Which {
    Id(RelocationId),
    Plan(PathBuf),
}

impl FromStr for Which {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.parse() {
            Ok(id) => Self::Id(id),
            Err(_) => Self::Plan(text.into()),
        })
    }
}

/// A relocation that was named, seen from one region.
pub(super) enum Seen {
    /// It leaves the region.
    Source(RelocationPlan),
    /// It comes to the region.
    Destination(RelocationId),
}

impl Which {
    /// Which side of it a region is. By an id alone it is the destination: a source knows a relocation by its dataset.
    pub(super) fn seen_from(&self, region: &Region) -> Result<Seen, Failure> {
        match self {
            Self::Id(id) => Ok(Seen::Destination(*id)),
            Self::Plan(path) => seen(files::plan(path)?, region),
        }
    }

    /// In the destination alone.
    pub(super) fn arrives_in(&self, region: &Region) -> Result<RelocationId, Failure> {
        match self.seen_from(region)? {
            Seen::Destination(id) => Ok(id),
            Seen::Source(plan) => Err(Failure::Usage(format!(
                "that is done in {}, the destination of the relocation: choose its context",
                plan.destination
            ))),
        }
    }
}

fn seen(plan: RelocationPlan, region: &Region) -> Result<Seen, Failure> {
    if plan.source == *region.id() {
        return Ok(Seen::Source(plan));
    }
    if plan.destination == *region.id() {
        return Ok(Seen::Destination(plan.relocation));
    }
    Err(Failure::Usage(format!(
        "the plan leads from {} to {}, and the context is of {}",
        plan.source,
        plan.destination,
        region.id()
    )))
}

/// Bytes a second: digits, and K, M, G or KiB, MiB, GiB; `off` is 0.
pub(crate) fn parse_rate(text: &str) -> Result<u64, &'static str> {
    const WRONG: &str = "a rate is bytes a second, as 50MiB, 400K or 1000000; or off";
    if text == "off" {
        return Ok(0);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| WRONG)?;
    let unit = unit.strip_suffix("/s").unwrap_or(unit);
    let of: u64 = match unit {
        "" | "B" => 1,
        "K" | "k" | "kB" => 1_000,
        "M" | "MB" => 1_000_000,
        "G" | "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(WRONG),
    };
    let rate = number.checked_mul(of).ok_or(WRONG)?;
    match rate {
        0 => Err(WRONG),
        rate => Ok(rate),
    }
}

/// Who approves: present, or apart from here.
#[derive(Args)]
pub(crate) struct Dual {
    #[command(flatten)]
    approvers: Approvers,
    /// Writes the request to this file, to be approved with `reduit approve sign`. Does nothing else.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["request", "certificate"])]
    ask: Option<PathBuf>,
    /// What was approved apart from here, as --ask wrote it.
    #[arg(long, requires = "approvals")]
    request: Option<PathBuf>,
    /// An approval of it; give each.
    #[arg(long = "approval", id = "approvals")]
    approvals: Vec<PathBuf>,
}

/// What was approved, and by whom.
pub(super) type Approved = (MoveAsked, Vec<v1::Approval>);

impl Dual {
    /// What was approved apart from here, if anything was.
    pub(super) fn earlier(&self) -> Result<Option<Approved>, Failure> {
        let Some(path) = &self.request else {
            return Ok(None);
        };
        let request = approve::load(path)?;
        let client::Approvable::Relocation { asked } = request.what else {
            return Err(other_request());
        };
        Ok(Some((asked, approve::load_approvals(&self.approvals)?)))
    }

    /// Has a request approved by who is present, or writes it for those who are not: then there is nothing more to do.
    pub(super) fn settle(
        &self,
        session: &Session,
        region: &Region,
        asked: MoveAsked,
    ) -> Result<Option<Approved>, Failure> {
        let request = ApprovalRequest::relocation(region.identity(), asked.clone());
        if let Some(path) = &self.ask {
            approve::asked(session, &request, path)?;
            return Ok(None);
        }
        let approvers = self.approvers.load()?;
        let approvals: Result<Vec<_>, client::Error> = approvers
            .iter()
            .map(|who| request.approve(who, PRESENT_MINUTES))
            .collect();
        Ok(Some((asked, approvals?)))
    }
}

pub(super) fn other_request() -> Failure {
    Failure::Usage(
        "that request is not what this command does: see `reduit approve show`".to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_read_as_people_write_it() {
        for (text, rate) in [
            ("off", 0),
            ("1", 1),
            ("400K", 400_000),
            ("50MiB", 50 << 20),
            ("50MiB/s", 50 << 20),
            ("2G", 2_000_000_000),
        ] {
            assert_eq!(parse_rate(text), Ok(rate), "{text}");
        }
        for text in [
            "",
            "MiB",
            "-1",
            "0",
            "1.5M",
            "5TB",
            "18446744073709551615K",
            "5 M",
        ] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_relocation_is_named_by_its_id_or_by_a_file() {
        let id = "7e".repeat(16);
        let named: Which = id.parse().expect("never fails");
        assert_eq!(named, Which::Id(RelocationId([0x7E; 16])));
        let named: Which = "cti.plan".parse().expect("never fails");
        assert_eq!(named, Which::Plan("cti.plan".into()));
    }
}
