//! Trust bundles for, and of, other trust domains.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mesh_proto::admin::ApplyRequest;
use mesh_proto::admin::admin_service_client::AdminServiceClient;
use serde_json::Value;

use crate::support::{ControlApi, get};

#[tokio::test]
async fn the_own_bundle_is_served_in_the_format_that_others_read() {
    let api = ControlApi::start(&[]);
    let (status, text) = get(&api.address("metrics"), "/bundle").await;
    let bundle: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(status, 200);
    assert!(
        bundle["spiffe_sequence"].as_u64().is_some_and(|n| n > 0),
        "{text}"
    );
    assert_eq!(bundle["spiffe_refresh_hint"], 300);
    let keys = bundle["keys"].as_array().expect("keys");
    let of = |wanted: &'static str| keys.iter().filter(move |k| k["use"] == wanted);
    let root = of("x509-svid").next().expect("a root")["x5c"][0].as_str();
    let root = STANDARD
        .decode(root.expect("a certificate"))
        .expect("base64");
    assert_eq!(root, api.roots()[0].to_vec());
    assert!(of("jwt-svid").all(|k| k["kid"].is_string()) && of("jwt-svid").count() > 0);
}

#[tokio::test]
async fn a_trust_domain_has_one_bundle_and_the_own_one_is_not_for_documents() {
    let api = ControlApi::start(&[]);
    let federation = |name: &str, domain: &str, more: &str| ApplyRequest {
        manifest: format!(
            "{{apiVersion: postern.dev/v1alpha1, kind: Federation, metadata: {{namespace: postern-system, name: {name}}}, spec: {{trustDomain: {domain}, {more}}}}}"
        ),
        ..ApplyRequest::default()
    };
    let file = "bundleFile: /nowhere.json";
    let mut admin = AdminServiceClient::new(api.operator().await);
    admin
        .apply(federation("a", "a.example", file))
        .await
        .expect("taken");
    admin
        .apply(federation("a", "a.example", file))
        .await
        .expect("the same again");
    for (request, problem) in [
        (
            federation("b", "a.example", file),
            "has a bundle already, by 'a'",
        ),
        (
            federation("own", "test.example", file),
            "this mesh's own trust domain",
        ),
        (federation("c", "UPPER/x", file), "spec.trustDomain"),
        (
            federation("d", "d.example", "bundleFile: relative"),
            "spec.bundleFile",
        ),
        (
            federation(
                "e",
                "e.example",
                "bundleEndpoint: {url: 'http://e', profile: https_web}",
            ),
            "https://",
        ),
        (
            federation(
                "f",
                "f.example",
                "bundleEndpoint: {url: 'https://f', profile: https_spiffe}",
            ),
            "spec.bundleEndpoint.spiffeId",
        ),
        (
            federation(
                "g",
                "g.example",
                "bundleEndpoint: {url: 'https://g', profile: https_spiffe, spiffeId: 'spiffe://g.example/x'}",
            ),
            "spec.bundle",
        ),
        (
            federation("h", "h.example", "refreshSeconds: 5"),
            "exactly one of bundleEndpoint and bundleFile",
        ),
    ] {
        let refused = admin.apply(request).await.expect_err(problem);
        assert!(
            refused.message().contains(problem),
            "{problem}: {}",
            refused.message()
        );
    }
    // What cannot be read is told, and is no bundle.
    let metric = "postern_control_foreign_bundle_failing{trust_domain=\"a.example\"} 1";
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !get(&api.address("metrics"), "/metrics")
        .await
        .1
        .contains(metric)
    {
        assert!(std::time::Instant::now() < end, "no word of the failure");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
