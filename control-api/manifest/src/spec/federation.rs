//! `kind: Federation`: another trust domain whose workloads are to be believed, and where its bundle is.

use mesh_auth::{SpiffeId, TrustDomain};
use serde::{Deserialize, Serialize};

use super::Spec;
use super::metadata::Metadata;
use crate::document::Resource;
use crate::error::FieldError;
use crate::kind::Kind;

/// Longest interval between two looks at a bundle, seconds.
const MAX_REFRESH: u32 = 7 * 86_400;

/// Another trust domain and where its bundle comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Federation {
    /// The trust domain that the bundle speaks for, whatever its source says.
    pub trust_domain: TrustDomain,
    /// Where the bundle comes from.
    pub source: BundleSource,
    /// The bundle until the source has brought one: SPIFFE bundle format, JSON.
    pub bootstrap: Option<String>,
    /// Seconds between two looks, instead of what the bundle hints.
    pub refresh_seconds: Option<u32>,
}

/// Where a bundle comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BundleSource {
    /// A file on the control API's machine.
    File(String),
    /// A server that proves its name by a certificate of a public (or the configured) authority: profile `https_web`.
    Web(String),
    /// A server that proves a SPIFFE ID: profile `https_spiffe`.
    Spiffe {
        /// URL.
        url: String,
        /// The ID.
        id: SpiffeId,
    },
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Profile {
    HttpsWeb,
    HttpsSpiffe,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Endpoint {
    url: String,
    profile: Profile,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_id: Option<String>,
}

/// As it is written.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct FederationSpec {
    trust_domain: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    bundle_endpoint: Option<Endpoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bundle_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bundle: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_seconds: Option<u32>,
}

impl FederationSpec {
    fn source(&self) -> Result<BundleSource, FieldError> {
        match (&self.bundle_file, &self.bundle_endpoint) {
            (Some(file), None) if file.starts_with('/') => Ok(BundleSource::File(file.clone())),
            (Some(_), None) => Err(FieldError::new(
                "spec.bundleFile",
                "must be an absolute path on the control API's machine",
            )),
            (None, Some(endpoint)) => endpoint.source(),
            _ => Err(FieldError::new(
                "spec",
                "exactly one of bundleEndpoint and bundleFile must be set",
            )),
        }
    }
}

impl Endpoint {
    fn source(&self) -> Result<BundleSource, FieldError> {
        let field = "spec.bundleEndpoint.url";
        let rest = self.url.strip_prefix("https://");
        let authority = rest.and_then(|r| r.split(['/', '?', '#']).next());
        match authority {
            None => return Err(FieldError::new(field, "must begin with https://")),
            Some("") => return Err(FieldError::new(field, "has no host")),
            // SPIFFE Federation §5.2.1: no user information.
            Some(authority) if authority.contains('@') => {
                return Err(FieldError::new(field, "must not name a user"));
            }
            Some(_) => {}
        }
        let field = "spec.bundleEndpoint.spiffeId";
        match (self.profile, &self.spiffe_id) {
            (Profile::HttpsWeb, None) => Ok(BundleSource::Web(self.url.clone())),
            (Profile::HttpsWeb, Some(_)) => Err(FieldError::new(
                field,
                "is for profile https_spiffe; with https_web the server proves its host name",
            )),
            (Profile::HttpsSpiffe, Some(id)) => {
                let id = SpiffeId::parse(id).map_err(|e| FieldError::new(field, e.to_string()))?;
                let url = self.url.clone();
                Ok(BundleSource::Spiffe { url, id })
            }
            (Profile::HttpsSpiffe, None) => Err(FieldError::new(
                field,
                "is missing: the identity that the endpoint must prove",
            )),
        }
    }
}

impl Spec for FederationSpec {
    const KIND: Kind = Kind::Federation;

    fn resource(&self, _: &Metadata, _: &str) -> Result<Resource, FieldError> {
        let trust_domain = TrustDomain::new(&self.trust_domain)
            .map_err(|e| FieldError::new("spec.trustDomain", e.to_string()))?;
        let source = self.source()?;
        if let BundleSource::Spiffe { id, .. } = &source
            && id.trust_domain() == trust_domain.as_str()
            && self.bundle.is_none()
        {
            return Err(FieldError::new(
                "spec.bundle",
                "is missing: the endpoint proves an identity of the trust domain whose bundle it serves, so a first bundle is needed",
            ));
        }
        if self
            .refresh_seconds
            .is_some_and(|s| !(1..=MAX_REFRESH).contains(&s))
        {
            return Err(FieldError::new(
                "spec.refreshSeconds",
                format!("must be between 1 and {MAX_REFRESH}"),
            ));
        }
        Ok(Resource::Federation(Federation {
            trust_domain,
            source,
            bootstrap: self.bundle.clone(),
            refresh_seconds: self.refresh_seconds,
        }))
    }

    fn summary(&self) -> String {
        let from = match (&self.bundle_file, &self.bundle_endpoint) {
            (Some(file), _) => file.as_str(),
            (None, Some(endpoint)) => endpoint.url.as_str(),
            (None, None) => "nowhere",
        };
        format!("{} from {from}", self.trust_domain)
    }
}
