//! Compiled policies against an interpreter that follows the words of the specification, on random policies.

use proptest::prelude::*;

use super::*;

/// Verdict, reason, policy and rule.
type Told = (Verdict, Reason, Option<String>, Option<u32>);

/// Word for word: "any of", "all present parts", "not".
struct Interpreter<'a> {
    peer: Option<&'a SpiffeId>,
    ip: IpAddr,
    port: u16,
}

impl Interpreter<'_> {
    fn principal(&self) -> Option<String> {
        let id = self.peer?.as_str();
        Some(id.strip_prefix("spiffe://").unwrap().to_owned())
    }

    /// `/ns/<namespace>/sa/<account>`, as the segments of the ID say it.
    fn kubernetes(&self) -> Option<(String, String)> {
        let segments: Vec<_> = self.peer?.as_str().split('/').skip(3).collect();
        match segments.as_slice() {
            ["ns", namespace, "sa", account] => Some(((*namespace).into(), (*account).into())),
            _ => None,
        }
    }

    /// A value that is not there matches no pattern.
    fn text(patterns: &[String], value: Option<&str>) -> bool {
        let Some(value) = value else { return false };
        patterns.iter().any(|pattern| {
            if pattern == "*" {
                true
            } else if let Some(suffix) = pattern.strip_prefix('*') {
                value.ends_with(suffix)
            } else if let Some(prefix) = pattern.strip_suffix('*') {
                value.starts_with(prefix)
            } else {
                value == pattern
            }
        })
    }

    fn account(&self, entries: &[String], policy_namespace: &str) -> bool {
        let Some((namespace, account)) = self.kubernetes() else {
            return false;
        };
        entries.iter().any(|entry| match entry.split_once('/') {
            Some((n, a)) => n == namespace && a == account,
            None => policy_namespace == namespace && *entry == account,
        })
    }

    /// Bit by bit, in the address family that is left when mapped addresses are IPv4.
    fn block(&self, entries: &[String]) -> bool {
        let bits = |ip: IpAddr| -> Vec<bool> {
            let octets = match ip {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            (0..octets.len() * 8)
                .map(|i| octets[i / 8] & (0x80 >> (i % 8)) != 0)
                .collect()
        };
        let address = bits(self.ip.to_canonical());
        entries.iter().any(|entry| {
            let (base, length) = entry.split_once('/').unwrap_or((entry, "128"));
            let base = bits(base.parse().unwrap());
            base.len() == address.len()
                && base
                    .iter()
                    .zip(&address)
                    .take(length.parse().unwrap())
                    .all(|(a, b)| a == b)
        })
    }

    fn source(&self, s: &mesh::PolicySource, own: &str) -> bool {
        let principal = self.principal();
        let namespace = self.kubernetes().map(|(namespace, _)| namespace);
        let (principal, namespace) = (principal.as_deref(), namespace.as_deref());
        (s.principals.is_empty() || Self::text(&s.principals, principal))
            && !Self::text(&s.not_principals, principal)
            && (s.namespaces.is_empty() || Self::text(&s.namespaces, namespace))
            && !Self::text(&s.not_namespaces, namespace)
            && (s.service_accounts.is_empty() || self.account(&s.service_accounts, own))
            && !self.account(&s.not_service_accounts, own)
            && (s.ip_blocks.is_empty() || self.block(&s.ip_blocks))
            && !self.block(&s.not_ip_blocks)
    }

    fn operation(&self, o: &mesh::PolicyOperation) -> bool {
        let port = u32::from(self.port);
        (o.ports.is_empty() || o.ports.contains(&port)) && !o.not_ports.contains(&port)
    }

    /// The first policy of an action that matches, and its first rule.
    fn first(
        &self,
        policies: &[&mesh::AuthorizationPolicy],
        action: mesh::PolicyAction,
    ) -> Option<(String, u32)> {
        for policy in policies.iter().filter(|p| p.action() == action) {
            for (i, rule) in policy.rules.iter().enumerate() {
                let own = &policy.namespace;
                if (rule.from.is_empty() || rule.from.iter().any(|s| self.source(s, own)))
                    && (rule.to.is_empty() || rule.to.iter().any(|o| self.operation(o)))
                {
                    let name = format!("{}/{}", policy.namespace, policy.name);
                    return Some((name, u32::try_from(i).unwrap()));
                }
            }
        }
        None
    }

    fn decide(&self, policies: &[&mesh::AuthorizationPolicy], deny_by_default: bool) -> Told {
        use mesh::PolicyAction::{Allow, Deny};
        if let Some((policy, rule)) = self.first(policies, Deny) {
            return (
                Verdict::Deny,
                Reason::DeniedByPolicy,
                Some(policy),
                Some(rule),
            );
        }
        if policies.iter().any(|p| p.action() == Allow) {
            return match self.first(policies, Allow) {
                Some((policy, rule)) => (
                    Verdict::Allow,
                    Reason::AllowedByPolicy,
                    Some(policy),
                    Some(rule),
                ),
                None => (Verdict::Deny, Reason::NoAllowPolicyMatched, None, None),
            };
        }
        let (verdict, reason) = match self.peer {
            _ if deny_by_default => (Verdict::Deny, Reason::DeniedByDefault),
            None => (Verdict::Deny, Reason::UnauthenticatedPeer),
            Some(peer) if peer.as_str().starts_with("spiffe://td/") => {
                (Verdict::Allow, Reason::AllowedByDefault)
            }
            Some(_) => (Verdict::Deny, Reason::ForeignTrustDomain),
        };
        (verdict, reason, None, None)
    }
}

fn strings(of: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    prop_oneof![
        4 => Just(vec![]),
        3 => proptest::sample::subsequence(of, 1..=of.len().min(2))
            .prop_map(|v| v.into_iter().map(str::to_owned).collect()),
    ]
}

prop_compose! {
    fn source()(
        principals in strings(&["td/ns/shop/sa/web", "td/ns/shop/*", "*/sa/web", "*", "other/x", "td*", "*b"]),
        not_principals in strings(&["td/ns/shop/sa/web", "*", "td/*", "*x"]),
        namespaces in strings(&["shop", "sh*", "*", "x", "*p"]),
        not_namespaces in strings(&["shop", "*op", "*"]),
        service_accounts in strings(&["web", "shop/web", "x/web"]),
        not_service_accounts in strings(&["web", "x/y"]),
        ip_blocks in strings(&["10.0.0.0/8", "10.0.0.1", "0.0.0.0/0", "192.168.0.0/15", "fd00::/7", "::/0", "::1"]),
        not_ip_blocks in strings(&["10.0.0.1/32", "10.1.0.0/16", "::/1"]),
    ) -> mesh::PolicySource {
        mesh::PolicySource {
            principals, not_principals, namespaces, not_namespaces,
            ip_blocks, not_ip_blocks, service_accounts, not_service_accounts,
        }
    }
}

fn rule() -> impl Strategy<Value = mesh::PolicyRule> {
    let operation = (
        proptest::sample::subsequence(vec![80u32, 443, 9000], 0..=2),
        proptest::sample::subsequence(vec![80u32, 22], 0..=1),
    )
        .prop_map(|(ports, not_ports)| mesh::PolicyOperation { ports, not_ports });
    // A source or an operation without a field is refused; such a rule has none instead.
    (
        proptest::collection::vec(source(), 0..3),
        proptest::collection::vec(operation, 0..2),
    )
        .prop_map(|(mut from, mut to)| {
            from.retain(|s| *s != mesh::PolicySource::default());
            to.retain(|o| *o != mesh::PolicyOperation::default());
            mesh::PolicyRule { from, to }
        })
}

prop_compose! {
    fn policy()(
        action in 0i32..3,
        rules in proptest::collection::vec(rule(), 0..3),
        dry_run in proptest::bool::weighted(0.3),
        namespace in proptest::sample::select(vec!["shop", "x"]),
        name in "[a-c]",
    ) -> mesh::AuthorizationPolicy {
        mesh::AuthorizationPolicy { name, namespace: namespace.into(), action, rules, dry_run, ..Default::default() }
    }
}

fn told(decision: &Decision) -> Told {
    let policy = decision.policy.as_deref().map(str::to_owned);
    (decision.verdict, decision.reason, policy, decision.rule)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn compiled_policies_decide_as_the_interpreter_does(
        policies in proptest::collection::vec(policy(), 0..4),
        peer in proptest::option::of(proptest::sample::select(vec![
            "spiffe://td/ns/shop/sa/web", "spiffe://td/ns/x/sa/web", "spiffe://other/x", "spiffe://td/ns/shop/sa/y",
            "spiffe://td/operator/web", "spiffe://other/ns/shop/sa/web", "spiffe://td/ns/shop/sa/web/b",
        ])),
        ip in proptest::sample::select(vec!["10.0.0.1", "10.1.2.3", "192.168.1.1", "::1", "::ffff:10.0.0.1", "fd00::1"]),
        port in proptest::sample::select(vec![80u16, 443, 22]),
        deny_by_default in any::<bool>(),
    ) {
        let mut defaults = mesh::MeshDefaults { trust_domain: "td".into(), ..Default::default() };
        if deny_by_default {
            defaults.set_default_decision(mesh::DefaultDecision::Deny);
        }
        let peer = peer.map(|p| SpiffeId::parse(p).unwrap());
        let ip: IpAddr = ip.parse().unwrap();
        let connection = Connection { peer: peer.as_ref(), source_ip: ip, destination_port: port };
        let set = PolicySet::compile(&policies, &defaults).unwrap();
        let interpreter = Interpreter { peer: peer.as_ref(), ip, port };

        let live: Vec<_> = policies.iter().filter(|p| !p.dry_run).collect();
        prop_assert_eq!(told(&set.decide(&connection)), interpreter.decide(&live, deny_by_default));

        // Policies that hold are looked at before those that are tried.
        let tried = policies.iter().filter(|p| p.dry_run);
        let all: Vec<_> = live.into_iter().chain(tried.clone()).collect();
        let audit = mesh::PolicyAction::Audit;
        let expected = tried.clone().any(|p| p.action() != audit).then(|| interpreter.decide(&all, deny_by_default));
        prop_assert_eq!(set.would_decide(&connection).as_ref().map(told), expected);
    }
}
