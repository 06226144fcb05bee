//! `reduit region show|trust|peers|distrust`: regions that know each other.
//!
//! Owns the file that people take from one region to another, and what they compare. Refuses to ask anybody to trust a file
//! whose fingerprint is not the one that was given: who made the file could have written the fingerprint into it.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use client::ids::{RegionId, Role};
use client::{Approvable, ApprovalRequest, Region};
use proto::descriptor::{self, DESCRIPTOR_BYTES_MAX, Descriptor};
use proto::v1;
use serde_json::{Value, json};
use transport::enrolment::verify_descriptor;

use super::approvers::Approvers;
use super::failure::{Failure, file};
use super::output::{line, time};
use super::{Session, approve};

pub(crate) const SHOW_HELP: &str = "The file says who the region is: CA, keys of its KMS replicas, nodes and gateways, where they listen for other
regions, the log's key, who vouches for it. It holds no secret. Tell its fingerprint on another way than the file goes.

Examples:
  reduit region show
  reduit region show -o ch-zrh.region
  reduit region show de-fra.region
  reduit region show --json | jq -r .fingerprint";

pub(crate) const TRUST_HELP: &str = "The other region has to trust this one too before anything passes between them. Its later descriptors are taken by
themselves while a key in the one held signs them under the same CA; others wait, and `reduit region peers` shows them.

Examples:
  reduit region trust de-fra.region --fingerprint 3f0c... --certificate op-2.pem --key op-2.key --certificate op-3.pem --key op-3.key
  reduit approve region de-fra.region --fingerprint 3f0c... -o de-fra.request
  reduit region trust --request de-fra.request --approval de-fra.berta --approval de-fra.carlo";

pub(crate) const PEERS_HELP: &str =
    "What was heard is what the leading KMS replica heard since it leads.

Examples:
  reduit region peers
  reduit region peers --json | jq '.regions[] | select(.state != \"trusted\")'";

pub(crate) const DISTRUST_HELP: &str = "Its living connections are cut as soon as each process knows, within 5 s. To trust it again takes two others.

Examples:
  reduit region distrust de-fra
  reduit region distrust de-fra --json";

/// SHA-256 that people compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint(pub(crate) [u8; 32]);

/// 64 hexadecimal digits; colons and spaces between them do not count.
pub(crate) fn parse_fingerprint(text: &str) -> Result<Fingerprint, &'static str> {
    let digits: String = text
        .chars()
        .filter(|one| !matches!(one, ':' | ' '))
        .collect();
    let mut bytes = [0; 32];
    hex::decode_to_slice(digits, &mut bytes)
        .map_err(|_| "a fingerprint is 64 hexadecimal digits, as `reduit region show` prints it")?;
    Ok(Fingerprint(bytes))
}

#[derive(Args)]
pub(crate) struct Show {
    /// A file of another region; default: what this region says of itself.
    pub(crate) descriptor: Option<PathBuf>,
    /// Where to write this region's own, to be taken to another one.
    #[arg(short, long, conflicts_with = "descriptor")]
    output: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Trust {
    /// What the other region says of itself, as `reduit region show -o` wrote it there.
    #[arg(required_unless_present = "request", conflicts_with = "request")]
    descriptor: Option<PathBuf>,
    /// Its fingerprint, as the other region's operators told it you on another way than the file came.
    #[arg(long, required_unless_present = "request", conflicts_with = "request", value_parser = parse_fingerprint)]
    fingerprint: Option<Fingerprint>,
    #[command(flatten)]
    approvers: Approvers,
    /// What was approved apart from here, as `reduit approve region` wrote it.
    #[arg(long, requires = "approvals")]
    request: Option<PathBuf>,
    /// An approval of it; give each.
    #[arg(long = "approval", id = "approvals")]
    approvals: Vec<PathBuf>,
}

impl Show {
    /// What a file says, with nobody asked.
    pub(crate) fn file(&self, session: &Session, path: &Path) -> Result<(), Failure> {
        let descriptor = read(path)?;
        shown(session, &descriptor);
        Ok(())
    }

    /// What this region says of itself.
    pub(crate) async fn own(self, session: &Session, region: &Region) -> Result<(), Failure> {
        let reply = region.regions().await?;
        let signed = reply.own.and_then(|own| own.descriptor);
        let Some(signed) = signed else {
            let why = match reply.not_published.as_str() {
                "" => {
                    "no KMS replica that leads has `federation_listen` in its configuration, or the KMS is below feature level 10"
                }
                why => why,
            };
            return Err(Failure::NoAnswer(format!(
                "this region has not said anything of itself yet: {why}"
            )));
        };
        let descriptor = Descriptor::parse(&signed)
            .map_err(|error| Failure::NoAnswer(format!("what the region says: {error}")))?;
        if let Some(path) = &self.output {
            let doing = format!("writing {}", path.display());
            std::fs::write(path, descriptor::to_file(&signed)).map_err(file(doing))?;
        }
        shown(session, &descriptor);
        if !reply.not_published.is_empty() && !session.json {
            line(format!("nothing newer is said: {}", reply.not_published));
        }
        Ok(())
    }
}

impl Trust {
    pub(crate) async fn run(self, session: &Session, region: &Region) -> Result<(), Failure> {
        let (other, done) = match (&self.request, &self.descriptor, self.fingerprint) {
            (Some(path), ..) => {
                let asked = approve::load(path)?;
                let other = of_region(&asked)?;
                let Approvable::TrustRegion { request } = asked.what else {
                    return Err(other_request());
                };
                let approvals = approve::load_approvals(&self.approvals)?;
                let done = region.trust_region_approved(request, approvals).await?;
                (other, done)
            }
            (None, Some(path), Some(fingerprint)) => {
                let descriptor = compared(path, fingerprint)?;
                let approvers = self.approvers.load()?;
                let done = region
                    .trust_region(&descriptor, fingerprint.0, &approvers)
                    .await?;
                (descriptor, done)
            }
            _ => return Err(other_request()),
        };
        let (leaf, version) = (done.leaf_index, done.authority_version);
        if session.json {
            line(json!({
                "region": other.region().as_str(), "version": other.version(), "leaf": leaf,
                "authority_version": version,
            }));
        } else {
            line(format!(
                "{} ({}) trusted, version {}, leaf {leaf}",
                other.region(),
                other.jurisdiction(),
                other.version()
            ));
        }
        Ok(())
    }
}

fn of_region(asked: &ApprovalRequest) -> Result<Descriptor, Failure> {
    let Approvable::TrustRegion { request } = &asked.what else {
        return Err(other_request());
    };
    let signed = request.descriptor.clone().unwrap_or_default();
    Descriptor::parse(&signed).map_err(|_| other_request())
}

fn other_request() -> Failure {
    Failure::Usage(
        "that request is not what this command does: see `reduit approve show`".to_owned(),
    )
}

pub(crate) async fn peers(session: &Session, region: &Region) -> Result<(), Failure> {
    let reply = region.regions().await?;
    let own = reply.own.as_ref().and_then(|own| own.descriptor.as_ref());
    let own = own.and_then(|signed| Descriptor::parse(signed).ok());
    let known = reply.regions.iter().filter_map(Peer::of);
    if session.json {
        let known: Vec<_> = known.map(|peer| peer.json()).collect();
        line(json!({
            "own": own.as_ref().map(described), "not_published": reply.not_published, "regions": known,
        }));
        return Ok(());
    }
    for peer in known {
        peer.lines().iter().for_each(line);
    }
    if reply.regions.is_empty() {
        line("no other region is known here: see `reduit region trust --help`");
    }
    if !reply.not_published.is_empty() {
        line(format!(
            "nothing newer is said of this region: {}",
            reply.not_published
        ));
    }
    Ok(())
}

pub(crate) async fn distrust(
    session: &Session,
    region: &Region,
    other: &RegionId,
) -> Result<(), Failure> {
    let done = region.distrust_region(other).await?;
    let (leaf, version) = (done.leaf_index, done.authority_version);
    if session.json {
        line(json!({ "region": other.as_str(), "leaf": leaf, "authority_version": version }));
    } else {
        line(format!("{other} is no longer trusted, leaf {leaf}"));
    }
    Ok(())
}

/// A region that is known, and what was heard of it.
struct Peer<'a> {
    known: &'a v1::KnownRegion,
    record: &'a v1::RegionRecord,
    descriptor: Descriptor,
    waiting: Option<Descriptor>,
}

impl<'a> Peer<'a> {
    fn of(known: &'a v1::KnownRegion) -> Option<Self> {
        let record = known.record.as_ref()?;
        let waiting = known.waiting.as_ref();
        Some(Self {
            known,
            record,
            descriptor: Descriptor::parse(record.descriptor.as_ref()?).ok()?,
            waiting: waiting.and_then(|signed| Descriptor::parse(signed).ok()),
        })
    }

    fn state(&self) -> &'static str {
        match self.record.standing() {
            v1::RegionStanding::Trusted => match self.descriptor.good_at(now()) {
                Ok(()) => "trusted",
                Err(_) => "expired",
            },
            v1::RegionStanding::Distrusted => "distrusted",
            v1::RegionStanding::Own | v1::RegionStanding::Unspecified => "unknown",
        }
    }

    fn json(&self) -> Value {
        let mut told = described(&self.descriptor);
        let heard = self.known.heard_at_ms;
        told["state"] = self.state().into();
        told["changed_leaf"] = self.record.changed_leaf.into();
        told["pinned_leaf"] = self.record.pinned_leaf.into();
        told["heard"] = json!((heard > 0).then(|| time(heard)));
        told["trouble"] = self.known.trouble.clone().into();
        told["waiting"] = json!(self.waiting.as_ref().map(described));
        told
    }

    fn lines(&self) -> Vec<String> {
        let told = &self.descriptor;
        let mut lines = vec![format!(
            "{} ({})  version {}  {}  good until {}",
            told.region(),
            told.jurisdiction(),
            told.version(),
            self.state(),
            time(told.expires().0)
        )];
        if !self.known.trouble.is_empty() {
            lines.push(format!("  {}", self.known.trouble));
        }
        if let Some(waiting) = &self.waiting {
            lines.push(format!(
                "  waits to be trusted: version {}, fingerprint {}",
                waiting.version(),
                fingerprint(waiting)
            ));
        }
        lines
    }
}

fn fingerprint(descriptor: &Descriptor) -> String {
    hex::encode(client::region_fingerprint(&descriptor.signed().descriptor))
}

fn described(told: &Descriptor) -> Value {
    let members = told.members().iter().map(|member| {
        json!({
            "identity": member.identity.to_string(),
            "endpoint": Some(&member.endpoint).filter(|endpoint| !endpoint.is_empty()),
        })
    });
    json!({
        "region": told.region().as_str(),
        "jurisdiction": told.jurisdiction().as_str(),
        "version": told.version(),
        "fingerprint": fingerprint(told),
        "issued": time(told.issued().0),
        "expires": time(told.expires().0),
        "members": members.collect::<Vec<_>>(),
        "log_key": told.log_key(),
        "witness_policy": String::from_utf8_lossy(told.witness_policy()),
    })
}

fn shown(session: &Session, told: &Descriptor) {
    if session.json {
        line(described(told));
        return;
    }
    line(format!("region        {}", told.region()));
    line(format!("jurisdiction  {}", told.jurisdiction()));
    line(format!("version       {}", told.version()));
    line(format!("issued        {}", time(told.issued().0)));
    line(format!("good until    {}", time(told.expires().0)));
    line(format!("log key       {}", told.log_key()));
    for role in [Role::Kms, Role::Node, Role::Gateway] {
        for member in told.of_role(role) {
            let at = match member.endpoint.as_str() {
                "" => "listens nowhere for other regions",
                endpoint => endpoint,
            };
            line(format!("{:<13} {} {at}", role.as_str(), member.identity));
        }
    }
    line(format!("fingerprint   {}", fingerprint(told)));
}

/// A file's descriptor, signed by the key that it names.
fn read(path: &Path) -> Result<Descriptor, Failure> {
    // More than is accepted, so that the parser says so.
    let bytes_max = 2 * DESCRIPTOR_BYTES_MAX as u64;
    let doing = format!("reading {}", path.display());
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|from| from.take(bytes_max).read_to_end(&mut bytes))
        .map_err(file(doing))?;
    let none = |why: String| Failure::Usage(format!("{}: {why}", path.display()));
    let descriptor = descriptor::from_file(&bytes).map_err(|error| none(error.to_string()))?;
    verify_descriptor(descriptor.signed()).map_err(|error| none(error.to_string()))?;
    Ok(descriptor)
}

/// The same, if it has the fingerprint that was given.
pub(crate) fn compared(path: &Path, given: Fingerprint) -> Result<Descriptor, Failure> {
    let descriptor = read(path)?;
    let found = client::region_fingerprint(&descriptor.signed().descriptor);
    if found != given.0 {
        return Err(Failure::Client(client::Error::Denied {
            reason: "other-fingerprint".to_owned(),
            message: format!(
                "{} has the fingerprint {}, and not the one that was given: compare it with the region's operators",
                path.display(),
                hex::encode(found)
            ),
        }));
    }
    Ok(descriptor)
}

fn now() -> client::ids::UnixMs {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    client::ids::UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_as_it_is_printed_and_as_people_write_it() {
        let digits = "0f".repeat(32);
        assert_eq!(parse_fingerprint(&digits), Ok(Fingerprint([15; 32])));
        let spaced: Vec<_> = digits.as_bytes().chunks(4).collect();
        let spaced = spaced.join(&b':');
        let spaced = String::from_utf8(spaced).expect("ASCII").to_uppercase();
        assert_eq!(parse_fingerprint(&spaced), Ok(Fingerprint([15; 32])));
        for bad in ["", "0f", &digits[1..], &digits.replace('f', "g")] {
            assert!(parse_fingerprint(bad).is_err(), "{bad}");
        }
    }
}
