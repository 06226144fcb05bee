//! Opens, shared: items that wait at the same time go to the KMS in one request.
//!
//! Owns the queue of one dataset and claim. One leaf may hold many opens of one principal, purpose and case
//! (DESIGN section 7), so tasks that read at once share a record and a round trip.

pub(crate) mod line;

use std::sync::Arc;

use bytes::Bytes;
use envelope::{ObjectContext, OpenDek, SealDek, SealedKey, SessionError, SessionReceiver};
use proto::ids::{DatasetId, UnixMs};
use proto::v1;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::error::Error;
use crate::kms::now;
use crate::lease::usable_until;
use crate::region::{Inner, Region, random_id};

/// Items of one request at most.
const ITEMS_MAX: usize = 100;
/// Items that may wait; more callers wait to queue.
const QUEUE_MAX: usize = 1_024;

/// The purpose under which the KMS releases a key to go on with an upload.
pub(crate) const MULTIPART: &str = "multipart";

/// One object version to be opened.
pub(crate) struct Ask {
    pub(crate) context: ObjectContext,
    pub(crate) token: Bytes,
    pub(crate) dek_salt: Bytes,
    pub(crate) plain_bytes: u64,
}

/// A released DEK and when it may no longer be used.
pub(crate) struct Opened {
    pub(crate) dek: OpenDek,
    pub(crate) usable_until: UnixMs,
    pub(crate) leaf_index: u64,
}

type Waiting = (Ask, oneshot::Sender<Result<Opened, Arc<Error>>>);

/// Opens of one dataset under one claim.
#[derive(Clone)]
pub(crate) struct Opens(mpsc::Sender<Waiting>);

impl Opens {
    pub(crate) fn start(region: Arc<Inner>, dataset: DatasetId, claim: v1::Claim) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(drain(region, dataset, claim, receiver));
        Self(sender)
    }

    /// Waits for the record and the key.
    pub(crate) async fn open(&self, ask: Ask) -> Result<Opened, Error> {
        let gone = || Error::Unavailable {
            reason: "stopped".to_owned(),
            message: "this client is shutting down".to_owned(),
        };
        let (answer, wait) = oneshot::channel();
        self.0.send((ask, answer)).await.map_err(|_| gone())?;
        wait.await.map_err(|_| gone())?.map_err(shared)
    }
}

/// An error that several waiters got; each needs its own.
fn shared(error: Arc<Error>) -> Error {
    Arc::try_unwrap(error).unwrap_or_else(|error| match &*error {
        Error::Denied { reason, message } => Error::Denied {
            reason: reason.clone(),
            message: message.clone(),
        },
        Error::Unavailable { reason, message } => Error::Unavailable {
            reason: reason.clone(),
            message: message.clone(),
        },
        Error::Unknown { message } => Error::Unknown {
            message: message.clone(),
        },
        other => Error::Caller {
            reason: other.reason().to_owned(),
            message: other.to_string(),
        },
    })
}

async fn drain(
    region: Arc<Inner>,
    dataset: DatasetId,
    claim: v1::Claim,
    mut queue: mpsc::Receiver<Waiting>,
) {
    let slots = Arc::new(Semaphore::new(region.tuning.opens_in_flight));
    while let Some(first) = queue.recv().await {
        // While every slot is taken the queue fills, and the next request carries more.
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let mut batch = vec![first];
        while batch.len() < ITEMS_MAX
            && let Ok(next) = queue.try_recv()
        {
            batch.push(next);
        }
        let (region, claim) = (region.clone(), claim.clone());
        tokio::spawn(async move {
            let (asks, answers): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
            match request(&region, dataset, claim, asks).await {
                Ok(opened) => {
                    for (answer, opened) in answers.into_iter().zip(opened) {
                        // A caller that went away: its key is wiped with the drop.
                        drop(answer.send(opened.map_err(Arc::new)));
                    }
                }
                Err(error) => {
                    let error = Arc::new(error);
                    for answer in answers {
                        drop(answer.send(Err(error.clone())));
                    }
                }
            }
            drop(slot);
        });
    }
}

/// One request for several items, answered in their order.
pub(crate) async fn request(
    region: &Inner,
    dataset: DatasetId,
    claim: v1::Claim,
    asks: Vec<Ask>,
) -> Result<Vec<Result<Opened, Error>>, Error> {
    let request = v1::OpenRequest {
        request_id: random_id()?,
        dataset_id: dataset.into(),
        claim: Some(claim),
        items: items(&asks),
        ..v1::OpenRequest::default()
    };
    send(region, request, asks).await
}

impl Ask {
    /// As it stands in a request.
    pub(crate) fn item(&self) -> v1::OpenItem {
        v1::OpenItem {
            token: self.token.clone(),
            version_id: self.context.version.into(),
            dek_salt: self.dek_salt.clone(),
            name_commitment: Bytes::copy_from_slice(self.context.name.as_bytes()),
            bytes: self.plain_bytes,
        }
    }
}

/// As they stand in one request: a token that is the one before's is left out.
pub(crate) fn items(asks: &[Ask]) -> Vec<v1::OpenItem> {
    let mut before: Option<&Bytes> = None;
    let item = |ask| {
        let mut item = Ask::item(ask);
        if before.replace(&ask.token) == Some(&ask.token) {
            item.token = Bytes::new();
        }
        item
    };
    asks.iter().map(item).collect()
}

/// Sends a request whose items are those of `asks`, in their order.
pub(crate) async fn send(
    region: &Inner,
    request: v1::OpenRequest,
    asks: Vec<Ask>,
) -> Result<Vec<Result<Opened, Error>>, Error> {
    let released = release(region, request, asks, SessionReceiver::receive_dek).await?;
    let opened = released.keys.into_iter().map(|dek| {
        Ok(Opened {
            dek: dek?,
            usable_until: released.usable_until,
            leaf_index: released.leaf_index,
        })
    });
    Ok(opened.collect())
}

/// A DEK to go on with an upload, and when no stream may begin under it any more. On record as any other open.
pub(crate) async fn go_on(
    Region(region, acting): &Region,
    dataset: DatasetId,
    ask: Ask,
) -> Result<(SealDek, UnixMs), Error> {
    let claim = v1::Claim {
        purpose: MULTIPART.to_owned(),
        ..acting.claim()
    };
    let request = v1::OpenRequest {
        request_id: random_id()?,
        dataset_id: dataset.into(),
        claim: Some(claim),
        items: vec![ask.item()],
        ..v1::OpenRequest::default()
    };
    let receive = SessionReceiver::receive_upload_dek;
    let mut released = release(region, request, vec![ask], receive).await?;
    let dek = released.keys.pop().ok_or(Error::Protocol {
        what: "no key in the answer",
    })??;
    Ok((dek, released.usable_until))
}

/// What one request released, in the order of its items.
struct Released<K> {
    keys: Vec<Result<K, Error>>,
    usable_until: UnixMs,
    leaf_index: u64,
}

async fn release<K>(
    region: &Inner,
    request: v1::OpenRequest,
    asks: Vec<Ask>,
    receive: impl Fn(&SessionReceiver, &SealedKey, ObjectContext, &[u8]) -> Result<K, SessionError>,
) -> Result<Released<K>, Error> {
    let asked = now();
    let (reply, session) = region
        .keys
        .open_in_session(|line, session| {
            let request = v1::OpenRequest {
                session_id: session.id.clone(),
                ..request.clone()
            };
            async move { Ok((line.ask(request).await?, session)) }
        })
        .await?;
    if reply.keys.len() != asks.len() {
        return Err(Error::Protocol {
            what: "another number of keys than was asked for",
        });
    }
    let aad = session.aad();
    let keys = asks.into_iter().zip(reply.keys).map(|(ask, key)| {
        if key.sealed_dek.is_empty() {
            return Err(Error::Damaged {
                message: "the kms could not unwrap this object's lease".to_owned(),
            });
        }
        let sealed = SealedKey::try_from(&key.sealed_dek[..])?;
        Ok(receive(&session.receiver, &sealed, ask.context, &aad)?)
    });
    Ok(Released {
        keys: keys.collect(),
        usable_until: usable_until(asked, reply.usable_ms),
        leaf_index: reply.leaf_index,
    })
}
