//! Lists every message of the `.proto` files, so that a new one is fuzzed from the day it is there.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let folder = "../../proto/proto/reduit/v1";
    println!("cargo:rerun-if-changed={folder}");
    let mut names = Vec::new();
    for file in std::fs::read_dir(folder)? {
        let text = std::fs::read_to_string(file?.path())?;
        let code = text
            .lines()
            .map(|line| line.split("//").next().unwrap_or_default());
        let words: Vec<_> = code.flat_map(str::split_whitespace).collect();
        // Fields may be called `message` too; types begin with a capital.
        let declared = words
            .windows(2)
            .filter(|pair| pair[0] == "message" && pair[1].starts_with(char::is_uppercase));
        names.extend(declared.map(|pair| pair[1].trim_end_matches('{').to_owned()));
    }
    names.sort();
    let list = format!("messages! {{ {} }}\n", names.join(" "));
    let out = std::env::var_os("OUT_DIR").expect("cargo sets it");
    std::fs::write(Path::new(&out).join("messages.rs"), list)
}
