//! Another authority of the trust domain (`--workload-roots`) vouches for workloads, until its certificates end.

use std::path::Path;

use mesh_auth::tls::Identity;
use mesh_control::store::issued::{self, IssuedRecord};
use mesh_control::store::{Store, StoreError};
use mesh_proto::admin::StatusRequest;
use mesh_proto::admin::admin_service_client::AdminServiceClient;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::PrivateKeyDer;
use time::{Duration, OffsetDateTime};
use tonic::{Code, Status};

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

/// Another authority and the file that has its root.
fn other_authority(directory: &Path) -> (Issuer<'static, KeyPair>, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().expect("a key");
    let root = params.self_signed(&key).expect("a root");
    let file = directory.join("other.pem");
    std::fs::write(&file, root.pem()).expect("written");
    (
        Issuer::new(params, key),
        file.to_str().expect("UTF-8").to_owned(),
    )
}

fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// What the control API issues to whoever shows `identity`.
async fn renew(api: &ControlApi, identity: &Identity) -> Result<Identity, Status> {
    let channel = api.dial(Some(identity), api.roots()).await;
    let issued = issue(channel.expect("a connection"), None).await;
    issued.map(|svid| svid.identity)
}

#[tokio::test]
async fn it_makes_no_operator_and_what_it_vouches_for_ends_with_its_certificate() {
    let directory = tempfile::tempdir().expect("a directory");
    let (issuer, file) = other_authority(directory.path());
    let believing = |namespaces| {
        [
            "--workload-roots",
            &file,
            "--workload-roots-namespaces",
            namespaces,
        ]
    };
    let api = ControlApi::start(&believing("demo,shop"));
    api.register("web").await;

    let operator = svid(&issuer, "operator/mallory");
    let of_another_namespace = svid(&issuer, "ns/bank/sa/web");
    for nobody in [&operator, &of_another_namespace] {
        let issued = async {
            let channel = api.dial(Some(nobody), api.roots()).await.ok()?;
            issue(channel, None).await.ok()
        };
        assert!(issued.await.is_none(), "it signs for neither");
    }

    let outside = svid(&issuer, "ns/demo/sa/web");
    let first = renew(&api, &outside).await.expect("a certificate");
    assert!(outside.not_after() <= now() + LIFETIME.whole_seconds());
    assert!(first.not_after() <= outside.not_after());
    // Nor does asking again, with what was issued, make it longer.
    let second = renew(&api, &first).await.expect("a certificate");
    assert!(second.not_after() <= outside.not_after());

    // An authority of everybody makes no operator either.
    let flags = |flags: &[&str]| flags.iter().map(|f| (*f).to_owned()).collect();
    let api = api.restart_with(flags(&believing("*")));
    let channel = api.dial(Some(&operator), api.roots()).await;
    let mut admin = AdminServiceClient::new(channel.expect("a connection"));
    let refused = admin.status(StatusRequest::default()).await;
    let refused = refused.map(drop).expect_err("another authority's operator");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("--workload-roots"), "{refused}");
    renew(&api, &second).await.expect("it vouches still");

    // What it vouched for ends when it does so no longer, though the certificates are the control API's own.
    let mut api = api;
    for rules in [flags(&believing("shop")), flags(&[])] {
        api = api.restart_with(rules);
        let refused = renew(&api, &second)
            .await
            .map(drop)
            .expect_err("not any more");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        assert!(refused.message().contains("another authority"), "{refused}");
    }
}

#[tokio::test]
async fn whom_a_root_of_another_authority_vouches_for_has_to_be_said() {
    let directory = tempfile::tempdir().expect("a directory");
    let (_, file) = other_authority(directory.path());
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_control-api"))
        .args(["run", "--trust-domain", DOMAIN, "--workload-roots", &file])
        .arg("--data-dir")
        .arg(directory.path().join("data"))
        .output()
        .expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("--workload-roots-namespaces"), "{said}");
}

#[tokio::test]
async fn a_certificate_of_which_is_not_known_who_vouched_for_it_is_no_reason_for_a_longer_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let (_, file) = other_authority(directory.path());
    let api = ControlApi::start(&["--certificate-lifetime", "10m"]);
    let web = api.workload("web").await.identity;
    // As it was written before that was noted.
    let serial: String = web
        .serial()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let forget = |data: &Path| {
        let store = Store::open(data, DOMAIN).expect("the store");
        let record = store.read(|read| issued::get(read, &serial)).expect("read");
        let record = IssuedRecord {
            bound: None,
            ..record.expect("a record")
        };
        let written: Result<_, StoreError> =
            store.write(|write| issued::record(write, &serial, "some key", &record));
        written.expect("written");
    };
    let mut api = api;
    for (rules, is_bound, goes_on) in [
        (vec![], false, true),
        (
            vec![
                "--workload-roots",
                &file,
                "--workload-roots-namespaces",
                "demo",
            ],
            true,
            true,
        ),
        // They are believed no longer, and may have vouched for it all the same.
        (vec![], true, false),
    ] {
        api.kill();
        forget(&api.data());
        api = api.restart_with(rules.into_iter().map(str::to_owned).collect());
        let renewed = renew(&api, &web).await.expect("a certificate");
        let found = renewed.not_after() <= web.not_after();
        assert_eq!(found, is_bound, "{}", renewed.not_after());
        // A chain of renewals is bound like its first.
        let again = renew(&api, &renewed).await;
        assert_eq!(again.is_ok(), goes_on);
        if let Ok(again) = again {
            assert_eq!(again.not_after() <= web.not_after(), is_bound);
        }
    }
}
