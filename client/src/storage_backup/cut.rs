//! Where one page ends and the next begins.
//!
//! Owns that pages of two backups are equal where the dataset did not change: a page begins at a key, or a lease, that
//! its own digest chooses, so that what was put or removed before it moves no page behind it. Refuses pages that grow
//! past their bound, unless one item alone does.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use proto::storage_backup::PAGE_ITEMS_BYTES;
use proto::v1;
use proto::v1::backup_item::Item;

/// Bytes of items below which no page is closed for the sake of the next one.
const BYTES_MIN: usize = 64 << 10;
/// One key of so many begins a page.
const ONE_OF: u8 = 32;

/// Items of one page, and the blocks that they name.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Page {
    pub(super) items: Vec<v1::BackupItem>,
    pub(super) blocks: BTreeMap<Bytes, u32>,
    bytes: usize,
}

/// Items in order, cut into pages.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    page: Page,
    at: Option<Place>,
}

/// What an item belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Dataset,
    Token(Bytes),
    Key(String),
}

impl Place {
    fn begins_a_page(&self) -> bool {
        let name = match self {
            Self::Dataset => return false,
            Self::Token(lease) => &lease[..],
            Self::Key(key) => key.as_bytes(),
        };
        blake3::hash(name).as_bytes()[0].is_multiple_of(ONE_OF)
    }

    /// Tokens and versions have pages of their own: tokens change every hour, versions may never.
    fn is_kind_of(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl Cutter {
    /// Takes the next item; the page that it closed.
    pub(super) fn push(&mut self, item: v1::BackupItem) -> Option<Page> {
        let bytes = item.encoded_len();
        let place = self.place_of(&item);
        let closes = match (&self.at, &place) {
            (Some(at), Some(next)) if !at.is_kind_of(next) => true,
            (Some(at), Some(next)) if at != next => {
                self.page.bytes >= BYTES_MIN && next.begins_a_page()
            }
            _ => false,
        };
        let is_full = self.page.bytes + bytes > PAGE_ITEMS_BYTES;
        let closed = (!self.page.items.is_empty() && (closes || is_full))
            .then(|| std::mem::take(&mut self.page));
        self.at = place;
        for block in blocks(&item) {
            self.page.blocks.insert(block.digest.clone(), block.bytes);
        }
        self.page.bytes += bytes;
        self.page.items.push(item);
        closed
    }

    /// The last page.
    pub(super) fn finish(self) -> Option<Page> {
        (!self.page.items.is_empty()).then_some(self.page)
    }

    fn place_of(&self, item: &v1::BackupItem) -> Option<Place> {
        match item.item.as_ref()? {
            Item::Dataset(_) => Some(Place::Dataset),
            Item::Token(token) => Some(Place::Token(token.lease_id.clone())),
            Item::Version(version) => Some(Place::Key(version.key.clone())),
            Item::Part(_) => self.at.clone(),
        }
    }
}

/// The blocks that an item names.
pub(super) fn blocks(item: &v1::BackupItem) -> &[v1::BlockRef] {
    match &item.item {
        Some(Item::Version(version)) => version.entry.as_ref().map_or(&[], |entry| &entry.blocks),
        Some(Item::Part(part)) => part.part.as_ref().map_or(&[], |part| &part.blocks),
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(item: Item) -> v1::BackupItem {
        v1::BackupItem { item: Some(item) }
    }

    fn version(key: &str, inline: usize) -> v1::BackupItem {
        item(Item::Version(v1::BackedVersion {
            key: key.to_owned(),
            entry: Some(v1::ObjectEntry {
                inline: vec![7; inline].into(),
                ..Default::default()
            }),
        }))
    }

    fn cut(items: impl IntoIterator<Item = v1::BackupItem>) -> Vec<Page> {
        let (mut cutter, mut pages) = (Cutter::default(), Vec::new());
        for item in items {
            pages.extend(cutter.push(item));
        }
        pages.extend(cutter.finish());
        pages
    }

    fn objects(count: u32) -> Vec<v1::BackupItem> {
        let key = |n: u32| format!("logs/{n:06}");
        (0..count).map(|n| version(&key(n), 4000)).collect()
    }

    #[test]
    fn every_item_is_in_one_page_and_tokens_and_versions_are_not_mixed() {
        let token = |n: u8| {
            item(Item::Token(v1::BackedToken {
                lease_id: vec![n; 16].into(),
                token: None,
            }))
        };
        let dataset = item(Item::Dataset(v1::BackedDataset::default()));
        let mut items = vec![dataset];
        items.extend((0..200).map(token));
        items.extend(objects(2000));
        let pages = cut(items.clone());
        let back: Vec<_> = pages.iter().flat_map(|page| page.items.clone()).collect();
        assert_eq!(back, items);
        assert!(matches!(pages[0].items[..], [_]), "the dataset by itself");
        assert!(pages.iter().all(|page| page.bytes <= PAGE_ITEMS_BYTES));
        assert!(pages.len() > 10, "{}", pages.len());
        let kinds = |page: &Page| {
            let is_token = |item: &v1::BackupItem| matches!(item.item, Some(Item::Token(_)));
            page.items.iter().filter(|item| is_token(item)).count()
        };
        assert!(
            pages
                .iter()
                .all(|page| [0, page.items.len()].contains(&kinds(page)))
        );
    }

    /// With a page's end chosen by counting, one object more would move every page behind it.
    #[test]
    fn an_object_more_or_less_leaves_all_pages_but_its_own_as_they_were() {
        let before = cut(objects(3000));
        let mut changed = objects(3000);
        changed.remove(700);
        changed.insert(1500, version("logs/001499-late", 4000));
        let after = cut(changed);
        let new = after.iter().filter(|page| !before.contains(page)).count();
        assert!(before.len() > 20, "{}", before.len());
        assert!((1..=4).contains(&new), "{new} of {} pages", after.len());
    }

    #[test]
    fn a_page_is_closed_at_its_bound_whatever_the_keys_are() {
        let pages = cut((0..5000).map(|_| version("one", 4000)));
        assert!(pages.iter().all(|page| page.bytes <= PAGE_ITEMS_BYTES));
        let long = cut([version("a", PAGE_ITEMS_BYTES), version("b", 1)]);
        assert_eq!(long.len(), 2, "one that is longer stands alone");
    }

    #[test]
    fn a_page_names_each_block_of_its_items_once() {
        let block = |byte: u8| v1::BlockRef {
            digest: vec![byte; 32].into(),
            bytes: 9,
        };
        let mut large = version("a", 0);
        if let Some(Item::Version(version)) = &mut large.item {
            let entry = version.entry.as_mut().expect("an entry");
            entry.blocks = vec![block(2), block(1), block(2)];
        }
        let part = item(Item::Part(v1::BackedPart {
            version_id: vec![1; 16].into(),
            part: Some(v1::ListedPart {
                blocks: vec![block(3)],
                ..Default::default()
            }),
        }));
        let pages = cut([large, part]);
        let named: Vec<u8> = pages[0].blocks.keys().map(|digest| digest[0]).collect();
        assert_eq!(named, [1, 2, 3]);
    }
}
