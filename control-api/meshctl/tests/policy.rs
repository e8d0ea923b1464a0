//! `meshctl policy test` and `policy lint` on files: what they print, write and exit with. No mesh is involved.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const POLICIES: &str = "apiVersion: postern.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: readers, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  owner: shop
  action: ALLOW
  rules:
  - from: [{source: {principals: [example.org/ns/shop/sa/web], requestPrincipals: ['https://idp.test/*']}}]
    to: [{operation: {methods: [GET], paths: [/orders/*]}}]
  - from: [{source: {principals: [example.org/ns/shop/sa/audit]}}]
";

const TESTS: &str = "policies: [policies.yaml]
trustDomain: example.org
workload: {namespace: shop, labels: {app: orders}}
defaults: {peer: shop/web, port: 8080, token: {iss: 'https://idp.test', sub: alice}}
tests:
- name: a subject reads through web
  request: {method: GET, path: /orders/./7}
  expect: {verdict: allow, policy: shop/readers, rule: 0}
- name: without a token nobody does
  peer: shop/web
  token: {iss: 'https://other.test', sub: alice}
  request: {path: /orders/7}
  expect: {verdict: deny, reason: no_allow_policy_matched}
";

fn meshctl(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_meshctl"))
        .args(arguments)
        // Nobody is asked: an address where nobody is must not matter.
        .env("POSTERN_SOCKET", "/nowhere.sock")
        .output()
        .expect("meshctl runs")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)))
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let file = folder.join(name);
    std::fs::write(&file, text).expect("written");
    file.to_str().expect("UTF-8").to_owned()
}

#[test]
fn tests_of_policies_end_with_zero_only_when_all_pass_and_tell_which_rules_none_touched() {
    let folder = tempfile::tempdir().expect("a directory");
    write(folder.path(), "policies.yaml", POLICIES);
    let good = write(folder.path(), "good.yaml", TESTS);
    let output = meshctl(&["policy", "test", &good, "-o", "json"]);
    let told = json(&output);
    assert_eq!(output.status.code(), Some(0), "{told:#}");
    assert_eq!((&told["ok"], &told["tests"]), (&true.into(), &2.into()));
    let untested = "ALLOW shop/readers rules[1]";
    assert_eq!(told["coverage"]["untested"][0], untested, "{told:#}");
    assert_eq!(
        (&told["coverage"]["rules"], &told["coverage"]["tested"]),
        (&2.into(), &1.into())
    );
    let strict = meshctl(&["policy", "test", &good, "--require-coverage"]);
    assert_eq!(strict.status.code(), Some(1), "a rule is untested");
    assert!(String::from_utf8_lossy(&strict.stdout).contains(untested));

    let bad = TESTS
        .replace(
            "verdict: allow, policy: shop/readers, rule: 0",
            "verdict: allow, rule: 1",
        )
        .replace(
            "a subject reads through web",
            "a <rule> that \"is\" another",
        );
    let bad = write(folder.path(), "bad.yaml", &bad);
    let junit = folder.path().join("junit.xml");
    let junit = junit.to_str().expect("UTF-8");
    let output = meshctl(&[
        "policy", "test", &good, &bad, "--junit", junit, "-o", "json",
    ]);
    let told = json(&output);
    assert_eq!(
        (output.status.code(), &told["failed"]),
        (Some(1), &1.into()),
        "{told:#}"
    );
    let failure = told["files"][1]["tests"][0]["failure"]
        .as_str()
        .expect("a sentence");
    assert!(
        failure.contains("expected rules[1], it was rules[0]"),
        "{failure}"
    );
    let xml = std::fs::read_to_string(junit).expect("written");
    for part in [
        "<testsuites name=\"meshctl policy test\" tests=\"4\" failures=\"1\">",
        "name=\"a &lt;rule&gt; that &quot;is&quot; another\"",
        "<failure message=\"expected rules[1]",
    ] {
        assert!(xml.contains(part), "{part}: {xml}");
    }
}

#[test]
fn files_that_make_no_sense_end_with_two_and_name_the_place() {
    let folder = tempfile::tempdir().expect("a directory");
    write(folder.path(), "policies.yaml", POLICIES);
    for (what, text, said) in [
        (
            "misspelt field",
            TESTS.replace("expect: {verdict: deny", "expects: {verdict: deny"),
            "expects",
        ),
        (
            "verdict",
            TESTS.replace("verdict: deny", "verdict: maybe"),
            "expect",
        ),
        (
            "no such policies",
            TESTS.replace("policies.yaml", "nowhere.yaml"),
            "nowhere.yaml",
        ),
        ("no YAML", "tests: [".to_owned(), "cannot read the tests"),
        (
            "alias bomb",
            format!("a: &a [{0}]\nb: &b [*a,*a]\n{TESTS}", "x,".repeat(9)),
            "cannot read the tests",
        ),
    ] {
        let file = write(folder.path(), "tests.yaml", &text);
        let output = meshctl(&["policy", "test", &file]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{what}: {told}");
        assert!(told.contains(said), "{what}: {told}");
        assert!(output.stdout.is_empty(), "{what}");
    }
    // A case that cannot be: a failed test, not a wrong file.
    let text = TESTS.replace("peer: shop/web\n", "peer: 'spiffe://x y'\n");
    let file = write(folder.path(), "tests.yaml", &text);
    let output = meshctl(&["policy", "test", &file]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("makes no sense"));
}

#[test]
fn lint_ends_with_one_when_it_finds_something_and_names_the_rule() {
    let folder = tempfile::tempdir().expect("a directory");
    let clean = write(folder.path(), "clean.yaml", POLICIES);
    let output = meshctl(&["policy", "lint", &clean, "-o", "json"]);
    assert_eq!(output.status.code(), Some(0), "{:#}", json(&output));
    let text = POLICIES
        .replace("  owner: shop\n", "")
        .replace("/orders/*", "/a/../orders");
    let dirty = write(folder.path(), "dirty.yaml", &text);
    let output = meshctl(&["policy", "lint", &dirty, "-o", "json"]);
    let told = json(&output);
    assert_eq!(output.status.code(), Some(1), "{told:#}");
    let findings = told["findings"].as_array().expect("a list");
    let codes: Vec<_> = findings.iter().filter_map(|f| f["code"].as_str()).collect();
    assert!(
        codes.contains(&"missing-owner") && codes.contains(&"unreachable-path"),
        "{told:#}"
    );
    let output = meshctl(&["policy", "lint", "/nowhere.yaml"]);
    assert_eq!(output.status.code(), Some(2));
}
