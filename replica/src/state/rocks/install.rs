//! Which database folder is live, and how another takes its place.
//!
//! Owns `CURRENT`: one line with the name of the live folder, replaced by a rename. A new folder is complete, with
//! this replica's own keys in it and everything durable, before `CURRENT` names it; one that `CURRENT` does not name
//! is removed at the next opening.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proto::store::Reader;
use rocksdb::{DB, WriteBatch};

use super::super::checkpoint::{Checkpoint, END_OF_KEYS};
use super::super::env::{LOCAL, StateEnv};
use super::super::overlay::Overlay;
use super::super::{BringInLine, StateError};
use super::{Database, RocksState, add_writes, engine, view_of};
use crate::disk::{Disk, RealDisk};

/// Opens what `CURRENT` names; makes a first one in an empty folder.
pub(super) fn open_current(env: &StateEnv, dir: &Path) -> Result<Database, StateError> {
    let file = |doing| move |source| StateError::File { doing, source };
    let current = match std::fs::read_to_string(dir.join(CURRENT)) {
        Ok(line) => Some(parse(&line).ok_or(StateError::Unreadable {
            what: "CURRENT file",
        })?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(file("read CURRENT")(error)),
    };
    for entry in std::fs::read_dir(dir).map_err(file("list the state folder"))? {
        let entry = entry.map_err(file("list the state folder"))?;
        let name = entry.file_name();
        let number = name.to_str().and_then(parse);
        if number.is_some() && number != current {
            std::fs::remove_dir_all(entry.path()).map_err(file("remove an unfinished install"))?;
        }
    }
    match current {
        Some(number) => {
            let path = dir.join(folder(number));
            if !path.is_dir() {
                return Err(StateError::Unreadable {
                    what: "CURRENT file: its folder is missing",
                });
            }
            Database::open(env, &path, false)
        }
        None => {
            let path = dir.join(folder(FIRST));
            std::fs::create_dir(&path).map_err(file("create the first database folder"))?;
            let database = Database::open(env, &path, true)?;
            RealDisk
                .sync_dir(&path)
                .map_err(file("sync the database folder"))?;
            point_to(dir, FIRST)?;
            Ok(database)
        }
    }
}

impl RocksState {
    /// Installs a checkpoint whose files were checked. Commits wait meanwhile.
    pub(super) fn install_checked(
        &self,
        from: &Path,
        checkpoint: &Checkpoint,
        bring_in_line: BringInLine<'_>,
    ) -> Result<(), StateError> {
        let old = self.database();
        let number = old
            .path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(parse);
        let number = number.ok_or(StateError::Unreadable {
            what: "database folder's name",
        })? + 1;
        let path = self.dir.join(folder(number));
        self.step("before anything");
        take_files(from, checkpoint, &path)?;
        self.step("files taken");
        let new = self.complete(&old, &path, checkpoint, bring_in_line)?;
        self.step("complete");
        point_to(&self.dir, number)?;
        self.step("current swapped");
        *self.live.write() = Arc::new(new);
        {
            let mut progress = self.progress.lock();
            progress.applied = checkpoint.applied.clone();
            progress.flushed = checkpoint.applied.as_ref().map(|applied| applied.index);
            progress.commits += 1;
            progress.unflushed_bytes = 0;
        }
        old.replaced.store(true, Ordering::Release);
        drop(old);
        // The folder it came in; what is left there are files the list did not name.
        RealDisk
            .remove_dir_all(from)
            .map_err(|source| StateError::File {
                doing: "remove the checkpoint's folder",
                source,
            })
    }

    /// Opens the new folder and gives it this replica's own keys in place of the sender's.
    fn complete(
        &self,
        old: &Arc<Database>,
        path: &Path,
        checkpoint: &Checkpoint,
        bring_in_line: BringInLine<'_>,
    ) -> Result<Database, StateError> {
        let mut db = DB::open_cf_descriptors(
            &self.env.database(path, false),
            path,
            self.env.descriptors(),
        )
        .map_err(engine("open a checkpoint"))?;
        db.drop_cf(LOCAL)
            .map_err(engine("drop the sender's own keys"))?;
        db.create_cf(LOCAL, &self.env.family(false))
            .map_err(engine("make room for own keys"))?;
        let new = Arc::new(Database::new(db, path.to_owned()));
        if new.applied()? != checkpoint.applied {
            return Err(StateError::Unreadable {
                what: "checkpoint: it holds another index than it says",
            });
        }
        copy_local(&*view_of(old.clone(), &self.failure)?.local, &new)?;
        self.step("own keys copied");
        if let Some(applied) = &checkpoint.applied {
            let view = view_of(new.clone(), &self.failure)?;
            let mut local = Overlay::new(view.local);
            bring_in_line(applied.index, &*view.state, &mut local);
            let writes = std::mem::take(&mut local.writes);
            let mut batch = WriteBatch::default();
            add_writes(&mut batch, new.family(LOCAL)?, writes);
            new.write(batch)?;
        }
        new.flush()?;
        let file = |source| StateError::File {
            doing: "sync the new database folder",
            source,
        };
        RealDisk.sync_dir(path).map_err(file)?;
        // The views of this function are gone, so nobody else holds it.
        Arc::into_inner(new).ok_or(StateError::Unreadable {
            what: "database: it is still in use",
        })
    }
}

/// Copies this replica's own keys, in bounded batches.
fn copy_local(from: &dyn Reader, to: &Database) -> Result<(), StateError> {
    let family = to.family(LOCAL)?;
    let mut batch = WriteBatch::default();
    let mut outcome = Ok(());
    from.scan(&[], &END_OF_KEYS, &mut |key, value| {
        batch.put_cf(family, key, value);
        if batch.size_in_bytes() >= COPY_BATCH_BYTES {
            outcome = to.write(std::mem::take(&mut batch));
        }
        outcome.is_ok()
    });
    outcome?;
    to.write(batch)
}

/// Moves the listed files into a new folder and makes them durable there.
fn take_files(from: &Path, checkpoint: &Checkpoint, to: &Path) -> Result<(), StateError> {
    let file = |doing| move |source| StateError::File { doing, source };
    RealDisk
        .remove_dir_all(to)
        .map_err(file("clear the new database folder"))?;
    RealDisk
        .create_dir_all(to)
        .map_err(file("create the new database folder"))?;
    for listed in &checkpoint.files {
        let (source, target) = (from.join(&listed.name), to.join(&listed.name));
        match std::fs::rename(&source, &target) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                std::fs::copy(&source, &target)
                    .map(|_| ())
                    .map_err(file("copy a checkpoint file"))?;
            }
            moved => moved.map_err(file("move a checkpoint file"))?,
        }
        let synced = File::open(&target).and_then(|file| file.sync_all());
        synced.map_err(file("sync a checkpoint file"))?;
    }
    RealDisk
        .sync_dir(to)
        .map_err(file("sync the new database folder"))
}

/// Makes `number` the live folder, atomically and durably.
fn point_to(dir: &Path, number: u64) -> Result<(), StateError> {
    let unready = dir.join(CURRENT_UNREADY);
    let pointed = File::create(&unready)
        .and_then(|mut file| {
            file.write_all(format!("{}\n", folder(number)).as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&unready, dir.join(CURRENT)))
        .and_then(|()| RealDisk.sync_dir(dir));
    pointed.map_err(|source| StateError::File {
        doing: "replace CURRENT",
        source,
    })
}

fn folder(number: u64) -> String {
    format!("{FOLDER_PREFIX}{number:08}")
}

fn parse(name: &str) -> Option<u64> {
    name.trim_end().strip_prefix(FOLDER_PREFIX)?.parse().ok()
}

const CURRENT: &str = "CURRENT";
const CURRENT_UNREADY: &str = "CURRENT.tmp";
const FOLDER_PREFIX: &str = "live-";
const FIRST: u64 = 1;
const COPY_BATCH_BYTES: usize = 1 << 20;
