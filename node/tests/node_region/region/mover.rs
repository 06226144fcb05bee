//! The mover's part between two regions of real nodes, by the services that a mover has.
//!
//! Content here is bytes that name who sealed them: the KMSs' part of a relocation is tested where keys are.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use proto::ids::GroupId;
use proto::v1;
use proto::v1::arrival_step_request::Step as Arrives;
use proto::v1::blocks_client::BlocksClient;
use proto::v1::departure_step_request::Step as Departs;
use proto::v1::departures_client::DeparturesClient;
use proto::v1::import::Span;
use proto::v1::imported_unit::Content;
use proto::v1::read_departure_request::Next;
use proto::v1::relocations_client::RelocationsClient;
use proto::v1::shard_client::ShardClient;
use tonic::transport::Channel;
use tonic::{Request, Status};
use transport::Stated;

use super::abroad::Pair;
use super::{DATASET, Region, SHARD, reason};

pub const RELOCATION: [u8; 16] = [0x7E; 16];
pub const HAND_OVER_KEY: [u8; 16] = [0x8A; 16];
pub const KEK_THERE: [u8; 16] = [0x6C; 16];
const GRANT: [u8; 16] = [0x61; 16];
const FEED_BYTES_MAX: usize = 8 << 20;

pub fn of() -> Option<v1::Relocated> {
    Some(v1::Relocated {
        shard: 0,
        dataset_id: DATASET.into(),
        relocation_id: Bytes::from_static(&RELOCATION),
    })
}

fn moving<T>(message: T) -> Request<T> {
    let stated = Stated {
        purpose: "relocation".to_owned(),
        ..Stated::default()
    };
    stated.of(message)
}

fn done(answer: v1::ShardAnswer) -> v1::Done {
    match answer.answer {
        Some(v1::shard_answer::Answer::Done(done)) => done,
        other => panic!("a refusal is a status, not {other:?}"),
    }
}

/// What a source's KMS has of the grant.
pub fn grant_at(stage: v1::HandOverStage, fence: u64) -> v1::HandOverState {
    v1::HandOverState {
        dataset_id: DATASET.into(),
        relocation_id: Bytes::from_static(&RELOCATION),
        grant: Some(v1::HandOverGrantRecord {
            stage: stage.into(),
            fence,
            released: Some(v1::ReleasedRecord {
                objects: 5,
                leaves: 3,
            }),
            terms: Some(v1::HandOverTerms {
                destination: "de-fra".to_owned(),
                hand_over_key_id: Bytes::from_static(&HAND_OVER_KEY),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// What a destination's KMS has of the hand-over key.
pub fn hand_over_key(destroyed: bool) -> v1::HandOverState {
    v1::HandOverState {
        dataset_id: DATASET.into(),
        relocation_id: Bytes::from_static(&RELOCATION),
        key: Some(v1::HandOverKeyRecord {
            hand_over_key_id: Bytes::from_static(&HAND_OVER_KEY),
            relocation_id: Bytes::from_static(&RELOCATION),
            dataset_id: DATASET.into(),
            source: "ch-zrh".to_owned(),
            destroyed,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The request for the destination's place, approved by these.
pub fn begin_request(pair: &Pair, approvers: &[&str]) -> v1::BeginRelocationRequest {
    let there = &pair.destination;
    let mut key = v1::CreateHandOverKeyRequest {
        relocation_id: Bytes::from_static(&RELOCATION),
        dataset_id: DATASET.into(),
        source: "ch-zrh".to_owned(),
        single_use_id: Bytes::from_static(&HAND_OVER_KEY),
        ..Default::default()
    };
    let approve = |by| there.approval(by, ("CreateHandOverKey", &key), &HAND_OVER_KEY);
    key.approvals = approvers.iter().map(|by| approve(by)).collect();
    v1::BeginRelocationRequest {
        name: "cti".to_owned(),
        kek_id: Bytes::from_static(&KEK_THERE),
        kek_version: 1,
        key_state_version: 1,
        pseudonym: Bytes::from_static(&[0x9D; 16]),
        epoch: 1,
        from_version: 0,
        key: Some(key),
        keys: vec![there.kms_says(hand_over_key(false))],
    }
}

/// The request to open the source's feed, approved by these.
pub fn open_request(pair: &Pair, approvers: &[&str]) -> v1::OpenDepartureRequest {
    let mut grant = v1::GrantHandOverRequest {
        key: Some(v1::SignedHandOverKey {
            destination: "de-fra".to_owned(),
            key: hand_over_key(false).key,
            ..Default::default()
        }),
        single_use_id: Bytes::from_static(&GRANT),
        ..Default::default()
    };
    let approve = |by| pair.source.approval(by, ("GrantHandOver", &grant), &GRANT);
    grant.approvals = approvers.iter().map(|by| approve(by)).collect();
    let open = grant_at(v1::HandOverStage::Open, 0);
    v1::OpenDepartureRequest {
        shard: 0,
        from_version: 0,
        grant: Some(grant),
        keys: vec![pair.source.kms_says(open)],
    }
}

pub async fn begin_at_destination(
    pair: &Pair,
    request: v1::BeginRelocationRequest,
) -> Result<v1::RelocationBegun, Status> {
    pair.destination
        .on_leader("o1", GroupId::CATALOG, |channel| {
            let request = request.clone();
            async move {
                let begun = RelocationsClient::new(channel).begin(request).await?;
                Ok(begun.into_inner())
            }
        })
        .await
}

pub async fn open_at_source(
    pair: &Pair,
    request: v1::OpenDepartureRequest,
) -> Result<v1::Done, Status> {
    pair.source
        .on_leader("o1", GroupId(SHARD), |channel| {
            let request = request.clone();
            async move {
                let opened = DeparturesClient::new(channel).open(request).await?;
                Ok(done(opened.into_inner()))
            }
        })
        .await
}

/// A gateway of the destination that moves a dataset.
pub struct Mover<'a> {
    pub pair: &'a Pair,
    pub by: &'static str,
    pub lease: [u8; 16],
}

impl<'a> Mover<'a> {
    /// People have begun, and this gateway has a lease.
    pub async fn begin(pair: &'a Pair) -> Self {
        begin_at_destination(pair, begin_request(pair, &["o2", "o3"]))
            .await
            .expect("begun");
        open_at_source(pair, open_request(pair, &["o2", "o3"]))
            .await
            .expect("opened");
        let mover = Self {
            pair,
            by: "g1",
            lease: [0x2E; 16],
        };
        let open = grant_at(v1::HandOverStage::Open, 0);
        mover
            .arrive(Arrives::Copy(true), &[open])
            .await
            .expect("copying");
        mover.register().await;
        mover
    }

    /// Another gateway, which goes on where this one was.
    pub async fn next(&self) -> Mover<'a> {
        let next = Mover {
            pair: self.pair,
            by: "g2",
            lease: [0x2F; 16],
        };
        next.register().await;
        next
    }

    async fn register(&self) {
        let there = &self.pair.destination;
        let token = there.token(self.by, self.lease, |header| {
            header.kek_id = Bytes::from_static(&KEK_THERE);
        });
        there
            .register_token(self.by, token)
            .await
            .expect("registered");
    }

    pub async fn departures<T, F, Fut>(&self, call: F) -> Result<T, Status>
    where
        F: Fn(DeparturesClient<Channel>) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let Pair {
            source,
            destination,
        } = self.pair;
        let at = (source, GroupId(SHARD));
        destination
            .at_leader_of(self.by, at, |channel| {
                let client = DeparturesClient::new(channel);
                call(client.max_decoding_message_size(FEED_BYTES_MAX))
            })
            .await
    }

    pub async fn relocations<T, F, Fut>(&self, call: F) -> Result<T, Status>
    where
        F: Fn(RelocationsClient<Channel>) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        self.pair
            .destination
            .on_leader(self.by, GroupId(SHARD), |channel| {
                let client = RelocationsClient::new(channel);
                call(client.max_decoding_message_size(FEED_BYTES_MAX))
            })
            .await
    }

    /// What every node of the source says now.
    pub async fn source_words(&self) -> Vec<v1::SignedDepartureState> {
        let Pair {
            source,
            destination,
        } = self.pair;
        let mut words = Vec::new();
        for node in source.node_ids() {
            let channel = destination.channel_to(self.by, source, node).await;
            let request = v1::DepartureStateRequest {
                of: of(),
                follow: true,
            };
            let word = DeparturesClient::new(channel).state(request).await;
            words.extend(word.ok().map(tonic::Response::into_inner));
        }
        words
    }

    /// What every node of the destination says now.
    pub async fn destination_words(&self) -> Vec<v1::SignedArrivalState> {
        let there = &self.pair.destination;
        let mut words = Vec::new();
        for node in there.node_ids() {
            let mut client = RelocationsClient::new(there.channel(self.by, node));
            let request = v1::ArrivalStateRequest {
                of: of(),
                follow: true,
            };
            let word = client.state(moving(request)).await;
            words.extend(word.ok().map(tonic::Response::into_inner));
        }
        words
    }

    /// One step of the departure, with the destination's words as they are by then.
    pub async fn depart(&self, step: Departs) -> Result<v1::Done, Status> {
        let needs_words = matches!(step, Departs::Moved(_) | Departs::Superseded(_));
        let mut tries = 0;
        loop {
            let said = match needs_words {
                true => self.destination_words().await,
                false => Vec::new(),
            };
            match self.depart_with(step, said).await {
                // Followers have not applied it yet.
                Err(status) if later(&status) && tries < 100 => tries += 1,
                answer => return answer,
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn depart_with(
        &self,
        step: Departs,
        said: Vec<v1::SignedArrivalState>,
    ) -> Result<v1::Done, Status> {
        self.departures(|mut client| {
            let request = v1::DepartureStepRequest {
                of: of(),
                said: said.clone(),
                keys: Vec::new(),
                step: Some(step),
            };
            async move { Ok(done(client.step(request).await?.into_inner())) }
        })
        .await
    }

    /// One step of the arrival, with the source's words as they are by then, and what its KMS says.
    pub async fn arrive(
        &self,
        step: Arrives,
        keys: &[v1::HandOverState],
    ) -> Result<v1::Done, Status> {
        let own = matches!(step, Arrives::HandOverEnded(_));
        let kms = match own {
            true => &self.pair.destination,
            false => &self.pair.source,
        };
        let keys: Vec<_> = keys.iter().map(|said| kms.kms_says(said.clone())).collect();
        let mut tries = 0;
        loop {
            let request = v1::ArrivalStepRequest {
                of: of(),
                said: self.source_words().await,
                keys: keys.clone(),
                step: Some(step.clone()),
                ..Default::default()
            };
            match self.arrive_with(request).await {
                Err(status) if later(&status) && tries < 100 => tries += 1,
                answer => return answer,
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn arrive_with(&self, request: v1::ArrivalStepRequest) -> Result<v1::Done, Status> {
        self.relocations(|mut client| {
            let request = moving(request.clone());
            async move { Ok(done(client.step(request).await?.into_inner())) }
        })
        .await
    }

    /// Claims the arrival for a while.
    pub async fn claim(&self, for_ms: u32, moved_bytes: u64) -> Result<v1::Done, Status> {
        self.arrive_with(v1::ArrivalStepRequest {
            of: of(),
            step: Some(Arrives::Claim(v1::ClaimArrival {
                // Whoever it says it is.
                mover: "spiffe://de-fra/gateway/other".to_owned(),
                for_ms,
                report: Some(v1::MoverReport {
                    moved_bytes,
                    ..Default::default()
                }),
            })),
            ..Default::default()
        })
        .await
    }

    /// What a node says of all arrivals.
    pub async fn arrivals_at(&self, node: u64) -> Vec<v1::ArrivalStatus> {
        let channel = self.pair.destination.channel(self.by, node);
        let request = moving(v1::ListArrivalsRequest {});
        let listed = RelocationsClient::new(channel).list(request).await;
        listed.expect("listed").into_inner().arrivals
    }

    pub async fn status(&self) -> v1::ArrivalStatus {
        let status = self
            .relocations(|mut client| async move {
                let status = client.status(moving(of().expect("named"))).await?;
                Ok(status.into_inner())
            })
            .await;
        status.expect("its status")
    }

    pub async fn departure(&self) -> Result<v1::DepartureStatus, Status> {
        self.departures(|mut client| async move {
            let status = client.status(of().expect("named")).await?;
            Ok(status.into_inner())
        })
        .await
    }

    pub async fn phase(&self) -> v1::ArrivalPhase {
        self.status().await.arrival.expect("it was planned").phase()
    }

    async fn image(&self) -> v1::ImageRecord {
        let arrival = self.status().await.arrival.expect("it was planned");
        arrival.image.expect("it is being filled")
    }

    pub async fn read(&self, next: Next, limit: u32) -> Result<v1::FeedPage, Status> {
        self.departures(|mut client| {
            let request = v1::ReadDepartureRequest {
                of: of(),
                next: Some(next.clone()),
                limit,
            };
            async move { Ok(client.read(request).await?.into_inner()) }
        })
        .await
    }

    /// One page of the listing; whether there is more.
    pub async fn list(&self, limit: u32) -> bool {
        let image = self.image().await;
        if image.listed.as_ref().is_some_and(|listed| listed.end) {
            return false;
        }
        let after = image.listed.clone();
        let next = Next::Page(v1::PageFrom {
            after: after.clone(),
        });
        let page = self.read(next, limit).await.expect("a page");
        let end = page.place.clone().expect("a listing gets somewhere");
        let more = !end.end;
        let place = |unit: &v1::ImportedUnit| v1::Place {
            key: unit.key.clone(),
            within: unit.index,
            end: false,
        };
        let mut after = after;
        for (units, through) in split(page.units, end, place) {
            let span = Span::Page(v1::PageSpan {
                after: after.clone(),
                through: Some(through.clone()),
                at: page.at_index,
            });
            self.bring(image.base, span, units).await;
            after = Some(through);
        }
        more
    }

    /// All changes there are.
    pub async fn follow(&self) {
        loop {
            let image = self.image().await;
            let page = self.read(Next::Changes(image.changes), 1000).await;
            let page = page.expect("not overrun");
            let (at, through) = (page.at_index, page.index);
            let mut after = image.changes;
            for (units, through) in split(page.units, through, |unit| unit.index) {
                let span = Span::Changes(v1::IndexSpan { after, through });
                self.bring(image.base, span, units).await;
                after = through;
            }
            self.depart(Departs::Taken(through)).await.expect("taken");
            if through >= at {
                return;
            }
        }
    }

    /// All request ids there are.
    pub async fn cross(&self) {
        let image = self.image().await;
        let page = self.read(Next::Requests(image.requests), 1000).await;
        let page = page.expect("request ids");
        let import = v1::Import {
            dataset_id: DATASET.into(),
            relocation_id: Bytes::from_static(&RELOCATION),
            pass: image.base,
            span: Some(Span::Requests(v1::IndexSpan {
                after: image.requests,
                through: page.index,
            })),
            units: Vec::new(),
            crossed: page.crossed,
        };
        self.import(import, Vec::new()).await.expect("crossed");
    }

    async fn bring(&self, pass: u64, span: Span, units: Vec<v1::ImportedUnit>) {
        let mut receipts = Vec::new();
        let mut anew = Vec::new();
        for (unit, at) in units.into_iter().zip(0..) {
            let (unit, given) = self.sealed_anew(unit).await;
            if !given.is_empty() {
                receipts.push(v1::UnitReceipts {
                    unit: at,
                    receipts: given,
                });
            }
            anew.push(unit);
        }
        let import = v1::Import {
            dataset_id: DATASET.into(),
            relocation_id: Bytes::from_static(&RELOCATION),
            pass,
            span: Some(span),
            units: anew,
            crossed: Vec::new(),
        };
        self.import(import, receipts).await.expect("imported");
    }

    pub async fn import(
        &self,
        import: v1::Import,
        receipts: Vec<v1::UnitReceipts>,
    ) -> Result<v1::Done, Status> {
        self.relocations(|mut client| {
            let request = moving(v1::ImportRequest {
                shard: 0,
                import: Some(import.clone()),
                receipts: receipts.clone(),
            });
            async move { Ok(done(client.import(request).await?.into_inner())) }
        })
        .await
    }

    /// The same, sealed anew; with receipts of its blocks.
    async fn sealed_anew(&self, unit: v1::ImportedUnit) -> (v1::ImportedUnit, Vec<v1::Receipt>) {
        let key = unit.key.clone();
        let (content, receipts) = match unit.content.expect("it has content") {
            Content::Version(version) => {
                let (version, receipts) = self.version_anew(&key, version).await;
                (Content::Version(version), receipts)
            }
            Content::Metadata(metadata) => {
                let metadata = v1::ImportedMetadata {
                    sealed_metadata: anew(&metadata.sealed_metadata),
                    ..metadata
                };
                (Content::Metadata(metadata), Vec::new())
            }
            content => (content, Vec::new()),
        };
        let content = Some(content);
        (v1::ImportedUnit { content, ..unit }, receipts)
    }

    async fn version_anew(
        &self,
        key: &str,
        version: v1::ImportedVersion,
    ) -> (v1::ImportedVersion, Vec<v1::Receipt>) {
        let there = version.entry.clone().expect("told with its entry");
        let kept = v1::ObjectEntry {
            format: 1,
            version_id: there.version_id.clone(),
            finished_at_ms: there.finished_at_ms,
            delete_marker: there.delete_marker,
            ..Default::default()
        };
        if there.delete_marker {
            let entry = Some(kept);
            return (v1::ImportedVersion { entry, ..version }, Vec::new());
        }
        let (parts, of_parts) = match there.parts {
            0 => (Vec::new(), 0),
            _ => self.parts_anew(key, &there).await,
        };
        let inline = match there.inline.is_empty() {
            true => Bytes::new(),
            false => anew(&there.inline),
        };
        let mut blocks = Vec::new();
        for (block, number) in there.blocks.iter().zip(0..) {
            let sealed = self
                .block(&there.version_id, number)
                .await
                .expect("a block");
            assert_eq!(blake3::hash(&sealed).as_bytes()[..], block.digest[..]);
            blocks.push(anew(&sealed));
        }
        let upload_epoch = match blocks.is_empty() {
            true => 0,
            false => self.status().await.upload_epoch,
        };
        let mut receipts = Vec::new();
        if !blocks.is_empty() {
            for node in self.pair.destination.node_ids() {
                let upload = Upload {
                    by: self.by,
                    node,
                    lease: self.lease,
                    version: there.version_id.clone(),
                    part_of: Bytes::new(),
                    upload_epoch,
                };
                let receipt = upload.run(&self.pair.destination, &blocks).await;
                receipts.push(receipt.expect("a receipt"));
            }
        }
        let sealed_bytes = match there.parts {
            0 => (inline.len() + blocks.iter().map(Bytes::len).sum::<usize>()) as u64,
            _ => of_parts,
        };
        let entry = v1::ObjectEntry {
            lease_id: Bytes::copy_from_slice(&self.lease),
            dek_salt: Bytes::from_static(&[3; 32]),
            name_salt: Bytes::from_static(&[4; 32]),
            plain_bytes: there.plain_bytes,
            sealed_bytes,
            sealed_manifest: anew(&there.sealed_manifest),
            sealed_metadata: match there.sealed_metadata.is_empty() {
                true => Bytes::new(),
                false => anew(&there.sealed_metadata),
            },
            metadata_key_version: there.metadata_key_version,
            placement: 1,
            retention: there.retention,
            legal_hold: there.legal_hold,
            inline,
            blocks: blocks.iter().map(block_ref).collect(),
            upload_epoch,
            ..kept
        };
        let version = v1::ImportedVersion {
            entry: Some(entry),
            parts,
            ..version
        };
        (version, receipts)
    }

    /// Puts the parts of a version in an upload of its id; their names and sealed bytes.
    async fn parts_anew(&self, key: &str, there: &v1::ObjectEntry) -> (Vec<v1::PartName>, u64) {
        let listed = self
            .departures(|mut client| {
                let request = v1::RelocatedPartsRequest {
                    of: of(),
                    key: key.to_owned(),
                    version_id: there.version_id.clone(),
                    ..Default::default()
                };
                async move { Ok(client.parts(request).await?.into_inner()) }
            })
            .await
            .expect("its parts");
        assert!(
            !listed.token.is_empty(),
            "the lease that they are sealed under"
        );
        self.end_left_upload(key, &there.version_id).await;
        self.begin_upload(key, &there.version_id).await;
        let region = &self.pair.destination;
        let (mut names, mut sealed_bytes) = (Vec::new(), 0);
        for part in listed.parts {
            let record = part.part.expect("it has a record");
            let inline = anew(&part.inline);
            let length = inline.len() as u64;
            let commitment: [u8; 32] = blake3::hash(&inline).into();
            let name = v1::PartName {
                number: record.number,
                part_id: Bytes::copy_from_slice(&commitment[..16]),
            };
            let finish = v1::FinishPartRequest {
                shard: SHARD,
                request_id: self.request_id(&there.version_id, record.number as u8),
                dataset_id: DATASET.into(),
                key: key.to_owned(),
                version_id: there.version_id.clone(),
                part: Some(v1::PartRecord {
                    number: record.number,
                    part_id: name.part_id.clone(),
                    commitment: Bytes::copy_from_slice(&commitment),
                    plain_bytes: record.plain_bytes,
                    sealed_bytes: length,
                    ..Default::default()
                }),
                inline,
                ..Default::default()
            };
            let finished = region.write(self.by, |mut shard: ShardClient<Channel>| {
                let request = finish.clone();
                async move { Ok(shard.finish_part(request).await?.into_inner()) }
            });
            finished.await.expect("a part");
            names.push(name);
            sealed_bytes += length;
        }
        (names, sealed_bytes)
    }

    /// Begins an upload of a version's id.
    pub async fn begin_upload(&self, key: &str, version: &Bytes) {
        let create = v1::CreateUploadRequest {
            shard: SHARD,
            request_id: self.request_id(version, 0),
            dataset_id: DATASET.into(),
            key: key.to_owned(),
            upload: Some(v1::UploadRecord {
                format: 1,
                version_id: version.clone(),
                lease_id: Bytes::copy_from_slice(&self.lease),
                dek_salt: Bytes::from_static(&[3; 32]),
                name_salt: Bytes::from_static(&[4; 32]),
                placement: 1,
                ..Default::default()
            }),
        };
        let region = &self.pair.destination;
        let created = region.write(self.by, |mut shard: ShardClient<Channel>| {
            let request = create.clone();
            async move { Ok(shard.create_upload(request).await?.into_inner()) }
        });
        created.await.expect("an upload");
    }

    /// Ends an upload of a mover that is gone: it is under that one's lease.
    async fn end_left_upload(&self, key: &str, version: &Bytes) {
        let uploads = self
            .relocations(|mut client| {
                let request = moving(v1::RelocatedUploadsRequest {
                    of: of(),
                    ..Default::default()
                });
                async move { Ok(client.uploads(request).await?.into_inner().uploads) }
            })
            .await
            .expect("uploads under way");
        let id = |one: &v1::ListedUpload| one.upload.clone().unwrap_or_default().version_id;
        if !uploads.iter().any(|one| id(one) == *version) {
            return;
        }
        let abort = v1::AbortUploadRequest {
            shard: SHARD,
            request_id: self.request_id(version, 0xFF),
            dataset_id: DATASET.into(),
            key: key.to_owned(),
            version_id: version.clone(),
        };
        let region = &self.pair.destination;
        let aborted = region.write(self.by, |mut shard: ShardClient<Channel>| {
            let request = abort.clone();
            async move { Ok(shard.abort_upload(request).await?.into_inner()) }
        });
        aborted.await.expect("aborted");
    }

    /// Under the destination's own epochs.
    fn request_id(&self, version: &Bytes, part: u8) -> Bytes {
        let mut nonce = self.lease;
        nonce[1..15].copy_from_slice(&version[1..15]);
        nonce[15] = part;
        let id = proto::ids::RequestId {
            epoch: proto::ids::UploadEpoch(0),
            nonce,
        };
        Bytes::copy_from_slice(&id.to_bytes())
    }

    /// Sealed bytes of the source.
    pub async fn block(&self, version: &Bytes, number: u32) -> Result<Bytes, Status> {
        let request = v1::RelocatedBlockRequest {
            of: of(),
            version_id: version.clone(),
            number,
            ..Default::default()
        };
        let read = self.departures(|mut client| {
            let request = request.clone();
            async move {
                let mut pieces = client.block(request).await?.into_inner();
                let mut sealed = Vec::new();
                while let Some(piece) = pieces.message().await? {
                    sealed.extend_from_slice(&piece.data);
                }
                Ok(Bytes::from(sealed))
            }
        });
        read.await
    }

    /// From an open feed to where a fence is due.
    pub async fn fill(&self) {
        while self.list(1000).await {}
        self.arrive(Arrives::CatchUp(true), &[])
            .await
            .expect("listed");
        self.follow().await;
        self.cross().await;
        self.arrive(Arrives::Verify(true), &[])
            .await
            .expect("verifying");
        // Their roots are at hand from now on.
        self.source_words().await;
        self.destination_words().await;
    }

    /// Stops the source for `pause_ms`, and takes what is left. Answers the fence's log index.
    pub async fn stop(&self, from: u32, pause_ms: u64) -> u64 {
        let fence = v1::Fence {
            epoch: 1,
            from,
            pause_ms,
        };
        let fenced = self.depart(Departs::Fence(fence)).await.expect("fenced");
        self.arrive(Arrives::Fenced(true), &[])
            .await
            .expect("said to be fenced");
        self.follow().await;
        self.cross().await;
        fenced.log_index
    }

    /// Copies are equal, and the source's KMS releases nothing more.
    pub async fn found_equal(&self, fence: u64) {
        let equal = self.status().await.dataset.expect("it is there").versions;
        let compared = v1::ComparedCopies { fence, equal };
        self.arrive(Arrives::Compared(compared), &[])
            .await
            .expect("equal");
        let paused = grant_at(v1::HandOverStage::Paused, fence);
        self.arrive(Arrives::Paused(true), &[paused])
            .await
            .expect("paused");
    }

    /// What is at the destination, key by key and oldest first, as a mover that compares reads it.
    pub async fn copies(&self) -> BTreeMap<String, Vec<v1::ImportedUnit>> {
        let page = self
            .relocations(|mut client| {
                let request = moving(v1::ReadArrivalRequest {
                    of: of(),
                    after: None,
                    limit: 0,
                });
                async move { Ok(client.read(request).await?.into_inner()) }
            })
            .await
            .expect("a page");
        assert!(page.place.is_some_and(|place| place.end));
        let mut copies: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for unit in page.units {
            copies.entry(unit.key.clone()).or_default().push(unit);
        }
        copies
    }
}

fn later(status: &Status) -> bool {
    transport::fault::reason(status) == Some("too-few-words")
}

/// What a mover makes of sealed bytes: the same under another key.
pub fn anew(sealed: &[u8]) -> Bytes {
    [&b"anew: "[..], sealed].concat().into()
}

pub fn block_ref(block: &Bytes) -> v1::BlockRef {
    v1::BlockRef {
        digest: Bytes::copy_from_slice(blake3::hash(block).as_bytes()),
        bytes: block.len() as u32,
    }
}

/// One upload of blocks to one node.
pub struct Upload {
    pub by: &'static str,
    pub node: u64,
    pub lease: [u8; 16],
    pub version: Bytes,
    pub part_of: Bytes,
    pub upload_epoch: u64,
}

impl Upload {
    pub async fn run(&self, region: &Region, blocks: &[Bytes]) -> Result<v1::Receipt, Status> {
        use v1::block_frame::Frame;
        let mut frames = vec![Frame::Open(v1::OpenUpload {
            shard: SHARD,
            dataset_id: DATASET.into(),
            version_id: self.version.clone(),
            upload_epoch: self.upload_epoch,
            lease_id: Bytes::copy_from_slice(&self.lease),
            part_of: self.part_of.clone(),
        })];
        for (block, number) in blocks.iter().zip(0..) {
            let v1::BlockRef { digest, bytes } = block_ref(block);
            frames.push(Frame::Header(v1::BlockHeader {
                number,
                bytes,
                digest,
            }));
            frames.push(Frame::Data(block.clone()));
        }
        frames.push(Frame::Close(v1::CloseUpload {}));
        let frames = frames
            .into_iter()
            .map(|frame| v1::BlockFrame { frame: Some(frame) });
        let mut client = BlocksClient::new(region.channel(self.by, self.node));
        let mut acks = client.write(stream::iter(frames)).await?.into_inner();
        while let Some(ack) = acks.message().await? {
            if let Some(v1::block_ack::Ack::Receipt(receipt)) = ack.ack {
                return Ok(receipt);
            }
        }
        Err(Status::internal("no receipt came"))
    }
}

/// Batches of which none stores two versions of a key, each with the place it ends at.
fn split<T>(
    units: Vec<v1::ImportedUnit>,
    end: T,
    place: impl Fn(&v1::ImportedUnit) -> T,
) -> Vec<(Vec<v1::ImportedUnit>, T)> {
    let mut batches = Vec::new();
    let mut batch: Vec<v1::ImportedUnit> = Vec::new();
    for unit in units {
        let is_version =
            |unit: &v1::ImportedUnit| matches!(unit.content, Some(Content::Version(_)));
        let again = |held: &v1::ImportedUnit| is_version(held) && held.key == unit.key;
        if is_version(&unit) && batch.iter().any(again) {
            let through = place(batch.last().expect("not empty"));
            batches.push((std::mem::take(&mut batch), through));
        }
        batch.push(unit);
    }
    batches.push((batch, end));
    batches
}

/// Why a step was refused.
pub fn why(answer: Result<v1::Done, Status>) -> String {
    reason(answer)
}
