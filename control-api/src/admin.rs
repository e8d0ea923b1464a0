//! The administration service. Every call needs an operator: deny by default.

use std::sync::Arc;

use mesh_auth::TrustDomain;
use mesh_manifest::Kind;
use mesh_proto::admin::admin_service_server::AdminService;
use mesh_proto::admin::{
    AppliedResource, ApplyRequest, ApplyResponse, CreateJoinTokenRequest, CreateJoinTokenResponse,
    DeleteRequest, DeleteResponse, GetRequest, GetResponse, InfoRequest, InfoResponse, JoinToken,
    ListJoinTokensRequest, ListJoinTokensResponse, RevokeJoinTokenRequest, RevokeJoinTokenResponse,
    StatusRequest, StatusResponse, StoredResource,
};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::ca::Authority;
use crate::listener::Caller;
use crate::program::{now, now_millis};
use crate::registry::World;
use crate::status::Tracker;
use crate::store::{Store, StoreError};
use crate::tokens;

/// The service.
pub struct Administration {
    /// Documents and tokens.
    pub store: Arc<Store>,
    /// Facts about the authority.
    pub authority: Arc<Authority>,
    /// Registered workloads.
    pub worlds: watch::Receiver<Arc<World>>,
    /// Connected sidecars.
    pub tracker: Arc<Tracker>,
    /// The user the control API runs as.
    pub own_uid: u32,
}

impl Administration {
    /// Who the operator is, or why the caller is none.
    fn operator<T>(&self, request: &Request<T>) -> Result<String, Status> {
        let caller = Caller::of(request);
        match (caller.uid, &caller.peer) {
            (Some(uid), _) if uid == self.own_uid || uid == 0 => Ok(format!("uid:{uid}")),
            (Some(uid), _) => Err(Status::permission_denied(format!(
                "user {uid} may not administer: be the user the control API runs as, or root"
            ))),
            (None, Some(peer)) if is_operator(self.authority.trust_domain(), peer.id()) => {
                Ok(peer.id().to_string())
            }
            (None, Some(peer)) => Err(Status::permission_denied(format!(
                "'{}' is not an operator identity (spiffe://{}/operator/<name>)",
                peer.id(),
                self.authority.trust_domain()
            ))),
            (None, None) => Err(Status::unauthenticated(
                "administration needs an operator certificate (made by `control-api init`) or the Unix socket",
            )),
        }
    }
}

fn is_operator(domain: &TrustDomain, id: &mesh_auth::SpiffeId) -> bool {
    id.trust_domain() == domain.as_str()
        && id
            .path()
            .strip_prefix("/operator/")
            .is_some_and(|name| !name.is_empty() && !name.contains('/'))
}

fn store_status(error: &StoreError) -> Status {
    match error {
        StoreError::NotFound { .. } => Status::not_found(error.to_string()),
        _ => Status::unavailable(error.to_string()),
    }
}

fn kind(text: &str) -> Result<Kind, Status> {
    Kind::parse(text).ok_or_else(|| {
        let known: Vec<_> = Kind::ALL.iter().map(|k| k.as_str()).collect();
        Status::invalid_argument(format!(
            "kind: '{}' is unknown; known are {}",
            text.escape_default(),
            known.join(", ")
        ))
    })
}

#[tonic::async_trait]
impl AdminService for Administration {
    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        self.operator(&request)?;
        Ok(Response::new(InfoResponse {
            trust_domain: self.authority.trust_domain().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: self.store.view().revision,
            trust_bundle_pem: self.authority.bundle_pem(),
            ca_not_after: self.authority.not_after(),
            now_unix_ms: now_millis(),
        }))
    }

    async fn apply(
        &self,
        request: Request<ApplyRequest>,
    ) -> Result<Response<ApplyResponse>, Status> {
        let operator = self.operator(&request)?;
        let request = request.into_inner();
        let source = if request.source.is_empty() {
            "<input>"
        } else {
            &request.source
        };
        let documents = mesh_manifest::parse(&request.manifest, source)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let named: Vec<_> = documents.iter().map(mesh_manifest::Document::key).collect();
        let (revision, outcomes) = if request.dry_run {
            let view = self.store.view();
            let outcomes = documents
                .iter()
                .zip(&named)
                .map(|(document, key)| match view.documents.get(key) {
                    Some(stored) if stored.document == *document => "unchanged",
                    Some(_) => "changed",
                    None => "created",
                })
                .collect::<Vec<_>>();
            (view.revision, outcomes)
        } else {
            let store = Arc::clone(&self.store);
            let author = operator.clone();
            let (revision, outcomes) =
                tokio::task::spawn_blocking(move || store.apply(documents, &author, now()))
                    .await
                    .map_err(|e| Status::internal(e.to_string()))?
                    .map_err(|e| store_status(&e))?;
            tracing::info!(
                operator,
                revision,
                documents = named.len(),
                "documents applied"
            );
            (
                revision,
                outcomes
                    .into_iter()
                    .map(crate::store::Outcome::as_str)
                    .collect(),
            )
        };
        let resources = named
            .into_iter()
            .zip(outcomes)
            .map(|((kind, namespace, name), outcome)| AppliedResource {
                kind: kind.as_str().to_owned(),
                namespace,
                name,
                outcome: outcome.to_owned(),
            })
            .collect();
        Ok(Response::new(ApplyResponse {
            revision,
            resources,
        }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        self.operator(&request)?;
        let request = request.into_inner();
        let wanted = if request.kind.is_empty() {
            None
        } else {
            Some(kind(&request.kind)?)
        };
        let view = self.store.view();
        let resources = view
            .documents
            .iter()
            .filter(|((kind, namespace, name), _)| {
                wanted.is_none_or(|w| w == *kind)
                    && (request.namespace.is_empty() || request.namespace == *namespace)
                    && (request.name.is_empty() || request.name == *name)
            })
            .map(|((kind, namespace, name), stored)| StoredResource {
                kind: kind.as_str().to_owned(),
                namespace: namespace.clone(),
                name: name.clone(),
                revision: stored.revision,
                changed_at: stored.changed_at,
                author: stored.author.clone(),
                document_json: stored.document.to_json().to_string(),
                summary: stored.document.summary.clone(),
            })
            .collect();
        Ok(Response::new(GetResponse {
            resources,
            revision: view.revision,
        }))
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let operator = self.operator(&request)?;
        let request = request.into_inner();
        let kind = kind(&request.kind)?;
        let store = Arc::clone(&self.store);
        let (namespace, name) = (request.namespace.clone(), request.name.clone());
        let revision = tokio::task::spawn_blocking(move || store.delete(kind, &namespace, &name))
            .await
            .map_err(|e| Status::internal(e.to_string()))?
            .map_err(|e| store_status(&e))?;
        tracing::info!(
            operator,
            revision,
            kind = kind.as_str(),
            namespace = request.namespace,
            name = request.name,
            "deleted"
        );
        Ok(Response::new(DeleteResponse { revision }))
    }

    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<CreateJoinTokenResponse>, Status> {
        let operator = self.operator(&request)?;
        let request = request.into_inner();
        let workload = self.worlds.borrow().workload(&request.workload).cloned();
        let workload = workload.ok_or_else(|| {
            Status::not_found(format!(
                "workload '{}' is not registered; apply a Workload document for it first",
                request.workload.escape_default()
            ))
        })?;
        let (token, secret) = tokens::create(
            &self.store,
            &workload.uid,
            workload.id.as_str(),
            request.ttl_seconds,
            now(),
        )
        .map_err(|e| store_status(&e))?;
        tracing::info!(
            operator,
            workload = workload.uid,
            token = token.id,
            "join token made"
        );
        Ok(Response::new(CreateJoinTokenResponse {
            id: token.id,
            token: secret.expose().clone(),
            spiffe_id: token.spiffe_id,
            expires_at: token.expires_at,
            revision: self.store.view().revision,
        }))
    }

    async fn list_join_tokens(
        &self,
        request: Request<ListJoinTokensRequest>,
    ) -> Result<Response<ListJoinTokensResponse>, Status> {
        self.operator(&request)?;
        let now = now();
        let tokens = tokens::list(&self.store)
            .map_err(|e| store_status(&e))?
            .into_iter()
            .map(|t| JoinToken {
                state: t.state(now).to_owned(),
                id: t.id,
                workload: t.workload,
                spiffe_id: t.spiffe_id,
                expires_at: t.expires_at,
            })
            .collect();
        Ok(Response::new(ListJoinTokensResponse { tokens }))
    }

    async fn revoke_join_token(
        &self,
        request: Request<RevokeJoinTokenRequest>,
    ) -> Result<Response<RevokeJoinTokenResponse>, Status> {
        let operator = self.operator(&request)?;
        let id = request.into_inner().id;
        if !tokens::revoke(&self.store, &id).map_err(|e| store_status(&e))? {
            return Err(Status::not_found(format!(
                "no join token '{}'",
                id.escape_default()
            )));
        }
        tracing::info!(operator, token = id, "join token revoked");
        Ok(Response::new(RevokeJoinTokenResponse {
            revision: self.store.view().revision,
        }))
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        self.operator(&request)?;
        let expiries = tokens::last_expiries(&self.store).map_err(|e| store_status(&e))?;
        let mut sidecars = self.tracker.all();
        for sidecar in &mut sidecars {
            sidecar.certificate_not_after = expiries.get(&sidecar.workload).copied().unwrap_or(0);
        }
        Ok(Response::new(StatusResponse {
            revision: self.store.view().revision,
            sidecars,
        }))
    }
}
