//! A resource that a sidecar cannot compile: the author sees whose it is and why, until it is corrected.

use mesh_proto::ResourceType;
use mesh_proto::admin::admin_service_client::AdminServiceClient;
use mesh_proto::admin::{SidecarStatus, StatusRequest};
use mesh_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use mesh_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use mesh_proto::envoy::config::core::v3::Node;
use mesh_proto::google::rpc::Status as Refusal;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::support::ControlApi;

fn policy(name: &str, path: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: demo}}\n\
         spec: {{action: DENY, rules: [{{to: [{{operation: {{paths: [{path}]}}}}]}}]}}\n"
    )
}

/// The answer to a response: an ACK, or a NACK that names resources.
fn answer(response: &DeltaDiscoveryResponse, rejected: Option<&str>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        error_detail: rejected.map(|message| Refusal {
            code: 3,
            message: message.to_owned(),
            ..Refusal::default()
        }),
        ..DeltaDiscoveryRequest::default()
    }
}

/// The one sidecar's status, once `condition` holds.
async fn status(api: &ControlApi, condition: impl Fn(&SidecarStatus) -> bool) -> SidecarStatus {
    let mut admin = AdminServiceClient::new(api.operator().await);
    let look = async {
        loop {
            let all = admin.status(StatusRequest {}).await.expect("a status");
            let sidecar = all.into_inner().sidecars.pop().expect("one sidecar");
            if condition(&sidecar) {
                return sidecar;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), look)
        .await
        .expect("it never came to that")
}

#[tokio::test]
async fn a_rejected_policy_is_shown_by_name_with_its_reason_until_it_is_corrected() {
    let api = ControlApi::start(&[]);
    let web = api.workload("web").await;
    api.apply(&format!(
        "{}{}",
        policy("good", "/a"),
        policy("newer", "/b")
    ))
    .await;

    let channel = api.dial(Some(&web.identity), api.roots()).await;
    let mut client = AggregatedDiscoveryServiceClient::new(channel.expect("a connection"));
    let (requests, receiver) = mpsc::channel(8);
    let hello = DeltaDiscoveryRequest {
        type_url: ResourceType::AuthorizationPolicy.type_url().to_owned(),
        resource_names_subscribe: vec!["*".to_owned()],
        node: Some(Node {
            id: "demo/web".to_owned(),
            ..Node::default()
        }),
        ..DeltaDiscoveryRequest::default()
    };
    requests.send(hello).await.expect("open");
    let responses = client.delta_aggregated_resources(ReceiverStream::new(receiver));
    let mut responses = responses.await.expect("a stream").into_inner();
    let first = responses.message().await.expect("open").expect("policies");
    assert_eq!(first.resources.len(), 2);
    let why = r#"[{"name":"demo/newer","reason":"rules[0].when[0].key: 'x' is unknown"}]"#;
    requests
        .send(answer(&first, Some(why)))
        .await
        .expect("open");

    let shown = status(&api, |s| !s.nacks.is_empty()).await;
    assert_eq!(
        (shown.workload.as_str(), shown.nacks.len()),
        ("demo/web", 1)
    );
    let nack = &shown.nacks[0];
    assert_eq!(nack.name, "demo/newer", "its neighbour is held");
    assert_eq!(nack.reason, "rules[0].when[0].key: 'x' is unknown");
    assert_eq!(nack.type_url, ResourceType::AuthorizationPolicy.type_url());
    assert!(!nack.version.is_empty() && nack.at > 0);

    // The author corrects it: only that comes again, and nothing is rejected any more.
    api.apply(&policy("newer", "/c")).await;
    let second = responses.message().await.expect("open").expect("the other");
    let names: Vec<_> = second.resources.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["demo/newer"]);
    assert_ne!(second.resources[0].version, nack.version);
    requests.send(answer(&second, None)).await.expect("open");
    let shown = status(&api, |s| s.nacks.is_empty()).await;
    assert!(shown.connected && shown.acked_revision > 0);
}
