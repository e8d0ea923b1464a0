//! What sidecars ask about key sets.

use std::sync::Arc;

use mesh_proto::ResourceType;
use mesh_proto::mesh::key_set_service_server::KeySetService;
use mesh_proto::mesh::{RefetchRequest, RefetchResponse};
use tonic::{Request, Response, Status};

use super::Keeper;
use crate::clock::Clock;
use crate::listener::Caller;
use crate::registry::Registry;

/// The service.
#[derive(Clone)]
pub struct KeySetApi {
    /// Asks the issuers.
    pub keeper: Arc<Keeper>,
    /// Knows who may have which key set.
    pub registry: Arc<Registry>,
    /// The time.
    pub clock: Clock,
}

#[tonic::async_trait]
impl KeySetService for KeySetApi {
    async fn refetch(
        &self,
        request: Request<RefetchRequest>,
    ) -> Result<Response<RefetchResponse>, Status> {
        let caller = Caller::of(&request);
        let peer = caller.current_peer(&self.clock)?.ok_or_else(|| {
            Status::unauthenticated(
                "key sets need the workload's certificate as TLS client certificate",
            )
        })?;
        let request = request.into_inner();
        let world = self.registry.world();
        let is_theirs = world
            .workload(&request.workload)
            .filter(|workload| workload.id == *peer.id())
            .is_some_and(|workload| {
                let entry = world.table(ResourceType::KeySet).get(&request.key_set);
                entry.is_some_and(|entry| entry.is_visible_to(workload))
            });
        // One answer for "unknown" and for "not yours".
        let unknown = || Status::not_found("key_set: no such key set for this workload");
        if !is_theirs {
            return Err(unknown());
        }
        let refetched = self
            .keeper
            .refetch(&request.key_set)
            .await
            .ok_or_else(unknown)?;
        Ok(Response::new(RefetchResponse {
            fetched: refetched.fetched,
            changed: refetched.changed,
            retry_after_ms: u32::try_from(refetched.retry_after.as_millis()).unwrap_or(u32::MAX),
        }))
    }
}
