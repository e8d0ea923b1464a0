//! A stream that asks for what it uses by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_auth::TrustDomain;
use mesh_manifest::{Document, Resource};
use mesh_proto::ResourceType::{Service, Workload};

use super::*;
use crate::registry::{Inputs, KeySets, Prior, Stored, build};

const ORDERS: &str = "
apiVersion: postern.dev/v1alpha1
kind: Service
metadata: {name: orders, namespace: demo}
spec: {selector: {app: orders}, addresses: [10.1.0.1], ports: [{port: 80, targetPort: 8080}]}
";
const WORKLOADS: &str = "
apiVersion: postern.dev/v1alpha1
kind: Workload
metadata: {name: orders-1, namespace: demo, labels: {app: orders}}
spec: {serviceAccount: orders, addresses: [10.0.0.1]}
---
apiVersion: postern.dev/v1alpha1
kind: Workload
metadata: {name: other, namespace: demo}
spec: {serviceAccount: other, addresses: [10.0.0.2]}
";

/// The world of `manifests` at `revision`, after `before`.
fn world(manifests: &[&str], before: Option<&World>, revision: u64) -> World {
    let documents = manifests
        .iter()
        .flat_map(|manifest| mesh_manifest::parse(manifest, "test").expect("documents"));
    world_of(documents, before, revision)
}

fn world_of(
    documents: impl Iterator<Item = Document>,
    before: Option<&World>,
    revision: u64,
) -> World {
    let documents = documents.map(|document| {
        let stored = Stored {
            document,
            revision: 1,
            changed_at: 0,
            author: String::new(),
        };
        (stored.document.key(), Arc::new(stored))
    });
    let inputs = Inputs {
        documents: documents.collect(),
        trust_domain: &TrustDomain::new("td").expect("a trust domain"),
        bundles: &[],
        key_sets: &KeySets::default(),
    };
    let records = BTreeMap::new();
    let prior = before.map_or(Prior::Records(&records), Prior::World);
    build(inputs, &prior, revision)
}

/// A stream, driven as a sidecar does.
struct Driven(State);

type Told = (Vec<String>, Vec<String>);

impl Driven {
    fn open(world: &World) -> Self {
        let workload = world.workload("demo/other").expect("registered");
        Self(State::new(Arc::clone(workload)))
    }

    fn ask(&mut self, kind: ResourceType, subscribe: &[&str], unsubscribe: &[&str]) {
        self.ask_holding(kind, subscribe, unsubscribe, &[]);
    }

    fn ask_holding(
        &mut self,
        kind: ResourceType,
        subscribe: &[&str],
        unsubscribe: &[&str],
        held: &[(&str, &str)],
    ) {
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let held = held.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        let request = DeltaDiscoveryRequest {
            type_url: kind.type_url().into(),
            resource_names_subscribe: owned(subscribe),
            resource_names_unsubscribe: owned(unsubscribe),
            initial_resource_versions: held.collect(),
            ..Default::default()
        };
        self.0.request(&request, 0).expect("taken");
    }

    /// What is sent of `kind`, names and removals; acknowledged. `None`: nothing.
    fn told(&mut self, kind: ResourceType, world: &World) -> Option<Told> {
        let response = self.0.responses_of(kind, world)?;
        let acknowledged = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..Default::default()
        };
        self.0.request(&acknowledged, 0).expect("taken");
        let names = response.resources.into_iter().map(|r| r.name).collect();
        Some((names, response.removed_resources))
    }
}

fn told(names: &[&str], removed: &[&str]) -> Option<Told> {
    let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    Some((owned(names), owned(removed)))
}

#[test]
fn who_is_at_a_host_or_an_address_and_who_serves_is_answered_with_that_and_nothing_else() {
    let world = world(&[ORDERS, WORKLOADS], None, 1);
    let mut stream = Driven::open(&world);
    for host in ["orders.demo", "orders.demo.svc.cluster.local", "/10.1.0.1"] {
        stream.ask(Service, &[host], &[]);
        assert_eq!(
            stream.told(Service, &world),
            told(&["demo/orders"], &[]),
            "{host}"
        );
    }
    stream.ask(Workload, &["/service/demo/orders"], &[]);
    assert_eq!(stream.told(Workload, &world), told(&["demo/orders-1"], &[]));
    stream.ask(Workload, &["/10.0.0.2"], &[]);
    assert_eq!(stream.told(Workload, &world), told(&["demo/other"], &[]));
}

#[test]
fn a_name_of_nothing_is_told_once_and_again_when_there_is_something() {
    let before = world(&[WORKLOADS], None, 1);
    let mut stream = Driven::open(&before);
    stream.ask(Service, &["orders.demo", "orders"], &[]);
    assert_eq!(
        stream.told(Service, &before),
        told(&[], &["orders", "orders.demo"])
    );
    assert_eq!(stream.told(Service, &before), None);
    stream.ask(Workload, &["/service/demo/orders"], &[]);
    assert_eq!(
        stream.told(Workload, &before),
        told(&[], &["/service/demo/orders"])
    );

    // The bare name is for the namespace itself to know: nobody has it as a host.
    let after = world(&[ORDERS, WORKLOADS], Some(&before), 2);
    assert_eq!(stream.told(Service, &after), told(&["demo/orders"], &[]));
    assert_eq!(stream.told(Workload, &after), told(&["demo/orders-1"], &[]));

    // Gone again: by its own name, and by the one that was asked for.
    let gone = world(&[WORKLOADS], Some(&after), 3);
    assert_eq!(
        stream.told(Service, &gone),
        told(&[], &["demo/orders", "orders.demo"])
    );
}

#[test]
fn what_is_no_longer_asked_for_is_not_sent_and_comes_whole_when_it_is_asked_for_again() {
    let first = world(&[ORDERS, WORKLOADS], None, 1);
    let mut stream = Driven::open(&first);
    stream.ask(Service, &["orders.demo"], &[]);
    assert_eq!(stream.told(Service, &first), told(&["demo/orders"], &[]));
    stream.ask(Service, &[], &["orders.demo"]);
    assert_eq!(stream.told(Service, &first), told(&[], &["demo/orders"]));
    let changed = ORDERS.replace("8080", "9090");
    let second = world(&[&changed, WORKLOADS], Some(&first), 2);
    assert_eq!(stream.told(Service, &second), None);
    stream.ask(Service, &["orders.demo"], &[]);
    assert_eq!(stream.told(Service, &second), told(&["demo/orders"], &[]));
    // By another name it is sent although it is held: who asks waits for an answer.
    stream.ask(Service, &["/10.1.0.1"], &[]);
    assert_eq!(stream.told(Service, &second), told(&["demo/orders"], &[]));
}

#[test]
fn a_workload_that_leaves_a_service_is_taken_back_from_who_asked_for_the_services_workloads() {
    let first = world(&[ORDERS, WORKLOADS], None, 1);
    let mut stream = Driven::open(&first);
    stream.ask(Workload, &["/service/demo/orders", "demo/other"], &[]);
    let both = told(&["demo/orders-1", "demo/other"], &[]);
    assert_eq!(stream.told(Workload, &first), both);
    let moved = WORKLOADS.replace("app: orders", "app: retired");
    let second = world(&[ORDERS, &moved], Some(&first), 2);
    assert_eq!(
        stream.told(Workload, &second),
        told(&[], &["demo/orders-1", "/service/demo/orders"])
    );
    let third = world(&[ORDERS, WORKLOADS], Some(&second), 3);
    assert_eq!(stream.told(Workload, &third), told(&["demo/orders-1"], &[]));
}

#[test]
fn who_comes_back_with_names_and_versions_is_told_the_difference() {
    let first = world(&[ORDERS, WORKLOADS], None, 1);
    let names = ["orders.demo", "gone.demo", "new.demo"];
    let held = [("demo/orders", "1"), ("demo/gone", "1")];
    let mut stream = Driven::open(&first);
    stream.ask_holding(Service, &names, &[], &held);
    assert_eq!(
        stream.told(Service, &first),
        told(&[], &["demo/gone", "gone.demo", "new.demo"])
    );
}

#[test]
fn a_response_says_whether_more_of_the_same_follows() {
    // Three halves of a response.
    let documents = (0..3).flat_map(|i| {
        let manifest = WORKLOADS.replace("other", &format!("big-{i}"));
        let mut documents = mesh_manifest::parse(&manifest, "test").expect("documents");
        for document in &mut documents {
            if let Resource::Workload(workload) = &mut document.resource
                && workload.name.starts_with("big")
            {
                let half = "x".repeat(1_600_000);
                workload.labels.insert("size".into(), half);
            }
        }
        documents
    });
    let world = world_of(documents, None, 7);
    let workload = Arc::clone(world.workload("demo/big-0").expect("registered"));
    let mut stream = Driven(State::new(workload));
    let mut versions = Vec::new();
    stream.ask(Workload, &["*"], &[]);
    while let Some(response) = stream.0.responses_of(Workload, &world) {
        versions.push((response.resources.len(), response.system_version_info));
        let acknowledged = DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            ..Default::default()
        };
        stream.0.request(&acknowledged, 0).expect("taken");
    }
    assert_eq!(versions, [(2, "7+".to_owned()), (2, "7".to_owned())]);
}
