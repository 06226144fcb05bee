//! What `replica` reads besides its log: entries, votes, positions, the note beside a state, the member's folder.
//!
//! Owns that each is read in one way: what was understood is encoded to something that is understood the same.

use bytes::Bytes;
use proto::ids::NodeId;
use replica::fuzzing;

use crate::input::Input;
use crate::known::region;
use crate::{Memory, Shape, Source, Target};

pub(super) const RAFT_ENTRY: Target = Target {
    name: "raft-entry",
    from: Source::Network,
    parses: &[
        "replica/src/raft/codec.rs: payload_from",
        "replica/src/raft/codec.rs: decode",
        "replica/src/raft/codec.rs: vote_from_bytes",
        "replica/src/raft/codec.rs: log_id_from_bytes",
        "replica/src/raft/codec.rs: from_wire",
        "replica/src/host/folder.rs: check",
    ],
    shape: Shape::Message { after: 3 },
    len_max: 2048,
    memory: Memory {
        fixed: 1 << 20,
        per_byte: 512,
    },
    check,
    seeds,
};

const CLUSTER: [u8; 16] = [0x51; 16];

/// What is understood once is understood the same again.
fn stable(bytes: &[u8], read: impl Fn(&[u8]) -> Option<Bytes>) {
    if let Some(once) = read(bytes) {
        assert_eq!(read(&once).as_ref(), Some(&once), "two readings");
    }
}

fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let what = input.u8() % 5;
    // Format and kind of an entry; the messages have none.
    let prefix = input.bytes(2);
    let bytes = &match what {
        0 => [prefix, input.rest()].concat(),
        _ => input.rest().to_vec(),
    };
    let entry =
        |of: fn(Bytes) -> Option<Bytes>| move |bytes: &[u8]| of(Bytes::copy_from_slice(bytes));
    match what {
        0 => {
            stable(bytes, entry(fuzzing::payload));
            stable(bytes, entry(fuzzing::order));
            // A command is passed on as it came: it is hashed and compared elsewhere.
            let order = fuzzing::order(Bytes::copy_from_slice(bytes));
            assert!(order.is_none() || order.is_some_and(|order| order == bytes || bytes[1] == 4));
        }
        1 => stable(bytes, fuzzing::applied),
        2 => stable(bytes, fuzzing::vote),
        3 => stable(bytes, fuzzing::log_id),
        _ => {
            let is = |node| fuzzing::folder(bytes, CLUSTER, &region(), NodeId(node));
            assert!(!(is(1) && is(2)), "a folder of two members");
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    use prost::Message as _;
    use proto::v1;
    let member = |node| v1::RaftMember {
        node,
        identity: format!("spiffe://ch-zrh/node/n{node}"),
        endpoint: "127.0.0.1:7001".to_owned(),
        jurisdiction: "CH".to_owned(),
    };
    let membership = v1::RaftMembership {
        voters: vec![
            v1::RaftVoterSet { nodes: vec![1] },
            v1::RaftVoterSet { nodes: vec![1, 2] },
        ],
        members: vec![member(1), member(2)],
    };
    let id = v1::RaftLogId { term: 3, index: 9 };
    let applied = v1::RaftApplied {
        format: 1,
        last: Some(id),
        membership_at: Some(id),
        membership: Some(membership.clone()),
    };
    let vote = v1::RaftVote {
        term: 3,
        node: 2,
        committed: true,
    };
    let folder = v1::RaftFolder {
        format: 1,
        cluster: CLUSTER.to_vec().into(),
        region: "ch-zrh".to_owned(),
        node: 1,
        joining: true,
        admitted: vec![16],
    };
    let of = |what: u8, bytes: Vec<u8>| match what {
        0 => [&[what], &bytes[..]].concat(),
        _ => [&[what, 0, 0], &bytes[..]].concat(),
    };
    vec![
        of(0, vec![1, 0]),
        of(0, [&[1, 1], &membership.encode_to_vec()[..]].concat()),
        of(0, b"\x01\x02command".to_vec()),
        of(0, vec![1, 3, 0, 0, 0, 7]),
        of(0, vec![1, 4]),
        of(0, b"\x01\x05command".to_vec()),
        of(1, applied.encode_to_vec()),
        of(2, vote.encode_to_vec()),
        of(3, id.encode_to_vec()),
        of(4, folder.encode_to_vec()),
    ]
}
