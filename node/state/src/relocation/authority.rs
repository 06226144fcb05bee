//! Who may change a dataset: the record in its shard that fences, reverts and moves it.
//!
//! Owns the one decision of a relocation. After a fence exactly one of `revert` and `moved` applies, each to the fence it
//! names, and the other is refused for ever. Refuses to know why: time-out and abort only propose a revert. The same
//! record stands on both sides; a destination has none until it has committed that the source moved.

use proto::danger::{Switch, broken};
use proto::ids::{DatasetEpoch, LogIndex, RegionId, RelocationId};
use proto::relocation::Moved;

use super::departure::{AuthorityRefused, Departure, DepartureVersion, Fence, FenceCount};

mod stored;

/// What a dataset's shard holds of who may change it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Authority {
    epoch: DatasetEpoch,
    version: DepartureVersion,
    standing: Standing,
    departure: Option<Departure>,
}

/// Whether a dataset takes changes here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It does.
    Active,
    /// Not while this fence stands.
    Fenced {
        /// Log index of the fence.
        at: LogIndex,
    },
    /// Never again: it is another region's.
    Moved(Moved),
    /// Never again, and what was written here after the fence is nowhere else: the other region was opened by force.
    /// Keys stay until people have dealt with it.
    Diverged(Moved),
    /// Restored from a backup: it may be another region's by now.
    Unconfirmed,
}

/// What somebody wants to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// An object: put, delete, finish.
    Write,
    /// What lifecycle rules remove.
    Lifecycle,
    /// Sealed metadata and tags.
    Tags,
    /// An object's retention.
    Lock,
    /// The dataset's configuration.
    Config,
    /// The dataset's retention or legal hold.
    Hold,
    /// The state of its key.
    KeyState,
}

/// Why a change is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum NotAdmitted {
    /// Try again: within seconds the dataset is active here or elsewhere.
    #[error("the dataset is fenced")]
    Fenced,
    /// Follow it.
    #[error("the dataset has moved")]
    Moved,
    /// Decided on, or sealed under, another epoch.
    #[error("the dataset is in epoch {0}")]
    EpochMoved(DatasetEpoch),
    /// Restored, and not confirmed.
    #[error("the dataset was restored and is not confirmed")]
    Unconfirmed,
}

impl Authority {
    /// Of a dataset that is made, or has arrived, in this epoch.
    pub fn founded(epoch: DatasetEpoch) -> Self {
        Self {
            epoch,
            version: DepartureVersion::default(),
            standing: Standing::Active,
            departure: None,
        }
    }

    /// Of a dataset whose shard was restored from a backup.
    pub fn restored(self) -> Self {
        let standing = match self.standing {
            moved @ (Standing::Moved(_) | Standing::Diverged(_)) => moved,
            _ => Standing::Unconfirmed,
        };
        Self { standing, ..self }
    }

    /// The epoch it is in here.
    pub fn epoch(&self) -> DatasetEpoch {
        self.epoch
    }

    /// How many departures it has begun or refused for good.
    pub fn version(&self) -> DepartureVersion {
        self.version
    }

    /// Whether it takes changes.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// The relocation under way, or the one that took it away.
    pub fn departure(&self) -> Option<&Departure> {
        self.departure.as_ref()
    }

    /// Lets a relocation read changes from log index `at` on. Sent twice it has effect once.
    pub fn open(
        self,
        relocation: RelocationId,
        destination: RegionId,
        from: DepartureVersion,
        at: LogIndex,
    ) -> Result<Self, AuthorityRefused> {
        if let Some(departure) = &self.departure
            && departure.relocation == relocation
        {
            return Ok(self);
        }
        self.settled()?;
        if self.version != from || self.departure.is_some() {
            return Err(AuthorityRefused::VersionMoved(self.version));
        }
        let departure = Departure {
            relocation,
            destination,
            fences: FenceCount::default(),
            taken: at,
        };
        Ok(Self {
            version: DepartureVersion(self.version.0 + 1),
            departure: Some(departure),
            ..self
        })
    }

    /// The destination has durably taken changes through this log index.
    pub fn taken(
        mut self,
        relocation: RelocationId,
        through: LogIndex,
    ) -> Result<Self, AuthorityRefused> {
        let departure = self.under_way(relocation)?;
        departure.taken = departure.taken.max(through);
        Ok(self)
    }

    /// Stops changes at log index `at`. The same request again changes nothing while its fence stands.
    pub fn fence(mut self, asked: Fence, at: LogIndex) -> Result<Self, AuthorityRefused> {
        self.settled()?;
        if self.epoch != asked.epoch && !broken(Switch::EpochIgnored) {
            return Err(AuthorityRefused::EpochMoved(self.epoch));
        }
        let standing = self.standing;
        let departure = self.under_way(asked.relocation)?;
        let next = FenceCount(asked.from.0.saturating_add(1));
        match standing {
            Standing::Fenced { .. } if departure.fences == next => Ok(self),
            Standing::Active if departure.fences == asked.from => {
                departure.fences = next;
                self.standing = Standing::Fenced { at };
                Ok(self)
            }
            _ => Err(AuthorityRefused::FenceOver(at)),
        }
    }

    /// Ends a fence: the dataset is active as before, in the same epoch.
    pub fn revert(
        mut self,
        relocation: RelocationId,
        fence: LogIndex,
    ) -> Result<Self, AuthorityRefused> {
        let racing = broken(Switch::RevertRacesCutover);
        if !racing {
            self.settled()?;
        }
        let standing = self.standing;
        self.under_way(relocation)?;
        match standing {
            Standing::Fenced { at } if at == fence => {}
            Standing::Moved(moved) if racing && moved.fence == fence => {}
            _ => return Err(AuthorityRefused::FenceOver(fence)),
        }
        self.standing = Standing::Active;
        Ok(self)
    }

    /// Gives the dataset away: only under the very fence at which all copies were found equal.
    pub fn moved(mut self, moved: Moved) -> Result<Self, AuthorityRefused> {
        if self.standing == Standing::Moved(moved) {
            return Ok(self);
        }
        self.settled()?;
        if moved.epoch != self.next_epoch() {
            return Err(AuthorityRefused::EpochMoved(self.epoch));
        }
        let standing = self.standing;
        self.under_way(moved.relocation)?;
        match standing {
            Standing::Fenced { at } if at == moved.fence || broken(Switch::FenceUnnamed) => {}
            _ => return Err(AuthorityRefused::FenceOver(moved.fence)),
        }
        self.standing = Standing::Moved(moved);
        Ok(self)
    }

    /// The destination was opened by force while nobody here could be asked. Under the fence it was opened on nothing is
    /// missing there; after a revert this region may have what the other has not.
    pub fn superseded(mut self, moved: Moved) -> Result<Self, AuthorityRefused> {
        if let Standing::Moved(held) | Standing::Diverged(held) = self.standing {
            return if held == moved {
                Ok(self)
            } else {
                Err(AuthorityRefused::Moved)
            };
        }
        if moved.epoch != self.next_epoch() {
            return Err(AuthorityRefused::EpochMoved(self.epoch));
        }
        self.standing = match self.standing {
            Standing::Fenced { at } if at == moved.fence => Standing::Moved(moved),
            _ => Standing::Diverged(moved),
        };
        Ok(self)
    }

    /// Ends a relocation before it moved: whatever fence it has is reverted, and no delayed request of its plan will
    /// open it.
    pub fn end(
        mut self,
        relocation: RelocationId,
        from: DepartureVersion,
    ) -> Result<Self, AuthorityRefused> {
        self.settled()?;
        match &self.departure {
            Some(departure) if departure.relocation == relocation => {
                self.departure = None;
                self.standing = Standing::Active;
            }
            _ if self.version == from => {
                self.version = DepartureVersion(from.0 + 1);
            }
            _ => {}
        }
        Ok(self)
    }

    /// The authority after a change of this epoch, if it may be made. What protects data or ends the use of a key cannot
    /// wait, and would be lost if it were made here and the dataset moved as it was at the fence: it ends the fence.
    pub fn admit(mut self, change: Change, epoch: DatasetEpoch) -> Result<Self, NotAdmitted> {
        match (self.standing, change) {
            (Standing::Active, _) => {}
            (Standing::Fenced { .. }, Change::Hold | Change::KeyState) => {
                self.standing = Standing::Active;
            }
            (Standing::Fenced { .. }, _) => return Err(NotAdmitted::Fenced),
            (Standing::Moved(_) | Standing::Diverged(_), _) => return Err(NotAdmitted::Moved),
            (Standing::Unconfirmed, _) => return Err(NotAdmitted::Unconfirmed),
        }
        if self.epoch != epoch && !broken(Switch::EpochIgnored) {
            return Err(NotAdmitted::EpochMoved(self.epoch));
        }
        Ok(self)
    }

    /// A restored dataset, once peers or two people have said in which epoch it is. In a later one it is not ours.
    pub fn confirmed(mut self, epoch: DatasetEpoch) -> Result<Self, AuthorityRefused> {
        match self.standing {
            Standing::Unconfirmed if epoch == self.epoch => {
                // A fence of before the backup is nobody's any more: its relocation begins anew.
                self.departure = None;
                self.version = DepartureVersion(self.version.0 + 1);
                self.standing = Standing::Active;
                Ok(self)
            }
            Standing::Unconfirmed => Err(AuthorityRefused::EpochMoved(epoch)),
            _ => Ok(self),
        }
    }

    fn next_epoch(&self) -> DatasetEpoch {
        DatasetEpoch(self.epoch.0 + 1)
    }

    fn settled(&self) -> Result<(), AuthorityRefused> {
        match self.standing {
            Standing::Active | Standing::Fenced { .. } => Ok(()),
            Standing::Moved(_) | Standing::Diverged(_) => Err(AuthorityRefused::Moved),
            Standing::Unconfirmed => Err(AuthorityRefused::Unconfirmed),
        }
    }

    fn under_way(&mut self, relocation: RelocationId) -> Result<&mut Departure, AuthorityRefused> {
        match &mut self.departure {
            Some(departure) if departure.relocation == relocation => Ok(departure),
            _ => Err(AuthorityRefused::NotUnderWay(relocation)),
        }
    }
}
