//! Authorization policies from their wire form to rules. What is not understood is an error that names its field.

use mesh_proto::mesh;

use super::attribute::Attribute;
use super::block::{Block, Blocks};
use super::facts::Effect;
use super::rule::{
    AccountList, Accounts, Capability, Condition, Operation, Ports, RequestOperation,
    RequestSource, Rest, Rule, Source, Test,
};
use super::template::{self, Paths, Template};
use super::text::{List, Methods};
use super::trust::Trust;

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
    compile(policy, 0, &Trust::default()).map(drop)
}

/// What is wrong, and in which field below the one that is being compiled.
struct FieldError(String, String);

impl FieldError {
    fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self(field.into(), problem.into())
    }

    fn below(self, path: &str) -> Self {
        Self(format!("{path}{}", self.0), self.1)
    }
}

type Compiled<T> = Result<T, FieldError>;

/// What the rules of one policy are compiled with.
struct Context<'a> {
    namespace: &'a str,
    effect: Effect,
    trust: &'a Trust,
}

/// The rules of a policy, which has `index` in its set, and their operations.
pub(super) fn compile(
    policy: &mesh::AuthorizationPolicy,
    index: u32,
    trust: &Trust,
) -> Result<Vec<(Rule, Vec<Operation>)>, PolicyError> {
    let fail = |FieldError(field, problem): FieldError| PolicyError {
        policy: format!("{}/{}", policy.namespace, policy.name),
        field,
        problem,
    };
    let action = check_policy(policy).map_err(fail)?;
    let context = Context {
        namespace: &policy.namespace,
        effect: match action {
            mesh::PolicyAction::Deny => Effect::Restrict,
            mesh::PolicyAction::Allow | mesh::PolicyAction::Audit => Effect::Permit,
        },
        trust,
    };
    let mut rules = Vec::with_capacity(policy.rules.len());
    for (position, rule) in (0..).zip(&policy.rules) {
        let path = format!("spec.rules[{position}]");
        let mut compiled = context
            .rule(rule)
            .map_err(|error| fail(error.below(&path)))?;
        compiled.0.policy = index;
        compiled.0.position = position;
        rules.push(compiled);
    }
    Ok(rules)
}

fn check_policy(policy: &mesh::AuthorizationPolicy) -> Compiled<mesh::PolicyAction> {
    if policy.namespace.is_empty() || policy.name.is_empty() {
        return Err(FieldError::new(
            "metadata.name",
            "name and namespace must not be empty",
        ));
    }
    if !policy.review_by.is_empty() && !is_day(&policy.review_by) {
        return Err(FieldError::new(
            "spec.reviewBy",
            format!(
                "'{}' is not a day: write YYYY-MM-DD",
                policy.review_by.escape_default()
            ),
        ));
    }
    mesh::PolicyAction::try_from(policy.action)
        .map_err(|_| FieldError::new("spec.action", format!("unknown action {}", policy.action)))
}

/// `YYYY-MM-DD`, a day that exists.
fn is_day(text: &str) -> bool {
    let bytes = text.as_bytes();
    let digits = |at: std::ops::Range<usize>| -> Option<u32> {
        let part = text.get(at)?;
        part.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
        part.parse().ok()
    };
    if bytes.len() != 10 || bytes[4] != b'-' || bytes[7] != b'-' {
        return false;
    }
    let (Some(year), Some(month), Some(day)) = (digits(0..4), digits(5..7), digits(8..10)) else {
        return false;
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return false,
    };
    (1..=last).contains(&day)
}

impl Context<'_> {
    fn rule(&self, rule: &mesh::PolicyRule) -> Compiled<(Rule, Vec<Operation>)> {
        let from = each(
            &rule.from,
            |i| format!(".from[{i}].source"),
            |s| self.source(s),
        )?;
        let to = each(
            &rule.to,
            |i| format!(".to[{i}].operation"),
            |o| self.operation(o),
        )?;
        let conditions = each(&rule.when, |i| format!(".when[{i}]"), |c| self.condition(c))?;
        let (left, when) = conditions
            .into_iter()
            .partition(|c: &Condition| c.attribute.needs_request());
        let bound = match mesh::TokenBinding::try_from(rule.binding) {
            Ok(binding) => binding == mesh::TokenBinding::Required,
            Err(_) => {
                return Err(FieldError::new(
                    ".binding",
                    format!("unknown binding {}", rule.binding),
                ));
            }
        };
        if self.effect == Effect::Restrict && (bound || !rule.capabilities.is_empty()) {
            let field = if bound { ".binding" } else { ".scopes" };
            return Err(FieldError::new(
                field,
                "says what a token opens, which a DENY rule cannot: use `when` on `request.auth.claims[...]`",
            ));
        }
        let compiled = Rule {
            policy: 0,
            position: 0,
            from: from.into(),
            when: Vec::into(when),
            rest: Rest {
                when: left,
                capabilities: each(
                    &rule.capabilities,
                    |i| format!(".scopes.{}", rule.capabilities[i].scope.escape_default()),
                    capability,
                )?,
                bound,
            }
            .of(),
        };
        Ok((compiled, to))
    }

    fn source(&self, source: &mesh::PolicySource) -> Compiled<Source> {
        if *source == mesh::PolicySource::default() {
            // Istio refuses it too: it looks like "nobody" and would mean "everybody".
            return Err(FieldError::new(
                "",
                "must have at least one field; leave `from` out to match every source",
            ));
        }
        let principals = list(
            &source.request_principals,
            &source.not_request_principals,
            [".requestPrincipals", ".notRequestPrincipals"],
        )?;
        let remote = blocks(
            &source.remote_ip_blocks,
            &source.not_remote_ip_blocks,
            [".remoteIpBlocks", ".notRemoteIpBlocks"],
        )?;
        Ok(Source {
            principals: self.principals(
                &source.principals,
                &source.not_principals,
                [".principals", ".notPrincipals"],
            )?,
            namespaces: list(
                &source.namespaces,
                &source.not_namespaces,
                [".namespaces", ".notNamespaces"],
            )?,
            accounts: self.accounts(
                &source.service_accounts,
                &source.not_service_accounts,
                [".serviceAccounts", ".notServiceAccounts"],
            )?,
            blocks: blocks(
                &source.ip_blocks,
                &source.not_ip_blocks,
                [".ipBlocks", ".notIpBlocks"],
            )?,
            request: (principals.is_some() || remote.is_some())
                .then(|| Box::new(RequestSource { principals, remote })),
        })
    }

    /// Principals hold in every name of the mesh's trust domain.
    fn principals(
        &self,
        wanted: &[String],
        unwanted: &[String],
        fields: [&str; 2],
    ) -> Compiled<Option<List>> {
        for (entries, field) in [(wanted, fields[0]), (unwanted, fields[1])] {
            check_texts(entries, field)?;
            if let Some(i) = entries.iter().position(|e| e.starts_with("spiffe://")) {
                return Err(FieldError::new(
                    format!("{field}[{i}]"),
                    format!(
                        "'{}': principals are written without `spiffe://`",
                        entries[i].escape_default()
                    ),
                ));
            }
        }
        Ok(List::compile(
            &self.trust.expand(wanted),
            &self.trust.expand(unwanted),
        ))
    }

    fn accounts(
        &self,
        wanted: &[String],
        unwanted: &[String],
        fields: [&str; 2],
    ) -> Compiled<Option<AccountList>> {
        let compile = |entries: &[String], field: &str| -> Compiled<Option<Accounts>> {
            let mut accounts = Accounts::default();
            for (i, entry) in entries.iter().enumerate() {
                let (namespace, account) = entry.split_once('/').unwrap_or((self.namespace, entry));
                let bad = |part: &str| {
                    part.is_empty()
                        || part.contains(['/', '*'])
                        || part.chars().any(char::is_control)
                };
                if bad(namespace) || bad(account) {
                    return Err(FieldError::new(
                        format!("{field}[{i}]"),
                        format!(
                            "'{}' must be `namespace/service-account` or `service-account`, without wildcards",
                            entry.escape_default()
                        ),
                    ));
                }
                accounts.insert(namespace, account);
            }
            Ok((!entries.is_empty()).then_some(accounts))
        };
        let (wanted, unwanted) = (compile(wanted, fields[0])?, compile(unwanted, fields[1])?);
        Ok((wanted.is_some() || unwanted.is_some()).then_some(AccountList { wanted, unwanted }))
    }

    fn operation(&self, operation: &mesh::PolicyOperation) -> Compiled<Operation> {
        if *operation == mesh::PolicyOperation::default() {
            return Err(FieldError::new(
                "",
                "must have at least one field; leave `to` out to match every operation",
            ));
        }
        let lower = |hosts: &[String]| -> Vec<String> {
            hosts.iter().map(|h| h.to_ascii_lowercase()).collect()
        };
        let request = RequestOperation {
            methods: methods(
                &operation.methods,
                &operation.not_methods,
                [".methods", ".notMethods"],
            )?,
            hosts: list(
                &lower(&operation.hosts),
                &lower(&operation.not_hosts),
                [".hosts", ".notHosts"],
            )?
            .map(Box::new),
            paths: paths(&operation.paths, ".paths")?,
            not_paths: paths(&operation.not_paths, ".notPaths")?.map(Box::new),
        };
        let RequestOperation {
            methods,
            hosts,
            paths,
            not_paths,
        } = &request;
        let empty = methods.is_any() && hosts.is_none() && paths.is_none() && not_paths.is_none();
        let (wanted, unwanted) = (
            ports(&operation.ports, ".ports")?,
            ports(&operation.not_ports, ".notPorts")?,
        );
        let any = wanted.is_empty() && unwanted.is_empty();
        Ok(Operation {
            ports: (!any).then(|| Box::new(Ports { wanted, unwanted })),
            request: (!empty).then_some(request),
        })
    }

    fn condition(&self, condition: &mesh::PolicyCondition) -> Compiled<Condition> {
        let attribute = Attribute::parse(&condition.key).map_err(|p| FieldError::new(".key", p))?;
        let (wanted, unwanted) = (&condition.values, &condition.not_values);
        if wanted.is_empty() && unwanted.is_empty() {
            return Err(FieldError::new("", "needs `values` or `notValues`"));
        }
        let fields = [".values", ".notValues"];
        let none = || FieldError::new("", "needs `values` or `notValues`");
        let test = match attribute {
            Attribute::SourceIp | Attribute::RemoteIp | Attribute::DestinationIp => {
                Test::Blocks(blocks(wanted, unwanted, fields)?.ok_or_else(none)?)
            }
            Attribute::DestinationPort => Test::Ports {
                wanted: port_texts(wanted, fields[0])?,
                unwanted: port_texts(unwanted, fields[1])?,
            },
            Attribute::SourceServiceAccount => {
                Test::Accounts(self.accounts(wanted, unwanted, fields)?.ok_or_else(none)?)
            }
            Attribute::SourcePrincipal => Test::Texts(
                self.principals(wanted, unwanted, fields)?
                    .ok_or_else(none)?,
            ),
            _ => Test::Texts(list(wanted, unwanted, fields)?.ok_or_else(none)?),
        };
        Ok(Condition { attribute, test })
    }
}

fn capability(capability: &mesh::PolicyCapability) -> Compiled<Capability> {
    // RFC 6749 §3.3.
    let token_char = |b: u8| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    if capability.scope.is_empty() || !capability.scope.bytes().all(token_char) {
        return Err(FieldError::new(
            "",
            "is not a scope: visible ASCII without spaces, quotes and backslashes",
        ));
    }
    if capability.routes.is_empty() {
        return Err(FieldError::new("", "opens no route"));
    }
    Ok(Capability {
        scope: capability.scope.as_str().into(),
        routes: each(
            &capability.routes,
            |i| format!("[{i}]"),
            |route| {
                Ok(RequestOperation {
                    methods: methods(&route.methods, &[], ["", ""])?,
                    hosts: None,
                    paths: paths(std::slice::from_ref(&route.path), "")?,
                    not_paths: None,
                })
            },
        )?,
    })
}

fn each<T, U>(
    entries: &[T],
    path: impl Fn(usize) -> String,
    compile: impl Fn(&T) -> Compiled<U>,
) -> Compiled<Vec<U>> {
    entries
        .iter()
        .enumerate()
        .map(|(i, entry)| compile(entry).map_err(|error| error.below(&path(i))))
        .collect()
}

/// Longest pattern: no identity, host or path that anybody accepts is longer.
const MAX_PATTERN: usize = 4096;

fn check_texts(patterns: &[String], field: &str) -> Compiled<()> {
    for (i, pattern) in patterns.iter().enumerate() {
        if pattern.len() > MAX_PATTERN {
            return Err(FieldError::new(
                format!("{field}[{i}]"),
                format!("has {} bytes, more than {MAX_PATTERN}", pattern.len()),
            ));
        }
        let inner = pattern
            .strip_prefix('*')
            .or(pattern.strip_suffix('*'))
            .unwrap_or(pattern);
        if pattern.is_empty() || inner.contains('*') || pattern.chars().any(char::is_control) {
            return Err(FieldError::new(
                format!("{field}[{i}]"),
                format!(
                    "'{}' must be an exact value, `prefix*`, `*suffix` or `*`",
                    pattern.escape_default()
                ),
            ));
        }
    }
    Ok(())
}

fn list(wanted: &[String], unwanted: &[String], fields: [&str; 2]) -> Compiled<Option<List>> {
    check_texts(wanted, fields[0])?;
    check_texts(unwanted, fields[1])?;
    Ok(List::compile(wanted, unwanted))
}

fn methods(wanted: &[String], unwanted: &[String], fields: [&str; 2]) -> Compiled<Methods> {
    for (entries, field) in [(wanted, fields[0]), (unwanted, fields[1])] {
        check_texts(entries, field)?;
        for (i, entry) in entries.iter().enumerate() {
            let name = entry.trim_matches('*');
            if !name.is_empty() && http::Method::from_bytes(name.as_bytes()).is_err() {
                return Err(FieldError::new(
                    format!("{field}[{i}]"),
                    format!("'{}' is not a method", entry.escape_default()),
                ));
            }
        }
    }
    Ok(Methods::compile(wanted, unwanted))
}

fn paths(patterns: &[String], field: &str) -> Compiled<Option<Paths>> {
    for (i, pattern) in patterns.iter().enumerate() {
        if template::is_template(pattern) && pattern.len() <= MAX_PATTERN {
            Template::parse(pattern).map_err(|problem| {
                FieldError::new(
                    format!("{field}[{i}]"),
                    format!("'{}': {problem}", pattern.escape_default()),
                )
            })?;
        } else {
            check_texts(std::slice::from_ref(pattern), "").map_err(|FieldError(_, problem)| {
                FieldError::new(format!("{field}[{i}]"), problem)
            })?;
        }
    }
    Paths::compile(patterns)
        .map_err(|(i, problem)| FieldError::new(format!("{field}[{i}]"), problem))
}

fn blocks(wanted: &[String], unwanted: &[String], fields: [&str; 2]) -> Compiled<Option<Blocks>> {
    let parse = |entries: &[String], field: &str| {
        entries
            .iter()
            .enumerate()
            .map(|(i, entry)| {
                Block::parse(entry).map_err(|p| FieldError::new(format!("{field}[{i}]"), p))
            })
            .collect::<Compiled<Vec<_>>>()
    };
    Ok(Blocks::new(
        parse(wanted, fields[0])?,
        parse(unwanted, fields[1])?,
    ))
}

fn ports(entries: &[u32], field: &str) -> Compiled<Vec<u16>> {
    let mut ports = Vec::with_capacity(entries.len());
    for (i, entry) in entries.iter().enumerate() {
        match u16::try_from(*entry) {
            Ok(port) if port > 0 => ports.push(port),
            _ => {
                return Err(FieldError::new(
                    format!("{field}[{i}]"),
                    format!("{entry} is not a port"),
                ));
            }
        }
    }
    ports.sort_unstable();
    ports.dedup();
    Ok(ports)
}

fn port_texts(entries: &[String], field: &str) -> Compiled<Vec<u16>> {
    entries
        .iter()
        .enumerate()
        .map(|(i, entry)| match entry.parse::<u16>() {
            Ok(port) if port > 0 && port.to_string() == *entry => Ok(port),
            _ => Err(FieldError::new(
                format!("{field}[{i}]"),
                format!("'{}' is not a port (1..65535)", entry.escape_default()),
            )),
        })
        .collect()
}
