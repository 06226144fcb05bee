//! Versions under compliance retention, in a bucket with object lock: put, attacked, read by their ids, listed.

use checker::history::Op;
use checker::{BROKEN, F, UNAVAILABLE, Workload};
use local::s3::{Method, Request};
use rand::Rng as _;
use serde_json::Value;

use super::content::content;
use super::history::Ended;
use super::load::Worker;
use super::objects::{described, opened};
use super::s3::{Answer, elements};

const KEYS: u32 = 4;
const BYTES_MAX: u64 = 40_000;
/// Ends of retention, long after any storm.
const UNTIL: &str = "2099-01-01T00:00:00Z";
const EARLIER: &str = "2098-01-01T00:00:00Z";
/// Versions of one listing; there are fewer.
const PAGE: &str = "1000";

/// A version whose lock was acknowledged.
#[derive(Clone)]
pub(crate) struct Locked {
    pub(crate) key: String,
    pub(crate) number: u64,
    pub(crate) version: String,
}

/// Every key there may be.
pub(crate) fn keys() -> impl Iterator<Item = String> {
    (0..KEYS).map(|at| format!("l/{at}"))
}

impl Worker {
    pub(crate) async fn in_the_vault(&mut self) {
        let key = format!("l/{}", self.rng.random_range(0..KEYS));
        let known = {
            let locked = self.shared.locked.lock();
            let at = self.rng.random_range(0..locked.len().max(1));
            locked.get(at).cloned()
        };
        match (self.rng.random_range(0..8), known) {
            (0..3, _) | (_, None) => self.lock(&key).await,
            (3, Some(version)) => self.remove(&version).await,
            (4, Some(version)) => self.shorten(&version).await,
            (5, Some(version)) => self.read_version(&version, false).await,
            (6, _) => self.cover(&key).await,
            (_, _) => self.list_versions(&key, false).await,
        }
    }

    async fn lock(&mut self, key: &str) {
        let number = self.shared.history.number();
        let bytes = self.rng.random_range(1..=BYTES_MAX);
        let op = self.asked(key, F::Lock, number);
        let put = described(Request::new(Method::Put, key), number, number, bytes)
            .header("x-amz-object-lock-mode", "COMPLIANCE")
            .header("x-amz-object-lock-retain-until-date", UNTIL)
            .body(content(number, 0..bytes));
        let answer = self.vault.ask("a locked put", put).await.ok();
        let version = answer.as_ref().filter(|answer| answer.status == 200);
        let version = version.and_then(|answer| answer.header("x-amz-version-id"));
        let ended = match version {
            Some(version) => {
                self.named(version, number);
                self.shared.locked.lock().push(Locked {
                    key: key.to_owned(),
                    number,
                    version: version.to_owned(),
                });
                Ended::Ok(None)
            }
            None => self.doubted("a locked put", key, answer.as_ref()),
        };
        self.shared.history.end(op, ended);
    }

    async fn remove(&mut self, of: &Locked) {
        let op = self.asked(&of.key, F::Remove, of.number);
        let remove = Request::new(Method::Delete, of.key.as_str());
        let remove = remove.query("versionId", of.version.as_str());
        let answer = self.vault.ask("a removal of a version", remove).await;
        self.refused("a removal of a version", op, answer.ok());
    }

    async fn shorten(&mut self, of: &Locked) {
        let op = self.asked(&of.key, F::Unlock, of.number);
        let body = format!(
            "<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>{EARLIER}</RetainUntilDate></Retention>"
        );
        let shorten = Request::new(Method::Put, of.key.as_str())
            .query("retention", "")
            .query("versionId", of.version.as_str())
            .body(body);
        let answer = self.vault.ask("a shorter retention", shorten).await;
        self.refused("a shorter retention", op, answer.ok());
    }

    /// A marker on top of the versions: it removes none.
    async fn cover(&mut self, key: &str) {
        let cover = Request::new(Method::Delete, key);
        let answer = self.vault.ask("a delete marker", cover).await;
        if let Some(answer) = answer.ok().filter(|answer| answer.status != 204) {
            self.unexpected("a delete marker", &answer);
        }
    }

    /// What is locked is not changed: whoever is told so knows nothing new.
    fn refused(&self, what: &str, op: Op, answer: Option<Answer>) {
        let ended = match answer {
            Some(answer) => match answer.status {
                200 | 204 => Ended::Ok(None),
                403 => Ended::Fail("object-locked".to_owned()),
                404 => Ended::Fail("no-such-object".to_owned()),
                _ => self.doubted(what, &op.key, Some(&answer)),
            },
            None => Ended::Info("failed".to_owned()),
        };
        self.shared.history.end(op, ended);
    }

    pub(crate) async fn read_version(&mut self, of: &Locked, last: bool) {
        let op = self.shared.history.ask(Workload::Locks, &of.key, F::Read);
        let op = Op {
            old: of.number.into(),
            last,
            ..op
        };
        let get = Request::new(Method::Get, of.key.as_str());
        let get = get.query("versionId", of.version.as_str());
        let answer = self.vault.ask("a get of a version", get).await.ok();
        let ended = match answer {
            None => Ended::Fail(format!("{UNAVAILABLE}failed")),
            Some(answer) if answer.status == 404 => Ended::Ok(Some(Value::Null)),
            Some(answer) if answer.status == 200 => match opened(&answer) {
                Ok(seen) if seen.number == of.number => Ended::Ok(Some(seen.number.into())),
                Ok(_) => Ended::Fail(format!("{BROKEN}another-version")),
                Err(broken) => Ended::Fail(broken),
            },
            Some(answer) => {
                self.unexpected("a get of a version", &answer);
                Ended::Fail("unexpected".to_owned())
            }
        };
        self.shared.history.end(op, ended);
    }

    pub(crate) async fn list_versions(&mut self, key: &str, last: bool) {
        let op = self.shared.history.ask(Workload::Locks, key, F::Versions);
        let op = Op { last, ..op };
        let list = Request::new(Method::Get, "")
            .query("versions", "")
            .query("prefix", key)
            .query("max-keys", PAGE);
        let Ok(answer) = self.vault.ask("a listing of versions", list).await else {
            return;
        };
        if answer.status != 200 {
            return self.unexpected("a listing of versions", &answer);
        }
        let text = answer.text();
        let ids = elements(&text, "Version").into_iter();
        let ids = ids.flat_map(|version| elements(version, "VersionId"));
        // Newest first; the history has them oldest first.
        let ids = ids.map(str::to_owned).rev().collect();
        self.shared.history.listed_versions(op, ids);
    }

    fn asked(&self, key: &str, f: F, number: u64) -> Op {
        let op = self.shared.history.ask(Workload::Locks, key, f);
        Op {
            value: number.into(),
            ..op
        }
    }
}
