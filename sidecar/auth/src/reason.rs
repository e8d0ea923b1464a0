//! Stable codes that say why something was allowed or refused: in answers, logs and metric labels.

use std::fmt;

/// Why a decision was made. Codes never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Reason {
    /// An ALLOW policy matched.
    AllowedByPolicy,
    /// No ALLOW policy selects the workload and the peer is authenticated in the own trust domain.
    AllowedByDefault,
    /// A DENY policy matched.
    DeniedByPolicy,
    /// ALLOW policies select the workload and none matched.
    NoAllowPolicyMatched,
    /// An ALLOW policy would let the token in, had it the scope that the route wants.
    InsufficientScope,
    /// The mesh denies by default and no ALLOW policy selects the workload.
    DeniedByDefault,
    /// A policy that may deny cannot be read, and no earlier version of it is held.
    PolicyUnreadable,
    /// The peer has no identity.
    UnauthenticatedPeer,
    /// The peer belongs to another trust domain.
    ForeignTrustDomain,
    /// The peer's certificate was not accepted.
    PeerUnverified,
    /// The peer's certificate or identity was revoked.
    PeerRevoked,
    /// The trust bundle no longer vouches for the peer's certificate, or is gone.
    PeerUntrusted,
    /// This workload's own certificate or identity was revoked.
    IdentityRevoked,
    /// A token is needed and none was presented.
    TokenMissing,
    /// What was presented is not a token, or not one that may be honoured.
    TokenMalformed,
    /// The token is longer than the provider allows.
    TokenTooLarge,
    /// More than one token was presented.
    TokenDuplicate,
    /// No provider speaks for the token's issuer.
    TokenUnknownIssuer,
    /// The provider has no key with the token's `kid`.
    TokenUnknownKey,
    /// The token's algorithm is not one that its key is for.
    TokenAlgorithm,
    /// The signature does not hold.
    TokenBadSignature,
    /// The token is of another type than the provider's profile.
    TokenWrongType,
    /// A claim is missing or not what it must be.
    TokenClaim,
    /// The token has expired.
    TokenExpired,
    /// The token is not valid yet.
    TokenNotYetValid,
    /// The subject authenticated too long ago.
    TokenTooOld,
    /// The token is not meant for this workload.
    TokenWrongAudience,
    /// The token belongs to another caller.
    TokenBindingMismatch,
    /// The token was revoked.
    TokenRevoked,
    /// The introspection endpoint says that the token is not active.
    TokenInactive,
    /// The provider's keys have not been received yet.
    KeysUnavailable,
    /// Nobody could be asked about the token.
    IntrospectionFailed,
    /// Plaintext on a port that demands mutual TLS.
    PlaintextRefused,
    /// Policy has not been received yet.
    NoSnapshot,
    /// No certificate is held yet.
    NoIdentity,
    /// The port belongs to the sidecar itself.
    InternalPort,
    /// The tunnel's destination is not this workload.
    DestinationMismatch,
    /// The destination is outside the mesh and may not be reached.
    EgressRefused,
    /// No service answers to this host or address.
    UnknownDestination,
    /// Nobody can say yet what this host or address is: the control API did not answer in time.
    DestinationUnresolved,
    /// The service has no endpoint that can be tried.
    NoHealthyEndpoint,
    /// The destination could not be reached or did not answer.
    ConnectFailed,
    /// The request is malformed or ambiguous.
    BadRequest,
    /// The header section is too large.
    HeadersTooLarge,
    /// The bytes are not the protocol that was expected.
    ProtocolError,
    /// The connection came back to where it was sent from.
    Loop,
    /// The sidecar is shutting down.
    Draining,
}

impl Reason {
    /// Every reason, for closed sets of labels.
    pub const ALL: &[Self] = &[
        Self::AllowedByPolicy,
        Self::AllowedByDefault,
        Self::DeniedByPolicy,
        Self::NoAllowPolicyMatched,
        Self::InsufficientScope,
        Self::DeniedByDefault,
        Self::PolicyUnreadable,
        Self::UnauthenticatedPeer,
        Self::ForeignTrustDomain,
        Self::PeerUnverified,
        Self::PeerRevoked,
        Self::PeerUntrusted,
        Self::IdentityRevoked,
        Self::TokenMissing,
        Self::TokenMalformed,
        Self::TokenTooLarge,
        Self::TokenDuplicate,
        Self::TokenUnknownIssuer,
        Self::TokenUnknownKey,
        Self::TokenAlgorithm,
        Self::TokenBadSignature,
        Self::TokenWrongType,
        Self::TokenClaim,
        Self::TokenExpired,
        Self::TokenNotYetValid,
        Self::TokenTooOld,
        Self::TokenWrongAudience,
        Self::TokenBindingMismatch,
        Self::TokenRevoked,
        Self::TokenInactive,
        Self::KeysUnavailable,
        Self::IntrospectionFailed,
        Self::PlaintextRefused,
        Self::NoSnapshot,
        Self::NoIdentity,
        Self::InternalPort,
        Self::DestinationMismatch,
        Self::EgressRefused,
        Self::UnknownDestination,
        Self::DestinationUnresolved,
        Self::NoHealthyEndpoint,
        Self::ConnectFailed,
        Self::BadRequest,
        Self::HeadersTooLarge,
        Self::ProtocolError,
        Self::Loop,
        Self::Draining,
    ];

    /// True when a better token would have helped.
    pub const fn is_about_token(self) -> bool {
        matches!(
            self,
            Self::TokenMissing
                | Self::TokenMalformed
                | Self::TokenTooLarge
                | Self::TokenDuplicate
                | Self::TokenUnknownIssuer
                | Self::TokenUnknownKey
                | Self::TokenAlgorithm
                | Self::TokenBadSignature
                | Self::TokenWrongType
                | Self::TokenClaim
                | Self::TokenExpired
                | Self::TokenNotYetValid
                | Self::TokenTooOld
                | Self::TokenWrongAudience
                | Self::TokenBindingMismatch
                | Self::TokenRevoked
                | Self::TokenInactive
        )
    }

    /// The stable code.
    pub const fn code(self) -> &'static str {
        match self {
            Self::AllowedByPolicy => "allowed_by_policy",
            Self::AllowedByDefault => "allowed_by_default",
            Self::DeniedByPolicy => "denied_by_policy",
            Self::NoAllowPolicyMatched => "no_allow_policy_matched",
            Self::InsufficientScope => "insufficient_scope",
            Self::DeniedByDefault => "denied_by_default",
            Self::PolicyUnreadable => "policy_unreadable",
            Self::UnauthenticatedPeer => "unauthenticated_peer",
            Self::ForeignTrustDomain => "foreign_trust_domain",
            Self::PeerUnverified => "peer_unverified",
            Self::PeerRevoked => "peer_revoked",
            Self::PeerUntrusted => "peer_untrusted",
            Self::IdentityRevoked => "identity_revoked",
            Self::TokenMissing => "token_missing",
            Self::TokenMalformed => "token_malformed",
            Self::TokenTooLarge => "token_too_large",
            Self::TokenDuplicate => "token_duplicate",
            Self::TokenUnknownIssuer => "token_unknown_issuer",
            Self::TokenUnknownKey => "token_unknown_key",
            Self::TokenAlgorithm => "token_algorithm",
            Self::TokenBadSignature => "token_bad_signature",
            Self::TokenWrongType => "token_wrong_type",
            Self::TokenClaim => "token_claim",
            Self::TokenExpired => "token_expired",
            Self::TokenNotYetValid => "token_not_yet_valid",
            Self::TokenTooOld => "token_too_old",
            Self::TokenWrongAudience => "token_wrong_audience",
            Self::TokenBindingMismatch => "token_binding_mismatch",
            Self::TokenRevoked => "token_revoked",
            Self::TokenInactive => "token_inactive",
            Self::KeysUnavailable => "keys_unavailable",
            Self::IntrospectionFailed => "introspection_failed",
            Self::PlaintextRefused => "plaintext_refused",
            Self::NoSnapshot => "no_snapshot",
            Self::NoIdentity => "no_identity",
            Self::InternalPort => "internal_port",
            Self::DestinationMismatch => "destination_mismatch",
            Self::EgressRefused => "egress_refused",
            Self::UnknownDestination => "unknown_destination",
            Self::DestinationUnresolved => "destination_unresolved",
            Self::NoHealthyEndpoint => "no_healthy_endpoint",
            Self::ConnectFailed => "connect_failed",
            Self::BadRequest => "bad_request",
            Self::HeadersTooLarge => "headers_too_large",
            Self::ProtocolError => "protocol_error",
            Self::Loop => "loop",
            Self::Draining => "draining",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_distinct_and_fit_for_labels() {
        let codes: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        for code in codes {
            assert!(
                code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{code}"
            );
        }
        assert_eq!(Reason::PlaintextRefused.to_string(), "plaintext_refused");
    }
}
