//! The machine that is compared: put a value under a key, get it back. And its gRPC face.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use proto::ids::FeatureLevel;
use proto::store::Writer;
use tonic::body::Body;
use tonic::server::{NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::wire::{
    KeyValue, PUT, PutRequest, PutResponse, RANGE, RangeRequest, RangeResponse, ResponseHeader,
    STATUS, StatusRequest, StatusResponse,
};
use crate::host::Group;
use crate::machine::{Machine, Position, UnknownCommand};

/// Key length (`u16` big-endian), key, value.
pub(crate) struct Kv;

impl Machine for Kv {
    fn level_max(&self) -> FeatureLevel {
        FeatureLevel(0)
    }

    fn apply(
        &self,
        at: Position<'_>,
        command: &Bytes,
        state: &mut dyn Writer,
        _: &mut dyn Writer,
    ) -> Result<Bytes, UnknownCommand> {
        let unknown = || UnknownCommand {
            index: at.index,
            what: "not a put".into(),
        };
        let (length, rest) = command.split_first_chunk::<2>().ok_or_else(unknown)?;
        let length = usize::from(u16::from_be_bytes(*length));
        if rest.len() < length {
            return Err(unknown());
        }
        let (key, value) = rest.split_at(length);
        state.put(key, value);
        Ok(Bytes::new())
    }
}

/// etcd's `Put`, `Range` and `Status` on a group.
#[derive(Clone)]
pub(crate) struct KvServer(pub(crate) Arc<Group>);

impl NamedService for KvServer {
    const NAME: &'static str = "etcdserverpb.KV";
}

async fn put(group: &Group, request: PutRequest) -> Result<PutResponse, Status> {
    let length = u16::try_from(request.key.len())
        .map_err(|_| Status::invalid_argument("the key is too long"))?;
    let mut command = BytesMut::with_capacity(2 + request.key.len() + request.value.len());
    command.put_u16(length);
    command.put_slice(&request.key);
    command.put_slice(&request.value);
    let applied = group
        .propose_at(command.freeze())
        .await
        .map_err(|e| Status::unavailable(e.to_string()))?;
    let revision = i64::try_from(applied.index.0).unwrap_or(i64::MAX);
    Ok(PutResponse {
        header: Some(ResponseHeader {
            member_id: group.node_id().0,
            revision,
        }),
    })
}

async fn range(group: &Group, request: RangeRequest) -> Result<RangeResponse, Status> {
    group
        .read_index_as_leader()
        .await
        .map_err(|e| Status::unavailable(e.to_string()))?;
    let state = group
        .reader()
        .map_err(|e| Status::internal(e.to_string()))?;
    let value = state.value(&request.key);
    let kvs = value
        .map(|value| KeyValue {
            key: request.key,
            value,
        })
        .into_iter()
        .collect();
    Ok(RangeResponse { header: None, kvs })
}

macro_rules! method {
    ($name:ident, $request:ty, $answer:ty, $call:expr) => {
        struct $name(Arc<Group>);

        impl UnaryService<$request> for $name {
            type Response = $answer;
            type Future = BoxFuture<'static, Result<Response<$answer>, Status>>;

            fn call(&mut self, request: Request<$request>) -> Self::Future {
                let group = Arc::clone(&self.0);
                async move {
                    let call = $call;
                    let answer: Result<$answer, Status> = call(&group, request.into_inner()).await;
                    answer.map(Response::new)
                }
                .boxed()
            }
        }
    };
}

async fn status(group: &Group, _: StatusRequest) -> Result<StatusResponse, Status> {
    let header = ResponseHeader {
        member_id: group.node_id().0,
        revision: 0,
    };
    let leader = group.leader().map_or(0, |leader| leader.0);
    Ok(StatusResponse {
        header: Some(header),
        leader,
    })
}

method!(Put, PutRequest, PutResponse, put);
method!(Range, RangeRequest, RangeResponse, range);
method!(GetStatus, StatusRequest, StatusResponse, status);

impl tower::Service<http::Request<Body>> for KvServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let group = Arc::clone(&self.0);
        async move {
            let answer = match request.uri().path() {
                PUT => {
                    let codec = ProstCodec::<PutResponse, PutRequest>::default();
                    tonic::server::Grpc::new(codec)
                        .unary(Put(group), request)
                        .await
                }
                RANGE => {
                    let codec = ProstCodec::<RangeResponse, RangeRequest>::default();
                    tonic::server::Grpc::new(codec)
                        .unary(Range(group), request)
                        .await
                }
                STATUS => {
                    let codec = ProstCodec::<StatusResponse, StatusRequest>::default();
                    tonic::server::Grpc::new(codec)
                        .unary(GetStatus(group), request)
                        .await
                }
                _ => Status::unimplemented("not compared").into_http(),
            };
            Ok(answer)
        }
        .boxed()
    }
}

/// The same service under the name that `Status` has.
#[derive(Clone)]
pub(crate) struct Maintenance(pub(crate) KvServer);

impl NamedService for Maintenance {
    const NAME: &'static str = "etcdserverpb.Maintenance";
}

impl tower::Service<http::Request<Body>> for Maintenance {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        tower::Service::call(&mut self.0, request)
    }
}
