//! The compiled policies against tables of cases.

use std::net::IpAddr;

use mesh_proto::mesh;

use super::*;
use crate::{Reason, SpiffeId};

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
        ..Default::default()
    }
}

fn principals(list: &[&str]) -> mesh::PolicySource {
    mesh::PolicySource {
        principals: list.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

fn connection(peer: Option<&SpiffeId>, source_ip: IpAddr, destination_port: u16) -> Connection<'_> {
    Connection {
        peer,
        source_ip,
        destination_ip: [10, 0, 0, 9].into(),
        destination_port,
        sni: None,
    }
}

fn decide(
    policies: &[mesh::AuthorizationPolicy],
    peer: Option<&str>,
    ip: &str,
    port: u16,
) -> (Verdict, Reason) {
    let peer = peer.map(|p| SpiffeId::parse(p).unwrap());
    let set = PolicySet::compile(policies, &defaults()).unwrap();
    let decision = set.decide(&connection(peer.as_ref(), ip.parse().unwrap(), port));
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
    let set = PolicySet::compile(&[], &deny).unwrap();
    let decision = set.decide(&connection(Some(&id), [10, 0, 0, 1].into(), 80));
    assert_eq!(decision.reason, Reason::DeniedByDefault);
}

#[test]
fn rules_match_as_documented() {
    use mesh::PolicyAction::{Allow, Audit, Deny};
    let port = |ports: &[u32], not_ports: &[u32]| mesh::PolicyRule {
        to: vec![mesh::PolicyOperation {
            ports: ports.to_vec(),
            not_ports: not_ports.to_vec(),
            ..Default::default()
        }],
        ..Default::default()
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
            "DENY of somebody does not touch plaintext",
            vec![
                policy(Deny, vec![from(principals(&["*"]))]),
                policy(Allow, vec![mesh::PolicyRule::default()]),
            ],
            None,
            Verdict::Allow,
        ),
        (
            "a DENY policy without rules denies nobody",
            vec![policy(Deny, vec![])],
            WEB,
            Verdict::Allow,
        ),
        (
            "an empty DENY rule denies all",
            vec![policy(Deny, vec![mesh::PolicyRule::default()])],
            WEB,
            Verdict::Deny,
        ),
        (
            "ALLOW of others by notPrincipals",
            vec![policy(
                Allow,
                vec![source(|s| {
                    s.not_principals = vec!["td/ns/shop/sa/x".into()];
                })],
            )],
            WEB,
            Verdict::Allow,
        ),
        (
            "ALLOW by notPrincipals alone lets plaintext in",
            vec![policy(
                Allow,
                vec![source(|s| {
                    s.not_principals = vec!["td/ns/shop/sa/x".into()];
                })],
            )],
            None,
            Verdict::Allow,
        ),
        (
            "ALLOW by notPrincipals and presence keeps plaintext out",
            vec![policy(
                Allow,
                vec![source(|s| {
                    s.principals = vec!["*".into()];
                    s.not_principals = vec!["td/ns/shop/sa/x".into()];
                })],
            )],
            None,
            Verdict::Deny,
        ),
        (
            "namespace without a peer",
            vec![policy(
                Allow,
                vec![source(|s| s.namespaces = vec!["*".into()])],
            )],
            None,
            Verdict::Deny,
        ),
        (
            "service account without a peer",
            vec![policy(
                Allow,
                vec![source(|s| s.service_accounts = vec!["web".into()])],
            )],
            None,
            Verdict::Deny,
        ),
        (
            "namespace of an ID that is none of Kubernetes",
            vec![policy(
                Allow,
                vec![source(|s| s.namespaces = vec!["*".into()])],
            )],
            Some("spiffe://td/operator/me"),
            Verdict::Deny,
        ),
        (
            "a principal of another trust domain with the same path",
            vec![policy(
                Allow,
                vec![from(principals(&["td/ns/shop/sa/web"]))],
            )],
            Some("spiffe://other/ns/shop/sa/web"),
            Verdict::Deny,
        ),
        (
            "a trust domain that ends as ours against a suffix of the path",
            vec![policy(Allow, vec![from(principals(&["td/*"]))])],
            Some("spiffe://evil.td/ns/shop/sa/web"),
            Verdict::Deny,
        ),
        (
            "principals are case-sensitive",
            vec![policy(
                Allow,
                vec![from(principals(&["td/ns/shop/sa/Web"]))],
            )],
            WEB,
            Verdict::Deny,
        ),
        (
            "every part of a source must match",
            vec![policy(
                Allow,
                vec![source(|s| {
                    s.namespaces = vec!["shop".into()];
                    s.ip_blocks = vec!["192.168.0.0/16".into()];
                })],
            )],
            WEB,
            Verdict::Deny,
        ),
        (
            "source and operation must match",
            vec![policy(
                Allow,
                vec![mesh::PolicyRule {
                    from: vec![principals(&["*"])],
                    to: vec![mesh::PolicyOperation {
                        ports: vec![443],
                        ..Default::default()
                    }],
                    ..Default::default()
                }],
            )],
            WEB,
            Verdict::Deny,
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
    let connection = connection(Some(&id), [10, 0, 0, 1].into(), 80);
    let set = PolicySet::compile(
        &[policy(mesh::PolicyAction::Deny, rules.clone())],
        &defaults(),
    )
    .unwrap();
    let decision = set.decide(&connection);
    assert_eq!((decision.policy, decision.rule), (Some("shop/p"), Some(1)));
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
fn a_dry_run_is_told_and_not_enforced() {
    let open = policy(mesh::PolicyAction::Allow, vec![mesh::PolicyRule::default()]);
    let dry = |action, rules| mesh::AuthorizationPolicy {
        name: "dry".into(),
        dry_run: true,
        ..policy(action, rules)
    };
    let web = || vec![from(principals(&["td/ns/shop/sa/web"]))];
    let other = || vec![from(principals(&["td/x"]))];
    use Reason::{AllowedByDefault, AllowedByPolicy, DeniedByPolicy, NoAllowPolicyMatched};
    use mesh::PolicyAction::{Allow, Audit, Deny};
    // What holds, what is tried, what is decided, what would be.
    type Case = (Vec<mesh::AuthorizationPolicy>, Reason, Option<Reason>);
    let cases: Vec<Case> = vec![
        (vec![], AllowedByDefault, None),
        (
            vec![dry(Deny, web())],
            AllowedByDefault,
            Some(DeniedByPolicy),
        ),
        (
            vec![dry(Deny, other())],
            AllowedByDefault,
            Some(AllowedByDefault),
        ),
        (
            vec![dry(Allow, web())],
            AllowedByDefault,
            Some(AllowedByPolicy),
        ),
        (
            vec![dry(Allow, other())],
            AllowedByDefault,
            Some(NoAllowPolicyMatched),
        ),
        (
            vec![open.clone(), dry(Deny, web())],
            AllowedByPolicy,
            Some(DeniedByPolicy),
        ),
        (
            vec![open.clone(), dry(Allow, other())],
            AllowedByPolicy,
            Some(AllowedByPolicy),
        ),
        (vec![dry(Audit, web())], AllowedByDefault, None),
    ];
    let id = SpiffeId::parse("spiffe://td/ns/shop/sa/web").unwrap();
    let connection = connection(Some(&id), [10, 0, 0, 1].into(), 80);
    for (i, (policies, now, then)) in cases.into_iter().enumerate() {
        let set = PolicySet::compile(&policies, &defaults()).unwrap();
        assert_eq!(set.decide(&connection).reason, now, "case {i}");
        let would = set.would_decide(&connection);
        assert_eq!(would.map(|d| d.reason), then, "case {i}");
    }
}

#[test]
fn audit_policies_are_named_when_they_match() {
    use mesh::PolicyAction::Audit;
    let named = |name: &str, rules| mesh::AuthorizationPolicy {
        name: name.into(),
        ..policy(Audit, rules)
    };
    let policies = [
        named("all", vec![mesh::PolicyRule::default()]),
        named("nobody", vec![]),
        named("web", vec![from(principals(&["*/web"]))]),
    ];
    let set = PolicySet::compile(&policies, &defaults()).unwrap();
    let id = SpiffeId::parse("spiffe://td/ns/shop/sa/web").unwrap();
    let audited = |peer| {
        let connection = connection(peer, [10, 0, 0, 1].into(), 80);
        let mut names = Vec::new();
        set.audited(&connection, None, |policy, _| names.push(policy.to_owned()));
        names
    };
    assert_eq!(audited(Some(&id)), ["shop/all", "shop/web"]);
    assert_eq!(audited(None), ["shop/all"]);
}

#[test]
fn unknown_values_are_refused_or_taken_strictly() {
    let mut unknown = policy(mesh::PolicyAction::Allow, vec![]);
    unknown.action = 9;
    assert_eq!(validate(&unknown).unwrap_err().field, "spec.action");
    let mut nameless = policy(mesh::PolicyAction::Allow, vec![]);
    nameless.namespace.clear();
    assert_eq!(validate(&nameless).unwrap_err().field, "metadata.name");
    let strange = mesh::MeshDefaults {
        default_decision: 7,
        ..defaults()
    };
    let error = PolicySet::compile(&[], &strange).unwrap_err();
    assert_eq!(
        error.to_string(),
        "mesh defaults: spec.defaultDecision: unknown decision 7"
    );
    let nobody = mesh::MeshDefaults::default();
    let id = SpiffeId::parse("spiffe://td/ns/shop/sa/web").unwrap();
    let set = PolicySet::compile(&[], &nobody).unwrap();
    let decision = set.decide(&connection(Some(&id), [10, 0, 0, 1].into(), 80));
    assert_eq!(decision.reason, Reason::ForeignTrustDomain);
    let mode = |mode| mesh::PeerAuthentication {
        name: "w".into(),
        namespace: "shop".into(),
        mode,
        ..Default::default()
    };
    assert_eq!(
        validate_peer_authentication(&mode(9)).unwrap_err().field,
        "spec.mtls.mode"
    );
    let resolved = PortModes::resolve(&[mode(9)], "shop", "root");
    assert_eq!(resolved.mode(80), MtlsMode::Strict);
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
            from(mesh::PolicySource {
                ip_blocks: vec!["10.0.0.1".into(), "::1".into(), "10.0.0.0/x".into()],
                ..Default::default()
            }),
            "spec.rules[0].from[0].source.ipBlocks[2]",
        ),
        (
            from(mesh::PolicySource {
                not_principals: vec!["*".into(), "**".into()],
                ..Default::default()
            }),
            "spec.rules[0].from[0].source.notPrincipals[1]",
        ),
        (
            from(mesh::PolicySource {
                namespaces: vec!["a\nb".into()],
                ..Default::default()
            }),
            "spec.rules[0].from[0].source.namespaces[0]",
        ),
        (
            from(mesh::PolicySource {
                not_service_accounts: vec!["a/b/c".into()],
                ..Default::default()
            }),
            "spec.rules[0].from[0].source.notServiceAccounts[0]",
        ),
        (
            mesh::PolicyRule {
                to: vec![mesh::PolicyOperation {
                    ports: vec![],
                    not_ports: vec![80, 0],
                    ..Default::default()
                }],
                ..Default::default()
            },
            "spec.rules[0].to[0].operation.notPorts[1]",
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
                to: vec![mesh::PolicyOperation {
                    ports: vec![70000],
                    not_ports: vec![],
                    ..Default::default()
                }],
                ..Default::default()
            },
            "spec.rules[0].to[0].operation.ports[0]",
        ),
        (
            mesh::PolicyRule {
                to: vec![mesh::PolicyOperation::default()],
                ..Default::default()
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
