//! A sidecar that proves itself with a Kubernetes service-account token, as the kubelet projects it.

use std::fs;

use mesh_e2e::sidecar::Sidecar;
use mesh_e2e::token::Issuer;
use mesh_e2e::{Mesh, eventually, http};
use serde_json::{Value, json};

const CLUSTER: &str = "https://kubernetes.default.svc";

/// Seconds since the epoch.
fn now() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp()
}

/// A token of the service account `demo/batch` for the pod `batch-1`, made `age` seconds ago.
fn token(cluster: &Issuer, audience: &str, age: i64) -> String {
    let claims = json!({
        "iss": CLUSTER, "aud": [audience], "sub": "system:serviceaccount:demo:batch",
        "iat": now() - age, "nbf": now() - age, "exp": now() + 3_600,
        "kubernetes.io": {"namespace": "demo", "pod": {"name": "batch-1"}, "serviceaccount": {"name": "batch"}},
    });
    cluster.sign(&cluster.header(), &claims)
}

fn admin(sidecar: &mut Sidecar, path: &str) -> String {
    http::get(sidecar.address("admin"), "localhost", path, "").text()
}

#[test]
fn a_service_account_token_proves_a_pod_and_is_read_again_when_it_is_needed_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let cluster = Issuer::new("k1");
    let keys = dir.path().join("jwks.json");
    fs::write(&keys, cluster.jwks()).expect("written");
    let attestation = dir.path().join("attestation.yaml");
    let text = format!(
        "attestors:\n- kind: join-token\n- kind: kubernetes\n  name: east\n  audiences: [postern]\n  issuer: {CLUSTER}\n  jwksFile: {}\n",
        keys.display()
    );
    fs::write(&attestation, text).expect("written");
    let path = attestation.to_str().expect("UTF-8");
    let mut mesh = Mesh::start(&[]);
    mesh.restart_control_api(&[("POSTERN_ATTESTATION", path)]);
    let workload = dir.path().join("batch.yaml");
    fs::write(
        &workload,
        "{apiVersion: postern.dev/v1alpha1, kind: Workload, metadata: {namespace: demo, name: batch-1}, spec: {serviceAccount: batch, addresses: [127.0.0.1]}}",
    )
    .expect("written");
    let applied = mesh.meshctl(&["apply", "-f", workload.to_str().expect("UTF-8")]);
    assert!(applied.status.success(), "{applied:?}");

    // A token for somebody else proves nothing, and the sidecar says what is wrong with it.
    let file = dir.path().join("account-token");
    fs::write(&file, token(&cluster, "vault", 0)).expect("written");
    let flag = [
        "--service-account-token-file",
        file.to_str().expect("UTF-8"),
    ];
    let mut sidecar = Sidecar::without_token(&mesh, "demo/batch-1", dir.path(), &flag);
    eventually("the refusal is logged", || {
        let log = sidecar.log();
        log.contains("by service-account token") && log.contains("it is for another audience")
    });
    // The kubelet's next one is taken up by itself.
    let good = token(&cluster, "postern", 600);
    fs::write(&file, &good).expect("written");
    let ready = sidecar.ready();
    assert_eq!(
        ready["spiffe_id"],
        "spiffe://demo.postern.internal/ns/demo/sa/batch"
    );
    eventually("its age is exported", || {
        let metrics = admin(&mut sidecar, "/metrics");
        let age = metrics
            .lines()
            .find_map(|l| l.strip_prefix("postern_attestation_token_age_seconds "));
        age.and_then(|age| age.parse::<f64>().ok())
            .is_some_and(|age| (600.0..700.0).contains(&age))
    });

    // Renewal needs no token.
    fs::remove_file(&file).expect("removed");
    let serial = |sidecar: &mut Sidecar| -> String {
        let dump: Value = serde_json::from_str(&admin(sidecar, "/config_dump")).expect("JSON");
        dump["control"]["certificate"]["serial"]
            .as_str()
            .expect("a serial number")
            .to_owned()
    };
    let before = serial(&mut sidecar);
    http::rotate(sidecar.address("admin"));
    eventually("another certificate is in use", || {
        serial(&mut sidecar) != before
    });
    assert!(!sidecar.log().contains(&good), "the token is logged");
}
