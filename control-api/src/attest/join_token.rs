//! Join tokens: made here, bound to a workload, for one use.

use std::sync::Arc;

use mesh_auth::Secret;
use redb::WriteTransaction;

use super::{AttestError, Attestor, Proven, Subject};
use crate::store::{Store, tokens};

/// The attestor.
pub struct JoinTokens {
    /// Holds the tokens.
    pub store: Arc<Store>,
}

struct Token(Secret<String>);

#[tonic::async_trait]
impl Attestor for JoinTokens {
    fn name(&self) -> &str {
        "join-token"
    }

    /// `id.secret`; a JWT has two dots.
    fn recognises(&self, proof: &str) -> bool {
        proof.bytes().filter(|b| *b == b'.').count() <= 1
    }

    /// A look only, so that a flood of bad tokens does not queue for the one writer.
    async fn attest(
        &self,
        proof: &Secret<String>,
        now: i64,
    ) -> Result<Box<dyn Proven>, AttestError> {
        let (store, token) = (Arc::clone(&self.store), proof.clone());
        let checked = tokio::task::spawn_blocking(move || {
            store.read(|read| Ok(tokens::check(read, token.expose(), now)))
        });
        let unavailable = |reason: String| AttestError::Unavailable {
            attestor: "join-token".to_owned(),
            reason,
        };
        checked
            .await
            .map_err(|e| unavailable(e.to_string()))?
            .map_err(|e| unavailable(e.to_string()))??;
        Ok(Box::new(Token(proof.clone())))
    }
}

impl Proven for Token {
    fn redeem(
        &self,
        write: &WriteTransaction,
        serial: &str,
        now: i64,
    ) -> Result<Subject, AttestError> {
        let token = tokens::consume(write, self.0.expose(), serial, now)?;
        Ok(Subject {
            workload: Some(token.workload),
            id: token.spiffe_id,
        })
    }
}
