//! Claims and their verdicts.
//!
//! Owns the list of what is claimed, what each claim rests on, and which are asked for unless somebody says otherwise.
//! Refuses a fifth verdict: what is not proven, asserted by somebody named, or contradicted is not shown.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// What the folder shows about one claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It follows from signatures of the trust policy and from hashes, under the assumptions named.
    Proven,
    /// It is the word of whoever is named, and no more.
    AssertedBy(String),
    /// The folder does not show it.
    NotShown,
    /// The folder shows that it is not so, or does not belong together.
    Contradicted,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proven => f.write_str("PROVEN"),
            Self::AssertedBy(who) => write!(f, "ASSERTED-BY({who})"),
            Self::NotShown => f.write_str("NOT-SHOWN"),
            Self::Contradicted => f.write_str("CONTRADICTED"),
        }
    }
}

impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

macro_rules! claims {
    ($($id:ident, $asked:literal, $title:literal, [$($rests:ident)*], [$($assumption:literal)*];)*) => {
        /// One claim of the list. The text form is what `--claim` takes.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum ClaimId {
            $(#[doc = $title] $id,)*
        }

        impl ClaimId {
            /// Every claim in the order of a report.
            pub const ALL: &'static [Self] = &[$(Self::$id,)*];

            /// The text form.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$id => stringify!($id),)* }
            }

            /// What is claimed, in a few words.
            pub fn title(self) -> &'static str {
                match self { $(Self::$id => $title,)* }
            }

            /// Whether it is asked for where nobody names claims.
            pub fn is_asked(self) -> bool {
                match self { $(Self::$id => $asked,)* }
            }

            /// Claims without which this one is not proven.
            pub fn rests_on(self) -> &'static [Self] {
                match self { $(Self::$id => &[$(Self::$rests,)*],)* }
            }

            /// Assumptions of docs/THREATS.md that it needs besides A9.
            pub fn assumptions(self) -> &'static [&'static str] {
                match self { $(Self::$id => &[$($assumption,)*],)* }
            }
        }
    };
}

claims! {
    L1, true, "The log at the end of the period", [], ["A6"];
    L2, true, "The log at the start of the period", [], ["A6"];
    L3, true, "The log only grew", [L1 L2], ["A6"];
    L4, true, "Every leaf shown stands in the log", [L1], ["A6"];
    L5, true, "Times stated by the region agree with the cosigners' clocks", [L1 L2 L3 L4], ["A6"];
    L6, true, "The gaps between cosignatures are as stated", [L1 L2 L3], ["A6"];
    F1, true, "The folder is whole and as its exporter signed it", [L4], ["A4"];
    D1, true, "The dataset's key was born in this log", [L4], ["A1"];
    D2, true, "No event of the dataset is left out between the first and the last shown", [D1 L4], ["A1"];
    D3, false, "No event of the dataset follows the last one shown", [D2 L4], ["A1"];
    D4, true, "Each access in the period says who, what for, to where and which objects", [D2 L2 L4], ["A1" "A2" "A7"];
    D5, true, "Recorded keys went to no other region", [D2 L4], ["A1" "A2" "A4"];
    D6, true, "Each release for a person's purpose carries two approvals", [D2 L4], ["A1" "A3"];
    R1, false, "Who was enrolled, and that all of them are of the region", [L4], ["A1" "A4"];
    W1, false, "The region's own witness policy", [L4], ["A1"];
    O1, true, "The list of sealed objects is one list with one root", [F1], [];
    O2, true, "Every listed object was sealed under a lease of the dataset's key", [D2 L4 O1], ["A1" "A2"];
    O3, false, "What the nodes store is what is listed", [O1], ["A5"];
    O4, false, "Storage held what an investigator's nonce chose", [O1], ["A5"];
    X1, false, "The listed ciphertexts are keyed as listed", [D1 L4 O1], ["A1"];
    X2, false, "The key was used by the reviewed software alone", [], ["A1"];
    X3, false, "Destroyed keys are gone from every copy", [], ["A1"];
    X4, false, "Where the machines stand", [], ["A8"];
}

/// Text that names no claim.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no claim of that name")]
pub struct NoSuchClaim;

impl FromStr for ClaimId {
    type Err = NoSuchClaim;
    fn from_str(text: &str) -> Result<Self, NoSuchClaim> {
        let found = Self::ALL.iter().find(|id| id.as_str() == text);
        found.copied().ok_or(NoSuchClaim)
    }
}

impl Serialize for ClaimId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// One claim as it came out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Claim {
    /// Which.
    pub id: ClaimId,
    /// A few words.
    pub title: &'static str,
    /// The verdict.
    pub verdict: Verdict,
    /// The claim with this folder's names and numbers, or what is wrong with it.
    pub statement: String,
    /// Files of the folder it rests on.
    pub evidence: &'static [&'static str],
    /// Claims it rests on.
    pub rests_on: &'static [ClaimId],
    /// Assumptions it needs besides A9.
    pub assumptions: &'static [&'static str],
}
