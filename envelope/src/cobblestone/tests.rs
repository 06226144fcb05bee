//! Published vectors by name, another implementation both ways, and one test for each thing that is
//! refused.

use std::io::Read;

use proptest::prelude::*;

use super::*;

const KEY: [u8; 32] = [1; 32];
const CONTEXT: &[u8] = b"context";

fn text(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}

fn seal(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut sealer = Sealer::with_salt(&KEY, CONTEXT, &StreamSalt([2; 24]));
    sealer.update(plain, &mut out).expect("seals");
    sealer.finish(&mut out).expect("seals");
    out
}

fn open_with(
    key: &[u8; 32],
    context: &[u8],
    stream: &[u8],
    piece: usize,
) -> Result<Vec<u8>, OpenError> {
    let (header, chunks) = StreamHeader::split(stream)?;
    let mut opener = Opener::new(key, &header, context)?;
    let mut out = Vec::new();
    for piece in chunks.chunks(piece) {
        opener.update(piece, &mut out)?;
    }
    opener.finish(&mut out)?;
    Ok(out)
}

fn open(stream: &[u8]) -> Result<Vec<u8>, OpenError> {
    open_with(&KEY, CONTEXT, stream, usize::MAX)
}

fn theirs() -> cobblestone::Key256 {
    cobblestone::Key256::from_bytes(&KEY)
}

/// Computed from the text of the specification with Python's hmac and AES-GCM.
#[test]
fn a_stream_has_these_golden_bytes() {
    assert_eq!(
        hex::encode(seal(b"hello")),
        "0202020202020202020202020202020202020202020202025530f3da1d440ce76b7fd42f6a833c179e0ea40d5f904a0132ca00915dc16a19feb39e341c5081038511c8913c4c7b8fbf9555beb3"
    );
    let two_full = seal(&[0x5a; 2 * CHUNK_BYTES]);
    assert_eq!(two_full.len(), 32872);
    assert_eq!(
        hex::encode(kdf::sha256(&[&two_full])),
        "b9ada4f208632a55a787f2af2d9526c5c6e72d900d0a4bbacb9f2b9b0578da5d"
    );
}

#[test]
fn streams_of_every_shape_go_both_ways_with_the_cobblestone_crate() {
    for length in [
        0,
        1,
        CHUNK_BYTES - 1,
        CHUNK_BYTES,
        CHUNK_BYTES + 1,
        3 * CHUNK_BYTES,
        300_001,
    ] {
        let plain = text(length);
        let ours = seal(&plain);
        assert_eq!(ours.len() as u64, sealed_len(length as u64).expect("short"));
        assert_eq!(plain_len(ours.len() as u64), Ok(length as u64));
        assert_eq!(
            cobblestone::decrypt(&theirs(), CONTEXT, &ours).as_deref(),
            Ok(&plain[..])
        );
        let other = cobblestone::encrypt(&theirs(), CONTEXT, &plain).expect("seals");
        assert_eq!(open(&other).as_deref(), Ok(&plain[..]));
    }
}

#[test]
fn slots_give_the_same_stream_as_pieces() {
    let plain = text(3 * CHUNK_BYTES + 5);
    let mut slots = vec![[0; SEALED_CHUNK_BYTES]; 3];
    for (slot, chunk) in slots.iter_mut().zip(plain.chunks(CHUNK_BYTES)) {
        slot[..CHUNK_BYTES].copy_from_slice(chunk);
    }
    let mut sealer = Sealer::with_salt(&KEY, CONTEXT, &StreamSalt([2; 24]));
    let header = *sealer.header();
    sealer.seal_slots(&mut slots).expect("seals");
    let mut tail = Vec::new();
    sealer
        .update(&plain[3 * CHUNK_BYTES..], &mut tail)
        .expect("seals");
    assert_eq!(
        sealer.seal_slots(&mut slots[..1]),
        Err(SealError::OutOfStep)
    );
    sealer.finish(&mut tail).expect("seals");
    let stream = [header.as_bytes(), slots.as_flattened(), &tail].concat();
    assert_eq!(stream, seal(&plain));

    let mut opener = Opener::new(&KEY, &header, CONTEXT).expect("opens");
    opener.open_slots(&mut slots).expect("opens");
    for (slot, chunk) in slots.iter().zip(plain.chunks(CHUNK_BYTES)) {
        assert_eq!(&slot[..CHUNK_BYTES], chunk);
    }
    let mut end = Vec::new();
    opener.update(&tail, &mut end).expect("opens");
    opener.finish(&mut end).expect("opens");
    assert_eq!(end, &plain[3 * CHUNK_BYTES..]);
}

#[test]
fn a_slot_that_is_not_authentic_is_wiped_and_ends_the_stream() {
    let stream = seal(&text(2 * CHUNK_BYTES));
    let (header, chunks) = StreamHeader::split(&stream).expect("long enough");
    let mut slots: Vec<_> = chunks.as_chunks::<SEALED_CHUNK_BYTES>().0.to_vec();
    slots[1][7] ^= 1;
    let mut opener = Opener::new(&KEY, &header, CONTEXT).expect("opens");
    assert_eq!(opener.open_slots(&mut slots), Err(OpenError));
    assert!(slots.iter().all(|slot| slot.iter().all(|byte| *byte == 0)));
    assert_eq!(
        opener.update(&[], &mut Vec::new()),
        Err(OpenError),
        "the failure sticks"
    );

    let mut opener = Opener::new(&KEY, &header, CONTEXT).expect("opens");
    opener
        .update(&chunks[..9], &mut Vec::new())
        .expect("part of a chunk");
    assert_eq!(opener.open_slots(&mut slots), Err(OpenError), "out of step");
}

#[test]
fn a_stream_cut_anywhere_does_not_open() {
    for length in [
        0,
        5,
        CHUNK_BYTES - 1,
        CHUNK_BYTES,
        CHUNK_BYTES + 5,
        2 * CHUNK_BYTES,
    ] {
        let stream = seal(&text(length));
        let cuts = [
            0,
            1,
            HEADER_BYTES - 1,
            HEADER_BYTES,
            HEADER_BYTES + 1,
            HEADER_BYTES + TAG_BYTES,
        ]
        .into_iter()
        .chain([
            HEADER_BYTES + SEALED_CHUNK_BYTES,
            HEADER_BYTES + 2 * SEALED_CHUNK_BYTES,
        ])
        .chain(stream.len().saturating_sub(40)..stream.len())
        .filter(|cut| *cut < stream.len());
        for cut in cuts {
            assert_eq!(
                open(&stream[..cut]),
                Err(OpenError),
                "{length} cut to {cut}"
            );
        }
    }
}

#[test]
fn a_stream_made_longer_does_not_open() {
    for length in [0, 5, CHUNK_BYTES, CHUNK_BYTES + 5] {
        let stream = seal(&text(length));
        for more in [1, TAG_BYTES, SEALED_CHUNK_BYTES] {
            let longer = [&stream[..], &vec![0; more]].concat();
            assert_eq!(open(&longer), Err(OpenError), "{length} and {more}");
        }
        // An authentic chunk after the last one.
        let again = [&stream[..], &stream[HEADER_BYTES..]].concat();
        assert_eq!(open(&again), Err(OpenError));
    }
}

#[test]
fn chunks_in_another_order_do_not_open() {
    let mut stream = seal(&text(3 * CHUNK_BYTES));
    let (chunks, _) = stream[HEADER_BYTES..].as_chunks_mut::<SEALED_CHUNK_BYTES>();
    chunks.swap(0, 1);
    assert_eq!(open(&stream), Err(OpenError));
    let (chunks, _) = stream[HEADER_BYTES..].as_chunks_mut::<SEALED_CHUNK_BYTES>();
    chunks.swap(0, 1);
    chunks[2] = chunks[1];
    assert_eq!(open(&stream), Err(OpenError));
}

#[test]
fn every_changed_byte_of_header_and_tag_is_refused() {
    let stream = seal(b"hello");
    for at in 0..stream.len() {
        let mut changed = stream.clone();
        changed[at] ^= 0x80;
        assert_eq!(open(&changed), Err(OpenError), "byte {at}");
    }
}

#[test]
fn another_key_or_context_is_refused_before_any_chunk() {
    let stream = seal(b"hello");
    let (header, _) = StreamHeader::split(&stream).expect("long enough");
    assert!(Opener::new(&[9; 32], &header, CONTEXT).is_err());
    assert!(Opener::new(&KEY, &header, b"contexT").is_err());
    assert!(Opener::new(&KEY, &header, b"").is_err());
    let span = chunk_span(5, 0..5).expect("inside");
    assert!(RangeOpener::new(&KEY, &header, b"", span).is_err());
}

#[test]
fn the_last_index_is_for_the_last_chunk_only() {
    let mut sealer = Sealer::with_salt(&KEY, CONTEXT, &StreamSalt([2; 24]));
    let header = *sealer.header();
    sealer.skip_to(CHUNKS_MAX - 2);
    let mut out = Vec::new();
    sealer
        .update(&[7; CHUNK_BYTES], &mut out)
        .expect("the last full chunk");
    let good = out.len();
    assert_eq!(
        sealer.update(&[7; CHUNK_BYTES], &mut out),
        Err(SealError::TooLong)
    );
    assert_eq!(out.len(), good, "no plaintext stays behind");
    sealer.finish(&mut out).expect("an empty last chunk");

    let mut opener = Opener::new(&KEY, &header, CONTEXT).expect("opens");
    opener.skip_to(CHUNKS_MAX - 2);
    let mut plain = Vec::new();
    opener
        .update(&out[HEADER_BYTES..], &mut plain)
        .expect("opens");
    opener.finish(&mut plain).expect("opens");
    assert_eq!(plain, [7; CHUNK_BYTES]);

    let mut opener = Opener::new(&KEY, &header, CONTEXT).expect("opens");
    opener.skip_to(CHUNKS_MAX - 1);
    assert_eq!(
        opener.update(&[0; SEALED_CHUNK_BYTES], &mut Vec::new()),
        Err(OpenError)
    );
}

#[test]
fn the_nonce_is_the_base_xor_the_index() {
    let (cipher, _) = ChunkCipher::derive(&KEY, &StreamSalt([2; 24]), CONTEXT);
    let base = *cipher.base_nonce;
    let nonce = cipher.nonce(0x12_3456_789a);
    let expected: Vec<u8> = base
        .iter()
        .zip([0, 0, 0, 0, 0, 0, 0, 0x12, 0x34, 0x56, 0x78, 0x9a])
        .map(|(a, b)| a ^ b)
        .collect();
    assert_eq!(nonce.as_ref()[..], expected);
}

#[test]
fn lengths_follow_from_each_other_and_impossible_ones_are_refused() {
    let chunk = SEALED_CHUNK_BYTES as u64;
    let header = HEADER_BYTES as u64;
    assert_eq!(sealed_len(0), Some(72));
    assert_eq!(sealed_len(CHUNK_BYTES as u64), Some(header + chunk + 16));
    assert_eq!(sealed_len(PLAIN_BYTES_MAX + 1), None);
    let longest = sealed_len(PLAIN_BYTES_MAX).expect("the longest");
    assert_eq!(plain_len(longest), Ok(PLAIN_BYTES_MAX));
    for bad in [
        0,
        55,
        56,
        71,
        header + chunk,
        header + chunk + 15,
        header + 2 * chunk,
        longest + 1,
        u64::MAX,
    ] {
        assert_eq!(plain_len(bad), Err(OpenError), "{bad}");
    }
}

#[test]
fn ranges_outside_the_plaintext_are_refused() {
    #[expect(
        clippy::reversed_empty_ranges,
        reason = "the reversed range is what is refused"
    )]
    for (total, range) in [
        (10, 0..11),
        (10, 11..11),
        (10, 5..4),
        (PLAIN_BYTES_MAX + 1, 0..1),
    ] {
        assert_eq!(
            chunk_span(total, range.clone()),
            Err(RangeError),
            "{range:?} of {total}"
        );
    }
}

#[test]
fn a_suffix_of_a_cut_stream_does_not_open() {
    let total = 2 * CHUNK_BYTES as u64;
    let stream = seal(&text(total as usize));
    let (header, _) = StreamHeader::split(&stream).expect("long enough");
    let take = |total: u64, range: Range<u64>| {
        let span = chunk_span(total, range).expect("inside");
        let sealed = span.sealed_range();
        let sealed = &stream[sealed.start as usize..sealed.end as usize];
        let mut out = Vec::new();
        RangeOpener::new(&KEY, &header, CONTEXT, span)?
            .open(sealed, &mut out)
            .map(|()| out)
    };
    assert_eq!(
        take(total, total - 3..total).as_deref(),
        Ok(&text(total as usize)[total as usize - 3..])
    );
    // Whoever says that the stream ends earlier is caught at what would be its last chunk.
    for shorter in [
        total - 1,
        total - CHUNK_BYTES as u64,
        CHUNK_BYTES as u64 + 1,
        5,
    ] {
        assert_eq!(
            take(shorter, shorter - 3..shorter),
            Err(OpenError),
            "{shorter}"
        );
    }
}

#[test]
fn a_range_takes_exactly_its_chunks() {
    let plain = text(5 * CHUNK_BYTES + 100);
    let stream = seal(&plain);
    let (header, _) = StreamHeader::split(&stream).expect("long enough");
    let span = chunk_span(plain.len() as u64, 20_000..50_000).expect("inside");
    let sealed = span.sealed_range();
    let bytes = &stream[sealed.start as usize..sealed.end as usize];
    let attempt = |bytes: &[u8]| {
        let mut out = b"before".to_vec();
        let answer = RangeOpener::new(&KEY, &header, CONTEXT, span.clone())
            .expect("the header is right")
            .open(bytes, &mut out);
        assert!(
            answer.is_ok() || out == b"before",
            "nothing is added by a failure"
        );
        answer.map(|()| out[6..].to_vec())
    };
    assert_eq!(attempt(bytes).as_deref(), Ok(&plain[20_000..50_000]));
    assert_eq!(
        attempt(&bytes[..bytes.len() - 1]),
        Err(OpenError),
        "one byte too few"
    );
    assert_eq!(
        attempt(&bytes[..bytes.len() - SEALED_CHUNK_BYTES]),
        Err(OpenError),
        "one chunk too few"
    );
    assert_eq!(
        attempt(&[bytes, &[0]].concat()),
        Err(OpenError),
        "one byte too many"
    );
    let start = sealed.start as usize - SEALED_CHUNK_BYTES;
    assert_eq!(
        attempt(&stream[start..start + bytes.len()]),
        Err(OpenError),
        "the chunks before"
    );
}

#[test]
fn short_messages_open_to_their_own_length_only() {
    let sealed = seal_short(&KEY, CONTEXT, &[5; 32]).expect("random");
    assert_eq!(
        cobblestone::decrypt(&theirs(), CONTEXT, &sealed).as_deref(),
        Ok(&[5; 32][..])
    );
    let mut out = [0; 32];
    assert_eq!(open_short(&KEY, CONTEXT, &sealed, &mut out), Ok(()));
    assert_eq!(out, [5; 32]);
    assert_eq!(
        open_short(&KEY, CONTEXT, &sealed, &mut [0; 31]),
        Err(OpenError)
    );
    assert_eq!(open_short(&KEY, b"", &sealed, &mut out), Err(OpenError));
    assert_eq!(
        open_short(&[0; 32], CONTEXT, &sealed, &mut out),
        Err(OpenError)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn where_a_stream_is_cut_into_pieces_makes_no_difference(
        length in 0..100_000usize,
        seal_cuts in proptest::collection::vec(1..40_000usize, 0..20),
        open_piece in 1..40_000usize,
    ) {
        let plain = text(length);
        let mut out = Vec::new();
        let mut sealer = Sealer::with_salt(&KEY, CONTEXT, &StreamSalt([2; 24]));
        let mut rest = &plain[..];
        for cut in seal_cuts {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            sealer.update(piece, &mut out).expect("seals");
            rest = after;
        }
        sealer.update(rest, &mut out).expect("seals");
        sealer.finish(&mut out).expect("seals");
        prop_assert_eq!(&out, &seal(&plain));
        prop_assert_eq!(open_with(&KEY, CONTEXT, &out, open_piece), Ok(plain));
    }

    #[test]
    fn every_range_gives_its_bytes(length in 0..100_000usize, a in 0..=100_000usize, b in 0..=100_000usize, piece in 1..40_000usize) {
        let plain = text(length);
        let stream = seal(&plain);
        let (a, b) = (a.min(length), b.min(length));
        let (from, to) = (a.min(b), a.max(b));
        let span = chunk_span(length as u64, from as u64..to as u64).expect("inside");
        let sealed = span.sealed_range();
        let (header, _) = StreamHeader::split(&stream).expect("long enough");
        let mut opener = RangeOpener::new(&KEY, &header, CONTEXT, span.clone()).expect("opens");
        let mut out = Vec::new();
        for piece in stream[sealed.start as usize..sealed.end as usize].chunks(piece) {
            opener.update(piece, &mut out).expect("opens");
        }
        opener.finish().expect("whole");
        prop_assert_eq!(out, &plain[from..to]);
        prop_assert!(to < length || sealed.end == stream.len() as u64, "the end is proved");
    }

    #[test]
    fn a_changed_bit_anywhere_is_refused(length in 0..40_000usize, at in any::<proptest::sample::Index>(), bit in 0..8u8) {
        let mut stream = seal(&text(length));
        let at = at.index(stream.len());
        stream[at] ^= 1 << bit;
        prop_assert_eq!(open(&stream), Err(OpenError));
    }
}

/// Every vector in pieces of several sizes. Where one is invalid, no more than its authentic prefix
/// comes out.
#[test]
fn wycheproof_cobblestone_256_vectors_hold() {
    let Some(folder) = std::env::var_os("REDUIT_VECTORS") else {
        eprintln!("skipped: REDUIT_VECTORS is not set");
        return;
    };
    let path = std::path::Path::new(&folder)
        .join("wycheproof/c2sp_chunked_encryption_aes_256_gcm_test.json");
    let file: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path).expect("vectors are there")).expect("JSON");
    let mut run = 0;
    for test in file["testGroups"]
        .as_array()
        .expect("groups")
        .iter()
        .flat_map(|group| group["tests"].as_array().expect("tests"))
    {
        run += 1;
        for piece in [usize::MAX, SEALED_CHUNK_BYTES, 1000] {
            check_vector(test, piece);
        }
    }
    assert_eq!(run, file["numberOfTests"].as_u64().expect("a count"));
}

fn check_vector(test: &serde_json::Value, piece: usize) {
    let bytes =
        |name: &str| hex::decode(test[name].as_str().expect("a string")).expect("hexadecimal");
    let mut stream = Vec::new();
    flate2::read::ZlibDecoder::new(&bytes("ct")[..])
        .read_to_end(&mut stream)
        .expect("zlib");
    let valid = test["result"] == "valid";
    let flag = |name: &str| {
        test["flags"]
            .as_array()
            .expect("flags")
            .iter()
            .any(|flag| flag == name)
    };
    // A key of another length cannot be given: keys have one length here by type.
    let Ok(key) = <[u8; 32]>::try_from(bytes("key")) else {
        assert!(flag("InvalidKeySize"), "{test}");
        return;
    };
    let context = bytes("ctx");
    let mut out = Vec::new();
    let header = StreamHeader::split(&stream);
    let opener = header.and_then(|(header, _)| Opener::new(&key, &header, &context));
    assert_eq!(opener.is_err(), flag("HeaderFailure"), "{test}");
    let answer = opener.and_then(|mut opener| {
        for piece in stream[HEADER_BYTES..].chunks(piece) {
            opener.update(piece, &mut out)?;
        }
        opener.finish(&mut out)
    });
    assert_eq!(answer.is_ok(), valid, "{}", test["comment"]);
    let length = test["msgLength"].as_u64().unwrap_or(0) as usize;
    assert!(
        if valid {
            out.len() == length
        } else {
            out.len() <= length
        },
        "{}",
        test["comment"]
    );
    if out.len() == length && length > 0 {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, &out);
        assert_eq!(
            hex::encode(hash),
            test["msgSha512"].as_str().expect("a hash"),
            "{}",
            test["comment"]
        );
    }
    check_last_chunk(
        test,
        &key,
        &context,
        &stream,
        valid || flag("ValidFinalChunk"),
    );
}

/// The last chunk alone, as a suffix range opens it, says whether the length is authentic.
fn check_last_chunk(
    test: &serde_json::Value,
    key: &[u8; 32],
    context: &[u8],
    stream: &[u8],
    expected: bool,
) {
    let attempt = || {
        let (header, _) = StreamHeader::split(stream)?;
        let total = plain_len(stream.len() as u64)?;
        let span = chunk_span(total, total..total).map_err(|_| OpenError)?;
        let sealed = span.sealed_range();
        let chunk = &stream[sealed.start as usize..sealed.end as usize];
        RangeOpener::new(key, &header, context, span)?.open(chunk, &mut Vec::new())
    };
    assert_eq!(
        attempt().is_ok(),
        expected,
        "last chunk: {}",
        test["comment"]
    );
}
