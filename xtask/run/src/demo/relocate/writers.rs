//! Writers that go on while their dataset moves: some by the SDK, which follows it, some by S3, which are told where it is.
//!
//! Owns what was acknowledged and when. A request that is not served is made again; one that fails for good, or for longer
//! than patience, ends the demo.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use bytes::Bytes;
use client::ids::ObjectKey;
use client::{Dataset, Error, PutOptions, Region};
use http_body_util::BodyExt as _;
use local::s3::{Client, Endpoint, Method, Request, StatusCode};
use tokio::task::JoinHandle;

use super::super::DATASET;

const WRITERS_EACH: usize = 3;
/// Between two requests of one writer.
const PAUSE: Duration = Duration::from_millis(150);
const RETRY: Duration = Duration::from_millis(50);
/// A request is made again for so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Every so many writes one is read back.
const READ_EVERY: usize = 3;
/// Small ones ride in one entry; every tenth goes in blocks.
const SMALL: usize = 700;
const LARGER: usize = 200_000;

/// What writers write by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Sdk,
    S3,
}

/// Writes that were acknowledged: by what, and when.
type Acknowledged = Arc<Mutex<Vec<(By, Instant)>>>;

/// What writers saw.
#[derive(Default)]
pub(super) struct Written {
    pub(super) bodies: BTreeMap<ObjectKey, Bytes>,
    pub(super) requests: u64,
    pub(super) retried: u64,
    pub(super) longest: Duration,
    /// Writers by S3 that were told that the dataset is elsewhere.
    pub(super) redirected: usize,
}

/// Writers at work.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Acknowledged,
    at_work: Vec<JoinHandle<Result<Written>>>,
}

impl Load {
    /// `region` is the source, and knows the destination; `here` and `there` are gateways of both.
    pub(super) async fn begin(region: &Region, here: &Endpoint, there: &Endpoint) -> Result<Self> {
        let mut load = Self {
            stop: Arc::default(),
            acknowledged: Arc::default(),
            at_work: Vec::new(),
        };
        for number in 0..WRITERS_EACH {
            let sdk = Door::Sdk {
                region: region.clone(),
                dataset: region.dataset(&DATASET.parse()?).await?,
            };
            let s3 = Door::S3 {
                client: Box::new(Client::new(here, DATASET)?),
                elsewhere: Some(there.clone()),
            };
            for door in [sdk, s3] {
                let writer = Writer {
                    number,
                    door,
                    stop: load.stop.clone(),
                    acknowledged: load.acknowledged.clone(),
                };
                load.at_work.push(tokio::spawn(writer.run()));
            }
        }
        Ok(load)
    }

    /// Writers that have ended before they were told to have failed.
    pub(super) fn holds(&self) -> Result<()> {
        let ended = self.at_work.iter().filter(|one| one.is_finished()).count();
        ensure!(ended == 0, "{ended} writers gave up");
        Ok(())
    }

    /// Writes that were acknowledged since then.
    pub(super) fn since(&self, by: By, then: Instant) -> usize {
        let all = self.all();
        all.iter()
            .filter(|(how, at)| *how == by && *at > then)
            .count()
    }

    /// The longest time between two acknowledged writes from the last one before `then` on.
    pub(super) fn longest_pause(&self, by: By, then: Instant) -> Duration {
        let all = self.all();
        let mut times: Vec<_> = all.iter().filter(|(how, _)| *how == by).collect();
        times.sort_by_key(|(_, at)| *at);
        let first = times.partition_point(|(_, at)| *at < then);
        let across = &times[first.saturating_sub(1)..];
        let gaps = across
            .windows(2)
            .map(|two| two[1].1.duration_since(two[0].1));
        gaps.max().unwrap_or_default()
    }

    fn all(&self) -> Vec<(By, Instant)> {
        let all = self.acknowledged.lock();
        all.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What all of them saw.
    pub(super) async fn end(self) -> Result<Written> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Written::default();
        for writer in self.at_work {
            let one = writer.await??;
            all.requests += one.requests;
            all.retried += one.retried;
            all.redirected += one.redirected;
            all.longest = all.longest.max(one.longest);
            all.bodies.extend(one.bodies);
        }
        Ok(all)
    }
}

/// Why a request was not served.
enum Refused {
    /// It may be the next time.
    Again(String),
    /// It will not be.
    Failed(anyhow::Error),
}

/// What one writer writes through.
enum Door {
    Sdk {
        region: Region,
        dataset: Dataset,
    },
    S3 {
        client: Box<Client>,
        /// Where to go when told; none once there.
        elsewhere: Option<Endpoint>,
    },
}

impl Door {
    fn by(&self) -> By {
        match self {
            Self::Sdk { .. } => By::Sdk,
            Self::S3 { .. } => By::S3,
        }
    }

    async fn put(&mut self, key: &ObjectKey, body: &Bytes) -> Result<(), Refused> {
        match self {
            Self::Sdk { region, dataset } => {
                let options = PutOptions::default();
                match dataset.put(key, body.clone(), &options).await {
                    Ok(_) => Ok(()),
                    Err(error) => Err(refused(region, dataset, error).await),
                }
            }
            Self::S3 { client, elsewhere } => {
                let put = Request::new(Method::Put, key.as_str()).body(body.clone());
                by_s3(client, elsewhere, &put).await.map(drop)
            }
        }
    }

    async fn get(&mut self, key: &ObjectKey) -> Result<Bytes, Refused> {
        match self {
            Self::Sdk { region, dataset } => match dataset.get_bytes(key).await {
                Ok(body) => Ok(body),
                Err(error) => Err(refused(region, dataset, error).await),
            },
            Self::S3 { client, elsewhere } => {
                let get = Request::new(Method::Get, key.as_str());
                by_s3(client, elsewhere, &get).await
            }
        }
    }

    fn was_redirected(&self) -> bool {
        matches!(
            self,
            Self::S3 {
                elsewhere: None,
                ..
            }
        )
    }
}

/// What an error of the SDK means; a dataset that moved is found again, where it is.
async fn refused(region: &Region, dataset: &mut Dataset, error: Error) -> Refused {
    let said = error.to_string();
    match error {
        Error::Moved { .. } => {
            let Ok(name) = DATASET.parse() else {
                return Refused::Failed(anyhow!("a name that is none"));
            };
            match region.dataset(&name).await {
                Ok(found) => *dataset = found,
                Err(error) => return Refused::Again(format!("{said}; {error}")),
            }
            Refused::Again(said)
        }
        Error::Unavailable { .. } | Error::Unknown { .. } => Refused::Again(said),
        error => Refused::Failed(error.into()),
    }
}

/// One request by S3; where the answer is that the dataset is elsewhere, the next one goes there.
async fn by_s3(
    client: &mut Client,
    elsewhere: &mut Option<Endpoint>,
    request: &Request,
) -> Result<Bytes, Refused> {
    let answer = match client.ask(request).await {
        Ok(answer) => answer,
        Err(error) => {
            client.hang_up();
            return Err(Refused::Again(format!("{error:#}")));
        }
    };
    let status = answer.status();
    let body = match answer.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            client.hang_up();
            return Err(Refused::Again(error.to_string()));
        }
    };
    if status.is_success() {
        return Ok(body);
    }
    let said = format!("S3 says {status}: {}", String::from_utf8_lossy(&body));
    if status == StatusCode::MOVED_PERMANENTLY
        && let Some(there) = elsewhere.take()
    {
        *client = Client::new(&there, DATASET).map_err(Refused::Failed)?;
        return Err(Refused::Again(said));
    }
    match status.is_server_error() {
        true => Err(Refused::Again(said)),
        false => Err(Refused::Failed(anyhow!(said))),
    }
}

struct Writer {
    number: usize,
    door: Door,
    stop: Arc<AtomicBool>,
    acknowledged: Acknowledged,
}

impl Writer {
    async fn run(mut self) -> Result<Written> {
        let mut written = Written::default();
        let by = self.door.by();
        for number in 0_usize.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let (key, body) = self.item(number)?;
            self.put(&key, &body, &mut written).await?;
            self.acknowledged(by);
            written.bodies.insert(key, body);
            if number % READ_EVERY == 0 {
                // An older one, of before the move in the end.
                let (key, body) = self.item(number / 2)?;
                let found = self.get(&key, &mut written).await?;
                ensure!(
                    found == body,
                    "{} is read otherwise than written",
                    key.as_str()
                );
            }
            tokio::time::sleep(PAUSE).await;
        }
        written.redirected = usize::from(self.door.was_redirected());
        Ok(written)
    }

    fn acknowledged(&self, by: By) {
        let all = self.acknowledged.lock();
        all.unwrap_or_else(PoisonError::into_inner)
            .push((by, Instant::now()));
    }

    fn item(&self, number: usize) -> Result<(ObjectKey, Bytes)> {
        let writer = self.number;
        let by = match self.door.by() {
            By::Sdk => "sdk",
            By::S3 => "s3",
        };
        let line = format!("{by} {writer}: {number}\n");
        let bytes = if number % 10 == 9 { LARGER } else { SMALL };
        let body = line.repeat(bytes.div_ceil(line.len())).into();
        let key = format!("written/{by}-{writer}/{number:06}").parse()?;
        Ok((key, body))
    }

    async fn put(&mut self, key: &ObjectKey, body: &Bytes, written: &mut Written) -> Result<()> {
        let began = Instant::now();
        written.requests += 1;
        while let Err(error) = self.door.put(key, body).await {
            again(key, error, began, written).await?;
        }
        written.longest = written.longest.max(began.elapsed());
        Ok(())
    }

    async fn get(&mut self, key: &ObjectKey, written: &mut Written) -> Result<Bytes> {
        let began = Instant::now();
        written.requests += 1;
        loop {
            match self.door.get(key).await {
                Ok(body) => return Ok(body),
                Err(error) => again(key, error, began, written).await?,
            }
        }
    }
}

/// Waits for the next try, if there is to be one.
async fn again(
    key: &ObjectKey,
    error: Refused,
    began: Instant,
    written: &mut Written,
) -> Result<()> {
    let said = match error {
        Refused::Again(said) => said,
        Refused::Failed(error) => {
            return Err(error.context(format!("a request for {} failed", key.as_str())));
        }
    };
    ensure!(
        began.elapsed() < PATIENCE,
        "a request for {} failed after {} s of retries: {said}",
        key.as_str(),
        PATIENCE.as_secs()
    );
    written.retried += 1;
    tokio::time::sleep(RETRY).await;
    Ok(())
}
