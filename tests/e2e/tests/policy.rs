//! Policies on requests, through two sidecars: no spelling of a denied path, host or header gets to the application.

use std::io::Write as _;

use mesh_e2e::app::{App, Arrived};
use mesh_e2e::{Mesh, http};

const DENY: &str = "
apiVersion: postern.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: demo}
spec:
  selector: {matchLabels: {app: orders}}
  action: DENY
  owner: tests
  rules:
  - to: [{operation: {paths: [/admin, /admin/*]}}]
  - to: [{operation: {hosts: [orders.demo]}}]
  - to: [{operation: {methods: [DELETE]}}]
  - to: [{operation: {paths: [/tenant]}}]
    when: [{key: 'request.headers[x-tenant]', values: [evil, 'bad*']}]
  - to: [{operation: {paths: ['/files/{*}/private/{**}', '/bang!']}}]
";

/// Every one means `/admin`, or something below it, to one server or another.
const SPELLINGS: &[&str] = &[
    "/admin",
    "/admin/",
    "/admin/x",
    "//admin",
    "///admin//",
    "/./admin",
    "/././admin",
    "/x/../admin",
    "/x/y/../../admin",
    "/x/./../admin",
    "/admin/.",
    "/admin/./",
    "/admin/x/..",
    "/admin?x=1",
    "/admin?",
    "/%61dmin",
    "/%61%64%6d%69%6e",
    "/%61%64%6D%69%6E",
    "/adm%69n/x",
    "/%2e/admin",
    "/x/%2e%2e/admin",
    "/x/%2E%2E/admin",
    "/x/.%2e/admin",
    "/x/%2e./admin",
    "/x/..//admin",
    "/../admin",
    "/%2e%2e/admin",
    "/..%2fadmin",
    "/x%2f..%2fadmin",
    "/%2fadmin",
    "/admin%2f",
    "/admin%2fx",
    "/x%5c..%5cadmin",
    "/admin%00",
    "/admin%00.html",
    "/admin;",
    "/admin;x=1",
    "/;/admin",
    "/x/..;/admin",
    "/x;y/../admin",
    "/admin%3b",
    "/%2561dmin",
    "/%252e/admin",
    "/x/%252e%252e/admin",
    "/\\admin",
    "/x\\..\\admin",
    "http://orders/admin",
    "http://orders//%61dmin",
];

fn ok(mut arrived: Arrived) {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    arrived.stream.get_mut().write_all(answer.as_bytes()).ok();
}

fn request(method: &str, path: &str, host: &str, lines: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{lines}\r\n").into()
}

#[test]
fn no_spelling_of_a_denied_request_reaches_the_application() {
    let app = App::start(ok);
    let documents = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(documents.path(), DENY).expect("written");
    let mesh = Mesh::start(&[
        "--app",
        &format!("orders={}", app.address),
        "--policy",
        documents.path().to_str().expect("UTF-8"),
    ]);
    let outbound = mesh.address("web", "outbound");
    let call = |bytes: &[u8]| http::exchange(outbound, bytes);
    let arrived = || app.heads.try_iter().collect::<Vec<_>>();

    for path in SPELLINGS {
        let answer = call(&request("GET", path, "orders", ""));
        assert!(
            matches!(answer.status, 400 | 403),
            "{path}: {}",
            answer.head
        );
        assert_eq!(arrived(), Vec::<String>::new(), "{path}");
    }
    for (what, bytes) in [
        ("host", request("GET", "/", "orders.demo", "")),
        ("host in capitals", request("GET", "/", "ORDERS.Demo", "")),
        ("host with port", request("GET", "/", "orders.demo:80", "")),
        (
            "host in the target",
            request("GET", "http://Orders.demo/", "orders.demo", ""),
        ),
        ("method", request("DELETE", "/", "orders", "")),
        (
            "header",
            request("GET", "/tenant", "orders", "X-Tenant: evil\r\n"),
        ),
        (
            "header by prefix",
            request("GET", "/tenant", "orders", "x-tenant: badly\r\n"),
        ),
        (
            "second header",
            request(
                "GET",
                "/tenant",
                "orders",
                "x-tenant: a\r\nX-TENANT: evil\r\n",
            ),
        ),
        (
            "template",
            request("GET", "/files/a/private/", "orders", ""),
        ),
        (
            "template below",
            request("GET", "/files/a/./private/x/y", "orders", ""),
        ),
        (
            "escape that stays",
            request("GET", "/bang%21", "orders", ""),
        ),
    ] {
        let answer = call(&bytes);
        assert_eq!(answer.status, 403, "{what}: {}", answer.head);
        assert!(
            answer.text().contains("denied_by_policy"),
            "{what}: {}",
            answer.text()
        );
    }
    let mut not_ascii = request("GET", "/tenant", "orders", "x-tenant: ?\r\n");
    let at = not_ascii
        .windows(5)
        .position(|w| w == b": ?\r\n")
        .expect("there");
    not_ascii[at + 2] = 0xff;
    assert!(
        matches!(call(&not_ascii).status, 400 | 403),
        "a value that no pattern can be compared with"
    );
    assert_eq!(arrived(), Vec::<String>::new());

    // What is not denied arrives as it was decided on.
    for (path, expected) in [
        ("/", "/"),
        ("/Admin", "/Admin"),
        ("/administrator", "/administrator"),
        ("/a/../b//c/%7e?q=/../%2f;x", "/b/c/~?q=/../%2f;x"),
        ("/caf%c3%a9/%20", "/caf%C3%A9/%20"),
        ("/files/a/b/private/x", "/files/a/b/private/x"),
        ("/tenant", "/tenant"),
    ] {
        let answer = call(&request("GET", path, "orders", "x-tenant: good\r\n"));
        assert_eq!(answer.status, 200, "{path}: {}", answer.head);
        let heads = arrived();
        assert!(
            heads.len() == 1 && heads[0].starts_with(&format!("GET {expected} HTTP/1.1\r\n")),
            "{path}: {heads:?}"
        );
    }
}

#[test]
fn nobody_names_himself_through_headers() {
    let app = App::start(ok);
    let mesh = Mesh::with_orders(&app);
    let outbound = mesh.address("web", "outbound");
    let lines: String = [
        "X-Forwarded-Client-Cert: URI=spiffe://demo.postern.internal/ns/demo/sa/admin",
        "x_forwarded_client_cert: URI=spiffe://demo.postern.internal/ns/demo/sa/admin",
        "x-postern-claims: admin",
        "x-postern-subject: admin",
        "Postern-Port: 7000",
        "postern_port: 7000",
        "x-envoy-original-path: /admin",
        "l5d-client-id: admin",
    ]
    .map(|line| format!("{line}\r\n"))
    .concat();
    let answer = http::get(outbound, "orders", "/", &lines);
    assert_eq!(answer.status, 200, "{}", answer.head);
    let head = app.heads.recv().expect("it arrived").to_ascii_lowercase();
    assert!(
        !head.contains("admin") && !head.contains("7000"),
        "what the client said of itself arrived: {head}"
    );
    let xfcc = http::field(&head, "x-forwarded-client-cert").expect("the mesh's own");
    assert!(
        xfcc.ends_with("uri=spiffe://demo.postern.internal/ns/demo/sa/web"),
        "{xfcc}"
    );
}
