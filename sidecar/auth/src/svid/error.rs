//! Why an SVID is not accepted: a sentence for people, a stable code for metrics.

use super::{MAX_CHAIN_BYTES, MAX_CHAIN_CERTIFICATES};
use crate::SpiffeId;

/// Why an SVID is not accepted.
///
/// Every message is one line: what comes from a certificate is escaped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SvidError {
    /// No certificate at all.
    #[error("the peer presented no certificate")]
    Missing,
    /// More certificates or bytes than a chain may have.
    #[error(
        "the certificate chain is larger than {MAX_CHAIN_CERTIFICATES} certificates or {MAX_CHAIN_BYTES} bytes"
    )]
    TooLarge,
    /// So many certificates could have signed each other that finding out would cost too much.
    #[error(
        "more than two intermediate certificates have the same subject; send only those that lead to the root"
    )]
    Ambiguous,
    /// The leaf is not a certificate that can be read.
    #[error("the leaf certificate is malformed: {0}")]
    Malformed(&'static str),
    /// No URI SAN, or more than one.
    #[error("the leaf certificate has {0} URI SANs, an X.509-SVID has exactly one")]
    UriCount(usize),
    /// The URI SAN is not a SPIFFE ID.
    #[error("the leaf certificate's URI SAN: {0}")]
    NotSpiffe(String),
    /// The SPIFFE ID names a trust domain only.
    #[error(
        "the leaf certificate's SPIFFE ID has no path: signing certificates do not authenticate"
    )]
    NoPath,
    /// The leaf is a CA.
    #[error("the leaf certificate is a CA certificate; signing certificates do not authenticate")]
    CaLeaf,
    /// The leaf has constraints on names, which only a signing certificate may have.
    #[error("the leaf certificate has name constraints, which belong in CA certificates only")]
    LeafNameConstraints,
    /// The key usage is not that of a leaf.
    #[error("the leaf certificate's key usage {0}")]
    KeyUsage(&'static str),
    /// The extended key usage lacks a purpose.
    #[error(
        "the leaf certificate's extended key usage must have both serverAuth and clientAuth, or be absent"
    )]
    ExtendedKeyUsage,
    /// Empty subject with a non-critical SAN.
    #[error(
        "the leaf certificate has an empty subject, so its SAN must be critical (RFC 5280 §4.2.1.6)"
    )]
    SanNotCritical,
    /// Not valid yet.
    #[error("the {which} certificate starts in {}; check clocks", human(*.seconds))]
    NotYetValid {
        /// `leaf`, `intermediate` or `root`.
        which: &'static str,
        /// Seconds until it starts.
        seconds: i64,
    },
    /// Not valid any more.
    #[error("the {which} certificate expired {} ago; check clocks and renewal", human(*.seconds))]
    Expired {
        /// `leaf`, `intermediate` or `root`.
        which: &'static str,
        /// Seconds since it expired.
        seconds: i64,
    },
    /// An operator revoked it.
    #[error("'{id}' is revoked by '{entry}'{}", if reason.is_empty() { String::new() } else { format!(": {reason}") })]
    Revoked {
        /// Who.
        id: SpiffeId,
        /// Name of the entry.
        entry: String,
        /// Why, as its author said.
        reason: String,
    },
    /// No bundle for the trust domain.
    #[error("no trust bundle is held for trust domain '{0}'")]
    UnknownTrustDomain(String),
    /// The chain does not lead to a root of the trust domain.
    #[error("the chain does not lead to a trusted root of '{domain}': {reason}")]
    Untrusted {
        /// The leaf's trust domain.
        domain: String,
        /// What path validation said.
        reason: String,
    },
    /// A certificate that signed another may not do so.
    #[error("an intermediate certificate may not sign SVIDs of '{domain}': {problem}")]
    Signer {
        /// The leaf's trust domain.
        domain: String,
        /// The rule it breaks.
        problem: String,
    },
    /// A valid SVID of somebody else.
    #[error("the peer is '{found}', expected {expected}")]
    UnexpectedId {
        /// Who answered.
        found: SpiffeId,
        /// Who should have.
        expected: String,
    },
}

impl SvidError {
    /// The stable code.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "certificate_missing",
            Self::TooLarge => "chain_too_large",
            Self::Ambiguous => "chain_ambiguous",
            Self::Malformed(_) => "certificate_malformed",
            Self::UriCount(_) => "uri_san_count",
            Self::NotSpiffe(_) => "not_spiffe",
            Self::NoPath => "spiffe_id_without_path",
            Self::CaLeaf => "ca_leaf",
            Self::LeafNameConstraints => "leaf_name_constraints",
            Self::KeyUsage(_) => "key_usage",
            Self::ExtendedKeyUsage => "extended_key_usage",
            Self::SanNotCritical => "san_not_critical",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::Expired { .. } => "expired",
            Self::Revoked { .. } => "revoked",
            Self::UnknownTrustDomain(_) => "unknown_trust_domain",
            Self::Untrusted { .. } => "untrusted",
            Self::Signer { .. } => "signing_certificate",
            Self::UnexpectedId { .. } => "unexpected_id",
        }
    }
}

impl SvidError {
    /// The message; where it is about time, with what is known of this clock: `skew` is how many seconds it is ahead of the
    /// control API's.
    pub fn with_skew(&self, skew: Option<i64>) -> String {
        match (self, skew) {
            (Self::NotYetValid { .. } | Self::Expired { .. }, Some(skew)) => {
                format!("{self}: {}", describe_skew(skew))
            }
            _ => self.to_string(),
        }
    }
}

/// How this clock differs from the control API's, as people say it; `skew` is how many seconds it is ahead.
pub fn describe_skew(skew: i64) -> String {
    match skew {
        -2..=2 => "this clock agrees with the control API's".to_owned(),
        3.. => format!("this clock is {} ahead of the control API's", human(skew)),
        _ => format!(
            "this clock is {} behind the control API's",
            human(skew.saturating_neg())
        ),
    }
}

/// A span of time as people say it, in its two largest units.
fn human(seconds: i64) -> String {
    match seconds {
        s if s < 60 => format!("{s}s"),
        s if s < 3600 => format!("{}m {}s", s / 60, s % 60),
        s if s < 86_400 => format!("{}h {}m", s / 3600, s % 3600 / 60),
        s => format!("{}d {}h", s / 86_400, s % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_about_time_names_the_skew_of_this_clock() {
        let early = SvidError::NotYetValid {
            which: "leaf",
            seconds: 7_200,
        };
        for (error, skew, text) in [
            (
                &early,
                Some(-7_080),
                "the leaf certificate starts in 2h 0m; check clocks: this clock is 1h 58m behind the control API's",
            ),
            (
                &early,
                Some(1),
                "the leaf certificate starts in 2h 0m; check clocks: this clock agrees with the control API's",
            ),
            (
                &early,
                None,
                "the leaf certificate starts in 2h 0m; check clocks",
            ),
            (
                &SvidError::Missing,
                Some(9_000),
                "the peer presented no certificate",
            ),
        ] {
            assert_eq!(error.with_skew(skew), text);
        }
        assert!(describe_skew(90).contains("1m 30s ahead"));
    }
}
