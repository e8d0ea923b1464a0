//! Manifests: YAML text to resources, and back to documents.
//!
//! A manifest is refused whole or taken whole. What is not understood is refused with its place, never ignored: a field
//! of a policy that nobody enforces would be a hole with a lock painted on it.

mod document;
mod kind;
mod names;
mod scope;
mod spec;

mod error;
mod locate;
mod read;
mod split;

pub use document::{Document, Resource};
pub use error::{FieldError, ManifestError};
pub use kind::{API_VERSION, Kind};
pub use names::label;
pub use read::{MAX_BYTES, MAX_DOCUMENTS, from_json, parse};
pub use scope::Scope;
pub use spec::federation::{BundleSource, Federation};
pub use spec::metadata::Metadata;
