//! JWT-SVIDs: for the caller's identity only, with keys that anybody can find.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mesh_proto::mesh::certificate_service_client::CertificateServiceClient;
use mesh_proto::mesh::report_service_client::ReportServiceClient;
use mesh_proto::mesh::{IssueJwtSvidRequest, ReportHello, SidecarReport, sidecar_report};
use serde_json::Value;
use tonic::Code;

use crate::support::{ControlApi, get};

fn part(token: &str, at: usize) -> Value {
    let part = token.split('.').nth(at).expect("three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("JSON")
}

fn asking(audiences: &[&str], lifetime_seconds: u32) -> IssueJwtSvidRequest {
    IssueJwtSvidRequest {
        audiences: audiences.iter().map(|a| (*a).to_owned()).collect(),
        lifetime_seconds,
    }
}

#[tokio::test]
async fn a_workload_gets_tokens_for_itself_and_their_keys_are_published() {
    let api = ControlApi::start(&["--jwt-issuer", "https://mesh.example"]);
    let web = api.workload("web").await;
    let channel = api.dial(Some(&web.identity), api.roots()).await;
    let mut client = CertificateServiceClient::new(channel.expect("a connection"));
    let answer = client
        .issue_jwt_svid(asking(&["db.example"], 0))
        .await
        .expect("a token")
        .into_inner();
    let (header, claims) = (part(&answer.token, 0), part(&answer.token, 1));
    assert_eq!(claims["sub"], "spiffe://test.example/ns/demo/sa/web");
    assert_eq!(claims["iss"], "https://mesh.example");
    assert_eq!(claims["aud"], serde_json::json!(["db.example"]));
    assert_eq!(answer.expires_at - answer.issued_at, 300);
    assert_eq!(claims["exp"], answer.expires_at);
    let longest = client.issue_jwt_svid(asking(&["db"], 9_999)).await;
    let longest = longest.expect("a token").into_inner();
    assert_eq!(longest.expires_at - longest.issued_at, 300, "capped");

    let (status, configuration) =
        get(&api.address("metrics"), "/.well-known/openid-configuration").await;
    let configuration: Value = serde_json::from_str(&configuration).expect("JSON");
    assert_eq!(
        (status, configuration["jwks_uri"].as_str()),
        (200, Some("https://mesh.example/keys"))
    );
    let (_, keys) = get(&api.address("metrics"), "/keys").await;
    let keys: Value = serde_json::from_str(&keys).expect("JSON");
    assert_eq!(keys["keys"][0]["kid"], header["kid"]);

    // The key is the same one after a crash: tokens given out before are still good.
    let api = api.restart();
    let (_, again) = get(&api.address("metrics"), "/keys").await;
    assert_eq!(serde_json::from_str::<Value>(&again).expect("JSON"), keys);
    let log = api.log();
    assert!(!log.contains(&answer.token), "tokens are not logged");
}

#[tokio::test]
async fn nobody_else_gets_a_token() {
    let api = ControlApi::start(&[]);
    let stranger = api.dial(None, api.roots()).await.expect("a connection");
    let refused = CertificateServiceClient::new(stranger)
        .issue_jwt_svid(asking(&["db"], 0))
        .await
        .expect_err("no certificate");
    assert_eq!(refused.code(), Code::Unauthenticated);

    let web = api.workload("web").await;
    let channel = api.dial(Some(&web.identity), api.roots()).await;
    let mut client = CertificateServiceClient::new(channel.expect("a connection"));
    let refused = client.issue_jwt_svid(asking(&[], 0)).await;
    let refused = refused.expect_err("no audience");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("audiences"), "{refused}");

    let mut admin =
        mesh_proto::admin::admin_service_client::AdminServiceClient::new(api.operator().await);
    admin
        .delete(mesh_proto::admin::DeleteRequest {
            if_revision: 0,
            kind: "workload".into(),
            namespace: "demo".into(),
            name: "web".into(),
        })
        .await
        .expect("deleted");
    let refused = client.issue_jwt_svid(asking(&["db"], 0)).await;
    let refused = refused.expect_err("no longer registered");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let (status, _) = get(&api.address("metrics"), "/.well-known/openid-configuration").await;
    assert_eq!(status, 404, "no issuer, no discovery");
}

#[tokio::test]
async fn a_revoked_workload_gets_no_token_and_may_not_report() {
    let api = ControlApi::start(&[]);
    let web = api.workload("web").await;
    let channel = api.dial(Some(&web.identity), api.roots()).await;
    let channel = channel.expect("a connection");
    let mut client = CertificateServiceClient::new(channel.clone());
    let before = client.issue_jwt_svid(asking(&["db"], 0)).await;
    before.expect("a token while it is believed");

    api.apply(
        "apiVersion: postern.dev/v1alpha1\nkind: Revocation\nmetadata: {name: lost, namespace: postern-system}\n\
         spec: {spiffeId: spiffe://test.example/ns/demo/sa/web, reason: lost}\n",
    )
    .await;
    let refused = client.issue_jwt_svid(asking(&["db"], 0)).await;
    let refused = refused.expect_err("it is revoked");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("peer_revoked"), "{refused}");

    let hello = SidecarReport {
        kind: Some(sidecar_report::Kind::Hello(ReportHello {
            workload: "demo/web".to_owned(),
            ..ReportHello::default()
        })),
    };
    let mut answers = ReportServiceClient::new(channel)
        .report(tokio_stream::iter([hello]))
        .await
        .expect("a stream")
        .into_inner();
    let refused = answers.message().await.expect_err("it is revoked");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
}
