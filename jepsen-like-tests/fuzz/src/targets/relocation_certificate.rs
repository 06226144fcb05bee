//! Certificates of relocations, as an investigator is handed them: a true one with edits.

use std::sync::OnceLock;

use verifier::{Bundle, Pins, verify_certificate};

use crate::input::edited;
use crate::{Memory, Shape, Source, Target};

#[path = "../../../../verifier/tests/certificate/build.rs"]
#[allow(dead_code, reason = "the verifier's own tests use the rest of it")]
mod build;

use self::build::World;

pub(super) const RELOCATION_CERTIFICATE: Target = Target {
    name: "relocation-certificate",
    from: Source::Network,
    parses: &[
        "tlog/src/certificate.rs: Statement::parse",
        "tlog/src/certificate.rs: DsseEnvelope::open",
        "verifier/src/certificate.rs: Bundle::parse",
        "verifier/src/certificate/judge.rs: verify_certificate",
    ],
    shape: Shape::Bytes,
    len_max: 512,
    // The file that is edited, and what it parses to.
    memory: Memory {
        fixed: 32 << 20,
        per_byte: 256,
    },
    check: certificate,
    seeds,
};

struct Honest {
    file: Vec<u8>,
    pins: Pins,
}

fn honest() -> &'static Honest {
    static HONEST: OnceLock<Honest> = OnceLock::new();
    HONEST.get_or_init(|| {
        let world = World::new();
        Honest {
            file: world.bundle().encode(),
            pins: world.pins(),
        }
    })
}

/// The input edits a true file: what comes of it is refused, does not hold, or is the true one.
fn certificate(data: &[u8]) {
    let Honest { file, pins } = honest();
    let bytes = edited(file, data);
    let is_honest = bytes == *file;
    let Ok(bundle) = Bundle::parse(&bytes) else {
        assert!(!is_honest, "a true certificate is read");
        return;
    };
    assert_eq!(bundle.encode(), bytes, "one spelling");
    let report = verify_certificate(&bundle, pins);
    drop((report.to_text(), report.to_json()));
    assert!(report.holds() || !is_honest, "a true certificate holds");
    // A leaf may be left out that no claim needs; what is stated stays.
    let stated = |bundle: &Bundle| bundle.certificate().open().map(|(said, _)| said);
    let same = || Bundle::parse(file).is_ok_and(|honest| stated(&honest) == stated(&bundle));
    assert!(!report.holds() || same(), "another statement holds");
    assert!(!verify_certificate(&bundle, &Pins::default()).holds());
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![Vec::new()];
    let end = u32::try_from(honest().file.len()).unwrap_or(u32::MAX);
    for at in (0..end).step_by(997) {
        let [a, b, c, d] = at.to_le_bytes();
        // A bit, a cut, and bytes that stand elsewhere.
        seeds.push(vec![0, a, b, c, d, 1]);
        seeds.push(vec![4, a, b, c, d, 0]);
        seeds.push(vec![7, a, b, c, d, 0, 0, 0, 200, 0, 30]);
    }
    seeds
}
