//! The certificate service: signs for the identity a caller proved, by join token or by its current SVID.

use std::sync::Arc;
use std::time::Duration;

use mesh_auth::SpiffeId;
use mesh_proto::mesh::certificate_service_server::CertificateService;
use mesh_proto::mesh::{IssueCertificateRequest, IssueCertificateResponse, TrustBundleSnapshot};
use time::OffsetDateTime;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::ca::{Authority, CaError, Issued};
use crate::listener::Caller;
use crate::registry::World;
use crate::store::Store;
use crate::tokens::{self, TokenError};

/// Shortest lifetime that can be asked for.
const MIN_LIFETIME: Duration = Duration::from_secs(30);

/// The service.
pub struct Certificates {
    /// Signs.
    pub authority: Arc<Authority>,
    /// Holds tokens and records what was issued.
    pub store: Arc<Store>,
    /// Knows the workloads.
    pub worlds: watch::Receiver<Arc<World>>,
    /// Lifetime of certificates.
    pub lifetime: Duration,
}

enum Refused {
    Token(TokenError),
    Ca(CaError),
    Other(Status),
}

impl From<TokenError> for Refused {
    fn from(error: TokenError) -> Self {
        Self::Token(error)
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Token(TokenError::Store(error)) => Self::unavailable(error.to_string()),
            Refused::Token(error) => Self::unauthenticated(error.to_string()),
            Refused::Ca(CaError::Request(problem)) => {
                Self::invalid_argument(format!("csr: {problem}"))
            }
            Refused::Ca(error) => Self::internal(error.to_string()),
            Refused::Other(status) => status,
        }
    }
}

#[tonic::async_trait]
impl CertificateService for Certificates {
    async fn issue_certificate(
        &self,
        request: Request<IssueCertificateRequest>,
    ) -> Result<Response<IssueCertificateResponse>, Status> {
        let caller = Caller::of(&request);
        let token = bearer(&request)?;
        let message = request.into_inner();
        let lifetime = match message.lifetime_seconds {
            0 => self.lifetime,
            asked => Duration::from_secs(asked.into())
                .clamp(MIN_LIFETIME.min(self.lifetime), self.lifetime),
        };
        let (workload, id, issued) = if let Some(token) = token {
            let (store, authority, worlds) = (
                Arc::clone(&self.store),
                Arc::clone(&self.authority),
                self.worlds.clone(),
            );
            // The store syncs to disk: not on a thread that serves others.
            tokio::task::spawn_blocking(move || {
                redeem(&store, &authority, &worlds, &token, &message.csr, lifetime)
            })
            .await
            .map_err(|e| Status::internal(e.to_string()))??
        } else if let Some(peer) = &caller.peer {
            self.renew(peer.id(), &message.csr, lifetime)?
        } else {
            return Err(Status::unauthenticated(
                "prove an identity: a join token in the authorization metadata, or the current certificate over TLS",
            ));
        };
        tracing::info!(workload, spiffe_id = %id, serial = issued.serial, not_after = issued.not_after, "certificate issued");
        Ok(Response::new(IssueCertificateResponse {
            certificate_chain: issued.chain.iter().map(|c| c.to_vec()).collect(),
            spiffe_id: id.to_string(),
            workload,
            bundle: Some(TrustBundleSnapshot {
                trust_domain: self.authority.trust_domain().to_string(),
                x509_authorities: vec![self.authority.root().to_vec()],
            }),
        }))
    }
}

impl Certificates {
    fn renew(
        &self,
        id: &SpiffeId,
        csr: &[u8],
        lifetime: Duration,
    ) -> Result<(String, SpiffeId, Issued), Refused> {
        let workload = self
            .worlds
            .borrow()
            .workloads()
            .find(|w| w.id == *id)
            .map(|w| w.uid.clone())
            .ok_or_else(|| {
                Refused::Other(Status::permission_denied(format!(
                    "no workload with identity '{id}' is registered"
                )))
            })?;
        let issued = self
            .authority
            .sign(csr, id, lifetime, OffsetDateTime::now_utc())
            .map_err(Refused::Ca)?;
        tokens::record_renewal(&self.store, &workload, id.as_str(), &issued)
            .map_err(|e| Refused::Token(TokenError::Store(e)))?;
        Ok((workload, id.clone(), issued))
    }
}

fn redeem(
    store: &Store,
    authority: &Authority,
    worlds: &watch::Receiver<Arc<World>>,
    token: &str,
    csr: &[u8],
    lifetime: Duration,
) -> Result<(String, SpiffeId, Issued), Refused> {
    let now = OffsetDateTime::now_utc();
    let (token, issued) = tokens::redeem(store, token, now.unix_timestamp(), |token| {
        let registered = worlds.borrow().workload(&token.workload).cloned();
        let id = registered
            .map(|w| w.id.clone())
            .filter(|id| id.as_str() == token.spiffe_id)
            .ok_or_else(|| {
                Refused::Other(Status::permission_denied(format!(
                    "workload '{}' is no longer registered with identity '{}'",
                    token.workload, token.spiffe_id
                )))
            })?;
        authority.sign(csr, &id, lifetime, now).map_err(Refused::Ca)
    })?;
    let id = SpiffeId::parse(&token.spiffe_id)
        .map_err(|e| Refused::Other(Status::internal(e.to_string())))?;
    Ok((token.workload, id, issued))
}

fn bearer<T>(request: &Request<T>) -> Result<Option<String>, Status> {
    let Some(value) = request.metadata().get("authorization") else {
        return Ok(None);
    };
    value
        .to_str()
        .ok()
        .and_then(|v| v.strip_prefix("Bearer "))
        .map(|v| Some(v.trim().to_owned()))
        .ok_or_else(|| Status::unauthenticated("authorization: must be `Bearer <join token>`"))
}
