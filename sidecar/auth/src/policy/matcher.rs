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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_match_in_every_spelling_of_a_host() {
        let cases = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("10.9.8.7/8", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1/32", "10.0.0.0", false),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::1", false),
            ("::ffff:10.0.0.0/104", "10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "11.1.2.3", false),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.1", true),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fe00::1", false),
            ("::/0", "fd00::1", true),
            ("::/0", "10.0.0.1", false),
            ("fd00::1/128", "fd00::1", true),
            ("fd00::1/127", "fd00::2", false),
        ];
        for (block, address, expected) in cases {
            let parsed = Block::parse(block).unwrap();
            assert_eq!(
                parsed.contains(address.parse().unwrap()),
                expected,
                "{block} {address}"
            );
        }
        let bad = [
            "",
            "/",
            "x",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "10.0.0/8",
            "10.0.0.0/8/8",
            "10.0.0.01",
            "fd00::/129",
            "fd00::%eth0",
            " 10.0.0.0/8",
            "10.0.0.0/8\n",
        ];
        for text in bad {
            let problem = Block::parse(text).expect_err(text);
            assert!(!problem.chars().any(char::is_control), "{problem:?}");
        }
    }
}
