//! The administration service. Every call is an operator's or refused.

mod authority;
mod documents;
mod edges;
mod operator;
mod tap;

pub use authority::AuthorityAdministration;
pub use operator::Operator;

use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_manifest::Kind;
use mesh_proto::admin::admin_service_server::AdminService;
use mesh_proto::admin::{
    AppliedResource, ApplyRequest, ApplyResponse, CreateJoinTokenRequest, CreateJoinTokenResponse,
    DeleteRequest, DeleteResponse, Enforcement, GetRequest, GetResponse, InfoRequest, InfoResponse,
    JoinToken, KeySetStatus, ListJoinTokensRequest, ListJoinTokensResponse, RevokeJoinTokenRequest,
    RevokeJoinTokenResponse, StatusRequest, StatusResponse, StoredResource, WaitEnforcedRequest,
    WaitEnforcedResponse,
};
use mesh_proto::admin::{
    DiffRequest, DiffResponse, Difference, EdgesRequest, EdgesResponse, FindDecisionRequest,
    FindDecisionResponse, HistoryRequest, HistoryResponse, ReportsRequest, ReportsResponse,
    Revision, RollbackRequest, RollbackResponse, TapRequest,
};
use mesh_proto::mesh::{FindDecision, report_answer, report_query};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

use crate::ca::Authorities;
use crate::clock::Clock;
use crate::federation;
use crate::keysets::{self, Keeper};
use crate::listener::Caller;
use crate::metrics::Metrics;
use crate::registry::{Base, Registry, RegistryError};
use crate::reports::{self, Board};
use crate::status::Tracker;
use crate::store::tokens::{self, TokenError};
use crate::store::{Store, StoreError};

/// Revisions that are listed if nothing is said, and at most.
const DEFAULT_HISTORY: usize = 50;
const MAX_HISTORY: usize = 1_000;
/// How long sidecars may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest that one call waits for sidecars.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// The service.
#[derive(Clone)]
pub struct Administration {
    /// Documents.
    pub registry: Arc<Registry>,
    /// Join tokens.
    pub store: Arc<Store>,
    /// Facts about the authority.
    pub authorities: Arc<Authorities>,
    /// Connected sidecars.
    pub tracker: Arc<Tracker>,
    /// Keys of token issuers.
    pub keeper: Arc<Keeper>,
    /// What sidecars report, and where they are asked.
    pub board: Arc<Board>,
    /// Told what happens.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Clock,
    /// The user the control API runs as.
    pub own_uid: u32,
    /// Ends live views.
    pub stop: CancellationToken,
    /// Owns their tasks.
    pub tasks: TaskTracker,
}

impl Administration {
    fn operator<T>(&self, request: &Request<T>) -> Result<Operator, Status> {
        self.operator_now(&Caller::of(request))
    }

    /// The operator that a caller is, if he still is one.
    fn operator_now(&self, caller: &Caller) -> Result<Operator, Status> {
        let current = match &caller.peer {
            Some(peer) => self
                .registry
                .world()
                .refuse_revoked(peer, self.clock.seconds()),
            None => Ok(()),
        };
        let operator = Operator::of(
            caller,
            self.authorities.trust_domain(),
            self.own_uid,
            &self.clock,
        );
        current.and(operator).inspect_err(|status| {
            self.metrics.admin_refused.add(1);
            tracing::warn!(
                address = caller.address,
                reason = status.message(),
                "administration refused"
            );
        })
    }

    /// Runs what waits for the disk where nobody else waits for it.
    async fn blocking<T: Send + 'static, E: Into<Status> + Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Status> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || work(&this))
            .await
            .map_err(|e| Status::internal(format!("the call was not finished: {e}")))?
            .map_err(Into::into)
    }
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        Self::unavailable(error.to_string())
    }
}

impl From<RegistryError> for Status {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::NotFound { .. } => Self::not_found(error.to_string()),
            RegistryError::Conflict { .. } | RegistryError::Moved { .. } => {
                Self::aborted(error.to_string())
            }
            RegistryError::FutureBase { .. } | RegistryError::Ownerless { .. } => {
                Self::invalid_argument(error.to_string())
            }
            RegistryError::Revision(_) => Self::out_of_range(error.to_string()),
            RegistryError::Unreadable { .. } => Self::failed_precondition(error.to_string()),
            RegistryError::Store(error) => error.into(),
        }
    }
}

impl From<TokenError> for Status {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Store(error) => error.into(),
            TokenError::TooMany => Self::resource_exhausted(error.to_string()),
            TokenError::Unknown | TokenError::State { .. } => Self::not_found(error.to_string()),
        }
    }
}

fn key_set(state: keysets::State) -> KeySetStatus {
    KeySetStatus {
        issuer: state.issuer,
        jwks_uri: state.jwks_uri,
        keys: u32::try_from(state.keys).unwrap_or(u32::MAX),
        ignored: u32::try_from(state.ignored).unwrap_or(u32::MAX),
        fetched_at: state.fetched_at,
        last_error: state.last_error,
    }
}

fn kind(text: &str) -> Result<Kind, Status> {
    Kind::parse(text).ok_or_else(|| {
        Status::invalid_argument(format!(
            "kind: '{}' is unknown; known are {}",
            text.escape_default(),
            Kind::names()
        ))
    })
}

#[tonic::async_trait]
impl AdminService for Administration {
    type TapStream = tap::Responses;

    async fn edges(
        &self,
        request: Request<EdgesRequest>,
    ) -> Result<Response<EdgesResponse>, Status> {
        self.operator(&request)?;
        edges::ask(self, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn tap(&self, request: Request<TapRequest>) -> Result<Response<tap::Responses>, Status> {
        let caller = Caller::of(&request);
        tap::open(self.clone(), caller, request.into_inner()).map(Response::new)
    }

    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        self.operator(&request)?;
        Ok(Response::new(InfoResponse {
            trust_domain: self.authorities.trust_domain().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: self.registry.world().revision,
            trust_bundle_pem: self.authorities.bundle_pem(),
            ca_not_after: self.authorities.signing().not_after(),
            now_unix_ms: self.clock.millis(),
        }))
    }

    async fn apply(
        &self,
        request: Request<ApplyRequest>,
    ) -> Result<Response<ApplyResponse>, Status> {
        let operator = self.operator(&request)?;
        let request = request.into_inner();
        let asked = Instant::now();
        let response = self
            .blocking(move |this| -> Result<ApplyResponse, Status> {
                let documents = documents::read(&request)?;
                let domain = this.authorities.trust_domain();
                federation::check(&documents, &this.registry.world(), domain)
                    .map_err(Status::invalid_argument)?;
                let base = Base::of(request.if_revision);
                let keys: Vec<_> = documents.iter().map(mesh_manifest::Document::key).collect();
                let (revision, outcomes) = if request.dry_run {
                    this.registry.dry_run(documents, base)?
                } else {
                    let (author, now) = (operator.as_str(), this.clock.seconds());
                    let applied = this.registry.apply(documents, base, author, now)?;
                    this.tracker.begun(applied.0, asked);
                    tracing::info!(
                        operator = operator.as_str(),
                        revision = applied.0,
                        documents = keys.len(),
                        "documents applied"
                    );
                    applied
                };
                let resources = keys.into_iter().zip(outcomes);
                Ok(ApplyResponse {
                    revision,
                    resources: resources
                        .map(|((kind, namespace, name), outcome)| AppliedResource {
                            kind: kind.as_str().to_owned(),
                            namespace,
                            name,
                            outcome: outcome.as_str().to_owned(),
                        })
                        .collect(),
                })
            })
            .await?;
        Ok(Response::new(response))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        self.operator(&request)?;
        let request = request.into_inner();
        let wanted = match request.kind.as_str() {
            "" => None,
            text => Some(kind(text)?),
        };
        let world = self.registry.world();
        let matches = world
            .documents
            .iter()
            .filter(|((kind, namespace, name), _)| {
                wanted.is_none_or(|wanted| wanted == *kind)
                    && (request.namespace.is_empty() || request.namespace == *namespace)
                    && (request.name.is_empty() || request.name == *name)
            });
        let resources = matches.map(|((kind, namespace, name), stored)| StoredResource {
            kind: kind.as_str().to_owned(),
            namespace: namespace.clone(),
            name: name.clone(),
            revision: stored.revision,
            changed_at: stored.changed_at,
            author: stored.author.clone(),
            document_json: stored.document.to_json().to_string(),
            summary: stored.document.summary.clone(),
        });
        Ok(Response::new(GetResponse {
            resources: resources.collect(),
            revision: world.revision,
        }))
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let operator = self.operator(&request)?;
        let request = request.into_inner();
        let kind = kind(&request.kind)?;
        let revision = self
            .blocking(move |this| {
                let (namespace, name) = (&request.namespace, &request.name);
                let base = Base::of(request.if_revision);
                let (author, now) = (operator.as_str(), this.clock.seconds());
                let revision = this
                    .registry
                    .delete(kind, namespace, name, base, author, now)?;
                tracing::info!(
                    operator = operator.as_str(),
                    revision,
                    kind = kind.as_str(),
                    namespace,
                    name,
                    "document deleted"
                );
                Ok::<_, RegistryError>(revision)
            })
            .await?;
        Ok(Response::new(DeleteResponse { revision }))
    }

    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<CreateJoinTokenResponse>, Status> {
        let operator = self.operator(&request)?;
        let request = request.into_inner();
        let ttl = match request.ttl_seconds {
            0 => tokens::DEFAULT_TTL,
            asked => Duration::from_secs(asked.into()),
        };
        if ttl > tokens::MAX_TTL {
            return Err(Status::invalid_argument(format!(
                "ttl_seconds: {} is more than {}",
                request.ttl_seconds,
                tokens::MAX_TTL.as_secs()
            )));
        }
        let world = self.registry.world();
        let workload = world.workload(&request.workload).cloned().ok_or_else(|| {
            Status::not_found(format!(
                "workload: '{}' is not registered; apply a Workload document for it first",
                request.workload.escape_default()
            ))
        })?;
        let response = self
            .blocking(move |this| {
                let now = this.clock.seconds();
                let (token, secret) =
                    tokens::create(&this.store, &workload.uid, workload.id.as_str(), ttl, now)?;
                tracing::info!(
                    operator = operator.as_str(),
                    workload = workload.uid,
                    token = token.id,
                    "join token made"
                );
                Ok::<_, TokenError>(CreateJoinTokenResponse {
                    id: token.id,
                    token: secret.expose().clone(),
                    spiffe_id: token.spiffe_id,
                    expires_at: token.expires_at,
                    revision: this.registry.world().revision,
                })
            })
            .await?;
        Ok(Response::new(response))
    }

    async fn list_join_tokens(
        &self,
        request: Request<ListJoinTokensRequest>,
    ) -> Result<Response<ListJoinTokensResponse>, Status> {
        self.operator(&request)?;
        let now = self.clock.seconds();
        let tokens = self.blocking(|this| tokens::list(&this.store)).await?;
        let tokens = tokens.into_iter().map(|token| JoinToken {
            state: token.state(now).as_str().to_owned(),
            id: token.id,
            workload: token.workload,
            spiffe_id: token.spiffe_id,
            expires_at: token.expires_at,
        });
        Ok(Response::new(ListJoinTokensResponse {
            tokens: tokens.collect(),
        }))
    }

    async fn revoke_join_token(
        &self,
        request: Request<RevokeJoinTokenRequest>,
    ) -> Result<Response<RevokeJoinTokenResponse>, Status> {
        let operator = self.operator(&request)?;
        let id = request.into_inner().id;
        let (id, found) = self
            .blocking(move |this| tokens::revoke(&this.store, &id).map(|found| (id, found)))
            .await?;
        if !found {
            return Err(Status::not_found(format!(
                "id: there is no join token '{}'",
                id.escape_default()
            )));
        }
        tracing::info!(
            operator = operator.as_str(),
            token = id,
            "join token revoked"
        );
        Ok(Response::new(RevokeJoinTokenResponse {
            revision: self.registry.world().revision,
        }))
    }

    async fn wait_enforced(
        &self,
        request: Request<WaitEnforcedRequest>,
    ) -> Result<Response<WaitEnforcedResponse>, Status> {
        self.operator(&request)?;
        let request = request.into_inner();
        if request.revision == 0 || request.revision > self.registry.world().revision {
            return Err(Status::invalid_argument(format!(
                "revision: {} is not a revision of this store",
                request.revision
            )));
        }
        let timeout = Duration::from_millis(request.timeout_ms.into()).min(MAX_WAIT);
        let deadline = tokio::time::Instant::now() + timeout;
        let all = self
            .tracker
            .enforced_by_all(request.revision, deadline)
            .await;
        Ok(Response::new(WaitEnforcedResponse {
            sidecars: all
                .into_iter()
                .map(|(workload, took)| Enforcement {
                    workload,
                    enforced: took.is_some(),
                    micros: took.map_or(0, |t| u64::try_from(t.as_micros()).unwrap_or(u64::MAX)),
                })
                .collect(),
        }))
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        self.operator(&request)?;
        let world = self.registry.world();
        Ok(Response::new(StatusResponse {
            revision: world.revision,
            sidecars: self
                .tracker
                .all(|workload| world.workload(workload).is_some()),
            key_sets: self.keeper.states().into_iter().map(key_set).collect(),
        }))
    }

    async fn history(
        &self,
        request: Request<HistoryRequest>,
    ) -> Result<Response<HistoryResponse>, Status> {
        self.operator(&request)?;
        let request = request.into_inner();
        let limit = match request.limit {
            0 => DEFAULT_HISTORY,
            limit => (limit as usize).min(MAX_HISTORY),
        };
        let revisions = self
            .blocking(move |this| this.registry.history(request.before, limit))
            .await?;
        let revisions = revisions.into_iter().map(|(number, change)| Revision {
            number,
            at: change.at,
            author: change.author,
            documents: change.documents,
            note: change.note,
        });
        Ok(Response::new(HistoryResponse {
            revisions: revisions.collect(),
            latest: self.registry.world().revision,
        }))
    }

    async fn diff(&self, request: Request<DiffRequest>) -> Result<Response<DiffResponse>, Status> {
        self.operator(&request)?;
        let DiffRequest { from, to } = request.into_inner();
        let to = match to {
            0 => self.registry.world().revision,
            to => to,
        };
        let differences = self
            .blocking(move |this| this.registry.difference(from, to))
            .await?;
        let differences = differences.into_iter().map(|difference| {
            let (kind, namespace, name) = difference.key;
            Difference {
                kind,
                namespace,
                name,
                before_json: difference.before.unwrap_or_default(),
                after_json: difference.after.unwrap_or_default(),
            }
        });
        Ok(Response::new(DiffResponse {
            differences: differences.collect(),
            to,
        }))
    }

    async fn rollback(
        &self,
        request: Request<RollbackRequest>,
    ) -> Result<Response<RollbackResponse>, Status> {
        let operator = self.operator(&request)?;
        let request = request.into_inner();
        let done = self
            .blocking(move |this| {
                let done = this.registry.rollback(
                    request.revision,
                    Base::of(request.if_revision),
                    request.dry_run,
                    operator.as_str(),
                    this.clock.seconds(),
                )?;
                if !request.dry_run {
                    tracing::info!(
                        operator = operator.as_str(),
                        to = request.revision,
                        revision = done.revision,
                        documents = done.documents.len(),
                        "documents rolled back"
                    );
                }
                Ok::<_, RegistryError>(done)
            })
            .await?;
        Ok(Response::new(RollbackResponse {
            revision: done.revision,
            documents: done.documents,
        }))
    }

    async fn find_decision(
        &self,
        request: Request<FindDecisionRequest>,
    ) -> Result<Response<FindDecisionResponse>, Status> {
        self.operator(&request)?;
        let request = request.into_inner();
        let id = request.id.trim().to_ascii_lowercase();
        if id.len() != 16 || u64::from_str_radix(&id, 16).is_err() {
            return Err(Status::invalid_argument(format!(
                "id: '{}' is no decision id: it has 16 hexadecimal digits",
                request.id.escape_default()
            )));
        }
        let wanted = |workload: &str| request.workload.is_empty() || request.workload == workload;
        let ask = report_query::Ask::FindDecision(FindDecision { id });
        let answers = self.board.ask(&ask, wanted, PATIENCE).await;
        let answered = u32::try_from(answers.answers.len()).unwrap_or(u32::MAX);
        let found = answers
            .answers
            .into_iter()
            .find_map(|(workload, answer)| match answer? {
                report_answer::Answer::Decision(decision) => Some((workload, decision)),
                report_answer::Answer::TapStarted(_) | report_answer::Answer::Edges(_) => None,
            });
        let (workload, decision) = found.unzip();
        Ok(Response::new(FindDecisionResponse {
            workload: workload.unwrap_or_default(),
            decision,
            answered,
            silent: answers.silent,
        }))
    }

    async fn reports(
        &self,
        request: Request<ReportsRequest>,
    ) -> Result<Response<ReportsResponse>, Status> {
        self.operator(&request)?;
        let request = request.into_inner();
        let world = self.registry.world();
        if !request.workload.is_empty() && world.workload(&request.workload).is_none() {
            return Err(Status::not_found(format!(
                "workload: '{}' is not registered",
                request.workload.escape_default()
            )));
        }
        Ok(Response::new(ReportsResponse {
            workloads: reports::workloads(&self.board, &world, &request),
        }))
    }
}
