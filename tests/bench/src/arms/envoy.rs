//! Two Envoys with HTTP/2 over mutual TLS 1.3 between them: identity match, RBAC rule, `jwt_authn` with its cache on.
//!
//! Tuned as its FAQ asks: circuit breakers raised, no request ids, no dynamic stats, no timeouts, large windows, one worker.

use std::path::Path;
use std::process::Stdio;

use anyhow::Context;
use serde_json::{Value, json};
use tokio::process::Command;

use super::Pair;
use super::certificates::{self, AUTHORITY_FILE, CLIENT_FILE, CLIENT_ID, SERVER_FILE, SERVER_ID};
use super::haproxy::Tokens;
use super::nginx::App;
use crate::kid::Kid;
use crate::load::callers;
use crate::ports;
use crate::wrk::Target;

/// Verified tokens that Envoy may remember.
const TOKEN_CACHE: u32 = 10_000;
const WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

pub(crate) async fn start(envoy: &Path, tokens: &Tokens<'_>, app: &App) -> anyhow::Result<Pair> {
    let folder = ports::folder()?;
    certificates::write(folder.path())?;
    let [front, middle, grpc_front, grpc_middle] = ports::free()?;
    let client = client_side(folder.path(), [(front, middle), (grpc_front, grpc_middle)]);
    let server = server_side(
        folder.path(),
        tokens,
        [
            (middle, app.address.as_str(), false),
            (grpc_middle, app.grpc.as_str(), true),
        ],
    )?;
    let run = |name: &str, base: u32, configuration: &Value| {
        let file = folder.path().join(format!("{name}.json"));
        std::fs::write(&file, configuration.to_string())
            .context("Envoy's configuration cannot be written")?;
        let mut command = Command::new(envoy);
        command
            .arg("-c")
            .arg(&file)
            .args(["--concurrency", "1", "-l", "error"])
            // Two Envoys on one machine must not share their memory for hot restarts.
            .arg("--disable-hot-restart")
            .args(["--base-id", &base.to_string()])
            .stdout(Stdio::null());
        Kid::start(name, command, folder.path())
    };
    let server = run("envoy-server", 7_312, &server)?;
    let client = run("envoy-client", 7_311, &client)?;
    Ok(Pair {
        target: Target {
            address: format!("127.0.0.1:{front}"),
            host: "orders".to_owned(),
        },
        grpc: Some(Target {
            address: format!("127.0.0.1:{grpc_front}"),
            host: "orders".to_owned(),
        }),
        tls: Some(callers::Server {
            address: ([127, 0, 0, 1], middle).into(),
            pid: server.pid(),
            authority: certificates::authority(folder.path())?,
        }),
        client: client.pid(),
        server: server.pid(),
        kids: vec![client, server],
        _folder: Some(folder),
    })
}

fn client_side(folder: &Path, ways: [(u16, u16); 2]) -> Value {
    let tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "tls_params": tls_parameters(),
            "tls_certificates": [certificate(folder, CLIENT_FILE)],
            "validation_context": {
                "trusted_ca": {"filename": folder.join(AUTHORITY_FILE)},
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": SERVER_ID}}],
            },
        },
    });
    let mut listeners = Vec::new();
    let mut clusters = Vec::new();
    for (index, (front, middle)) in ways.into_iter().enumerate() {
        let name = format!("peer{index}");
        listeners.push(listener(front, &name, &manager(&name, &[router()]), None));
        let mut cluster = cluster(&name, &format!("127.0.0.1:{middle}"), true);
        cluster["transport_socket"] = json!({"name": "tls", "typed_config": tls});
        clusters.push(cluster);
    }
    json!({"static_resources": {"listeners": listeners, "clusters": clusters}})
}

fn server_side(
    folder: &Path,
    tokens: &Tokens<'_>,
    ways: [(u16, &str, bool); 2],
) -> anyhow::Result<Value> {
    let keys = folder.join("jwks.json");
    std::fs::write(&keys, tokens.issuer.jwks()).context("the key set cannot be written")?;
    let tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": true,
        "common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_params": tls_parameters(),
            "tls_certificates": [certificate(folder, SERVER_FILE)],
            "validation_context": {"trusted_ca": {"filename": folder.join(AUTHORITY_FILE)}},
        },
    });
    let token = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        "providers": {"idp": {
            "issuer": tokens.issuer.name,
            "audiences": [tokens.audience],
            "forward": true,
            "payload_in_metadata": "jwt",
            "local_jwks": {"filename": keys},
            "jwt_cache_config": {"jwt_cache_size": TOKEN_CACHE},
        }},
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "idp"}}],
    });
    let policy = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "rules": {"action": "ALLOW", "policies": {"callers": {
            "permissions": [{"any": true}],
            "principals": [{"and_ids": {"ids": [
                {"authenticated": {"principal_name": {"exact": CLIENT_ID}}},
                {"metadata": {
                    "filter": "envoy.filters.http.jwt_authn",
                    "path": [{"key": "jwt"}, {"key": "iss"}],
                    "value": {"string_match": {"exact": tokens.issuer.name}},
                }},
            ]}}],
        }}},
    });
    let mut listeners = Vec::new();
    let mut clusters = Vec::new();
    for (index, (middle, app, http2)) in ways.into_iter().enumerate() {
        let name = format!("app{index}");
        let filters = [
            json!({"name": "jwt", "typed_config": token}),
            json!({"name": "rbac", "typed_config": policy}),
            router(),
        ];
        let mut manager = manager(&name, &filters);
        manager["forward_client_cert_details"] = json!("SANITIZE_SET");
        manager["set_current_client_cert_details"] = json!({"uri": true});
        listeners.push(listener(middle, &name, &manager, Some(&tls)));
        clusters.push(cluster(&name, app, http2));
    }
    Ok(json!({"static_resources": {"listeners": listeners, "clusters": clusters}}))
}

fn tls_parameters() -> Value {
    json!({
        "tls_minimum_protocol_version": "TLSv1_3",
        "tls_maximum_protocol_version": "TLSv1_3",
        "ecdh_curves": ["X25519"],
    })
}

fn certificate(folder: &Path, file: &str) -> Value {
    let file = folder.join(file);
    json!({"certificate_chain": {"filename": file}, "private_key": {"filename": file}})
}

fn router() -> Value {
    json!({"name": "router", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
        "dynamic_stats": false,
    }})
}

fn manager(cluster: &str, filters: &[Value]) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": cluster,
        "generate_request_id": false,
        "http2_protocol_options": windows(),
        "route_config": {"virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}],
        }]},
        "http_filters": filters,
    })
}

fn listener(port: u16, name: &str, manager: &Value, tls: Option<&Value>) -> Value {
    let mut chain = json!({"filters": [{"name": "hcm", "typed_config": manager}]});
    if let Some(tls) = tls {
        chain["transport_socket"] = json!({"name": "tls", "typed_config": tls});
    }
    json!({
        "name": format!("{name}-{port}"),
        "address": address("127.0.0.1", port),
        "filter_chains": [chain],
    })
}

fn cluster(name: &str, to: &str, http2: bool) -> Value {
    let (host, port) = to.rsplit_once(':').unwrap_or((to, "0"));
    let most = 1_000_000;
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [{
            "max_connections": most, "max_pending_requests": most, "max_requests": most, "max_retries": most,
        }]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": address(host, port.parse().unwrap_or(0))}},
        ]}]},
    });
    if http2 {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": windows()},
            },
        });
    }
    cluster
}

fn windows() -> Value {
    json!({
        "initial_stream_window_size": WINDOW,
        "initial_connection_window_size": CONNECTION_WINDOW,
    })
}

fn address(host: &str, port: u16) -> Value {
    json!({"socket_address": {"address": host, "port_value": port}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Issuer;

    #[test]
    fn both_sides_demand_tls_1_3_and_the_server_checks_identity_and_token() {
        let folder = tempfile::tempdir().unwrap();
        let issuer = Issuer::new("https://idp.test", "k").unwrap();
        let tokens = Tokens {
            issuer: &issuer,
            audience: "api",
        };
        let client = client_side(folder.path(), [(1, 2), (3, 4)]).to_string();
        let ways = [(2, "127.0.0.1:5", false), (4, "127.0.0.1:6", true)];
        let server = server_side(folder.path(), &tokens, ways)
            .unwrap()
            .to_string();
        for text in [&client, &server] {
            assert_eq!(
                text.matches("\"tls_minimum_protocol_version\":\"TLSv1_3\"")
                    .count(),
                2
            );
        }
        assert!(client.contains(SERVER_ID));
        for needed in [
            CLIENT_ID,
            "require_client_certificate",
            "jwt_cache_size",
            "https://idp.test",
        ] {
            assert!(server.contains(needed), "{needed}");
        }
    }
}
