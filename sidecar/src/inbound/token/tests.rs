//! What is revoked, for a token that was verified before.

use std::collections::BTreeMap;

use arc_swap::ArcSwap;
use mesh_auth::TrustDomain;
use mesh_auth::revocation::BACKDATE;
use mesh_proto::mesh::revocation::Subject;

use super::*;
use crate::testing::{jwt_svid, revoking};

const SVID: &str = "spiffe://td/ns/a/sa/b";
/// When the token was issued.
const IAT: i64 = 1_700_000_000;

/// A JWT-SVID and the rule that accepts it.
fn token() -> (String, Arc<TokenPolicy>) {
    let claims = format!(r#"{{"sub":"{SVID}","aud":"shop","iat":{IAT},"exp":253402300000}}"#);
    let (token, jwks) = jwt_svid(&claims);
    let document = mesh::RequestAuthentication {
        name: "r".into(),
        namespace: "shop".into(),
        rules: vec![mesh::TokenRule {
            profile: mesh::TokenProfile::JwtSvid.into(),
            trust_domain: "td".into(),
            audiences: vec!["shop".into()],
            jwks,
            ..Default::default()
        }],
        ..Default::default()
    };
    let policy = TokenPolicy::compile([&document], &BTreeMap::new(), None);
    (token, Arc::new(policy.expect("compiles").expect("a rule")))
}

fn snapshot(epoch: u64, revoked: Option<Subject>) -> Snapshot {
    let mut snapshot = Snapshot::empty("shop/orders", TrustDomain::new("td").expect("a domain"));
    snapshot.revocations = Arc::new(revoking(revoked));
    snapshot.revocation_epoch = epoch;
    snapshot
}

#[test]
fn a_remembered_jwt_svid_ends_with_its_subject_and_its_age() {
    let before = |moment: i64| {
        Subject::IssuedBefore(mesh::RevokedIssuedBefore {
            trust_domain: "td".into(),
            path: String::new(),
            not_before: moment - BACKDATE,
        })
    };
    let prefix = |path: &str| {
        Subject::Prefix(mesh::RevokedPrefix {
            trust_domain: "td".into(),
            path: path.into(),
        })
    };
    for (subject, revoked) in [
        (Subject::SpiffeId(SVID.into()), true),
        (Subject::SpiffeId("spiffe://td/ns/a/sa/c".into()), false),
        (prefix("/ns/a"), true),
        (prefix("/ns/b"), false),
        (before(IAT + 1), true),
        (before(IAT), false),
    ] {
        let shared = Arc::new(ArcSwap::from_pointee(snapshot(0, None)));
        let dialer = Dialer {
            mark: None,
            timeout: Duration::from_secs(5),
        };
        let tokens = Tokens::new(
            [7; 32],
            KeyRequests::new(),
            Arc::default(),
            Arc::new(Questions::new([8; 32])),
            dialer,
            shared,
        );
        let (token, policy) = token();
        let request = http::Request::builder().header("authorization", format!("Bearer {token}"));
        let (head, ()) = request.body(()).expect("a request").into_parts();
        let judged = |snapshot: &Snapshot| {
            let presented = policy.find(&head).expect("one").credential.expect("there");
            let outcome = tokens.verify(snapshot, &policy, presented);
            let outcome = outcome.map(|_| ()).map_err(|(denied, ..)| denied.reason);
            (tokens.was_remembered(), outcome)
        };
        let nothing = snapshot(1, None);
        assert_eq!(judged(&nothing), (Some(false), Ok(())));
        assert_eq!(judged(&nothing), (Some(true), Ok(())));
        let expected = match revoked {
            true => Err(Reason::TokenRevoked),
            false => Ok(()),
        };
        let then = snapshot(2, Some(subject.clone()));
        for _ in 0..2 {
            assert_eq!(judged(&then), (Some(true), expected), "{subject:?}");
        }
        // One that nobody remembers is refused as well, and good again once that was taken back.
        let digest = tokens.digester.digest(token.as_bytes());
        tokens.cache.borrow_mut().remove(&digest);
        let later = snapshot(3, Some(subject.clone()));
        assert_eq!(judged(&later), (Some(false), expected), "{subject:?}");
        assert_eq!(judged(&snapshot(4, None)).1, Ok(()));
    }
}
