//! What a mover reads: of the source the next page, of the destination what is there already, of both parts and tokens.
//!
//! Owns nothing of the order, which is the state's. Refuses changes from before the oldest removal that is still known, and
//! readers of another region where no relocation leads to it.

use node_state::listing::{self, PartsQuery, UploadsQuery};
use node_state::relocation::Position;
use node_state::{feed, limits, read};
use proto::ids::{DatasetId, LeaseId, LogIndex, ObjectVersionId};
use proto::relocation::Named;
use proto::store::Reader;
use proto::v1;
use proto::v1::read_departure_request::Next;
use transport::Peer;

use super::Who;
use super::depart::{leads_there, not_granted};
use crate::core::Core;
use crate::error::CallError;
use crate::shard::{blocking, bounded};

impl Core {
    pub(super) async fn read_departure(
        &self,
        peer: &Peer,
        request: v1::ReadDepartureRequest,
    ) -> Result<v1::FeedPage, CallError> {
        let who = self.abroad(peer)?;
        let (shard, named) = self.relocated(request.of.as_ref())?;
        let none = CallError::Malformed("it does not say from where to read");
        let next = request.next.as_ref().ok_or(none)?;
        let (view, index) = self.read(&shard.group).await?;
        let state = &*view.state;
        leads_there(state, &who, &named)?;
        self.leaves(state, &named)?;
        let limit = limited(request.limit);
        let page = blocking(|| page_of(state, &named.dataset, (next, index), limit))?;
        Ok(v1::FeedPage {
            at_index: index.0,
            ..page
        })
    }

    /// What is here of a dataset that arrives: in order of keys, with own log indexes.
    pub(super) async fn read_arrival(
        &self,
        peer: &Peer,
        request: v1::ReadArrivalRequest,
    ) -> Result<v1::FeedPage, CallError> {
        let (shard, named) = self.relocated(request.of.as_ref())?;
        self.may_move(&self.enrolments.current(), peer, &named.dataset)?;
        let (view, index) = self.read(&shard.group).await?;
        let state = &*view.state;
        self.arrives(state, &named)?;
        let after = request.after.as_ref();
        let limit = limited(request.limit);
        let page = blocking(|| listed(state, &named.dataset, after, limit))?;
        Ok(v1::FeedPage {
            at_index: index.0,
            ..page
        })
    }

    pub(super) async fn departure_parts(
        &self,
        peer: &Peer,
        request: v1::RelocatedPartsRequest,
    ) -> Result<v1::ListPartsReply, CallError> {
        let who = self.abroad(peer)?;
        let (shard, named) = self.relocated(request.of.as_ref())?;
        let (view, index) = self.read(&shard.group).await?;
        leads_there(&*view.state, &who, &named)?;
        self.leaves(&*view.state, &named)?;
        let parts = blocking(|| parts_of(&*view.state, &named.dataset, &request))?;
        Ok(v1::ListPartsReply {
            at_index: index.0,
            ..parts
        })
    }

    /// Of a version, or of an upload that a mover left.
    pub(super) async fn arrival_parts(
        &self,
        peer: &Peer,
        request: v1::RelocatedPartsRequest,
    ) -> Result<v1::ListPartsReply, CallError> {
        let (shard, named) = self.relocated(request.of.as_ref())?;
        self.may_move(&self.enrolments.current(), peer, &named.dataset)?;
        let (view, index) = self.read(&shard.group).await?;
        self.arrives(&*view.state, &named)?;
        let parts = blocking(|| parts_of(&*view.state, &named.dataset, &request))?;
        Ok(v1::ListPartsReply {
            at_index: index.0,
            ..parts
        })
    }

    /// What movers left of versions in parts, and whoever else put something here.
    pub(super) async fn arrival_uploads(
        &self,
        peer: &Peer,
        request: v1::RelocatedUploadsRequest,
    ) -> Result<v1::ListUploadsReply, CallError> {
        let (shard, named) = self.relocated(request.of.as_ref())?;
        bounded(&[&request.start_after_key])?;
        self.may_move(&self.enrolments.current(), peer, &named.dataset)?;
        let (view, index) = self.read(&shard.group).await?;
        self.arrives(&*view.state, &named)?;
        let query = UploadsQuery {
            dataset: &named.dataset,
            prefix: "",
            delimiter: "",
            start_after_key: &request.start_after_key,
            start_after_index: LogIndex(request.start_after_index),
            limit: request.limit as usize,
        };
        let page = blocking(|| listing::uploads(&*view.state, query));
        Ok(v1::ListUploadsReply {
            at_index: index.0,
            ..page
        })
    }

    /// Whose block is read here: a dataset that leaves for the caller's region, as applied by this replica.
    pub(super) fn departing_blocks(
        &self,
        peer: &Peer,
        of: Option<&v1::Relocated>,
    ) -> Result<(u64, DatasetId), CallError> {
        let who = self.abroad(peer)?;
        let (shard, named) = self.relocated(of)?;
        let (view, _) = self.view(&shard.group)?;
        leads_there(&*view.state, &who, &named)?;
        self.leaves(&*view.state, &named)?;
        Ok((shard.group.id().0, named.dataset))
    }

    /// Only the mover reads what a dataset is: operators of the own region see counts.
    fn abroad(&self, peer: &Peer) -> Result<Who, CallError> {
        match self.who(peer)? {
            abroad @ Who::Abroad(_) => Ok(abroad),
            _ => Err(not_granted(peer)),
        }
    }

    /// Refuses once it has left: what is here is kept for its end alone.
    fn leaves(&self, state: &dyn Reader, named: &Named) -> Result<(), CallError> {
        self.living(state, &named.dataset).map(drop)
    }

    fn arrives(&self, state: &dyn Reader, named: &Named) -> Result<(), CallError> {
        let arrival = read::arrival(state, &named.dataset);
        let relocation = &named.relocation.as_bytes()[..];
        match arrival.is_some_and(|arrival| arrival.relocation_id == *relocation) {
            true => Ok(()),
            false => Err(CallError::refused(v1::Refusal::NotUnderWay)),
        }
    }
}

fn limited(limit: u32) -> usize {
    match limit {
        0 => limits::IMPORTS_MAX,
        limit => (limit as usize).min(limits::IMPORTS_MAX),
    }
}

fn page_of(
    state: &dyn Reader,
    dataset: &DatasetId,
    (next, at): (&Next, LogIndex),
    limit: usize,
) -> Result<v1::FeedPage, CallError> {
    match next {
        Next::Page(page) => listed(state, dataset, page.after.as_ref(), limit),
        Next::Changes(after) => {
            let page = feed::changes(state, dataset, LogIndex(*after), at, limit)?;
            Ok(v1::FeedPage {
                tokens: feed::tokens(state, dataset, &page.told),
                units: page.told.into_iter().map(feed::Told::into_unit).collect(),
                index: page.through.0,
                ..Default::default()
            })
        }
        Next::Requests(after) => {
            let (crossed, through) = feed::requests(state, dataset, LogIndex(*after), at, limit);
            Ok(v1::FeedPage {
                crossed,
                index: through.0,
                ..Default::default()
            })
        }
    }
}

fn listed(
    state: &dyn Reader,
    dataset: &DatasetId,
    after: Option<&v1::Place>,
    limit: usize,
) -> Result<v1::FeedPage, CallError> {
    let none = CallError::Malformed("the place to go on from is none");
    let after = Position::stored(after).ok_or(none)?;
    let page = feed::page(state, dataset, &after, limit);
    Ok(v1::FeedPage {
        tokens: feed::tokens(state, dataset, &page.told),
        units: page.told.into_iter().map(feed::Told::into_unit).collect(),
        place: page.through.record(),
        ..Default::default()
    })
}

fn parts_of(
    state: &dyn Reader,
    dataset: &DatasetId,
    request: &v1::RelocatedPartsRequest,
) -> Result<v1::ListPartsReply, CallError> {
    let of = ObjectVersionId::try_from(request.version_id.as_ref())?;
    let upload = read::upload(state, dataset, &request.key, &of);
    let lease = match &upload {
        Some(upload) => upload.lease_id.clone(),
        None => {
            let head = read::head(state, dataset, &request.key, Some(&of));
            head.ok_or(CallError::NoSuchObject)?.lease_id
        }
    };
    let token = LeaseId::try_from(lease.as_ref())
        .ok()
        .and_then(|lease| read::token(state, dataset, &lease));
    let query = PartsQuery {
        of: &of,
        start_after: request.start_after,
        limit: request.limit as usize,
        with_bodies: true,
    };
    let (parts, truncated) = listing::parts(state, query);
    Ok(v1::ListPartsReply {
        parts,
        truncated,
        upload,
        token: token.map(|held| held.token).unwrap_or_default(),
        at_index: 0,
    })
}
