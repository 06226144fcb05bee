//! Protobuf's wire form without a schema: a list of numbered values.
//!
//! Owns taking apart and putting together. Refuses groups, which nothing of ours uses, and anything left over.

/// How deep nested messages are looked into.
pub(super) const DEPTH_MAX: usize = 8;

/// One field as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) number: u32,
    pub(super) value: Value,
}

/// What a field holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Varint(u64),
    Fixed64(u64),
    Bytes(Vec<u8>),
    Fixed32(u32),
}

pub(super) fn parse(mut data: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !data.is_empty() {
        let key = varint(&mut data)?;
        let number = u32::try_from(key >> 3).ok().filter(|number| *number > 0)?;
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut data)?),
            1 => {
                let (taken, rest) = data.split_first_chunk()?;
                data = rest;
                Value::Fixed64(u64::from_le_bytes(*taken))
            }
            2 => {
                let length = usize::try_from(varint(&mut data)?).ok()?;
                let (taken, rest) = data.split_at_checked(length)?;
                data = rest;
                Value::Bytes(taken.to_vec())
            }
            5 => {
                let (taken, rest) = data.split_first_chunk()?;
                data = rest;
                Value::Fixed32(u32::from_le_bytes(*taken))
            }
            _ => return None,
        };
        fields.push(Field { number, value });
    }
    Some(fields)
}

/// The fields that hold bytes, each with its number: an input that is a list of messages of several kinds.
pub(crate) fn numbered(data: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let fields = parse(data).unwrap_or_default().into_iter();
    let bytes = |field: Field| match field.value {
        Value::Bytes(bytes) => Some((field.number, bytes)),
        _ => None,
    };
    fields.filter_map(bytes).collect()
}

/// The values of field 1, where they are bytes: an input that is a list of messages of one kind.
pub(crate) fn repeated(data: &[u8]) -> Vec<Vec<u8>> {
    let fields = numbered(data).into_iter();
    let first = |(number, bytes)| (number == 1).then_some(bytes);
    fields.filter_map(first).collect()
}

pub(super) fn encode(fields: &[Field], out: &mut Vec<u8>) {
    for Field { number, value } in fields {
        let key = |kind: u64| u64::from(*number) << 3 | kind;
        match value {
            Value::Varint(held) => {
                put(out, key(0));
                put(out, *held);
            }
            Value::Fixed64(held) => {
                put(out, key(1));
                out.extend_from_slice(&held.to_le_bytes());
            }
            Value::Bytes(held) => {
                put(out, key(2));
                put(out, held.len() as u64);
                out.extend_from_slice(held);
            }
            Value::Fixed32(held) => {
                put(out, key(5));
                out.extend_from_slice(&held.to_le_bytes());
            }
        }
    }
}

fn varint(data: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for at in 0..10 {
        let (byte, rest) = data.split_first()?;
        *data = rest;
        value |= u64::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back_from_its_fields() {
        let data = [
            0x08, 0x96, 0x01, 0x11, 1, 2, 3, 4, 5, 6, 7, 8, 0x1A, 2, 9, 9, 0x25, 1, 0, 0, 0,
        ];
        let fields = parse(&data).expect("a message");
        assert_eq!(fields.len(), 4);
        let mut out = Vec::new();
        encode(&fields, &mut out);
        assert_eq!(out, data);
        for cut in [1, 2, 5, data.len() - 1] {
            assert_eq!(parse(&data[..cut]).is_some(), cut == 3, "{cut}");
        }
        assert!(parse(&[0x0B]).is_none(), "a group");
        assert!(parse(&[0x00, 0]).is_none(), "field 0");
    }
}
