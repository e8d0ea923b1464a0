//! Services and workloads by name.

use std::collections::HashSet;

use super::*;
use crate::testing::{service, workload};
use mesh_proto::ResourceType::{Service, Workload};

const NOW: i64 = 1_000_000;

fn told<M: TypedResource>(messages: &[M], removed: &[&str]) -> DeltaDiscoveryResponse {
    let resources = messages.iter().map(|m| wrap(m, "v1")).collect();
    DeltaDiscoveryResponse {
        removed_resources: removed.iter().map(|n| (*n).to_owned()).collect(),
        ..response(M::TYPE, "n", resources)
    }
}

fn host(host: &str) -> Lookup {
    Lookup::host(host).expect("a host")
}

/// Type, names to begin with, names to end with.
type Asked = (ResourceType, Vec<String>, Vec<String>);

fn asked(requests: Vec<DeltaDiscoveryRequest>) -> Vec<Asked> {
    let asked = requests.into_iter().map(|r| {
        let kind = ResourceType::from_type_url(&r.type_url).expect("a type");
        let (begin, end) = (r.resource_names_subscribe, r.resource_names_unsubscribe);
        (kind, begin, end)
    });
    asked.filter(|(kind, ..)| is_by_name(*kind)).collect()
}

fn begin(kind: ResourceType, names: &[&str]) -> Asked {
    let names = names.iter().map(|n| (*n).to_owned()).collect();
    (kind, names, vec![])
}

fn want(client: &mut Client, lookup: &Lookup, now: i64) -> Wanted {
    client.want(lookup, now, accept).0
}

/// A client that knows who is at `orders`.
fn knowing() -> Client {
    let mut client = client_of(Subscribe::Used);
    client.open();
    want(&mut client, &host("orders"), NOW);
    client.subscriptions();
    client.receive(told(&[service()], &["orders"]), accept);
    client.subscriptions();
    client.receive(told(&[workload()], &[]), accept);
    assert_eq!(client.take_settled(), [(host("orders"), Found::Somebody)]);
    client
}

#[test]
fn a_stream_asks_for_the_own_workload_and_for_no_services_until_one_is_used() {
    let mut client = client_of(Subscribe::Used);
    assert_eq!(asked(client.open()), [begin(Workload, &["demo/web-1"])]);
    assert!(
        !client.missing().contains(&Service.kind()),
        "nothing to wait for"
    );
    assert!(client.missing().contains(&Workload.kind()));
    assert_eq!(want(&mut client, &host("orders"), NOW), Wanted::Asked);
    assert_eq!(want(&mut client, &host("orders"), NOW), Wanted::Asked);
    assert_eq!(
        asked(client.subscriptions()),
        [begin(Service, &["orders", "orders.demo"])]
    );
    assert!(client.subscriptions().is_empty(), "asked once");
}

#[test]
fn a_service_is_known_once_its_endpoints_are() {
    let mut client = client_of(Subscribe::Used);
    client.open();
    want(&mut client, &host("orders"), NOW);
    client.subscriptions();
    let (_, built) = client.receive(told(&[service()], &["orders"]), accept);
    assert_eq!(built.expect("built").scope, Scope::nothing());
    assert!(client.take_settled().is_empty());
    assert_eq!(
        asked(client.subscriptions()),
        [begin(Workload, &["/service/demo/orders"])]
    );
    let (_, built) = client.receive(told(&[workload()], &[]), accept);
    let built = built.expect("built");
    assert!(built.scope.covers(&host("orders")) && built.workloads.len() == 1);
    assert!(!built.scope.covers(&host("orders.demo")), "not asked for");
    assert_eq!(client.take_settled(), [(host("orders"), Found::Somebody)]);
    let found = want(&mut client, &host("orders"), NOW);
    assert_eq!(found, Wanted::Found(Found::Somebody));
}

#[test]
fn another_name_of_what_is_held_is_shown_before_anybody_is_told() {
    let mut client = knowing();
    let (wanted, built) = client.want(&host("orders.demo"), NOW, accept);
    assert_eq!(wanted, Wanted::Found(Found::Somebody));
    assert!(built.expect("built").scope.covers(&host("orders.demo")));
    assert!(client.subscriptions().is_empty(), "it was asked for");
    // Given up and wanted again before the server heard of it: asked for, not ended.
    client.forget(NOW + 4_000, &HashSet::new(), accept);
    assert_eq!(
        want(&mut client, &host("orders"), NOW + 4_000),
        Wanted::Asked
    );
    let ends = vec!["/service/demo/orders".to_owned()];
    assert_eq!(
        asked(client.subscriptions()),
        [
            begin(Service, &["orders", "orders.demo"]),
            (Workload, vec![], ends)
        ]
    );
}

#[test]
fn nobody_is_an_answer_until_somebody_comes() {
    let mut client = client_of(Subscribe::Used);
    client.open();
    let address = Lookup::parse("/10.1.0.1").expect("an address");
    want(&mut client, &address, NOW);
    client.subscriptions();
    client.receive(told::<mesh::Service>(&[], &["/10.1.0.1"]), accept);
    assert!(client.take_settled().is_empty(), "it may be a workload");
    client.receive(told::<mesh::Workload>(&[], &["/10.1.0.1"]), accept);
    assert_eq!(client.take_settled(), [(address.clone(), Found::Nobody)]);
    client.receive(told(&[service()], &[]), accept);
    assert_eq!(
        want(&mut client, &address, NOW),
        Wanted::Asked,
        "who serves it?"
    );
    client.subscriptions();
    let none = told::<mesh::Workload>(&[], &["/service/demo/orders"]);
    let (_, built) = client.receive(none, accept);
    assert!(built.expect("built").scope.covers(&address), "no endpoints");
    // And when it goes, by both of its names.
    let gone = told::<mesh::Service>(&[], &["demo/orders", "/10.1.0.1"]);
    let (_, built) = client.receive(gone, accept);
    assert_eq!(built.expect("built").scope, Scope::nothing());
    let found = want(&mut client, &address, NOW);
    assert_eq!(found, Wanted::Found(Found::Nobody));
}

#[test]
fn another_stream_is_opened_with_every_name_and_the_versions_held() {
    let mut client = knowing();
    want(&mut client, &host("late"), NOW);
    let requests = client.open();
    let versions: Vec<_> = requests
        .iter()
        .map(|r| r.initial_resource_versions.clone())
        .filter(|versions| !versions.is_empty())
        .collect();
    assert_eq!(
        asked(requests),
        [
            begin(Service, &["late", "late.demo", "orders", "orders.demo"]),
            begin(Workload, &["/service/demo/orders", "demo/web-1"]),
        ]
    );
    let held = |name: &str| BTreeMap::from([(name.to_owned(), "v1".to_owned())]);
    assert_eq!(versions, [held("demo/orders"), held("demo/orders-1")]);
    assert!(client.subscriptions().is_empty(), "they are part of it");
    // What is known goes on being known while nobody answers, and what was said before is not said again.
    let found = want(&mut client, &host("orders"), NOW);
    assert_eq!(found, Wanted::Found(Found::Somebody));
    client.receive(
        told::<mesh::Service>(&[], &["late", "late.demo", "orders"]),
        accept,
    );
    assert_eq!(client.take_settled(), [(host("late"), Found::Nobody)]);
}

#[test]
fn a_name_of_what_is_held_already_is_answered_by_a_new_stream_without_content() {
    let mut client = knowing();
    let address = Lookup::parse("/10.1.0.1").expect("an address");
    want(&mut client, &address, NOW);
    client.open();
    client.receive(told::<mesh::Service>(&[], &["orders"]), accept);
    client.receive(told::<mesh::Workload>(&[], &["/10.1.0.1"]), accept);
    assert_eq!(client.take_settled(), [(address, Found::Somebody)]);
}

#[test]
fn what_is_not_used_for_an_hour_is_given_up_with_everything_held_for_it() {
    let mut client = knowing();
    let orders = || HashSet::from([(Service, Arc::from("demo/orders"))]);
    let hour = crate::control::demand::UNUSED;
    assert!(client.forget(NOW + hour - 1, &orders(), accept).is_none());
    let none = HashSet::new();
    assert!(client.forget(NOW + 2 * hour - 2, &none, accept).is_none());
    let built = client.forget(NOW + 2 * hour - 1, &none, accept);
    let built = built.expect("less is held");
    assert!(built.services.is_empty() && built.workloads.is_empty());
    assert_eq!(built.scope, Scope::nothing());
    let ends = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        asked(client.subscriptions()),
        [
            (Service, vec![], ends(&["orders", "orders.demo"])),
            (Workload, vec![], ends(&["/service/demo/orders"])),
        ]
    );
    // What was under way is acknowledged and not taken.
    let (answer, built) = client.receive(told(&[service()], &[]), accept);
    assert!(answer.request.error_detail.is_none() && !answer.changed);
    assert!(built.is_none_or(|built| built.services.is_empty()));
    assert_eq!(
        want(&mut client, &host("orders"), NOW + 2 * hour),
        Wanted::Asked
    );
}

#[test]
fn what_was_used_is_asked_for_after_a_restart_and_known_before_anybody_answers() {
    let client = knowing();
    let mut next = client_of(Subscribe::Used);
    assert!(next.restore(client.export(), NOW).is_empty());
    assert!(next.resources().scope.covers(&host("orders")));
    let found = want(&mut next, &host("orders"), NOW);
    assert_eq!(found, Wanted::Found(Found::Somebody));
    let names = ["/service/demo/orders", "demo/web-1"];
    assert_eq!(
        asked(next.open()),
        [
            begin(Service, &["orders", "orders.demo"]),
            begin(Workload, &names)
        ]
    );

    // With everything subscribed to, it is not everything.
    let mut all = client_of(Subscribe::All);
    all.restore(client.export(), NOW);
    assert_eq!(all.resources().scope, Scope::nothing());
    assert_eq!(want(&mut all, &host("orders"), NOW), Wanted::Asked);
    all.open();
    all.receive(told(&[service()], &[]), accept);
    let (_, built) = all.receive(told(&[workload()], &[]), accept);
    assert_eq!(built.expect("built").scope, Scope::Everything);
}

/// What a process wrote down that held everything.
fn everything() -> Export {
    let mut all = client_of(Subscribe::All);
    all.open();
    all.receive(told(&[service()], &[]), accept);
    all.receive(told(&[workload()], &[]), accept);
    all.export()
}

#[test]
fn of_everything_nothing_is_used_unless_the_control_api_is_away() {
    let mut next = client_of(Subscribe::Used);
    next.restore(everything(), NOW);
    let held = |client: &Client| {
        let resources = client.resources();
        (resources.services.len(), resources.workloads.len())
    };
    assert_eq!(held(&next), (0, 0));
    let names = [begin(Workload, &["demo/web-1"])];
    assert_eq!(asked(next.open()), names, "it is asked for what is used");
    let late = Lookup::parse("/10.0.0.9").expect("an address");
    assert_eq!(want(&mut next, &late, NOW), Wanted::Asked);

    next.believe_restored(NOW);
    assert_eq!(held(&next), (1, 1));
    let names = ["orders", "orders.demo", "/10.1.0.1", "/10.0.0.1"];
    for name in names {
        let lookup = Lookup::parse(name).expect("a lookup");
        assert_eq!(next.found(&lookup), Some(Found::Somebody), "{name}");
        assert!(next.resources().scope.covers(&lookup), "{name}");
    }
    assert_eq!(next.found(&late), None, "who was nobody is not believed");
    let all = asked(next.open());
    assert!(all[0].1.contains(&"orders.demo".to_owned()));
    assert!(all[1].1.contains(&"/service/demo/orders".to_owned()));
}

#[test]
fn of_everything_what_came_meanwhile_is_newer_and_an_answer_makes_it_all_useless() {
    let mut next = client_of(Subscribe::Used);
    next.restore(everything(), NOW);
    next.open();
    want(&mut next, &host("orders"), NOW);
    next.subscriptions();
    let moved = mesh::Service {
        addresses: vec![vec![10, 1, 0, 2]],
        ..service()
    };
    next.receive(told(&[moved], &["orders"]), accept);
    next.believe_restored(NOW);
    let addresses = &next.resources().services["demo/orders"].addresses;
    assert_eq!(*addresses, [vec![10, 1, 0, 2]]);
    assert_eq!(next.found(&host("orders")), Some(Found::Somebody));

    let mut next = client_of(Subscribe::Used);
    next.restore(everything(), NOW);
    next.open();
    for kind in ResourceType::ALL {
        next.receive(response(kind, "n", vec![]), accept);
    }
    next.believe_restored(NOW);
    assert!(next.resources().services.is_empty());
}

#[test]
fn of_everything_what_is_gone_falls_by_a_stream_that_claims_it() {
    let mut next = client_of(Subscribe::Used);
    next.restore(everything(), NOW);
    next.open();
    assert!(next.believe_restored(NOW), "more than the stream claimed");
    assert!(!next.believe_restored(NOW));
    let claims = next.open();
    let claimed = |kind: ResourceType| {
        let mut of_kind = claims.iter().filter(|r| r.type_url == kind.type_url());
        let request = of_kind.next().expect("a request");
        request.initial_resource_versions.clone()
    };
    assert!(claimed(Service).contains_key("demo/orders"));
    let workloads: Vec<_> = claimed(Workload).into_keys().collect();
    let gone: Vec<_> = workloads.iter().map(String::as_str).collect();
    next.receive(told::<mesh::Service>(&[], &["demo/orders"]), accept);
    next.receive(told::<mesh::Workload>(&[], &gone), accept);
    assert!(next.resources().services.is_empty());
    assert!(next.resources().workloads.is_empty());
}

#[test]
fn a_stream_has_told_when_it_has_spoken_of_services_and_of_workloads() {
    let mut client = client_of(Subscribe::Used);
    client.open();
    assert!(!client.is_told(), "it asks for its own workload");
    client.receive(told::<mesh::Workload>(&[], &[]), accept);
    assert!(client.is_told(), "no service is asked for");
    want(&mut client, &host("orders"), NOW);
    client.open();
    for kind in ResourceType::ALL {
        if !matches!(kind, Service | Workload) {
            client.receive(response(kind, "n", vec![]), accept);
        }
    }
    client.receive(told::<mesh::Workload>(&[], &[]), accept);
    assert!(!client.is_told());
    client.receive(told::<mesh::Service>(&[], &["orders"]), accept);
    assert!(client.is_told());
}

#[test]
fn of_everything_no_more_is_taken_over_than_leaves_room() {
    let mut export = everything();
    let services = (0..6_000_u16).map(|i| {
        let [high, low] = i.to_be_bytes();
        let service = mesh::Service {
            name: format!("s{i:04}"),
            namespace: "other".into(),
            addresses: vec![vec![10, 9, high, low]],
            ..service()
        };
        let wrapped = wrap(&service, "v1");
        let held = Held {
            version: "v1".into(),
            value: wrapped.resource.expect("a resource").value,
        };
        (Service, wrapped.name, held)
    });
    export.resources.splice(0..0, services);
    let mut next = client_of(Subscribe::Used);
    next.restore(export, NOW);
    next.believe_restored(NOW);
    assert_eq!(
        next.found(&host("orders")),
        Some(Found::Somebody),
        "near comes first"
    );
    let services = next.resources().services.len();
    assert!((100..2_048).contains(&services), "{services}");
    assert_eq!(want(&mut next, &host("new.example"), NOW), Wanted::Asked);
}

#[test]
fn a_service_is_not_known_with_only_those_endpoints_that_were_held_or_came_first() {
    let second = || mesh::Workload {
        uid: "demo/orders-2".into(),
        name: "orders-2".into(),
        addresses: vec![vec![10, 0, 0, 2]],
        ..workload()
    };
    let mut client = client_of(Subscribe::Used);
    client.open();
    for address in ["/10.0.0.1", "/10.0.0.2"] {
        want(&mut client, &Lookup::parse(address).expect("one"), NOW);
    }
    client.subscriptions();
    client.receive(told(&[workload(), second()], &[]), accept);
    want(&mut client, &host("orders"), NOW);
    client.subscriptions();
    client.receive(told(&[service()], &["orders"]), accept);
    client.subscriptions();
    // Sent before the endpoints were asked for: one of those that are held has changed.
    client.receive(told(&[workload()], &[]), accept);
    assert_eq!(client.found(&host("orders")), None);
    // The answer, in two parts.
    let third = mesh::Workload {
        uid: "demo/orders-3".into(),
        name: "orders-3".into(),
        ..second()
    };
    let part = DeltaDiscoveryResponse {
        system_version_info: "7+".into(),
        ..told(&[workload(), second()], &[])
    };
    client.receive(part, accept);
    assert_eq!(client.found(&host("orders")), None);
    let (_, built) = client.receive(told(&[third], &[]), accept);
    assert_eq!(client.found(&host("orders")), Some(Found::Somebody));
    assert_eq!(built.expect("built").workloads.len(), 3);
}

#[test]
fn when_the_control_api_is_away_for_long_nobody_is_not_believed() {
    let address = Lookup::parse("/10.0.0.5").expect("an address");
    let nobody = || {
        let services = told::<mesh::Service>(&[], &["/10.0.0.5"]);
        (services, told::<mesh::Workload>(&[], &["/10.0.0.5"]))
    };
    let mut client = knowing();
    want(&mut client, &address, NOW);
    client.open();
    let (services, workloads) = nobody();
    client.receive(services, accept);
    client.receive(workloads, accept);
    assert_eq!(client.found(&address), Some(Found::Nobody));
    assert!(client.doubt_absence(accept).is_none());
    assert_eq!(client.found(&address), None);
    assert_eq!(want(&mut client, &address, NOW), Wanted::Asked);
    assert_eq!(client.found(&host("orders")), Some(Found::Somebody));
    // Until it is back and says so again.
    client.open();
    let (services, workloads) = nobody();
    client.receive(services, accept);
    assert_eq!(client.found(&address), None);
    client.receive(workloads, accept);
    assert_eq!(client.found(&address), Some(Found::Nobody));

    let mut all = client_of(Subscribe::All);
    all.open();
    all.receive(told(&[service()], &[]), accept);
    all.receive(told(&[workload()], &[]), accept);
    let built = all.doubt_absence(accept).expect("another scope");
    assert_eq!(built.scope, Scope::LastKnown);
    assert!(built.scope.covers(&host("orders")) && !built.scope.is_everything());
    assert_eq!(all.found(&address), None);
    all.open();
    let (_, built) = all.receive(told::<mesh::Service>(&[], &[]), accept);
    assert!(built.is_none_or(|built| built.scope == Scope::LastKnown));
    let (_, built) = all.receive(told::<mesh::Workload>(&[], &[]), accept);
    assert_eq!(built.expect("built").scope, Scope::Everything);
    // Or is back and says nothing, which other servers do that have nothing new.
    all.doubt_absence(accept);
    all.open();
    assert!(all.missing().contains(&Service.kind()));
    let built = all.assume_current(accept).expect("another scope");
    assert_eq!(built.scope, Scope::Everything);
}

#[test]
fn that_nobody_was_there_is_not_believed_after_a_restart() {
    let mut client = knowing();
    let address = Lookup::parse("/10.0.0.5").expect("an address");
    want(&mut client, &address, NOW);
    client.open();
    client.receive(told::<mesh::Service>(&[], &["/10.0.0.5"]), accept);
    client.receive(told::<mesh::Workload>(&[], &["/10.0.0.5"]), accept);
    assert_eq!(client.found(&address), Some(Found::Nobody));
    let mut export = client.export();
    assert_eq!(export.used, Some(vec![host("orders")]));
    // Not even where an earlier version wrote it down, or where somebody was there who is refused now.
    export.used = Some(vec![host("orders"), address.clone(), host("gone")]);
    let mut next = client_of(Subscribe::Used);
    next.restore(export, NOW);
    assert_eq!(next.found(&address), None);
    assert_eq!(next.found(&host("gone")), None);
    assert_eq!(next.found(&host("orders")), Some(Found::Somebody));
    next.open();
    next.receive(told::<mesh::Service>(&[], &["/10.0.0.5"]), accept);
    next.receive(told::<mesh::Workload>(&[], &["/10.0.0.5"]), accept);
    assert_eq!(next.take_settled(), [(address, Found::Nobody)]);
}

#[test]
fn a_service_that_cannot_be_used_leaves_its_name_unanswered() {
    let mut client = client_of(Subscribe::Used);
    client.open();
    want(&mut client, &host("orders"), NOW);
    client.subscriptions();
    let broken = mesh::Service {
        addresses: vec![vec![1, 2, 3]],
        ..service()
    };
    let (answer, _) = client.receive(told(&[broken], &["orders"]), accept);
    assert!(answer.request.error_detail.is_some());
    assert_eq!(want(&mut client, &host("orders"), NOW), Wanted::Asked);
}

#[test]
fn what_cannot_be_read_is_not_nobody() {
    let address = Lookup::parse("/10.0.0.1").expect("an address");
    let unreadable = || {
        let unreadable = mesh::Workload {
            addresses: vec![vec![10, 0, 0, 1], vec![1, 2, 3]],
            ..workload()
        };
        let mut response = told(&[unreadable], &[]);
        response.resources[0].aliases = vec!["/10.0.0.1".into()];
        response
    };
    let mut client = client_of(Subscribe::Used);
    client.open();
    want(&mut client, &address, NOW);
    client.subscriptions();
    client.receive(told::<mesh::Service>(&[], &["/10.0.0.1"]), accept);
    client.receive(told::<mesh::Workload>(&[], &["/10.0.0.1"]), accept);
    assert_eq!(client.found(&address), Some(Found::Nobody));
    let (answer, _) = client.receive(unreadable(), accept);
    assert!(answer.request.error_detail.is_some());
    assert_eq!(client.found(&address), None);
    client.receive(told(&[workload()], &[]), accept);
    assert_eq!(client.found(&address), Some(Found::Somebody));

    let mut all = client_of(Subscribe::All);
    all.open();
    all.receive(told::<mesh::Service>(&[], &[]), accept);
    let (_, built) = all.receive(unreadable(), accept);
    assert!(!built.expect("built").scope.covers(&address));
    assert!(all.resources().scope.is_everything());
    let (_, built) = all.receive(told(&[workload()], &[]), accept);
    assert_eq!(built.expect("built").scope, Scope::Everything);
}

#[test]
fn what_cannot_be_read_in_its_new_version_is_not_nobody_at_its_new_address() {
    let moved = || {
        let unreadable = mesh::Workload {
            addresses: vec![vec![10, 0, 0, 2], vec![1, 2, 3]],
            ..workload()
        };
        let mut response = told(&[unreadable], &[]);
        response.resources[0].aliases = vec!["/10.0.0.2".into()];
        response
    };
    let address = Lookup::parse("/10.0.0.2").expect("an address");
    let mut all = client_of(Subscribe::All);
    all.open();
    all.receive(told::<mesh::Service>(&[], &[]), accept);
    all.receive(told(&[workload()], &[]), accept);
    all.receive(moved(), accept);
    assert!(!all.resources().scope.covers(&address));
    assert!(all.resources().workloads.contains_key("demo/orders-1"));

    // On the next stream it is told of in the second part of the answer: not forgotten by the first.
    all.open();
    let part = DeltaDiscoveryResponse {
        system_version_info: "7+".into(),
        ..told::<mesh::Workload>(&[], &[])
    };
    all.receive(part, accept);
    assert!(!all.resources().scope.covers(&address));
    all.receive(moved(), accept);
    assert!(!all.resources().scope.covers(&address));
    // And on one that does not tell of it any more it is gone.
    all.open();
    all.receive(told::<mesh::Workload>(&[], &[]), accept);
    assert_eq!(all.resources().scope, Scope::Everything);
}

#[test]
fn what_was_everything_in_an_earlier_process_is_believed_when_there_is_nothing_better() {
    let mut first = client_of(Subscribe::All);
    first.open();
    first.receive(told(&[service()], &[]), accept);
    first.receive(told(&[workload()], &[]), accept);
    let mut next = client_of(Subscribe::All);
    next.restore(first.export(), NOW);
    assert_eq!(next.resources().scope, Scope::nothing());
    assert_eq!(want(&mut next, &host("late"), NOW), Wanted::Asked);
    next.believe_restored(NOW);
    assert_eq!(next.resources().scope, Scope::Everything);
}

#[test]
fn destinations_are_bounded_and_those_with_nobody_make_room() {
    let mut client = client_of(Subscribe::Used);
    client.open();
    let name = |i: i64| format!("h{i}.example");
    for i in 0..4096 {
        assert_eq!(want(&mut client, &host(&name(i)), NOW + i), Wanted::Asked);
    }
    assert_eq!(want(&mut client, &host("more.example"), NOW), Wanted::Full);
    let names: Vec<_> = (0..4096).map(name).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    client.receive(told::<mesh::Service>(&[], &names), accept);
    assert_eq!(want(&mut client, &host("more.example"), NOW), Wanted::Full);
    let later = NOW + 10_000;
    assert_eq!(
        want(&mut client, &host("more.example"), later),
        Wanted::Asked
    );
    assert_eq!(
        want(&mut client, &host(&name(0)), later),
        Wanted::Asked,
        "gone"
    );
    let last = want(&mut client, &host(&name(4095)), later);
    assert_eq!(last, Wanted::Found(Found::Nobody));
}
