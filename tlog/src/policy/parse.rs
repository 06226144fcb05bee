//! The file of a policy.
//!
//! Owns its lines and their order. Refuses: octets and keywords the format has not, a last line without its newline
//! (the file may be cut, and a cut name can be another name), names that are taken, unknown or used twice, one public
//! key under two logs or two witnesses, key types that do not fit, and sizes over the bounds. Says the line.

use std::collections::{BTreeMap, BTreeSet};

use super::{GROUPS_MAX, Is, LOGS_MAX, NONE, Named, Party, Policy, PolicyName, WITNESSES_MAX};
use crate::key::{KeyError, SignatureType, VerifierKey};
use crate::text;

/// Bytes of a policy: about three times what the bounds on its lines need without addresses and comments.
pub const POLICY_BYTES_MAX: usize = 1 << 20;

/// Why a file is no policy, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the policy")]
pub struct PolicyError {
    /// The line, from 1; for what concerns the whole file, its last.
    pub line: usize,
    /// What is wrong.
    #[source]
    pub kind: PolicyErrorKind,
}

/// What is wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyErrorKind {
    /// Over [`POLICY_BYTES_MAX`].
    #[error("the policy is too long")]
    TooLong,
    /// A control character other than tab and newline.
    #[error("a control character")]
    ControlCharacter,
    /// The end of the file may be missing.
    #[error("the last line has no newline: the file may be cut")]
    Cut,
    /// Neither log, witness, group nor quorum.
    #[error("unknown keyword")]
    Keyword,
    /// Too few or too many words.
    #[error("too few or too many words")]
    Words,
    /// A key that is none.
    #[error("not a verifier key")]
    Key(#[from] KeyError),
    /// Logs sign with type 0x01 or 0x06, witnesses with 0x04 or 0x06.
    #[error("a key of type 0x{0:02x} is not for this")]
    KeyType(u8),
    /// The public key stands in another such line.
    #[error("the same public key stands in an earlier line")]
    KeyTwice,
    /// Another key of the same name has the same id.
    #[error("an earlier key has the same name and id")]
    Ambiguous,
    /// A witness or group of that name exists, or the name is `none`.
    #[error("the name {0} is taken")]
    NameTaken(PolicyName),
    /// No witness or group of that name on an earlier line.
    #[error("no earlier line defines {0}")]
    UnknownName(PolicyName),
    /// A name may be a member once, in one group.
    #[error("{0} is a member already")]
    MemberTwice(PolicyName),
    /// Not `any`, `all`, or a number of members from 1.
    #[error("the threshold is not any, all, or a number from 1 to that of the members")]
    Threshold,
    /// More logs, witnesses or groups than this build takes.
    #[error("more than {LOGS_MAX} logs, {WITNESSES_MAX} witnesses or {GROUPS_MAX} groups")]
    TooMany,
    /// A second quorum line.
    #[error("a second quorum")]
    QuorumTwice,
    /// No quorum line.
    #[error("no quorum")]
    NoQuorum,
}

#[derive(Default)]
struct Reader {
    logs: Vec<Party>,
    names: Vec<Named>,
    positions: BTreeMap<Vec<u8>, usize>,
    members: BTreeSet<usize>,
    quorum: Option<Option<usize>>,
    keys: Vec<VerifierKey>,
    groups: usize,
}

impl Policy {
    /// Reads a policy's file.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        let at = |line: usize| move |kind: PolicyErrorKind| PolicyError { line, kind };
        if bytes.len() > POLICY_BYTES_MAX {
            return Err(at(1)(PolicyErrorKind::TooLong));
        }
        let mut reader = Reader::default();
        let mut number = 0;
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            number += 1;
            let body = line.strip_suffix(b"\n");
            let body = body.ok_or(PolicyErrorKind::Cut).map_err(at(number))?;
            reader.line(body).map_err(at(number))?;
        }
        let quorum = reader.quorum.ok_or(PolicyErrorKind::NoQuorum);
        Ok(Self {
            logs: reader.logs,
            names: reader.names,
            quorum: quorum.map_err(at(number.max(1)))?,
            keys: reader.keys,
        })
    }
}

impl Reader {
    fn line(&mut self, line: &[u8]) -> Result<(), PolicyErrorKind> {
        if line
            .iter()
            .any(|b| (*b < b' ' && *b != b'\t') || *b == 0x7F)
        {
            return Err(PolicyErrorKind::ControlCharacter);
        }
        let words = line.split(|b| matches!(b, b' ' | b'\t'));
        let words: Vec<&[u8]> = words.filter(|word| !word.is_empty()).collect();
        match &words[..] {
            [] => Ok(()),
            [first, ..] if first.starts_with(b"#") => Ok(()),
            [b"log", rest @ ..] => self.log(rest),
            [b"witness", rest @ ..] => self.witness(rest),
            [b"group", rest @ ..] => self.group(rest),
            [b"quorum", rest @ ..] => self.quorum(rest),
            _ => Err(PolicyErrorKind::Keyword),
        }
    }

    fn log(&mut self, words: &[&[u8]]) -> Result<(), PolicyErrorKind> {
        let (key, url) = match words {
            [key] => (key, None),
            [key, url] => (key, Some(url.to_vec())),
            _ => return Err(PolicyErrorKind::Words),
        };
        let key = verifier(key)?;
        if key.kind() == SignatureType::Ed25519Cosignature {
            return Err(PolicyErrorKind::KeyType(key.kind().byte()));
        }
        if self.logs.iter().any(|log| same_public(&log.key, &key)) {
            return Err(PolicyErrorKind::KeyTwice);
        }
        if self.logs.len() == LOGS_MAX {
            return Err(PolicyErrorKind::TooMany);
        }
        self.know(&key)?;
        self.logs.push(Party { key, url });
        Ok(())
    }

    fn witness(&mut self, words: &[&[u8]]) -> Result<(), PolicyErrorKind> {
        let (name, key, url) = match words {
            [name, key] => (name, key, None),
            [name, key, url] => (name, key, Some(url.to_vec())),
            _ => return Err(PolicyErrorKind::Words),
        };
        let key = verifier(key)?;
        if key.kind() == SignatureType::Ed25519 {
            return Err(PolicyErrorKind::KeyType(key.kind().byte()));
        }
        let parties = self.names.iter().filter_map(|named| match &named.is {
            Is::Witness(party) => Some(party),
            Is::Group { .. } => None,
        });
        let (mut witnesses, mut twice) = (0, false);
        for party in parties {
            witnesses += 1;
            twice |= same_public(&party.key, &key);
        }
        if twice {
            return Err(PolicyErrorKind::KeyTwice);
        }
        if witnesses == WITNESSES_MAX {
            return Err(PolicyErrorKind::TooMany);
        }
        self.know(&key)?;
        self.name(name, Is::Witness(Party { key, url }))
    }

    fn group(&mut self, words: &[&[u8]]) -> Result<(), PolicyErrorKind> {
        let [name, threshold, members @ ..] = words else {
            return Err(PolicyErrorKind::Words);
        };
        if members.is_empty() {
            return Err(PolicyErrorKind::Words);
        }
        if self.groups == GROUPS_MAX {
            return Err(PolicyErrorKind::TooMany);
        }
        self.groups += 1;
        let count = members.len();
        let threshold = match *threshold {
            b"any" => 1,
            b"all" => count,
            number => {
                let number = std::str::from_utf8(number).ok().and_then(text::decimal);
                let number = number.and_then(|n| usize::try_from(n).ok());
                let in_range = number.filter(|n| (1..=count).contains(n));
                in_range.ok_or(PolicyErrorKind::Threshold)?
            }
        };
        let mut positions = Vec::with_capacity(count);
        for member in members {
            let position = self.find(member)?;
            if !self.members.insert(position) {
                return Err(PolicyErrorKind::MemberTwice(PolicyName(member.to_vec())));
            }
            positions.push(position);
        }
        let is = Is::Group {
            threshold,
            members: positions,
        };
        self.name(name, is)
    }

    fn quorum(&mut self, words: &[&[u8]]) -> Result<(), PolicyErrorKind> {
        let [name] = words else {
            return Err(PolicyErrorKind::Words);
        };
        if self.quorum.is_some() {
            return Err(PolicyErrorKind::QuorumTwice);
        }
        self.quorum = Some(match *name {
            NONE => None,
            name => Some(self.find(name)?),
        });
        Ok(())
    }

    fn find(&self, name: &[u8]) -> Result<usize, PolicyErrorKind> {
        let found = self.positions.get(name).copied();
        found.ok_or_else(|| PolicyErrorKind::UnknownName(PolicyName(name.to_vec())))
    }

    fn name(&mut self, name: &[u8], is: Is) -> Result<(), PolicyErrorKind> {
        let position = self.names.len();
        let policy_name = PolicyName(name.to_vec());
        if name == NONE || self.positions.contains_key(name) {
            return Err(PolicyErrorKind::NameTaken(policy_name));
        }
        self.positions.insert(name.to_vec(), position);
        self.names.push(Named {
            name: policy_name,
            is,
        });
        Ok(())
    }

    /// Keeps every key once; a log of type 0x06 may be listed as a witness too.
    fn know(&mut self, key: &VerifierKey) -> Result<(), PolicyErrorKind> {
        let same_name = |known: &&VerifierKey| known.id() == key.id() && known.name() == key.name();
        match self.keys.iter().find(same_name) {
            Some(known) if known == key => Ok(()),
            Some(_) => Err(PolicyErrorKind::Ambiguous),
            None => {
                self.keys.push(key.clone());
                Ok(())
            }
        }
    }
}

fn verifier(word: &[u8]) -> Result<VerifierKey, PolicyErrorKind> {
    let text = std::str::from_utf8(word).map_err(|_| KeyError::Form)?;
    Ok(text.parse()?)
}

/// Two keys are the same party when the bytes are, whatever name and type stand before them.
fn same_public(a: &VerifierKey, b: &VerifierKey) -> bool {
    a.public_key() == b.public_key()
}
