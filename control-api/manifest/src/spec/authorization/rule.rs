//! Rules: from whom, to what, when; and what scopes of a token open.

use std::collections::BTreeMap;

use mesh_proto::mesh;
use serde::{Deserialize, Serialize};

use super::super::shapes::Port;
use crate::error::FieldError;
use crate::kind::API_VERSION;
use crate::names;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Vec<From>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Vec<To>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    when: Option<Vec<Condition>>,
    /// Scope to routes: `orders.read: [GET /orders/**]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    scopes: Option<BTreeMap<String, Vec<String>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    binding: Option<Binding>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Binding {
    Required,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct From {
    source: Source,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Source {
    #[serde(skip_serializing_if = "Option::is_none")]
    principals: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_principals: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_principals: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_request_principals: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespaces: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_namespaces: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_accounts: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_service_accounts: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip_blocks: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_ip_blocks: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_ip_blocks: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_remote_ip_blocks: Option<Vec<String>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct To {
    operation: Operation,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Operation {
    #[serde(skip_serializing_if = "Option::is_none")]
    hosts: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_hosts: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ports: Option<Vec<Port>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_ports: Option<Vec<Port>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    methods: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_methods: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paths: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_paths: Option<Vec<String>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Condition {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_values: Option<Vec<String>>,
}

/// A list that is written must say something: empty, it would silently match everything.
fn list<'a, T>(path: &str, name: &str, entries: Option<&'a Vec<T>>) -> Result<&'a [T], FieldError> {
    let Some(entries) = entries else {
        return Ok(&[]);
    };
    let path = format!("{path}.{name}");
    if entries.is_empty() {
        return Err(FieldError::new(
            path,
            "is empty, which would match everything: list entries or remove the field",
        ));
    }
    names::at_most(&path, entries.len())?;
    Ok(entries)
}

fn texts(path: &str, name: &str, entries: Option<&Vec<String>>) -> Result<Vec<String>, FieldError> {
    list(path, name, entries).map(<[String]>::to_vec)
}

impl Source {
    fn resource(&self, path: &str) -> Result<mesh::PolicySource, FieldError> {
        let texts = |name, entries: &Option<_>| texts(path, name, entries.as_ref());
        let source = mesh::PolicySource {
            principals: texts("principals", &self.principals)?,
            not_principals: texts("notPrincipals", &self.not_principals)?,
            namespaces: texts("namespaces", &self.namespaces)?,
            not_namespaces: texts("notNamespaces", &self.not_namespaces)?,
            ip_blocks: texts("ipBlocks", &self.ip_blocks)?,
            not_ip_blocks: texts("notIpBlocks", &self.not_ip_blocks)?,
            service_accounts: texts("serviceAccounts", &self.service_accounts)?,
            not_service_accounts: texts("notServiceAccounts", &self.not_service_accounts)?,
            request_principals: texts("requestPrincipals", &self.request_principals)?,
            not_request_principals: texts("notRequestPrincipals", &self.not_request_principals)?,
            remote_ip_blocks: texts("remoteIpBlocks", &self.remote_ip_blocks)?,
            not_remote_ip_blocks: texts("notRemoteIpBlocks", &self.not_remote_ip_blocks)?,
        };
        if source == mesh::PolicySource::default() {
            return Err(FieldError::new(
                path,
                "is empty, which would match every source: say which, or remove `from`",
            ));
        }
        Ok(source)
    }
}

impl Operation {
    fn resource(&self, path: &str) -> Result<mesh::PolicyOperation, FieldError> {
        let texts = |name, entries: &Option<_>| texts(path, name, entries.as_ref());
        let ports = |name, entries: &Option<Vec<Port>>| {
            list(path, name, entries.as_ref()).map(|ports| ports.iter().map(|p| p.0).collect())
        };
        let operation = mesh::PolicyOperation {
            ports: ports("ports", &self.ports)?,
            not_ports: ports("notPorts", &self.not_ports)?,
            hosts: texts("hosts", &self.hosts)?,
            not_hosts: texts("notHosts", &self.not_hosts)?,
            methods: texts("methods", &self.methods)?,
            not_methods: texts("notMethods", &self.not_methods)?,
            paths: texts("paths", &self.paths)?,
            not_paths: texts("notPaths", &self.not_paths)?,
        };
        if operation == mesh::PolicyOperation::default() {
            return Err(FieldError::new(
                path,
                "is empty, which would match every operation: say which, or remove `to`",
            ));
        }
        Ok(operation)
    }
}

impl Condition {
    fn resource(&self, path: &str) -> Result<mesh::PolicyCondition, FieldError> {
        if self.values.is_none() && self.not_values.is_none() {
            return Err(FieldError::new(
                path,
                "has neither `values` nor `notValues`: a condition needs one of them",
            ));
        }
        Ok(mesh::PolicyCondition {
            key: self.key.clone(),
            values: texts(path, "values", self.values.as_ref())?,
            not_values: texts(path, "notValues", self.not_values.as_ref())?,
        })
    }
}

/// `GET /orders/**`, `GET,HEAD /orders`, `* /orders`.
fn route(path: &str, text: &str) -> Result<mesh::PolicyRoute, FieldError> {
    let fail = |problem: &str| {
        FieldError::new(
            path,
            format!(
                "'{}' {problem}: write `METHOD[,METHOD] /path`, or `* /path` for every method",
                text.escape_default()
            ),
        )
    };
    let (methods, route) = text.split_once(' ').ok_or_else(|| fail("is not a route"))?;
    if !route.starts_with('/') || route.contains(' ') {
        return Err(fail("has no path"));
    }
    let methods: Vec<String> = match methods {
        "*" => vec![],
        listed => listed.split(',').map(str::to_owned).collect(),
    };
    if methods
        .iter()
        .any(|m| m.is_empty() || !m.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
    {
        return Err(fail("names no method"));
    }
    // `*` and `**` as whole segments are the operators, with or without braces.
    let segments: Vec<_> = route
        .split('/')
        .map(|segment| match segment {
            "*" => "{*}",
            "**" => "{**}",
            other => other,
        })
        .collect();
    Ok(mesh::PolicyRoute {
        methods,
        path: segments.join("/"),
    })
}

impl Rule {
    /// The resource, checked in the shape of the document; what its values mean is checked by whoever enforces them.
    pub(super) fn resource(
        &self,
        path: &str,
        api_version: &str,
    ) -> Result<mesh::PolicyRule, FieldError> {
        for (name, written) in [
            ("scopes", self.scopes.is_some()),
            ("binding", self.binding.is_some()),
        ] {
            if written && api_version != API_VERSION {
                return Err(FieldError::new(
                    format!("{path}.{name}"),
                    format!("is a field of {API_VERSION}, Istio's API does not have it"),
                ));
            }
        }
        let from = list(path, "from", self.from.as_ref())?;
        let to = list(path, "to", self.to.as_ref())?;
        let when = list(path, "when", self.when.as_ref())?;
        Ok(mesh::PolicyRule {
            from: from
                .iter()
                .enumerate()
                .map(|(i, f)| f.source.resource(&format!("{path}.from[{i}].source")))
                .collect::<Result<_, _>>()?,
            to: to
                .iter()
                .enumerate()
                .map(|(i, t)| t.operation.resource(&format!("{path}.to[{i}].operation")))
                .collect::<Result<_, _>>()?,
            when: when
                .iter()
                .enumerate()
                .map(|(i, c)| c.resource(&format!("{path}.when[{i}]")))
                .collect::<Result<_, _>>()?,
            capabilities: self.capabilities(path)?,
            binding: match self.binding {
                None => mesh::TokenBinding::Unspecified,
                Some(Binding::Required) => mesh::TokenBinding::Required,
            }
            .into(),
        })
    }

    fn capabilities(&self, path: &str) -> Result<Vec<mesh::PolicyCapability>, FieldError> {
        let Some(scopes) = &self.scopes else {
            return Ok(vec![]);
        };
        let path = format!("{path}.scopes");
        if scopes.is_empty() {
            return Err(FieldError::new(
                path,
                "is empty, which would open every route: list scopes or remove the field",
            ));
        }
        names::at_most(&path, scopes.len())?;
        scopes
            .iter()
            .map(|(scope, routes)| {
                let field = format!("{path}.{scope}");
                let listed = list(&path, scope, Some(routes))?;
                Ok(mesh::PolicyCapability {
                    scope: scope.clone(),
                    routes: listed
                        .iter()
                        .enumerate()
                        .map(|(i, text)| route(&format!("{field}[{i}]"), text))
                        .collect::<Result<_, _>>()?,
                })
            })
            .collect()
    }
}
