//! What is revoked is closed where it is open, refused where it is new, and believed again when it is taken back.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use mesh_e2e::{Mesh, eventually, http};
use serde_json::Value;

const WEB: &str = "spiffe://demo.postern.internal/ns/demo/sa/web";

/// `meshctl revoke ARGUMENTS -o json` as an operator on the control API's machine: exit code and what it printed.
fn revoke(mesh: &Mesh, arguments: &[&str]) -> (Option<i32>, Value) {
    let exe = std::env::current_exe().expect("a path");
    let meshctl: PathBuf = exe
        .ancestors()
        .nth(2)
        .expect("target/PROFILE")
        .join("meshctl");
    let socket = mesh.directory().join("control-api/admin.sock");
    let output = Command::new(meshctl)
        .arg("revoke")
        .args(arguments)
        .args(["-o", "json", "--socket"])
        .arg(socket)
        .output()
        .expect("meshctl runs");
    let value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code(), value)
}

/// The listener of `web` for a TCP service of `orders`.
fn tcp_service(mesh: &Mesh, service: &str) -> SocketAddr {
    let file = mesh.directory().join("ready/sidecar-web.json");
    let ready: Value = serde_json::from_slice(&std::fs::read(file).expect("there")).expect("JSON");
    let address = ready["tcp_services"][service].as_str();
    address.expect("an address").parse().expect("host:port")
}

#[test]
fn a_revoked_identity_loses_its_open_tunnel_and_gets_no_new_one_until_it_is_taken_back() {
    let mesh = Mesh::start(&[]);
    assert_eq!(mesh.call_orders().status, 200);
    let mut tunnel = http::connect(tcp_service(&mesh, "orders:7000"));
    let mut echo = [0; 5];
    tunnel.write_all(b"hello").expect("written");
    tunnel.read_exact(&mut echo).expect("an echo");

    let (code, done) = revoke(&mesh, &["id", WEB, "--reason", "lost", "--wait"]);
    assert_eq!(code, Some(0), "{done}");
    let enforcement = &done["enforcement"];
    assert_eq!(enforcement["sidecars"], enforcement["enforced"], "{done}");
    assert!(enforcement["p99_ms"].as_f64().expect("a time") > 0.0);
    // `--wait` has returned: the tunnel is gone, not going.
    match tunnel.read(&mut echo) {
        Ok(0) => {}
        Ok(n) => panic!("{n} bytes"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    assert_ne!(mesh.call_orders().status, 200);
    let log = mesh.directory().join("logs/sidecar-orders.log");
    let log = std::fs::read_to_string(log).expect("a log");
    assert!(log.contains("peer_revoked"), "the reason is in the log");
    eventually("the control API ends its stream and refuses it", || {
        let log = mesh.directory().join("logs/sidecar-web.log");
        std::fs::read_to_string(log).is_ok_and(|log| log.contains("is revoked by"))
    });

    let (code, again) = revoke(&mesh, &["id", WEB, "--reason", "lost"]);
    assert_eq!((code, &again["outcome"]), (Some(0), &"unchanged".into()));
    let name = done["name"].as_str().expect("a name");
    let (_, listed) = revoke(&mesh, &["list"]);
    assert_eq!(listed["revocations"][0]["name"], name);
    assert_eq!(revoke(&mesh, &["undo", name]).0, Some(0));
    eventually("it is let in again", || mesh.call_orders().status == 200);
}

#[test]
fn revocation_by_prefix_and_age_hits_what_it_names_and_bad_input_changes_nothing() {
    let mesh = Mesh::start(&[]);
    for bad in [
        &["serial", "xyz"][..],
        &["id", "https://demo.postern.internal/a"],
        &["prefix", "/ns/demo"],
        &["issued-before", "yesterday"],
    ] {
        let (code, _) = revoke(&mesh, bad);
        assert!(matches!(code, Some(1 | 2)), "{bad:?}: {code:?}");
    }
    let harmless = [
        &["prefix", "spiffe://demo.postern.internal/ns/dem", "--wait"][..],
        &["prefix", "spiffe://other.example/ns/demo", "--wait"],
        &["serial", "01:02:03", "--wait"],
        &["issued-before", "2020-01-01T00:00:00Z", "--wait"],
    ];
    for arguments in harmless {
        let (code, done) = revoke(&mesh, arguments);
        assert_eq!(code, Some(0), "{done}");
        assert_eq!(done["enforcement"]["sidecars"], 3, "{done}");
    }
    assert_eq!(mesh.call_orders().status, 200);
    // Everybody is too old: two that are both revoked must not go on talking to each other either.
    let (code, done) = revoke(
        &mesh,
        &[
            "issued-before",
            "2100-01-01T00:00:00Z",
            "--wait",
            "--name",
            "all",
        ],
    );
    assert_eq!(code, Some(0), "{done}");
    assert_eq!(done["enforcement"]["sidecars"], 3, "{done}");
    assert_ne!(mesh.call_orders().status, 200);
    assert_eq!(revoke(&mesh, &["undo", "all"]).0, Some(0));
    eventually("all are let in again", || mesh.call_orders().status == 200);
}
