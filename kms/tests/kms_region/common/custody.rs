//! Changes of custody as the region's people make them.

use bytes::Bytes;
use kms::approvals::{approve, request_hash};
use proto::ids::{Identity, UnixMs};
use proto::transcript;
use proto::v1;
use tonic::Status;

use super::{PATIENCE, Region, member, now, random, reason};

impl Region {
    /// The word of two operators on a request of the first.
    pub(crate) fn approvals(&self, hash: [u8; 32], id: &Bytes) -> Vec<v1::Approval> {
        let id: [u8; 16] = id.as_ref().try_into().expect("16 bytes");
        // Region time may be set ahead by weeks.
        let until = UnixMs(now().0 + 60 * 24 * 3_600_000);
        let by = |name| approve(self.people.local(name), hash, id, until);
        vec![by("op-2"), by("op-3")]
    }

    /// Begins a change of custody; nobody named is every enrolled custodian.
    pub(crate) async fn begin_custody(
        &self,
        names: &[&str],
        needed: u32,
        new_root: bool,
    ) -> Result<v1::BeginCustodyReply, Status> {
        let mut request = v1::BeginCustodyRequest {
            custodians: names
                .iter()
                .map(|name| self.people.enrolment(name))
                .collect(),
            needed,
            new_root,
            single_use_id: Bytes::copy_from_slice(&random::<16>()),
            claim: None,
            approvals: Vec::new(),
        };
        let hash = request_hash("BeginCustody", &request);
        request.approvals = self.approvals(hash, &request.single_use_id);
        let operator = self.caller("op-1");
        operator
            .at_leader(|at| {
                let (mut operate, request) = (operator.operate(at), request.clone());
                async move { Ok(operate.begin_custody(request).await?.into_inner()) }
            })
            .await
    }

    /// A custodian opens a share and shows it to the leader.
    pub(crate) async fn confirm_share(
        &self,
        share: &v1::SealedShare,
    ) -> Result<v1::KmsDone, Status> {
        let custodian: Identity = share.custodian.parse().expect("an identity");
        let opened = self.people.open_share(share);
        let set_id = share.share_set.slice(1..17);
        let caller = self.caller(custodian.name());
        let (caller, opened) = (&caller, &opened);
        caller
            .at_leader(|at| {
                let set_id = set_id.clone();
                async move {
                    let session = caller.session(at).await?;
                    let sealed = session.show_share(caller, opened, &set_id);
                    let request = v1::ConfirmShareRequest {
                        session_id: session.id.clone(),
                        sealed_share: sealed.into(),
                        set_id,
                    };
                    Ok(caller
                        .operate(at)
                        .confirm_share(request)
                        .await?
                        .into_inner())
                }
            })
            .await
    }

    pub(crate) async fn finish_custody(&self, set_id: &Bytes) -> Result<v1::KmsDone, Status> {
        let operator = self.caller("op-1");
        operator
            .at_leader(|at| {
                let (mut operate, set_id) = (operator.operate(at), set_id.clone());
                async move {
                    let request = v1::FinishCustodyRequest {
                        set_id,
                        without_token: false,
                    };
                    Ok(operate.finish_custody(request).await?.into_inner())
                }
            })
            .await
    }

    /// Asks until every replica that serves has the new root key.
    pub(crate) async fn finish_when_sent(&self, set_id: &Bytes) -> v1::KmsDone {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match self.finish_custody(set_id).await {
                Ok(done) => return done,
                Err(status) if tokio::time::Instant::now() < deadline => {
                    assert_eq!(reason(&status), "peers-without-new-root", "{status:?}");
                }
                Err(status) => panic!("{status:?}"),
            }
        }
    }

    /// Waits until every replica holds this root key: each takes it once it is durable that it is in force.
    pub(crate) async fn all_hold(&self, root_epoch: u32) {
        let held = async {
            for at in 0..self.places.len() {
                while self.places[at].replica.is_some()
                    && self.status(at).await.held_epoch != root_epoch
                {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            }
        };
        let held = tokio::time::timeout(PATIENCE, held).await;
        held.expect("the root key in force is taken");
    }

    /// A whole change of custody: begun, every share shown, in force.
    pub(crate) async fn change_custody(
        &self,
        names: &[&str],
        needed: u32,
        new_root: bool,
    ) -> Vec<v1::SealedShare> {
        let begun = self.begin_custody(names, needed, new_root).await;
        let begun = begun.expect("begun");
        for share in &begun.shares {
            self.confirm_share(share).await.expect("shown");
        }
        self.finish_when_sent(&begun.set_id).await;
        if new_root {
            let leader = self.leader().await;
            self.all_hold(self.status(leader).await.root_epoch).await;
        }
        begun.shares
    }

    /// Gives `needed` shares to every replica: another one's log may go further than the first one's, and a sealed
    /// replica does not lead.
    pub(crate) async fn unseal_all(&self, shares: &[v1::SealedShare], needed: usize) {
        let replicas = self.places.len();
        for at in 0..replicas {
            for share in &shares[..needed] {
                match self.give_share(at, share).await {
                    Ok(_) => {}
                    Err(status) => assert_eq!(reason(&status), "not-sealed", "{status:?}"),
                }
            }
        }
        let deadline = tokio::time::Instant::now() + PATIENCE;
        for at in 0..replicas {
            while self.status(at).await.sealed {
                let late = tokio::time::Instant::now() >= deadline;
                assert!(!late, "{} is sealed", member(at));
            }
        }
    }

    /// A custodian signs that a share is erased.
    pub(crate) async fn erase_share(&self, share: &v1::SealedShare) -> Result<v1::KmsDone, Status> {
        let custodian: Identity = share.custodian.parse().expect("an identity");
        let caller = self.caller(custodian.name());
        let set_id = share.share_set.slice(1..17);
        let epoch: [u8; 4] = share.share_set[17..21].try_into().expect("4 bytes");
        let root_epoch = u32::from_be_bytes(epoch);
        let statement = transcript::share_erased(
            super::REGION,
            &share.custodian,
            root_epoch,
            &set_id,
            share.index,
        );
        let signature = caller
            .local
            .sign(transcript::LABEL_SHARE_ERASED, &statement);
        let request = v1::EraseShareRequest {
            root_epoch,
            set_id,
            index: share.index,
            signature: signature.to_vec().into(),
        };
        caller
            .at_leader(|at| {
                let (mut operate, request) = (caller.operate(at), request.clone());
                async move { Ok(operate.erase_share(request).await?.into_inner()) }
            })
            .await
    }

    pub(crate) async fn retire_epoch(&self, root_epoch: u32) -> Result<v1::KmsDone, Status> {
        let mut request = v1::RetireEpochRequest {
            root_epoch,
            single_use_id: Bytes::copy_from_slice(&random::<16>()),
            ..v1::RetireEpochRequest::default()
        };
        let hash = request_hash("RetireEpoch", &request);
        request.approvals = self.approvals(hash, &request.single_use_id);
        let operator = self.caller("op-1");
        operator
            .at_leader(|at| {
                let (mut operate, request) = (operator.operate(at), request.clone());
                async move { Ok(operate.retire_epoch(request).await?.into_inner()) }
            })
            .await
    }

    /// Every replica that runs ends as by a kill, and starts again sealed.
    pub(crate) async fn restart_all(&mut self) {
        for at in 0..self.places.len() {
            if self.places[at].replica.is_some() {
                self.kill(at).await;
            }
        }
        for at in 0..self.places.len() {
            self.restart(at).await;
        }
    }
}
