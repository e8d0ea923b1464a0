//! What is revoked is closed where it is open, refused where it is new, and believed again when it is taken back.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;

use mesh_e2e::app::App;
use mesh_e2e::token::{self, ISSUER, Issuer, bearer, claims};
use mesh_e2e::{Mesh, eventually, http};
use serde_json::{Value, json};

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

#[test]
fn a_revoked_identity_loses_its_open_tunnel_and_gets_no_new_one_until_it_is_taken_back() {
    let mesh = Mesh::start(&[]);
    assert_eq!(mesh.call_orders().status, 200);
    let mut tunnel = http::connect(mesh.tcp_service("orders:7000"));
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

/// Answers `/stream` with a chunk and no end, everything else at once.
fn streaming_app() -> App {
    App::start(|mut arrived| {
        let stream = arrived.stream.get_mut();
        if !arrived.head.starts_with("GET /stream") {
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            stream.write_all(answer).ok();
            return;
        }
        let chunk = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
        stream.write_all(chunk).ok();
        // Until the sidecar hangs up.
        stream.read_to_end(&mut Vec::new()).ok();
    })
}

/// A stream that `token` opened, with its first chunk read.
fn open_stream(mesh: &Mesh, token: &str) -> BufReader<TcpStream> {
    let mut stream = http::connect(mesh.address("web", "outbound"));
    let request =
        format!("GET /stream HTTP/1.1\r\nHost: orders\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("written");
    let mut stream = BufReader::new(stream);
    let head = http::read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut line = String::new();
    while line != "hello\r\n" {
        line.clear();
        assert_ne!(stream.read_line(&mut line).expect("a chunk"), 0, "{head}");
    }
    stream
}

/// `orders` demands tokens of `issuer` for `audience`.
fn rule(issuer: &Issuer, audience: &str) -> String {
    token::orders_tokens(&json!({
        "issuer": ISSUER, "audiences": [audience], "jwks": issuer.jwks(), "required": true,
    }))
}

#[test]
fn a_revoked_token_loses_its_open_stream_and_opens_no_other_until_it_is_taken_back() {
    let issuer = Issuer::new("k1");
    let documents = rule(&issuer, "orders");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("tokens.yaml");
    std::fs::write(&file, documents).expect("written");
    let app = streaming_app();
    let mesh = Mesh::start(&[
        "--policy",
        file.to_str().expect("a path"),
        "--app",
        &format!("orders={}", app.address),
    ]);
    let token = |jti: &str, sid: &str| {
        let mut claims = claims();
        (claims["jti"], claims["sid"]) = (jti.into(), sid.into());
        issuer.sign(&issuer.header(), &claims)
    };
    let (lost, kept) = (token("lost", "s1"), token("kept", "s2"));
    let call = |token: &str| {
        let line = bearer(token);
        let answer = http::get(mesh.address("web", "outbound"), "orders", "/", &line);
        let reason = http::field(&answer.head, "postern-reason").map(str::to_owned);
        (answer.status, reason)
    };
    let revoked = (401, Some("token_revoked".to_owned()));
    let mut stream = open_stream(&mesh, &lost);
    let mut other = open_stream(&mesh, &kept);
    assert_eq!(call(&lost).0, 200);

    let by = ["token", "--issuer", ISSUER, "--jti", "lost", "--wait"];
    let (code, done) = revoke(&mesh, &by);
    assert_eq!(code, Some(0), "{done}");
    let enforcement = &done["enforcement"];
    assert_eq!(enforcement["sidecars"], enforcement["enforced"], "{done}");
    assert!(
        enforcement["p99_ms"].as_f64().expect("a time") > 0.0,
        "{done}"
    );
    let mut rest = Vec::new();
    // Cut, not finished: no last chunk.
    stream.read_to_end(&mut rest).ok();
    assert_eq!(String::from_utf8_lossy(&rest), "");
    assert_eq!(call(&lost), revoked);
    assert_eq!(call(&lost), revoked, "also when it is remembered");
    assert_eq!(call(&kept).0, 200);
    let wait = std::time::Duration::from_millis(100);
    other.get_ref().set_read_timeout(Some(wait)).expect("set");
    let error = other.read(&mut [0]).expect_err("it goes on");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);

    let name = done["name"].as_str().expect("a name");
    assert_eq!(revoke(&mesh, &["undo", name]).0, Some(0));
    eventually("it is let in again", || call(&lost).0 == 200);
    for (arguments, hit) in [
        (["--issuer", ISSUER, "--sid", "s1"], true),
        (["--issuer", ISSUER, "--sid", "s"], false),
        (["--issuer", ISSUER, "--sub", "alice"], true),
        (["--issuer", "https://other.test", "--sub", "alice"], false),
        (["--issuer", ISSUER, "--issued-before", "now"], true),
        (
            [
                "--issuer",
                ISSUER,
                "--issued-before",
                "2020-01-01T00:00:00Z",
            ],
            false,
        ),
    ] {
        let full = [&["token"], &arguments[..], &["--wait", "--name", "it"]].concat();
        let (code, done) = revoke(&mesh, &full);
        assert_eq!(code, Some(0), "{arguments:?}: {done}");
        assert_eq!(call(&lost) == revoked, hit, "{arguments:?}");
        assert_eq!(revoke(&mesh, &["undo", "it"]).0, Some(0));
        eventually("it is let in again", || call(&lost).0 == 200);
    }
    for bad in [
        &["token", "--issuer", ISSUER][..],
        &["token", "--jti", "lost"],
        &["token", "--issuer", "", "--jti", "lost"],
        &["token", "--issuer", ISSUER, "--issued-before", "yesterday"],
    ] {
        let (code, _) = revoke(&mesh, bad);
        assert!(matches!(code, Some(1 | 2)), "{bad:?}: {code:?}");
    }
}

#[test]
fn a_stream_ends_when_no_rule_accepts_its_token_any_more_and_outlives_a_change_of_keys() {
    let issuer = Issuer::new("k1");
    let app = streaming_app();
    let mesh = Mesh::start(&["--app", &format!("orders={}", app.address)]);
    mesh.apply(&rule(&issuer, "orders"));
    let token = issuer.sign(&issuer.header(), &claims());
    let line = bearer(&token);
    let call = || http::get(mesh.address("web", "outbound"), "orders", "/", &line).status;
    eventually("the rule is in force", || {
        http::get(mesh.address("web", "outbound"), "orders", "/", "").status == 401
    });
    let mut stream = open_stream(&mesh, &token);

    // Other keys: the token is no longer good for a new request, but nothing says that it was not.
    mesh.apply(&rule(&Issuer::new("k2"), "orders"));
    eventually("the key is gone", || call() == 401);
    let wait = std::time::Duration::from_millis(100);
    stream.get_ref().set_read_timeout(Some(wait)).expect("set");
    let error = stream.read(&mut [0]).expect_err("it goes on");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);

    mesh.apply(&rule(&issuer, "somebody-else"));
    let patience = std::time::Duration::from_secs(10);
    stream
        .get_ref()
        .set_read_timeout(Some(patience))
        .expect("set");
    let mut rest = Vec::new();
    let end = stream.read_to_end(&mut rest);
    assert!(
        end.is_ok() || end.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset),
        "closed, not silent"
    );
    assert_eq!(String::from_utf8_lossy(&rest), "");
    assert_eq!(call(), 401);
}
