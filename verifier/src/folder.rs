//! A folder in memory: its files by name, read within bounds.
//!
//! Owns reading and saving, and what each file parses to. Refuses: names that the format does not have, files that are
//! links or folders, over 256 MiB each, and content in a second spelling. What parses is well formed and no more: what
//! it is worth is `check`'s to say.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use crate::format::{
    self, CHALLENGE, CHECKPOINTS, CheckpointLine, FORMAT, GAPS, GapTable, HEADERS, HeaderLine,
    INDEX_FILE, Index, IndexSignature, LEAVES, LISTED, LeafLine, NEEDED, OBJECTS, ObjectLine,
    PROOF_HASHES_MAX, SIGNATURE_FILE, StorageAnswers, WITNESSES,
};

/// Bytes of one file.
pub const FILE_BYTES_MAX: u64 = 256 << 20;

/// Files of a folder, well formed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Folder {
    files: BTreeMap<String, Vec<u8>>,
    index: Index,
    signature: IndexSignature,
    checkpoints: Vec<CheckpointLine>,
    leaves: Vec<LeafLine>,
    gaps: GapTable,
    objects: Option<Vec<ObjectLine>>,
    challenge: Option<StorageAnswers>,
    headers: Option<Vec<HeaderLine>>,
}

/// Why a folder cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FolderError {
    /// The folder, or a file in it.
    #[error("{what} cannot be read: {kind}")]
    Io {
        /// Which.
        what: String,
        /// How it failed.
        kind: std::io::ErrorKind,
    },
    /// A name the format does not have, a link, or a folder within the folder.
    #[error("the folder holds {0:?}, which is no file of this format")]
    UnknownFile(String),
    /// A file that every folder has.
    #[error("the folder has no {0}")]
    Missing(&'static str),
    /// Over [`FILE_BYTES_MAX`].
    #[error("{0} has more than 256 MiB")]
    TooLarge(String),
    /// More lines than a file may have.
    #[error("{0} has more than a million lines")]
    TooManyLines(&'static str),
    /// Not this file's fields in their one spelling.
    #[error("{file}, line {line}, is not of this format")]
    Malformed {
        /// Which file.
        file: &'static str,
        /// Its line, from 1.
        line: usize,
    },
    /// A format this build does not know.
    #[error("unknown folder format {0}")]
    UnknownFormat(u32),
    /// A proof longer than any tree needs.
    #[error("{0} has a proof of more than 63 hashes")]
    LongProof(&'static str),
}

impl Folder {
    /// Reads a folder from disk.
    pub fn read(path: &Path) -> Result<Self, FolderError> {
        let io = |what: &Path| {
            let what = what.display().to_string();
            move |error: std::io::Error| FolderError::Io {
                what,
                kind: error.kind(),
            }
        };
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(path).map_err(io(path))? {
            let entry = entry.map_err(io(path))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_file = entry.file_type().map_err(io(&entry.path()))?.is_file();
            if !is_file || !is_known(&name) {
                return Err(FolderError::UnknownFile(name));
            }
            let file = std::fs::File::open(entry.path()).map_err(io(&entry.path()))?;
            let mut bytes = Vec::new();
            file.take(FILE_BYTES_MAX + 1)
                .read_to_end(&mut bytes)
                .map_err(io(&entry.path()))?;
            files.insert(name, bytes);
        }
        Self::from_files(files)
    }

    /// Takes files by name.
    pub fn from_files(files: BTreeMap<String, Vec<u8>>) -> Result<Self, FolderError> {
        for (name, bytes) in &files {
            if !is_known(name) {
                return Err(FolderError::UnknownFile(name.clone()));
            }
            if bytes.len() as u64 > FILE_BYTES_MAX {
                return Err(FolderError::TooLarge(name.clone()));
            }
        }
        let has = |name: &'static str| files.get(name).map(Vec::as_slice);
        let needed = |name: &'static str| has(name).ok_or(FolderError::Missing(name));
        let index: Index = format::document(INDEX_FILE, needed(INDEX_FILE)?)?;
        if index.format != FORMAT {
            return Err(FolderError::UnknownFormat(index.format));
        }
        for name in NEEDED {
            needed(name)?;
        }
        let folder = Self {
            signature: format::document(SIGNATURE_FILE, needed(SIGNATURE_FILE)?)?,
            checkpoints: format::documents(CHECKPOINTS, needed(CHECKPOINTS)?)?,
            leaves: format::documents(LEAVES, needed(LEAVES)?)?,
            gaps: format::document(GAPS, needed(GAPS)?)?,
            objects: has(OBJECTS)
                .map(|bytes| format::documents(OBJECTS, bytes))
                .transpose()?,
            challenge: has(CHALLENGE)
                .map(|bytes| format::document(CHALLENGE, bytes))
                .transpose()?,
            headers: has(HEADERS)
                .map(|bytes| format::documents(HEADERS, bytes))
                .transpose()?,
            index,
            files,
        };
        folder.check_bounds()?;
        Ok(folder)
    }

    fn check_bounds(&self) -> Result<(), FolderError> {
        let long = |proof: &Vec<tlog::Hash>| proof.len() > PROOF_HASHES_MAX;
        if self.checkpoints.iter().any(|line| long(&line.consistency)) {
            return Err(FolderError::LongProof(CHECKPOINTS));
        }
        if self.leaves.iter().any(|line| long(&line.proof)) {
            return Err(FolderError::LongProof(LEAVES));
        }
        let mut answers = self.challenge.iter().flat_map(|c| &c.answers);
        if answers.any(|answer| long(&answer.proof)) {
            return Err(FolderError::LongProof(CHALLENGE));
        }
        Ok(())
    }

    /// Writes the files into an empty or new folder.
    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(path)?;
        if std::fs::read_dir(path)?.next().is_some() {
            return Err(std::io::ErrorKind::DirectoryNotEmpty.into());
        }
        for (name, bytes) in &self.files {
            std::fs::write(path.join(name), bytes)?;
        }
        Ok(())
    }

    /// The files by name.
    pub fn files(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.files
    }

    /// What the folder says it is about.
    pub fn index(&self) -> &Index {
        &self.index
    }

    pub(crate) fn signature(&self) -> &IndexSignature {
        &self.signature
    }

    /// Checkpoints from the smallest tree to the largest, as written.
    pub fn checkpoints(&self) -> &[CheckpointLine] {
        &self.checkpoints
    }

    /// Leaves, as written.
    pub fn leaves(&self) -> &[LeafLine] {
        &self.leaves
    }

    pub(crate) fn gaps(&self) -> &GapTable {
        &self.gaps
    }

    /// The list of sealed objects, where there is one.
    pub fn objects(&self) -> Option<&[ObjectLine]> {
        self.objects.as_deref()
    }

    pub(crate) fn challenge(&self) -> Option<&StorageAnswers> {
        self.challenge.as_ref()
    }

    /// What the KMS signed of the listed objects' headers, where it is there.
    pub fn headers(&self) -> Option<&[HeaderLine]> {
        self.headers.as_deref()
    }

    pub(crate) fn witness_policy(&self) -> Option<&[u8]> {
        self.files.get(WITNESSES).map(Vec::as_slice)
    }
}

fn is_known(name: &str) -> bool {
    name == INDEX_FILE || name == SIGNATURE_FILE || LISTED.contains(&name)
}
