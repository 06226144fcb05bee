//! The C2SP formats: published examples, every refusal, and implementations that are not ours, in both directions.

mod cosign;
mod go;
mod note;
mod oracles;
mod policy;
mod proof_file;
mod python;
mod support;
mod tiles;
mod witness;
