//! The volume: files and folders as they are, and as they would be found after a power cut.
//!
//! Owns both trees of names and the moment at which a change moves from one to the other: a name is durable after
//! its folder was synced, a folder's own name included. Refuses every call while the power is off, and every handle
//! of an earlier boot. The backing folder holds one file an inode and `names.json`, the durable tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::content::{Content, Survival};

/// The root folder.
pub const ROOT: u64 = 1;

/// What was injected and served so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Power cuts.
    pub cuts: u64,
    /// Unsynced pages that survived a cut whole.
    pub pages_kept: u64,
    /// Unsynced pages lost in a cut.
    pub pages_lost: u64,
    /// Unsynced pages that survived in part.
    pub pages_torn: u64,
    /// Unsynced changes of names lost in a cut.
    pub names_lost: u64,
    /// Unsynced changes of names that survived a cut.
    pub names_kept: u64,
    /// Syncs of files that succeeded.
    pub syncs: u64,
    /// Syncs that failed by command.
    pub syncs_failed: u64,
    /// Syncs that were answered and not done, by command.
    pub syncs_ignored: u64,
    /// Syncs that took longer by command.
    pub syncs_slowed: u64,
    /// Writes.
    pub writes: u64,
    /// Writes refused for want of space.
    pub writes_full: u64,
}

/// A file or a folder.
pub struct Inode {
    /// What it is.
    pub node: Node,
    /// Last change of the content.
    pub modified: SystemTime,
    /// Open handles of the present boot.
    pub opens: u64,
}

/// What an inode is.
pub enum Node {
    /// A folder and its names as they are now.
    Dir(BTreeMap<String, u64>),
    /// A file.
    File(Content),
}

type Name = (u64, String);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Add { name: Name, inode: u64 },
    Remove { name: Name },
    Rename { from: Name, to: Name, inode: u64 },
}

/// One durable name, as `names.json` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    parent: u64,
    name: String,
    inode: u64,
    dir: bool,
}

/// A volume over a backing folder.
pub struct Volume {
    backing: PathBuf,
    inodes: BTreeMap<u64, Inode>,
    durable: BTreeMap<Name, u64>,
    pending: Vec<Change>,
    next: u64,
    boot: u64,
    on: bool,
    full: bool,
    sync_fails_in: Option<u64>,
    syncs_ignored: bool,
    syncs_take: Duration,
    counts: Counts,
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

impl Volume {
    /// The volume in `backing`, which may be empty; what is there is what was durable.
    pub fn open(backing: &Path) -> io::Result<Self> {
        fs::create_dir_all(backing.join(INODES))?;
        let entries: Vec<Entry> = match fs::read(backing.join(NAMES)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut volume = Self {
            backing: backing.to_owned(),
            inodes: BTreeMap::new(),
            durable: BTreeMap::new(),
            pending: Vec::new(),
            next: entries
                .iter()
                .map(|entry| entry.inode + 1)
                .max()
                .unwrap_or(ROOT + 1),
            boot: 1,
            on: true,
            full: false,
            sync_fails_in: None,
            syncs_ignored: false,
            syncs_take: Duration::ZERO,
            counts: Counts::default(),
        };
        volume.insert(ROOT, Node::Dir(BTreeMap::new()));
        for entry in entries {
            if !volume.inodes.contains_key(&entry.inode) {
                let node = match entry.dir {
                    true => Node::Dir(BTreeMap::new()),
                    false => Node::File(volume.content(entry.inode, false)?),
                };
                volume.insert(entry.inode, node);
            }
            volume
                .durable
                .insert((entry.parent, entry.name), entry.inode);
        }
        volume.rebuild()?;
        Ok(volume)
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The number of the present boot: handles carry it.
    pub fn boot(&self) -> u64 {
        self.boot
    }

    /// Where the platter is.
    pub fn backing(&self) -> &Path {
        &self.backing
    }

    /// Whether writes are refused for want of space.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Refuses writes for want of space, or takes them again.
    pub fn set_full(&mut self, full: bool) {
        self.full = full;
    }

    /// Lets the sync after the next `syncs` fail, once.
    pub fn fail_sync_in(&mut self, syncs: u64) {
        self.sync_fails_in = Some(syncs);
    }

    /// Lies about syncs from now on, until told not to: they are answered and not done.
    pub fn ignore_syncs(&mut self, ignored: bool) {
        self.syncs_ignored = ignored;
    }

    /// Lets every sync take that much longer from now on. Everything else waits meanwhile, as on one busy device.
    pub fn slow_syncs(&mut self, take: Duration) {
        self.syncs_take = take;
    }

    /// How long who asks for a sync has to wait before it is done. The volume is not held meanwhile: a sync under way
    /// when the power goes is none.
    pub fn syncs_take(&self) -> Duration {
        self.syncs_take
    }

    /// Cuts the power: what was not synced is gone or survives as the seed says, and nothing answers until
    /// [`Volume::power_on`].
    pub fn cut(&mut self, survival: Survival, seed: u64) -> io::Result<()> {
        let mut rng = StdRng::seed_from_u64(seed);
        self.on = false;
        self.boot += 1;
        self.counts.cuts += 1;
        (self.full, self.sync_fails_in) = (false, None);
        for change in std::mem::take(&mut self.pending) {
            if survival == Survival::Mixed && rng.random() {
                self.counts.names_kept += 1;
                change.apply(&mut self.durable);
            } else {
                self.counts.names_lost += 1;
            }
        }
        for inode in self.inodes.values_mut() {
            inode.opens = 0;
            if let Node::File(content) = &mut inode.node {
                content.cut(survival, &mut rng, &mut self.counts)?;
            }
        }
        self.rebuild()?;
        self.write_names()
    }

    /// Answers again.
    pub fn power_on(&mut self) {
        self.on = true;
    }

    /// Refuses while the power is off.
    pub fn powered(&self) -> io::Result<()> {
        if self.on {
            Ok(())
        } else {
            Err(errno(libc::EIO))
        }
    }

    /// Refuses while the power is off, and for handles opened before it went.
    pub fn handle(&self, boot: u64) -> io::Result<()> {
        self.powered()?;
        if boot == self.boot {
            Ok(())
        } else {
            Err(errno(libc::EIO))
        }
    }

    /// One inode.
    pub fn inode(&self, inode: u64) -> io::Result<&Inode> {
        self.powered()?;
        self.inodes.get(&inode).ok_or_else(|| errno(libc::ENOENT))
    }

    /// Names that lead to it now.
    pub fn links(&self, inode: u64) -> u32 {
        let held = self.inodes.values().filter_map(|held| match &held.node {
            Node::Dir(names) => Some(names.values().filter(|named| **named == inode).count()),
            Node::File(_) => None,
        });
        u32::try_from(held.sum::<usize>()).unwrap_or(u32::MAX)
    }

    /// What `name` leads to.
    pub fn lookup(&self, parent: u64, name: &str) -> io::Result<u64> {
        self.names(parent)?
            .get(name)
            .copied()
            .ok_or_else(|| errno(libc::ENOENT))
    }

    /// The names in a folder.
    pub fn names(&self, dir: u64) -> io::Result<&BTreeMap<String, u64>> {
        match &self.inode(dir)?.node {
            Node::Dir(names) => Ok(names),
            Node::File(_) => Err(errno(libc::ENOTDIR)),
        }
    }

    /// Counts an open handle. What was renamed over between the look-up and the opening is stale: the kernel looks the
    /// name up again.
    pub fn opened(&mut self, inode: u64) -> io::Result<()> {
        self.powered()?;
        let held = self
            .inodes
            .get_mut(&inode)
            .ok_or_else(|| errno(libc::ESTALE))?;
        held.opens += 1;
        Ok(())
    }

    /// A handle of `boot` is closed.
    pub fn closed(&mut self, inode: u64, boot: u64) -> io::Result<()> {
        if boot != self.boot {
            return Ok(());
        }
        if let Some(held) = self.inodes.get_mut(&inode) {
            held.opens = held.opens.saturating_sub(1);
        }
        self.collect()
    }

    /// Makes a file or a folder under a free name.
    pub fn create(&mut self, parent: u64, name: &str, dir: bool) -> io::Result<u64> {
        self.room()?;
        if self.names(parent)?.contains_key(name) {
            return Err(errno(libc::EEXIST));
        }
        let inode = self.next;
        self.next += 1;
        let node = match dir {
            true => Node::Dir(BTreeMap::new()),
            false => Node::File(self.content(inode, true)?),
        };
        self.insert(inode, node);
        self.add(parent, name, inode)?;
        Ok(inode)
    }

    /// One more name for a file.
    pub fn link(&mut self, inode: u64, parent: u64, name: &str) -> io::Result<()> {
        self.file(inode)?;
        if self.names(parent)?.contains_key(name) {
            return Err(errno(libc::EEXIST));
        }
        self.add(parent, name, inode)
    }

    /// Removes a file's name, or an empty folder with `dir`.
    pub fn remove(&mut self, parent: u64, name: &str, dir: bool) -> io::Result<()> {
        let inode = self.lookup(parent, name)?;
        match (&self.inode(inode)?.node, dir) {
            (Node::Dir(names), true) if names.is_empty() => {}
            (Node::Dir(_), true) => return Err(errno(libc::ENOTEMPTY)),
            (Node::Dir(_), false) => return Err(errno(libc::EISDIR)),
            (Node::File(_), true) => return Err(errno(libc::ENOTDIR)),
            (Node::File(_), false) => {}
        }
        self.names_mut(parent)?.remove(name);
        let name = (parent, name.to_owned());
        self.pending.push(Change::Remove { name });
        self.collect()
    }

    /// Moves a name, replacing what `to` named.
    pub fn rename(&mut self, from: (u64, &str), to: (u64, &str)) -> io::Result<()> {
        let inode = self.lookup(from.0, from.1)?;
        if let Ok(replaced) = self.lookup(to.0, to.1) {
            if replaced == inode {
                return Ok(());
            }
            match (&self.inode(replaced)?.node, &self.inode(inode)?.node) {
                (Node::Dir(names), Node::Dir(_)) if names.is_empty() => {}
                (Node::Dir(_), Node::Dir(_)) => return Err(errno(libc::ENOTEMPTY)),
                (Node::Dir(_), Node::File(_)) => return Err(errno(libc::EISDIR)),
                (Node::File(_), Node::Dir(_)) => return Err(errno(libc::ENOTDIR)),
                (Node::File(_), Node::File(_)) => {}
            }
        }
        self.names_mut(to.0)?.insert(to.1.to_owned(), inode);
        self.names_mut(from.0)?.remove(from.1);
        self.pending.push(Change::Rename {
            from: (from.0, from.1.to_owned()),
            to: (to.0, to.1.to_owned()),
            inode,
        });
        self.collect()
    }

    /// Makes the names in a folder durable.
    pub fn sync_dir(&mut self, dir: u64) -> io::Result<()> {
        self.names(dir)?;
        if !self.syncs()? {
            return Ok(());
        }
        let (synced, pending) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|c: &Change| c.is_in(dir));
        self.pending = pending;
        for change in synced {
            change.apply(&mut self.durable);
        }
        self.write_names()?;
        self.collect()
    }

    /// The content of a file.
    pub fn file(&self, inode: u64) -> io::Result<&Content> {
        match &self.inode(inode)?.node {
            Node::File(content) => Ok(content),
            Node::Dir(_) => Err(errno(libc::EISDIR)),
        }
    }

    /// Writes to a file. What is within it has its room, on a full volume too.
    pub fn write(&mut self, inode: u64, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset.saturating_add(data.len() as u64) > self.file(inode)?.bytes() {
            self.room()?;
        }
        self.counts.writes += 1;
        self.changed(inode)?.write(offset, data)
    }

    /// Sets a file's length.
    pub fn resize(&mut self, inode: u64, bytes: u64) -> io::Result<()> {
        self.changed(inode)?.resize(bytes)
    }

    /// Makes a stretch of a file read as zeros.
    pub fn zero(&mut self, inode: u64, offset: u64, length: u64) -> io::Result<()> {
        self.changed(inode)?.zero(offset, length)
    }

    /// Makes a file's content durable.
    pub fn sync(&mut self, inode: u64) -> io::Result<()> {
        self.file(inode)?;
        match self.syncs() {
            Ok(true) => self.changed(inode)?.sync(),
            Ok(false) => Ok(()),
            Err(error) => {
                self.changed(inode)?.give_up();
                Err(error)
            }
        }
    }

    /// Counts a sync and says whether it is to be done.
    fn syncs(&mut self) -> io::Result<bool> {
        if !self.syncs_take.is_zero() {
            self.counts.syncs_slowed += 1;
        }
        match self.sync_fails_in {
            Some(0) => {
                self.sync_fails_in = None;
                self.counts.syncs_failed += 1;
                return Err(errno(libc::EIO));
            }
            Some(left) => self.sync_fails_in = Some(left - 1),
            None => {}
        }
        if self.syncs_ignored {
            self.counts.syncs_ignored += 1;
        } else {
            self.counts.syncs += 1;
        }
        Ok(!self.syncs_ignored)
    }

    /// Refuses while there is no room, or no power.
    pub fn room(&mut self) -> io::Result<()> {
        self.powered()?;
        if self.full {
            self.counts.writes_full += 1;
            return Err(errno(libc::ENOSPC));
        }
        Ok(())
    }

    fn changed(&mut self, inode: u64) -> io::Result<&mut Content> {
        self.powered()?;
        let held = self
            .inodes
            .get_mut(&inode)
            .ok_or_else(|| errno(libc::ENOENT))?;
        held.modified = SystemTime::now();
        match &mut held.node {
            Node::File(content) => Ok(content),
            Node::Dir(_) => Err(errno(libc::EISDIR)),
        }
    }

    fn names_mut(&mut self, dir: u64) -> io::Result<&mut BTreeMap<String, u64>> {
        self.powered()?;
        let held = self
            .inodes
            .get_mut(&dir)
            .ok_or_else(|| errno(libc::ENOENT))?;
        held.modified = SystemTime::now();
        match &mut held.node {
            Node::Dir(names) => Ok(names),
            Node::File(_) => Err(errno(libc::ENOTDIR)),
        }
    }

    fn add(&mut self, parent: u64, name: &str, inode: u64) -> io::Result<()> {
        self.names_mut(parent)?.insert(name.to_owned(), inode);
        let name = (parent, name.to_owned());
        self.pending.push(Change::Add { name, inode });
        Ok(())
    }

    fn insert(&mut self, inode: u64, node: Node) {
        let held = Inode {
            node,
            modified: SystemTime::now(),
            opens: 0,
        };
        self.inodes.insert(inode, held);
    }

    fn content(&self, inode: u64, create: bool) -> io::Result<Content> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if create {
            options.create(true).truncate(true);
        }
        Content::new(options.open(self.platter(inode))?)
    }

    fn platter(&self, inode: u64) -> PathBuf {
        self.backing.join(INODES).join(inode.to_string())
    }

    /// Makes the tree of names what is durable and reachable.
    fn rebuild(&mut self) -> io::Result<()> {
        let mut live: BTreeSet<u64> = BTreeSet::from([ROOT]);
        let mut next = vec![ROOT];
        while let Some(dir) = next.pop() {
            let range = self
                .durable
                .range((dir, String::new())..(dir + 1, String::new()));
            for (_, inode) in range {
                if live.insert(*inode) {
                    next.push(*inode);
                }
            }
        }
        self.durable
            .retain(|(parent, _), inode| live.contains(parent) && live.contains(inode));
        for held in self.inodes.values_mut() {
            if let Node::Dir(names) = &mut held.node {
                names.clear();
            }
        }
        for ((parent, name), inode) in &self.durable {
            let parent = self.inodes.get_mut(parent).map(|held| &mut held.node);
            if let Some(Node::Dir(names)) = parent {
                names.insert(name.clone(), *inode);
            }
        }
        self.collect()
    }

    /// Removes what no name, now or durable or to come, and no handle leads to.
    fn collect(&mut self) -> io::Result<()> {
        let mut kept: BTreeSet<u64> = self.durable.values().copied().collect();
        kept.insert(ROOT);
        for held in self.inodes.values() {
            if let Node::Dir(names) = &held.node {
                kept.extend(names.values());
            }
        }
        for change in &self.pending {
            if let Change::Add { inode, .. } | Change::Rename { inode, .. } = change {
                kept.insert(*inode);
            }
        }
        let gone: Vec<u64> = self
            .inodes
            .iter()
            .filter(|(inode, held)| held.opens == 0 && !kept.contains(*inode))
            .map(|(inode, _)| *inode)
            .collect();
        for inode in gone {
            if let Some(Inode {
                node: Node::File(_),
                ..
            }) = self.inodes.remove(&inode)
            {
                fs::remove_file(self.platter(inode))?;
            }
        }
        Ok(())
    }

    fn write_names(&self) -> io::Result<()> {
        let is_dir = |inode| matches!(self.inodes.get(inode).map(|i| &i.node), Some(Node::Dir(_)));
        let entries: Vec<Entry> = self
            .durable
            .iter()
            .map(|((parent, name), inode)| Entry {
                parent: *parent,
                name: name.clone(),
                inode: *inode,
                dir: is_dir(inode),
            })
            .collect();
        let bytes = serde_json::to_vec(&entries).map_err(io::Error::other)?;
        fs::write(self.backing.join(NAMES_NEW), bytes)?;
        fs::rename(self.backing.join(NAMES_NEW), self.backing.join(NAMES))
    }
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<Name, u64>) {
        match self {
            Self::Add { name, inode } => {
                names.insert(name.clone(), *inode);
            }
            Self::Remove { name } => {
                names.remove(name);
            }
            Self::Rename { from, to, inode } => {
                if names.get(from) == Some(inode) {
                    names.remove(from);
                }
                names.insert(to.clone(), *inode);
            }
        }
    }

    fn is_in(&self, dir: u64) -> bool {
        match self {
            Self::Add { name, .. } | Self::Remove { name } => name.0 == dir,
            Self::Rename { from, to, .. } => from.0 == dir || to.0 == dir,
        }
    }
}

const INODES: &str = "inodes";
const NAMES: &str = "names.json";
const NAMES_NEW: &str = "names.json.new";

#[cfg(test)]
mod tests;
