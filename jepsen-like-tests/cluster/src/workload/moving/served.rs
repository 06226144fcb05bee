//! Where writes were acknowledged, and whether two regions took them at once.

use tokio::time::Instant;

/// Where writes were acknowledged, and when.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Served {
    /// Writes the source acknowledged, and those that the destination did.
    pub(crate) source: u64,
    pub(crate) destination: u64,
    /// When the last one that the source acknowledged was sent.
    source_sent: Option<Instant>,
    /// When the destination acknowledged its first.
    destination_done: Option<Instant>,
}

impl Served {
    pub(super) fn count(&mut self, moved: bool, sent: Instant) {
        let now = Instant::now();
        if moved {
            self.destination += 1;
            self.destination_done.get_or_insert(now);
        } else {
            self.source += 1;
            self.source_sent = self.source_sent.max(Some(sent));
        }
    }

    /// Whether both took writes: one that was sent to the source after the destination had acknowledged one.
    pub(crate) fn two_writers(&self) -> bool {
        match (self.source_sent, self.destination_done) {
            (Some(sent), Some(done)) => sent > done,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_write_sent_to_the_source_after_the_destination_took_one_makes_two_writers() {
        let mut served = Served::default();
        let early = Instant::now();
        served.count(false, early);
        served.count(true, early);
        // Sent before the destination's first was acknowledged: either order is one.
        served.count(false, early);
        assert!(!served.two_writers());
        let done = served.destination_done.expect("one was counted");
        served.count(false, done + Duration::from_millis(1));
        assert!(served.two_writers());
        assert_eq!((served.source, served.destination), (3, 1));
    }
}
