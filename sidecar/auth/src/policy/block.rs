//! Blocks of addresses, and lists of them.

use std::net::IpAddr;

use super::field::{Field, Key, Shape};

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

impl Block {
    /// Its first address; addresses of one family come before those of the other.
    fn first(self) -> (bool, u128) {
        match self.base {
            IpAddr::V4(base) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits));
                (false, (u32::from(base) & mask.unwrap_or(0)).into())
            }
            IpAddr::V6(base) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits));
                (true, u128::from(base) & mask.unwrap_or(0))
            }
        }
    }

    /// What the texts of exactly its addresses begin with; see [`as_text`].
    fn prefix(self) -> Box<str> {
        as_text(self.base, |text| text[..=usize::from(self.bits)].into())
    }
}

/// Calls `told` with an address as text: its family and its bits, so that a block is a prefix.
pub(super) fn as_text<T>(address: IpAddr, told: impl FnOnce(&str) -> T) -> T {
    let (family, bits, value) = match address.to_canonical() {
        IpAddr::V4(address) => (b'4', 32, u128::from(u32::from(address)) << 96),
        IpAddr::V6(address) => (b'6', 128, address.into()),
    };
    let mut text = [family; 129];
    for (at, byte) in text[1..=bits].iter_mut().enumerate() {
        *byte = b'0' + u8::from(value << at >> 127 == 1);
    }
    told(std::str::from_utf8(&text[..=bits]).unwrap_or_default())
}

/// Blocks that an address must be in, and blocks that it must not be in.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    wanted: Vec<Block>,
    unwanted: Vec<Block>,
}

impl Blocks {
    pub(super) fn new(wanted: Vec<Block>, unwanted: Vec<Block>) -> Option<Self> {
        (!wanted.is_empty() || !unwanted.is_empty()).then(|| Self {
            wanted: disjoint(wanted),
            unwanted: disjoint(unwanted),
        })
    }

    /// A key for each block that is wanted, and one for an address that cannot be told, which a DENY rule matches.
    pub(super) fn keys(&self, field: &Field) -> Option<Vec<Key>> {
        let key = |block: &Block| Key {
            field: field.clone(),
            shape: Shape::Prefix,
            text: block.prefix(),
        };
        let unknown = std::iter::once(Key::exact(field.clone(), ""));
        (!self.wanted.is_empty()).then(|| self.wanted.iter().map(key).chain(unknown).collect())
    }

    /// True if the address is wanted and not unwanted.
    pub(super) fn hold(&self, address: IpAddr) -> bool {
        (self.wanted.is_empty() || within(&self.wanted, address))
            && !within(&self.unwanted, address)
    }
}

/// The blocks in order, without those that lie in others.
fn disjoint(mut blocks: Vec<Block>) -> Vec<Block> {
    blocks.sort_unstable_by_key(|block| (block.first(), block.bits));
    // Two blocks have nothing in common, or one lies in the other: the wider comes first.
    blocks.dedup_by(|later, kept| kept.contains(later.base));
    blocks
}

/// True if the address lies in one of the blocks, which are disjoint and in order.
fn within(blocks: &[Block], address: IpAddr) -> bool {
    if blocks.is_empty() {
        return false;
    }
    let bits = if address.to_canonical().is_ipv4() {
        32
    } else {
        128
    };
    let point = Block {
        base: address.to_canonical(),
        bits,
    };
    let after = blocks.partition_point(|block| block.first() <= point.first());
    blocks[..after]
        .last()
        .is_some_and(|block| block.contains(address))
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

    proptest::proptest! {
        #[test]
        fn lists_and_prefixes_find_what_the_blocks_contain(
            texts in proptest::collection::vec(
                ("(10\\.[01]\\.0\\.[0-3]|::ffff:10\\.0\\.1\\.0|fd00::[0-3])", 0u8..=32), 0..8),
            address in "(10\\.[01]\\.[01]\\.[0-5]|::ffff:10\\.0\\.1\\.1|fd00::[0-5]|fe00::1|138\\.0\\.0\\.1)",
        ) {
            let blocks: Vec<Block> = texts
                .iter()
                .map(|(base, bits)| {
                    let bits = if base.contains(':') { 96 + bits } else { *bits };
                    Block::parse(&format!("{base}/{bits}")).unwrap()
                })
                .collect();
            let address: IpAddr = address.parse().unwrap();
            let expected = blocks.iter().any(|block| block.contains(address));
            proptest::prop_assert_eq!(within(&disjoint(blocks.clone()), address), expected);
            let found = as_text(address, |text| {
                blocks.iter().any(|block| text.starts_with(&*block.prefix()))
            });
            proptest::prop_assert_eq!(found, expected);
        }
    }
}
