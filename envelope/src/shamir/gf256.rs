//! Arithmetic in GF(2^8) with the polynomial of AES, x^8 + x^4 + x^3 + x + 1, in constant time.
//!
//! Owns evaluation and interpolation of polynomials over 32 bytes at once. No table and no branch
//! depends on a secret: only the indices of shares, which are public, are ever inverted.

use zeroize::Zeroize;

/// a · b. Same steps whatever the values.
pub(super) fn multiply(a: u8, b: u8) -> u8 {
    let (mut a, mut product) = (a, 0);
    for bit in 0..8 {
        // All ones where the bit is set, by arithmetic and not by a branch.
        product ^= a & ((b >> bit) & 1).wrapping_neg();
        let overflow = (a >> 7).wrapping_neg();
        a = (a << 1) ^ (0x1b & overflow);
    }
    product
}

/// 1 / a as a^254; 0 for 0.
pub(super) fn invert(a: u8) -> u8 {
    let mut result = 1;
    let mut square = a;
    for _ in 0..7 {
        square = multiply(square, square);
        result = multiply(result, square);
    }
    result
}

/// secret + c1·x + c2·x² + …, for each byte.
pub(super) fn evaluate(secret: &[u8; 32], coefficients: &[[u8; 32]], x: u8, out: &mut [u8; 32]) {
    out.fill(0);
    for row in coefficients.iter().rev().chain([secret]) {
        for (out, coefficient) in out.iter_mut().zip(row) {
            *out = multiply(*out, x) ^ coefficient;
        }
    }
}

/// The value at x = 0 of the polynomial through `points`, whose first members differ and are not 0
/// (Lagrange).
pub(super) fn interpolate_at_zero(points: &[(u8, &[u8; 32])], out: &mut [u8; 32]) {
    out.zeroize();
    for (x, value) in points {
        // The product of other / (other - x) over the other points; subtraction is XOR here.
        let weight = points
            .iter()
            .filter(|(other, _)| other != x)
            .fold(1, |weight, (other, _)| {
                multiply(weight, multiply(*other, invert(other ^ x)))
            });
        for (out, byte) in out.iter_mut().zip(*value) {
            *out ^= multiply(*byte, weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 197 section 4.2 works out {57}·{83} = {c1} and {57}·{13} = {fe}.
    #[test]
    fn products_are_those_of_fips_197() {
        assert_eq!(multiply(0x57, 0x83), 0xc1);
        assert_eq!(multiply(0x57, 0x13), 0xfe);
    }

    /// Logarithms to base 3, as textbooks do it: an independent way to the same field.
    #[test]
    fn all_products_and_inverses_agree_with_logarithms() {
        let (mut exp, mut log) = ([0u8; 255], [0usize; 256]);
        let mut value = 1u8;
        for (power, entry) in exp.iter_mut().enumerate() {
            *entry = value;
            log[usize::from(value)] = power;
            let doubled = (value << 1) ^ if value & 0x80 != 0 { 0x1b } else { 0 };
            value ^= doubled;
        }
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                let expected = match (a, b) {
                    (0, _) | (_, 0) => 0,
                    _ => exp[(log[usize::from(a)] + log[usize::from(b)]) % 255],
                };
                assert_eq!(multiply(a, b), expected, "{a} · {b}");
            }
            assert_eq!(multiply(a, invert(a)), u8::from(a != 0), "1 / {a}");
        }
    }
}
