//! Who may administer: an operator's certificate, or the right user on the Unix socket. Nobody else.

use mesh_auth::{SpiffeId, TrustDomain};
use tonic::Status;

use crate::clock::Clock;
use crate::listener::Caller;

/// Who made an administrative call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator(String);

impl Operator {
    /// The name that changes are recorded with: a SPIFFE ID or `uid:<n>`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The operator that a caller is. `own_uid` is the user the control API runs as.
    ///
    /// # Errors
    /// It is none.
    pub fn of(
        caller: &Caller,
        domain: &TrustDomain,
        own_uid: u32,
        clock: &Clock,
    ) -> Result<Self, Status> {
        match (caller.uid, caller.current_peer(clock)?) {
            (Some(uid), _) if uid == own_uid || uid == 0 => Ok(Self(format!("uid:{uid}"))),
            (Some(uid), _) => Err(Status::permission_denied(format!(
                "user {uid} may not administer: be user {own_uid}, as which the control API runs, or root"
            ))),
            (None, Some(peer)) if caller.only_by_others => Err(Status::permission_denied(format!(
                "'{}' is no operator: its certificate is of another authority (--workload-roots), which vouches for workloads only",
                peer.id()
            ))),
            (None, Some(peer)) if is_operator(domain, peer.id()) => Ok(Self(peer.id().to_string())),
            (None, Some(peer)) => Err(Status::permission_denied(format!(
                "'{}' is no operator: administration needs an identity spiffe://{domain}/operator/<name>",
                peer.id()
            ))),
            (None, None) => Err(Status::unauthenticated(
                "administration needs an operator's certificate (`control-api init` makes one) or the Unix socket",
            )),
        }
    }
}

/// `spiffe://<trust domain>/operator/<name>`, exactly.
fn is_operator(domain: &TrustDomain, id: &SpiffeId) -> bool {
    id.trust_domain() == domain.as_str()
        && id
            .path()
            .strip_prefix("/operator/")
            .is_some_and(|name| !name.is_empty() && !name.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_told_by_exact_path_and_domain() {
        let domain = TrustDomain::new("td").unwrap();
        for (id, expected) in [
            ("spiffe://td/operator/alice", true),
            ("spiffe://other/operator/alice", false),
            ("spiffe://td/operator/alice/x", false),
            ("spiffe://td/operators/alice", false),
            ("spiffe://td/ns/operator/sa/alice", false),
            ("spiffe://td/ns/a/sa/b", false),
        ] {
            let id = SpiffeId::parse(id).unwrap();
            assert_eq!(is_operator(&domain, &id), expected, "{id}");
        }
    }

    #[test]
    fn over_the_socket_only_root_and_the_own_user_are_operators() {
        let domain = TrustDomain::new("td").unwrap();
        let of = |uid| {
            let caller = Caller {
                uid,
                ..Caller::default()
            };
            Operator::of(&caller, &domain, 1000, &Clock::system())
        };
        assert_eq!(of(Some(0)).unwrap().as_str(), "uid:0");
        assert_eq!(of(Some(1000)).unwrap().as_str(), "uid:1000");
        assert_eq!(
            of(Some(1001)).unwrap_err().code(),
            tonic::Code::PermissionDenied
        );
        assert_eq!(of(None).unwrap_err().code(), tonic::Code::Unauthenticated);
    }
}
