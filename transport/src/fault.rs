//! Whose turn it is after an error, and its one mapping to gRPC and back.
//!
//! Owns the metadata keys of our errors. Refuses to guess: a status that our servers did not make counts as of
//! unknown outcome unless the request provably never left.

use std::error::Error;
use std::fmt;

use proto::ids::NodeId;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Code, Status};

const REASON: &str = "reduit-reason";
const LEADER_ID: &str = "reduit-leader-id";
const LEADER_ENDPOINT: &str = "reduit-leader-endpoint";

/// Who acts next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The caller: the request is wrong and stays wrong.
    Caller,
    /// The caller: it has not proved who it is.
    Unauthenticated,
    /// The caller, or who sets policy: it is not allowed.
    Denied,
    /// The caller: what it names is not there.
    Missing,
    /// The caller: what it wants to make is there.
    Exists,
    /// The caller: a precondition does not hold; read again, then decide.
    Precondition,
    /// Nobody: the request had no effect; try again, perhaps elsewhere (a leader hint says where).
    Unavailable,
    /// Nobody: too much at once; had no effect; try again more slowly.
    Busy,
    /// The caller, with the same request id: it may or may not have had effect.
    Unknown,
    /// The operator: stored data is damaged.
    Damaged,
    /// The operator: our software is at fault.
    Internal,
    /// The operator: this software does not know the request.
    Unsupported,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 12] = [
        Self::Caller,
        Self::Unauthenticated,
        Self::Denied,
        Self::Missing,
        Self::Exists,
        Self::Precondition,
        Self::Unavailable,
        Self::Busy,
        Self::Unknown,
        Self::Damaged,
        Self::Internal,
        Self::Unsupported,
    ];

    /// The gRPC status code.
    pub fn code(self) -> Code {
        match self {
            Self::Caller => Code::InvalidArgument,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::Denied => Code::PermissionDenied,
            Self::Missing => Code::NotFound,
            Self::Exists => Code::AlreadyExists,
            Self::Precondition => Code::FailedPrecondition,
            Self::Unavailable => Code::Unavailable,
            Self::Busy => Code::ResourceExhausted,
            Self::Unknown => Code::Unknown,
            Self::Damaged => Code::DataLoss,
            Self::Internal => Code::Internal,
            Self::Unsupported => Code::Unimplemented,
        }
    }

    /// Whether the request certainly had no effect and may be sent again as it is.
    pub fn retriable(self) -> bool {
        matches!(self, Self::Unavailable | Self::Busy)
    }

    /// What a caller may conclude from a status.
    ///
    /// Our servers mark theirs with a reason, and their word counts. A status without one was made on the way:
    /// by the local channel, which may have lost the connection with the request already sent. Such a request
    /// is [`Fault::Unavailable`] only if the connection was never made, and [`Fault::Unknown`] otherwise.
    pub fn of(status: &Status) -> Self {
        let fault = match status.code() {
            Code::InvalidArgument | Code::OutOfRange => Self::Caller,
            Code::Unauthenticated => Self::Unauthenticated,
            Code::PermissionDenied => Self::Denied,
            Code::NotFound => Self::Missing,
            Code::AlreadyExists => Self::Exists,
            Code::FailedPrecondition => Self::Precondition,
            Code::Unavailable => Self::Unavailable,
            Code::ResourceExhausted => Self::Busy,
            Code::DataLoss => Self::Damaged,
            Code::Internal => Self::Internal,
            Code::Unimplemented => Self::Unsupported,
            Code::Ok | Code::Cancelled | Code::Unknown | Code::DeadlineExceeded | Code::Aborted => {
                Self::Unknown
            }
        };
        if reason(status).is_some() || never_sent(status) {
            return fault;
        }
        match fault {
            // Made by the local channel, or by a server's gRPC layer before any of our code ran but with the
            // same code as a lost connection: only a reason tells them apart.
            Self::Unavailable | Self::Busy | Self::Internal => Self::Unknown,
            other => other,
        }
    }
}

/// An error that knows who acts next.
pub trait Faulty: Error {
    /// Who acts next.
    fn fault(&self) -> Fault;

    /// For machines: short, lower case, hyphens, stable.
    fn reason(&self) -> &'static str;

    /// Who leads, where the answer is to ask the leader.
    fn leader(&self) -> Option<LeaderHint> {
        None
    }
}

/// Who leads a group, as the answering member believes. A hint: the connector still checks who answers there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderHint {
    /// Its member id.
    pub id: NodeId,
    /// Its endpoint, `host:port`; empty if not known.
    pub endpoint: String,
}

/// The status of an error: its fault's code, its message with its sources, its reason and its leader hint.
pub fn status_of(error: &(impl Faulty + ?Sized)) -> Status {
    let mut status = status(error.fault(), error.reason(), Chain(error));
    if let Some(hint) = error.leader() {
        status = with_leader(status, &hint);
    }
    status
}

/// A status from its parts. The reason is what marks it as ours.
pub fn status(fault: Fault, reason: &'static str, message: impl fmt::Display) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert(REASON, AsciiMetadataValue::from_static(reason));
    Status::with_metadata(fault.code(), message.to_string(), metadata)
}

/// The status of an error that travelled within an answer: of one request among the many of a stream. A code that no
/// fault has is of unknown outcome.
pub fn status_within(code: u32, reason: &str, message: &str, leader: Option<NodeId>) -> Status {
    let known = Fault::ALL.into_iter().map(Fault::code);
    let code = known
        .into_iter()
        .find(|known| u32::try_from(i32::from(*known)) == Ok(code))
        .unwrap_or(Code::Unknown);
    let mut metadata = MetadataMap::new();
    if let Ok(reason) = AsciiMetadataValue::try_from(reason) {
        metadata.insert(REASON, reason);
    }
    let status = Status::with_metadata(code, message, metadata);
    match leader {
        Some(id) => with_leader(
            status,
            &LeaderHint {
                id,
                endpoint: String::new(),
            },
        ),
        None => status,
    }
}

/// Adds who leads. An endpoint that is no header text is left out: the id is enough to find it.
pub fn with_leader(mut status: Status, hint: &LeaderHint) -> Status {
    let metadata = status.metadata_mut();
    metadata.insert(LEADER_ID, AsciiMetadataValue::from(hint.id.0));
    if let Ok(endpoint) = AsciiMetadataValue::try_from(hint.endpoint.as_str()) {
        metadata.insert(LEADER_ENDPOINT, endpoint);
    }
    status
}

/// The machine-readable reason, if one of our servers made this status.
pub fn reason(status: &Status) -> Option<&str> {
    status.metadata().get(REASON)?.to_str().ok()
}

/// Who leads, if the status says.
pub fn leader_hint(status: &Status) -> Option<LeaderHint> {
    let text = |key| {
        status
            .metadata()
            .get(key)
            .and_then(|value| value.to_str().ok())
    };
    let id = text(LEADER_ID)?.parse().ok()?;
    Some(LeaderHint {
        id: NodeId(id),
        endpoint: text(LEADER_ENDPOINT).unwrap_or("").to_owned(),
    })
}

/// The first error of type `E` in a chain of sources, the head included.
pub fn find_source<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn never_sent(status: &Status) -> bool {
    find_source::<tonic::ConnectError>(status).is_some()
}

/// An error with all its sources, joined by colons.
pub struct Chain<'a, E: ?Sized>(pub &'a E);

impl<E: Error + ?Sized> fmt::Display for Chain<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_comes_back_as_itself_from_our_servers() {
        for fault in Fault::ALL {
            let sent = status(fault, "test-reason", "message");
            assert_eq!(Fault::of(&sent), fault);
            assert_eq!(reason(&sent), Some("test-reason"));
        }
    }

    #[test]
    fn a_status_made_on_the_way_is_of_unknown_outcome_unless_nothing_was_sent() {
        assert_eq!(
            Fault::of(&Status::unavailable("connection lost")),
            Fault::Unknown
        );
        assert_eq!(
            Fault::of(&Status::deadline_exceeded("late")),
            Fault::Unknown
        );
        assert_eq!(
            Fault::of(&Status::internal("h2 protocol error")),
            Fault::Unknown
        );
        let never = Status::from_error(Box::new(tonic::ConnectError("refused".into())));
        assert_eq!(Fault::of(&never), Fault::Unavailable);
    }

    #[test]
    fn an_error_within_an_answer_comes_back_as_its_fault() {
        for fault in Fault::ALL {
            let code = u32::try_from(i32::from(fault.code())).expect("codes are small");
            let told = status_within(code, "test-reason", "message", Some(NodeId(7)));
            assert_eq!(Fault::of(&told), fault);
            assert_eq!(reason(&told), Some("test-reason"));
            assert_eq!(leader_hint(&told).map(|hint| hint.id), Some(NodeId(7)));
        }
        for code in [0, 17, u32::MAX] {
            let told = status_within(code, "test-reason", "message", None);
            assert_eq!(Fault::of(&told), Fault::Unknown);
            assert_eq!(leader_hint(&told), None);
        }
    }

    #[test]
    fn leader_hints_survive_the_wire_form() {
        let hint = LeaderHint {
            id: NodeId(1007),
            endpoint: "127.0.0.1:7001".to_owned(),
        };
        let sent = with_leader(status(Fault::Unavailable, "not-leader", "ask there"), &hint);
        let received = Status::from_header_map(sent.into_http::<()>().headers());
        let received = received.expect("a status");
        assert_eq!(leader_hint(&received), Some(hint));
        assert_eq!(Fault::of(&received), Fault::Unavailable);
        assert_eq!(leader_hint(&Status::unavailable("")), None);
    }
}
