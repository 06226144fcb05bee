//! The one client of both: so many tasks, each with one request at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::BenchError;
use super::wire::{
    PUT, PutRequest, PutResponse, RANGE, RangeRequest, RangeResponse, STATUS, StatusRequest,
    StatusResponse,
};

/// Keys that are written and read.
const KEYS: u32 = 10_000;
/// Connections to the leader; a single one would be the bottleneck of both.
pub(crate) const CHANNELS: usize = 4;
/// What a cell is warmed up with before it counts.
const WARM_UP: Duration = Duration::from_millis(500);

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// A synced write.
    Put,
    /// A linearizable read.
    Get,
}

/// One cell.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) op: Op,
    pub(crate) clients: usize,
    pub(crate) bytes: usize,
    pub(crate) cell: Duration,
}

/// What a cell came to.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// Ascending.
    pub(crate) latencies: Vec<Duration>,
    pub(crate) failed: usize,
    pub(crate) taken: Duration,
}

/// One call of any of the methods.
pub(crate) async fn call<Q, A>(
    channel: &Channel,
    path: &'static str,
    request: Q,
) -> Result<A, Status>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let mut client = tonic::client::Grpc::new(channel.clone());
    client
        .ready()
        .await
        .map_err(|e| Status::unavailable(e.to_string()))?;
    let path = http::uri::PathAndQuery::from_static(path);
    let codec = ProstCodec::<Q, A>::default();
    client
        .unary(Request::new(request), path, codec)
        .await
        .map(tonic::Response::into_inner)
}

/// Member id and leader id, as the member at `channel` says.
pub(crate) async fn status(channel: &Channel) -> Result<(u64, u64), Status> {
    let answer: StatusResponse = call(channel, STATUS, StatusRequest {}).await?;
    Ok((answer.header.map_or(0, |h| h.member_id), answer.leader))
}

fn key(number: u32) -> Bytes {
    Bytes::from(format!("bench/{number:08}"))
}

/// Loads the leader behind `channels`.
pub(crate) async fn run(channels: &[Channel], load: &Load) -> Result<Outcome, BenchError> {
    let value = Bytes::from(vec![0x5a; load.bytes]);
    let start = Instant::now();
    let (counted_from, end) = (start + WARM_UP, start + WARM_UP + load.cell);
    let tasks: Vec<_> = (0..load.clients)
        .map(|number| {
            let channel = channels[number % channels.len()].clone();
            let (op, value) = (load.op, value.clone());
            tokio::spawn(one(channel, op, value, number as u64, counted_from, end))
        })
        .collect();
    let (mut latencies, mut failed) = (Vec::new(), 0);
    for task in tasks {
        let (taken, lost) = task
            .await
            .map_err(|e| BenchError::Failed(format!("a client ended: {e}")))?;
        latencies.extend(taken);
        failed += lost;
    }
    latencies.sort_unstable();
    if latencies.is_empty() {
        return Err(BenchError::Failed("no request was answered".into()));
    }
    Ok(Outcome {
        latencies,
        failed,
        taken: load.cell,
    })
}

async fn one(
    channel: Channel,
    op: Op,
    value: Bytes,
    seed: u64,
    counted_from: Instant,
    end: Instant,
) -> (Vec<Duration>, usize) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut latencies, mut failed) = (Vec::new(), 0);
    loop {
        let start = Instant::now();
        if start >= end {
            return (latencies, failed);
        }
        let key = key(rng.random_range(0..KEYS));
        let answered = match op {
            Op::Put => {
                let request = PutRequest {
                    key,
                    value: value.clone(),
                };
                call::<_, PutResponse>(&channel, PUT, request)
                    .await
                    .map(drop)
            }
            Op::Get => {
                let request = RangeRequest { key };
                call::<_, RangeResponse>(&channel, RANGE, request)
                    .await
                    .map(drop)
            }
        };
        let done = Instant::now();
        match answered {
            Ok(()) if start >= counted_from && done <= end => latencies.push(done - start),
            Ok(()) => {}
            Err(_) => {
                failed += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// Channels to whoever leads among `endpoints`, once one does.
pub(crate) async fn to_leader(
    endpoints: Vec<Arc<dyn Fn() -> Result<Channel, BenchError> + Send + Sync>>,
) -> Result<Vec<Channel>, BenchError> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        for connect in &endpoints {
            let channel = connect()?;
            if let Ok((member, leader)) = status(&channel).await
                && member == leader
                && leader != 0
            {
                return (0..CHANNELS).map(|_| connect()).collect();
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Err(BenchError::Failed("no member leads after a minute".into()))
}
