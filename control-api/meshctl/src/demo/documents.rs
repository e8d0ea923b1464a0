//! The documents of the demo's mesh: three workloads, their services, and who may call whom. Pure.

use std::net::{IpAddr, Ipv4Addr};

use super::{NAMESPACE, TRUST_DOMAIN};

/// Where the applications listen, as policies and services see it.
pub(super) const HTTP_PORT: u16 = 8080;
/// The gRPC service of `orders`.
pub(super) const GRPC_PORT: u16 = 50051;
/// The TCP echo of `orders`.
pub(super) const ECHO_PORT: u16 = 7000;
/// The service of `orders` that speaks first.
pub(super) const BANNER_PORT: u16 = 7001;
/// Where services answer HTTP.
pub(super) const SERVICE_PORT: u16 = 80;

/// What the documents say of one workload.
pub(super) struct Registration {
    pub(super) name: &'static str,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) mesh_port: u16,
    /// Virtual address of its service, where there is one.
    pub(super) service_address: Option<Ipv4Addr>,
}

/// The identity of a workload of the demo.
pub(super) fn spiffe_id(workload: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{workload}")
}

/// The whole manifest.
pub(super) fn manifest(registrations: &[Registration]) -> String {
    let mut text = String::new();
    for r in registrations {
        text.push_str(&workload(r));
        text.push_str(&service(r));
    }
    text.push_str(&callers("orders", "web"));
    text.push_str(&callers("payments", "orders"));
    text.push_str(&format!(
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: strict, namespace: {NAMESPACE}}}\nspec:\n  mtls: {{mode: STRICT}}\n"
    ));
    text
}

fn workload(r: &Registration) -> String {
    let addresses: Vec<String> = r.addresses.iter().map(|a| format!("\"{a}\"")).collect();
    format!(
        "---\napiVersion: postern.dev/v1alpha1\nkind: Workload\nmetadata:\n  name: {name}\n  namespace: {NAMESPACE}\n  labels: {{app: {name}}}\n\
         spec:\n  serviceAccount: {name}\n  addresses: [{addresses}]\n  meshPort: {port}\n",
        name = r.name,
        addresses = addresses.join(", "),
        port = r.mesh_port,
    )
}

fn service(r: &Registration) -> String {
    let addresses = r
        .service_address
        .map(|a| format!("\"{a}\""))
        .unwrap_or_default();
    let mut text = format!(
        "---\napiVersion: postern.dev/v1alpha1\nkind: Service\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
         spec:\n  addresses: [{addresses}]\n  selector: {{app: {name}}}\n  ports:\n  - {{name: http, port: {SERVICE_PORT}, targetPort: {HTTP_PORT}, protocol: HTTP}}\n",
        name = r.name,
    );
    if r.name == "orders" {
        // `banner` is left to detection: the harder case, since nobody may speak before the server does.
        text.push_str(&format!(
            "  - {{name: grpc, port: {GRPC_PORT}, targetPort: {GRPC_PORT}, protocol: HTTP}}\n  - {{name: echo, port: {ECHO_PORT}, targetPort: {ECHO_PORT}, protocol: TCP}}\n  \
             - {{name: banner, port: {BANNER_PORT}, targetPort: {BANNER_PORT}, protocol: Auto}}\n"
        ));
    }
    text
}

/// Who may call a workload: one other.
fn callers(workload: &str, caller: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {workload}-callers, namespace: {NAMESPACE}}}\n\
         spec:\n  selector: {{matchLabels: {{app: {workload}}}}}\n  action: ALLOW\n  rules:\n  - from:\n    - source: {{principals: [\"{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{caller}\"]}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_document_has_a_kind_and_a_name() {
        let registrations: Vec<Registration> = super::super::WORKLOADS
            .into_iter()
            .map(|name| Registration {
                name,
                addresses: vec![Ipv4Addr::LOCALHOST.into()],
                mesh_port: 15008,
                service_address: Some(Ipv4Addr::new(10, 96, 0, 1)),
            })
            .collect();
        let text = manifest(&registrations);
        let documents: Vec<&str> = text.split("---\n").filter(|d| !d.is_empty()).collect();
        assert_eq!(documents.len(), 3 * 2 + 2 + 1);
        for document in documents {
            let value: serde_json::Value =
                serde_saphyr::from_str(document).unwrap_or_else(|e| panic!("{e}\n{document}"));
            assert!(
                value["kind"].is_string() && value["metadata"]["name"].is_string(),
                "{document}"
            );
            assert_eq!(value["metadata"]["namespace"], NAMESPACE);
        }
    }
}
