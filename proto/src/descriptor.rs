//! What a region says of itself, parsed: who it is, by which CA, keys and addresses a peer finds it, and until when.
//!
//! Owns the bounds of a descriptor and its one encoding. Refuses what is too long, of another format, past its time, or at
//! odds with itself. Signatures, certificates and keys of logs are for who verifies them: a descriptor in memory is well
//! formed and not yet believed.

use bytes::Bytes;
use prost::Message as _;

use crate::ids::{Identity, Jurisdiction, RegionId, Role, UnixMs};
use crate::v1::{RegionDescriptor, RegionMember, SignedRegionDescriptor};

/// The format that this build reads and writes.
pub const FORMAT: u32 = 1;
/// Bytes of a descriptor, without its signature.
pub const DESCRIPTOR_BYTES_MAX: usize = 128 << 10;
/// KMS replicas, nodes and gateways in one.
pub const MEMBERS_MAX: usize = 256;
/// Bytes of the witness policy in one.
pub const WITNESS_POLICY_BYTES_MAX: usize = 64 << 10;
/// How long a descriptor may be good for: 400 days.
pub const LIFE_MS_MAX: u64 = 400 * 24 * 3_600_000;
/// How far the clock of who issued it may be ahead of ours.
pub const AHEAD_MS_MAX: u64 = 600_000;
/// First line of a file with a signed descriptor in it.
pub const FILE_HEADER: &[u8] = b"reduit/region-descriptor/1\n";
const CA_BYTES_MAX: usize = 16 << 10;
const ENDPOINT_BYTES_MAX: usize = 255;
const LOG_NAME_BYTES_MAX: usize = 512;
const SIGNATURE_BYTES: usize = 64;
const SPKI_BYTES: usize = 44;
/// DER SubjectPublicKeyInfo of an Ed25519 key up to the key's 32 bytes (RFC 8410 §4).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2A, 0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// Why something is no descriptor, or none now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescriptorError {
    /// See [`DESCRIPTOR_BYTES_MAX`].
    #[error("a region descriptor has at most {DESCRIPTOR_BYTES_MAX} bytes, this one {0}")]
    TooLong(usize),
    /// Not the message, or another spelling of it.
    #[error("it is no region descriptor in its one encoding")]
    Encoding,
    /// Of a later build.
    #[error("a region descriptor of format {0}, which this build does not know")]
    Format(u32),
    /// A field that is none.
    #[error("the region descriptor has no valid {0}")]
    Field(&'static str),
    /// It says two things at once.
    #[error("the region descriptor contradicts itself: {0}")]
    Contradiction(&'static str),
    /// Its time is over.
    #[error("the region descriptor expired at {expires} (Unix milliseconds)")]
    Expired {
        /// When.
        expires: UnixMs,
    },
    /// Its time has not come: a clock is wrong.
    #[error("the region descriptor is issued {ahead_s} s in the future: check both clocks")]
    FromTheFuture {
        /// By how much.
        ahead_s: u64,
    },
}

/// A signed descriptor as a file, which people take from one region to another.
pub fn to_file(signed: &SignedRegionDescriptor) -> Vec<u8> {
    [FILE_HEADER, &signed.encode_to_vec()].concat()
}

/// A well-formed descriptor from such a file, which has one encoding.
pub fn from_file(file: &[u8]) -> Result<Descriptor, DescriptorError> {
    // Signer, signature and the tags around them.
    const AROUND: usize = 128;
    let length = file.len();
    if length > FILE_HEADER.len() + DESCRIPTOR_BYTES_MAX + AROUND {
        return Err(DescriptorError::TooLong(length));
    }
    let body = file
        .strip_prefix(FILE_HEADER)
        .ok_or(DescriptorError::Encoding)?;
    let signed = SignedRegionDescriptor::decode(body).map_err(|_| DescriptorError::Encoding)?;
    match signed.encode_to_vec() == body {
        true => Descriptor::parse(&signed),
        false => Err(DescriptorError::Encoding),
    }
}

/// Somebody of the region whom its peers meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// A KMS replica, a node or a gateway.
    pub identity: Identity,
    /// DER SubjectPublicKeyInfo of its key.
    pub public_key: Bytes,
    /// `host:port` of its federation listener; empty where it has none.
    pub endpoint: String,
}

/// A well-formed descriptor.
#[derive(Debug, Clone, PartialEq)]
pub struct Descriptor {
    region: RegionId,
    jurisdiction: Jurisdiction,
    stated: RegionDescriptor,
    members: Vec<Member>,
    signed: SignedRegionDescriptor,
}

impl Descriptor {
    /// Parses a signed descriptor. Whether its signature holds, and its signer may speak, is the caller's to check.
    pub fn parse(signed: &SignedRegionDescriptor) -> Result<Self, DescriptorError> {
        let bytes = &signed.descriptor;
        if bytes.len() > DESCRIPTOR_BYTES_MAX {
            return Err(DescriptorError::TooLong(bytes.len()));
        }
        let stated =
            RegionDescriptor::decode(bytes.clone()).map_err(|_| DescriptorError::Encoding)?;
        // A later format may have fields that this build would call a second encoding.
        if stated.format != FORMAT {
            return Err(DescriptorError::Format(stated.format));
        }
        if stated.encode_to_vec() != bytes[..] {
            return Err(DescriptorError::Encoding);
        }
        let field = DescriptorError::Field;
        let region: RegionId = stated.region.parse().map_err(|_| field("region"))?;
        let jurisdiction = stated
            .jurisdiction
            .parse()
            .map_err(|_| field("jurisdiction"))?;
        if stated.version == 0 {
            return Err(field("version"));
        }
        check_time(&stated)?;
        if stated.ca_certificate.is_empty() || stated.ca_certificate.len() > CA_BYTES_MAX {
            return Err(field("CA certificate"));
        }
        check_log(&stated)?;
        let members = members(&region, &stated.members)?;
        check_signer(signed, &members)?;
        Ok(Self {
            region,
            jurisdiction,
            stated,
            members,
            signed: signed.clone(),
        })
    }

    /// As [`Self::parse`], of a descriptor that is good at `now`.
    pub fn parse_at(signed: &SignedRegionDescriptor, now: UnixMs) -> Result<Self, DescriptorError> {
        let descriptor = Self::parse(signed)?;
        descriptor.good_at(now)?;
        Ok(descriptor)
    }

    /// Refuses a descriptor before its time and after it.
    pub fn good_at(&self, now: UnixMs) -> Result<(), DescriptorError> {
        let expires = self.expires();
        if now >= expires {
            return Err(DescriptorError::Expired { expires });
        }
        let ahead = self.stated.issued_at_ms.saturating_sub(now.0);
        if ahead > AHEAD_MS_MAX {
            let ahead_s = ahead / 1_000;
            return Err(DescriptorError::FromTheFuture { ahead_s });
        }
        Ok(())
    }

    /// Which region.
    pub fn region(&self) -> &RegionId {
        &self.region
    }

    /// Under whose law.
    pub fn jurisdiction(&self) -> &Jurisdiction {
        &self.jurisdiction
    }

    /// Goes up with every statement of the region.
    pub fn version(&self) -> u64 {
        self.stated.version
    }

    /// When it was issued.
    pub fn issued(&self) -> UnixMs {
        UnixMs(self.stated.issued_at_ms)
    }

    /// Until when it is good.
    pub fn expires(&self) -> UnixMs {
        UnixMs(self.stated.expires_at_ms)
    }

    /// DER of the region's CA certificate.
    pub fn ca_certificate(&self) -> &Bytes {
        &self.stated.ca_certificate
    }

    /// Everyone whom peers meet, in order of identity.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Those of one role.
    pub fn of_role(&self, role: Role) -> impl Iterator<Item = &Member> {
        self.members
            .iter()
            .filter(move |member| member.identity.role() == role)
    }

    /// Whose key this is.
    pub fn by_public_key(&self, public_key: &[u8]) -> Option<&Member> {
        self.members
            .iter()
            .find(|member| member.public_key[..] == *public_key)
    }

    /// Whether a KMS replica of this descriptor has that key, and so may sign the next one.
    pub fn may_sign(&self, signer: &[u8]) -> bool {
        self.by_public_key(signer)
            .is_some_and(|member| member.identity.role() == Role::Kms)
    }

    /// The log's origin.
    pub fn log_origin(&self) -> &str {
        &self.stated.log_origin
    }

    /// The log's key, as a vkey.
    pub fn log_key(&self) -> &str {
        &self.stated.log_key
    }

    /// Who vouches for the log; empty where nobody does.
    pub fn witness_policy(&self) -> &Bytes {
        &self.stated.witness_policy
    }

    /// What it states, field by field.
    pub fn stated(&self) -> &RegionDescriptor {
        &self.stated
    }

    /// As it travels and rests.
    pub fn signed(&self) -> &SignedRegionDescriptor {
        &self.signed
    }

    /// Whether both state the same but for version, times and signature: there is nothing new to say.
    pub fn states_the_same(&self, other: &RegionDescriptor) -> bool {
        let timeless = |stated: &RegionDescriptor| RegionDescriptor {
            version: 0,
            issued_at_ms: 0,
            expires_at_ms: 0,
            ..stated.clone()
        };
        timeless(&self.stated) == timeless(other)
    }
}

fn check_time(stated: &RegionDescriptor) -> Result<(), DescriptorError> {
    let contradiction = DescriptorError::Contradiction;
    if stated.expires_at_ms <= stated.issued_at_ms {
        return Err(contradiction("it expires before it is issued"));
    }
    if stated.expires_at_ms - stated.issued_at_ms > LIFE_MS_MAX {
        return Err(DescriptorError::Field(
            "life: a descriptor is good for 400 days at most",
        ));
    }
    Ok(())
}

fn check_log(stated: &RegionDescriptor) -> Result<(), DescriptorError> {
    let (origin, key) = (&stated.log_origin, &stated.log_key);
    let text = |text: &str| {
        (1..=LOG_NAME_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if !text(origin) || origin.contains('+') {
        return Err(DescriptorError::Field("log origin"));
    }
    if !text(key) {
        return Err(DescriptorError::Field("log key"));
    }
    let own = origin.strip_prefix(stated.region.as_str());
    if !own.is_some_and(|rest| rest.starts_with('/')) {
        return Err(DescriptorError::Contradiction(
            "its log is of another region",
        ));
    }
    // A vkey is its name, a key id and the key, joined by plus signs.
    let named = key.strip_prefix(origin.as_str());
    if !named.is_some_and(|rest| rest.starts_with('+')) {
        return Err(DescriptorError::Contradiction(
            "its log key is of another log",
        ));
    }
    let policy = &stated.witness_policy;
    match policy.len() <= WITNESS_POLICY_BYTES_MAX && std::str::from_utf8(policy).is_ok() {
        true => Ok(()),
        false => Err(DescriptorError::Field("witness policy")),
    }
}

fn members(region: &RegionId, stated: &[RegionMember]) -> Result<Vec<Member>, DescriptorError> {
    let (field, contradiction) = (DescriptorError::Field, DescriptorError::Contradiction);
    if stated.len() > MEMBERS_MAX {
        return Err(field("number of members: at most 256"));
    }
    let mut members: Vec<Member> = Vec::with_capacity(stated.len());
    for member in stated {
        let identity: Identity = member.identity.parse().map_err(|_| field("member"))?;
        if identity.region() != region {
            return Err(contradiction("a member is of another region"));
        }
        if !matches!(identity.role(), Role::Kms | Role::Node | Role::Gateway) {
            return Err(field("member: KMS replicas, nodes and gateways alone"));
        }
        let key = &member.public_key;
        if key.len() != SPKI_BYTES || !key.starts_with(&SPKI_PREFIX) {
            return Err(field("member's key"));
        }
        if !is_endpoint(&member.endpoint) {
            return Err(field("member's endpoint"));
        }
        // Order of the text form: what the message states.
        if members
            .last()
            .is_some_and(|last| last.identity.to_string() >= member.identity)
        {
            return Err(contradiction("its members are not sorted or not distinct"));
        }
        if members.iter().any(|other| other.public_key == *key) {
            return Err(contradiction("two members have one key"));
        }
        members.push(Member {
            identity,
            public_key: key.clone(),
            endpoint: member.endpoint.clone(),
        });
    }
    Ok(members)
}

/// `host:port` that can be dialled, or nothing.
fn is_endpoint(text: &str) -> bool {
    if text.is_empty() {
        return true;
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let printed = text.bytes().all(|byte| byte.is_ascii_graphic()) && !text.contains('/');
    let port_ok = port.parse::<u16>().is_ok_and(|port| port != 0);
    text.len() <= ENDPOINT_BYTES_MAX && !host.is_empty() && printed && port_ok
}

fn check_signer(
    signed: &SignedRegionDescriptor,
    members: &[Member],
) -> Result<(), DescriptorError> {
    if signed.signature.len() != SIGNATURE_BYTES {
        return Err(DescriptorError::Field("signature"));
    }
    let own =
        |member: &Member| member.identity.role() == Role::Kms && member.public_key == signed.signer;
    match members.iter().any(own) {
        true => Ok(()),
        false => Err(DescriptorError::Contradiction(
            "it is signed by no KMS replica that it names",
        )),
    }
}

#[cfg(test)]
mod tests;
