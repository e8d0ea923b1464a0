//! HKDF (RFC 5869) for the key schedule of TLS 1.3 (RFC 8446 §7.1), with keys that are prepared once.
//!
//! A handshake derives some twenty values from nine secrets. rustls' own implementation hands each derivation to the library
//! whole, which extracts the secret again where there is one to extract, and prepares the key of HMAC, two blocks of the hash
//! function, each time. Here a secret becomes a key of HMAC, and every value derived from it starts from there.
//!
//! What is extracted or derived on the way is wiped; [`super::hmac`] says what is not.

use std::iter::once;
use std::sync::{LazyLock, OnceLock};

use rustls::crypto::aws_lc_rs::cipher_suite as theirs;
use rustls::crypto::tls13::{Hkdf, HkdfExpander, OkmBlock, OutputLengthError};
use rustls::{CipherSuiteCommon, SupportedCipherSuite, Tls13CipherSuite};

use super::hmac::{Function, Key, MAX_HASH, Sha256, Sha384, Tag};

/// The cipher suites of every connection, the one that is preferred first.
pub(super) fn cipher_suites() -> Vec<SupportedCipherSuite> {
    // Hardware AES makes both fast; the 128-bit key schedule is the shorter one.
    [&AES_128, &AES_256, &CHACHA20]
        .into_iter()
        .filter_map(|suite| suite.as_ref().map(SupportedCipherSuite::Tls13))
        .collect()
}

type Suite = LazyLock<Option<Tls13CipherSuite>>;

static AES_128: Suite = LazyLock::new(|| with_hkdf(theirs::TLS13_AES_128_GCM_SHA256, &SHA256));
static AES_256: Suite = LazyLock::new(|| with_hkdf(theirs::TLS13_AES_256_GCM_SHA384, &SHA384));
static CHACHA20: Suite =
    LazyLock::new(|| with_hkdf(theirs::TLS13_CHACHA20_POLY1305_SHA256, &SHA256));

/// The suite as it is, with this HKDF. The hash functions have to agree.
fn with_hkdf(suite: SupportedCipherSuite, hkdf: &'static dyn Hkdf) -> Option<Tls13CipherSuite> {
    let suite = suite.tls13()?;
    Some(Tls13CipherSuite {
        common: CipherSuiteCommon {
            suite: suite.common.suite,
            hash_provider: suite.common.hash_provider,
            confidentiality_limit: suite.common.confidentiality_limit,
        },
        hkdf_provider: hkdf,
        aead_alg: suite.aead_alg,
        quic: None,
    })
}

static SHA256: Prepared<Sha256> = Prepared::new();
static SHA384: Prepared<Sha384> = Prepared::new();

/// As many zeroes as a hash is long, for the secret or the salt that there is none of.
const ZEROES: [u8; MAX_HASH] = [0; MAX_HASH];

/// HKDF with one hash function.
struct Prepared<F: Function> {
    /// Where every key schedule without a pre-shared key begins: no secret, and the same for everybody.
    early: OnceLock<Key<F>>,
    /// The salt that is none.
    unsalted: OnceLock<Key<F>>,
}

impl<F: Function> Prepared<F> {
    const fn new() -> Self {
        Self {
            early: OnceLock::new(),
            unsalted: OnceLock::new(),
        }
    }

    /// `HKDF-Extract(salt, secret)` (RFC 5869 §2.2), ready to derive from.
    fn extract(&self, salt: Option<&[u8]>, secret: &[u8]) -> Key<F> {
        let extract = |salt: &Key<F>| Key::new(salt.sign(once(secret)).as_ref());
        match salt {
            Some(salt) => extract(&Key::new(salt)),
            None => extract(self.unsalted.get_or_init(|| Key::new(&ZEROES[..F::HASH]))),
        }
    }
}

impl<F: Function> Hkdf for Prepared<F> {
    fn extract_from_zero_ikm(&self, salt: Option<&[u8]>) -> Box<dyn HkdfExpander> {
        let extract = || self.extract(salt, &ZEROES[..F::HASH]);
        Box::new(Expander(match salt {
            Some(_) => extract(),
            None => self.early.get_or_init(extract).clone(),
        }))
    }

    fn extract_from_secret(&self, salt: Option<&[u8]>, secret: &[u8]) -> Box<dyn HkdfExpander> {
        Box::new(Expander(self.extract(salt, secret)))
    }

    fn expander_for_okm(&self, okm: &OkmBlock) -> Box<dyn HkdfExpander> {
        Box::new(Expander(Key::<F>::new(okm.as_ref())))
    }

    fn hmac_sign(&self, key: &OkmBlock, message: &[u8]) -> rustls::crypto::hmac::Tag {
        let tag = Key::<F>::new(key.as_ref()).sign(once(message));
        rustls::crypto::hmac::Tag::new(tag.as_ref())
    }
}

/// A secret that values are derived from.
struct Expander<F: Function>(Key<F>);

impl<F: Function> Expander<F> {
    /// Block `number` of `HKDF-Expand` (RFC 5869 §2.3): `T(number)` after `T(number - 1)`.
    fn block(&self, before: &[u8], info: &[&[u8]], number: u8) -> Tag<F> {
        let info = info.iter().copied();
        self.0
            .sign(once(before).chain(info).chain(once(&[number][..])))
    }
}

impl<F: Function> HkdfExpander for Expander<F> {
    fn expand_slice(&self, info: &[&[u8]], output: &mut [u8]) -> Result<(), OutputLengthError> {
        let mut before: Option<Tag<F>> = None;
        for (at, part) in output.chunks_mut(F::HASH).enumerate() {
            let number = u8::try_from(at + 1).map_err(|_| OutputLengthError)?;
            let block = self.block(before.as_ref().map_or(&[][..], AsRef::as_ref), info, number);
            part.copy_from_slice(&block.as_ref()[..part.len()]);
            before = Some(block);
        }
        Ok(())
    }

    fn expand_block(&self, info: &[&[u8]]) -> OkmBlock {
        OkmBlock::new(self.block(&[], info, 1).as_ref())
    }

    fn hash_len(&self) -> usize {
        F::HASH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    }

    /// RFC 5869 appendix A.1 and A.3; A.2 with its 80 bytes of each input, and three blocks of output.
    #[test]
    fn the_vectors_of_its_specification_hold() {
        let from = |first: u8, count: u8| (first..=first + (count - 1)).collect::<Vec<_>>();
        let cases = [
            (
                vec![0x0b; 22],
                Some(from(0, 13)),
                from(0xf0, 10),
                "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
            ),
            (
                from(0, 80),
                Some(from(0x60, 80)),
                from(0xb0, 80),
                "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
            ),
            (
                vec![0x0b; 22],
                None,
                vec![],
                "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
            ),
        ];
        for (secret, salt, info, expected) in cases {
            let expected = bytes(expected);
            let mut output = vec![0; expected.len()];
            let expander = SHA256.extract_from_secret(salt.as_deref(), &secret);
            assert!(expander.expand_slice(&[&info], &mut output).is_ok());
            assert_eq!(output, expected);
        }
    }

    /// The library's own derivations are the oracle, with either hash function.
    #[test]
    fn every_way_to_derive_gives_what_rustls_derives() {
        let cases = [
            (&SHA256 as &dyn Hkdf, theirs::TLS13_AES_128_GCM_SHA256),
            (&SHA384, theirs::TLS13_AES_256_GCM_SHA384),
        ];
        for (ours, suite) in cases {
            let theirs = suite.tls13().unwrap().hkdf_provider;
            let length = suite.tls13().unwrap().common.hash_provider.output_len();
            let (salt, secret) = (vec![7; length], [9; 40]);
            let okm = OkmBlock::new(&vec![3; length]);
            let both = |make: &dyn Fn(&dyn Hkdf) -> Box<dyn HkdfExpander>| {
                let (ours, theirs) = (make(ours), make(theirs));
                assert_eq!(ours.hash_len(), theirs.hash_len());
                let info: [&[u8]; 3] = [b"tls13 ", b"", b"a label"];
                let blocks = [&ours, &theirs].map(|e| e.expand_block(&info));
                assert_eq!(blocks[0].as_ref(), blocks[1].as_ref());
                for length in [0, 1, 12, length, length + 1, 255 * length] {
                    let [a, b] = [&ours, &theirs].map(|expander| {
                        let mut output = vec![0; length];
                        let done = expander.expand_slice(&info, &mut output);
                        assert!(done.is_ok(), "{length}");
                        output
                    });
                    assert_eq!(a, b, "{length}");
                }
                let mut more = vec![0; 255 * length + 1];
                assert!(ours.expand_slice(&info, &mut more).is_err());
            };
            for _ in 0..2 {
                both(&|hkdf| hkdf.extract_from_zero_ikm(None));
                both(&|hkdf| hkdf.extract_from_zero_ikm(Some(&salt)));
                both(&|hkdf| hkdf.extract_from_secret(None, &secret));
                both(&|hkdf| hkdf.extract_from_secret(Some(&salt), &secret));
                both(&|hkdf| hkdf.expander_for_okm(&okm));
            }
            let tags = [ours, theirs].map(|hkdf| hkdf.hmac_sign(&okm, b"message"));
            assert_eq!(tags[0].as_ref(), tags[1].as_ref());
        }
    }

    #[test]
    fn the_suites_are_those_of_rustls_in_the_order_that_is_preferred() {
        let ids: Vec<_> = cipher_suites()
            .iter()
            .map(SupportedCipherSuite::suite)
            .collect();
        let expected = [
            theirs::TLS13_AES_128_GCM_SHA256,
            theirs::TLS13_AES_256_GCM_SHA384,
            theirs::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        assert_eq!(ids, expected.map(|suite| suite.suite()));
        for suite in cipher_suites() {
            let suite = suite.tls13().unwrap();
            let hash = suite.common.hash_provider.output_len();
            let derived = suite.hkdf_provider.extract_from_zero_ikm(None).hash_len();
            assert_eq!(hash, derived, "{:?}", suite.common.suite);
        }
    }
}
