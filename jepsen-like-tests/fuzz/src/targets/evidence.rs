//! Evidence folders, as an investigator is handed them: a true one with edits, by forgers of three kinds.

use std::sync::OnceLock;

use verifier::{Folder, Verdict};

use crate::input::{Input, edited};
use crate::{Memory, Shape, Source, Target};

#[path = "../../../../verifier/tests/evidence/build.rs"]
#[allow(dead_code, reason = "the verifier's own tests use the rest of it")]
mod build;

use self::build::{Files, Repair, World, judged, repaired};

pub(super) const EVIDENCE: Target = Target {
    name: "evidence",
    from: Source::Network,
    parses: &[
        "verifier/src/folder.rs: from_files",
        "verifier/src/check.rs: verify",
        "verifier/src/report.rs: to_html",
    ],
    shape: Shape::Bytes,
    len_max: 512,
    // The folder that is edited, its copy, and what both parse to.
    memory: Memory {
        fixed: 32 << 20,
        per_byte: 256,
    },
    check: evidence,
    seeds,
};

fn honest() -> &'static Files {
    static HONEST: OnceLock<Files> = OnceLock::new();
    HONEST.get_or_init(|| World::new(10).folder().files().clone())
}

/// The first byte chooses a file, the second who signs what came of it, the rest edits it.
fn evidence(data: &[u8]) {
    let honest = honest();
    let mut input = Input::new(data);
    let number = usize::from(input.u8()) % honest.len();
    let (name, bytes) = honest.iter().nth(number).expect("below their number");
    let repair = input.pick(&[Repair::None, Repair::Index, Repair::Signature]);
    let mut files = honest.clone();
    files.insert(name.clone(), edited(bytes, input.rest()));
    let files = repaired(files, repair);
    let is_honest = files == *honest;
    let Ok(folder) = Folder::from_files(files) else {
        assert!(!is_honest, "a true folder is read");
        return;
    };
    let report = judged(&folder);
    let proven = report.is_proven();
    assert_eq!(judged(&folder), report, "one folder, one report");
    assert!(report.to_html().ends_with("</html>\n"));
    drop((report.to_text(), report.to_json()));
    assert!(proven || !is_honest, "a true folder is proven");
    // Who has no key of the exporter's bends nothing unseen.
    if !is_honest && repair != Repair::Signature {
        let whole = &report.claim(verifier::ClaimId::F1).verdict;
        assert!(!proven && *whole != Verdict::Proven);
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let count = u8::try_from(honest().len()).expect("a few files");
    for file in 0..count {
        for repair in 0..3 {
            seeds.push(vec![file, repair]);
            // A bit, a cut, and bytes that stand elsewhere.
            seeds.push(vec![file, repair, 0, 200, 0, 0, 0, 1]);
            seeds.push(vec![file, repair, 4, 90, 1, 0, 0]);
            seeds.push(vec![file, repair, 7, 40, 0, 0, 0, 200, 0, 0, 0, 30, 0]);
        }
    }
    seeds
}
