//! Key sets (RFC 7517), prepared once: parsed, checked and ready to verify with.
//!
//! A key that cannot be used is left out with its reason and the others stay; only a document that is no key set is
//! refused. A key is for the algorithms that its type, its curve and its `alg` leave; the token chooses nothing.

mod verifying;

use std::sync::atomic::AtomicUsize;

use aws_lc_rs::signature::{ParsedPublicKey, RsaPublicKeyComponents};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::algorithm::{Algorithm, Algorithms, Family};
use verifying::VerifyingKey;

use crate::claims::{self, Limits, Object, ParseError, Value};

/// Longest key set, bytes.
pub const MAX_KEY_SET_BYTES: usize = 1024 * 1024;
/// Keys of one set that are used; the rest is left out.
const MAX_KEYS: usize = 128;
/// Keys that one token may make us try: a set can hold several with one `kid`, or a token may name none.
const MAX_CANDIDATES: usize = 4;
/// Shortest and longest RSA modulus, bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// What keys must be meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyUse {
    /// `use` absent or `sig`.
    Signature,
    /// `use` is `jwt-svid` and `kid` is there (SPIFFE JWT-SVID §5).
    JwtSvid,
}

/// The usable keys of one set.
#[derive(Debug, Default)]
pub struct Keys {
    keys: Vec<Key>,
    ignored: Vec<Ignored>,
    /// Keys that were prepared.
    prepared: AtomicUsize,
}

/// A key that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    /// Its position in the set, from 0.
    pub index: usize,
    /// Its `kid`, if it has one.
    pub kid: Option<Box<str>>,
    /// Why.
    pub why: &'static str,
}

/// Why a document is no key set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeySetError {
    /// Too long.
    #[error("longer than {MAX_KEY_SET_BYTES} bytes")]
    TooLarge,
    /// Not strict JSON.
    #[error(transparent)]
    Json(#[from] ParseError),
    /// `keys` is missing or not an array.
    #[error("'keys' is not an array")]
    NoKeys,
}

/// One key, for one or more algorithms.
struct Key {
    kid: Option<Box<str>>,
    algorithms: Vec<(Algorithm, VerifyingKey)>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.algorithms.iter().map(|(a, _)| a.name());
        write!(f, "{:?}: ", self.kid)?;
        f.debug_list().entries(names).finish()
    }
}

/// How a signature fared against the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checked {
    Good,
    BadSignature,
    UnknownKey,
    WrongAlgorithm,
}

impl Keys {
    /// The keys of a document. `allowed` are the algorithms that the rule names; empty: it names none.
    ///
    /// # Errors
    /// When it is no key set at all.
    pub(super) fn parse(
        document: &[u8],
        allowed: &[Algorithm],
        key_use: KeyUse,
    ) -> Result<Self, KeySetError> {
        if document.len() > MAX_KEY_SET_BYTES {
            return Err(KeySetError::TooLarge);
        }
        let document = claims::parse_within(document, Limits::KEY_SET)?;
        let list = document.get("keys").and_then(Value::as_array);
        let mut set = Self::default();
        for (index, value) in list.ok_or(KeySetError::NoKeys)?.iter().enumerate() {
            let kid = value.as_object().and_then(|o| o.string("kid"));
            let key = if set.keys.len() >= MAX_KEYS {
                Err("too many keys")
            } else {
                key(value, allowed, key_use)
            };
            match key {
                Ok(key) => set.keys.push(key),
                // Beyond that many the first ones tell enough.
                Err(why) if set.ignored.len() < MAX_KEYS => set.ignored.push(Ignored {
                    index,
                    kid: kid.map(Into::into),
                    why,
                }),
                Err(_) => {}
            }
        }
        Ok(set)
    }

    /// The keys that were left out.
    pub fn ignored(&self) -> &[Ignored] {
        &self.ignored
    }

    /// Number of keys in use.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// True when no key can be used.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Verifies `signature` over `message` with the key that `kid` names, or with every one when the token names none.
    pub(super) fn check(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Checked {
        let mut outcome = Checked::UnknownKey;
        let mut tried = 0;
        for key in &self.keys {
            if kid.is_some() && key.kid.as_deref() != kid {
                continue;
            }
            let Some((_, verifying)) = key.algorithms.iter().find(|(a, _)| *a == algorithm) else {
                if outcome == Checked::UnknownKey && kid.is_some() {
                    outcome = Checked::WrongAlgorithm;
                }
                continue;
            };
            if tried == MAX_CANDIDATES {
                break;
            }
            tried += 1;
            if verifying.verifies(message, signature, &self.prepared) {
                return Checked::Good;
            }
            outcome = Checked::BadSignature;
        }
        outcome
    }
}

fn key(value: &Value, allowed: &[Algorithm], key_use: KeyUse) -> Result<Key, &'static str> {
    let jwk = value.as_object().ok_or("not an object")?;
    let text = |name, wrong| match jwk.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(&**text)),
        Some(_) => Err(wrong),
    };
    let kid = text("kid", "'kid' is not a string")?;
    match (text("use", "'use' is not a string")?, key_use) {
        (None | Some("sig"), KeyUse::Signature) | (Some("jwt-svid"), KeyUse::JwtSvid) => {}
        _ => return Err("'use' is not for signatures of these tokens"),
    }
    if key_use == KeyUse::JwtSvid && kid.is_none() {
        return Err("'kid' is missing");
    }
    if let Some(operations) = jwk.get("key_ops") {
        let operations = operations.as_array().ok_or("'key_ops' is not an array")?;
        if !operations.iter().any(|o| o.as_str() == Some("verify")) {
            return Err("'key_ops' does not have 'verify'");
        }
    }
    if jwk.get("d").is_some() {
        return Err("a private key");
    }
    let family = match text("kty", "'kty' is not a string")? {
        Some("RSA") => Family::Rsa,
        Some("EC") => match text("crv", "'crv' is not a string")? {
            Some("P-256") => Family::P256,
            Some("P-384") => Family::P384,
            Some("P-521") => Family::P521,
            _ => return Err("curve not supported"),
        },
        Some("OKP") => match text("crv", "'crv' is not a string")? {
            Some("Ed25519") => Family::Ed25519,
            _ => return Err("curve not supported"),
        },
        Some("oct") => return Err("a shared secret"),
        _ => return Err("'kty' not supported"),
    };
    let usable = match text("alg", "'alg' is not a string")? {
        Some(name) => {
            let own = Algorithm::from_name(name).ok_or("'alg' not supported")?;
            if own.family() != family {
                return Err("'alg' does not fit the key");
            }
            vec![own]
        }
        None => for_family(family, allowed),
    };
    let named = if allowed.is_empty() {
        Algorithms::ALL
    } else {
        Algorithms::of(allowed)
    };
    let algorithms = usable.into_iter().filter(|a| named.contains(*a));
    let algorithms = algorithms
        .map(|a| Ok((a, prepare(jwk, family, a)?)))
        .collect::<Result<Vec<_>, &'static str>>()?;
    if algorithms.is_empty() {
        return Err("the rule does not accept its algorithm");
    }
    Ok(Key {
        kid: kid.map(Into::into),
        algorithms,
    })
}

/// What a key without `alg` is for. An RSA key could be for six algorithms; it is for the ones that the rule names, else
/// for RS256, so that a token never chooses.
fn for_family(family: Family, allowed: &[Algorithm]) -> Vec<Algorithm> {
    let fitting = || Algorithm::ALL.into_iter().filter(|a| a.family() == family);
    match family {
        Family::Rsa if allowed.is_empty() => vec![Algorithm::Rs256],
        _ => fitting().collect(),
    }
}

fn prepare(
    jwk: &Object,
    family: Family,
    algorithm: Algorithm,
) -> Result<VerifyingKey, &'static str> {
    let bytes = |name, wrong| {
        let text = jwk.string(name).ok_or(wrong)?;
        URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong)
    };
    if let Some(parameters) = algorithm.rsa() {
        let (n, e) = (
            bytes("n", "'n' is no number")?,
            bytes("e", "'e' is no number")?,
        );
        // RFC 7518 §2 has no leading zeros; some providers write the sign byte, and it changes nothing.
        let n = n.strip_prefix(&[0]).unwrap_or(&n);
        let bits = n
            .first()
            .map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
        if !RSA_BITS.contains(&bits) {
            return Err("the modulus has fewer than 2048 or more than 8192 bits");
        }
        if n.last().is_some_and(|last| last % 2 == 0) {
            return Err("the modulus is even");
        }
        if e.last().is_none_or(|last| last % 2 == 0) || e == [1] {
            return Err("'e' is even or 1");
        }
        return RsaPublicKeyComponents { n, e: &e[..] }
            .to_parsed_public_key(parameters)
            .map(VerifyingKey::from)
            .map_err(|_| "no RSA key");
    }
    let size = match family {
        Family::P384 => 48,
        Family::P521 => 66,
        _ => 32,
    };
    let coordinate = |name, wrong| {
        let value = bytes(name, wrong)?;
        if value.len() == size {
            Ok(value)
        } else {
            Err(wrong)
        }
    };
    let mut point = coordinate("x", "'x' has the wrong length")?;
    if family == Family::Ed25519 {
        if is_small_order(&point) {
            return Err("a point of small order");
        }
    } else {
        let y = coordinate("y", "'y' has the wrong length")?;
        point = [&[4], &point[..], &y].concat();
    }
    let parameters = algorithm.curve().ok_or("'kty' not supported")?;
    let parsed = ParsedPublicKey::new(parameters, &point).map_err(|_| "no point of the curve")?;
    Ok(match algorithm {
        Algorithm::Es256 => VerifyingKey::es256(parsed, &point),
        _ => parsed.into(),
    })
}

/// Under such a key a signature can hold for messages nobody signed (RFC 8032 §8.9 and what was found since). The seven
/// encodings with the sign bit cleared, the non-canonical ones among them.
fn is_small_order(point: &[u8]) -> bool {
    const ORDER_8A: [u8; 32] = [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ];
    const ORDER_8B: [u8; 32] = [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ];
    // p - 1, p and p + 1, little-endian: they differ in the first byte.
    let near_p = |low| {
        let mut value = [0xff; 32];
        value[0] = low;
        value[31] = 0x7f;
        value
    };
    let near_zero = |low| {
        let mut value = [0; 32];
        value[0] = low;
        value
    };
    let mut cleared = [0; 32];
    if point.len() != cleared.len() {
        return false;
    }
    cleared.copy_from_slice(point);
    cleared[31] &= 0x7f;
    [
        near_zero(0),
        near_zero(1),
        ORDER_8A,
        ORDER_8B,
        near_p(0xec),
        near_p(0xed),
        near_p(0xee),
    ]
    .contains(&cleared)
}
