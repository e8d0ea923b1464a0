//! The `Connection` field: what it says about the connection, and which fields it takes off the message.
//!
//! A client may name any field in `Connection` and so have it removed on the way. Naming one that carries identity,
//! authority or framing is an attack on the next hop and refused.

use http::{HeaderMap, HeaderName, Version};

use crate::ascii::list;
use crate::error::ParseError;

/// Fields that `Connection` may name beyond its own options; more is noise made to cost time.
const MOST_NAMES: usize = 32;

/// Everything the `Connection` fields of one message said.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    names: Vec<HeaderName>,
}

impl Connection {
    /// Takes the value of one `Connection` field line.
    pub(crate) fn add(&mut self, value: &[u8]) -> Result<(), ParseError> {
        for option in list(value) {
            if option.is_empty() {
                continue;
            }
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else {
                let name = HeaderName::from_bytes(option).map_err(|_| ParseError::Connection)?;
                if is_protected(name.as_str()) {
                    return Err(ParseError::ConnectionNamesProtected);
                }
                if self.names.len() == MOST_NAMES {
                    return Err(ParseError::Connection);
                }
                // `te` says that the TE field is for this hop; what survives of it is decided where TE is read.
                if name != http::header::TE {
                    self.names.push(name);
                }
            }
        }
        Ok(())
    }

    /// Removes the fields that were named.
    pub(crate) fn remove_named(&self, headers: &mut HeaderMap) {
        for name in &self.names {
            headers.remove(name);
        }
    }

    /// True when the connection lives on after a message of this version.
    pub(crate) fn persists(&self, version: Version) -> bool {
        !self.close && (self.keep_alive || version >= Version::HTTP_11)
    }

    /// True when the `Upgrade` field is meant for this hop.
    pub(crate) fn upgrades(&self) -> bool {
        self.upgrade
    }
}

/// A field that no hop may be told to remove: framing, routing, credentials, identity and provenance.
fn is_protected(name: &str) -> bool {
    const NAMES: [&str; 16] = [
        "authorization",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "cookie",
        "dpop",
        "expect",
        "forwarded",
        "host",
        "proxy-authorization",
        "set-cookie",
        "transfer-encoding",
        "txn-token",
        "via",
        "x-real-ip",
    ];
    const PREFIXES: [&str; 5] = ["postern-", "x-postern-", "x-forwarded-", "x-envoy-", "l5d-"];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}
