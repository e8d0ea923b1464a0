//! X25519 by aws-lc, where nothing better is at hand.
//!
//! aws-lc-rs, which is what everything else uses, makes a secret of its own for an agreement, or computes the public value of
//! one that it is given once more. So this calls what that is built on. Nothing in there depends in time on the secret.

use zeroize::Zeroizing;

/// The public value of a secret (RFC 7748 §6.1).
#[allow(unsafe_code, reason = "the library is C")]
pub(crate) fn public_value(secret: &[u8; 32]) -> [u8; 32] {
    let mut public = [0; 32];
    // SAFETY: X25519_public_from_private reads 32 bytes of the second and writes 32 to the first, which is borrowed for that
    // alone and is another array than the second; it keeps neither and needs nothing set up before.
    unsafe { aws_lc_sys::X25519_public_from_private(public.as_mut_ptr(), secret.as_ptr()) };
    public
}

/// What a secret and a public value have in common; `None` if that is all zeroes, as the library says without a branch on
/// the way there (RFC 7748 §6.1).
#[allow(unsafe_code, reason = "the library is C")]
pub(crate) fn agree(secret: &[u8; 32], peer: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
    let mut shared = Zeroizing::new([0; 32]);
    // SAFETY: X25519 reads 32 bytes of the second and of the third and writes 32 to the first, which is borrowed for that
    // alone and is another array than those; it keeps none of them and needs nothing set up before.
    let valid = unsafe { aws_lc_sys::X25519(shared.as_mut_ptr(), secret.as_ptr(), peer.as_ptr()) };
    (valid == 1).then_some(shared)
}
