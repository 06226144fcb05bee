//! What an honest folder gets, and what one gets that shows less.

use tlog::{Field, Kind};
use verifier::{Asked, ClaimId, Folder, ObjectLine, Verdict, verify};

use crate::build::{
    ACTOR, END_S, Enrolled, MIDDLE_S, NONCE, Repair, START_S, World, asked, exporter, judged,
    policy, signed, witness_keys, write,
};

const NOT_PROVEN: [ClaimId; 4] = [ClaimId::O3, ClaimId::X2, ClaimId::X3, ClaimId::X4];

#[test]
fn an_honest_folder_is_proven_but_for_what_no_folder_shows() {
    let report = judged(&World::new(10).folder());
    for claim in &report.claims {
        let expected = match claim.id {
            ClaimId::O3 => Verdict::AssertedBy("spiffe://ch-zrh/auditor/inspector".to_owned()),
            id if NOT_PROVEN.contains(&id) => Verdict::NotShown,
            _ => Verdict::Proven,
        };
        assert_eq!(
            claim.verdict, expected,
            "{:?}: {}",
            claim.id, claim.statement
        );
    }
    assert!(report.is_proven());
    assert_eq!(report.facts.accesses.len(), 5);
    assert_eq!(report.facts.gaps.len(), 1, "two hours without a word");
}

#[test]
fn a_folder_survives_the_disk() {
    let folder = World::new(10).folder();
    let disk = tempfile::tempdir().expect("a folder");
    let path = disk.path().join("evidence");
    folder.save(&path).expect("saved");
    assert_eq!(Folder::read(&path).expect("read"), folder);
    assert!(folder.save(&path).is_err(), "not over what is there");
    std::fs::create_dir(path.join("more")).expect("made");
    assert!(Folder::read(&path).is_err(), "a folder within");
}

#[test]
fn what_is_asked_for_by_name_has_to_be_proven() {
    let folder = World::new(10).folder();
    let of = |claims: &[ClaimId]| {
        let claims = claims.to_vec();
        verify(
            &folder,
            &policy(),
            &Asked {
                nonce: Some(NONCE),
                claims,
            },
        )
        .is_proven()
    };
    assert!(of(&[ClaimId::R1, ClaimId::O4]));
    assert!(!of(&[ClaimId::R1, ClaimId::X4]));
}

#[test]
fn without_the_nonce_or_with_another_storage_is_not_shown() {
    let folder = World::new(10).folder();
    for nonce in [None, Some([78; 32])] {
        let report = verify(
            &folder,
            &policy(),
            &Asked {
                nonce,
                claims: Vec::new(),
            },
        );
        assert_ne!(
            report.claim(ClaimId::O4).verdict,
            Verdict::Proven,
            "{nonce:?}"
        );
    }
}

#[test]
fn withheld_openings_leave_what_needs_them_not_shown_and_the_rest_proven() {
    let mut parts = World::new(10).parts();
    for line in &mut parts.leaves {
        let kind = tlog::Leaf::parse(line.leaf.as_bytes())
            .expect("a leaf")
            .kind();
        if kind == Kind::Open {
            let shown = line.openings.take().expect("all are disclosed");
            line.openings = Some(shown.reveal(&[Field::Details], false));
        }
    }
    let report = judged(&write(parts));
    for (id, verdict) in [
        (ClaimId::F1, Verdict::Proven),
        (ClaimId::L4, Verdict::Proven),
        (ClaimId::D2, Verdict::Proven),
        (ClaimId::D4, Verdict::NotShown),
        (ClaimId::D5, Verdict::NotShown),
        (ClaimId::D6, Verdict::NotShown),
    ] {
        assert_eq!(report.claim(id).verdict, verdict, "{id:?}");
    }
}

#[test]
fn a_slice_alone_asserts_what_the_whole_log_proves() {
    let mut parts = World::new(10).parts();
    parts.leaves.retain(|line| ![5, 11].contains(&line.index));
    let report = judged(&write(parts));
    assert_eq!(report.claim(ClaimId::D2).verdict, Verdict::Proven);
    for id in [ClaimId::D3, ClaimId::R1, ClaimId::W1] {
        let verdict = &report.claim(id).verdict;
        assert!(
            matches!(verdict, Verdict::AssertedBy(_)),
            "{id:?}: {verdict}"
        );
    }
}

#[test]
fn true_leaves_that_tell_of_a_breach_contradict_the_claim() {
    // A release abroad; a person's purpose with one approver; with the actor's own approval; without any.
    let abroad = |world: &mut World| {
        let fields = [
            (Field::Actor, "spiffe://xx-far/gateway/gw-9".to_owned()),
            (Field::RecipientRegion, "xx-far".to_owned()),
            (Field::Bytes, "0".to_owned()),
        ];
        world.append(Kind::Open, END_S - 60, "service", Some(12), &fields, vec![]);
    };
    let approved = |by: &[&str]| {
        let list: Vec<String> = by
            .iter()
            .map(|who| format!(r#"{{"approver":"{who}"}}"#))
            .collect();
        let field = (Field::Approvals, format!("[{}]", list.join(",")));
        move |world: &mut World| {
            world.open(
                END_S - 60,
                "investigation",
                &[0],
                std::slice::from_ref(&field),
            )
        }
    };
    let mut one = World::new(10);
    abroad(&mut one);
    assert_eq!(
        judged(&one.folder()).claim(ClaimId::D5).verdict,
        Verdict::Contradicted
    );
    for by in [
        &["spiffe://ch-zrh/operator/two"][..],
        &["spiffe://ch-zrh/operator/two", ACTOR],
        &["a", "a"],
    ] {
        let mut world = World::new(10);
        approved(by)(&mut world);
        let report = judged(&world.folder());
        assert_eq!(
            report.claim(ClaimId::D6).verdict,
            Verdict::Contradicted,
            "{by:?}"
        );
    }
    let mut none = World::new(10);
    none.open(END_S - 60, "legal-request", &[0], &[]);
    assert_eq!(
        judged(&none.folder()).claim(ClaimId::D6).verdict,
        Verdict::Contradicted
    );
}

#[test]
fn a_region_whose_clock_is_off_is_contradicted_by_its_cosigners() {
    let mut world = World::new(10);
    world.open(END_S + 121, "service", &[0], &[]);
    assert_eq!(
        judged(&world.folder()).claim(ClaimId::L5).verdict,
        Verdict::Contradicted
    );
    let mut world = World::new(10);
    world.open(END_S + 119, "service", &[0], &[]);
    assert_eq!(
        judged(&world.folder()).claim(ClaimId::L5).verdict,
        Verdict::Proven
    );
}

#[test]
fn checkpoints_that_do_not_reach_over_the_period_do_not_prove_it() {
    for (from, to, weak) in [
        (START_S - 1, END_S, ClaimId::L2),
        (START_S, END_S + 1, ClaimId::L1),
        (END_S, START_S, ClaimId::L1),
    ] {
        let mut parts = World::new(10).parts();
        parts.period.from_ms = from * 1_000;
        parts.period.to_ms = to * 1_000;
        let report = judged(&write(parts));
        assert_ne!(report.claim(weak).verdict, Verdict::Proven);
        assert!(!report.is_proven());
    }
}

#[test]
fn too_few_cosigners_and_stale_ones_do_not_vouch() {
    let world = World::new(10);
    let size = world.size();
    let [one, two, _] = witness_keys();
    for (note, id) in [
        (world.note_by(size, END_S, &[one, two]), ClaimId::L1),
        (world.note(size, END_S - 1), ClaimId::L1),
        (world.note(size, MIDDLE_S - 1), ClaimId::L6),
    ] {
        let mut parts = world.parts();
        parts.checkpoints[2].note = note;
        assert_ne!(
            judged(&write(parts)).claim(id).verdict,
            Verdict::Proven,
            "{id:?}"
        );
    }
}

#[test]
fn two_histories_that_are_both_cosigned_are_seen_as_a_fork() {
    let (here, mut there) = (World::new(10), World::new(11));
    there.open(END_S - 1, "service", &[0], &[]);
    let mut parts = there.parts();
    parts.checkpoints[0].note = here.note(3, START_S);
    parts.checkpoints[1].note = here.note(8, MIDDLE_S);
    let report = judged(&write(parts));
    assert_eq!(report.claim(ClaimId::L3).verdict, Verdict::Contradicted);
    assert!(!report.is_proven());
}

#[test]
fn a_stranger_s_signature_makes_no_folder_the_exporter_s() {
    let mut files = World::new(10).folder().files().clone();
    signed(&mut files, &Enrolled::of(99));
    let report = judged(&Folder::from_files(files.clone()).expect("reads"));
    assert_eq!(report.claim(ClaimId::F1).verdict, Verdict::Contradicted);
    signed(&mut files, &exporter());
    assert!(judged(&Folder::from_files(files).expect("reads")).is_proven());
}

#[test]
fn a_policy_that_asks_nobody_proves_nothing_by_itself() {
    let text = format!("log {}\nquorum none\n", crate::build::log_key().verifier());
    let nobody = tlog::Policy::parse(text.as_bytes()).expect("a policy");
    let report = verify(&World::new(10).folder(), &nobody, &asked());
    assert!(matches!(
        report.claim(ClaimId::L1).verdict,
        Verdict::AssertedBy(_)
    ));
    assert!(
        report
            .claims
            .iter()
            .all(|claim| claim.verdict != Verdict::Proven)
    );
}

#[test]
fn every_form_of_the_report_has_assumptions_and_limits_and_the_page_asks_nobody() {
    let mut parts = World::new(10).parts();
    parts.region = "<script>alert(1)</script>\u{1b}[2J".to_owned();
    let report = judged(&write(parts));
    let (text, json, html) = (report.to_text(), report.to_json(), report.to_html());
    for (id, words) in verifier::ASSUMPTIONS.iter().chain(verifier::LIMITS) {
        for form in [&text, &json, &html] {
            assert!(form.contains(words), "{id}");
        }
    }
    let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(value["all_asked_proven"], false);
    assert!(!text.contains('\u{1b}') && !html.contains('\u{1b}'));
    assert!(!html.contains("<script") && html.matches("<svg").count() == 2);
    let elsewhere = html.replace("http://www.w3.org/2000/svg", "");
    assert!(
        !elsewhere.contains("http:")
            && !elsewhere.contains("https:")
            && !elsewhere.contains("src=")
            && !elsewhere.contains("href")
    );
}

#[test]
fn what_the_kms_signed_of_other_things_proves_no_keying() {
    let world = World::new(10);
    let lines = world.parts().objects.expect("a list");
    let honest = world.statement(&lines);
    let kms = crate::build::replica();
    let mut cases: Vec<(&str, Verdict, Vec<verifier::HeaderLine>)> = Vec::new();
    let mut case = |what, verdict, change: &dyn Fn(&mut proto::v1::HeaderStatement)| {
        let mut statement = honest.clone();
        change(&mut statement);
        cases.push((what, verdict, vec![crate::build::stated(&statement, &kms)]));
    };
    let no = || Verdict::Contradicted;
    case("all of it", Verdict::Proven, &|_| {});
    case("a version left out", Verdict::NotShown, &|s| {
        s.headers.remove(2);
    });
    // One version came in parts: headers 3 to 5.
    case("a part left out", Verdict::NotShown, &|s| {
        s.headers.remove(4);
    });
    case("all parts but the first", Verdict::NotShown, &|s| {
        s.headers.drain(4..6);
    });
    case("another part", no(), &|s| s.headers[4].part = 4);
    case("parts in another order", no(), &|s| s.headers.swap(3, 4));
    case("another part's salt", no(), &|s| {
        s.headers[4].stream_salt = s.headers[5].stream_salt.clone();
    });
    case("another dataset", no(), &|s| {
        s.dataset_id = vec![9; 16].into()
    });
    case("another key", no(), &|s| s.kek_id = vec![9; 16].into());
    case("another region", no(), &|s| s.region = "de-fra".to_owned());
    case("a replica nobody enrolled", no(), &|s| {
        s.replica = "spiffe://ch-zrh/kms/two".to_owned();
    });
    case("no replica", no(), &|s| s.replica = ACTOR.to_owned());
    case("another format", no(), &|s| s.format = 2);
    case("another salt", no(), &|s| {
        s.headers[1].stream_salt = vec![0; 24].into();
    });
    case("another commitment", no(), &|s| {
        s.headers[1].commitment = vec![0; 32].into();
    });
    case("a token that does not open", no(), &|s| {
        s.headers[1].commitment = Vec::new().into();
    });
    case("another name", no(), &|s| {
        s.headers[1].name_commitment = vec![0; 32].into();
    });
    case("another lease", no(), &|s| {
        s.headers[1].lease_id = vec![0; 16].into();
    });
    case("another version of the key", no(), &|s| {
        s.headers[1].kek_version = 7
    });
    case("a version twice", no(), &|s| {
        let first = s.headers[0].clone();
        s.headers.insert(0, first);
    });
    case("a version that is not listed", no(), &|s| {
        let last = s.headers[4].clone();
        s.headers.push(proto::v1::AttestedHeader {
            version_id: vec![255; 16].into(),
            ..last
        });
    });
    let stranger = vec![crate::build::stated(&honest, &Enrolled::of(7))];
    cases.push(("a stranger's signature", no(), stranger));
    for (what, verdict, headers) in cases {
        let mut parts = world.parts();
        parts.headers = Some(headers);
        let claim = judged(&write(parts)).claim(ClaimId::X1).clone();
        assert_eq!(claim.verdict, verdict, "{what}: {}", claim.statement);
    }
}

#[test]
fn what_no_node_could_read_is_listed_and_neither_stored_nor_keyed() {
    let world = World::new(10);
    for at in 0..5 {
        let mut parts = world.parts();
        let lines = parts.objects.as_mut().expect("a list");
        lines[at].sealed_root = None;
        lines[at].header = None;
        lines[at]
            .parts
            .iter_mut()
            .for_each(|part| part.header = None);
        // Answers to the list as it is now: pieces that are there stay true.
        parts.challenge = world.answers(lines);
        let report = judged(&write(parts));
        assert_eq!(report.claim(ClaimId::O1).verdict, Verdict::Proven);
        assert_ne!(report.claim(ClaimId::O4).verdict, Verdict::Proven, "{at}");
        assert_eq!(report.claim(ClaimId::X1).verdict, Verdict::Contradicted);
        let stored = &report.claim(ClaimId::O3).statement;
        assert!(stored.contains("1 of them no node"), "{stored}");
    }
    let mut parts = world.parts();
    parts.objects.as_mut().expect("a list")[0].header = None;
    let report = judged(&write(parts));
    assert_eq!(report.claim(ClaimId::O1).verdict, Verdict::Contradicted);
}

/// The list says of an object in parts how long each is and how its stream begins, and all of it has to fit.
#[test]
fn parts_have_the_lengths_of_streams_and_make_the_object() {
    let world = World::new(10);
    let list = world.parts().objects.expect("a list");
    let at = list.iter().position(|line| !line.parts.is_empty());
    let at = at.expect("one in parts");
    let case = |what, change: &dyn Fn(&mut ObjectLine)| {
        let mut parts = world.parts();
        let lines = parts.objects.as_mut().expect("a list");
        change(&mut lines[at]);
        assert_ne!(*lines, list, "{what}");
        let claim = judged(&write(parts)).claim(ClaimId::O1).clone();
        let verdict = claim.verdict;
        assert_eq!(
            verdict,
            Verdict::Contradicted,
            "{what}: {}",
            claim.statement
        );
    };
    case("one stream", &|line| line.parts.clear());
    case("a part less", &|line| drop(line.parts.pop()));
    case("a part twice", &|line| {
        let last = line.parts[2].clone();
        line.parts.push(last);
    });
    case("parts in another order", &|line| line.parts.swap(0, 1));
    case("no number", &|line| line.parts[0].part = 0);
    case("a longer part", &|line| line.parts[1].bytes += 1);
    case("a part of other sealed bytes", &|line| {
        line.parts[0].sealed_bytes += 16;
        line.sealed_bytes += 16;
    });
    case("a longer object", &|line| line.bytes += 1);
    case("another beginning", &|line| {
        line.header.clone_from(&line.parts[1].header);
    });
    case("a part without a header", &|line| {
        line.parts[2].header = None;
    });
}

/// Folders of objects that are one stream each are spelled as they were before there were parts.
#[test]
fn an_object_that_is_one_stream_is_spelled_without_parts() {
    let folder = World::new(10).folder();
    let text = String::from_utf8(folder.files()["objects.jsonl"].clone()).expect("text");
    let with: Vec<bool> = text.lines().map(|line| line.contains("parts")).collect();
    assert_eq!(with, [false, false, false, true, false]);
    let mut files = folder.files().clone();
    let spelled = text.replacen("\"}\n", "\",\"parts\":[]}\n", 1);
    assert_ne!(spelled, text);
    files.insert("objects.jsonl".to_owned(), spelled.into_bytes());
    assert!(Folder::from_files(crate::build::repaired(files, Repair::Signature)).is_err());
}

#[test]
fn a_token_may_be_rewrapped_under_a_newer_version_that_the_log_shows_and_no_other() {
    let world = World::new(10);
    let lines = world.parts().objects.expect("a list");
    let under = |version: u32| lines.iter().position(|line| line.kek_version == version);
    let (first, second) = (under(1).expect("sealed"), under(2).expect("sealed"));
    for (at, version, verdict) in [
        (first, 2, Verdict::Proven),
        (first, 3, Verdict::Contradicted),
        (first, 0, Verdict::Contradicted),
        (second, 1, Verdict::Contradicted),
        (second, 3, Verdict::Contradicted),
    ] {
        let mut parts = world.parts();
        parts.objects.as_mut().expect("a list")[at].kek_version = version;
        let claim = judged(&write(parts)).claim(ClaimId::O2).clone();
        assert_eq!(
            claim.verdict, verdict,
            "{at} {version}: {}",
            claim.statement
        );
    }
}
