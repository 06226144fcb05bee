//! The newest enrolment set on disk: a line that names the format, then the signed message.
//!
//! Owns durability: written beside, synced, renamed, folder synced. Refuses a file of another format or one that
//! does not decode; whether it is to be believed is [`super::Enrolments`]' business.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use prost::Message as _;
use proto::v1;

const HEADER: &[u8] = b"reduit/enrolments/1\n";
/// 100,000 identities at about 300 bytes, twice over.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Replaces the file; when this returns, a power cut leaves the new one.
pub(super) fn save(path: &Path, signed: &v1::SignedEnrolmentSet) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(HEADER)?;
    file.write_all(&signed.encode_to_vec())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

/// Reads the file; `None` when there is none.
pub(super) fn load(path: &Path) -> io::Result<Option<v1::SignedEnrolmentSet>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    let damaged = |why| io::Error::new(io::ErrorKind::InvalidData, why);
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(damaged("enrolment file is larger than any set"));
    }
    let body = bytes.strip_prefix(HEADER).ok_or(damaged(
        "enrolment file does not start with its format line",
    ))?;
    let signed = v1::SignedEnrolmentSet::decode(body)
        .map_err(|_| damaged("enrolment file does not decode"))?;
    Ok(Some(signed))
}
