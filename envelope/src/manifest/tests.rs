//! The manifest's bytes, its refusals, and finding ranges in parts.

use proptest::prelude::*;

use super::*;
use crate::HEADER_BYTES;

fn part(number: u32, plain: u64) -> ManifestPart {
    let header = StreamHeader::from_bytes([number as u8; HEADER_BYTES]);
    ManifestPart::new(PartNumber(number), plain, &header).expect("a length")
}

fn manifest() -> Manifest {
    let sums = vec![Checksum {
        kind: 4,
        value: vec![0xcc; 3],
    }];
    Manifest::new(vec![part(1, 16_384), part(3, 5)], sums).expect("valid")
}

#[test]
fn a_manifest_has_these_golden_bytes() {
    let expected = format!(
        "01{:016x}{:08x}{:08x}{:016x}{:016x}{}{:08x}{:016x}{:016x}{}010403cccccc",
        16_389,
        2,
        1,
        16_384,
        56 + 16_400 + 16,
        "01".repeat(32),
        3,
        5,
        56 + 21,
        "03".repeat(32),
    );
    assert_eq!(hex::encode(manifest().to_bytes()), expected);
    assert_eq!(Manifest::from_bytes(&manifest().to_bytes()), Ok(manifest()));
}

#[test]
fn parts_that_make_no_object_are_refused() {
    let refused = |parts: Vec<ManifestPart>| Manifest::new(parts, vec![]).expect_err("is refused");
    assert_eq!(refused(vec![]), ManifestError::Parts);
    assert_eq!(
        refused(vec![part(2, 1), part(1, 1)]),
        ManifestError::Parts,
        "out of order"
    );
    assert_eq!(
        refused(vec![part(1, 1), part(1, 1)]),
        ManifestError::Parts,
        "twice"
    );
    let many = (0..=PARTS_MAX as u32)
        .map(|number| part(number, 0))
        .collect();
    assert_eq!(refused(many), ManifestError::Parts, "too many");
    let mut wrong = part(1, 1);
    wrong.sealed += 1;
    assert_eq!(refused(vec![wrong]), ManifestError::Length);
    let longest = cobblestone::PLAIN_BYTES_MAX;
    let too_much = (0..5_000).map(|number| part(number, longest)).collect();
    assert_eq!(
        refused(too_much),
        ManifestError::Length,
        "the sum does not fit"
    );
    let header = StreamHeader::from_bytes([0; HEADER_BYTES]);
    assert_eq!(
        ManifestPart::new(PartNumber(1), longest + 1, &header),
        Err(ManifestError::Length)
    );
}

#[test]
fn checksums_are_bounded() {
    let sum = |length: usize| Checksum {
        kind: 1,
        value: vec![0; length],
    };
    let refused = |sums: Vec<Checksum>| Manifest::new(vec![part(1, 1)], sums).err();
    assert_eq!(refused(vec![sum(64); 8]), None);
    assert_eq!(refused(vec![sum(1); 9]), Some(ManifestError::Checksums));
    assert_eq!(refused(vec![sum(65)]), Some(ManifestError::Checksums));
    assert_eq!(refused(vec![sum(0)]), Some(ManifestError::Checksums));
}

#[test]
fn bytes_that_are_no_manifest_are_refused() {
    let bytes = manifest().to_bytes();
    for length in 0..bytes.len() {
        assert!(
            Manifest::from_bytes(&bytes[..length]).is_err(),
            "cut to {length}"
        );
    }
    assert_eq!(
        Manifest::from_bytes(&[&bytes[..], &[0]].concat()),
        Err(ManifestError::Malformed)
    );
    let with = |at: usize, value: u8| {
        let mut changed = bytes.clone();
        changed[at] = value;
        Manifest::from_bytes(&changed).expect_err("is refused")
    };
    assert_eq!(with(0, 2), ManifestError::UnknownFormat(2));
    assert_eq!(
        with(8, 0),
        ManifestError::Length,
        "a total that is not the sum"
    );
    assert_eq!(
        with(9, 0xff),
        ManifestError::Parts,
        "a count no manifest has, before anything is reserved"
    );
}

#[test]
fn another_stream_of_the_same_part_does_not_match() {
    let header = StreamHeader::from_bytes([1; HEADER_BYTES]);
    assert!(part(1, 5).matches(&header));
    let mut other = *header.as_bytes();
    other[HEADER_BYTES - 1] ^= 1;
    assert!(!part(1, 5).matches(&StreamHeader::from_bytes(other)));
}

#[test]
fn the_end_is_always_located_where_a_range_reaches_it() {
    let parts = |range: Range<u64>| -> Vec<_> {
        manifest()
            .locate(range)
            .map(|piece| (piece.index, piece.sealed_offset, piece.plain))
            .collect()
    };
    assert_eq!(parts(0..10), [(0, 0, 0..10)]);
    assert_eq!(
        parts(16_380..16_386),
        [(0, 0, 16_380..16_384), (1, 16_472, 0..2)]
    );
    assert_eq!(parts(16_384..16_389), [(1, 16_472, 0..5)]);
    assert_eq!(
        parts(16_389..16_389),
        [(1, 16_472, 5..5)],
        "nothing to read, the end is still checked"
    );
    assert_eq!(parts(4..4), []);
    let empty = Manifest::new(vec![part(1, 0)], vec![]).expect("valid");
    assert_eq!(empty.locate(0..0).count(), 1);
}

proptest! {
    #[test]
    fn located_pieces_are_the_range(
        lengths in proptest::collection::vec(0..50u64, 1..20), a in 0..1000u64, b in 0..1000u64,
    ) {
        let parts: Vec<_> = lengths.iter().zip(1..).map(|(plain, number)| part(number, *plain)).collect();
        let manifest = Manifest::new(parts, vec![]).expect("valid");
        let total = manifest.plain_total();
        let (from, to) = (a.min(b).min(total), a.max(b).min(total));
        let mut at = from;
        for piece in manifest.locate(from..to) {
            let before: u64 = lengths[..piece.index].iter().sum();
            let sealed: u64 = manifest.parts()[..piece.index].iter().map(|part| part.sealed).sum();
            prop_assert_eq!(piece.sealed_offset, sealed);
            prop_assert_eq!(before + piece.plain.start, at);
            at = before + piece.plain.end;
        }
        prop_assert_eq!(at, to);
        prop_assert_eq!(Manifest::from_bytes(&manifest.to_bytes()), Ok(manifest));
    }
}
