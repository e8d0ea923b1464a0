//! The service: messages between the socket and a [`Session`] per stream.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use mesh_proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use mesh_proto::secret::secret_discovery_service_server::SecretDiscoveryService;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::session::{Delta, Session, StateOfTheWorld};
use crate::doors::admission::Admission;
use crate::doors::material::{Material, entitled};
use crate::doors::status::{counted, no_identity};

/// The service.
pub struct SecretDiscovery {
    admission: Admission,
    material: watch::Receiver<Arc<Material>>,
    stop: CancellationToken,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl SecretDiscovery {
    /// Hands out `material` until `stop`.
    pub fn new(
        admission: Admission,
        material: watch::Receiver<Arc<Material>>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            admission,
            material,
            stop,
        }
    }

    async fn stream<S: Session>(
        &self,
        rpc: &'static str,
        request: Request<Streaming<S::Request>>,
    ) -> Result<Response<Responses<S::Response>>, Status> {
        let place = counted(rpc, self.admission.call(&request).await)?;
        let exchange = Exchange {
            session: S::default(),
            requests: request.into_inner(),
            material: self.material.clone(),
            admission: self.admission.clone(),
            _place: place,
        };
        let responses = futures_util::stream::unfold(Some(exchange), |exchange| async {
            let mut exchange = exchange?;
            match exchange.next().await {
                Ok(Some(response)) => Some((Ok(response), Some(exchange))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        });
        let stop = self.stop.clone().cancelled_owned();
        Ok(Response::new(Box::pin(responses.take_until(stop))))
    }
}

/// One stream. Driven by its responses being read: a client that reads none is not listened to either.
struct Exchange<S: Session> {
    session: S,
    requests: Streaming<S::Request>,
    material: watch::Receiver<Arc<Material>>,
    admission: Admission,
    _place: OwnedSemaphorePermit,
}

impl<S: Session> Exchange<S> {
    /// The next response; `None` when the client has said its last.
    async fn next(&mut self) -> Result<Option<S::Response>, Status> {
        loop {
            let request = tokio::select! {
                request = self.requests.message() => match request? {
                    Some(request) => Some(request),
                    None => return Ok(None),
                },
                changed = self.material.changed() => match changed {
                    Ok(()) => None,
                    Err(_) => return Ok(None),
                },
            };
            let response = match request {
                Some(request) => {
                    self.admission.pace().await;
                    let material = entitled(&mut self.material).await?;
                    self.session.receive(request, &material)?
                }
                None => {
                    let material = Arc::clone(&self.material.borrow_and_update());
                    if material.svid.is_none() {
                        return Err(no_identity());
                    }
                    self.session.refresh(&material)
                }
            };
            if response.is_some() {
                return Ok(response);
            }
        }
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for SecretDiscovery {
    type DeltaSecretsStream = Responses<DeltaDiscoveryResponse>;
    type StreamSecretsStream = Responses<DiscoveryResponse>;

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        self.stream::<Delta>("DeltaSecrets", request).await
    }

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        self.stream::<StateOfTheWorld>("StreamSecrets", request)
            .await
    }

    async fn fetch_secrets(
        &self,
        request: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        let _place = counted("FetchSecrets", self.admission.call(&request).await)?;
        let material = entitled(&mut self.material.clone()).await?;
        let response = StateOfTheWorld::default().receive(request.into_inner(), &material)?;
        response.map(Response::new).ok_or_else(|| {
            Status::not_found(
                "resource_names: there is nothing behind any of them; the log says why",
            )
        })
    }
}
