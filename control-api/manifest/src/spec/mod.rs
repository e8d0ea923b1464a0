//! What the kinds of documents say under `spec`, as it is written.

mod authorization;
mod budget;
mod defaults;
pub(crate) mod federation;
pub(crate) mod metadata;
mod peer;
mod request;
mod revocation;
mod service;
mod shapes;
mod workload;

pub(crate) use authorization::AuthorizationPolicy;
pub(crate) use budget::LatencyBudget;
pub(crate) use defaults::MeshDefaults;
pub(crate) use federation::FederationSpec;
pub(crate) use peer::PeerAuthentication;
pub(crate) use request::RequestAuthentication;
pub(crate) use revocation::Revocation;
pub(crate) use service::Service;
pub(crate) use workload::Workload;

use serde::Serialize;

use crate::document::Resource;
use crate::error::FieldError;
use crate::kind::Kind;
use metadata::Metadata;

/// The `spec` of one kind.
pub(crate) trait Spec: Default + Serialize {
    /// The kind.
    const KIND: Kind;

    /// The resource that it means, checked.
    fn resource(&self, metadata: &Metadata, api_version: &str) -> Result<Resource, FieldError>;

    /// One line for tables.
    fn summary(&self) -> String;
}
