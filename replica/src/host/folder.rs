//! Whose folder this is.
//!
//! Owns the file `identity`, which also remembers in which groups a joining member still has to prove that its id is
//! new: one that was refused and starts again is asked again. Refuses a folder of another member, region or cluster,
//! and an empty one under [`Admission::Resume`]: a member that lost its disk would vote again in terms it has voted in.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;
use proto::ids::{GroupId, NodeId, RegionId};
use proto::v1;

use super::options::Admission;
use crate::disk::Disk;

const FORMAT: u32 = 1;
const NAME: &str = "identity";
/// The file is a few dozen bytes; more is not one.
const BYTES_MAX: u64 = 4096;

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// There is nothing in it, and nobody said that this member is new.
    #[error(
        "folder {0} is empty: node {1} cannot resume there; found or join explicitly, a lost member under a new id"
    )]
    Empty(PathBuf, NodeId),
    /// It belongs to another member.
    #[error("folder {path} belongs to node {found} of region {region}, not to node {wanted}")]
    OtherMember {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Of which region.
        region: String,
        /// Who wants it.
        wanted: NodeId,
    },
    /// It belongs to another founding of the region.
    #[error("folder {0} belongs to another cluster")]
    OtherCluster(PathBuf),
    /// It has files of a log and no identity: the identity file was removed.
    #[error("folder {0} holds a raft log but no identity file")]
    NoIdentity(PathBuf),
    /// The identity file is damaged or of a newer build.
    #[error("identity file in {0} cannot be read by this build")]
    Unreadable(PathBuf),
    /// The system refused.
    #[error("folder {path} could not be used")]
    Disk {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// Who a folder has to belong to.
pub(crate) struct Owner<'a> {
    pub(crate) cluster: [u8; 16],
    pub(crate) region: &'a RegionId,
    pub(crate) node: NodeId,
}

/// What a folder remembers of how its member came.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Coming {
    /// It joined; founders have nothing to prove.
    joining: bool,
    /// Groups in which a joining member's id was found to be new.
    admitted: BTreeSet<GroupId>,
}

impl Coming {
    /// Whether the member may open `group` only once its id is found new there.
    pub(crate) fn has_to_prove(&self, group: GroupId) -> bool {
        self.joining && !self.admitted.contains(&group)
    }

    /// The same, with its id found new in `group`.
    pub(crate) fn admitted_to(&self, group: GroupId) -> Self {
        let mut admitted = self.admitted.clone();
        admitted.insert(group);
        Self { admitted, ..*self }
    }
}

/// Checks the identity of `dir`; nothing if it is empty and may be made.
pub(crate) fn claim(
    disk: &dyn Disk,
    dir: &Path,
    owner: &Owner<'_>,
    admission: Admission,
) -> Result<Option<Coming>, FolderError> {
    let failed = |source| FolderError::Disk {
        path: dir.to_owned(),
        source,
    };
    let path = dir.join(NAME);
    match disk.open(&path) {
        Ok(file) => {
            let length = file.bytes().map_err(failed)?;
            if length > BYTES_MAX {
                return Err(FolderError::Unreadable(dir.to_owned()));
            }
            let mut bytes = vec![0; length as usize];
            file.read_at(&mut bytes, 0).map_err(failed)?;
            check(dir, &bytes, owner).map(Some)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            unclaimed(disk, dir, owner.node, admission)?;
            Ok(None)
        }
        Err(source) => Err(failed(source)),
    }
}

/// What a folder without an identity may be taken for.
fn unclaimed(
    disk: &dyn Disk,
    dir: &Path,
    node: NodeId,
    admission: Admission,
) -> Result<(), FolderError> {
    let has_log = disk
        .list(&super::log_dir(dir))
        .is_ok_and(|names| !names.is_empty());
    match admission {
        _ if has_log => Err(FolderError::NoIdentity(dir.to_owned())),
        Admission::Resume => Err(FolderError::Empty(dir.to_owned(), node)),
        Admission::Join | Admission::Found => Ok(()),
    }
}

/// Refuses a member's lost disk without asking anybody: for a process that has to ask others before it opens the
/// folder, and that asks in vain where all it knew was on that disk.
pub fn check_resumes(disk: &dyn Disk, dir: &Path, node: NodeId) -> Result<(), FolderError> {
    match is_taken(disk, dir) {
        true => Ok(()),
        false => unclaimed(disk, dir, node, Admission::Resume),
    }
}

/// Whether `dir` is a member's already, so that it resumes there whatever it is told to be.
pub fn is_taken(disk: &dyn Disk, dir: &Path) -> bool {
    disk.open(&dir.join(NAME)).is_ok()
}

/// Writes the identity of a new member, durably. Its log may be used only after that.
pub(crate) fn found(
    disk: &dyn Disk,
    dir: &Path,
    owner: &Owner<'_>,
    admission: Admission,
) -> Result<Coming, FolderError> {
    let coming = Coming {
        joining: admission == Admission::Join,
        ..Coming::default()
    };
    write(disk, dir, owner, &coming)?;
    Ok(coming)
}

/// Writes the identity whole, or leaves the old one. *Blocks* until it is durable.
pub(crate) fn write(
    disk: &dyn Disk,
    dir: &Path,
    owner: &Owner<'_>,
    coming: &Coming,
) -> Result<(), FolderError> {
    let failed = |source| FolderError::Disk {
        path: dir.to_owned(),
        source,
    };
    let record = v1::RaftFolder {
        format: FORMAT,
        cluster: Bytes::copy_from_slice(&owner.cluster),
        region: owner.region.to_string(),
        node: owner.node.0,
        joining: coming.joining,
        admitted: coming.admitted.iter().map(|group| group.0).collect(),
    };
    disk.create_dir_all(dir).map_err(failed)?;
    let temporary = dir.join("identity.new");
    match disk.remove(&temporary) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let file = disk.create(&temporary).map_err(failed)?;
    file.write_at(&record.encode_to_vec(), 0).map_err(failed)?;
    file.sync_data().map_err(failed)?;
    disk.rename(&temporary, &dir.join(NAME)).map_err(failed)?;
    disk.sync_dir(dir).map_err(failed)
}

pub(crate) fn check(dir: &Path, bytes: &[u8], owner: &Owner<'_>) -> Result<Coming, FolderError> {
    let record = v1::RaftFolder::decode(bytes)
        .ok()
        .filter(|record| record.format == FORMAT)
        .ok_or_else(|| FolderError::Unreadable(dir.to_owned()))?;
    if record.node != owner.node.0 || record.region != owner.region.as_str() {
        return Err(FolderError::OtherMember {
            path: dir.to_owned(),
            found: NodeId(record.node),
            region: record.region,
            wanted: owner.node,
        });
    }
    if record.cluster.as_ref() != owner.cluster {
        return Err(FolderError::OtherCluster(dir.to_owned()));
    }
    Ok(Coming {
        joining: record.joining,
        admitted: record.admitted.into_iter().map(GroupId).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    fn owner(region: &RegionId, node: u64) -> Owner<'_> {
        Owner {
            cluster: [7; 16],
            region,
            node: NodeId(node),
        }
    }

    #[test]
    fn a_folder_is_one_members_for_ever() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (disk, path) = (RealDisk, dir.path());
        let region: RegionId = "ch-zrh".parse().expect("valid");
        let claim = |node, admission| claim(&disk, path, &owner(&region, node), admission);
        assert!(matches!(
            claim(1, Admission::Resume),
            Err(FolderError::Empty(..))
        ));
        assert_eq!(claim(1, Admission::Found).expect("empty folder"), None);
        let made = found(&disk, path, &owner(&region, 1), Admission::Found).expect("writable");
        for admission in [Admission::Resume, Admission::Join] {
            let held = claim(1, admission).expect("own folder");
            assert_eq!(held.as_ref(), Some(&made));
        }
        assert!(!made.has_to_prove(GroupId::KMS));
        assert!(matches!(
            claim(2, Admission::Join),
            Err(FolderError::OtherMember { .. })
        ));
        let other = Owner {
            cluster: [8; 16],
            ..owner(&region, 1)
        };
        let refused = super::claim(&disk, path, &other, Admission::Resume);
        assert!(matches!(refused, Err(FolderError::OtherCluster(_))));
        let elsewhere: RegionId = "de-fra".parse().expect("valid");
        let refused = super::claim(&disk, path, &owner(&elsewhere, 1), Admission::Resume);
        assert!(matches!(refused, Err(FolderError::OtherMember { .. })));
    }

    #[test]
    fn a_joining_member_has_to_prove_itself_until_it_did() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let region: RegionId = "ch-zrh".parse().expect("valid");
        let (disk, path, owner) = (RealDisk, dir.path(), owner(&region, 1));
        let held = || claim(&disk, path, &owner, Admission::Resume).expect("own folder");
        let made = found(&disk, path, &owner, Admission::Join).expect("writable");
        assert!(made.has_to_prove(GroupId(16)));
        assert_eq!(held(), Some(made.clone()));
        write(&disk, path, &owner, &made.admitted_to(GroupId(16))).expect("writable");
        let held = held().expect("made");
        assert!(!held.has_to_prove(GroupId(16)));
        assert!(held.has_to_prove(GroupId(17)));
    }

    #[test]
    fn a_log_without_an_identity_is_refused() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let region: RegionId = "ch-zrh".parse().expect("valid");
        let log = super::super::log_dir(dir.path());
        std::fs::create_dir_all(&log).expect("writable");
        std::fs::write(log.join("segment"), b"x").expect("writable");
        let refused = claim(&RealDisk, dir.path(), &owner(&region, 1), Admission::Join);
        assert!(matches!(refused, Err(FolderError::NoIdentity(_))));
    }
}
