//! `put`, `get`, `ls`, `stat`, `rm`.

use std::path::PathBuf;

use clap::Args;
use client::ids::{ObjectVersionId, UnixMs};
use client::{Body, GetOptions, ListOptions, Precondition, PutOptions, Retention};
use tokio::io::AsyncWriteExt as _;

use super::failure::{Failure, file};
use super::location::Location;
use super::object::Mode;
use super::output::{self, line};
use super::{Session, copy, dataset};

/// Seals and stores.
#[derive(Args)]
pub(crate) struct Put {
    /// A file, a folder (with -r), or - for standard input.
    source: PathBuf,
    /// dataset/key; with -r, dataset/prefix.
    to: Location,
    /// A folder with all below it.
    #[arg(short, long)]
    recursive: bool,
    /// Only if nothing is stored under the key.
    #[arg(long, conflicts_with = "if_match")]
    if_none_match: bool,
    /// Only if this is the current version.
    #[arg(long)]
    if_match: Option<ObjectVersionId>,
    /// MIME type; sealed.
    #[arg(long)]
    content_type: Option<String>,
    /// User metadata NAME=VALUE; sealed; may be repeated.
    #[arg(long = "meta", value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// Until when the version is not removed, in UTC: 2036-01-01T00:00:00Z. Takes object lock.
    #[arg(long, value_parser = output::parse_time, requires = "retention")]
    retain_until: Option<UnixMs>,
    /// How it is kept until then: `governance` or `compliance`.
    #[arg(long, requires = "retain_until")]
    retention: Option<Mode>,
    /// Under a legal hold from the beginning. Takes object lock.
    #[arg(long)]
    legal_hold: bool,
    /// Objects in flight with -r.
    #[arg(long, default_value_t = copy::PARALLEL)]
    parallel: usize,
}

/// Opens and reads.
#[derive(Args)]
pub(crate) struct Get {
    /// dataset/key; with -r, dataset/prefix.
    from: Location,
    /// A file, a folder (with -r), or - for standard output.
    target: PathBuf,
    /// Every object under the prefix.
    #[arg(short, long)]
    recursive: bool,
    /// This version instead of the current one.
    #[arg(long)]
    version: Option<ObjectVersionId>,
    /// Bytes START-END, both counted from 0, the end included.
    #[arg(long, value_parser = range)]
    range: Option<(u64, u64)>,
    /// Why it is opened; recorded in the region's log.
    #[arg(long, default_value = "")]
    purpose: String,
    /// Case number; recorded as a commitment.
    #[arg(long, default_value = "")]
    case: String,
    /// For whom; recorded as a commitment.
    #[arg(long, default_value = "")]
    on_behalf_of: String,
    /// Objects in flight with -r.
    #[arg(long, default_value_t = copy::PARALLEL)]
    parallel: usize,
}

/// Lists.
#[derive(Args)]
pub(crate) struct Ls {
    /// dataset or dataset/prefix; nothing lists datasets.
    what: Option<Location>,
    /// All below the prefix instead of one level.
    #[arg(short, long)]
    recursive: bool,
    /// Older versions and delete markers too.
    #[arg(long)]
    versions: bool,
}

/// What is known of an object.
#[derive(Args)]
pub(crate) struct Stat {
    /// dataset/key.
    what: Location,
    /// This version instead of the current one.
    #[arg(long)]
    version: Option<ObjectVersionId>,
}

/// Deletes.
#[derive(Args)]
pub(crate) struct Rm {
    /// dataset/key; with -r, dataset/prefix.
    what: Location,
    /// Every object under the prefix.
    #[arg(short, long)]
    recursive: bool,
    /// This version for good, instead of the current one.
    #[arg(long)]
    version: Option<ObjectVersionId>,
    /// Only if this is the current version.
    #[arg(long)]
    if_match: Option<ObjectVersionId>,
    /// Though governance retention keeps the version; takes the grant to change keys in the dataset.
    #[arg(long, requires = "version", conflicts_with = "if_match")]
    bypass_governance: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("not NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let (start, end) = text.split_once('-').ok_or("not START-END")?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| "not START-END".to_owned());
    let (start, end) = (number(start)?, number(end)?);
    if end < start {
        Err("the end lies before the start".to_owned())
    } else {
        Ok((start, end.saturating_add(1)))
    }
}

impl Put {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let region = session.region().await?;
        let dataset = region.dataset(&self.to.dataset).await?;
        let precondition = match (self.if_none_match, self.if_match) {
            (true, _) => Precondition::Absent,
            (false, Some(version)) => Precondition::Is(version),
            (false, None) => Precondition::Any,
        };
        let options = PutOptions {
            precondition,
            content_type: self.content_type,
            metadata: self.metadata.into_iter().collect(),
            retention: self
                .retention
                .zip(self.retain_until)
                .map(|(Mode(mode), until)| Retention { mode, until }),
            legal_hold: self.legal_hold,
            ..PutOptions::default()
        };
        if self.recursive {
            return copy::put(
                session,
                &dataset,
                &self.source,
                &self.to.rest,
                &options,
                self.parallel,
            )
            .await;
        }
        let stdin = self.source.as_os_str() == "-";
        let mut to = self.to;
        if to.rest.is_empty() || to.rest.ends_with('/') {
            let name = self
                .source
                .file_name()
                .filter(|_| !stdin)
                .and_then(|name| name.to_str());
            to.rest.push_str(
                name.ok_or_else(|| Failure::Usage("name the object, as in dataset/key".into()))?,
            );
        }
        let meter;
        let body = if stdin {
            meter = copy::Meter::endless(session);
            Body::stream(meter.reading(tokio::io::stdin()))
        } else {
            let opening = || file(format!("opening {}", self.source.display()));
            let opened = tokio::fs::File::open(&self.source).await;
            let opened = opened.map_err(opening())?;
            let bytes = opened.metadata().await.map_err(opening())?.len();
            meter = copy::Meter::of(session, bytes);
            Body::sized(meter.reading(opened), bytes)
        };
        let put = dataset.put(&to.key()?, body, &options).await;
        meter.clear();
        let put = put?;
        if session.json {
            let replaced = put.replaced.map(|version| version.to_string());
            line(
                serde_json::json!({ "version": put.version.to_string(), "bytes": put.bytes, "replaced": replaced }),
            );
        } else {
            line(format!(
                "{}/{}: {} bytes, version {}",
                to.dataset, to.rest, put.bytes, put.version
            ));
        }
        Ok(())
    }
}

impl Get {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let region = session.region().await?;
        let options = GetOptions {
            version: self.version,
            range: self.range,
            purpose: self.purpose,
            case: self.case,
            on_behalf_of: self.on_behalf_of,
        };
        let dataset = region.dataset_for(&self.from.dataset, &options).await?;
        if self.recursive {
            return copy::get(
                session,
                &dataset,
                &self.from.rest,
                &self.target,
                &options,
                self.parallel,
            )
            .await;
        }
        let key = self.from.key()?;
        let object = dataset.get(&key, &options).await?;
        let (leaf, version) = (object.leaf_index, object.info.version);
        if self.target.as_os_str() == "-" {
            object.body.copy_to(tokio::io::stdout()).await?;
            return Ok(());
        }
        let mut target = self.target;
        if target.is_dir() {
            target.push(key.as_str().rsplit('/').next().unwrap_or("object"));
        }
        let bytes = copy::write_file(object.body, &target).await?;
        if session.json {
            line(
                serde_json::json!({ "bytes": bytes, "version": version.to_string(), "leaf": leaf }),
            );
        } else {
            line(format!(
                "{}: {bytes} bytes, opening recorded as leaf {leaf}",
                target.display()
            ));
        }
        Ok(())
    }
}

impl Ls {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let region = session.region().await?;
        let Some(what) = self.what else {
            return dataset::list(session, &region).await;
        };
        let dataset = region.dataset(&what.dataset).await?;
        let show = |info: &client::ObjectInfo| {
            if session.json {
                line(output::object(info));
            } else {
                let size = if info.delete_marker {
                    "deleted".to_owned()
                } else {
                    info.bytes.to_string()
                };
                let version = if self.versions {
                    format!(" {}", info.version)
                } else {
                    String::new()
                };
                line(format!(
                    "{} {size:>14}{version} {}",
                    output::time(info.finished_at.0),
                    info.key.as_str()
                ));
            }
        };
        if self.versions {
            let mut after = None;
            loop {
                let page = dataset.list_versions(&what.rest, after, 0).await?;
                page.versions.iter().for_each(show);
                after = page.next;
                if after.is_none() {
                    return Ok(());
                }
            }
        }
        let delimiter = if self.recursive { "" } else { "/" };
        let mut options = ListOptions {
            prefix: what.rest,
            delimiter: delimiter.to_owned(),
            ..ListOptions::default()
        };
        loop {
            let page = dataset.list(&options).await?;
            for prefix in &page.common_prefixes {
                if session.json {
                    line(serde_json::json!({ "prefix": prefix }));
                } else {
                    line(format!("{:>20} {:>14} {prefix}", "", "PREFIX"));
                }
            }
            page.objects.iter().for_each(show);
            match page.next {
                Some(next) => options.start_after = next,
                None => return Ok(()),
            }
        }
    }
}

impl Stat {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let region = session.region().await?;
        let dataset = region.dataset(&self.what.dataset).await?;
        let info = output::object(&dataset.head(&self.what.key()?, self.version).await?);
        if session.json {
            line(info);
        } else {
            for (what, value) in info.as_object().into_iter().flatten() {
                line(format!(
                    "{what:<14} {}",
                    value.as_str().map_or(value.to_string(), str::to_owned)
                ));
            }
        }
        Ok(())
    }
}

impl Rm {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let region = session.region().await?;
        let dataset = region.dataset(&self.what.dataset).await?;
        if self.recursive {
            return copy::remove(session, &dataset, &self.what.rest).await;
        }
        let precondition = self.if_match.map_or(Precondition::Any, Precondition::Is);
        let key = self.what.key()?;
        let deleted = match self.version.filter(|_| self.bypass_governance) {
            Some(version) => {
                dataset
                    .delete_bypassing_governance(&key, version, precondition, None)
                    .await?
            }
            None => dataset.delete(&key, self.version, precondition).await?,
        };
        if session.json {
            let text =
                |version: Option<ObjectVersionId>| version.map(|version| version.to_string());
            line(
                serde_json::json!({ "marker": text(deleted.marker), "removed": text(deleted.removed) }),
            );
        }
        let mut out = tokio::io::stdout();
        out.flush().await.map_err(file("writing"))
    }
}
