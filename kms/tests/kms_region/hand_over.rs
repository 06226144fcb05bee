//! Keys that cross from one region to another, on real replicas of both: on record on both sides, for one relocation, and
//! no longer than both let it.

use std::sync::Arc;

use crate::common::{
    BODY, Begin, Caller, DATASET, PATIENCE, Region, Sealed, Session, now, open, random, reason,
    sealed_object,
};
use bytes::Bytes;
use envelope::{MetadataContext, SealedKey, Suite};
use kms::approvals::{approve, request_hash};
use proto::ids::{LeafIndex, UnixMs};
use proto::v1;
use proto::v1::kms_hand_over_client::KmsHandOverClient;
use tlog::{Field, Kind};
use tonic::Status;
use tonic::transport::Channel;
use transport::{Connector, Enrolments, Expect, Lane, SharedClock, SystemClock};

const RELOCATION: [u8; 16] = [0x7A; 16];
/// Who moves the data, in the destination.
const MOVER: &str = "gateway-1";

/// Two regions that trust each other, and an object that lies in the first.
struct Both {
    source: Region,
    destination: Region,
    sealed: Sealed,
}

fn grant(principal: &str, actions: &[v1::Action], purposes: &[&str]) -> v1::Grant {
    v1::Grant {
        principal: principal.to_owned(),
        dataset: "*".to_owned(),
        actions: actions.iter().map(|action| i32::from(*action)).collect(),
        purposes: purposes
            .iter()
            .map(|purpose| (*purpose).to_owned())
            .collect(),
    }
}

/// A region that others may reach, whose operators may change keys.
fn federated(mut begin: Begin) -> Begin {
    let operators = grant("role:operator", &[v1::Action::Keys], &[]);
    begin.grants.push(operators);
    begin
        .grants
        .sort_by_cached_key(prost::Message::encode_to_vec);
    Begin {
        federation: true,
        ..begin
    }
}

/// What a gateway of the destination may do there, and who makes the key.
fn destination() -> Begin {
    let mover = "spiffe://de-fra/gateway/gateway-1";
    federated(Begin {
        region: ("de-fra", "DE"),
        grants: vec![
            grant("spiffe://de-fra/client/app", &[v1::Action::Create], &[]),
            grant(mover, &[v1::Action::Read], &["relocation"]),
        ],
        ..Begin::default()
    })
}

/// What a region says of itself, once it does.
async fn described(region: &Region) -> v1::SignedRegionDescriptor {
    let operator = region.caller("op-1");
    let said = async {
        loop {
            let listed = operator.at_leader(|at| {
                let mut operate = operator.operate(at);
                async move {
                    Ok(operate
                        .list_regions(v1::ListRegionsRequest {})
                        .await?
                        .into_inner())
                }
            });
            let own = listed.await.expect("listed").own;
            if let Some(signed) = own.and_then(|own| own.descriptor) {
                return signed;
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(2 * PATIENCE, said)
        .await
        .expect("described in time")
}

fn approvals(region: &Region, hash: [u8; 32], id: [u8; 16]) -> Vec<v1::Approval> {
    let expires = UnixMs(now().0 + 120_000);
    let by = |name| approve(region.people.local(name), hash, id, expires);
    vec![by("op-2"), by("op-3")]
}

async fn trust(region: &Region, signed: &v1::SignedRegionDescriptor) {
    let id = random::<16>();
    let fingerprint = kms_state::region_fingerprint(&signed.descriptor);
    let mut request = v1::TrustRegionRequest {
        descriptor: Some(signed.clone()),
        fingerprint: fingerprint.to_vec().into(),
        single_use_id: id.to_vec().into(),
        ..v1::TrustRegionRequest::default()
    };
    request.approvals = approvals(region, request_hash("TrustRegion", &request), id);
    let operator = region.caller("op-1");
    let trusted = operator.at_leader(|at| {
        let (mut operate, request) = (operator.operate(at), request.clone());
        async move { operate.trust_region(request).await }
    });
    trusted.await.expect("trusted");
}

impl Both {
    async fn begin() -> Self {
        let source = Region::initialised(federated(Begin::default())).await;
        let destination = Region::initialised(destination()).await;
        let (from, to) = (described(&source).await, described(&destination).await);
        trust(&source, &to).await;
        trust(&destination, &from).await;
        let sealed = sealed_object(&source.caller("app")).await;
        let app = destination.caller("app");
        app.create_key(DATASET).await.expect("a key");
        Self {
            source,
            destination,
            sealed,
        }
    }

    /// The destination's key for the relocation, as its operators ask for it.
    async fn create_key(&self) -> v1::SignedHandOverKey {
        let from = described(&self.source).await;
        let id = random::<16>();
        let mut request = v1::CreateHandOverKeyRequest {
            relocation_id: RELOCATION.to_vec().into(),
            dataset_id: DATASET.to_vec().into(),
            source: "ch-zrh".to_owned(),
            descriptor_version: version(&from),
            descriptor_fingerprint: fingerprint(&from),
            single_use_id: id.to_vec().into(),
            ..v1::CreateHandOverKeyRequest::default()
        };
        let hash = request_hash("CreateHandOverKey", &request);
        request.approvals = approvals(&self.destination, hash, id);
        let operator = self.destination.caller("op-1");
        let ask = async || {
            let created = operator.at_leader(|at| {
                let (mut kms, request) = (operator.kms(at), request.clone());
                async move { Ok(kms.create_hand_over_key(request).await?.into_inner()) }
            });
            created.await.expect("made")
        };
        let made = ask().await;
        // Asked for again, it is the same key.
        assert_eq!(ask().await.key, made.key);
        made
    }

    async fn grant(&self, key: &v1::SignedHandOverKey) -> Result<v1::KmsDone, Status> {
        let to = described(&self.destination).await;
        let id = random::<16>();
        let mut request = v1::GrantHandOverRequest {
            key: Some(key.clone()),
            descriptor_version: version(&to),
            descriptor_fingerprint: fingerprint(&to),
            single_use_id: id.to_vec().into(),
            ..v1::GrantHandOverRequest::default()
        };
        let hash = request_hash("GrantHandOver", &request);
        request.approvals = approvals(&self.source, hash, id);
        let operator = self.source.caller("op-1");
        let granted = operator.at_leader(|at| {
            let (mut kms, request) = (operator.kms(at), request.clone());
            async move { Ok(kms.grant_hand_over(request).await?.into_inner()) }
        });
        granted.await
    }

    /// The mover, as it meets the source's KMS: on its federation listeners.
    async fn abroad(&self) -> Vec<KmsHandOverClient<Channel>> {
        let local = self.destination.people.local(MOVER).clone();
        let clock: SharedClock = Arc::new(SystemClock);
        let trust = self.destination.people.ca().trust();
        let set = self.destination.caller(MOVER);
        let set = set.at_leader(|at| {
            let mut kms = set.kms(at);
            let newest = v1::FetchEnrolmentsRequest { newer_than: 0 };
            async move { Ok(kms.fetch_enrolments(newest).await?.into_inner()) }
        });
        let set = set.await.expect("a set");
        let enrolments = Enrolments::bootstrap(trust, &self.destination.genesis, clock);
        let enrolments = enrolments.expect("enrolments");
        enrolments.offer(&set).expect("the newest set");
        let connector = Connector::federated(local, enrolments);
        let places = self.source.places.iter().enumerate();
        let clients = places.map(async |(at, _)| {
            let address = self.source.status(at).await.federation;
            let expect = self.source.people.identity(&format!("kms-{}", at + 1));
            let channel = connector.channel_lazy(&address, Expect::Identity(expect), Lane::Control);
            KmsHandOverClient::new(channel.expect("a lazy channel"))
        });
        futures::future::join_all(clients).await
    }

    fn asked(&self, key: &v1::SignedHandOverKey) -> v1::HandOverRequest {
        let key = key.key.clone().expect("a key");
        v1::HandOverRequest {
            request_id: random::<16>().to_vec().into(),
            relocation_id: RELOCATION.to_vec().into(),
            dataset_id: DATASET.to_vec().into(),
            hand_over_key_id: key.hand_over_key_id,
            items: vec![self.sealed.item.clone()],
            metadata: false,
        }
    }

    /// The mover has the destination's KMS open a batch.
    async fn open_batch(
        &self,
        request: &v1::HandOverRequest,
        batch: &v1::HandOverBatch,
    ) -> Result<(v1::OpenReply, Session), Status> {
        open_as(&self.destination.caller(MOVER), request, batch).await
    }

    /// Kind and recipient of a leaf.
    fn leaf(region: &Region, index: u64) -> (Kind, String, String) {
        let asked = kms_state::LeavesAsked {
            start: LeafIndex(index),
            limit: 1,
            bytes_max: usize::MAX,
            with_openings: true,
        };
        let leader = (0..region.places.len())
            .filter_map(|at| {
                let state = region.replica(at).group().reader().ok()?;
                kms_state::leaves(&*state, asked).pop()
            })
            .next();
        let entry = leader.expect("applied somewhere");
        let leaf = tlog::Leaf::parse(&entry.leaf).expect("a leaf");
        let openings = tlog::Openings::parse(&entry.openings).expect("openings");
        let shown = tlog::openings_of(&leaf, &openings).expect("they belong together");
        let recipient = shown.fields.get(&Field::RecipientRegion).cloned();
        (
            leaf.kind(),
            leaf.purpose().to_string(),
            recipient.unwrap_or_default(),
        )
    }
}

fn version(signed: &v1::SignedRegionDescriptor) -> u64 {
    let descriptor = proto::descriptor::Descriptor::parse(signed).expect("a descriptor");
    descriptor.version()
}

fn fingerprint(signed: &v1::SignedRegionDescriptor) -> Bytes {
    Bytes::copy_from_slice(&kms_state::region_fingerprint(&signed.descriptor))
}

async fn open_as(
    mover: &Caller,
    request: &v1::HandOverRequest,
    batch: &v1::HandOverBatch,
) -> Result<(v1::OpenReply, Session), Status> {
    let id = random::<16>();
    mover
        .at_leader(|at| async move {
            let session = mover.session(at).await?;
            let request = v1::OpenHandedOverRequest {
                session_id: session.id.clone(),
                request_id: id.to_vec().into(),
                claim: None,
                request: Some(request.clone()),
                batch: Some(batch.clone()),
            };
            let reply = mover.kms(at).open_handed_over(request).await?;
            Ok((reply.into_inner(), session))
        })
        .await
}

/// Asks replica after replica of the source, as a mover does.
async fn at_leader<T, F>(
    clients: &[KmsHandOverClient<Channel>],
    call: impl Fn(KmsHandOverClient<Channel>) -> F,
) -> Result<T, Status>
where
    F: Future<Output = Result<T, Status>>,
{
    loop {
        for client in clients {
            match call(client.clone()).await {
                Err(status) if reason(&status) == "not-leader" => {}
                outcome => return outcome,
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

async fn hand_over(
    clients: &[KmsHandOverClient<Channel>],
    request: &v1::HandOverRequest,
) -> Result<v1::HandOverBatch, Status> {
    let ask = |mut client: KmsHandOverClient<Channel>| {
        let request = request.clone();
        async move { Ok(client.hand_over(request).await?.into_inner()) }
    };
    at_leader(clients, ask).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_cross_for_one_relocation_and_open_there_what_was_sealed_here() {
    let both = Both::begin().await;
    let key = both.create_key().await;
    let clients = both.abroad().await;
    let early = hand_over(&clients, &both.asked(&key)).await;
    assert_eq!(
        reason(&early.expect_err("not granted")),
        "no-such-relocation"
    );
    both.grant(&key).await.expect("granted");

    let request = both.asked(&key);
    let batch = hand_over(&clients, &request).await.expect("handed over");
    let (kind, purpose, to) = Both::leaf(&both.source, batch.leaf_index);
    assert_eq!(
        (kind, &*purpose, &*to),
        (Kind::Open, "relocation", "de-fra")
    );
    // A retry has its leaf, and another seal.
    let again = hand_over(&clients, &request).await.expect("handed over");
    assert_eq!(again.leaf_index, batch.leaf_index);
    assert_ne!(again.encapsulated, batch.encapsulated);

    let (reply, session) = both.open_batch(&request, &batch).await.expect("opened");
    let (kind, purpose, to) = Both::leaf(&both.destination, reply.leaf_index);
    assert_eq!(
        (kind, &*purpose, &*to),
        (Kind::HandOverOpened, "relocation", "de-fra")
    );
    assert_eq!(open(&both.sealed, &reply, &session), BODY);

    metadata_crosses(&both, &key, &clients).await;

    // Nobody but a gateway that may, and nothing but the source's own answer to just this request.
    let refused = async |name: &str, request: &v1::HandOverRequest, batch: &v1::HandOverBatch| {
        let caller = both.destination.caller(name);
        let outcome = open_as(&caller, request, batch).await.map(drop);
        reason(&outcome.expect_err("refused")).to_owned()
    };
    assert_eq!(refused("app", &request, &batch).await, "not-gateway");
    let other = both.asked(&key);
    assert_eq!(refused(MOVER, &other, &batch).await, "bad-signature");
    let mut bent = batch.clone();
    bent.leaf_index += 1;
    assert_eq!(refused(MOVER, &request, &bent).await, "bad-signature");
    let foreign = both.destination.people.local(MOVER);
    let mut forged = v1::HandOverBatch {
        signer: foreign.public_key().as_spki().to_vec().into(),
        ..batch.clone()
    };
    let asked = kms::approvals::sha256(&proto::transcript::hand_over_asked(&request));
    let said = proto::transcript::hand_over_batch("ch-zrh", "de-fra", &asked, &forged);
    let signature = foreign.sign(proto::transcript::LABEL_HAND_OVER, &said);
    forged.signature = signature.to_vec().into();
    assert_eq!(refused(MOVER, &request, &forged).await, "bad-signature");
    let _ = both.source.stop().await;
    let _ = both.destination.stop().await;
}

/// What a client of the source sealed beside its objects opens in the destination, and nothing can be sealed there so.
async fn metadata_crosses(
    both: &Both,
    key: &v1::SignedHandOverKey,
    clients: &[KmsHandOverClient<Channel>],
) {
    let app = both.source.caller("app");
    let lease = app.at_leader(|at| {
        let app = &app;
        async move {
            let session = app.session(at).await?;
            let request = v1::IssueLeaseRequest {
                session_id: session.id.clone(),
                dataset_id: DATASET.to_vec().into(),
                request_id: random::<16>().to_vec().into(),
                seconds: 3_600,
                ..v1::IssueLeaseRequest::default()
            };
            let reply = app.kms(at).issue_metadata_lease(request).await?;
            Ok((reply.into_inner(), session))
        }
    });
    let (reply, session) = lease.await.expect("a metadata lease");
    let (source, dataset) = (
        both.sealed.context.region.clone(),
        both.sealed.context.dataset,
    );
    let sealed = SealedKey::try_from(&reply.keys[0].sealed[..]).expect("a key");
    let lease = session
        .receiver
        .receive_metadata_key(&sealed, source.clone(), dataset, 1, &session.aad())
        .expect("the metadata key");
    let context = MetadataContext {
        suite: Suite::Cobblestone256,
        region: source.clone(),
        dataset,
        version: both.sealed.context.version,
    };
    let tags = lease.seal(&context, b"tags").expect("sealed");

    let mixed = v1::HandOverRequest {
        metadata: true,
        ..both.asked(key)
    };
    let refused = hand_over(clients, &mixed)
        .await
        .expect_err("one or the other");
    assert_eq!(reason(&refused), "malformed");
    let asked = v1::HandOverRequest {
        items: Vec::new(),
        ..mixed
    };
    let batch = hand_over(clients, &asked).await.expect("handed over");
    let (kind, purpose, to) = Both::leaf(&both.source, batch.leaf_index);
    assert_eq!(
        (kind, &*purpose, &*to),
        (Kind::MetadataLease, "relocation", "de-fra")
    );
    // Every key stands in what was signed.
    let mut less = batch.clone();
    less.metadata_keys.clear();
    let refused = both.open_batch(&asked, &less).await.map(drop);
    assert_eq!(reason(&refused.expect_err("not all")), "malformed");
    let (reply, session) = both.open_batch(&asked, &batch).await.expect("opened");
    let (kind, ..) = Both::leaf(&both.destination, reply.leaf_index);
    assert_eq!(kind, Kind::HandOverOpened);
    let sealed = SealedKey::try_from(&reply.metadata_keys[0].sealed[..]).expect("a key");
    let opens = session
        .receiver
        .receive_handed_metadata(&sealed, source, dataset, 1, &session.aad())
        .expect("the source's metadata key");
    assert_eq!(opens.open(&context, &tags).expect("opens"), b"tags");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_either_side_ends_is_over() {
    let both = Both::begin().await;
    let key = both.create_key().await;
    // A key that no replica of the destination has signed is granted nothing.
    let mut unsigned = key.clone();
    unsigned.key.as_mut().expect("a key").relocation_id = random::<16>().to_vec().into();
    let refused = both.grant(&unsigned).await.expect_err("refused");
    assert_eq!(reason(&refused), "bad-signature");
    both.grant(&key).await.expect("granted");
    let clients = both.abroad().await;
    let request = both.asked(&key);
    let batch = hand_over(&clients, &request).await.expect("handed over");

    // The destination has it paused: neither a new request nor a retry gets anything.
    let pause = |mut client: KmsHandOverClient<Channel>| async move {
        let pause = v1::PauseHandOverRequest {
            relocation_id: RELOCATION.to_vec().into(),
            dataset_id: DATASET.to_vec().into(),
            fence: 9,
        };
        Ok(client.pause(pause).await?.into_inner())
    };
    at_leader(&clients, pause).await.expect("paused");
    for asked in [&request, &both.asked(&key)] {
        let refused = hand_over(&clients, asked).await.expect_err("paused");
        assert_eq!(reason(&refused), "hand-over-not-open");
    }
    let state = v1::StateHandOverRequest {
        relocation_id: RELOCATION.to_vec().into(),
        dataset_id: DATASET.to_vec().into(),
    };
    // Each replica states what it has applied, signed.
    let mut words = 0;
    for (at, mut client) in clients.iter().cloned().enumerate() {
        let said = client
            .state(state.clone())
            .await
            .expect("a word")
            .into_inner();
        let by = both.source.people.local(&format!("kms-{}", at + 1));
        assert_eq!(said.signer, by.public_key().as_spki());
        let label = proto::transcript::LABEL_HAND_OVER_STATE;
        transport::verify(&said.signer, label, &said.state, &said.signature).expect("signed");
        let said: v1::HandOverState = prost::Message::decode(said.state).expect("a state");
        let grant = said.grant.expect("granted");
        let released = grant.released.unwrap_or_default();
        words += usize::from(grant.fence == 9 && released.objects == 1);
    }
    assert!(words >= 2, "a majority has applied the pause");
    let close = |mut client: KmsHandOverClient<Channel>| {
        let state = state.clone();
        async move { Ok(client.close(state).await?.into_inner()) }
    };
    at_leader(&clients, close).await.expect("closed");

    // What was handed over opens until the destination destroys its key.
    both.open_batch(&request, &batch).await.expect("opened");
    let operator = both.destination.caller("op-1");
    let end = v1::EndHandOverKeyRequest {
        relocation_id: RELOCATION.to_vec().into(),
        dataset_id: DATASET.to_vec().into(),
        hand_over_key_id: request.hand_over_key_id.clone(),
    };
    let ended = operator.at_leader(|at| {
        let (mut kms, end) = (operator.kms(at), end.clone());
        async move { kms.end_hand_over_key(end).await }
    });
    ended.await.expect("destroyed");
    let late = both.open_batch(&request, &batch).await.map(drop);
    assert_eq!(reason(&late.expect_err("destroyed")), "hand-over-ended");
    let _ = both.source.stop().await;
    let _ = both.destination.stop().await;
}
