//! From a leaf to a root of its own trust domain (RFC 5280 §6), by `webpki`, and the rules for signing certificates that
//! `webpki` leaves out: keyCertSign, the path length of a root, the validity of a root, SPIFFE IDs of signers.

mod algorithms;

use std::cell::Cell;

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use webpki::{EndEntityCert, VerifiedPath};

use super::{MAX_CHAIN_CERTIFICATES, SvidError, Usage, Validity, seconds};
use crate::bundle::{Root, TrustBundle};
use crate::prepared::PreparedKeys;
use crate::{SpiffeId, der};

const UNKNOWN_ISSUER: &str = "no trusted root issued it";

/// Looks for a path to a root of `bundle` that is valid at `now`, and says when what signs on it is valid.
pub(super) fn verify(
    (leaf, id): (&CertificateDer<'_>, &SpiffeId),
    intermediates: &[CertificateDer<'_>],
    usage: Usage,
    (bundle, keys): (&TrustBundle, Option<&PreparedKeys>),
    now: UnixTime,
) -> Result<Validity, SvidError> {
    let own = keys.map(algorithms::P256);
    let path = Path {
        id,
        leaf: &EndEntityCert::try_from(leaf)
            .map_err(|error| translate(&error, bundle, seconds(now)))?,
        intermediates,
        usage,
        bundle,
        algorithms: &algorithms::all(&own),
        now,
    };
    check_fan_out(intermediates, bundle)?;
    // Whether a root is still valid is not part of RFC 5280 path validation.
    let (valid, stale) = bundle.roots_at(seconds(now));
    path.search(&valid).map_err(|error| {
        if !matches!(&error, SvidError::Untrusted { reason, .. } if reason == UNKNOWN_ISSUER) {
            return error;
        }
        let would_do = |root: &&&Root| path.search(std::slice::from_ref(*root)).is_ok();
        match stale.iter().filter(would_do).max_by_key(|r| r.not_after) {
            Some(root) if seconds(now) < root.not_before => SvidError::NotYetValid {
                which: "root",
                seconds: root.not_before - seconds(now),
            },
            Some(root) => SvidError::Expired {
                which: "root",
                seconds: seconds(now) - root.not_after,
            },
            None => error,
        }
    })
}

/// Bounds the search: `webpki` tries every order of certificates that name each other, thousands for seven of one name
/// (83 ms for one handshake of 64 KiB; 0.25 ms for the widest chain that is let through).
/// Two of one name are what a change of roots needs (one intermediate, signed by the old root and by the new one).
fn check_fan_out(
    intermediates: &[CertificateDer<'_>],
    bundle: &TrustBundle,
) -> Result<(), SvidError> {
    let mut subjects: [&[u8]; MAX_CHAIN_CERTIFICATES] = [&[]; MAX_CHAIN_CERTIFICATES];
    for (slot, certificate) in subjects.iter_mut().zip(intermediates) {
        *slot = der::facts(certificate)
            .map_err(|problem| {
                untrusted(bundle, format!("an intermediate is malformed: {problem}"))
            })?
            .subject;
    }
    let subjects = &subjects[..intermediates.len().min(MAX_CHAIN_CERTIFICATES)];
    for subject in subjects {
        if subjects.iter().filter(|other| *other == subject).count() > 2 {
            return Err(SvidError::Ambiguous);
        }
    }
    Ok(())
}

struct Path<'a> {
    id: &'a SpiffeId,
    leaf: &'a EndEntityCert<'a>,
    intermediates: &'a [CertificateDer<'a>],
    usage: Usage,
    bundle: &'a TrustBundle,
    algorithms: &'a [&'a dyn SignatureVerificationAlgorithm],
    now: UnixTime,
}

impl Path<'_> {
    /// Looks for a path to one of `roots`.
    fn search(&self, roots: &[&Root]) -> Result<Validity, SvidError> {
        let anchors: Vec<_> = roots.iter().map(|root| root.anchor()).collect();
        let usage = match self.usage {
            Usage::Client => webpki::KeyUsage::client_auth(),
            Usage::Server => webpki::KeyUsage::server_auth(),
        };
        let refused = Cell::new(None);
        let check = |path: &VerifiedPath<'_>| {
            check_signers(path, roots, self.id, self.bundle).map_err(|error| {
                refused.set(Some(error));
                // Any error makes the search go on; ours is the one that is told.
                webpki::Error::PathLenConstraintViolated
            })
        };
        let found = self.leaf.verify_for_usage(
            self.algorithms,
            &anchors,
            self.intermediates,
            self.now,
            usage,
            None,
            Some(&check),
        );
        found.map(|path| validity(&path, roots)).map_err(|error| {
            // A path that was found and then refused says more than the paths that were not found.
            refused
                .take()
                .unwrap_or_else(|| translate(&error, self.bundle, seconds(self.now)))
        })
    }
}

/// When everything that signs on a path is valid. Of roots with one name and key, the shortest: a little too short costs a
/// search, a little too long would be a mistake.
fn validity(path: &VerifiedPath<'_>, roots: &[&Root]) -> Validity {
    let mut signers = i64::MIN..=i64::MAX;
    let mut narrow = |from: i64, to: i64| {
        signers = from.max(*signers.start())..=to.min(*signers.end());
    };
    for certificate in path.intermediate_certificates() {
        match der::facts(&certificate.der()) {
            Ok(facts) => narrow(facts.not_before, facts.not_after),
            // Was read when it was accepted; if not, it is valid never.
            Err(_) => narrow(i64::MAX, i64::MIN),
        }
    }
    for root in roots.iter().filter(|root| leads(root, path)) {
        narrow(root.not_before, root.not_after);
    }
    signers
}

/// A renewed root has the name and key of its predecessor; either may lead the path.
fn leads(root: &Root, path: &VerifiedPath<'_>) -> bool {
    let anchor = root.anchor();
    anchor.subject == path.anchor().subject
        && anchor.subject_public_key_info == path.anchor().subject_public_key_info
}

/// The rules of signing certificates (SPIFFE X509-SVID §4, RFC 5280 §6.1.4 (m), (n)) on a path that `webpki` accepts, and whom
/// its root may vouch for.
fn check_signers(
    path: &VerifiedPath<'_>,
    roots: &[&Root],
    id: &SpiffeId,
    bundle: &TrustBundle,
) -> Result<(), SvidError> {
    let domain = bundle.trust_domain().as_str();
    let refuse = |problem: String| {
        Err(SvidError::Signer {
            domain: domain.to_owned(),
            problem,
        })
    };
    let mut intermediates: u32 = 0;
    for certificate in path.intermediate_certificates() {
        intermediates += 1;
        let der = certificate.der();
        let facts = match der::facts(&der) {
            Ok(facts) => facts,
            Err(problem) => return refuse(problem.into()),
        };
        if !facts.key_usage.is_some_and(|usage| usage.key_cert_sign) {
            return refuse("its key usage lacks keyCertSign".into());
        }
        if let Err(problem) = check_signer_id(facts.uri, facts.uri_count, Some(domain)) {
            return refuse(problem);
        }
    }
    let is_short = |root: &&Root| root.path_length.is_none_or(|most| intermediates <= most);
    let leading = || {
        let roots = roots.iter().copied();
        roots.filter(|root| leads(root, path))
    };
    if !leading().any(|root| is_short(&root)) {
        let reason = "a path length constraint is exceeded".into();
        return Err(untrusted(bundle, reason));
    }
    if !leading().any(|root| is_short(&root) && root.vouches_for(id)) {
        let reason = format!("its root vouches for workloads of other namespaces than '{id}'");
        return Err(untrusted(bundle, reason));
    }
    Ok(())
}

/// A signing certificate needs no SPIFFE ID; if it has one, it is that of the trust domain itself.
pub(crate) fn check_signer_id(
    uri: Option<&[u8]>,
    uri_count: usize,
    domain: Option<&str>,
) -> Result<(), String> {
    let Some(uri) = uri else { return Ok(()) };
    if uri_count > 1 {
        return Err(format!("it has {uri_count} URI SANs"));
    }
    if !uri.to_ascii_lowercase().starts_with(b"spiffe:") {
        return Ok(());
    }
    let id = std::str::from_utf8(uri)
        .map_err(|_| "its URI SAN is not ASCII".to_owned())
        .and_then(|text| SpiffeId::parse(text).map_err(|error| error.to_string()))?;
    if !id.path().is_empty() {
        return Err(format!("its SPIFFE ID '{id}' has a path"));
    }
    match domain {
        Some(domain) if id.trust_domain() != domain => {
            Err(format!("its SPIFFE ID '{id}' is of another trust domain"))
        }
        _ => Ok(()),
    }
}

fn untrusted(bundle: &TrustBundle, reason: String) -> SvidError {
    SvidError::Untrusted {
        domain: bundle.trust_domain().as_str().to_owned(),
        reason,
    }
}

fn translate(error: &webpki::Error, bundle: &TrustBundle, now: i64) -> SvidError {
    use webpki::Error;
    let reason = match error {
        // The leaf's own validity was checked before, so these are of an intermediate.
        Error::CertExpired { not_after, .. } => {
            return SvidError::Expired {
                which: "intermediate",
                seconds: now - seconds(*not_after),
            };
        }
        Error::CertNotValidYet { not_before, .. } => {
            return SvidError::NotYetValid {
                which: "intermediate",
                seconds: seconds(*not_before) - now,
            };
        }
        Error::CaUsedAsEndEntity => return SvidError::CaLeaf,
        Error::BadDer => "a certificate in it is malformed",
        Error::UnknownIssuer => UNKNOWN_ISSUER,
        Error::InvalidSignatureForPublicKey => "a signature is wrong",
        Error::NameConstraintViolation => {
            "a name constraint forbids the name (constraints on URIs and directory names are refused whole)"
        }
        Error::PathLenConstraintViolated => "a path length constraint is exceeded",
        Error::EndEntityUsedAsCa => "a certificate that is no CA signed another",
        Error::UnsupportedCriticalExtension => "an unknown critical extension",
        Error::MaximumSignatureChecksExceeded
        | Error::MaximumPathBuildCallsExceeded
        | Error::MaximumNameConstraintComparisonsExceeded
        | Error::MaximumPathDepthExceeded => "finding a path costs too much",
        Error::InvalidCertValidity => "a certificate ends before it starts",
        other => return untrusted(bundle, format!("{other:?}")),
    };
    untrusted(bundle, reason.into())
}

#[cfg(test)]
mod tests;
