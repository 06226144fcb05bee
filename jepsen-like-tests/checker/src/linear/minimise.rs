//! Fewer operations that are still impossible.
//!
//! Owns the rule of what may be left out: only what nothing that stays rests on, so that the rest is impossible for
//! the reason the whole was, and not because a read lost its write.

use std::time::{Duration, Instant};

use super::Judgement;
use super::judges;
use super::register::Event;

/// Time for one try.
const TRY: Duration = Duration::from_secs(1);

/// The smallest illegal part found by `until`. Illegal events come back illegal.
pub(super) fn smallest<'a>(mut events: Vec<Event<'a>>, until: Instant) -> Vec<Event<'a>> {
    // What only looks is left out first: then less rests on what writes.
    events.sort_by_key(|event| (event.op.call, event.op.end()));
    let mut chunk = events.len().div_ceil(2);
    while chunk > 0 {
        let mut smaller = false;
        let mut start = 0;
        while start < events.len() {
            if Instant::now() >= until {
                return events;
            }
            let end = (start + chunk).min(events.len());
            match without(&events, start, end) {
                Some(rest) if judges::porcupine(&rest, TRY) == Judgement::Illegal => {
                    events = rest;
                    smaller = true;
                }
                _ => start = end,
            }
        }
        // At the finest grain again until nothing more goes: a read that went may have freed a write.
        if chunk > 1 {
            chunk /= 2;
        } else if !smaller {
            chunk = 0;
        }
    }
    events
}

/// What is left without `events[start..end]`, with those kept that something left rests on.
fn without<'a>(events: &[Event<'a>], start: usize, end: usize) -> Option<Vec<Event<'a>>> {
    let mut goes: Vec<bool> = (0..events.len())
        .map(|at| (start..end).contains(&at))
        .collect();
    loop {
        let stays = |at: usize| {
            let leaves = events[at].step.leaves();
            leaves.is_some_and(|held| {
                let rest = events.iter().zip(&goes).filter(|(_, goes)| !**goes);
                rest.into_iter().any(|(other, _)| other.step.rests_on(held))
            })
        };
        let kept: Vec<usize> = (start..end).filter(|&at| goes[at] && stays(at)).collect();
        if kept.is_empty() {
            break;
        }
        kept.into_iter().for_each(|at| goes[at] = false);
    }
    let rest: Vec<_> = events
        .iter()
        .zip(&goes)
        .filter(|(_, goes)| !**goes)
        .map(|(event, _)| *event)
        .collect();
    (rest.len() < events.len()).then_some(rest)
}
