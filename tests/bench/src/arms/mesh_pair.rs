//! Two of our sidecars and a control API: identity match, policy, and a token on every request.

use std::ffi::OsString;

use anyhow::Context;

use super::Pair;
use super::haproxy::Tokens;
use super::nginx::App;
use crate::load::callers::{self, Authority};
use crate::mesh::{self, ControlApi, NAMESPACE, Sidecar, SidecarOptions, TRUST_DOMAIN};
use crate::ports;
use crate::programs::Ours;
use crate::say;
use crate::wrk::Target;

/// The called service, and the ports of its workload.
const SERVICE: &str = "server";
const HTTP_PORT: u16 = 8080;
const GRPC_PORT: u16 = 50051;
const ECHO_PORT: u16 = 7000;
/// Name of the opaque listener.
const ECHO: &str = "server:7000";

/// A running mesh of two workloads.
pub(crate) struct MeshPair {
    pub(crate) pair: Pair,
    pub(crate) api: ControlApi,
    pub(crate) client: Sidecar,
    pub(crate) server: Sidecar,
    /// Where the client's application reaches the echo.
    pub(crate) echo: Target,
    /// Whether the control API took the document that demands tokens.
    pub(crate) tokens: bool,
}

/// How both sidecars are started.
#[derive(Debug, Clone, Default)]
pub(crate) struct How {
    /// Under another program, with its arguments: a profiler, say.
    pub(crate) under: Vec<OsString>,
    /// With further flags.
    pub(crate) flags: Vec<String>,
    /// With further variables in their environment.
    pub(crate) environment: Vec<(&'static str, String)>,
}

/// Starts control API and sidecars before `app` and an opaque echo.
pub(crate) async fn start(
    ours: &Ours,
    tokens: &Tokens<'_>,
    app: &App,
    echo: &str,
) -> anyhow::Result<MeshPair> {
    start_with(ours, tokens, app, echo, &How::default()).await
}

/// The same with sidecars that are started in another way.
pub(crate) async fn start_with(
    ours: &Ours,
    tokens: &Tokens<'_>,
    app: &App,
    echo: &str,
    how: &How,
) -> anyhow::Result<MeshPair> {
    let mut api = ControlApi::start(ours, &[]).await?;
    let [client_port, server_port] = ports::free()?;
    let mut manifest = mesh::workload("client", client_port);
    manifest.push_str(&mesh::workload("probe", client_port));
    manifest.push_str(&mesh::workload(SERVICE, server_port));
    manifest.push_str(&mesh::service(
        SERVICE,
        &[
            (80, HTTP_PORT, "HTTP"),
            (GRPC_PORT, GRPC_PORT, "HTTP"),
            (ECHO_PORT, ECHO_PORT, "TCP"),
        ],
    ));
    api.apply(&manifest).await?;
    let tokens_taken = match api.apply(&request_authentication(tokens)).await {
        Ok(_) => true,
        Err(error) => {
            say(&format!("tokens are not verified: {error:#}"));
            false
        }
    };
    api.apply(&policy(tokens_taken.then_some(tokens))).await?;

    let server = Sidecar::start(
        ours,
        &mut api,
        &SidecarOptions {
            name: SERVICE.to_owned(),
            mesh_port: server_port,
            apps: vec![
                (HTTP_PORT, app.address.clone()),
                (GRPC_PORT, app.grpc.clone()),
                (ECHO_PORT, echo.to_owned()),
            ],
            under: how.under.clone(),
            flags: how.flags.clone(),
            environment: how.environment.clone(),
            ..SidecarOptions::default()
        },
    )
    .await?;
    let client = Sidecar::start(
        ours,
        &mut api,
        &SidecarOptions {
            name: "client".to_owned(),
            mesh_port: client_port,
            tcp_services: vec![ECHO.to_owned()],
            under: how.under.clone(),
            flags: how.flags.clone(),
            environment: how.environment.clone(),
            ..SidecarOptions::default()
        },
    )
    .await?;
    let outbound = client.ready.outbound.to_string();
    let echo = client
        .ready
        .tcp_services
        .get(ECHO)
        .with_context(|| format!("the sidecar has no listener for {ECHO}"))?
        .to_string();
    let (certificate, key) = api.authority();
    let caller = format!("spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/client");
    let pair = Pair {
        target: Target {
            address: outbound.clone(),
            host: SERVICE.to_owned(),
        },
        grpc: Some(Target {
            address: outbound,
            host: format!("{SERVICE}:{GRPC_PORT}"),
        }),
        tls: Some(callers::Server {
            address: server.ready.mesh,
            pid: server.kid.pid(),
            authority: Authority::read(&certificate, &key, &caller)?,
        }),
        client: client.kid.pid(),
        server: server.kid.pid(),
        kids: Vec::new(),
        _folder: None,
    };
    Ok(MeshPair {
        pair,
        api,
        client,
        server,
        echo: Target {
            address: echo,
            host: ECHO.to_owned(),
        },
        tokens: tokens_taken,
    })
}

fn request_authentication(tokens: &Tokens<'_>) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: idp, namespace: {NAMESPACE}}}\n\
         spec:\n  selector: {{matchLabels: {{app: {SERVICE}}}}}\n  jwtRules:\n  - issuer: \"{}\"\n    audiences: [\"{}\"]\n    forwardOriginalToken: true\n    jwks: '{}'\n",
        tokens.issuer.name,
        tokens.audience,
        tokens.issuer.jwks()
    )
}

/// HTTP from the client, with a token of the issuer if there is one; the echo from the client.
pub(crate) fn policy(tokens: Option<&Tokens<'_>>) -> String {
    let caller = format!("principals: [\"{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/client\"]");
    let subject = tokens.map_or(String::new(), |t| {
        format!(", requestPrincipals: [\"{}/*\"]", t.issuer.name)
    });
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: callers, namespace: {NAMESPACE}}}\n\
         spec:\n  selector: {{matchLabels: {{app: {SERVICE}}}}}\n  action: ALLOW\n  rules:\n\
         \x20 - from: [{{source: {{{caller}{subject}}}}}]\n    to: [{{operation: {{ports: [\"{HTTP_PORT}\", \"{GRPC_PORT}\"]}}}}]\n\
         \x20 - from: [{{source: {{{caller}}}}}]\n    to: [{{operation: {{ports: [\"{ECHO_PORT}\"]}}}}]\n"
    )
}

/// Policies that never match and must be looked past.
pub(crate) fn other_policies(count: u32) -> String {
    (0..count)
        .map(|i| {
            format!(
                "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: other-{i}, namespace: {NAMESPACE}}}\n\
                 spec: {{selector: {{matchLabels: {{app: {SERVICE}}}}}, action: ALLOW, rules: [{{from: [{{source: {{principals: [\"{TRUST_DOMAIN}/ns/other/sa/a{i}\"]}}}}], to: [{{operation: {{ports: [\"{HTTP_PORT}\"]}}}}]}}]}}\n"
            )
        })
        .collect()
}
