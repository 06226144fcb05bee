//! Which enrolment set may follow which, what is durable, and the bytes on the wire.

use std::time::Duration;

use crate::region::{NOW, Region};
use prost::Message as _;
use proto::ids::{DatasetId, NodeId, Role, UnixMs};
use proto::v1::{self, Action};
use transport::enrolment::{MalformedSet, SET_LABEL, sign_set};
use transport::{EnrolmentError, Enrolments, LocalIdentity, PeerError};

fn founded() -> (Region, LocalIdentity, LocalIdentity) {
    let mut region = Region::new();
    let kms = region.member(Role::Kms, "k1", 1);
    let node = region.member(Role::Node, "n1", 1);
    (region, kms, node)
}

fn later(ms: u64) -> UnixMs {
    UnixMs(NOW.0 + ms)
}

#[test]
fn a_later_set_by_an_enrolled_kms_replica_is_taken_and_an_older_one_refused() {
    let (mut region, kms, node) = founded();
    let held = region.enrolments();
    let mut watched = held.watch();
    region.withdraw(&node);
    let second = sign_set(&kms, &region.set(2, later(10)));
    assert!(held.offer(&second).expect("it follows"));
    assert!(watched.has_changed().expect("still held"));
    assert_eq!(
        (held.version(), watched.borrow_and_update().version()),
        (2, 2)
    );
    assert!(held.by_public_key(&node.public_key()).is_none());
    assert_eq!(
        held.by_node_id(Role::Kms, NodeId(1)).expect("k1").identity,
        *kms.identity()
    );

    let first_again = held.offer(&region.first_set());
    assert!(matches!(
        first_again,
        Err(EnrolmentError::Older {
            offered: 1,
            held: 2
        })
    ));
    assert!(!held.offer(&second).expect("no news is no error"));
    assert_eq!(held.version(), 2);
}

#[test]
fn a_refresh_counts_as_news_but_another_statement_of_the_same_version_is_a_fork() {
    let (mut region, kms, node) = founded();
    let held = region.enrolments();
    assert!(
        held.offer(&sign_set(&kms, &region.set(1, later(5_000))))
            .expect("a refresh")
    );
    assert_eq!(held.current().signed_at(), later(5_000));
    assert!(
        !held
            .offer(&sign_set(&kms, &region.set(1, later(4_000))))
            .expect("stale news")
    );
    region.withdraw(&node);
    let fork = held.offer(&sign_set(&kms, &region.set(1, later(6_000))));
    assert!(matches!(fork, Err(EnrolmentError::Forked { version: 1 })));
}

#[test]
fn only_kms_replicas_of_the_held_set_sign_what_follows() {
    let (mut region, kms, node) = founded();
    let held = region.enrolments();
    let stranger = region.stranger(Role::Kms, "k2");
    region.enrol(&stranger, 2);
    let second = region.set(2, later(1));
    for signer in [&node, &stranger] {
        let refused = held.offer(&sign_set(signer, &second));
        assert!(
            matches!(refused, Err(EnrolmentError::Signer { version: 2 })),
            "{signer:?}"
        );
    }
    // The CA founds a region and has no say after.
    let bytes = second.encode_to_vec();
    let by_ca = v1::SignedEnrolmentSet {
        signer: region.ca.key().public_key().as_spki().to_vec().into(),
        signature: region.ca.key().sign(SET_LABEL, &bytes).to_vec().into(),
        set: bytes.into(),
    };
    assert!(matches!(
        held.offer(&by_ca),
        Err(EnrolmentError::Signer { version: 2 })
    ));
    assert!(held.offer(&sign_set(&kms, &second)).expect("by k1"));
    assert!(
        held.offer(&sign_set(&stranger, &region.set(3, later(2))))
            .expect("k2 is in now")
    );
}

#[test]
fn a_forged_signature_is_refused_and_changes_nothing() {
    let (region, kms, _) = founded();
    let held = region.enrolments();
    let good = sign_set(&kms, &region.set(2, later(1)));
    let mut flipped = good.clone();
    let mut signature = good.signature.to_vec();
    signature[7] ^= 1;
    flipped.signature = signature.into();
    let mut other_bytes = good.clone();
    other_bytes.set = region.set(3, later(1)).encode_to_vec().into();
    for forged in [flipped, other_bytes] {
        assert!(matches!(
            held.offer(&forged),
            Err(EnrolmentError::Signature { .. })
        ));
    }
    assert_eq!(held.version(), 1);
}

#[test]
fn another_region_ca_jurisdiction_or_time_is_refused() {
    let (region, kms, _) = founded();
    let held = region.enrolments();
    let offer = |change: fn(&mut v1::EnrolmentSet)| {
        let mut set = region.set(2, later(1));
        change(&mut set);
        held.offer(&sign_set(&kms, &set)).expect_err("refused")
    };
    let error = offer(|set| (set.region, set.enrolments) = ("de-fra".to_owned(), Vec::new()));
    assert!(
        matches!(error, EnrolmentError::OtherRegion { .. }),
        "{error}"
    );
    let error =
        offer(|set| set.ca_certificate = Region::new().ca.certificate_der().to_vec().into());
    assert!(matches!(error, EnrolmentError::OtherCa), "{error}");
    let error = offer(|set| (set.jurisdiction, set.enrolments) = ("DE".to_owned(), Vec::new()));
    assert!(
        matches!(error, EnrolmentError::OtherJurisdiction { .. }),
        "{error}"
    );
    let error = offer(|set| set.signed_at_ms = NOW.0 + 3_600_000);
    assert!(
        matches!(error, EnrolmentError::FromTheFuture { ahead_s: 3_600, .. }),
        "{error}"
    );
    assert_eq!(held.version(), 1);
}

#[test]
fn a_set_that_is_not_well_formed_is_refused() {
    let (region, kms, _) = founded();
    let held = region.enrolments();
    let offer = |change: fn(&mut v1::EnrolmentSet)| {
        let mut set = region.set(2, later(1));
        change(&mut set);
        match held.offer(&sign_set(&kms, &set)) {
            Err(EnrolmentError::Malformed(why)) => why,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(offer(|set| set.format = 2), MalformedSet::Format(2));
    assert_eq!(offer(|set| set.version = 0), MalformedSet::Field("version"));
    assert_eq!(offer(|set| set.enrolments.reverse()), MalformedSet::Order);
    assert_eq!(
        offer(|set| set.enrolments[1] = set.enrolments[0].clone()),
        MalformedSet::Order
    );
    let twice = |set: &mut v1::EnrolmentSet| {
        set.enrolments[1].public_key = set.enrolments[0].public_key.clone();
    };
    assert!(matches!(offer(twice), MalformedSet::Key(_)));
    let abroad = |set: &mut v1::EnrolmentSet| set.enrolments[0].jurisdiction = "DE".to_owned();
    assert!(matches!(offer(abroad), MalformedSet::OtherJurisdiction(_)));
    let other = |set: &mut v1::EnrolmentSet| {
        set.enrolments[0].identity = "spiffe://de-fra/kms/k1".to_owned();
        set.enrolments.sort_by(|a, b| a.identity.cmp(&b.identity));
    };
    assert!(matches!(offer(other), MalformedSet::OtherRegion(_)));
    let ids = |set: &mut v1::EnrolmentSet| {
        set.enrolments[1].identity = "spiffe://ch-zrh/kms/k9".to_owned();
    };
    assert!(matches!(offer(ids), MalformedSet::NodeId(_)));
    assert_eq!(
        offer(|set| set.approvals_min = 1),
        MalformedSet::Approvals(1)
    );
    for (bad, what) in [
        (grant("role:root", "*", &[3]), "principal"),
        (
            grant("spiffe://de-fra/client/app", "*", &[3]),
            "principal of this region",
        ),
        (grant("role:client", "cti", &[3]), "dataset"),
        (grant("role:client", "*", &[3, 99]), "action"),
        (grant("role:client", "*", &[0]), "action"),
    ] {
        let mut set = region.set(2, later(1));
        set.grants = vec![bad];
        let refused = held.offer(&sign_set(&kms, &set));
        let Err(EnrolmentError::Malformed(MalformedSet::Grant { at: 0, what: found })) = refused
        else {
            panic!("{what}: {refused:?}")
        };
        assert_eq!(found, what);
    }
    // Order is that of the encoded bytes, in which a length comes before its text.
    let unsorted = |set: &mut v1::EnrolmentSet| {
        set.grants = vec![
            grant("role:client", "*", &[3]),
            grant("role:node", "*", &[3]),
        ];
    };
    assert!(matches!(offer(unsorted), MalformedSet::Grant { at: 1, .. }));
    let junk = v1::SignedEnrolmentSet {
        set: vec![0xff; 9].into(),
        ..Default::default()
    };
    let refused = held.offer(&junk);
    assert!(matches!(
        refused,
        Err(EnrolmentError::Malformed(MalformedSet::Encoding))
    ));
}

/// A node goes by them when a gateway acts for one, so a set that it half understands is no set.
#[test]
fn service_principals_are_of_the_region_in_order_and_hold_no_key() {
    let (region, kms, _) = founded();
    let held = region.enrolments();
    let set = |version, principals: &[&str]| {
        let mut set = region.set(version, later(version));
        set.service_principals = principals.iter().map(|text| (*text).to_owned()).collect();
        set
    };
    let (a, b) = ("spiffe://ch-zrh/service/a", "spiffe://ch-zrh/service/b");
    assert!(
        held.offer(&sign_set(&kms, &set(2, &[a, b])))
            .expect("follows")
    );
    let is_one = |text: &str| {
        let identity = text.parse().expect("an identity");
        held.current().is_service_principal(&identity)
    };
    assert!(is_one(a) && is_one(b) && !is_one("spiffe://ch-zrh/service/c"));
    for bad in [
        &[b, a][..],
        &[a, a],
        &["spiffe://de-fra/service/a"],
        &["spiffe://ch-zrh/client/a"],
        &["a"],
    ] {
        let refused = held.offer(&sign_set(&kms, &set(3, bad)));
        let Err(EnrolmentError::Malformed(MalformedSet::ServicePrincipals)) = refused else {
            panic!("{bad:?}: {refused:?}")
        };
    }
    // Under the same version, other principals are another statement.
    let forked = sign_set(
        &kms,
        &v1::EnrolmentSet {
            signed_at_ms: later(9).0,
            ..set(2, &[a])
        },
    );
    let refused = held.offer(&forked);
    assert!(matches!(
        refused,
        Err(EnrolmentError::Forked { version: 2 })
    ));
    let with_key = region.stranger(Role::Service, "a");
    let mut enrolled = set(3, &[a]);
    enrolled.enrolments.push(v1::Enrolment {
        identity: with_key.identity().to_string(),
        public_key: with_key.public_key().as_spki().to_vec().into(),
        ..Default::default()
    });
    let refused = held.offer(&sign_set(&kms, &enrolled));
    assert!(matches!(
        refused,
        Err(EnrolmentError::Malformed(MalformedSet::Identity))
    ));
    assert!(held.offer(&sign_set(&kms, &set(3, &[]))).expect("follows"));
    assert!(!is_one(a));
}

fn grant(principal: &str, dataset: &str, actions: &[i32]) -> v1::Grant {
    v1::Grant {
        principal: principal.to_owned(),
        dataset: dataset.to_owned(),
        actions: actions.to_vec(),
        purposes: Vec::new(),
    }
}

#[test]
fn what_no_grant_allows_is_denied() {
    let (region, kms, node) = founded();
    let held = region.enrolments();
    let (cti, other) = (DatasetId([1; 16]), DatasetId([2; 16]));
    let app = region.stranger(Role::Client, "app");
    let (app, node) = (app.identity(), node.identity());
    let allows =
        |who, dataset, action, purpose| held.current().allows(who, Some(dataset), action, purpose);
    assert!(
        !allows(app, &cti, Action::Read, "service"),
        "an empty list allows nothing"
    );

    let mut set = region.set(2, later(1));
    let read = grant(
        "spiffe://ch-zrh/client/app",
        &cti.to_string(),
        &[Action::Read.into()],
    );
    let mut search = grant("role:client", "*", &[Action::Read.into()]);
    search.purposes = vec!["investigation".to_owned()];
    set.grants = vec![read, search];
    set.grants.sort_by_key(|grant| grant.encode_to_vec());
    assert!(held.offer(&sign_set(&kms, &set)).expect("follows"));
    assert!(allows(app, &cti, Action::Read, "service"));
    assert!(
        !allows(app, &other, Action::Read, "service"),
        "another dataset"
    );
    assert!(
        !allows(app, &cti, Action::Write, "service"),
        "another action"
    );
    assert!(
        !allows(node, &cti, Action::Read, "service"),
        "somebody else"
    );
    assert!(allows(app, &other, Action::Read, "investigation"));
    assert!(
        !allows(node, &other, Action::Read, "investigation"),
        "another role"
    );
    let at_large = |purpose| held.current().allows(app, None, Action::Read, purpose);
    assert!(at_large("investigation") && !at_large("service"));
}

#[test]
fn a_region_starts_from_version_1_by_its_ca_and_from_nothing_else() {
    let (region, kms, _) = founded();
    let clock = region.clock.clone();
    let by_kms = sign_set(&kms, &region.set(1, NOW));
    let refused = Enrolments::bootstrap(region.ca.trust(), &by_kms, clock.clone());
    assert!(matches!(refused, Err(EnrolmentError::NotFirst)));
    let other = Region::new();
    let refused = Enrolments::bootstrap(region.ca.trust(), &other.first_set(), clock);
    assert!(matches!(refused, Err(EnrolmentError::OtherCa)));
    assert!(
        region.ca.sign_set(&region.set(2, NOW)).is_err(),
        "the CA signs version 1 alone"
    );
}

#[test]
fn the_newest_set_survives_a_restart_and_damage_to_the_file_is_noticed() {
    let (region, kms, _) = founded();
    let folder = tempfile::tempdir().expect("temp folder");
    let path = folder.path().join("enrolments");
    let (trust, clock) = (region.ca.trust(), region.clock.clone());
    let open = || Enrolments::open(&path, trust.clone(), &region.first_set(), clock.clone());
    let held = open().expect("founded");
    assert!(
        held.offer(&sign_set(&kms, &region.set(2, later(1))))
            .expect("follows")
    );
    drop(held);
    assert_eq!(open().expect("read back").version(), 2);

    let good = std::fs::read(&path).expect("saved");
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x01;
        std::fs::write(&path, &bad).expect("damaged");
        assert!(open().is_err(), "byte {at} of {}", good.len());
    }
    for len in 0..good.len() {
        std::fs::write(&path, &good[..len]).expect("cut off");
        assert!(open().is_err(), "cut to {len} bytes");
    }
}

#[test]
fn after_24_hours_without_the_kms_only_the_kms_is_let_in() {
    let (region, kms, node) = founded();
    let held = region.enrolments();
    let check = |local, peer: &LocalIdentity| {
        held.check(local, peer.identity(), &peer.public_key())
            .map(|_| ())
    };
    region.clock.advance(Duration::from_secs(24 * 3600));
    assert!(!held.stale());
    assert_eq!(check(Role::Node, &node), Ok(()));
    region.clock.advance(Duration::from_millis(1));
    assert!(held.stale());
    assert!(matches!(
        check(Role::Node, &node),
        Err(PeerError::Stale { age_s: 86_400 })
    ));
    assert_eq!(check(Role::Node, &kms), Ok(()), "how a refresh gets here");
    assert_eq!(
        check(Role::Kms, &node),
        Ok(()),
        "the KMS is where enrolment is decided"
    );
    let refreshed = sign_set(&kms, &region.set(1, later(24 * 3_600_000)));
    assert!(held.offer(&refreshed).expect("a refresh"));
    assert_eq!(check(Role::Node, &node), Ok(()));
}

/// Worked out by hand outside this code base (protobuf by its wire rules, Ed25519 by RFC 8032): the message, and
/// what its signature covers, may not change under format 1.
#[test]
fn golden_bytes_of_a_signed_enrolment_set() {
    let key = |seed: u8| {
        let mut der = hex::decode("302e020100300506032b657004220420").expect("hex");
        der.extend([seed; 32]);
        transport::KeyPair::from_pkcs8(&der).expect("a seed is a key")
    };
    let spki = |seed| key(seed).public_key().as_spki().to_vec().into();
    let set = v1::EnrolmentSet {
        format: 1,
        region: "ch-zrh".to_owned(),
        jurisdiction: "CH".to_owned(),
        version: 1,
        ca_certificate: b"golden ca".to_vec().into(),
        enrolments: vec![
            v1::Enrolment {
                identity: "spiffe://ch-zrh/client/app".to_owned(),
                public_key: spki(9),
                ..Default::default()
            },
            v1::Enrolment {
                identity: "spiffe://ch-zrh/kms/k1".to_owned(),
                public_key: spki(8),
                node_id: 1,
                endpoint: "127.0.0.1:7001".to_owned(),
                jurisdiction: "CH".to_owned(),
                ..Default::default()
            },
        ],
        signed_at_ms: NOW.0,
        grants: vec![v1::Grant {
            principal: "role:client".to_owned(),
            dataset: "*".to_owned(),
            actions: vec![v1::Action::List.into(), v1::Action::Read.into()],
            purposes: vec!["service".to_owned()],
        }],
        approvals_min: 2,
        policy: String::new(),
        service_principals: Vec::new(),
        trusted_regions: Vec::new(),
        descriptor: None,
    };
    let bytes = set.encode_to_vec();
    let signed = v1::SignedEnrolmentSet {
        signer: spki(7),
        signature: key(7).sign(SET_LABEL, &bytes).to_vec().into(),
        set: bytes.into(),
    };
    let golden = include_str!("golden/signed_enrolment_set.hex").trim();
    assert_eq!(hex::encode(signed.encode_to_vec()), golden);
}
