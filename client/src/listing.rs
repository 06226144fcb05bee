//! Listings: a page is a snapshot at one log index; the next page goes on by key.

use proto::ids::ObjectKey;
use proto::v1;

use crate::dataset::{Dataset, ObjectInfo};
use crate::error::Error;

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Only keys that start with this.
    pub prefix: String,
    /// Keys that share what stands before this, after the prefix, are one common prefix.
    pub delimiter: String,
    /// Only keys after this one.
    pub start_after: String,
    /// Entries of one page; 0 lets the server choose.
    pub limit: u32,
}

/// One page of current objects.
#[derive(Debug, Clone)]
pub struct Page {
    /// Objects, in byte order of their keys.
    pub objects: Vec<ObjectInfo>,
    /// Common prefixes, in byte order.
    pub common_prefixes: Vec<String>,
    /// Where the next page starts; `None` at the end.
    pub next: Option<String>,
    /// The log index it shows.
    pub at_index: u64,
}

/// One page of versions, newest first within a key.
#[derive(Debug, Clone)]
pub struct VersionsPage {
    /// Versions and delete markers.
    pub versions: Vec<ObjectInfo>,
    /// Where the next page starts.
    pub next: Option<(String, u64)>,
    /// The log index it shows.
    pub at_index: u64,
}

impl Dataset {
    /// One page.
    pub async fn list(&self, options: &ListOptions) -> Result<Page, Error> {
        let request = v1::ListObjectsRequest {
            shard: self.shard().0,
            dataset_id: self.id().into(),
            prefix: options.prefix.clone(),
            delimiter: options.delimiter.clone(),
            start_after: options.start_after.clone(),
            limit: options.limit,
        };
        let reply = self
            .ask_shard(|mut shard| {
                let request = self.0.stated.of(request.clone());
                async move { Ok(shard.list_objects(request).await?.into_inner()) }
            })
            .await?;
        Ok(Page {
            objects: self.infos(reply.objects).await?,
            common_prefixes: reply.common_prefixes,
            next: reply.truncated.then_some(reply.next_start_after),
            at_index: reply.at_index,
        })
    }

    /// Every object under a prefix, page by page. Each page is a snapshot; the whole is not.
    pub async fn list_all(&self, prefix: &str) -> Result<Vec<ObjectInfo>, Error> {
        let mut options = ListOptions {
            prefix: prefix.to_owned(),
            ..ListOptions::default()
        };
        let mut all = Vec::new();
        loop {
            let page = self.list(&options).await?;
            all.extend(page.objects);
            match page.next {
                Some(next) => options.start_after = next,
                None => return Ok(all),
            }
        }
    }

    /// One page of versions.
    pub async fn list_versions(
        &self,
        prefix: &str,
        after: Option<(String, u64)>,
        limit: u32,
    ) -> Result<VersionsPage, Error> {
        let (start_after_key, start_after_index) = after.unwrap_or_default();
        let request = v1::ListVersionsRequest {
            shard: self.shard().0,
            dataset_id: self.id().into(),
            prefix: prefix.to_owned(),
            start_after_key,
            start_after_index,
            limit,
        };
        let reply = self
            .ask_shard(|mut shard| {
                let request = self.0.stated.of(request.clone());
                async move { Ok(shard.list_versions(request).await?.into_inner()) }
            })
            .await?;
        Ok(VersionsPage {
            versions: self.infos(reply.versions).await?,
            next: reply
                .truncated
                .then_some((reply.next_key, reply.next_index)),
            at_index: reply.at_index,
        })
    }

    async fn infos(&self, listed: Vec<v1::ListedObject>) -> Result<Vec<ObjectInfo>, Error> {
        let mut infos = Vec::with_capacity(listed.len());
        for object in listed {
            let key: ObjectKey = object.key.parse()?;
            let entry = object.entry.ok_or(Error::Protocol {
                what: "a listed object without entry",
            })?;
            infos.push(self.info(key, &entry, object.is_current).await?);
        }
        Ok(infos)
    }
}
