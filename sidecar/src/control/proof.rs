//! What proves a workload that has no certificate to show: a join token, or a Kubernetes service-account token.
//!
//! Both are files that somebody else replaces, so they are read again at every use and never kept.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mesh_auth::Secret;

/// A service-account token is a kilobyte or two.
const MAX_PROOF: u64 = 16 << 10;

/// A proof that was read.
pub struct Proof {
    /// `join token` or `service-account token`.
    pub kind: &'static str,
    /// What is shown.
    pub value: Secret<String>,
}

/// Where proofs lie.
#[derive(Debug, Clone, Default)]
pub struct Proofs {
    /// A token for one use.
    pub join_token_file: Option<PathBuf>,
    /// What the kubelet projects and replaces.
    pub service_account_token_file: Option<PathBuf>,
}

impl Proofs {
    /// The proof to show now. A service-account token goes first: it can be used again.
    ///
    /// # Errors
    /// Why there is none.
    pub fn read(&self) -> Result<Proof, String> {
        let files = [
            ("service-account token", &self.service_account_token_file),
            ("join token", &self.join_token_file),
        ];
        let mut problems = Vec::new();
        for (kind, file) in files {
            match file.as_deref().map(token) {
                Some(Ok(value)) => return Ok(Proof { kind, value }),
                Some(Err(problem)) => problems.push(problem),
                None => {}
            }
        }
        if problems.is_empty() {
            return Err(
                "none is configured (--join-token-file, --service-account-token-file)".into(),
            );
        }
        Err(problems.join("; "))
    }

    /// Seconds at `now` since the service-account token was made; `None` where there is none that says so. A token that gets
    /// old is one that the kubelet does not replace any more.
    pub fn age(&self, now: i64) -> Option<i64> {
        let token = token(self.service_account_token_file.as_deref()?).ok()?;
        Some(now.saturating_sub(issued_at(token.expose())?))
    }
}

fn token(path: &Path) -> Result<Secret<String>, String> {
    let fail = |reason: String| format!("{}: {reason}", path.display());
    let size = fs::metadata(path).map_err(|e| fail(e.to_string()))?.len();
    if size > MAX_PROOF {
        return Err(fail(format!("{size} bytes are too many for a token")));
    }
    let text = Secret::new(fs::read_to_string(path).map_err(|e| fail(e.to_string()))?);
    let token = text.expose().trim();
    if token.is_empty() {
        return Err(fail("empty".into()));
    }
    Ok(Secret::new(token.to_owned()))
}

/// `iat` of a JWT. Nothing is believed of it: it is told, and the control API verifies.
fn issued_at(token: &str) -> Option<i64> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    claims["iat"].as_i64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proof_is_read_anew_each_time_and_what_is_wrong_is_said_with_the_file() {
        let dir = tempfile::tempdir().expect("dir");
        let file = |name: &str| dir.path().join(name);
        let mut proofs = Proofs::default();
        let problem = |proofs: &Proofs| proofs.read().map(|p| p.kind).expect_err("none");
        assert!(problem(&proofs).contains("--service-account-token-file"));
        proofs.join_token_file = Some(file("join"));
        proofs.service_account_token_file = Some(file("account"));
        let text = problem(&proofs);
        assert!(
            text.contains("/join: ") && text.contains("/account: "),
            "{text}"
        );
        fs::write(file("account"), " \n").expect("written");
        assert!(problem(&proofs).contains("/account: empty"));
        fs::write(file("account"), "x".repeat(20_000)).expect("written");
        assert!(problem(&proofs).contains("20000 bytes"));
        fs::write(file("join"), "id.secret\n").expect("written");
        let proof = proofs.read().expect("a join token");
        assert_eq!(
            (proof.kind, &**proof.value.expose()),
            ("join token", "id.secret")
        );
        for (iat, age) in [(1_000, 500), (1_400, 100)] {
            let claims = URL_SAFE_NO_PAD.encode(format!(r#"{{"iat":{iat}}}"#));
            let token = format!("e30.{claims}.sig");
            fs::write(file("account"), &token).expect("written");
            let proof = proofs.read().expect("a token");
            assert_eq!(
                (proof.kind, proof.value.expose()),
                ("service-account token", &token)
            );
            assert_eq!(proofs.age(1_500), Some(age));
        }
        fs::write(file("account"), "no.t.jwt").expect("written");
        assert_eq!(proofs.age(1_500), None);
    }
}
