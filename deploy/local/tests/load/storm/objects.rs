//! Objects whose keys everybody writes: each key is a register, and every request an operation on it.

use std::collections::BTreeMap;

use checker::history::Op;
use checker::{BROKEN, F, UNAVAILABLE, Workload};
use local::s3::{Method, Request};
use rand::Rng as _;
use serde_json::Value;

use super::content::content;
use super::history::Ended;
use super::load::{PLAIN, Worker};
use super::s3::{Answer, elements};

/// Bytes of a small object: up to 64 KiB, one in four of a few.
const SMALL_MAX: u64 = 64 << 10;
const TINY_MAX: u64 = 64;
const TINY_ONE_IN: u32 = 4;
/// Keys of one listing; there are fewer.
const PAGE: &str = "1000";
const PRECONDITION: &str = "precondition-failed";

/// What was seen under a key.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) number: u64,
    pub(crate) etag: String,
}

/// A request that says which write it is, and of which content its bytes are.
pub(crate) fn described(request: Request, number: u64, of: u64, bytes: u64) -> Request {
    request
        .header("x-amz-meta-number", number.to_string())
        .header("x-amz-meta-content", of.to_string())
        .header("x-amz-meta-bytes", bytes.to_string())
}

/// An ETag without its quotes.
pub(crate) fn bare(etag: &str) -> String {
    etag.replace("&quot;", "").replace('"', "")
}

/// Which write an answer is of, if every byte of it is that write's.
pub(crate) fn opened(answer: &Answer) -> Result<Seen, String> {
    let broken = |what: &str| format!("{BROKEN}{what}");
    let stated = |name: &str| answer.header(name)?.parse::<u64>().ok();
    let named = (
        stated("x-amz-meta-number"),
        stated("x-amz-meta-content"),
        stated("x-amz-meta-bytes"),
        answer.header("etag"),
    );
    let (Some(number), Some(of), Some(bytes), Some(etag)) = named else {
        return Err(broken("wrong-metadata"));
    };
    let range = match answer.header("content-range") {
        None => Some((0, bytes, bytes)),
        Some(range) => parts_of(range),
    };
    let whole = range.filter(|(start, end, total)| {
        let length = answer.body.len() as u64;
        *total == bytes && end - start == length && content(of, *start..*end) == answer.body
    });
    match whole {
        Some(_) => Ok(Seen {
            number,
            etag: bare(etag),
        }),
        None => Err(broken("wrong-bytes")),
    }
}

/// Start, end and total of `bytes START-LAST/TOTAL`.
fn parts_of(range: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (start, last) = range.split_once('-')?;
    let (start, last): (u64, u64) = (start.parse().ok()?, last.parse().ok()?);
    (start <= last).then_some((start, last + 1, total.parse().ok()?))
}

impl Worker {
    fn small(&mut self) -> u64 {
        match self.rng.random_range(0..TINY_ONE_IN) {
            0 => self.rng.random_range(1..=TINY_MAX),
            _ => self.rng.random_range(1..=SMALL_MAX),
        }
    }

    pub(crate) async fn put(&mut self, key: &str) {
        let (number, bytes) = (self.shared.history.number(), self.small());
        let op = self.register(key, F::Write, number);
        let put = described(Request::new(Method::Put, key), number, number, bytes);
        let put = put.body(content(number, 0..bytes));
        let answer = self.ask("a put", put).await;
        self.written("a put", op, answer, false);
    }

    /// Only if nothing is there.
    pub(crate) async fn create(&mut self, key: &str) {
        let (number, bytes) = (self.shared.history.number(), self.small());
        let op = self.register(key, F::Create, number);
        let put = described(Request::new(Method::Put, key), number, number, bytes);
        let put = put
            .header("if-none-match", "*")
            .body(content(number, 0..bytes));
        let answer = self.ask("a put if nothing is there", put).await;
        self.written("a put if nothing is there", op, answer, true);
    }

    /// Only if what it reads first is still there.
    pub(crate) async fn swap(&mut self, key: &str) {
        let Some(seen) = self.read(key, false, false).await else {
            return;
        };
        let (number, bytes) = (self.shared.history.number(), self.small());
        let op = self.register(key, F::Cas, number);
        let op = Op {
            old: seen.number.into(),
            ..op
        };
        let put = described(Request::new(Method::Put, key), number, number, bytes);
        let put = put.header("if-match", format!("\"{}\"", seen.etag));
        let answer = self.ask(
            "a put if it is the same",
            put.body(content(number, 0..bytes)),
        );
        let answer = answer.await;
        self.written("a put if it is the same", op, answer, true);
    }

    /// From an object that nobody writes.
    pub(crate) async fn copy(&mut self, key: &str) {
        let at = self.rng.random_range(0..self.shared.sources.len());
        let source = self.shared.sources[at].clone();
        let number = self.shared.history.number();
        let op = self.register(key, F::Write, number);
        let copy = Request::new(Method::Put, key)
            .header("x-amz-copy-source", format!("/{PLAIN}/{}", source.key))
            .header("x-amz-metadata-directive", "REPLACE");
        let copy = described(copy, number, source.content, source.bytes);
        let answer = self.ask("a copy", copy).await;
        self.written("a copy", op, answer, false);
    }

    pub(crate) async fn clear(&mut self, key: &str) {
        let op = self.shared.history.ask(Workload::Register, key, F::Clear);
        let answer = self
            .ask("a delete", Request::new(Method::Delete, key))
            .await;
        let ended = match answer {
            Some(answer) if answer.status == 204 => Ended::Ok(None),
            other => self.doubted("a delete", key, other.as_ref()),
        };
        self.shared.history.end(op, ended);
    }

    /// Reads an object, or a range of it by chance; what was there, where something was.
    pub(crate) async fn read(&mut self, key: &str, part: bool, last: bool) -> Option<Seen> {
        let op = self.shared.history.ask(Workload::Register, key, F::Read);
        let op = Op { last, ..op };
        let get = Request::new(Method::Get, key);
        let get = match (part, self.rng.random_range(0..2)) {
            (false, _) => get,
            (true, 0) => {
                let start = self.rng.random_range(0..1_000_u64);
                let end = start + self.rng.random_range(0..300_000);
                get.header("range", format!("bytes={start}-{end}"))
            }
            (true, _) => {
                let last = self.rng.random_range(1..300_000_u64);
                get.header("range", format!("bytes=-{last}"))
            }
        };
        let answer = self.ask("a get", get).await;
        let (ended, seen) = self.seen("a get", answer);
        if let Some(ended) = ended {
            self.shared.history.end(op, ended);
        }
        seen
    }

    fn seen(&self, what: &str, answer: Option<Answer>) -> (Option<Ended>, Option<Seen>) {
        let Some(answer) = answer else {
            return (Some(Ended::Fail(format!("{UNAVAILABLE}failed"))), None);
        };
        match answer.status {
            200 | 206 => match opened(&answer) {
                Ok(seen) => {
                    self.named(&seen.etag, seen.number);
                    (Some(Ended::Ok(Some(seen.number.into()))), Some(seen))
                }
                Err(broken) => (Some(Ended::Fail(broken)), None),
            },
            404 => (Some(Ended::Ok(Some(Value::Null))), None),
            // A range behind the end of what is there: which write that is, is not said.
            416 => (None, None),
            _ => {
                self.unexpected(what, &answer);
                (Some(Ended::Fail("unexpected".to_owned())), None)
            }
        }
    }

    /// Every key in use, at one moment.
    pub(crate) async fn list(&mut self) {
        let in_use = self.shared.keys.active();
        let op = self.shared.history.ask(Workload::Register, "", F::Read);
        let list = Request::new(Method::Get, "")
            .query("list-type", "2")
            .query("prefix", "r/")
            .query("max-keys", PAGE);
        let Some(answer) = self.ask("a listing", list).await else {
            return;
        };
        if answer.status != 200 {
            return self.unexpected("a listing", &answer);
        }
        let text = answer.text();
        let listed: BTreeMap<_, _> = elements(&text, "Contents")
            .into_iter()
            .filter_map(|object| {
                let (key, etag) = (elements(object, "Key"), elements(object, "ETag"));
                Some(((*key.first()?).to_owned(), bare(etag.first()?)))
            })
            .collect();
        let shown = in_use.into_iter().map(|key| {
            let etag = listed.get(&key).cloned();
            (key, etag)
        });
        self.shared.history.listed(op, shown.collect());
    }

    pub(crate) fn register(&self, key: &str, f: F, number: u64) -> Op {
        let op = self.shared.history.ask(Workload::Register, key, f);
        Op {
            value: number.into(),
            ..op
        }
    }

    pub(crate) fn named(&self, etag: &str, number: u64) {
        if !self.shared.history.name(etag, number) {
            self.shared
                .wrong(format!("one ETag of two writes, {number} among them"));
        }
    }

    /// What a put came to. `conditional`: it may be refused for what is there.
    pub(crate) fn written(&self, what: &str, op: Op, answer: Option<Answer>, conditional: bool) {
        let ended = match answer {
            Some(answer) if answer.status == 200 => {
                let text = answer.text();
                let inside = elements(&text, "ETag").first().map(|etag| bare(etag));
                let etag = answer.header("etag").map(bare).or(inside);
                match (etag, op.value.as_u64()) {
                    (Some(etag), Some(number)) => self.named(&etag, number),
                    _ => self.unexpected(what, &answer),
                }
                Ended::Ok(None)
            }
            Some(answer) if conditional && matches!(answer.status, 404 | 412) => {
                Ended::Fail(PRECONDITION.to_owned())
            }
            // Its own earlier try may have been the other change.
            Some(answer) if conditional && answer.status == 409 => {
                self.shared.keys.doubt(&op.key);
                Ended::Info("conflict".to_owned())
            }
            other => self.doubted(what, &op.key, other.as_ref()),
        };
        self.shared.history.end(op, ended);
    }

    pub(crate) fn doubted(&self, what: &str, key: &str, answer: Option<&Answer>) -> Ended {
        if let Some(answer) = answer {
            self.unexpected(what, answer);
        }
        self.shared.keys.doubt(key);
        Ended::Info("failed".to_owned())
    }
}

#[test]
fn bytes_of_another_write_or_place_or_length_are_seen() {
    let answer = |of: u64, bytes: u64, range: Option<&str>, body| {
        let mut headers = local::s3::HeaderMap::new();
        let stated = [("number", 9), ("content", of), ("bytes", bytes)];
        for (name, value) in stated {
            let name: hyper::header::HeaderName =
                format!("x-amz-meta-{name}").parse().expect("one");
            headers.insert(name, value.into());
        }
        headers.insert("etag", "\"e\"".parse().expect("a value"));
        if let Some(range) = range {
            headers.insert("content-range", range.parse().expect("a value"));
        }
        let (status, tries) = (200, 1);
        opened(&Answer {
            status,
            headers,
            body,
            tries,
        })
        .map(|seen| (seen.number, seen.etag))
    };
    let right = Ok((9, "e".to_owned()));
    assert_eq!(answer(3, 100, None, content(3, 0..100)), right);
    let range = Some("bytes 10-19/100");
    assert_eq!(answer(3, 100, range, content(3, 10..20)), right);
    for wrong in [
        answer(3, 100, None, content(4, 0..100)),
        answer(3, 100, None, content(3, 0..99)),
        answer(3, 99, None, content(3, 0..100)),
        answer(3, 100, range, content(3, 11..21)),
        answer(3, 101, range, content(3, 10..20)),
    ] {
        assert!(wrong.expect_err("wrong").starts_with(BROKEN));
    }
}
