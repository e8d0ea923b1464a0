//! Which services and workloads a sidecar is told of: those that its application uses, or all.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mesh_e2e::http::{Answer, field};
use mesh_e2e::{Mesh, eventually, http, runs, signal};
use serde_json::Value;

/// A service beside `orders`, with the same workload behind it.
const LATE: &str = "
apiVersion: postern.dev/v1alpha1
kind: Service
metadata: {name: late, namespace: demo}
spec: {selector: {app: orders}, ports: [{port: 80, targetPort: 8080, protocol: HTTP}]}
";

fn dump(admin: SocketAddr) -> Value {
    let text = http::get(admin, &admin.to_string(), "/config_dump", "").text();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// What `web`'s sidecar holds: names under `key` of each of `kind`.
fn held(mesh: &Mesh, kind: &str, key: &str) -> Vec<String> {
    let dump = dump(mesh.address("web", "admin"));
    let all = dump[kind].as_array().expect("a list");
    let names = all.iter().map(|one| one[key].as_str().expect("a name"));
    names.map(str::to_owned).collect()
}

/// What `web`'s sidecar answers to a request for `host`.
fn call(mesh: &Mesh, host: &str) -> Answer {
    http::get(mesh.address("web", "outbound"), host, "/", "")
}

/// Status and reason of an answer that the sidecar gave itself.
fn refused(answer: &Answer) -> (u16, Option<&str>) {
    (answer.status, field(&answer.head, "postern-reason"))
}

/// How long `host` takes to be answered with `status`.
fn until(mesh: &Mesh, host: &str, status: u16) -> Duration {
    let start = Instant::now();
    eventually(&format!("{host} is answered {status}"), || {
        call(mesh, host).status == status
    });
    start.elapsed()
}

#[test]
fn a_sidecar_holds_what_its_application_uses_and_nothing_else() {
    let mesh = Mesh::start(&[]);
    // `orders` is configured, by the listeners for its TCP services.
    eventually("orders is known", || {
        held(&mesh, "services", "name") == ["demo/orders"]
    });
    assert_eq!(held(&mesh, "workloads", "uid"), ["demo/orders", "demo/web"]);
    assert_eq!(mesh.call_orders().status, 200);

    // Reached, and refused there: `web` may not call it. Now it is one that is used.
    let answer = call(&mesh, "payments.demo.svc.cluster.local");
    assert_eq!(refused(&answer), (403, Some("no_allow_policy_matched")));
    let services = held(&mesh, "services", "name");
    assert_eq!(services, ["demo/orders", "demo/payments"]);
    let known = &dump(mesh.address("web", "admin"))["destinations"];
    assert_eq!(
        known,
        &serde_json::json!(["orders", "payments.demo.svc.cluster.local"])
    );

    // Another name of what is known already.
    for host in ["orders.demo", "payments", "payments.demo"] {
        let answer = call(&mesh, host);
        assert_ne!(answer.status, 503, "{host}: {}", answer.head);
    }
    for host in ["nobody", "nobody.example", "10.0.0.1"] {
        let answer = call(&mesh, host);
        assert_eq!(refused(&answer), (404, Some("unknown_destination")));
    }
    assert_eq!(held(&mesh, "services", "name").len(), 2);
}

#[test]
fn a_service_that_comes_into_being_is_reachable_within_a_second_and_gone_with_its_end() {
    for subscribe in ["used", "all"] {
        let mesh = Mesh::start(&[&format!("--sidecar-flag=--subscribe={subscribe}")]);
        if subscribe == "all" {
            assert_eq!(dump(mesh.address("web", "admin"))["destinations"], "all");
            assert_eq!(held(&mesh, "services", "name").len(), 3);
        }
        let answer = call(&mesh, "late");
        assert_eq!(refused(&answer), (404, Some("unknown_destination")));
        mesh.apply(LATE);
        let took = until(&mesh, "late", 200);
        assert!(took < Duration::from_secs(1), "{subscribe}: {took:?}");

        // A change of what is in use is followed.
        mesh.apply(&LATE.replace("app: orders", "app: nobody"));
        let took = until(&mesh, "late", 503);
        assert!(took < Duration::from_secs(1), "{subscribe}: {took:?}");
        mesh.apply(LATE);
        until(&mesh, "late", 200);
        let deleted = mesh.meshctl(&["delete", "service", "late", "-n", "demo"]);
        assert!(deleted.status.success());
        let took = until(&mesh, "late", 404);
        assert!(took < Duration::from_secs(1), "{subscribe}: {took:?}");
    }
}

#[test]
fn without_the_control_api_what_is_known_goes_on_and_nothing_is_assumed_of_the_rest() {
    let mesh = Mesh::start(&[]);
    assert_eq!(mesh.call_orders().status, 200);
    let answer = call(&mesh, "nobody.example");
    assert_eq!(refused(&answer), (404, Some("unknown_destination")));
    let state = mesh.directory().join("sidecar-web/resources.state");
    eventually("a state is kept", || state.is_file());
    let (control, _) = mesh.control_api();
    signal("KILL", control);
    eventually("the control API is gone", || !runs(control));

    assert_eq!(mesh.call_orders().status, 200);
    let answer = call(&mesh, "nobody.example");
    assert_eq!(refused(&answer), (404, Some("unknown_destination")));
    let start = Instant::now();
    let answer = call(&mesh, "payments");
    assert_eq!(refused(&answer), (503, Some("destination_unresolved")));
    assert_eq!(field(&answer.head, "retry-after"), Some("1"));
    assert!(start.elapsed() < Duration::from_secs(5));

    // After a restart the same is known.
    let (mut again, told) = mesh.kill_and_start("web");
    let address = |listener: &str| -> SocketAddr {
        let text = told[listener].as_str().expect("an address");
        text.parse().expect("host:port")
    };
    // Ready means: the connection to who was called before is there.
    let admin = address("admin");
    let metrics = http::get(admin, &admin.to_string(), "/metrics", "").text();
    let ahead = "postern_mesh_dialed_ahead_total 1";
    assert!(metrics.lines().any(|line| line == ahead), "{metrics}");
    let outbound = address("outbound");
    for (host, expected) in [
        ("orders", (200, None)),
        ("payments", (503, Some("destination_unresolved"))),
    ] {
        let answer = http::get(outbound, host, "/", "");
        assert_eq!(refused(&answer), expected, "{host}");
    }
    signal("TERM", u64::from(again.id()));
    assert_eq!(again.wait().expect("ended").code(), Some(0));
}
