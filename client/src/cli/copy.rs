//! Recursive copies: many objects, a bound on how many at once, a bar, and a summary of what failed.
//!
//! A file is written beside its place and renamed when whole, so that a copy that was cut short leaves no half file.
//! Run again, a copy does all again: objects have no plaintext checksum outside the seal to compare by.

use std::path::{Component, Path, PathBuf};

use client::ids::{DatasetName, ObjectKey};
use client::{
    Body, Dataset, GetOptions, ObjectReader, Precondition, PutOptions, Region, Resealed, UploadInfo,
};
use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::io::AsyncRead;
use tokio_util::io::InspectReader;

use super::Session;
use super::failure::{Failure, file};
use super::output::line;

/// Objects in flight where nothing else was asked for.
pub(crate) const PARALLEL: usize = 32;
/// Failures that are printed; the rest are counted.
const FAILURES_SHOWN: usize = 10;

/// Bytes of a file whose put takes long enough to be watched.
const WATCHED_BYTES: u64 = 64 << 20;

/// How much of a body has been read, on the terminal: of one that is short, or for a program, nothing.
pub(crate) struct Meter(ProgressBar);

impl Meter {
    /// Of so many bytes.
    pub(crate) fn of(session: &Session, bytes: u64) -> Self {
        if bytes < WATCHED_BYTES {
            return Self(ProgressBar::hidden());
        }
        let template = "{bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left";
        Self::showing(session, Some(bytes), template)
    }

    /// Of a stream whose end nobody knows.
    pub(crate) fn endless(session: &Session) -> Self {
        Self::showing(session, None, "{bytes}, {bytes_per_sec}")
    }

    fn showing(session: &Session, bytes: Option<u64>, template: &str) -> Self {
        let target = match session.json {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr(),
        };
        let bar = ProgressBar::with_draw_target(bytes, target);
        let style = ProgressStyle::with_template(template);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self(bar)
    }

    /// The reader, watched.
    pub(crate) fn reading<R: AsyncRead>(
        &self,
        reader: R,
    ) -> InspectReader<R, impl FnMut(&[u8]) + Send + use<R>> {
        let bar = self.0.clone();
        InspectReader::new(reader, move |read: &[u8]| bar.inc(read.len() as u64))
    }

    /// Takes it off the terminal.
    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

struct Tally {
    what: &'static str,
    bar: ProgressBar,
    objects: usize,
    bytes: u64,
    failed: usize,
}

impl Tally {
    fn new(session: &Session, total: usize) -> Self {
        Self::of(session, total, "objects")
    }

    fn of(session: &Session, total: usize, what: &'static str) -> Self {
        let bar = if session.json {
            ProgressBar::hidden()
        } else {
            ProgressBar::new(total as u64)
        };
        let style = ProgressStyle::with_template(&format!(
            "{{bar:30}} {{pos}}/{{len}} {what}, {{per_sec}}, {{eta}} left {{msg}}"
        ));
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self {
            what,
            bar,
            objects: total,
            bytes: 0,
            failed: 0,
        }
    }

    fn count(&mut self, name: &str, outcome: Result<u64, Failure>) {
        match outcome {
            Ok(bytes) => self.bytes += bytes,
            Err(failure) => {
                self.failed += 1;
                if self.failed <= FAILURES_SHOWN {
                    self.bar.suspend(|| eprintln!("reduit: {name}: {failure}"));
                }
            }
        }
        self.bar.inc(1);
    }

    fn finish(self, session: &Session) -> Result<(), Failure> {
        self.bar.finish_and_clear();
        let (what, objects, bytes, failed) = (self.what, self.objects, self.bytes, self.failed);
        if session.json {
            line(serde_json::json!({ what: objects, "bytes": bytes, "failed": failed }));
        } else {
            line(format!("{} {what}, {bytes} bytes", objects - failed));
        }
        self.outcome()
    }

    fn outcome(&self) -> Result<(), Failure> {
        match self.failed {
            0 => Ok(()),
            failed => Err(Failure::Partly {
                failed,
                total: self.objects,
            }),
        }
    }
}

/// Stores a folder under a prefix.
pub(crate) async fn put(
    session: &Session,
    dataset: &Dataset,
    folder: &Path,
    prefix: &str,
    options: &PutOptions,
    parallel: usize,
) -> Result<(), Failure> {
    let mut files = Vec::new();
    walk(folder, &mut files)?;
    files.sort();
    let mut tally = Tally::new(session, files.len());
    let puts = futures::stream::iter(files).map(|path| async move {
        let name = key_of(folder, &path, prefix);
        let outcome = async {
            let key: ObjectKey = name.parse()?;
            let opened = tokio::fs::File::open(&path)
                .await
                .map_err(file("opening"))?;
            let bytes = opened.metadata().await.map_err(file("opening"))?.len();
            Ok(dataset
                .put(&key, Body::sized(opened, bytes), options)
                .await?
                .bytes)
        };
        (name.clone(), outcome.await)
    });
    let mut puts = puts.buffer_unordered(parallel.max(1));
    while let Some((name, outcome)) = puts.next().await {
        tally.count(&name, outcome);
    }
    drop(puts);
    tally.finish(session)
}

fn key_of(folder: &Path, path: &Path, prefix: &str) -> String {
    let below = path.strip_prefix(folder).unwrap_or(path).to_string_lossy();
    match prefix {
        "" => below.into_owned(),
        prefix if prefix.ends_with('/') => format!("{prefix}{below}"),
        prefix => format!("{prefix}/{below}"),
    }
}

/// Reads every object under a prefix into a folder.
pub(crate) async fn get(
    session: &Session,
    dataset: &Dataset,
    prefix: &str,
    folder: &Path,
    options: &GetOptions,
    parallel: usize,
) -> Result<(), Failure> {
    let listed = dataset.list_all(prefix).await?;
    let mut tally = Tally::new(session, listed.len());
    let gets = futures::stream::iter(listed).map(|info| async move {
        let outcome = async {
            let target = folder.join(below(info.key.as_str(), prefix)?);
            if let Some(parent) = target.parent() {
                tokio::fs::create_dir_all(parent)
                    .await
                    .map_err(file("making a folder"))?;
            }
            let object = dataset.get(&info.key, options).await?;
            write_file(object.body, &target).await
        };
        let outcome = outcome.await;
        (info.key, outcome)
    });
    let mut gets = gets.buffer_unordered(parallel.max(1));
    while let Some((key, outcome)) = gets.next().await {
        tally.count(key.as_str(), outcome);
    }
    drop(gets);
    tally.finish(session)
}

/// Where an object goes below the target folder. A key that would leave it is refused, not bent.
fn below(key: &str, prefix: &str) -> Result<PathBuf, Failure> {
    let cut = prefix.rfind('/').map_or(0, |slash| slash + 1);
    let name = key.get(cut..).unwrap_or(key);
    let path = PathBuf::from(name);
    let plain = !name.is_empty()
        && path
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
    if plain {
        Ok(path)
    } else {
        Err(Failure::Usage(
            "its key is no path below the folder".to_owned(),
        ))
    }
}

/// Writes a whole object or nothing.
pub(crate) async fn write_file(body: ObjectReader, target: &Path) -> Result<u64, Failure> {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".reduit-part");
    let part = target.with_file_name(name);
    let doing = format!("writing {}", target.display());
    let out = tokio::fs::File::create(&part)
        .await
        .map_err(file(doing.clone()))?;
    let written = match body.copy_to(tokio::io::BufWriter::new(out)).await {
        Ok(written) => written,
        Err(error) => {
            drop(tokio::fs::remove_file(&part).await);
            return Err(error.into());
        }
    };
    tokio::fs::rename(&part, target)
        .await
        .map_err(file(doing))?;
    Ok(written)
}

/// Deletes every object under a prefix.
pub(crate) async fn remove(
    session: &Session,
    dataset: &Dataset,
    prefix: &str,
) -> Result<(), Failure> {
    let listed = dataset.list_all(prefix).await?;
    let mut tally = Tally::new(session, listed.len());
    let removals = futures::stream::iter(listed).map(|info| async move {
        let outcome = dataset.delete(&info.key, None, Precondition::Any).await;
        (info.key, outcome.map(|_| info.bytes).map_err(Failure::from))
    });
    let mut removals = removals.buffer_unordered(PARALLEL);
    while let Some((key, outcome)) = removals.next().await {
        tally.count(key.as_str(), outcome);
    }
    drop(removals);
    tally.finish(session)
}

/// Ends uploads in parts.
pub(crate) async fn abort(
    session: &Session,
    dataset: &Dataset,
    uploads: Vec<UploadInfo>,
) -> Result<(), Failure> {
    let mut tally = Tally::of(session, uploads.len(), "uploads");
    let aborts = futures::stream::iter(uploads).map(|upload| async move {
        let outcome = dataset.abort_upload(&upload.key, upload.id).await;
        let outcome = outcome.map(|()| upload.sealed_bytes).map_err(Failure::from);
        (upload.key, outcome)
    });
    let mut aborts = aborts.buffer_unordered(PARALLEL);
    while let Some((key, outcome)) = aborts.next().await {
        tally.count(key.as_str(), outcome);
    }
    drop(aborts);
    tally.finish(session)
}

/// Seals every object of a dataset again under the key of another.
pub(crate) async fn reseal(
    session: &Session,
    region: &Region,
    from: &DatasetName,
    to: &DatasetName,
    parallel: usize,
) -> Result<(), Failure> {
    if from == to {
        let what = "the new dataset has to be another: a compromised key seals nothing any more";
        return Err(Failure::Usage(what.to_owned()));
    }
    let purpose = GetOptions {
        purpose: client::RESEAL.to_owned(),
        ..GetOptions::default()
    };
    let old = &region.dataset_for(from, &purpose).await?;
    let new = &region.dataset(to).await?;
    let histories = old.histories("").await?;
    let several = histories
        .iter()
        .any(|(_, versions)| versions.len() > 1 || versions.iter().any(|v| v.delete_marker));
    if several && !region.dataset_info(to).await?.versioning {
        return Err(Failure::Usage(format!(
            "{from} holds versions: turn versioning on first (reduit dataset versioning {to} on)"
        )));
    }
    let objects = histories.len();
    let mut tally = Tally::new(session, objects);
    let copies = futures::stream::iter(histories).map(|(key, versions)| async move {
        let outcome = old.reseal(&key, &versions, new).await;
        (key, outcome)
    });
    let mut copies = copies.buffer_unordered(parallel.max(1));
    let mut done = Resealed::default();
    while let Some((key, outcome)) = copies.next().await {
        let outcome = outcome.map_err(Failure::from).map(|copied| {
            done += copied;
            copied.bytes
        });
        tally.count(key.as_str(), outcome);
    }
    drop(copies);
    let (versions, already) = (done.versions, done.already);
    if session.json {
        tally.bar.finish_and_clear();
        line(serde_json::json!({
            "objects": objects,
            "versions": versions,
            "versions_before": already,
            "bytes": done.bytes,
            "failed": tally.failed,
        }));
    } else {
        tally.bar.suspend(|| {
            line(format!(
                "{versions} versions sealed again in {to}, {already} were there already"
            ));
        });
    }
    tally.outcome()
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let reading = || file(format!("reading {}", folder.display()));
    for entry in std::fs::read_dir(folder).map_err(reading())? {
        let entry = entry.map_err(reading())?;
        let kind = entry.file_type().map_err(reading())?;
        if kind.is_dir() {
            walk(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_leave_the_folder_are_refused() {
        for bad in ["a/../../etc/passwd", "/etc/passwd", "../x", "a/"] {
            let kept = below(bad, "");
            assert!(bad == "a/" || kept.is_err(), "{bad}");
        }
        assert_eq!(below("p/q/r", "p/").expect("plain"), PathBuf::from("q/r"));
        assert_eq!(below("p/q/r", "p/q").expect("plain"), PathBuf::from("q/r"));
    }

    #[test]
    fn a_folder_is_stored_under_its_prefix() {
        let key = |prefix| key_of(Path::new("/x"), Path::new("/x/a/b"), prefix);
        assert_eq!(key(""), "a/b");
        assert_eq!(key("p"), "p/a/b");
        assert_eq!(key("p/"), "p/a/b");
    }
}
