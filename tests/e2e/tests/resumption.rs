//! TLS sessions are resumed with a sidecar until a certificate, a bundle or a revocation changes, and never when that is
//! switched off.

use std::io::{Read, Write};

use mesh_e2e::sidecar::Sidecar;
use mesh_e2e::tls::{Client, HandshakeKind, credential, mesh_authority};
use mesh_e2e::{Mesh, eventually, http};
use time::Duration;

const WEB: &str = "spiffe://demo.postern.internal/ns/demo/sa/web";
const SOMEBODY_ELSE: &str = "
apiVersion: postern.dev/v1alpha1
kind: Revocation
metadata: {name: somebody-else, namespace: postern-system}
spec: {spiffeId: 'spiffe://demo.postern.internal/ns/demo/sa/nobody'}
";

const LEDGER: &str = "
apiVersion: postern.dev/v1alpha1
kind: Workload
metadata: {name: ledger-1, namespace: demo, labels: {app: ledger}}
spec: {serviceAccount: ledger, addresses: [127.0.0.1]}
";

#[test]
fn a_session_is_resumed_until_anything_changes_and_nowhere_else() {
    let mesh = Mesh::start(&[]);
    let port = mesh.address("orders", "mesh");
    let web = credential(
        &mesh_authority(&mesh.directory()),
        &[WEB],
        -Duration::hours(1),
    );
    let client = Client::new(Some(&web));
    let kind = |port| client.connect(port).map(|(_, kind)| kind);
    let full = |what: &str| assert_eq!(kind(port).expect(what), HandshakeKind::Full, "{what}");
    let resumed = || kind(port).expect("it is let in") == HandshakeKind::Resumed;
    full("nothing to resume");
    assert!(resumed() && resumed());
    let told = mesh.counted(
        "orders",
        "postern_tls_resumptions_total{direction=\"inbound\"}",
    );
    assert!(told >= 2, "{told}");
    let known = mesh.counted("orders", "postern_verified_chains_total{result=\"hit\"}");
    let chains = mesh.counted("orders", "postern_verified_chains_total{result=\"miss\"}");
    assert!(chains >= 1, "{chains}");

    // The ticket of one sidecar, or of one listener, is nothing to another.
    let elsewhere = kind(mesh.address("payments", "mesh")).expect("web may call it");
    assert_eq!(elsewhere, HandshakeKind::Full);
    full("the ticket was the other's");
    let after = mesh.counted("orders", "postern_verified_chains_total{result=\"hit\"}");
    assert_eq!(
        after,
        known + 1,
        "a full handshake, of a chain that is known"
    );

    // A revocation, though of somebody else.
    assert!(resumed());
    mesh.apply(SOMEBODY_ELSE);
    eventually("a revocation ends the tickets", || !resumed());
    assert!(resumed());
    // Another certificate of the sidecar.
    mesh.rotate("orders");
    eventually("a rotation ends the tickets", || !resumed());
    assert!(resumed());
    // Another root beside the present one.
    let prepared = mesh.meshctl(&["ca", "rotate", "prepare"]);
    assert!(prepared.status.success(), "{prepared:?}");
    eventually("a bundle ends the tickets", || !resumed());
    assert!(resumed());

    // The client itself: its ticket does not help.
    let revoked = mesh.meshctl(&["revoke", "id", WEB, "--wait"]);
    assert!(revoked.status.success(), "{revoked:?}");
    for _ in 0..3 {
        kind(port).expect_err("it is revoked");
    }
}

#[test]
fn sidecars_resume_with_each_other() {
    let mesh = Mesh::start(&[]);
    let port = mesh.tcp_service("orders:7000");
    let mut tunnels = Vec::new();
    // With more than a hundred streams on its connection a worker opens another.
    eventually("a second connection to the same peer", || {
        for _ in 0..50 {
            let mut tunnel = http::connect(port);
            let mut echo = [0; 1];
            tunnel.write_all(b"x").expect("written");
            tunnel.read_exact(&mut echo).expect("an echo");
            tunnels.push(tunnel);
        }
        mesh.counted(
            "web",
            "postern_tls_resumptions_total{direction=\"outbound\"}",
        ) > 0
    });
    let accepted = mesh.counted(
        "orders",
        "postern_tls_resumptions_total{direction=\"inbound\"}",
    );
    assert!(accepted > 0, "{accepted}");
    assert!(tunnels.iter_mut().all(http::echoes));
}

#[test]
fn nothing_is_resumed_where_it_is_switched_off() {
    let mesh = Mesh::start(&[]);
    let directory = tempfile::tempdir().expect("a directory");
    mesh.apply(LEDGER);
    let off = ["--session-resumption", "off"];
    let mut sidecar = Sidecar::start(&mesh, "demo/ledger-1", directory.path(), &off);
    let port = sidecar.address("mesh");
    let web = credential(
        &mesh_authority(&mesh.directory()),
        &[WEB],
        -Duration::hours(1),
    );
    let client = Client::new(Some(&web));
    for _ in 0..3 {
        let (_, kind) = client.connect(port).expect("it is let in");
        assert_eq!(kind, HandshakeKind::Full);
    }
}
