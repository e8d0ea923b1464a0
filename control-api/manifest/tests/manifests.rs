//! What manifests are taken, what is refused and at which field, and that reading is bounded.

use std::fmt::Write as _;

use mesh_manifest::{Document, Kind, MAX_DOCUMENTS, Resource, parse};
use mesh_proto::mesh;

const POLICY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: demo}\n";

fn document(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: postern.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: a, namespace: demo}}\nspec: {spec}\n"
    )
}

fn one(text: &str) -> Document {
    let mut documents = parse(text, "t").unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(documents.len(), 1, "{text}");
    documents.remove(0)
}

fn refusal(text: &str) -> String {
    match parse(text, "t.yaml") {
        Ok(documents) => panic!("taken: {documents:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_kind_is_taken_and_survives_a_round_trip() {
    let texts = [
        document("Workload", "{}"),
        document(
            "Workload",
            "{serviceAccount: orders, addresses: [10.0.0.2, 'fd00::2'], meshPort: 15008, meshProtocol: HBONE, trustDomain: other.example}",
        ),
        document("Workload", "{meshProtocol: None}"),
        document(
            "Service",
            "{hosts: [orders.example], addresses: [10.96.0.2], selector: {app: orders}, ports: [{port: 80, targetPort: 8080, protocol: HTTP, name: http}, {port: 81, protocol: TCP}, {port: 82, protocol: Auto}]}",
        ),
        "apiVersion: postern.dev/v1alpha1\nkind: MeshDefaults\nmetadata: {name: default, namespace: postern-system}\nspec: {rootNamespace: root, defaultDecision: Deny}\n".into(),
        format!("{POLICY}spec:\n  selector: {{matchLabels: {{app: a}}}}\n  action: DENY\n  rules:\n  - from:\n    - source: {{principals: [a.example/ns/demo/sa/x], notPrincipals: ['*/sa/y'], namespaces: [demo], notNamespaces: [b], ipBlocks: [10.0.0.0/8], notIpBlocks: [10.1.0.0/16], serviceAccounts: [demo/x], notServiceAccounts: [z]}}\n    to:\n    - operation: {{ports: ['80', \"443\"], notPorts: ['22']}}\n  - {{}}\n"),
        format!("{POLICY}spec: {{}}\nstatus: {{conditions: [{{type: x}}]}}\n"),
        POLICY.replace("/v1", "/v1beta1"),
        document(
            "PeerAuthentication",
            "{selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: DISABLE}, '9090': {mode: PERMISSIVE}}}",
        ),
        document(
            "LatencyBudget",
            "{selector: {matchLabels: {app: a}}, phase: token, issuer: 'https://idp.test', target: p99, threshold: 300us, window: 30m}",
        ),
        document("LatencyBudget", "{direction: outbound, target: p99.9, threshold: 2ms}"),
    ];
    for text in &texts {
        let document = one(text);
        let json = document.to_json();
        let again = Document::from_json(&json.to_string()).expect("own JSON");
        assert_eq!(again, document, "{text}");
        assert_eq!(one(&json.to_string()), document, "JSON is YAML: {json}");
        assert!(!document.summary().is_empty() && !document.summary().contains('\n'));
    }
    let all = parse(&texts[..1].join("---\n"), "t").expect("stream");
    assert_eq!(
        (all[0].kind, &*all[0].namespace, &*all[0].name),
        (Kind::Workload, "demo", "a")
    );
}

#[test]
fn fields_mean_what_they_say() {
    let text = "apiVersion: postern.dev/v1alpha1\nkind: Workload\nmetadata: {name: w, labels: {app: x}}\nspec: {addresses: [10.0.0.2, '::1']}\n";
    let Resource::Workload(workload) = one(text).resource else {
        panic!("not a workload")
    };
    assert_eq!(
        workload,
        mesh::Workload {
            uid: "default/w".into(),
            name: "w".into(),
            namespace: "default".into(),
            service_account: "default".into(),
            addresses: vec![
                vec![10, 0, 0, 2],
                vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
            ],
            mesh_protocol: mesh::MeshProtocol::Postern.into(),
            labels: [("app".to_owned(), "x".to_owned())].into(),
            ..Default::default()
        }
    );
    let text = document("Workload", "{trustDomain: other.example, meshPort: 1}");
    let Resource::Workload(workload) = one(&text).resource else {
        panic!("not a workload")
    };
    assert_eq!(
        (&*workload.trust_domain, workload.mesh_port),
        ("other.example", 1)
    );

    for (word, protocol) in [
        ("Postern", mesh::MeshProtocol::Postern),
        ("HBONE", mesh::MeshProtocol::Hbone),
        ("MTLS", mesh::MeshProtocol::Mtls),
        ("None", mesh::MeshProtocol::Unspecified),
    ] {
        let text = document("Workload", &format!("{{meshProtocol: {word}}}"));
        let Resource::Workload(workload) = one(&text).resource else {
            panic!("not a workload")
        };
        assert_eq!(workload.mesh_protocol(), protocol, "{word}");
    }

    let text = document("Service", "{selector: {app: x}, ports: [{port: 65535}]}");
    let Resource::Service { service, selector } = one(&text).resource else {
        panic!("not a service")
    };
    assert_eq!(
        (service.ports[0].port, service.ports[0].target_port),
        (65535, 0)
    );
    assert_eq!(selector["app"], "x");

    let text = format!("{POLICY}spec: {{rules: [{{to: [{{operation: {{ports: ['80']}}}}]}}]}}\n")
        .replace(
            "namespace: demo}",
            "namespace: demo, annotations: {istio.io/dry-run: 'true'}, labels: {a: b}, creationTimestamp: null, managedFields: [{manager: x}], resourceVersion: '1', uid: u, generation: 2}",
        );
    let Resource::AuthorizationPolicy(policy) = one(&text).resource else {
        panic!("not a policy")
    };
    assert!(policy.dry_run);
    assert_eq!(policy.rules[0].to[0].ports, [80]);
    assert_eq!(policy.action, i32::from(mesh::PolicyAction::Allow));
}

#[test]
fn what_is_not_enforced_is_refused_at_its_field() {
    for (spec, path) in [
        (
            "{targetRef: {kind: Gateway, name: g, group: x}}",
            "spec.targetRef",
        ),
        (
            "{targetRefs: [{kind: Gateway, name: g}]}",
            "spec.targetRefs",
        ),
        ("{action: CUSTOM, provider: {name: x}}", "spec.provider"),
        ("{action: CUSTOM}", "spec.action"),
    ] {
        let message = refusal(&format!("{POLICY}spec: {spec}\n"));
        let expected = format!("{path}: not supported");
        assert!(message.contains(&expected), "{expected} in {message}");
    }
}

#[test]
fn every_field_of_a_rule_reaches_the_resource() {
    let text = document(
        "AuthorizationPolicy",
        "
  owner: team-orders
  reviewBy: '2027-01-31'
  rules:
  - from:
    - source: {requestPrincipals: ['https://idp/*'], notRequestPrincipals: ['*/bob'], remoteIpBlocks: [203.0.113.0/24], notRemoteIpBlocks: [203.0.113.9]}
    to:
    - operation: {hosts: [Shop.example], notHosts: ['*.test'], methods: [GET], notMethods: [PUT], paths: ['/orders/{*}', /x*], notPaths: [/x/y]}
    when:
    - {key: 'request.auth.claims[groups]', values: [a], notValues: [b]}
    scopes:
      orders.read: ['GET,HEAD /orders/**', '* /o/*/items']
    binding: required
",
    );
    let Resource::AuthorizationPolicy(policy) = one(&text).resource else {
        panic!("another kind")
    };
    assert_eq!(policy.owner, "team-orders");
    assert_eq!(policy.review_by, "2027-01-31");
    let rule = &policy.rules[0];
    let (source, operation) = (&rule.from[0], &rule.to[0]);
    assert_eq!(source.request_principals, ["https://idp/*"]);
    assert_eq!(source.not_request_principals, ["*/bob"]);
    assert_eq!(source.remote_ip_blocks, ["203.0.113.0/24"]);
    assert_eq!(source.not_remote_ip_blocks, ["203.0.113.9"]);
    assert_eq!(operation.hosts, ["Shop.example"]);
    assert_eq!(operation.not_hosts, ["*.test"]);
    assert_eq!(operation.methods, ["GET"]);
    assert_eq!(operation.not_methods, ["PUT"]);
    assert_eq!(operation.paths, ["/orders/{*}", "/x*"]);
    assert_eq!(operation.not_paths, ["/x/y"]);
    assert_eq!(rule.when[0].key, "request.auth.claims[groups]");
    assert_eq!(
        (&*rule.when[0].values, &*rule.when[0].not_values),
        (&["a".to_owned()][..], &["b".to_owned()][..])
    );
    let routes = &rule.capabilities[0].routes;
    assert_eq!(routes[0].methods, ["GET", "HEAD"]);
    assert_eq!(routes[0].path, "/orders/{**}");
    assert_eq!(
        (routes[1].methods.len(), &*routes[1].path),
        (0, "/o/{*}/items")
    );
    assert_eq!(rule.binding(), mesh::TokenBinding::Required);
}

#[test]
fn our_fields_are_annotations_or_refused_in_the_api_of_istio() {
    let text = POLICY.replace(
        "namespace: demo}",
        "namespace: demo, annotations: {postern.dev/owner: team, postern.dev/review-by: '2027-01-01'}}",
    );
    let Resource::AuthorizationPolicy(policy) = one(&text).resource else {
        panic!("another kind")
    };
    assert_eq!((&*policy.owner, &*policy.review_by), ("team", "2027-01-01"));
    for (spec, field) in [
        ("{owner: x}", "spec.owner: "),
        ("{reviewBy: 2027-01-01}", "spec.reviewBy: "),
        (
            "{rules: [{scopes: {a: ['GET /x']}}]}",
            "spec.rules[0].scopes: ",
        ),
        ("{rules: [{binding: required}]}", "spec.rules[0].binding: "),
    ] {
        let message = refusal(&format!("{POLICY}spec: {spec}\n"));
        assert!(message.contains(field), "{field} in {message}");
    }
}

#[test]
fn wrong_fields_are_refused_by_path() {
    let long = "a".repeat(64);
    for (kind, spec, path) in [
        ("Workload", "{adresses: [10.0.0.1]}", "adresses"),
        ("Workload", "{addresses: [10.0.0]}", "spec.addresses[0]: "),
        (
            "Workload",
            "{addresses: [10.0.0.1, 10.0.0.1]}",
            "spec.addresses[1]: ",
        ),
        ("Workload", "{meshPort: 0}", "spec.meshPort: "),
        ("Workload", "{meshPort: 65536}", "spec.meshPort: "),
        ("Workload", "{meshPort: -1}", "spec.meshPort: "),
        ("Workload", "{meshProtocol: postern}", "spec.meshProtocol: "),
        ("Workload", "{serviceAccount: A}", "spec.serviceAccount: "),
        ("Workload", "{serviceAccount: ''}", "spec.serviceAccount: "),
        (
            "Workload",
            "{trustDomain: Upper.Example}",
            "spec.trustDomain: ",
        ),
        ("Workload", "{trustDomain: ''}", "spec.trustDomain: "),
        ("Service", "{ports: []}", "spec.ports: "),
        ("Service", "{}", "spec.ports: "),
        (
            "Service",
            "{ports: [{port: 80}, {port: 80}]}",
            "spec.ports[1].port: ",
        ),
        (
            "Service",
            "{ports: [{port: 70000}]}",
            "spec.ports[0].port: ",
        ),
        (
            "Service",
            "{ports: [{port: 80, targetPort: 0}]}",
            "spec.ports[0].targetPort: ",
        ),
        (
            "Service",
            "{ports: [{port: 80, protocol: UDP}]}",
            "spec.ports[0].protocol: ",
        ),
        (
            "Service",
            "{hosts: ['Orders'], ports: [{port: 80}]}",
            "spec.hosts[0]: ",
        ),
        (
            "Service",
            "{selector: {matchLabels: {a: b}}, ports: [{port: 80}]}",
            "spec.selector",
        ),
        (
            "MeshDefaults",
            "{defaultDecision: Allow}",
            "spec.defaultDecision: ",
        ),
        (
            "PeerAuthentication",
            "{mtls: {mode: strict}}",
            "spec.mtls.mode: ",
        ),
        (
            "PeerAuthentication",
            "{selector: {matchLabels: {a: b}}, portLevelMtls: {0: {mode: STRICT}}}",
            "spec.portLevelMtls.0: ",
        ),
        (
            "PeerAuthentication",
            "{selector: {matchExpressions: []}}",
            "spec.selector",
        ),
        (
            "PeerAuthentication",
            "{portLevelMtls: {80: {mode: STRICT}}}",
            "port",
        ),
        ("AuthorizationPolicy", "{action: ALLOWED}", "spec.action: "),
        (
            "AuthorizationPolicy",
            "{rules: [{to: [{operation: {ports: ['x']}}]}]}",
            "spec.rules[0].to[0].operation.ports[0]: ",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{to: [{operation: {ports: []}}]}]}",
            "spec.rules[0].to[0].operation.ports: ",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{from: []}]}",
            "spec.rules[0].from: ",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{from: [{source: {}}]}]}",
            "spec.rules[0].from[0].source: ",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}]}",
            "spec.rules[0].from[0].source.ipBlocks[0]: ",
        ),
        ("AuthorizationPolicy", "{rules: [{form: []}]}", "form"),
        (
            "AuthorizationPolicy",
            "{rules: [{to: [{operation: {paths: [/a/b*c]}}]}]}",
            "spec.rules[0].to[0].operation.paths[0]: ",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{to: [{operation: {notPaths: ['/a/{**}/{*}']}}]}]}",
            "spec.rules[0].to[0].operation.notPaths[0]: ",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{to: [{operation: {methods: ['GE T']}}]}]}",
            "spec.rules[0].to[0].operation.methods[0]: ",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{to: [{operation: {hosts: []}}]}]}",
            "spec.rules[0].to[0].operation.hosts: ",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{from: [{source: {requestPrincipals: ['a*b*']}}]}]}",
            "spec.rules[0].from[0].source.requestPrincipals[0]: ",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{from: [{source: {remoteIpBlocks: [1.2.3]}}]}]}",
            "spec.rules[0].from[0].source.remoteIpBlocks[0]: ",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{when: [{key: source.user, values: [x]}]}]}",
            "spec.rules[0].when[0].key: ",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{when: [{key: source.ip}]}]}",
            "spec.rules[0].when[0]: ",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{when: [{key: source.ip, values: [x]}]}]}",
            "spec.rules[0].when[0].values[0]: ",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{when: [{key: 'experimental.envoy.filters.network.mysql_proxy[a.b]', values: [x]}]}]}",
            "spec.rules[0].when[0].key: ",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{scopes: {orders.read: [GET]}}]}",
            "spec.rules[0].scopes.orders.read[0]: ",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{scopes: {orders.read: ['GET /orders/**/x/*']}}]}",
            "spec.rules[0].scopes.orders.read[0]",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{scopes: {}}]}",
            "spec.rules[0].scopes: ",
        ),
        (
            "AuthorizationPolicy",
            "{action: DENY, rules: [{scopes: {a: ['* /x']}}]}",
            "spec.rules[0].scopes: ",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{binding: optional}]}",
            "spec.rules[0].binding: ",
        ),
        (
            "AuthorizationPolicy",
            "{reviewBy: 2026-02-30}",
            "spec.reviewBy: ",
        ),
        ("AuthorizationPolicy", "{owner: ' '}", "spec.owner: "),
        ("Pod", "{}", "kind: 'Pod' is unknown"),
    ] {
        let message = refusal(&document(kind, spec));
        assert!(message.contains(path), "{path} in {message}");
    }
    for (from, to, path) in [
        ("name: a", "name: A", "metadata.name: "),
        ("name: a", &format!("name: {long}"), "metadata.name: "),
        ("name: a,", "", "metadata"),
        ("namespace: demo", "namespace: a.b", "metadata.namespace: "),
        ("namespace: demo", "namespace: demo, label: {}", "label"),
        (
            "namespace: demo",
            "namespace: demo, labels: {a: 'b c'}",
            "metadata.labels.a: ",
        ),
        (
            "v1alpha1",
            "v1",
            "apiVersion: 'postern.dev/v1' is not known for Workload",
        ),
        (
            "postern.dev/v1alpha1",
            "security.istio.io/v1",
            "apiVersion: ",
        ),
        ("kind: Workload\n", "", "kind: missing"),
        ("spec:", "specs:", "specs"),
    ] {
        let message = refusal(&document("Workload", "{}").replacen(from, to, 1));
        assert!(message.contains(path), "{path} in {message}");
    }
}

#[test]
fn a_message_names_place_document_and_field() {
    let text = format!(
        "{}---\n{POLICY}spec:\n  rules:\n  - to:\n    - operation:\n        paths: [/x*y]\n",
        document("Workload", "{}")
    );
    let message = refusal(&text);
    assert!(
        message.starts_with("t.yaml:13:17: document 2 (AuthorizationPolicy demo/p): spec.rules[0].to[0].operation.paths[0]: '/x*y' must be"),
        "{message}"
    );
    let (_, quote) = message.split_once('\n').expect("quote");
    assert_eq!(
        quote,
        "   |\n13 |         paths: [/x*y]\n   |                 ^"
    );

    let twice = format!("{0}---\n{0}", document("Workload", "{}"));
    let message = refusal(&twice);
    assert!(
        message.contains("document 2 (Workload demo/a): metadata.name: ")
            && message.contains("already document 1"),
        "{message}"
    );
    let message = refusal(&document("Workload", "{meshPort: 1, meshPort: 2}"));
    assert!(
        message.starts_with("t.yaml:4:21: document 1 (Workload demo/a): spec: duplicate mapping key: meshPort: keep one\n"),
        "{message}"
    );
    let kinds = format!(
        "{}---\n{}",
        document("Workload", "{}"),
        document("Service", "{ports: [{port: 1}]}")
    );
    assert_eq!(parse(&kinds, "t").expect("two kinds").len(), 2);
}

#[test]
fn stored_json_is_held_to_the_same_rules() {
    let mut json = one(&document("Workload", "{}")).to_json();
    json["spec"]["meshPort"] = 0.into();
    let message = Document::from_json(&json.to_string())
        .expect_err("port 0")
        .to_string();
    assert!(message.contains("spec.meshPort: "), "{message}");
    for text in ["", "[]", "{}", "nonsense", "{\"kind\":\"Workload\"}"] {
        assert!(Document::from_json(text).is_err(), "{text}");
    }
}

#[test]
fn hostile_text_is_refused_and_cheap() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let entries = vec![format!("*a{}", i - 1); 9].join(", ");
        writeln!(bomb, "a{i}: &a{i} [{entries}]").expect("write");
    }
    let nested =
        |open: &str, close: &str| format!("{}{}", open.repeat(50_000), close.repeat(50_000));
    let with = |extra: &str| format!("{}status: {extra}\n", document("Workload", "{}"));
    let stream: String = (0..=MAX_DOCUMENTS)
        .map(|i| {
            format!(
                "---\napiVersion: postern.dev/v1alpha1\nkind: Workload\nmetadata: {{name: w{i}}}\n"
            )
        })
        .collect();
    for (what, text) in [
        (
            "alias bomb",
            format!("{}{bomb}", document("Workload", "{}")),
        ),
        (
            "alias bomb that is ignored",
            with(&format!("\n  {}", bomb.replace('\n', "\n  "))),
        ),
        ("deep flow", with(&nested("[", "]"))),
        ("deep maps", with(&nested("{a: ", "}"))),
        (
            "deep blocks",
            with(&format!("\n  {}a", "- ".repeat(10_000))),
        ),
        ("bare depth", nested("[", "]")),
        ("5 MiB", with(&"x".repeat(5 << 20))),
        ("5 MiB of white space", " ".repeat(5 << 20)),
        ("too many documents", stream),
        (
            "duplicate key",
            document("Workload", "{meshPort: 1, meshPort: 2}"),
        ),
        (
            "duplicate top key",
            format!("{0}spec: {{}}\n", document("Workload", "{}")),
        ),
        (
            "duplicate label",
            document("Workload", "{}").replace("name: a", "name: a, labels: {a: b, a: c}"),
        ),
        ("NUL", document("Workload", "{serviceAccount: \"a\\0b\"}")),
        ("recursion", with("&a [*a]")),
        ("a list", "- a\n- b\n".into()),
        ("nothing", "# only this\n".into()),
        ("unclosed", "apiVersion: {".into()),
    ] {
        let started = std::time::Instant::now();
        let message = match parse(&text, "t.yaml") {
            Ok(documents) => panic!("{what}: taken, {} documents", documents.len()),
            Err(error) => error.to_string(),
        };
        assert!(message.starts_with("t.yaml"), "{what}: {message}");
        assert!(message.len() < 2_000, "{what}: {} bytes", message.len());
        // Generous: a bomb that goes off takes hours.
        assert!(started.elapsed().as_secs() < 30, "{what}");
    }
}
