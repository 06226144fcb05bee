//! What holds of the regions that know each other, in every state.

use proto::store::Reader;
use proto::v1::RegionStanding;

use super::{Broken, Checked, hold, table};
use crate::regions::{KnownRegion, REGIONS_MAX, known_region};
use crate::{layout, read};

/// Each row is of the region that its descriptor describes, the own region's alone is its own, and the enrolment set names
/// those that are trusted and no others, with the very descriptors of the rows.
pub fn invariant_regions_are_in_order(state: &dyn Reader) -> Checked {
    const NAME: &str = "regions are in order";
    let rows = table(state, &[layout::REGIONS]);
    hold(rows.len() <= REGIONS_MAX + 1, NAME, || "too many".into())?;
    let own = read::region(state).unwrap_or_default().region;
    let set = read::authority_set(state).unwrap_or_default();
    let (mut trusted, mut said) = (Vec::new(), None);
    for (row, value) in &rows {
        let known = KnownRegion::decode(value).ok_or(Broken {
            invariant: NAME,
            what: "a row that does not decode".into(),
        })?;
        let region = known.descriptor.region().clone();
        hold(*row == layout::region(&region), NAME, || {
            format!("{region} stands in the row of another")
        })?;
        let is_own = region.as_str() == own;
        let standing = known.record.standing();
        hold(is_own == (standing == RegionStanding::Own), NAME, || {
            format!("{region}: its standing")
        })?;
        hold(is_own == (known.record.pinned_leaf == 0), NAME, || {
            format!("{region}: the leaf that pinned it")
        })?;
        match standing {
            RegionStanding::Own => said = known.record.descriptor,
            RegionStanding::Trusted => trusted.push((region.to_string(), known.record.descriptor)),
            _ => {}
        }
    }
    let named = set.trusted_regions.into_iter();
    let named: Vec<_> = named.map(|one| (one.region, one.descriptor)).collect();
    hold(named == trusted, NAME, || {
        "the enrolment set names other regions".into()
    })?;
    hold(set.descriptor == said, NAME, || {
        "the enrolment set says something else of the own region".into()
    })
}

/// From one state to a later one: no region is forgotten, none moves to another jurisdiction, no version goes back.
pub(super) fn only_grow(before: &dyn Reader, after: &dyn Reader, name: &'static str) -> Checked {
    for (_, value) in table(before, &[layout::REGIONS]) {
        let old = KnownRegion::decode(&value).expect("checked by the regions' own");
        let region = old.descriptor.region();
        let grown = known_region(after, region).is_some_and(|new| {
            let same = new.descriptor.signed().descriptor == old.descriptor.signed().descriptor;
            new.descriptor.jurisdiction() == old.descriptor.jurisdiction()
                && (same || new.descriptor.version() > old.descriptor.version())
                && new.record.pinned_leaf >= old.record.pinned_leaf
        });
        hold(grown, name, || format!("region {region}"))?;
    }
    Ok(())
}
