//! The command as a user runs it: what it says of the tokens holds for the programs of this build.
#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn bad_tokens_of_every_kind_are_refused_with_their_reason() {
    let run = Command::new(env!("CARGO_BIN_EXE_mesh-bench"))
        .args(["misuse", "--json", "--quick"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    let report: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    assert!(run.status.success(), "{said}\n{report:#}");
    assert_eq!(report["ok"], true, "{said}\n{report:#}");
    assert!(report["figures"]["cases"].as_u64() > Some(150), "{report}");
}
