//! Another authority of the trust domain (`--workload-roots`) vouches for workloads, until its certificates end.

use std::time::{SystemTime, UNIX_EPOCH};

use mesh_auth::tls::Identity;
use mesh_proto::admin::StatusRequest;
use mesh_proto::admin::admin_service_client::AdminServiceClient;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::PrivateKeyDer;
use time::{Duration, OffsetDateTime};
use tonic::Code;

use super::support::{ControlApi, DOMAIN, issue};

/// Ends when the control API's own certificates would still be good for a day.
const LIFETIME: Duration = Duration::minutes(10);

fn svid(issuer: &Issuer<'_, KeyPair>, path: &str) -> Identity {
    let id = format!("spiffe://{DOMAIN}/{path}");
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.try_into().expect("ASCII"))];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
    params.not_after = OffsetDateTime::now_utc() + LIFETIME;
    let key = KeyPair::generate().expect("a key");
    let leaf = params.signed_by(&key, issuer).expect("a leaf");
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    Identity::new(vec![leaf.der().clone()], key).expect("an identity")
}

#[tokio::test]
async fn it_makes_no_operator_and_what_it_vouches_for_ends_with_its_certificate() {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().expect("a key");
    let root = params.self_signed(&key).expect("a root");
    let issuer = Issuer::new(params, key);
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("other.pem");
    std::fs::write(&file, root.pem()).expect("written");
    let api = ControlApi::start(&["--workload-roots", file.to_str().expect("UTF-8")]);
    api.register("web").await;

    let operator = svid(&issuer, "operator/mallory");
    let channel = api.dial(Some(&operator), api.roots()).await;
    let mut admin = AdminServiceClient::new(channel.expect("a connection"));
    let refused = admin.status(StatusRequest::default()).await;
    let refused = refused.map(drop).expect_err("another authority's operator");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("--workload-roots"), "{refused}");

    let outside = svid(&issuer, "ns/demo/sa/web");
    let channel = api.dial(Some(&outside), api.roots()).await;
    let first = issue(channel.expect("a connection"), None).await;
    let first = first.expect("a certificate").identity;
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).expect("later");
    let now = i64::try_from(since_1970.as_secs()).expect("small");
    assert!(outside.not_after() <= now + LIFETIME.whole_seconds());
    assert!(first.not_after() <= outside.not_after());

    // Nor does asking again, with what was issued, make it longer.
    let channel = api.dial(Some(&first), api.roots()).await;
    let second = issue(channel.expect("a connection"), None).await;
    let second = second.expect("a certificate").identity;
    assert!(second.not_after() <= outside.not_after());
}
