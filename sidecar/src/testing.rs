//! What tests of several rooms need.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mesh_auth::Reason;
use mesh_auth::revocation::{Entry, Revocations};
use mesh_proto::mesh;
use mesh_proto::mesh::revocation::Subject;
use tokio::sync::oneshot;

use crate::http::ending::Ending;

/// Ends what it is asked about when the test says so.
pub(crate) struct When(pub(crate) oneshot::Receiver<Reason>);

impl Ending for When {
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|reason| reason.expect("the test sends one"))
    }
}

/// The service `demo/orders`.
pub(crate) fn service() -> mesh::Service {
    mesh::Service {
        name: "orders".into(),
        namespace: "demo".into(),
        addresses: vec![vec![10, 1, 0, 1]],
        ports: vec![mesh::ServicePort {
            port: 80,
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// A workload that answers for it.
pub(crate) fn workload() -> mesh::Workload {
    mesh::Workload {
        uid: "demo/orders-1".into(),
        name: "orders-1".into(),
        namespace: "demo".into(),
        service_account: "orders".into(),
        addresses: vec![vec![10, 0, 0, 1]],
        mesh_protocol: mesh::MeshProtocol::Postern.into(),
        services: vec![mesh::ServiceMembership {
            service: "demo/orders".into(),
            ports: vec![mesh::PortMapping {
                service_port: 80,
                target_port: 8080,
            }],
        }],
        ..Default::default()
    }
}

/// A JWT-SVID with these claims, and the key set that it is verified with.
pub(crate) fn jwt_svid(claims: &str) -> (String, String) {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    let (x, y) = key.public_key().as_ref()[1..].split_at(32);
    let (x, y) = (encode(x), encode(y));
    let jwks = format!(
        r#"{{"keys":[{{"kty":"EC","crv":"P-256","use":"jwt-svid","kid":"k","x":"{x}","y":"{y}"}}]}}"#
    );
    let head = encode(br#"{"alg":"ES256","kid":"k"}"#);
    let signed = format!("{head}.{}", encode(claims.as_bytes()));
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes());
    let token = format!("{signed}.{}", encode(signature.expect("signed").as_ref()));
    (token, jwks)
}

/// The revocation of `subject`, or none.
pub(crate) fn revoking(subject: Option<Subject>) -> Revocations {
    let entries = subject.map(|subject| {
        let message = mesh::Revocation {
            name: "r".into(),
            subject: Some(subject),
            ..Default::default()
        };
        Entry::parse(&message).expect("an entry")
    });
    Revocations::new(entries)
}
