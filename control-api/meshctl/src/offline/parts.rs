//! A rule taken apart: each field on its own, so that the engine itself can say which of them match.
//!
//! Nothing here knows how a field is matched. A part is a rule with one field left in it; whether it matches is asked of
//! the compiled policy.

use mesh_auth::Reason;
use mesh_auth::policy::{PolicyError, PolicySet, Verdict};
use mesh_proto::mesh::{
    AuthorizationPolicy, MeshDefaults, PolicyAction, PolicyCondition, PolicyOperation, PolicyRule,
    PolicySource, TokenBinding,
};

use super::Case;

/// One field of a rule.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Part {
    /// Path in the document, below `spec`.
    pub(crate) path: String,
    /// Name of the field or attribute.
    pub(crate) name: String,
    /// What it lists.
    pub(crate) wanted: Vec<String>,
    /// True for a field that excludes.
    pub(crate) is_negative: bool,
    /// The rule with nothing else in it.
    rule: PolicyRule,
}

/// One of several ways in which a rule can match: an entry of `from` and one of `to`, with everything else.
pub(crate) type Alternative = Vec<Part>;

/// A named list of a source or operation, with a copy that has nothing else.
type Field<T> = (&'static str, bool, Vec<String>, T);

fn source_fields(source: &PolicySource) -> Vec<Field<PolicySource>> {
    macro_rules! fields {
        ($($name:literal $negative:literal $field:ident,)*) => {
            [$(($name, $negative, source.$field.clone(), PolicySource {
                $field: source.$field.clone(),
                ..PolicySource::default()
            }),)*]
        };
    }
    let fields = fields![
        "principals" false principals,
        "notPrincipals" true not_principals,
        "requestPrincipals" false request_principals,
        "notRequestPrincipals" true not_request_principals,
        "namespaces" false namespaces,
        "notNamespaces" true not_namespaces,
        "serviceAccounts" false service_accounts,
        "notServiceAccounts" true not_service_accounts,
        "ipBlocks" false ip_blocks,
        "notIpBlocks" true not_ip_blocks,
        "remoteIpBlocks" false remote_ip_blocks,
        "notRemoteIpBlocks" true not_remote_ip_blocks,
    ];
    fields.into_iter().filter(|f| !f.2.is_empty()).collect()
}

fn operation_fields(operation: &PolicyOperation) -> Vec<Field<PolicyOperation>> {
    let numbers = |ports: &[u32]| ports.iter().map(u32::to_string).collect::<Vec<_>>();
    macro_rules! fields {
        ($($name:literal $negative:literal $field:ident $values:expr,)*) => {
            [$(($name, $negative, $values, PolicyOperation {
                $field: operation.$field.clone(),
                ..PolicyOperation::default()
            }),)*]
        };
    }
    let fields = fields![
        "hosts" false hosts operation.hosts.clone(),
        "notHosts" true not_hosts operation.not_hosts.clone(),
        "ports" false ports numbers(&operation.ports),
        "notPorts" true not_ports numbers(&operation.not_ports),
        "methods" false methods operation.methods.clone(),
        "notMethods" true not_methods operation.not_methods.clone(),
        "paths" false paths operation.paths.clone(),
        "notPaths" true not_paths operation.not_paths.clone(),
    ];
    fields.into_iter().filter(|f| !f.2.is_empty()).collect()
}

fn sources(rule: &PolicyRule, at: &str) -> Vec<Alternative> {
    let entries = rule.from.iter().enumerate().map(|(i, source)| {
        let part = |(name, is_negative, wanted, only): Field<PolicySource>| Part {
            path: format!("{at}.from[{i}].source.{name}"),
            name: name.to_owned(),
            wanted,
            is_negative,
            rule: PolicyRule {
                from: vec![only],
                ..PolicyRule::default()
            },
        };
        source_fields(source).into_iter().map(part).collect()
    });
    one_of(entries)
}

fn operations(rule: &PolicyRule, at: &str) -> Vec<Alternative> {
    let entries = rule.to.iter().enumerate().map(|(i, operation)| {
        let part = |(name, is_negative, wanted, only): Field<PolicyOperation>| Part {
            path: format!("{at}.to[{i}].operation.{name}"),
            name: name.to_owned(),
            wanted,
            is_negative,
            rule: PolicyRule {
                to: vec![only],
                ..PolicyRule::default()
            },
        };
        operation_fields(operation).into_iter().map(part).collect()
    });
    one_of(entries)
}

/// No entries: nothing is asked for.
fn one_of(entries: impl Iterator<Item = Alternative>) -> Vec<Alternative> {
    let entries: Vec<_> = entries.collect();
    if entries.is_empty() {
        return vec![Vec::new()];
    }
    entries
}

/// The parts that every way of matching has.
fn common(rule: &PolicyRule, at: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    for (i, condition) in rule.when.iter().enumerate() {
        let halves = [
            ("values", false, &condition.values),
            ("notValues", true, &condition.not_values),
        ];
        for (name, is_negative, values) in halves {
            if values.is_empty() {
                continue;
            }
            let only = PolicyCondition {
                key: condition.key.clone(),
                values: if is_negative { vec![] } else { values.clone() },
                not_values: if is_negative { values.clone() } else { vec![] },
            };
            parts.push(Part {
                path: format!("{at}.when[{i}].{name}"),
                name: condition.key.clone(),
                wanted: values.clone(),
                is_negative,
                rule: PolicyRule {
                    when: vec![only],
                    ..PolicyRule::default()
                },
            });
        }
    }
    if !rule.capabilities.is_empty() {
        let wanted = rule.capabilities.iter().map(|capability| {
            let routes = capability.routes.iter().map(|route| {
                let methods = route.methods.join(",");
                format!("{methods} {}", route.path).trim_start().to_owned()
            });
            let routes: Vec<_> = routes.collect();
            format!("{} for {}", capability.scope, routes.join(" and "))
        });
        parts.push(Part {
            path: format!("{at}.scopes"),
            name: "scopes".to_owned(),
            wanted: wanted.collect(),
            is_negative: false,
            rule: PolicyRule {
                capabilities: rule.capabilities.clone(),
                ..PolicyRule::default()
            },
        });
    }
    if rule.binding() == TokenBinding::Required {
        parts.push(Part {
            path: format!("{at}.binding"),
            name: "binding".to_owned(),
            wanted: vec!["required".to_owned()],
            is_negative: false,
            rule: PolicyRule {
                binding: rule.binding,
                ..PolicyRule::default()
            },
        });
    }
    parts
}

/// Every way in which rule `index` can match.
pub(crate) fn alternatives(policy: &AuthorizationPolicy, index: usize) -> Vec<Alternative> {
    let Some(rule) = policy.rules.get(index) else {
        return Vec::new();
    };
    let at = format!("spec.rules[{index}]");
    let common = common(rule, &at);
    let mut alternatives = Vec::new();
    for source in sources(rule, &at) {
        for operation in operations(rule, &at) {
            let parts = source.iter().chain(&operation).chain(&common);
            alternatives.push(parts.cloned().collect());
        }
    }
    alternatives
}

/// True if rule `index` of a policy matches, whatever else decides.
pub(crate) fn rule_matches(
    policy: &AuthorizationPolicy,
    index: usize,
    defaults: &MeshDefaults,
    case: &Case,
) -> Result<bool, PolicyError> {
    match policy.rules.get(index) {
        Some(rule) => matches(policy, rule.clone(), defaults, case),
        None => Ok(false),
    }
}

/// True if a part matches on its own.
pub(crate) fn part_matches(
    policy: &AuthorizationPolicy,
    part: &Part,
    defaults: &MeshDefaults,
    case: &Case,
) -> Result<bool, PolicyError> {
    matches(policy, part.rule.clone(), defaults, case)
}

/// Asks the engine about one rule, alone, with the action of its policy.
fn matches(
    policy: &AuthorizationPolicy,
    rule: PolicyRule,
    defaults: &MeshDefaults,
    case: &Case,
) -> Result<bool, PolicyError> {
    let alone = AuthorizationPolicy {
        rules: vec![rule],
        dry_run: false,
        ..policy.clone()
    };
    let action = alone.action();
    let set = PolicySet::compile(&[alone], defaults)?;
    Ok(match action {
        PolicyAction::Allow => case.decide(&set).verdict == Verdict::Allow,
        PolicyAction::Deny => case.decide(&set).reason == Reason::DeniedByPolicy,
        PolicyAction::Audit => case.is_audited(&set),
    })
}
