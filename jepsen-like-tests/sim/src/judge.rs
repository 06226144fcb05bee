//! The judgement after a cut: what was acknowledged is there, what was deleted is not, and nothing twice.
//!
//! Owns the comparison of state and history. Refuses to excuse: an object may only be what the acknowledged requests
//! in their log order left, or what a request of unknown outcome would have made of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use node_state::listing::{self, PartsQuery};
use node_state::{invariants, read};
use proto::ids::{NodeId, ObjectVersionId};
use proto::store::Reader;
use replica::Group;
use tokio::time::{sleep, timeout};

use crate::client::insist;
use crate::cluster::AGREE_MAX;
use crate::load::{self, DATASET, History, Kind, Outcome, Request};
use crate::roster::Roster;
use crate::{Broken, hold};

/// Requests that are sent again after a cut although they were answered, newest first.
const REPEATED: usize = 24;

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Judged {
    /// Acknowledged writes and deletes compared with the state.
    pub acknowledged: u64,
    /// Answered requests that were sent again and answered the same.
    pub repeated: u64,
    /// Requests of unknown outcome looked at.
    pub unknown: u64,
}

/// Right after a restart, before anyone has retried: nothing acknowledged is lost and nothing resurrected.
/// `reader` must be of a linearizable read.
pub fn survived(reader: &dyn Reader, history: &History) -> Result<Judged, Broken> {
    let mut judged = Judged::default();
    for (key, requests) in by_key(history.all()) {
        let held = read::object(reader, &DATASET, &key, None);
        let last = requests
            .iter()
            .filter_map(effect)
            .max_by_key(|(index, _)| *index);
        let unknown: Vec<&Request> = requests
            .iter()
            .filter(|r| r.outcome == Outcome::Unknown)
            .collect();
        judged.acknowledged += requests.iter().filter_map(effect).count() as u64;
        judged.unknown += unknown.len() as u64;
        let Some(held) = held else {
            let may_be_gone = last.as_ref().is_none_or(|(_, kind)| *kind == Kind::Delete)
                || unknown.iter().any(|request| request.kind == Kind::Delete);
            hold!(may_be_gone, "acknowledged write of {key} is lost: {last:?}");
            continue;
        };
        let version = ObjectVersionId::try_from(held.version_id.as_ref())
            .map_err(|_| Broken(format!("{key} holds no version id")))?;
        let of = |request: &&Request| request.kind.version() == Some(version);
        let from = requests.iter().find(of);
        let Some(from) = from else {
            return Err(Broken(format!("{key} holds {version}, which nobody wrote")));
        };
        let newest = last.as_ref().map_or(0, |(index, _)| *index);
        match from.outcome {
            Outcome::Done { index, .. } => hold!(
                index == newest && held.finished_index == index,
                "{key} holds {version} of index {index}, acknowledged was {last:?} later: lost or resurrected"
            ),
            Outcome::Unknown => hold!(
                held.finished_index > newest,
                "{key} holds unacknowledged {version} of index {}, older than the acknowledged {newest}",
                held.finished_index
            ),
            Outcome::Refused(reason) => {
                return Err(Broken(format!(
                    "{key} holds {version}, refused for {reason:?}"
                )));
            }
        }
        same_entry(&key, from, held)?;
    }
    Ok(judged)
}

/// Once every request is settled: the state is exactly what the acknowledged requests make of it.
pub fn exact(reader: &dyn Reader, history: &History) -> Result<(), Broken> {
    let expected = history.replay()?;
    let requests = by_key(history.all());
    for (key, requests) in &requests {
        let held = read::object(reader, &DATASET, key, None);
        let version = held.as_ref().map(|entry| entry.version_id.clone());
        let wanted = expected.get(key).map(|version| Bytes::from(*version));
        hold!(
            version == wanted,
            "{key} holds {version:?}, the log of answers leads to {wanted:?}"
        );
        if let Some(held) = held {
            let wrote = requests.iter().find(|r| {
                r.kind
                    .version()
                    .is_some_and(|version| held.version_id == version.as_bytes()[..])
            });
            let wrote = wrote.ok_or_else(|| Broken(format!("{key} was written by nobody")))?;
            same_entry(key, wrote, held)?;
            if let Kind::Complete(version) = wrote.kind {
                same_parts(reader, key, version)?;
            }
        }
    }
    let dataset = read::dataset(reader, &DATASET);
    let objects = dataset.map(|dataset| dataset.objects);
    hold!(
        objects == Some(expected.len() as u64),
        "the dataset says {objects:?} objects, the log of answers leads to {}",
        expected.len()
    );
    Ok(())
}

/// Answered requests, sent again, get the answer they got, and change nothing.
pub async fn repeat(members: &Roster, history: &History) -> Result<u64, Broken> {
    let mut repeated = 0;
    let voters = members.groups().first().map(|group| group.status().voters);
    let signers: BTreeSet<NodeId> = voters.map(|voters| voters.all()).unwrap_or_default();
    let settled = history.all().into_iter().enumerate().rev();
    let settled = settled.filter(|(_, request)| request.outcome != Outcome::Unknown);
    for (number, request) in settled.take(REPEATED) {
        let answer = insist(members, &history.send(number, &signers)).await;
        let again = load::outcome(&answer)?;
        hold!(
            again.as_ref() == Some(&request.outcome),
            "{:?} on {} was answered {:?} and, sent again, {again:?}",
            request.id,
            request.key,
            request.outcome
        );
        repeated += 1;
    }
    Ok(repeated)
}

/// The states of all `members` are the same bytes at the same index.
pub async fn same_everywhere(members: &[Group]) -> Result<(), Broken> {
    let same = async {
        loop {
            let digests: Result<Vec<_>, _> = members.iter().map(Group::digest).collect();
            let digests = digests.map_err(|e| Broken(format!("no digest: {e}")))?;
            if digests
                .iter()
                .all(|digest| digest.applied == digests[0].applied)
            {
                let same = digests
                    .iter()
                    .all(|digest| digest.blake3 == digests[0].blake3);
                hold!(same, "states differ at the same index: {digests:?}");
                return Ok(());
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    match timeout(AGREE_MAX, same).await {
        Ok(result) => result,
        Err(_) => {
            let at: Vec<_> = members.iter().map(Group::applied).collect();
            Err(Broken(format!("members do not catch up: {at:?}")))
        }
    }
}

/// Every invariant of a shard holds on every member.
pub fn invariants_hold(members: &[Group]) -> Result<(), Broken> {
    for member in members {
        let reader = member
            .reader()
            .map_err(|e| Broken(format!("no reader: {e}")))?;
        invariants::shard(reader.as_ref())
            .map_err(|violation| Broken(format!("on member {}: {violation}", member.node_id())))?;
    }
    Ok(())
}

/// Index and kind of an acknowledged request.
fn effect(request: &Request) -> Option<(u64, Kind)> {
    match request.outcome {
        Outcome::Done { index, .. } => Some((index, request.kind.clone())),
        Outcome::Unknown | Outcome::Refused(_) => None,
    }
}

fn by_key(requests: Vec<Request>) -> BTreeMap<String, Vec<Request>> {
    let mut keys: BTreeMap<String, Vec<Request>> = BTreeMap::new();
    for request in requests {
        keys.entry(request.key.clone()).or_default().push(request);
    }
    keys
}

/// What is held is what was sent, to the byte.
fn same_entry(key: &str, from: &Request, held: proto::v1::ObjectEntry) -> Result<(), Broken> {
    let epoch = from.id.epoch.0;
    let (version, sent) = match from.kind {
        Kind::Put(version) => (version, load::entry(version, false, epoch)),
        Kind::Finish(version) => (version, load::entry(version, true, epoch)),
        Kind::Complete(version) => (version, load::parts::entry(version)),
        Kind::Delete => return Err(Broken(format!("{key} was written by a delete"))),
    };
    let plain = proto::v1::ObjectEntry {
        finished_index: 0,
        finished_at_ms: 0,
        versioned: false,
        ..held
    };
    hold!(
        plain == sent,
        "{key} holds {version} with other bytes than were sent"
    );
    Ok(())
}

/// The parts of a version are those that its completion named, to the byte, and no others.
fn same_parts(reader: &dyn Reader, key: &str, of: ObjectVersionId) -> Result<(), Broken> {
    let query = PartsQuery {
        of: &of,
        start_after: 0,
        limit: 0,
        with_bodies: true,
    };
    let (mut held, _) = listing::parts(reader, query);
    for part in held.iter_mut().filter_map(|listed| listed.part.as_mut()) {
        (part.finished_index, part.finished_at_ms) = (0, 0);
    }
    let sent = load::parts::named(of).map(|part| part.listed());
    hold!(
        held == sent,
        "{key} holds {of} with other parts than were named: {held:?}"
    );
    Ok(())
}
