//! What a text may make its reader allocate: bounded by its length, whatever it says.

use std::fmt::Write as _;

use peak_alloc::PeakAlloc;
use policy::{POLICIES_MAX, PolicyText, TEXT_BYTES_MAX};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Bytes held at once for each byte of text. Cedar keeps a node and a location for each level of its grammar.
const PER_BYTE_MAX: usize = 4_096;

/// One test, because it counts what this process allocates.
#[test]
fn a_text_allocates_no_more_than_so_much_a_byte() {
    assert!(
        PolicyText::parse("").is_ok(),
        "the schema is parsed before it counts"
    );
    let mut many = String::new();
    while many.len() < TEXT_BYTES_MAX / 8 && many.matches(';').count() < POLICIES_MAX {
        let at = many.len();
        writeln!(
            many,
            "permit(principal,action,resource)when{{context.purpose==\"p-{at}\"&&context has case}};"
        )
        .expect("a string takes what it is given");
    }
    let set: Vec<_> = (0..5_000).map(|at| format!("\"p{at}\"")).collect();
    let set = format!(
        "permit (principal, action, resource) when {{ [{}].contains(context.purpose) }};",
        set.join(",")
    );
    let numbers = format!(
        "permit (principal, action, resource) when {{ [{}].contains(1) }};",
        vec!["1"; 10_000].join(",")
    );
    let nonsense = "permit(".repeat(10) + &"x ".repeat(10_000);
    for (what, text) in [
        ("many", many),
        ("set", set),
        ("numbers", numbers),
        ("nonsense", nonsense),
    ] {
        let before = HEAP.current_usage();
        HEAP.reset_peak_usage();
        let parsed = PolicyText::parse(&text);
        let held = HEAP.peak_usage().saturating_sub(before);
        let per_byte = held / text.len();
        println!(
            "{what}: {} bytes of text, {held} held, {per_byte} a byte, valid: {}",
            text.len(),
            parsed.is_ok()
        );
        assert!(per_byte < PER_BYTE_MAX, "{what}: {per_byte} a byte");
    }
}
