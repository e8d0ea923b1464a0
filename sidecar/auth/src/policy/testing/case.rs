//! Random policies and a random request, and what both readings say of them.

use std::fmt::Write as _;
use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use mesh_proto::mesh;

use super::oracle::{Oracle, Told};
use super::random::Random;
use crate::claims;
use crate::policy::{Connection, Decision, PolicySet, Request};
use crate::token::VerifiedToken;
use crate::{Reason, SpiffeId};

/// A random case.
#[derive(Debug)]
pub struct Case {
    pub(super) policies: Vec<mesh::AuthorizationPolicy>,
    pub(super) defaults: mesh::MeshDefaults,
    pub(super) peer: Option<SpiffeId>,
    pub(super) source_ip: IpAddr,
    pub(super) destination_ip: IpAddr,
    pub(super) port: u16,
    pub(super) sni: Option<&'static str>,
    /// `None`: opaque bytes.
    pub(super) http: Option<Http>,
    /// More requests on the same connection.
    pub(super) others: Vec<Http>,
}

/// The request of a case.
#[derive(Debug)]
pub(super) struct Http {
    pub(super) method: Method,
    pub(super) host: &'static str,
    pub(super) path: &'static str,
    pub(super) headers: HeaderMap,
    pub(super) token: Option<VerifiedToken>,
}

impl Http {
    fn on<'a>(&'a self, connection: Connection<'a>) -> Request<'a> {
        Request {
            connection,
            method: &self.method,
            host: self.host,
            path: self.path,
            headers: &self.headers,
            token: self.token.as_ref(),
        }
    }
}

const PRINCIPALS: &[&str] = &[
    "td/ns/shop/sa/web",
    "td/ns/shop/*",
    "*/sa/web",
    "*",
    "other/x",
    "td*",
    "*b",
    "old/ns/shop/sa/web",
    "cluster.local/ns/x/sa/web",
];
const NAMESPACES: &[&str] = &["shop", "sh*", "*", "x", "*p"];
const ACCOUNTS: &[&str] = &["web", "shop/web", "x/web", "x/y"];
const BLOCKS: &[&str] = &[
    "10.0.0.0/8",
    "10.0.0.1",
    "0.0.0.0/0",
    "192.168.0.0/15",
    "fd00::/7",
    "::/0",
    "::1",
    "203.0.113.0/24",
];
const TOKEN_PRINCIPALS: &[&str] = &[
    "https://idp/alice",
    "*",
    "https://idp/*",
    "*/bob",
    "https://idp/carol",
];
const HOSTS: &[&str] = &[
    "shop.example",
    "SHOP.example",
    "*.example",
    "shop*",
    "*",
    "shop.example:8080",
    "*:8080",
    "api",
];
const METHODS: &[&str] = &["GET", "POST", "P*", "*", "*T", "PURGE", "get"];
const PATHS: &[&str] = &[
    "/orders",
    "/orders/*",
    "*/items",
    "*",
    "/orders/{*}",
    "/orders/{**}",
    "/{*}/7/items",
    "/admin*",
    "/ord*",
    "*s",
    "/orders/{*}/{**}/x",
    "/{**}",
    "/admin",
    "/admin!",
    "/orders/a:b",
];
const REQUEST_PATHS: &[&str] = &[
    "/orders",
    "/orders/7",
    "/orders/7/items",
    "/",
    "/admin",
    "/admin/x",
    "/items",
    "/orders/",
    "/orders/7/a/x",
    "*",
    "/admin%21",
    "/orders/a%3Ab",
];
const KEYS: &[&str] = &[
    "request.headers[x-tenant]",
    "request.headers[User-Agent]",
    "request.auth.claims[groups]",
    "request.auth.claims[a][b]",
    "request.auth.claims[scope]",
    "request.auth.claims[admin]",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "source.namespace",
    "source.principal",
    "connection.sni",
    "source.ip",
    "remote.ip",
    "destination.ip",
    "destination.port",
    "source.serviceAccount",
];
const VALUES: &[&str] = &[
    "a",
    "b",
    "a*",
    "*b",
    "*",
    "https://idp/alice",
    "shop",
    "td/ns/shop/sa/web",
    "orders.read",
    "true",
    "5",
    "a,b",
    "client",
];
const PEERS: &[&str] = &[
    "spiffe://td/ns/shop/sa/web",
    "spiffe://td/ns/x/sa/web",
    "spiffe://other/x",
    "spiffe://td/ns/shop/sa/y",
    "spiffe://td/operator/web",
    "spiffe://other/ns/shop/sa/web",
    "spiffe://old/ns/shop/sa/web",
];
const IPS: &[&str] = &[
    "10.0.0.1",
    "10.1.2.3",
    "192.168.1.1",
    "::1",
    "::ffff:10.0.0.1",
    "fd00::1",
];
const SCOPES: &[&str] = &["orders.read", "orders.write", "admin"];

impl Case {
    /// The case that a seed gives.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let random = &mut random;
        let mut defaults = mesh::MeshDefaults {
            trust_domain: "td".into(),
            trusted_proxies: u32::try_from(random.below(3)).unwrap_or(0),
            ..Default::default()
        };
        if random.chance(20) {
            defaults.trust_domain_aliases.push("old".into());
        }
        if random.chance(30) {
            defaults.set_default_decision(mesh::DefaultDecision::Deny);
        }
        let count = [0, 1, 1, 2, 3, 4, 8, 12, 40][random.below(9)];
        let policies = (0..count).map(|i| policy(random, i)).collect();
        let peer = random.chance(85).then(|| random.pick(PEERS));
        let first = random.chance(85).then(|| http(random));
        let mut others: Vec<_> = (0..random.below(6)).map(|_| http(random)).collect();
        // Alike in most: what tells them apart has to be looked at.
        for (other, first) in others.iter_mut().zip(first.iter().cycle()) {
            (other.method, other.path) = (first.method.clone(), first.path);
            if random.chance(80) {
                other.host = first.host;
            }
            if random.chance(50) {
                other.token.clone_from(&first.token);
            }
        }
        Self {
            policies,
            defaults,
            peer: peer.and_then(|text| SpiffeId::parse(text).ok()),
            source_ip: address(random.pick(IPS)),
            destination_ip: address(random.pick(IPS)),
            port: random.pick(&[80, 443, 22]),
            sni: random.chance(50).then(|| random.pick(&["a", "b", "shop"])),
            http: first,
            others,
        }
    }

    /// Decides the case in every way there is and compares.
    ///
    /// # Errors
    /// What differs.
    pub fn compare(&self) -> Result<Verdicts, String> {
        let set = PolicySet::compile(&self.policies, &self.defaults).map_err(|e| e.to_string())?;
        let connection = Connection {
            peer: self.peer.as_ref(),
            source_ip: self.source_ip,
            destination_ip: self.destination_ip,
            destination_port: self.port,
            sni: self.sni,
        };
        let request = self.http.as_ref().map(|http| http.on(connection));
        let oracle = Oracle::new(self);
        let expected = oracle.decide(false);
        let would = oracle.has_dry_run().then(|| oracle.decide(true));
        let (decided, tried) = match &request {
            None => (set.decide(&connection), set.would_decide(&connection)),
            Some(request) => (
                set.decide_request(request),
                set.would_decide_request(request),
            ),
        };
        let mut problems = String::new();
        let mut lacking = None;
        let mut same = |what: &str, is: Option<Told>, expected: Option<Told>| {
            if is != expected {
                let _ = writeln!(
                    problems,
                    "{what}: compiled {is:?}, interpreted {expected:?}"
                );
            }
        };
        same("verdict", Some(told(&decided)), Some(expected.clone()));
        same("dry run", tried.as_ref().map(told), would.clone());
        if let Some(request) = &request {
            let standing = set.standing(&connection);
            let indexed = told(&set.decide_with(&standing, request));
            same("index", Some(indexed), Some(expected.clone()));
            // With the scope that is lacking, of which the oracle does not know.
            let advice = set.decide_with(&standing, request).scope;
            if advice != decided.scope {
                lacking = Some((advice, decided.scope));
            }
            let tried = set.would_decide_with(&standing, request);
            same("dry run by index", tried.as_ref().map(told), would);
        }
        if let Some((indexed, scanned)) = lacking {
            let _ = writeln!(problems, "lacking scope: {indexed:?} by index, {scanned:?}");
        }
        let standing = set.standing(&connection);
        for http in (0..3).flat_map(|_| self.http.iter().chain(&self.others)) {
            let request = http.on(connection);
            let (remembered, anew) = (
                set.decide_remembering(&standing, &request),
                set.decide_with(&standing, &request),
            );
            if remembered != anew {
                let _ = writeln!(problems, "remembered {remembered:?}, decided {anew:?}");
            }
        }
        let mut audited = Vec::new();
        set.audited(&connection, request.as_ref(), |policy, rule| {
            audited.push((policy.to_owned(), rule));
        });
        let listed = oracle.audited();
        if audited != listed {
            let _ = writeln!(
                problems,
                "audit: compiled {audited:?}, interpreted {listed:?}"
            );
        }
        if let Some(request) = &request {
            let mut indexed = Vec::new();
            let standing = set.standing(&connection);
            set.audited_with(&standing, request, |policy, rule| {
                indexed.push((policy.to_owned(), rule));
            });
            if indexed != listed {
                let _ = writeln!(
                    problems,
                    "audit by index: compiled {indexed:?}, interpreted {listed:?}"
                );
            }
        }
        if problems.is_empty() {
            Ok(Verdicts {
                allowed: decided.is_allowed(),
                by_rule: decided.rule.is_some(),
                http: request.is_some(),
            })
        } else {
            Err(format!("{problems}{self:#?}"))
        }
    }
}

/// What was decided of a case, for counts that show that cases are not all alike.
#[derive(Debug, Clone, Copy)]
pub struct Verdicts {
    /// Let in.
    pub allowed: bool,
    /// By a rule rather than by default or for lack of one.
    pub by_rule: bool,
    /// An HTTP request rather than opaque bytes.
    pub http: bool,
}

fn told(decision: &Decision<'_>) -> Told {
    Told {
        allowed: decision.is_allowed(),
        reason: match decision.reason {
            // The oracle does not know of advice.
            Reason::InsufficientScope => Reason::NoAllowPolicyMatched,
            reason => reason,
        },
        by: decision.policy.map(str::to_owned).zip(decision.rule),
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap_or(IpAddr::from([0; 4]))
}

fn policy(random: &mut Random, index: usize) -> mesh::AuthorizationPolicy {
    let action = random.pick(&[
        mesh::PolicyAction::Allow,
        mesh::PolicyAction::Allow,
        mesh::PolicyAction::Deny,
        mesh::PolicyAction::Audit,
    ]);
    let rules = (0..random.below(4)).map(|_| rule(random, action)).collect();
    mesh::AuthorizationPolicy {
        name: format!("p{index}"),
        namespace: random.pick(&["shop", "x"]).into(),
        action: action.into(),
        rules,
        dry_run: random.chance(25),
        ..Default::default()
    }
}

fn rule(random: &mut Random, action: mesh::PolicyAction) -> mesh::PolicyRule {
    // A source or an operation without a field is refused; such a rule has none instead.
    let mut from: Vec<_> = (0..random.below(3)).map(|_| source(random)).collect();
    let mut to: Vec<_> = (0..random.below(3)).map(|_| operation(random)).collect();
    from.retain(|s| *s != mesh::PolicySource::default());
    to.retain(|o| *o != mesh::PolicyOperation::default());
    let when = (0..[0, 0, 0, 1, 1, 2][random.below(6)])
        .map(|_| condition(random))
        .collect();
    let opens = action != mesh::PolicyAction::Deny;
    let capabilities = (0..if opens && random.chance(15) { 2 } else { 0 })
        .map(|_| mesh::PolicyCapability {
            scope: random.pick(SCOPES).into(),
            routes: vec![mesh::PolicyRoute {
                methods: random.some(&["GET", "POST"]),
                path: random.pick(&["/orders", "/orders/{**}", "/{**}"]).into(),
            }],
        })
        .collect();
    mesh::PolicyRule {
        from,
        to,
        when,
        capabilities,
        binding: i32::from(opens && random.chance(5)),
    }
}

fn source(random: &mut Random) -> mesh::PolicySource {
    let mut source = mesh::PolicySource::default();
    // Few fields at a time, so that rules match now and then.
    for _ in 0..=random.below(2) {
        match random.below(12) {
            0 => source.principals = random.some(PRINCIPALS),
            1 => source.not_principals = random.some(PRINCIPALS),
            2 => source.namespaces = random.some(NAMESPACES),
            3 => source.not_namespaces = random.some(NAMESPACES),
            4 => source.service_accounts = random.some(ACCOUNTS),
            5 => source.not_service_accounts = random.some(ACCOUNTS),
            6 => source.ip_blocks = random.some(BLOCKS),
            7 => source.not_ip_blocks = random.some(BLOCKS),
            8 => source.remote_ip_blocks = random.some(BLOCKS),
            9 => source.not_remote_ip_blocks = random.some(BLOCKS),
            10 => source.request_principals = random.some(TOKEN_PRINCIPALS),
            _ => source.not_request_principals = random.some(TOKEN_PRINCIPALS),
        }
    }
    source
}

fn operation(random: &mut Random) -> mesh::PolicyOperation {
    let mut operation = mesh::PolicyOperation::default();
    for _ in 0..=random.below(2) {
        match random.below(8) {
            0 => operation.ports = vec![random.pick(&[80, 443, 9000])],
            1 => operation.not_ports = vec![random.pick(&[80, 22])],
            2 => operation.hosts = random.some(HOSTS),
            3 => operation.not_hosts = random.some(HOSTS),
            4 => operation.methods = random.some(METHODS),
            5 => operation.not_methods = random.some(METHODS),
            6 => operation.paths = random.some(PATHS),
            _ => operation.not_paths = random.some(PATHS),
        }
    }
    operation
}

fn condition(random: &mut Random) -> mesh::PolicyCondition {
    let key = random.pick(KEYS);
    let of = match key {
        "source.ip" | "remote.ip" | "destination.ip" => BLOCKS,
        "destination.port" => &["80", "443", "9000"],
        "source.serviceAccount" => ACCOUNTS,
        "source.principal" => PRINCIPALS,
        _ => VALUES,
    };
    let mut condition = mesh::PolicyCondition {
        key: key.into(),
        values: random.some(of),
        not_values: random.some(of),
    };
    if condition.values.is_empty() && condition.not_values.is_empty() {
        condition.values.push(random.pick(of).into());
    }
    condition
}

fn http(random: &mut Random) -> Http {
    let mut headers = HeaderMap::new();
    for name in ["x-tenant", "user-agent"] {
        for _ in 0..[0, 1, 1, 2][random.below(4)] {
            let value = random.pick(&[
                &b"a"[..],
                b"b",
                b"ab",
                b"a,b",
                b"",
                b"a\xff",
                b"caf\xc3\xa9",
            ]);
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.append(HeaderName::from_static(name), value);
            }
        }
    }
    for _ in 0..random.below(3) {
        let value = random.pick(&[
            "203.0.113.9",
            "10.0.0.1, 203.0.113.9",
            "x",
            "::1",
            "[fd00::1]:80, 10.0.0.1:443",
            "",
        ]);
        headers.append("x-forwarded-for", HeaderValue::from_static(value));
    }
    let methods = [Method::GET, Method::POST, Method::PUT, Method::DELETE];
    let method = match random.below(6) {
        4 => Method::from_bytes(b"PURGE").unwrap_or_default(),
        5 => Method::from_bytes(b"get").unwrap_or_default(),
        known => methods[known].clone(),
    };
    Http {
        method,
        host: random.pick(&[
            "shop.example",
            "SHOP.Example",
            "shop.example:8080",
            "shop.example.",
            "api",
            "api:80",
            "[::1]:80",
        ]),
        path: random.pick(REQUEST_PATHS),
        headers,
        token: random.chance(60).then(|| token(random)).flatten(),
    }
}

fn token(random: &mut Random) -> Option<VerifiedToken> {
    let mut members = vec![];
    if random.chance(90) {
        members.push(r#""iss":"https://idp""#.to_owned());
        members.push(format!(
            r#""sub":"{}""#,
            random.pick(&["alice", "bob", "a"])
        ));
    }
    let values = [
        r#""a""#,
        r#""b""#,
        r#"["a","b"]"#,
        r#"["x"]"#,
        "true",
        "5",
        "null",
        r#"{"b":"a"}"#,
        r#"{"b":["a",5,true]}"#,
        "[5,true]",
        r#""a b""#,
        "[]",
    ];
    for name in ["groups", "a", "admin"] {
        if random.chance(50) {
            members.push(format!(r#""{name}":{}"#, random.pick(&values)));
        }
    }
    if random.chance(60) {
        members.push(format!(
            r#""scope":{}"#,
            random.pick(&[
                r#""orders.read a""#,
                r#""admin""#,
                r#"["orders.write","b"]"#,
                "5"
            ])
        ));
    }
    if random.chance(50) {
        members.push(format!(
            r#""aud":{}"#,
            random.pick(&[r#""a""#, r#"["b","client"]"#])
        ));
    }
    if random.chance(50) {
        members.push(r#""azp":"client""#.to_owned());
    }
    if random.chance(30) {
        members.push(r#""cnf":{"x5t#S256":"x"}"#.to_owned());
    }
    let object = claims::parse(format!("{{{}}}", members.join(",")).as_bytes()).ok()?;
    Some(VerifiedToken::unverified_for_policy_test("test", object))
}
