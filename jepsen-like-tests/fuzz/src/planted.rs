//! A target that is wrong on purpose, so that each way of running targets can be seen to find what is wrong.
//!
//! Owns three faults. Is in no list of targets: `cargo xtask fuzz` runs it first and fails where libFuzzer does not
//! find the one that takes coverage to find.

use crate::{Memory, Shape, Source, Target};

/// Its name.
pub const NAME: &str = "planted";

/// The target.
pub fn target() -> &'static Target {
    &PLANTED
}

static PLANTED: Target = Target {
    name: NAME,
    from: Source::Network,
    parses: &[],
    shape: Shape::Bytes,
    len_max: 64,
    memory: Memory::PARSER,
    check: |data| {
        wrong_word(data);
        believed_length(data);
    },
    seeds: || vec![b"hello".to_vec()],
};

/// One byte after the other has to be right: four thousand million tries for who does not see branches.
fn wrong_word(data: &[u8]) {
    let mut data = data.iter();
    for expected in b"BOOM" {
        if data.next() != Some(expected) {
            return;
        }
    }
    panic!("the planted fault");
}

/// A length that is believed before its bytes are there.
fn believed_length(data: &[u8]) {
    let [b'L', length, ..] = data else {
        return;
    };
    let mut copy = Vec::with_capacity(usize::from(*length) << 16);
    copy.extend_from_slice(data);
    assert_eq!(copy, data);
}
