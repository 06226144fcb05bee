//! `reduit doctor`: what is wrong with a region, in words, and what to do.

use std::collections::BTreeSet;

use client::RegionStatus;

use super::Session;
use super::failure::Failure;
use super::output::line;

pub(crate) async fn run(session: &Session) -> Result<(), Failure> {
    let region = session.region().await?;
    let status = region.status().await;
    let findings = findings(&status);
    if session.json {
        line(
            serde_json::json!({ "region": region.id().as_str(), "healthy": findings.is_empty(), "findings": findings }),
        );
    } else if findings.is_empty() {
        let (nodes, kms) = (status.nodes.len(), status.kms.len());
        line(format!(
            "{}: healthy; {nodes} storage nodes, {kms} kms replicas",
            region.id()
        ));
    } else {
        findings.iter().for_each(line);
    }
    if findings.is_empty() {
        Ok(())
    } else {
        Err(Failure::Unhealthy(findings.len()))
    }
}

/// One sentence a problem: what is seen, what it means for data, what to do.
fn findings(status: &RegionStatus) -> Vec<String> {
    let mut found = Vec::new();
    let name = |identity: &Option<client::ids::Identity>, endpoint: &str| {
        identity.as_ref().map_or_else(
            || endpoint.to_owned(),
            |identity| identity.name().to_owned(),
        )
    };
    let mut groups = BTreeSet::new();
    let mut led = BTreeSet::new();
    let mut authority = BTreeSet::new();
    for (identity, endpoint, answer) in &status.nodes {
        let name = name(identity, endpoint);
        let node = match answer {
            Err(why) => {
                found.push(format!(
                    "storage node {name} does not answer ({why}): its replicas do not count; start it, or replace it"
                ));
                continue;
            }
            Ok(node) => node,
        };
        authority.insert(node.authority_version);
        if node.full {
            found.push(format!(
                "storage node {name} is full: puts are refused; delete data or add disk"
            ));
        }
        if node.authority_age_ms > 60_000 {
            let minutes = node.authority_age_ms / 60_000;
            found.push(format!(
                "storage node {name} heard nothing from the kms for {minutes} min: it goes on for 24 h with the enrolments it has; is the kms reachable and unsealed?"
            ));
        }
        if node.groups.is_empty() {
            found.push(format!(
                "storage node {name} is in no group: the region is not founded, or it was not added"
            ));
        }
        for group in &node.groups {
            groups.insert(group.group);
            if group.leader != 0 {
                led.insert(group.group);
            }
            if group.missing_blocks > 0 {
                found.push(format!(
                    "storage node {name} misses {} blocks of group {}: it fetches them from its peers by itself; until then fewer copies exist",
                    group.missing_blocks, group.group
                ));
            }
        }
    }
    for group in groups.difference(&led) {
        found.push(format!("group {group} has no leader: its data cannot be read or written; a majority of its nodes must run"));
    }
    if authority.len() > 1 {
        found.push("storage nodes know different enrolment versions: normal for 5 s after a change, not longer".to_owned());
    }
    let mut serving = false;
    for (identity, endpoint, answer) in &status.kms {
        let name = name(identity, endpoint);
        match answer {
            Err(why) => found.push(format!("kms replica {name} does not answer ({why}): start it, or replace it")),
            Ok(kms) if !kms.initialised => {
                found.push(format!("kms replica {name} is not initialised: hold the init ceremony"));
            }
            Ok(kms) if kms.sealed => found.push(format!(
                "kms replica {name} is sealed ({} of {} shares): approve its unseal by peers, or give custodians' shares",
                kms.shares_have, kms.shares_needed
            )),
            Ok(kms) => serving |= kms.leader != 0,
        }
    }
    if !serving {
        found.push("no unsealed kms replica leads: nothing can be opened or newly leased; stored data is safe".to_owned());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1;

    #[test]
    fn a_region_that_is_well_has_no_findings_and_each_fault_has_words() {
        let group = v1::GroupInfo {
            group: 16,
            leader: 1,
            ..Default::default()
        };
        let node = v1::NodeStatusReply {
            groups: vec![group],
            ..Default::default()
        };
        let kms = v1::KmsStatusReply {
            initialised: true,
            leader: 1,
            ..Default::default()
        };
        let status =
            |node: &v1::NodeStatusReply, kms: Result<v1::KmsStatusReply, String>| RegionStatus {
                nodes: vec![(None, "n".to_owned(), Ok(node.clone()))],
                kms: vec![(None, "k".to_owned(), kms)],
            };
        assert_eq!(
            findings(&status(&node, Ok(kms.clone()))),
            Vec::<String>::new()
        );
        let leaderless = v1::NodeStatusReply {
            groups: vec![v1::GroupInfo {
                leader: 0,
                missing_blocks: 2,
                ..node.groups[0].clone()
            }],
            full: true,
            ..Default::default()
        };
        let sealed = v1::KmsStatusReply {
            sealed: true,
            ..kms
        };
        let all = findings(&status(&leaderless, Ok(sealed))).join("\n");
        for word in ["no leader", "misses 2 blocks", "is full", "is sealed"] {
            assert!(all.contains(word), "{word}: {all}");
        }
        assert!(
            findings(&status(&node, Err("gone".into())))
                .iter()
                .any(|f| f.contains("does not answer"))
        );
    }
}
