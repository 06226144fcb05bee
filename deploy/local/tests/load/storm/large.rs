//! Large objects, in one piece and in parts. A key is written by one worker, and read by all.
//!
//! A worker waits for what became of one upload before it begins the next under that key: a completion that is sent again
//! is answered as before only while the version is there (docs/S3.md).

use checker::F;
use local::s3::{Method, Request};
use rand::Rng as _;

use super::content::content;
use super::load::Worker;
use super::objects::{bare, described};
use super::s3::elements;

/// A put of several blocks.
const WHOLE_BYTES: u64 = (9 << 20) + 4_321;
/// Every part but the last, as S3 has them at least.
const PART_BYTES: u64 = 5 << 20;
const PARTS: std::ops::RangeInclusive<u64> = 2..=4;
/// Changes of a key before the next one.
const CHANGES_MAX: u32 = 40;

impl Worker {
    fn own_key(&mut self) -> String {
        let (key, changes) = match self.own.take() {
            Some((key, changes)) if changes < CHANGES_MAX => (key, changes),
            _ => {
                self.generation += 1;
                let key = format!("m/{}-{}", self.name, self.generation);
                self.shared.large.lock().push(key.clone());
                (key, 0)
            }
        };
        self.own = Some((key.clone(), changes + 1));
        key
    }

    /// One large object more, where there is room for one.
    pub(crate) async fn upload(&mut self) {
        let key = self.own_key();
        let parts = self.rng.random_range(PARTS);
        match self.rng.random_range(0..8) {
            0 if self.shared.has_room(WHOLE_BYTES) => self.put_whole(&key).await,
            1 => self.clear(&key).await,
            _ if self.shared.has_room(parts * PART_BYTES) => {
                let _ = self.in_parts(&key, parts).await;
            }
            _ => self.put(&key).await,
        }
    }

    async fn put_whole(&mut self, key: &str) {
        let number = self.shared.history.number();
        let op = self.register(key, F::Write, number);
        let put = described(Request::new(Method::Put, key), number, number, WHOLE_BYTES);
        let answer = self.ask("a put of 9 MiB", put.body(content(number, 0..WHOLE_BYTES)));
        let answer = answer.await;
        self.written("a put of 9 MiB", op, answer, false);
    }

    /// None where a request failed, which was counted.
    async fn in_parts(&mut self, key: &str, parts: u64) -> Option<()> {
        let number = self.shared.history.number();
        let bytes = (parts - 1) * PART_BYTES + self.rng.random_range(1..PART_BYTES);
        let begin = Request::new(Method::Post, key).query("uploads", "");
        let begun = self.ask(
            "a beginning of an upload",
            described(begin, number, number, bytes),
        );
        let begun = begun.await?;
        let text = begun.text();
        let Some(upload) = elements(&text, "UploadId").first().copied() else {
            self.unexpected("a beginning of an upload", &begun);
            return None;
        };
        let mut named = String::new();
        for part in 1..=parts {
            let start = (part - 1) * PART_BYTES;
            let end = (start + PART_BYTES).min(bytes);
            let put = Request::new(Method::Put, key)
                .query("partNumber", part.to_string())
                .query("uploadId", upload);
            let answer = self.ask("a part", put.body(content(number, start..end)));
            let answer = answer.await?;
            let Some(etag) = answer.header("etag").filter(|_| answer.status == 200) else {
                self.unexpected("a part", &answer);
                return None;
            };
            named += &format!(
                "<Part><PartNumber>{part}</PartNumber><ETag>\"{}\"</ETag></Part>",
                bare(etag)
            );
        }
        if self.rng.random_range(0..6) == 0 {
            return self.abort(key, upload).await;
        }
        let op = self.register(key, F::Write, number);
        let body = format!("<CompleteMultipartUpload>{named}</CompleteMultipartUpload>");
        let complete = Request::new(Method::Post, key).query("uploadId", upload);
        let answer = self.ask("a completion", complete.body(body)).await;
        self.written("a completion", op, answer, false);
        Some(())
    }

    /// Nothing of it is ever seen: no write of its number is in the history.
    async fn abort(&mut self, key: &str, upload: &str) -> Option<()> {
        let abort = Request::new(Method::Delete, key).query("uploadId", upload);
        let answer = self.ask("an abort", abort).await?;
        // Sent again after it had effect, it finds nothing any more.
        let gone = answer.tries > 1 && answer.status == 404;
        if answer.status != 204 && !gone {
            self.unexpected("an abort", &answer);
        }
        Some(())
    }

    /// Somebody's large object: mostly a range of it.
    pub(crate) async fn read_large(&mut self) {
        let key = {
            let large = self.shared.large.lock();
            let at = self.rng.random_range(0..large.len().max(1));
            large.get(at).cloned()
        };
        if let Some(key) = key {
            let part = self.rng.random_range(0..5) != 0;
            drop(self.read(&key, part, false).await);
        }
    }
}
