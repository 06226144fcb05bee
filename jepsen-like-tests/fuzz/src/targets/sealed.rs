//! Sealed objects: streams, their ranges, manifests and metadata, as a node or a disk gives them back.
//!
//! Owns what holds besides no panic: only what was sealed opens, to what was sealed; lengths follow from each other.

use std::sync::OnceLock;

use envelope::{
    CHUNK_BYTES, DekSalt, HEADER_BYTES, Manifest, ManifestPart, MetadataContext, MetadataLease,
    NameCommitment, ObjectContext, OpenDek, PLAIN_BYTES_MAX, PartNumber, RangeOpener,
    SealedMetadata, StreamHeader, Suite, chunk_span, plain_len, sealed_len,
};
use proto::ids::ObjectVersionId;

use super::keys;
use crate::input::{Input, edited};
use crate::known::{DATASET, region};
use crate::{Memory, Shape, Source, Target};

pub(super) const STREAM: Target = Target {
    name: "stream",
    from: Source::Network,
    parses: &[
        "envelope/src/cobblestone.rs: split",
        "envelope/src/cobblestone.rs: from_bytes",
        "envelope/src/keys.rs: open_part",
    ],
    shape: Shape::Bytes,
    len_max: 512,
    memory: Memory {
        // Streams of two and a half chunks are opened three times over.
        fixed: 1 << 20,
        per_byte: 64,
    },
    check: stream,
    seeds: || (0..6).map(|mode| vec![mode, 3]).collect(),
};

pub(super) const MANIFEST: Target = Target {
    name: "manifest",
    from: Source::Network,
    parses: &[
        "envelope/src/manifest.rs: from_bytes",
        "envelope/src/keys.rs: open_manifest",
    ],
    shape: Shape::Bytes,
    len_max: 4096,
    memory: Memory::PARSER,
    check: manifest,
    seeds: manifest_seeds,
};

pub(super) const METADATA: Target = Target {
    name: "sealed-metadata",
    from: Source::Network,
    parses: &["envelope/src/metadata.rs: from_bytes"],
    shape: Shape::Bytes,
    len_max: 1024,
    memory: Memory::PARSER,
    check: metadata,
    seeds: || vec![vec![0], vec![1; 62], vec![1]],
};

/// What is sealed.
const PLAIN: &[u8; 2 * CHUNK_BYTES + CHUNK_BYTES / 2] = &[0x5A; 2 * CHUNK_BYTES + CHUNK_BYTES / 2];
const USER_METADATA: &[u8] = b"content type and tags";

/// One object, sealed in this process.
struct Sealed {
    dek: OpenDek,
    metadata_lease: MetadataLease,
    /// Of every length that has a shape of its own.
    streams: Vec<(usize, Vec<u8>)>,
    manifest: Vec<u8>,
    metadata: Vec<u8>,
}

pub(super) fn context() -> ObjectContext {
    ObjectContext {
        suite: Suite::Cobblestone256,
        region: region(),
        dataset: DATASET,
        version: ObjectVersionId([0xEE; 16]),
        name: NameCommitment([0xCC; 32]),
    }
}

fn metadata_context() -> MetadataContext {
    MetadataContext {
        suite: Suite::Cobblestone256,
        region: region(),
        dataset: DATASET,
        version: ObjectVersionId([0xEE; 16]),
    }
}

fn sealed() -> &'static Sealed {
    static SEALED: OnceLock<Sealed> = OnceLock::new();
    SEALED.get_or_init(|| {
        let (lease, metadata_lease) = keys::sealing();
        let salt = DekSalt([1; 32]);
        let dek = lease.seal_dek(&salt, &context()).expect("room");
        let lengths = [
            0,
            1,
            CHUNK_BYTES - 1,
            CHUNK_BYTES,
            CHUNK_BYTES + 1,
            PLAIN.len(),
        ];
        let streams: Vec<_> = lengths
            .into_iter()
            .map(|length| {
                let stream = dek.seal_part(PartNumber::FIRST, &PLAIN[..length]);
                (length, stream.expect("seals"))
            })
            .collect();
        let manifest = dek.seal_manifest(&of_stream(&streams[5].1)).expect("seals");
        let metadata = metadata_lease.seal(&metadata_context(), USER_METADATA);
        Sealed {
            dek: keys::lease().open_dek(&salt, &context()).expect("room"),
            metadata: metadata.expect("seals").as_bytes().to_vec(),
            metadata_lease,
            streams,
            manifest,
        }
    })
}

/// A key that opens, for sessions to carry.
pub(super) fn dek() -> &'static OpenDek {
    &sealed().dek
}

/// Edits of a stream that was sealed, opened whole, in pieces, and in a range.
fn stream(data: &[u8]) {
    lengths(data);
    let sealed = sealed();
    let mut input = Input::new(data);
    let (length, valid) = &sealed.streams[usize::from(input.u8()) % sealed.streams.len()];
    let (piece, start, end) = (input.u16(), input.u16(), input.u16());
    let changed = edited(valid, input.rest());
    let same = changed == *valid;
    let opened = sealed.dek.open_part(PartNumber::FIRST, &changed);
    assert_eq!(opened.is_ok(), same);
    assert!(opened.is_err() || opened.is_ok_and(|plain| plain == PLAIN[..*length]));
    let Ok((header, chunks)) = StreamHeader::split(&changed) else {
        assert!(changed.len() < HEADER_BYTES);
        return;
    };
    assert_eq!(StreamHeader::from_bytes(*header.as_bytes()), header);
    let Ok(mut opener) = sealed.dek.opener(PartNumber::FIRST, &header) else {
        assert_ne!(
            changed[..HEADER_BYTES],
            valid[..HEADER_BYTES],
            "the header was changed"
        );
        return;
    };
    let mut plain = Vec::new();
    let whole = chunks
        .chunks(usize::from(piece) + 64)
        .try_for_each(|piece| opener.update(piece, &mut plain))
        .and_then(|()| opener.finish(&mut plain));
    assert_eq!(whole.is_ok(), same);
    // What came out before the change was found is a beginning of what was sealed, and nothing else.
    assert!(PLAIN[..*length].starts_with(&plain) || same);
    range(
        &header,
        &changed,
        valid,
        *length,
        (start.into(), end.into()),
    );
}

/// A range of the object as the catalog states its length, out of what a node sent.
fn range(header: &StreamHeader, changed: &[u8], valid: &[u8], length: usize, asked: (u64, u64)) {
    let Ok(span) = chunk_span(length as u64, asked.0..asked.1) else {
        assert!(asked.0 > asked.1 || asked.1 > length as u64);
        return;
    };
    let within = span.sealed_range();
    let (from, to) = (within.start as usize, within.end as usize);
    let Some(bytes) = changed.get(from..to) else {
        return;
    };
    let opener: RangeOpener = sealed()
        .dek
        .range_opener(PartNumber::FIRST, header, span)
        .expect("the header was taken before");
    let mut plain = Vec::new();
    let opened = opener.open(bytes, &mut plain);
    assert_eq!(opened.is_ok(), bytes == &valid[from..to]);
    let asked = asked.0 as usize..asked.1 as usize;
    assert!(opened.is_err() || plain == PLAIN[asked]);
}

/// The arithmetic of lengths, for any of them.
fn lengths(data: &[u8]) {
    let mut input = Input::new(data);
    let (plain, sealed) = (input.number(), input.number());
    match sealed_len(plain) {
        Some(length) => assert_eq!(plain_len(length), Ok(plain)),
        None => assert!(plain > PLAIN_BYTES_MAX),
    }
    if let Ok(plain) = plain_len(sealed) {
        assert_eq!(sealed_len(plain), Some(sealed));
    }
    let (start, end) = (input.number(), input.number());
    if let Ok(span) = chunk_span(plain, start..end) {
        let within = span.sealed_range();
        assert!(within.start < within.end);
        assert!(sealed_len(plain).is_some_and(|length| within.end <= length));
    }
}

fn of_stream(stream: &[u8]) -> Manifest {
    let (header, _) = StreamHeader::split(stream).expect("a stream");
    let part = ManifestPart::new(PartNumber::FIRST, PLAIN.len() as u64, &header);
    Manifest::new(vec![part.expect("a length")], Vec::new()).expect("one part")
}

/// As it is after opening, and as edits of a sealed one.
fn manifest(data: &[u8]) {
    let Some((mode, data)) = data.split_first() else {
        return;
    };
    if mode % 2 == 1 {
        let sealed = sealed();
        let changed = edited(&sealed.manifest, data);
        let opened = sealed.dek.open_manifest(&changed);
        assert_eq!(opened.is_ok(), changed == sealed.manifest);
        return;
    }
    let Ok(manifest) = Manifest::from_bytes(data) else {
        return;
    };
    assert_eq!(manifest.to_bytes(), data, "one encoding");
    let total = manifest.plain_total();
    let mut input = Input::new(data);
    for range in [0..total, total..total, 0..0, input.number()..input.number()] {
        let pieces: Vec<_> = manifest.locate(range.clone()).collect();
        let covered: u64 = pieces
            .iter()
            .map(|piece| piece.plain.end - piece.plain.start)
            .sum();
        let within = |at: u64| at.min(total);
        let asked = within(range.end).saturating_sub(within(range.start));
        assert_eq!(covered, asked, "{range:?} of {total}");
        for piece in pieces {
            let part = &manifest.parts()[piece.index];
            assert!(piece.sealed_offset + part.sealed <= manifest.sealed_total());
        }
    }
}

fn manifest_seeds() -> Vec<Vec<u8>> {
    let whole = of_stream(&sealed().streams[5].1).to_bytes();
    let part = |number, plain| {
        let header = StreamHeader::from_bytes([number as u8; HEADER_BYTES]);
        ManifestPart::new(PartNumber(number), plain, &header).expect("a length")
    };
    let parts = vec![part(1, 5), part(2, 0), part(9, CHUNK_BYTES as u64)];
    let checksums = vec![envelope::Checksum {
        kind: 1,
        value: vec![3; 8],
    }];
    let several = Manifest::new(parts, checksums)
        .expect("ascending")
        .to_bytes();
    vec![
        [&[0], &whole[..]].concat(),
        [&[0], &several[..]].concat(),
        vec![1],
    ]
}

/// As it is, and as edits of one that was sealed.
fn metadata(data: &[u8]) {
    let sealed = sealed();
    let Some((mode, data)) = data.split_first() else {
        return;
    };
    let bytes = match mode % 2 {
        0 => data.to_vec(),
        _ => edited(&sealed.metadata, data),
    };
    let Ok(parsed) = SealedMetadata::from_bytes(bytes.clone()) else {
        return;
    };
    assert_eq!(parsed.as_bytes(), bytes);
    let same = bytes == sealed.metadata;
    let opened = sealed.metadata_lease.open(&metadata_context(), &parsed);
    assert_eq!(opened.is_ok(), same);
    assert!(!same || parsed.key_version() == sealed.metadata_lease.version());
}
