//! Keys on their way from one region to another, as the KMSs of both have it on record (DESIGN section 8).
//!
//! Owns the commands of a relocation and what they leave: a source's grant, a destination's hand-over key. What may happen
//! is decided in [`crate::relocation`]; here it is read from the state, put on record and stored. Refuses to grant keys of
//! one dataset to two relocations at once, and both kinds of keys without dual control. No lease key and no unwrapped key
//! is in any of it.

mod grant;
mod key;
mod rewrap;
mod shred;

use prost::Message as _;
use proto::descriptor::Descriptor;
use proto::ids::{RegionId, RelocationId};
use proto::store::Reader;
use proto::v1::{HandOverGrantRecord, HandOverKeyRecord};
use tlog::Purpose;

pub(crate) use grant::{grant, set};
pub(crate) use key::{create, end};
pub use rewrap::hand_over_keys_not_rewrapped;
pub(crate) use rewrap::{complete, forget, rewrap};
pub(crate) use shred::shred;

use crate::append::Applying;
use crate::apply::LEVEL_RELOCATION;
use crate::erase;
use crate::kek_rows;
use crate::layout;
use crate::read;
use crate::refusal::Refusal;
use crate::regions::{region_fingerprint, trusted_region};
use crate::relocation::{GrantRefused, HandOverGrant, HandOverKey, NoHandOver, ShredRefused};

/// The purpose under which keys are handed over.
pub const RELOCATION: &str = "relocation";
/// Bytes of an X-Wing public key (KEM 0x647a).
pub const HAND_OVER_KEY_BYTES: usize = 1_216;
const FORMAT: u32 = 1;

impl From<GrantRefused> for Refusal {
    fn from(refused: GrantRefused) -> Self {
        match refused {
            GrantRefused::NotOpen(_) => Self::HandOverNotOpen,
            GrantRefused::Closed(_) => Self::HandOverClosed,
            GrantRefused::OtherKey(_) => Self::OtherHandOver,
            GrantRefused::OtherFence(_) => Self::OtherFence,
        }
    }
}

impl From<ShredRefused> for Refusal {
    fn from(refused: ShredRefused) -> Self {
        match refused {
            ShredRefused::NotMoved => Self::NotMoved,
            ShredRefused::NotServed => Self::NotServed,
            ShredRefused::StillGranted(_) => Self::StillGranted,
        }
    }
}

impl From<NoHandOver> for Refusal {
    fn from(_: NoHandOver) -> Self {
        Self::HandOverEnded
    }
}

/// What this region, a source, has granted to a relocation.
pub fn hand_over_grant(
    state: &dyn Reader,
    relocation: &RelocationId,
) -> Option<HandOverGrantRecord> {
    let bytes = state.value(&layout::hand_over_grant(relocation))?;
    Some(HandOverGrantRecord::decode(bytes).expect("state holds what this machine wrote"))
}

/// The key that this region, a destination, receives keys of a relocation under.
pub fn hand_over_key(state: &dyn Reader, relocation: &RelocationId) -> Option<HandOverKeyRecord> {
    let bytes = state.value(&layout::hand_over_key(relocation))?;
    Some(HandOverKeyRecord::decode(bytes).expect("state holds what this machine wrote"))
}

/// Its private half, wrapped under the root key that its record names; gone once it is destroyed.
pub fn hand_over_private(state: &dyn Reader, relocation: &RelocationId) -> Option<bytes::Bytes> {
    state.value(&layout::hand_over_private(relocation))
}

/// Every grant there ever was.
pub fn hand_over_grants(state: &dyn Reader) -> Vec<HandOverGrantRecord> {
    let (start, end) = ([layout::HAND_OVER_GRANTS], [layout::HAND_OVER_GRANTS + 1]);
    let mut found = Vec::new();
    state.scan(&start, &end, &mut |_, value| {
        let record = HandOverGrantRecord::decode(value);
        found.push(record.expect("state holds what this machine wrote"));
        true
    });
    found
}

/// Every hand-over key there ever was.
pub fn hand_over_keys(state: &dyn Reader) -> Vec<HandOverKeyRecord> {
    let (start, end) = ([layout::HAND_OVER_KEYS], [layout::HAND_OVER_KEYS + 1]);
    let mut found = Vec::new();
    state.scan(&start, &end, &mut |_, value| {
        let record = HandOverKeyRecord::decode(value);
        found.push(record.expect("state holds what this machine wrote"));
        true
    });
    found
}

pub(crate) fn relocation_id(bytes: &[u8]) -> Result<RelocationId, Refusal> {
    RelocationId::try_from(bytes).map_err(|_| Refusal::Malformed("relocation id"))
}

/// Builds below the level would stop at what a leader proposes here.
pub(crate) fn at_level(applying: &Applying<'_>) -> Result<(), Refusal> {
    match applying.at.level >= LEVEL_RELOCATION {
        true => Ok(()),
        false => Err(Refusal::Malformed("below its feature level")),
    }
}

/// A region that is trusted now, by the very descriptor that people approved.
fn trusted_by(
    applying: &Applying<'_>,
    region: &RegionId,
    (version, fingerprint): (u64, &[u8]),
) -> Result<Descriptor, Refusal> {
    let held = trusted_region(&*applying.state, region).ok_or(Refusal::RegionNotTrusted)?;
    let same = region_fingerprint(&held.signed().descriptor)[..] == *fingerprint;
    match same && held.version() == version {
        true => Ok(held),
        false => Err(Refusal::OtherFingerprint),
    }
}

pub(crate) fn purpose() -> Purpose {
    RELOCATION.parse().expect("a constant of this crate")
}

pub(crate) fn put_grant(
    applying: &mut Applying<'_>,
    relocation: &RelocationId,
    grant: &HandOverGrant,
    record: &mut HandOverGrantRecord,
) {
    grant.put_into(record);
    let row = layout::hand_over_grant(relocation);
    applying.state.put(&row, &record.encode_to_vec());
}

fn put_key(applying: &mut Applying<'_>, relocation: &RelocationId, record: &HandOverKeyRecord) {
    let row = layout::hand_over_key(relocation);
    applying.state.put(&row, &record.encode_to_vec());
}

/// Drops the wrapped private half of a key. The caller has noted that something ends.
fn drop_private(applying: &mut Applying<'_>, relocation: &RelocationId) {
    let rewrapped = layout::rewrapped_hand_over(relocation);
    for row in [layout::hand_over_private(relocation), rewrapped] {
        applying.state.delete(&row);
    }
}

/// What a restore has ended.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ended {
    pub(crate) grants: u64,
    pub(crate) keys: u64,
}

/// On a restored cluster: what was paused, closed or destroyed since the backup was taken is in it open, and nothing in it
/// says so. Every grant is closed and every hand-over key destroyed: their relocations begin anew.
pub(crate) fn restored(applying: &mut Applying<'_>) -> Ended {
    let mut ended = Ended::default();
    for mut record in hand_over_grants(&*applying.state) {
        let held = HandOverGrant::of(&record);
        let relocation = relocation_id(&record.relocation_id).expect("checked on its way in");
        let closed = HandOverGrant::close(Some(held), relocation);
        if closed == held {
            continue;
        }
        put_grant(applying, &relocation, &closed, &mut record);
        release_key(applying, &record);
        ended.grants += 1;
    }
    for mut record in hand_over_keys(&*applying.state) {
        if record.destroyed {
            continue;
        }
        let relocation = relocation_id(&record.relocation_id).expect("checked on its way in");
        record.destroyed = HandOverKey::of(&record).destroy().destroyed;
        put_key(applying, &relocation, &record);
        drop_private(applying, &relocation);
        ended.keys += 1;
    }
    if ended.keys > 0 {
        erase::note(applying);
    }
    ended
}

/// The dataset's key is granted to this relocation no longer.
fn release_key(applying: &mut Applying<'_>, grant: &HandOverGrantRecord) {
    let dataset = crate::keys::dataset_id(&grant.dataset_id).expect("a stored id is 16 bytes");
    let key = read::key_bare(&*applying.state, &dataset);
    if let Some(mut key) = key.filter(|key| key.relocation_id == grant.relocation_id) {
        key.relocation_id.clear();
        kek_rows::put_used(applying.state, &dataset, &key);
    }
}
