//! The parts of an object that a range needs, one after the other.
//!
//! Owns asking the shard where parts lie, some at a time, and the start of parts to come while one is read. Refuses a
//! part that is not as the sealed manifest has it: number, lengths, commitment.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use envelope::{Manifest, ManifestPart, OpenDek, OpenError, PartRange};
use proto::v1;

use super::{Found, Layout, Source, Stream};
use crate::error::Error;

/// Parts whose place is asked for at once.
const LAYOUTS_MAX: u32 = 64;

/// What is left to be read of an object in parts.
pub(super) struct Parts {
    found: Arc<Found>,
    dek: OpenDek,
    manifest: Manifest,
    wanted: VecDeque<PartRange>,
    /// Where parts lie, from the first wanted one on.
    layouts: VecDeque<v1::ListedPart>,
    /// Parts whose sealed bytes are on their way.
    ahead: VecDeque<(PartRange, Source)>,
}

impl Parts {
    pub(super) fn new(
        found: Arc<Found>,
        dek: OpenDek,
        manifest: Manifest,
        plain: Range<u64>,
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
            layouts: VecDeque::new(),
            ahead: VecDeque::new(),
        })
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
        if self.layouts.is_empty() {
            self.layouts = self.ask(&part).await?;
        }
        let layout = self
            .layouts
            .pop_front()
            .and_then(|listed| layout(listed, &part));
        let layout = layout.ok_or(Error::NotAuthentic(OpenError))?;
        let source = Source::start(&self.found, layout, range.plain.clone())?;
        self.ahead.push_back((range, source));
        Ok(true)
    }

    /// Where this part and those after it lie.
    async fn ask(&self, from: &ManifestPart) -> Result<VecDeque<v1::ListedPart>, Error> {
        let found = &self.found;
        let request = v1::ListPartsRequest {
            shard: found.dataset.shard().0,
            dataset_id: found.dataset.id().into(),
            key: found.key.as_str().to_owned(),
            version_id: found.entry.version_id.clone(),
            start_after: from.number.0.saturating_sub(1),
            limit: LAYOUTS_MAX,
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
            Ok(reply) => Ok(reply.parts.into()),
            // Deleted since it was found.
            Err(error) if error.reason() == "no-such-upload" => Err(Error::NoSuchObject),
            Err(error) => Err(error),
        }
    }
}

/// Where the part lies, if it is the one the manifest names.
fn layout(listed: v1::ListedPart, part: &ManifestPart) -> Option<Layout> {
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
