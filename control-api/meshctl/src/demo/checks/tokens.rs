//! The checks of tokens: one that is good, and each way in which one is not.

use std::io;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use super::judge::{self, Outcome};
use super::{Attempt, Check};
use crate::commands::{apply, revoke};
use crate::connect;
use crate::demo::client::{Answer, Upgraded};
use crate::demo::documents::SERVICE_PORT;
use crate::demo::issuer::{self, GUARDED, Issuer};
use crate::demo::mesh::Workload;

/// How long an open stream may outlive its token's revocation before the check has failed.
const PATIENCE: Duration = Duration::from_secs(5);

impl Attempt<'_> {
    pub(super) async fn tokens(&self, issuer: &Issuer) -> Vec<Check> {
        let own = || issuer::claims("web", "demo-token");
        let changed = |claim: &str, value: Value| {
            let mut claims = own();
            claims[claim] = value;
            claims
        };
        let an_hour_ago = crate::moment::unix_now() - 3600;
        vec![
            Check::of(
                "token-valid",
                "web calls a guarded path of orders with a token of its own",
                "200, orders told whom the token speaks of",
                judge::subject_told(self.with_token(issuer.sign(&own())).await),
            ),
            Check::of(
                "token-missing",
                "the same without a token",
                "401 token_missing, a challenge that names no error",
                judge::token_missing(self.get_guarded(None).await),
            ),
            Check::of(
                "token-expired",
                "with a token that expired an hour ago",
                "401 token_expired",
                judge::token_refused(
                    self.with_token(issuer.sign(&changed("exp", an_hour_ago.into())))
                        .await,
                    "token_expired",
                    "`exp` is past, and clocks may differ by a minute only",
                ),
            ),
            Check::of(
                "token-wrong-audience",
                "with a token for payments",
                "401 token_wrong_audience",
                judge::token_refused(
                    self.with_token(issuer.sign(&changed("aud", "payments".into())))
                        .await,
                    "token_wrong_audience",
                    "orders accepts tokens for orders only",
                ),
            ),
            Check::of(
                "token-forged-unsigned",
                "with a token that says of itself `alg: none`",
                "401 token_algorithm",
                judge::token_refused(
                    self.with_token(Ok(issuer::forge_unsigned(&own()))).await,
                    "token_algorithm",
                    "the key fixes the algorithm, never the token",
                ),
            ),
            Check::of(
                "token-forged-with-public-key",
                "with a token signed by HS256, the issuer's public key as its secret",
                "401 token_algorithm",
                judge::token_refused(
                    self.with_token(Ok(issuer.forge_hmac(&own()))).await,
                    "token_algorithm",
                    "an ES256 key verifies ES256 and nothing else",
                ),
            ),
            Check::of(
                "token-stolen",
                "with a good token that was issued to payments",
                "401 token_binding_mismatch",
                judge::token_refused(
                    self.with_token(issuer.sign(&issuer::claims("payments", "stolen")))
                        .await,
                    "token_binding_mismatch",
                    "the certificate of the connection proves web, the token is bound to payments",
                ),
            ),
            Check::of(
                "token-bound-to-certificate",
                "with a token that names the thumbprint of web's certificate",
                "200, orders told whom the token speaks of",
                judge::subject_told(self.bound("web", self.web, issuer).await),
            ),
            Check::of(
                "token-stolen-with-certificate",
                "payments presents such a token of web",
                "401 token_binding_mismatch",
                judge::token_refused(
                    self.bound("payments", self.payments, issuer).await,
                    "token_binding_mismatch",
                    "its certificate is not the one that the token names (RFC 8705)",
                ),
            ),
            Check::of(
                "token-revoked-while-open",
                "web's token is revoked while a WebSocket that it opened is in use",
                "the WebSocket ends; then 401 token_revoked",
                self.revoked_while_open(issuer).await,
            ),
        ]
    }

    async fn with_token(&self, token: Result<String, String>) -> Result<Answer, String> {
        self.get_guarded(Some(&token?)).await
    }

    /// A token for `client` that is bound to web's certificate, presented by the application at `from`.
    async fn bound(
        &self,
        client: &str,
        from: &Workload,
        issuer: &Issuer,
    ) -> Result<Answer, String> {
        let route = self.route(self.web, self.orders, SERVICE_PORT);
        let told = self.get(&route, "/", &[]).await?.json();
        let mut claims = issuer::claims(client, "bound-token");
        claims["cnf"] = json!({"x5t#S256": judge::thumbprint(&told)?});
        let token = issuer.sign(&claims)?;
        self.get_guarded_from(from, Some(&token)).await
    }

    async fn get_guarded(&self, token: Option<&str>) -> Result<Answer, String> {
        self.get_guarded_from(self.web, token).await
    }

    async fn get_guarded_from(
        &self,
        from: &Workload,
        token: Option<&str>,
    ) -> Result<Answer, String> {
        let route = self.route(from, self.orders, SERVICE_PORT);
        let bearer = token.map(|token| format!("Bearer {token}"));
        let header = bearer.as_deref().map(|value| ("authorization", value));
        self.get(&route, GUARDED, header.as_slice()).await
    }

    async fn revoked_while_open(&self, issuer: &Issuer) -> Outcome {
        let lost = match issuer.sign(&issuer::claims("web", "lost-token")) {
            Ok(token) => token,
            Err(error) => return judge::revoked(Err(error), Err("not asked".to_owned())),
        };
        let took = self.open_and_revoke(&lost).await;
        judge::revoked(took, self.get_guarded(Some(&lost)).await)
    }

    /// Opens a WebSocket, uses it, revokes its token; how long from the revocation to the end of the stream.
    async fn open_and_revoke(&self, token: &str) -> Result<Duration, String> {
        let route = self.route(self.web, self.orders, SERVICE_PORT);
        let path = format!("{GUARDED}/socket");
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        let mut socket = Upgraded::open(&route, &path, &self.marker, &headers).await?;
        let frame = super::try_out::text_frame(&self.marker);
        if socket.echo(&frame).await? != frame {
            return Err("the WebSocket did not work before".to_owned());
        }
        let said = |failure: crate::failure::Failure| failure.summary();
        let mut admin = connect::connect_socket(&self.mesh.control_api.ready.admin_socket)
            .await
            .map_err(said)?;
        let begin = Instant::now();
        let document = revoke::token_document(issuer::ISSUER, "lost-token");
        apply::send(&mut admin, "the demo's revocation", &document, false)
            .await
            .map_err(said)?;
        // What is left may be a close frame; the end of the connection is what counts.
        let end = tokio::time::timeout(PATIENCE, socket.stream.read_to_end(&mut Vec::new())).await;
        match end {
            Ok(Ok(_)) => Ok(begin.elapsed()),
            Ok(Err(error)) if is_reset(&error) => Ok(begin.elapsed()),
            Ok(Err(error)) => Err(format!("the WebSocket broke: {error}")),
            Err(_) => Err(format!(
                "the WebSocket was still open {} s later",
                PATIENCE.as_secs()
            )),
        }
    }
}

/// Cut instead of closed: an end as well.
fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof
    )
}
