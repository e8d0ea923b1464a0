//! What to capture and what to leave alone. Validation refuses what would loop, capture nothing or open a way around.

use crate::cidr::Cidr;

/// Most exclusions and ports that one ruleset takes: the batch must fit one netlink message of an ordinary socket.
const MAX_EXCLUSIONS: usize = 512;

/// What is captured, what is not, and how the sidecar's own connections are told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureConfig {
    /// Where the sidecar listens for captured outbound connections. Default 15001.
    pub outbound_port: u16,
    /// Where the sidecar listens for captured inbound connections. Default 15006.
    pub inbound_port: u16,
    /// The user the sidecar runs as; its connections are not captured. Default none. With a uid, [`crate::probe`] must
    /// run as another user.
    pub proxy_uid: Option<u32>,
    /// The `SO_MARK` of the sidecar's own connections, which are not captured. Default 0x539. Setting a mark needs
    /// `CAP_NET_ADMIN` or, since Linux 5.17, `CAP_NET_RAW`.
    pub proxy_mark: Option<u32>,
    /// The sidecar's own ports that the outside reaches directly: mesh, metrics, readiness. Default 15008, 15020, 15021.
    pub mesh_ports: Vec<u16>,
    /// Ports of the application that the outside reaches without the sidecar. Default none.
    pub exclude_inbound_ports: Vec<u16>,
    /// Destination ports that the application reaches without the sidecar. Default none.
    pub exclude_outbound_ports: Vec<u16>,
    /// Destination networks that the application reaches without the sidecar. Default none.
    pub exclude_cidrs: Vec<Cidr>,
    /// Users whose connections are not captured. Default none.
    pub exclude_uids: Vec<u32>,
}

impl Default for CaptureConfig {
    fn default() -> Self {
        Self {
            outbound_port: 15001,
            inbound_port: 15006,
            proxy_uid: None,
            proxy_mark: Some(0x539),
            mesh_ports: vec![15008, 15020, 15021],
            exclude_inbound_ports: Vec::new(),
            exclude_outbound_ports: Vec::new(),
            exclude_cidrs: Vec::new(),
            exclude_uids: Vec::new(),
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A port is 0.
    #[error("{field} is 0; a port from 1 to 65535 is needed")]
    PortZero {
        /// The configuration field.
        field: &'static str,
    },
    /// Two listeners on one port.
    #[error("{field} and {other} are both {port}; each needs a port of its own")]
    SamePort {
        /// One field.
        field: &'static str,
        /// The other field.
        other: &'static str,
        /// The port of both.
        port: u16,
    },
    /// Nothing tells the sidecar's own connections apart.
    #[error(
        "neither proxy_mark nor proxy_uid is set: the sidecar's own connections would be captured and sent back to it in an \
         endless loop; set one of them"
    )]
    Loop,
    /// The mark 0 is what every socket has.
    #[error(
        "proxy_mark is 0, the mark of every ordinary connection: nothing would be captured; use 0x539"
    )]
    MarkZero,
    /// No process can have this uid.
    #[error("{field} is {value}, which is not a user id (the kernel keeps it for \"no user\")", value = u32::MAX)]
    NoSuchUid {
        /// The configuration field.
        field: &'static str,
    },
    /// An excluded port would let the outside reach a listener that trusts the redirect.
    #[error(
        "exclude_inbound_ports holds {port}, the sidecar's own {field}: the outside could reach that listener directly"
    )]
    Exposed {
        /// The port.
        port: u16,
        /// The field that names the listener.
        field: &'static str,
    },
    /// More rules than one netlink message can carry.
    #[error("{count} exclusions; at most {max} are possible, so join networks or ports", max = MAX_EXCLUSIONS)]
    TooMany {
        /// How many there are.
        count: usize,
    },
}

impl CaptureConfig {
    /// Refuses a configuration that would loop, capture nothing or open a way around the sidecar.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        self.validate_ports()?;
        match (self.proxy_mark, self.proxy_uid) {
            (None, None) => return Err(ConfigError::Loop),
            (Some(0), _) => return Err(ConfigError::MarkZero),
            _ => {}
        }
        if self.proxy_uid == Some(u32::MAX) {
            return Err(ConfigError::NoSuchUid { field: "proxy_uid" });
        }
        if self.exclude_uids.contains(&u32::MAX) {
            return Err(ConfigError::NoSuchUid {
                field: "exclude_uids",
            });
        }
        let count = self.mesh_ports.len()
            + self.exclude_inbound_ports.len()
            + self.exclude_outbound_ports.len()
            + self.exclude_cidrs.len()
            + self.exclude_uids.len();
        if count > MAX_EXCLUSIONS {
            return Err(ConfigError::TooMany { count });
        }
        Ok(())
    }

    fn validate_ports(&self) -> Result<(), ConfigError> {
        let own = [
            ("outbound_port", self.outbound_port),
            ("inbound_port", self.inbound_port),
        ];
        let lists = [
            ("mesh_ports", &self.mesh_ports),
            ("exclude_inbound_ports", &self.exclude_inbound_ports),
            ("exclude_outbound_ports", &self.exclude_outbound_ports),
        ];
        let zero = own
            .iter()
            .find(|(_, port)| *port == 0)
            .map(|(field, _)| field);
        let zero = zero.or_else(|| {
            let list = lists.iter().find(|(_, ports)| ports.contains(&0));
            list.map(|(field, _)| field)
        });
        if let Some(field) = zero {
            return Err(ConfigError::PortZero { field });
        }
        if self.outbound_port == self.inbound_port {
            return Err(ConfigError::SamePort {
                field: "outbound_port",
                other: "inbound_port",
                port: self.outbound_port,
            });
        }
        for (field, port) in own {
            if self.mesh_ports.contains(&port) {
                return Err(ConfigError::SamePort {
                    field,
                    other: "one of mesh_ports",
                    port,
                });
            }
            if self.exclude_inbound_ports.contains(&port) {
                return Err(ConfigError::Exposed { port, field });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid() {
        assert_eq!(CaptureConfig::default().validate(), Ok(()));
    }

    #[test]
    fn what_loops_captures_nothing_or_opens_a_way_around_is_refused() {
        type Change = fn(&mut CaptureConfig);
        let cases: [(Change, &str); 12] = [
            (|c| c.outbound_port = 0, "outbound_port is 0"),
            (|c| c.inbound_port = 0, "inbound_port is 0"),
            (|c| c.mesh_ports.push(0), "mesh_ports is 0"),
            (
                |c| c.exclude_inbound_ports.push(0),
                "exclude_inbound_ports is 0",
            ),
            (
                |c| c.exclude_outbound_ports.push(0),
                "exclude_outbound_ports is 0",
            ),
            (|c| c.inbound_port = 15001, "are both 15001"),
            (|c| c.inbound_port = 15008, "mesh_ports are both 15008"),
            (|c| c.proxy_mark = None, "endless loop"),
            (|c| c.proxy_mark = Some(0), "nothing would be captured"),
            (|c| c.proxy_uid = Some(u32::MAX), "proxy_uid is 4294967295"),
            (
                |c| c.exclude_inbound_ports.push(15006),
                "reach that listener directly",
            ),
            (|c| c.exclude_uids = (0..600).collect(), "603 exclusions"),
        ];
        for (change, says) in cases {
            let mut config = CaptureConfig::default();
            change(&mut config);
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(says), "expected {says:?} in {error:?}");
        }
    }

    #[test]
    fn a_uid_alone_is_enough_to_avoid_the_loop() {
        let config = CaptureConfig {
            proxy_mark: None,
            proxy_uid: Some(1337),
            ..CaptureConfig::default()
        };
        assert_eq!(config.validate(), Ok(()));
    }
}
