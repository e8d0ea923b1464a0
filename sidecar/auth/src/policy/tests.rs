//! The compiled policies against a table of cases, and against an interpreter that follows the words of the
//! specification.

use proptest::prelude::*;

use super::*;

fn defaults() -> mesh::MeshDefaults {
    mesh::MeshDefaults {
        trust_domain: "td".into(),
        ..Default::default()
    }
}

fn policy(action: mesh::PolicyAction, rules: Vec<mesh::PolicyRule>) -> mesh::AuthorizationPolicy {
    mesh::AuthorizationPolicy {
        name: "p".into(),
        namespace: "shop".into(),
        action: action.into(),
        rules,
        ..Default::default()
    }
}

fn from(source: mesh::PolicySource) -> mesh::PolicyRule {
    mesh::PolicyRule {
        from: vec![source],
        to: vec![],
    }
}

fn principals(list: &[&str]) -> mesh::PolicySource {
    mesh::PolicySource {
        principals: list.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

fn decide(
    policies: &[mesh::AuthorizationPolicy],
    peer: Option<&str>,
    ip: &str,
    port: u16,
) -> (Verdict, Reason) {
    let peer = peer.map(|p| SpiffeId::parse(p).unwrap());
    let decision = PolicySet::compile(policies, &defaults())
        .unwrap()
        .decide(&Connection {
            peer: peer.as_ref(),
            source_ip: ip.parse().unwrap(),
            destination_port: port,
        });
    (decision.verdict, decision.reason)
}

const WEB: Option<&str> = Some("spiffe://td/ns/shop/sa/web");

#[test]
fn without_a_policy_only_authenticated_peers_of_the_own_domain_get_in() {
    assert_eq!(
        decide(&[], WEB, "10.0.0.1", 80),
        (Verdict::Allow, Reason::AllowedByDefault)
    );
    assert_eq!(
        decide(&[], None, "10.0.0.1", 80),
        (Verdict::Deny, Reason::UnauthenticatedPeer)
    );
    let foreign = Some("spiffe://other/ns/shop/sa/web");
    assert_eq!(
        decide(&[], foreign, "10.0.0.1", 80),
        (Verdict::Deny, Reason::ForeignTrustDomain)
    );
    let deny = mesh::MeshDefaults {
        default_decision: mesh::DefaultDecision::Deny.into(),
        ..defaults()
    };
    let id = SpiffeId::parse("spiffe://td/ns/shop/sa/web").unwrap();
    let decision = PolicySet::compile(&[], &deny).unwrap().decide(&Connection {
        peer: Some(&id),
        source_ip: [10, 0, 0, 1].into(),
        destination_port: 80,
    });
    assert_eq!(decision.reason, Reason::DeniedByDefault);
}

#[test]
fn rules_match_as_documented() {
    use mesh::PolicyAction::{Allow, Audit, Deny};
    let port = |ports: &[u32], not_ports: &[u32]| mesh::PolicyRule {
        from: vec![],
        to: vec![mesh::PolicyOperation {
            ports: ports.to_vec(),
            not_ports: not_ports.to_vec(),
        }],
    };
    let source = |change: fn(&mut mesh::PolicySource)| {
        let mut source = mesh::PolicySource::default();
        change(&mut source);
        from(source)
    };
    let cases: Vec<(&str, Vec<mesh::AuthorizationPolicy>, Option<&str>, Verdict)> = vec![
        (
            "an ALLOW policy without rules denies all",
            vec![policy(Allow, vec![])],
            WEB,
            Verdict::Deny,
        ),
        (
            "an empty rule allows all, plaintext too",
            vec![policy(Allow, vec![mesh::PolicyRule::default()])],
            None,
            Verdict::Allow,
        ),
        (
            "exact principal",
            vec![policy(
                Allow,
                vec![from(principals(&["td/ns/shop/sa/web"]))],
            )],
            WEB,
            Verdict::Allow,
        ),
        (
            "another principal",
            vec![policy(
                Allow,
                vec![from(principals(&["td/ns/shop/sa/web2"]))],
            )],
            WEB,
            Verdict::Deny,
        ),
        (
            "prefix",
            vec![policy(Allow, vec![from(principals(&["td/ns/shop/*"]))])],
            WEB,
            Verdict::Allow,
        ),
        (
            "suffix",
            vec![policy(Allow, vec![from(principals(&["*/sa/web"]))])],
            WEB,
            Verdict::Allow,
        ),
        (
            "presence",
            vec![policy(Allow, vec![from(principals(&["*"]))])],
            WEB,
            Verdict::Allow,
        ),
        (
            "presence without a peer",
            vec![policy(Allow, vec![from(principals(&["*"]))])],
            None,
            Verdict::Deny,
        ),
        (
            "DENY of plaintext by notPrincipals",
            vec![
                policy(Deny, vec![source(|s| s.not_principals = vec!["*".into()])]),
                policy(Allow, vec![mesh::PolicyRule::default()]),
            ],
            None,
            Verdict::Deny,
        ),
        (
            "DENY before ALLOW",
            vec![
                policy(Allow, vec![mesh::PolicyRule::default()]),
                policy(Deny, vec![from(principals(&["td/ns/shop/sa/web"]))]),
            ],
            WEB,
            Verdict::Deny,
        ),
        (
            "DENY of somebody else",
            vec![policy(Deny, vec![from(principals(&["td/ns/shop/sa/x"]))])],
            WEB,
            Verdict::Allow,
        ),
        (
            "AUDIT never decides",
            vec![policy(Audit, vec![mesh::PolicyRule::default()])],
            WEB,
            Verdict::Allow,
        ),
        (
            "namespace",
            vec![policy(
                Allow,
                vec![source(|s| s.namespaces = vec!["shop".into()])],
            )],
            WEB,
            Verdict::Allow,
        ),
        (
            "not namespace",
            vec![policy(
                Allow,
                vec![source(|s| s.not_namespaces = vec!["shop".into()])],
            )],
            WEB,
            Verdict::Deny,
        ),
        (
            "service account in the policy's namespace",
            vec![policy(
                Allow,
                vec![source(|s| s.service_accounts = vec!["web".into()])],
            )],
            WEB,
            Verdict::Allow,
        ),
        (
            "service account of another namespace",
            vec![policy(
                Allow,
                vec![source(|s| s.service_accounts = vec!["other/web".into()])],
            )],
            WEB,
            Verdict::Deny,
        ),
        (
            "not service account",
            vec![policy(
                Allow,
                vec![source(|s| s.not_service_accounts = vec!["shop/web".into()])],
            )],
            WEB,
            Verdict::Deny,
        ),
        (
            "address in block",
            vec![policy(
                Allow,
                vec![source(|s| s.ip_blocks = vec!["10.0.0.0/8".into()])],
            )],
            WEB,
            Verdict::Allow,
        ),
        (
            "address outside block",
            vec![policy(
                Allow,
                vec![source(|s| s.ip_blocks = vec!["10.0.0.2".into()])],
            )],
            WEB,
            Verdict::Deny,
        ),
        (
            "excluded address",
            vec![policy(
                Allow,
                vec![source(|s| {
                    s.ip_blocks = vec!["0.0.0.0/0".into()];
                    s.not_ip_blocks = vec!["10.0.0.1".into()];
                })],
            )],
            WEB,
            Verdict::Deny,
        ),
        (
            "IPv6 block and IPv4 peer",
            vec![policy(
                Allow,
                vec![source(|s| s.ip_blocks = vec!["::/0".into()])],
            )],
            WEB,
            Verdict::Deny,
        ),
        (
            "port",
            vec![policy(Allow, vec![port(&[443, 80], &[])])],
            WEB,
            Verdict::Allow,
        ),
        (
            "other port",
            vec![policy(Allow, vec![port(&[443], &[])])],
            WEB,
            Verdict::Deny,
        ),
        (
            "excluded port",
            vec![policy(Allow, vec![port(&[], &[80])])],
            WEB,
            Verdict::Deny,
        ),
    ];
    for (what, policies, peer, verdict) in cases {
        assert_eq!(decide(&policies, peer, "10.0.0.1", 80).0, verdict, "{what}");
    }
}

#[test]
fn the_decision_names_policy_and_rule_and_dry_run_decides_nothing() {
    let rules = vec![
        from(principals(&["td/a"])),
        from(principals(&["td/ns/shop/sa/web"])),
    ];
    let id = SpiffeId::parse("spiffe://td/ns/shop/sa/web").unwrap();
    let connection = Connection {
        peer: Some(&id),
        source_ip: [10, 0, 0, 1].into(),
        destination_port: 80,
    };
    let set = PolicySet::compile(
        &[policy(mesh::PolicyAction::Deny, rules.clone())],
        &defaults(),
    )
    .unwrap();
    let decision = set.decide(&connection);
    assert_eq!(
        (decision.policy.as_deref(), decision.rule),
        (Some("shop/p"), Some(1))
    );
    assert_eq!(set.would_decide(&connection), None);
    let mut dry = policy(mesh::PolicyAction::Deny, rules);
    dry.dry_run = true;
    let set = PolicySet::compile(&[dry], &defaults()).unwrap();
    assert_eq!(set.decide(&connection).verdict, Verdict::Allow);
    assert_eq!(
        set.would_decide(&connection).unwrap().verdict,
        Verdict::Deny
    );
}

#[test]
fn a_field_that_cannot_be_compiled_is_named() {
    let cases: Vec<(mesh::PolicyRule, &str)> = vec![
        (
            from(mesh::PolicySource {
                ip_blocks: vec!["10.0.0.0/8".into(), "10.0.0.0/33".into()],
                ..Default::default()
            }),
            "spec.rules[0].from[0].source.ipBlocks[1]",
        ),
        (
            from(mesh::PolicySource {
                not_ip_blocks: vec!["x".into()],
                ..Default::default()
            }),
            "spec.rules[0].from[0].source.notIpBlocks[0]",
        ),
        (
            from(principals(&["a*b"])),
            "spec.rules[0].from[0].source.principals[0]",
        ),
        (
            from(principals(&[""])),
            "spec.rules[0].from[0].source.principals[0]",
        ),
        (
            from(principals(&["spiffe://td/a"])),
            "spec.rules[0].from[0].source.principals[0]",
        ),
        (
            from(mesh::PolicySource {
                service_accounts: vec!["*".into()],
                ..Default::default()
            }),
            "spec.rules[0].from[0].source.serviceAccounts[0]",
        ),
        (
            from(mesh::PolicySource::default()),
            "spec.rules[0].from[0].source",
        ),
        (
            mesh::PolicyRule {
                from: vec![],
                to: vec![mesh::PolicyOperation {
                    ports: vec![70000],
                    not_ports: vec![],
                }],
            },
            "spec.rules[0].to[0].operation.ports[0]",
        ),
        (
            mesh::PolicyRule {
                from: vec![],
                to: vec![mesh::PolicyOperation::default()],
            },
            "spec.rules[0].to[0].operation",
        ),
    ];
    for (rule, field) in cases {
        let error = validate(&policy(mesh::PolicyAction::Allow, vec![rule])).unwrap_err();
        assert_eq!(
            (error.policy.as_str(), error.field.as_str()),
            ("shop/p", field),
            "{error}"
        );
    }
}

#[test]
fn modes_resolve_from_the_most_specific_scope() {
    let make = |name: &str,
                namespace: &str,
                selects: bool,
                mode: mesh::MtlsMode,
                ports: &[(u32, mesh::MtlsMode)]| {
        mesh::PeerAuthentication {
            name: name.into(),
            namespace: namespace.into(),
            selector: if selects {
                [("app".to_owned(), "x".to_owned())].into()
            } else {
                [].into()
            },
            mode: mode.into(),
            port_modes: ports.iter().map(|(p, m)| (*p, (*m).into())).collect(),
        }
    };
    use mesh::MtlsMode::{Disable, Permissive, Strict, Unset};
    let resolve =
        |policies: &[mesh::PeerAuthentication]| PortModes::resolve(policies, "shop", "root");
    assert_eq!(resolve(&[]).mode(80), MtlsMode::Strict);
    let root = make("r", "root", false, Permissive, &[]);
    let namespace = make("n", "shop", false, Strict, &[]);
    let workload = make("w", "shop", true, Unset, &[(80, Disable), (81, Unset)]);
    assert_eq!(
        resolve(std::slice::from_ref(&root)).mode(80),
        MtlsMode::Permissive
    );
    assert_eq!(
        resolve(&[root.clone(), namespace.clone()]).mode(80),
        MtlsMode::Strict
    );
    let all = resolve(&[root, namespace, workload]);
    assert_eq!(
        (all.mode(80), all.mode(81), all.mode(82)),
        (MtlsMode::Disable, MtlsMode::Strict, MtlsMode::Strict)
    );
    assert!(
        validate_peer_authentication(&make("w", "shop", false, Strict, &[(80, Strict)])).is_err()
    );
}

/// Word for word: "any of", "all present parts", "not".
fn interpret(
    policies: &[mesh::AuthorizationPolicy],
    peer: Option<&SpiffeId>,
    ip: IpAddr,
    port: u16,
) -> Verdict {
    fn text(patterns: &[String], value: &str) -> bool {
        patterns.iter().any(|p| {
            if p == "*" {
                !value.is_empty()
            } else if let Some(suffix) = p.strip_prefix('*') {
                value.ends_with(suffix)
            } else if let Some(prefix) = p.strip_suffix('*') {
                value.starts_with(prefix)
            } else {
                value == p
            }
        })
    }
    fn account(entries: &[String], own: &str, peer: Option<&SpiffeId>) -> bool {
        entries.iter().any(|entry| {
            let full = if entry.contains('/') {
                entry.clone()
            } else {
                format!("{own}/{entry}")
            };
            peer.and_then(|p| Some(format!("{}/{}", p.namespace()?, p.service_account()?)))
                == Some(full)
        })
    }
    fn block(entries: &[String], ip: IpAddr) -> bool {
        entries.iter().any(|entry| {
            let (base, bits) = entry
                .split_once('/')
                .map_or((entry.as_str(), 32), |(b, n)| (b, n.parse().unwrap()));
            let (IpAddr::V4(base), IpAddr::V4(ip)) = (base.parse().unwrap(), ip) else {
                return false;
            };
            (0..bits).all(|bit| (u32::from(base) ^ u32::from(ip)) & (1 << (31 - bit)) == 0)
        })
    }
    let source = |s: &mesh::PolicySource, own: &str| {
        let principal = peer.map_or("", SpiffeId::without_scheme);
        let namespace = peer.and_then(SpiffeId::namespace).unwrap_or("");
        (s.principals.is_empty() || (!principal.is_empty() && text(&s.principals, principal)))
            && !text(&s.not_principals, principal)
            && (s.namespaces.is_empty()
                || (!namespace.is_empty() && text(&s.namespaces, namespace)))
            && !text(&s.not_namespaces, namespace)
            && (s.service_accounts.is_empty() || account(&s.service_accounts, own, peer))
            && !account(&s.not_service_accounts, own, peer)
            && (s.ip_blocks.is_empty() || block(&s.ip_blocks, ip))
            && !block(&s.not_ip_blocks, ip)
    };
    let operation = |o: &mesh::PolicyOperation| {
        (o.ports.is_empty() || o.ports.contains(&u32::from(port)))
            && !o.not_ports.contains(&u32::from(port))
    };
    let matches = |p: &mesh::AuthorizationPolicy| {
        p.rules.iter().any(|r| {
            (r.from.is_empty() || r.from.iter().any(|s| source(s, &p.namespace)))
                && (r.to.is_empty() || r.to.iter().any(operation))
        })
    };
    let of = |action| {
        policies
            .iter()
            .filter(move |p| p.action() == action && !p.dry_run)
    };
    if of(mesh::PolicyAction::Deny).any(matches) {
        return Verdict::Deny;
    }
    if of(mesh::PolicyAction::Allow).next().is_some() {
        return if of(mesh::PolicyAction::Allow).any(matches) {
            Verdict::Allow
        } else {
            Verdict::Deny
        };
    }
    match peer {
        Some(peer) if peer.trust_domain() == "td" => Verdict::Allow,
        _ => Verdict::Deny,
    }
}

prop_compose! {
    fn source()(
        principals in strings(&["td/ns/shop/sa/web", "td/ns/shop/*", "*/sa/web", "*", "other/x"]),
        not_principals in strings(&["td/ns/shop/sa/web", "*", "td/*"]),
        namespaces in strings(&["shop", "sh*", "*", "x"]),
        not_namespaces in strings(&["shop", "*op"]),
        service_accounts in strings(&["web", "shop/web", "x/web"]),
        not_service_accounts in strings(&["web", "x/y"]),
        ip_blocks in strings(&["10.0.0.0/8", "10.0.0.1", "0.0.0.0/0", "192.168.0.0/16"]),
        not_ip_blocks in strings(&["10.0.0.1/32", "10.1.0.0/16"]),
    ) -> mesh::PolicySource {
        mesh::PolicySource { principals, not_principals, namespaces, not_namespaces, ip_blocks, not_ip_blocks, service_accounts, not_service_accounts }
    }
}

fn strings(of: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    prop_oneof![
        4 => Just(vec![]),
        3 => proptest::sample::subsequence(of, 1..=of.len().min(2)).prop_map(|v| v.into_iter().map(str::to_owned).collect()),
    ]
}

fn rule() -> impl Strategy<Value = mesh::PolicyRule> {
    let operation = (
        proptest::sample::subsequence(vec![80u32, 443, 9000], 0..=2),
        proptest::sample::subsequence(vec![80u32, 22], 0..=1),
    )
        .prop_map(|(ports, not_ports)| mesh::PolicyOperation { ports, not_ports });
    (
        proptest::collection::vec(source(), 0..3),
        proptest::collection::vec(operation, 0..2),
    )
        .prop_map(|(from, to)| mesh::PolicyRule {
            from: from
                .into_iter()
                .filter(|s| *s != mesh::PolicySource::default())
                .collect(),
            to: to
                .into_iter()
                .filter(|o| *o != mesh::PolicyOperation::default())
                .collect(),
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn compiled_policies_decide_as_the_interpreter_does(
        policies in proptest::collection::vec((0i32..3, proptest::collection::vec(rule(), 0..3), any::<bool>()), 0..4),
        peer in proptest::option::of(proptest::sample::select(vec![
            "spiffe://td/ns/shop/sa/web", "spiffe://td/ns/x/sa/web", "spiffe://other/x", "spiffe://td/ns/shop/sa/y",
        ])),
        ip in proptest::sample::select(vec!["10.0.0.1", "10.1.2.3", "192.168.1.1", "::1"]),
        port in proptest::sample::select(vec![80u16, 443, 22]),
    ) {
        let policies: Vec<_> = policies.into_iter().map(|(action, rules, dry_run)| mesh::AuthorizationPolicy {
            name: "p".into(), namespace: "shop".into(), action, rules, dry_run, ..Default::default()
        }).collect();
        let peer = peer.map(|p| SpiffeId::parse(p).unwrap());
        let ip: IpAddr = ip.parse().unwrap();
        let decision = PolicySet::compile(&policies, &defaults()).unwrap().decide(&Connection {
            peer: peer.as_ref(), source_ip: ip, destination_port: port,
        });
        prop_assert_eq!(decision.verdict, interpret(&policies, peer.as_ref(), ip, port));
    }
}
