//! The parts of an object that a range needs, one after the other.
//!
//! Owns asking the shard where parts lie, at the beginning of a read and for all of it up to a bound: blocks outlive their
//! version by an epoch of grace, so who knows where they lie reads an object to its end that is deleted meanwhile. Owns
//! the start of parts to come while one is read. Refuses a part that is not as the sealed manifest has it: number,
//! lengths, commitment.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use envelope::{Manifest, ManifestPart, OpenDek, OpenError, PartRange};
use proto::v1;
use proto::v1::relocations_client::RelocationsClient;

use super::{Found, Layout, Source, Stream};
use crate::dataset::MESSAGE_BYTES_MAX;
use crate::error::Error;

/// Parts of one page.
const PAGE: u32 = 64;
/// Parts whose place is kept: of more, the rest is asked for when these have been read.
const LAYOUTS_MAX: usize = 1_000;
/// Blocks of those, which are of 1 TiB.
const BLOCKS_MAX: usize = 1 << 17;

/// Where parts lie, by number.
#[derive(Default)]
pub(super) struct Layouts {
    parts: BTreeMap<u32, v1::ListedPart>,
    blocks: usize,
}

impl Layouts {
    fn add(&mut self, listed: v1::ListedPart) {
        self.blocks += listed.blocks.len();
        let number = listed.part.as_ref().map_or(0, |part| part.number);
        self.parts.insert(number, listed);
    }

    fn are_full(&self) -> bool {
        self.parts.len() >= LAYOUTS_MAX || self.blocks >= BLOCKS_MAX
    }
}

/// What is left to be read of an object in parts.
pub(super) struct Parts {
    found: Arc<Found>,
    dek: OpenDek,
    manifest: Manifest,
    wanted: VecDeque<PartRange>,
    layouts: Layouts,
    /// Parts whose sealed bytes are on their way.
    ahead: VecDeque<(PartRange, Source)>,
}

impl Parts {
    pub(super) fn new(
        found: Arc<Found>,
        dek: OpenDek,
        manifest: Manifest,
        plain: Range<u64>,
        layouts: Layouts,
    ) -> Result<Self, Error> {
        let whole = manifest.plain_total();
        if plain.start > plain.end || plain.end > whole {
            return Err(Error::Caller {
                reason: "range-not-satisfiable".to_owned(),
                message: format!("the object has {whole} bytes"),
            });
        }
        let wanted = manifest.locate(plain).collect();
        Ok(Self {
            found,
            dek,
            manifest,
            wanted,
            layouts,
            ahead: VecDeque::new(),
        })
    }

    /// What is known of where parts lie, for a reader that goes on where this one ends.
    pub(super) fn take_layouts(&mut self) -> Layouts {
        std::mem::take(&mut self.layouts)
    }

    /// The next part to be read, its header checked; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Stream>, Error> {
        let tuning = &self.found.dataset.0.region.0.tuning;
        let window = tuning.download_window_blocks.max(1);
        // Always the next one, and more while they are small.
        loop {
            let in_flight: usize = self
                .ahead
                .iter()
                .map(|(_, source)| source.in_flight())
                .sum();
            let enough = self.ahead.len() >= window || in_flight >= window;
            if !self.ahead.is_empty() && enough || !self.start_one().await? {
                break;
            }
        }
        let Some((range, source)) = self.ahead.pop_front() else {
            return Ok(None);
        };
        let part = &self.manifest.parts()[range.index];
        Stream::open(source, &self.dek, part, range.plain)
            .await
            .map(Some)
    }

    /// Asks for the sealed bytes of one more part; `false` when there is none.
    async fn start_one(&mut self) -> Result<bool, Error> {
        let Some(range) = self.wanted.pop_front() else {
            return Ok(false);
        };
        let part = self.manifest.parts()[range.index];
        if !self.layouts.parts.contains_key(&part.number.0) {
            self.ask(&part).await?;
        }
        let listed = self.layouts.parts.get(&part.number.0).cloned();
        let layout = listed.and_then(|listed| layout(listed, &part));
        let layout = layout.ok_or(Error::NotAuthentic(OpenError))?;
        let source = Source::start(&self.found, layout, range.plain.clone())?;
        self.ahead.push_back((range, source));
        Ok(true)
    }

    /// Asks where this part and those wanted after it lie. Parts without bytes are listed and not wanted.
    async fn ask(&mut self, from: &ManifestPart) -> Result<(), Error> {
        if self.layouts.are_full() {
            self.layouts = Layouts::default();
        }
        let last = self.wanted.back();
        let last = last.map_or(from, |range| &self.manifest.parts()[range.index]);
        let (last, mut after) = (last.number.0, from.number.0.saturating_sub(1));
        loop {
            let page = self.page(after).await?;
            let numbers = page.parts.iter().filter_map(|listed| listed.part.as_ref());
            let Some(end) = numbers.map(|part| part.number).max() else {
                return Ok(());
            };
            page.parts
                .into_iter()
                .for_each(|part| self.layouts.add(part));
            if !page.truncated || end >= last || end <= after || self.layouts.are_full() {
                return Ok(());
            }
            after = end;
        }
    }

    async fn page(&self, start_after: u32) -> Result<v1::ListPartsReply, Error> {
        let found = &self.found;
        if let Some(of) = &found.arriving {
            return self.arriving(of, start_after).await;
        }
        let request = v1::ListPartsRequest {
            shard: found.dataset.shard().0,
            dataset_id: found.dataset.id().into(),
            key: found.key.as_str().to_owned(),
            version_id: found.entry.version_id.clone(),
            start_after,
            limit: PAGE,
            with_bodies: true,
        };
        let reply = found
            .dataset
            .ask_shard(|mut shard| {
                let request = found.options.stated().of(request.clone());
                async move { Ok(shard.list_parts(request).await?.into_inner()) }
            })
            .await;
        match reply {
            Ok(reply) => Ok(reply),
            // Deleted since it was found.
            Err(error) if error.reason() == "no-such-upload" => Err(Error::NoSuchObject),
            Err(error) => Err(error),
        }
    }

    async fn arriving(
        &self,
        of: &v1::Relocated,
        start_after: u32,
    ) -> Result<v1::ListPartsReply, Error> {
        let found = &self.found;
        let request = v1::RelocatedPartsRequest {
            of: Some(of.clone()),
            key: found.key.as_str().to_owned(),
            version_id: found.entry.version_id.clone(),
            start_after,
            limit: PAGE,
        };
        let region = &found.dataset.0.region;
        let ask = |_, channel| {
            let client = RelocationsClient::new(region.1.over(channel));
            let mut client = client.max_decoding_message_size(MESSAGE_BYTES_MAX);
            let request = request.clone();
            async move { Ok(client.parts(request).await?.into_inner()) }
        };
        let nodes = &region.0.nodes;
        nodes
            .on_leader(found.dataset.shard(), &region.0.tuning, ask)
            .await
    }
}

/// Where the part lies, if it is the one the manifest names.
pub(crate) fn layout(listed: v1::ListedPart, part: &ManifestPart) -> Option<Layout> {
    let record = listed.part?;
    let stored: u64 = match listed.blocks.is_empty() {
        true => listed.inline.len() as u64,
        false => listed
            .blocks
            .iter()
            .map(|block| u64::from(block.bytes))
            .sum(),
    };
    let same = record.number == part.number.0
        && record.commitment[..] == part.commitment.0[..]
        && record.plain_bytes == part.plain
        && record.sealed_bytes == part.sealed
        && stored == part.sealed;
    same.then_some(Layout {
        id: record.part_id,
        plain_bytes: part.plain,
        inline: listed.inline,
        blocks: listed.blocks,
    })
}
