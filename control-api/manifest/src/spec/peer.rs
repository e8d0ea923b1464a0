//! `kind: PeerAuthentication`.

use std::collections::BTreeMap;

use mesh_proto::mesh;
use serde::{Deserialize, Serialize};

use super::Spec;
use super::metadata::Metadata;
use super::shapes::Selector;
use crate::document::Resource;
use crate::error::FieldError;
use crate::kind::Kind;
use crate::names;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Mode {
    #[default]
    Unset,
    Strict,
    Permissive,
    Disable,
}

impl From<Mode> for i32 {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Unset => mesh::MtlsMode::Unset,
            Mode::Strict => mesh::MtlsMode::Strict,
            Mode::Permissive => mesh::MtlsMode::Permissive,
            Mode::Disable => mesh::MtlsMode::Disable,
        }
        .into()
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mtls {
    #[serde(default)]
    mode: Mode,
}

/// How strictly a workload's ports demand mutual TLS.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PeerAuthentication {
    #[serde(skip_serializing_if = "Option::is_none")]
    selector: Option<Selector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtls: Option<Mtls>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    port_level_mtls: BTreeMap<String, Mtls>,
}

impl Spec for PeerAuthentication {
    const KIND: Kind = Kind::PeerAuthentication;

    fn resource(&self, metadata: &Metadata, _: &str) -> Result<Resource, FieldError> {
        let selector = Selector::labels(self.selector.as_ref())?;
        names::at_most("spec.portLevelMtls", self.port_level_mtls.len())?;
        let mut port_modes = BTreeMap::new();
        for (port, mtls) in &self.port_level_mtls {
            let number = port
                .parse::<u16>()
                .ok()
                .filter(|n| *n > 0 && n.to_string() == *port)
                .ok_or_else(|| {
                    FieldError::new(
                        format!("spec.portLevelMtls.{}", port.escape_default()),
                        "is not a port (1..65535)",
                    )
                })?;
            port_modes.insert(number.into(), mtls.mode.into());
        }
        let policy = mesh::PeerAuthentication {
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            selector,
            mode: self
                .mtls
                .as_ref()
                .map(|m| m.mode)
                .unwrap_or_default()
                .into(),
            port_modes,
        };
        mesh_auth::policy::validate_peer_authentication(&policy)
            .map_err(|e| FieldError::new(e.field, e.problem))?;
        Ok(Resource::PeerAuthentication(policy))
    }

    fn summary(&self) -> String {
        let mode = |m: Mode| format!("{m:?}").to_uppercase();
        let mut text = mode(self.mtls.as_ref().map(|m| m.mode).unwrap_or_default());
        for (port, mtls) in self.port_level_mtls.iter().take(4) {
            text.push_str(&format!(", {port} {}", mode(mtls.mode)));
        }
        text
    }
}
