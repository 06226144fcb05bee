//! Regions that know each other, as the leader looks after them: what this one says of itself, and what it hears.
//!
//! Owns the signature over this region's descriptor, the check of others', and the way of a newer one into the state: by
//! itself where it follows what people pinned, and else shown until people trust it. Refuses a descriptor whose signature,
//! CA or log key is none, whoever brings it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use kms_state::{KnownRegion, LEVEL_REGIONS, Refusal};
use parking_lot::Mutex;
use prost::Message as _;
use proto::descriptor::{Descriptor, DescriptorError};
use proto::ids::{Identity, RegionId, Role, UnixMs};
use proto::transcript::LABEL_REGION_DESCRIPTOR;
use proto::v1;
use proto::v1::federation_client::FederationClient;
use proto::v1::kms_command::Command as What;
use proto::v1::node_operate_client::NodeOperateClient;
use tlog::VerifierKey;
use tokio::time::MissedTickBehavior;
use transport::enrolment::{UntrustedDescriptor, verify_descriptor};
use transport::fault::Chain;
use transport::{Connector, Expect, Lane, Peer};

use crate::approvals;
use crate::authority::AuthorityError;
use crate::confirm::timed;
use crate::core::{Core, StaleError};
use crate::ledger::{Command, CommitError};

/// Between two looks at whether there is something new to say.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Between two questions to each trusted region.
const ASK_EVERY: Duration = Duration::from_secs(15);
/// How long what this region says of itself is good.
const LIFE_MS: u64 = 90 * 24 * 3_600_000;
/// It is said anew when less than this is left: a region that is off for a month is still trusted when it comes back.
const RENEW_MS: u64 = LIFE_MS / 3;

/// Why a region is not trusted, or not distrusted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegionError {
    /// Who asks, the approvals, the level, or the record.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Not recorded.
    #[error("the change was not recorded")]
    Commit(#[from] CommitError),
    /// The state could not be confirmed.
    #[error(transparent)]
    Stale(#[from] StaleError),
    /// Not a region's word.
    #[error("the descriptor is not taken")]
    Descriptor(#[source] UntrustedDescriptor),
    /// Its log's key.
    #[error("the descriptor is not taken: its log key is none")]
    LogKey,
    /// Of this very region.
    #[error("the descriptor is of {0}, which is this region itself")]
    Own(RegionId),
    /// A field of the request.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// What people compared is another descriptor.
    #[error(
        "the descriptor's fingerprint is {found}, and not the one that was given: compare it with the region's operators"
    )]
    OtherFingerprint {
        /// In hexadecimal.
        found: String,
    },
    /// Versions never go back.
    #[error(
        "version {offered} of the descriptor of {region} is not newer than {held}, which is held"
    )]
    Older {
        /// Of which region.
        region: RegionId,
        /// Offered.
        offered: u64,
        /// Held.
        held: u64,
    },
    /// It is not that region any more.
    #[error("the descriptor does not follow the one that is held: {0}")]
    NotPinned(&'static str),
    /// Before or after its time.
    #[error("the descriptor is not taken")]
    Expired(#[source] DescriptorError),
    /// Nothing to end.
    #[error("region {0} is not trusted here")]
    NotTrusted(RegionId),
}

/// What the leader heard of other regions in this life of it, and why it says nothing newer of its own.
#[derive(Default)]
pub(crate) struct Heard(Mutex<HeardOf>);

#[derive(Default)]
struct HeardOf {
    regions: BTreeMap<RegionId, HeardFrom>,
    not_published: String,
}

#[derive(Default, Clone)]
struct HeardFrom {
    at: UnixMs,
    trouble: String,
    waiting: Option<v1::SignedRegionDescriptor>,
}

/// Why nothing newer is said of this region.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error("this replica cannot derive the log's key")]
    NoLogKey,
    #[error("the state has no region yet")]
    NoRegion,
    #[error("what would be said is no descriptor")]
    Descriptor(#[source] UntrustedDescriptor),
    #[error("it was not recorded")]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Stale(#[from] StaleError),
}

/// Why a trusted region was not heard, or what it said not taken.
#[derive(Debug, thiserror::Error)]
enum HearError {
    #[error("its descriptor names no federation listener of a KMS replica")]
    NoListener,
    #[error("none of its KMS replicas answered: {0}")]
    Silent(String),
    #[error("what it says is not taken")]
    Descriptor(#[source] UntrustedDescriptor),
    #[error("its log key is none")]
    LogKey,
    #[error("it says what another region would")]
    OtherRegion,
    #[error("it states two things under version {0}")]
    Forked(u64),
    /// Shown with the descriptor, which waits for people.
    #[error("what it says now waits to be trusted by people: {0}")]
    Waits(&'static str),
    #[error("what it says was not recorded")]
    Commit(#[from] CommitError),
}

fn log_key(descriptor: &Descriptor) -> Option<VerifierKey> {
    descriptor.log_key().parse().ok()
}

impl Core {
    /// Trusts a region, or its newer descriptor, by the fingerprint that people compared. The approvals sign exactly this
    /// request.
    pub(crate) async fn trust_region(
        &self,
        peer: &Peer,
        mut request: v1::TrustRegionRequest,
    ) -> Result<v1::KmsDone, RegionError> {
        self.may_change(peer, LEVEL_REGIONS)?;
        let given = std::mem::take(&mut request.approvals);
        let hash = approvals::request_hash("TrustRegion", &request);
        let none = RegionError::Malformed("no descriptor");
        let signed = request.descriptor.take().ok_or(none)?;
        let offered = verify_descriptor(&signed).map_err(RegionError::Descriptor)?;
        let offered = offered.descriptor();
        log_key(offered).ok_or(RegionError::LogKey)?;
        if *offered.region() == self.config.region {
            return Err(RegionError::Own(offered.region().clone()));
        }
        let found = kms_state::region_fingerprint(&signed.descriptor);
        if request.fingerprint[..] != found {
            let found = hex::encode(found);
            return Err(RegionError::OtherFingerprint { found });
        }
        let state = self.reader().map_err(StaleError::State)?;
        let good = offered.good_at(kms_state::region_time(&*state));
        good.map_err(RegionError::Expired)?;
        if let Some(held) = kms_state::known_region(&*state, offered.region()) {
            held.is_replaced_by(offered)
                .map_err(|refusal| not_replaced(refusal, &held, offered))?;
        }
        drop(state);
        let claim = Some(self.stated(peer, request.claim.take()));
        let what = What::TrustRegion(v1::TrustRegion {
            descriptor: Some(signed),
            fingerprint: request.fingerprint,
            claim,
        });
        let single_use_id = request.single_use_id;
        let done = self
            .dual_control(peer, &hash, &single_use_id, &given, what)
            .await?;
        let region = offered.region();
        tracing::warn!(%region, version = offered.version(), by = %peer.identity, "region trusted");
        // What was said of it before is of another descriptor.
        self.heard.0.lock().regions.remove(region);
        Ok(done)
    }

    /// Ends the trust in a region, at once and by one operator.
    pub(crate) async fn distrust_region(
        &self,
        peer: &Peer,
        mut request: v1::DistrustRegionRequest,
    ) -> Result<v1::KmsDone, RegionError> {
        self.may_change(peer, LEVEL_REGIONS)?;
        let malformed = RegionError::Malformed("region");
        let region: RegionId = request.region.parse().map_err(|_| malformed)?;
        let claim = self.stated(peer, request.claim.take());
        let done = self
            .ledger
            .command::<RegionError>(&peer.identity, self.deadline(), |state| {
                let known = kms_state::known_region(state, &region);
                if !known.is_some_and(|known| known.trusted()) {
                    return Err(RegionError::NotTrusted(region.clone()));
                }
                Ok(Command {
                    authority_version: kms_state::authority_version(state),
                    approvals: Vec::new(),
                    what: What::DistrustRegion(v1::DistrustRegion {
                        region: region.to_string(),
                        claim: Some(claim.clone()),
                    }),
                })
            })
            .await?;
        tracing::warn!(%region, by = %peer.identity, "region distrusted");
        self.heard.0.lock().regions.remove(&region);
        Ok(done)
    }

    /// What this region says of itself, and the regions it knows, with what this replica heard of them.
    pub(crate) async fn list_regions(&self) -> Result<v1::ListRegionsReply, RegionError> {
        self.ledger.leading()?;
        let state = self.current().await?;
        let heard = self.heard.0.lock();
        let regions = kms_state::known_regions(&*state).into_iter().map(|known| {
            let of = heard.regions.get(known.descriptor.region()).cloned();
            let of = of.unwrap_or_default();
            v1::KnownRegion {
                record: Some(known.record),
                heard_at_ms: of.at.0,
                trouble: of.trouble,
                waiting: of.waiting,
            }
        });
        Ok(v1::ListRegionsReply {
            regions: regions.collect(),
            own: kms_state::own_region(&*state).map(|own| own.record),
            not_published: heard.not_published.clone(),
        })
    }

    /// Says what is new of this region while this replica leads and listens for others, for as long as it runs.
    pub(crate) async fn describe_region(self: Arc<Self>) {
        let mut rounds = tokio::time::interval(LOOK_EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            if self.federation.is_empty() || !self.looks_after_regions() {
                self.heard.0.lock().not_published.clear();
                continue;
            }
            let said = self.publish_if_new().await;
            let why = said.as_ref().err().map(|error| Chain(error).to_string());
            let before = {
                let mut heard = self.heard.0.lock();
                std::mem::replace(&mut heard.not_published, why.clone().unwrap_or_default())
            };
            match (said, why) {
                (Ok(Some(version)), _) => {
                    tracing::info!(version, "region described anew to those it knows");
                }
                // Once: it is tried again and again.
                (Err(_), Some(why)) if why != before => {
                    tracing::warn!(why, "nothing newer is said of this region");
                }
                _ => {}
            }
        }
    }

    fn looks_after_regions(&self) -> bool {
        let may = self.at_level(LEVEL_REGIONS).is_ok();
        may && self.group.is_leader() && self.serving().is_ok()
    }

    /// Answers the version that was published, where there was something to say.
    async fn publish_if_new(&self) -> Result<Option<u64>, PublishError> {
        let listeners = self.federation_listeners().await;
        let state = self.reader().map_err(StaleError::State)?;
        let held = kms_state::own_region(&*state);
        let stated = self.statement(&*state, held.as_ref(), &listeners)?;
        drop(state);
        let now = self.now();
        if let Some(held) = &held
            && held.descriptor.states_the_same(&stated)
            && held.descriptor.expires().0 > now.0 + RENEW_MS
        {
            return Ok(None);
        }
        // The second it is said in, so that a region that is restored from an old backup goes on above what it said since.
        let after = held.map_or(0, |held| held.descriptor.version());
        let version = (after + 1).max(now.0 / 1_000);
        let descriptor = v1::RegionDescriptor {
            version,
            issued_at_ms: now.0,
            expires_at_ms: now.0 + LIFE_MS,
            ..stated
        }
        .encode_to_vec();
        let signed = v1::SignedRegionDescriptor {
            signer: self.local.public_key().as_spki().to_vec().into(),
            signature: self
                .local
                .sign(LABEL_REGION_DESCRIPTOR, &descriptor)
                .to_vec()
                .into(),
            descriptor: descriptor.into(),
        };
        // As its peers will look at it.
        verify_descriptor(&signed).map_err(PublishError::Descriptor)?;
        let what = What::PublishRegion(v1::PublishRegion {
            descriptor: Some(signed),
        });
        self.ledger
            .command::<PublishError>(self.identity(), self.deadline(), |state| {
                Ok(Command {
                    authority_version: kms_state::authority_version(state),
                    approvals: Vec::new(),
                    what: what.clone(),
                })
            })
            .await?;
        Ok(Some(version))
    }

    /// What is to be said, but for version and times. A member that does not answer is where it was.
    fn statement(
        &self,
        state: &dyn proto::store::Reader,
        held: Option<&KnownRegion>,
        listeners: &BTreeMap<Identity, String>,
    ) -> Result<v1::RegionDescriptor, PublishError> {
        let region = kms_state::region(state).ok_or(PublishError::NoRegion)?;
        let set = kms_state::authority_set(state).ok_or(PublishError::NoRegion)?;
        let key = self.log_verifier(state).ok_or(PublishError::NoLogKey)?;
        let said = |identity: &Identity| {
            let members = held.map_or(&[][..], |held| held.descriptor.members());
            let before = members.iter().find(|member| member.identity == *identity);
            before.map_or_else(String::new, |member| member.endpoint.clone())
        };
        let member = |enrolment: v1::Enrolment| {
            let identity: Identity = enrolment.identity.parse().ok()?;
            let endpoint = match identity.role() {
                Role::Kms | Role::Node => listeners.get(&identity).cloned(),
                Role::Gateway => Some(String::new()),
                _ => return None,
            };
            let endpoint = endpoint.unwrap_or_else(|| said(&identity));
            // A node without a listener is nobody to a peer; a replica signs descriptors, and a gateway calls.
            let met = identity.role() != Role::Node || !endpoint.is_empty();
            met.then_some(v1::RegionMember {
                identity: enrolment.identity,
                public_key: enrolment.public_key,
                endpoint,
            })
        };
        let policy = kms_state::witness_policy(state).unwrap_or_default();
        Ok(v1::RegionDescriptor {
            format: proto::descriptor::FORMAT,
            region: region.region,
            jurisdiction: region.jurisdiction,
            ca_certificate: set.ca_certificate,
            // Sorted, as the set is.
            members: set.enrolments.into_iter().filter_map(member).collect(),
            log_origin: region.log_origin,
            log_key: key.to_string(),
            witness_policy: policy.policy,
            ..v1::RegionDescriptor::default()
        })
    }

    /// Where replicas and nodes listen for other regions, by their own word; who does not answer is not in it.
    async fn federation_listeners(&self) -> BTreeMap<Identity, String> {
        let replicas = join_all(self.others().into_iter().map(|(id, identity)| async move {
            let mut client = self.peers.kms(id).ok()?;
            let status = client.status(timed(v1::KmsStatusRequest {})).await.ok()?;
            Some((identity, status.into_inner().federation))
        }));
        let nodes = self.nodes().into_iter();
        let nodes = join_all(nodes.map(|(_, endpoint, expect)| async move {
            let channel = self
                .connector
                .channel_lazy(&endpoint, expect, Lane::Control)
                .ok()?;
            let mut client = NodeOperateClient::new(channel);
            let status = client.status(timed(v1::NodeStatusRequest {})).await.ok()?;
            let status = status.into_inner();
            let identity: Identity = status.identity.parse().ok()?;
            Some((identity, status.federation))
        }));
        let (replicas, nodes) = tokio::join!(replicas, nodes);
        let own = (self.identity().clone(), self.federation.clone());
        let others = replicas.into_iter().chain(nodes).flatten();
        others.chain([own]).collect()
    }

    /// Asks every trusted region what it says of itself now while this replica leads, for as long as it runs.
    pub(crate) async fn follow_regions(self: Arc<Self>) {
        let mut rounds = tokio::time::interval(ASK_EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let connector = Connector::federated(self.local.clone(), self.enrolments.clone());
        loop {
            rounds.tick().await;
            if !self.looks_after_regions() {
                self.heard.0.lock().regions.clear();
                continue;
            }
            let Ok(state) = self.reader() else { return };
            let known = kms_state::known_regions(&*state);
            drop(state);
            let trusted = known.iter().filter(|known| known.trusted());
            join_all(trusted.map(|known| self.hear_of(&connector, known))).await;
        }
    }

    async fn hear_of(&self, connector: &Connector, known: &KnownRegion) {
        let region = known.descriptor.region();
        let (heard, waiting) = self.hear(connector, known).await;
        let trouble = heard.as_ref().err().map(|error| Chain(error).to_string());
        let mut all = self.heard.0.lock();
        let held = all.regions.entry(region.clone()).or_default();
        if let Some(trouble) = trouble.as_ref().filter(|why| **why != held.trouble) {
            tracing::warn!(%region, trouble, "trusted region");
        }
        if !matches!(heard, Err(HearError::NoListener | HearError::Silent(_))) {
            held.at = self.now();
        }
        held.trouble = trouble.unwrap_or_default();
        held.waiting = waiting;
    }

    /// What a region says now, taken where it follows; and what waits for people otherwise.
    async fn hear(
        &self,
        connector: &Connector,
        known: &KnownRegion,
    ) -> (Result<(), HearError>, Option<v1::SignedRegionDescriptor>) {
        let signed = match ask(connector, &known.descriptor).await {
            Ok(signed) => signed,
            Err(error) => return (Err(error), None),
        };
        match self.take(known, &signed).await {
            Err(error @ HearError::Waits(_)) => (Err(error), Some(signed)),
            taken => (taken, None),
        }
    }

    async fn take(
        &self,
        known: &KnownRegion,
        signed: &v1::SignedRegionDescriptor,
    ) -> Result<(), HearError> {
        let (held, bytes) = (&known.descriptor, &signed.descriptor);
        if held.signed().descriptor == *bytes {
            return Ok(());
        }
        let offered = verify_descriptor(signed).map_err(HearError::Descriptor)?;
        let offered = offered.descriptor();
        log_key(offered).ok_or(HearError::LogKey)?;
        if offered.region() != held.region() {
            return Err(HearError::OtherRegion);
        }
        match known.is_followed_by(offered) {
            Ok(()) => {}
            // A replica there that is behind, or one that was distrusted meanwhile.
            Err(Refusal::DescriptorOlder { held }) if offered.version() < held => return Ok(()),
            Err(Refusal::DescriptorOlder { held }) => return Err(HearError::Forked(held)),
            Err(Refusal::DescriptorNotPinned(why)) => return Err(HearError::Waits(why)),
            Err(_) => return Ok(()),
        }
        let what = What::TrustRegion(v1::TrustRegion {
            descriptor: Some(signed.clone()),
            ..v1::TrustRegion::default()
        });
        self.ledger
            .command::<CommitError>(self.identity(), self.deadline(), |state| {
                Ok(Command {
                    authority_version: kms_state::authority_version(state),
                    approvals: Vec::new(),
                    what: what.clone(),
                })
            })
            .await?;
        let region = offered.region();
        tracing::info!(%region, version = offered.version(), "newer descriptor of a trusted region taken");
        Ok(())
    }
}

fn not_replaced(refusal: Refusal, held: &KnownRegion, offered: &Descriptor) -> RegionError {
    match refusal {
        Refusal::DescriptorNotPinned(why) => RegionError::NotPinned(why),
        _ => RegionError::Older {
            region: offered.region().clone(),
            offered: offered.version(),
            held: held.descriptor.version(),
        },
    }
}

/// The first answer of the region's KMS replicas.
async fn ask(
    connector: &Connector,
    descriptor: &Descriptor,
) -> Result<v1::SignedRegionDescriptor, HearError> {
    let mut why = None;
    let replicas = descriptor.of_role(Role::Kms);
    for replica in replicas.filter(|replica| !replica.endpoint.is_empty()) {
        let expect = Expect::Identity(replica.identity.clone());
        let channel = connector.channel_lazy(&replica.endpoint, expect, Lane::Control);
        let channel = match channel {
            Ok(channel) => channel,
            Err(error) => {
                why = Some(error.to_string());
                continue;
            }
        };
        let mut client = FederationClient::new(channel);
        match client.describe(timed(v1::DescribeRegionRequest {})).await {
            Ok(said) => return Ok(said.into_inner()),
            Err(status) => {
                let handshake = transport::HandshakeError::find(&status);
                let words = handshake.map(|error| Chain(error).to_string());
                why = Some(words.unwrap_or_else(|| status.message().to_owned()));
            }
        }
    }
    Err(why.map_or(HearError::NoListener, HearError::Silent))
}
