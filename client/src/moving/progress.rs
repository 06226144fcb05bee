//! How far a relocation is, from its record and from two looks at it.
//!
//! Owns the arithmetic and which phase waits for whom. Refuses to estimate from one look, or from a mover that has not said
//! what there is.

use std::time::Duration;

use proto::ids::UnixMs;
use proto::v1;
use proto::v1::ArrivalPhase as Phase;

/// A relocation as its destination has it, in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RelocationProgress {
    /// Where it is.
    pub phase: &'static str,
    /// For whom it waits, or what has to happen next; empty where it goes by itself.
    pub waits_for: &'static str,
    /// Versions and delete markers that are here.
    pub versions: u64,
    /// Those of the source, as the mover counted them last; `None` before it has.
    pub source_versions: Option<u64>,
    /// Sealed bytes that are here.
    pub bytes: u64,
    /// Those of the source.
    pub source_bytes: Option<u64>,
    /// Sealed bytes that were read of the source so far, by all movers.
    pub moved_bytes: u64,
    /// Changes of the source that are not taken yet, counted up to 1,000.
    pub changes_behind: Option<u32>,
    /// Copies that were read back and found equal.
    pub compared: u64,
    /// Which gateway moves it; `None` where nobody's claim lasts.
    pub mover: Option<String>,
    /// Tries that failed, and the last one's reason.
    pub failures: u64,
    /// See `failures`.
    pub failure: String,
    /// How operators want it moved.
    pub pace: v1::ArrivalPace,
    /// Log index of the source's fence that stands.
    pub fence: Option<u64>,
    /// Whether all copies were found equal under that fence.
    pub equal: bool,
    /// How long writes waited at the cutover, or at the last try.
    pub pause_ms: u32,
    /// Keys of the source that were released, once that is stated.
    pub released: Option<u64>,
    /// Until when keys of the source are kept for sure.
    pub hold_until: Option<UnixMs>,
    /// Whether two people's word opened it, and the source has not said that it moved.
    pub by_force: bool,
}

/// Words for a phase, short and stable.
pub fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Plan => "plan",
        Phase::Prepared => "prepared",
        Phase::Copying => "copying",
        Phase::CatchUp => "catching-up",
        Phase::Verifying => "verifying",
        Phase::Fenced => "fenced",
        Phase::Cutover => "cut-over",
        Phase::Hold => "hold",
        Phase::Shred => "shred",
        Phase::Certified => "certified",
        Phase::Aborting => "aborting",
        Phase::Aborted => "aborted",
    }
}

/// Whether nothing of it will change any more.
pub fn is_over(phase: Phase) -> bool {
    matches!(phase, Phase::Certified | Phase::Aborted)
}

/// Whether the destination serves the dataset.
pub fn is_served(phase: Phase) -> bool {
    matches!(
        phase,
        Phase::Cutover | Phase::Hold | Phase::Shred | Phase::Certified
    )
}

fn waits_for(arrival: &v1::ArrivalRecord, mover: bool, now: UnixMs) -> &'static str {
    let pace = arrival.pace.unwrap_or_default();
    match arrival.phase() {
        Phase::Plan => "its preparation: `reduit relocate begin` again",
        Phase::Prepared if !mover => "the source's grant: `reduit relocate grant` there",
        Phase::Prepared => "the source's words that it is open",
        Phase::Copying | Phase::CatchUp | Phase::Verifying if pace.paused => {
            "an operator: `reduit relocate resume`"
        }
        Phase::Copying | Phase::CatchUp | Phase::Verifying if !mover => {
            "a gateway of this region that moves it"
        }
        Phase::Verifying if !pace.cutover => "an operator: `reduit relocate cutover`",
        Phase::Copying | Phase::CatchUp | Phase::Verifying | Phase::Fenced | Phase::Cutover => "",
        Phase::Hold if now.0 < arrival.hold_until_ms => "the end of the hold",
        Phase::Hold => "two operators: `reduit relocate shred`, here and in the source",
        Phase::Shred if !arrival.shredded => {
            "the end of the source's key: `reduit relocate finalize` there, then here with its words"
        }
        Phase::Shred => "the end of the hand-over key: `reduit relocate finalize`",
        Phase::Aborting if !arrival.ended => {
            "the source's shard: `reduit relocate abort` there, then here with its words"
        }
        Phase::Aborting if arrival.released.is_none() => {
            "the source's KMS: `reduit relocate abort` there, then here with its words"
        }
        Phase::Aborting => "the end of the hand-over key: `reduit relocate abort` again",
        Phase::Certified | Phase::Aborted => "",
    }
}

impl RelocationProgress {
    /// From what the destination says of it.
    pub fn of(status: &v1::ArrivalStatus) -> Self {
        let arrival = status.arrival.clone().unwrap_or_default();
        let dataset = status.dataset.clone().unwrap_or_default();
        let now = UnixMs(status.time_ms);
        let claim = arrival.mover.clone().unwrap_or_default();
        let mover = (claim.until_ms > now.0).then_some(claim.mover);
        let report = claim.report;
        let said = report.clone().unwrap_or_default();
        let fenced = arrival
            .fence
            .as_ref()
            .filter(|_| arrival.phase() == Phase::Fenced);
        Self {
            phase: phase_name(arrival.phase()),
            waits_for: waits_for(&arrival, mover.is_some(), now),
            versions: dataset.versions,
            source_versions: report.as_ref().map(|report| report.source_versions),
            bytes: dataset.sealed_bytes,
            source_bytes: report.as_ref().map(|report| report.source_bytes),
            moved_bytes: said.moved_bytes,
            changes_behind: report.as_ref().map(|report| report.changes_behind),
            compared: said.compared,
            mover,
            failures: said.failures,
            failure: said.failure,
            pace: arrival.pace.unwrap_or_default(),
            fence: fenced.map(|fence| fence.fence),
            equal: arrival.equal,
            pause_ms: said.pause_ms,
            released: arrival.released.map(|released| released.objects),
            hold_until: (arrival.hold_until_ms > 0).then_some(UnixMs(arrival.hold_until_ms)),
            by_force: arrival.opened() == v1::Opened::ByForce && arrival.moved.is_some(),
        }
    }

    /// Bytes of the source that are not here yet.
    pub fn left_bytes(&self) -> Option<u64> {
        Some(self.source_bytes?.saturating_sub(self.bytes))
    }

    /// Copies that were compared, of all that are here, in hundredths.
    pub fn compared_percent(&self) -> u64 {
        match self.versions {
            0 => 0,
            all => (self.compared.min(all)).saturating_mul(100) / all,
        }
    }
}

/// How fast it goes between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RelocationRate {
    /// Sealed bytes of the source a second.
    pub bytes_per_s: u64,
    /// How long the rest takes at that rate; `None` where nothing moves, or the rest is not known.
    pub left: Option<Duration>,
}

/// From two looks, so far apart.
pub fn rate(
    before: &RelocationProgress,
    after: &RelocationProgress,
    apart: Duration,
) -> RelocationRate {
    let ms = u64::try_from(apart.as_millis()).unwrap_or(u64::MAX);
    let moved = after.moved_bytes.saturating_sub(before.moved_bytes);
    let bytes_per_s = match ms {
        0 => 0,
        ms => moved.saturating_mul(1_000) / ms,
    };
    let left = after
        .left_bytes()
        .and_then(|bytes| super::transfer_seconds(bytes, bytes_per_s))
        .map(Duration::from_secs);
    RelocationRate { bytes_per_s, left }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(phase: Phase) -> v1::ArrivalStatus {
        v1::ArrivalStatus {
            arrival: Some(v1::ArrivalRecord {
                phase: phase.into(),
                mover: Some(v1::MoverClaim {
                    mover: "spiffe://de-fra/gateway/g1".to_owned(),
                    until_ms: 2_000,
                    report: Some(v1::MoverReport {
                        source_versions: 40,
                        source_bytes: 1_000,
                        moved_bytes: 600,
                        compared: 5,
                        changes_behind: 3,
                        ..Default::default()
                    }),
                }),
                ..Default::default()
            }),
            dataset: Some(v1::DatasetRecord {
                versions: 20,
                sealed_bytes: 600,
                ..Default::default()
            }),
            time_ms: 1_000,
            ..Default::default()
        }
    }

    #[test]
    fn what_is_left_is_the_sources_count_without_what_is_here() {
        let now = RelocationProgress::of(&status(Phase::Copying));
        assert_eq!(now.left_bytes(), Some(400));
        assert_eq!(now.compared_percent(), 25);
        assert_eq!(now.mover.as_deref(), Some("spiffe://de-fra/gateway/g1"));
        let mut before = now.clone();
        before.moved_bytes = 400;
        let pace = rate(&before, &now, Duration::from_secs(2));
        assert_eq!(pace.bytes_per_s, 100);
        assert_eq!(pace.left, Some(Duration::from_secs(4)));
        let still = rate(&now, &now, Duration::from_secs(2));
        assert_eq!((still.bytes_per_s, still.left), (0, None));
        assert_eq!(rate(&before, &now, Duration::ZERO).bytes_per_s, 0);
    }

    #[test]
    fn nothing_is_estimated_before_a_mover_said_what_there_is() {
        let mut early = status(Phase::Prepared);
        early.arrival.as_mut().expect("it has one").mover = None;
        let early = RelocationProgress::of(&early);
        assert_eq!((early.source_bytes, early.left_bytes()), (None, None));
        assert!(early.waits_for.contains("grant"), "{}", early.waits_for);
    }

    #[test]
    fn a_claim_that_is_over_moves_nothing() {
        let mut late = status(Phase::Copying);
        late.time_ms = 2_000;
        let late = RelocationProgress::of(&late);
        assert_eq!(late.mover, None);
        assert!(late.waits_for.contains("gateway"), "{}", late.waits_for);
        assert_eq!(late.source_versions, Some(40));
    }

    #[test]
    fn each_phase_says_for_whom_it_waits() {
        let waits = |change: &dyn Fn(&mut v1::ArrivalRecord), phase| {
            let mut status = status(phase);
            change(status.arrival.as_mut().expect("it has one"));
            RelocationProgress::of(&status).waits_for
        };
        let paused = |arrival: &mut v1::ArrivalRecord| {
            arrival.pace.get_or_insert_default().paused = true;
        };
        assert!(waits(&paused, Phase::CatchUp).contains("resume"));
        assert!(waits(&|_| {}, Phase::Verifying).contains("cutover"));
        let cut = |arrival: &mut v1::ArrivalRecord| {
            arrival.pace.get_or_insert_default().cutover = true;
        };
        assert_eq!(waits(&cut, Phase::Verifying), "");
        let held = |arrival: &mut v1::ArrivalRecord| arrival.hold_until_ms = 5_000;
        assert!(waits(&held, Phase::Hold).contains("end of the hold"));
        assert!(waits(&|_| {}, Phase::Hold).contains("shred"));
        let shredded = |arrival: &mut v1::ArrivalRecord| arrival.shredded = true;
        assert!(waits(&shredded, Phase::Shred).contains("hand-over key"));
        assert!(waits(&|_| {}, Phase::Aborting).contains("shard"));
        for over in [Phase::Certified, Phase::Aborted] {
            assert_eq!(waits(&|_| {}, over), "");
            assert!(is_over(over));
        }
    }
}
