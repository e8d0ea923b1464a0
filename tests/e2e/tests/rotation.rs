//! A change of roots under traffic: nobody fails, nobody is forgotten.

use std::io::Read as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use mesh_e2e::tls::{Client, credential, mesh_authority};
use mesh_e2e::{Mesh, eventually, http};
use serde_json::Value;
use time::{Duration, OffsetDateTime};

/// Runs `meshctl ca rotate STEP`; what it said, and whether it did it.
fn rotate(mesh: &Mesh, step: &str) -> Result<Value, String> {
    let output = mesh.meshctl(&["ca", "rotate", step, "-o", "json"]);
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).expect("JSON"))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[test]
fn roots_change_under_traffic_without_one_failed_request() {
    let mesh = Mesh::start(&[]);
    let (stop, failures) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(Mutex::new(vec![])),
    );
    let outbound = mesh.address("web", "outbound");
    let traffic = {
        let (stop, failures) = (Arc::clone(&stop), Arc::clone(&failures));
        std::thread::spawn(move || {
            let mut requests = 0;
            while !stop.load(Ordering::Relaxed) {
                let answer = http::get(outbound, "orders", "/", "");
                if answer.status != 200 {
                    failures.lock().expect("no panic").push(answer.head);
                }
                requests += 1;
            }
            requests
        })
    };
    let first = rotate(&mesh, "status").expect("a status")["roots"][0]["sha256"].clone();
    for _ in 0..2 {
        assert_eq!(
            rotate(&mesh, "prepare").expect("prepared")["phase"],
            "prepared"
        );
        // Not before every sidecar has acknowledged the new root.
        eventually("every sidecar trusts the new root", || {
            rotate(&mesh, "activate").is_ok_and(|said| said["phase"] == "activated")
        });
        // Not before every sidecar has another certificate: they are told to get one.
        eventually("no certificate of the old root is in use", || {
            rotate(&mesh, "retire").is_ok_and(|said| said["phase"] == "idle")
        });
    }
    let last = rotate(&mesh, "status").expect("a status");
    assert_eq!(last["roots"].as_array().map(Vec::len), Some(1));
    assert_ne!(last["roots"][0]["sha256"], first);
    assert_eq!(mesh.call_orders().status, 200);
    stop.store(true, Ordering::Relaxed);
    let requests = traffic.join().expect("no panic");
    let failures = failures.lock().expect("no panic");
    assert!(
        failures.is_empty(),
        "{} of {requests} failed: {:?}",
        failures.len(),
        failures.first()
    );
    assert!(requests > 100, "{requests} requests are no traffic");
}

#[test]
fn a_new_certificate_has_its_connections_before_a_request_needs_them() {
    let mesh = Mesh::start(&[]);
    assert_eq!(mesh.call_orders().status, 200);
    let ahead = || mesh.counted("web", "postern_mesh_dialed_ahead_total");
    let handshakes = || mesh.counted("orders", "postern_tls_handshakes_total");
    assert_eq!(ahead(), 0);
    mesh.rotate("web");
    eventually("web dials orders without a request", || ahead() > 0);
    let before = handshakes();
    assert_eq!(mesh.call_orders().status, 200);
    assert_eq!(handshakes(), before, "the request waited for a handshake");
}

#[test]
fn a_connection_is_told_to_go_before_its_certificate_ends_and_cut_when_it_does() {
    const GOAWAY: u8 = 7;
    let mesh = Mesh::start(&[]);
    let id = "spiffe://demo.postern.internal/ns/demo/sa/web";
    let life = Duration::seconds(6);
    let web = credential(&mesh_authority(&mesh.directory()), &[id], -life);
    // A certificate says when it ends in whole seconds.
    let end = (OffsetDateTime::now_utc() + life).replace_nanosecond(0);
    let end = end.expect("a second");
    let port = mesh.address("orders", "mesh");
    let mut stream = Client::new(Some(&web)).open(port).expect("let in");
    let mut told = None;
    let mut head = [0; 9];
    while stream.read_exact(&mut head).is_ok() {
        if head[3] == GOAWAY {
            told.get_or_insert_with(OffsetDateTime::now_utc);
        }
        let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
        stream.read_exact(&mut payload).expect("a whole frame");
    }
    let told = told.expect("GOAWAY");
    assert!(told < end, "told {} late", told - end);
    let over = OffsetDateTime::now_utc();
    assert!(over < end + Duration::seconds(2), "cut {} late", over - end);
}
