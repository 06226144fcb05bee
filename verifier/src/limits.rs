//! What every report prints, word for word: assumptions and limits.
//!
//! Owns nothing but the words. Refuses to shorten them: a verdict without them says more than it means.

/// Assumptions A1 to A9, as docs/THREATS.md has them.
pub const ASSUMPTIONS: &[(&str, &str)] = &[
    (
        "A1",
        "every unsealed KMS replica, its host and kernel run the reviewed software.",
    ),
    (
        "A2",
        "a gateway sees what it serves and could keep every key it held; metadata reads under a metadata lease are recorded by the lease, not one by one.",
    ),
    (
        "A3",
        "fewer than k custodians collude and no seal opens for one person.",
    ),
    ("A4", "enrolled private keys stay in the region."),
    (
        "A5",
        "nodes may crash but do not lie about freshness or completeness.",
    ),
    ("A6", "the witness quorum is independent of the operator."),
    ("A7", "purpose and case are the requester's statements."),
    (
        "A8",
        "location, physical attack and legal compulsion are out of scope.",
    ),
    ("A9", "the primitives hold."),
];

/// What no folder can show.
pub const LIMITS: &[(&str, &str)] = &[
    (
        "N1",
        "that no plaintext or key was copied by an authorised reader, in memory, or by modified hardware.",
    ),
    (
        "N2",
        "that no copy of the ciphertext exists elsewhere. It is harmless only while the key is confined.",
    ),
    (
        "N3",
        "that key bytes were physically destroyed, rather than erased by the software in all copies it knows.",
    ),
    ("N4", "where storage media are."),
    (
        "N5",
        "anything about a machine whose hardware was tampered with.",
    ),
    (
        "N6",
        "that software other than the reviewed one did not use the key.",
    ),
    ("N7", "what operators can be compelled to by law."),
    (
        "N8",
        "events that do not pass through the KMS, such as who saw traffic, names or sizes.",
    ),
    (
        "N9",
        "anything about a period in which no quorum of cosigners vouched for the log: such gaps are printed as they are.",
    ),
];
