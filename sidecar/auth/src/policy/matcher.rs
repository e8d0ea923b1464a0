//! Compiled matches: of texts by exact value, prefix, suffix or presence; of addresses by block; of ports.

use std::collections::HashSet;
use std::net::IpAddr;

/// A list of text patterns.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    exact: HashSet<Box<str>>,
    prefixes: Vec<Box<str>>,
    suffixes: Vec<Box<str>>,
    present: bool,
}

impl Texts {
    /// Compiles patterns: `*` (present), `*suffix`, `prefix*`, or an exact value.
    pub(crate) fn compile(patterns: &[String]) -> Self {
        let mut texts = Self::default();
        for pattern in patterns {
            if pattern == "*" {
                texts.present = true;
            } else if let Some(suffix) = pattern.strip_prefix('*') {
                texts.suffixes.push(suffix.into());
            } else if let Some(prefix) = pattern.strip_suffix('*') {
                texts.prefixes.push(prefix.into());
            } else {
                texts.exact.insert(pattern.as_str().into());
            }
        }
        texts
    }

    /// True if `text` matches any pattern.
    pub(crate) fn matches(&self, text: &str) -> bool {
        (self.present && !text.is_empty())
            || self.exact.contains(text)
            || self.prefixes.iter().any(|p| text.starts_with(&**p))
            || self.suffixes.iter().any(|s| text.ends_with(&**s))
    }
}

/// A block of addresses. IPv4-mapped IPv6 is IPv4, in blocks and in addresses: one host has one spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    base: IpAddr,
    bits: u8,
}

impl Block {
    /// Parses a CIDR or a single address.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let base: IpAddr = address
            .parse()
            .map_err(|_| format!("'{}' is not an IP address or CIDR", text.escape_default()))?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) => bits
                .parse::<u8>()
                .ok()
                .filter(|n| *n <= most && n.to_string() == bits)
                .ok_or_else(|| {
                    format!(
                        "'{}': the prefix length must be 0 to {most}",
                        text.escape_default()
                    )
                })?,
        };
        Ok(match (base.to_canonical(), bits) {
            (mapped @ IpAddr::V4(_), 96..) if base.is_ipv6() => Self {
                base: mapped,
                bits: bits - 96,
            },
            _ => Self { base, bits },
        })
    }

    /// True if `address` lies in the block.
    pub(crate) fn contains(self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let differing = u32::from(base) ^ u32::from(address);
                differing.leading_zeros() >= u32::from(self.bits)
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let differing = u128::from(base) ^ u128::from(address);
                differing.leading_zeros() >= u32::from(self.bits)
            }
            _ => false,
        }
    }
}
