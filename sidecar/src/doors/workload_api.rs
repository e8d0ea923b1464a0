//! The SPIFFE Workload API (SPIFFE Workload Endpoint and Workload API specifications).
//!
//! Every call carries the metadata `workload.spiffe.io: true`, which keeps a browser or a confused proxy from being made
//! to ask. A stream begins with the complete set and gets the complete set with every change; a reader that is slow
//! misses intermediate sets, never the last. With no identity to hand out the answer is PERMISSION_DENIED and the stream
//! ends: what was handed out before is not to be used any longer.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use mesh_auth::bundle::TrustBundle;
use mesh_proto::workload::spiffe_workload_api_server::SpiffeWorkloadApi;
use mesh_proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse,
    ValidateJwtsvidRequest, ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse,
    X509svid, X509svidRequest, X509svidResponse,
};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::admission::Admission;
use super::jwt_svids::JwtSvids;
use super::material::{Material, entitled};
use super::status::{counted, no_identity};
use super::structure::structure;

/// Name of the metadata that every call carries (SPIFFE Workload Endpoint §5).
const HEADER: &str = "workload.spiffe.io";

/// The service.
pub struct WorkloadApi {
    admission: Admission,
    material: watch::Receiver<Arc<Material>>,
    jwt_svids: Arc<JwtSvids>,
    stop: CancellationToken,
}

type Updates<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Refuses calls without the metadata, before anything else is looked at.
///
/// # Errors
/// INVALID_ARGUMENT.
// The signature is tonic's.
#[allow(clippy::result_large_err)]
pub fn require_header(request: Request<()>) -> Result<Request<()>, Status> {
    let mut values = request.metadata().get_all(HEADER).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value == "true" => Ok(request),
        _ => Err(Status::invalid_argument(format!(
            "the metadata '{HEADER}: true' is missing: this is no call of a SPIFFE workload"
        ))),
    }
}

impl WorkloadApi {
    /// Hands out `material` and `jwt_svids` until `stop`.
    pub fn new(
        admission: Admission,
        material: watch::Receiver<Arc<Material>>,
        jwt_svids: Arc<JwtSvids>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            admission,
            material,
            jwt_svids,
            stop,
        }
    }

    /// What `render` makes of the material, now and whenever it makes something else of it.
    async fn updates<R, T>(
        &self,
        request: Request<R>,
        rpc: &'static str,
        render: impl Fn(&Material) -> Option<T> + Send + 'static,
    ) -> Result<Response<Updates<T>>, Status>
    where
        T: PartialEq + Clone + Send + 'static,
    {
        let place = counted(rpc, self.admission.call(&request).await)?;
        let mut material = self.material.clone();
        entitled(&mut material).await?;
        let mut last: Option<T> = None;
        let updates = WatchStream::new(material).filter_map(move |material| {
            // The place is given back with the stream.
            let _ = &place;
            let update = match render(&material) {
                None => Some(Err(no_identity())),
                rendered if rendered == last => None,
                Some(rendered) => {
                    last = Some(rendered.clone());
                    Some(Ok(rendered))
                }
            };
            std::future::ready(update)
        });
        let stop = self.stop.clone().cancelled_owned();
        Ok(Response::new(Box::pin(updates.take_until(stop))))
    }
}

/// Certificates as the specification concatenates them.
fn concatenated<'a, D: AsRef<[u8]> + 'a>(certificates: impl IntoIterator<Item = &'a D>) -> Vec<u8> {
    let mut der = Vec::new();
    for certificate in certificates {
        der.extend_from_slice(certificate.as_ref());
    }
    der
}

fn roots(bundle: &TrustBundle) -> (String, Vec<u8>) {
    (
        format!("spiffe://{}", bundle.trust_domain()),
        concatenated(bundle.authorities()),
    )
}

/// The set of X.509-SVIDs; `None` without an identity.
fn x509_svids(material: &Material) -> Option<X509svidResponse> {
    let svid = material.svid.as_ref()?;
    let own = material.bundles.get(material.trust_domain.as_str());
    let federated_bundles = material
        .bundles
        .iter()
        .filter(|bundle| *bundle.trust_domain() != material.trust_domain)
        .map(roots)
        .collect();
    Some(X509svidResponse {
        svids: vec![X509svid {
            spiffe_id: svid.id.to_string(),
            x509_svid: concatenated(&svid.chain),
            x509_svid_key: svid.key.expose().clone(),
            bundle: own.map(|bundle| roots(bundle).1).unwrap_or_default(),
            hint: String::new(),
        }],
        crl: vec![],
        federated_bundles,
    })
}

/// The set of X.509 bundles; `None` without an identity.
fn x509_bundles(material: &Material) -> Option<X509BundlesResponse> {
    material.svid.as_ref()?;
    let bundles: BTreeMap<_, _> = material.bundles.iter().map(roots).collect();
    Some(X509BundlesResponse {
        crl: vec![],
        bundles,
    })
}

/// The set of JWT bundles; `None` without an identity.
fn jwt_bundles(material: &Material) -> Option<JwtBundlesResponse> {
    material.svid.as_ref()?;
    let bundles = material.jwt_bundles.iter();
    Some(JwtBundlesResponse {
        bundles: bundles
            .map(|(domain, set)| (format!("spiffe://{domain}"), set.clone().into_bytes()))
            .collect(),
    })
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Updates<X509svidResponse>;
    type FetchX509BundlesStream = Updates<X509BundlesResponse>;
    type FetchJWTBundlesStream = Updates<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.updates(request, "FetchX509SVID", x509_svids).await
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.updates(request, "FetchX509Bundles", x509_bundles)
            .await
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let _place = counted("FetchJWTSVID", self.admission.call(&request).await)?;
        let JwtsvidRequest {
            audience,
            spiffe_id,
        } = request.into_inner();
        let material = entitled(&mut self.material.clone()).await?;
        let own = material.svid.as_ref().map(|svid| svid.id.as_str());
        if !spiffe_id.is_empty() && Some(spiffe_id.as_str()) != own {
            return Err(Status::permission_denied(
                "spiffe_id: this workload is not entitled to that identity",
            ));
        }
        let svid = self.jwt_svids.fetch(audience).await?;
        Ok(Response::new(JwtsvidResponse {
            svids: vec![Jwtsvid {
                spiffe_id: svid.id.to_string(),
                svid: svid.token.expose().clone(),
                hint: String::new(),
            }],
        }))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        self.updates(request, "FetchJWTBundles", jwt_bundles).await
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let _place = counted("ValidateJWTSVID", self.admission.call(&request).await)?;
        let ValidateJwtsvidRequest { audience, svid } = request.into_inner();
        let material = entitled(&mut self.material.clone()).await?;
        let verifier = &material.jwt_verifier;
        let svid = self.jwt_svids.validate(verifier, &svid, &audience)?;
        Ok(Response::new(ValidateJwtsvidResponse {
            spiffe_id: svid.id.to_string(),
            claims: Some(structure(svid.token.claims())),
        }))
    }
}
