//! Targets that are wrong on purpose, so that each way of running targets can be seen to find what is wrong.
//!
//! Owns two faults. They are in no list of targets: `cargo xtask fuzz` runs the first before all others, and fails where
//! libFuzzer does not find it.

use crate::{Memory, Shape, Source, Target};

/// The target that takes coverage to break: four thousand million tries for who does not see branches.
pub static WORD: Target = planted("planted", wrong_word);
/// The target that believes a length before its bytes are there.
pub static GREEDY: Target = planted("planted-greedy", believed_length);

const fn planted(name: &'static str, check: fn(&[u8])) -> Target {
    Target {
        name,
        from: Source::Network,
        parses: &[],
        shape: Shape::Bytes,
        len_max: 64,
        memory: Memory::PARSER,
        check,
        seeds: || vec![b"hello".to_vec()],
    }
}

/// One byte after the other has to be right.
fn wrong_word(data: &[u8]) {
    let mut data = data.iter();
    for expected in b"BOOM" {
        if data.next() != Some(expected) {
            return;
        }
    }
    panic!("the planted fault");
}

fn believed_length(data: &[u8]) {
    let [length, ..] = data else {
        return;
    };
    let mut copy = Vec::with_capacity(usize::from(*length) << 16);
    copy.extend_from_slice(data);
    assert_eq!(copy, data);
}
