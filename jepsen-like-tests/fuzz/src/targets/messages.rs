//! Every protobuf message, as it comes from a peer or a disk.
//!
//! The list is made from the `.proto` files. What decodes must encode and decode to the same, and take no more memory
//! than the largest struct of ours for each two bytes, which is what a repeated empty message has.

use std::sync::OnceLock;

use bytes::Bytes;
use prost::Message;
use proto::v1;

use crate::{Memory, Shape, Source, Target, known};

pub(super) const MESSAGES: Target = Target {
    name: "messages",
    from: Source::Network,
    parses: &["proto/proto/reduit/v1: message"],
    shape: Shape::Message { after: WHICH_BYTES },
    len_max: 4096,
    memory: Memory {
        fixed: 1 << 20,
        per_byte: 1024,
    },
    check,
    seeds,
};

/// Bytes that choose the message.
const WHICH_BYTES: usize = 4;

/// Name and check of each message.
type RoundTrip = (&'static str, fn(&[u8]));

macro_rules! messages {
    ($($name:ident)*) => {
        const ROUND_TRIPS: &[RoundTrip] = &[$((stringify!($name), round_trip::<v1::$name>)),*];
    };
}

include!(concat!(env!("OUT_DIR"), "/messages.rs"));

fn check(data: &[u8]) {
    let Some((which, data)) = data.split_first_chunk() else {
        return;
    };
    let (_, round_trip) = chosen(u32::from_le_bytes(*which));
    round_trip(data);
}

/// The message at `which` of a ring on which each has its place by its name: a new message leaves what kept inputs
/// mean as it was, but for a few.
fn chosen(which: u32) -> RoundTrip {
    static RING: OnceLock<Vec<(u32, RoundTrip)>> = OnceLock::new();
    let ring = RING.get_or_init(|| {
        let mut ring: Vec<_> = ROUND_TRIPS.iter().map(|one| (place(one.0), *one)).collect();
        ring.sort_by_key(|(place, _)| *place);
        ring
    });
    let at = ring.partition_point(|(place, _)| *place < which);
    ring[at % ring.len()].1
}

fn place(name: &str) -> u32 {
    let hash = blake3::hash(name.as_bytes());
    let (place, _) = hash.as_bytes().split_first_chunk().expect("32 bytes");
    u32::from_le_bytes(*place)
}

fn round_trip<M: Message + Default + PartialEq>(data: &[u8]) {
    let Ok(message) = M::decode(data) else {
        return;
    };
    let bytes = message.encode_to_vec();
    assert_eq!(bytes.len(), message.encoded_len(), "length before encoding");
    // A negative enumeration value is read from five bytes and written in ten; defaults and unknown fields go.
    assert!(bytes.len() <= 3 * data.len() + 16, "an encoding grew");
    let again = M::decode(Bytes::from(bytes)).expect("own bytes decode");
    assert!(again == message, "a message is not what it encodes to");
}

/// The input of a message: which, then its bytes.
fn of(name: &str, bytes: &[u8]) -> Vec<u8> {
    [&place(name).to_le_bytes()[..], bytes].concat()
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> = ROUND_TRIPS.iter().map(|(name, _)| of(name, &[])).collect();
    seeds.push(of("EnrolmentSet", &known::set(1).encode_to_vec()));
    let first = known::first_set().encode_to_vec();
    seeds.push(of("SignedEnrolmentSet", &first));
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_has_a_place_of_its_own() {
        assert!(ROUND_TRIPS.len() > 150, "the list was made");
        for (name, _) in ROUND_TRIPS {
            assert_eq!(chosen(place(name)).0, *name);
        }
    }
}
