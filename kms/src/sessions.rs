//! Sessions with callers: one HPKE exchange, signed by both enrolled keys, good for an hour.
//!
//! Owns who may use which session. Refuses an offer that its caller did not sign for this replica, a session of
//! another key, one that has expired, and more than [`SESSIONS_MAX`] at once: the longest unused goes.

use std::collections::HashMap;
use std::sync::Arc;

use envelope::{SessionError, SessionInfo, SessionSender, establish};
use parking_lot::Mutex;
use proto::ids::UnixMs;
use proto::transcript;
use proto::v1;
use transport::{LocalIdentity, Peer, PublicKey};

use crate::random;

/// Sessions held at once; each holds one key slot.
pub(crate) const SESSIONS_MAX: usize = 4096;
/// How long a session is good.
pub(crate) const SESSION_MS: u64 = 3_600_000;

/// Names a session on one replica. Random.
pub(crate) type SessionId = [u8; 16];

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenSessionError {
    /// The offer was made for another replica.
    #[error("the session offer names another replica than this one")]
    OtherReplica,
    /// The caller did not sign it.
    #[error("the session offer is not signed by its caller's enrolled key")]
    Signature,
    /// It is no X-Wing key, or there is no room for a key.
    #[error("the session could not be made")]
    Session(#[source] SessionError),
}

/// Why a session cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoSession {
    /// Never was, has ended, was pushed out, or is another caller's. Which of them is not said.
    #[error("there is no such session with this replica: open a new one")]
    Unknown,
}

/// A session as its user sees it.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) sender: SessionSender,
    caller: PublicKey,
    expires_at: UnixMs,
}

impl Session {
    /// Additional data of every key sent in it.
    pub(crate) fn aad(&self) -> Vec<u8> {
        transcript::session_aad(&self.id)
    }
}

/// The sessions of this replica.
pub(crate) struct Sessions {
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    by_id: HashMap<SessionId, (u64, Arc<Session>)>,
    /// Counts uses: what was used last has the highest.
    uses: u64,
}

impl Sessions {
    pub(crate) fn new() -> Self {
        Self {
            held: Mutex::new(Held::default()),
        }
    }

    /// Answers an offer. `share_key` is this boot's public key for custodians' shares.
    pub(crate) fn open(
        &self,
        local: &LocalIdentity,
        peer: &Peer,
        request: &v1::OpenSessionRequest,
        share_key: &[u8],
        now: UnixMs,
    ) -> Result<v1::OpenSessionReply, OpenSessionError> {
        let replica = local.identity().to_string();
        if request.replica != replica {
            return Err(OpenSessionError::OtherReplica);
        }
        peer.public_key
            .verify(
                transcript::LABEL_SESSION_OFFER,
                &transcript::session_offer(&request.offer, &request.replica),
                &request.signature,
            )
            .map_err(|_| OpenSessionError::Signature)?;
        let region = local.identity().region().as_str();
        let caller = peer.public_key.as_spki();
        let info = SessionInfo::of(&transcript::session_info(
            region,
            caller,
            &replica,
            &request.offer,
        ));
        let offer = envelope::OfferPublic::try_from(request.offer.as_ref())
            .map_err(|_| OpenSessionError::Session(SessionError::BadOffer))?;
        let (encapsulated, sender) = establish(&offer, &info).map_err(OpenSessionError::Session)?;
        let id: SessionId = random();
        let expires_at = UnixMs(now.0 + SESSION_MS);
        self.add(
            Session {
                id,
                sender,
                caller: peer.public_key,
                expires_at,
            },
            now,
        );
        let mut reply = v1::OpenSessionReply {
            session_id: id.to_vec().into(),
            encapsulated: encapsulated.as_bytes().to_vec().into(),
            expires_at_ms: expires_at.0,
            signature: Default::default(),
            signer: local.public_key().as_spki().to_vec().into(),
            share_key: share_key.to_vec().into(),
        };
        let answer = transcript::session_answer(&request.offer, &reply);
        reply.signature = local
            .sign(transcript::LABEL_SESSION, &answer)
            .to_vec()
            .into();
        Ok(reply)
    }

    /// The session `id` of the caller with this key.
    pub(crate) fn of(
        &self,
        id: &[u8],
        caller: &PublicKey,
        now: UnixMs,
    ) -> Result<Arc<Session>, NoSession> {
        let id: SessionId = id.try_into().map_err(|_| NoSession::Unknown)?;
        let mut held = self.held.lock();
        held.uses += 1;
        let use_now = held.uses;
        let (used, session) = held.by_id.get_mut(&id).ok_or(NoSession::Unknown)?;
        if session.expires_at <= now {
            held.by_id.remove(&id);
            return Err(NoSession::Unknown);
        }
        if session.caller != *caller {
            return Err(NoSession::Unknown);
        }
        *used = use_now;
        Ok(session.clone())
    }

    /// Ends every session: the replica is sealed.
    pub(crate) fn clear(&self) {
        self.held.lock().by_id.clear();
    }

    /// Ends sessions whose hour is over.
    pub(crate) fn expire(&self, now: UnixMs) {
        self.held
            .lock()
            .by_id
            .retain(|_, (_, session)| session.expires_at > now);
    }

    /// Sessions held.
    pub(crate) fn len(&self) -> usize {
        self.held.lock().by_id.len()
    }

    fn add(&self, session: Session, now: UnixMs) {
        let mut held = self.held.lock();
        if held.by_id.len() >= SESSIONS_MAX {
            held.by_id
                .retain(|_, (_, session)| session.expires_at > now);
        }
        if held.by_id.len() >= SESSIONS_MAX {
            let unused = held
                .by_id
                .iter()
                .min_by_key(|(_, (used, _))| *used)
                .map(|(id, _)| *id);
            unused.and_then(|id| held.by_id.remove(&id));
        }
        held.uses += 1;
        let use_now = held.uses;
        held.by_id.insert(session.id, (use_now, Arc::new(session)));
    }
}

#[cfg(test)]
mod tests;
