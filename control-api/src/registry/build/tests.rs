use super::*;

const WORLD: &str = "
apiVersion: postern.dev/v1alpha1
kind: Service
metadata: {name: s, namespace: demo}
spec: {selector: {app: a}, ports: [{port: 80, targetPort: 8080, protocol: HTTP, name: http}]}
---
apiVersion: postern.dev/v1alpha1
kind: Workload
metadata: {name: w1, namespace: demo, labels: {app: a}}
spec: {serviceAccount: a, addresses: [10.0.0.1]}
---
apiVersion: postern.dev/v1alpha1
kind: Workload
metadata: {name: w2, namespace: demo, labels: {app: a}}
spec: {serviceAccount: a, addresses: [10.0.0.2]}
";
const MOVED: &str = "
apiVersion: postern.dev/v1alpha1
kind: Workload
metadata: {name: w1, namespace: demo, labels: {app: b}}
spec: {serviceAccount: b, addresses: [10.0.0.3]}
";
const OTHER_PORT: &str = "
apiVersion: postern.dev/v1alpha1
kind: Service
metadata: {name: s, namespace: demo}
spec: {selector: {app: a}, ports: [{port: 80, targetPort: 9090, protocol: HTTP, name: http}]}
";

type Documents = BTreeMap<Key, Arc<Stored>>;

fn with(before: &Documents, manifest: &str) -> Documents {
    let mut documents = before.clone();
    for document in mesh_manifest::parse(manifest, "test").unwrap() {
        let stored = Stored {
            document,
            revision: 1,
            changed_at: 0,
            author: String::new(),
        };
        documents.insert(stored.document.key(), Arc::new(stored));
    }
    documents
}

fn world(documents: &Documents, prior: &Prior<'_>, revision: u64) -> World {
    let inputs = Inputs {
        documents: documents.clone(),
        trust_domain: &TrustDomain::new("td").unwrap(),
        bundles: &[],
        key_sets: &KeySets::default(),
    };
    build(inputs, prior, revision)
}

/// What streams and the authority see of it.
fn seen(world: &World) -> impl PartialEq + std::fmt::Debug + use<> {
    let entries: Vec<_> = world
        .entries()
        .map(|entry| (entry.record_key(), entry.digest, entry.aliases.clone()))
        .collect();
    let aliases: Vec<_> = world.tables.values().map(|t| t.aliases.clone()).collect();
    (entries, aliases, world.workloads.clone())
}

#[test]
fn what_is_kept_is_what_would_be_made_anew() {
    let nothing = BTreeMap::new();
    let fresh = |documents: &Documents| world(documents, &Prior::Records(&nothing), 1);
    let first = with(&Documents::new(), WORLD);
    let before = fresh(&first);
    let mut gone = first.clone();
    gone.remove(&(mesh_manifest::Kind::Workload, "demo".into(), "w1".into()));
    let mut without_service = first.clone();
    without_service.remove(&(mesh_manifest::Kind::Service, "demo".into(), "s".into()));
    let added = WORLD.replace("w1", "w0").replace("w2", "w3");
    for next in [
        first.clone(),
        with(&first, MOVED),
        with(&first, OTHER_PORT),
        with(&first, &added),
        gone,
        without_service,
    ] {
        let kept = world(&next, &Prior::World(&before), 2);
        assert_eq!(seen(&kept), seen(&fresh(&next)));
    }
}

#[test]
fn a_change_of_one_workload_leaves_the_others_as_they_are() {
    let nothing = BTreeMap::new();
    let first = with(&Documents::new(), WORLD);
    let before = world(&first, &Prior::Records(&nothing), 1);
    let after = world(&with(&first, MOVED), &Prior::World(&before), 2);
    let entry = |world: &World, name: &str| {
        Arc::clone(world.table(ResourceType::Workload).get(name).unwrap())
    };
    assert!(Arc::ptr_eq(
        &entry(&before, "demo/w2"),
        &entry(&after, "demo/w2")
    ));
    assert!(Arc::ptr_eq(
        &before.workloads["demo/w2"],
        &after.workloads["demo/w2"]
    ));
    assert_eq!(entry(&after, "demo/w1").revision, 2);
    let changed: Vec<_> = after
        .table(ResourceType::Workload)
        .changed_after(1)
        .unwrap()
        .collect();
    assert_eq!(
        changed.iter().map(|n| &***n).collect::<Vec<_>>(),
        ["demo/w1"]
    );
}
