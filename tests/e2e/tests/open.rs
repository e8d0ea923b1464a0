//! A change of policy holds for what is open: what it forbids ends with the reason, everything else goes on.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use mesh_e2e::app::{App, Arrived};
use mesh_e2e::token::{self, ISSUER, Issuer, bearer, claims, in_seconds};
use mesh_e2e::{Mesh, eventually, http};
use serde_json::{Value, json};

/// Opens once, for everybody.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().expect("whole") = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let open = self.0.0.lock().expect("whole");
        drop(self.0.1.wait_while(open, |open| !*open).expect("whole"));
    }
}

/// Begins an answer of the kind that the path names, and ends it when the gate opens.
fn stream(mut arrived: Arrived, gate: &Gate) {
    let kind = arrived.head.split([' ', '/']).nth(3).expect("a path");
    let (begin, end) = match kind {
        "wait" => ("", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone"),
        "download" => (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
            "4\r\ndone\r\n0\r\n\r\n",
        ),
        "grpc" => (
            "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
            "4\r\ndone\r\n0\r\ngrpc-status: 0\r\n\r\n",
        ),
        "websocket" => (
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x02\x05first",
            "\x02\x04done",
        ),
        other => panic!("{other}"),
    };
    let out = arrived.stream.get_mut();
    out.write_all(begin.as_bytes()).ok();
    gate.wait();
    out.write_all(end.as_bytes()).ok();
}

struct Open {
    name: String,
    stream: BufReader<TcpStream>,
}

fn open(outbound: SocketAddr, side: &str, kind: &str) -> Open {
    open_with(outbound, side, kind, "")
}

/// The same with more header lines.
fn open_with(outbound: SocketAddr, side: &str, kind: &str, lines: &str) -> Open {
    let mut stream = BufReader::new(http::connect(outbound));
    let upgrade = match kind {
        "websocket" => "Connection: Upgrade\r\nUpgrade: websocket\r\n",
        _ => "Connection: close, TE\r\nTE: trailers\r\n",
    };
    let request = format!("GET /{side}/{kind} HTTP/1.1\r\nHost: orders\r\n{upgrade}{lines}\r\n");
    stream
        .get_mut()
        .write_all(request.as_bytes())
        .expect("written");
    if kind != "wait" {
        let head = http::read_head(&mut stream);
        assert!(
            head.starts_with("HTTP/1.1 200") || head.starts_with("HTTP/1.1 101"),
            "{head}"
        );
        let mut seen = Vec::new();
        while !seen.ends_with(b"first") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("the first of it");
            seen.push(byte[0]);
        }
    }
    Open {
        name: format!("/{side}/{kind}"),
        stream,
    }
}

/// Everything that still comes.
fn rest(open: &mut Open) -> String {
    let mut rest = Vec::new();
    open.stream.read_to_end(&mut rest).ok();
    String::from_utf8_lossy(&rest).into_owned()
}

fn deny(rules: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: closing, namespace: demo}}\n\
         spec:\n  selector: {{matchLabels: {{app: orders}}}}\n  action: DENY\n  rules: {rules}\n"
    )
}

const KINDS: [&str; 4] = ["wait", "download", "grpc", "websocket"];

#[test]
fn streams_that_policy_no_longer_allows_end_with_the_reason_and_the_others_go_on() {
    let gate = Gate::default();
    let answering = gate.clone();
    let app = App::start(move |arrived| stream(arrived, &answering));
    let mesh = Mesh::with_orders(&app);
    let outbound = mesh.address("web", "outbound");
    let [mut closed, mut kept] =
        ["closed", "kept"].map(|side| KINDS.map(|kind| open(outbound, side, kind)));
    for _ in 0..2 * KINDS.len() {
        app.heads.recv().expect("all of them arrived");
    }
    // Something else changes: nobody is asked, and nothing ends.
    mesh.apply(&deny("[{to: [{operation: {paths: [/other]}}]}]"));
    mesh.apply(&deny("[{to: [{operation: {paths: [/closed/*]}}]}]"));

    let [wait, download, grpc, websocket] = &mut closed;
    let answer = rest(wait);
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert_eq!(
        http::field(&answer, "postern-reason"),
        Some("denied_by_policy")
    );
    let text = rest(download);
    assert!(
        !text.contains("0\r\n\r\n") && !text.contains("done"),
        "cut, not ended: {text}"
    );
    let trailers = rest(grpc).to_ascii_lowercase();
    assert!(trailers.contains("grpc-status: 7\r\n"), "{trailers}");
    assert!(
        trailers.contains("grpc-message: denied_by_policy\r\n"),
        "{trailers}"
    );
    let text = rest(websocket);
    assert!(
        text.ends_with("denied_by_policy") && !text.contains("done"),
        "{text:?}"
    );

    // Who was cut has the id of a decision that an operator can ask for.
    let id = http::field(&answer, "postern-decision-id").expect("an id");
    let why = mesh.meshctl(&["authz", "why", id, "-o", "json"]);
    let why: Value = serde_json::from_slice(&why.stdout).expect("JSON");
    let text = why.to_string();
    assert!(
        text.contains("demo/closing") && text.contains("/closed/wait"),
        "{text}"
    );
    let metrics = http::get(mesh.address("orders", "admin"), "127.0.0.1", "/metrics", "").text();
    let ended = metrics.lines().find(|l| {
        l.starts_with("postern_connections_ended_total{") && l.contains("denied_by_policy")
    });
    assert!(ended.is_some_and(|l| l.ends_with(" 4")), "{ended:?}");

    gate.open();
    for open in &mut kept {
        let text = rest(open);
        assert!(text.contains("done"), "{}: {text}", open.name);
    }
}

#[test]
fn streams_end_with_their_token_except_where_their_route_lets_them_go_on() {
    let gate = Gate::default();
    let answering = gate.clone();
    let app = App::start(move |arrived| stream(arrived, &answering));
    let mesh = Mesh::with_orders(&app);
    let issuer = Issuer::new("k1");
    mesh.apply(&token::orders_tokens(&json!({
        "issuer": ISSUER, "audiences": ["orders"], "jwks": issuer.jwks(), "required": true,
        "leeway": "0s", "expiryGrace": "1s",
        "routes": [{"paths": ["/kept/*"], "expiredStreams": "keep"}],
    })));
    eventually("a token is demanded", || mesh.call_orders().status == 401);
    let outbound = mesh.address("web", "outbound");
    let mut claims = claims();
    let expires = in_seconds(8);
    claims["exp"] = expires.into();
    let line = bearer(&issuer.sign(&issuer.header(), &claims));
    let [mut closed, mut kept] =
        ["closed", "kept"].map(|side| KINDS.map(|kind| open_with(outbound, side, kind, &line)));
    for _ in 0..2 * KINDS.len() {
        app.heads.recv().expect("all of them arrived");
    }
    let [wait, download, grpc, websocket] = &mut closed;
    let answer = rest(wait);
    assert!(
        in_seconds(0) > expires,
        "not before it expired, and a second of grace"
    );
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert_eq!(
        http::field(&answer, "postern-reason"),
        Some("token_expired")
    );
    let text = rest(download);
    assert!(
        !text.contains("0\r\n\r\n") && !text.contains("done"),
        "cut, not ended: {text}"
    );
    let trailers = rest(grpc).to_ascii_lowercase();
    assert!(trailers.contains("grpc-status: 16\r\n"), "{trailers}");
    assert!(
        trailers.contains("grpc-message: token_expired\r\n"),
        "{trailers}"
    );
    let text = rest(websocket);
    assert!(
        text.ends_with("token_expired") && !text.contains("done"),
        "{text:?}"
    );
    gate.open();
    for open in &mut kept {
        let text = rest(open);
        assert!(text.contains("done"), "{}: {text}", open.name);
    }
}

#[test]
fn tunnels_that_policy_no_longer_allows_are_closed_and_the_others_go_on() {
    let mesh = Mesh::start(&[]);
    let mut echo = http::connect(mesh.tcp_service("orders:7000"));
    assert!(http::echoes(&mut echo));
    let mut banner = BufReader::new(http::connect(mesh.tcp_service("orders:7001")));
    let mut line = String::new();
    banner.read_line(&mut line).expect("it speaks first");
    mesh.apply(&deny("[{to: [{operation: {ports: [\"7001\"]}}]}]"));
    let mut rest = String::new();
    // Reset, not ended: what was cut must not be taken for complete.
    assert!(banner.read_to_string(&mut rest).is_err() || rest.is_empty());
    assert!(http::echoes(&mut echo), "another port is not concerned");
    mesh.apply(&deny(
        "[{to: [{operation: {ports: [\"7000\", \"7001\"]}}]}]",
    ));
    eventually("the other is closed too", || !http::echoes(&mut echo));
    let log = mesh.directory().join("logs/sidecar-orders.log");
    let log = std::fs::read_to_string(log).expect("a log");
    let ended = log
        .lines()
        .filter(|l| l.contains("ended by review"))
        .count();
    assert_eq!(ended, 2, "{log}");
    assert!(
        log.contains("denied_by_policy") && log.contains("demo/closing"),
        "{log}"
    );
    assert_eq!(mesh.call_orders().status, 200);
}
