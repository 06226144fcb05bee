//! Regions that know each other: what this one says of itself, whom it trusts, and how one descriptor follows another.
//!
//! Owns the row of each region, and with it the list in the enrolment set by which every process admits peers. A region is
//! pinned by people, under dual control, by its descriptor's fingerprint; what it says later is taken where a key pinned
//! before has signed it within the same CA, and takes people again otherwise. Refuses an older descriptor, one of another
//! jurisdiction and one past its time. Reads no signature and no certificate: the leader has verified both.

use prost::Message as _;
use proto::descriptor::{Descriptor, DescriptorError};
use proto::ids::{RegionId, Role};
use proto::store::Reader;
use proto::transcript;
use proto::v1::{
    DistrustRegion, EnrolmentSet, KmsDone, PublishRegion, RegionRecord, RegionStanding,
    SignedRegionDescriptor, TrustRegion, TrustedRegion,
};
use serde::Serialize;
use tlog::{Kind, Purpose};

use crate::access_keys::SET_BYTES_MAX;
use crate::append::{Applying, Private, details, stated};
use crate::apply::{LEVEL_REGIONS, Stop};
use crate::authority::Authority;
use crate::layout;
use crate::members::{DualControlled, of_operator, store_authority};
use crate::read;
use crate::refusal::Refusal;

/// Regions besides its own that one may know: a region has tens of peers, and each is in every process's enrolment set.
pub const REGIONS_MAX: usize = 64;
const FORMAT: u32 = 1;

/// A region's row, and its newest descriptor.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownRegion {
    /// The row.
    pub record: RegionRecord,
    /// What it says of itself.
    pub descriptor: Descriptor,
}

impl KnownRegion {
    /// A row's value; `None` where it is none.
    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let record = RegionRecord::decode(value).ok()?;
        let descriptor = Descriptor::parse(record.descriptor.as_ref()?).ok()?;
        let whole = record.format == FORMAT && record.standing() != RegionStanding::Unspecified;
        whole.then_some(Self { record, descriptor })
    }

    /// Whether its peers are admitted, while its descriptor is good.
    pub fn trusted(&self) -> bool {
        self.record.standing() == RegionStanding::Trusted
    }

    /// Whether `offered` may take the place of what is held without people: newer, of the same jurisdiction and CA, and
    /// signed by a key that is pinned.
    pub fn is_followed_by(&self, offered: &Descriptor) -> Result<(), Refusal> {
        if !self.trusted() {
            return Err(Refusal::RegionNotTrusted);
        }
        self.is_before(offered)?;
        if offered.ca_certificate() != self.descriptor.ca_certificate() {
            return Err(Refusal::DescriptorNotPinned(
                "it names another certificate authority",
            ));
        }
        if !self.descriptor.may_sign(&offered.signed().signer) {
            return Err(Refusal::DescriptorNotPinned(
                "it is signed by no KMS replica of the one held",
            ));
        }
        Ok(())
    }

    /// Whether people may put `offered` in the place of what is held: newer, or the same of a region that was distrusted.
    pub fn is_replaced_by(&self, offered: &Descriptor) -> Result<(), Refusal> {
        let same = offered.signed().descriptor == self.descriptor.signed().descriptor;
        if same && !self.trusted() {
            return Ok(());
        }
        self.is_before(offered)
    }

    fn is_before(&self, offered: &Descriptor) -> Result<(), Refusal> {
        // A region does not move: its data would be under another law without a relocation.
        if offered.jurisdiction() != self.descriptor.jurisdiction() {
            return Err(Refusal::DescriptorNotPinned(
                "it states another jurisdiction",
            ));
        }
        let held = self.descriptor.version();
        match offered.version() > held {
            true => Ok(()),
            false => Err(Refusal::DescriptorOlder { held }),
        }
    }
}

/// A region that this one knows, itself included.
pub fn known_region(state: &dyn Reader, region: &RegionId) -> Option<KnownRegion> {
    let value = state.value(&layout::region(region))?;
    Some(KnownRegion::decode(&value).expect("state holds what this machine wrote"))
}

/// What this region last said of itself.
pub fn own_region(state: &dyn Reader) -> Option<KnownRegion> {
    let own = read::region(state)?.region.parse().ok()?;
    known_region(state, &own)
}

/// Every other region that this one knows, in order.
pub fn known_regions(state: &dyn Reader) -> Vec<KnownRegion> {
    let mut found = Vec::new();
    let (start, end) = ([layout::REGIONS], [layout::REGIONS + 1]);
    state.scan(&start, &end, &mut |_, value| {
        let known = KnownRegion::decode(value).expect("state holds what this machine wrote");
        if known.record.standing() != RegionStanding::Own {
            found.push(known);
        }
        true
    });
    found
}

/// A region that is trusted now, by region time.
pub fn trusted_region(state: &dyn Reader, region: &RegionId) -> Option<Descriptor> {
    let known = known_region(state, region).filter(KnownRegion::trusted)?;
    let good = known.descriptor.good_at(read::region_time(state));
    good.ok().map(|()| known.descriptor)
}

/// What people compare: see [`transcript::region_fingerprint`].
pub fn region_fingerprint(descriptor: &[u8]) -> [u8; 32] {
    tlog::sha256(&[&transcript::region_fingerprint(descriptor)]).0
}

#[derive(Serialize)]
struct Details {
    region: String,
    jurisdiction: String,
    version: u64,
    fingerprint: String,
    expires_at_ms: u64,
    ca_sha256: String,
    signer_sha256: String,
    members: usize,
    /// Of the descriptor that was held; absent where none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    before_version: Option<u64>,
    authority_version: u64,
}

impl Details {
    fn of(descriptor: &Descriptor, before: Option<&KnownRegion>, authority_version: u64) -> Self {
        let sha256 = |bytes: &[u8]| hex::encode(tlog::sha256(&[bytes]).0);
        let signed = descriptor.signed();
        Self {
            region: descriptor.region().to_string(),
            jurisdiction: descriptor.jurisdiction().to_string(),
            version: descriptor.version(),
            fingerprint: hex::encode(region_fingerprint(&signed.descriptor)),
            expires_at_ms: descriptor.expires().0,
            ca_sha256: sha256(descriptor.ca_certificate()),
            signer_sha256: sha256(&signed.signer),
            members: descriptor.members().len(),
            before_version: before.map(|known| known.descriptor.version()),
            authority_version,
        }
    }
}

/// A descriptor that is good now, by region time.
fn parsed(
    applying: &Applying<'_>,
    signed: Option<&SignedRegionDescriptor>,
) -> Result<Descriptor, Stop> {
    check_level(applying)?;
    let signed = signed.ok_or(Refusal::Malformed("no region descriptor"))?;
    let descriptor = Descriptor::parse(signed).map_err(|error| match error {
        DescriptorError::Format(_) => Stop::Unknown("a region descriptor of a later format"),
        _ => Refusal::Malformed("region descriptor").into(),
    })?;
    descriptor
        .good_at(applying.now)
        .map_err(|_| Refusal::DescriptorExpired)?;
    Ok(descriptor)
}

fn check_level(applying: &Applying<'_>) -> Result<(), Refusal> {
    match applying.at.level < LEVEL_REGIONS {
        true => Err(Refusal::Malformed("regions take feature level 10")),
        false => Ok(()),
    }
}

fn put(
    applying: &mut Applying<'_>,
    standing: RegionStanding,
    descriptor: &Descriptor,
    pinned_leaf: u64,
) {
    let record = RegionRecord {
        format: FORMAT,
        standing: standing.into(),
        descriptor: Some(descriptor.signed().clone()),
        changed_leaf: applying.next_leaf().0,
        changed_at_ms: applying.now.0,
        pinned_leaf,
    };
    let row = layout::region(descriptor.region());
    applying.state.put(&row, &record.encode_to_vec());
}

/// The next set, with or without a region among those that are trusted.
fn set_after(
    authority: &Authority,
    region: &RegionId,
    trusted: Option<&Descriptor>,
) -> EnrolmentSet {
    let mut set = authority.set().clone();
    set.trusted_regions
        .retain(|held| held.region != region.as_str());
    if let Some(descriptor) = trusted {
        set.trusted_regions.push(TrustedRegion {
            region: region.to_string(),
            descriptor: Some(descriptor.signed().clone()),
        });
        set.trusted_regions.sort_by(|a, b| a.region.cmp(&b.region));
    }
    set.version += 1;
    set
}

fn small_enough(set: &EnrolmentSet) -> Result<(), Refusal> {
    match set.encoded_len() <= SET_BYTES_MAX {
        true => Ok(()),
        false => Err(Refusal::TooManyRegions),
    }
}

/// A KMS replica, which asks for what no person has to.
fn of_replica(applying: &Applying<'_>, authority: &Authority) -> Result<(), Refusal> {
    match applying.requester(authority)?.role() {
        Role::Kms => Ok(()),
        _ => Err(Refusal::NotEnrolled),
    }
}

fn logged(
    applying: &mut Applying<'_>,
    kind: Kind,
    (purpose, mut private): (Purpose, Private),
    shown: &Details,
) -> KmsDone {
    details(&mut private, shown);
    let leaf = applying.append(kind, purpose, None, private);
    KmsDone {
        leaf_index: leaf.index.0,
        ..applying.answer()
    }
}

/// This region says something new of itself.
pub(crate) fn publish(
    applying: &mut Applying<'_>,
    command: &PublishRegion,
) -> Result<KmsDone, Stop> {
    let descriptor = parsed(applying, command.descriptor.as_ref())?;
    let authority = applying.authority()?;
    of_replica(applying, &authority)?;
    check_own(applying, &authority, &descriptor)?;
    let held = known_region(&*applying.state, descriptor.region());
    if let Some(held) = &held
        && descriptor.version() <= held.descriptor.version()
    {
        let held = held.descriptor.version();
        return Err(Refusal::DescriptorOlder { held }.into());
    }
    let mut set = authority.set().clone();
    set.descriptor = Some(descriptor.signed().clone());
    set.version += 1;
    small_enough(&set)?;
    let shown = Details::of(&descriptor, held.as_ref(), set.version);
    put(applying, RegionStanding::Own, &descriptor, 0);
    store_authority(applying, &set);
    let by = (Purpose::service(), applying.private_of_requester());
    Ok(logged(applying, Kind::RegionPublished, by, &shown))
}

/// What it says of itself is what its state says.
fn check_own(
    applying: &Applying<'_>,
    authority: &Authority,
    descriptor: &Descriptor,
) -> Result<(), Refusal> {
    let same_region = descriptor.region() == authority.region();
    if !same_region || descriptor.jurisdiction() != authority.jurisdiction() {
        return Err(Refusal::WrongJurisdiction);
    }
    if *descriptor.ca_certificate() != authority.set().ca_certificate {
        return Err(Refusal::Malformed("the descriptor names another CA"));
    }
    let region = read::region(&*applying.state).ok_or(Refusal::NotInitialised)?;
    if descriptor.log_origin() != region.log_origin {
        return Err(Refusal::Malformed("the descriptor names another log"));
    }
    // Who is not enrolled here would be admitted abroad.
    let enrolled = descriptor.members().iter().all(|member| {
        let held = authority.enrolment(&member.identity);
        held.is_some_and(|held| held.public_key == member.public_key)
    });
    match enrolled {
        true => Ok(()),
        false => Err(Refusal::NotEnrolled),
    }
}

/// Trusts a region, or takes a newer descriptor of one that is.
pub(crate) fn trust(applying: &mut Applying<'_>, command: &TrustRegion) -> Result<KmsDone, Stop> {
    let descriptor = parsed(applying, command.descriptor.as_ref())?;
    let authority = applying.authority()?;
    if descriptor.region() == authority.region() {
        return Err(Refusal::Malformed("a region does not trust itself").into());
    }
    let held = known_region(&*applying.state, descriptor.region());
    let set = set_after(&authority, descriptor.region(), Some(&descriptor));
    let shown = Details::of(&descriptor, held.as_ref(), set.version);
    if command.fingerprint.is_empty() {
        of_replica(applying, &authority)?;
        let held = held.as_ref().ok_or(Refusal::RegionNotTrusted)?;
        held.is_followed_by(&descriptor)?;
        small_enough(&set)?;
        let pinned = held.record.pinned_leaf;
        put(applying, RegionStanding::Trusted, &descriptor, pinned);
        store_authority(applying, &set);
        let by = (Purpose::service(), applying.private_of_requester());
        return Ok(logged(applying, Kind::RegionUpdated, by, &shown));
    }
    let fingerprint = region_fingerprint(&descriptor.signed().descriptor);
    if command.fingerprint[..] != fingerprint {
        return Err(Refusal::OtherFingerprint.into());
    }
    match &held {
        Some(held) => held.is_replaced_by(&descriptor)?,
        None if known_regions(&*applying.state).len() >= REGIONS_MAX => {
            return Err(Refusal::TooManyRegions.into());
        }
        None => {}
    }
    small_enough(&set)?;
    let change = DualControlled::check(applying, command.claim.as_ref())?;
    let pinned = applying.next_leaf().0;
    put(applying, RegionStanding::Trusted, &descriptor, pinned);
    Ok(change.commit(applying, Kind::RegionTrusted, &shown, &set))
}

/// The alarm, which waits for nobody: what it ends, two people can begin again.
pub(crate) fn distrust(
    applying: &mut Applying<'_>,
    command: &DistrustRegion,
) -> Result<KmsDone, Stop> {
    check_level(applying)?;
    let region: RegionId = command
        .region
        .parse()
        .map_err(|_| Refusal::Malformed("region"))?;
    let authority = applying.authority()?;
    let (actor, purpose, private) = stated(command.claim.as_ref())?;
    if of_operator(applying, &authority)? != actor {
        return Err(Refusal::Malformed("the claim's actor is not the requester").into());
    }
    let known = known_region(&*applying.state, &region);
    let known = known
        .filter(KnownRegion::trusted)
        .ok_or(Refusal::RegionNotTrusted)?;
    let set = set_after(&authority, &region, None);
    let shown = Details::of(&known.descriptor, Some(&known), set.version);
    let pinned = known.record.pinned_leaf;
    put(
        applying,
        RegionStanding::Distrusted,
        &known.descriptor,
        pinned,
    );
    store_authority(applying, &set);
    Ok(logged(
        applying,
        Kind::RegionDistrusted,
        (purpose, private),
        &shown,
    ))
}

/// On a restored cluster: a region that was distrusted since the backup is trusted in it, and nothing in it says so. None
/// is until people say so again; answers how many were. The caller's set names none.
pub(crate) fn restored(applying: &mut Applying<'_>) -> u64 {
    let trusted = known_regions(&*applying.state);
    let trusted: Vec<_> = trusted.into_iter().filter(KnownRegion::trusted).collect();
    for known in &trusted {
        let pinned = known.record.pinned_leaf;
        put(
            applying,
            RegionStanding::Distrusted,
            &known.descriptor,
            pinned,
        );
    }
    trusted.len() as u64
}

/// Checks the regions of an enrolment set; see [`Authority::parse`].
pub(crate) fn check_set(own: &RegionId, set: &EnrolmentSet) -> Result<(), Refusal> {
    let malformed = || Refusal::Malformed("regions of the enrolment set");
    let sorted = set.trusted_regions.is_sorted_by(|a, b| a.region < b.region);
    if !sorted || set.trusted_regions.len() > REGIONS_MAX {
        return Err(malformed());
    }
    let of = |signed: Option<&SignedRegionDescriptor>, region: &str| {
        let descriptor = signed.and_then(|signed| Descriptor::parse(signed).ok());
        descriptor.is_some_and(|descriptor| descriptor.region().as_str() == region)
    };
    let peers = set.trusted_regions.iter().all(|trusted| {
        trusted.region != own.as_str() && of(trusted.descriptor.as_ref(), &trusted.region)
    });
    let own_said = set.descriptor.is_none() || of(set.descriptor.as_ref(), own.as_str());
    match peers && own_said {
        true => Ok(()),
        false => Err(malformed()),
    }
}
