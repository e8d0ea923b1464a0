//! Asks the control API to fetch key sets again, one question per set at a time.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use mesh_proto::mesh::key_set_service_client::KeySetServiceClient;
use mesh_proto::mesh::{RefetchRequest, RefetchResponse};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::key_requests::KeyRequests;
use crate::snapshot::SharedSnapshot;

/// How long the control API may take: it asks the issuer meanwhile.
const ANSWER: Duration = Duration::from_secs(20);
/// Between two questions when there was no answer.
const AGAIN: Duration = Duration::from_secs(2);
/// Questions about one set, after which the next token has to ask.
const TRIES: u32 = 8;
/// How long changed keys may take to arrive on the discovery stream. Until then nobody may be told that a key is unknown.
const ARRIVAL: Duration = Duration::from_secs(20);

/// Answers the workers' questions for ever.
pub(super) async fn serve(
    workload: &str,
    requests: Arc<KeyRequests>,
    channels: watch::Receiver<Option<Channel>>,
    snapshot: SharedSnapshot,
) {
    let mut under_way: HashSet<Box<str>> = HashSet::new();
    let mut questions = JoinSet::new();
    loop {
        tokio::select! {
            name = requests.next() => {
                if under_way.insert(name.clone()) {
                    let question = Question {
                        workload: workload.to_owned(),
                        name,
                        channels: channels.clone(),
                        requests: Arc::clone(&requests),
                        snapshot: Arc::clone(&snapshot),
                    };
                    questions.spawn(question.ask());
                }
            }
            Some(done) = questions.join_next() => {
                if let Ok(name) = done {
                    under_way.remove(&name);
                }
            }
        }
    }
}

struct Question {
    workload: String,
    name: Box<str>,
    channels: watch::Receiver<Option<Channel>>,
    requests: Arc<KeyRequests>,
    snapshot: SharedSnapshot,
}

impl Question {
    /// Asks until there is an answer. Returns the name.
    async fn ask(self) -> Box<str> {
        for _ in 0..TRIES {
            let held = self.keys();
            let number = self.requests.begin(&self.name);
            match self.once().await {
                Some(answer) if answer.fetched => {
                    if answer.changed && !self.arrival(held.as_deref()).await {
                        tracing::warn!(key_set = &*self.name, "changed keys do not arrive");
                        break;
                    }
                    metrics::counter!("postern_key_set_refetches_total").increment(1);
                    self.requests.answered(&self.name, number);
                    // A key that comes into being from now on has to wait until the issuer may be asked again.
                    break;
                }
                // By a fetch that had begun before: it may have brought the key, and does not say that there is none.
                Some(answer) if answer.changed => {
                    if self.arrival(held.as_deref()).await {
                        self.requests.arrived(&self.name);
                    }
                    break;
                }
                Some(answer) => {
                    tokio::time::sleep(Duration::from_millis(answer.retry_after_ms.into())).await;
                }
                None => tokio::time::sleep(AGAIN).await,
            }
        }
        self.name
    }

    async fn once(&self) -> Option<RefetchResponse> {
        let channel = self.channels.borrow().clone()?;
        let request = RefetchRequest {
            key_set: self.name.to_string(),
            workload: self.workload.clone(),
        };
        let mut client = KeySetServiceClient::new(channel);
        match tokio::time::timeout(ANSWER, client.refetch(request)).await {
            Ok(Ok(response)) => Some(response.into_inner()),
            Ok(Err(status)) => {
                tracing::debug!(key_set = &*self.name, %status, "cannot have a key set fetched again");
                None
            }
            Err(_) => None,
        }
    }

    fn keys(&self) -> Option<String> {
        let snapshot = self.snapshot.load();
        let held = snapshot.resources.key_sets.get(&*self.name)?;
        Some(held.jwks.clone())
    }

    /// Waits until other keys than `held` are in force; false: they never came.
    async fn arrival(&self, held: Option<&str>) -> bool {
        let other = async {
            while self.keys().as_deref() == held {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(ARRIVAL, other).await.is_ok()
    }
}
