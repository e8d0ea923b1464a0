//! Arguments of `meshctl device`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};

use super::{RevokeOptions, seconds};

/// Namespace of a device that is named without one.
const NAMESPACE: &str = "devices";

/// A device, `NAME` or `NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceName {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, name) = text.split_once('/').unwrap_or((NAMESPACE, text));
        if namespace.is_empty() || name.is_empty() || name.contains('/') {
            return Err("must be NAME or NAMESPACE/NAME".to_owned());
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// Make an entry of the inventory, and a join token with which the device proves itself once
    Enroll(EnrollArgs),
    /// The inventory: state, owner, last seen, enrolled, posture
    List {
        /// Namespace; all when omitted
        #[arg(short, long)]
        namespace: Option<String>,
    },
    /// Believe a device no longer, until it is released
    Quarantine {
        /// NAME or NAMESPACE/NAME
        device: DeviceName,
        #[command(flatten)]
        options: RevokeOptions,
    },
    /// End a quarantine
    Release {
        /// NAME or NAMESPACE/NAME
        device: DeviceName,
    },
    /// Believe a device no longer, and remove its registration; the entry stays
    Decommission {
        /// NAME or NAMESPACE/NAME
        device: DeviceName,
        #[command(flatten)]
        options: RevokeOptions,
    },
}

#[derive(Debug, Args)]
pub(crate) struct EnrollArgs {
    /// NAME or NAMESPACE/NAME; its identity is spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/NAME
    pub(crate) device: DeviceName,
    /// Who answers for it
    #[arg(long)]
    pub(crate) owner: String,
    /// What is known of its state, e.g. "disk encrypted, patched in May"
    #[arg(long, value_name = "NOTE")]
    pub(crate) posture: Option<String>,
    /// An address of it, if others are to call it; repeatable
    #[arg(long = "address", value_name = "IP")]
    pub(crate) addresses: Vec<String>,
    /// How long the join token can be used, e.g. 10m, 2h
    #[arg(long, default_value = "10m", value_parser = seconds)]
    pub(crate) ttl: u32,
    /// Write the join token to this new file (mode 0600) instead of showing it
    #[arg(long, value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_named_with_or_without_its_namespace() {
        for (text, expected) in [
            ("lap", Some("devices/lap")),
            ("field/lap", Some("field/lap")),
            ("", None),
            ("/lap", None),
            ("a/", None),
            ("a/b/c", None),
        ] {
            let parsed = text.parse::<DeviceName>().ok().map(|d| d.to_string());
            assert_eq!(parsed.as_deref(), expected, "{text}");
        }
    }
}
