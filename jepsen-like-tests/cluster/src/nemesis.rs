//! What can go wrong, and how it is put right again.
//!
//! Owns the list of faults. Each is injected by chance from a generator that the caller seeds, and says what was done
//! to whom. Refuses to leave anything: healing an area (network, clocks, disks, processes, seals, members) puts the
//! whole area right, whatever was done to it, and can be done again.

mod clock;
mod damage;
mod disk;
mod members;
mod network;
mod process;
mod seal;

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};
use local::Service;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};

use crate::world::World;

pub(crate) use clock::Strobe;

macro_rules! faults {
    ($($(#[$doc:meta])+ $variant:ident $name:literal $area:ident,)+) => {
        /// A kind of fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Fault {
            $($(#[$doc])+ $variant,)+
        }

        impl Fault {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// As it is called on a command line and in reports.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it happens to.
            pub const fn area(self) -> Area {
                match self { $(Self::$variant => Area::$area,)+ }
            }
        }
    };
}

faults! {
    /// Kill -9 of the leader of a group.
    KillLeader "kill-leader" Process,
    /// Kill -9 of less than half of the nodes or of the KMS replicas.
    KillMinority "kill-minority" Process,
    /// Kill -9 of more than half of them.
    KillMajority "kill-majority" Process,
    /// Kill -9 of every process of the region.
    KillAll "kill-all" Process,
    /// The leader of a group stops running until another leads, and then finds itself deposed.
    PauseLeader "pause-leader" Process,
    /// The leader of a group sees nobody but clients.
    IsolateLeader "isolate-leader" Network,
    /// A majority and a minority that do not see each other.
    PartitionHalves "partition-halves" Network,
    /// Two halves that only one machine between them sees.
    PartitionBridge "partition-bridge" Network,
    /// Everybody hears neighbours alone.
    PartitionRing "partition-ring" Network,
    /// A member hears nobody and is heard.
    OneWayIn "one-way-in" Network,
    /// A member hears everybody and is not heard.
    OneWayOut "one-way-out" Network,
    /// A share of the packets is lost.
    Loss "loss" Network,
    /// Connections are reset.
    Reset "reset" Network,
    /// Packets take long and differently long.
    Delay "delay" Network,
    /// Packets overtake each other.
    Reorder "reorder" Network,
    /// Few bytes a second fit through.
    Rate "rate" Network,
    /// The region is cut off from other regions.
    LinkCut "link-cut" Network,
    /// The link between the regions is slow.
    LinkSlow "link-slow" Network,
    /// A wall clock jumps.
    ClockJump "clock-jump" Clock,
    /// A wall clock jumps to and fro.
    ClockStrobe "clock-strobe" Clock,
    /// The wall clocks of all storage nodes jump by hours, until what an epoch ends is flushed.
    ClockHours "clock-hours" Clock,
    /// A disk is full.
    DiskFull "disk-full" Disk,
    /// A disk is slow to sync.
    DiskSlow "disk-slow" Disk,
    /// A sync fails.
    SyncError "sync-error" Disk,
    /// One machine loses its power, and what was not synced.
    PowerCut "power-cut" Disk,
    /// All do, at once.
    PowerCutAll "power-cut-all" Disk,
    /// One machine loses its power; of what was not synced some was written, in part and out of order.
    TornWrite "torn-write" Disk,
    /// A bit of a stored block flips.
    FlipBlock "flip-block" Disk,
    /// Sectors of a stored block are lost.
    TornBlock "torn-block" Disk,
    /// A bit of the Raft log flips.
    FlipLog "flip-log" Members,
    /// A member is added; healed, any one leaves.
    AddRemove "add-remove" Members,
    /// A member is replaced.
    Replace "replace" Members,
    /// A disk is empty.
    WipedDisk "wiped-disk" Members,
    /// A disk is what it was some time ago.
    RolledBackDisk "rolled-back-disk" Members,
    /// Every process is restarted, one after the other.
    RollingRestart "rolling-restart" Process,
    /// One KMS replica is sealed by an operator.
    SealReplica "seal-replica" Seal,
    /// All are.
    SealAll "seal-all" Seal,
}

/// What faults happen to, and what is healed as one; each area needs those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Area {
    /// The network.
    Network,
    /// Wall clocks.
    Clock,
    /// Disks of members that come back.
    Disk,
    /// Processes that end or pause.
    Process,
    /// Seals of KMS replicas.
    Seal,
    /// Who is a member; disks that their member does not come back from.
    Members,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Fault {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|fault| fault.name() == name);
        let Some(found) = found else {
            let names: Vec<_> = Self::ALL.iter().map(|fault| fault.name()).collect();
            bail!("no fault {name}; there are {}", names.join(", "));
        };
        Ok(*found)
    }
}

/// What was done.
#[derive(Debug, Clone)]
pub struct Injected {
    /// Which fault.
    pub fault: Fault,
    /// What was done to whom, or why nothing could be done now.
    pub says: String,
    /// Services it was done to; none if it could not be done now.
    pub victims: Vec<String>,
    /// A promise that was seen broken on the way.
    pub broken: Option<String>,
}

impl Injected {
    /// Whether anything was done.
    pub fn took_hold(&self) -> bool {
        !self.victims.is_empty()
    }
}

/// What one kind of fault did, before it is put under its name.
struct Done {
    says: String,
    victims: Vec<String>,
    broken: Option<String>,
}

impl Done {
    fn to(victims: Vec<String>, says: impl Into<String>) -> Self {
        Self {
            says: says.into(),
            victims,
            broken: None,
        }
    }

    fn not_now(why: impl fmt::Display) -> Self {
        Self::to(Vec::new(), format!("not now: {why}"))
    }
}

impl Fault {
    /// Whether a world can have it at all: volumes, clocks and a second region are not in each.
    pub fn fits(self, world: &World) -> bool {
        match self {
            Self::LinkCut | Self::LinkSlow => world.net().regions().len() > 1,
            _ => match self.area() {
                Area::Clock => world.rooms.has_clocks(),
                Area::Disk => world.rooms.has_volumes(),
                Area::Process | Area::Network | Area::Members | Area::Seal => true,
            },
        }
    }

    /// Whether a region is as before once it is healed. Another is injected where it is asked for by its name alone:
    /// region time does not go back, so that leases of hours to come are void.
    pub fn passes(self) -> bool {
        self != Self::ClockHours
    }

    /// Whether it may last while another does. A disk that its member must not come back from is a long affair, and
    /// what a cut link must not do to a region is seen of one that serves.
    pub fn goes_with(self, other: Self) -> bool {
        let needs_service = |fault| {
            matches!(
                fault,
                Self::FlipLog | Self::WipedDisk | Self::RolledBackDisk | Self::LinkCut
            )
        };
        let serves = |fault: Self| fault.area() == Area::Clock;
        self.area() != other.area()
            && (!needs_service(self) || serves(other))
            && (!needs_service(other) || serves(self))
    }

    /// Has it happen, to victims chosen by `rng`. After an error the area has to be healed.
    pub async fn inject(self, world: &mut World, rng: &mut StdRng) -> Result<Injected> {
        let done = match self.area() {
            _ if !self.fits(world) => Done::not_now("this world cannot have it"),
            Area::Process => process::inject(self, world, rng).await?,
            Area::Network => network::inject(self, world, rng).await?,
            Area::Clock => clock::inject(self, world, rng).await?,
            Area::Disk => disk::inject(self, world, rng).await?,
            Area::Members => members::inject(self, world, rng).await?,
            Area::Seal => seal::inject(self, world, rng).await?,
        };
        let Done {
            says,
            victims,
            broken,
        } = done;
        tracing::info!(fault = self.name(), %says, "injected");
        Ok(Injected {
            fault: self,
            says,
            victims,
            broken,
        })
    }

    /// Puts right what it happens to, and says what that took.
    pub async fn heal(self, world: &mut World) -> Result<String> {
        let upto = match self.area() {
            // Whose disk failed may have ended, and whoever is started is sealed.
            Area::Disk | Area::Process => Area::Seal,
            area => area,
        };
        let mut healed = upto.heal(world).await?;
        if matches!(self, Self::FlipBlock | Self::TornBlock) {
            healed.extend(damage::mended(world).await?);
        }
        let says = healed.join("; ");
        tracing::info!(fault = self.name(), %says, "healed");
        Ok(says)
    }
}

impl Area {
    /// Every area, in the order in which they need each other.
    pub const ALL: [Self; 6] = [
        Self::Network,
        Self::Clock,
        Self::Disk,
        Self::Process,
        Self::Seal,
        Self::Members,
    ];

    /// Puts the area right, and those before it: no process starts on a disk that fails, no replica is unsealed by
    /// peers it does not hear.
    pub async fn heal(self, world: &mut World) -> Result<Vec<String>> {
        let mut healed = Vec::new();
        for area in Self::ALL.into_iter().filter(|area| *area <= self) {
            healed.extend(match area {
                Self::Network => network::heal(world)?,
                Self::Clock => clock::heal(world)?,
                Self::Disk => disk::heal(world)?,
                Self::Process => process::heal(world)?,
                Self::Seal => seal::heal(world).await?,
                Self::Members => members::heal(world).await?,
            });
        }
        Ok(healed)
    }
}

/// Puts everything right.
pub(crate) async fn heal_everything(world: &mut World) -> Result<Vec<String>> {
    let mut healed = Area::Members.heal(world).await?;
    healed.extend(damage::mended(world).await?);
    Ok(healed)
}

/// So many of them, by chance.
fn some(services: &[Service], count: usize, rng: &mut StdRng) -> Vec<String> {
    let mut names = names(services);
    names.shuffle(rng);
    names.truncate(count);
    names.sort();
    names
}

fn one(services: &[Service], rng: &mut StdRng) -> Option<Service> {
    services.choose(rng).cloned()
}

fn names(services: &[Service]) -> Vec<String> {
    services
        .iter()
        .map(|service| service.name.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_found_by_its_name() {
        for fault in Fault::ALL {
            assert_eq!(fault.name().parse::<Fault>().expect("it is there"), *fault);
        }
        let unknown = "kill-leaders".parse::<Fault>().expect_err("there is none");
        assert!(unknown.to_string().contains("kill-leader,"), "{unknown}");
    }
}
