//! Mistakes that compile: rules that never decide, conditions that cannot hold, allows that let everybody in.
//!
//! Whatever is said here is certain or says "may"; what cannot be told from the documents alone is not guessed at.

use mesh_manifest::Scope;
use mesh_proto::mesh::{
    AuthorizationPolicy, PolicyAction, PolicyOperation, PolicyRule, PolicySource,
};
use serde::Serialize;

use super::Mesh;
use super::case;
use super::mesh::{action, title};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Does not do what it says.
    Error,
    /// Does more, or less, than is good.
    Warning,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// Stable code.
    pub(crate) code: &'static str,
    pub(crate) severity: Severity,
    /// `namespace/name`.
    pub(crate) policy: String,
    /// Path in the document.
    pub(crate) path: String,
    /// What is wrong and what to do.
    pub(crate) problem: String,
}

/// Looks at every authorization policy. `today` is `YYYY-MM-DD`.
pub(crate) fn lint(mesh: &Mesh, today: &str) -> Vec<Finding> {
    let policies = mesh.policies();
    let mut findings = Vec::new();
    for (index, (policy, scope)) in policies.iter().enumerate() {
        let mut found = |code, severity, path: String, problem: String| {
            findings.push(Finding {
                code,
                severity,
                policy: title(policy),
                path,
                problem,
            });
        };
        remarks(policy, mesh.defaults().strict_policies, today, &mut found);
        for (position, rule) in policy.rules.iter().enumerate() {
            let at = format!("spec.rules[{position}]");
            broad(policy, rule, &at, &mut found);
            impossible(rule, &at, &mut found);
            unreachable(policy, rule, &at, &mut found);
            let earlier = policies.iter().enumerate().flat_map(|(i, (other, scope))| {
                let until = if i == index {
                    position
                } else {
                    other.rules.len()
                };
                (0..until).map(move |rule| (i, *other, scope, rule))
            });
            shadowed(
                policy,
                scope,
                rule,
                (index, position),
                earlier,
                &at,
                &mut found,
            );
        }
    }
    findings
}

type Found<'a> = dyn FnMut(&'static str, Severity, String, String) + 'a;

fn remarks(policy: &AuthorizationPolicy, strict: bool, today: &str, found: &mut Found<'_>) {
    if policy.owner.is_empty() {
        let severity = if strict {
            Severity::Error
        } else {
            Severity::Warning
        };
        let problem = "nobody answers for it: say who in spec.owner (annotation postern.dev/owner in Istio's API)";
        found(
            "missing-owner",
            severity,
            "spec.owner".to_owned(),
            problem.to_owned(),
        );
    }
    let by = &policy.review_by;
    if by.is_empty() {
        return;
    }
    if !is_day(by) {
        let problem = format!("`{by}` is no day: write YYYY-MM-DD");
        found(
            "review-by-no-day",
            Severity::Error,
            "spec.reviewBy".to_owned(),
            problem,
        );
    } else if by.as_str() < today {
        let problem = format!("was to be looked at again by {by}: do so, and set another day");
        found(
            "review-due",
            Severity::Warning,
            "spec.reviewBy".to_owned(),
            problem,
        );
    }
}

/// `YYYY-MM-DD`, which compares as text.
fn is_day(text: &str) -> bool {
    let format = time::macros::format_description!("[year]-[month]-[day]");
    text.len() == 10 && time::Date::parse(text, format).is_ok()
}

fn broad(policy: &AuthorizationPolicy, rule: &PolicyRule, at: &str, found: &mut Found<'_>) {
    if policy.action() != PolicyAction::Allow || policy.dry_run {
        return;
    }
    let asks_for_token = !rule.capabilities.is_empty();
    let asks_who = |key: &str| {
        key.starts_with("source.") || key.starts_with("request.auth.") || key == "remote.ip"
    };
    let conditioned = rule
        .when
        .iter()
        .any(|c| asks_who(&c.key) && !c.values.is_empty() && !is_anything(&c.values));
    if asks_for_token || conditioned {
        return;
    }
    let mut warn = |path: String, problem: &str| {
        found("broad-allow", Severity::Warning, path, problem.to_owned());
    };
    if rule.from.is_empty() {
        warn(
            format!("{at}.from"),
            "lets everybody in, plaintext too where the port takes it: say who in `from`",
        );
    }
    for (i, source) in rule.from.iter().enumerate() {
        let path = format!("{at}.from[{i}].source");
        let positive = [
            &source.principals,
            &source.request_principals,
            &source.namespaces,
            &source.service_accounts,
            &source.ip_blocks,
            &source.remote_ip_blocks,
        ];
        let said: Vec<_> = positive
            .into_iter()
            .filter(|list| !list.is_empty())
            .collect();
        if said.is_empty() {
            warn(
                path,
                "only excludes: everybody else gets in, plaintext too where the port takes it; say who may",
            );
        } else if said.iter().all(|list| is_anything(list)) {
            warn(
                path,
                "lets every identity in, of every trust domain that is federated: name principals or namespaces",
            );
        }
    }
}

fn is_anything(values: &[String]) -> bool {
    values
        .iter()
        .any(|v| matches!(v.as_str(), "*" | "0.0.0.0/0" | "::/0"))
}

fn impossible(rule: &PolicyRule, at: &str, found: &mut Found<'_>) {
    let mut error = |path: String, problem: String| {
        found("impossible-condition", Severity::Error, path, problem);
    };
    for (i, source) in rule.from.iter().enumerate() {
        let path = format!("{at}.from[{i}].source");
        for (name, yes, no) in source_pairs(source) {
            if excluded(yes, no) {
                error(
                    format!("{path}.{name}"),
                    "everything that it lists is excluded beside it: it never matches".to_owned(),
                );
            }
        }
        if let Some(problem) = namespaces_apart(source) {
            error(path, problem);
        }
    }
    for (i, operation) in rule.to.iter().enumerate() {
        let path = format!("{at}.to[{i}].operation");
        for (name, yes, no) in operation_pairs(operation) {
            if excluded(yes, no) {
                error(
                    format!("{path}.{name}"),
                    "everything that it lists is excluded beside it: it never matches".to_owned(),
                );
            }
        }
        if !operation.ports.is_empty()
            && operation
                .ports
                .iter()
                .all(|p| operation.not_ports.contains(p))
        {
            error(
                format!("{path}.ports"),
                "every port that it lists is excluded beside it: it never matches".to_owned(),
            );
        }
    }
    conditions_apart(rule, at, &mut error);
}

/// Conditions of one key that no value can satisfy together.
fn conditions_apart(rule: &PolicyRule, at: &str, error: &mut dyn FnMut(String, String)) {
    // A claim, an audience or a header can have several values at once; these have one.
    let is_single =
        |key: &str| !key.starts_with("request.auth.claims") && key != "request.auth.audiences";
    for (i, condition) in rule.when.iter().enumerate() {
        let path = format!("{at}.when[{i}]");
        if excluded(&condition.values, &condition.not_values) {
            error(
                format!("{path}.values"),
                "everything that it lists is excluded by notValues: it never holds".to_owned(),
            );
        }
        if !is_single(&condition.key) {
            continue;
        }
        for (j, other) in rule.when.iter().enumerate().take(i) {
            let is_apart = other.key == condition.key
                && !condition.values.is_empty()
                && !other.values.is_empty()
                && !condition
                    .values
                    .iter()
                    .any(|a| other.values.iter().any(|b| overlaps(a, b)));
            if is_apart {
                error(
                    path.clone(),
                    format!(
                        "{} cannot have a value of when[{j}] and one of this condition: they never hold together",
                        condition.key
                    ),
                );
            }
        }
        let ports = rule.to.iter().map(|to| &to.ports);
        let said = condition.key == "destination.port" && !condition.values.is_empty();
        if said
            && !rule.to.is_empty()
            && ports.clone().all(|ports| {
                !ports.is_empty()
                    && !ports
                        .iter()
                        .any(|p| condition.values.contains(&p.to_string()))
            })
        {
            error(
                path,
                "none of the ports in `to` is one of these: the rule never matches".to_owned(),
            );
        }
    }
}

/// Exact principals that are of no namespace beside them.
fn namespaces_apart(source: &PolicySource) -> Option<String> {
    if source.principals.is_empty() || source.namespaces.is_empty() {
        return None;
    }
    let of = |principal: &str| {
        let rest = principal.split_once("/ns/")?.1;
        let exact = !principal.contains('*');
        exact.then(|| rest.split('/').next().unwrap_or_default().to_owned())
    };
    let namespaces: Option<Vec<_>> = source.principals.iter().map(|p| of(p)).collect();
    let apart = namespaces?
        .iter()
        .all(|own| !source.namespaces.iter().any(|wanted| covers(wanted, own)));
    apart.then(|| {
        "no principal that it lists is of a namespace that it lists: it never matches".to_owned()
    })
}

type Pair<'a> = (&'static str, &'a [String], &'a [String]);

fn source_pairs(source: &PolicySource) -> [Pair<'_>; 6] {
    [
        ("principals", &source.principals, &source.not_principals),
        (
            "requestPrincipals",
            &source.request_principals,
            &source.not_request_principals,
        ),
        ("namespaces", &source.namespaces, &source.not_namespaces),
        (
            "serviceAccounts",
            &source.service_accounts,
            &source.not_service_accounts,
        ),
        ("ipBlocks", &source.ip_blocks, &source.not_ip_blocks),
        (
            "remoteIpBlocks",
            &source.remote_ip_blocks,
            &source.not_remote_ip_blocks,
        ),
    ]
}

fn operation_pairs(operation: &PolicyOperation) -> [Pair<'_>; 3] {
    [
        ("hosts", &operation.hosts, &operation.not_hosts),
        ("methods", &operation.methods, &operation.not_methods),
        ("paths", &operation.paths, &operation.not_paths),
    ]
}

fn excluded(yes: &[String], no: &[String]) -> bool {
    !yes.is_empty() && yes.iter().all(|y| no.iter().any(|n| covers(n, y)))
}

fn unreachable(policy: &AuthorizationPolicy, rule: &PolicyRule, at: &str, found: &mut Found<'_>) {
    let mut look = |path: String, pattern: &str| {
        let Some(problem) = never_a_path(pattern) else {
            return;
        };
        let consequence = match policy.action() {
            PolicyAction::Deny => "it protects nothing",
            PolicyAction::Allow | PolicyAction::Audit => "it never matches",
        };
        found(
            "unreachable-path",
            Severity::Error,
            path,
            format!(
                "`{pattern}` {problem}, after normalization no request has such a path: {consequence}"
            ),
        );
    };
    for (i, to) in rule.to.iter().enumerate() {
        for (name, list) in [("paths", &to.paths), ("notPaths", &to.not_paths)] {
            for (j, pattern) in list.iter().enumerate() {
                look(format!("{at}.to[{i}].operation.{name}[{j}]"), pattern);
            }
        }
    }
    for capability in &rule.capabilities {
        for (j, route) in capability.routes.iter().enumerate() {
            look(
                format!("{at}.scopes.{}[{j}]", capability.scope),
                &route.path,
            );
        }
    }
}

/// Why no normalized path looks like this pattern. Wildcards stand for a letter, which no rule of normalization touches.
fn never_a_path(pattern: &str) -> Option<String> {
    if pattern.starts_with('*') && !pattern.contains("//") && !pattern.contains('%') {
        return None;
    }
    let filled = pattern
        .replace("{**}", "x")
        .replace("{*}", "x")
        .replace('*', "x");
    if pattern.contains(['?', '#']) {
        return Some("has a query or fragment, which policies do not see".to_owned());
    }
    if !filled.starts_with('/') && !pattern.starts_with(['*', '{']) {
        return Some("does not begin with `/`".to_owned());
    }
    let filled = if filled.starts_with('/') {
        filled
    } else {
        format!("/{filled}")
    };
    match case::path(&filled) {
        Err(error) => Some(format!("is refused before policy looks at it ({error})")),
        Ok(normal) if normal != filled => Some(format!("would be written `{normal}`")),
        Ok(_) => None,
    }
}

fn shadowed<'a>(
    policy: &AuthorizationPolicy,
    scope: &Scope,
    rule: &PolicyRule,
    own: (usize, usize),
    earlier: impl Iterator<Item = (usize, &'a AuthorizationPolicy, &'a Scope, usize)>,
    at: &str,
    found: &mut Found<'_>,
) {
    for (index, other, other_scope, position) in earlier {
        if (index, position) == own || other.dry_run || !other_scope.covers(scope) {
            continue;
        }
        let comes_first = other.action() == PolicyAction::Deny || other.action() == policy.action();
        let decides =
            policy.action() != PolicyAction::Audit && other.action() != PolicyAction::Audit;
        if !comes_first || !decides {
            continue;
        }
        let Some(wide) = other.rules.get(position) else {
            continue;
        };
        if !rule_covers(wide, rule) {
            continue;
        }
        // Of two that say the same, the later is the one too many.
        let is_mutual = other.action() == policy.action()
            && rule_covers(rule, wide)
            && scope.covers(other_scope);
        if is_mutual && (index, position) > own {
            continue;
        }
        let by = format!("{} {} rules[{position}]", action(other), title(other));
        let (severity, problem) = if other.action() == policy.action() {
            (
                Severity::Warning,
                format!("{by} matches whatever this rule matches: remove one of them"),
            )
        } else {
            (
                Severity::Error,
                format!("{by} denies whatever this rule would let in: it never allows anything"),
            )
        };
        found("shadowed-rule", severity, at.to_owned(), problem);
        return;
    }
}

/// True if `wide` certainly matches whatever `narrow` matches.
fn rule_covers(wide: &PolicyRule, narrow: &PolicyRule) -> bool {
    let from = wide.from.is_empty()
        || (!narrow.from.is_empty()
            && narrow.from.iter().all(|n| {
                wide.from
                    .iter()
                    .any(|w| all_cover(&source_pairs(w), &source_pairs(n)))
            }));
    let to = wide.to.is_empty()
        || (!narrow.to.is_empty()
            && narrow
                .to
                .iter()
                .all(|n| wide.to.iter().any(|w| operation_covers(w, n))));
    let when = wide
        .when
        .iter()
        .all(|condition| narrow.when.contains(condition));
    let scopes = wide.capabilities.is_empty() || wide.capabilities == narrow.capabilities;
    let binding = wide.binding == 0 || wide.binding == narrow.binding;
    from && to && when && scopes && binding
}

fn operation_covers(wide: &PolicyOperation, narrow: &PolicyOperation) -> bool {
    let ports = wide.ports.is_empty()
        || (!narrow.ports.is_empty() && narrow.ports.iter().all(|p| wide.ports.contains(p)));
    let not_ports = wide.not_ports.iter().all(|p| narrow.not_ports.contains(p));
    ports && not_ports && all_cover(&operation_pairs(wide), &operation_pairs(narrow))
}

fn all_cover(wide: &[Pair<'_>], narrow: &[Pair<'_>]) -> bool {
    wide.iter()
        .zip(narrow)
        .all(|((_, yes, no), (_, narrow_yes, narrow_no))| {
            let included = yes.is_empty()
                || (!narrow_yes.is_empty()
                    && narrow_yes.iter().all(|n| yes.iter().any(|w| covers(w, n))));
            let excluded = no.iter().all(|w| narrow_no.iter().any(|n| covers(n, w)));
            included && excluded
        })
}

/// True if pattern `wide` certainly matches whatever `narrow`, a pattern or value, matches.
fn covers(wide: &str, narrow: &str) -> bool {
    if wide == narrow || wide == "*" {
        return true;
    }
    if wide.contains('{') || narrow.contains('{') {
        return false;
    }
    match (wide.strip_suffix('*'), wide.strip_prefix('*')) {
        (Some(prefix), _) => narrow.starts_with(prefix) && !narrow.starts_with('*'),
        (_, Some(suffix)) => narrow.ends_with(suffix) && !narrow.ends_with('*'),
        _ => false,
    }
}

/// True unless no value can match both patterns.
fn overlaps(a: &str, b: &str) -> bool {
    let is_pattern = |text: &str| text.contains(['*', '{', '/']);
    if is_pattern(a) || is_pattern(b) {
        return covers(a, b) || covers(b, a) || (is_pattern(a) && is_pattern(b));
    }
    a == b
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes and paths found in one policy with these rules.
    fn found(action: &str, rules: &str) -> Vec<(&'static str, String)> {
        let text = format!(
            "apiVersion: postern.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: n}}\n\
             spec: {{owner: team, action: {action}, rules: [{rules}]}}\n"
        );
        let documents = mesh_manifest::parse(&text, "test").expect(rules);
        let findings = lint(&Mesh::new(documents, "td"), "2026-01-01");
        findings.into_iter().map(|f| (f.code, f.path)).collect()
    }

    #[test]
    fn mistakes_are_found_where_they_are() {
        let web = "from: [{source: {principals: [td/ns/n/sa/web]}}]";
        /// Action, rules, and the codes and places of what is found.
        type Case = (
            &'static str,
            String,
            &'static [(&'static str, &'static str)],
        );
        let cases: &[Case] = &[
            ("ALLOW", format!("{{{web}}}"), &[]),
            (
                "ALLOW",
                "{}".into(),
                &[("broad-allow", "spec.rules[0].from")],
            ),
            ("DENY", "{}".into(), &[]),
            (
                "ALLOW",
                "{from: [{source: {principals: ['*']}}]}".into(),
                &[("broad-allow", "spec.rules[0].from[0].source")],
            ),
            (
                "ALLOW",
                "{from: [{source: {notNamespaces: [bad]}}]}".into(),
                &[("broad-allow", "spec.rules[0].from[0].source")],
            ),
            (
                "ALLOW",
                "{when: [{key: 'request.auth.claims[team]', values: [a]}]}".into(),
                &[],
            ),
            (
                "ALLOW",
                format!(
                    "{{{web}, to: [{{operation: {{methods: [GET], notMethods: [GET, PUT]}}}}]}}"
                ),
                &[(
                    "impossible-condition",
                    "spec.rules[0].to[0].operation.methods",
                )],
            ),
            (
                "ALLOW",
                "{from: [{source: {principals: [td/ns/a/sa/x], namespaces: [b]}}]}".into(),
                &[("impossible-condition", "spec.rules[0].from[0].source")],
            ),
            (
                "ALLOW",
                format!(
                    "{{{web}, when: [{{key: source.namespace, values: [a]}}, {{key: source.namespace, values: [b]}}]}}"
                ),
                &[("impossible-condition", "spec.rules[0].when[1]")],
            ),
            (
                "ALLOW",
                format!(
                    "{{{web}, when: [{{key: 'request.auth.claims[g]', values: [a]}}, {{key: 'request.auth.claims[g]', values: [b]}}]}}"
                ),
                &[],
            ),
            (
                "DENY",
                "{to: [{operation: {paths: ['/admin//x', /ok]}}]}".into(),
                &[("unreachable-path", "spec.rules[0].to[0].operation.paths[0]")],
            ),
            (
                "DENY",
                "{to: [{operation: {paths: ['/a/../b', '/%61', '/x/*', '/y/{**}']}}]}".into(),
                &[
                    ("unreachable-path", "spec.rules[0].to[0].operation.paths[0]"),
                    ("unreachable-path", "spec.rules[0].to[0].operation.paths[1]"),
                ],
            ),
            (
                "ALLOW",
                format!("{{{web}}}, {{{web}, to: [{{operation: {{paths: [/x]}}}}]}}"),
                &[("shadowed-rule", "spec.rules[1]")],
            ),
            (
                "ALLOW",
                format!("{{{web}, to: [{{operation: {{paths: [/x]}}}}]}}, {{{web}}}"),
                &[],
            ),
            (
                "ALLOW",
                format!("{{{web}}}, {{{web}}}"),
                &[("shadowed-rule", "spec.rules[1]")],
            ),
        ];
        for (action, rules, expected) in cases {
            let found = found(action, rules);
            let found: Vec<_> = found.iter().map(|(c, p)| (*c, p.as_str())).collect();
            assert_eq!(found, *expected, "{action} {rules}");
        }
    }

    #[test]
    fn owners_and_review_days_are_asked_for() {
        let lint_of = |spec: &str| {
            let text = format!(
                "apiVersion: postern.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: n}}\nspec: {spec}\n"
            );
            let documents = mesh_manifest::parse(&text, "test").expect(spec);
            lint(&Mesh::new(documents, "td"), "2026-03-01")
        };
        let codes = |spec: &str| lint_of(spec).iter().map(|f| f.code).collect::<Vec<_>>();
        assert_eq!(codes("{}"), ["missing-owner"]);
        assert_eq!(codes("{owner: a, reviewBy: '2026-02-28'}"), ["review-due"]);
        assert!(codes("{owner: a, reviewBy: '2026-03-01'}").is_empty());
    }

    #[test]
    fn a_rule_that_a_deny_policy_takes_everything_from_is_an_error() {
        let text = "apiVersion: postern.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: allow, namespace: n}\n\
             spec: {owner: t, selector: {matchLabels: {app: a}}, rules: [{from: [{source: {namespaces: [x]}}]}]}\n---\n\
             apiVersion: postern.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: deny, namespace: n}\n\
             spec: {owner: t, action: DENY, rules: [{from: [{source: {namespaces: ['*']}}]}]}\n";
        let documents = mesh_manifest::parse(text, "test").expect("parses");
        let findings = lint(&Mesh::new(documents, "td"), "2026-03-01");
        let [finding] = &findings[..] else {
            panic!("{findings:?}");
        };
        assert_eq!(
            (finding.code, finding.severity),
            ("shadowed-rule", Severity::Error)
        );
        assert_eq!(finding.policy, "n/allow");
    }
}
