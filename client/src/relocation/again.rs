//! What the source tells a second time: in a listing that is read again, since it has forgotten removals, and in changes that
//! the listing had. Compared with what is here.
//!
//! Owns which units are left out, as they are here already, and which removals a page is owed. Refuses to remove what an
//! earlier page told of, and what came after the listing.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use proto::v1;
use proto::v1::imported_unit::Content;
use proto::v1::read_departure_request::Next;

use super::Inner;
use crate::error::Error;

/// Own versions that one page is compared with, and then the rest of their last key: where the source has removed much, few
/// of its units go far.
const HERE_MAX: usize = 1_000;
/// Changes that are looked up here at once.
const LOOKED_UP_AT_ONCE: usize = 16;

/// What is here of the keys that a page is of, each with its source log index.
type Here = BTreeMap<(String, Bytes), u64>;

/// How far the own versions that were read go.
#[derive(Debug, PartialEq, Eq)]
enum Read {
    /// Not through the page's keys.
    Short,
    /// Through all of them.
    All,
    /// Through this key, which is enough at once.
    Enough(String),
}

impl Inner {
    /// What of a page is here already, by what an earlier pass brought, left out; and what is here and not in it, as gone. It
    /// ends earlier where much is here.
    pub(super) async fn against_here(
        &self,
        after: Option<&v1::Place>,
        mut page: v1::FeedPage,
    ) -> Result<v1::FeedPage, Error> {
        let mut through = page.place.clone().unwrap_or_default();
        let mut from = own_place(after);
        let mut here = Here::new();
        loop {
            let own = self.read_here(from, 0).await?;
            match gathered(&mut here, own.units, &through) {
                Read::Enough(key) => {
                    page = cut_after(page, key);
                    through = page.place.clone().unwrap_or_default();
                    break;
                }
                Read::Short if own.place.as_ref().is_some_and(|place| !place.end) => {
                    from = own.place;
                }
                Read::Short | Read::All => break,
            }
        }
        here.retain(|_, index| *index <= page.at_index);
        if here.is_empty() {
            return Ok(page);
        }
        let cut = after.filter(|place| place.within > 0);
        let before = match cut.filter(|cut| here.keys().any(|(key, _)| *key == cut.key)) {
            Some(cut) => self.told_before(cut).await?,
            None => BTreeSet::new(),
        };
        Ok(reconciled(page, &through, &before, here))
    }

    /// Changes without versions that are here: what was written while the listing was read is in both. Whose bytes ride in
    /// the entry may be imported twice; blocks that are sealed anew no node takes for a version that stands.
    pub(super) async fn not_here(
        &self,
        changes: Vec<v1::ImportedUnit>,
    ) -> Result<Vec<v1::ImportedUnit>, Error> {
        let looked_up = changes.into_iter().map(|unit| {
            async move {
                let here = match id_of_blocks(&unit) {
                    Some(id) => self.has(&unit.key, id).await?,
                    None => false,
                };
                Ok::<_, Error>((!here).then_some(unit))
            }
            .boxed()
        });
        let left: Vec<_> = stream::iter(looked_up)
            .buffered(LOOKED_UP_AT_ONCE)
            .try_collect()
            .await?;
        Ok(left.into_iter().flatten().collect())
    }

    /// Whether a version stands here; an upload of its id is none.
    async fn has(&self, key: &str, version_id: &Bytes) -> Result<bool, Error> {
        let request = v1::RelocatedPartsRequest {
            of: Some(self.of.clone()),
            key: key.to_owned(),
            version_id: version_id.clone(),
            start_after: 0,
            limit: 1,
        };
        let found = self.relocations(|mut client| {
            let request = request.clone();
            async move { Ok(client.parts(request).await?.into_inner()) }
        });
        match found.await {
            Ok(found) => Ok(found.upload.is_none()),
            Err(Error::NoSuchObject) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Versions of a key that earlier pages told of.
    async fn told_before(&self, cut: &v1::Place) -> Result<BTreeSet<(String, Bytes)>, Error> {
        let mut told = BTreeSet::new();
        let mut from = v1::Place {
            within: 1,
            ..cut.clone()
        };
        loop {
            let page = self
                .read_source(Next::Page(v1::PageFrom { after: Some(from) }), 0)
                .await?;
            let of_key = page.units.iter().filter(|unit| unit.key == cut.key);
            let before = of_key.filter(|unit| unit.index <= cut.within && is_version(unit));
            told.extend(before.map(of_unit));
            match page.place {
                Some(place) if place.key == cut.key && (1..cut.within).contains(&place.within) => {
                    from = place;
                }
                _ => return Ok(told),
            }
        }
    }
}

/// Takes own versions in, in the order of keys, as far as the page's go and as many as are enough.
fn gathered(here: &mut Here, own: Vec<v1::ImportedUnit>, through: &v1::Place) -> Read {
    for unit in own {
        let Some(Content::Version(version)) = unit.content else {
            continue;
        };
        if !through.end && unit.key > through.key {
            return Read::All;
        }
        // Never within a key: a removal from it needs to know all that is told of it.
        if here.len() >= HERE_MAX
            && let Some(((last, _), _)) = here.last_key_value()
            && *last != unit.key
        {
            return Read::Enough(last.clone());
        }
        let index = version.entry.map_or(0, |entry| entry.source_index);
        here.insert(named(&unit.key, &unit.version_id), index);
    }
    Read::Short
}

/// A page of the source up to a key of which it has all.
fn cut_after(mut page: v1::FeedPage, key: String) -> v1::FeedPage {
    page.units.retain(|unit| unit.key <= key);
    let place = v1::Place {
        key,
        ..v1::Place::default()
    };
    v1::FeedPage {
        place: Some(place),
        ..page
    }
}

/// With an id that is its own: as a slice of the page it would keep that, bodies and all.
fn named(key: &str, version_id: &[u8]) -> (String, Bytes) {
    (key.to_owned(), Bytes::copy_from_slice(version_id))
}

fn of_unit(unit: &v1::ImportedUnit) -> (String, Bytes) {
    named(&unit.key, &unit.version_id)
}

/// The id of a version whose bytes lie in blocks, its own or those of its parts.
fn id_of_blocks(unit: &v1::ImportedUnit) -> Option<&Bytes> {
    let Some(Content::Version(version)) = &unit.content else {
        return None;
    };
    let entry = version.entry.as_ref()?;
    let blocks = entry.parts > 0 || !entry.blocks.is_empty();
    blocks.then_some(&entry.version_id)
}

fn is_version(unit: &v1::ImportedUnit) -> bool {
    matches!(unit.content, Some(Content::Version(_)))
}

/// Where to begin here so that all of the key is seen which a listing of the source is in: log indexes of the two regions have
/// nothing to do with each other.
fn own_place(after: Option<&v1::Place>) -> Option<v1::Place> {
    let after = after?.clone();
    Some(match after.within {
        0 => after,
        _ => v1::Place { within: 1, ..after },
    })
}

/// A page of a later pass: without what is here as it is told, and with removals of what is here and not told. `here`: what
/// is here of its keys, by source log index; `before`: what earlier pages told of the key that it begins in.
fn reconciled(
    page: v1::FeedPage,
    through: &v1::Place,
    before: &BTreeSet<(String, Bytes)>,
    here: Here,
) -> v1::FeedPage {
    let versions = page.units.iter().filter(|unit| is_version(unit));
    let told: BTreeSet<_> = versions.map(of_unit).collect();
    let mut units = page.units;
    units.retain(|unit| !is_version(unit) || here.get(&of_unit(unit)) != Some(&unit.index));
    // A removal has the listing's log index: of a key that the page cuts, the last page has them.
    let cut = (!through.end && through.within > 0).then_some(&through.key);
    let mut gone = here
        .into_keys()
        .filter(|unit| !told.contains(unit) && !before.contains(unit) && Some(&unit.0) != cut)
        .peekable();
    let removal = |(key, version_id)| v1::ImportedUnit {
        index: page.at_index,
        key,
        version_id,
        content: Some(Content::Gone(true)),
    };
    // After all else of their keys.
    let mut all = Vec::with_capacity(units.len());
    for unit in units {
        while let Some(one) = gone.next_if(|(key, _)| *key < unit.key) {
            all.push(removal(one));
        }
        all.push(unit);
    }
    all.extend(gone.map(removal));
    v1::FeedPage { units: all, ..page }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(key: &str, id: u8, index: u64) -> v1::ImportedUnit {
        v1::ImportedUnit {
            index,
            key: key.to_owned(),
            version_id: Bytes::copy_from_slice(&[id; 16]),
            content: Some(Content::Version(v1::ImportedVersion::default())),
        }
    }

    fn here(of: &[(&str, u8, u64)]) -> Here {
        let one = |(key, id, index): &(&str, u8, u64)| {
            let id = Bytes::copy_from_slice(&[*id; 16]);
            (((*key).to_owned(), id), *index)
        };
        of.iter().map(one).collect()
    }

    fn told(page: &v1::FeedPage) -> Vec<(&str, u8, bool)> {
        let one = |unit: &'_ v1::ImportedUnit| (unit.version_id[0], !is_version(unit));
        page.units
            .iter()
            .map(|unit| (unit.key.as_str(), one(unit).0, one(unit).1))
            .collect()
    }

    #[test]
    fn what_is_remembered_of_a_page_does_not_keep_it() {
        let page = unit("a", 1, 5);
        let (_, id) = of_unit(&page);
        assert_eq!(id, page.version_id);
        assert_ne!(id.as_ptr(), page.version_id.as_ptr());
    }

    #[test]
    fn a_second_listing_brings_what_is_new_and_removes_what_is_gone() {
        let page = v1::FeedPage {
            at_index: 50,
            units: vec![unit("b", 1, 5), unit("b", 2, 40), unit("d", 4, 9)],
            ..v1::FeedPage::default()
        };
        let end = v1::Place {
            end: true,
            ..v1::Place::default()
        };
        let held = here(&[
            ("a", 7, 3),
            ("b", 1, 5),
            ("b", 8, 6),
            ("d", 4, 8),
            ("e", 9, 2),
        ]);
        let page = reconciled(page, &end, &BTreeSet::new(), held);
        let expected = [
            ("a", 7, true),
            ("b", 2, false),
            ("b", 8, true),
            ("d", 4, false),
            ("e", 9, true),
        ];
        assert_eq!(told(&page), expected);
        assert_eq!(page.units[0].index, 50);
    }

    #[test]
    fn of_a_key_that_a_page_cuts_nothing_is_removed_before_its_last_page() {
        let page = || v1::FeedPage {
            at_index: 50,
            units: vec![unit("b", 2, 40)],
            ..v1::FeedPage::default()
        };
        let held = || here(&[("b", 1, 5), ("b", 8, 6)]);
        let cut = v1::Place {
            key: "b".to_owned(),
            within: 40,
            end: false,
        };
        let first = reconciled(page(), &cut, &BTreeSet::new(), held());
        assert_eq!(told(&first), [("b", 2, false)]);
        let whole = v1::Place { within: 0, ..cut };
        let before: BTreeSet<_> = here(&[("b", 1, 5)]).into_keys().collect();
        let last = reconciled(page(), &whole, &before, held());
        assert_eq!(told(&last), [("b", 2, false), ("b", 8, true)]);
    }

    #[test]
    fn what_one_page_is_compared_with_ends_with_a_key_once_it_is_enough() {
        let end = v1::Place {
            end: true,
            ..v1::Place::default()
        };
        let mut held = Here::new();
        let of_a_key = |key: usize| (0..4).map(move |id| unit(&format!("{key:04}"), id, 5));
        let most: Vec<_> = (0..249).flat_map(of_a_key).collect();
        assert_eq!(gathered(&mut held, most, &end), Read::Short);
        // The last key goes over it and is read whole.
        let rest = || (0..9).map(|id| unit("0249", id, 5));
        assert_eq!(gathered(&mut held, rest().collect(), &end), Read::Short);
        let next = || vec![unit("0250", 1, 5)];
        let through_it = v1::Place {
            key: "0249".to_owned(),
            within: 3,
            end: false,
        };
        assert_eq!(gathered(&mut held, next(), &through_it), Read::All);
        let enough = Read::Enough("0249".to_owned());
        assert_eq!(gathered(&mut held, next(), &end), enough);
        assert_eq!(held.len(), 249 * 4 + 9);
    }

    #[test]
    fn a_page_that_goes_further_than_what_is_here_was_read_is_cut() {
        let settings = v1::ImportedUnit {
            content: Some(Content::Settings(v1::ImportedSettings::default())),
            ..unit("", 0, 1)
        };
        let page = v1::FeedPage {
            at_index: 50,
            units: vec![settings, unit("b", 1, 5), unit("d", 4, 9)],
            place: Some(v1::Place {
                end: true,
                ..v1::Place::default()
            }),
            ..v1::FeedPage::default()
        };
        let page = cut_after(page, "c".to_owned());
        let keys: Vec<_> = page.units.iter().map(|unit| unit.key.as_str()).collect();
        assert_eq!(keys, ["", "b"]);
        let through = page.place.clone().expect("it was cut");
        let (within, end) = (through.within, through.end);
        assert_eq!((through.key.as_str(), within, end), ("c", 0, false));
        let held = here(&[("b", 1, 5), ("c", 2, 6)]);
        let page = reconciled(page, &through, &BTreeSet::new(), held);
        let left: Vec<_> = page.units.iter().map(|unit| unit.key.as_str()).collect();
        assert_eq!(left, ["", "c"]);
    }

    #[test]
    fn a_key_that_is_cut_is_read_from_its_beginning_here() {
        let place = |within| v1::Place {
            key: "b".to_owned(),
            within,
            end: false,
        };
        assert_eq!(own_place(None), None);
        assert_eq!(own_place(Some(&place(0))), Some(place(0)));
        assert_eq!(own_place(Some(&place(77))), Some(place(1)));
    }
}
