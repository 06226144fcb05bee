//! Asking outside witnesses to cosign (C2SP tlog-witness, `add-checkpoint`).
//!
//! Owns what is known of each witness: the size it has seen, and when it may be asked again after it failed. Refuses
//! answers that are long, late or not its word. A witness that has seen more of this log than the region has is said
//! loudly: the region has gone back, or somebody else signs as it. Plain HTTP: a cosignature needs no secrecy and no
//! trust in who carried it; where the way is TLS, a proxy beside the replica speaks it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, Uri, header};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use hyper_util::rt::TokioIo;
use kms_state::StateHashes;
use parking_lot::Mutex;
use tlog::{
    AddCheckpoint, Hash, NOTE_BYTES_MAX, Note, Party, Policy, SIZE_CONTENT_TYPE, Signature,
    VerifierKey, cosignatures_in,
};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::core::Core;

/// How long one request to a witness may take.
const REQUEST_MAX: Duration = Duration::from_secs(3);
/// How long a round waits for the quorum.
const QUORUM_MAX: Duration = Duration::from_secs(5);
/// How long it waits for further witnesses once it has the quorum.
const REST_MAX: Duration = Duration::from_millis(200);
/// Requests to one witness in one round: it says its size, then gets the proof from there, once more in a race.
const TRIES_MAX: u32 = 3;
/// Pause after the first failure; doubled with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// What is known of one witness, by its key.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// Leaves it has cosigned.
    size: u64,
    failures: u32,
    not_before: Option<Instant>,
}

/// Everything known of witnesses: lost with the process, learnt from them again.
#[derive(Default)]
pub(crate) struct Witnesses(Mutex<HashMap<VerifierKey, Known>>);

/// Where a witness is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    authority: String,
    path: String,
}

/// An address that cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the witness {name} has no address of the form http://host[:port][/path]")]
pub(crate) struct NoAddress {
    /// Name of its key.
    name: String,
}

/// Why a witness did not cosign.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("it did not answer in time")]
    Late,
    #[error("no connection")]
    Connect(#[source] std::io::Error),
    #[error("the connection failed")]
    Http(#[source] hyper::Error),
    #[error("its answer is too long or broke off")]
    Body(#[source] axum::Error),
    #[error("it answers {0}")]
    Status(u16),
    #[error("it has seen {seen} leaves, more than the {ours} there are")]
    Ahead { seen: u64, ours: u64 },
    #[error("it changes its mind about the size it has seen")]
    Unsteady,
    #[error("no proof from the size it has seen")]
    Prove(#[source] tlog::ProveError),
    #[error("the request is none")]
    Request(#[source] tlog::AddCheckpointError),
    #[error("its answer is not its cosignature")]
    Answer(#[source] tlog::CosignaturesRefused),
}

/// What an answer means.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    /// The body is signature lines.
    Cosigned,
    /// The witness stands here; ask again from there.
    Stands(u64),
    /// Nothing to go on with.
    Failed,
}

fn meaning(status: u16, content_type: Option<&HeaderValue>, body: &[u8]) -> Meaning {
    match status {
        200 => Meaning::Cosigned,
        409 if content_type.is_some_and(|found| found == SIZE_CONTENT_TYPE) => {
            let size = std::str::from_utf8(body).ok();
            let size = size.and_then(|text| text.strip_suffix('\n'));
            // One spelling: what is parsed is written back the same.
            let size = size.and_then(|text| text.parse::<u64>().ok().zip(Some(text)));
            match size {
                Some((size, text)) if size.to_string() == text => Meaning::Stands(size),
                _ => Meaning::Failed,
            }
        }
        _ => Meaning::Failed,
    }
}

/// The pause after so many failures in a row.
fn pause(failures: u32) -> Duration {
    let doubled = PAUSE_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(PAUSE_MAX)
}

impl Address {
    fn of(party: &Party) -> Result<Self, NoAddress> {
        Self::parse(party).ok_or_else(|| NoAddress {
            name: party.key.name().to_string(),
        })
    }

    fn parse(party: &Party) -> Option<Self> {
        let url = std::str::from_utf8(party.url.as_deref()?).ok()?;
        let uri: Uri = url.parse().ok()?;
        if uri.scheme_str() != Some("http") || uri.query().is_some() {
            return None;
        }
        let authority = uri.authority()?;
        if authority.as_str().contains('@') {
            return None;
        }
        let port = authority.port_u16().unwrap_or(80);
        Some(Self {
            authority: format!("{}:{port}", authority.host()),
            path: format!("{}/add-checkpoint", uri.path().trim_end_matches('/')),
        })
    }
}

/// Whether every outside witness of a policy can be asked.
pub(crate) fn reachable(policy: &Policy, region: &str) -> Result<(), NoAddress> {
    outside(policy, region).try_for_each(|party| Address::of(party).map(drop))
}

fn outside<'p>(policy: &'p Policy, region: &'p str) -> impl Iterator<Item = &'p Party> {
    let parties = policy.witnesses().map(|(_, party)| party);
    parties.filter(|party| !kms_state::is_own_name(region, party.key.name().as_str()))
}

impl Core {
    /// The note with the cosignatures of those outside witnesses that answer in time. It is published without them too:
    /// what needs them waits, and says so.
    pub(crate) async fn ask_witnesses(self: &Arc<Self>, note: Note, size: u64) -> Note {
        let Ok(state) = self.reader() else {
            return note;
        };
        let Some(rule) = self.rules.in_force(&*state) else {
            return note;
        };
        drop(state);
        self.ask_witnesses_of(rule.policy(), note, size).await
    }

    /// As [`Core::ask_witnesses`], of a policy that need not be in force.
    pub(crate) async fn ask_witnesses_of(&self, policy: &Policy, note: Note, size: u64) -> Note {
        let region = self.config.region.as_str();
        let mut asked: FuturesUnordered<_> = outside(policy, region)
            .filter(|party| self.witnesses.may_be_asked(&party.key))
            .map(|party| self.ask_witness(party, &note, size))
            .collect();
        let mut finished = note.clone();
        let mut deadline = Instant::now() + QUORUM_MAX;
        while let Ok(Some(answer)) = timeout_at(deadline, asked.next()).await {
            for signature in answer {
                match finished.clone().with(signature) {
                    Ok(more) => finished = more,
                    Err(error) => tracing::warn!(%error, "a cosignature does not fit the note"),
                }
            }
            if policy.check(&finished).is_ok() {
                deadline = deadline.min(Instant::now() + REST_MAX);
            }
        }
        finished
    }

    async fn ask_witness(&self, party: &Party, note: &Note, size: u64) -> Vec<Signature> {
        let name = party.key.name();
        let labels = [("witness", name.to_string())];
        match self.add_checkpoint(party, note, size).await {
            Ok(signatures) => {
                self.witnesses.succeeded(&party.key, size);
                metrics::gauge!("reduit_kms_witness_up", &labels).set(1.0);
                signatures
            }
            Err(error) => {
                self.witnesses.failed(&party.key);
                metrics::gauge!("reduit_kms_witness_up", &labels).set(0.0);
                let error_chain = transport::fault::Chain(&error).to_string();
                match error {
                    AskError::Ahead { .. } => tracing::error!(
                        witness = %name, error = error_chain,
                        "a witness has seen a longer log: this region has gone back, or its log key is used elsewhere"
                    ),
                    _ => {
                        tracing::info!(witness = %name, error = error_chain, "witness did not cosign")
                    }
                }
                Vec::new()
            }
        }
    }

    async fn add_checkpoint(
        &self,
        party: &Party,
        note: &Note,
        size: u64,
    ) -> Result<Vec<Signature>, AskError> {
        // A policy with another kind of address was refused when it was proposed.
        let address = Address::of(party).map_err(|_| AskError::Status(0))?;
        let mut old = self.witnesses.size(&party.key);
        for _ in 0..TRIES_MAX {
            if old > size {
                return Err(AskError::Ahead {
                    seen: old,
                    ours: size,
                });
            }
            let request = AddCheckpoint::new(old, self.proof(old, size)?, note.clone());
            let request = request.map_err(AskError::Request)?.to_string();
            let (status, content_type, body) = post(&address, request).await?;
            match meaning(status, content_type.as_ref(), &body) {
                Meaning::Cosigned => {
                    let known = [party.key.clone()];
                    return cosignatures_in(&body, note, &known).map_err(AskError::Answer);
                }
                Meaning::Stands(seen) if seen != old => old = seen,
                // The size we asked from, and a conflict all the same: it holds another tree of that size.
                Meaning::Stands(_) | Meaning::Failed => return Err(AskError::Status(status)),
            }
        }
        Err(AskError::Unsteady)
    }

    /// How many leaves each outside witness has seen of the log that signed `note`, of `size` leaves: those who say it.
    pub(crate) async fn sizes_of_witnesses(
        &self,
        policy: &Policy,
        note: &Note,
        size: u64,
    ) -> Vec<(VerifierKey, u64)> {
        let region = self.config.region.as_str();
        let asked = outside(policy, region).map(|party| async move {
            let seen = seen_by(party, note, size).await;
            let seen = seen.inspect_err(|error| {
                tracing::warn!(
                    witness = %party.key.name(), error = %transport::fault::Chain(error),
                    "a witness does not say how far it has seen the log"
                );
            });
            Some((party.key.clone(), seen.ok()?))
        });
        let answers = futures::future::join_all(asked).await;
        answers.into_iter().flatten().collect()
    }

    fn proof(&self, old: u64, new: u64) -> Result<Vec<Hash>, AskError> {
        if old == 0 || old == new {
            return Ok(Vec::new());
        }
        let missing = tlog::ProveError::MissingHash { level: 0, index: 0 };
        let state = self.reader().map_err(|_| AskError::Prove(missing))?;
        tlog::prove_consistency(&StateHashes(&*state), old, new).map_err(AskError::Prove)
    }
}

impl Core {
    /// Whether any outside witness of a policy is not being left alone after a failure.
    pub(crate) fn may_ask_witnesses(&self, policy: &Policy) -> bool {
        outside(policy, self.config.region.as_str())
            .any(|party| self.witnesses.may_be_asked(&party.key))
    }
}

impl Witnesses {
    fn may_be_asked(&self, key: &VerifierKey) -> bool {
        let known = self.0.lock().get(key).copied().unwrap_or_default();
        known.not_before.is_none_or(|then| Instant::now() >= then)
    }

    fn size(&self, key: &VerifierKey) -> u64 {
        self.0.lock().get(key).map_or(0, |known| known.size)
    }

    fn succeeded(&self, key: &VerifierKey, size: u64) {
        let known = Known {
            size,
            ..Known::default()
        };
        self.0.lock().insert(key.clone(), known);
    }

    fn failed(&self, key: &VerifierKey) {
        let mut all = self.0.lock();
        let known = all.entry(key.clone()).or_default();
        known.failures = known.failures.saturating_add(1);
        known.not_before = Some(Instant::now() + pause(known.failures));
        // What it has seen is asked for again: it may have lost it, or somebody else moved it.
        known.size = 0;
    }
}

/// A witness is asked to cosign a tree from that very tree on: it does where it stands there, and says where it stands
/// where it does not.
async fn seen_by(party: &Party, note: &Note, size: u64) -> Result<u64, AskError> {
    let address = Address::of(party).map_err(|_| AskError::Status(0))?;
    let request = AddCheckpoint::new(size, Vec::new(), note.clone());
    let request = request.map_err(AskError::Request)?.to_string();
    let (status, content_type, body) = post(&address, request).await?;
    match meaning(status, content_type.as_ref(), &body) {
        Meaning::Cosigned => Ok(size),
        Meaning::Stands(seen) if seen != size => Ok(seen),
        Meaning::Stands(_) | Meaning::Failed => Err(AskError::Status(status)),
    }
}

async fn post(
    address: &Address,
    body: String,
) -> Result<(u16, Option<HeaderValue>, Bytes), AskError> {
    timeout(REQUEST_MAX, post_in_time(address, body))
        .await
        .unwrap_or(Err(AskError::Late))
}

async fn post_in_time(
    address: &Address,
    body: String,
) -> Result<(u16, Option<HeaderValue>, Bytes), AskError> {
    let stream = TcpStream::connect(&address.authority)
        .await
        .map_err(AskError::Connect)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(stream))
            .await
            .map_err(AskError::Http)?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(&address.path)
        .header(header::HOST, &address.authority)
        .header(header::CONNECTION, "close")
        .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
        .body(Body::from(body))
        .expect("the address was parsed from a URI");
    let exchange = async {
        let response = sender.send_request(request).await.map_err(AskError::Http)?;
        let status = response.status().as_u16();
        let content_type = response.headers().get(header::CONTENT_TYPE).cloned();
        let body = axum::body::to_bytes(Body::new(response.into_body()), NOTE_BYTES_MAX)
            .await
            .map_err(AskError::Body)?;
        Ok((status, content_type, body))
    };
    tokio::pin!(exchange);
    // The connection is driven here, so that it ends with the request.
    tokio::select! {
        answer = &mut exchange => answer,
        ended = connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(AskError::Http(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use tlog::{SignatureType, SignerKey};

    use super::*;

    fn party(url: Option<&str>) -> Party {
        let name = "witness.example/w".parse().expect("a name");
        let key = SignerKey::from_seed(name, SignatureType::Ed25519Cosignature, &[1; 32]);
        Party {
            key: key.expect("a key").verifier().clone(),
            url: url.map(|url| url.as_bytes().to_vec()),
        }
    }

    #[test]
    fn an_address_is_plain_http_with_any_path() {
        for (url, authority, path) in [
            ("http://w.example", "w.example:80", "/add-checkpoint"),
            ("http://w.example/", "w.example:80", "/add-checkpoint"),
            (
                "http://127.0.0.1:99/a/b/",
                "127.0.0.1:99",
                "/a/b/add-checkpoint",
            ),
            ("http://[::1]:99", "[::1]:99", "/add-checkpoint"),
        ] {
            let address = Address::of(&party(Some(url))).expect(url);
            let found = (address.authority.as_str(), address.path.as_str());
            assert_eq!(found, (authority, path));
        }
        for bad in [
            None,
            Some("https://w.example"),
            Some("w.example"),
            Some("/add-checkpoint"),
            Some("http://user@w.example"),
            Some("http://w.example/?a=b"),
            Some(""),
        ] {
            assert!(Address::of(&party(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_conflict_says_its_size_in_one_spelling_and_under_its_own_content_type() {
        let size = HeaderValue::from_static(SIZE_CONTENT_TYPE);
        let text = HeaderValue::from_static("text/plain");
        assert_eq!(meaning(200, None, b"anything"), Meaning::Cosigned);
        assert_eq!(meaning(409, Some(&size), b"17\n"), Meaning::Stands(17));
        for (status, kind, body) in [
            (409, Some(&text), &b"17\n"[..]),
            (409, None, b"17\n"),
            (409, Some(&size), b"17"),
            (409, Some(&size), b"017\n"),
            (409, Some(&size), b"+17\n"),
            (409, Some(&size), b"\n"),
            (409, Some(&size), b"18446744073709551616\n"),
            (422, Some(&size), b"17\n"),
            (500, None, b""),
        ] {
            let found = meaning(status, kind, body);
            assert_eq!(found, Meaning::Failed, "{status} {body:?}");
        }
    }

    #[test]
    fn pauses_double_up_to_a_quarter_of_a_minute() {
        assert_eq!(pause(1), PAUSE_MIN);
        assert_eq!(pause(2), PAUSE_MIN * 2);
        assert_eq!(pause(8), PAUSE_MAX);
        assert_eq!(pause(u32::MAX), PAUSE_MAX);
    }

    #[test]
    fn a_witness_that_failed_is_left_alone_for_a_while_and_asked_from_the_start() {
        let (witnesses, key) = (Witnesses::default(), party(None).key);
        assert!(witnesses.may_be_asked(&key));
        witnesses.succeeded(&key, 9);
        assert_eq!(witnesses.size(&key), 9);
        witnesses.failed(&key);
        assert!(!witnesses.may_be_asked(&key));
        assert_eq!(witnesses.size(&key), 0);
        witnesses.succeeded(&key, 10);
        assert!(witnesses.may_be_asked(&key));
    }
}
