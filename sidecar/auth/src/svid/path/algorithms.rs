//! The signature algorithms of chains: `webpki`'s, with ECDSA P-256 SHA-256 by prepared keys where there are some.

use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm};
use webpki::aws_lc_rs::ECDSA_P256_SHA256 as LIBRARY;

use crate::prepared::PreparedKeys;

/// ECDSA with P-256 and SHA-256, by signers' prepared keys. A key is named by its point.
///
/// `webpki` verifies a path from its root down, so that every key that it asks for is a root's or one that is signed for.
#[derive(Debug)]
pub(super) struct P256<'a>(pub(super) &'a PreparedKeys);

impl SignatureVerificationAlgorithm for P256<'_> {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        match self.0.verify(public_key, message, signature) {
            Some(true) => Ok(()),
            Some(false) => Err(InvalidSignature),
            None => {
                LIBRARY.verify_signature(public_key, message, signature)?;
                self.0.found_good(public_key, || Some(public_key));
                Ok(())
            }
        }
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        LIBRARY.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        LIBRARY.signature_alg_id()
    }
}

/// `webpki`'s algorithms in their order, `own` in place of its like.
pub(super) fn all<'a>(own: &'a Option<P256<'a>>) -> Vec<&'a dyn SignatureVerificationAlgorithm> {
    let replace = |algorithm: &&'static dyn SignatureVerificationAlgorithm| match own {
        Some(own)
            if algorithm.public_key_alg_id() == own.public_key_alg_id()
                && algorithm.signature_alg_id() == own.signature_alg_id() =>
        {
            own as &dyn SignatureVerificationAlgorithm
        }
        _ => *algorithm,
    };
    webpki::ALL_VERIFICATION_ALGS.iter().map(replace).collect()
}
