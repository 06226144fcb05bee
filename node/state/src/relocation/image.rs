//! How much of the source a destination has: what was listed, how far changes and request ids were followed.
//!
//! Owns the cursors, which go on only without a gap: a batch says where it begins, and a mover that crashed, or a second
//! one, can repeat but not skip. Refuses what was read in an earlier pass.

use std::cmp::Ordering;

use proto::danger::{Switch, broken};
use proto::ids::{LogIndex, ObjectKey, RelocationId};

use super::import::{Content, Import, NotResealed};
use super::unit::Unit;

/// A place in the order of keys, and of one key's units in the order of source log indexes: not all versions of a key need
/// fit into one batch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Position {
    /// Before all keys.
    Start,
    /// In this one, after what has this source log index.
    Within(ObjectKey, LogIndex),
    /// After this one.
    After(ObjectKey),
    /// After all keys.
    End,
}

impl Position {
    fn rank(&self) -> (u8, Option<&ObjectKey>, Option<LogIndex>) {
        match self {
            Self::Start => (0, None, None),
            Self::Within(key, index) => (1, Some(key), Some(*index)),
            Self::After(key) => (1, Some(key), None),
            Self::End => (2, None, None),
        }
    }
}

impl Ord for Position {
    fn cmp(&self, other: &Self) -> Ordering {
        let ((of, key, index), (to, to_key, to_index)) = (self.rank(), other.rank());
        // Without an index it is after all of the key's.
        let by_index = || match (index, to_index) {
            (Some(index), Some(to_index)) => index.cmp(&to_index),
            (index, to_index) => index.is_none().cmp(&to_index.is_none()),
        };
        of.cmp(&to).then(key.cmp(&to_key)).then_with(by_index)
    }
}

impl PartialOrd for Position {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What part of the source a batch is all of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Span {
    /// Every key between two places, as listed at one log index. What the destination has of them and the listing has
    /// not comes as a tombstone.
    Page {
        /// After this place.
        after: Position,
        /// Up to and including this one.
        through: Position,
        /// The listing's log index.
        at: LogIndex,
    },
    /// Every change between two log indexes.
    Changes {
        /// After this one.
        after: LogIndex,
        /// Through this one.
        through: LogIndex,
    },
    /// Every request id that was answered between two log indexes, refusals that are final among them: those leave no
    /// change.
    Requests {
        /// After this one.
        after: LogIndex,
        /// Through this one.
        through: LogIndex,
    },
}

/// Imports that are applied together, and what they are all of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Batch {
    /// Of which relocation.
    pub relocation: RelocationId,
    /// In which pass they were read, by [`Image::base`]. Where tombstones were dropped, nothing here says that an object
    /// of an earlier pass is gone: its index alone would let it in.
    pub pass: LogIndex,
    /// What they are all of.
    pub span: Span,
    /// Units: of a page in the order of places, of changes in the order of log indexes; none with [`Span::Requests`].
    /// Settings have no place: a page may begin with them.
    pub imports: Vec<(Unit, Import)>,
}

impl Batch {
    /// Whether the imports lie within the span and in its order. Out of order, one would be judged without those that
    /// come before it.
    pub(super) fn is_ordered(&self) -> bool {
        let ascends = self.imports.windows(2).all(|pair| {
            let [(unit, one), (next, after)] = pair else {
                return false;
            };
            match self.span {
                // What is gone has the listing's log index, as the newest version may have.
                Span::Page { .. } => {
                    let gone = |one: &Import| one.content == Content::Tombstone;
                    (unit.place(one), gone(one), unit) < (next.place(after), gone(after), next)
                }
                _ => one.index < after.index,
            }
        });
        ascends
            && self.imports.iter().all(|(unit, one)| match &self.span {
                Span::Page { after, through, at } => {
                    let within = unit
                        .place(one)
                        .is_none_or(|place| *after < place && place <= *through);
                    within && one.index <= *at
                }
                Span::Changes { after, through } => *after < one.index && one.index <= *through,
                Span::Requests { .. } => false,
            })
    }
}

/// Why a batch was not taken, not even in part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum ImportRefused {
    /// The relocation takes no imports now, or is another one.
    #[error("relocation {0} takes no imports")]
    NotTaking(RelocationId),
    /// Imports are outside the span that the batch says it is of, or out of order.
    #[error("the imports are not those of their span")]
    Malformed,
    /// What lies between this batch and what was taken before is missing.
    #[error("the batch does not go on where the last one ended")]
    Gap,
    /// Objects were read in another pass than the one that counts from here.
    #[error("the listing that counts is from log index {0} on")]
    OtherPass(LogIndex),
    /// All copies were found equal: nothing may change any more.
    #[error("the copies were found equal under the fence at log index {0}")]
    FoundEqual(LogIndex),
    /// An object is not sealed under the destination's key.
    #[error("an object was not sealed anew")]
    NotResealed(#[source] NotResealed),
}

/// What has been taken.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Image {
    pub(super) base: LogIndex,
    pub(super) listed: Position,
    pub(super) changes: LogIndex,
    pub(super) requests: LogIndex,
    pub(super) changed: LogIndex,
}

impl Image {
    /// Nothing yet: a first listing from log index `base` on.
    pub(super) fn from(base: LogIndex) -> Self {
        Self {
            base,
            listed: Position::Start,
            changes: base,
            requests: LogIndex(0),
            changed: LogIndex(0),
        }
    }

    /// Source log index from which on a listing counts in this pass.
    pub fn base(&self) -> LogIndex {
        self.base
    }

    /// Up to where this pass has listed.
    pub fn listed(&self) -> &Position {
        &self.listed
    }

    /// Source log index through which every change was taken, once all is listed.
    pub fn changes(&self) -> LogIndex {
        self.changes
    }

    /// Source log index through which every request id was taken.
    pub fn requests(&self) -> LogIndex {
        self.requests
    }

    /// Own log index at which an import last had an effect: what was compared before it proves nothing.
    pub fn changed(&self) -> LogIndex {
        self.changed
    }

    /// Whether all was listed in this pass.
    pub(super) fn is_listed(&self) -> bool {
        self.listed == Position::End
    }

    /// Lists once more: tombstones after [`Image::changes`] are no longer there to be read. Request ids go on.
    pub(super) fn listing_again(self, base: LogIndex) -> Self {
        Self {
            base,
            listed: Position::Start,
            changes: base,
            ..self
        }
    }

    /// Moves the cursor that the batch is for. While a pass lists, changes wait: they begin at its base.
    pub(super) fn advance(mut self, batch: &Batch) -> Result<Self, ImportRefused> {
        let same_pass = batch.pass == self.base || broken(Switch::PassIgnored);
        match &batch.span {
            Span::Requests { after, through } => {
                self.requests = goes_on(self.requests, *after, *through)?;
            }
            _ if !same_pass => return Err(ImportRefused::OtherPass(self.base)),
            // A page from before this pass shows keys whose removal nobody will tell.
            Span::Page { at, .. } if *at < self.base => {}
            Span::Page { after, through, .. } => {
                if *after > self.listed {
                    return Err(ImportRefused::Gap);
                }
                self.listed = through.clone().max(self.listed);
            }
            Span::Changes { .. } if !self.is_listed() => {}
            Span::Changes { after, through } => {
                self.changes = goes_on(self.changes, *after, *through)?;
            }
        }
        Ok(self)
    }

    pub(super) fn touched(self, at: LogIndex) -> Self {
        Self {
            changed: self.changed.max(at),
            ..self
        }
    }
}

fn goes_on(held: LogIndex, after: LogIndex, through: LogIndex) -> Result<LogIndex, ImportRefused> {
    if after > held {
        return Err(ImportRefused::Gap);
    }
    Ok(held.max(through))
}
