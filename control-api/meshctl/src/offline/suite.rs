//! Tests of policies: the file format, how a test is run, and which rules none touches.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::case::{self, Case, Http};
use super::explain::{self, Explanation};
use super::mesh::{action, title};
use super::token::Tokens;
use super::{Mesh, Subject, parts};

/// Trust domain where neither the file nor the command says one.
pub(crate) const TRUST_DOMAIN: &str = "cluster.local";

/// A file of tests.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Suite {
    /// Files with the documents to test, relative to this file.
    pub(crate) policies: Vec<String>,
    /// Trust domain of the mesh; `cluster.local` when omitted.
    pub(crate) trust_domain: Option<String>,
    /// The workload of tests that name none.
    pub(crate) workload: Option<Workload>,
    /// What a test says where it says nothing else.
    #[serde(default)]
    pub(crate) defaults: Given,
    /// The tests.
    pub(crate) tests: Vec<Test>,
}

/// The workload that decides: a document of the mesh by name, or namespace and labels.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Workload {
    Named(String),
    Described(Described),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Described {
    namespace: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// Who comes, from where, with what.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Given {
    peer: Option<String>,
    source_ip: Option<IpAddr>,
    destination_ip: Option<IpAddr>,
    port: Option<u16>,
    sni: Option<String>,
    /// Claims of the token.
    token: Option<serde_json::Map<String, serde_json::Value>>,
    request: Option<RequestGiven>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RequestGiven {
    method: Option<String>,
    host: Option<String>,
    path: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

/// One test.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Test {
    name: String,
    workload: Option<Workload>,
    peer: Option<String>,
    source_ip: Option<IpAddr>,
    destination_ip: Option<IpAddr>,
    port: Option<u16>,
    sni: Option<String>,
    token: Option<serde_json::Map<String, serde_json::Value>>,
    request: Option<RequestGiven>,
    expect: Expect,
}

/// What is expected: a verdict, or a verdict and where it comes from.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Expect {
    Verdict(Word),
    Full(Expected),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum Word {
    #[serde(rename = "allow", alias = "ALLOW", alias = "Allow")]
    Allow,
    #[serde(rename = "deny", alias = "DENY", alias = "Deny")]
    Deny,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Expected {
    verdict: Word,
    /// `namespace/name` of the deciding policy.
    policy: Option<String>,
    /// Position of the deciding rule, from 0.
    rule: Option<u32>,
    /// Stable code.
    reason: Option<String>,
}

impl Word {
    fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// How a test ended.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) passed: bool,
    /// What was expected and what came instead; `None` when it passed.
    pub(crate) failure: Option<String>,
    pub(crate) decision: Option<Explanation>,
}

/// A rule, for coverage.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct RuleRef {
    /// `namespace/name`.
    pub(crate) policy: String,
    /// Position, from 0.
    pub(crate) rule: usize,
}

/// How a file of tests ended.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub(crate) file: String,
    pub(crate) tests: Vec<Outcome>,
    /// Rules of the policies under test.
    pub(crate) rules: usize,
    /// Rules that no test matches.
    pub(crate) untouched: Vec<RuleRef>,
}

impl Report {
    pub(crate) fn failed(&self) -> usize {
        self.tests.iter().filter(|t| !t.passed).count()
    }
}

/// Runs every test of a file.
pub(crate) fn run(file: &str, suite: &Suite, mesh: &Mesh) -> Report {
    let mut touched = BTreeSet::new();
    let tests = suite
        .tests
        .iter()
        .map(|test| run_one(suite, mesh, test, &mut touched))
        .collect();
    let all: BTreeSet<_> = mesh
        .policies()
        .iter()
        .flat_map(|(policy, _)| {
            (0..policy.rules.len()).map(|rule| RuleRef {
                policy: title(policy),
                rule,
            })
        })
        .collect();
    Report {
        file: file.to_owned(),
        tests,
        rules: all.len(),
        untouched: all.difference(&touched).cloned().collect(),
    }
}

fn run_one(suite: &Suite, mesh: &Mesh, test: &Test, touched: &mut BTreeSet<RuleRef>) -> Outcome {
    let result = prepare(suite, mesh, test).and_then(|(subject, case)| {
        for policy in mesh.selecting(&subject) {
            for rule in 0..policy.rules.len() {
                let matches = parts::rule_matches(&policy, rule, mesh.defaults(), &case);
                if matches.map_err(|e| e.to_string())? {
                    let policy = title(&policy);
                    touched.insert(RuleRef { policy, rule });
                }
            }
        }
        explain::explain(mesh, &subject, &case, Tokens::Verified).map_err(|error| error.to_string())
    });
    match result {
        Ok(explanation) => {
            let failure = compare(&test.expect, &explanation);
            Outcome {
                name: test.name.clone(),
                passed: failure.is_none(),
                failure,
                decision: Some(explanation),
            }
        }
        Err(problem) => Outcome {
            name: test.name.clone(),
            passed: false,
            failure: Some(format!("the test makes no sense: {problem}")),
            decision: None,
        },
    }
}

fn prepare(suite: &Suite, mesh: &Mesh, test: &Test) -> Result<(Subject, Case), String> {
    let defaults = &suite.defaults;
    let workload = test.workload.as_ref().or(suite.workload.as_ref());
    let workload =
        workload.ok_or("workload: say which workload decides, here or for the whole file")?;
    let subject = match workload {
        Workload::Named(uid) => mesh.subject(uid).ok_or_else(|| {
            format!("workload: there is no Workload document {uid} among the policies; describe it by namespace and labels")
        })?,
        Workload::Described(described) => Subject {
            name: described.namespace.clone(),
            namespace: described.namespace.clone(),
            labels: described.labels.clone(),
        },
    };
    let port = test.port.or(defaults.port).unwrap_or(80);
    let mut case = Case::plaintext(port);
    if let Some(peer) = test.peer.as_ref().or(defaults.peer.as_ref()) {
        case.peer =
            case::peer(peer, &mesh.defaults().trust_domain).map_err(|e| format!("peer: {e}"))?;
    }
    if let Some(ip) = test.source_ip.or(defaults.source_ip) {
        case.source_ip = ip;
    }
    if let Some(ip) = test.destination_ip.or(defaults.destination_ip) {
        case.destination_ip = ip;
    }
    case.sni = test.sni.clone().or_else(|| defaults.sni.clone());
    let token = test.token.as_ref().or(defaults.token.as_ref());
    if let Some(request) = test.request.as_ref().or(defaults.request.as_ref()) {
        case.http = Some(request_of(request, token)?);
    } else if token.is_some() {
        return Err("token: comes with a request only; add `request`".to_owned());
    }
    Ok((subject, case))
}

fn request_of(
    given: &RequestGiven,
    token: Option<&serde_json::Map<String, serde_json::Value>>,
) -> Result<Http, String> {
    let headers = given.headers.iter().map(|(n, v)| (n.as_str(), v.as_str()));
    let claims = token.map(|claims| serde_json::Value::Object(claims.clone()).to_string());
    let path = given.path.as_deref().unwrap_or("/");
    Ok(Http {
        method: case::method(given.method.as_deref().unwrap_or("GET"))
            .map_err(|e| format!("request.method: {e}"))?,
        host: given.host.clone().unwrap_or_default(),
        path: case::path(path).map_err(|e| format!("request.path: {e}"))?,
        headers: case::headers(headers).map_err(|e| format!("request.headers: {e}"))?,
        token: claims
            .map(|claims| case::token(&claims).map_err(|e| format!("token: {e}")))
            .transpose()?,
    })
}

/// What is not as expected, in a sentence.
fn compare(expect: &Expect, got: &Explanation) -> Option<String> {
    let expected = match expect {
        Expect::Verdict(verdict) => Expected {
            verdict: *verdict,
            policy: None,
            rule: None,
            reason: None,
        },
        Expect::Full(expected) => expected.clone(),
    };
    let mut wrong = Vec::new();
    if expected.verdict.as_str() != got.verdict {
        wrong.push(format!(
            "expected {}, got {}",
            expected.verdict.as_str(),
            got.verdict
        ));
    }
    if let Some(policy) = &expected.policy
        && got.policy.as_ref() != Some(policy)
    {
        let by = got.policy.as_deref().unwrap_or("no policy");
        wrong.push(format!("expected it from {policy}, it comes from {by}"));
    }
    if let Some(rule) = expected.rule
        && got.rule != Some(rule)
    {
        let by = got
            .rule
            .map_or_else(|| "no rule".to_owned(), |r| format!("rules[{r}]"));
        wrong.push(format!("expected rules[{rule}], it was {by}"));
    }
    if let Some(reason) = &expected.reason
        && got.reason != reason
    {
        wrong.push(format!("expected reason {reason}, it was {}", got.reason));
    }
    if wrong.is_empty() {
        return None;
    }
    let by = got
        .policy
        .as_deref()
        .map_or_else(String::new, |p| format!(" by {p}"));
    wrong.push(format!("({}{by}: {})", got.verdict, got.reason));
    if let Some(change) = got.to_be_allowed.first() {
        wrong.push(change.clone());
    }
    Some(wrong.join("; "))
}

/// The rule as people find it: its policy's action and name.
pub(crate) fn label(mesh: &Mesh, rule: &RuleRef) -> String {
    let policies = mesh.policies();
    let policy = policies.iter().find(|(p, _)| title(p) == rule.policy);
    let action = policy.map_or("", |(p, _)| action(p));
    format!("{action} {} rules[{}]", rule.policy, rule.rule)
}
