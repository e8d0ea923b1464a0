//! The kinds of documents, and the API versions each may be written in.

use std::fmt;

/// The API version of our own documents.
pub const API_VERSION: &str = "postern.dev/v1alpha1";
const ISTIO: [&str; 2] = ["security.istio.io/v1", "security.istio.io/v1beta1"];

/// What a document describes. The order is that of application: what guards comes before what is guarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Mesh-wide settings.
    MeshDefaults,
    /// Something no longer believed.
    Revocation,
    /// Another trust domain that is believed.
    Federation,
    /// How strictly ports demand mutual TLS.
    PeerAuthentication,
    /// Which tokens are accepted.
    RequestAuthentication,
    /// Who may connect.
    AuthorizationPolicy,
    /// How long a phase of requests may take.
    LatencyBudget,
    /// A named destination.
    Service,
    /// A running instance.
    Workload,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::MeshDefaults,
        Self::Revocation,
        Self::Federation,
        Self::PeerAuthentication,
        Self::RequestAuthentication,
        Self::AuthorizationPolicy,
        Self::LatencyBudget,
        Self::Service,
        Self::Workload,
    ];

    /// The name that documents carry.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MeshDefaults => "MeshDefaults",
            Self::Revocation => "Revocation",
            Self::Federation => "Federation",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::RequestAuthentication => "RequestAuthentication",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::LatencyBudget => "LatencyBudget",
            Self::Service => "Service",
            Self::Workload => "Workload",
        }
    }

    /// A kind as people type it: any case, singular or plural.
    pub fn parse(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        Self::ALL.into_iter().find(|kind| {
            let name = kind.as_str().to_ascii_lowercase();
            let plural = match name.strip_suffix('y') {
                Some(stem) => format!("{stem}ies"),
                None if name.ends_with('s') => name.clone(),
                None => format!("{name}s"),
            };
            lower == name || lower == plural
        })
    }

    /// A kind as documents must spell it.
    pub fn from_document(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// The API versions in which the kind may be written.
    pub fn api_versions(self) -> Vec<&'static str> {
        let istio: &[&str] = match self {
            Self::AuthorizationPolicy | Self::PeerAuthentication | Self::RequestAuthentication => {
                &ISTIO
            }
            Self::MeshDefaults
            | Self::Revocation
            | Self::Federation
            | Self::LatencyBudget
            | Self::Service
            | Self::Workload => &[],
        };
        std::iter::once(API_VERSION)
            .chain(istio.iter().copied())
            .collect()
    }

    /// Every kind's name, for messages.
    pub fn names() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_any_spelling_that_people_type() {
        for (text, kind) in [
            ("Workload", Some(Kind::Workload)),
            ("workloads", Some(Kind::Workload)),
            ("SERVICE", Some(Kind::Service)),
            ("authorizationpolicies", Some(Kind::AuthorizationPolicy)),
            ("authorizationpolicy", Some(Kind::AuthorizationPolicy)),
            ("peerauthentications", Some(Kind::PeerAuthentication)),
            ("requestauthentications", Some(Kind::RequestAuthentication)),
            ("federations", Some(Kind::Federation)),
            ("latencybudgets", Some(Kind::LatencyBudget)),
            ("meshdefaults", Some(Kind::MeshDefaults)),
            ("pod", None),
            ("", None),
        ] {
            assert_eq!(Kind::parse(text), kind, "{text}");
        }
    }
}
