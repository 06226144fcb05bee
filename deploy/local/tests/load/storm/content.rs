//! Bytes that follow from the number of a write, so that none are kept.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

const WORD_BYTES: u64 = 8;

/// What stands in that range of what write `number` put there.
pub(crate) fn content(number: u64, range: Range<u64>) -> Bytes {
    let mut out = BytesMut::with_capacity((range.end - range.start) as usize);
    let mut at = range.start;
    while at < range.end {
        let word = word(number, at / WORD_BYTES).to_le_bytes();
        let from = at % WORD_BYTES;
        let take = (WORD_BYTES - from).min(range.end - at);
        out.extend_from_slice(&word[from as usize..(from + take) as usize]);
        at += take;
    }
    out.freeze()
}

/// SplitMix64: any word without the ones before it.
fn word(number: u64, at: u64) -> u64 {
    let seed = number.wrapping_mul(0xd1b5_4a32_d192_ed03);
    let mut z = seed.wrapping_add(at.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn any_part_of_a_content_is_a_part_of_the_whole_and_of_no_other() {
    let whole = content(7, 0..1_000);
    for range in [0..1, 3..4, 5..700, 999..1_000] {
        let part = content(7, range.clone());
        assert_eq!(part, whole[range.start as usize..range.end as usize]);
    }
    assert_ne!(content(8, 0..16), whole[..16]);
    assert_ne!(content(7, 8..24), whole[..16]);
}
