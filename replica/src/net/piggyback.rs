//! A commit index rides on the next entries to a follower.
//!
//! Owns the wait of a request without entries, which only says how far the log is committed: the next request says it
//! too. Where entries follow one another this halves the messages to each follower, and their answers. Refuses to hold
//! a session's first request, which asks the follower where it stands, and to hold any for longer than it is told.
//!
//! One answer may stand for several requests: the engine counts by log ids what an answer acknowledges.

use std::time::Duration;

use futures::stream::{BoxStream, StreamExt as _, unfold};
use openraft::raft::AppendEntriesRequest;
use tokio::time::{Instant, timeout_at};

use crate::raft::types::Config;

type Request = AppendEntriesRequest<Config>;

struct Held {
    request: Request,
    until: Instant,
}

/// Requests after a session's first, of which those without entries wait for the next for `wait` at most.
pub(crate) fn piggyback(
    requests: BoxStream<'static, Request>,
    wait: Duration,
) -> BoxStream<'static, Request> {
    if wait.is_zero() {
        return requests;
    }
    // What is held may be the last there is: the end is asked for twice then, and only a fused stream bears that.
    let requests = requests.fuse().boxed();
    let next = move |mut requests: BoxStream<'static, Request>| async move {
        let mut held: Option<Held> = None;
        loop {
            let next = match &held {
                None => requests.next().await,
                Some(one) => {
                    let next = timeout_at(one.until, requests.next()).await;
                    next.unwrap_or_default()
                }
            };
            let Some(request) = next else {
                // Due, or the last there is.
                return held.map(|held| (held.request, requests));
            };
            if !request.entries.is_empty() {
                return Some((request, requests));
            }
            let until = held.map_or_else(|| Instant::now() + wait, |held| held.until);
            held = Some(Held { request, until });
        }
    };
    unfold(requests, next).boxed()
}

#[cfg(test)]
mod tests {
    use openraft::Entry;
    use openraft::EntryPayload;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;
    use crate::raft::types::{Vote, log_id};

    const WAIT: Duration = Duration::from_millis(5);

    fn request(prev: u64, commit: u64, entries: u64) -> Request {
        let entry = |index| Entry {
            log_id: log_id(1, index),
            payload: EntryPayload::Blank,
        };
        AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(log_id(1, prev)),
            leader_commit: Some(log_id(1, commit)),
            entries: (prev + 1..=prev + entries).map(entry).collect(),
        }
    }

    fn commit(request: &Request) -> u64 {
        request.leader_commit.map_or(0, |id| id.index)
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_goes_with_the_next_entries_and_waits_no_longer_than_told() {
        let (send, requests) = mpsc::channel(8);
        let mut sent = piggyback(ReceiverStream::new(requests).boxed(), WAIT);
        let begun = Instant::now();
        for one in [request(7, 7, 0), request(7, 7, 1)] {
            send.send(one).await.expect("it listens");
        }
        let first = sent.next().await.expect("entries");
        assert_eq!((commit(&first), first.entries.len()), (7, 1));
        assert_eq!(begun.elapsed(), Duration::ZERO, "entries wait for nothing");
        // No entries follow: the newest commit goes when the first of them is due.
        send.send(request(8, 8, 0)).await.expect("it listens");
        let again = send.clone();
        tokio::spawn(async move {
            tokio::time::sleep(WAIT / 2).await;
            again.send(request(8, 9, 0)).await.expect("it listens");
        });
        let alone = sent.next().await.expect("a commit");
        assert_eq!((commit(&alone), alone.entries.len()), (9, 0));
        assert_eq!(begun.elapsed(), WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_ends_loses_no_commit_and_is_asked_for_its_end_as_often_as_one_likes() {
        // As the engine's: it panics where it is asked again after its end.
        let once = unfold(Some(request(8, 10, 0)), async |next| {
            next.map(|one| (one, None))
        });
        let mut sent = piggyback(once.boxed(), WAIT);
        let last = sent.next().await.expect("a commit");
        assert_eq!(commit(&last), 10);
        assert!(sent.next().await.is_none());
    }
}
