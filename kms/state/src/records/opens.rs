//! Opens: what is checked of one, what its leaf says, and which of them share a leaf.
//!
//! Owns the leaves that the opens of one command wait for: what is recorded together, of one dataset and under one
//! claim, has one leaf, for a leaf costs every replica as much as several opens do. Refuses: an open that names nothing
//! or too much, of a key whose state does not open, or for another region.

use std::collections::{BTreeSet, HashMap};

use proto::ids::{DatasetId, LeaseId, ObjectVersionId};
use proto::v1::{Claim, KekRecord, KeyState, OpenedItem, Opens, RecordAnswer};
use serde::Serialize;
use tlog::{Field, Hash, Kind, OpenedObject};

use super::{HeldKey, OPEN_ITEMS_MAX, RESEAL, USABLE_MS, Who, answer_of, use_it};
use crate::append::{Applying, Private, array, details};
use crate::apply::LEVEL_SHARED_LEAVES;
use crate::refusal::Refusal;
use crate::requests::{self, Request};

/// The object versions of one request, checked.
pub(super) struct Opened {
    objects: Vec<OpenedObject>,
    bytes: u64,
}

impl Opened {
    pub(super) fn check(
        key: &KekRecord,
        opens: &Opens,
        region: &str,
        claim: &Claim,
    ) -> Result<Self, Refusal> {
        let usable = match key.state() {
            KeyState::Enabled => true,
            KeyState::Compromised => claim.purpose == RESEAL,
            _ => false,
        };
        if !usable {
            return Err(Refusal::KeyDisabled);
        }
        if !opens.recipient_region.is_empty() && opens.recipient_region != region {
            return Err(Refusal::WrongJurisdiction);
        }
        let (objects, bytes) = objects_of(&opens.items)?;
        Ok(Self { objects, bytes })
    }
}

/// The object versions of one request, and their bytes.
pub(super) fn objects_of(items: &[OpenedItem]) -> Result<(Vec<OpenedObject>, u64), Refusal> {
    if items.is_empty() || items.len() > OPEN_ITEMS_MAX {
        return Err(Refusal::Malformed("an open names 1 to 256 object versions"));
    }
    let mut objects = Vec::with_capacity(items.len());
    let mut bytes = 0_u64;
    for item in items {
        let malformed = Refusal::Malformed("an item of an open");
        let version = ObjectVersionId::try_from(&item.version_id[..]);
        let name = Hash::try_from(&item.name_commitment[..]);
        let lease = LeaseId::try_from(&item.lease_id[..]);
        let (Ok(version), Ok(name), Ok(lease)) = (version, name, lease) else {
            return Err(malformed);
        };
        bytes = bytes.checked_add(item.bytes).ok_or(malformed)?;
        objects.push(OpenedObject {
            version,
            name,
            lease,
            bytes: item.bytes,
        });
    }
    Ok((objects, bytes))
}

#[derive(Serialize)]
struct OpenDetails {
    usable_ms: u64,
    /// Of the leaf's objects, how many each of its requests named, in the order of their ids; absent where it is of
    /// one request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    objects_of: Vec<usize>,
}

/// The opens of one leaf: of one dataset, under one claim.
struct OneLeaf {
    dataset: DatasetId,
    who: Who,
    all: Opened,
    requests: Vec<OneOpen>,
}

struct OneOpen {
    request: Request,
    /// Its place in the command.
    place: usize,
    objects: usize,
}

impl OneLeaf {
    fn has_room(&self, opened: &Opened) -> bool {
        self.all.objects.len() + opened.objects.len() <= OPEN_ITEMS_MAX
            && self.all.bytes.checked_add(opened.bytes).is_some()
    }

    /// What the leaf says.
    fn private(&mut self, region: &str) -> Private {
        let mut private = std::mem::take(&mut self.who.private);
        private.objects = std::mem::take(&mut self.all.objects);
        let ids: Vec<_> = self
            .requests
            .iter()
            .map(|open| open.request.hex())
            .collect();
        let objects_of = match &self.requests[..] {
            [_] => Vec::new(),
            several => several.iter().map(|open| open.objects).collect(),
        };
        private.fields.extend([
            (Field::RequestId, ids.join(",")),
            (Field::RecipientRegion, region.to_owned()),
            (Field::Bytes, self.all.bytes.to_string()),
        ]);
        let said = OpenDetails {
            usable_ms: USABLE_MS,
            objects_of,
        };
        details(&mut private, &said);
        private
    }
}

/// What a command's opens wait for: leaves that are not appended yet, in the order of their first opens.
#[derive(Default)]
pub(super) struct Waiting<'a> {
    leaves: Vec<OneLeaf>,
    /// Of each dataset and claim the last of them: an entry may hold hundreds of claims.
    last: HashMap<(DatasetId, &'a Claim), usize>,
    requests: BTreeSet<[u8; 16]>,
}

impl<'a> Waiting<'a> {
    /// Whether the request of this id is among them. It is remembered once its leaf is appended.
    pub(super) fn holds(&self, request_id: &[u8]) -> bool {
        array(request_id).is_some_and(|id| self.requests.contains(&id))
    }

    /// Whether a leaf of this dataset and claim is among them: the claim was checked for it.
    pub(super) fn knows(&self, dataset: &DatasetId, claim: &Claim) -> bool {
        self.position(dataset, claim).is_some()
    }

    fn position(&self, dataset: &DatasetId, claim: &Claim) -> Option<usize> {
        self.last.get(&(*dataset, claim)).copied()
    }

    /// An open under a claim that it [`Self::knows`], or else of `who`.
    pub(super) fn add(
        &mut self,
        (dataset, claim): (DatasetId, &'a Claim),
        who: Option<Who>,
        (place, request, opened): (usize, Request, Opened),
    ) {
        self.requests.insert(request.id());
        let known = self.position(&dataset, claim);
        let open = OneOpen {
            request,
            place,
            objects: opened.objects.len(),
        };
        match known {
            Some(at) if self.leaves[at].has_room(&opened) => {
                let leaf = &mut self.leaves[at];
                leaf.all.bytes += opened.bytes;
                leaf.all.objects.extend(opened.objects);
                leaf.requests.push(open);
            }
            _ => {
                let known = known.map(|at| self.leaves[at].who.clone());
                let who = who
                    .or(known)
                    .expect("a claim is known or comes with who it is of");
                self.last.insert((dataset, claim), self.leaves.len());
                self.leaves.push(OneLeaf {
                    dataset,
                    who,
                    all: opened,
                    requests: vec![open],
                });
            }
        }
    }

    /// Appends all of them, and answers each open at its place.
    pub(super) fn append(
        &mut self,
        applying: &mut Applying<'_>,
        key: &mut HeldKey,
        region: &str,
        answers: &mut [RecordAnswer],
    ) {
        let shares = applying.at.level >= LEVEL_SHARED_LEAVES;
        self.requests.clear();
        self.last.clear();
        for mut leaf in self.leaves.drain(..) {
            let uses = leaf.all.objects.len() as u64;
            let private = leaf.private(region);
            let key = key.changing(applying.state, &leaf.dataset);
            use_it(key, uses);
            let appended = applying.append(Kind::Open, leaf.who.purpose, Some(key), private);
            let ids: Vec<_> = leaf.requests.iter().map(|open| open.request.id()).collect();
            for open in leaf.requests {
                let memory = open.request.memory_of(&appended, applying.now);
                match shares {
                    true => open.request.put(applying.state, &memory),
                    false => open.request.remember(applying.state, &memory),
                }
                answers[open.place] = answer_of(&memory, false);
            }
            if shares {
                requests::queue(applying.state, applying.now, &appended, &ids);
            }
        }
    }
}
