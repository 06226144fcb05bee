//! The gRPC services `Departures` and `Relocations`: which roles may call what, and how long each call takes.
//!
//! Owns nothing beside that. `Departures` is served on both listeners: who is met on each differs, and what each may ask
//! follows from the region that its certificate names.

use std::sync::Arc;

use futures::stream::BoxStream;
use proto::ids::Role;
use proto::v1;
use proto::v1::departures_server::DeparturesServer;
use proto::v1::relocations_server::RelocationsServer;
use tonic::{Request, Response, Status};
use transport::require_role;

use crate::core::Core;
use crate::metered::metered;
use crate::shard::answered;
use crate::upload::BlockReads;

/// Bytes of a request: a batch and its receipts, or words of every replica.
const MESSAGE_BYTES_MAX: usize = 2 << 20;

/// What a source answers.
pub(crate) struct DeparturesService {
    pub(crate) core: Arc<Core>,
    pub(crate) blocks: BlockReads,
}

impl DeparturesService {
    pub(crate) fn into_server(self) -> DeparturesServer<Self> {
        DeparturesServer::new(self).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl v1::departures_server::Departures for DeparturesService {
    async fn open(
        &self,
        request: Request<v1::OpenDepartureRequest>,
    ) -> Result<Response<v1::ShardAnswer>, Status> {
        let peer = transport::peer(&request)?;
        let call = self.core.open_departure(&peer, request.into_inner());
        metered("open_departure", call)
            .await
            .map(answered)
            .map(Response::new)
    }

    async fn step(
        &self,
        request: Request<v1::DepartureStepRequest>,
    ) -> Result<Response<v1::ShardAnswer>, Status> {
        let peer = transport::peer(&request)?;
        let call = self.core.step_departure(&peer, request.into_inner());
        metered("step_departure", call)
            .await
            .map(answered)
            .map(Response::new)
    }

    async fn status(
        &self,
        request: Request<v1::Relocated>,
    ) -> Result<Response<v1::DepartureStatus>, Status> {
        let peer = transport::peer(&request)?;
        let call = self.core.departure_status(&peer, request.into_inner());
        metered("departure_status", call).await.map(Response::new)
    }

    async fn state(
        &self,
        request: Request<v1::DepartureStateRequest>,
    ) -> Result<Response<v1::SignedDepartureState>, Status> {
        let peer = transport::peer(&request)?;
        let call = self.core.departure_word(&peer, request.into_inner());
        metered("departure_state", call).await.map(Response::new)
    }

    async fn read(
        &self,
        request: Request<v1::ReadDepartureRequest>,
    ) -> Result<Response<v1::FeedPage>, Status> {
        let peer = transport::peer(&request)?;
        let call = self.core.read_departure(&peer, request.into_inner());
        metered("read_departure", call).await.map(Response::new)
    }

    async fn parts(
        &self,
        request: Request<v1::RelocatedPartsRequest>,
    ) -> Result<Response<v1::ListPartsReply>, Status> {
        let peer = transport::peer(&request)?;
        let call = self.core.departure_parts(&peer, request.into_inner());
        metered("departure_parts", call).await.map(Response::new)
    }

    type BlockStream = BoxStream<'static, Result<v1::BlockData, Status>>;

    async fn block(
        &self,
        request: Request<v1::RelocatedBlockRequest>,
    ) -> Result<Response<Self::BlockStream>, Status> {
        let peer = transport::peer(&request)?;
        let request = request.into_inner();
        let of = self.core.departing_blocks(&peer, request.of.as_ref());
        let (shard, dataset) = metered("departure_block", async { of }).await?;
        let block = v1::ReadBlockRequest {
            shard,
            dataset_id: dataset.into(),
            version_id: request.version_id,
            number: request.number,
            offset: request.offset,
            length: request.length,
        };
        self.blocks.read(block).await.map(Response::new)
    }
}

/// What a destination answers.
pub(crate) struct RelocationsService(pub(crate) Arc<Core>);

impl RelocationsService {
    pub(crate) fn into_server(self) -> RelocationsServer<Self> {
        RelocationsServer::new(self).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl v1::relocations_server::Relocations for RelocationsService {
    async fn begin(
        &self,
        request: Request<v1::BeginRelocationRequest>,
    ) -> Result<Response<v1::RelocationBegun>, Status> {
        let peer = transport::peer(&request)?;
        let call = self.0.begin_relocation(&peer, request.into_inner());
        metered("begin_relocation", call).await.map(Response::new)
    }

    async fn admit(
        &self,
        request: Request<v1::AdmitArrivalRequest>,
    ) -> Result<Response<v1::ShardAnswer>, Status> {
        let peer = transport::peer(&request)?;
        require_role(&peer, &[Role::Node])?;
        let call = self.0.admit_arrival(request.into_inner());
        metered("admit_arrival", call)
            .await
            .map(answered)
            .map(Response::new)
    }

    async fn step(
        &self,
        request: Request<v1::ArrivalStepRequest>,
    ) -> Result<Response<v1::ShardAnswer>, Status> {
        let peer = transport::peer(&request)?;
        let call = self.0.step_arrival(&peer, request.into_inner());
        metered("step_arrival", call)
            .await
            .map(answered)
            .map(Response::new)
    }

    async fn import(
        &self,
        request: Request<v1::ImportRequest>,
    ) -> Result<Response<v1::ShardAnswer>, Status> {
        let peer = transport::peer(&request)?;
        let call = self.0.import(&peer, request.into_inner());
        metered("import", call)
            .await
            .map(answered)
            .map(Response::new)
    }

    async fn status(
        &self,
        request: Request<v1::Relocated>,
    ) -> Result<Response<v1::ArrivalStatus>, Status> {
        let peer = transport::peer(&request)?;
        let call = self.0.arrival_status(&peer, request.into_inner());
        metered("arrival_status", call).await.map(Response::new)
    }

    async fn state(
        &self,
        request: Request<v1::ArrivalStateRequest>,
    ) -> Result<Response<v1::SignedArrivalState>, Status> {
        let peer = transport::peer(&request)?;
        let call = self.0.arrival_word(&peer, request.into_inner());
        metered("arrival_state", call).await.map(Response::new)
    }

    async fn read(
        &self,
        request: Request<v1::ReadArrivalRequest>,
    ) -> Result<Response<v1::FeedPage>, Status> {
        let peer = transport::peer(&request)?;
        let call = self.0.read_arrival(&peer, request.into_inner());
        metered("read_arrival", call).await.map(Response::new)
    }

    async fn parts(
        &self,
        request: Request<v1::RelocatedPartsRequest>,
    ) -> Result<Response<v1::ListPartsReply>, Status> {
        let peer = transport::peer(&request)?;
        let call = self.0.arrival_parts(&peer, request.into_inner());
        metered("arrival_parts", call).await.map(Response::new)
    }

    async fn uploads(
        &self,
        request: Request<v1::RelocatedUploadsRequest>,
    ) -> Result<Response<v1::ListUploadsReply>, Status> {
        let peer = transport::peer(&request)?;
        let call = self.0.arrival_uploads(&peer, request.into_inner());
        metered("arrival_uploads", call).await.map(Response::new)
    }

    async fn list(
        &self,
        request: Request<v1::ListArrivalsRequest>,
    ) -> Result<Response<v1::ListArrivalsReply>, Status> {
        let peer = transport::peer(&request)?;
        let listed = self.0.list_arrivals(&peer);
        metered("list_arrivals", async { listed })
            .await
            .map(Response::new)
    }
}
