//! The tools around policies on a running mesh: revisions and conflicts, dry run, explanations, readiness for STRICT, and
//! documents that are refused whole.

use std::process::Output;

use mesh_e2e::token::{ISSUER, Issuer, claims, in_seconds};
use mesh_e2e::{Mesh, eventually, http};
use serde_json::Value;

const WEB: &str = "spiffe://demo.postern.internal/ns/demo/sa/web";

/// `meshctl ARGUMENTS -o json` with `documents`, if any, as `-f`.
fn run(mesh: &Mesh, arguments: &[&str], documents: &str) -> Output {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), documents).expect("written");
    let mut all = arguments.to_vec();
    if !documents.is_empty() {
        all.extend(["-f", file.path().to_str().expect("UTF-8")]);
    }
    mesh.meshctl(&all)
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(output)))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Applies and returns the revision.
fn apply(mesh: &Mesh, documents: &str) -> u64 {
    let output = run(mesh, &["apply", "-o", "json"], documents);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    json(&output)["revision"].as_u64().expect("a revision")
}

fn policy(name: &str, more: &str, rule: &str) -> String {
    format!(
        "apiVersion: postern.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: demo}}\n\
         spec:\n  selector: {{matchLabels: {{app: orders}}}}\n  owner: tests\n  action: DENY\n{more}  rules:\n  - {rule}\n"
    )
}

fn deny(name: &str, path: &str) -> String {
    policy(
        name,
        "",
        &format!("to: [{{operation: {{paths: [{path}]}}}}]"),
    )
}

fn get(mesh: &Mesh, path: &str) -> http::Answer {
    http::get(mesh.address("web", "outbound"), "orders", path, "")
}

/// Everything on one mesh: starting one takes longer than all of it.
#[test]
fn policies_are_changed_tried_explained_and_taken_back_on_a_running_mesh() {
    let mesh = Mesh::start(&[]);
    // First: what the others deny by path would deny opaque bytes altogether.
    a_dry_run_counts_connections_of_opaque_bytes_and_closes_none(&mesh);
    edits_conflict_rather_than_overwrite_and_a_rollback_is_enforced(&mesh);
    a_dry_run_is_counted_beside_the_real_verdict(&mesh);
    a_decision_is_explained_by_its_id_and_before_it_is_made(&mesh);
    the_rules_on_tokens_are_part_of_an_explanation(&mesh);
    readiness_names_who_comes_in_plaintext(&mesh);
    hostile_documents_are_refused_whole_with_their_place(&mesh);
}

fn edits_conflict_rather_than_overwrite_and_a_rollback_is_enforced(mesh: &Mesh) {
    let before = json(&run(mesh, &["history", "-o", "json"], ""))["latest"]
        .as_u64()
        .expect("a revision");
    let first = apply(mesh, &deny("edited", "/one"));
    eventually("it is enforced", || get(mesh, "/one").status == 403);
    let second = apply(mesh, &deny("edited", "/two"));
    assert_eq!((first, second), (before + 1, before + 2));

    // Two people started from the first revision; the second of them is told.
    let late = run(
        mesh,
        &["apply", "--if-revision", &first.to_string()],
        &deny("edited", "/three"),
    );
    assert_eq!(late.status.code(), Some(1));
    let told = said(&late);
    assert!(
        told.contains(&format!("revision {second}")) && told.contains("demo/edited"),
        "{told}"
    );
    let versioned = deny("edited", "/three").replace(
        "namespace: demo}",
        &format!("namespace: demo, resourceVersion: \"{first}\"}}"),
    );
    assert_eq!(run(mesh, &["apply"], &versioned).status.code(), Some(1));
    let stale = first.to_string();
    let delete = [
        "delete",
        "authorizationpolicy",
        "edited",
        "-n",
        "demo",
        "--if-revision",
        &stale,
    ];
    assert_eq!(run(mesh, &delete, "").status.code(), Some(1));
    assert_eq!(
        json(&run(mesh, &["history", "-o", "json"], ""))["latest"],
        second
    );

    let diff = run(
        mesh,
        &["policy", "diff", &first.to_string(), "-o", "json"],
        "",
    );
    let diff = json(&diff);
    assert_eq!(diff["documents"][0]["name"], "edited");
    let field = &diff["documents"][0]["fields"][0];
    assert_eq!(
        field["path"], "spec.rules[0].to[0].operation.paths",
        "{diff}"
    );
    assert_eq!(
        (&field["before"][0], &field["after"][0]),
        (&"/one".into(), &"/two".into())
    );

    let back = run(mesh, &["rollback", &first.to_string(), "-o", "json"], "");
    assert_eq!(
        json(&back)["revision"],
        second + 1,
        "a rollback is a revision"
    );
    eventually("the earlier policy holds again", || {
        get(mesh, "/one").status == 403 && get(mesh, "/two").status == 200
    });
    let history = json(&run(mesh, &["history", "-o", "json"], ""));
    let last = &history["revisions"][0];
    assert!(
        last["note"]
            .as_str()
            .expect("text")
            .contains(&first.to_string()),
        "{last}"
    );
    assert!(!last["author"].as_str().expect("text").is_empty() && last["at"].is_string());
    for (arguments, code) in [(["rollback", "999999"], 1), (["rollback", "none"], 2)] {
        assert_eq!(
            run(mesh, &arguments, "").status.code(),
            Some(code),
            "{arguments:?}"
        );
    }
}

/// What `meshctl policy shadow` says that a policy would do.
fn tried(mesh: &Mesh, name: &str) -> Option<Value> {
    let arguments = ["policy", "shadow", "demo/orders", "-o", "json"];
    let shown = json(&run(mesh, &arguments, ""));
    let counts = shown["counts"].as_array()?;
    let policy = format!("demo/{name}");
    counts.iter().find(|c| c["policy"] == policy).cloned()
}

fn a_dry_run_is_counted_beside_the_real_verdict(mesh: &Mesh) {
    let rule = "to: [{operation: {paths: [/tried/*]}}]";
    let revision = apply(mesh, &policy("tried", "  dryRun: true\n", rule));
    let mut sent = 0;
    eventually("the would-be verdict is reported", || {
        sent += 1;
        assert_eq!(
            get(mesh, "/tried/x").status,
            200,
            "it only bites when it is real"
        );
        tried(mesh, "tried").is_some()
    });
    let count = tried(mesh, "tried").expect("reported");
    for (field, expected) in [
        ("workload", "demo/orders"),
        ("route", "/tried/x"),
        ("enforced", "allow"),
        ("would_be", "deny"),
        ("policy", "demo/tried"),
        ("last_peer", WEB),
    ] {
        assert_eq!(count[field], expected, "{count}");
    }
    let counted = count["count"].as_u64().expect("a number");
    assert!(
        (1..=sent).contains(&counted),
        "{counted} of {sent} at revision {revision}"
    );
    // The same policy, real.
    apply(mesh, &policy("tried", "", rule));
    eventually("now it bites", || get(mesh, "/tried/x").status == 403);
}

fn a_dry_run_counts_connections_of_opaque_bytes_and_closes_none(mesh: &Mesh) {
    let rule = "to: [{operation: {ports: [\"7000\"]}}]";
    apply(mesh, &policy("tried-tcp", "  dryRun: true\n", rule));
    eventually("the would-be verdict is reported", || {
        assert!(echoes(mesh), "it only bites when it is real");
        tried(mesh, "tried-tcp").is_some()
    });
    let count = tried(mesh, "tried-tcp").expect("reported");
    for (field, expected) in [
        ("workload", "demo/orders"),
        ("enforced", "allow"),
        ("would_be", "deny"),
        ("last_peer", WEB),
    ] {
        assert_eq!(count[field], expected, "{count}");
    }
    apply(mesh, &policy("tried-tcp", "", rule));
    eventually("now it bites", || !echoes(mesh));
}

/// Whether bytes come back through a new tunnel.
fn echoes(mesh: &Mesh) -> bool {
    http::echoes(&mut http::connect(mesh.tcp_service("orders:7000")))
}

fn a_decision_is_explained_by_its_id_and_before_it_is_made(mesh: &Mesh) {
    apply(mesh, &deny("explained", "/no/*"));
    eventually("it is enforced", || get(mesh, "/no/x").status == 403);
    let head = get(mesh, "/no/x").head;
    assert!(
        !head.contains("explained"),
        "the caller is not told which policy: {head}"
    );
    let id = http::field(&head, "postern-decision-id")
        .expect("an id")
        .to_owned();
    let output = run(mesh, &["authz", "why", &id, "-o", "json"], "");
    let told = json(&output);
    let decision = &told["decision"];
    for (field, expected) in [
        ("verdict", "deny"),
        ("reason", "denied_by_policy"),
        ("policy", "demo/explained"),
        ("peer", WEB),
    ] {
        assert_eq!(decision[field], expected, "{told}");
    }
    assert_eq!(
        (&decision["rule"], &decision["request"]["path"]),
        (&0.into(), &"/no/x".into())
    );

    let ask = |path: &str, peer: &str| {
        let output = run(
            mesh,
            &[
                "authz",
                "why",
                "--workload",
                "demo/orders",
                "--port",
                "8080",
                "--peer",
                peer,
                "--path",
                path,
                "-o",
                "json",
            ],
            "",
        );
        (output.status.code(), json(&output)["decision"].clone())
    };
    let (code, no) = ask("/no/x", WEB);
    assert_eq!(
        (code, &no["policy"], &no["rule"]),
        (Some(1), &"demo/explained".into(), &0.into())
    );
    let change = no["to_be_allowed"][0]
        .as_str()
        .expect("what would have to change");
    assert!(change.contains("demo/explained"), "{change}");
    let (code, yes) = ask("/yes", WEB);
    assert_eq!(
        (code, &yes["verdict"], &yes["policy"]),
        (Some(0), &"allow".into(), &"demo/orders-callers".into())
    );
    let (code, stranger) = ask("/yes", "demo/stranger");
    assert_eq!((code, &stranger["verdict"]), (Some(1), &"deny".into()));
    assert!(
        stranger["to_be_allowed"][0]
            .as_str()
            .is_some_and(|c| c.contains("principals")),
        "{stranger}"
    );
    let (_, plaintext) = ask("/yes", "none");
    assert_eq!(plaintext["reason"], "plaintext_refused");
    let unknown = run(mesh, &["authz", "why", "00000000deadbeef"], "");
    assert_eq!(unknown.status.code(), Some(1));
}

fn the_rules_on_tokens_are_part_of_an_explanation(mesh: &Mesh) {
    let why = |claims: Option<&Value>| {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut arguments = vec![
            "authz",
            "why",
            "--workload",
            "demo/orders",
            "--port",
            "8080",
            "--peer",
            WEB,
            "--path",
            "/yes",
            "-o",
            "json",
        ];
        if let Some(claims) = claims {
            std::fs::write(file.path(), claims.to_string()).expect("written");
            arguments.extend(["--token-claims", file.path().to_str().expect("UTF-8")]);
        }
        let decision = json(&mesh.meshctl(&arguments))["decision"].clone();
        let checks = decision["checks"].as_array().expect("a list");
        let token = checks
            .iter()
            .find(|c| c["check"] == "token")
            .expect("a check");
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (
            word(&token["verdict"]),
            word(&decision["verdict"]),
            word(&decision["reason"]),
        )
    };
    let told = |token: &str, verdict: &str, reason: &str| {
        (token.to_owned(), verdict.to_owned(), reason.to_owned())
    };
    let good = claims();
    let allowed = "allowed_by_policy";
    // Nobody looks at tokens yet, so that none counts.
    assert_eq!(why(Some(&good)), told("ignored", "allow", allowed));
    let jwks = Issuer::new("k1").jwks();
    apply(
        mesh,
        &format!(
            "apiVersion: postern.dev/v1alpha1\nkind: RequestAuthentication\nmetadata: {{name: tokens, namespace: demo}}\n\
             spec:\n  selector: {{matchLabels: {{app: orders}}}}\n  jwtRules:\n  - issuer: {ISSUER}\n    audiences: [orders]\n    \
             required: true\n    jwks: '{jwks}'\n"
        ),
    );
    assert_eq!(why(Some(&good)), told("pass", "allow", allowed));
    assert_eq!(why(None), told("deny", "deny", "token_missing"));
    for (claim, value, reason) in [
        ("iss", "https://evil.test".into(), "token_unknown_issuer"),
        ("aud", "payments".into(), "token_wrong_audience"),
        ("exp", in_seconds(-3600).into(), "token_expired"),
    ] {
        let mut bad = good.clone();
        bad[claim] = value;
        assert_eq!(why(Some(&bad)), told("deny", "deny", reason), "{claim}");
    }
    let delete = ["delete", "requestauthentication", "tokens", "-n", "demo"];
    assert_eq!(mesh.meshctl(&delete).status.code(), Some(0));
}

fn readiness_names_who_comes_in_plaintext(mesh: &Mesh) {
    let mode = |mode: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: orders-mode, namespace: demo}}\n\
             spec: {{selector: {{matchLabels: {{app: orders}}}}, mtls: {{mode: {mode}}}}}\n"
        )
    };
    let state = || {
        let all = json(&run(mesh, &["mtls", "readiness", "-o", "json"], ""));
        let of = |name: &str| {
            let rows = all["workloads"].as_array().expect("a list");
            rows.iter()
                .find(|w| w["workload"] == name)
                .expect("a row")
                .clone()
        };
        (of("demo/orders"), of("demo/payments"))
    };
    assert_eq!(state().0["state"], "strict");
    apply(mesh, &mode("PERMISSIVE"));
    eventually("nobody has come in plaintext yet", || {
        state().0["state"] == "ready"
    });
    eventually("a plaintext caller is reported", || {
        let _ = http::get(mesh.address("orders", "inbound"), "orders", "/", "");
        state().0["state"] == "blocked"
    });
    let (orders, payments) = state();
    let caller = &orders["callers"][0];
    assert_eq!(
        (&caller["address"], &caller["port"]),
        (&"127.0.0.1".into(), &8080.into()),
        "{orders}"
    );
    assert_eq!(payments["state"], "strict");
    // An open plaintext connection does not outlive the mode that let it in.
    let mut open = http::connect(mesh.address("orders", "inbound"));
    std::io::Write::write_all(&mut open, b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n")
        .expect("written");
    assert!(!http::read_head(&mut std::io::BufReader::new(&open)).is_empty());
    apply(mesh, &mode("STRICT"));
    std::io::Read::read_to_end(&mut open, &mut Vec::new()).ok();
    assert_eq!(state().0["state"], "strict");
}

fn hostile_documents_are_refused_whole_with_their_place(mesh: &Mesh) {
    let good = deny("half", "/half");
    let after = |document: &str| format!("{good}---\n{document}");
    let rule = |rule: &str| after(&policy("bad", "", rule));
    let bomb: String = (0..9)
        .map(|i| match i {
            0 => "a0: &a0 [x,x,x,x,x,x,x,x]\n".to_owned(),
            i => format!(
                "a{i}: &a{i} [{}]\n",
                vec![format!("*a{}", i - 1); 8].join(",")
            ),
        })
        .collect();
    let latest = || json(&run(mesh, &["history", "-o", "json"], ""))["latest"].clone();
    let before = latest();
    let path = "spec.rules[0]";
    for (what, documents, line, field) in [
        (
            "prefix length",
            rule("from: [{source: {ipBlocks: [10.0.0.0/33]}}]"),
            19,
            "from[0].source.ipBlocks[0]",
        ),
        (
            "address",
            rule("from: [{source: {remoteIpBlocks: [10.0.0.300]}}]"),
            19,
            "from[0].source.remoteIpBlocks[0]",
        ),
        (
            "half a segment",
            rule("to: [{operation: {paths: ['/a/{*}b']}}]"),
            19,
            "to[0].operation.paths[0]",
        ),
        (
            "operator after {**}",
            rule("to: [{operation: {paths: ['/{**}/{*}']}}]"),
            19,
            "to[0].operation.paths[0]",
        ),
        (
            "ID with scheme",
            rule("from: [{source: {principals: ['spiffe://a/b']}}]"),
            19,
            "from[0].source.principals[0]",
        ),
        (
            "service account",
            rule("from: [{source: {serviceAccounts: [a/b/c]}}]"),
            19,
            "from[0].source.serviceAccounts[0]",
        ),
        (
            "port",
            rule("to: [{operation: {ports: ['99999']}}]"),
            19,
            "to[0].operation.ports[0]",
        ),
        (
            "attribute",
            rule("when: [{key: request.nothing, values: [a]}]"),
            19,
            "when[0].key",
        ),
        (
            "misspelt field",
            rule("from: [{sauce: {}}]"),
            19,
            "from[0].sauce",
        ),
        (
            "a key twice",
            after(&deny("bad", "/x").replace("owner: tests", "action: ALLOW")),
            17,
            "duplicate",
        ),
        ("name", after(&deny("Bad_Name", "/x")), 12, "metadata.name"),
        (
            "the same document twice",
            after(&deny("half", "/other")),
            12,
            "metadata.name",
        ),
        ("no YAML", after("kind: [\n"), 11, ""),
        ("alias bomb", after(&bomb), 0, "aliases may repeat"),
        (
            "depth",
            after(&format!("a: {}{}\n", "[".repeat(5_000), "]".repeat(5_000))),
            11,
            "24 levels deep",
        ),
        (
            "size",
            after(&format!("a: {}\n", "x".repeat(5 << 20))),
            0,
            "",
        ),
    ] {
        let output = run(mesh, &["apply"], &documents);
        let told = said(&output);
        assert_eq!(output.status.code(), Some(1), "{what}: {told}");
        assert!(
            told.len() < 4_096,
            "{what}: {} bytes of message",
            told.len()
        );
        if line > 0 {
            assert!(
                told.contains(&format!(":{line}:")),
                "{what}: line {line}: {told}"
            );
        }
        let field = match field.contains('[') {
            true => format!("{path}.{field}"),
            false => field.to_owned(),
        };
        assert!(told.contains(&field), "{what}: {field}: {told}");
        let dry = run(mesh, &["apply", "--dry-run"], &documents);
        assert_eq!(dry.status.code(), Some(1), "{what} with --dry-run");
    }
    assert_eq!(latest(), before, "nothing was stored");
    assert_eq!(get(mesh, "/half").status, 200, "nothing is half in force");
    assert!(mesh_e2e::runs(mesh.control_api().0));
}
