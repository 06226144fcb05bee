//! What KMS replicas and gateways of another region may ask for its relocations, on the federation listener and there alone,
//! and what operators ask of a key whose dataset has moved.
//!
//! Owns the way of these requests to the leader's thought. Refuses whom the federation acceptor does not admit, anew with
//! every request.

use std::sync::Arc;

use proto::v1;
use proto::v1::kms_hand_over_server::{KmsHandOver, KmsHandOverServer};
use proto::v1::kms_shred_server::{KmsShred, KmsShredServer};
use tonic::{Request, Response, Status};
use transport::peer;

use crate::core::Core;
use crate::service::answer;

/// What is served there.
#[derive(Clone)]
pub(crate) struct HandOverService(pub(crate) Arc<Core>);

impl HandOverService {
    pub(crate) fn into_server(self) -> KmsHandOverServer<Self> {
        KmsHandOverServer::new(self).max_decoding_message_size(proto::KMS_REQUEST_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl KmsHandOver for HandOverService {
    async fn hand_over(
        &self,
        request: Request<v1::HandOverRequest>,
    ) -> Result<Response<v1::HandOverBatch>, Status> {
        let peer = peer(&request)?;
        let handed = self.0.hand_over(&peer, request.into_inner()).await;
        answer("HandOver", handed)
    }

    async fn pause(
        &self,
        request: Request<v1::PauseHandOverRequest>,
    ) -> Result<Response<v1::KmsDone>, Status> {
        let peer = peer(&request)?;
        let paused = self.0.pause_hand_over(&peer, request.get_ref()).await;
        answer("PauseHandOver", paused)
    }

    async fn close(
        &self,
        request: Request<v1::StateHandOverRequest>,
    ) -> Result<Response<v1::KmsDone>, Status> {
        let peer = peer(&request)?;
        let closed = self.0.end_hand_over(&peer, request.get_ref()).await;
        answer("CloseHandOver", closed)
    }

    async fn state(
        &self,
        request: Request<v1::StateHandOverRequest>,
    ) -> Result<Response<v1::SignedHandOverState>, Status> {
        let peer = peer(&request)?;
        answer(
            "StateHandOver",
            self.0.state_hand_over(&peer, request.get_ref()),
        )
    }
}

/// What is served on the region's own listener.
#[derive(Clone)]
pub(crate) struct ShredService(pub(crate) Arc<Core>);

impl ShredService {
    pub(crate) fn into_server(self) -> KmsShredServer<Self> {
        KmsShredServer::new(self)
    }
}

#[tonic::async_trait]
impl KmsShred for ShredService {
    async fn shred(
        &self,
        request: Request<v1::ShredKeyRequest>,
    ) -> Result<Response<v1::KeyInfo>, Status> {
        let peer = peer(&request)?;
        let shredded = self.0.shred_key(&peer, request.into_inner()).await;
        answer("ShredKey", shredded)
    }
}
