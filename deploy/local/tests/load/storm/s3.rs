//! An S3 client that tries again as SDKs do, at another gateway each time.
//!
//! Owns the bounds of its patience and the count of what it took. All tries of one request have one
//! `amz-sdk-invocation-id`. Refuses to try again what was answered: 4xx is an answer.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use local::s3::{Client, Endpoint, HeaderMap, Request};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// Tries of one request, as rclone makes them.
const TRIES_MAX: u32 = 10;
/// How long one try may take, as boto3 waits for an answer.
const TRY_MAX: Duration = Duration::from_secs(60);
/// Between two tries: by chance up to this, doubled from try to try.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// What SDKs try again.
const AGAIN: [u16; 4] = [500, 502, 503, 504];

/// What all requests of a storm took.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) took: Vec<Duration>,
    /// How many were answered, for who waits for it.
    pub(crate) answered: watch::Sender<usize>,
    pub(crate) tried_again: u64,
    pub(crate) failed: Vec<String>,
}

/// An answer that counts, after so many tries.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) tries: u32,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What stands in each element of that name.
pub(crate) fn elements<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let parts = xml.split(&open).skip(1);
    parts
        .filter_map(|part| Some(part.split_once(&close)?.0))
        .collect()
}

/// A bucket, behind every gateway of its region.
pub(crate) struct Bucket {
    gateways: Vec<Client>,
    next: usize,
    rng: SmallRng,
    tally: Arc<Mutex<Tally>>,
}

impl Bucket {
    pub(crate) fn new(
        gateways: &[Endpoint],
        name: &str,
        seed: u64,
        tally: &Arc<Mutex<Tally>>,
    ) -> Result<Self> {
        let clients = gateways.iter().map(|gateway| Client::new(gateway, name));
        Ok(Self {
            gateways: clients.collect::<Result<_>>()?,
            next: 0,
            rng: SmallRng::seed_from_u64(seed),
            tally: tally.clone(),
        })
    }

    /// The answer to a request, by whichever gateway; an error where it failed in every try, which is counted.
    pub(crate) async fn ask(&mut self, what: &str, request: Request) -> Result<Answer> {
        let mut id = [0; 16];
        self.rng.fill_bytes(&mut id);
        let request = request.header("amz-sdk-invocation-id", hex::encode(id));
        self.next = self.rng.random_range(0..self.gateways.len());
        let began = Instant::now();
        let mut heard = Vec::new();
        for tries in 1..=TRIES_MAX {
            let attempt = format!("attempt={tries}; max={TRIES_MAX}");
            let request = request.clone().header("amz-sdk-request", attempt);
            let gateway = self.next % self.gateways.len();
            self.next += 1;
            let client = &mut self.gateways[gateway];
            let answer = match timeout(TRY_MAX, once(client, &request)).await {
                Ok(answer) => answer,
                Err(_) => Err(anyhow::anyhow!("no answer within {TRY_MAX:?}")),
            };
            match answer {
                Ok(answer) if !is_unserved(&answer) => {
                    let mut tally = self.tally.lock();
                    tally.took.push(began.elapsed());
                    let answered = tally.took.len();
                    tally.answered.send_replace(answered);
                    tally.tried_again += u64::from(tries - 1);
                    return Ok(Answer { tries, ..answer });
                }
                Ok(answer) => {
                    let code = answer.text();
                    let code = elements(&code, "Code")
                        .first()
                        .map(|code| (*code).to_owned());
                    heard.push(format!("{} {}", answer.status, code.unwrap_or_default()));
                }
                Err(error) => {
                    client.hang_up();
                    heard.push(format!("{error:#}"));
                }
            }
            let most = (BACKOFF_FIRST * 2_u32.pow(tries)).min(BACKOFF_MAX);
            let pause = most.mul_f64(self.rng.random_range(0.0..1.0));
            tokio::time::sleep(pause).await;
        }
        let failed = format!(
            "{what} failed {TRIES_MAX} times in {:?}: {}",
            began.elapsed(),
            heard.join(", ")
        );
        self.tally.lock().failed.push(failed.clone());
        Err(anyhow::anyhow!(failed))
    }
}

/// A completion that takes long begins with 200 and may end as an error.
fn is_unserved(answer: &Answer) -> bool {
    let ended_badly = || answer.status == 200 && answer.body.ends_with(b"</Error>");
    AGAIN.contains(&answer.status) || ended_badly()
}

async fn once(client: &mut Client, request: &Request) -> Result<Answer> {
    let answer = client.ask(request).await.context("asking")?;
    let (head, body) = answer.into_parts();
    let body = body.collect().await.context("reading the answer")?;
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: body.to_bytes(),
        tries: 0,
    })
}

#[test]
fn elements_of_an_answer_are_found() {
    let xml = "<a><Key>x</Key><ETag>1</ETag></a><a><Key>y</Key></a>";
    assert_eq!(elements(xml, "Key"), ["x", "y"]);
    assert_eq!(elements(xml, "a").len(), 2);
    assert!(elements(xml, "Code").is_empty());
}
