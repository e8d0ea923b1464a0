//! One simulated sidecar's stream: subscriptions, then an ACK for everything that comes.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use anyhow::{Context, bail};
use mesh_auth::tls::Identity;
use mesh_proto::ResourceType;
use mesh_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use mesh_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use mesh_proto::envoy::config::core::v3 as core;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Target;
use super::expect::Expectations;

/// Most bytes of a response.
const MOST: usize = 64 << 20;

/// What a simulated sidecar asks for of one type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subscribe {
    /// Everything that it may have.
    All,
    /// These names.
    Names(Vec<String>),
}

/// What a stream has seen so far.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) resources: Cell<u64>,
    pub(super) bytes: Cell<u64>,
}

/// One sidecar's stream.
pub(super) struct Stream {
    pub(super) target: Target,
    pub(super) workload: String,
    pub(super) identity: Identity,
    pub(super) subscriptions: Rc<HashMap<ResourceType, Subscribe>>,
    /// Its number in the fleet.
    pub(super) index: usize,
    pub(super) expectations: Rc<Expectations>,
    pub(super) progress: Rc<Progress>,
    /// Told when every type had its first response.
    pub(super) greeted: mpsc::Sender<()>,
}

impl Stream {
    /// Follows the control stream until it ends, which is an error.
    pub(super) async fn follow(self) -> anyhow::Result<()> {
        let channel = self.target.connect(Some(&self.identity)).await?;
        let mut client =
            AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MOST);
        let (requests, receiver) = mpsc::channel(ResourceType::ALL.len() + 2);
        for request in opening(&self.workload, &self.subscriptions) {
            requests.send(request).await?;
        }
        let mut responses = client
            .delta_aggregated_resources(ReceiverStream::new(receiver))
            .await
            .context("no control stream")?
            .into_inner();
        let mut seen = BTreeSet::new();
        while let Some(response) = responses.message().await? {
            let Some(kind) = ResourceType::from_type_url(&response.type_url) else {
                bail!("a response of an unknown type: {}", response.type_url);
            };
            requests.send(ack(&response)).await?;
            self.note(kind, &response);
            if seen.insert(kind) && seen.len() == self.subscriptions.len() {
                let _ = self.greeted.send(()).await;
            }
        }
        bail!("the control API ended the stream of {}", self.workload)
    }

    fn note(&self, kind: ResourceType, response: &DeltaDiscoveryResponse) {
        let contents = response
            .resources
            .iter()
            .filter_map(|r| r.resource.as_ref());
        let bytes: usize = contents.map(|any| any.value.len()).sum();
        let Progress {
            resources,
            bytes: total,
        } = &*self.progress;
        resources.set(resources.get() + response.resources.len() as u64);
        total.set(total.get() + bytes as u64);
        for expectation in self.expectations.of(kind) {
            if names(response).any(|name| name == expectation.name) {
                expectation.arrived(self.index);
            }
        }
    }
}

/// The first requests of a stream; the very first names the node.
fn opening(
    workload: &str,
    subscriptions: &HashMap<ResourceType, Subscribe>,
) -> Vec<DeltaDiscoveryRequest> {
    let mut node = Some(core::Node {
        id: workload.to_owned(),
        user_agent_name: "mesh-bench".to_owned(),
        ..core::Node::default()
    });
    ResourceType::ALL
        .into_iter()
        .filter_map(|kind| Some((kind, subscriptions.get(&kind)?)))
        .map(|(kind, subscribe)| DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: match subscribe {
                Subscribe::All => vec!["*".to_owned()],
                Subscribe::Names(names) => names.clone(),
            },
            node: node.take(),
            ..DeltaDiscoveryRequest::default()
        })
        .collect()
}

fn names(response: &DeltaDiscoveryResponse) -> impl Iterator<Item = &str> {
    let named = response.resources.iter().map(|r| r.name.as_str());
    named.chain(response.removed_resources.iter().map(String::as_str))
}

fn ack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..DeltaDiscoveryRequest::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_request_names_the_node() {
        let subscriptions = HashMap::from([
            (ResourceType::Workload, Subscribe::Names(vec!["a/b".into()])),
            (ResourceType::TrustBundle, Subscribe::All),
        ]);
        let requests = opening("ns/w", &subscriptions);
        assert_eq!(requests.len(), 2);
        assert_eq!(requests[0].node.as_ref().unwrap().id, "ns/w");
        assert_eq!(requests[0].resource_names_subscribe, ["*"]);
        assert!(requests[1].node.is_none());
        assert_eq!(requests[1].resource_names_subscribe, ["a/b"]);
    }
}
