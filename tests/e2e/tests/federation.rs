//! Peers of another trust domain, believed by that domain's roots and no others.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mesh_e2e::sidecar::Sidecar;
use mesh_e2e::tls::{self, Authority, Credential, credential};
use mesh_e2e::{Mesh, eventually};
use serde_json::json;
use time::Duration;

const PEER: &str = "spiffe://partner.example/ns/shop/sa/web";
const OWN: &str = "spiffe://demo.postern.internal/ns/demo/sa/web";
const THIRD: &str = "spiffe://third.example/ns/shop/sa/web";

fn text(root: &[u8], sequence: u64) -> String {
    let entry =
        json!({"kty": "EC", "crv": "P-256", "use": "x509-svid", "x5c": [STANDARD.encode(root)]});
    json!({"keys": [entry], "spiffe_sequence": sequence, "spiffe_refresh_hint": 60}).to_string()
}

fn bundle(file: &Path, root: &[u8], sequence: u64) {
    let whole = file.with_extension("new");
    fs::write(&whole, text(root, sequence)).expect("written");
    fs::rename(whole, file).expect("put in place");
}

fn valid(authority: &Authority, id: &str) -> Credential {
    credential(authority, &[id], Duration::hours(-1))
}

#[test]
fn another_trust_domain_is_believed_by_its_own_roots_only_and_for_as_long_as_it_is_named() {
    let mesh = Mesh::start(&[]);
    let port = mesh.address("orders", "mesh");
    let ours = tls::mesh_authority(&mesh.directory());
    let (partner, root) = tls::root();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("partner.json");
    bundle(&file, &root, 7);
    let peer = valid(&partner, PEER);
    let believed = |credential: &Credential| tls::first_byte(port, Some(credential)).is_ok();
    assert!(!believed(&peer), "nobody said so yet");

    let document = dir.path().join("federation.yaml");
    let text = format!(
        "apiVersion: postern.dev/v1alpha1\nkind: Federation\nmetadata: {{name: partner, namespace: postern-system}}\n\
         spec: {{trustDomain: partner.example, bundleFile: {}, refreshSeconds: 1}}\n",
        file.display()
    );
    fs::write(&document, text).expect("written");
    let document = document.to_str().expect("UTF-8");
    let applied = mesh.meshctl(&["apply", "-f", document]);
    assert!(applied.status.success(), "{applied:?}");
    eventually("the partner's workloads are believed", || believed(&peer));
    for (why, wrong) in [
        ("an ID of ours by the partner's root", valid(&partner, OWN)),
        ("an ID of the partner by our root", valid(&ours, PEER)),
        (
            "an ID of a third by the partner's root",
            valid(&partner, THIRD),
        ),
        (
            "an ID of the partner by nobody's root",
            valid(&tls::other_authority(), PEER),
        ),
    ] {
        assert!(!believed(&wrong), "{why}");
    }
    assert!(believed(&valid(&ours, OWN)), "our own as before");

    // The partner changes its root; an older bundle and one that cannot be read change nothing.
    let (next, next_root) = tls::root();
    let next_peer = valid(&next, PEER);
    bundle(&file, &next_root, 8);
    eventually("the new root is believed", || believed(&next_peer));
    assert!(!believed(&peer), "the old root is not");
    bundle(&file, &root, 7);
    let log = mesh.directory().join("logs/control-api.log");
    let said = |part: &str| fs::read_to_string(&log).expect("a log").contains(part);
    eventually("the rollback is refused", || said("rollback refused"));
    fs::write(&file, "{").expect("written");
    eventually("the damage is told", || said("not a JSON object"));
    assert!(believed(&next_peer) && !believed(&peer));

    let gone = mesh.meshctl(&["delete", "federation", "partner", "-n", "postern-system"]);
    assert!(gone.status.success(), "{gone:?}");
    eventually("nobody of the partner is believed", || {
        !believed(&next_peer)
    });
}

#[test]
fn a_bundle_is_fetched_from_who_proves_to_be_the_endpoint_and_from_nobody_else() {
    const ENDPOINT: &str = "spiffe://demo.postern.internal/ns/partners/sa/bundles";
    let mut mesh = Mesh::start(&[]);
    let ours = tls::mesh_authority(&mesh.directory());
    let (partner, root) = tls::root();
    let (impostor, impostors_root) = tls::root();
    let right = valid(&ours, ENDPOINT);
    // One of ours, but not the one that speaks for the partner.
    let wrong = valid(&ours, OWN);
    let good = tls::serve_https(&right, move || text(&root, 3));
    let bad = tls::serve_https(&wrong, move || text(&impostors_root, 4));
    mesh.restart_control_api(&[("POSTERN_ALLOW_LOCAL_FETCH", "true")]);
    mesh.apply(&format!(
        "
apiVersion: postern.dev/v1alpha1
kind: Workload
metadata: {{name: ledger-1, namespace: demo, labels: {{app: ledger}}}}
spec: {{serviceAccount: ledger, addresses: [127.0.0.1]}}
---
apiVersion: postern.dev/v1alpha1
kind: Federation
metadata: {{name: partner, namespace: postern-system}}
spec: {{trustDomain: partner.example, refreshSeconds: 1, bundleEndpoint: {{url: 'https://{good}/', profile: https_spiffe, spiffeId: '{ENDPOINT}'}}}}
---
apiVersion: postern.dev/v1alpha1
kind: Federation
metadata: {{name: third, namespace: postern-system}}
spec: {{trustDomain: third.example, refreshSeconds: 1, bundleEndpoint: {{url: 'https://{bad}/', profile: https_spiffe, spiffeId: '{ENDPOINT}'}}}}
"
    ));
    let dir = tempfile::tempdir().expect("a directory");
    let mut sidecar = Sidecar::start(&mesh, "demo/ledger-1", dir.path(), &[]);
    let port = sidecar.address("mesh");
    let believed = |credential: &Credential| tls::first_byte(port, Some(credential)).is_ok();
    let peer = valid(&partner, PEER);
    eventually("the partner's workloads are believed", || believed(&peer));
    assert!(
        !believed(&valid(&impostor, THIRD)),
        "its endpoint proved another identity"
    );
    assert!(!believed(&valid(&partner, THIRD)));
}
