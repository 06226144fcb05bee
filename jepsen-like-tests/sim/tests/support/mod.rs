//! Runs the program `reduit-sim` and reads what it says.

use std::process::Command;

/// What a run of the program said, and whether all was green.
pub(crate) struct Said {
    pub(crate) text: String,
    pub(crate) green: bool,
}

impl Said {
    /// The count at the end of a line of the table: `  count  name`.
    pub(crate) fn count(&self, name: &str) -> u64 {
        let line = |line: &str| -> Option<u64> {
            let (count, of) = line.trim().split_once(' ')?;
            count.parse().ok().filter(|_| of.trim() == name)
        };
        self.text.lines().filter_map(line).sum()
    }
}

/// Runs the program with `args`.
pub(crate) fn sim(args: &[&str]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_reduit-sim"))
        .args(args)
        .arg("--quiet")
        .output()
        .expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr);
    let text = format!("{}{said}", String::from_utf8_lossy(&output.stdout));
    Said {
        text,
        green: output.status.success(),
    }
}
