//! Blocks of addresses, and lists of them.

use std::net::IpAddr;

/// A block of addresses. IPv4-mapped IPv6 is IPv4, in blocks and in addresses: one host has one spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    base: IpAddr,
    bits: u8,
}

impl Block {
    /// Parses a CIDR or a single address.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
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
    pub(super) fn contains(self, address: IpAddr) -> bool {
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

/// Blocks that an address must be in, and blocks that it must not be in.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    wanted: Vec<Block>,
    unwanted: Vec<Block>,
}

impl Blocks {
    pub(super) fn new(wanted: Vec<Block>, unwanted: Vec<Block>) -> Option<Self> {
        (!wanted.is_empty() || !unwanted.is_empty()).then_some(Self { wanted, unwanted })
    }

    /// True if the address is wanted and not unwanted.
    pub(super) fn hold(&self, address: IpAddr) -> bool {
        let within = |blocks: &[Block]| blocks.iter().any(|b| b.contains(address));
        (self.wanted.is_empty() || within(&self.wanted)) && !within(&self.unwanted)
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
