//! Peers that present the wrong certificate, or no protocol at all.

use std::io::{Read, Write};
use std::net::Shutdown;

use mesh_e2e::{Mesh, http, runs, tls};
use time::Duration;

const WEB: &str = "spiffe://demo.postern.internal/ns/demo/sa/web";
const VALID: Duration = Duration::hours(-1);

#[test]
fn only_a_certificate_that_is_right_in_everything_opens_the_mesh_port() {
    let mesh = Mesh::start(&[]);
    let port = mesh.address("orders", "mesh");
    let ours = tls::mesh_authority(&mesh.directory());
    let other = tls::other_authority();

    let right = tls::credential(&ours, &[WEB], VALID);
    tls::first_byte(port, Some(&right)).expect("the control: this one is right");

    let foreign = "spiffe://elsewhere.example/ns/demo/sa/web";
    let second = "spiffe://demo.postern.internal/ns/demo/sa/admin";
    for (wrong, credential) in [
        ("another authority", tls::credential(&other, &[WEB], VALID)),
        (
            "expired",
            tls::credential(&ours, &[WEB], Duration::hours(1)),
        ),
        (
            "not yet valid",
            tls::credential(&ours, &[WEB], Duration::hours(-9)),
        ),
        ("two URIs", tls::credential(&ours, &[WEB, second], VALID)),
        ("no URI", tls::credential(&ours, &[], VALID)),
        ("foreign domain", tls::credential(&ours, &[foreign], VALID)),
        (
            "no SPIFFE ID",
            tls::credential(&ours, &["https://web"], VALID),
        ),
    ] {
        let refused = tls::first_byte(port, Some(&credential));
        let said = refused.expect_err(wrong).to_string();
        assert!(said.contains("alert"), "{wrong}: {said}");
    }
    assert!(tls::first_byte(port, None).is_err(), "no certificate");

    assert_eq!(mesh.call_orders().status, 200);
    let log = std::fs::read_to_string(mesh.directory().join("logs/sidecar-orders.log"));
    let log = log.expect("a log");
    for reason in ["expired", "2 URI"] {
        assert!(log.contains(reason), "no word of {reason:?}: {log}");
    }
}

#[test]
fn garbage_on_every_port_is_outlived() {
    let mesh = Mesh::start(&[]);
    let (control, grpc) = mesh.control_api();
    let mut ports = vec![grpc];
    for workload in ["web", "orders"] {
        for listener in ["outbound", "inbound", "mesh", "admin"] {
            ports.push(mesh.address(workload, listener));
        }
    }
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let h2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff";
    for port in ports {
        for bytes in [&hello[..], h2, &[0xff; 70_000], b"GET ", b"\0", b""] {
            let mut stream = http::connect(port);
            stream.write_all(bytes).ok();
            stream.shutdown(Shutdown::Write).ok();
            let mut answer = Vec::new();
            let ended = stream.read_to_end(&mut answer);
            assert!(
                !ended.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock),
                "{port} keeps {bytes:02x?} open"
            );
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert!(!answer.contains(" 200 "), "{port}: {answer}");
        }
    }
    assert_eq!(mesh.call_orders().status, 200);
    assert!(runs(control) && runs(mesh.sidecar("web")) && runs(mesh.sidecar("orders")));
}

#[test]
fn no_dump_and_no_log_has_a_secret() {
    let mesh = Mesh::start(&[]);
    assert_eq!(mesh.call_orders().status, 200);
    let directory = mesh.directory();
    let token = std::fs::read_to_string(directory.join("sidecar-web.token")).expect("a token");
    let secret = token.trim().rsplit('.').next().expect("a secret part");
    assert!(secret.len() >= 20, "the test looks for something long");
    let admin = mesh.address("web", "admin");
    let mut texts = Vec::new();
    for path in ["/config_dump", "/metrics", "/readyz"] {
        let answer = http::get(admin, "localhost", path, "");
        assert_eq!(answer.status, 200, "{path}");
        texts.push((path.to_owned(), answer.text()));
    }
    for entry in std::fs::read_dir(directory.join("logs"))
        .expect("logs")
        .flatten()
    {
        let path = entry.path();
        let text = std::fs::read_to_string(&path).expect("text");
        texts.push((path.display().to_string(), text));
    }
    assert!(texts[0].1.contains(WEB), "the dump says who it is");
    for (place, text) in texts {
        assert!(!text.contains("PRIVATE KEY"), "{place}");
        assert!(!text.contains(secret), "{place}");
    }
}
