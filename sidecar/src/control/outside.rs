//! This workload's identity from an outside SPIFFE Workload API, SPIRE's say, instead of from the control API (SPIFFE
//! Workload API §5, Workload Endpoint §4).
//!
//! Every message of the stream is the complete set: its certificate, key and bundles replace what was held. What breaks is
//! asked for again, and meanwhile a good certificate stays in use until it expires; only "no identity for you" takes it
//! away at once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mesh_auth::bundle::TrustBundle;
use mesh_auth::svid::certificates;
use mesh_auth::{Secret, SpiffeId, TrustDomain};
use mesh_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use mesh_proto::workload::{X509svidRequest, X509svidResponse};
use rustls_pki_types::CertificateDer;
use tokio::net::UnixStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Endpoint, Uri};
use tonic::{Code, Request, Streaming};

use super::connect::{causes, status_text};
use crate::snapshot::RootsByDomain;

/// How long opening the socket may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A Workload API that answers no ping for this long is gone.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Most bytes of one message.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// Where the Workload API is.
#[derive(Debug, Clone)]
pub struct Outside {
    socket: PathBuf,
}

/// One complete set.
pub struct Received {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS#8, DER.
    pub key: Secret<Vec<u8>>,
    /// Of the own trust domain and of those that it federates with.
    pub roots: RootsByDomain,
}

/// Why there is no set.
#[derive(Debug, thiserror::Error)]
pub enum OutsideError {
    /// Nobody answers, or the stream ended.
    #[error("the Workload API at {socket} does not serve: {reason}")]
    Unavailable {
        /// The socket.
        socket: String,
        /// What went wrong.
        reason: String,
    },
    /// It knows no identity for this workload, or takes it back.
    #[error("the Workload API at {socket} has no identity for this workload: {reason}")]
    Denied {
        /// The socket.
        socket: String,
        /// Its answer.
        reason: String,
    },
}

impl Outside {
    /// A Workload API on a Unix socket: a path, or `unix:///path` as in `SPIFFE_ENDPOINT_SOCKET`.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn new(text: &str) -> Result<Self, String> {
        let path = text.strip_prefix("unix://").unwrap_or(text);
        if !Path::new(path).is_absolute() {
            return Err(format!(
                "'{text}' is no socket: give an absolute path, or unix:///PATH"
            ));
        }
        Ok(Self {
            socket: path.into(),
        })
    }

    fn shown(&self) -> String {
        self.socket.display().to_string()
    }

    /// Opens the stream of X.509-SVIDs.
    ///
    /// # Errors
    /// See [`OutsideError`].
    pub async fn stream(&self) -> Result<Streaming<X509svidResponse>, OutsideError> {
        let socket = self.socket.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://workload-api")
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_while_idle(true)
            .connect_with_connector(connector)
            .await
            .map_err(|error| OutsideError::Unavailable {
                socket: self.shown(),
                reason: causes(&error),
            })?;
        let mut client =
            SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let mut request = Request::new(X509svidRequest {});
        let value = MetadataValue::from_static("true");
        request.metadata_mut().insert("workload.spiffe.io", value);
        let answer = client.fetch_x509svid(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.refusal(&status))
    }

    /// What a status of the stream means.
    pub fn refusal(&self, status: &tonic::Status) -> OutsideError {
        let (socket, reason) = (self.shown(), status_text(status));
        match status.code() {
            Code::PermissionDenied => OutsideError::Denied { socket, reason },
            _ => OutsideError::Unavailable { socket, reason },
        }
    }

    /// That it ended the stream without a reason.
    pub fn ended(&self) -> OutsideError {
        OutsideError::Unavailable {
            socket: self.shown(),
            reason: "it ended the stream".into(),
        }
    }
}

/// Reads a set for a workload of `namespace` in `trust_domain`: of several identities the first that is one of it.
///
/// # Errors
/// Names the field, or the identities that there are.
pub fn read(
    set: X509svidResponse,
    trust_domain: &TrustDomain,
    namespace: &str,
) -> Result<Received, String> {
    let ours = |text: &str| {
        SpiffeId::parse(text).is_ok_and(|id| {
            id.trust_domain() == trust_domain.as_str() && id.namespace() == Some(namespace)
        })
    };
    let names: Vec<_> = set
        .svids
        .iter()
        .map(|svid| svid.spiffe_id.escape_default().to_string())
        .collect();
    let svid = set.svids.into_iter().find(|svid| ours(&svid.spiffe_id));
    let svid = svid.ok_or_else(|| {
        format!(
            "none of its identities is spiffe://{trust_domain}/ns/{namespace}/sa/...: {}",
            names.join(", ")
        )
    })?;
    let key = Secret::new(svid.x509_svid_key);
    let list = |field: &str, der: &[u8]| match certificates(der) {
        Some(list) if !list.is_empty() => Ok(list),
        _ => Err(format!(
            "{field}: not certificates in DER, one after the other"
        )),
    };
    let chain = list("x509_svid", &svid.x509_svid)?;
    let mut roots = RootsByDomain::new();
    for (name, der) in set.federated_bundles {
        let domain = name.strip_prefix("spiffe://").unwrap_or(&name);
        match TrustDomain::new(domain) {
            Ok(domain) => drop(roots.insert(domain.to_string(), foreign(domain, &der))),
            Err(error) => tracing::warn!(%error, "a federated bundle is not used"),
        }
    }
    roots.insert(trust_domain.to_string(), list("bundle", &svid.bundle)?);
    Ok(Received { chain, key, roots })
}

/// The roots of another trust domain. Those that cannot be used, as others make them, cost that domain its trust and nobody else.
fn foreign(domain: TrustDomain, der: &[u8]) -> Vec<CertificateDer<'static>> {
    let roots = match certificates(der) {
        Some(roots) if !roots.is_empty() => roots,
        _ => {
            tracing::warn!(trust_domain = %domain, "its federated bundle is not certificates in DER: nobody of it is believed");
            return vec![];
        }
    };
    match TrustBundle::new(domain, roots, 0) {
        Ok(bundle) => bundle.authorities().to_vec(),
        Err(error) => {
            tracing::warn!(%error, "a federated bundle is not used: nobody of that trust domain is believed");
            vec![]
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_proto::workload::X509svid;

    use super::*;

    fn der(content: &[u8]) -> Vec<u8> {
        [
            &[0x30, u8::try_from(content.len()).expect("short")],
            content,
        ]
        .concat()
    }

    fn root() -> Vec<u8> {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let key = rcgen::KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a root").der().to_vec()
    }

    fn svid(id: &str) -> X509svid {
        X509svid {
            spiffe_id: id.into(),
            x509_svid: [der(&[1, 2]), der(&[3])].concat(),
            x509_svid_key: vec![9],
            bundle: der(&[4]),
            hint: String::new(),
        }
    }

    fn set(ids: &[&str]) -> X509svidResponse {
        X509svidResponse {
            svids: ids.iter().map(|id| svid(id)).collect(),
            crl: vec![],
            federated_bundles: [("spiffe://other".to_owned(), root())].into(),
        }
    }

    fn read(set: X509svidResponse) -> Result<Received, String> {
        super::read(set, &TrustDomain::new("td").expect("a domain"), "shop")
    }

    #[test]
    fn the_first_identity_of_the_workload_is_taken_with_every_bundle() {
        let ids = [
            "spiffe://td/ns/bank/sa/a",
            "spiffe://td/ns/shop/sa/a",
            "spiffe://td/ns/shop/sa/b",
        ];
        let received = read(set(&ids)).expect("one of them");
        assert_eq!(received.chain, [der(&[1, 2]).into(), der(&[3]).into()]);
        let names: Vec<_> = received.roots.keys().map(String::as_str).collect();
        assert_eq!(names, ["other", "td"]);
        assert_eq!(received.roots["td"], [der(&[4]).into()]);
    }

    #[test]
    fn a_foreign_bundle_that_cannot_be_used_costs_its_own_domain_only() {
        let mut set = set(&["spiffe://td/ns/shop/sa/a"]);
        let good = set.federated_bundles["spiffe://other"].clone();
        for (name, der) in [
            ("spiffe://empty", vec![]),
            ("spiffe://garbled", vec![1]),
            ("spiffe://rootless", der(&[5])),
            ("spiffe://mixed", [root(), der(&[5])].concat()),
            ("https://nameless", root()),
        ] {
            set.federated_bundles.insert(name.into(), der);
        }
        let roots = read(set).expect("the identity").roots;
        let counts: Vec<_> = roots.iter().map(|(k, v)| (k.as_str(), v.len())).collect();
        let none = ["empty", "garbled", "mixed"].map(|name| (name, 0));
        assert_eq!(
            counts,
            [&none[..], &[("other", 1), ("rootless", 0), ("td", 1)]].concat()
        );
        assert_eq!(roots["other"], [good.into()]);
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_field() {
        let ours = "spiffe://td/ns/shop/sa/a";
        let mut cut = set(&[ours]);
        cut.svids[0].x509_svid.pop();
        let mut rootless = set(&[ours]);
        rootless.svids[0].bundle.clear();
        for (set, part) in [
            (
                set(&["spiffe://td/ns/bank/sa/a"]),
                "spiffe://td/ns/shop/sa/...: spiffe://td/ns/bank",
            ),
            (
                set(&["spiffe://other/ns/shop/sa/a"]),
                "none of its identities",
            ),
            (set(&[]), "none of its identities"),
            (cut, "x509_svid:"),
            (rootless, "bundle:"),
        ] {
            let error = read(set).map(drop).expect_err(part);
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn a_socket_is_a_path_and_a_denial_is_not_an_outage() {
        for good in ["/run/spire/agent.sock", "unix:///run/spire/agent.sock"] {
            assert_eq!(
                Outside::new(good).expect(good).shown(),
                "/run/spire/agent.sock"
            );
        }
        for bad in ["agent.sock", "unix:agent.sock", "tcp://127.0.0.1:1", ""] {
            assert!(Outside::new(bad).is_err(), "{bad}");
        }
        let outside = Outside::new("/a").expect("a path");
        let denied = outside.refusal(&tonic::Status::permission_denied("none"));
        assert!(matches!(denied, OutsideError::Denied { .. }));
        let away = outside.refusal(&tonic::Status::unavailable("gone"));
        assert!(matches!(away, OutsideError::Unavailable { .. }));
    }
}
