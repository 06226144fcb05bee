//! Two regions that learn to trust each other, by people with the `reduit` command, and what their processes then admit.

use std::path::Path;
use std::time::Duration;

use crate::common::federated::{People, Told};
use crate::common::with_regions;
use anyhow::{Context as _, Result, bail, ensure};
use client::ids::{Identity, Role};
use local::ceremony;
use local::federation::RegionEntry;
use local::files::{OPERATORS, make_identity, now};
use proto::v1;
use proto::v1::federation_client::FederationClient;
use proto::v1::kms_client::KmsClient;
use serde_json::Value;
use tonic::Code;
use tonic::transport::Channel;
use transport::{
    Connector, Expect, HandshakeError, KeyExchange, KeyPair, Lane, LocalIdentity, Refusal,
    RegionCa, RegionTrust,
};

const ZURICH: &str = "ch-zrh";
const FRANKFURT: &str = "de-fra";

#[test]
fn two_regions_trust_each_other_by_people_and_one_operator_ends_it() {
    with_regions(&[(ZURICH, "CH", 3), (FRANKFURT, "DE", 1)], async |local| {
        let zurich = People::of(local, ZURICH)?;
        let frankfurt = People::of(local, FRANKFURT)?;
        let told = frankfurt.described().await?;
        nobody_is_trusted_on_less_than_two_others_word(&zurich, &told)?;
        let caller = Caller::of(&zurich.region, &frankfurt.region, "k1")?;
        let stranger = caller.ask(&zurich.region, "k1").await;
        refused_as(stranger, Refusal::NotEnrolled, "before it is trusted")?;
        zurich.said(&zurich.trust(&told, &OPERATORS[1..]))?;
        let again = zurich.refused(&zurich.trust(&told, &OPERATORS[1..]), 4)?;
        ensure!(again.contains("is not newer"), "{again}");
        trusted_with_files(&zurich, &frankfurt).await?;
        for people in [&zurich, &frankfurt] {
            let heard = |peer: &Value| peer["heard"].is_string() && peer["trouble"] == "";
            let peer = people.peer("the other region is heard", heard).await?;
            ensure!(peer["state"] == "trusted", "{peer}");
        }
        admitted_there_and_nowhere_else(&zurich, &frankfurt, &caller).await?;
        nobody_else_is_admitted(&zurich, &frankfurt).await?;
        a_newer_word_is_taken_without_people(&zurich, &frankfurt, &told).await?;
        one_operator_ends_it(&zurich, &caller).await
    });
}

fn nobody_is_trusted_on_less_than_two_others_word(zurich: &People, told: &Told) -> Result<()> {
    let wrong = Told {
        file: told.file.clone(),
        fingerprint: "0f".repeat(32),
        version: told.version,
    };
    let said = zurich.refused(&zurich.trust(&wrong, &OPERATORS[1..]), 5)?;
    ensure!(said.contains("not the one that was given"), "{said}");
    let one = zurich.refused(&zurich.trust(told, &OPERATORS[1..2]), 5)?;
    ensure!(one.contains("1 distinct approvers are not enough"), "{one}");
    let own = zurich.refused(&zurich.trust(told, &OPERATORS[..2]), 5)?;
    ensure!(own.contains("cannot approve its own request"), "{own}");
    let peers = zurich.json(&["region", "peers"])?;
    ensure!(peers["regions"] == serde_json::json!([]), "{peers}");
    Ok(())
}

/// Frankfurt trusts Zurich: asked for in a file, approved in two others.
async fn trusted_with_files(zurich: &People, frankfurt: &People) -> Result<()> {
    let told = zurich.described().await?;
    let people = &frankfurt.reduit;
    let (file, fingerprint) = (&told.file[..], &told.fingerprint[..]);
    let ask = [
        "approve",
        "region",
        file,
        "--fingerprint",
        fingerprint,
        "-o",
        "zrh.request",
    ];
    people.said(OPERATORS[0], &ask)?;
    let shown = people.said(OPERATORS[1], &["approve", "show", "zrh.request"])?;
    ensure!(
        shown.contains(fingerprint) && shown.contains(ZURICH),
        "{shown}"
    );
    for name in &OPERATORS[1..] {
        let approval = format!("zrh.{name}");
        people.said(name, &["approve", "sign", "zrh.request", "-o", &approval])?;
    }
    let trust = ["region", "trust", "--request", "zrh.request"];
    let approvals = ["--approval", "zrh.op-2", "--approval", "zrh.op-3"];
    let said = people.said(OPERATORS[0], &[&trust[..], &approvals].concat())?;
    ensure!(said.contains("ch-zrh (CH) trusted"), "{said}");
    // Used up with the first.
    people.refused(OPERATORS[0], &[&trust[..], &approvals].concat(), 4)?;
    Ok(())
}

/// Somebody who calls a region as an identity of another one, pinning the CA of the one that is called.
struct Caller(Connector);

impl Caller {
    fn of(called: &RegionEntry, own: &RegionEntry, name: &str) -> Result<Self> {
        let (certificate, key) = own.identity_files(name);
        Self::with(called, LocalIdentity::load(&certificate, &key)?)
    }

    fn with(called: &RegionEntry, local: LocalIdentity) -> Result<Self> {
        let trust = RegionTrust::load(called.region.clone(), &called.dir.join("ca.pem"))?;
        Ok(Self(Connector::pinned(
            local,
            trust,
            KeyExchange::HybridOnly,
        )))
    }

    fn channel(&self, endpoint: &str, role: Role) -> Result<Channel> {
        Ok(self
            .0
            .channel_lazy(endpoint, Expect::Role(role), Lane::Control)?)
    }

    fn at(&self, called: &RegionEntry, name: &str) -> Result<Channel> {
        let full = format!("{}/{name}", called.region);
        let service = called.services.iter().find(|one| one.name == full);
        let service = service.with_context(|| format!("no service {full}"))?;
        self.channel(&service.federation, service.kind.role())
    }

    /// Asks a member's federation listener what its region says of itself.
    async fn ask(
        &self,
        called: &RegionEntry,
        name: &str,
    ) -> Result<v1::SignedRegionDescriptor, tonic::Status> {
        let channel = self.at(called, name);
        let channel = channel.map_err(|error| tonic::Status::internal(error.to_string()))?;
        let mut client = FederationClient::new(channel);
        let said = client.describe(v1::DescribeRegionRequest {}).await?;
        Ok(said.into_inner())
    }
}

fn refused_as<T>(asked: Result<T, tonic::Status>, how: Refusal, when: &str) -> Result<()> {
    let Err(status) = asked else {
        bail!("{when}: it was answered");
    };
    match HandshakeError::find(&status) {
        Some(HandshakeError::Refused(found)) if *found == how => Ok(()),
        _ => bail!("{when}: {status:?}"),
    }
}

async fn admitted_there_and_nowhere_else(
    zurich: &People,
    frankfurt: &People,
    caller: &Caller,
) -> Result<()> {
    // Nodes learn of it within five seconds.
    for name in ["k1", "k2", "k3", "n1", "n2", "n3"] {
        let signed = ceremony::until("the peer is admitted", async || {
            Ok(caller.ask(&zurich.region, name).await?)
        })
        .await?;
        let said = transport::enrolment::verify_descriptor(&signed)?;
        ensure!(said.descriptor().region().as_str() == ZURICH, "{name}");
    }
    // One service is there, and no other.
    let channel = caller.at(&zurich.region, "k1")?;
    let status = KmsClient::new(channel)
        .status(v1::KmsStatusRequest {})
        .await;
    let status = status.err().context("the KMS is not served there")?;
    ensure!(status.code() == Code::Unimplemented, "{status:?}");
    for name in ["k1", "n1"] {
        let full = format!("{ZURICH}/{name}");
        let services = &zurich.region.services;
        let service = services
            .iter()
            .find(|one| one.name == full)
            .context("a service")?;
        let channel = caller.channel(&service.endpoint, service.kind.role())?;
        let asked = KmsClient::new(channel)
            .status(v1::KmsStatusRequest {})
            .await;
        refused_as(asked, Refusal::UnknownCa, name)?;
    }
    // A person of the trusted region, and everybody of the region itself, has no business there.
    let person = Caller::of(&zurich.region, &frankfurt.region, OPERATORS[0])?;
    refused_as(
        person.ask(&zurich.region, "k1").await,
        Refusal::NotEnrolled,
        "an operator",
    )?;
    let own = Caller::of(&zurich.region, &zurich.region, "k2")?;
    refused_as(
        own.ask(&zurich.region, "k1").await,
        Refusal::NotEnrolled,
        "its own",
    )
}

fn authority(region: &RegionEntry) -> Result<RegionCa> {
    let path = |name: &str| region.dir.join(name);
    Ok(RegionCa::load(
        region.region.clone(),
        &path("ca.pem"),
        &path("ca.key"),
    )?)
}

fn certified(ca: &RegionCa, identity: &Identity) -> Result<LocalIdentity> {
    let key = KeyPair::generate();
    let pem = ca.issue(&transport::ca::Request {
        identity,
        public_key: key.public_key(),
        dns_names: &[],
        ip_addresses: &[],
        now: now(),
        validity: Duration::from_secs(3_600),
    })?;
    Ok(LocalIdentity::new(pem.as_bytes(), key)?)
}

async fn nobody_else_is_admitted(zurich: &People, frankfurt: &People) -> Result<()> {
    // Zurich's own CA says that somebody is of Frankfurt.
    let own = authority(&zurich.region)?;
    let key = KeyPair::from_pem(&own.key().to_pem())?;
    let pem = own.certificate_pem().to_owned();
    let minting = RegionCa::from_pem(frankfurt.region.region.clone(), pem, key)?;
    let replica = Identity::new(frankfurt.region.region.clone(), Role::Kms, "k1")?;
    let forged = Caller::with(&zurich.region, certified(&minting, &replica)?)?;
    refused_as(
        forged.ask(&zurich.region, "k1").await,
        Refusal::UnknownCa,
        "minted by the own CA",
    )?;
    // Frankfurt's CA says so, of a key that Frankfurt has not enrolled.
    let theirs = authority(&frankfurt.region)?;
    let unenrolled = Caller::with(&zurich.region, certified(&theirs, &replica)?)?;
    for name in ["k1", "n1"] {
        refused_as(
            unenrolled.ask(&zurich.region, name).await,
            Refusal::NotEnrolled,
            "a key that is not enrolled",
        )?;
    }
    Ok(())
}

/// Frankfurt enrols a gateway, and says so; Zurich, which pinned its replica's key, takes that and nothing older.
async fn a_newer_word_is_taken_without_people(
    zurich: &People,
    frankfurt: &People,
    before: &Told,
) -> Result<()> {
    let enrolment = make_identity(
        &frankfurt.region,
        &authority(&frankfurt.region)?,
        Role::Gateway,
        "mover-1",
    )?;
    let operator = ceremony::connect(&frankfurt.region, OPERATORS[0]).await?;
    let approvers = ceremony::approvers(&frankfurt.region)?;
    operator
        .change_enrolment(vec![enrolment], Vec::new(), &approvers)
        .await?;
    let name = format!("spiffe://{FRANKFURT}/gateway/mover-1");
    let newer = zurich
        .peer("the newer descriptor is taken", |peer| {
            let members = peer["members"].as_array();
            members.is_some_and(|all| all.iter().any(|one| one["identity"] == name.as_str()))
        })
        .await?;
    ensure!(newer["version"].as_u64() > Some(before.version), "{newer}");
    ensure!(
        newer["changed_leaf"].as_u64() > newer["pinned_leaf"].as_u64(),
        "{newer}"
    );
    let gateway = Caller::of(&zurich.region, &frankfurt.region, "mover-1")?;
    ceremony::until("the new gateway is admitted", async || {
        Ok(gateway.ask(&zurich.region, "n1").await?)
    })
    .await?;
    ensure!(Path::new(&before.file).exists());
    let older = zurich.refused(&zurich.trust(before, &OPERATORS[1..]), 4)?;
    ensure!(older.contains("is not newer"), "{older}");
    Ok(())
}

async fn one_operator_ends_it(zurich: &People, caller: &Caller) -> Result<()> {
    let living = caller.at(&zurich.region, "k1")?;
    let ask = |channel: &Channel| {
        let mut client = FederationClient::new(channel.clone());
        async move { client.describe(v1::DescribeRegionRequest {}).await }
    };
    ask(&living).await?;
    let said = zurich
        .reduit
        .said(OPERATORS[1], &["region", "distrust", FRANKFURT])?;
    ensure!(said.contains("no longer trusted"), "{said}");
    for name in ["k1", "k2", "k3", "n1", "n2", "n3"] {
        ceremony::until("the peer is turned away", async || {
            refused_as(
                caller.ask(&zurich.region, name).await,
                Refusal::NotEnrolled,
                name,
            )
        })
        .await?;
    }
    ask(&living)
        .await
        .err()
        .context("the living connection is cut")?;
    let peers = zurich.json(&["region", "peers"])?;
    ensure!(peers["regions"][0]["state"] == "distrusted", "{peers}");
    zurich.refused(&["region", "distrust", FRANKFURT].map(str::to_owned), 3)?;
    Ok(())
}
