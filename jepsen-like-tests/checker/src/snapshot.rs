//! Observations in a known order, each of one moment: whether there are such moments.
//!
//! Owns the one step that sets and versions share. Refuses nothing by itself.

use crate::history::Op;

/// Between which times an observation's moment must lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) from: u64,
    pub(crate) until: u64,
}

impl Moment {
    /// Between call and return.
    pub(crate) fn of(op: &Op) -> Self {
        Self {
            from: op.call,
            until: op.end(),
        }
    }

    /// Not before this.
    pub(crate) fn not_before(&mut self, time: u64) {
        self.from = self.from.max(time);
    }

    /// Not after this.
    pub(crate) fn not_after(&mut self, time: u64) {
        self.until = self.until.min(time);
    }
}

/// The first observation for which there is no moment that is not before those of the earlier ones, and the one
/// that holds it back.
pub(crate) fn impossible(moments: &[Moment]) -> Option<(usize, usize)> {
    let mut latest: Option<usize> = None;
    for (at, moment) in moments.iter().enumerate() {
        if latest.is_none_or(|latest: usize| moment.from > moments[latest].from) {
            latest = Some(at);
        }
        let holds_back = latest.unwrap_or(at);
        if moments[holds_back].from > moment.until {
            return Some((at, holds_back));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(from: u64, until: u64) -> Moment {
        Moment { from, until }
    }

    #[test]
    fn moments_must_follow_each_other() {
        assert_eq!(
            impossible(&[moment(0, 10), moment(5, 6), moment(0, 5)]),
            None
        );
        let back = [moment(0, 10), moment(7, 9), moment(0, 6)];
        assert_eq!(impossible(&back), Some((2, 1)));
        assert_eq!(impossible(&[moment(0, 1), moment(3, 2)]), Some((1, 1)));
    }
}
