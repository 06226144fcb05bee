//! What comes out of a true certificate, and that nothing bent in it holds.

use tlog::certificate::{DsseEnvelope, OpenedBy, Relocation, Statement};
use tlog::{Field, Kind};
use verifier::{Bundle, CertificateReport, Pins, Verdict, verify_certificate};

use crate::build::{Replica, World, hex16};

fn verdict(report: &CertificateReport, id: &str) -> Verdict {
    report.claim(id).expect("a claim").verdict.clone()
}

#[test]
fn a_true_certificate_holds_and_says_whose_word_each_claim_is() {
    let world = World::new();
    let report = verify_certificate(&world.bundle(), &world.pins());
    assert!(report.holds(), "{}", report.to_text());
    for id in [
        "R1", "R2", "S1", "S2", "T1", "T2", "H1", "H2", "H3", "H4", "H5",
    ] {
        assert_eq!(verdict(&report, id), Verdict::Proven, "{id}");
    }
    for id in ["E1", "O1", "K1", "K2", "K3"] {
        let said = verdict(&report, id);
        assert!(matches!(said, Verdict::AssertedBy(_)), "{id}: {said}");
    }
    for id in ["N1", "N2"] {
        assert_eq!(verdict(&report, id), Verdict::NotShown, "{id}");
    }
    let text = report.to_text();
    assert!(text.contains("ASSERTED-BY(the KMS replicas of ch-zrh)"));
    assert!(report.to_json().contains("\"holds\": true"));
}

/// Whoever made the file could have made both regions up.
#[test]
fn without_pins_nothing_is_proven() {
    let world = World::new();
    let report = verify_certificate(&world.bundle(), &Pins::default());
    assert!(!report.holds());
    let proven = |id: &&str| verdict(&report, id) == Verdict::Proven;
    assert!(!report.claims().iter().any(|claim| proven(&claim.id)));
    let swapped = Pins {
        source: world.pins().destination,
        destination: world.pins().source,
    };
    let report = verify_certificate(&world.bundle(), &swapped);
    assert_eq!(verdict(&report, "R1"), Verdict::Contradicted);
    assert!(!report.holds());
}

/// Both KMSs sign it, and still it is not what their logs say.
#[test]
fn a_statement_that_the_logs_do_not_bear_out_does_not_hold() {
    type Bend = fn(&mut Relocation);
    let bends: &[(&str, Bend)] = &[
        ("relocation", |said| said.relocation = hex16(0x70)),
        ("dataset", |said| said.dataset = hex16(0x80)),
        ("opened", |said| said.opened = OpenedBy::Forced),
        ("epoch", |said| (said.epoch_from, said.epoch_to) = (2, 3)),
        ("fence", |said| said.fence = 21),
        ("root", |said| said.catalog_root = hex::encode([8; 32])),
        ("hand-over key", |said| said.hand_over_key = hex16(0x0B)),
        ("source", |said| {
            said.source.party.region = "fr-par".to_owned()
        }),
        ("law", |said| {
            said.source.party.jurisdiction = "FR".to_owned()
        }),
        ("descriptor", |said| {
            said.source.party.descriptor.version = 4
        }),
        ("log", |said| {
            said.source.party.log = "ch-zrh/main/2".to_owned()
        }),
        ("pseudonym", |said| said.source.party.pseudonym = hex16(1)),
        ("key", |said| said.source.party.kek = hex16(1)),
        ("approved", |said| said.source.approved.version = 2),
        ("approved fingerprint", |said| {
            said.source.approved.fingerprint = hex::encode([1; 32]);
        }),
        ("grant", |said| said.source.grant_leaf = 1),
        ("fewer released", |said| said.source.released_objects = 4),
        ("more released", |said| said.source.released_objects = 6),
        ("through", |said| said.source.released_through = Some(3)),
        ("nothing through", |said| {
            said.source.released_through = None
        }),
        ("shred", |said| said.source.shred_leaf = 3),
        ("destroyed", |said| said.source.destroyed_leaf = Some(4)),
        ("not destroyed", |said| {
            (said.source.destroyed_leaf, said.source.erased_leaf) = (None, None);
        }),
        ("erased", |said| said.source.erased_leaf = Some(5)),
        ("not erased", |said| said.source.erased_leaf = None),
        ("destination", |said| {
            said.destination.party.region = "fr-par".to_owned();
        }),
        ("its law", |said| {
            said.destination.party.jurisdiction = "FR".to_owned()
        }),
        ("its descriptor", |said| {
            said.destination.party.descriptor.fingerprint = hex::encode([1; 32]);
        }),
        ("its log", |said| {
            said.destination.party.log = "de-fra/main/2".to_owned()
        }),
        ("its pseudonym", |said| {
            said.destination.party.pseudonym = hex16(1)
        }),
        ("its approved", |said| said.destination.approved.version = 2),
        ("its key leaf", |said| said.destination.key_leaf = 1),
        ("its key's end", |said| {
            said.destination.key_destroyed_leaf = Some(2)
        }),
        ("its key's life", |said| {
            said.destination.key_destroyed_leaf = None
        }),
    ];
    for (what, bend) in bends {
        let mut world = World::new();
        bend(&mut world.said);
        let report = verify_certificate(&world.bundle(), &world.pins());
        assert!(!report.holds(), "{what}: {}", report.to_text());
    }
}

#[test]
fn a_statement_that_one_side_did_not_sign_does_not_hold() {
    let world = World::new();
    let statement = Statement::new(world.said.clone()).expect("a statement");
    let (here, there) = (world.source.replica(), world.destination.replica());
    let signed = |by: &[&Replica]| {
        let signatures = by.iter().map(|replica| replica.certifies(&statement));
        let bundle = world.around(DsseEnvelope::new(&statement, signatures.collect()));
        verify_certificate(&bundle, &world.pins())
    };
    assert!(signed(&[&here, &there]).holds());
    assert!(signed(&[&there, &here, &Replica::of(0x77)]).holds());
    for by in [&[&here][..], &[&there], &[], &[&here, &Replica::of(0x77)]] {
        assert!(!signed(by).holds());
    }
}

#[test]
fn a_release_that_is_not_counted_or_went_elsewhere_is_seen() {
    let release = |recipient: &str, key: u8| {
        let said = format!(
            r#"{{"relocation":"{}","hand_over_key":"{}"}}"#,
            hex16(7),
            hex16(key)
        );
        vec![
            (Field::Details, said),
            (Field::RecipientRegion, recipient.to_owned()),
        ]
    };
    let mut late = World::new();
    late.source
        .append((Kind::Open, true), &release("de-fra", 10), 1);
    let report = verify_certificate(&late.bundle(), &late.pins());
    assert_eq!(verdict(&report, "H3"), Verdict::Contradicted);
    for (recipient, key) in [("fr-par", 10), ("de-fra", 11)] {
        let mut other = World::new();
        other
            .source
            .append((Kind::Open, true), &release(recipient, key), 0);
        let report = verify_certificate(&other.bundle(), &other.pins());
        assert!(!report.holds());
    }
    let mut lease = World::new();
    lease
        .source
        .append((Kind::Lease, true), &release("de-fra", 10), 0);
    let report = verify_certificate(&lease.bundle(), &lease.pins());
    assert_eq!(verdict(&report, "H4"), Verdict::Contradicted);
}

#[test]
fn no_byte_of_a_file_can_be_changed_unseen() {
    let world = World::new();
    let file = world.bundle().encode();
    assert_eq!(Bundle::parse(&file), Ok(world.bundle()));
    for at in (0..file.len()).step_by(17) {
        let mut bent = file.clone();
        bent[at] ^= 1;
        let Ok(bundle) = Bundle::parse(&bent) else {
            continue;
        };
        let report = verify_certificate(&bundle, &world.pins());
        assert!(!report.holds(), "byte {at}");
    }
    for cut in [0, 1, file.len() / 2, file.len() - 1] {
        assert!(Bundle::parse(&file[..cut]).is_err());
    }
}
