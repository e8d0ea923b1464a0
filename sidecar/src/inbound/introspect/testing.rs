//! What tests of introspected tokens share.

use std::sync::Arc;

use mesh_auth::token::{Provider, TokenPolicy};
use mesh_proto::mesh;

/// A provider that is asked about its tokens, and may be believed for `stale_seconds` after its answer is over.
pub(crate) fn provider(stale_seconds: Option<u32>) -> Arc<Provider> {
    let document = mesh::RequestAuthentication {
        name: "r".into(),
        namespace: "shop".into(),
        rules: vec![mesh::TokenRule {
            issuer: "https://idp".into(),
            introspection: Some(mesh::TokenIntrospection {
                endpoint: "https://idp/introspect".into(),
                client_id: "orders".into(),
                credential_file: "/secret".into(),
                stale_seconds,
                ..Default::default()
            }),
            ..Default::default()
        }],
        ..Default::default()
    };
    let policy = TokenPolicy::compile([&document], &Default::default(), None);
    let policy = policy.expect("compiles").expect("has a rule");
    Arc::clone(&policy.providers()[0])
}
