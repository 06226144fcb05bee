//! The claims of a certificate, each on what the ones before it established.
//!
//! Owns the list and what each claim needs. Refuses to call proven what rests on an unpinned descriptor, and what is the word
//! of those who would have to lie.

use std::collections::BTreeMap;

use serde::Serialize;

use super::leaves::{Read, judged};
use super::side::Side;
use super::{Bundle, CertificateReport, Pins};
use crate::check::Finding;
use crate::claim::Verdict;

/// What a claim has to come out as for the certificate to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Needs {
    Proven,
    /// Or the word of those who are named.
    Said,
    /// It is printed for what it does not say.
    Nothing,
}

struct Asked {
    id: &'static str,
    title: &'static str,
    needs: Needs,
    rests_on: &'static [&'static str],
    assumptions: &'static [&'static str],
}

macro_rules! asked {
    ($($id:literal, $needs:ident, $title:literal, [$($rests:literal)*], [$($assumption:literal)*];)*) => {
        static ASKED: &[Asked] = &[$(Asked {
            id: $id,
            title: $title,
            needs: Needs::$needs,
            rests_on: &[$($rests,)*],
            assumptions: &[$($assumption,)*],
        },)*];
    };
}

asked! {
    "R1", Proven, "Who the source is", [], ["A4"];
    "R2", Proven, "Who the destination is", [], ["A4"];
    "S1", Proven, "The source's KMS signed the statement", ["R1"], ["A4"];
    "S2", Proven, "The destination's KMS signed the statement", ["R2"], ["A4"];
    "T1", Proven, "The source's leaves stand in its log", ["R1"], ["A6"];
    "T2", Proven, "The destination's leaves stand in its log", ["R2"], ["A6"];
    "H1", Proven, "People of the source approved the hand-over to this destination", ["S1" "T1"], ["A1" "A3"];
    "H2", Proven, "People of the destination approved the key it was received under", ["S2" "T2"], ["A1" "A3"];
    "H3", Proven, "Every release of object keys for this relocation is shown", ["S1" "T1"], ["A1"];
    "H4", Proven, "Nothing shown of this relocation is a lease key, or went anywhere but to the destination", ["H1" "H3"], ["A1"];
    "H5", Proven, "Of the leaves shown, what the destination opened the source released", ["T2" "H3"], ["A1" "A2"];
    "E1", Said, "The copies were equal under the catalog root", ["S1" "S2" "T1"], ["A1" "A5"];
    "O1", Said, "The destination serves it on the source's word", ["S1" "S2" "T1"], ["A1" "A5"];
    "K1", Said, "The source destroyed its key", ["S1" "T1"], ["A1"];
    "K2", Said, "No file of a replica of the source holds that key", ["K1"], ["A1"];
    "K3", Said, "The destination destroyed the hand-over key", ["S2" "T2"], ["A1"];
    "N1", Nothing, "No earlier copy of the source's ciphertext exists", [], [];
    "N2", Nothing, "No backup of the source's key opens", [], [];
}

/// One claim of a certificate as it came out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CertificateClaim {
    /// Which.
    pub id: &'static str,
    /// A few words.
    pub title: &'static str,
    /// The verdict.
    pub verdict: Verdict,
    /// The claim with this file's names and numbers, or what is wrong with it.
    pub statement: String,
    /// Claims it rests on.
    pub rests_on: &'static [&'static str],
    /// Assumptions it needs besides A9.
    pub assumptions: &'static [&'static str],
    /// Whether it came out as it has to.
    pub holds: bool,
}

/// Judges every claim of a certificate.
pub fn verify_certificate(bundle: &Bundle, pins: &Pins) -> CertificateReport {
    let envelope = bundle.certificate();
    let (statement, signed) = envelope.open().expect("a bundle's statement parses");
    let said = statement.predicate().clone();
    let source = Side::read("source", bundle.source(), &said.source.party);
    let destination = Side::read("destination", bundle.destination(), &said.destination.party);
    let read = Read {
        said: &said,
        source: &source,
        destination: &destination,
    };
    let mut found: BTreeMap<&str, Finding> = BTreeMap::from([
        ("R1", source.identity(&said.source.party, pins.source)),
        (
            "R2",
            destination.identity(&said.destination.party, pins.destination),
        ),
        ("S1", source.signature(envelope, &signed)),
        ("S2", destination.signature(envelope, &signed)),
        ("T1", source.log()),
        ("T2", destination.log()),
        ("H1", judged(read.granted())),
        ("H2", judged(read.key_made())),
        ("H3", read.released()),
        ("H4", read.whereto()),
        ("H5", read.opened()),
        ("E1", judged(read.equal())),
        ("O1", read.served()),
        ("K1", judged(read.destroyed())),
        ("K2", judged(read.erased())),
        ("K3", judged(read.hand_over_ended())),
    ]);
    let mut claims: Vec<CertificateClaim> = Vec::new();
    for asked in ASKED {
        let finding = found.remove(asked.id).unwrap_or_else(|| {
            Finding::not_shown("nothing excludes it, and no certificate says that it is so")
        });
        claims.push(bounded_by(asked, finding, &claims));
    }
    CertificateReport::new(said, claims)
}

/// A claim is not better than what it rests on.
fn bounded_by(asked: &Asked, finding: Finding, before: &[CertificateClaim]) -> CertificateClaim {
    let (mut verdict, mut statement) = finding.into_parts();
    let bases = before
        .iter()
        .filter(|claim| asked.rests_on.contains(&claim.id));
    for base in bases {
        if !matches!(verdict, Verdict::Proven | Verdict::AssertedBy(_)) {
            break;
        }
        match (&base.verdict, &verdict) {
            (Verdict::AssertedBy(who), Verdict::Proven) => {
                verdict = Verdict::AssertedBy(who.clone());
            }
            (Verdict::NotShown | Verdict::Contradicted, _) => {
                verdict = Verdict::NotShown;
                statement = format!("{} is not proven, and this rests on it", base.id);
            }
            _ => {}
        }
    }
    let holds = match asked.needs {
        Needs::Proven => verdict == Verdict::Proven,
        Needs::Said => matches!(verdict, Verdict::Proven | Verdict::AssertedBy(_)),
        Needs::Nothing => true,
    };
    CertificateClaim {
        id: asked.id,
        title: asked.title,
        verdict,
        statement,
        rests_on: asked.rests_on,
        assumptions: asked.assumptions,
        holds,
    }
}
