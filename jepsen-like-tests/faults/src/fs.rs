//! The volume as the kernel sees it.
//!
//! Owns the translation of FUSE requests. Refuses the kernel a cache of its own: attributes and names expire at once
//! and files are opened for direct I/O, so that nothing above the volume remembers what a cut has taken.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use parking_lot::Mutex;

use crate::content::PAGE_BYTES;
use crate::volume::{Node, Volume};

/// Nothing is remembered.
const TTL: Duration = Duration::ZERO;

/// A volume behind FUSE.
pub struct FaultFs(pub Arc<Mutex<Volume>>);

fn text(name: &OsStr) -> io::Result<&str> {
    name.to_str()
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
}

fn attr(volume: &Volume, inode: u64) -> io::Result<FileAttr> {
    let held = volume.inode(inode)?;
    // No modes are kept: all of it is for its owner alone, which is what a file of a key has to be.
    let (kind, size, perm, nlink) = match &held.node {
        Node::Dir(_) => (FileType::Directory, PAGE_BYTES, 0o700, 2),
        Node::File(content) => (
            FileType::RegularFile,
            content.bytes(),
            0o600,
            volume.links(inode),
        ),
    };
    Ok(FileAttr {
        ino: INodeNo(inode),
        size,
        blocks: size.div_ceil(512),
        atime: held.modified,
        mtime: held.modified,
        ctime: held.modified,
        crtime: held.modified,
        kind,
        perm,
        nlink,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        rdev: 0,
        blksize: PAGE_BYTES as u32,
        flags: 0,
    })
}

macro_rules! answer {
    ($reply:ident, $result:expr, $ok:expr) => {
        match $result {
            Ok(value) => $ok(value),
            Err(error) => $reply.error(Errno::from(error)),
        }
    };
}

impl FaultFs {
    fn entry(reply: ReplyEntry, found: io::Result<FileAttr>) {
        answer!(reply, found, |attr| reply.entry(&TTL, &attr, Generation(0)));
    }

    fn empty(reply: ReplyEmpty, done: io::Result<()>) {
        answer!(reply, done, |()| reply.ok());
    }

    /// Who tells the volume to cut the power does not wait for a slow sync.
    fn wait_for_sync(&self) {
        let take = self.0.lock().syncs_take();
        if !take.is_zero() {
            std::thread::sleep(take);
        }
    }
}

impl Filesystem for FaultFs {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let volume = self.0.lock();
        let found = text(name).and_then(|name| volume.lookup(parent.0, name));
        Self::entry(reply, found.and_then(|inode| attr(&volume, inode)));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let found = attr(&self.0.lock(), ino.0);
        answer!(reply, found, |attr| reply.attr(&TTL, &attr));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut volume = self.0.lock();
        let set = fh.map_or(Ok(()), |fh| volume.handle(fh.0));
        let set = set.and_then(|()| size.map_or(Ok(()), |size| volume.resize(ino.0, size)));
        let found = set.and_then(|()| attr(&volume, ino.0));
        answer!(reply, found, |attr| reply.attr(&TTL, &attr));
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let mut volume = self.0.lock();
        let made = text(name).and_then(|name| volume.create(parent.0, name, true));
        Self::entry(reply, made.and_then(|inode| attr(&volume, inode)));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut volume = self.0.lock();
        Self::empty(
            reply,
            text(name).and_then(|name| volume.remove(parent.0, name, false)),
        );
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut volume = self.0.lock();
        Self::empty(
            reply,
            text(name).and_then(|name| volume.remove(parent.0, name, true)),
        );
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let mut volume = self.0.lock();
        let done = text(name).and_then(|from| {
            let to = text(newname)?;
            volume.rename((parent.0, from), (newparent.0, to))
        });
        Self::empty(reply, done);
    }

    fn link(
        &self,
        _: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let mut volume = self.0.lock();
        let done = text(newname).and_then(|name| volume.link(ino.0, newparent.0, name));
        Self::entry(reply, done.and_then(|()| attr(&volume, ino.0)));
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let mut volume = self.0.lock();
        let opened = volume.opened(ino.0).map(|()| FileHandle(volume.boot()));
        answer!(reply, opened, |fh| reply
            .opened(fh, FopenFlags::FOPEN_DIRECT_IO));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let mut volume = self.0.lock();
        let made = text(name).and_then(|name| {
            let inode = volume.create(parent.0, name, false)?;
            volume.opened(inode)?;
            attr(&volume, inode)
        });
        let fh = FileHandle(volume.boot());
        let flags = FopenFlags::FOPEN_DIRECT_IO;
        answer!(reply, made, |attr| reply.created(
            &TTL,
            &attr,
            Generation(0),
            fh,
            flags
        ));
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let volume = self.0.lock();
        let read = volume
            .handle(fh.0)
            .and_then(|()| volume.file(ino.0))
            .and_then(|file| file.read(offset, size as usize));
        answer!(reply, read, |data: Vec<u8>| reply.data(&data));
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut volume = self.0.lock();
        let done = volume
            .handle(fh.0)
            .and_then(|()| volume.write(ino.0, offset, data));
        // One request carries at most 16 MiB.
        answer!(reply, done, |()| reply.written(data.len() as u32));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Closing makes nothing durable.
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        Self::empty(reply, self.0.lock().closed(ino.0, fh.0));
    }

    fn fsync(&self, _: &Request, ino: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        self.wait_for_sync();
        let mut volume = self.0.lock();
        let done = volume.handle(fh.0).and_then(|()| volume.sync(ino.0));
        Self::empty(reply, done);
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let volume = self.0.lock();
        let opened = volume.names(ino.0).map(|_| FileHandle(volume.boot()));
        answer!(reply, opened, |fh| reply.opened(fh, FopenFlags::empty()));
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let volume = self.0.lock();
        let names = match volume.handle(fh.0).and_then(|()| volume.names(ino.0)) {
            Ok(names) => names,
            Err(error) => return reply.error(Errno::from(error)),
        };
        // A place in the list is the last inode given, which holds while names before it are removed: a folder is
        // emptied while it is listed. Two names of one file in one folder could miss the second; nobody here has them.
        let mut left: Vec<_> = names.iter().filter(|(_, inode)| **inode > offset).collect();
        left.sort_by_key(|(_, inode)| **inode);
        for (name, inode) in left {
            let kind = match volume.inode(*inode).map(|held| &held.node) {
                Ok(Node::Dir(_)) => FileType::Directory,
                _ => FileType::RegularFile,
            };
            if reply.add(INodeNo(*inode), *inode, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        self.wait_for_sync();
        let mut volume = self.0.lock();
        let done = volume.handle(fh.0).and_then(|()| volume.sync_dir(ino.0));
        Self::empty(reply, done);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let volume = self.0.lock();
        let found = rustix::fs::statvfs(volume.backing()).map_err(io::Error::from);
        let found = volume.powered().and(found);
        let left = u64::from(!volume.is_full());
        answer!(reply, found, |s: rustix::fs::StatVfs| reply.statfs(
            s.f_blocks,
            s.f_bfree * left,
            s.f_bavail * left,
            s.f_files,
            s.f_ffree,
            s.f_bsize as u32,
            255,
            s.f_frsize as u32,
        ));
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        const KEEP_SIZE: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP_SIZE;
        let mut volume = self.0.lock();
        let done = volume.handle(fh.0).and_then(|()| match mode {
            // Room is not reserved: the volume is as large as what backs it.
            KEEP_SIZE => volume.room(),
            PUNCH => volume.zero(ino.0, offset, length),
            0 => {
                let bytes = volume.file(ino.0)?.bytes().max(offset + length);
                volume.room()?;
                volume.resize(ino.0, bytes)
            }
            _ => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
        });
        Self::empty(reply, done);
    }
}
