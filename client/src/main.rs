//! The `reduit` command.
fn main() {}
