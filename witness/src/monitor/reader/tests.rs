//! Claims about what leaves give rise to.

use tlog::{Private, Public, SaltSeed, SaltedLeaf};

use super::*;
use crate::config::Rate;

/// Thursday, 2026-11-26 09:00:00 UTC.
const NINE: u64 = 1_795_683_600_000;
const NOW: UnixMs = UnixMs(NINE + 1000);
const MINUTE: u64 = 60_000;

fn purpose(text: &str) -> Purpose {
    text.parse().expect("a purpose")
}

/// Makes leaves as a region does, with the chains of its datasets.
#[derive(Default)]
struct Region {
    chains: BTreeMap<u8, (u64, Option<Hash>)>,
    leaves: u64,
}

impl Region {
    fn leaf(&mut self, kind: Kind, purpose: Purpose, dataset: Option<u8>, time: u64) -> Vec<u8> {
        self.leaf_of(kind, purpose, dataset, time, 0)
    }

    fn leaf_of(
        &mut self,
        kind: Kind,
        purpose: Purpose,
        dataset: Option<u8>,
        time: u64,
        objects: usize,
    ) -> Vec<u8> {
        let link = dataset.map(|dataset| {
            let (sequence, previous) = self.chains.get(&dataset).copied().unwrap_or_default();
            DatasetLink {
                pseudonym: Pseudonym([dataset; 16]),
                sequence,
                previous,
            }
        });
        let public = Public {
            kind,
            time_ms: UnixMs(time),
            purpose,
            dataset: link,
        };
        let private = Private {
            objects: vec![String::new(); objects],
            ..Private::default()
        };
        let made = SaltedLeaf::build(public, private, &SaltSeed::new(&[7; 32]), self.leaves);
        let bytes = made.expect("a leaf").bytes;
        self.leaves += 1;
        if let Some(dataset) = dataset {
            let end = self.chains.entry(dataset).or_default();
            *end = (end.0 + 1, Some(leaf_hash(&bytes)));
        }
        bytes
    }

    fn open(&mut self, dataset: u8) -> Vec<u8> {
        self.leaf(Kind::Open, Purpose::service(), Some(dataset), NINE)
    }
}

fn quiet() -> Rules {
    Rules {
        purposes: [Purpose::service()].into(),
        ..Rules::default()
    }
}

/// Rules found and at which leaf, by a fresh reader.
fn read(rules: &Rules, leaves: &[Vec<u8>]) -> Vec<(Rule, u64)> {
    let mut reader = Reader::default();
    let mut found = Vec::new();
    for (index, leaf) in (0..).zip(leaves) {
        found.extend(reader.read(rules, LeafIndex(index), leaf, NOW));
    }
    found
        .iter()
        .map(|finding| (finding.rule, finding.leaf.0))
        .collect()
}

#[test]
fn chains_that_hold_are_silent_and_every_break_is_found() {
    let mut region = Region::default();
    let leaves: Vec<_> = (0..12).map(|i| region.open(i % 3)).collect();
    assert_eq!(read(&quiet(), &leaves), []);
    let broken = |at| vec![(Rule::ChainBroken, at)];
    // One left out shows at the next of its dataset, and once.
    let mut without = leaves.clone();
    without.remove(4);
    assert_eq!(read(&quiet(), &without), broken(6));
    // The first left out.
    assert_eq!(read(&quiet(), &leaves[1..]), broken(2));
    // One a second time: at itself, and at what then seems to be there twice.
    let mut twice = leaves[..6].to_vec();
    twice.push(leaves[5].clone());
    assert_eq!(read(&quiet(), &twice), broken(6));
    // Another leaf in the place of one: the next one does not name it.
    let mut other = Region::default();
    let mut exchanged = leaves.clone();
    exchanged[0] = other.leaf(Kind::Lease, Purpose::service(), Some(0), NINE);
    assert_eq!(read(&quiet(), &exchanged), broken(3));
}

#[test]
fn a_leaf_of_a_newer_build_is_told_apart_from_bytes_that_are_no_leaf() {
    let mut region = Region::default();
    let (first, second, third) = (region.open(1), region.open(1), region.open(1));
    let as_text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("JSON");
    // The third follows a second leaf of a kind that is not known here.
    let unknown = as_text(&second)
        .replacen("\"open\"", "\"exported\"", 1)
        .into_bytes();
    let follows = as_text(&third).replace(
        &leaf_hash(&second).to_string(),
        &leaf_hash(&unknown).to_string(),
    );
    let leaves = [first.clone(), unknown, follows.into_bytes()];
    assert_eq!(read(&quiet(), &leaves), [(Rule::LeafUnknown, 1)]);
    let newer = as_text(&first).replacen("\"schema\":1", "\"schema\":2", 1);
    assert_eq!(
        read(&quiet(), &[newer.into_bytes()]),
        [(Rule::LeafUnknown, 0)]
    );
    for bad in [
        &b""[..],
        b"{}",
        b"null",
        b"{\"schema\":1,\"kind\":7}",
        as_text(&first)
            .replacen("\"kind\"", "\"more\":1,\"kind\"", 1)
            .as_bytes(),
        as_text(&first).replacen(':', ": ", 1).as_bytes(),
    ] {
        assert_eq!(
            read(&quiet(), &[bad.to_vec()]),
            [(Rule::LeafMalformed, 0)],
            "{bad:?}"
        );
    }
}

#[test]
fn a_purpose_is_new_once() {
    let mut region = Region::default();
    let mut leaf = |text| region.leaf(Kind::Open, purpose(text), None, NINE);
    let leaves = [
        leaf("service"),
        leaf("investigation"),
        leaf("investigation"),
        leaf("support"),
    ];
    assert_eq!(
        read(&quiet(), &leaves),
        [(Rule::NewPurpose, 1), (Rule::NewPurpose, 3)]
    );
    let known = Rules {
        purposes: ["service", "investigation", "support"].map(purpose).into(),
        ..quiet()
    };
    assert_eq!(read(&known, &leaves), []);
}

#[test]
fn opens_outside_of_hours_are_found_once_an_hour_and_purpose() {
    let mut region = Region::default();
    let hour = 60 * MINUTE;
    let mut leaf = |kind, text, time| region.leaf(kind, purpose(text), None, time);
    let evening = NINE + 10 * hour;
    let leaves = [
        leaf(Kind::Open, "support", NINE),
        leaf(Kind::Open, "service", evening),
        leaf(Kind::Lease, "support", evening),
        leaf(Kind::Open, "support", evening),
        leaf(Kind::Open, "support", evening + MINUTE),
        leaf(Kind::Open, "legal-request", evening + MINUTE),
        leaf(Kind::Open, "support", evening + hour),
    ];
    let rules = Rules {
        open_hours: Some(vec!["Mon-Fri 08:00-19:00".parse().expect("hours")]),
        open_hours_exempt: [Purpose::service()].into(),
        purposes: ["service", "support", "legal-request"].map(purpose).into(),
        ..quiet()
    };
    let outside = |found: Vec<(Rule, u64)>| -> Vec<u64> {
        let of = found
            .into_iter()
            .filter(|(rule, _)| *rule == Rule::OutsideHours);
        of.map(|(_, leaf)| leaf).collect()
    };
    assert_eq!(outside(read(&rules, &leaves)), [3, 5, 6]);
    let by_another_clock = Rules {
        utc_offset_minutes: -120,
        ..rules.clone()
    };
    assert_eq!(outside(read(&by_another_clock, &leaves)), [0]);
    let at_any_time = Rules {
        open_hours: None,
        ..rules
    };
    assert_eq!(outside(read(&at_any_time, &leaves)), [0_u64; 0]);
}

#[test]
fn a_rate_counts_objects_in_any_sixty_minutes_and_is_told_when_it_is_crossed() {
    let mut region = Region::default();
    let mut open = |minute, objects| {
        region.leaf_of(
            Kind::Open,
            Purpose::service(),
            None,
            NINE + minute * MINUTE,
            objects,
        )
    };
    let leaves = [
        open(0, 4),
        open(59, 6),
        // Eleven within sixty minutes, then still over, then no longer, then again.
        open(59, 1),
        open(59, 0),
        open(60, 0),
        open(118, 1),
        open(118, 2),
    ];
    let rules = Rules {
        rates: vec![Rate {
            kind: Kind::Open,
            per_hour_max: 10,
        }],
        ..quiet()
    };
    let rates = |rules: &Rules| -> Vec<u64> {
        let found = read(rules, &leaves).into_iter();
        let of = found.filter(|(rule, _)| *rule == Rule::Rate);
        of.map(|(_, leaf)| leaf).collect()
    };
    assert_eq!(rates(&rules), [2, 6]);
    assert_eq!(rates(&quiet()), [0_u64; 0]);
}

#[test]
fn changes_of_who_may_do_what_are_found_and_everyday_is_not() {
    let mut region = Region::default();
    let kinds = [
        Kind::Initialised,
        Kind::EnrolmentChanged,
        Kind::GrantsChanged,
        Kind::MemberAllocated,
        Kind::Unsealed,
        Kind::KeyCreated,
        Kind::KeyRotated,
        Kind::Lease,
        Kind::Open,
        Kind::KeyDestroyed,
    ];
    let leaves = kinds.map(|kind| region.leaf(kind, Purpose::service(), None, NINE));
    let watched = |rules: &Rules| -> Vec<u64> {
        let found = read(rules, &leaves).into_iter();
        found
            .map(|(rule, leaf)| match rule {
                Rule::Watched => leaf,
                other => panic!("{other:?}"),
            })
            .collect()
    };
    assert_eq!(watched(&quiet()), [0, 1, 2, 3, 4, 9]);
    let only = Rules {
        watch: Some([Kind::KeyRotated].into()),
        ..quiet()
    };
    assert_eq!(watched(&only), [6]);
}

#[test]
fn region_time_that_goes_back_or_ahead_is_found() {
    let mut region = Region::default();
    let mut at = |time| region.leaf(Kind::Open, Purpose::service(), None, time);
    let leaves = [
        at(NINE),
        at(NINE - MINUTE),
        at(NINE - MINUTE - 1),
        at(NOW.0 + AHEAD_MAX_MS),
        at(NOW.0 + AHEAD_MAX_MS + 1),
        at(NOW.0 + AHEAD_MAX_MS + 2),
    ];
    assert_eq!(
        read(&quiet(), &leaves),
        [(Rule::RegionTime, 2), (Rule::RegionTime, 4)]
    );
}

#[test]
fn a_reader_goes_on_from_its_bytes() {
    let mut region = Region::default();
    let rules = Rules {
        rates: vec![Rate {
            kind: Kind::Open,
            per_hour_max: 7,
        }],
        ..Rules::default()
    };
    let leaves: Vec<_> = (0..12).map(|i| region.open(i % 3)).collect();
    let (mut whole, mut pieces) = (Reader::default(), Reader::default());
    for (index, leaf) in (0..).zip(&leaves) {
        let found = whole.read(&rules, LeafIndex(index), leaf, NOW);
        assert_eq!(pieces.read(&rules, LeafIndex(index), leaf, NOW), found);
        let bytes = serde_json::to_vec(&pieces).expect("JSON");
        pieces = serde_json::from_slice(&bytes).expect("its own bytes");
        assert_eq!(pieces, whole);
    }
    assert_eq!(whole.datasets(), 3);
    assert_eq!(whole.kinds()[&Kind::Open], 12);
}
