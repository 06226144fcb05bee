//! Single mutations of a folder, generated from its own bytes: each must cost at least one claim its PROVEN.
//!
//! A forger without a key changes a file; one with time makes the index fit; one with the exporter's key signs it too.
//! The last one must still fail wherever a claim does not rest on the exporter: at checkpoints, leaves, proofs, openings
//! and the gap table. What is the exporter's own word (the list, when the folder was made) is never called proven.

use std::collections::BTreeSet;
use std::ops::Range;

use verifier::{ClaimId, Folder, Parts, Verdict};

use crate::build::{
    END_S, Files, MIDDLE_S, REGION, Repair, START_S, World, exporter, hex16, judged, repaired,
    signed, witness_keys,
};

/// Files whose content the log vouches for, whoever signs the index.
const OF_THE_LOG: &[&str] = &[
    "checkpoints.jsonl",
    "leaves.jsonl",
    "gaps.json",
    "witnesses.policy",
    // The KMS signs it.
    "headers.jsonl",
];

struct Mutation {
    name: String,
    files: Files,
}

/// Every string and number of JSON text, without the quotes.
pub(crate) fn tokens(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let start = at;
        match bytes[at] {
            b'"' => {
                at += 1;
                while bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                out.push(start + 1..at);
            }
            b if b.is_ascii_digit() => {
                while bytes[at + 1].is_ascii_digit() {
                    at += 1;
                }
                out.push(start..at + 1);
            }
            _ => {}
        }
        at += 1;
    }
    out
}

/// The token with one character or number changed into another of its kind.
fn bent(token: &str) -> Option<String> {
    if let Ok(number) = token.parse::<u64>() {
        return Some((number + 1).to_string());
    }
    let at =
        (token.len() / 2..token.len()).find(|at| token.as_bytes()[*at].is_ascii_alphanumeric())?;
    let mut bytes = token.as_bytes().to_vec();
    bytes[at] = match bytes[at] {
        b'0' => b'1',
        b if b.is_ascii_digit() => b - 1,
        b'a' | b'A' => bytes[at] + 1,
        b => b - 1,
    };
    String::from_utf8(bytes).ok()
}

fn replaced(text: &str, span: Range<usize>, with: &str) -> String {
    let mut out = text.to_owned();
    out.replace_range(span, with);
    out
}

/// Every field, and every field of JSON and every line of a note within a string.
fn of_fields(text: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for span in tokens(text) {
        let token = &text[span.clone()];
        let place = format!("field at {}", span.start);
        if token.contains("\\n") {
            for (number, line) in token.split("\\n").enumerate() {
                let Some(bent) = bent(line) else { continue };
                let lines: Vec<&str> = token.split("\\n").collect();
                let mut changed = lines.clone();
                changed[number] = &bent;
                out.push((
                    format!("{place}, line {number}"),
                    replaced(text, span.clone(), &changed.join("\\n")),
                ));
                let mut dropped = lines;
                dropped.remove(number);
                out.push((
                    format!("{place}, line {number} dropped"),
                    replaced(text, span.clone(), &dropped.join("\\n")),
                ));
            }
        } else if token.starts_with("{\\\"") {
            let inner: String = serde_json::from_str(&format!("\"{token}\"")).expect("a string");
            for inside in tokens(&inner) {
                let Some(bent) = bent(&inner[inside.clone()]) else {
                    continue;
                };
                let changed =
                    serde_json::to_string(&replaced(&inner, inside.clone(), &bent)).expect("JSON");
                let changed = &changed[1..changed.len() - 1];
                out.push((
                    format!("{place}, within at {}", inside.start),
                    replaced(text, span.clone(), changed),
                ));
            }
        } else if let Some(bent) = bent(token) {
            out.push((place, replaced(text, span, &bent)));
        }
    }
    out
}

/// Lines dropped, doubled, swapped; hashes of proofs dropped; bytes cut and added.
fn of_structure(text: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let mut out = Vec::new();
    for at in 0..lines.len() {
        let mut dropped = lines.clone();
        dropped.remove(at);
        out.push((format!("line {at} dropped"), dropped.concat()));
        let mut doubled = lines.clone();
        doubled.insert(at, lines[at]);
        out.push((format!("line {at} doubled"), doubled.concat()));
        if at > 0 {
            let mut swapped = lines.clone();
            swapped.swap(at - 1, at);
            out.push((
                format!("lines {} and {at} swapped", at - 1),
                swapped.concat(),
            ));
        }
        if let Some(span) = lines[at]
            .find("\"proof\":[\"")
            .map(|start| start + 9..start + 9 + 47)
        {
            let shorter = replaced(lines[at], span, "");
            let mut changed = lines.clone();
            changed[at] = &shorter;
            out.push((
                format!("line {at}, a hash of the proof dropped"),
                changed.concat(),
            ));
        }
    }
    out.push(("cut in half".to_owned(), text[..text.len() / 2].to_owned()));
    out.push((
        "last byte cut".to_owned(),
        text[..text.len() - 1].to_owned(),
    ));
    out.push(("empty".to_owned(), String::new()));
    out.push(("a newline more".to_owned(), format!("{text}\n")));
    out.push(("a space more".to_owned(), format!(" {text}")));
    out
}

fn in_file(files: &Files, name: &str, of: impl Fn(&str) -> Vec<(String, String)>) -> Vec<Mutation> {
    let text = std::str::from_utf8(&files[name]).expect("files are text");
    let bent = of(text).into_iter().map(|(what, text)| {
        let mut files = files.clone();
        files.insert(name.to_owned(), text.into_bytes());
        Mutation {
            name: format!("{name}: {what}"),
            files,
        }
    });
    bent.collect()
}

fn of_files(files: &Files) -> Vec<Mutation> {
    let mut out = Vec::new();
    for name in files.keys() {
        let mut without = files.clone();
        without.remove(name);
        out.push(Mutation {
            name: format!("{name} removed"),
            files: without,
        });
    }
    for name in ["extra", "leaves.jsonl.bak", "checkpoints.json"] {
        let mut with = files.clone();
        with.insert(name.to_owned(), b"{}\n".to_vec());
        out.push(Mutation {
            name: format!("{name} added"),
            files: with,
        });
    }
    out
}

/// Claims that are proven of these files; none where they are no folder.
fn proven(files: Files) -> BTreeSet<ClaimId> {
    let Ok(folder) = Folder::from_files(files) else {
        return BTreeSet::new();
    };
    let claims = judged(&folder).claims.into_iter();
    let proven = claims.filter(|claim| claim.verdict == Verdict::Proven);
    proven.map(|claim| claim.id).collect()
}

fn check(mutations: Vec<Mutation>, repair: Repair, original: &Files) -> usize {
    let before = proven(original.clone());
    let mut survivors = Vec::new();
    let count = mutations.len();
    for Mutation { name, files } in mutations {
        assert_ne!(&files, original, "{name} is no mutation");
        if proven(repaired(files, repair)).is_superset(&before) {
            survivors.push(name);
        }
    }
    assert!(
        survivors.is_empty(),
        "{repair:?}: still proven:\n{}",
        survivors.join("\n")
    );
    println!("{repair:?}: {count} mutations, none of which left every claim proven");
    count
}

#[test]
fn every_mutation_of_every_file_costs_a_claim() {
    let files = World::new(10).folder().files().clone();
    let all = |names: &mut dyn Iterator<Item = &String>| {
        let mut out = Vec::new();
        for name in names {
            out.extend(in_file(&files, name, of_fields));
            out.extend(in_file(&files, name, of_structure));
        }
        out
    };
    let mut raw = all(&mut files.keys());
    raw.extend(of_files(&files));
    let raw = check(raw, Repair::None, &files);
    let unsigned = |name: &&String| !name.starts_with("folder.");
    let index = check(
        all(&mut files.keys().filter(unsigned)),
        Repair::Index,
        &files,
    );
    assert!(raw >= 200 && index >= 200, "{raw}, {index}");
}

#[test]
fn an_exporter_who_bends_what_the_log_vouches_for_is_caught() {
    let files = World::new(10).folder().files().clone();
    let mut mutations = Vec::new();
    for name in OF_THE_LOG {
        mutations.extend(in_file(&files, name, of_fields));
        mutations.extend(in_file(&files, name, of_structure));
    }
    // The list cannot be signed anew without its root; nor can it be left out.
    mutations.extend(in_file(&files, "objects.jsonl", of_fields));
    mutations.extend(in_file(&files, "challenge.json", of_fields));
    mutations.extend(of_files(&files));
    let names = ["folder.json removed", "folder.sig removed"];
    mutations.retain(|m| !names.contains(&m.name.as_str()));
    let count = check(mutations, Repair::Signature, &files);
    assert!(count >= 200, "{count}");
}

#[test]
fn an_index_that_its_exporter_signs_with_other_names_is_caught() {
    let world = World::new(10);
    let before = proven(world.folder().files().clone());
    let text = String::from_utf8(world.folder().files()["folder.json"].clone()).expect("text");
    let change = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    };
    let bent = [
        (
            "region",
            change(&format!("\"region\":\"{REGION}\""), "\"region\":\"de-fra\""),
        ),
        ("origin", change("ch-zrh/main/1", "ch-zrh/main/2")),
        ("dataset", change(&hex16(10), &hex16(70))),
        ("pseudonym", change(&hex16(12), &hex16(112))),
        ("key id", change(&hex16(11), &hex16(71))),
        ("exporter", change("auditor/inspector", "operator/one")),
        (
            "period from",
            change("\"from_ms\":1790000000000", "\"from_ms\":1789999999999"),
        ),
        (
            "period to",
            change("\"to_ms\":1790010200000", "\"to_ms\":1790010200001"),
        ),
        ("object count", change("\"count\":5", "\"count\":4")),
        (
            "object bytes",
            change("\"bytes\":200000,\"root\"", "\"bytes\":200001,\"root\""),
        ),
        ("format", change("\"format\":1", "\"format\":2")),
    ];
    for (what, index) in bent {
        let mut files = world.folder().files().clone();
        files.insert("folder.json".to_owned(), index.into_bytes());
        signed(&mut files, &exporter());
        assert!(!proven(files).is_superset(&before), "{what}");
    }
}

#[test]
fn parts_of_another_region_or_another_log_are_caught() {
    let (here, there) = (World::new(10), World::new(130));
    let before = proven(here.folder().files().clone());
    let honest = here.parts();
    let mut cases = Vec::new();
    let mut list = here.parts();
    list.objects = there.parts().objects;
    cases.push(("another region's list, with a root of its own", list));
    let mut leaves = here.parts();
    leaves.leaves = there.parts().leaves;
    cases.push(("another log's leaves", leaves));
    let mut end = here.parts();
    end.checkpoints[2] = there.parts().checkpoints[2].clone();
    cases.push(("another log's end", end));
    let mut answers = here.parts();
    answers.challenge = there.parts().challenge;
    cases.push(("another list's answers", answers));
    let mut lease = here.parts();
    lease.objects.as_mut().expect("a list")[0].lease = hex16(200);
    cases.push(("a lease of nobody", lease));
    let mut version = here.parts();
    version.objects.as_mut().expect("a list")[0].kek_version = 2;
    cases.push(("another version of the key", version));
    let mut name = here.parts();
    name.objects.as_mut().expect("a list")[0].name = tlog::sha256(&[b"other"]);
    cases.push(("another name than was opened", name));
    for (what, parts) in cases {
        assert_ne!(parts, honest, "{what}");
        let files = crate::build::write(parts).files().clone();
        assert!(!proven(files).is_superset(&before), "{what}");
    }
}

/// The kinds of forgery that every folder has to survive, each by an exporter who signs what comes of it.
#[test]
fn leaves_trees_cosignatures_key_ids_and_manifests_are_not_exchanged_unseen() {
    let (here, there) = (World::new(10), World::new(130));
    let before = proven(here.folder().files().clone());
    let (honest, other) = (here.parts(), there.parts());
    let mut cases = Vec::new();
    let mut case = |what: String, change: &dyn Fn(&mut Parts)| {
        let mut parts = honest.clone();
        change(&mut parts);
        assert_ne!(parts, honest, "{what}");
        cases.push((what, parts));
    };
    for at in 0..honest.leaves.len() {
        case(format!("leaf {at} dropped"), &|parts| {
            parts.leaves.remove(at);
        });
        if at > 0 {
            case(format!("leaves {} and {at} exchanged", at - 1), &|parts| {
                parts.leaves.swap(at - 1, at);
            });
            // In order again, with the proofs left where they were.
            case(format!("leaf {at} in the place before it"), &|parts| {
                let (first, rest) = parts.leaves.split_at_mut(at);
                std::mem::swap(&mut first[at - 1].leaf, &mut rest[0].leaf);
            });
        }
    }
    for at in 0..honest.checkpoints.len() {
        case(format!("tree {at} of a fork"), &|parts| {
            parts.checkpoints[at] = other.checkpoints[at].clone();
        });
        let size = [3, 8, here.size()][at];
        let stale = here.note(size, START_S - 10_000);
        case(format!("cosignatures of tree {at} are stale"), &|parts| {
            parts.checkpoints[at].note.clone_from(&stale);
        });
        let few = here.note_by(size, [START_S, MIDDLE_S, END_S][at], &witness_keys()[1..]);
        case(format!("a cosignature of tree {at} is missing"), &|parts| {
            parts.checkpoints[at].note.clone_from(&few);
        });
    }
    // Of the other dataset in this very log.
    case("another dataset's key id".to_owned(), &|parts| {
        parts.dataset.kek = hex16(71);
    });
    case("another region's manifest".to_owned(), &|parts| {
        parts.objects.clone_from(&other.objects);
    });
    case(
        "the same, with all that belongs to it".to_owned(),
        &|parts| {
            parts.objects.clone_from(&other.objects);
            parts.challenge.clone_from(&other.challenge);
            parts.headers.clone_from(&other.headers);
        },
    );
    let count = cases.len();
    for (what, parts) in cases {
        let files = crate::build::write(parts).files().clone();
        assert!(!proven(files).is_superset(&before), "{what}");
    }
    assert!(count > 40, "{count}");
}
