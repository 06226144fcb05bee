//! Claims about regions that know each other: who pins one, what follows what, and what ends it.

use bytes::Bytes;
use kms_state::prepare;
use kms_state::{
    LEVEL_REGIONS, REGIONS_MAX, known_region, known_regions, own_region, region_fingerprint,
    trusted_region,
};
use prost::Message as _;
use proto::ids::{FeatureLevel, RegionId};
use proto::v1::kms_command::Command;
use proto::v1::{
    ChangeEnrolment, Claim, KmsCommand, KmsRefusal, RegionDescriptor, RegionMember, RegionStanding,
    SignedRegionDescriptor,
};
use tlog::{Field, Kind};

use crate::lab::{HOUR, Lab, START, approval, enrolment, id};

const DAY: u64 = 24 * HOUR;

fn key(byte: u8) -> Bytes {
    let prefix = [
        0x30, 0x2A, 0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x70, 0x03, 0x21, 0x00,
    ];
    [&prefix[..], &[byte; 32]].concat().into()
}

/// What another region says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) region: String,
    pub(crate) jurisdiction: String,
    pub(crate) version: u64,
    pub(crate) issued: u64,
    pub(crate) ca: &'static [u8],
    /// Its only KMS replica's key, by a byte, which signs too.
    pub(crate) signer: u8,
    /// Another replica, by its key.
    pub(crate) other: Option<u8>,
}

impl Told {
    pub(crate) fn at(region: &str, issued: u64) -> Self {
        Self {
            region: region.to_owned(),
            jurisdiction: region[..2].to_uppercase(),
            version: 1,
            issued,
            ca: b"their ca",
            signer: 1,
            other: None,
        }
    }

    fn fra() -> Self {
        Self::at("de-fra", START)
    }

    pub(crate) fn signed(&self) -> SignedRegionDescriptor {
        let member = |name: String, byte| RegionMember {
            identity: format!("spiffe://{}/kms/{name}", self.region),
            public_key: key(byte),
            endpoint: "kms.example:7200".to_owned(),
        };
        let keys = [Some(self.signer), self.other];
        let mut members: Vec<_> = keys
            .into_iter()
            .flatten()
            .map(|byte| member(format!("k{byte}"), byte))
            .collect();
        members.sort_by(|a, b| a.identity.cmp(&b.identity));
        let origin = format!("{}/main/1", self.region);
        let stated = RegionDescriptor {
            format: 1,
            region: self.region.clone(),
            jurisdiction: self.jurisdiction.clone(),
            version: self.version,
            issued_at_ms: self.issued,
            expires_at_ms: self.issued + 90 * DAY,
            ca_certificate: Bytes::from_static(self.ca),
            members,
            log_key: format!("{origin}+00000000+AQ=="),
            log_origin: origin,
            witness_policy: Bytes::new(),
        };
        SignedRegionDescriptor {
            descriptor: stated.encode_to_vec().into(),
            signer: key(self.signer),
            signature: vec![7; 64].into(),
        }
    }
}

/// What this region says of itself, signed by r1.
pub(crate) fn publish(lab: &Lab, version: u64) -> KmsCommand {
    publish_of(lab, |stated| stated.version = version)
}

fn publish_of(lab: &Lab, change: impl FnOnce(&mut RegionDescriptor)) -> KmsCommand {
    let member = |name: &str, node_id| {
        let held = enrolment(name, node_id);
        RegionMember {
            identity: held.identity,
            public_key: held.public_key,
            endpoint: "here.example:7200".to_owned(),
        }
    };
    let mut stated = RegionDescriptor {
        format: 1,
        region: "ch-zrh".to_owned(),
        jurisdiction: "CH".to_owned(),
        version: 1,
        issued_at_ms: lab.now,
        expires_at_ms: lab.now + 90 * DAY,
        ca_certificate: Bytes::from_static(b"ca"),
        members: vec![member("gateway/g1", 0), member("kms/r1", 1)],
        log_origin: "ch-zrh/main/1".to_owned(),
        log_key: "ch-zrh/main/1+00000000+AQ==".to_owned(),
        witness_policy: Bytes::new(),
    };
    change(&mut stated);
    let signed = SignedRegionDescriptor {
        descriptor: stated.encode_to_vec().into(),
        signer: enrolment("kms/r1", 1).public_key,
        signature: vec![7; 64].into(),
    };
    prepare::publish_region(&lab.authority(), lab.asked("kms/r1"), signed)
}

/// By o1, approved by o2 and o3.
pub(crate) fn trust(lab: &Lab, single_use_id: u8, signed: &SignedRegionDescriptor) -> KmsCommand {
    let asked = lab.approved("operator/o1", single_use_id);
    let fingerprint = region_fingerprint(&signed.descriptor);
    prepare::trust_region(
        &lab.authority(),
        asked,
        Claim::default(),
        signed.clone(),
        fingerprint,
    )
}

/// By a replica, which heard it from the region itself.
pub(crate) fn update(lab: &Lab, signed: &SignedRegionDescriptor) -> KmsCommand {
    prepare::update_region(&lab.authority(), lab.asked("kms/r2"), signed.clone())
}

pub(crate) fn distrust(lab: &Lab, operator: &str, region: &str) -> KmsCommand {
    let region: RegionId = region.parse().expect("a region");
    prepare::distrust_region(
        &lab.authority(),
        lab.asked(operator),
        Claim::default(),
        &region,
    )
}

fn fra() -> RegionId {
    "de-fra".parse().expect("a region")
}

/// With de-fra trusted at version 1.
fn trusting() -> Lab {
    let mut lab = Lab::new();
    let command = trust(&lab, 1, &Told::fra().signed());
    lab.done(&command);
    lab
}

fn version_held(lab: &Lab) -> u64 {
    let known = known_region(&lab.state, &fra()).expect("known");
    known.descriptor.version()
}

#[test]
fn two_others_pin_a_region_by_its_fingerprint_and_every_process_learns_of_it() {
    let mut lab = Lab::new();
    let signed = Told::fra().signed();
    let command = trust(&lab, 1, &signed);
    let done = lab.done(&command);
    assert_eq!(done.authority_version, 2);
    let set = lab.authority().set().clone();
    assert_eq!(set.trusted_regions.len(), 1);
    assert_eq!(set.trusted_regions[0].region, "de-fra");
    assert_eq!(set.trusted_regions[0].descriptor, Some(signed));
    let known = known_region(&lab.state, &fra()).expect("known");
    assert_eq!(known.record.standing(), RegionStanding::Trusted);
    assert_eq!(known.record.pinned_leaf, done.leaf_index);
    assert_eq!(known.record.changed_leaf, done.leaf_index);
    let trusted = trusted_region(&lab.state, &fra()).expect("trusted");
    assert_eq!(trusted.jurisdiction().as_str(), "DE");
    let (leaf, shown) = lab.last_leaf();
    assert_eq!(leaf.kind(), Kind::RegionTrusted);
    let details = &shown.fields[&Field::Details];
    let fingerprint = hex::encode(region_fingerprint(&trusted.signed().descriptor));
    assert!(details.contains(&fingerprint), "{details}");
    assert!(shown.fields[&Field::Approvals].contains("operator/o2"));
}

#[test]
fn one_approver_the_requester_itself_and_an_approval_used_before_pin_nothing() {
    let mut lab = Lab::new();
    let good = trust(&lab, 1, &Told::fra().signed());
    let with = |approvals| KmsCommand {
        approvals,
        ..good.clone()
    };
    let one = with(vec![approval("operator/o2", 1)]);
    assert_eq!(lab.refused(&one).0, KmsRefusal::TooFewApprovals);
    let own = with(vec![approval("operator/o1", 1), approval("operator/o2", 1)]);
    assert_eq!(lab.refused(&own).0, KmsRefusal::SelfApproval);
    let twice = with(vec![approval("operator/o2", 1), approval("operator/o2", 1)]);
    assert_eq!(lab.refused(&twice).0, KmsRefusal::TooFewApprovals);
    assert!(known_region(&lab.state, &fra()).is_none());
    lab.done(&good);
    let again = trust(&lab, 1, &Told::at("fr-par", START).signed());
    assert_eq!(lab.refused(&again).0, KmsRefusal::ApprovalReplayed);
}

#[test]
fn what_people_did_not_compare_is_not_pinned() {
    let mut lab = Lab::new();
    let mut command = trust(&lab, 1, &Told::fra().signed());
    if let Some(Command::TrustRegion(trust)) = &mut command.command {
        trust.fingerprint = vec![9; 32].into();
    }
    assert_eq!(lab.refused(&command).0, KmsRefusal::OtherFingerprint);
    let own = Told::at("ch-zrh", START).signed();
    let command = trust(&lab, 2, &own);
    assert_eq!(lab.refused(&command).0, KmsRefusal::Malformed);
    // Of an operator alone: no fingerprint, and so no approvals either.
    let mut command = update(&lab, &Told::fra().signed());
    assert_eq!(lab.refused(&command).0, KmsRefusal::RegionNotTrusted);
    command.requester = id("operator/o1").to_string();
    assert_eq!(lab.refused(&command).0, KmsRefusal::NotEnrolled);
}

#[test]
fn a_newer_descriptor_of_a_pinned_signer_and_ca_is_taken_without_people() {
    let mut lab = trusting();
    let newer = Told {
        version: 4,
        other: Some(2),
        ..Told::fra()
    };
    let command = update(&lab, &newer.signed());
    lab.done(&command);
    assert_eq!(version_held(&lab), 4);
    let (leaf, shown) = lab.last_leaf();
    assert_eq!(leaf.kind(), Kind::RegionUpdated);
    assert!(shown.fields[&Field::Details].contains("\"before_version\":1"));
    // The key that came in with it is pinned by it: replicas change one after another.
    let next = Told {
        version: 5,
        signer: 2,
        ..Told::fra()
    };
    let command = update(&lab, &next.signed());
    lab.done(&command);
    assert_eq!(version_held(&lab), 5);
    let pinned = known_region(&lab.state, &fra()).expect("known");
    assert!(pinned.record.pinned_leaf < pinned.record.changed_leaf);
}

#[test]
fn an_older_or_equal_descriptor_is_refused_whoever_brings_it() {
    let mut lab = trusting();
    let newer = Told {
        version: 4,
        ..Told::fra()
    };
    let command = update(&lab, &newer.signed());
    lab.done(&command);
    for version in [1, 3, 4] {
        let older = Told {
            version,
            issued: START + 1,
            ..Told::fra()
        };
        let command = update(&lab, &older.signed());
        assert_eq!(
            lab.refused(&command),
            (KmsRefusal::DescriptorOlder, 4),
            "{version}"
        );
        let command = trust(&lab, 20 + version as u8, &older.signed());
        assert_eq!(
            lab.refused(&command),
            (KmsRefusal::DescriptorOlder, 4),
            "{version}"
        );
    }
    // The very same, once more.
    let command = trust(&lab, 30, &newer.signed());
    assert_eq!(lab.refused(&command).0, KmsRefusal::DescriptorOlder);
}

#[test]
fn another_signer_or_ca_waits_for_people_and_another_jurisdiction_is_never_taken() {
    let other_signer = Told {
        version: 2,
        signer: 3,
        ..Told::fra()
    };
    let other_ca = Told {
        version: 2,
        ca: b"another ca",
        ..Told::fra()
    };
    for told in [other_signer, other_ca] {
        let mut lab = trusting();
        let command = update(&lab, &told.signed());
        assert_eq!(lab.refused(&command).0, KmsRefusal::DescriptorNotPinned);
        assert_eq!(version_held(&lab), 1);
        let command = trust(&lab, 2, &told.signed());
        lab.done(&command);
        assert_eq!(version_held(&lab), 2);
    }
    let moved = Told {
        version: 2,
        jurisdiction: "FR".to_owned(),
        ..Told::fra()
    };
    let mut lab = trusting();
    for command in [
        update(&lab, &moved.signed()),
        trust(&lab, 2, &moved.signed()),
    ] {
        assert_eq!(lab.refused(&command).0, KmsRefusal::DescriptorNotPinned);
    }
}

#[test]
fn a_descriptor_past_its_time_is_refused_and_one_that_expires_is_no_longer_good() {
    let mut lab = trusting();
    assert!(trusted_region(&lab.state, &fra()).is_some());
    lab.wait(90 * DAY);
    assert!(trusted_region(&lab.state, &fra()).is_none());
    let late = Told {
        version: 2,
        ..Told::fra()
    };
    let command = update(&lab, &late.signed());
    assert_eq!(lab.refused(&command).0, KmsRefusal::DescriptorExpired);
    let fresh = Told {
        version: 3,
        issued: lab.now,
        ..Told::fra()
    };
    let command = update(&lab, &fresh.signed());
    lab.done(&command);
    assert!(trusted_region(&lab.state, &fra()).is_some());
    let early = Told {
        version: 4,
        issued: lab.now + HOUR,
        ..Told::fra()
    };
    let command = update(&lab, &early.signed());
    assert_eq!(lab.refused(&command).0, KmsRefusal::DescriptorExpired);
}

#[test]
fn one_operator_ends_a_trust_and_two_others_begin_it_again() {
    let mut lab = trusting();
    for who in ["kms/r1", "auditor/a1"] {
        let command = distrust(&lab, who, "de-fra");
        assert_eq!(lab.refused(&command).0, KmsRefusal::NotEnrolled, "{who}");
    }
    let command = distrust(&lab, "operator/o4", "de-fra");
    lab.done(&command);
    assert!(lab.authority().set().trusted_regions.is_empty());
    assert!(trusted_region(&lab.state, &fra()).is_none());
    assert_eq!(lab.last_leaf().0.kind(), Kind::RegionDistrusted);
    let command = distrust(&lab, "operator/o4", "de-fra");
    assert_eq!(lab.refused(&command).0, KmsRefusal::RegionNotTrusted);
    // Nothing comes back by itself, and nothing older.
    let newer = Told {
        version: 2,
        ..Told::fra()
    };
    let command = update(&lab, &newer.signed());
    assert_eq!(lab.refused(&command).0, KmsRefusal::RegionNotTrusted);
    let other = Told {
        issued: START + 1,
        ..Told::fra()
    };
    let command = trust(&lab, 2, &other.signed());
    assert_eq!(lab.refused(&command).0, KmsRefusal::DescriptorOlder);
    let command = trust(&lab, 3, &Told::fra().signed());
    lab.done(&command);
    assert!(trusted_region(&lab.state, &fra()).is_some());
}

#[test]
fn a_region_says_of_itself_what_its_state_says() {
    let mut lab = trusting();
    let command = publish(&lab, 1);
    lab.done(&command);
    assert_eq!(lab.last_leaf().0.kind(), Kind::RegionPublished);
    let own = own_region(&lab.state).expect("published");
    assert_eq!(own.record.standing(), RegionStanding::Own);
    assert_eq!(
        lab.authority().set().descriptor,
        Some(own.descriptor.signed().clone())
    );
    assert_eq!(known_regions(&lab.state).len(), 1, "itself is no peer");
    let command = publish(&lab, 1);
    assert_eq!(lab.refused(&command), (KmsRefusal::DescriptorOlder, 1));
    let mut refused = |change: &dyn Fn(&mut RegionDescriptor)| {
        let command = publish_of(&lab, |stated| {
            stated.version = 2;
            change(stated);
        });
        lab.refused(&command).0
    };
    let ca = refused(&|stated| stated.ca_certificate = Bytes::from_static(b"another"));
    assert_eq!(ca, KmsRefusal::Malformed);
    let jurisdiction = refused(&|stated| stated.jurisdiction = "DE".to_owned());
    assert_eq!(jurisdiction, KmsRefusal::WrongJurisdiction);
    let log = refused(&|stated| {
        stated.log_origin = "ch-zrh/main/2".to_owned();
        stated.log_key = "ch-zrh/main/2+00000000+AQ==".to_owned();
    });
    assert_eq!(log, KmsRefusal::Malformed);
    let stranger = refused(&|stated| stated.members[0].public_key = key(9));
    assert_eq!(stranger, KmsRefusal::NotEnrolled);
    let mut command = publish(&lab, 2);
    command.requester = id("operator/o1").to_string();
    assert_eq!(lab.refused(&command).0, KmsRefusal::NotEnrolled);
    // Who is no longer enrolled here is not vouched for any more.
    let change = ChangeEnrolment {
        remove: vec![id("gateway/g1").to_string()],
        ..ChangeEnrolment::default()
    };
    let asked = lab.approved("operator/o1", 5);
    let command = prepare::change_enrolment(&lab.authority(), asked, change);
    lab.done(&command);
    let command = publish(&lab, 2);
    assert_eq!(lab.refused(&command).0, KmsRefusal::NotEnrolled);
    let command = publish_of(&lab, |stated| {
        stated.version = 2;
        stated.members.remove(0);
    });
    lab.done(&command);
}

#[test]
fn below_its_level_no_region_is_known() {
    let mut lab = Lab::with_key_at(FeatureLevel(LEVEL_REGIONS.0 - 1));
    let commands = [
        publish(&lab, 1),
        trust(&lab, 1, &Told::fra().signed()),
        update(&lab, &Told::fra().signed()),
        distrust(&lab, "operator/o1", "de-fra"),
    ];
    for command in commands {
        assert_eq!(lab.refused(&command).0, KmsRefusal::Malformed);
    }
    lab.level = LEVEL_REGIONS;
    let command = publish(&lab, 1);
    lab.done(&command);
}

#[test]
fn a_descriptor_of_a_later_format_stops_the_replica_and_another_bad_one_is_refused() {
    let mut lab = Lab::new();
    let mut signed = Told::fra().signed();
    let mut stated = RegionDescriptor::decode(signed.descriptor.clone()).expect("decodes");
    stated.format = 2;
    signed.descriptor = stated.encode_to_vec().into();
    let command = trust(&lab, 1, &signed).encode_to_vec();
    let before = lab.state.clone();
    assert!(kms_state::apply(lab.at(), &command, &mut lab.state).is_err());
    assert_eq!(lab.state, before);
    signed.descriptor = Bytes::from_static(&[0xFF]);
    let command = trust(&lab, 1, &signed);
    assert_eq!(lab.refused(&command).0, KmsRefusal::Malformed);
}

#[test]
fn a_region_knows_so_many_others_and_no_more() {
    let mut lab = Lab::new();
    for number in 0..REGIONS_MAX {
        let told = Told::at(&format!("de-r{number}"), START);
        let command = trust(&lab, number as u8, &told.signed());
        lab.done(&command);
    }
    let command = trust(&lab, 200, &Told::fra().signed());
    assert_eq!(lab.refused(&command).0, KmsRefusal::TooManyRegions);
    // One that is known may say something new.
    let newer = Told {
        version: 2,
        ..Told::at("de-r0", START)
    };
    let command = update(&lab, &newer.signed());
    lab.done(&command);
}
