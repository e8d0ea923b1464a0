//! A device from its enrolment to its end, as an operator sees it.

use std::path::Path;

use mesh_e2e::sidecar::Sidecar;
use mesh_e2e::{Mesh, eventually, http};
use serde_json::Value;

const MAY_CALL: &str = "
apiVersion: postern.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: laptops, namespace: demo}
spec:
  selector: {matchLabels: {app: orders}}
  action: ALLOW
  rules: [{from: [{source: {namespaces: [devices]}}]}]
";

/// `meshctl device ARGUMENTS`, which has to succeed.
fn device(mesh: &Mesh, arguments: &[&str]) -> Value {
    let output = mesh.meshctl(&[&["device"], arguments, &["-o", "json"]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// The laptop's line of the inventory.
fn entry(mesh: &Mesh) -> Value {
    let devices = device(mesh, &["list"])["devices"].clone();
    let all = devices.as_array().expect("a list");
    let laptop = all.iter().find(|entry| entry["device"] == "devices/laptop");
    laptop.cloned().unwrap_or_default()
}

fn start(mesh: &Mesh, directory: &Path, more: &[&str]) -> Sidecar {
    Sidecar::without_token(mesh, "devices/laptop", directory, more)
}

#[test]
fn a_device_is_enrolled_seen_quarantined_released_and_decommissioned() {
    let mut mesh = Mesh::start(&[]);
    mesh.apply(MAY_CALL);
    let directory = tempfile::tempdir().expect("a directory");
    let token = directory.path().join("device-token");
    let token = token.to_str().expect("UTF-8");
    let owner = ["--owner", "ann@example.org", "--posture", "disk encrypted"];
    device(
        &mesh,
        &[&["enroll", "laptop", "--to", token], &owner[..]].concat(),
    );
    let enrolled = entry(&mesh);
    assert_eq!(enrolled["state"], "enrolled", "{enrolled}");
    assert_eq!(enrolled["owner"], "ann@example.org");
    assert_eq!(enrolled["posture"], "disk encrypted");
    assert!(enrolled["last_seen"].is_null() && enrolled["enrolled"].is_string());

    let mut laptop = start(&mesh, directory.path(), &["--join-token-file", token]);
    let outbound = laptop.address("outbound");
    let call = || http::get(outbound, "orders.demo", "/", "").status;
    eventually("it is connected", || entry(&mesh)["state"] == "connected");
    eventually("it is let in", || call() == 200);
    // The token was good once.
    let second = tempfile::tempdir().expect("a directory");
    let thief = start(&mesh, second.path(), &["--join-token-file", token]);
    eventually("a second use is refused", || {
        thief.log().contains("no new certificate")
    });
    drop(thief);

    device(
        &mesh,
        &["quarantine", "laptop", "--reason", "lost", "--wait"],
    );
    assert_eq!(entry(&mesh)["state"], "quarantined");
    assert_ne!(call(), 200, "nobody believes it any more");
    device(&mesh, &["release", "laptop"]);
    eventually("it is let in again", || call() == 200);

    // What was seen is known after both went away.
    drop(laptop);
    eventually("it is away", || entry(&mesh)["state"] == "away");
    let seen = entry(&mesh)["last_seen"].clone();
    assert!(seen.is_string(), "{seen}");
    mesh.restart_control_api(&[]);
    let after = entry(&mesh);
    assert_eq!(
        (&after["state"], &after["last_seen"]),
        (&"away".into(), &seen)
    );

    device(
        &mesh,
        &["decommission", "laptop", "--reason", "sold", "--wait"],
    );
    let gone = entry(&mesh);
    assert_eq!(gone["state"], "decommissioned", "{gone}");
    let again = mesh.meshctl(&["token", "create", "devices/laptop"]);
    assert!(
        !again.status.success(),
        "it is registered no more: {again:?}"
    );
}
