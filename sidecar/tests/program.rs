//! The real `sidecar`: what it says to a wrong command line, and the rules it would program.

use std::process::{Command, Output};

fn sidecar(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sidecar"))
        .args(arguments)
        .output()
        .expect("the program runs")
}

#[test]
fn a_dry_run_prints_rules_for_both_families_and_programs_nothing() {
    let output = sidecar(&[
        "capture",
        "apply",
        "--dry-run",
        "--proxy-uid",
        "1337",
        "--exclude-outbound-port",
        "9999",
    ]);
    let rules = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for part in ["15001", "15006", "1337", "9999", "inet"] {
        assert!(rules.contains(part), "{part} is missing: {rules}");
    }
}

#[test]
fn a_missing_trust_bundle_is_named() {
    let output = sidecar(&[
        "run",
        "--workload",
        "demo/web",
        "--control-api",
        "127.0.0.1:1",
        "--trust-domain",
        "test.example",
        "--trust-bundle",
        "/nonexistent/bundle.pem",
        "--mode",
        "explicit",
        "--outbound",
        "127.0.0.1:0",
        "--inbound",
        "127.0.0.1:0",
        "--mesh",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--metrics",
        "127.0.0.1:0",
        "--readiness",
        "127.0.0.1:0",
    ]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("/nonexistent/bundle.pem"), "{said}");
}

#[test]
fn an_unknown_flag_is_refused() {
    let output = sidecar(&["run", "--no-such-flag"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--no-such-flag"));
}
