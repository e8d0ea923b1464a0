//! The certificate service: what callers prove, and what they are told: X.509-SVIDs, and JWT-SVIDs for those who have one.

use std::sync::Arc;
use std::time::Duration;

use mesh_auth::Secret;
use mesh_proto::mesh::certificate_service_server::CertificateService;
use mesh_proto::mesh::{
    IssueCertificateRequest, IssueCertificateResponse, IssueJwtSvidRequest, IssueJwtSvidResponse,
    TrustBundleSnapshot,
};
use tonic::{Request, Response, Status};

use crate::attest::{AttestError, Attestors};
use crate::clock::Clock;
use crate::issuance::{Granted, Issuance, IssueError};
use crate::jwt::{JwtKeys, token};
use crate::listener::Caller;
use crate::metrics::Metrics;
use crate::store::tokens::TokenError;
use crate::throttle::{Failures, Lines};

/// Longest proof that is looked at: a service-account token is a kilobyte or two.
const MAX_PROOF: usize = 16 << 10;

/// The service.
pub struct Certificates {
    issuance: Arc<Issuance>,
    attestors: Attestors,
    jwt: JwtSettings,
    metrics: Arc<Metrics>,
    clock: Clock,
    failures: Failures,
    lines: Lines,
}

/// How JWT-SVIDs are made.
#[derive(Clone)]
pub struct JwtSettings {
    /// What they are signed with.
    pub keys: Arc<JwtKeys>,
    /// Their `iss`; `None`: they have none.
    pub issuer: Option<String>,
    /// Default and longest lifetime.
    pub lifetime: Duration,
}

impl Certificates {
    /// A service that issues by `issuance` what `attestors` say is proven, and tokens by `jwt`.
    pub fn new(
        issuance: Arc<Issuance>,
        attestors: Attestors,
        jwt: JwtSettings,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Self {
        Self {
            issuance,
            attestors,
            jwt,
            metrics,
            clock,
            failures: Failures::default(),
            lines: Lines::default(),
        }
    }

    async fn issue(
        &self,
        caller: &Caller,
        proof: Option<Secret<String>>,
        message: IssueCertificateRequest,
    ) -> Result<Granted, Status> {
        let lifetime = match message.lifetime_seconds {
            0 => self.issuance.lifetime,
            asked => Duration::from_secs(asked.into()).min(self.issuance.lifetime),
        };
        let now = self.clock.seconds();
        let (issuance, csr) = (Arc::clone(&self.issuance), message.csr);
        // A proof is what the caller chose to show; without one the certificate of the connection counts.
        let granted = match (proof, caller.current_peer(&self.clock)?) {
            (Some(proof), _) => {
                let judged = self.attestors.attest(&proof, now).await;
                let proven = judged.map_err(|error| self.refused(caller, &error.into()))?;
                tokio::task::spawn_blocking(move || {
                    issuance.by_proof(&*proven, &csr, lifetime, now)
                })
                .await
            }
            (None, Some(peer)) => {
                let (peer, only_by_others) = (peer.clone(), caller.only_by_others);
                tokio::task::spawn_blocking(move || {
                    issuance.by_peer(&peer, only_by_others, &csr, lifetime, now)
                })
                .await
            }
            (None, None) => {
                return Err(Status::unauthenticated(
                    "prove an identity: a join token or service-account token as `authorization: Bearer <token>`, or the current certificate over TLS",
                ));
            }
        };
        granted
            .map_err(|e| Status::internal(format!("the request was not finished: {e}")))?
            .map_err(|error| self.refused(caller, &error))
    }

    /// A token for the identity that the caller's certificate proves, and no other.
    async fn issue_token(
        &self,
        caller: &Caller,
        message: IssueJwtSvidRequest,
    ) -> Result<IssueJwtSvidResponse, Status> {
        let peer = caller.current_peer(&self.clock)?.cloned().ok_or_else(|| {
            Status::unauthenticated(
                "a JWT-SVID needs the workload's certificate (X.509-SVID) as TLS client certificate",
            )
        })?;
        token::check_audiences(&message.audiences).map_err(Status::invalid_argument)?;
        let (issuance, end) = (Arc::clone(&self.issuance), peer.not_after());
        let now = self.clock.seconds();
        let workload = tokio::task::spawn_blocking(move || issuance.workload_of(&peer, now))
            .await
            .map_err(|e| Status::internal(format!("the request was not finished: {e}")))?
            .map_err(|error| self.refused(caller, &error))?;
        let lifetime = match message.lifetime_seconds {
            0 => self.jwt.lifetime,
            asked => Duration::from_secs(asked.into()).min(self.jwt.lifetime),
        };
        let lifetime = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        // It says what the certificate proved, so it does not outlive it.
        let expires_at = now.saturating_add(lifetime).min(end);
        let key = self
            .jwt
            .keys
            .signer(now)
            .ok_or_else(|| Status::unavailable("there is no key for JWT-SVIDs"))?;
        let token = token::sign(
            &key,
            &token::Claims {
                issuer: self.jwt.issuer.as_deref(),
                subject: &workload.id,
                audiences: &message.audiences,
                issued_at: now,
                expires_at,
            },
        )?;
        Ok(IssueJwtSvidResponse {
            token,
            spiffe_id: workload.id.to_string(),
            issued_at: now,
            expires_at,
        })
    }

    fn refused(&self, caller: &Caller, error: &IssueError) -> Status {
        // Only guesses count: a token that was used or is too old was one of ours.
        let guessed = matches!(
            error,
            IssueError::Proof(
                AttestError::JoinToken(TokenError::Unknown) | AttestError::Refused { .. }
            )
        );
        if let (true, Some(ip)) = (guessed, caller.ip)
            && self.failures.note(ip, self.clock.seconds())
        {
            return Status::resource_exhausted(
                "too many refused proofs from this address; wait a minute",
            );
        }
        status(error)
    }
}

fn status(error: &IssueError) -> Status {
    let text = error.to_string();
    match error {
        IssueError::Proof(
            AttestError::JoinToken(TokenError::Store(_) | TokenError::TooMany)
            | AttestError::Unavailable { .. },
        )
        | IssueError::Store(_) => Status::unavailable(text),
        IssueError::Proof(
            AttestError::JoinToken(TokenError::Unknown | TokenError::State { .. })
            | AttestError::Refused { .. }
            | AttestError::Unrecognised(_),
        ) => Status::unauthenticated(text),
        IssueError::Request(_) | IssueError::KeyReused => {
            Status::invalid_argument(format!("csr: {text}"))
        }
        IssueError::Revoked(_) | IssueError::NotRegistered { .. } | IssueError::Unvouched(_) => {
            Status::permission_denied(text)
        }
        IssueError::Authority(_) => Status::internal(text),
    }
}

#[tonic::async_trait]
impl CertificateService for Certificates {
    async fn issue_certificate(
        &self,
        request: Request<IssueCertificateRequest>,
    ) -> Result<Response<IssueCertificateResponse>, Status> {
        let caller = Caller::of(&request);
        let result = match bearer(&request) {
            Ok(proof) => self.issue(&caller, proof, request.into_inner()).await,
            Err(status) => Err(status),
        };
        let Granted { issued, workload } = match result {
            Ok(granted) => granted,
            Err(status) => {
                self.metrics.certificates_refused.add(1);
                if self.lines.allow(self.clock.seconds()) {
                    tracing::warn!(address = caller.address, code = ?status.code(), reason = status.message(), "certificate refused");
                }
                return Err(status);
            }
        };
        self.metrics.certificates_issued.add(1);
        tracing::info!(
            workload = workload.uid,
            spiffe_id = %workload.id,
            serial = issued.serial,
            not_after = issued.not_after,
            address = caller.address,
            "certificate issued"
        );
        let authorities = &self.issuance.authorities;
        Ok(Response::new(IssueCertificateResponse {
            certificate_chain: issued.chain.iter().map(|c| c.to_vec()).collect(),
            spiffe_id: workload.id.to_string(),
            workload: workload.uid.clone(),
            now_unix_ms: self.clock.millis(),
            bundle: Some(TrustBundleSnapshot {
                trust_domain: authorities.trust_domain().to_string(),
                x509_authorities: authorities
                    .state()
                    .roots()
                    .iter()
                    .map(|root| root.to_vec())
                    .collect(),
            }),
        }))
    }

    async fn issue_jwt_svid(
        &self,
        request: Request<IssueJwtSvidRequest>,
    ) -> Result<Response<IssueJwtSvidResponse>, Status> {
        let caller = Caller::of(&request);
        match self.issue_token(&caller, request.into_inner()).await {
            Ok(response) => {
                self.metrics.tokens_issued.add(1);
                tracing::debug!(
                    spiffe_id = response.spiffe_id,
                    expires_at = response.expires_at,
                    "JWT-SVID issued"
                );
                Ok(Response::new(response))
            }
            Err(status) => {
                self.metrics.tokens_refused.add(1);
                if self.lines.allow(self.clock.seconds()) {
                    tracing::warn!(address = caller.address, code = ?status.code(), reason = status.message(), "JWT-SVID refused");
                }
                Err(status)
            }
        }
    }
}

/// The proof in a request; exactly one, if any.
fn bearer<T>(request: &Request<T>) -> Result<Option<Secret<String>>, Status> {
    let mut values = request.metadata().get_all("authorization").iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return match request.metadata().contains_key("authorization") {
            true => Err(Status::unauthenticated(
                "authorization: given more than once",
            )),
            false => Ok(None),
        };
    };
    // RFC 6750: the scheme's case does not matter.
    let token = value
        .to_str()
        .ok()
        .and_then(|v| v.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .filter(|token| !token.is_empty() && token.len() <= MAX_PROOF);
    match token {
        Some(token) => Ok(Some(Secret::new(token.to_owned()))),
        None => Err(Status::unauthenticated(
            "authorization: must be `Bearer <token>`",
        )),
    }
}
