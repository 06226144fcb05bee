//! The outer shape of a policy text: where its statements begin, how deep and how long they are.
//!
//! Owns the bounds that keep Cedar's parser, validator and evaluator within a known depth of stack. They recurse over
//! what they are given. By how much stack is left, the evaluator fails and the validator lets an expression pass
//! unchecked; replicas need not agree on that.
//! Refuses what exceeds a bound, with its place; knows nothing of the grammar inside a statement.

use crate::errors::Problem;
use crate::place::Place;

/// Bytes of a policy text: it travels in one Raft entry, with approvals.
pub const TEXT_BYTES_MAX: usize = 900_000;
/// Statements of a policy text.
pub const POLICIES_MAX: usize = 5_000;
/// Brackets within one another.
const NESTING_MAX: usize = 24;
/// Operators and brackets of one statement: each may be a level of its tree.
const OPERATORS_MAX: usize = 128;

/// Commas of a text: each is an element that Cedar keeps about 2 KB for while it parses.
const COMMAS_MAX: usize = 50_000;

/// Where each statement begins, in bytes.
pub(crate) fn statements(text: &str) -> Result<Vec<usize>, Problem> {
    if text.len() > TEXT_BYTES_MAX {
        let found = text.len();
        return Err(Problem::new(
            Place::START,
            format!("the text has {found} bytes, more than {TEXT_BYTES_MAX}"),
        ));
    }
    let mut scan = Scan::default();
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let next = match byte {
            b'/' if bytes.get(at + 1) == Some(&b'/') => comment_end(bytes, at),
            _ if byte.is_ascii_whitespace() => at + 1,
            b'"' => {
                scan.begin(at);
                string_end(bytes, at)
                    .ok_or_else(|| Problem::new(Place::of(text, at), "a string without an end"))?
            }
            _ => {
                scan.begin(at);
                scan.byte(bytes, at)
                    .map_err(|what| Problem::new(Place::of(text, at), what))?;
                at + 1
            }
        };
        at = next;
    }
    Ok(scan.starts)
}

#[derive(Default)]
struct Scan {
    starts: Vec<usize>,
    inside: bool,
    nesting: usize,
    operators: usize,
    commas: usize,
}

impl Scan {
    fn begin(&mut self, at: usize) {
        if !self.inside {
            self.inside = true;
            self.operators = 0;
            self.starts.push(at);
        }
    }

    fn byte(&mut self, bytes: &[u8], at: usize) -> Result<(), String> {
        if self.starts.len() > POLICIES_MAX {
            return Err(format!("more than {POLICIES_MAX} policies"));
        }
        match bytes[at] {
            // An index or a call adds a level to what it follows, without nesting in the text.
            b'(' | b'[' | b'{' => {
                self.nesting += 1;
                self.operators += 1;
            }
            b')' | b']' | b'}' => self.nesting = self.nesting.saturating_sub(1),
            b',' => self.commas += 1,
            b';' => {
                self.inside = false;
                self.nesting = 0;
            }
            b'&' | b'|' | b'!' | b'<' | b'>' | b'=' | b'+' | b'-' | b'*' | b'.' => {
                self.operators += usize::from(!ends_pair(bytes, at));
            }
            // Every word counts as `if`, `has`, `in`, `like` or `is`; a name stands beside an operator anyway.
            byte if starts_word(bytes, at, byte) => {
                self.operators += usize::from(is_operator(bytes, at))
            }
            _ => {}
        }
        if self.commas > COMMAS_MAX {
            return Err(format!("more than {COMMAS_MAX} commas"));
        }
        if self.nesting > NESTING_MAX {
            return Err(format!("brackets more than {NESTING_MAX} deep"));
        }
        if self.operators > OPERATORS_MAX {
            return Err(format!(
                "more than {OPERATORS_MAX} operators and brackets in one policy"
            ));
        }
        Ok(())
    }
}

/// Whether this is the second character of an operator that has two.
fn ends_pair(bytes: &[u8], at: usize) -> bool {
    let pairs = [b"&&", b"||", b"==", b"!=", b"<=", b">="];
    at > 0 && pairs.iter().any(|pair| bytes[at - 1..=at] == pair[..])
}

fn starts_word(bytes: &[u8], at: usize, byte: u8) -> bool {
    let part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    part(byte) && (at == 0 || !part(bytes[at - 1]))
}

fn is_operator(bytes: &[u8], at: usize) -> bool {
    let end = bytes[at..]
        .iter()
        .position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_')
        .map_or(bytes.len(), |length| at + length);
    matches!(
        &bytes[at..end],
        b"if" | b"then" | b"else" | b"in" | b"has" | b"like" | b"is" | b"when" | b"unless"
    )
}

/// As Cedar ends a comment: at either kind of line end.
fn comment_end(bytes: &[u8], at: usize) -> usize {
    let end = bytes[at..]
        .iter()
        .position(|byte| matches!(byte, b'\n' | b'\r'));
    end.map_or(bytes.len(), |length| at + length)
}

/// Past the closing quote. A backslash takes the next character with it.
fn string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}
