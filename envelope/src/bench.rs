//! How fast sealing is against the cipher alone.
//!
//! Owns a measurement, no verdict: streams of 64 MiB against AES-256-GCM of aws-lc on the same
//! chunks, one thread, and the cost of one key. Time is CPU time of the thread, and each ratio is
//! the median over rounds of two measurements made one after the other, so that a busy machine
//! tells on neither. Behind the feature `bench`; it is the one place of this crate that looks at a
//! clock.

use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use proto::ids::{DatasetId, LeaseId, ObjectVersionId};

use crate::{
    CHUNK_BYTES, DekSalt, KeyError, LeaseKey, NameCommitment, ObjectContext, OpenDek, OpenError,
    PartNumber, SEALED_CHUNK_BYTES, SealError, Sealer, SessionError, SessionInfo, SessionOffer,
    StreamHeader, Suite, TAG_BYTES, establish,
};

const STREAM_BYTES: usize = 64 * 1024 * 1024;
const CHUNKS: usize = STREAM_BYTES / CHUNK_BYTES;
/// What a caller hands over at a time.
const PIECE_BYTES: usize = 1024 * 1024;
/// Rounds. Odd, so that there is a middle one.
const ROUNDS: usize = 25;
const KEYS: u32 = 20_000;

/// Sealing, or opening: bytes a second at best, and against the cipher alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Direction {
    /// AES-256-GCM alone, in place.
    pub raw: f64,
    /// `seal_slots` or `open_slots`: in place.
    pub in_place: f64,
    /// `update` in pieces of 1 MiB, into another buffer.
    pub streamed: f64,
    /// In place against the cipher alone; 1 is as fast. Like against like: the project's floor is
    /// for this one.
    pub in_place_ratio: f64,
    /// Streamed against the cipher alone in place. Streaming moves every byte between two buffers.
    pub streamed_ratio: f64,
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EnvelopeBench {
    /// Sealing 64 MiB.
    pub seal: Direction,
    /// Opening 64 MiB.
    pub open: Direction,
    /// One DEK derived.
    pub derive_dek: Duration,
    /// One DEK sent and received over a session, both sides together.
    pub session_item: Duration,
    /// One session established and accepted.
    pub session: Duration,
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
    let dek = lease.open_dek(&salt, &context)?;
    let mut slots = vec![[0u8; SEALED_CHUNK_BYTES]; CHUNKS];
    let plain = vec![0x5A; STREAM_BYTES];
    let mut stream = Vec::new();
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let raw = raw(&mut slots);
        let in_place = in_place(&dek, &mut slots)?;
        let streamed = streamed(&dek, &plain, &mut stream)?;
        rounds.push([raw, in_place, streamed]);
    }
    let derive_dek =
        timed(|| (0..KEYS).try_for_each(|_| lease.open_dek(&salt, &context).map(drop)))?;
    let (session, session_item) = session_costs(&dek)?;
    Ok(EnvelopeBench {
        seal: direction(&rounds, 0),
        open: direction(&rounds, 1),
        derive_dek: derive_dek / KEYS,
        session_item,
        session,
    })
}

/// Seconds of sealing, then of opening.
type Pair = [f64; 2];

fn direction(rounds: &[[Pair; 3]], which: usize) -> Direction {
    let rate = |how: usize| {
        let best = rounds
            .iter()
            .map(|round| round[how][which])
            .fold(f64::INFINITY, f64::min);
        STREAM_BYTES as f64 / best
    };
    let ratio = |how: usize| {
        let mut ratios: Vec<f64> = rounds
            .iter()
            .map(|round| round[0][which] / round[how][which])
            .collect();
        ratios.sort_by(f64::total_cmp);
        ratios[ratios.len() / 2]
    };
    Direction {
        raw: rate(0),
        in_place: rate(1),
        streamed: rate(2),
        in_place_ratio: ratio(1),
        streamed_ratio: ratio(2),
    }
}

/// The cipher alone: one key schedule, then each chunk in place.
fn raw(slots: &mut [[u8; SEALED_CHUNK_BYTES]]) -> Pair {
    let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("the length of an AES-256 key");
    let key = LessSafeKey::new(key);
    let nonce = |index: usize| {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&(index as u64).to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    };
    let start = CpuTime::now();
    for (index, slot) in slots.iter_mut().enumerate() {
        let (chunk, tag) = slot.split_at_mut(CHUNK_BYTES);
        let sealed = key.seal_in_place_separate_tag(nonce(index), Aad::empty(), chunk);
        tag.copy_from_slice(sealed.expect("a chunk is under the limit of GCM").as_ref());
    }
    let seal = start.seconds();
    let start = CpuTime::now();
    for (index, slot) in slots.iter_mut().enumerate() {
        let (chunk, tag) = slot
            .split_last_chunk_mut::<TAG_BYTES>()
            .expect("a slot holds a tag");
        key.open_in_place_separate_tag(nonce(index), Aad::empty(), tag, chunk)
            .expect("just sealed");
    }
    [seal, start.seconds()]
}

/// A whole stream, header to last chunk, where it lies.
fn in_place(dek: &OpenDek, slots: &mut [[u8; SEALED_CHUNK_BYTES]]) -> Result<Pair, BenchError> {
    let start = CpuTime::now();
    let mut sealer = sealer(dek)?;
    sealer.seal_slots(slots)?;
    let header = *sealer.header();
    let mut last = Vec::new();
    sealer.finish(&mut last)?;
    let seal = start.seconds();

    let start = CpuTime::now();
    let mut opener = dek.opener(PartNumber::FIRST, &header)?;
    opener.open_slots(slots)?;
    let mut end = Vec::new();
    opener.update(&last, &mut end)?;
    opener.finish(&mut end)?;
    Ok([seal, start.seconds()])
}

/// A whole stream from one buffer to another, in the pieces a caller has. Each piece's output is
/// given on before the next, as to a socket.
fn streamed(dek: &OpenDek, plain: &[u8], stream: &mut Vec<u8>) -> Result<Pair, BenchError> {
    let mut out = Vec::with_capacity(2 * PIECE_BYTES);
    let mut sealed = 0.0;
    let mut seal = sealer(dek)?;
    stream.clear();
    for piece in plain.chunks(PIECE_BYTES) {
        out.clear();
        let start = CpuTime::now();
        seal.update(piece, &mut out)?;
        sealed += start.seconds();
        stream.extend_from_slice(&out);
    }
    seal.finish(stream)?;

    let start = CpuTime::now();
    let (header, chunks) = StreamHeader::split(stream)?;
    let mut opener = dek.opener(PartNumber::FIRST, &header)?;
    for piece in chunks.chunks(PIECE_BYTES) {
        out.clear();
        opener.update(piece, &mut out)?;
    }
    opener.finish(&mut out)?;
    Ok([sealed, start.seconds()])
}

fn sealer(dek: &OpenDek) -> Result<Sealer, KeyError> {
    Sealer::new(dek.key.bytes(), &dek.context.data_stream(PartNumber::FIRST))
}

fn session_costs(dek: &OpenDek) -> Result<(Duration, Duration), BenchError> {
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
    let items = timed(|| {
        (0..KEYS).try_for_each(|_| {
            let item = sender.send_dek(dek, b"request")?;
            receiver
                .receive_dek(&item, dek.context.clone(), b"request")
                .map(drop)
        })
    })?;
    Ok((session / SESSIONS, items / KEYS))
}

/// A reading of the thread's CPU clock.
struct CpuTime(Duration);

impl CpuTime {
    fn now() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        // The clock starts at zero with the thread, so neither part is negative.
        Self(Duration::new(
            time.tv_sec.unsigned_abs(),
            time.tv_nsec.unsigned_abs() as u32,
        ))
    }

    fn elapsed(&self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }

    fn seconds(&self) -> f64 {
        self.elapsed().as_secs_f64()
    }
}

fn timed<E>(work: impl FnOnce() -> Result<(), E>) -> Result<Duration, E> {
    let start = CpuTime::now();
    work()?;
    Ok(start.elapsed())
}

#[cfg(test)]
mod tests {
    /// Prints the numbers; holds the floor only where code is optimised.
    #[test]
    fn sealing_keeps_up_with_the_cipher() {
        let bench = super::envelope().expect("measures");
        println!("{bench:#?}");
        let floor = if cfg!(debug_assertions) { 0.2 } else { 0.9 };
        assert!(bench.seal.in_place_ratio >= floor, "{bench:?}");
        assert!(bench.open.in_place_ratio >= floor, "{bench:?}");
    }
}
