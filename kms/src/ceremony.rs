//! The init ceremony: on one replica of a pristine cluster, once in the life of a region.
//!
//! Owns making the root key, splitting it and sealing a share to each custodian. Refuses a cluster that has a
//! history, custodians that the genesis set does not enrol, and a threshold that one person could meet. What was
//! made stays in memory until its outcome is known, so that an answer that was lost costs no region.

use std::sync::Arc;
use std::time::Duration;

use envelope::{HpkeInfo, HpkePublicKey, KeyError, RootKey, ShareError, hpke_seal};
use proto::ids::{Identity, NodeId, Role, RootEpoch};
use proto::transcript;
use proto::v1;
use replica::host::{FoundError, RaiseError};
use tokio::time::{Instant, timeout_at};
use transport::Peer;
use transport::enrolment::Enrolled;

use crate::approvals::sha256;
use crate::core::Core;
use crate::ledger::{Command, CommitError};
use crate::machine::LEVEL_MAX;

/// The stream and epoch every region's log begins with.
pub(crate) const FIRST_STREAM: &str = "main/1";
/// How long the founders may take to elect and to record, once in the life of a region.
const CEREMONY_MAX: Duration = Duration::from_secs(30);
/// A region's first root key.
const FIRST_EPOCH: RootEpoch = RootEpoch(1);
/// How long the other founders may take to say which feature levels they understand.
const RAISE_MAX: Duration = Duration::from_secs(5);
const RAISE_PAUSE: Duration = Duration::from_millis(100);

/// Why the region was not initialised.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CeremonyError {
    /// Only an enrolled operator begins it.
    #[error("{0} is not an operator")]
    NotOperator(Identity),
    /// The region has a root key.
    #[error("the region is initialised already")]
    Already,
    /// The caller means another region, or another beginning of it.
    #[error("the genesis set named is not the one this replica was configured with")]
    OtherGenesis,
    /// The enrolment set has moved on, so this is no beginning.
    #[error("the enrolment set held is not the first")]
    NotGenesis,
    /// A custodian that is not one.
    #[error("{0} is not enrolled as a custodian with that key and an X-Wing key")]
    NotCustodian(String),
    /// A threshold that the number of custodians does not allow, or that one person meets.
    #[error("the root key cannot be split so")]
    Split(#[source] ShareError),
    /// The number of shares asked for is not the number of custodians.
    #[error("{shares} shares were asked for and there are {custodians} custodians: each holds one")]
    Shares {
        /// Asked for.
        shares: u32,
        /// Custodians.
        custodians: usize,
    },
    /// No room for a key.
    #[error("no key memory")]
    Key(#[source] KeyError),
    /// The cluster was not founded.
    #[error("the cluster could not be founded")]
    Found(#[source] FoundError),
    /// No majority of the founders answered.
    #[error("this replica did not come to lead: is a majority of the founders running?")]
    NotLed,
    /// The ceremony's command.
    #[error("the ceremony was not recorded")]
    Commit(#[from] CommitError),
}

/// What a ceremony has made. It stays, so that an answer that was lost can be asked for again.
pub(crate) struct Made {
    asked: (u32, Vec<String>),
    /// Until it is on record and the seal has it.
    root: Option<Arc<RootKey>>,
    init: v1::InitKms,
    reply: v1::InitialiseReply,
}

impl Core {
    /// Holds the ceremony. Asked again with the same custodians and threshold after an answer of unknown outcome,
    /// it goes on with what it made.
    pub(crate) async fn initialise(
        &self,
        peer: &Peer,
        request: v1::InitialiseRequest,
    ) -> Result<v1::InitialiseReply, CeremonyError> {
        if peer.identity.role() != Role::Operator {
            return Err(CeremonyError::NotOperator(peer.identity.clone()));
        }
        let mut held = self.ceremony.lock().await;
        // Never out of `held` while something is waited for: who asked may go meanwhile, and with the shares of a root
        // key that is on record everything under it would be lost.
        let made = match &mut *held {
            Some(made) if made.asked == asked(&request) => made,
            other => other.insert(self.make(&request)?),
        };
        match self.found_and_record(peer, made).await {
            Ok(()) => {
                if let Some(root) = made.root.take() {
                    self.seal.take_made(root);
                    let (needed, custodians) = (made.asked.0, made.reply.shares.len());
                    tracing::info!(custodians, needed, "initialised");
                }
                Ok(made.reply.clone())
            }
            // Definite: the region has another root, or none, and this one was never handed out.
            Err(error @ (CeremonyError::Already | CeremonyError::Found(_))) => {
                self.group.set_may_campaign(false);
                *held = None;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// A region that begins has no history to be careful of. Where a founder is of an older build, or does not say, an
    /// operator raises the level later.
    pub(crate) async fn begin_at_the_highest_level(&self) {
        let raised = async {
            loop {
                match self.group.raise_level(LEVEL_MAX).await {
                    Err(RaiseError::NoAnswer(_)) => tokio::time::sleep(RAISE_PAUSE).await,
                    done => return done,
                }
            }
        };
        match tokio::time::timeout(RAISE_MAX, raised).await {
            Ok(Ok(level)) => tracing::info!(%level, "begins at feature level"),
            Ok(Err(error)) => tracing::warn!(%error, "begins below its feature level"),
            Err(_) => tracing::warn!("begins below its feature level: not every founder answers"),
        }
    }

    fn make(&self, request: &v1::InitialiseRequest) -> Result<Made, CeremonyError> {
        let table = self.enrolments.current();
        if table.version() != 1 {
            return Err(CeremonyError::NotGenesis);
        }
        let genesis = table.signed().set.clone();
        if request
            .genesis
            .as_ref()
            .is_some_and(|named| named.set != genesis)
        {
            return Err(CeremonyError::OtherGenesis);
        }
        let custodians = self.custodians(&request.custodians)?;
        if request.shares != 0 && request.shares as usize != custodians.len() {
            let (shares, custodians) = (request.shares, custodians.len());
            return Err(CeremonyError::Shares { shares, custodians });
        }
        let k = bounded(request.needed.into());
        let root = RootKey::generate(FIRST_EPOCH).map_err(CeremonyError::Key)?;
        let region = self.config.region.as_str();
        let (share_set, shares) = split_to(region, &root, k, &custodians)?;
        let root_check = root.check_value().0.to_vec();
        let region = v1::KmsRegion {
            format: 1,
            region: region.to_owned(),
            jurisdiction: self.config.jurisdiction.to_string(),
            root_epoch: FIRST_EPOCH.0,
            root_check: root_check.clone().into(),
            shares_needed: k.into(),
            custodians: holders(&shares),
            log_origin: format!("{region}/{FIRST_STREAM}"),
            share_set: share_set.into(),
        };
        Ok(Made {
            asked: asked(request),
            root: Some(Arc::new(root)),
            init: v1::InitKms {
                region: Some(region),
                enrolment_set: genesis,
            },
            reply: v1::InitialiseReply {
                shares,
                root_check: root_check.into(),
            },
        })
    }

    /// The custodians named, or every enrolled one when none is named, with the keys their shares are sealed to.
    pub(crate) fn custodians(
        &self,
        named: &[v1::Enrolment],
    ) -> Result<Vec<(Enrolled, HpkePublicKey)>, CeremonyError> {
        let enrolled = self.enrolments.members(Role::Custodian);
        let chosen: Vec<Enrolled> = match named {
            [] => enrolled,
            named => named
                .iter()
                .map(|named| {
                    let same = |held: &&Enrolled| {
                        held.identity.to_string() == named.identity
                            && held.public_key.as_spki() == named.public_key.as_ref()
                    };
                    let not = || CeremonyError::NotCustodian(named.identity.clone());
                    enrolled.iter().find(same).cloned().ok_or_else(not)
                })
                .collect::<Result<_, _>>()?,
        };
        chosen
            .into_iter()
            .map(|custodian| {
                let key = HpkePublicKey::try_from(custodian.hpke_public_key.as_ref())
                    .map_err(|_| CeremonyError::NotCustodian(custodian.identity.to_string()))?;
                Ok((custodian, key))
            })
            .collect()
    }

    async fn found_and_record(&self, peer: &Peer, made: &Made) -> Result<(), CeremonyError> {
        let ours = |core: &Self| {
            let region = core
                .reader()
                .ok()
                .and_then(|state| kms_state::region(&*state))?;
            Some(
                made.init
                    .region
                    .as_ref()
                    .is_some_and(|own| own.root_check == region.root_check),
            )
        };
        match ours(self) {
            Some(true) => return Ok(()),
            Some(false) => return Err(CeremonyError::Already),
            None => {}
        }
        let deadline = Instant::now() + CEREMONY_MAX;
        self.found().await?;
        // First of all: what the region begins with may need it, such as grants for service principals.
        self.begin_at_the_highest_level().await;
        let command = Command {
            authority_version: 1,
            approvals: Vec::new(),
            what: v1::kms_command::Command::Init(made.init.clone()),
        };
        match self.ledger.propose(&peer.identity, command, deadline).await {
            Ok(_) => Ok(()),
            Err(CommitError::Refused {
                reason: v1::KmsRefusal::AlreadyInitialised,
            }) => match ours(self) {
                Some(true) => Ok(()),
                Some(false) | None => Err(CeremonyError::Already),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Founds the cluster, where it is not founded yet, and has this replica lead it.
    pub(crate) async fn found(&self) -> Result<(), CeremonyError> {
        let deadline = Instant::now() + CEREMONY_MAX;
        // The one moment at which a sealed replica may lead: nobody else can, and there is nothing to serve.
        self.group.set_may_campaign(true);
        let founders = self.enrolments.members(Role::Kms).into_iter();
        let founders: Vec<NodeId> = founders.filter_map(|member| member.node_id).collect();
        match self.group.initialize(founders).await {
            // Founded by an earlier try that got no further.
            Ok(()) | Err(FoundError::NotPristine) => {}
            Err(error) => return Err(CeremonyError::Found(error)),
        }
        match timeout_at(deadline, self.group.led()).await {
            Ok(Some(leader)) if leader == self.config.node_id() => Ok(()),
            Ok(Some(_) | None) | Err(_) => Err(CeremonyError::NotLed),
        }
    }
}

/// Splits a root key, one share to each custodian, sealed to it. Checked before anybody gets one: any k of what was
/// made rebuild the root key.
pub(crate) fn split_to(
    region: &str,
    root: &RootKey,
    needed: u8,
    custodians: &[(Enrolled, HpkePublicKey)],
) -> Result<(Vec<u8>, Vec<v1::SealedShare>), CeremonyError> {
    let made = bounded(custodians.len() as u64);
    let (set, shares) = root.split(needed, made).map_err(CeremonyError::Split)?;
    let last = shares.len() - usize::from(needed);
    for some in [&shares[..usize::from(needed)], &shares[last..]] {
        set.combine(some).map_err(CeremonyError::Split)?;
    }
    let share_set = set.to_bytes();
    let sealed = custodians
        .iter()
        .zip(&shares)
        .map(|((custodian, key), share)| {
            let (identity, index) = (custodian.identity.to_string(), u32::from(share.index()));
            let index_bytes = index.to_be_bytes();
            let info = HpkeInfo::of(&transcript::custodian_share_info(
                region,
                &share_set,
                &index_bytes,
                &identity,
            ));
            let sealed = hpke_seal(key, &info, b"", &share.to_bytes())
                .map_err(|_| CeremonyError::NotCustodian(identity.clone()))?;
            Ok(v1::SealedShare {
                custodian: identity,
                sealed: sealed.into(),
                index,
                share_check: sha256(&share_name(&share_set, index)).to_vec().into(),
                share_set: share_set.clone().into(),
            })
        });
    let sealed = sealed.collect::<Result<Vec<_>, CeremonyError>>()?;
    Ok((share_set, sealed))
}

/// Who holds which share, in public.
pub(crate) fn holders(shares: &[v1::SealedShare]) -> Vec<v1::ShareHolder> {
    let holder = |share: &v1::SealedShare| v1::ShareHolder {
        identity: share.custodian.clone(),
        share_check: share.share_check.clone(),
        share_index: share.index,
    };
    shares.iter().map(holder).collect()
}

/// What tells one ceremony's request from another's.
fn asked(request: &v1::InitialiseRequest) -> (u32, Vec<String>) {
    let named = request
        .custodians
        .iter()
        .map(|custodian| custodian.identity.clone());
    (request.needed, named.collect())
}

/// Names a share of a split in public: what a custodian and the state compare. The split's own record checks it.
fn share_name(share_set: &[u8], index: u32) -> Vec<u8> {
    let mut out = b"reduit/v1/share-of-set\n".to_vec();
    out.extend_from_slice(&index.to_be_bytes());
    out.extend_from_slice(share_set);
    out
}

/// Counts beyond what a split can have are refused by the split.
pub(crate) fn bounded(count: u64) -> u8 {
    u8::try_from(count).unwrap_or(u8::MAX)
}
