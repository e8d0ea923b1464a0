//! The documents of a large mesh. Pure.

use std::fmt::Write as _;

use mesh_proto::alias;

/// Workloads behind one service.
const REPLICAS: u32 = 10;
/// Services that one sidecar uses.
const USED: u32 = 5;
/// Workloads in one manifest: the control API takes 4 MB at a time.
const BATCH: u32 = 5_000;
/// Namespace of everything.
pub(super) const NAMESPACE: &str = "load";

/// Name of the policy that changes, as a resource.
pub(super) const POLICY: &str = "postern-system/pushed";
/// Name of the workload that changes, as a resource.
pub(super) const SHARED: &str = "load/shared";

/// All documents, in manifests that fit into one request each.
pub(super) fn manifests(workloads: u32) -> impl Iterator<Item = String> {
    let first = format!("{}{}{}", policy(0), service("shared"), shared(0));
    let services = (0..workloads.div_ceil(REPLICAS)).map(|index| service(&format!("s{index}")));
    let workloads = (0..workloads).map(workload);
    let mut documents = services.chain(workloads);
    std::iter::once(first).chain(std::iter::from_fn(move || {
        let batch: String = documents.by_ref().take(BATCH as usize).collect();
        (!batch.is_empty()).then_some(batch)
    }))
}

fn service(name: &str) -> String {
    format!(
        "---\napiVersion: postern.dev/v1alpha1\nkind: Service\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
         spec: {{selector: {{app: {name}}}, ports: [{{port: 80, targetPort: 8080, protocol: HTTP, name: http}}]}}\n"
    )
}

fn workload(index: u32) -> String {
    let app = index / REPLICAS;
    let [_, b, c, d] = index.to_be_bytes();
    let mut text = String::new();
    let _ = write!(
        text,
        "---\napiVersion: postern.dev/v1alpha1\nkind: Workload\nmetadata: {{name: w{index}, namespace: {NAMESPACE}, labels: {{app: s{app}}}}}\n\
         spec: {{serviceAccount: a{app}, addresses: [10.{b}.{c}.{d}]}}\n"
    );
    text
}

/// A policy for the whole mesh that differs from turn to turn.
pub(super) fn policy(turn: u32) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: pushed, namespace: postern-system}}\n\
         spec: {{action: DENY, rules: [{{from: [{{source: {{namespaces: [banned-{turn}]}}}}]}}]}}\n"
    )
}

/// A workload that everybody calls, at another address from turn to turn.
pub(super) fn shared(turn: u32) -> String {
    let [_, _, c, d] = turn.to_be_bytes();
    format!(
        "---\napiVersion: postern.dev/v1alpha1\nkind: Workload\nmetadata: {{name: shared, namespace: {NAMESPACE}, labels: {{app: shared}}}}\n\
         spec: {{serviceAccount: shared, addresses: [11.0.{c}.{d}]}}\n"
    )
}

/// The workload of the sidecar with this number; they are spread over all services.
pub(super) fn sidecar(index: u32, workloads: u32) -> String {
    let stride = (workloads / 4_001).max(1);
    format!("{NAMESPACE}/w{}", index * stride % workloads)
}

/// Services that a sidecar uses, and how many workloads they have.
pub(super) fn uses(index: u32, workloads: u32) -> (Vec<String>, usize) {
    let services = workloads.div_ceil(REPLICAS);
    let used: Vec<u32> = (0..USED).map(|k| (index * 7 + k * 13) % services).collect();
    let members = used
        .iter()
        .map(|s| (s * REPLICAS..((s + 1) * REPLICAS).min(workloads)).len());
    let members = members.sum();
    (used.iter().map(|s| format!("s{s}")).collect(), members)
}

/// What a sidecar subscribes to that uses `services` by their bare names and by [`SHARED`]'s service, and is `own`: names of
/// services, and of workloads.
pub(super) fn subscriptions(own: &str, services: &[String]) -> (Vec<String>, Vec<String>) {
    let all = || services.iter().map(String::as_str).chain(["shared"]);
    let hosts = all().flat_map(|name| [name.to_owned(), format!("{name}.{NAMESPACE}")]);
    let members = all().map(|name| alias::of_members(&format!("{NAMESPACE}/{name}")));
    (hosts.collect(), members.chain([own.to_owned()]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_sidecar_is_a_workload_of_its_own() {
        for (sidecars, workloads) in [(100, 2_000), (2_000, 100_000), (4_000, 4_000)] {
            let names: BTreeSet<_> = (0..sidecars).map(|i| sidecar(i, workloads)).collect();
            assert_eq!(names.len(), sidecars as usize, "{sidecars} of {workloads}");
        }
    }

    #[test]
    fn a_sidecar_uses_five_services_with_ten_workloads_each() {
        let (services, members) = uses(3, 2_000);
        assert_eq!((services.len(), members), (5, 50));
        assert_eq!(services[0], "s21");
        let (hosts, workloads) = subscriptions("load/w1", &services);
        assert_eq!((hosts.len(), workloads.len()), (12, 7));
        assert_eq!(hosts[..2], ["s21", "s21.load"]);
        assert_eq!(workloads[0], "/service/load/s21");
    }

    #[test]
    fn manifests_hold_everything_once() {
        let all: String = manifests(12_000).collect();
        assert_eq!(all.matches("kind: Workload").count(), 12_001);
        assert_eq!(all.matches("kind: Service\n").count(), 1_201);
        assert!(manifests(12_000).all(|m| m.len() < 4 << 20));
    }
}
