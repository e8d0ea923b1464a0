//! The published examples of Istio's security tasks decide as documented: `istio_tasks.yaml` through `meshctl policy test`.

use std::process::Command;

use serde::Deserialize;
use serde_json::{Value, json};

/// One step of a task.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Step {
    page: String,
    trust_domain: Option<String>,
    policies: String,
    workload: Value,
    #[serde(default)]
    defaults: Value,
    tests: Vec<Value>,
    /// What a dry run would decide, test by test; `null` where it decides the same for the same reason.
    #[serde(default)]
    shadow: Vec<Option<String>>,
    /// True where the point is that no test matches the rule.
    #[serde(default)]
    untouched: bool,
}

#[test]
fn the_examples_of_istios_security_tasks_decide_as_documented() {
    let steps: Vec<Step> =
        serde_saphyr::from_str(include_str!("istio_tasks.yaml")).expect("the table");
    assert!(steps.len() >= 18, "{} steps", steps.len());
    for step in &steps {
        run(step);
    }
}

fn run(step: &Step) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    file("policies.yaml", &step.policies);
    let mut suite = json!({
        "policies": ["policies.yaml"],
        "workload": step.workload,
        "tests": step.tests,
    });
    if let Some(trust_domain) = &step.trust_domain {
        suite["trustDomain"] = json!(trust_domain);
    }
    if !step.defaults.is_null() {
        suite["defaults"] = step.defaults.clone();
    }
    let output = Command::new(env!("CARGO_BIN_EXE_meshctl"))
        .args(["policy", "test", "--output", "json"])
        .arg(file("tests.yaml", &suite.to_string()))
        .output()
        .expect("meshctl runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    let page = &step.page;
    assert!(output.status.success(), "{page}: {said}{complaint}");
    let report: Value = serde_json::from_str(&said).expect("JSON");
    let outcomes = report["files"][0]["tests"].as_array().expect("tests");
    assert_eq!(outcomes.len(), step.tests.len(), "{page}: {said}");
    let untouched = report["coverage"]["untested"].as_array().expect("rules");
    assert_eq!(!untouched.is_empty(), step.untouched, "{page}: {said}");
    for (outcome, shadow) in outcomes.iter().zip(&step.shadow) {
        let would = outcome["decision"]["dry_run"].as_str();
        let same = match (would, shadow) {
            (Some(would), Some(shadow)) => would.starts_with(&**shadow),
            (would, shadow) => would.is_none() && shadow.is_none(),
        };
        assert!(same, "{page}: {would:?} rather than {shadow:?}");
    }
}
