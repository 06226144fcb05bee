//! The register a key is: what each operation does to it, and what its answer says of it.
//!
//! Owns the sequential specification, once for both judges: they disagree about search, never about registers.

use serde_json::Value;

use crate::history::{F, Op, Outcome};

/// Reason of a refused condition.
pub(super) const PRECONDITION: &str = "precondition-failed";
/// Reason of a refused delete of nothing.
pub(super) const MISSING: &str = "no-such-object";

/// What a register holds: the number of a write, or nothing.
pub(super) type Held = Option<u64>;

/// One operation as the specification knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It held this.
    Saw(Held),
    /// It held something.
    SawSomething,
    /// It did not hold this.
    SawOther(u64),
    /// It holds this now, whatever it held.
    Set(u64),
    /// It held the one and holds the other now.
    Swapped(Held, Held),
    /// It held something and holds nothing now.
    Removed,
    /// As [`Self::Swapped`], if it held the one; otherwise nothing happened.
    MaySwap(Held, Held),
    /// It holds nothing now, whatever it held.
    Cleared,
}

impl Step {
    /// What an operation comes to; `None` for one that says nothing.
    pub(super) fn of(op: &Op) -> Result<Option<Self>, String> {
        let broken = |what: &str| format!("{} has a {:?} without {what}", op.key, op.f);
        let number = |value: &Value| value.as_u64();
        let value = || number(&op.value).ok_or_else(|| broken("a value"));
        let old = || number(&op.old).ok_or_else(|| broken("an old value"));
        let done = match op.outcome {
            Outcome::Ok => match op.f {
                F::Read if op.value.is_null() => Self::Saw(None),
                F::Read => Self::Saw(Some(value()?)),
                F::Write => Self::Set(value()?),
                F::Create => Self::Swapped(None, Some(value()?)),
                F::Cas => Self::Swapped(Some(old()?), Some(value()?)),
                F::Delete => Self::Removed,
                F::DeleteIf => Self::Swapped(Some(old()?), None),
                F::Clear => Self::Cleared,
                _ => return Err(broken("a meaning for a register")),
            },
            Outcome::Info => match op.f {
                F::Read => return Ok(None),
                F::Write => Self::Set(value()?),
                F::Create => Self::MaySwap(None, Some(value()?)),
                F::Cas => Self::MaySwap(Some(old()?), Some(value()?)),
                F::Delete | F::Clear => Self::Cleared,
                F::DeleteIf => Self::MaySwap(Some(old()?), None),
                _ => return Err(broken("a meaning for a register")),
            },
            // A refusal that was given on the register's content says what that was not.
            Outcome::Fail => match op.f {
                F::Create if op.refused(PRECONDITION) => Self::SawSomething,
                F::Cas | F::DeleteIf if op.refused(PRECONDITION) => Self::SawOther(old()?),
                F::Delete if op.refused(MISSING) => Self::Saw(None),
                _ => return Ok(None),
            },
        };
        Ok(Some(done))
    }

    /// Whether it can happen to `held`, and what is held afterwards.
    pub(super) fn apply(self, held: Held) -> (bool, Held) {
        match self {
            Self::Saw(seen) => (held == seen, held),
            Self::SawSomething => (held.is_some(), held),
            Self::SawOther(not) => (held != Some(not), held),
            Self::Set(value) => (true, Some(value)),
            Self::Swapped(from, to) if held == from => (true, to),
            Self::Swapped(..) => (false, held),
            Self::Removed => (held.is_some(), None),
            Self::MaySwap(from, to) if held == from => (true, to),
            Self::MaySwap(..) => (true, held),
            Self::Cleared => (true, None),
        }
    }

    /// What it leaves behind when it has effect.
    pub(super) fn leaves(self) -> Option<Held> {
        match self {
            Self::Saw(_) | Self::SawSomething | Self::SawOther(_) => None,
            Self::Set(value) => Some(Some(value)),
            Self::Swapped(_, to) | Self::MaySwap(_, to) => Some(to),
            Self::Removed | Self::Cleared => Some(None),
        }
    }

    /// Whether it could not have happened, or not so, without `held` having been there.
    pub(super) fn rests_on(self, held: Held) -> bool {
        match self {
            Self::Saw(seen) => seen == held,
            Self::Swapped(from, _) | Self::MaySwap(from, _) => from == held,
            Self::SawSomething | Self::Removed => held.is_some(),
            // Any value but one explains it.
            Self::SawOther(not) => held != Some(not),
            Self::Set(_) | Self::Cleared => false,
        }
    }
}

/// An operation that says something of the register.
#[derive(Debug, Clone, Copy)]
pub(super) struct Event<'a> {
    pub(super) op: &'a Op,
    pub(super) step: Step,
}
