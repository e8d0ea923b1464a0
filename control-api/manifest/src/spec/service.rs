//! `kind: Service`.

use std::collections::BTreeMap;

use mesh_proto::mesh;
use serde::{Deserialize, Serialize};

use super::Spec;
use super::metadata::Metadata;
use crate::document::Resource;
use crate::error::FieldError;
use crate::kind::Kind;
use crate::names;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Protocol {
    #[default]
    Auto,
    #[serde(rename = "HTTP")]
    Http,
    #[serde(rename = "TCP")]
    Tcp,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ServicePort {
    port: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_port: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<Protocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

/// A named destination.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Service {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    hosts: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    selector: BTreeMap<String, String>,
    #[serde(default)]
    ports: Vec<ServicePort>,
}

impl Service {
    fn check_ports(&self) -> Result<(), FieldError> {
        if self.ports.is_empty() {
            return Err(FieldError::new(
                "spec.ports",
                "at least one port is needed: ports: [{port: 80, targetPort: 8080}]",
            ));
        }
        names::at_most("spec.ports", self.ports.len())?;
        for (i, declared) in self.ports.iter().enumerate() {
            let field = format!("spec.ports[{i}]");
            names::port(&format!("{field}.port"), declared.port)?;
            if let Some(target) = declared.target_port {
                names::port(&format!("{field}.targetPort"), target)?;
            }
            if let Some(name) = &declared.name {
                names::label(&format!("{field}.name"), name)?;
            }
            if self.ports[..i].iter().any(|p| p.port == declared.port) {
                return Err(FieldError::new(
                    format!("{field}.port"),
                    format!("{} is declared twice", declared.port),
                ));
            }
        }
        Ok(())
    }
}

impl Spec for Service {
    const KIND: Kind = Kind::Service;

    fn resource(&self, metadata: &Metadata, _: &str) -> Result<Resource, FieldError> {
        names::at_most("spec.hosts", self.hosts.len())?;
        for (i, host) in self.hosts.iter().enumerate() {
            let field = format!("spec.hosts[{i}]");
            names::host(&field, host)?;
            if self.hosts[..i].contains(host) {
                return Err(FieldError::new(field, "is listed twice"));
            }
        }
        names::labels("spec.selector", &self.selector)?;
        self.check_ports()?;
        let ports = self.ports.iter().map(|p| mesh::ServicePort {
            port: p.port,
            target_port: p.target_port.unwrap_or(0),
            protocol: match p.protocol.unwrap_or_default() {
                Protocol::Auto => mesh::AppProtocol::Unspecified,
                Protocol::Http => mesh::AppProtocol::Http,
                Protocol::Tcp => mesh::AppProtocol::Tcp,
            }
            .into(),
            name: p.name.clone().unwrap_or_default(),
        });
        Ok(Resource::Service {
            service: mesh::Service {
                name: metadata.name.clone(),
                namespace: metadata.namespace.clone(),
                hosts: self.hosts.clone(),
                addresses: names::addresses("spec.addresses", &self.addresses)?,
                ports: ports.collect(),
            },
            selector: self.selector.clone(),
        })
    }

    fn summary(&self) -> String {
        let ports: Vec<_> = self
            .ports
            .iter()
            .map(|p| match p.target_port {
                Some(target) if target != p.port => format!("{}->{target}", p.port),
                _ => p.port.to_string(),
            })
            .collect();
        let selector: Vec<_> = self
            .selector
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        format!("ports {} of {}", ports.join(", "), selector.join(","))
    }
}
