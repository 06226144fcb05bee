//! The gRPC service `Backups`: everything that a dataset is, as of one log index, to who backs it up.
//!
//! Owns the one view that a walk is told from, and for how long it is held: it keeps the state's old files. Refuses who
//! shows no seal lease of the dataset: what is told, names among it, is told to holders whose lease the region's log has
//! on record, and who can seal it for the region's KMS alone to open. No key is here, and no content but sealed.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use node_state::backup::Walk;
use proto::danger::{Switch, broken};
use proto::ids::{DatasetId, LogIndex, Role};
use proto::v1;
use proto::v1::backups_server::BackupsServer;
use replica::state::View;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use transport::{Peer, require_role};

use crate::core::Core;
use crate::error::CallError;
use crate::groups::Shard;
use crate::metered::metered;
use crate::shard::tokens;

/// Walks at once: each holds a view of its group's state.
pub(crate) const WALKS_MAX: usize = 2;
/// Pages made before the caller takes them.
const AHEAD: usize = 2;
/// How long the caller may take no page.
const STALL_MAX: Duration = Duration::from_secs(60);
/// How long a view is held.
const WALK_MAX: Duration = Duration::from_secs(3600);

/// The service.
pub(crate) struct BackupService(pub(crate) Arc<Core>);

impl BackupService {
    pub(crate) fn into_server(self) -> BackupsServer<Self> {
        BackupsServer::new(self)
    }
}

type Replies = BoxStream<'static, Result<v1::ReadBackupReply, Status>>;

impl Core {
    async fn read_dataset(
        &self,
        peer: &Peer,
        request: v1::ReadBackupRequest,
    ) -> Result<Replies, CallError> {
        let shard = self.shard(request.shard)?;
        let id = DatasetId::try_from(request.dataset_id.as_ref())?;
        let table = self.enrolments.current();
        if !self.may_back_up(&table, peer, &id) {
            return Err(CallError::NotGranted {
                identity: peer.identity.clone(),
            });
        }
        let permit = Arc::clone(&self.walks)
            .try_acquire_owned()
            .map_err(|_| CallError::TooManyBackups)?;
        let (view, index) = self.read(&shard.group).await?;
        let dataset = self.living(&*view.state, &id)?;
        let (_, token) = tokens::verify(&table, peer, &dataset, &request.token)?;
        if token.expires_at_ms <= self.clock.now().0 {
            return Err(CallError::refused(v1::Refusal::TokenExpired));
        }
        let walking = Walking {
            walk: Walk::new(id),
            view,
            index,
            shard,
            _permit: permit,
        };
        let (replies, taken) = mpsc::channel(AHEAD);
        tokio::spawn(walking.run(replies));
        Ok(ReceiverStream::new(taken).boxed())
    }
}

/// A walk and the view it is of.
struct Walking {
    walk: Walk,
    view: View,
    index: LogIndex,
    shard: Arc<Shard>,
    _permit: OwnedSemaphorePermit,
}

impl Walking {
    /// Until all is told, or nobody takes it.
    async fn run(mut self, replies: mpsc::Sender<Result<v1::ReadBackupReply, Status>>) {
        let end = Instant::now() + WALK_MAX;
        loop {
            // From disk, perhaps.
            let page = tokio::task::spawn_blocking(move || {
                if broken(Switch::BackupMoves)
                    && let Ok(newer) = self.shard.group.view()
                {
                    self.view = newer;
                }
                let items = self.walk.page(&*self.view.state);
                (self, items)
            });
            // Cancelled: the runtime is going down, and the stream ends without its end.
            let Ok((back, items)) = page.await else {
                return;
            };
            self = back;
            let reply = match items {
                Some(_) if Instant::now() > end => Err(Status::deadline_exceeded(
                    "a backup may not read one state for longer",
                )),
                Some(items) => Ok(v1::ReadBackupReply {
                    at_index: self.index.0,
                    items,
                    end: false,
                }),
                None => Ok(v1::ReadBackupReply {
                    at_index: self.index.0,
                    items: Vec::new(),
                    end: true,
                }),
            };
            let goes_on = matches!(&reply, Ok(reply) if !reply.end);
            let sent = tokio::time::timeout(STALL_MAX, replies.send(reply)).await;
            if !goes_on || !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
    }
}

#[tonic::async_trait]
impl v1::backups_server::Backups for BackupService {
    type ReadDatasetStream = Replies;

    async fn read_dataset(
        &self,
        request: Request<v1::ReadBackupRequest>,
    ) -> Result<Response<Self::ReadDatasetStream>, Status> {
        let peer = self.0.caller(&request).await?;
        // Who may hold leases.
        require_role(&peer, &[Role::Gateway, Role::Client])?;
        let call = self.0.read_dataset(&peer, request.into_inner());
        metered("read_dataset", call).await.map(Response::new)
    }
}
