//! The region that a dataset comes from, as its mover meets it: federation listeners of the nodes and KMS replicas that one
//! descriptor names.
//!
//! Owns finding who leads there. A descriptor has no member ids, and what a leader hint names is an address for that region's
//! own: members are tried in turn. Refuses everybody whom the descriptor does not name.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proto::ids::Role;
use proto::v1;
use proto::v1::departures_client::DeparturesClient;
use proto::v1::kms_hand_over_client::KmsHandOverClient;
use tokio::time::{Instant, timeout};
use tonic::Status;
use tonic::transport::Channel;
use transport::{Connector, Expect, Fault, Lane, LocalIdentity, TrustedRegion};

use crate::dataset::MESSAGE_BYTES_MAX;
use crate::error::Error;
use crate::region::chain;
use crate::settings::Tuning;
use crate::upload::BLOCK_BYTES;

/// Between two rounds over all members.
const ROUND_PAUSE: Duration = Duration::from_millis(50);
/// How long one block may take.
const BLOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// One region, by one descriptor.
pub(super) struct Source {
    signed: v1::SignedRegionDescriptor,
    pub(super) nodes: Members,
    pub(super) kms: Members,
}

/// Those of one role.
pub(super) struct Members {
    role: Role,
    control: Vec<Channel>,
    data: Vec<Channel>,
    leader: AtomicUsize,
}

fn refused(reason: &str, message: String) -> Error {
    Error::Caller {
        reason: reason.to_owned(),
        message,
    }
}

impl Source {
    /// By what the region says of itself. Nobody is called yet.
    pub(super) fn new(
        local: &LocalIdentity,
        signed: v1::SignedRegionDescriptor,
    ) -> Result<Self, Error> {
        let trusted = transport::verify_descriptor(&signed)
            .map_err(|error| refused("descriptor-not-good", chain(&error)))?;
        let members = |role| Members::new(local, &trusted, role);
        Ok(Self {
            nodes: members(Role::Node)?,
            kms: members(Role::Kms)?,
            signed,
        })
    }

    /// Whether it is by this descriptor.
    pub(super) fn is_by(&self, signed: &v1::SignedRegionDescriptor) -> bool {
        self.signed == *signed
    }

    /// Calls the leader of the shard that the dataset is in.
    pub(super) async fn departures<T, F, Fut>(&self, tuning: &Tuning, call: F) -> Result<T, Error>
    where
        F: Fn(DeparturesClient<Channel>) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let call = |channel| call(departures(channel));
        self.nodes.on_leader(tuning, call).await
    }

    /// Calls the leader of its KMS.
    pub(super) async fn hand_over<T, F, Fut>(&self, tuning: &Tuning, call: F) -> Result<T, Error>
    where
        F: Fn(KmsHandOverClient<Channel>) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let call = |channel| call(KmsHandOverClient::new(channel));
        self.kms.on_leader(tuning, call).await
    }

    /// A whole block of the digest that an entry names, from whichever node has it.
    pub(super) async fn block(
        &self,
        request: &v1::RelocatedBlockRequest,
        block: &v1::BlockRef,
    ) -> Result<Bytes, Error> {
        let channels = &self.nodes.data;
        let (mut last, mut bad) = (None, false);
        for turn in 0..channels.len() {
            // Spread over the nodes: block n starts with node n.
            let at = (request.number as usize + turn) % channels.len();
            let read = read_block(channels[at].clone(), request.clone(), block.bytes as usize);
            let read = timeout(BLOCK_TIMEOUT, read).await;
            let read = read.unwrap_or_else(|_| Err(Status::deadline_exceeded("no block in time")));
            match read {
                Ok(sealed) if blake3::hash(&sealed).as_bytes()[..] == block.digest[..] => {
                    return Ok(sealed);
                }
                Ok(_) => bad = true,
                Err(status) => last = Some(status),
            }
        }
        match last {
            Some(status) => Err(Error::from_status(&status)),
            None if bad => Err(Error::Damaged {
                message: "every node of the source has bytes of another digest".to_owned(),
            }),
            None => Err(self.nodes.nobody()),
        }
    }
}

/// A client of one node's departures.
pub(super) fn departures(channel: Channel) -> DeparturesClient<Channel> {
    DeparturesClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

async fn read_block(
    channel: Channel,
    request: v1::RelocatedBlockRequest,
    bytes_max: usize,
) -> Result<Bytes, Status> {
    let mut pieces = departures(channel).block(request).await?.into_inner();
    // Whoever made the entry says how long it is: room is taken for what came.
    let mut sealed = BytesMut::with_capacity(bytes_max.min(BLOCK_BYTES));
    while let Some(piece) = pieces.message().await? {
        if sealed.len() + piece.data.len() > bytes_max {
            return Err(Status::data_loss("more bytes than the block has"));
        }
        sealed.extend_from_slice(&piece.data);
    }
    Ok(sealed.freeze())
}

impl Members {
    fn new(local: &LocalIdentity, region: &TrustedRegion, role: Role) -> Result<Self, Error> {
        let connector = Connector::described(local.clone(), region.clone());
        let (mut control, mut data) = (Vec::new(), Vec::new());
        let members = region.descriptor().of_role(role);
        for member in members.filter(|member| !member.endpoint.is_empty()) {
            for (lane, channels) in [(Lane::Control, &mut control), (Lane::Data, &mut data)] {
                let expect = Expect::Identity(member.identity.clone());
                let channel = connector.channel_lazy(&member.endpoint, expect, lane);
                channels.push(channel.map_err(|error| refused("bad-endpoint", chain(&error)))?);
            }
        }
        Ok(Self {
            role,
            control,
            data,
            leader: AtomicUsize::new(0),
        })
    }

    /// A channel to each.
    pub(super) fn each(&self) -> impl Iterator<Item = Channel> + '_ {
        self.control.iter().cloned()
    }

    fn nobody(&self) -> Error {
        Error::Unavailable {
            reason: "no-members".to_owned(),
            message: format!(
                "the source's descriptor names no {} with a federation endpoint",
                self.role.as_str()
            ),
        }
    }

    /// Calls member after member until the one that leads answers. What is not known to have had effect is sent again: every
    /// call of a mover has effect once, or is refused where it had.
    async fn on_leader<T, F, Fut>(&self, tuning: &Tuning, call: F) -> Result<T, Error>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let deadline = Instant::now() + tuning.deadline;
        let mut turn = 0;
        let first = self.leader.load(Ordering::Relaxed);
        loop {
            if self.control.is_empty() {
                return Err(self.nobody());
            }
            let at = (first + turn) % self.control.len();
            let left = deadline.saturating_duration_since(Instant::now());
            let asked = timeout(tuning.try_timeout.min(left), call(self.control[at].clone()));
            let status = match asked.await {
                Ok(Ok(answer)) => {
                    self.leader.store(at, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no answer from this member in time"),
            };
            let fault = Fault::of(&status);
            let over = Instant::now() + ROUND_PAUSE >= deadline;
            if over || !(fault.retriable() || fault == Fault::Unknown) {
                return Err(Error::from_status(&status));
            }
            turn += 1;
            if turn == self.control.len() {
                turn = 0;
                tokio::time::sleep(ROUND_PAUSE).await;
            }
        }
    }
}
