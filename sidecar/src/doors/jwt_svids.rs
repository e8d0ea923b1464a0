//! JWT-SVIDs of the workload, kept by audience and refreshed ahead of time.
//!
//! A token is handed out again until the last fifth of its life; from half of its life on another one is fetched in the
//! background, so that callers do not wait. Requests to the control API go one at a time, and after one that failed
//! everybody who has no token is told so at once for a moment: a control API that is away is not asked a thousand times.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_auth::revocation::Revocations;
use mesh_auth::token::{Fingerprint, JwtSvidVerifier, VerifiedJwtSvid};
use mesh_auth::{Reason, Secret, SpiffeId};
use mesh_proto::mesh::IssueJwtSvidRequest;
use mesh_proto::mesh::certificate_service_client::CertificateServiceClient;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::control::Clock;
use crate::control::connect::{Target, status_text};
use crate::snapshot::SharedSnapshot;

/// Sets of audiences kept; the one that was not asked for longest makes room.
const MAX_KEPT: usize = 128;
/// Audiences of one token, and the length of each: what the control API takes.
const MAX_AUDIENCES: usize = 16;
const MAX_AUDIENCE: usize = 256;
/// How often tokens are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long one request may take once connected.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a failure answers for those who come after it.
const FAILURE_ANSWERS: Duration = Duration::from_secs(1);

/// A token and whom it speaks of.
#[derive(Clone)]
pub struct JwtSvid {
    /// Its subject.
    pub id: SpiffeId,
    /// Compact serialization.
    pub token: Arc<Secret<String>>,
    issued_at: i64,
    expires_at: i64,
}

impl JwtSvid {
    fn life(&self) -> i64 {
        (self.expires_at - self.issued_at).max(0)
    }

    /// Whoever gets it can still use it for a while.
    fn is_fresh(&self, now: i64) -> bool {
        now < self.expires_at - self.life() / 5
    }

    fn is_due(&self, now: i64) -> bool {
        now >= self.issued_at + self.life() / 2
    }

    /// It has no serial number; whom it speaks of and its age can be revoked.
    fn is_revoked(&self, revocations: &Revocations, now: i64) -> bool {
        let revoked = revocations.of_issued(&self.id, Some(self.issued_at), now);
        revoked.is_some()
    }
}

struct Kept {
    svid: JwtSvid,
    /// Somebody asked for it since it was fetched: worth another one.
    wanted: bool,
    asked_at: Instant,
}

/// Owner of the tokens.
pub struct JwtSvids {
    target: Target,
    shared: SharedSnapshot,
    clock: Arc<dyn Clock>,
    kept: Mutex<HashMap<Vec<String>, Kept>>,
    /// Held while the control API is asked; the last failure and when it was.
    asking: tokio::sync::Mutex<Option<(Instant, Status)>>,
    /// Keys the names of tokens in the log.
    names: RandomState,
}

impl JwtSvids {
    /// Holds none yet.
    pub fn new(target: Target, shared: SharedSnapshot, clock: Arc<dyn Clock>) -> Self {
        Self {
            target,
            shared,
            clock,
            kept: Mutex::default(),
            asking: tokio::sync::Mutex::new(None),
            names: RandomState::new(),
        }
    }

    /// Verifies a token that somebody presented to the application, with the keys of `verifier` (SPIFFE Workload API
    /// §6.2.3). Whoever and whatever is revoked in the mesh is refused here as well.
    ///
    /// # Errors
    /// INVALID_ARGUMENT with the code of the reason.
    pub fn validate(
        &self,
        verifier: &JwtSvidVerifier,
        token: &str,
        audience: &str,
    ) -> Result<VerifiedJwtSvid, Status> {
        if audience.is_empty() {
            return Err(Status::invalid_argument("audience: is required"));
        }
        let now = self.clock.now();
        let name = Fingerprint::new(self.names.hash_one(token).to_be_bytes());
        let outcome = verifier
            .verify(token, audience, now, name)
            .and_then(|svid| {
                let revocations = Arc::clone(&self.shared.load().revocations);
                match revocations.of_jwt_svid(&svid.id, &svid.token, now) {
                    None => Ok(svid),
                    Some(_) => Err(Reason::TokenRevoked),
                }
            });
        outcome.map_err(|reason| {
            tracing::debug!(token = %name, reason = reason.code(), "JWT-SVID not good");
            Status::invalid_argument(format!("svid: {}", reason.code()))
        })
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<Vec<String>, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token for these audiences, whatever their order.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for audiences nobody issues a token for, PERMISSION_DENIED without an identity, UNAVAILABLE when
    /// the control API does not answer.
    pub async fn fetch(&self, audiences: Vec<String>) -> Result<JwtSvid, Status> {
        let audiences = normalized(audiences)?;
        if let Some(svid) = self.held(&audiences) {
            return Ok(svid);
        }
        let mut last_failure = self.asking.lock().await;
        // Whoever was first may have fetched it meanwhile.
        if let Some(svid) = self.held(&audiences) {
            return Ok(svid);
        }
        if let Some((at, status)) = &*last_failure
            && at.elapsed() < FAILURE_ANSWERS
        {
            return Err(status.clone());
        }
        match self.ask(&audiences).await {
            Ok(svid) => {
                *last_failure = None;
                self.keep_one(audiences, svid.clone());
                Ok(svid)
            }
            Err(status) => {
                // What is wrong with one set of audiences says nothing about others.
                if status.code() != Code::InvalidArgument {
                    *last_failure = Some((Instant::now(), status.clone()));
                }
                Err(status)
            }
        }
    }

    /// Refreshes for ever what was asked for.
    pub async fn keep(&self) {
        loop {
            tokio::time::sleep(TICK).await;
            let now = self.clock.now();
            let (own, revocations) = {
                let snapshot = self.shared.load();
                (
                    snapshot.identity().cloned(),
                    Arc::clone(&snapshot.revocations),
                )
            };
            let due: Vec<_> = {
                let mut kept = self.kept();
                kept.retain(|_, k| {
                    let ours = Some(&k.svid.id) == own.as_ref();
                    ours && k.svid.is_fresh(now) && !k.svid.is_revoked(&revocations, now)
                });
                kept.iter()
                    .filter(|(_, k)| k.wanted && k.svid.is_due(now))
                    .map(|(audiences, _)| audiences.clone())
                    .collect()
            };
            for audiences in due {
                let asking = self.asking.lock().await;
                match self.ask(&audiences).await {
                    Ok(svid) => {
                        if let Some(kept) = self.kept().get_mut(&audiences) {
                            kept.svid = svid;
                            kept.wanted = false;
                        }
                    }
                    Err(status) => {
                        tracing::warn!(reason = status_text(&status), "no new JWT-SVID");
                        break;
                    }
                }
                drop(asking);
            }
        }
    }

    /// The token that is kept, if it is of any use.
    fn held(&self, audiences: &[String]) -> Option<JwtSvid> {
        let now = self.clock.now();
        let snapshot = self.shared.load();
        let mut kept = self.kept();
        let held = kept.get_mut(audiences)?;
        if !held.svid.is_fresh(now)
            || snapshot.identity() != Some(&held.svid.id)
            || held.svid.is_revoked(&snapshot.revocations, now)
        {
            return None;
        }
        held.wanted = true;
        held.asked_at = Instant::now();
        Some(held.svid.clone())
    }

    fn keep_one(&self, audiences: Vec<String>, svid: JwtSvid) {
        let mut kept = self.kept();
        if kept.len() >= MAX_KEPT && !kept.contains_key(&audiences) {
            let oldest = kept.iter().min_by_key(|(_, k)| k.asked_at);
            if let Some(oldest) = oldest.map(|(audiences, _)| audiences.clone()) {
                kept.remove(&oldest);
            }
        }
        kept.insert(
            audiences,
            Kept {
                svid,
                wanted: true,
                asked_at: Instant::now(),
            },
        );
    }

    async fn ask(&self, audiences: &[String]) -> Result<JwtSvid, Status> {
        let outcome = self.request(audiences).await;
        let label = if outcome.is_ok() { "issued" } else { "failed" };
        metrics::counter!("postern_jwt_svid_requests_total", "outcome" => label).increment(1);
        outcome
    }

    async fn request(&self, audiences: &[String]) -> Result<JwtSvid, Status> {
        let snapshot = self.shared.load_full();
        let Some(tls) = &snapshot.tls else {
            return Err(super::status::no_identity());
        };
        let unavailable = |reason: String| Status::unavailable(format!("no JWT-SVID: {reason}"));
        let channel = self
            .target
            .connect(Some(&tls.identity), Arc::clone(&snapshot.control_roots))
            .await
            .map_err(|e| unavailable(e.to_string()))?;
        let request = IssueJwtSvidRequest {
            audiences: audiences.to_vec(),
            lifetime_seconds: 0,
        };
        let mut client = CertificateServiceClient::new(channel);
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, client.issue_jwt_svid(request)).await;
        let response = match answer {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) if status.code() == Code::InvalidArgument => {
                return Err(Status::invalid_argument(status.message()));
            }
            Ok(Err(status)) if status.code() == Code::PermissionDenied => {
                return Err(Status::permission_denied(status.message()));
            }
            Ok(Err(status)) => return Err(unavailable(status_text(&status))),
            Err(_) => return Err(unavailable(format!("no answer within {REQUEST_TIMEOUT:?}"))),
        };
        let token = Arc::new(Secret::new(response.token));
        if response.spiffe_id != tls.identity.id().as_str() {
            return Err(unavailable(
                "the control API issued one of another identity".into(),
            ));
        }
        let svid = JwtSvid {
            id: tls.identity.id().clone(),
            token,
            issued_at: response.issued_at,
            expires_at: response.expires_at,
        };
        if !svid.is_fresh(self.clock.now()) {
            return Err(unavailable(
                "the control API issued one that is over already: compare the clocks".into(),
            ));
        }
        Ok(svid)
    }
}

/// The set of audiences, in an order of its own.
fn normalized(mut audiences: Vec<String>) -> Result<Vec<String>, Status> {
    if audiences.is_empty() || audiences.len() > MAX_AUDIENCES {
        return Err(Status::invalid_argument(format!(
            "audience: {} of them; a JWT-SVID needs 1 to {MAX_AUDIENCES}",
            audiences.len()
        )));
    }
    for audience in &audiences {
        let length = audience.chars().count();
        if length == 0 || length > MAX_AUDIENCE || audience.chars().any(char::is_control) {
            return Err(Status::invalid_argument(format!(
                "audience: each must have 1 to {MAX_AUDIENCE} characters, none of them a control character"
            )));
        }
    }
    audiences.sort_unstable();
    audiences.dedup();
    Ok(audiences)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_handed_out_until_its_last_fifth_and_renewed_from_half_of_its_life() {
        let svid = JwtSvid {
            id: SpiffeId::parse("spiffe://td/ns/a/sa/b").expect("an ID"),
            token: Arc::new(Secret::new(String::new())),
            issued_at: 1_000,
            expires_at: 1_300,
        };
        for (now, due, fresh) in [
            (1_000, false, true),
            (1_149, false, true),
            (1_150, true, true),
            (1_239, true, true),
            (1_240, true, false),
            (1_400, true, false),
        ] {
            assert_eq!(
                (svid.is_due(now), svid.is_fresh(now)),
                (due, fresh),
                "{now}"
            );
        }
    }

    #[test]
    fn a_token_ends_with_whom_it_speaks_of_and_with_its_age() {
        use mesh_auth::revocation::BACKDATE;
        use mesh_proto::mesh::RevokedIssuedBefore;
        use mesh_proto::mesh::revocation::Subject;

        use crate::testing::revoking;

        let svid = JwtSvid {
            id: SpiffeId::parse("spiffe://td/ns/a/sa/b").expect("an ID"),
            token: Arc::new(Secret::new(String::new())),
            issued_at: 1_000,
            expires_at: 1_300,
        };
        // The control API publishes what certificates show that were issued then.
        let before = |moment: i64| {
            let not_before = moment - BACKDATE;
            Subject::IssuedBefore(RevokedIssuedBefore {
                trust_domain: "td".into(),
                path: "/ns/a".into(),
                not_before,
            })
        };
        for (subject, revoked) in [
            (Subject::SpiffeId("spiffe://td/ns/a/sa/b".into()), true),
            (Subject::SpiffeId("spiffe://td/ns/a/sa/c".into()), false),
            (before(1_001), true),
            (before(1_000), false),
        ] {
            let revocations = revoking(Some(subject.clone()));
            assert_eq!(svid.is_revoked(&revocations, 1_100), revoked, "{subject:?}");
        }
    }

    #[test]
    fn a_token_that_somebody_presented_is_good_until_it_or_whom_it_speaks_of_is_revoked() {
        use mesh_auth::revocation::BACKDATE;
        use mesh_proto::mesh;
        use mesh_proto::mesh::revocation::Subject;

        use crate::control::SystemClock;
        use crate::snapshot::Snapshot;
        use crate::testing::{jwt_svid, revoking};

        let claims = r#"{"sub":"spiffe://td/ns/a/sa/b","aud":"orders","jti":"j","iat":1001,"exp":253402300000}"#;
        let (token, set) = jwt_svid(claims);
        let verifier = JwtSvidVerifier::new([("td", set.as_str())]);

        let told = |audience: &str, revoked: Option<Subject>| {
            let mut snapshot =
                Snapshot::empty("a/b", mesh_auth::TrustDomain::new("td").expect("a domain"));
            snapshot.revocations = Arc::new(revoking(revoked));
            let target = Target {
                address: "127.0.0.1:1".into(),
                id: SpiffeId::parse("spiffe://td/control").expect("an ID"),
                mark: None,
            };
            let shared = Arc::new(arc_swap::ArcSwap::from_pointee(snapshot));
            let svids = JwtSvids::new(target, shared, Arc::new(SystemClock));
            let outcome = svids.validate(&verifier, &token, audience);
            outcome.map(|svid| svid.id.to_string()).map_err(|status| {
                assert_eq!(status.code(), Code::InvalidArgument);
                status.message().to_owned()
            })
        };
        let jti = |id: &str| {
            Some(Subject::Token(mesh::RevokedToken {
                issuer: "td".into(),
                id: id.into(),
                ..Default::default()
            }))
        };
        let id = |id: &str| Some(Subject::SpiffeId(id.into()));
        let before = |moment: i64| {
            Some(Subject::IssuedBefore(mesh::RevokedIssuedBefore {
                trust_domain: "td".into(),
                path: String::new(),
                not_before: moment - BACKDATE,
            }))
        };
        let good = Ok("spiffe://td/ns/a/sa/b".to_owned());
        assert_eq!(told("orders", None), good);
        assert_eq!(told("orders", jti("i")), good);
        assert_eq!(told("orders", id("spiffe://td/ns/a/sa/c")), good);
        let revoked = Err("svid: token_revoked".to_owned());
        assert_eq!(told("orders", before(1_001)), good);
        assert_eq!(told("orders", before(1_002)), revoked);
        assert_eq!(told("orders", jti("j")), revoked);
        assert_eq!(told("orders", id("spiffe://td/ns/a/sa/b")), revoked);
        assert_eq!(told("", None), Err("audience: is required".to_owned()));
        let wrong = Err("svid: token_wrong_audience".to_owned());
        assert_eq!(told("payments", None), wrong);
    }

    #[test]
    fn audiences_are_a_set_of_some_sane_words() {
        let set = |names: &[&str]| normalized(names.iter().map(|n| (*n).to_owned()).collect());
        assert_eq!(set(&["b", "a", "b"]).expect("good"), ["a", "b"]);
        let long = "x".repeat(257);
        for bad in [&[][..], &[""], &["a\n"], &[long.as_str()], &["a"; 17]] {
            let refused = set(bad).expect_err("bad");
            assert_eq!(refused.code(), Code::InvalidArgument, "{bad:?}");
        }
    }
}
