//! One stream of opens to one replica: requests go out as they come, answers are told apart by their request's id.
//!
//! Owns who waits for which answer. What an open costs besides its record is mostly the call, and a stream is one call.
//! Refuses further requests once somebody stopped waiting: the answer may still come, sealed to the session of that try,
//! and must not be taken for the answer to a later one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use proto::ids::NodeId;
use proto::v1;
use proto::v1::kms_client::KmsClient;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use transport::Fault;
use transport::fault::{reason, status, status_within};

/// Requests that wait to be sent.
const QUEUE_MAX: usize = 128;
/// A stream that nobody has used for so long is ended.
const IDLE_MAX: Duration = Duration::from_secs(60);

type Answer = Result<v1::OpenReply, Status>;

/// A stream to one replica.
pub(crate) struct Line {
    kms: KmsClient<Channel>,
    requests: mpsc::Sender<v1::OpenRequest>,
    waiting: Arc<Mutex<Waiting>>,
}

/// Who waits for an answer, by request id.
#[derive(Default)]
struct Waiting {
    closed: bool,
    answers: HashMap<Bytes, oneshot::Sender<Answer>>,
}

impl Waiting {
    /// A place to wait in; none once the stream takes no further request, or where somebody waits under that id.
    fn ask(&mut self, id: &Bytes) -> Option<oneshot::Receiver<Answer>> {
        if self.closed || self.answers.contains_key(id) {
            return None;
        }
        let (answer, answered) = oneshot::channel();
        self.answers.insert(id.clone(), answer);
        Some(answered)
    }

    fn answer(&mut self, reply: v1::OpenReply) {
        if let Some(answer) = self.answers.remove(&reply.request_id) {
            // Who went away is not told.
            let _ = answer.send(Ok(reply));
        }
    }

    /// Somebody no longer waits.
    fn abandon(&mut self, id: &Bytes) {
        self.closed = true;
        self.answers.remove(id);
    }

    /// The stream has ended. Unless this replica says why, or was never reached, what became of the requests is open,
    /// whatever ended it: that was about another one, or about none.
    fn end(&mut self, why: &Status) {
        self.closed = true;
        let told = reason(why).is_some() || Fault::of(why) == Fault::Unavailable;
        for (_, answer) in self.answers.drain() {
            let why = match told {
                true => why.clone(),
                false => Status::unavailable(why.message()),
            };
            let _ = answer.send(Err(why));
        }
    }
}

/// Closes the line if dropped before the answer has come.
struct Asking<'a> {
    line: &'a Line,
    id: Bytes,
    answered: bool,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.line.waiting.lock().abandon(&self.id);
        }
    }
}

impl Line {
    /// Begins one. Whether the replica can be reached the first request finds out.
    pub(crate) fn start(kms: KmsClient<Channel>) -> Self {
        let (requests, queued) = mpsc::channel(QUEUE_MAX);
        let waiting = Arc::<Mutex<Waiting>>::default();
        tokio::spawn(run(kms.clone(), queued, waiting.clone()));
        Self {
            kms,
            requests,
            waiting,
        }
    }

    /// Whether it takes requests.
    pub(crate) fn is_open(&self) -> bool {
        !self.waiting.lock().closed
    }

    /// One request and its answer. An error of the request itself comes as the status of a call.
    pub(crate) async fn ask(&self, request: v1::OpenRequest) -> Answer {
        let bytes = request.encoded_len();
        if bytes > proto::KMS_REQUEST_BYTES_MAX {
            // The replica would end the stream for it, and with it everybody else's requests.
            let message = format!("an open request of {bytes} bytes is larger than the KMS takes");
            return Err(status(Fault::Caller, "too-large", message));
        }
        let ended = || Status::unavailable("the stream of opens has ended");
        let id = request.request_id.clone();
        let answered = self.waiting.lock().ask(&id).ok_or_else(ended)?;
        let mut asking = Asking {
            line: self,
            id,
            answered: false,
        };
        // Where it cannot be sent, the stream's end is the answer.
        let _ended = self.requests.send(request.clone()).await;
        let reply = answered.await.map_err(|_| ended())?;
        asking.answered = true;
        let reply = reply?;
        match reply.error {
            None => Ok(reply),
            // An older build does not say whose turn it is. A call says it, and has effect once under its id.
            Some(error) if error.code == 0 => {
                Ok(self.kms.clone().open(request).await?.into_inner())
            }
            Some(error) => {
                let leader = Some(NodeId(error.leader)).filter(|id| id.0 != 0);
                Err(status_within(
                    error.code,
                    &error.reason,
                    &error.message,
                    leader,
                ))
            }
        }
    }
}

async fn run(
    mut kms: KmsClient<Channel>,
    queued: mpsc::Receiver<v1::OpenRequest>,
    waiting: Arc<Mutex<Waiting>>,
) {
    let ended = match kms.open_stream(ReceiverStream::new(queued)).await {
        Ok(replies) => hand_on(replies.into_inner(), &waiting).await,
        Err(status) => status,
    };
    waiting.lock().end(&ended);
}

/// Why the stream ended.
async fn hand_on(mut replies: Streaming<v1::OpenReply>, waiting: &Mutex<Waiting>) -> Status {
    loop {
        match timeout(IDLE_MAX, replies.message()).await {
            Ok(Ok(Some(reply))) => waiting.lock().answer(reply),
            Ok(Ok(None)) => {
                return Status::unavailable("the replica has ended the stream of opens");
            }
            Ok(Err(status)) => return status,
            Err(_) => {
                let mut waiting = waiting.lock();
                // Whether an answer is overdue its asker decides.
                if waiting.answers.is_empty() {
                    waiting.closed = true;
                    return Status::unavailable("nobody used the stream of opens");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(id: u8) -> v1::OpenReply {
        v1::OpenReply {
            request_id: vec![id; 16].into(),
            ..Default::default()
        }
    }

    #[test]
    fn an_answer_goes_to_the_one_who_asked_for_it() {
        let mut waiting = Waiting::default();
        let mut asked = [1, 2].map(|id| waiting.ask(&reply(id).request_id).expect("a place"));
        assert!(waiting.ask(&reply(1).request_id).is_none(), "twice at once");
        for id in [2, 3, 1] {
            waiting.answer(reply(id));
        }
        for (asked, id) in asked.iter_mut().zip([1, 2]) {
            assert_eq!(
                asked.try_recv().expect("answered").expect("fine"),
                reply(id)
            );
        }
        assert!(waiting.answers.is_empty() && !waiting.closed);
    }

    #[test]
    fn after_somebody_stopped_waiting_nobody_can_be_given_their_answer() {
        let mut waiting = Waiting::default();
        let mut other = waiting.ask(&reply(2).request_id).expect("a place");
        drop(waiting.ask(&reply(1).request_id).expect("a place"));
        waiting.abandon(&reply(1).request_id);
        assert!(waiting.ask(&reply(1).request_id).is_none());
        waiting.answer(reply(1));
        waiting.answer(reply(2));
        assert!(other.try_recv().expect("answered").is_ok());
        assert!(waiting.answers.is_empty());
    }

    #[test]
    fn what_ends_a_stream_is_no_verdict_on_the_requests_under_way() {
        let fault_of = |why: Status| {
            let mut waiting = Waiting::default();
            let mut asked = waiting.ask(&reply(1).request_id).expect("a place");
            waiting.end(&why);
            assert!(waiting.ask(&reply(2).request_id).is_none());
            let answer = asked.try_recv().expect("answered");
            Fault::of(&answer.expect_err("no reply"))
        };
        assert_eq!(fault_of(Status::out_of_range("too large")), Fault::Unknown);
        assert_eq!(fault_of(Status::internal("h2")), Fault::Unknown);
        let removed = status(Fault::Denied, "not-enrolled", "removed");
        assert_eq!(fault_of(removed), Fault::Denied);
        let never = Status::from_error(Box::new(tonic::ConnectError("refused".into())));
        assert_eq!(fault_of(never), Fault::Unavailable);
    }
}
