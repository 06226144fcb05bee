//! The region's log as people keep it: checkpoints, receipts, and the policy of who vouches for it.
//!
//! Owns the text of a first policy. Refuses nothing: what comes back is checked by whoever holds the policy, offline.

use bytes::Bytes;
use proto::ids::NodeId;
use proto::v1;
use proto::v1::kms_client::KmsClient;
use transport::LocalIdentity;

use crate::error::Error;
use crate::kms::Keys;
use crate::operator::approved;
use crate::region::{Region, random_id};

/// A witness of another organisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutsideWitness {
    /// Its verifier key, of type 0x04 or 0x06.
    pub vkey: String,
    /// Where it takes `add-checkpoint`: `http://host[:port][/path]`.
    pub url: String,
}

/// The public keys that sign a region's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogKeys {
    /// The log's own; `None` where no replica that answered is unsealed.
    pub log: Option<String>,
    /// Each replica's cosigner, of those that answered.
    pub replicas: Vec<String>,
}

impl LogKeys {
    /// A C2SP tlog-policy: the log, a majority of these replicas, and at least `needed` of the witnesses. Give it all
    /// replicas: a majority of some is not one of all. `None` without the log's key.
    pub fn policy(&self, witnesses: &[OutsideWitness], needed: usize) -> Option<String> {
        let mut text = format!("log {}\n", self.log.as_ref()?);
        let mut replicas = String::new();
        for (number, vkey) in self.replicas.iter().enumerate() {
            text += &format!("witness replica-{number} {vkey}\n");
            replicas += &format!(" replica-{number}");
        }
        let majority = self.replicas.len() / 2 + 1;
        text += &format!("group replicas {majority}{replicas}\n");
        if witnesses.is_empty() {
            return Some(text + "quorum replicas\n");
        }
        let mut names = String::new();
        for (number, OutsideWitness { vkey, url }) in witnesses.iter().enumerate() {
            text += &format!("witness outside-{number} {vkey} {url}\n");
            names += &format!(" outside-{number}");
        }
        text += &format!("group outside {needed}{names}\n");
        Some(
            text + "group replicas-and-outside all replicas outside\nquorum replicas-and-outside\n",
        )
    }
}

impl Keys {
    /// The newest checkpoint, the newest that witnesses vouch for, and the policy in force.
    pub async fn checkpoint(&self) -> Result<v1::FindCheckpointReply, Error> {
        self.call(|mut kms| async move {
            let request = v1::FindCheckpointRequest {};
            Ok(kms.find_checkpoint(request).await?.into_inner())
        })
        .await
    }

    /// A proof that a leaf is in the log (C2SP tlog-proof), to keep and to check offline.
    pub async fn receipt(&self, leaf_index: u64) -> Result<Bytes, Error> {
        let reply = self
            .call(move |mut kms| async move {
                let request = v1::ReceiptRequest { leaf_index };
                Ok(kms.receipt(request).await?.into_inner())
            })
            .await?;
        Ok(reply.proof)
    }
}

impl Region {
    /// The keys that sign the log, as each enrolled replica that answers states its own.
    pub async fn log_keys(&self) -> Result<LogKeys, Error> {
        let mut members: Vec<NodeId> = self.keys().pool().members().iter().map(|m| m.id).collect();
        members.sort();
        let mut keys = LogKeys {
            log: None,
            replicas: Vec::new(),
        };
        for id in members {
            let mut kms = KmsClient::new(self.keys().replica_channel(id)?);
            let Ok(found) = kms.find_checkpoint(v1::FindCheckpointRequest {}).await else {
                continue;
            };
            let found = found.into_inner();
            if !found.log_key.is_empty() {
                keys.log = Some(found.log_key);
            }
            keys.replicas.push(found.cosigner_key);
        }
        Ok(keys)
    }

    /// Replaces the policy of witnesses, approved by at least two other operators. No key is released while the newest
    /// checkpoint that its quorum cosigned is older than `unwitnessed_max_ms`.
    pub async fn change_witnesses(
        &self,
        policy: Bytes,
        unwitnessed_max_ms: u64,
        approvers: &[LocalIdentity],
    ) -> Result<v1::KmsDone, Error> {
        let mut request = v1::ChangeWitnessesRequest {
            policy: Some(v1::WitnessPolicy {
                format: 1,
                policy,
                unwitnessed_max_ms,
            }),
            single_use_id: random_id()?,
            claim: None,
            approvals: Vec::new(),
        };
        request.approvals = approved(
            "ChangeWitnesses",
            &request,
            &request.single_use_id,
            approvers,
        );
        self.on_kms_leader(move |mut kms| {
            let request = request.clone();
            async move { Ok(kms.change_witnesses(request).await?.into_inner()) }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use tlog::{Policy, SignatureType, SignerKey};

    use super::*;

    fn vkey(name: &str, kind: SignatureType, seed: u8) -> String {
        let key = SignerKey::from_seed(name.parse().expect("a name"), kind, &[seed; 32]);
        key.expect("a key").verifier().to_string()
    }

    #[test]
    fn a_first_policy_takes_a_majority_of_the_replicas_and_the_witnesses_needed() {
        let cosigner = SignatureType::Ed25519Cosignature;
        let keys = LogKeys {
            log: Some(vkey("ch-zrh/main/1", SignatureType::Ed25519, 1)),
            replicas: (2..5)
                .map(|n| vkey(&format!("ch-zrh/kms-{n}"), cosigner, n))
                .collect(),
        };
        let witnesses = [6, 7].map(|n| OutsideWitness {
            vkey: vkey(&format!("w{n}.example"), cosigner, n),
            url: format!("http://w{n}.example"),
        });
        let parsed = |witnesses: &[_], needed| {
            let text = keys.policy(witnesses, needed).expect("a log key");
            Policy::parse(text.as_bytes()).expect("a policy")
        };
        let signs = |names: &'static [&str]| {
            move |party: &tlog::Party| names.contains(&party.key.name().as_str())
        };
        let (two, one) = (&["ch-zrh/kms-2", "ch-zrh/kms-4"], &["ch-zrh/kms-3"]);
        assert!(parsed(&[], 0).quorum_of(signs(two)));
        assert!(!parsed(&[], 0).quorum_of(signs(one)));
        let both = parsed(&witnesses, 1);
        assert!(!both.quorum_of(signs(two)));
        assert!(both.quorum_of(signs(&["ch-zrh/kms-2", "ch-zrh/kms-4", "w7.example"])));
        assert!(!both.quorum_of(signs(&["ch-zrh/kms-2", "w6.example", "w7.example"])));
    }
}
