//! Bytes that nobody made on purpose: refused or judged, never a panic.

use proptest::prelude::*;
use verifier::{Folder, Verdict};

use crate::build::{Files, World, judged};

fn survives(files: Files) {
    if let Ok(folder) = Folder::from_files(files) {
        let report = judged(&folder);
        assert!(report.to_html().ends_with("</html>\n"));
        drop((report.to_text(), report.to_json()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn any_bytes_in_any_file_are_survived(
        file in 0_usize..8,
        at in any::<prop::sample::Index>(),
        with in prop::collection::vec(any::<u8>(), 0..12),
        cut in 0_usize..12,
    ) {
        let mut files = World::new(10).folder().files().clone();
        let name = files.keys().nth(file).expect("eight files").clone();
        let bytes = files.get_mut(&name).expect("there");
        let at = at.index(bytes.len());
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, with);
        survives(files);
    }

    #[test]
    fn extreme_numbers_are_survived(
        number in prop::sample::select(vec!["0", "1", "18446744073709551615", "4611686018427387904", "9223372036854775808"]),
        file in prop::sample::select(vec!["folder.json", "leaves.jsonl", "objects.jsonl", "gaps.json"]),
        which in any::<prop::sample::Index>(),
    ) {
        let mut files = World::new(10).folder().files().clone();
        let text = String::from_utf8(files[file].clone()).expect("text");
        let spans = crate::mutations::tokens(&text);
        let numbers: Vec<_> = spans.into_iter().filter(|s| text.as_bytes()[s.start].is_ascii_digit()).collect();
        let span = which.get(&numbers).clone();
        let mut bent = text;
        bent.replace_range(span, number);
        files.insert(file.to_owned(), bent.into_bytes());
        survives(crate::build::repaired(files, crate::build::Repair::Signature));
    }
}

#[test]
fn an_empty_list_and_an_empty_slice_are_judged() {
    let mut parts = World::new(10).parts();
    parts.objects = Some(Vec::new());
    parts.leaves.clear();
    parts.checkpoints.clear();
    parts.challenge = Some(verifier::StorageAnswers {
        nonce: hex::encode(crate::build::NONCE),
        answers: Vec::new(),
    });
    let report = judged(&crate::build::write(parts));
    assert!(
        report
            .claims
            .iter()
            .all(|claim| claim.verdict != Verdict::Proven)
    );
}
