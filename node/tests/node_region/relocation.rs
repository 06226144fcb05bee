//! What callers are told while a dataset is fenced, once it has moved and before it has arrived; and that a fence ends.
//!
//! Nothing proposes relocations yet: their steps go into the log here as a mover's leader would put them.

use std::time::Duration;

use crate::region::*;
use bytes::Bytes;
use node_state::ShardMeta;
use node_state::relocation::{Authority, Standing};
use prost::Message as _;
use proto::ids::{DatasetId, GroupId};
use proto::v1;
use proto::v1::catalog_client::CatalogClient;
use proto::v1::depart::Step;
use proto::v1::shard_client::ShardClient;
use proto::v1::shard_command::Command;
use tokio::time::Instant;
use tonic::Status;
use transport::Fault;

const RELOCATION: [u8; 16] = [0x7E; 16];
const ARRIVING: DatasetId = DatasetId([0xA1; 16]);
const PAUSE: Duration = Duration::from_millis(2_500);

fn approvals() -> Option<v1::Approvals> {
    Some(v1::Approvals {
        requester: "o1".to_owned(),
        approvers: vec!["o2".to_owned(), "o3".to_owned()],
    })
}

fn depart(step: Step) -> Command {
    Command::Depart(v1::Depart {
        dataset_id: DATASET.into(),
        relocation_id: Bytes::from_static(&RELOCATION),
        vouch: Some(v1::Vouch {
            signers: vec![11, 12],
            voters: vec![11, 12, 13],
            descriptor_version: 1,
        }),
        step: Some(step),
    })
}

fn arrive(step: v1::arrive::Step) -> Command {
    Command::Arrive(v1::Arrive {
        dataset_id: ARRIVING.into(),
        relocation_id: Bytes::from_static(&RELOCATION),
        vouch: None,
        approvals: approvals(),
        step: Some(step),
    })
}

fn fence() -> Command {
    depart(Step::Fence(v1::Fence {
        epoch: 1,
        from: 0,
        pause_ms: PAUSE.as_millis() as u64,
    }))
}

impl Region {
    fn shard_group(&self) -> replica::Group {
        let group = GroupId(SHARD);
        let leader = self.leader(group).expect("one leads");
        let mut groups = self.node(leader.0).groups().into_iter();
        groups.find(|held| held.id() == group).expect("its shard")
    }

    /// Puts a step in the log, and answers where it stands. It has to be taken.
    async fn step(&self, kind: Command) -> u64 {
        let group = self.shard_group();
        let meta = ShardMeta::load(&*group.reader().expect("a state"));
        let command = v1::ShardCommand {
            now_ms: meta.time.0,
            verdict: Some(v1::Verdict {
                authority_version: meta.authority_version,
                ..Default::default()
            }),
            request_id: Bytes::new(),
            command: Some(kind),
        };
        let applied = group.propose_reserved(command.encode_to_vec().into()).await;
        let answer = v1::ShardAnswer::decode(applied.expect("proposed").answer);
        match answer.expect("an answer").answer {
            Some(v1::shard_answer::Answer::Done(done)) => done.log_index,
            other => panic!("{other:?}"),
        }
    }

    fn standing(&self) -> Standing {
        let state = self.shard_group().reader().expect("a state");
        let dataset = node_state::read::dataset(&*state, &DATASET).expect("it is there");
        Authority::stored(&dataset).standing()
    }

    /// One try at the leader: what is told to come again is an answer too.
    fn once(&self) -> ShardClient<tonic::transport::Channel> {
        let leader = self.leader(GroupId(SHARD)).expect("one leads");
        ShardClient::new(self.channel("c1", leader.0))
    }

    async fn find(&self) -> Result<v1::DatasetInfo, Status> {
        self.on_leader("c1", GroupId::CATALOG, |channel| async move {
            let name = "cti".to_owned();
            let request = v1::FindDatasetRequest { name };
            let mut catalog = CatalogClient::new(channel);
            Ok(catalog.find_dataset(request).await?.into_inner())
        })
        .await
    }
}

fn get(dataset: DatasetId) -> v1::GetObjectRequest {
    v1::GetObjectRequest {
        shard: SHARD,
        dataset_id: dataset.into(),
        key: "a".to_owned(),
        ..Default::default()
    }
}

fn list(dataset: DatasetId) -> v1::ListObjectsRequest {
    v1::ListObjectsRequest {
        shard: SHARD,
        dataset_id: dataset.into(),
        ..Default::default()
    }
}

fn tag(from: &[u8], to: &'static [u8], request: u8) -> v1::SetMetadataRequest {
    v1::SetMetadataRequest {
        shard: SHARD,
        request_id: request_id(request),
        dataset_id: DATASET.into(),
        key: "a".to_owned(),
        version_id: Bytes::from_static(&[1; 16]),
        from_digest: Bytes::copy_from_slice(blake3::hash(from).as_bytes()),
        sealed_metadata: Bytes::from_static(to),
        metadata_key_version: 1,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_is_changed_by_who_may_write_and_read_what_is_there() {
    let region = Region::with_dataset(3).await;
    region.put("c1", put("a", 1)).await.expect("put");
    let set = async |by: &str, request: v1::SetMetadataRequest| {
        let set = |mut shard: ShardClient<tonic::transport::Channel>| {
            let request = request.clone();
            async move { Ok(shard.set_metadata(request).await?.into_inner()) }
        };
        region.write(by, set).await
    };
    let done = set("c1", tag(b"", b"one", 20)).await.expect("changed");
    let again = set("c1", tag(b"", b"one", 20)).await;
    assert_eq!(again.expect("a retry"), done);
    let moved = set("c2", tag(b"", b"two", 21)).await;
    assert_eq!(reason(moved), "metadata-moved");
    set("c2", tag(b"one", b"two", 22)).await.expect("changed");
    let got = region.get("c1", "a").await.expect("it is there");
    assert_eq!(got.entry.expect("found").sealed_metadata, b"two"[..]);
    // Not a role that commits, and nothing that apply alone writes.
    assert_eq!(
        reason(set("o1", tag(b"two", b"three", 23)).await),
        "peer-role"
    );
    let mut indexed = put("b", 2);
    indexed.entry.as_mut().expect("it has one").metadata_index = 1;
    let refused = region.put("c1", indexed).await.expect_err("it says so");
    assert!(refused.message().contains("apply alone"), "{refused}");
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_is_reverted_when_its_time_is_over_and_writes_go_on() {
    let region = Region::with_dataset(3).await;
    region.put("c1", put("a", 1)).await.expect("put");
    let begin = Step::Begin(v1::BeginDeparture {
        destination: "de-fra".to_owned(),
        from_version: 0,
        approvals: approvals(),
    });
    region.step(depart(begin)).await;
    let began = Instant::now();
    let at = region.step(fence()).await;
    let refused = region.once().put_object(put("b", 2)).await;
    let refused = refused.expect_err("no writes under a fence");
    assert_eq!(Fault::of(&refused), Fault::Unavailable);
    assert_eq!(reason(Err::<(), _>(refused)), "dataset-fenced");
    let tagged = region.once().set_metadata(tag(b"", b"one", 20)).await;
    assert_eq!(reason(tagged), "dataset-fenced");
    // Reads go on, and say nothing of it.
    region.get("c1", "a").await.expect("it is read");
    region
        .once()
        .list_objects(list(DATASET))
        .await
        .expect("listed");
    region.find().await.expect("found");
    let fence = Standing::Fenced {
        at: proto::ids::LogIndex(at),
    };
    assert_eq!(region.standing(), fence);
    // Whoever waits as clients do is served once the driver has looked.
    region
        .put("c1", put("b", 2))
        .await
        .expect("after the fence");
    let waited = began.elapsed();
    assert!(waited >= PAUSE && waited < PAUSE * 4, "{waited:?}");
    assert_eq!(region.standing(), Standing::Active);
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_what_is_not_here_is_told_so() {
    let region = Region::with_dataset(1).await;
    region.put("c1", put("a", 1)).await.expect("put");
    let begin = Step::Begin(v1::BeginDeparture {
        destination: "de-fra".to_owned(),
        from_version: 0,
        approvals: approvals(),
    });
    region.step(depart(begin)).await;
    let at = region.step(fence()).await;
    let moved = Step::Moved(v1::MovedRecord {
        relocation_id: Bytes::from_static(&RELOCATION),
        epoch: 2,
        fence: at,
        root: Bytes::from_static(&[9; 32]),
    });
    region.step(depart(moved)).await;
    let there = |status: Status| {
        let region = status.metadata().get("reduit-region");
        assert_eq!(region.and_then(|r| r.to_str().ok()), Some("de-fra"));
        assert_eq!(Fault::of(&status), Fault::Missing);
        assert_eq!(reason(Err::<(), _>(status)), "dataset-moved");
    };
    there(region.get("c1", "a").await.expect_err("moved"));
    there(region.find().await.expect_err("moved"));
    there(region.put("c1", put("b", 2)).await.expect_err("moved"));
    let mut shard = region.once();
    there(shard.list_objects(list(DATASET)).await.expect_err("moved"));
    there(
        shard
            .set_metadata(tag(b"", b"one", 20))
            .await
            .expect_err("moved"),
    );

    let terms = v1::ArrivalTerms {
        source: "fr-par".to_owned(),
        destination: "ch-zrh".to_owned(),
        epoch: 1,
        from_version: 0,
    };
    region.step(arrive(v1::arrive::Step::Plan(terms))).await;
    let dataset = v1::DatasetRecord {
        format: 1,
        dataset_id: ARRIVING.into(),
        name: "arriving".to_owned(),
        epoch: 1,
        status: v1::DatasetStatus::Active.into(),
        kek_id: Bytes::from_static(&KEK),
        min_kek_version: 1,
        key_state: v1::KeyState::Enabled.into(),
        key_state_version: 1,
        pseudonym: Bytes::from_static(&[0x9D; 16]),
        ..Default::default()
    };
    let prepare = v1::PrepareArrival {
        dataset: Some(dataset),
        hand_over_key_id: Bytes::from_static(&[0x8A; 16]),
    };
    region
        .step(arrive(v1::arrive::Step::Prepare(prepare)))
        .await;
    for status in [
        shard.get_object(get(ARRIVING)).await.expect_err("arriving"),
        shard
            .list_objects(list(ARRIVING))
            .await
            .map(|_| ())
            .expect_err("arriving"),
    ] {
        assert_eq!(Fault::of(&status), Fault::Unavailable);
        assert_eq!(reason(Err::<(), _>(status)), "dataset-arriving");
    }
    region.stop().await;
}
