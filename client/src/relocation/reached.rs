//! How far the own batches move what was taken, and whether it went further: then another mover imports, or has imported.
//!
//! Owns the order of what a pass goes through: its listing, then the changes after it. What another mover imports is of what
//! an own batch is all of too, whose keys are looked at, or moves the cursors past the own ones. Refuses nothing: apply takes
//! either mover's batches.

use proto::v1;
use proto::v1::import::Span;

/// How far own batches go, those among them whose outcome is not known.
#[derive(Debug, Default)]
pub(super) struct Reached {
    own: Stand,
    others: u64,
}

/// Where the cursors stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Stand {
    pass: u64,
    listed: Listed,
    changes: u64,
}

/// How far a pass has listed.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Listed {
    #[default]
    Nothing,
    /// Through this source log index of a key.
    Through(String, u64),
    All,
}

impl Reached {
    /// An own batch is about to be proposed: it may have its effect whatever is answered.
    pub(super) fn tries(&mut self, pass: u64, span: &Span) {
        if let Some(stand) = Stand::after(pass, span)
            && stand > self.own
        {
            self.own = stand;
        }
    }

    /// The own work goes on from here. One that is older than the last own batch tells nothing.
    pub(super) fn goes_on(&mut self, image: &v1::ImageRecord) {
        let stand = Stand::of(image);
        if stand > self.own {
            self.own = stand;
            self.others += 1;
        }
    }

    /// Copies are looked at as they are from here on: the image is newer than every answer to an own batch. One that has had
    /// no effect until now brings what is not looked at, like another's, should it have one later.
    pub(super) fn looks(&mut self, image: &v1::ImageRecord) {
        self.goes_on(image);
        self.own = Stand::of(image);
    }

    /// How often it had gone further than own batches, a new pass among them: what an earlier one left may be another's.
    pub(super) fn others(&self) -> u64 {
        self.others
    }
}

impl Stand {
    fn of(image: &v1::ImageRecord) -> Self {
        Self {
            pass: image.base,
            listed: Listed::through(image.listed.as_ref()),
            changes: image.changes,
        }
    }

    /// Once the batch is taken. Changes wait for the end of a listing, and begin where it counts from; request ids are no
    /// copies.
    fn after(pass: u64, span: &Span) -> Option<Self> {
        let (listed, changes) = match span {
            Span::Page(page) => (Listed::through(page.through.as_ref()), pass),
            Span::Changes(changes) => (Listed::All, changes.through),
            Span::Requests(_) => return None,
        };
        Some(Self {
            pass,
            listed,
            changes,
        })
    }
}

impl Listed {
    fn through(place: Option<&v1::Place>) -> Self {
        match place {
            None => Self::Nothing,
            Some(place) if place.end => Self::All,
            // Without an index it is all of the key.
            Some(place) if place.within == 0 => Self::Through(place.key.clone(), u64::MAX),
            Some(place) => Self::Through(place.key.clone(), place.within),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(key: &str, within: u64) -> v1::Place {
        v1::Place {
            key: key.to_owned(),
            within,
            end: key.is_empty(),
        }
    }

    fn page(through: v1::Place) -> Span {
        Span::Page(v1::PageSpan {
            after: None,
            through: Some(through),
            at: 99,
        })
    }

    fn changes(after: u64, through: u64) -> Span {
        Span::Changes(v1::IndexSpan { after, through })
    }

    fn image(base: u64, listed: Option<v1::Place>, changes: u64) -> v1::ImageRecord {
        v1::ImageRecord {
            base,
            listed,
            changes,
            ..v1::ImageRecord::default()
        }
    }

    fn all_listed(changes: u64) -> v1::ImageRecord {
        image(10, Some(place("", 0)), changes)
    }

    /// A mover that has just seen where the first pass stands.
    fn begun(image: &v1::ImageRecord) -> Reached {
        let mut reached = Reached::default();
        reached.looks(image);
        Reached {
            others: 0,
            ..reached
        }
    }

    #[test]
    fn own_batches_are_nobody_elses_from_the_first_page_on() {
        let mut reached = begun(&image(10, None, 10));
        for through in [place("a", 7), place("a", 0), place("b", 3), place("", 0)] {
            reached.tries(10, &page(through.clone()));
            reached.goes_on(&image(10, Some(through), 10));
        }
        for (after, through) in [(10, 20), (20, 20), (20, 35)] {
            reached.tries(10, &changes(after, through));
            reached.goes_on(&all_listed(through));
            // As an image that is asked for before a batch is used once more after it.
            reached.goes_on(&all_listed(after));
            reached.looks(&all_listed(through));
        }
        let requests = v1::IndexSpan {
            after: 0,
            through: 900,
        };
        reached.tries(10, &Span::Requests(requests));
        reached.looks(&all_listed(35));
        assert_eq!(reached.others(), 0);
    }

    #[test]
    fn an_own_batch_whose_answer_was_lost_is_nobody_elses() {
        let mut reached = begun(&all_listed(20));
        reached.tries(10, &changes(20, 30));
        // It had no effect yet, and is made again; then either has.
        reached.goes_on(&all_listed(20));
        reached.tries(10, &changes(20, 25));
        reached.looks(&all_listed(30));
        assert_eq!(reached.others(), 0);
    }

    #[test]
    fn what_takes_effect_after_its_keys_were_looked_at_is_seen() {
        let mut reached = begun(&all_listed(20));
        reached.tries(10, &changes(20, 30));
        reached.looks(&all_listed(20));
        reached.looks(&all_listed(30));
        assert_eq!(reached.others(), 1);
        reached.looks(&all_listed(30));
        assert_eq!(reached.others(), 1, "once");
    }

    #[test]
    fn another_movers_import_between_two_own_ones_is_seen_and_stays_seen() {
        let mut reached = begun(&all_listed(20));
        reached.tries(10, &changes(20, 30));
        // Another's, through 40; the own next one goes on from there.
        reached.goes_on(&all_listed(40));
        reached.tries(10, &changes(40, 50));
        reached.goes_on(&all_listed(50));
        reached.looks(&all_listed(50));
        assert_eq!(reached.others(), 1);
    }

    #[test]
    fn another_movers_page_and_pass_are_seen() {
        let mut reached = begun(&image(10, None, 10));
        reached.tries(10, &page(place("b", 3)));
        reached.goes_on(&image(10, Some(place("b", 0)), 10));
        assert_eq!(reached.others(), 1, "further within the key");
        reached.goes_on(&image(10, Some(place("c", 1)), 10));
        assert_eq!(reached.others(), 2);
        reached.goes_on(&image(60, None, 60));
        reached.goes_on(&image(60, None, 60));
        assert_eq!(reached.others(), 3);
        // A late one of the pass before moves nothing.
        reached.tries(10, &page(place("", 0)));
        reached.goes_on(&image(60, Some(place("a", 1)), 60));
        assert_eq!(reached.others(), 4);
    }
}
