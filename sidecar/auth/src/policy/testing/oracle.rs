//! An interpreter that follows the specification word for word on the wire form: "any of", "all present parts", "not".

use std::net::IpAddr;

use mesh_proto::mesh;

use super::case::{Case, Http};
use crate::claims::Value;
use crate::{Reason, SpiffeId};

/// Verdict, reason, policy and rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) allowed: bool,
    pub(super) reason: Reason,
    pub(super) by: Option<(String, u32)>,
}

/// Reads one case.
pub(super) struct Oracle<'a> {
    case: &'a Case,
}

/// An attribute of a request.
enum Attribute {
    /// Not there.
    Absent,
    /// Cannot be told.
    Unknown,
    /// Its values; more than one where the attribute is a list.
    Values(Vec<String>),
    /// The lines of a header that has several.
    Lines(Vec<String>),
}

impl<'a> Oracle<'a> {
    pub(super) fn new(case: &'a Case) -> Self {
        Self { case }
    }

    pub(super) fn has_dry_run(&self) -> bool {
        let audit = mesh::PolicyAction::Audit;
        self.case
            .policies
            .iter()
            .any(|p| p.dry_run && p.action() != audit)
    }

    /// Policies that hold are looked at before those that are tried.
    pub(super) fn decide(&self, with_dry_run: bool) -> Told {
        let tried = self
            .case
            .policies
            .iter()
            .filter(|p| p.dry_run && with_dry_run);
        let policies: Vec<_> = self
            .case
            .policies
            .iter()
            .filter(|p| !p.dry_run)
            .chain(tried)
            .collect();
        let first = |action| {
            let mut of_action = policies.iter().filter(|p| p.action() == action);
            of_action.find_map(|p| self.first_rule(p).map(|rule| (full_name(p), rule)))
        };
        let told = |allowed, reason, by| Told {
            allowed,
            reason,
            by,
        };
        if let Some(by) = first(mesh::PolicyAction::Deny) {
            return told(false, Reason::DeniedByPolicy, Some(by));
        }
        if policies
            .iter()
            .any(|p| p.action() == mesh::PolicyAction::Allow)
        {
            return match first(mesh::PolicyAction::Allow) {
                Some(by) => told(true, Reason::AllowedByPolicy, Some(by)),
                None => told(false, Reason::NoAllowPolicyMatched, None),
            };
        }
        if self.case.defaults.default_decision() == mesh::DefaultDecision::Deny {
            return told(false, Reason::DeniedByDefault, None);
        }
        match &self.case.peer {
            None => told(false, Reason::UnauthenticatedPeer, None),
            Some(peer) if peer.as_str().starts_with("spiffe://td/") => {
                told(true, Reason::AllowedByDefault, None)
            }
            Some(_) => told(false, Reason::ForeignTrustDomain, None),
        }
    }

    pub(super) fn audited(&self) -> Vec<(String, u32)> {
        let audit = mesh::PolicyAction::Audit;
        let policies = self.case.policies.iter().filter(|p| p.action() == audit);
        policies
            .filter_map(|p| Some((full_name(p), self.first_rule(p)?)))
            .collect()
    }

    fn first_rule(&self, policy: &mesh::AuthorizationPolicy) -> Option<u32> {
        let reader = Reader {
            case: self.case,
            http: self.case.http.as_ref(),
            deny: policy.action() == mesh::PolicyAction::Deny,
            namespace: &policy.namespace,
        };
        (0..)
            .zip(&policy.rules)
            .find(|(_, rule)| reader.rule(rule))
            .map(|(i, _)| i)
    }
}

fn full_name(policy: &mesh::AuthorizationPolicy) -> String {
    format!("{}/{}", policy.namespace, policy.name)
}

/// Reads one policy.
struct Reader<'a> {
    case: &'a Case,
    http: Option<&'a Http>,
    deny: bool,
    namespace: &'a str,
}

impl Reader<'_> {
    fn rule(&self, rule: &mesh::PolicyRule) -> bool {
        (rule.from.is_empty() || rule.from.iter().any(|s| self.source(s)))
            && (rule.to.is_empty() || rule.to.iter().any(|o| self.operation(o)))
            && rule.when.iter().all(|c| self.condition(c))
            && (rule.capabilities.is_empty()
                || rule.capabilities.iter().any(|c| self.capability(c)))
            && (rule.binding() == mesh::TokenBinding::Unspecified || self.is_bound())
    }

    fn source(&self, s: &mesh::PolicySource) -> bool {
        let remote = self.remote_ip();
        self.texts(
            &self.expand(&s.principals),
            &self.expand(&s.not_principals),
            &self.principal(),
        ) && self.texts(&s.namespaces, &s.not_namespaces, &self.peer_namespace())
            && (s.service_accounts.is_empty() || self.account(&s.service_accounts))
            && !self.account(&s.not_service_accounts)
            && self.blocks(&s.ip_blocks, &s.not_ip_blocks, Some(self.case.source_ip))
            && self.blocks(&s.remote_ip_blocks, &s.not_remote_ip_blocks, remote)
            && self.texts(
                &s.request_principals,
                &s.not_request_principals,
                &self.attribute("request.auth.principal"),
            )
    }

    fn operation(&self, o: &mesh::PolicyOperation) -> bool {
        let port = u32::from(self.case.port);
        let path = |patterns: &[String], path: &str, restricts: bool| {
            let decoded = decode(path);
            let any = |path: &str| patterns.iter().any(|pattern| path_matches(pattern, path));
            any(path) || (restricts && any(&decoded))
        };
        let http = match self.http {
            Some(http) => {
                self.texts(&o.methods, &o.not_methods, &one(http.method.as_str()))
                    && (o.paths.is_empty() || path(&o.paths, http.path, self.deny))
                    && !path(&o.not_paths, http.path, !self.deny)
                    && self.host(&o.hosts, &o.not_hosts, http.host)
            }
            None => {
                let fields = [
                    &o.methods,
                    &o.not_methods,
                    &o.paths,
                    &o.not_paths,
                    &o.hosts,
                    &o.not_hosts,
                ];
                fields.iter().all(|f| f.is_empty()) || self.deny
            }
        };
        (o.ports.is_empty() || o.ports.contains(&port)) && !o.not_ports.contains(&port) && http
    }

    /// What keeps out also knows the host by its bare name; what lets in takes it as written.
    fn host(&self, wanted: &[String], unwanted: &[String], host: &str) -> bool {
        let host = host.to_lowercase();
        let port = |c: char| c.is_ascii_digit();
        let name = host.trim_end_matches(port);
        let bare = match name.strip_suffix(':') {
            Some(name) if name.ends_with(']') || !name.contains(':') => name,
            _ => &host,
        };
        let bare = bare.strip_suffix('.').unwrap_or(bare).to_owned();
        let any = |patterns: &[String], restricts: bool| {
            patterns
                .iter()
                .map(|p| p.to_lowercase())
                .any(|p| text_matches(&p, &host) || (restricts && text_matches(&p, &bare)))
        };
        (wanted.is_empty() || any(wanted, self.deny)) && !any(unwanted, !self.deny)
    }

    fn condition(&self, c: &mesh::PolicyCondition) -> bool {
        match c.key.as_str() {
            "source.ip" => self.blocks(&c.values, &c.not_values, Some(self.case.source_ip)),
            "destination.ip" => {
                self.blocks(&c.values, &c.not_values, Some(self.case.destination_ip))
            }
            "remote.ip" => self.blocks(&c.values, &c.not_values, self.remote_ip()),
            "source.serviceAccount" => {
                (c.values.is_empty() || self.account(&c.values)) && !self.account(&c.not_values)
            }
            "source.principal" => self.texts(
                &self.expand(&c.values),
                &self.expand(&c.not_values),
                &self.principal(),
            ),
            key => self.texts(&c.values, &c.not_values, &self.attribute(key)),
        }
    }

    fn capability(&self, c: &mesh::PolicyCapability) -> bool {
        let (Some(http), Attribute::Values(scopes)) = (self.http, self.claim(&["scope"], true))
        else {
            return false;
        };
        scopes.contains(&c.scope)
            && c.routes.iter().any(|r| {
                (r.methods.is_empty() || r.methods.iter().any(|m| m == http.method.as_str()))
                    && path_matches(&r.path, http.path)
            })
    }

    fn is_bound(&self) -> bool {
        let token = self.http.and_then(|h| h.token.as_ref());
        let cnf = token.and_then(|t| t.claims().get("cnf"));
        self.case.peer.is_some()
            && matches!(cnf, Some(Value::Object(cnf)) if cnf.string("x5t#S256").is_some())
    }

    fn principal(&self) -> Attribute {
        match &self.case.peer {
            None => Attribute::Absent,
            Some(peer) => one(&peer.as_str()["spiffe://".len()..]),
        }
    }

    /// `/ns/<namespace>/sa/<account>`, as the segments of the ID say it.
    fn kubernetes(&self) -> Option<(String, String)> {
        let peer: &SpiffeId = self.case.peer.as_ref()?;
        let segments: Vec<_> = peer.as_str().split('/').skip(3).collect();
        match segments.as_slice() {
            ["ns", namespace, "sa", account] => Some(((*namespace).into(), (*account).into())),
            _ => None,
        }
    }

    fn peer_namespace(&self) -> Attribute {
        self.kubernetes()
            .map_or(Attribute::Absent, |(namespace, _)| one(&namespace))
    }

    fn account(&self, entries: &[String]) -> bool {
        let Some((namespace, account)) = self.kubernetes() else {
            return false;
        };
        entries.iter().any(|entry| match entry.split_once('/') {
            Some((n, a)) => n == namespace && a == account,
            None => self.namespace == namespace && *entry == account,
        })
    }

    /// A principal in one name of the own trust domain is meant in all of them.
    fn expand(&self, patterns: &[String]) -> Vec<String> {
        let mut own = vec![self.case.defaults.trust_domain.clone()];
        own.extend(self.case.defaults.trust_domain_aliases.iter().cloned());
        let mut all = patterns.to_vec();
        for pattern in patterns {
            for from in own.iter().map(String::as_str).chain(["cluster.local"]) {
                if let Some(path) = pattern.strip_prefix(&format!("{from}/")) {
                    all.extend(own.iter().map(|to| format!("{to}/{path}")));
                }
            }
        }
        all
    }

    fn remote_ip(&self) -> Option<IpAddr> {
        let position = usize::try_from(self.case.defaults.trusted_proxies).ok()?;
        if position == 0 {
            return Some(self.case.source_ip);
        }
        let lines = self.http?.headers.get_all("x-forwarded-for");
        let lines: Vec<_> = lines.iter().filter_map(|v| v.to_str().ok()).collect();
        let joined = lines.join(",");
        if lines.is_empty() {
            return None;
        }
        let entries: Vec<_> = joined.split(',').map(str::trim).collect();
        let entry = entries.get(entries.len().checked_sub(position)?)?;
        let with_port = || Some(entry.parse::<std::net::SocketAddr>().ok()?.ip());
        entry.parse().ok().or_else(with_port)
    }

    fn attribute(&self, key: &str) -> Attribute {
        let Some(http) = self.http else {
            return match key {
                "source.namespace" => self.peer_namespace(),
                "connection.sni" => self.case.sni.map_or(Attribute::Absent, one),
                "destination.port" => one(&self.case.port.to_string()),
                _ => Attribute::Unknown,
            };
        };
        let token = http.token.as_ref();
        let optional = |text: Option<&str>| text.map_or(Attribute::Absent, one);
        match key {
            "source.namespace" => self.peer_namespace(),
            "connection.sni" => self.case.sni.map_or(Attribute::Absent, one),
            "destination.port" => one(&self.case.port.to_string()),
            "request.auth.principal" => optional(token.and_then(|t| t.principal())),
            "request.auth.presenter" => optional(token.and_then(|t| t.presenter())),
            "request.auth.audiences" => self.claim(&["aud"], false),
            "request.headers[x-tenant]" => header(http, "x-tenant"),
            "request.headers[User-Agent]" => header(http, "user-agent"),
            "request.auth.claims[scope]" => self.claim(&["scope"], true),
            "request.auth.claims[groups]" => self.claim(&["groups"], false),
            "request.auth.claims[a][b]" => self.claim(&["a", "b"], false),
            "request.auth.claims[admin]" => self.claim(&["admin"], false),
            _ => Attribute::Unknown,
        }
    }

    /// The texts of a claim; what is no text is one only for who denies.
    fn claim(&self, names: &[&str], split: bool) -> Attribute {
        let Some(token) = self.http.and_then(|h| h.token.as_ref()) else {
            return Attribute::Absent;
        };
        let mut value = token.claims().get(names[0]);
        for name in &names[1..] {
            value = match value {
                Some(Value::Object(object)) => object.get(name),
                _ => None,
            };
        }
        let text = |value: &Value| match value {
            Value::String(text) => Some(text.to_string()),
            Value::Bool(_) | Value::Number(_) if self.deny && names != ["aud"] => {
                Some(value.to_string())
            }
            _ => None,
        };
        match value {
            Some(Value::String(words)) if split => {
                Attribute::Values(words.split(' ').map(str::to_owned).collect())
            }
            Some(Value::Array(values)) => {
                Attribute::Values(values.iter().filter_map(text).collect())
            }
            Some(value) => text(value).map_or(Attribute::Absent, |t| one(&t)),
            None => Attribute::Absent,
        }
    }

    fn texts(&self, wanted: &[String], unwanted: &[String], value: &Attribute) -> bool {
        if wanted.is_empty() && unwanted.is_empty() {
            return true;
        }
        let matches =
            |patterns: &[String], text: &String| patterns.iter().any(|p| text_matches(p, text));
        let any =
            |patterns: &[String], texts: &[String]| texts.iter().any(|t| matches(patterns, t));
        let all =
            |patterns: &[String], texts: &[String]| texts.iter().all(|t| matches(patterns, t));
        match value {
            Attribute::Absent => wanted.is_empty(),
            Attribute::Unknown => self.deny,
            Attribute::Values(values) => {
                (wanted.is_empty() || any(wanted, values)) && !any(unwanted, values)
            }
            // Several lines: who denies looks at each and at all joined; who permits wants every one to be right.
            Attribute::Lines(lines) => {
                let mut with_joined = lines.clone();
                with_joined.push(lines.join(","));
                if self.deny {
                    (wanted.is_empty() || any(wanted, &with_joined)) && !all(unwanted, lines)
                } else {
                    (wanted.is_empty() || all(wanted, lines)) && !any(unwanted, &with_joined)
                }
            }
        }
    }

    fn blocks(&self, wanted: &[String], unwanted: &[String], address: Option<IpAddr>) -> bool {
        if wanted.is_empty() && unwanted.is_empty() {
            return true;
        }
        match address {
            None => self.deny,
            Some(address) => {
                let within = |entries: &[String]| entries.iter().any(|e| is_within(e, address));
                (wanted.is_empty() || within(wanted)) && !within(unwanted)
            }
        }
    }
}

fn one(text: &str) -> Attribute {
    Attribute::Values(vec![text.to_owned()])
}

fn header(http: &Http, name: &str) -> Attribute {
    let lines: Option<Vec<_>> = http
        .headers
        .get_all(name)
        .iter()
        .map(|v| v.to_str().ok().map(str::to_owned))
        .collect();
    match lines {
        None => Attribute::Unknown,
        Some(lines) if lines.is_empty() => Attribute::Absent,
        Some(lines) if lines.len() == 1 => Attribute::Values(lines),
        Some(lines) => Attribute::Lines(lines),
    }
}

fn text_matches(pattern: &str, text: &str) -> bool {
    if pattern == "*" {
        true
    } else if let Some(suffix) = pattern.strip_prefix('*') {
        text.ends_with(suffix)
    } else if let Some(prefix) = pattern.strip_suffix('*') {
        text.starts_with(prefix)
    } else {
        text == pattern
    }
}

fn path_matches(pattern: &str, path: &str) -> bool {
    if !pattern.contains('{') {
        return text_matches(pattern, path);
    }
    template_matches(pattern, path)
}

/// Every `%` with two digits is the byte that they spell.
fn decode(path: &str) -> String {
    let mut parts = path.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2).and_then(|d| u8::from_str_radix(d, 16).ok());
        match digits {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[2..]);
            }
            None => {
                bytes.push(b'%');
                bytes.extend_from_slice(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// By trying every length that an operator can take.
fn template_matches(pattern: &str, path: &str) -> bool {
    let rest_after = |operator: &str| pattern.strip_prefix(operator);
    let ends = |allowed: fn(char) -> bool| {
        let end = path.find(|c| !allowed(c)).unwrap_or(path.len());
        (0..=end).filter(|at| path.is_char_boundary(*at))
    };
    if let Some(rest) = rest_after("{**}") {
        ends(|_| true).any(|at| template_matches(rest, &path[at..]))
    } else if let Some(rest) = rest_after("{*}") {
        ends(|c| c != '/')
            .skip(1)
            .any(|at| template_matches(rest, &path[at..]))
    } else {
        match (pattern.chars().next(), path.chars().next()) {
            (None, None) => true,
            (Some(a), Some(b)) if a == b => {
                template_matches(&pattern[a.len_utf8()..], &path[b.len_utf8()..])
            }
            _ => false,
        }
    }
}

/// Bit by bit, in the address family that is left when mapped addresses are IPv4.
fn is_within(entry: &str, address: IpAddr) -> bool {
    let bits = |ip: IpAddr| -> Vec<bool> {
        let octets = match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        (0..octets.len() * 8)
            .map(|i| octets[i / 8] & (0x80 >> (i % 8)) != 0)
            .collect()
    };
    let (base, length) = entry.split_once('/').unwrap_or((entry, "128"));
    let (Ok(base), Ok(length)) = (base.parse::<IpAddr>(), length.parse()) else {
        return false;
    };
    let (base, address) = (bits(base), bits(address.to_canonical()));
    base.len() == address.len() && base.iter().zip(&address).take(length).all(|(a, b)| a == b)
}
