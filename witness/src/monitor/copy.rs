//! A copy of a log in a folder: its tiles, entry bundles and checkpoint under the paths they have at the log.
//!
//! Owns the files. Refuses bytes as they were fetched: what is written is made anew from what was verified, so that the
//! folder can be served by any web server and restored from.

use std::io;
use std::path::{Path, PathBuf};

use tlog::{Note, Tile};

use crate::durable;

/// One log's copy.
#[derive(Debug)]
pub(crate) struct Copy(PathBuf);

impl Copy {
    /// A copy in this folder, made where it is not there.
    pub(crate) fn at(folder: PathBuf) -> io::Result<Self> {
        durable::create_folder(&folder)?;
        Ok(Self(folder))
    }

    /// Whether a full tile is there: it never changes.
    pub(crate) fn has(&self, tile: &Tile) -> bool {
        tile.is_full() && self.path(tile).is_file()
    }

    /// Writes a tile; a full one takes the place of its partial ones.
    pub(crate) fn write(&self, tile: &Tile, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(tile);
        durable::create_folder(path.parent().unwrap_or(Path::new(".")))?;
        durable::replace(&path, bytes)?;
        if tile.is_full() {
            let mut partial = path.into_os_string();
            partial.push(".p");
            match std::fs::remove_dir_all(&partial) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes the checkpoint, after the tiles that it needs.
    pub(crate) fn checkpoint(&self, note: &Note) -> io::Result<()> {
        durable::replace(&self.0.join("checkpoint"), note.to_string().as_bytes())
    }

    fn path(&self, tile: &Tile) -> PathBuf {
        self.0.join(tile.to_string())
    }
}
