//! Trust policies: the file, and what it accepts.

use std::collections::BTreeSet;

use proptest::prelude::*;
use tlog::{
    GROUPS_MAX, LOGS_MAX, Note, NoteRefused, Policy, PolicyErrorKind, PolicyRefused, SignatureType,
    SignerKey, UnixSeconds, VerifierKey, WITNESSES_MAX, leaf_hash,
};

use crate::support::{checkpoint, log_key, mutate, mutation, signed, signer, witness_key};

fn log_line() -> String {
    format!("log {}\n", log_key().verifier())
}

fn witness_line(number: u8) -> String {
    format!("witness w{number} {}\n", witness_key(number).verifier())
}

fn parse(text: &str) -> Policy {
    Policy::parse(text.as_bytes()).expect("a policy")
}

fn names(refused: &PolicyRefused) -> Vec<String> {
    match refused {
        PolicyRefused::NoQuorum { missing } => missing.iter().map(ToString::to_string).collect(),
        other => panic!("another refusal: {other:?}"),
    }
}

/// A checkpoint with cosignatures of these witnesses at these times.
fn cosigned(by: &[(u8, u64)]) -> Note {
    let keys: Vec<_> = by
        .iter()
        .map(|(w, time)| (witness_key(*w), *time))
        .collect();
    let keys: Vec<_> = keys.iter().map(|(key, time)| (key, *time)).collect();
    signed(&checkpoint(7, leaf_hash(b"root")), &keys)
}

/// The example of C2SP tlog-policy, with its two levels: X are w0 to w2, Y are w3 to w5.
fn example() -> String {
    let mut text = format!("# An example\n{}\n", log_line());
    for number in 0..3 {
        text += &witness_line(number);
    }
    text += "group X-witnesses 2 w0 w1 w2\n\n";
    for number in 3..6 {
        text += &witness_line(number);
    }
    text + "group Y-witnesses any w3 w4 w5\n\n\tgroup X-and-Y  all\tX-witnesses Y-witnesses \nquorum X-and-Y\n"
}

/// For every choice of the six witnesses: what would be a quorum is what is one.
#[test]
fn those_who_would_make_the_quorum_are_those_who_do() {
    let policy = parse(&example());
    for chosen in 0_u8..64 {
        let by: Vec<_> = (0..6).filter(|w| chosen >> w & 1 == 1).collect();
        let keys: Vec<_> = by.iter().map(|w| witness_key(*w)).collect();
        let would = policy.quorum_of(|party| keys.iter().any(|k| *k.verifier() == party.key));
        let note = cosigned(&by.iter().map(|w| (*w, 9)).collect::<Vec<_>>());
        assert_eq!(would, policy.check(&note).is_ok(), "{by:?}");
    }
    assert!(!policy.quorum_of(|_| false));
    assert!(parse(&format!("{}quorum none\n", log_line())).quorum_of(|_| false));
}

#[test]
fn the_example_of_the_specification_decides_as_it_says() {
    let policy = parse(&example());
    assert_eq!(policy.logs().len(), 1);
    assert_eq!(policy.witnesses().count(), 6);
    let check = |by: &[(u8, u64)]| policy.check(&cosigned(by));
    for by in [
        &[(0, 10), (1, 20), (3, 30)][..],
        &[(0, 10), (2, 20), (5, 30)],
        &[(0, 10), (1, 10), (2, 10), (3, 10), (4, 10), (5, 10)],
    ] {
        let trusted = check(by).expect("a quorum");
        assert_eq!(trusted.checkpoint().size(), 7);
        assert_eq!(trusted.log(), log_key().verifier());
        assert_eq!(trusted.cosigned().len(), by.len());
    }
    for (by, missing) in [
        (&[][..], &["w0", "w1", "w2", "w3", "w4", "w5"][..]),
        (&[(0, 10), (1, 10)], &["w3", "w4", "w5"]),
        (&[(0, 10), (4, 10)], &["w1", "w2"]),
        (&[(3, 10), (4, 10), (5, 10)], &["w0", "w1", "w2"]),
    ] {
        let refused = check(by).expect_err("no quorum");
        assert_eq!(names(&refused), missing);
    }
    let refused = check(&[(0, 10), (4, 10)]).expect_err("no quorum");
    assert_eq!(
        refused.to_string(),
        "too few witnesses have cosigned; missing: w1, w2"
    );
}

#[test]
fn a_quorum_is_as_old_as_the_last_cosignature_it_needs() {
    let policy = parse(&example());
    let as_of = |by: &[(u8, u64)]| {
        policy
            .check(&cosigned(by))
            .expect("a quorum")
            .as_of()
            .map(UnixSeconds::get)
    };
    assert_eq!(as_of(&[(0, 10), (1, 20), (3, 30)]), Some(10));
    assert_eq!(as_of(&[(0, 10), (1, 20), (2, 30), (3, 40)]), Some(20));
    assert_eq!(
        as_of(&[(0, 10), (1, 20), (2, 30), (3, 5), (4, 15)]),
        Some(15)
    );
    let none = parse(&format!("{}quorum none\n", log_line()));
    assert_eq!(none.check(&cosigned(&[])).expect("signed").as_of(), None);
    let one = parse(&format!("{}{}quorum w1\n", log_line(), witness_line(1)));
    let trusted = one.check(&cosigned(&[(1, 77)])).expect("cosigned");
    assert_eq!(trusted.as_of().map(UnixSeconds::get), Some(77));
}

/// An ML-DSA-44 cosignature without a time says that the tree is consistent, not that anyone watched lately.
#[test]
fn a_cosignature_without_a_time_does_not_count() {
    let policy = parse(&format!("{}{}quorum w1\n", log_line(), witness_line(1)));
    let tree = checkpoint(7, leaf_hash(b"root"));
    let line = witness_key(1).sign_checkpoint(&tree, None).expect("signs");
    let note = signed(&tree, &[]).with(line).expect("room");
    assert_eq!(names(&policy.check(&note).expect_err("no time")), ["w1"]);
}

#[test]
fn only_a_listed_log_under_its_own_origin_is_believed() {
    let policy = parse(&format!("{}{}quorum w0\n", log_line(), witness_line(0)));
    let tree = checkpoint(7, leaf_hash(b"root"));
    let note = |signers: &[&SignerKey]| {
        let time = |key: &SignerKey| {
            (key.verifier().kind() != SignatureType::Ed25519).then(|| crate::support::seconds(9))
        };
        let lines = signers
            .iter()
            .map(|s| s.sign_checkpoint(&tree, time(s)).expect("signs"));
        Note::new(tree.to_string(), lines.collect()).expect("a note")
    };
    let (log, w0) = (log_key(), witness_key(0));
    assert!(policy.check(&note(&[&log, &w0])).is_ok());
    let not_its_log = PolicyRefused::NotItsLog {
        origin: tree.origin().clone(),
    };
    assert_eq!(policy.check(&note(&[&w0])), Err(not_its_log.clone()));
    // Another listed log signed for this one's origin.
    let other = signer("other/log/1", SignatureType::Ed25519, 2);
    let two = format!(
        "{}log {}\n{}quorum w0\n",
        log_line(),
        other.verifier(),
        witness_line(0)
    );
    let two = parse(&two);
    assert_eq!(two.check(&note(&[&other, &w0])), Err(not_its_log));
    assert!(two.check(&note(&[&log, &other, &w0])).is_ok());
    // A log that is not listed, under a good name.
    let forged = signer("ch-zrh/main/1", SignatureType::Ed25519, 66);
    assert_eq!(
        policy.check(&note(&[&forged])),
        Err(PolicyRefused::Signatures(NoteRefused::NobodyKnown))
    );
    // One bad line of a listed witness spoils a note that has its quorum without it.
    let wide = parse(&format!(
        "{}{}{}quorum w0\n",
        log_line(),
        witness_line(0),
        witness_line(2)
    ));
    let mut bad = witness_key(2)
        .sign_checkpoint(&tree, Some(crate::support::seconds(9)))
        .expect("signs");
    bad.bytes[20] ^= 1;
    let spoilt = note(&[&log, &w0]).with(bad).expect("room");
    assert!(matches!(
        wide.check(&spoilt),
        Err(PolicyRefused::Signatures(NoteRefused::BadSignature { .. }))
    ));
    let hello = Note::new(
        "hello\n".to_owned(),
        vec![log.sign_text("hello\n").expect("signs")],
    );
    assert!(matches!(
        policy.check(&hello.expect("a note")),
        Err(PolicyRefused::Checkpoint(_))
    ));
}

#[test]
fn a_log_may_sign_with_ml_dsa_and_may_be_listed_as_its_own_witness() {
    let key = signer("ch-zrh/main/1", SignatureType::MlDsa44Cosignature, 4);
    let tree = checkpoint(7, leaf_hash(b"root"));
    let line = key
        .sign_checkpoint(&tree, Some(crate::support::seconds(5)))
        .expect("signs");
    let note = Note::new(tree.to_string(), vec![line]).expect("a note");
    let vkey = key.verifier();
    assert!(
        parse(&format!("log {vkey}\nquorum none\n"))
            .check(&note)
            .is_ok()
    );
    let itself = parse(&format!("log {vkey}\nwitness w {vkey}\nquorum w\n"));
    assert!(itself.check(&note).is_ok());
}

#[test]
fn files_that_are_no_policy_are_refused_with_their_line() {
    use PolicyErrorKind as Kind;
    let (log, w0, w1, w2) = (
        log_line(),
        witness_line(0),
        witness_line(1),
        witness_line(2),
    );
    let same_key = w0.replace("witness w0", "witness again");
    let renamed = {
        let key = signer("renamed.example", SignatureType::Ed25519Cosignature, 100);
        format!("witness again {}\n", key.verifier())
    };
    let ed25519 = log_key().verifier().to_string();
    let cosigner = witness_key(0).verifier().to_string();
    for (text, line, kind) in [
        (String::new(), 1, Kind::NoQuorum),
        (log.clone(), 1, Kind::NoQuorum),
        ("quorum none".to_owned(), 1, Kind::Cut),
        (format!("{log}quorum none"), 2, Kind::Cut),
        (
            "quorum none\nquorum none\n".to_owned(),
            2,
            Kind::QuorumTwice,
        ),
        ("quorum\n".to_owned(), 1, Kind::Words),
        ("quorum none none\n".to_owned(), 1, Kind::Words),
        ("quorom none\n".to_owned(), 1, Kind::Keyword),
        ("Log x\n".to_owned(), 1, Kind::Keyword),
        ("quorum none # why\n".to_owned(), 1, Kind::Words),
        ("quorum none\r\n".to_owned(), 1, Kind::ControlCharacter),
        (
            "# \u{7f}\nquorum none\n".to_owned(),
            1,
            Kind::ControlCharacter,
        ),
        ("log\nquorum none\n".to_owned(), 1, Kind::Words),
        ("log x\n".to_owned(), 1, Kind::Key(tlog::KeyError::Form)),
        (format!("log {ed25519} url url\n"), 1, Kind::Words),
        (format!("log {cosigner}\n"), 1, Kind::KeyType(4)),
        (format!("witness w {ed25519}\n"), 1, Kind::KeyType(1)),
        (format!("witness {cosigner}\n"), 1, Kind::Words),
        (format!("{log}\n{log}"), 3, Kind::KeyTwice),
        (format!("{w0}{same_key}"), 2, Kind::KeyTwice),
        (format!("{w0}{renamed}"), 2, Kind::KeyTwice),
        (
            format!("{w0}{}", w1.replace("w1 ", "w0 ")),
            2,
            Kind::NameTaken(taken("w0")),
        ),
        (
            w0.replace("w0 ", "none "),
            1,
            Kind::NameTaken(taken("none")),
        ),
        (
            format!("{w0}group w0 any w0\n"),
            2,
            Kind::NameTaken(taken("w0")),
        ),
        (format!("{w0}group g\n"), 2, Kind::Words),
        (format!("{w0}group g any\n"), 2, Kind::Words),
        (
            format!("{w0}group g any w9\n"),
            2,
            Kind::UnknownName(taken("w9")),
        ),
        (
            format!("{w0}group g any g\n"),
            2,
            Kind::UnknownName(taken("g")),
        ),
        (
            format!("{w0}group g any none\n"),
            2,
            Kind::UnknownName(taken("none")),
        ),
        (
            format!("group g any w0\n{w0}"),
            1,
            Kind::UnknownName(taken("w0")),
        ),
        (
            format!("{w0}group g any w0 w0\n"),
            2,
            Kind::MemberTwice(taken("w0")),
        ),
        (
            format!("{w0}{w1}group g any w0\ngroup h any w1 w0\n"),
            4,
            Kind::MemberTwice(taken("w0")),
        ),
        (format!("{w0}{w2}group g 0 w0 w2\n"), 3, Kind::Threshold),
        (format!("{w0}{w2}group g 3 w0 w2\n"), 3, Kind::Threshold),
        (format!("{w0}{w2}group g 02 w0 w2\n"), 3, Kind::Threshold),
        (format!("{w0}{w2}group g +2 w0 w2\n"), 3, Kind::Threshold),
        (format!("{w0}{w2}group g most w0 w2\n"), 3, Kind::Threshold),
        (
            format!("{w0}group g 18446744073709551617 w0\n"),
            2,
            Kind::Threshold,
        ),
        ("quorum w0\n".to_owned(), 1, Kind::UnknownName(taken("w0"))),
        (
            format!("quorum w0\n{w0}"),
            1,
            Kind::UnknownName(taken("w0")),
        ),
    ] {
        let refused = Policy::parse(text.as_bytes()).expect_err(&text);
        assert_eq!((refused.line, refused.kind), (line, kind), "{text:?}");
    }
    let long = vec![b'#'; tlog::POLICY_BYTES_MAX + 1];
    assert_eq!(Policy::parse(&long).expect_err("long").kind, Kind::TooLong);
}

/// Ids have four bytes, so two keys of one name may share one: then nobody could tell who signed.
#[test]
fn two_keys_of_one_name_and_id_are_refused() {
    let kind = SignatureType::Ed25519;
    let mut seen = std::collections::BTreeMap::new();
    let (one, other) = (0_u64..1 << 20)
        .find_map(|i| {
            let public = tlog::sha256(&[&i.to_be_bytes()]).0;
            let key = VerifierKey::new(crate::support::name("log"), kind, &public).expect("a key");
            seen.insert(key.id(), key.clone()).map(|other| (key, other))
        })
        .expect("a birthday among 2^32 ids comes after some 2^16");
    let text = format!("log {one}\nlog {other}\nquorum none\n");
    let refused = Policy::parse(text.as_bytes()).expect_err("ambiguous");
    assert_eq!(
        (refused.line, refused.kind),
        (2, PolicyErrorKind::Ambiguous)
    );
}

/// A name, as an error has it.
fn taken(name: &str) -> tlog::PolicyName {
    let text = format!("group g any {name}\n");
    match Policy::parse(text.as_bytes()).expect_err("unknown").kind {
        PolicyErrorKind::UnknownName(name) => name,
        other => panic!("{other:?}"),
    }
}

/// Names are octets: a Kelvin sign is no K, and bytes that are not UTF-8 are a name.
#[test]
fn names_are_octets() {
    let key = witness_key(0).verifier().to_string();
    let file = |name: &[u8], quorum: &[u8]| {
        let parts: [&[u8]; 7] = [
            b"witness ",
            name,
            b" ",
            key.as_bytes(),
            b"\nquorum ",
            quorum,
            b"\n",
        ];
        Policy::parse(&parts.concat())
    };
    assert!(file(b"K", b"K").is_ok());
    assert!(file("\u{212a}".as_bytes(), "\u{212a}".as_bytes()).is_ok());
    assert!(file("\u{212a}".as_bytes(), b"K").is_err());
    let bytes = file(b"\xff\x80", b"\xff\x80").expect("octets").to_bytes();
    assert!(bytes.windows(2).any(|w| w == b"\xff\x80"));
}

fn many(count: usize, kind: SignatureType, line: impl Fn(usize, &SignerKey) -> String) -> String {
    let key = |i: usize| {
        let seed = tlog::sha256(&[&i.to_be_bytes(), &[kind.byte()]]).0;
        SignerKey::from_seed(crate::support::name(&format!("n{i}")), kind, &seed).expect("a key")
    };
    (0..count).map(|i| line(i, &key(i))).collect()
}

#[test]
fn thirty_two_of_each_and_more_fit_up_to_the_bounds() {
    let logs = |n| {
        many(n, SignatureType::Ed25519, |_, k| {
            format!("log {}\n", k.verifier())
        })
    };
    let witnesses = |n| {
        many(n, SignatureType::MlDsa44Cosignature, |i, k| {
            format!("witness w{i} {}\n", k.verifier())
        })
    };
    // Nested as deep as it goes: each group holds the one before it and one witness.
    let groups = |n: usize| -> String {
        let first = "group g0 all w0\n".to_owned();
        first
            + &(1..n)
                .map(|i| format!("group g{i} all g{} w{i}\n", i - 1))
                .collect::<String>()
    };
    for n in [32, LOGS_MAX] {
        let text = format!(
            "{}{}{}quorum g{}\n",
            logs(n),
            witnesses(n),
            groups(n),
            n - 1
        );
        let policy = parse(&text);
        assert_eq!((policy.logs().len(), policy.witnesses().count()), (n, n));
        let refused = policy.check(&signed(&checkpoint(1, leaf_hash(b"")), &[]));
        assert_eq!(
            refused,
            Err(PolicyRefused::Signatures(NoteRefused::NobodyKnown))
        );
    }
    let refused = |text: String| Policy::parse(text.as_bytes()).expect_err("too many").kind;
    assert_eq!(refused(logs(LOGS_MAX + 1)), PolicyErrorKind::TooMany);
    assert_eq!(
        refused(witnesses(WITNESSES_MAX + 1)),
        PolicyErrorKind::TooMany
    );
    let names = witnesses(WITNESSES_MAX);
    let last = format!("group more any g{}\n", GROUPS_MAX - 1);
    assert_eq!(
        refused(format!("{names}{}{last}", groups(GROUPS_MAX))),
        PolicyErrorKind::TooMany
    );
}

/// A policy as a tree, for an evaluation written the other way round.
#[derive(Clone, Debug)]
enum Rule {
    Witness(u8),
    Group(usize, Vec<Rule>),
}

impl Rule {
    fn holds(&self, signed: &BTreeSet<u8>) -> bool {
        match self {
            Self::Witness(number) => signed.contains(number),
            Self::Group(k, members) => members.iter().filter(|m| m.holds(signed)).count() >= *k,
        }
    }

    /// Lines of the groups below, then the own name.
    fn write(&self, lines: &mut Vec<String>) -> String {
        match self {
            Self::Witness(number) => format!("w{number}"),
            Self::Group(k, members) => {
                let names: Vec<_> = members.iter().map(|m| m.write(lines)).collect();
                let name = format!("g{}", lines.len());
                lines.push(format!("group {name} {k} {}\n", names.join(" ")));
                name
            }
        }
    }
}

const WITNESSES: u8 = 6;

/// Splits the witnesses into nested groups.
fn rules() -> impl Strategy<Value = Rule> {
    let order = Just((0..WITNESSES).collect::<Vec<_>>()).prop_shuffle();
    (order, prop::collection::vec((1_usize..4, 0_usize..4), 1..6)).prop_map(|(order, shapes)| {
        let mut rest: Vec<Rule> = order.into_iter().map(Rule::Witness).collect();
        for (size, k) in shapes {
            let size = size.min(rest.len());
            let members: Vec<_> = rest.drain(..size).collect();
            let group = Rule::Group(1 + k % size, members);
            rest.push(group);
        }
        let all = rest.len();
        Rule::Group(1 + all / 2, rest)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_policy_decides_as_its_tree_says(
        rule in rules(), by in prop::collection::btree_map(0..WITNESSES, 1_u64..9, 0..=6_usize)
    ) {
        let mut groups = Vec::new();
        let quorum = rule.write(&mut groups);
        let witnesses: String = (0..WITNESSES).map(witness_line).collect();
        let text = format!("{}{witnesses}{}quorum {quorum}\n", log_line(), groups.concat());
        let policy = parse(&text);
        prop_assert_eq!(&parse(&String::from_utf8(policy.to_bytes()).expect("text")), &policy);
        let pairs: Vec<_> = by.iter().map(|(w, t)| (*w, *t)).collect();
        let answer = policy.check(&cosigned(&pairs));
        let signed: BTreeSet<u8> = by.keys().copied().collect();
        match answer {
            Ok(trusted) => {
                prop_assert!(rule.holds(&signed));
                // As of the latest time at which it still holds.
                let since = |t: u64| by.iter().filter(|(_, at)| **at >= t).map(|(w, _)| *w).collect();
                let as_of = trusted.as_of().expect("a quorum has a time").get();
                prop_assert!(rule.holds(&since(as_of)));
                prop_assert!(!rule.holds(&since(as_of + 1)));
            }
            Err(refused) => {
                prop_assert!(!rule.holds(&signed));
                let missing: BTreeSet<u8> = names(&refused).iter()
                    .map(|name| name[1..].parse().expect("a number")).collect();
                prop_assert!(missing.is_disjoint(&signed));
                prop_assert!(rule.holds(&signed.union(&missing).copied().collect()));
            }
        }
    }

    #[test]
    fn a_changed_file_is_refused_or_survives_its_bytes(change in mutation()) {
        let text = example();
        let (head, tail) = text.split_once("group X-w").expect("there");
        let bent = mutate(format!("group X-w{tail}").as_bytes(), change);
        let bytes = [head.as_bytes(), &bent].concat();
        if let Ok(policy) = Policy::parse(&bytes) {
            prop_assert_eq!(Policy::parse(&policy.to_bytes()), Ok(policy));
        }
    }

    #[test]
    fn no_bytes_make_parsing_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Policy::parse(&bytes);
    }
}
