//! Two sidecars, the rules of a dozen issuers, and an application that sends back what reached it.

use std::fmt::Write as _;

use anyhow::Context;
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use mesh_auth::{SpiffeId, TrustDomain, tls};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::cases::Case;
use super::forge::Forge;
use crate::exchange::Exchange;
use crate::mesh::{self, ControlApi, NAMESPACE, Sidecar, SidecarOptions, TRUST_DOMAIN};
use crate::mirror;
use crate::ports;
use crate::programs::Ours;
use crate::sim;

const SERVICE: &str = "server";
const CLIENT: &str = "client";
const PORT: u16 = 8080;

/// A running mesh of two workloads.
pub(super) struct World {
    pub(super) facts: Facts,
    client: Sidecar,
    server: Sidecar,
    _api: ControlApi,
    app: JoinHandle<()>,
}

/// What cases have to know of it.
pub(super) struct Facts {
    /// SHA-256 of the certificate that requests come with, base64url (RFC 8705 §3.1).
    pub(super) callers_certificate: String,
    /// The same of another workload's.
    pub(super) others_certificate: String,
}

impl World {
    pub(super) async fn start(forge: &Forge) -> anyhow::Result<Self> {
        let ours = Ours::find().await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let app = tokio::spawn(mirror::serve(listener));
        let mut api = ControlApi::start(&ours, &[]).await?;
        let [client_port, server_port] = ports::free()?;
        let mut manifest = mesh::workload(CLIENT, client_port);
        manifest.push_str(&mesh::workload("probe", client_port));
        manifest.push_str(&mesh::workload(SERVICE, server_port));
        manifest.push_str(&mesh::service(SERVICE, &[(80, PORT, "HTTP")]));
        manifest.push_str(&rules(forge)?);
        manifest.push_str(&policy());
        api.apply(&manifest).await?;
        let server = SidecarOptions {
            name: SERVICE.to_owned(),
            mesh_port: server_port,
            apps: vec![(PORT, address)],
            // What is searched for tokens afterwards.
            flags: vec!["--log".to_owned(), "trace".to_owned()],
            ..SidecarOptions::default()
        };
        let server = Sidecar::start(&ours, &mut api, &server).await?;
        let client = SidecarOptions {
            name: CLIENT.to_owned(),
            mesh_port: client_port,
            flags: vec!["--log".to_owned(), "trace".to_owned()],
            ..SidecarOptions::default()
        };
        let client = Sidecar::start(&ours, &mut api, &client).await?;
        let token = api.join_token(&format!("{NAMESPACE}/probe")).await?;
        let target = api.target()?;
        let probe = sim::enrol(&target, &token).await?;
        let facts = Facts {
            callers_certificate: thumbprint(&target, &probe, CLIENT, &client).await?,
            others_certificate: thumbprint(&target, &probe, SERVICE, &server).await?,
        };
        Ok(Self {
            facts,
            client,
            server,
            _api: api,
            app,
        })
    }

    /// Sends a case from the client's application.
    pub(super) async fn send(&mut self, case: &Case) -> anyhow::Result<Exchange> {
        let outbound = self.client.ready.outbound;
        let answer = Exchange::get(outbound, SERVICE, &case.path, &case.lines).await;
        // A sidecar that died of a token would be the worst outcome.
        self.server.kid.check()?;
        self.client.kid.check()?;
        answer.with_context(|| case.name)
    }

    /// Everything that the refusing sidecar wrote: log, metrics, dump.
    pub(super) async fn written(&self) -> anyhow::Result<String> {
        let mut text = self.server.kid.log()?;
        text.push_str(&self.client.kid.log()?);
        for path in ["/metrics", "/config_dump", "/readyz"] {
            let admin = self.server.ready.admin;
            let answer = Exchange::get(admin, "127.0.0.1", path, b"").await?;
            text.push_str(answer.text());
        }
        Ok(text)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.app.abort();
    }
}

/// The digest of the certificate that a sidecar presents, which is the same on both sides.
async fn thumbprint(
    target: &sim::Target,
    probe: &tls::Identity,
    name: &str,
    sidecar: &Sidecar,
) -> anyhow::Result<String> {
    let id = SpiffeId::workload(&TrustDomain::new(TRUST_DOMAIN)?, NAMESPACE, name)?;
    let config = target.peer_config(probe, &id)?;
    let tcp = TcpStream::connect(sidecar.ready.mesh).await?;
    let stream = TlsConnector::from(config)
        .connect(tls::server_name(), tcp)
        .await?;
    let chain = stream.get_ref().1.peer_certificates();
    let leaf = chain.and_then(<[_]>::first).context("no certificate")?;
    Ok(BASE64URL.encode(digest::digest(&digest::SHA256, leaf)))
}

/// One rule per way in which tokens can be wrong; each has an issuer of its own.
fn rules(forge: &Forge) -> anyhow::Result<String> {
    let mut text = format!(
        "---\napiVersion: postern.dev/v1alpha1\nkind: RequestAuthentication\nmetadata: {{name: issuers, namespace: {NAMESPACE}}}\n\
         spec:\n  selector: {{matchLabels: {{app: {SERVICE}}}}}\n  jwtRules:\n"
    );
    let keys = forge.jwks();
    let subject = "forward: strip, outputClaimToHeaders: [{header: x-subject, claim: sub}]";
    for (name, more) in [
        (
            "plain",
            "audiences: [shop, store], routes: [{paths: [/required], required: true}]",
        ),
        ("access", "audiences: [shop], profile: at+jwt"),
        ("txn", "audiences: [shop], profile: txn-token"),
        ("fresh", "maxAge: 300s, leeway: 0s"),
        ("held", "binding: {certificate: true}"),
        (
            "mapped",
            "binding: {rules: [{claim: azp, principal: \"spiffe://bench.postern/ns/bench/sa/{value}\"}]}",
        ),
        ("small", "maxTokenBytes: 512"),
        ("rsa", "algorithms: [RS256]"),
        (
            "elsewhere",
            "fromHeaders: [{name: x-token}], fromParams: [token], fromCookies: [session]",
        ),
    ] {
        writeln!(
            text,
            "  - {{issuer: \"https://{name}.test\", {more}, {subject}, jwks: '{keys}'}}"
        )?;
    }
    writeln!(
        text,
        "  - {{trustDomain: svids.test, profile: jwt-svid, audiences: [shop], {subject}, jwks: '{}'}}",
        forge.svid_jwks()
    )?;
    // Local addresses are not fetched from: these keys never come.
    writeln!(
        text,
        "  - {{issuer: \"https://awaited.test\", jwksUri: \"https://127.0.0.1:9/jwks\"}}"
    )?;
    Ok(text)
}

/// Everything is let in, with one path for whoever has the scope.
fn policy() -> String {
    format!(
        "---\napiVersion: postern.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: all, namespace: {NAMESPACE}}}\n\
         spec:\n  selector: {{matchLabels: {{app: {SERVICE}}}}}\n  action: ALLOW\n  rules:\n\
         \x20 - to: [{{operation: {{notPaths: [/scoped]}}}}]\n\
         \x20 - scopes: {{orders.read: [GET /scoped]}}\n"
    )
}
