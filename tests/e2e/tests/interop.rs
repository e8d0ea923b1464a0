//! Software that is not ours gets an identity from a sidecar and is understood by the mesh: the SPIFFE library for Python,
//! OpenSSL, Envoy.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mesh_e2e::app::App;
use mesh_e2e::envoy::{self, Envoy};
use mesh_e2e::openssl::{self, text};
use mesh_e2e::sidecar::Sidecar;
use mesh_e2e::tls::{self, Authority};
use mesh_e2e::{Mesh, eventually, http, token, venv};
use serde_json::{Value, json};

const WEB: &str = "spiffe://demo.postern.internal/ns/demo/sa/web";
const ORDERS: &str = "spiffe://demo.postern.internal/ns/demo/sa/orders";
const SECOND_WEB: &str = "
apiVersion: postern.dev/v1alpha1
kind: Workload
metadata: {name: web-2, namespace: demo, labels: {app: web}}
spec: {serviceAccount: web, addresses: [127.0.0.1]}
";

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("interop")
        .join(name)
}

/// Runs one of our Python programs and returns the JSON that it prints.
fn python(name: &str, arguments: &[&Path]) -> Value {
    let output = Command::new(venv::programs().join("python"))
        .arg(script(name))
        .args(arguments)
        .output()
        .expect("python runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{name}: {e}: {errors}"))
}

/// `openssl s_client` with what `fetch_x509.py` wrote to `identity`, or with nothing.
fn s_client(address: SocketAddr, identity: Option<&Path>, more: &[&str], say: &[u8]) -> Output {
    let file = |directory: &Path, name| directory.join(name).to_str().expect("UTF-8").to_owned();
    let identity = identity.map_or(vec![], |directory| {
        [
            ("-cert", "chain.pem"),
            ("-key", "key.pem"),
            ("-CAfile", "roots.pem"),
        ]
        .map(|(option, name)| [option.to_owned(), file(directory, name)])
        .concat()
    });
    let options: Vec<_> = identity
        .iter()
        .map(String::as_str)
        .chain(more.iter().copied())
        .collect();
    openssl::s_client(address, &options, say)
}

#[test]
fn an_identity_fetched_by_the_python_library_opens_the_mesh_for_openssl() {
    let mesh = Mesh::start(&[]);
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    let told = python("fetch_x509.py", &[&mesh.workload_api("web"), directory]);
    assert_eq!(told["spiffe_id"], WEB);
    assert_eq!(told["same_in_context"], WEB);
    assert_eq!(told["same_in_source"], WEB);
    assert_eq!(told["roots"], 1);
    // The connection preface, empty settings, and goodbye.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0";
    // The sidecar answers peers with a certificate of its own: another serial number, which the first line has.
    let own = std::fs::read_to_string(directory.join("chain.pem")).expect("written");
    let first = own.lines().nth(1).expect("base64");
    let port = mesh.address("web", "mesh");
    let shown = text(&s_client(port, Some(directory), &["-alpn", "h2"], preface));
    assert!(
        shown.contains("BEGIN CERTIFICATE") && !shown.contains(first),
        "{shown}"
    );

    // 15008: h2 after mutual TLS, verified by OpenSSL with the bundle it was given.
    let port = mesh.address("orders", "mesh");
    let said = text(&s_client(port, Some(directory), &["-alpn", "h2"], preface));
    for part in ["Verify return code: 0 (ok)", "ALPN protocol: h2", "TLSv1.3"] {
        assert!(said.contains(part), "{part} is missing: {said}");
    }
    // What OpenSSL keeps of a session is good for the next connection, without certificates, and for no early data.
    let kept = directory.join("session.pem");
    let kept = kept.to_str().expect("UTF-8");
    for (option, shown) in [
        ("-sess_out", "New, TLSv1.3"),
        ("-sess_in", "Reused, TLSv1.3"),
    ] {
        let options = ["-alpn", "h2", option, kept];
        let said = text(&s_client(port, Some(directory), &options, preface));
        assert!(said.contains(shown), "{shown} is missing: {said}");
        assert!(!said.contains("Early data was accepted"), "{said}");
    }
    // 15006: captured TLS with a client certificate, HTTP/1.1 inside.
    let port = mesh.address("orders", "inbound");
    let request = b"GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n";
    let answer = s_client(port, Some(directory), &["-alpn", "http/1.1"], request);
    let said = text(&answer);
    assert!(said.contains("HTTP/1.1 200"), "{said}");
    // Without a certificate neither lets anybody in.
    for (listener, alpn) in [("mesh", "h2"), ("inbound", "http/1.1")] {
        let port = mesh.address("orders", listener);
        let said = text(&s_client(port, None, &["-alpn", alpn], request));
        assert!(
            said.contains("alert certificate required") && !said.contains(" 200"),
            "{listener}: {said}"
        );
    }
    // An identity that is right and has no business here is told so.
    let port = mesh.address("payments", "inbound");
    let said = text(&s_client(
        port,
        Some(directory),
        &["-alpn", "http/1.1"],
        request,
    ));
    assert!(!said.contains("HTTP/1.1 200"), "{said}");
}

#[test]
fn a_jwt_svid_is_fetched_kept_and_verified_by_the_python_library() {
    let mesh = Mesh::start(&[]);
    let told = python("fetch_jwt.py", &[&mesh.workload_api("web")]);
    assert_eq!(told["spiffe_id"], WEB);
    assert_eq!(told["audience"], json!(["orders"]));
    assert_eq!(told["both"], json!(["orders", "payments"]));
    assert_eq!(told["same_token_again"], true);
    assert_ne!(told["other_audience"], "accepted");
    let validated = &told["by_the_sidecar"];
    assert_eq!(validated["good"], WEB);
    for (case, reason) in [
        ("other_audience", "token_wrong_audience"),
        ("forged", "token_bad_signature"),
    ] {
        let said = validated[case].as_str().expect("text");
        assert!(said.contains(reason), "{case}: {said}");
    }
    let svid = told["token"].as_str().expect("a token");
    // A rule of that profile needs no keys of its own: those of the trust bundle are there.
    mesh.apply(&token::orders_tokens(&json!({
        "profile": "jwt-svid", "trustDomain": "demo.postern.internal", "audiences": ["orders"], "required": true,
    })));
    eventually("a token is demanded", || mesh.call_orders().status == 401);
    let line = token::bearer(svid);
    let answer = http::get(mesh.address("web", "outbound"), "orders", "/", &line);
    assert_eq!(answer.status, 200, "{}", answer.head);
    for entry in std::fs::read_dir(mesh.directory().join("logs")).expect("logs") {
        let path = entry.expect("a file").path();
        let log = std::fs::read_to_string(&path).expect("text");
        assert!(!log.contains(svid), "{} holds a token", path.display());
    }
}

#[test]
fn envoy_with_secrets_from_a_sidecar_calls_through_mutual_tls() {
    let app = App::start(|arrived| {
        let mut stream = arrived.stream.into_inner();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
            .ok();
    });
    let mesh = Mesh::with_orders(&app);
    let directory = tempfile::tempdir().expect("a directory");
    let orders = envoy::tcp(mesh.address("orders", "inbound"));
    let payments = envoy::tcp(mesh.address("payments", "inbound"));
    let payments_id = ORDERS.replace("orders", "payments");
    let tls = |roots: &str, id: &str, alpn: &str| Some(envoy::common_tls(roots, id, &[alpn]));
    let clusters = [
        envoy::cluster("sds", &envoy::pipe(&mesh.workload_api("web")), true, None),
        envoy::cluster("h2", &orders, true, tls("ROOTCA", ORDERS, "h2")),
        envoy::cluster("h1", &orders, false, tls("ALL", ORDERS, "http/1.1")),
        envoy::cluster("denied", &payments, true, tls("ROOTCA", &payments_id, "h2")),
        // What answers is not whom this one wants to talk to.
        envoy::cluster("other", &orders, true, tls("ROOTCA", &payments_id, "h2")),
    ];
    let route =
        |name: &str| json!({"match": {"prefix": format!("/{name}")}, "route": {"cluster": name}});
    let routes = json!(["h2", "h1", "denied", "other"].map(route));
    let envoy = Envoy::start(
        directory.path(),
        &[envoy::listener("callers", &routes, None)],
        &clusters,
    );
    let callers = envoy.address("callers");
    for path in ["/h2", "/h1"] {
        let answer = http::get(callers, "orders", path, "");
        assert_eq!(
            answer.status,
            200,
            "{path}: {} {}",
            answer.head,
            envoy.log()
        );
        assert_eq!(answer.text(), "hi");
        let head = app.heads.recv().expect("it arrived");
        let shown = http::field(&head, "x-forwarded-client-cert").expect("the caller's identity");
        assert!(shown.contains(&format!("URI={WEB}")), "{head}");
    }
    let denied = http::get(callers, "payments", "/denied", "");
    assert_eq!(denied.status, 403, "{}", denied.head);
    let other = http::get(callers, "orders", "/other", "");
    assert_eq!(other.status, 503, "{}", other.head);
    assert!(app.heads.try_recv().is_err(), "nothing else arrived");
    eventually("the secrets were taken", || {
        envoy.stat("cluster.h2.ssl.handshake") > 0
    });
}

/// A workload without a sidecar in its way: Envoy ends mutual TLS itself.
const LEDGER: &str = "---
apiVersion: postern.dev/v1alpha1
kind: Workload
metadata: {name: ledger-1, namespace: demo, labels: {app: ledger}}
spec: {serviceAccount: ledger, addresses: [127.0.0.1], meshProtocol: MTLS}
";

#[test]
fn envoy_answers_calls_from_a_sidecar_and_takes_nobody_else() {
    let mesh = Mesh::start(&[]);
    mesh.apply(LEDGER);
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("api.sock");
    let tcp = "127.0.0.1:0=ledger:9000";
    let listen = [
        "--workload-api-socket",
        socket.to_str().expect("UTF-8"),
        "--tcp-service",
        tcp,
    ];
    let mut sidecar = Sidecar::start(&mesh, "demo/ledger-1", directory.path(), &listen);
    let opaque = sidecar.ready()["tcp_services"]["ledger:9000"].clone();

    let echo = TcpListener::bind("127.0.0.1:0").expect("a port");
    let echo_address = echo.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in echo.incoming().map_while(Result::ok) {
            let mut write = stream.try_clone().expect("a handle");
            std::io::copy(&mut &stream, &mut write).ok();
            write.shutdown(std::net::Shutdown::Write).ok();
        }
    });
    let ledger = WEB.replace("web", "ledger");
    let routes = json!([{
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": "from Envoy"}},
        "response_headers_to_add": [
            {"header": {"key": "x-caller", "value": "%DOWNSTREAM_PEER_URI_SAN%"}},
            {"header": {"key": "x-saw-port", "value": "%REQ(postern-port)%"}},
        ],
    }]);
    let listeners = [
        envoy::listener(
            "http",
            &routes,
            Some(envoy::common_tls("ROOTCA", WEB, &["h2"])),
        ),
        envoy::tcp_listener("bytes", "echo", envoy::common_tls("ROOTCA", &ledger, &[])),
    ];
    let clusters = [
        envoy::cluster("sds", &envoy::pipe(&socket), true, None),
        envoy::cluster("echo", &envoy::tcp(echo_address), false, None),
    ];
    let envoy = Envoy::start(directory.path(), &listeners, &clusters);
    mesh.apply(&format!(
        "---
apiVersion: postern.dev/v1alpha1
kind: Service
metadata: {{name: ledger, namespace: demo}}
spec:
  selector: {{app: ledger}}
  ports:
  - {{name: http, port: 80, targetPort: {}, protocol: HTTP}}
  - {{name: bytes, port: 9000, targetPort: {}, protocol: TCP}}
",
        envoy.address("http").port(),
        envoy.address("bytes").port()
    ));
    let web = mesh.address("web", "outbound");
    eventually("the service and its endpoint reach web", || {
        http::get(web, "ledger", "/", "").status == 200
    });
    let answer = http::get(web, "ledger", "/", "");
    let about = || {
        let log = mesh.directory().join("logs/sidecar-web.log");
        let log = std::fs::read_to_string(log).unwrap_or_default();
        format!("{} {} {log}", answer.head, envoy.log())
    };
    assert_eq!(
        (answer.status, &*answer.text()),
        (200, "from Envoy"),
        "{}",
        about()
    );
    assert_eq!(
        http::field(&answer.head, "x-caller"),
        Some(WEB),
        "{}",
        about()
    );
    // What sidecars tell each other is not for others.
    assert_eq!(http::field(&answer.head, "x-saw-port"), None, "{}", about());
    // No sidecar tells of what reaches Envoy: the caller's does.
    let edges = mesh.meshctl(&["edges", "-o", "json"]);
    let edges: Value = serde_json::from_slice(&edges.stdout).expect("JSON");
    let listed = edges["edges"].as_array().expect("edges");
    let edge = listed.iter().find(|e| e["to"] == "demo/ledger");
    let edge = edge.unwrap_or_else(|| panic!("{edges:#}"));
    assert_eq!(edge["from"]["name"], "demo/web");
    assert_eq!(
        (&edge["told_by"], &edge["port"]),
        (&"caller".into(), &80.into())
    );
    assert_eq!(edge["from"]["mtls"], true);
    assert!(edge["requests"].as_u64() >= Some(2), "{edge:#}");
    // Another caller is proven just as well, and Envoy wants nobody but web.
    let orders = mesh.address("orders", "outbound");
    eventually("Envoy refuses orders by its identity", || {
        let answer = http::get(orders, "ledger", "/", "");
        assert_ne!(answer.status, 200, "{}", answer.head);
        envoy.stat("listener.http.ssl.fail_verify_san") > 0
    });

    // Opaque bytes go inside TLS as they are.
    let opaque: SocketAddr = opaque
        .as_str()
        .expect("an address")
        .parse()
        .expect("host:port");
    let round_trip = || {
        let mut said = Vec::new();
        let mut stream = http::connect(opaque);
        stream.write_all(b"round trip").ok();
        stream.shutdown(std::net::Shutdown::Write).ok();
        stream.read_to_end(&mut said).ok();
        assert!(said.is_empty() || said == b"round trip", "{said:?}");
        !said.is_empty()
    };
    eventually("the port reaches the ledger's sidecar", round_trip);
    assert!(envoy.stat("tcp.bytes.downstream_cx_total") > 0);
    eventually(
        "a later connection resumes an earlier one's session",
        || round_trip() && envoy.stat("listener.bytes.ssl.session_reused") > 0,
    );

    // Envoy at the address, but not the identity that the registry names: nothing is sent.
    mesh.apply(&LEDGER.replace("serviceAccount: ledger", "serviceAccount: somebody"));
    eventually("web has seen that", || {
        http::get(web, "ledger", "/", "").status == 503
    });
}

/// A process that is ended with the test.
struct Program(std::process::Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Puts an SVID for `WEB` into `directory` and has it served.
fn serve(directory: &Path, name: &str, authority: &Authority, root: &[u8]) {
    let svid = tls::credential(authority, &[WEB], time::Duration::hours(-1));
    for (kind, bytes) in [
        ("id", WEB.as_bytes()),
        ("chain", svid.certificate()),
        ("key", &svid.key()),
        ("roots", root),
    ] {
        std::fs::write(directory.join(format!("{name}.{kind}")), bytes).expect("written");
    }
    say(directory, name);
}

fn say(directory: &Path, name: &str) {
    let whole = directory.join("next");
    std::fs::write(&whole, name).expect("written");
    std::fs::rename(whole, directory.join("current")).expect("put in place");
}

#[test]
fn an_identity_by_another_authority_and_another_workload_api_is_used_renewed_and_given_up() {
    let mut mesh = Mesh::start(&[]);
    let scratch = tempfile::tempdir().expect("a directory");
    let directory = scratch.path();
    let (authority, root) = tls::root();
    let pem = directory.join("roots.pem");
    let text = STANDARD.encode(&root);
    let text = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    std::fs::write(&pem, text).expect("written");
    let pem = pem.to_str().expect("UTF-8");
    mesh.restart_control_api(&[
        ("POSTERN_WORKLOAD_ROOTS", pem),
        ("POSTERN_WORKLOAD_ROOTS_NAMESPACES", "demo"),
    ]);
    mesh.apply(SECOND_WEB);

    serve(directory, "first", &authority, &root);
    let socket = directory.join("api.sock");
    let python = Command::new(venv::programs().join("python"))
        .arg(script("serve_x509.py"))
        .args([&socket, directory])
        .stdout(Stdio::null())
        .spawn()
        .expect("python runs");
    let _python = Program(python);
    let from = ["--identity-socket", socket.to_str().expect("UTF-8")];
    let mut sidecar = Sidecar::without_token(&mesh, "demo/web-2", directory, &from);
    // Ready: the control API took the certificate and sent everything.
    let admin = sidecar.address("admin");
    let certificate = || -> Value {
        let dump = http::get(admin, &admin.to_string(), "/config_dump", "").text();
        let dump: Value = serde_json::from_str(&dump).expect("JSON");
        dump["control"]["certificate"].clone()
    };
    let first = certificate();
    assert_eq!(first["spiffe_id"], WEB, "{first}");
    // It lets in who has an identity of either authority.
    let port = sidecar.address("mesh");
    let ours = tls::mesh_authority(&mesh.directory());
    for authority in [&authority, &ours] {
        let peer = tls::credential(authority, &[ORDERS], time::Duration::hours(-1));
        tls::first_byte(port, Some(&peer)).expect("it is let in");
    }
    serve(directory, "second", &authority, &root);
    eventually("the next certificate is used", || {
        let now = certificate();
        now["serial"].is_string() && now["serial"] != first["serial"]
    });
    say(directory, "none");
    eventually("it is given up", || certificate().is_null());
}
