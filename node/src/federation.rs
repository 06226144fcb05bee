//! The listener for other regions: what a peer that this region trusts finds on a storage node.
//!
//! Owns one answer, the region's newest descriptor. Refuses everyone whom the federation acceptor does not admit, anew with
//! every request: a region that is distrusted is cut off at once.

use proto::v1;
use proto::v1::federation_server::{Federation, FederationServer};
use tonic::{Request, Response, Status};
use transport::{Enrolments, Fault, fault};

/// What is served there.
#[derive(Clone)]
pub(crate) struct FederationService(pub(crate) Enrolments);

impl FederationService {
    pub(crate) fn into_server(self) -> FederationServer<Self> {
        FederationServer::new(self)
    }
}

#[tonic::async_trait]
impl Federation for FederationService {
    async fn describe(
        &self,
        request: Request<v1::DescribeRegionRequest>,
    ) -> Result<Response<v1::SignedRegionDescriptor>, Status> {
        transport::peer(&request)?;
        let table = self.0.current();
        let none = || {
            let why = "this region has not said anything of itself yet";
            fault::status(Fault::Unavailable, "not-described", why)
        };
        let descriptor = table.descriptor().cloned().ok_or_else(none)?;
        Ok(Response::new(descriptor))
    }
}
