//! A region as a client sees it.
//!
//! Owns the first contact and what is learnt from it: members and where groups are. Trust comes from the pinned CA
//! and the identities in certificates, not from what a server says of itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use proto::ids::{DatasetId, DatasetName, GroupId, Identity, NodeId, RegionId, Role, UnixMs};
use proto::v1;
use proto::v1::catalog_client::CatalogClient;
use proto::v1::kms_client::KmsClient;
use proto::v1::node_operate_client::NodeOperateClient;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use transport::{Connector, KeyExchange, Lane, LocalIdentity, PublicKey, RegionTrust, Stated};

use crate::acting::{Acting, ActingChannel};
use crate::dataset::{Dataset, DatasetInfo, GetOptions};
use crate::error::Error;
use crate::kms::Keys;
use crate::route::{Member, Pool};
use crate::settings::{Context, Tuning};

/// Datasets of one listing call at most.
const DATASETS_PAGE: u32 = 1_000;
/// Regions that a dataset is followed through.
const MOVES_MAX: usize = 8;
/// Between two looks at who the members are.
const FOLLOW_PAUSE: Duration = Duration::from_millis(200);

/// How old what is known of the members may get while no call asks any of them. Who is idle while one after the other is
/// replaced would in the end know none that lives.
const FOLLOW_EVERY: Duration = Duration::from_secs(30);

/// A connection to a region. Cheap to clone.
#[derive(Clone)]
pub struct Region(pub(crate) Arc<Inner>, pub(crate) Acting);

pub(crate) struct Inner {
    pub(crate) id: RegionId,
    pub(crate) local: LocalIdentity,
    pub(crate) tuning: Tuning,
    pub(crate) nodes: Pool,
    pub(crate) keys: Keys,
    /// Of the enrolment set that the members were learnt from.
    members_version: AtomicU64,
    following: Mutex<Option<JoinHandle<()>>>,
    /// Where else datasets may be found.
    elsewhere: Mutex<Vec<Context>>,
    /// What the regions that this one trusts say of themselves, by the same set.
    trusted: Mutex<BTreeMap<String, v1::SignedRegionDescriptor>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(following) = self.following.get_mut() {
            following.abort();
        }
    }
}

/// Learns the members anew whenever a call has met one that is not known, or none that answers, and every now and then.
async fn follow(region: Weak<Inner>, stale: Arc<Notify>) {
    let learn = || {
        let region = region
            .upgrade()
            .map(|region| Region(region, Acting::default()));
        async move {
            let Some(region) = region else {
                return false;
            };
            if let Err(error) = region.refresh().await {
                tracing::debug!(%error, "the members could not be learnt anew");
            }
            true
        }
    };
    keep_learning(&stale, learn).await;
}

/// Until there is nothing more to learn for.
async fn keep_learning<Fut: Future<Output = bool>>(stale: &Notify, mut learn: impl FnMut() -> Fut) {
    loop {
        // That it has been a while is as good a reason.
        let _ = tokio::time::timeout(FOLLOW_EVERY, stale.notified()).await;
        if !learn().await {
            return;
        }
        tokio::time::sleep(FOLLOW_PAUSE).await;
    }
}

/// How a dataset is made.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// Keep overwritten and deleted versions.
    pub versioning: bool,
}

/// A dataset in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetListed {
    /// Its name.
    pub name: DatasetName,
    /// Its id.
    pub id: DatasetId,
    /// When it was created.
    pub created_at: UnixMs,
}

/// One page of datasets.
#[derive(Debug, Clone)]
pub struct DatasetsPage {
    /// In order of their names.
    pub datasets: Vec<DatasetListed>,
    /// What the next page starts after; `None` at the end.
    pub next: Option<String>,
}

/// Who we are in a region, if anybody.
fn known(elsewhere: &[Context], region: &RegionId) -> Option<Context> {
    let mut of_region = elsewhere.iter().filter(|one| one.region == *region);
    of_region.next().cloned()
}

/// What the members of a region say of themselves.
#[derive(Debug, Clone)]
pub struct RegionStatus {
    /// Storage nodes that answered, or why not.
    pub nodes: Vec<(
        Option<Identity>,
        String,
        Result<v1::NodeStatusReply, String>,
    )>,
    /// KMS replicas that answered, or why not.
    pub kms: Vec<(Option<Identity>, String, Result<v1::KmsStatusReply, String>)>,
}

impl Region {
    /// Reads the identity a context names and asks the region who its members are.
    pub async fn connect(context: &Context, tuning: Tuning) -> Result<Self, Error> {
        let caller = |reason: &str, message: String| Error::Caller {
            reason: reason.to_owned(),
            message,
        };
        let trust = RegionTrust::load(context.region.clone(), &context.ca)
            .map_err(|error| caller("bad-ca", chain(&error)))?;
        let local = LocalIdentity::load(&context.certificate, &context.key)
            .map_err(|error| caller("bad-identity", chain(&error)))?;
        if local.identity().region() != &context.region {
            let message = format!("{} is not of region {}", local.identity(), context.region);
            return Err(caller("other-region", message));
        }
        let connector = Connector::pinned(local.clone(), trust, KeyExchange::HybridOnly);
        let stale = Arc::new(Notify::new());
        let nodes = Pool::new(Role::Node, connector.clone(), &context.nodes, stale.clone());
        let kms = Pool::new(Role::Kms, connector, &context.kms, stale.clone());
        let kms = Arc::new(kms);
        let keys = Keys::new(context.region.clone(), local.clone(), kms, tuning.clone());
        let inner = Arc::new(Inner {
            id: context.region.clone(),
            local,
            tuning,
            nodes,
            keys,
            members_version: AtomicU64::new(0),
            following: Mutex::new(None),
            elsewhere: Mutex::default(),
            trusted: Mutex::default(),
        });
        let region = Self(inner, Acting::default());
        region.refresh().await?;
        let following = tokio::spawn(follow(Arc::downgrade(&region.0), stale));
        *region.0.following.lock() = Some(following);
        Ok(region)
    }

    /// The region.
    pub fn id(&self) -> &RegionId {
        &self.0.id
    }

    /// Who we are.
    pub fn identity(&self) -> &Identity {
        self.0.local.identity()
    }

    /// The same connection, of which every use of data is made on behalf of a service principal: storage nodes and the KMS
    /// allow what both may, we and the principal. For gateways; what else they ask for is refused then.
    pub fn on_behalf_of(&self, principal: &Identity) -> Self {
        Self(self.0.clone(), Acting::for_principal(principal))
    }

    /// Regions in which a dataset is looked for that has moved there from here: who we are in each, since no identity is
    /// known in two.
    pub fn follow_to(&self, elsewhere: impl IntoIterator<Item = Context>) {
        self.0.elsewhere.lock().extend(elsewhere);
    }

    /// Learns the members again, from any node that answers.
    pub async fn refresh(&self) -> Result<(), Error> {
        let reply = self
            .0
            .nodes
            .on_leader(GroupId(0), &self.0.tuning, |_, channel| async move {
                Ok(CatalogClient::new(channel)
                    .describe(v1::DescribeRequest {})
                    .await?
                    .into_inner())
            })
            .await?;
        if reply.region != self.0.id.as_str() {
            return Err(Error::Protocol {
                what: "a node of another region answered",
            });
        }
        let signed = reply.enrolments.ok_or(Error::Protocol {
            what: "no enrolment set",
        })?;
        let set = v1::EnrolmentSet::decode(signed.set).map_err(|_| Error::Protocol {
            what: "an enrolment set that does not decode",
        })?;
        // A node that lags behind takes nothing back.
        let held = &self.0.members_version;
        if held.fetch_max(set.version, Ordering::AcqRel) > set.version {
            return Ok(());
        }
        self.0.nodes.learn(members(&set, Role::Node));
        self.0.keys.pool().learn(members(&set, Role::Kms));
        let trusted = set.trusted_regions.into_iter();
        let trusted = trusted.filter_map(|one| Some((one.region, one.descriptor?)));
        *self.0.trusted.lock() = trusted.collect();
        Ok(())
    }

    /// What a region that this one trusts says of itself, as far as is known here.
    pub(crate) fn described(&self, region: &RegionId) -> Option<v1::SignedRegionDescriptor> {
        self.0.trusted.lock().get(region.as_str()).cloned()
    }

    /// The same connection, of which every call is made for a purpose.
    pub(crate) fn for_purpose(&self, purpose: &'static str) -> Self {
        Self(self.0.clone(), Acting::for_purpose(purpose))
    }

    /// Makes a dataset and its key. Made again under the same name it is refused.
    pub async fn create_dataset(
        &self,
        name: &DatasetName,
        options: &CreateOptions,
    ) -> Result<Dataset, Error> {
        let id = DatasetId(random()?);
        let key = self.0.keys.create_key_for(id, &self.1).await?;
        let record = key.key.ok_or(Error::Protocol {
            what: "no key in the answer",
        })?;
        let request = v1::CreateDatasetRequest {
            name: name.to_string(),
            dataset_id: id.into(),
            kek_id: record.kek_id,
            kek_version: record.current_version,
            versioning: options.versioning,
            pseudonym: record.pseudonym,
            key_state_version: record.state_version,
        };
        let info = self
            .catalog(move |mut catalog| {
                let request = request.clone();
                async move { Ok(catalog.create_dataset(request).await?.into_inner()) }
            })
            .await?;
        Dataset::new(self.clone(), info, Stated::default())
    }

    /// The dataset of that name. Where it has moved to a region of [`Self::follow_to`], it is that region's.
    pub async fn dataset(&self, name: &DatasetName) -> Result<Dataset, Error> {
        self.dataset_for(name, &GetOptions::default()).await
    }

    /// As [`Self::dataset`], for who sees it under a purpose and case alone.
    pub async fn dataset_for(
        &self,
        name: &DatasetName,
        options: &GetOptions,
    ) -> Result<Dataset, Error> {
        let stated = options.stated();
        let mut region = self.clone();
        for _ in 0..MOVES_MAX {
            let moved = match region.find(name, &stated).await {
                Err(Error::Moved { region: Some(to) }) => to,
                found => return Dataset::new(region, found?, stated),
            };
            let known = known(&self.0.elsewhere.lock(), &moved);
            let Some(context) = known else {
                let region = Some(moved);
                return Err(Error::Moved { region });
            };
            tracing::info!(from = %region.id(), to = %moved, "the dataset has moved");
            region = Self::connect(&context, self.0.tuning.clone()).await?;
        }
        Err(Error::Protocol {
            what: "a dataset that moved from region to region in a circle",
        })
    }

    /// What the region says of a dataset.
    pub async fn dataset_info(&self, name: &DatasetName) -> Result<DatasetInfo, Error> {
        DatasetInfo::try_from(self.find(name, &Stated::default()).await?)
    }

    async fn find(&self, name: &DatasetName, stated: &Stated) -> Result<v1::DatasetInfo, Error> {
        let request = v1::FindDatasetRequest {
            name: name.to_string(),
        };
        self.catalog(move |mut catalog| {
            let request = stated.of(request.clone());
            async move { Ok(catalog.find_dataset(request).await?.into_inner()) }
        })
        .await
    }

    /// Every dataset, by name.
    pub async fn datasets(&self) -> Result<Vec<(DatasetName, DatasetId)>, Error> {
        let (mut all, mut start_after) = (Vec::new(), String::new());
        loop {
            let page = self.datasets_page(&start_after, DATASETS_PAGE).await?;
            all.extend(page.datasets.into_iter().map(|one| (one.name, one.id)));
            match page.next {
                Some(next) => start_after = next,
                None => return Ok(all),
            }
        }
    }

    /// Datasets in order of their names, those after `start_after`.
    pub async fn datasets_page(
        &self,
        start_after: &str,
        limit: u32,
    ) -> Result<DatasetsPage, Error> {
        let request = v1::ListDatasetsRequest {
            start_after: start_after.to_owned(),
            limit,
        };
        let page = self
            .catalog(move |mut catalog| {
                let request = request.clone();
                async move { Ok(catalog.list_datasets(request).await?.into_inner()) }
            })
            .await?;
        let listed = |record: v1::CatalogRecord| {
            Ok(DatasetListed {
                id: DatasetId::try_from(&record.dataset_id[..])?,
                created_at: UnixMs(record.created_at_ms),
                name: record.name.parse()?,
            })
        };
        Ok(DatasetsPage {
            next: page.truncated.then_some(page.next_start_after),
            datasets: page
                .datasets
                .into_iter()
                .map(listed)
                .collect::<Result<_, Error>>()?,
        })
    }

    /// Deletes a dataset; one that holds objects only with `force`.
    pub async fn delete_dataset(&self, name: &DatasetName, force: bool) -> Result<(), Error> {
        let info = self.find(name, &Stated::default()).await?;
        let record = info.dataset.ok_or(Error::Protocol {
            what: "no dataset in the answer",
        })?;
        let request = v1::DeleteDatasetRequest {
            name: name.to_string(),
            dataset_id: record.dataset_id,
            force,
        };
        self.catalog(move |mut catalog| {
            let request = request.clone();
            async move { Ok(catalog.delete_dataset(request).await?.into_inner()) }
        })
        .await
        .map(|_| ())
    }

    /// Asks every member for its status; silence is an answer too.
    pub async fn status(&self) -> RegionStatus {
        const PATIENCE: Duration = Duration::from_secs(3);
        let nodes = self.0.nodes.members().into_iter().map(|member| async move {
            let call = async {
                let channel = self
                    .0
                    .nodes
                    .channel(&member, Lane::Control, 0)
                    .map_err(|e| chain(&e))?;
                let reply = NodeOperateClient::new(channel)
                    .status(v1::NodeStatusRequest {})
                    .await;
                reply
                    .map(tonic::Response::into_inner)
                    .map_err(|status| said(&status))
            };
            let answer = tokio::time::timeout(PATIENCE, call).await;
            (
                member.identity.clone(),
                member.endpoint.clone(),
                answer.unwrap_or_else(|_| Err("no answer".into())),
            )
        });
        let pool = self.0.keys.pool();
        let kms = pool.members().into_iter().map(|member| async move {
            let call = async {
                let channel = pool
                    .channel(&member, Lane::Control, 0)
                    .map_err(|e| chain(&e))?;
                let reply = KmsClient::new(channel)
                    .status(v1::KmsStatusRequest {})
                    .await;
                reply
                    .map(tonic::Response::into_inner)
                    .map_err(|status| said(&status))
            };
            let answer = tokio::time::timeout(PATIENCE, call).await;
            (
                member.identity.clone(),
                member.endpoint.clone(),
                answer.unwrap_or_else(|_| Err("no answer".into())),
            )
        });
        let (nodes, kms) = tokio::join!(
            futures::future::join_all(nodes),
            futures::future::join_all(kms)
        );
        RegionStatus { nodes, kms }
    }

    /// A channel to one storage node's control API, for operators.
    pub fn node_channel(&self, id: NodeId) -> Result<Channel, Error> {
        let member = self.0.nodes.member(id).ok_or(Error::Caller {
            reason: "no-such-member".to_owned(),
            message: format!("no storage node {id} is enrolled"),
        })?;
        self.0.nodes.channel(&member, Lane::Control, 0)
    }

    /// Leases, opens and the transparency log of this region's KMS.
    pub fn keys(&self) -> &Keys {
        &self.0.keys
    }

    pub(crate) async fn catalog<T, F, Fut>(&self, call: F) -> Result<T, Error>
    where
        F: Fn(CatalogClient<ActingChannel>) -> Fut,
        Fut: Future<Output = Result<T, tonic::Status>>,
    {
        self.0
            .nodes
            .on_leader(GroupId::CATALOG, &self.0.tuning, |_, channel| {
                call(CatalogClient::new(self.1.over(channel)))
            })
            .await
    }
}

fn members(set: &v1::EnrolmentSet, role: Role) -> Vec<Member> {
    let member = |enrolment: &v1::Enrolment| {
        let identity: Identity = enrolment.identity.parse().ok()?;
        let serves = identity.role() == role && !enrolment.endpoint.is_empty();
        serves.then(|| Member {
            id: NodeId(enrolment.node_id),
            identity: Some(identity),
            public_key: PublicKey::from_spki(&enrolment.public_key).ok(),
            endpoint: enrolment.endpoint.clone(),
        })
    };
    set.enrolments.iter().filter_map(member).collect()
}

/// An error with its sources, for people.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

fn said(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    if text.is_empty() {
        text = format!("{:?}", status.code());
    }
    if let Some(source) = std::error::Error::source(status) {
        text = format!("{text}: {}", chain(source));
    }
    text
}

/// Random bytes of the operating system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::KeyMemory(envelope::KeyError::Random))?;
    Ok(bytes)
}

/// 16 random bytes as a message field.
pub(crate) fn random_id() -> Result<Bytes, Error> {
    random::<16>().map(|id| Bytes::copy_from_slice(&id))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seed 20261125 of the soak: a client that nobody used for ten minutes knew only members that had been replaced.
    #[tokio::test(start_paused = true)]
    async fn the_members_are_learnt_anew_though_nobody_asks_any_of_them() {
        let (stale, mut learnt) = (Notify::new(), 0);
        let learn = || {
            learnt += 1;
            let goes_on = learnt < 3;
            async move { goes_on }
        };
        let learning = keep_learning(&stale, learn);
        let learning = tokio::time::timeout(4 * FOLLOW_EVERY, learning).await;
        learning.expect("three times in four times the time");
    }
}
