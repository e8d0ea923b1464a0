//! A sidecar that takes its identity from a Workload API that is not the control API's: that of another sidecar, which
//! speaks the protocol of SPIRE's agent.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mesh_e2e::sidecar::Sidecar;
use mesh_e2e::tls::{self, credential, first_byte};
use mesh_e2e::{Mesh, eventually, http, signal};
use serde_json::Value;
use time::Duration;

const SECOND_WEB: &str = "
apiVersion: postern.dev/v1alpha1
kind: Workload
metadata: {name: web-2, namespace: demo, labels: {app: web}}
spec: {serviceAccount: web, addresses: [127.0.0.1]}
";
const WEB: &str = "spiffe://demo.postern.internal/ns/demo/sa/web";

#[test]
fn an_outside_workload_api_gives_renews_and_takes_back_the_identity() {
    let mesh = Mesh::start(&[]);
    mesh.apply(SECOND_WEB);
    let directory = tempfile::tempdir().expect("a directory");
    let socket = mesh.workload_api("web");
    let socket = format!("unix://{}", socket.display());
    let from = ["--identity-socket", socket.as_str()];
    let mut sidecar = Sidecar::without_token(&mesh, "demo/web-2", directory.path(), &from);
    let (outbound, admin) = (sidecar.address("outbound"), sidecar.address("admin"));
    let ask = |path: &str| http::get(admin, &admin.to_string(), path, "").text();
    let certificate = || -> Value {
        let dump: Value = serde_json::from_str(&ask("/config_dump")).expect("JSON");
        dump["control"]["certificate"].clone()
    };
    let first = certificate();
    assert_eq!(first["spiffe_id"], WEB, "{first}");
    // It is believed by the control API, which sent it everything, and by its peers.
    eventually("orders answers", || {
        http::get(outbound, "orders", "/", "").status == 200
    });

    // The outside renews: it is used at once.
    mesh.rotate("web");
    eventually("the next certificate is used", || {
        let now = certificate();
        now["serial"].is_string() && now["serial"] != first["serial"]
    });
    assert_eq!(http::get(outbound, "orders", "/", "").status, 200);

    // It takes the identity back: nothing is answered any more.
    let revoked = mesh.meshctl(&["revoke", "id", WEB]);
    assert!(revoked.status.success(), "{revoked:?}");
    eventually("the certificate is withdrawn", || certificate().is_null());
    assert_ne!(http::get(outbound, "orders", "/", "").status, 200);
    let undone = mesh.meshctl(&["revoke", "list", "-o", "json"]);
    let listed: Value = serde_json::from_slice(&undone.stdout).expect("JSON");
    let name = listed["revocations"][0]["name"].as_str().expect("a name");
    assert!(mesh.meshctl(&["revoke", "undo", name]).status.success());
    eventually("it is given again", || {
        http::get(outbound, "orders", "/", "").status == 200
    });

    // The outside goes away: what is held stays in use, and readiness tells.
    signal("TERM", mesh.sidecar("web"));
    eventually("the outage is told", || {
        ask("/readyz").contains("does not serve")
    });
    assert_eq!(http::get(outbound, "orders", "/", "").status, 200);
}

#[test]
fn the_control_api_believes_another_authority_of_the_trust_domain_that_it_is_told_of() {
    let mut mesh = Mesh::start(&[]);
    let (authority, root) = tls::root();
    let port = mesh.address("orders", "mesh");
    let web = credential(&authority, &[WEB], Duration::hours(-1));
    let stranger = credential(
        &authority,
        &["spiffe://other.test/web"],
        Duration::hours(-1),
    );
    let of_another_namespace = credential(
        &authority,
        &["spiffe://demo.postern.internal/ns/bank/sa/web"],
        Duration::hours(-1),
    );
    first_byte(port, Some(&web)).expect_err("nobody said so yet");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("spire.pem");
    let text = STANDARD.encode(root);
    let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    std::fs::write(&file, pem).expect("written");
    let file = file.to_str().expect("UTF-8");
    mesh.restart_control_api(&[
        ("POSTERN_WORKLOAD_ROOTS", file),
        ("POSTERN_WORKLOAD_ROOTS_NAMESPACES", "demo,shop"),
    ]);
    // Its sidecars look for the control API where it was, which is away: one that starts now asks the new one.
    mesh.apply(SECOND_WEB);
    let mut sidecar = Sidecar::start(&mesh, "demo/web-2", directory.path(), &[]);
    let port = sidecar.address("mesh");
    eventually("the other authority's workloads are believed", || {
        first_byte(port, Some(&web)).is_ok()
    });
    first_byte(port, Some(&stranger)).expect_err("of another trust domain");
    first_byte(port, Some(&of_another_namespace)).expect_err("of a namespace that is not theirs");
    // They vouch for workloads, and not for the control API.
    let admin = sidecar.address("admin");
    let dump = http::get(admin, &admin.to_string(), "/config_dump", "").text();
    let dump: Value = serde_json::from_str(&dump).expect("JSON");
    let bundle = &dump["trust_bundles"][0];
    let count = |field: &str| bundle[field].as_array().map(Vec::len);
    assert_eq!(count("authorities_sha256"), Some(1), "{bundle}");
    assert_eq!(count("workload_authorities_sha256"), Some(1), "{bundle}");
}
