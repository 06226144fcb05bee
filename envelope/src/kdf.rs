//! HKDF-SHA-512 and SHA-256 over key bytes, leaving nothing behind.
//!
//! Owns key derivation (RFC 5869) on the HMAC of aws-lc, which reads a key where it lies and
//! cleanses its own state. Refuses labels that are not versioned. aws-lc-rs' own `hkdf::Prk` is not
//! used because it copies the key through the stack; the published HKDF vectors hold this one to
//! the same results.

use aws_lc_rs::{digest, hmac};
use zeroize::{Zeroize, Zeroizing};

/// Bytes of a SHA-512 output.
pub(crate) const PRK_BYTES: usize = 64;
/// Stack that a derivation or a key schedule can have dirtied: a few frames and HMAC contexts by
/// value.
const STACK_BYTES: usize = 8 * 1024;
/// The same for X-Wing: ML-KEM works on matrices of polynomials by value.
const DEEP_STACK_BYTES: usize = 128 * 1024;

/// Runs `work` and then wipes the stack it used, so that copies the compiler made of key bytes do
/// not outlive it. Best effort, as `zeroize::zeroize_stack` says: it covers what `work` calls, not
/// what its caller keeps.
pub(crate) fn scrubbed<T>(work: impl FnOnce() -> T) -> T {
    let answer = not_inlined(work);
    zeroize::zeroize_stack::<STACK_BYTES>();
    answer
}

/// [`scrubbed`] for work with X-Wing keys.
pub(crate) fn scrubbed_deep<T>(work: impl FnOnce() -> T) -> T {
    let answer = not_inlined(work);
    zeroize::zeroize_stack::<DEEP_STACK_BYTES>();
    answer
}

#[inline(never)]
fn not_inlined<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// HKDF-Extract (RFC 5869 section 2.2) with SHA-512.
pub(crate) fn extract(salt: &[u8], secret: &[u8], prk: &mut [u8; PRK_BYTES]) {
    hmac(&hmac::Key::new(hmac::HMAC_SHA512, salt), secret, prk);
}

/// HKDF-Expand (RFC 5869 section 2.3) with SHA-512. `prk` may be shorter than a hash, as
/// Cobblestone uses it.
///
/// # Panics
/// If `out` is longer than 255 hashes: every caller asks for a constant.
pub(crate) fn expand(prk: &[u8], info: &[&[u8]], out: &mut [u8]) {
    assert!(
        out.len() <= 255 * PRK_BYTES,
        "HKDF gives at most 255 hashes"
    );
    let key = hmac::Key::new(hmac::HMAC_SHA512, prk);
    let info_bytes: usize = info.iter().map(|part| part.len()).sum();
    // T(n-1) || info || n, in one buffer sized once: a buffer that grew would leave a copy behind.
    let mut data = Zeroizing::new(Vec::with_capacity(PRK_BYTES + info_bytes + 1));
    data.extend_from_slice(&[0; PRK_BYTES]);
    info.iter().for_each(|part| data.extend_from_slice(part));
    data.push(0);
    let mut block = Zeroizing::new([0; PRK_BYTES]);
    for (index, out) in out.chunks_mut(PRK_BYTES).enumerate() {
        *data.last_mut().expect("the counter byte was pushed above") = index as u8 + 1;
        // T(0) is empty.
        hmac(
            &key,
            &data[if index == 0 { PRK_BYTES } else { 0 }..],
            &mut block,
        );
        data[..PRK_BYTES].copy_from_slice(&block[..]);
        out.copy_from_slice(&block[..out.len()]);
    }
}

/// HKDF (extract, then expand) into `out`, with the stack wiped after.
pub(crate) fn derive(secret: &[u8], salt: &[u8], info: &[u8], out: &mut [u8]) {
    scrubbed(|| {
        let mut prk = Zeroizing::new([0; PRK_BYTES]);
        extract(salt, secret, &mut prk);
        expand(&prk[..], &[info], out);
    });
}

fn hmac(key: &hmac::Key, data: &[u8], out: &mut [u8; PRK_BYTES]) {
    hmac::sign_to_buffer(key, data, out).expect("the buffer is as long as a SHA-512 output");
}

/// SHA-256 over parts as they stand. Callers make the concatenation unambiguous.
pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// Equality in constant time. Different lengths are unequal, and lengths are public.
pub(crate) fn equal(a: &[u8], b: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// Random bytes that are not a key.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], crate::KeyError> {
    let mut out = [0; N];
    aws_lc_rs::rand::fill(&mut out).map_err(|_| crate::KeyError::Random)?;
    Ok(out)
}

/// Wipes what a failed open may have left at the end of `out`, and takes it off.
pub(crate) fn wipe_from(out: &mut Vec<u8>, start: usize) {
    out[start..].zeroize();
    out.truncate(start);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5869 has no SHA-512 case; this is case 1's input run through the `hkdf` module of
    /// aws-lc-rs.
    #[test]
    fn derivation_agrees_with_the_one_of_aws_lc() {
        struct Len(usize);
        impl aws_lc_rs::hkdf::KeyType for Len {
            fn len(&self) -> usize {
                self.0
            }
        }
        for (secret, salt, len) in [
            (&[0x0b; 22][..], &b"salt"[..], 42),
            (&[7; 32], &[9; 32], 200),
            (&[1], b"", 64),
        ] {
            let mut ours = vec![0; len];
            derive(secret, salt, b"info", &mut ours);
            let prk =
                aws_lc_rs::hkdf::Salt::new(aws_lc_rs::hkdf::HKDF_SHA512, salt).extract(secret);
            let mut theirs = vec![0; len];
            let info: &[&[u8]] = &[b"info"];
            prk.expand(info, Len(len))
                .and_then(|okm| okm.fill(&mut theirs))
                .expect("a valid length");
            assert_eq!(ours, theirs);
        }
    }

    /// The project's Wycheproof vectors are looked for only where `REDUIT_VECTORS` says they are.
    #[test]
    fn wycheproof_hkdf_sha512_vectors_hold() {
        let Some(folder) = std::env::var_os("REDUIT_VECTORS") else {
            eprintln!("skipped: REDUIT_VECTORS is not set");
            return;
        };
        let path = std::path::Path::new(&folder).join("wycheproof/hkdf_sha512_test.json");
        let file: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).expect("vectors are there")).expect("JSON");
        let field = |test: &serde_json::Value, name: &str| {
            hex::decode(test[name].as_str().expect("a string")).expect("hexadecimal")
        };
        let mut run = 0;
        for group in file["testGroups"].as_array().expect("groups") {
            for test in group["tests"].as_array().expect("tests") {
                let size = test["size"].as_u64().expect("a size") as usize;
                let info = field(test, "info");
                run += 1;
                if test["result"] == "invalid" {
                    assert!(size > 255 * PRK_BYTES, "only sizes are invalid: {test}");
                    let refused =
                        std::panic::catch_unwind(|| expand(&[0; 64], &[&info], &mut vec![0; size]));
                    assert!(refused.is_err(), "{test}");
                    continue;
                }
                let mut out = vec![0; size];
                derive(&field(test, "ikm"), &field(test, "salt"), &info, &mut out);
                assert_eq!(out, field(test, "okm"), "{}", test["tcId"]);
            }
        }
        assert_eq!(run, file["numberOfTests"].as_u64().expect("a count"));
    }
}
