//! Authorization policies from their wire form to matchers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use mesh_proto::mesh;

use super::Connection;
use super::matcher::{Block, Texts};
use crate::SpiffeId;

/// Why a policy cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {field}: {problem}", policy.escape_default())]
pub struct PolicyError {
    /// `namespace/name`.
    pub policy: String,
    /// Path of the field, as the document writes it.
    pub field: String,
    /// What is wrong.
    pub problem: String,
}

/// Checks that a policy compiles.
///
/// # Errors
/// The first field that does not.
pub fn validate(policy: &mesh::AuthorizationPolicy) -> Result<(), PolicyError> {
    Policy::compile(policy).map(drop)
}

/// One policy.
#[derive(Debug)]
pub(crate) struct Policy {
    name: Arc<str>,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    from: Vec<Source>,
    to: Vec<Operation>,
}

#[derive(Debug, Default)]
struct Source {
    principals: Option<Texts>,
    not_principals: Option<Texts>,
    namespaces: Option<Texts>,
    not_namespaces: Option<Texts>,
    service_accounts: Option<Accounts>,
    not_service_accounts: Option<Accounts>,
    blocks: Vec<Block>,
    not_blocks: Vec<Block>,
}

/// Service accounts by namespace.
#[derive(Debug)]
struct Accounts(HashMap<Box<str>, HashSet<Box<str>>>);

#[derive(Debug)]
struct Operation {
    ports: Vec<u16>,
    not_ports: Vec<u16>,
}

impl Policy {
    pub(crate) fn compile(policy: &mesh::AuthorizationPolicy) -> Result<Self, PolicyError> {
        let name = format!("{}/{}", policy.namespace, policy.name);
        let fail = |field: String, problem: String| PolicyError {
            policy: name.clone(),
            field,
            problem,
        };
        if policy.namespace.is_empty() || policy.name.is_empty() {
            return Err(fail(
                "metadata.name".into(),
                "name and namespace must not be empty".into(),
            ));
        }
        if mesh::PolicyAction::try_from(policy.action).is_err() {
            return Err(fail(
                "spec.action".into(),
                format!("unknown action {}", policy.action),
            ));
        }
        let mut rules = Vec::with_capacity(policy.rules.len());
        for (r, rule) in policy.rules.iter().enumerate() {
            let mut from = Vec::with_capacity(rule.from.len());
            for (i, source) in rule.from.iter().enumerate() {
                let path = format!("spec.rules[{r}].from[{i}].source");
                from.push(
                    Source::compile(source, &policy.namespace)
                        .map_err(|(field, problem)| fail(format!("{path}{field}"), problem))?,
                );
            }
            let mut to = Vec::with_capacity(rule.to.len());
            for (i, operation) in rule.to.iter().enumerate() {
                let path = format!("spec.rules[{r}].to[{i}].operation");
                to.push(
                    Operation::compile(operation)
                        .map_err(|(field, problem)| fail(format!("{path}{field}"), problem))?,
                );
            }
            rules.push(Rule { from, to });
        }
        Ok(Self {
            name: name.into(),
            rules,
        })
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The first rule that matches.
    pub(crate) fn matches(&self, connection: &Connection<'_>) -> Option<u32> {
        self.rules
            .iter()
            .position(|rule| rule.matches(connection))
            .map(|index| u32::try_from(index).unwrap_or(u32::MAX))
    }
}

impl Rule {
    fn matches(&self, connection: &Connection<'_>) -> bool {
        let port = connection.destination_port;
        // Ports first: they cost least.
        (self.to.is_empty() || self.to.iter().any(|o| o.matches(port)))
            && (self.from.is_empty() || self.from.iter().any(|s| s.matches(connection)))
    }
}

type FieldError = (String, String);

impl Source {
    fn compile(source: &mesh::PolicySource, namespace: &str) -> Result<Self, FieldError> {
        let compiled = Self {
            principals: texts(&source.principals, ".principals")?,
            not_principals: texts(&source.not_principals, ".notPrincipals")?,
            namespaces: texts(&source.namespaces, ".namespaces")?,
            not_namespaces: texts(&source.not_namespaces, ".notNamespaces")?,
            service_accounts: Accounts::compile(
                &source.service_accounts,
                namespace,
                ".serviceAccounts",
            )?,
            not_service_accounts: Accounts::compile(
                &source.not_service_accounts,
                namespace,
                ".notServiceAccounts",
            )?,
            blocks: blocks(&source.ip_blocks, ".ipBlocks")?,
            not_blocks: blocks(&source.not_ip_blocks, ".notIpBlocks")?,
        };
        if *source == mesh::PolicySource::default() {
            // Istio refuses it too: it looks like "nobody" and would mean "everybody".
            return Err((
                String::new(),
                "must have at least one field; leave `from` out to match every source".into(),
            ));
        }
        Ok(compiled)
    }

    fn matches(&self, connection: &Connection<'_>) -> bool {
        let peer = connection.peer;
        let principal = peer.map_or("", SpiffeId::without_scheme);
        let namespace = peer.and_then(SpiffeId::namespace).unwrap_or("");
        let wanted = |texts: &Option<Texts>, text: &str| {
            texts
                .as_ref()
                .is_none_or(|t| !text.is_empty() && t.matches(text))
        };
        let unwanted =
            |texts: &Option<Texts>, text: &str| texts.as_ref().is_some_and(|t| t.matches(text));
        let within = |blocks: &[Block]| blocks.iter().any(|b| b.contains(connection.source_ip));
        wanted(&self.principals, principal)
            && !unwanted(&self.not_principals, principal)
            && wanted(&self.namespaces, namespace)
            && !unwanted(&self.not_namespaces, namespace)
            && self
                .service_accounts
                .as_ref()
                .is_none_or(|a| a.contains(peer))
            && !self
                .not_service_accounts
                .as_ref()
                .is_some_and(|a| a.contains(peer))
            && (self.blocks.is_empty() || within(&self.blocks))
            && !within(&self.not_blocks)
    }
}

impl Accounts {
    fn compile(
        entries: &[String],
        namespace: &str,
        field: &str,
    ) -> Result<Option<Self>, FieldError> {
        if entries.is_empty() {
            return Ok(None);
        }
        let mut accounts: HashMap<Box<str>, HashSet<Box<str>>> = HashMap::new();
        for (i, entry) in entries.iter().enumerate() {
            let (ns, account) = entry.split_once('/').unwrap_or((namespace, entry));
            let bad = |part: &str| {
                part.is_empty() || part.contains(['/', '*']) || part.chars().any(char::is_control)
            };
            if bad(ns) || bad(account) {
                return Err((
                    format!("{field}[{i}]"),
                    format!(
                        "'{}' must be `namespace/service-account` or `service-account`, without wildcards",
                        entry.escape_default()
                    ),
                ));
            }
            accounts
                .entry(ns.into())
                .or_default()
                .insert(account.into());
        }
        Ok(Some(Self(accounts)))
    }

    fn contains(&self, peer: Option<&SpiffeId>) -> bool {
        let Some((namespace, account)) =
            peer.and_then(|p| Some((p.namespace()?, p.service_account()?)))
        else {
            return false;
        };
        self.0
            .get(namespace)
            .is_some_and(|accounts| accounts.contains(account))
    }
}

impl Operation {
    fn compile(operation: &mesh::PolicyOperation) -> Result<Self, FieldError> {
        if *operation == mesh::PolicyOperation::default() {
            return Err((
                String::new(),
                "must have at least one field; leave `to` out to match every operation".into(),
            ));
        }
        Ok(Self {
            ports: ports(&operation.ports, ".ports")?,
            not_ports: ports(&operation.not_ports, ".notPorts")?,
        })
    }

    fn matches(&self, port: u16) -> bool {
        (self.ports.is_empty() || self.ports.binary_search(&port).is_ok())
            && self.not_ports.binary_search(&port).is_err()
    }
}

fn texts(patterns: &[String], field: &str) -> Result<Option<Texts>, FieldError> {
    for (i, pattern) in patterns.iter().enumerate() {
        let inner = pattern
            .strip_prefix('*')
            .or(pattern.strip_suffix('*'))
            .unwrap_or(pattern);
        if pattern.is_empty() || inner.contains('*') || pattern.chars().any(char::is_control) {
            return Err((
                format!("{field}[{i}]"),
                format!(
                    "'{}' must be an exact value, `prefix*`, `*suffix` or `*`",
                    pattern.escape_default()
                ),
            ));
        }
        if pattern.starts_with("spiffe://") {
            return Err((
                format!("{field}[{i}]"),
                format!(
                    "'{}': principals are written without `spiffe://`",
                    pattern.escape_default()
                ),
            ));
        }
    }
    Ok((!patterns.is_empty()).then(|| Texts::compile(patterns)))
}

fn blocks(entries: &[String], field: &str) -> Result<Vec<Block>, FieldError> {
    entries
        .iter()
        .enumerate()
        .map(|(i, entry)| Block::parse(entry).map_err(|problem| (format!("{field}[{i}]"), problem)))
        .collect()
}

fn ports(entries: &[u32], field: &str) -> Result<Vec<u16>, FieldError> {
    let mut ports = Vec::with_capacity(entries.len());
    for (i, entry) in entries.iter().enumerate() {
        match u16::try_from(*entry) {
            Ok(port) if port > 0 => ports.push(port),
            _ => return Err((format!("{field}[{i}]"), format!("{entry} is not a port"))),
        }
    }
    ports.sort_unstable();
    ports.dedup();
    Ok(ports)
}
