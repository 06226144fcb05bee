//! Random changes of an input: of its bytes, and of a protobuf message field by field.
//!
//! Owns both, from a seed, so that a run repeats exactly. A mutation of bytes alone hardly ever leaves nested lengths
//! right; here a message is taken apart, changed in one place and put together again. No schema is needed: bytes that
//! parse as fields are taken for a message now and then.

mod wire;

use self::wire::{Field, Value};
pub(crate) use self::wire::{numbered, repeated};

/// How inputs of a target are built, which says how they are best changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Any bytes.
    Bytes,
    /// Some bytes that choose, then a protobuf message.
    Message {
        /// How many bytes stand before the message.
        after: usize,
    },
}

impl Shape {
    /// A protobuf message alone.
    pub const MESSAGE: Self = Self::Message { after: 0 };
}

/// SplitMix64: a stream of numbers that its seed fixes.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// Starts at `seed`.
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `end`, or 0 when there is nothing below it.
    pub fn below(&mut self, end: usize) -> usize {
        (self.draw() % (end.max(1) as u64)) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// Numbers at which code tends to break.
const EDGES: [u64; 16] = [
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0xFFFF,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    0x1_0000_0000,
    0x7FFF_FFFF_FFFF_FFFF,
    0x8000_0000_0000_0000,
    u64::MAX,
];
/// Bytes that one insertion adds.
const INSERTED_MAX: usize = 32;

/// A changed copy of `data`, at most `len_max` bytes.
pub fn mutate(shape: Shape, data: &[u8], rng: &mut Rng, len_max: usize) -> Vec<u8> {
    let mut out = match shape {
        Shape::Message { after } if !rng.one_in(8) => message(data, after, rng),
        Shape::Message { .. } | Shape::Bytes => None,
    }
    .unwrap_or_else(|| {
        let mut out = data.to_vec();
        for _ in 0..=rng.below(4) {
            bytes(&mut out, rng);
        }
        out
    });
    out.truncate(len_max);
    out
}

/// Changes one field somewhere in a message; `None` where `data` is none.
fn message(data: &[u8], after: usize, rng: &mut Rng) -> Option<Vec<u8>> {
    let (choice, data) = data.split_at_checked(after)?;
    let mut fields = wire::parse(data)?;
    for _ in 0..=rng.below(3) {
        fields_at_random(&mut fields, rng, 0);
    }
    let mut out = Vec::with_capacity(after + data.len() + 64);
    out.extend_from_slice(choice);
    wire::encode(&fields, &mut out);
    Some(out)
}

fn fields_at_random(fields: &mut Vec<Field>, rng: &mut Rng, depth: usize) {
    if fields.is_empty() || rng.one_in(16) {
        fields.insert(rng.below(fields.len() + 1), field(rng));
        return;
    }
    let at = rng.below(fields.len());
    match rng.below(12) {
        0 => drop(fields.remove(at)),
        1 => {
            let copy = fields[at].clone();
            for _ in 0..=rng.below(4) {
                fields.insert(at, copy.clone());
            }
        }
        2 => {
            let other = rng.below(fields.len());
            fields.swap(at, other);
        }
        3 => {
            let other = fields[rng.below(fields.len())].value.clone();
            fields[at].value = other;
        }
        4 => fields[at].number = 1 + rng.below(24) as u32,
        _ => value(&mut fields[at].value, rng, depth),
    }
}

fn field(rng: &mut Rng) -> Field {
    let value = match rng.below(4) {
        0 | 1 => Value::Varint(number(rng)),
        2 => Value::Bytes(some_bytes(rng)),
        _ => Value::Bytes(vec![
            rng.draw() as u8;
            [0, 16, 24, 32, 44, 64][rng.below(6)]
        ]),
    };
    Field {
        number: 1 + rng.below(24) as u32,
        value,
    }
}

fn value(value: &mut Value, rng: &mut Rng, depth: usize) {
    match value {
        Value::Varint(held) => *held = near(*held, rng),
        Value::Fixed64(held) => *held = near(*held, rng),
        Value::Fixed32(held) => *held = near((*held).into(), rng) as u32,
        Value::Bytes(held) => {
            // A string parses as fields by chance: sometimes as what it is.
            let nested = if depth < wire::DEPTH_MAX && !rng.one_in(4) {
                wire::parse(held)
            } else {
                None
            };
            match nested {
                Some(mut fields) => {
                    fields_at_random(&mut fields, rng, depth + 1);
                    held.clear();
                    wire::encode(&fields, held);
                }
                None => bytes(held, rng),
            }
        }
    }
}

fn number(rng: &mut Rng) -> u64 {
    match rng.below(3) {
        0 => EDGES[rng.below(EDGES.len())],
        1 => rng.below(64) as u64,
        _ => rng.draw(),
    }
}

fn near(held: u64, rng: &mut Rng) -> u64 {
    match rng.below(4) {
        0 => held.wrapping_add(1),
        1 => held.wrapping_sub(1),
        2 => held ^ (1 << rng.below(64)),
        _ => number(rng),
    }
}

fn some_bytes(rng: &mut Rng) -> Vec<u8> {
    (0..rng.below(INSERTED_MAX))
        .map(|_| rng.draw() as u8)
        .collect()
}

fn bytes(out: &mut Vec<u8>, rng: &mut Rng) {
    let at = rng.below(out.len());
    match rng.below(9) {
        0 | 1 if !out.is_empty() => out[at] ^= 1 << rng.below(8),
        2 if !out.is_empty() => out[at] = rng.draw() as u8,
        3 if !out.is_empty() => {
            let edge = EDGES[rng.below(EDGES.len())].to_be_bytes();
            let width = [1, 2, 4, 8][rng.below(4)].min(out.len() - at);
            out[at..at + width].copy_from_slice(&edge[8 - width..]);
        }
        4 => {
            let end = out.len().min(at + 1 + rng.below(INSERTED_MAX));
            out.drain(at.min(end)..end);
        }
        5 => out.truncate(at),
        6 => {
            let end = out.len().min(at + rng.below(INSERTED_MAX));
            let copy = out[at.min(end)..end].to_vec();
            let to = rng.below(out.len() + 1);
            out.splice(to..to, copy);
        }
        _ => {
            let added = some_bytes(rng);
            out.splice(at..at, added);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_fixes_every_change_and_lengths_are_bounded() {
        for shape in [Shape::Bytes, Shape::MESSAGE, Shape::Message { after: 2 }] {
            for seed in 0..2000 {
                let data = [0x0A, 3, 8, 1, 16, 0x18, 5, 0x22, 0];
                let of = |seed| mutate(shape, &data, &mut Rng::seeded(seed), 12);
                assert_eq!(of(seed), of(seed));
                assert!(of(seed).len() <= 12);
                mutate(shape, &[], &mut Rng::seeded(seed), 12);
            }
        }
    }

    /// What bytes alone cannot do: most changed messages are still messages, with nested ones changed inside.
    #[test]
    fn changed_messages_stay_messages() {
        let inner = [8, 1, 0x12, 2, b'h', b'i'];
        let mut data = vec![0x0A, inner.len() as u8];
        data.extend(inner);
        let mut parsed = 0;
        for seed in 0..1000 {
            let changed = mutate(Shape::MESSAGE, &data, &mut Rng::seeded(seed), 4096);
            parsed += usize::from(wire::parse(&changed).is_some());
        }
        assert!(parsed > 800, "{parsed} of 1000");
    }
}
