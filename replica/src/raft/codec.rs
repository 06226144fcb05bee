//! How entries, votes, log ids and memberships stand on disk and on the wire.
//!
//! Owns the payload format: byte 0 the format (1), byte 1 the kind, then the body. Refuses: an unknown format or
//! kind, which stops the group, because skipping an entry would fork it.
//!
//! | kind | body |
//! |---|---|
//! | 0 blank | empty |
//! | 1 membership | `RaftMembership` |
//! | 2 command | the machine's command |
//! | 3 raise level | `u32` big-endian |
//! | 4 allocate node id | empty |
//! | 5 command that may use the disk's reserve | the machine's command |

use bytes::{BufMut, Bytes, BytesMut};
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use prost::Message;
use proto::ids::{FeatureLevel, LogIndex, Term};
use proto::v1;

use super::types::{
    Command, Entry, LeaderId, LogId, Member, Membership, Payload, StoredMembership, Vote, log_id,
};
use crate::log::LogEntry;

/// Payload format written by this build.
pub(crate) const FORMAT: u8 = 1;
/// Bytes of format and kind before the body.
pub(crate) const PREFIX_BYTES: usize = 2;

const BLANK: u8 = 0;
const MEMBERSHIP: u8 = 1;
const MACHINE: u8 = 2;
const RAISE_LEVEL: u8 = 3;
const ALLOCATE_NODE_ID: u8 = 4;
const RESERVED: u8 = 5;

/// Bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    /// Not in a format this build reads.
    #[error("unknown {what} format {format}")]
    Format {
        /// What was read.
        what: &'static str,
        /// The format found.
        format: u32,
    },
    /// Not a kind of entry this build knows.
    #[error("unknown entry kind {0}")]
    Kind(u8),
    /// Cut off or garbled.
    #[error("malformed {0}")]
    Malformed(&'static str),
}

impl From<CodecError> for std::io::Error {
    fn from(error: CodecError) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// What a normal entry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// A command of the machine.
    Machine(Bytes),
    /// A command of the machine that is taken on a full disk too: it frees room or keeps the region alive.
    Reserved(Bytes),
    /// Raise the feature level in force.
    RaiseLevel(FeatureLevel),
    /// Take the entry's index as a new node id.
    AllocateNodeId,
}

impl Order {
    /// The command that asks for it.
    pub(crate) fn encode(&self) -> Command {
        match self {
            Self::Machine(body) => prefixed(MACHINE, body),
            Self::Reserved(body) => prefixed(RESERVED, body),
            Self::RaiseLevel(level) => prefixed(RAISE_LEVEL, &level.0.to_be_bytes()),
            Self::AllocateNodeId => prefixed(ALLOCATE_NODE_ID, &[]),
        }
    }

    /// What `command` asks for.
    pub(crate) fn decode(command: &Command) -> Result<Self, CodecError> {
        let (kind, body) = split(&command.0)?;
        match kind {
            MACHINE => Ok(Self::Machine(body)),
            RESERVED => Ok(Self::Reserved(body)),
            RAISE_LEVEL => {
                let level: [u8; 4] = body
                    .as_ref()
                    .try_into()
                    .map_err(|_| CodecError::Malformed("feature level"))?;
                Ok(Self::RaiseLevel(FeatureLevel(u32::from_be_bytes(level))))
            }
            ALLOCATE_NODE_ID => Ok(Self::AllocateNodeId),
            other => Err(CodecError::Kind(other)),
        }
    }
}

/// Whether an entry's payload has to wait for room on a full disk.
pub(crate) fn needs_room(payload: &[u8]) -> bool {
    matches!(payload, [FORMAT, MACHINE, ..])
}

fn prefixed(kind: u8, body: &[u8]) -> Command {
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + body.len());
    out.put_u8(FORMAT);
    out.put_u8(kind);
    out.put_slice(body);
    Command(out.freeze())
}

fn split(payload: &Bytes) -> Result<(u8, Bytes), CodecError> {
    match payload.as_ref() {
        [FORMAT, kind, ..] => Ok((*kind, payload.slice(PREFIX_BYTES..))),
        [format, _, ..] => Err(CodecError::Format {
            what: "entry",
            format: u32::from(*format),
        }),
        _ => Err(CodecError::Malformed("entry")),
    }
}

/// An entry's payload as it stands on disk and on the wire. No copy for a normal entry.
pub(crate) fn payload_bytes(payload: &Payload) -> Bytes {
    match payload {
        EntryPayload::Blank => Bytes::from_static(&[FORMAT, BLANK]),
        EntryPayload::Normal(command) => command.0.clone(),
        EntryPayload::Membership(membership) => {
            prefixed(MEMBERSHIP, &membership_to_wire(membership).encode_to_vec()).0
        }
    }
}

/// The payload that `bytes` hold. A normal entry's kind is looked at when it is applied.
pub(crate) fn payload_from(bytes: Bytes) -> Result<Payload, CodecError> {
    let (kind, body) = split(&bytes)?;
    match kind {
        BLANK => Ok(EntryPayload::Blank),
        MEMBERSHIP => {
            let wire = v1::RaftMembership::decode(body)
                .map_err(|_| CodecError::Malformed("membership entry"))?;
            Ok(EntryPayload::Membership(membership_from_wire(wire)?))
        }
        _ => Ok(EntryPayload::Normal(Command(bytes))),
    }
}

/// An entry for the log.
pub(crate) fn entry_to_log(entry: &Entry) -> LogEntry {
    LogEntry {
        term: Term(entry.log_id.leader_id.term),
        index: LogIndex(entry.log_id.index),
        payload: payload_bytes(&entry.payload),
    }
}

/// An entry out of the log.
pub(crate) fn entry_from_log(entry: LogEntry) -> Result<Entry, CodecError> {
    Ok(Entry::new(
        log_id(entry.term.0, entry.index.0),
        payload_from(entry.payload)?,
    ))
}

/// An entry for a peer.
pub(crate) fn entry_to_wire(entry: Entry) -> v1::RaftEntry {
    v1::RaftEntry {
        term: entry.log_id.leader_id.term,
        index: entry.log_id.index,
        payload: payload_bytes(&entry.payload),
    }
}

/// An entry from a peer.
pub(crate) fn entry_from_wire(entry: v1::RaftEntry) -> Result<Entry, CodecError> {
    Ok(Entry::new(
        log_id(entry.term, entry.index),
        payload_from(entry.payload)?,
    ))
}

/// A log id for disk or a peer.
pub(crate) fn log_id_to_wire(id: &LogId) -> v1::RaftLogId {
    v1::RaftLogId {
        term: id.leader_id.term,
        index: id.index,
    }
}

/// A log id from disk or a peer.
pub(crate) fn log_id_from_wire(id: v1::RaftLogId) -> LogId {
    log_id(id.term, id.index)
}

/// A log id as bytes.
pub(crate) fn log_id_bytes(id: &LogId) -> Bytes {
    log_id_to_wire(id).encode_to_vec().into()
}

/// The log id that `bytes` hold.
pub(crate) fn log_id_from_bytes(bytes: &[u8]) -> Result<LogId, CodecError> {
    v1::RaftLogId::decode(bytes)
        .map(log_id_from_wire)
        .map_err(|_| CodecError::Malformed("log id"))
}

/// A vote for disk or a peer.
pub(crate) fn vote_to_wire(vote: &Vote) -> v1::RaftVote {
    v1::RaftVote {
        term: vote.leader_id.term,
        node: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

/// A vote from disk or a peer.
pub(crate) fn vote_from_wire(vote: Option<v1::RaftVote>) -> Result<Vote, CodecError> {
    let vote = vote.ok_or(CodecError::Malformed("vote"))?;
    Ok(Vote {
        leader_id: LeaderId {
            term: vote.term,
            voted_for: vote.node,
        },
        committed: vote.committed,
    })
}

/// A vote as bytes.
pub(crate) fn vote_bytes(vote: &Vote) -> Bytes {
    vote_to_wire(vote).encode_to_vec().into()
}

/// The vote that `bytes` hold.
pub(crate) fn vote_from_bytes(bytes: &[u8]) -> Result<Vote, CodecError> {
    let wire = v1::RaftVote::decode(bytes).map_err(|_| CodecError::Malformed("vote"))?;
    vote_from_wire(Some(wire))
}

fn membership_to_wire(membership: &Membership) -> v1::RaftMembership {
    v1::RaftMembership {
        voters: membership
            .get_joint_config()
            .iter()
            .map(|set| v1::RaftVoterSet {
                nodes: set.iter().copied().collect(),
            })
            .collect(),
        members: membership
            .nodes()
            .map(|(id, member)| v1::RaftMember {
                node: *id,
                identity: member.identity.clone(),
                endpoint: member.endpoint.clone(),
                jurisdiction: member.jurisdiction.clone(),
            })
            .collect(),
    }
}

fn membership_from_wire(wire: v1::RaftMembership) -> Result<Membership, CodecError> {
    let nodes: std::collections::BTreeMap<u64, Member> = wire
        .members
        .into_iter()
        .map(|m| {
            let member = Member {
                identity: m.identity,
                endpoint: m.endpoint,
                jurisdiction: m.jurisdiction,
            };
            (m.node, member)
        })
        .collect();
    let configs = wire
        .voters
        .into_iter()
        .map(|set| set.nodes.into_iter().collect())
        .collect();
    Membership::new(configs, nodes).map_err(|_| CodecError::Malformed("membership"))
}

/// Format of [`AppliedState`] written by this build.
const APPLIED_FORMAT: u32 = 1;

/// What the state store keeps beside the state: how far it is and under which membership.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AppliedState {
    /// Last applied log id.
    pub(crate) last: Option<LogId>,
    /// Membership in force there.
    pub(crate) membership: StoredMembership,
}

impl AppliedState {
    /// For the wire and for disk.
    pub(crate) fn to_wire(&self) -> v1::RaftApplied {
        v1::RaftApplied {
            format: APPLIED_FORMAT,
            last: self.last.as_ref().map(log_id_to_wire),
            membership_at: self.membership.log_id().as_ref().map(log_id_to_wire),
            membership: Some(membership_to_wire(self.membership.membership())),
        }
    }

    /// As bytes.
    pub(crate) fn encode(&self) -> Bytes {
        self.to_wire().encode_to_vec().into()
    }

    /// What `bytes` hold; nothing applied yet when they are empty.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let wire =
            v1::RaftApplied::decode(bytes).map_err(|_| CodecError::Malformed("applied state"))?;
        Self::from_wire(wire)
    }

    /// What a peer or the disk states.
    pub(crate) fn from_wire(wire: v1::RaftApplied) -> Result<Self, CodecError> {
        if wire.format != APPLIED_FORMAT {
            return Err(CodecError::Format {
                what: "applied state",
                format: wire.format,
            });
        }
        let membership = wire
            .membership
            .ok_or(CodecError::Malformed("applied state"))?;
        Ok(Self {
            last: wire.last.map(log_id_from_wire),
            membership: StoredMembership::new(
                wire.membership_at.map(log_id_from_wire),
                membership_from_wire(membership)?,
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn membership() -> Membership {
        let member = Member {
            identity: "spiffe://ch-zrh/node/n1".into(),
            endpoint: "127.0.0.1:7001".into(),
            jurisdiction: "CH".into(),
        };
        Membership::new(
            vec![BTreeSet::from([1]), BTreeSet::from([1, 2])],
            BTreeMap::from([(1, member.clone()), (2, member)]),
        )
        .expect("both voters are members")
    }

    #[test]
    fn golden_bytes_of_every_kind_of_payload() {
        let normal = |order: Order| payload_bytes(&EntryPayload::Normal(order.encode()));
        assert_eq!(hex(&payload_bytes(&EntryPayload::Blank)), "0100");
        assert_eq!(
            hex(&normal(Order::Machine(Bytes::from_static(b"abc")))),
            "0102616263"
        );
        assert_eq!(
            hex(&normal(Order::RaiseLevel(FeatureLevel(7)))),
            "010300000007"
        );
        assert_eq!(hex(&normal(Order::AllocateNodeId)), "0104");
        assert_eq!(
            hex(&normal(Order::Reserved(Bytes::from_static(b"abc")))),
            "0105616263"
        );
        let golden = "01010a030a01010a040a02010212\
                      2f080112177370696666653a2f2f63682d7a72682f6e6f64652f6e311a0e3132372e302e302e313a37303031220243\
                      48122f080212177370696666653a2f2f63682d7a72682f6e6f64652f6e311a0e3132372e302e302e313a3730303122\
                      024348";
        assert_eq!(
            hex(&payload_bytes(&EntryPayload::Membership(membership()))),
            golden
        );
    }

    #[test]
    fn payloads_round_trip() {
        for payload in [
            EntryPayload::Blank,
            EntryPayload::Membership(membership()),
            EntryPayload::Normal(Order::Machine(Bytes::from_static(b"x")).encode()),
        ] {
            assert_eq!(
                payload_from(payload_bytes(&payload)).expect("round trip"),
                payload
            );
        }
    }

    #[test]
    fn an_unknown_format_or_kind_is_refused() {
        let of = |bytes: &'static [u8]| payload_from(Bytes::from_static(bytes));
        assert_eq!(
            of(&[2, 0]),
            Err(CodecError::Format {
                what: "entry",
                format: 2
            })
        );
        assert_eq!(of(&[1]), Err(CodecError::Malformed("entry")));
        let unknown = Command(Bytes::from_static(&[1, 9, 0]));
        assert_eq!(Order::decode(&unknown), Err(CodecError::Kind(9)));
    }

    #[test]
    fn applied_state_round_trips_and_refuses_a_later_format() {
        let state = AppliedState {
            last: Some(log_id(3, 9)),
            membership: StoredMembership::new(Some(log_id(1, 4)), membership()),
        };
        assert_eq!(
            AppliedState::decode(&state.encode()).expect("round trip"),
            state
        );
        assert_eq!(
            AppliedState::decode(&[]).expect("empty"),
            AppliedState::default()
        );
        let mut later = state.to_wire();
        later.format = 2;
        assert!(AppliedState::from_wire(later).is_err());
    }

    #[test]
    fn golden_bytes_of_vote_and_log_id() {
        let vote = Vote {
            leader_id: LeaderId {
                term: 300,
                voted_for: 2,
            },
            committed: true,
        };
        assert_eq!(hex(&vote_bytes(&vote)), "08ac0210021801");
        assert_eq!(
            vote_from_bytes(&vote_bytes(&vote)).expect("round trip"),
            vote
        );
        assert_eq!(hex(&log_id_bytes(&log_id(2, 300))), "080210ac02");
        assert_eq!(
            log_id_from_bytes(&log_id_bytes(&log_id(2, 300))),
            Ok(log_id(2, 300))
        );
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }
}
