//! JWT-SVIDs verified for somebody else, who names the audience with each question (SPIFFE Workload API §6.2.3).
//!
//! The keys are those of the trust bundles, by trust domain; a token is verified with the keys of its subject's domain
//! and no other (SPIFFE JWT-SVID §5). What a rule demands of JWT-SVIDs is checked by [`super::provider`], with the same
//! functions.

use std::collections::BTreeMap;

use super::algorithm::Algorithms;
use super::checks::{self, Profile, Times};
use super::compact::{self, Compact, HeaderMemo};
use super::compile::{DEFAULT_LEEWAY, DEFAULT_TOKEN_BYTES};
use super::keys::{KeyUse, Keys};
use super::provider::check_signature;
use super::verified::{Fingerprint, VerifiedToken};
use crate::claims;
use crate::{Reason, SpiffeId};

/// The keys of every trust domain, prepared.
#[derive(Debug, Default)]
pub struct JwtSvidVerifier(BTreeMap<Box<str>, Keys>);

/// A JWT-SVID that was verified.
#[derive(Debug)]
pub struct VerifiedJwtSvid {
    /// Whom it speaks of.
    pub id: SpiffeId,
    /// What it says.
    pub token: VerifiedToken,
}

impl JwtSvidVerifier {
    /// Prepares the key sets (RFC 7517), each with the name of its trust domain. Of a domain whose set cannot be read
    /// nothing is trusted.
    pub fn new<'a>(key_sets: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let prepared = key_sets.into_iter().filter_map(|(domain, set)| {
            let keys = Keys::parse(set.as_bytes(), &[], KeyUse::JwtSvid).ok()?;
            Some((domain.into(), keys))
        });
        Self(prepared.collect())
    }

    /// Verifies `token` for `audience` at `now`, Unix seconds.
    ///
    /// # Errors
    /// Why it is not good; [`Reason::KeysUnavailable`] for a trust domain without keys.
    pub fn verify(
        &self,
        token: &str,
        audience: &str,
        now: i64,
        fingerprint: Fingerprint,
    ) -> Result<VerifiedJwtSvid, Reason> {
        if token.len() > DEFAULT_TOKEN_BYTES as usize {
            return Err(Reason::TokenTooLarge);
        }
        let compact = Compact::split(token.as_bytes()).ok_or(Reason::TokenMalformed)?;
        let header = HeaderMemo::default().read(compact.header)?;
        if !Algorithms::JWT_SVID.contains(header.algorithm) {
            return Err(Reason::TokenAlgorithm);
        }
        let profile = Profile::JwtSvid;
        profile.check_header(&header)?;
        let payload = compact::decode(compact.payload)?;
        let signature = compact::decode(compact.signature)?;
        let claims = claims::parse(&payload).map_err(|_| Reason::TokenMalformed)?;
        let subject = claims.string("sub").ok_or(Reason::TokenClaim)?;
        let id = SpiffeId::parse(subject).map_err(|_| Reason::TokenClaim)?;
        let keys = self.0.get(id.trust_domain());
        let keys = keys.ok_or(Reason::KeysUnavailable)?;
        check_signature(keys, &header, compact, &signature)?;
        profile.check_claims(&claims, id.trust_domain())?;
        Times::of(&claims, DEFAULT_LEEWAY.into(), None)?.check(now)?;
        checks::check_audience(&claims, &[audience.into()])?;
        let provider = format!("trust-domain/{}", id.trust_domain());
        let token = VerifiedToken::of_verified_claims(provider.into(), fingerprint, claims);
        Ok(VerifiedJwtSvid { id, token })
    }
}
