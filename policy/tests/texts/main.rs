//! What is said of texts: everything that is wrong with one, why one decides as it does, what two of them differ in.

#![allow(clippy::unwrap_used, reason = "a test that cannot begin has failed")]

mod deep;
mod differences;
mod errors;
mod explanations;

use policy::{Policy, PolicyText, Problem};

fn parse(text: &str) -> Policy {
    PolicyText::parse(text).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

fn problems(text: &str) -> Vec<Problem> {
    match PolicyText::parse(text) {
        Ok(_) => panic!("it parsed: {text}"),
        Err(errors) => errors.problems().to_vec(),
    }
}
