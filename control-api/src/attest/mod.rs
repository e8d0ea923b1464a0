//! Attestation: what a caller shows, and which workload it proves.
//!
//! Every kind of proof is an [`Attestor`], configured by name ([`config`]). It judges the proof where it may wait for
//! others, and what it found is redeemed in the transaction that records the certificate, so that a proof for one use is
//! used once. Renewal by the current certificate needs none of this: the handshake proved it.

pub mod config;
pub mod join_token;
pub mod kubernetes;

use std::sync::Arc;

use mesh_auth::Secret;
use redb::WriteTransaction;

use crate::store::tokens::TokenError;

/// Why a proof proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// No attestor is configured for such a proof.
    #[error("this is no proof of a kind that is accepted here; accepted are: {0}")]
    Unrecognised(String),
    /// A join token that cannot be used.
    #[error(transparent)]
    JoinToken(#[from] TokenError),
    /// The proof is refused.
    #[error("{attestor}: the proof is refused: {reason}")]
    Refused {
        /// Which attestor.
        attestor: String,
        /// Why.
        reason: String,
    },
    /// The proof could not be judged.
    #[error("{attestor}: the proof cannot be judged now: {reason}")]
    Unavailable {
        /// Which attestor.
        attestor: String,
        /// Why.
        reason: String,
    },
}

/// Whom a proof speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The workload, `namespace/name`; `None`: the proof names only the identity.
    pub workload: Option<String>,
    /// The identity, in full.
    pub id: String,
}

/// What was proven, not yet used.
pub trait Proven: Send {
    /// Uses it for the certificate `serial`, in the transaction that records that.
    ///
    /// # Errors
    /// It has been used, or has ended, since it was judged.
    fn redeem(
        &self,
        write: &WriteTransaction,
        serial: &str,
        now: i64,
    ) -> Result<Subject, AttestError>;
}

/// One kind of proof.
#[tonic::async_trait]
pub trait Attestor: Send + Sync {
    /// Its name in the configuration and in messages.
    fn name(&self) -> &str;

    /// Whether a proof is of its kind, by its shape alone.
    fn recognises(&self, proof: &str) -> bool;

    /// Judges a proof at `now`, Unix seconds.
    ///
    /// # Errors
    /// It proves nothing, or cannot be judged.
    async fn attest(
        &self,
        proof: &Secret<String>,
        now: i64,
    ) -> Result<Box<dyn Proven>, AttestError>;
}

/// The attestors that are configured.
#[derive(Clone)]
pub struct Attestors(pub(crate) Arc<[Arc<dyn Attestor>]>);

impl Attestors {
    /// These, asked in this order.
    pub fn new(attestors: Vec<Arc<dyn Attestor>>) -> Self {
        Self(attestors.into())
    }

    /// Judges a proof by the first attestor that accepts it. With several clusters, each recognises the tokens of all;
    /// the refusal that is told is the last one's.
    ///
    /// # Errors
    /// Nobody accepts it.
    pub async fn attest(
        &self,
        proof: &Secret<String>,
        now: i64,
    ) -> Result<Box<dyn Proven>, AttestError> {
        let names: Vec<_> = self.0.iter().map(|a| a.name()).collect();
        let mut refusal = AttestError::Unrecognised(names.join(", "));
        for attestor in self.0.iter().filter(|a| a.recognises(proof.expose())) {
            match attestor.attest(proof, now).await {
                Ok(proven) => return Ok(proven),
                // One that could not judge may have been the right one.
                Err(_) if matches!(refusal, AttestError::Unavailable { .. }) => {}
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }
}
