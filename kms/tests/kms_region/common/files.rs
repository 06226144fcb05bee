//! What a replica's files hold.

use std::path::PathBuf;

use bytes::Bytes;

use super::Region;

/// The file of a replica that holds one of these wrapped keys, if any does: by its sealed part, which is random.
pub(crate) fn file_holds(region: &Region, at: usize, wrapped: &[Bytes]) -> Option<PathBuf> {
    let finders: Vec<_> = wrapped
        .iter()
        .map(|key| memchr::memmem::Finder::new(&key[key.len() - 64..]))
        .collect();
    let mut folders = vec![region.places[at].config.data_dir.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            // The engine removes files while it works.
            let Ok(content) = std::fs::read(&path) else {
                continue;
            };
            if finders.iter().any(|finder| finder.find(&content).is_some()) {
                return Some(path);
            }
        }
    }
    None
}
