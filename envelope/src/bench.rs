//! How fast sealing is against the cipher alone.
//!
//! Owns a measurement, no verdict: streams of 64 MiB against AES-256-GCM of aws-lc on the same
//! chunks, one thread, and the cost of one key. Behind the feature `bench`; it is the one place of
//! this crate that looks at a clock.

use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use proto::ids::{DatasetId, LeaseId, ObjectVersionId};

use crate::{
    CHUNK_BYTES, DekSalt, KeyError, LeaseKey, NameCommitment, ObjectContext, OpenError, PartNumber,
    SEALED_CHUNK_BYTES, SealError, SessionError, SessionInfo, SessionOffer, StreamHeader, Suite,
    TAG_BYTES, establish,
};

const STREAM_BYTES: usize = 64 * 1024 * 1024;
const CHUNKS: usize = STREAM_BYTES / CHUNK_BYTES;
/// What a caller hands over at a time.
const PIECE_BYTES: usize = 1024 * 1024;
/// Rounds, of which the fastest counts: what slows a round down is not the code.
const ROUNDS: usize = 25;
const KEYS: u32 = 20_000;

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EnvelopeBench {
    /// AES-256-GCM alone, in place, bytes a second.
    pub raw_seal: f64,
    /// The same, opening.
    pub raw_open: f64,
    /// `Sealer::seal_slots`, in place.
    pub seal_in_place: f64,
    /// `Opener::open_slots`, in place.
    pub open_in_place: f64,
    /// `Sealer::update` in pieces of 1 MiB, into another buffer.
    pub seal_stream: f64,
    /// `Opener::update` in pieces of 1 MiB, into another buffer.
    pub open_stream: f64,
    /// One DEK derived.
    pub derive_dek: Duration,
    /// One DEK sent and received over a session, both sides together.
    pub session_item: Duration,
    /// One session established and accepted.
    pub session: Duration,
}

impl EnvelopeBench {
    /// Sealing against the cipher alone, in place and streamed.
    pub fn seal_ratios(&self) -> [f64; 2] {
        [
            self.seal_in_place / self.raw_seal,
            self.seal_stream / self.raw_seal,
        ]
    }

    /// Opening against the cipher alone, in place and streamed.
    pub fn open_ratios(&self) -> [f64; 2] {
        [
            self.open_in_place / self.raw_open,
            self.open_stream / self.raw_open,
        ]
    }

    /// The worst ratio.
    pub fn worst_ratio(&self) -> f64 {
        self.seal_ratios()
            .into_iter()
            .chain(self.open_ratios())
            .fold(f64::INFINITY, f64::min)
    }
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// No key could be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Sealing failed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// Opening failed.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The session failed.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// Measures for some seconds on the calling thread.
pub fn envelope() -> Result<EnvelopeBench, BenchError> {
    let region: proto::ids::RegionId = "ch-zrh".parse().expect("a valid region");
    let context = ObjectContext {
        suite: Suite::Cobblestone256,
        region: region.clone(),
        dataset: DatasetId([1; 16]),
        version: ObjectVersionId([2; 16]),
        name: NameCommitment([3; 32]),
    };
    let lease = LeaseKey::generate(region, LeaseId([4; 16]))?;
    let salt = DekSalt::random()?;
    let mut best = [Duration::MAX; 6];
    let mut slots = vec![[0u8; SEALED_CHUNK_BYTES]; CHUNKS];
    let plain = vec![0x5A; STREAM_BYTES];
    let mut piece_out = Vec::with_capacity(2 * PIECE_BYTES);
    let mut sealed = Vec::new();
    // Rounds of all six in turn, so that a slow second falls on each of them alike.
    for _ in 0..ROUNDS {
        let [raw_seal, raw_open] = raw(&mut slots);
        let (in_place, streamed) = ours(
            &lease,
            &salt,
            &context,
            &mut slots,
            &plain,
            &mut piece_out,
            &mut sealed,
        )?;
        let round = [
            raw_seal,
            raw_open,
            in_place[0],
            in_place[1],
            streamed[0],
            streamed[1],
        ];
        best.iter_mut()
            .zip(round)
            .for_each(|(best, took)| *best = took.min(*best));
    }
    let rate = |index: usize| STREAM_BYTES as f64 / best[index].as_secs_f64();
    let derive_dek =
        timed(|| (0..KEYS).try_for_each(|_| lease.open_dek(&salt, &context).map(drop)))?;
    let (session, session_item) = session_costs(&lease, &salt, &context)?;
    Ok(EnvelopeBench {
        raw_seal: rate(0),
        raw_open: rate(1),
        seal_in_place: rate(2),
        open_in_place: rate(3),
        seal_stream: rate(4),
        open_stream: rate(5),
        derive_dek: derive_dek / KEYS,
        session_item,
        session,
    })
}

/// The cipher alone: one key schedule, then each chunk in place.
fn raw(slots: &mut [[u8; SEALED_CHUNK_BYTES]]) -> [Duration; 2] {
    let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("the length of an AES-256 key");
    let key = LessSafeKey::new(key);
    let nonce = |index: usize| {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&(index as u64).to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    };
    let start = Instant::now();
    for (index, slot) in slots.iter_mut().enumerate() {
        let (chunk, tag) = slot.split_at_mut(CHUNK_BYTES);
        let sealed = key.seal_in_place_separate_tag(nonce(index), Aad::empty(), chunk);
        tag.copy_from_slice(sealed.expect("a chunk is under the limit of GCM").as_ref());
    }
    let seal = start.elapsed();
    let start = Instant::now();
    for (index, slot) in slots.iter_mut().enumerate() {
        let (chunk, tag) = slot
            .split_last_chunk_mut::<TAG_BYTES>()
            .expect("a slot holds a tag");
        key.open_in_place_separate_tag(nonce(index), Aad::empty(), tag, chunk)
            .expect("just sealed");
    }
    [seal, start.elapsed()]
}

type Pair = [Duration; 2];

fn ours(
    lease: &LeaseKey,
    salt: &DekSalt,
    context: &ObjectContext,
    slots: &mut [[u8; SEALED_CHUNK_BYTES]],
    plain: &[u8],
    piece_out: &mut Vec<u8>,
    sealed: &mut Vec<u8>,
) -> Result<(Pair, Pair), BenchError> {
    let open = lease.open_dek(salt, context)?;
    let stream = context.data_stream(PartNumber::FIRST);

    let start = Instant::now();
    let mut sealer = crate::Sealer::new(open.key.bytes(), &stream)?;
    sealer.seal_slots(slots)?;
    let header = *sealer.header();
    let mut tail = Vec::new();
    sealer.finish(&mut tail)?;
    let seal_in_place = start.elapsed();

    let start = Instant::now();
    let mut opener = open.opener(PartNumber::FIRST, &header)?;
    opener.open_slots(slots)?;
    let mut end = Vec::new();
    opener.update(&tail, &mut end)?;
    opener.finish(&mut end)?;
    let open_in_place = start.elapsed();

    sealed.clear();
    let mut seal_stream = Duration::ZERO;
    let start = Instant::now();
    let mut sealer = crate::Sealer::new(open.key.bytes(), &stream)?;
    seal_stream += start.elapsed();
    for piece in plain.chunks(PIECE_BYTES) {
        piece_out.clear();
        let start = Instant::now();
        sealer.update(piece, piece_out)?;
        seal_stream += start.elapsed();
        sealed.extend_from_slice(piece_out);
    }
    let start = Instant::now();
    sealer.finish(sealed)?;
    seal_stream += start.elapsed();

    let start = Instant::now();
    let (header, chunks) = StreamHeader::split(sealed)?;
    let mut opener = open.opener(PartNumber::FIRST, &header)?;
    for piece in chunks.chunks(PIECE_BYTES) {
        piece_out.clear();
        opener.update(piece, piece_out)?;
    }
    opener.finish(piece_out)?;
    Ok((
        [seal_in_place, open_in_place],
        [seal_stream, start.elapsed()],
    ))
}

fn session_costs(
    lease: &LeaseKey,
    salt: &DekSalt,
    context: &ObjectContext,
) -> Result<(Duration, Duration), BenchError> {
    const SESSIONS: u32 = 50;
    let info = SessionInfo::of(&[b"bench"]);
    let session = timed(|| {
        (0..SESSIONS).try_for_each(|_| {
            let offer = SessionOffer::generate()?;
            let (answer, _sender) = establish(&offer.public(), &info)?;
            offer.accept(&answer, &info).map(drop)
        })
    })?;
    let offer = SessionOffer::generate()?;
    let (answer, sender) = establish(&offer.public(), &info)?;
    let receiver = offer.accept(&answer, &info)?;
    let dek = lease.open_dek(salt, context)?;
    let items = timed(|| {
        (0..KEYS).try_for_each(|_| {
            let item = sender.send_dek(&dek, b"request")?;
            receiver
                .receive_dek(&item, context.clone(), b"request")
                .map(drop)
        })
    })?;
    Ok((session / SESSIONS, items / KEYS))
}

fn timed<E>(work: impl FnOnce() -> Result<(), E>) -> Result<Duration, E> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

#[cfg(test)]
mod tests {
    /// Prints the numbers; holds the floor only where code is optimised.
    #[test]
    fn sealing_keeps_up_with_the_cipher() {
        let bench = super::envelope().expect("measures");
        println!(
            "{bench:#?}\nseal {:?} open {:?}",
            bench.seal_ratios(),
            bench.open_ratios()
        );
        assert!(
            bench.worst_ratio() > if cfg!(debug_assertions) { 0.2 } else { 0.8 },
            "{bench:?}"
        );
    }
}
