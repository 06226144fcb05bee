//! Operators of the two regions: they trust each other, plan, begin and grant.
//!
//! Owns the order of what people do. The same calls as those of `reduit region` and `reduit relocate`.

use anyhow::{Context as _, Result, ensure};
use client::ids::DatasetName;
use client::moving::{Blocker, MoveAsked};
use client::{ApprovalRequest, Region};
use local::files::{CLIENTS, OPERATORS};
use local::{Local, RegionEntry, ceremony};
use proto::descriptor::Descriptor;
use proto::v1;
use transport::LocalIdentity;

use super::moving::Moving;
use super::{DESTINATION, SOURCE};

/// How long an approval lasts.
const APPROVAL_MINUTES: u32 = 5;

/// Both regions.
pub(super) struct Pair {
    pub(super) source: Side,
    pub(super) destination: Side,
}

/// A region, as an operator and an application of it see it.
pub(super) struct Side {
    entry: RegionEntry,
    operator: Region,
    approvers: Vec<LocalIdentity>,
    pub(super) app: Region,
}

impl Pair {
    pub(super) async fn of(local: &Local) -> Result<Self> {
        Ok(Self {
            source: Side::of(local, SOURCE).await?,
            destination: Side::of(local, DESTINATION).await?,
        })
    }

    /// Until both have heard of each other since.
    pub(super) async fn trust_each_other(&self) -> Result<()> {
        self.source.trust(&self.destination).await?;
        self.destination.trust(&self.source).await?;
        self.source.heard().await?;
        self.destination.heard().await
    }

    /// Has a dataset of so many objects moved at that pace: from here on a gateway acts.
    pub(super) async fn begin(
        &self,
        name: &DatasetName,
        objects: u64,
        pace: v1::ArrivalPace,
    ) -> Result<Moving> {
        let (here, there) = (&self.source.operator, &self.destination.operator);
        let planned = here.plan_relocation(name, there.id()).await?;
        free(&planned.blockers)?;
        let plan = planned.plan;
        ensure!(
            plan.objects == objects,
            "{name} has {} objects, not {objects}",
            plan.objects
        );
        free(&there.arrival_blockers(&plan, name).await?)?;

        let request = there.hand_over_key_request(&plan).await?;
        let asked = MoveAsked::HandOverKey(request.clone());
        let approvals = self.destination.approved(asked)?;
        let begun = there.begin_relocation(&plan, name, (request, approvals));
        let begun = begun.await?;
        let paced = there.pace_relocation(&plan.relocation, |wanted| *wanted = pace);
        paced.await?;

        let request = here.grant_request(&plan, &begun.offer).await?;
        let asked = MoveAsked::Grant(Box::new(request.clone()));
        let approvals = self.source.approved(asked)?;
        here.grant_relocation(&plan, request, approvals).await?;
        Ok(Moving::new(there.clone(), &plan, begun.shard))
    }
}

fn free(blockers: &[Blocker]) -> Result<()> {
    let found: Vec<_> = blockers.iter().map(Blocker::to_string).collect();
    ensure!(found.is_empty(), "in the way: {}", found.join("; "));
    Ok(())
}

impl Side {
    async fn of(local: &Local, region: &str) -> Result<Self> {
        let entry = local.federation.region(region)?.clone();
        Ok(Self {
            operator: ceremony::connect(&entry, OPERATORS[0]).await?,
            approvers: ceremony::approvers(&entry)?,
            app: ceremony::connect(&entry, CLIENTS[0]).await?,
            entry,
        })
    }

    fn approved(&self, asked: MoveAsked) -> Result<Vec<v1::Approval>> {
        let request = ApprovalRequest::relocation(self.operator.identity(), asked);
        let approve = |who| request.approve(who, APPROVAL_MINUTES);
        let approvals: Result<Vec<_>, client::Error> = self.approvers.iter().map(approve).collect();
        Ok(approvals?)
    }

    /// What it says of itself, once every member that listens is in it.
    async fn told(&self) -> Result<Descriptor> {
        let members = self.entry.services.iter();
        let wanted = members.filter(|one| !one.federation.is_empty()).count();
        ceremony::until("every member listens for other regions", async || {
            let own = self.operator.regions().await?.own;
            let signed = own.and_then(|own| own.descriptor);
            let told = Descriptor::parse(&signed.context("it has said nothing yet")?)?;
            let members = told.members().iter();
            let found = members.filter(|one| !one.endpoint.is_empty()).count();
            ensure!(found == wanted, "{found} of {wanted} listen");
            Ok(told)
        })
        .await
    }

    async fn trust(&self, other: &Self) -> Result<()> {
        let told = other.told().await?;
        let fingerprint = client::region_fingerprint(&told.signed().descriptor);
        let trusted = self
            .operator
            .trust_region(&told, fingerprint, &self.approvers);
        trusted.await?;
        Ok(())
    }

    async fn heard(&self) -> Result<()> {
        ceremony::until("the other region is heard of", async || {
            let known = self.operator.regions().await?.regions;
            let peer = known.first().context("no other region is known")?;
            ensure!(
                peer.heard_at_ms > 0 && peer.trouble.is_empty(),
                "not yet: {}",
                peer.trouble
            );
            Ok(())
        })
        .await
    }
}
