//! Copies read back, opened and compared with what the source has.
//!
//! Owns which copies were found equal: a copy is one again only while it is stored as it was then. After one look at all of
//! them, only keys that this mover has touched are looked at, so that little is left to do under a fence. Refuses to pass over
//! a copy that differs. What another mover imports meanwhile begins the look at all anew.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use prost::Message as _;
use proto::ids::{ObjectKey, ObjectVersionId};
use proto::v1;
use proto::v1::imported_unit::Content;
use proto::v1::read_departure_request::Next;

use super::anew::broken;
use super::digests::{Digests, PartSeen, beside_part};
use super::keys::{Handed, ITEMS_MAX, Sealed, Tokens};
use super::{Brought, How, Inner, PURPOSE};
use crate::dataset::GetOptions;
use crate::download::{Found, ObjectReader, only_part};
use crate::error::Error;

/// Copies that are remembered as equal, about 100 bytes each; over it, it begins anew.
const MARKS_MAX: usize = 4_000_000;
/// Digests that are remembered; over it, sources are read again.
const DIGESTS_MAX: usize = 2_000_000;
/// Keys that were touched since the last look; over it, all are looked at.
const TOUCHED_MAX: usize = 100_000;
/// Copies without blocks that are read and opened at once, and keys that are looked up.
const SMALL_AT_ONCE: usize = 32;
/// Keys that are looked at in one call.
const KEYS_AT_ONCE: usize = 256;
/// Copies on their way at once.
const AT_ONCE: usize = 4;

/// Which copies were found equal, by version id. In memory: another mover compares anew.
#[derive(Default)]
pub struct Compared {
    marks: HashMap<[u8; 16], Vec<Mark>>,
    equal: usize,
    /// Whose digests these were compared with.
    mover: Option<u64>,
    at: At,
    look: u32,
    /// How often others had imported as this look began.
    others: u64,
}

#[derive(Default)]
enum At {
    #[default]
    Begin,
    /// In a look at all, after this place.
    Looking(Option<v1::Place>),
    /// All were looked at; what was touched since is left.
    Whole,
}

/// A copy that was found equal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Mark {
    version: [u8; 16],
    /// How it is stored.
    stored: [u8; 16],
    look: u32,
}

impl Compared {
    /// How many copies are known to be equal, delete markers among them.
    pub fn equal(&self) -> u64 {
        self.equal as u64
    }

    /// Whether all copies were looked at, so that only what was touched since is left.
    pub fn is_whole(&self) -> bool {
        matches!(self.at, At::Whole)
    }

    fn begin(&mut self, mover: u64) {
        *self = Self {
            mover: Some(mover),
            ..Self::default()
        };
    }

    fn has(&self, key: &str, mark: &Mark) -> bool {
        let same = |held: &Mark| held.version == mark.version && held.stored == mark.stored;
        let marks = self.marks.get(&key_digest(key));
        marks.is_some_and(|marks| marks.iter().any(same))
    }

    fn put(&mut self, key: &str, mark: Mark) {
        let marks = self.marks.entry(key_digest(key)).or_default();
        match marks.iter_mut().find(|held| held.version == mark.version) {
            Some(held) => *held = mark,
            None => {
                marks.push(mark);
                self.equal += 1;
            }
        }
    }

    /// All marks of a key from here on.
    fn replace(&mut self, key: &str, fresh: Vec<Mark>) {
        let fresh_count = fresh.len();
        let before = match fresh.is_empty() {
            true => self.marks.remove(&key_digest(key)),
            false => self.marks.insert(key_digest(key), fresh),
        };
        self.equal = self.equal + fresh_count - before.map_or(0, |marks| marks.len());
    }

    /// Forgets what the look that ends now has not met.
    fn sweep(&mut self) {
        let look = self.look;
        self.marks.retain(|_, marks| {
            marks.retain(|mark| mark.look == look);
            !marks.is_empty()
        });
        self.equal = self.marks.values().map(Vec::len).sum();
    }
}

/// What this mover has seen of copies as it made them.
#[derive(Default)]
pub(super) struct Seen {
    /// By ids that are their own: as a slice of a page each would keep that, bodies and all.
    digests: HashMap<ObjectVersionId, Digests>,
    /// Keys of batches that it has had imported, or tried to, each with when it was touched last.
    touched: BTreeMap<String, u64>,
    touches: u64,
}

impl Seen {
    pub(super) fn note(&mut self, version: ObjectVersionId, digests: Digests) {
        if self.digests.len() >= DIGESTS_MAX {
            self.digests.clear();
        }
        self.digests.insert(version, digests);
    }

    pub(super) fn note_metadata(&mut self, version: ObjectVersionId, metadata: [u8; 32]) {
        if let Some(held) = self.digests.get_mut(&version) {
            held.metadata = metadata;
        }
    }

    pub(super) fn touch(&mut self, keys: impl IntoIterator<Item = String>) {
        self.touches += 1;
        let now = self.touches;
        let touched = keys.into_iter().map(|key| (key, now));
        self.touched.extend(touched);
    }

    /// Keys to be looked at, a few at a time. They stay until they were: who is stopped in the middle loses none.
    fn due(&self) -> Vec<(String, u64)> {
        let due = self.touched.iter().take(KEYS_AT_ONCE);
        due.map(|(key, at)| (key.clone(), *at)).collect()
    }

    /// A key was looked at, as it was when it had been touched at `at`.
    fn settle(&mut self, key: &str, at: u64) {
        if self.touched.get(key) == Some(&at) {
            self.touched.remove(key);
        }
    }
}

/// One copy here.
struct Own {
    key: String,
    entry: v1::ObjectEntry,
    token: Bytes,
    mark: Mark,
}

impl Own {
    fn version(&self) -> ObjectVersionId {
        ObjectVersionId(self.mark.version)
    }

    /// Whether its bytes stand in its entry.
    fn is_small(&self) -> bool {
        self.entry.blocks.is_empty() && self.entry.parts == 0
    }
}

impl Inner {
    pub(super) async fn compare(
        self: &Arc<Self>,
        compared: &mut Compared,
        how: &How,
    ) -> Result<Brought, Error> {
        let arrival = self.status().await?.arrival.unwrap_or_default();
        let image = arrival.image.unwrap_or_default();
        if compared.mover != Some(self.instance) || compared.equal > MARKS_MAX {
            compared.begin(self.instance);
        }
        let others = {
            let mut reached = self.reached.lock();
            reached.looks(&image);
            reached.others()
        };
        let foreign = compared.others != others;
        let many = self.seen.lock().touched.len() > TOUCHED_MAX;
        match std::mem::take(&mut compared.at) {
            At::Whole if !foreign && !many => {
                compared.at = At::Whole;
                self.compare_touched(compared, image.changes, how).await
            }
            At::Looking(after) => self.look(compared, after, image.changes, how).await,
            At::Begin | At::Whole => {
                compared.look += 1;
                compared.others = others;
                // What is touched from here on is looked at once more.
                self.seen.lock().touched.clear();
                self.look(compared, None, image.changes, how).await
            }
        }
    }

    /// The next page of all.
    async fn look(
        self: &Arc<Self>,
        compared: &mut Compared,
        after: Option<v1::Place>,
        taken: u64,
        how: &How,
    ) -> Result<Brought, Error> {
        // Where this fails, the same page is read again.
        compared.at = At::Looking(after.clone());
        let page = self.read_here(after, how.limit).await?;
        let place = page.place.clone();
        let copies = copies_of(page, compared.look)?;
        let (units, bytes) = self.find_equal(compared, copies, taken, how).await?;
        let more = match place {
            Some(place) if !place.end => {
                compared.at = At::Looking(Some(place));
                true
            }
            _ => {
                compared.sweep();
                compared.at = At::Whole;
                let foreign = compared.others != self.reached.lock().others();
                foreign || !self.seen.lock().touched.is_empty()
            }
        };
        Ok(Brought { units, bytes, more })
    }

    /// Keys that were touched since.
    async fn compare_touched(
        self: &Arc<Self>,
        compared: &mut Compared,
        taken: u64,
        how: &How,
    ) -> Result<Brought, Error> {
        let due = self.seen.lock().due();
        let look = compared.look;
        // Together: one after the other each would wait for the shard and for the KMS, and writers may wait for all.
        let copies = stream::iter(due.clone()).map(|(key, _)| {
            let of_key = async move { self.of_key(&key, look).await };
            of_key.boxed()
        });
        let copies: Vec<_> = copies.buffered(SMALL_AT_ONCE).try_collect().await?;
        let held = copies.iter().map(|of_key| {
            let marks = of_key.iter().map(|copy| copy.mark);
            marks.collect::<Vec<_>>()
        });
        let held: Vec<_> = held.collect();
        let copies = copies.into_iter().flatten().collect();
        let (units, bytes) = self.find_equal(compared, copies, taken, how).await?;
        for ((key, at), held) in due.into_iter().zip(held) {
            let kept = held.into_iter().filter(|mark| compared.has(&key, mark));
            let kept: Vec<_> = kept.collect();
            compared.replace(&key, kept);
            self.seen.lock().settle(&key, at);
        }
        let more = !self.seen.lock().touched.is_empty();
        Ok(Brought { units, bytes, more })
    }

    /// All copies of one key.
    async fn of_key(&self, key: &str, look: u32) -> Result<Vec<Own>, Error> {
        const PAGE: u32 = 16;
        let mut all = Vec::new();
        let mut after = v1::Place {
            key: key.to_owned(),
            within: 1,
            end: false,
        };
        loop {
            let page = self.read_here(Some(after), PAGE).await?;
            let place = page.place.clone();
            let copies = copies_of(page, look)?;
            all.extend(copies.into_iter().filter(|copy| copy.key == key));
            match place {
                Some(place) if place.key == key && place.within > 0 => after = place,
                _ => return Ok(all),
            }
        }
    }

    /// Marks the copies that are equal; how many were opened for it, and what was read of the source.
    async fn find_equal(
        self: &Arc<Self>,
        compared: &mut Compared,
        copies: Vec<Own>,
        taken: u64,
        how: &How,
    ) -> Result<(u64, u64), Error> {
        let (mut opened, mut bytes) = (0, 0);
        let mut left = Vec::new();
        for copy in copies {
            match copy.entry.delete_marker || compared.has(&copy.key, &copy.mark) {
                true => compared.put(&copy.key, copy.mark),
                false => left.push(copy),
            }
        }
        let mut left = left.into_iter().peekable();
        while left.peek().is_some() {
            let chunk: Vec<_> = left.by_ref().take(ITEMS_MAX).collect();
            let at_once = match chunk.iter().all(Own::is_small) {
                true => SMALL_AT_ONCE,
                false => AT_ONCE,
            };
            let sources = self.unseen(&chunk).await?;
            let work = chunk.into_iter().zip(sources);
            let work = stream::iter(work).map(|(copy, source)| {
                let compared = async move {
                    let read = self.is_equal(&copy, source, taken, how).await?;
                    Ok::<_, Error>((copy, read))
                };
                compared.boxed()
            });
            let found: Vec<_> = work.buffered(at_once).try_collect().await?;
            for (copy, (equal, read)) in found {
                opened += 1;
                bytes += read;
                if equal {
                    compared.put(&copy.key, copy.mark);
                }
            }
        }
        Ok((opened, bytes))
    }

    /// The sources of those copies that this mover has not made, with their keys.
    async fn unseen(&self, copies: &[Own]) -> Result<Vec<Unseen>, Error> {
        let (mut all, mut wanted) = (Vec::with_capacity(copies.len()), Vec::new());
        for copy in copies {
            let digests = self.seen.lock().digests.get(&copy.version()).copied();
            all.push(match digests {
                Some(digests) => Unseen::Known(digests),
                None => match self.source_of(copy).await? {
                    Some(sealed) => {
                        wanted.push(Arc::new(sealed));
                        Unseen::Unhanded
                    }
                    None => Unseen::Gone,
                },
            });
        }
        let mut handed = self.handed(wanted).await?.into_iter();
        for one in &mut all {
            if matches!(one, Unseen::Unhanded) {
                let key = handed.next().ok_or(Error::Protocol {
                    what: "fewer keys than versions",
                })?;
                *one = Unseen::Source(Box::new(key));
            }
        }
        Ok(all)
    }

    /// The version that a copy is of, if the source has it still.
    async fn source_of(&self, copy: &Own) -> Result<Option<Sealed>, Error> {
        let index = copy.entry.source_index;
        let after = v1::Place {
            key: copy.key.clone(),
            within: index.saturating_sub(1).max(1),
            end: false,
        };
        let next = Next::Page(v1::PageFrom { after: Some(after) });
        let page = self.read_source(next, 1).await?;
        let tokens = Tokens::of(&page.tokens)?;
        let unit = page.units.into_iter().next();
        let unit = unit.filter(|unit| unit.index == index && unit.key == copy.key);
        let Some(Content::Version(version)) = unit.and_then(|unit| unit.content) else {
            return Ok(None);
        };
        let entry = version.entry.unwrap_or_default();
        match entry.version_id == copy.entry.version_id {
            true => Sealed::of(self, &copy.key, entry, &tokens).map(Some),
            false => Ok(None),
        }
    }

    async fn is_equal(
        self: &Arc<Self>,
        copy: &Own,
        source: Unseen,
        taken: u64,
        how: &How,
    ) -> Result<(bool, u64), Error> {
        let (there, changed, read) = match source {
            Unseen::Known(digests) => (digests, 0, 0),
            Unseen::Source(handed) => {
                let changed = handed.sealed.entry.metadata_index;
                let (digests, read) = self.source_digests(how, *handed).await?;
                (digests, changed, read)
            }
            // It was removed or replaced there: that comes with its changes.
            Unseen::Gone | Unseen::Unhanded => return Ok((false, 0)),
        };
        let here = self.own_digests(copy).await?;
        if here == there {
            self.seen.lock().note(copy.version(), there);
            return Ok((true, read));
        }
        // Its metadata was changed there, which is still to be taken.
        if here.content == there.content && changed > taken {
            return Ok((false, read));
        }
        let version = copy.version();
        Err(Error::Damaged {
            message: format!("the copy of version {version} is not what the source has"),
        })
    }

    /// What a copy comes to as it is read back and opened here.
    async fn own_digests(&self, copy: &Own) -> Result<Digests, Error> {
        let dataset = self.dataset().await?;
        let entry = copy.entry.clone();
        let version = copy.version();
        let metadata = dataset.opened_metadata(version, &entry.sealed_metadata);
        let metadata = metadata.await?;
        let key: ObjectKey = copy.key.parse()?;
        let found = Arc::new(Found {
            dataset: dataset.clone(),
            key,
            token: copy.token.clone(),
            replicas: dataset.replicas().await?,
            options: GetOptions {
                version: Some(version),
                purpose: PURPOSE.to_owned(),
                ..GetOptions::default()
            },
            arriving: Some(self.of.clone()),
            entry,
        });
        let plain = 0..found.entry.plain_bytes;
        let source = found.start(plain.clone())?;
        let opened = dataset.open(&found).await?;
        let manifest = opened.dek.open_manifest(&found.entry.sealed_manifest);
        let manifest = manifest.map_err(Error::NotAuthentic)?;
        let running = self.digester.running();
        let mut reader = ObjectReader::open(found.clone(), source, opened, plain).await?;
        while let Some(chunk) = reader.chunk().await? {
            running.lock().update(&chunk);
        }
        let seen = match found.entry.parts {
            0 => vec![PartSeen::bare(only_part(&manifest)?)],
            _ => {
                let mut beside = self.beside_own_parts(&found).await?;
                let part = |part: &envelope::ManifestPart| {
                    let beside = beside.remove(&part.number.0).ok_or_else(broken)?;
                    Ok(PartSeen {
                        beside,
                        ..PartSeen::bare(part)
                    })
                };
                let all: Result<Vec<_>, Error> = manifest.parts().iter().map(part).collect();
                all?
            }
        };
        Ok(Digests {
            content: self.digester.content(&running, &seen),
            metadata: self.digester.metadata(&metadata),
        })
    }

    /// What is sealed beside each part of a copy.
    async fn beside_own_parts(&self, found: &Found) -> Result<HashMap<u32, Vec<u8>>, Error> {
        let version = ObjectVersionId::try_from(&found.entry.version_id[..])?;
        let (mut all, mut after) = (HashMap::new(), 0);
        loop {
            let request = v1::RelocatedPartsRequest {
                of: Some(self.of.clone()),
                key: found.key.as_str().to_owned(),
                version_id: version.into(),
                start_after: after,
                limit: 0,
            };
            let page = self.relocations(|mut client| {
                let request = request.clone();
                async move { Ok(client.parts(request).await?.into_inner()) }
            });
            let page = page.await?;
            let before = after;
            for part in page.parts.into_iter().filter_map(|listed| listed.part) {
                let plain = found
                    .dataset
                    .opened_metadata(version, &part.sealed_metadata);
                let (of, number) = (&part.part_id, part.number);
                let (beside, _) = beside_part(&plain.await?, number, of, of)?;
                all.insert(number, beside);
                after = after.max(number);
            }
            if !page.truncated || after == before {
                return Ok(all);
            }
        }
    }
}

/// What a copy is compared with.
enum Unseen {
    /// This mover made it.
    Known(Digests),
    Source(Box<Handed>),
    /// Its key is still to come.
    Unhanded,
    Gone,
}

fn copies_of(page: v1::FeedPage, look: u32) -> Result<Vec<Own>, Error> {
    let tokens = Tokens::of(&page.tokens)?;
    let mut copies = Vec::new();
    for unit in page.units {
        let Some(Content::Version(version)) = unit.content else {
            continue;
        };
        let entry = version.entry.unwrap_or_default();
        let token = match entry.delete_marker {
            true => Bytes::new(),
            false => tokens.of_lease(&entry.lease_id)?,
        };
        copies.push(Own {
            key: unit.key,
            mark: Mark {
                version: ObjectVersionId::try_from(&entry.version_id[..])?.0,
                stored: stored(&entry),
                look,
            },
            entry,
            token,
        });
    }
    Ok(copies)
}

/// How a copy is stored, but for what covers it and what keeps it.
fn stored(entry: &v1::ObjectEntry) -> [u8; 16] {
    let bare = v1::ObjectEntry {
        retention: None,
        legal_hold: false,
        null_index: 0,
        changed_index: 0,
        ..entry.clone()
    };
    beginning(blake3::hash(&bare.encode_to_vec()))
}

fn key_digest(key: &str) -> [u8; 16] {
    beginning(blake3::hash(key.as_bytes()))
}

fn beginning(hash: blake3::Hash) -> [u8; 16] {
    let mut beginning = [0; 16];
    beginning.copy_from_slice(&hash.as_bytes()[..16]);
    beginning
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(version: u8, stored: u8, look: u32) -> Mark {
        Mark {
            version: [version; 16],
            stored: [stored; 16],
            look,
        }
    }

    #[test]
    fn a_copy_is_equal_only_as_it_is_stored_and_counts_once() {
        let mut compared = Compared::default();
        compared.put("a", mark(1, 1, 1));
        compared.put("a", mark(2, 1, 1));
        compared.put("a", mark(1, 1, 1));
        assert_eq!(compared.equal(), 2);
        assert!(compared.has("a", &mark(1, 1, 7)));
        assert!(!compared.has("a", &mark(1, 2, 1)), "imported anew");
        assert!(!compared.has("b", &mark(1, 1, 1)));
        compared.replace("a", vec![mark(2, 1, 1)]);
        assert_eq!(compared.equal(), 1);
        compared.replace("b", Vec::new());
        compared.replace("a", Vec::new());
        assert_eq!(compared.equal(), 0);
    }

    #[test]
    fn what_a_look_at_all_does_not_meet_is_forgotten() {
        let mut compared = Compared {
            look: 1,
            ..Compared::default()
        };
        compared.put("a", mark(1, 1, 1));
        compared.put("a", mark(2, 1, 1));
        compared.put("b", mark(3, 1, 1));
        compared.look = 2;
        compared.put("a", mark(2, 1, 2));
        compared.sweep();
        assert_eq!(compared.equal(), 1);
        assert!(compared.has("a", &mark(2, 1, 2)));
    }

    #[test]
    fn what_covers_or_keeps_a_copy_does_not_change_it_and_new_content_does() {
        let entry = v1::ObjectEntry {
            version_id: Bytes::from_static(&[1; 16]),
            sealed_metadata: Bytes::from_static(b"m"),
            ..v1::ObjectEntry::default()
        };
        let held = v1::ObjectEntry {
            legal_hold: true,
            null_index: 7,
            changed_index: 9,
            ..entry.clone()
        };
        assert_eq!(stored(&held), stored(&entry));
        let other = v1::ObjectEntry {
            sealed_metadata: Bytes::from_static(b"n"),
            ..entry.clone()
        };
        assert_ne!(stored(&other), stored(&entry));
    }

    #[test]
    fn a_key_is_due_until_it_was_looked_at_as_it_is() {
        let mut seen = Seen::default();
        seen.touch((0..KEYS_AT_ONCE + 3).map(|n| format!("{n:05}")));
        let due = seen.due();
        assert_eq!(due.len(), KEYS_AT_ONCE);
        assert_eq!(seen.due(), due, "nobody has looked at them");
        // Touched again while it was looked at.
        seen.touch([due[0].0.clone()]);
        for (key, at) in &due {
            seen.settle(key, *at);
        }
        let left: Vec<_> = seen.due().into_iter().map(|(key, _)| key).collect();
        assert_eq!(left, ["00000", "00256", "00257", "00258"]);
    }
}
