//! The two judges, each behind the same question.
//!
//! Owns the translation of times: an unknown end is after everything, and at equal times a call comes before a
//! return, so that operations that touch count as concurrent. Refuses to wait for ever or to eat the machine's memory:
//! porcupine has a time-out of its own, todc gets one through the specification it calls.

use std::cell::Cell;
use std::time::{Duration, Instant};

use porcupine_rs::{CheckResult, Model, Operation};
use todc_utils::{Action, History, Specification, WGLChecker};

use super::Judgement;
use super::register::{Event, Held, Step};

/// Steps that todc may take in one search: it remembers each with a byte for every call and return.
const TODC_STEPS_MAX: u64 = 400_000;

#[derive(Clone)]
struct Register;

impl Model for Register {
    type State = Held;
    type Op = Step;
    type Metadata = ();

    fn init() -> Held {
        None
    }

    fn step(held: &Held, step: &Step) -> (bool, Held) {
        step.apply(*held)
    }
}

/// By `porcupine-rs`.
pub(super) fn porcupine(events: &[Event<'_>], patience: Duration) -> Judgement {
    let time = |at: u64| i64::try_from(at).unwrap_or(i64::MAX);
    let operations = events.iter().map(|event| Operation::<Register> {
        client_id: None,
        call_time: time(event.op.call),
        return_time: event.op.ret.map_or(i64::MAX, time),
        op: event.step,
        metadata: None,
    });
    let operations: Vec<_> = operations.collect();
    match porcupine_rs::check_operations_timeout(&operations, patience) {
        CheckResult::Ok => Judgement::Legal,
        CheckResult::Illegal => Judgement::Illegal,
        CheckResult::Unknown => Judgement::Unknown,
    }
}

thread_local! {
    /// What the search under way on this thread may still cost.
    static LEFT: Cell<Left> = const { Cell::new(Left { steps: 0, until: None }) };
}

#[derive(Clone, Copy)]
struct Left {
    steps: u64,
    until: Option<Instant>,
}

impl Left {
    /// Looking at the clock costs more than a step.
    const CLOCK_EVERY: u64 = 256;

    fn spend(&mut self) -> bool {
        if self.steps == 0 {
            return false;
        }
        self.steps -= 1;
        let due = self.steps.is_multiple_of(Self::CLOCK_EVERY);
        if due && self.until.is_some_and(|until| Instant::now() >= until) {
            self.steps = 0;
        }
        self.steps > 0
    }
}

struct BoundedRegister;

impl Specification for BoundedRegister {
    type State = Held;
    type Operation = Step;

    fn init() -> Held {
        None
    }

    fn apply(step: &Step, held: &Held) -> (bool, Held) {
        let mut left = LEFT.get();
        let goes_on = left.spend();
        LEFT.set(left);
        // Once nothing is possible any more the search unwinds by itself.
        if goes_on {
            step.apply(*held)
        } else {
            (false, *held)
        }
    }
}

/// By `todc-utils`.
pub(super) fn todc(events: &[Event<'_>], patience: Duration) -> Judgement {
    if events.is_empty() {
        return Judgement::Legal;
    }
    let mut actions = Vec::with_capacity(2 * events.len());
    for (process, event) in events.iter().enumerate() {
        let (call, end) = (event.op.call, event.op.end());
        actions.push(((call, 0), process, Action::Call(event.step)));
        actions.push(((end, 1), process, Action::Response(event.step)));
    }
    actions.sort_by_key(|(at, process, _)| (*at, *process));
    let actions = actions.into_iter().map(|(_, process, act)| (process, act));
    let history = History::from_actions(actions.collect());
    LEFT.set(Left {
        steps: TODC_STEPS_MAX,
        until: Instant::now().checked_add(patience),
    });
    let legal = WGLChecker::<BoundedRegister>::is_linearizable(history);
    if LEFT.get().steps == 0 {
        Judgement::Unknown
    } else if legal {
        Judgement::Legal
    } else {
        Judgement::Illegal
    }
}
