//! Authorization of connections and requests, and the mutual TLS mode of ports.
//!
//! Semantics of Istio's `AuthorizationPolicy`. DENY policies are looked at first; then, if any ALLOW policy exists, one
//! must match; else the mesh's default decides. AUDIT policies never decide. Policies marked `dryRun` decide nothing
//! and are told by [`PolicySet::would_decide`].
//!
//! # A peer without an identity, a request without a token
//! What is positive (`principals`, `requestPrincipals`, `*` too) never matches what is not there, so that an ALLOW rule
//! that names anybody keeps plaintext out. What is negative (`notPrincipals`, ...) does match it, as in Istio and Envoy:
//! a DENY rule with `notPrincipals: ["*"]` catches plaintext, one with `notRequestPrincipals: ["*"]` catches requests
//! without a token, and an ALLOW rule that has *only* negative fields, or none, lets both in.
//!
//! # What cannot be told
//! HTTP fields on opaque bytes, headers that are not ASCII, an original client that `x-forwarded-for` does not name: such
//! a part matches in a DENY rule and does not match in an ALLOW or AUDIT rule.
//!
//! # Hosts
//! Without regard to case. Patterns that let in (`hosts` of ALLOW, `notHosts` of DENY) are compared with the authority as the
//! client wrote it, port included, as Istio does; patterns that keep out also with the bare host, so that `Host: admin:80`
//! is no way around `hosts: [admin]`.
//!
//! # Paths
//! As [`crate::path`] normalizes them, which is what the application gets. Patterns that keep out also look at the path with
//! the remaining escapes decoded, so that `/a%21` is no way around `paths: [/a!]`.
//!
//! # Other trust domains
//! `namespaces` and `serviceAccounts` do not look at the trust domain (Istio's rule). Where bundles of other domains are
//! held, name `principals`, which do.

mod decision;
mod request;

mod memo;
mod set;
mod standing;
mod table;

mod field;
mod index;
mod radix;
mod slots;

mod compile;
mod rule;

mod attribute;
mod block;
mod facts;
mod template;
mod text;
mod trust;

mod modes;

pub use compile::{PolicyError, validate};
pub use decision::{Decision, Verdict};
pub use memo::Tally as Remembered;
pub use modes::{MtlsMode, PortModes, validate_peer_authentication};
pub use request::{Connection, Request};
pub use set::PolicySet;
pub use standing::Standing;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

#[cfg(test)]
mod differential;
#[cfg(test)]
mod tests;
