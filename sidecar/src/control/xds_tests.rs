//! Tests of the delta client against responses as a server would send them.

use std::time::Duration;

use super::*;
use crate::lookups::Scope;
use crate::snapshot::Snapshot;
use mesh_proto::discovery::Resource;
use mesh_proto::{TypedResource, mesh};
use proptest::prelude::*;

const URL: fn(ResourceType) -> String = |t| t.type_url().to_owned();

fn client() -> Client {
    client_of(Subscribe::All)
}

fn client_of(subscribe: Subscribe) -> Client {
    let domain = TrustDomain::new("demo.test").expect("domain");
    Client::new("demo/web-1", domain, subscribe)
}

fn policy(name: &str, block: &str) -> mesh::AuthorizationPolicy {
    mesh::AuthorizationPolicy {
        name: name.into(),
        namespace: "demo".into(),
        rules: vec![mesh::PolicyRule {
            from: vec![mesh::PolicySource {
                ip_blocks: vec![block.into()],
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn bundle(sequence: u64) -> mesh::TrustBundle {
    let key = rcgen::KeyPair::generate().expect("key");
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let root = params.self_signed(&key).expect("root");
    mesh::TrustBundle {
        trust_domain: "demo.test".into(),
        x509_authorities: vec![root.der().to_vec()],
        sequence,
        ..Default::default()
    }
}

fn wrap<M: TypedResource>(message: &M, version: &str) -> Resource {
    Resource {
        version: version.into(),
        name: message.resource_name(),
        resource: Some(message.to_any()),
        ..Default::default()
    }
}

fn response(kind: ResourceType, nonce: &str, resources: Vec<Resource>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        system_version_info: "7".into(),
        resources,
        type_url: URL(kind),
        nonce: nonce.into(),
        ..Default::default()
    }
}

#[allow(clippy::unnecessary_wraps)]
fn accept(resources: &Arc<Resources>) -> Result<Arc<Resources>, String> {
    Ok(Arc::clone(resources))
}

fn nack(answer: &Answer) -> Vec<(String, String)> {
    let status = answer.request.error_detail.as_ref().expect("a NACK");
    let entries: Vec<serde_json::Value> = serde_json::from_str(&status.message).expect("JSON");
    let text = |e: &serde_json::Value, key: &str| e[key].as_str().expect("text").to_owned();
    entries
        .iter()
        .map(|e| (text(e, "name"), text(e, "reason")))
        .collect()
}

#[test]
fn a_stream_opens_with_a_wildcard_per_type_in_order_and_one_node() {
    let requests = client().open();
    let urls: Vec<_> = requests.iter().map(|r| r.type_url.as_str()).collect();
    assert_eq!(urls, ResourceType::ALL.map(ResourceType::type_url));
    assert_eq!(requests[0].node.as_ref().expect("node").id, "demo/web-1");
    assert!(requests[1..].iter().all(|r| r.node.is_none()));
    assert!(
        requests
            .iter()
            .all(|r| r.resource_names_subscribe == ["*"] && r.response_nonce.is_empty())
    );
}

#[test]
fn good_resources_are_applied_and_acknowledged_with_the_nonce() {
    let mut client = client();
    client.open();
    let kind = ResourceType::AuthorizationPolicy;
    let good = response(kind, "n1", vec![wrap(&policy("a", "10.0.0.1"), "v1")]);
    let (answer, snapshot) = client.receive(good, accept);
    assert_eq!(answer.request.response_nonce, "n1");
    assert!(answer.request.error_detail.is_none() && answer.changed);
    let built = snapshot.expect("built");
    assert!(built.policies.contains_key("demo/a"));
    assert_eq!(built.revision, 7);
}

#[test]
fn a_bad_resource_is_rejected_by_name_its_neighbour_applied_and_its_previous_version_kept() {
    let mut client = client();
    client.open();
    let kind = ResourceType::AuthorizationPolicy;
    client.receive(
        response(kind, "n1", vec![wrap(&policy("a", "10.0.0.1"), "v1")]),
        accept,
    );
    let mixed = vec![
        wrap(&policy("a", "no address"), "v2"),
        wrap(&policy("b", "10.0.0.2"), "v1"),
    ];
    let (answer, snapshot) = client.receive(response(kind, "n2", mixed), accept);

    let entries = nack(&answer);
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].0, "demo/a");
    assert!(!entries[0].1.is_empty());
    let built = snapshot.expect("the rest");
    assert_eq!(
        built.policies["demo/a"].rules[0].from[0].ip_blocks,
        ["10.0.0.1"]
    );
    assert!(built.policies.contains_key("demo/b"));
    assert_eq!(client.rejections()[0].version, "v2");

    // On reconnect the version in force is claimed, never the rejected one.
    let reopened = client.open();
    let versions = &reopened
        .iter()
        .find(|r| r.type_url == kind.type_url())
        .expect("type")
        .initial_resource_versions;
    assert_eq!(versions["demo/a"], "v1");
    assert_eq!(versions["demo/b"], "v1");
}

/// A policy that no sidecar can compile.
#[test]
fn a_revocation_that_cannot_be_read_leaves_the_one_before_it_in_force_and_is_named() {
    let revocation = |id: &str| mesh::Revocation {
        name: "lost".into(),
        subject: Some(mesh::revocation::Subject::SpiffeId(id.into())),
        ..Default::default()
    };
    let domain = mesh_auth::TrustDomain::new("demo.test").expect("a domain");
    let empty = Snapshot::empty("demo/web-1", domain);
    let build = |resources: &Arc<Resources>| {
        let built = empty.build(resources, None, &[]);
        built
            .map(|_| Arc::clone(resources))
            .map_err(|error| error.to_string())
    };
    let mut client = client();
    client.open();
    let kind = ResourceType::Revocation;
    let good = wrap(&revocation("spiffe://demo.test/ns/a/sa/b"), "v1");
    client.receive(response(kind, "n1", vec![good]), build);

    let nothing = mesh::Revocation {
        subject: None,
        ..revocation("")
    };
    for (nonce, bad, why) in [
        ("n2", revocation("https://demo.test/a"), "spiffe_id"),
        ("n3", nothing, "subject"),
    ] {
        let (answer, _) = client.receive(response(kind, nonce, vec![wrap(&bad, nonce)]), build);
        let refused = nack(&answer);
        assert_eq!(refused[0].0, "lost");
        assert!(refused[0].1.contains(why), "{refused:?}");
        let told = &client.rejections()[0];
        assert_eq!((told.name.as_str(), told.version.as_str()), ("lost", nonce));
        let held = Arc::clone(client.resources());
        let snapshot = empty.build(&held, None, &[]).expect("builds");
        let id = mesh_auth::SpiffeId::parse("spiffe://demo.test/ns/a/sa/b").expect("an ID");
        assert!(
            snapshot.revocations.of_identity(&id, 0).is_some(),
            "{nonce}"
        );
    }
}

fn unreadable(name: &str) -> mesh::AuthorizationPolicy {
    mesh::AuthorizationPolicy {
        action: mesh::PolicyAction::Deny.into(),
        ..policy(name, "no address")
    }
}

#[test]
fn an_unreadable_policy_without_an_earlier_version_is_kept_in_mind_until_it_is_corrected_or_gone() {
    let kind = ResourceType::AuthorizationPolicy;
    let names = |client: &Client| -> Vec<String> {
        client.resources().unreadable.keys().cloned().collect()
    };
    let mut client = client();
    client.open();
    let both = vec![
        wrap(&policy("a", "10.0.0.1"), "v1"),
        wrap(&unreadable("b"), "v1"),
    ];
    let (answer, snapshot) = client.receive(response(kind, "n", both), accept);
    assert_eq!(nack(&answer)[0].0, "demo/b");
    assert!(snapshot.expect("built").unreadable.contains_key("demo/b"));

    // The version before it is in force: nothing to stand in for.
    let worse = vec![wrap(&unreadable("a"), "v2")];
    client.receive(response(kind, "n", worse), accept);
    assert_eq!(names(&client), ["demo/b"]);

    // A restart finds it again.
    let mut restarted = self::client();
    restarted.restore(client.export(), 0);
    assert_eq!(names(&restarted), ["demo/b"]);

    // The same again changes nothing and is acknowledged later.
    let again = vec![wrap(&unreadable("b"), "v1")];
    let (answer, _) = client.receive(response(kind, "n", again), accept);
    assert!(!answer.changed);

    let corrected = vec![wrap(&policy("b", "10.0.0.1"), "v2")];
    let (_, snapshot) = client.receive(response(kind, "n", corrected), accept);
    assert!(snapshot.expect("built").unreadable.is_empty());

    // A new stream asks for it, and only an answer that names it makes it go.
    for reopened in [false, true] {
        if reopened {
            let opened = restarted.open();
            let of_policies = opened.iter().find(|r| r.type_url == kind.type_url());
            let claimed = &of_policies.expect("subscribed").initial_resource_versions;
            assert_eq!(claimed.get("demo/b").map(String::as_str), Some(""));
            let other = vec![wrap(&policy("c", "10.0.0.1"), "v1")];
            restarted.receive(response(kind, "n", other), accept);
            assert_eq!(names(&restarted), ["demo/b"], "not forgotten");
        }
        let removal = DeltaDiscoveryResponse {
            removed_resources: vec!["demo/b".into()],
            ..response(kind, "n", vec![])
        };
        let (answer, _) = restarted.receive(removal, accept);
        assert!(names(&restarted).is_empty() && answer.changed);
        let back = vec![wrap(&unreadable("b"), "v1")];
        restarted.receive(response(kind, "n", back), accept);
        assert_eq!(names(&restarted), ["demo/b"]);
    }
}

#[test]
fn a_policy_that_contradicts_what_is_held_is_unreadable_too() {
    let mut client = client();
    client.open();
    let kind = ResourceType::AuthorizationPolicy;
    let all = vec![
        wrap(&policy("a", "10.0.0.1"), "v1"),
        wrap(&policy("b", "10.0.0.1"), "v1"),
    ];
    let (_, snapshot) = client.receive(response(kind, "n", all), |resources| {
        match resources.policies.contains_key("demo/b") {
            true => Err("contradicts another".into()),
            false => accept(resources),
        }
    });
    let built = snapshot.expect("built");
    assert!(built.policies.contains_key("demo/a") && built.unreadable.contains_key("demo/b"));
}

#[test]
fn what_was_rejected_from_the_start_is_not_claimed_on_reconnect_but_for_a_policy_without_a_version()
{
    let mut client = client();
    client.open();
    let nameless = mesh::Service {
        name: "broken".into(),
        namespace: "demo".into(),
        ..Default::default()
    };
    client.receive(
        response(ResourceType::Service, "n", vec![wrap(&nameless, "v1")]),
        accept,
    );
    let unreadable = vec![wrap(&policy("a", "x"), "v1")];
    client.receive(
        response(ResourceType::AuthorizationPolicy, "n", unreadable),
        accept,
    );
    assert_eq!(client.rejections().len(), 2);
    for request in client.open() {
        let claimed: Vec<_> = request.initial_resource_versions.into_iter().collect();
        match ResourceType::from_type_url(&request.type_url) {
            Some(ResourceType::AuthorizationPolicy) => {
                assert_eq!(claimed, [("demo/a".to_owned(), String::new())]);
            }
            _ => assert!(claimed.is_empty()),
        }
    }
}

#[test]
fn a_rejection_ends_when_the_resource_is_corrected_or_removed_or_no_longer_sent() {
    let kind = ResourceType::AuthorizationPolicy;
    let rejected = || {
        let mut client = client();
        client.open();
        client.receive(
            response(kind, "n", vec![wrap(&policy("a", "x"), "v1")]),
            accept,
        );
        assert_eq!(client.rejections().len(), 1);
        client
    };
    let mut corrected = rejected();
    corrected.receive(
        response(kind, "n", vec![wrap(&policy("a", "10.0.0.1"), "v2")]),
        accept,
    );
    assert!(corrected.rejections().is_empty());

    let mut removed = rejected();
    let removal = DeltaDiscoveryResponse {
        removed_resources: vec!["demo/a".into()],
        ..response(kind, "n", vec![])
    };
    removed.receive(removal, accept);
    assert!(removed.rejections().is_empty());

    let mut gone = rejected();
    gone.open();
    gone.receive(response(kind, "n", vec![]), accept);
    assert!(gone.rejections().is_empty());
}

#[test]
fn what_a_snapshot_cannot_be_built_of_is_found_among_many_and_nothing_else_is_lost() {
    let mut client = client();
    client.open();
    let kind = ResourceType::AuthorizationPolicy;
    let many = (0..100)
        .map(|i| wrap(&policy(&format!("p{i}"), "10.0.0.1"), "v1"))
        .collect();
    let mut builds = 0;
    let (answer, snapshot) = client.receive(response(kind, "n", many), |resources| {
        builds += 1;
        let offenders = ["demo/p17", "demo/p62"];
        match offenders
            .iter()
            .find(|o| resources.policies.contains_key(**o))
        {
            Some(offender) => Err(format!("{offender} contradicts another")),
            None => Ok(Arc::clone(resources)),
        }
    });
    let names: Vec<_> = nack(&answer).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["demo/p17", "demo/p62"]);
    assert_eq!(snapshot.expect("the rest").policies.len(), 98);
    assert_eq!(client.resources().policies.len(), 98);
    assert!(builds < 40, "{builds} builds");
}

#[test]
fn nothing_is_acknowledged_that_could_not_be_applied() {
    let mut client = client();
    client.open();
    let kind = ResourceType::AuthorizationPolicy;
    client.receive(
        response(kind, "n", vec![wrap(&policy("a", "10.0.0.1"), "v1")]),
        accept,
    );
    let removal = DeltaDiscoveryResponse {
        removed_resources: vec!["demo/a".into()],
        ..response(kind, "n", vec![])
    };
    let (answer, snapshot) = client.receive(removal, |_| Err::<(), _>("cannot build".into()));
    assert!(snapshot.is_none() && !answer.changed);
    assert_eq!(
        nack(&answer),
        [("demo/a".to_owned(), "cannot build".to_owned())]
    );
    assert!(
        client.resources().policies.contains_key("demo/a"),
        "still in force"
    );
}

#[test]
fn an_older_trust_bundle_is_refused_even_after_a_removal() {
    let mut client = client();
    client.open();
    let kind = ResourceType::TrustBundle;
    client.receive(response(kind, "n", vec![wrap(&bundle(5), "v5")]), accept);
    let (answer, _) = client.receive(response(kind, "n", vec![wrap(&bundle(4), "v4")]), accept);
    assert!(
        nack(&answer)[0].1.starts_with("rollback_refused"),
        "{:?}",
        nack(&answer)
    );
    assert_eq!(client.resources().bundles["demo.test"].sequence, 5);

    let removal = DeltaDiscoveryResponse {
        removed_resources: vec!["demo.test".into()],
        ..response(kind, "n", vec![])
    };
    client.receive(removal, accept);
    let (answer, _) = client.receive(response(kind, "n", vec![wrap(&bundle(3), "v3")]), accept);
    assert!(answer.request.error_detail.is_some());
    assert!(client.resources().bundles.is_empty());
}

#[test]
fn every_kind_of_malformed_resource_is_rejected_with_its_reason() {
    let kind = ResourceType::AuthorizationPolicy;
    let good = || wrap(&policy("a", "10.0.0.1"), "v1");
    let cases: Vec<(Vec<Resource>, &str)> = vec![
        (
            vec![Resource {
                name: "demo/b".into(),
                ..good()
            }],
            "its name on the stream",
        ),
        (
            vec![Resource {
                resource: None,
                ..good()
            }],
            "has no content",
        ),
        (vec![good(), good()], "twice"),
        (
            vec![Resource {
                ttl: Some(prost_types::Duration::default()),
                ..good()
            }],
            "ttl",
        ),
        (
            vec![Resource {
                name: "demo/a".into(),
                version: "v".into(),
                resource: Some(mesh::Workload::default().to_any()),
                ..Default::default()
            }],
            "its content is a",
        ),
    ];
    for (resources, part) in cases {
        let mut client = client();
        client.open();
        let (answer, _) = client.receive(response(kind, "n", resources), accept);
        let reason = &nack(&answer)[0].1;
        assert!(reason.contains(part), "{part}: {reason}");
    }
}

#[test]
fn an_unknown_type_is_rejected_and_changes_nothing() {
    let mut client = client();
    client.open();
    let unknown = DeltaDiscoveryResponse {
        type_url: "type.googleapis.com/evil.Thing".into(),
        nonce: "n".into(),
        ..Default::default()
    };
    let (answer, snapshot) = client.receive(unknown, accept);
    assert_eq!(answer.request.response_nonce, "n");
    assert_eq!(nack(&answer)[0].1, "unknown resource type");
    assert!(snapshot.is_none());
}

#[test]
fn a_heartbeat_is_acknowledged_and_changes_nothing() {
    let mut client = client();
    client.open();
    let kind = ResourceType::AuthorizationPolicy;
    client.receive(
        response(kind, "n", vec![wrap(&policy("a", "10.0.0.1"), "v1")]),
        accept,
    );
    let heartbeat = Resource {
        resource: None,
        ..wrap(&policy("a", "10.0.0.1"), "v1")
    };
    let (answer, snapshot) = client.receive(response(kind, "n", vec![heartbeat]), accept);
    assert!(answer.request.error_detail.is_none() && snapshot.is_none() && !answer.changed);
}

#[test]
fn a_server_that_repeats_what_was_rejected_is_answered_ever_more_slowly() {
    let mut client = client();
    client.open();
    let kind = ResourceType::AuthorizationPolicy;
    let mut delays = Vec::new();
    for _ in 0..8 {
        let (answer, _) = client.receive(
            response(kind, "n", vec![wrap(&policy("a", "x"), "v1")]),
            accept,
        );
        delays.push(answer.delay.as_secs());
    }
    assert_eq!(delays, [0, 1, 2, 4, 8, 16, 30, 30]);
    let (answer, _) = client.receive(
        response(kind, "n", vec![wrap(&policy("a", "y"), "v2")]),
        accept,
    );
    assert_eq!(
        answer.delay,
        Duration::ZERO,
        "another version is answered at once"
    );
}

#[test]
fn in_step_only_after_an_answer_for_every_type() {
    let mut client = client();
    client.open();
    for (i, kind) in ResourceType::ALL.into_iter().enumerate() {
        assert_eq!(client.missing().len(), ResourceType::ALL.len() - i);
        client.receive(response(kind, "n", vec![]), accept);
    }
    assert!(client.missing().is_empty());
}

#[test]
fn a_part_of_an_answer_is_in_force_and_no_answer() {
    let mut client = client();
    client.open();
    let kind = ResourceType::AuthorizationPolicy;
    let part = DeltaDiscoveryResponse {
        system_version_info: "7+".into(),
        ..response(kind, "n1", vec![wrap(&policy("a", "10.0.0.1"), "v1")])
    };
    let (answer, built) = client.receive(part, accept);
    assert!(answer.request.error_detail.is_none());
    assert!(built.expect("built").policies.contains_key("demo/a"));
    assert!(client.missing().contains(&kind.kind()), "more follows");
    client.receive(response(kind, "n2", vec![]), accept);
    assert!(!client.missing().contains(&kind.kind()));

    // Of everything, too: until all is there, what is not there may exist.
    for kind in [ResourceType::Service, ResourceType::Workload] {
        let part = DeltaDiscoveryResponse {
            system_version_info: "7+".into(),
            ..response(kind, "n", vec![])
        };
        client.receive(part, accept);
        assert_eq!(client.resources().scope, Scope::nothing());
    }
    client.receive(response(ResourceType::Service, "n", vec![]), accept);
    assert_eq!(client.resources().scope, Scope::nothing());
    client.receive(response(ResourceType::Workload, "n", vec![]), accept);
    assert_eq!(client.resources().scope, Scope::Everything);
}

#[test]
fn silence_is_consent_only_when_somebody_says_so() {
    let mut client = client();
    client.open();
    assert_eq!(client.missing().len(), ResourceType::ALL.len());
    client.assume_current(accept);
    assert!(client.missing().is_empty());
}

#[test]
fn what_is_exported_can_be_restored_and_what_no_longer_parses_is_named() {
    let mut first = client();
    first.open();
    let kind = ResourceType::AuthorizationPolicy;
    first.receive(
        response(kind, "n", vec![wrap(&policy("a", "10.0.0.1"), "v1")]),
        accept,
    );
    first.receive(
        response(ResourceType::TrustBundle, "n", vec![wrap(&bundle(5), "v5")]),
        accept,
    );

    let mut second = client();
    assert!(second.restore(first.export(), 0).is_empty());
    assert_eq!(second.export(), first.export());
    // Also when the bundle itself is gone by then.
    assert!(second.resources().spoken_of.contains("demo.test"));
    assert!(second.resources().policies.contains_key("demo/a"));
    assert_eq!(
        second.missing().len(),
        ResourceType::ALL.len(),
        "a file is no answer"
    );
    let (answer, _) = second.receive(
        response(ResourceType::TrustBundle, "n", vec![wrap(&bundle(4), "v4")]),
        accept,
    );
    assert!(
        answer.request.error_detail.is_some(),
        "rollback is refused over a restart too"
    );

    let mut export = first.export();
    export.resources[0].2.value = Bytes::from_static(b"\xff");
    let refused = client().restore(export, 0);
    assert_eq!(refused.len(), 1);
}

proptest! {
    /// Whatever mixture of good, bad and removed resources comes: what is held is exactly what a naive map says, and
    /// every response is answered once with its nonce, a NACK exactly when something in it was bad.
    #[test]
    fn held_resources_follow_a_naive_model(steps in proptest::collection::vec((0u8..5, any::<bool>(), any::<bool>()), 1..60)) {
        let mut client = client();
        client.open();
        let mut model: BTreeMap<String, String> = BTreeMap::new();
        let mut unreadable = BTreeSet::new();
        for (i, (which, remove, good)) in steps.into_iter().enumerate() {
            let name = format!("p{which}");
            let full = format!("demo/{name}");
            let version = format!("v{i}");
            let sent = if remove {
                model.remove(&full);
                unreadable.remove(&full);
                DeltaDiscoveryResponse {
                    removed_resources: vec![full],
                    ..response(ResourceType::AuthorizationPolicy, &version, vec![])
                }
            } else {
                if good {
                    unreadable.remove(&full);
                    model.insert(full, version.clone());
                } else if !model.contains_key(&full) {
                    unreadable.insert(full);
                }
                let block = if good { "10.0.0.1" } else { "bad" };
                response(ResourceType::AuthorizationPolicy, &version, vec![wrap(&policy(&name, block), &version)])
            };
            let (answer, _) = client.receive(sent, accept);
            prop_assert_eq!(&answer.request.response_nonce, &version);
            prop_assert_eq!(answer.request.error_detail.is_some(), !remove && !good);
            let exported = client.export().resources.into_iter().map(|(_, n, h)| (n, h.version));
            let (held, unread): (BTreeMap<_, _>, BTreeMap<_, _>) = exported.partition(|(_, version)| !version.is_empty());
            prop_assert_eq!(&held, &model);
            prop_assert_eq!(unread.into_keys().collect::<BTreeSet<_>>(), unreadable.clone());
            let names: Vec<_> = client.resources().policies.keys().cloned().collect();
            prop_assert_eq!(names, model.keys().cloned().collect::<Vec<_>>());
        }
    }
}

#[path = "xds/by_name_tests.rs"]
mod used;
