//! Regions that trust each other, and what their KMSs and people say of a relocation.
//!
//! The KMS here signs what a test has it say: what the nodes believe of it is what is tested.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use prost::Message as _;
use proto::ids::{GroupId, Identity, Role};
use proto::transcript;
use proto::v1;
use proto::v1::node_operate_client::NodeOperateClient;
use tonic::Status;
use tonic::transport::Channel;
use transport::enrolment::sign_set;
use transport::{Clock as _, Connector, Enrolments, Expect, Fault, Lane, SystemClock};

use super::{Region, grant, identity_in, set};

const DAY_MS: u64 = 24 * 3_600_000;

/// Two regions, founded, each of which trusts the other.
pub struct Pair {
    pub source: Region,
    pub destination: Region,
}

impl Pair {
    pub async fn start(nodes: u64) -> Self {
        let (source, destination) = futures::join!(
            Region::abroad("ch-zrh", nodes),
            Region::abroad("de-fra", nodes)
        );
        let pair = Self {
            source,
            destination,
        };
        for (region, other) in [
            (&pair.source, &pair.destination),
            (&pair.destination, &pair.source),
        ] {
            region.trust(other).await;
        }
        futures::join!(pair.source.heard(), pair.destination.heard());
        pair
    }

    pub async fn stop(self) {
        futures::join!(self.source.stop(), self.destination.stop());
    }
}

impl Region {
    /// A founded region with three operators and two gateways, whose nodes listen for other regions.
    async fn abroad(id: &str, nodes: u64) -> Self {
        let id = id.parse().expect("a region id");
        let region = Self::start_in(id, true, nodes).await;
        region.found().await;
        region.change(|_, grants| {
            use v1::Action::{Create, Keys, List, Read, Write};
            grants.push(grant("role:gateway", &[List, Read, Write]));
            grants.push(grant("role:operator", &[Create, Keys]));
        });
        region
    }

    pub fn region(&self) -> &str {
        self.id.as_str()
    }

    pub fn identity_of(&self, name: &str) -> &Identity {
        self.identities[name].identity()
    }

    /// Where a node listens for other regions.
    async fn federation(&self, node: u64) -> String {
        let mut operate = NodeOperateClient::new(self.channel("o1", node));
        let status = operate.status(v1::NodeStatusRequest {}).await;
        status.expect("its status").into_inner().federation
    }

    /// What this region says of itself now.
    pub async fn described(&self, version: u64) -> v1::SignedRegionDescriptor {
        let enrolled = self.authority.lock().enrolments.clone();
        let mut members = Vec::new();
        for one in enrolled {
            let identity: Identity = one.identity.parse().expect("an identity");
            if !matches!(identity.role(), Role::Kms | Role::Node | Role::Gateway) {
                continue;
            }
            let endpoint = match identity.role() {
                Role::Node => self.federation(one.node_id).await,
                _ => String::new(),
            };
            members.push(v1::RegionMember {
                identity: one.identity,
                public_key: one.public_key,
                endpoint,
            });
        }
        members.sort_by(|one, other| one.identity.cmp(&other.identity));
        let origin = format!("{}/main/1", self.id);
        let issued_at_ms = SystemClock.now().0;
        let stated = v1::RegionDescriptor {
            format: 1,
            region: self.id.to_string(),
            jurisdiction: "CH".to_owned(),
            version,
            issued_at_ms,
            expires_at_ms: issued_at_ms + 90 * DAY_MS,
            ca_certificate: set(&self.ca, &self.authority.lock(), 1).ca_certificate,
            members,
            log_key: format!("{origin}+00000000+AQ=="),
            log_origin: origin,
            witness_policy: Bytes::new(),
        };
        let kms = &self.identities["k1"];
        let descriptor = stated.encode_to_vec();
        let signature = kms.sign(transcript::LABEL_REGION_DESCRIPTOR, &descriptor);
        v1::SignedRegionDescriptor {
            signer: Bytes::copy_from_slice(kms.public_key().as_spki()),
            signature: Bytes::copy_from_slice(&signature),
            descriptor: descriptor.into(),
        }
    }

    /// From now on the other region is trusted here.
    pub async fn trust(&self, other: &Region) {
        let descriptor = other.described(1).await;
        let mut authority = self.authority.lock();
        authority.trusted_regions = vec![v1::TrustedRegion {
            region: other.id.to_string(),
            descriptor: Some(descriptor),
        }];
        authority.version += 1;
    }

    /// Every node goes by the newest set.
    async fn heard(&self) {
        let version = self.authority.lock().version;
        for node in self.node_ids() {
            self.until("the newest set", || async {
                let mut operate = NodeOperateClient::new(self.channel("o1", node));
                let status = operate.status(v1::NodeStatusRequest {}).await;
                status.is_ok_and(|status| status.into_inner().authority_version >= version)
            })
            .await;
        }
    }

    /// What processes of this region go by now.
    fn enrolments(&self) -> Enrolments {
        let clock = SystemClock::shared();
        let enrolments = Enrolments::bootstrap(self.ca.trust(), &self.genesis, clock);
        let enrolments = enrolments.expect("the CA's own set");
        let newest = {
            let authority = self.authority.lock();
            set(&self.ca, &authority, authority.version)
        };
        let taken = enrolments.offer(&sign_set(&self.identities["k1"], &newest));
        assert!(taken.expect("its own set"));
        enrolments
    }

    /// A channel to a node of another region, where it listens for this one.
    pub async fn channel_to(&self, caller: &str, other: &Region, node: u64) -> Channel {
        let who = (caller.to_owned(), other.id.to_string(), node);
        if let Some(channel) = self.abroad.lock().get(&who) {
            return channel.clone();
        }
        let local = self.identities[caller].clone();
        let connector = Connector::federated(local, self.enrolments());
        let expect = identity_in(&other.id, Role::Node, &format!("n{node}"));
        let endpoint = other.federation(node).await;
        let channel = connector
            .channel_lazy(&endpoint, Expect::Identity(expect), Lane::Control)
            .expect("an endpoint");
        self.abroad.lock().insert(who, channel.clone());
        channel
    }

    /// Calls the node of another region that leads a group, as a gateway of this one.
    pub async fn at_leader_of<T, F, Fut>(
        &self,
        caller: &str,
        (other, group): (&Region, GroupId),
        call: F,
    ) -> Result<T, Status>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let mut tries = 0;
        loop {
            let leader = other.leader(group).map_or(1, |leader| leader.0);
            let channel = self.channel_to(caller, other, leader).await;
            match call(channel).await {
                // Not yet trusted there, or another leads by now.
                Err(status) if again(&status) && tries < 200 => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                answer => return answer,
            }
        }
    }

    /// Ids of the nodes.
    pub fn node_ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    /// An operator's approval of a request of this method.
    pub fn approval(
        &self,
        by: &str,
        (method, request): (&str, &impl prost::Message),
        single_use_id: &[u8],
    ) -> v1::Approval {
        let bytes = transcript::approved_request(method, &request.encode_to_vec());
        let body = v1::ApprovalBody {
            request_hash: Bytes::copy_from_slice(digest(&SHA256, &bytes).as_ref()),
            single_use_id: Bytes::copy_from_slice(single_use_id),
            approver: self.identity_of(by).to_string(),
            expires_at_ms: SystemClock.now().0 + 60_000,
        };
        let body = body.encode_to_vec();
        let signature = self.identities[by].sign(transcript::LABEL_APPROVAL, &body);
        v1::Approval {
            body: body.into(),
            signature: Bytes::copy_from_slice(&signature),
        }
    }

    /// The word of this region's one KMS replica.
    pub fn kms_says(&self, said: v1::HandOverState) -> v1::SignedHandOverState {
        let kms = &self.identities["k1"];
        let said = v1::HandOverState {
            format: 1,
            region: self.id.to_string(),
            replica: kms.identity().to_string(),
            ..said
        };
        let state = said.encode_to_vec();
        let signature = kms.sign(transcript::LABEL_HAND_OVER_STATE, &state);
        v1::SignedHandOverState {
            signer: Bytes::copy_from_slice(kms.public_key().as_spki()),
            signature: Bytes::copy_from_slice(&signature),
            state: state.into(),
        }
    }
}

fn again(status: &Status) -> bool {
    let fault = Fault::of(status);
    fault.retriable() || fault == Fault::Unknown
}
