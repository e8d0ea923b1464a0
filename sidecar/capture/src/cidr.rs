//! An IP network in CIDR form. A [`Cidr`] exists only if its prefix fits its family and no host bit is set.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An IP network such as `10.0.0.0/8`, `fd00::/8`, or a single address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// Why a text or a pair of values is not an IP network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// The part before the `/` is no IP address.
    #[error("`{0}` is not an IP address or network; write it as 10.0.0.0/8 or fd00::/8")]
    Address(String),
    /// The part after the `/` is no number within the family's range.
    #[error("`{text}` has the prefix length `{prefix}`; it must be a number from 0 to {max}")]
    Prefix {
        /// What was given.
        text: String,
        /// Its prefix length.
        prefix: String,
        /// The longest prefix of the address's family, in bits.
        max: u8,
    },
    /// Bits after the prefix are set, so that it is unclear which network was meant.
    #[error("`{text}` has bits set after its prefix; did you mean {network}?")]
    HostBits {
        /// What was given.
        text: String,
        /// The network that holds it.
        network: Cidr,
    },
    /// An IPv4-mapped IPv6 network, which no packet on the wire ever carries.
    #[error(
        "`{0}` is an IPv4-mapped IPv6 network, which no packet carries; write the IPv4 network"
    )]
    Mapped(String),
}

impl Cidr {
    /// The network of the first `prefix` bits of `address`.
    ///
    /// # Errors
    /// When `prefix` is longer than the address, when a later bit is set, or when the address is an IPv4-mapped one.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, CidrError> {
        let text = || format!("{address}/{prefix}");
        let max = bits(address);
        if prefix > max {
            return Err(CidrError::Prefix {
                text: text(),
                prefix: prefix.to_string(),
                max,
            });
        }
        let network = Self {
            address: masked(address, prefix),
            prefix,
        };
        if network.address != address {
            return Err(CidrError::HostBits {
                text: text(),
                network,
            });
        }
        match address {
            IpAddr::V6(v6) if prefix >= 96 && v6.to_ipv4_mapped().is_some() => {
                Err(CidrError::Mapped(text()))
            }
            _ => Ok(network),
        }
    }

    /// The first address of the network.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The number of leading bits that all addresses of the network share.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// True when `address` belongs to this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.prefix) == self.address
    }

    /// True when the network is one address.
    pub(crate) fn is_host(&self) -> bool {
        self.prefix == bits(self.address)
    }

    /// The address in network byte order.
    pub(crate) fn octets(&self) -> Vec<u8> {
        octets(self.address)
    }

    /// A bit mask of the address's length with the prefix's bits set.
    pub(crate) fn mask(&self) -> Vec<u8> {
        match self.address {
            IpAddr::V4(_) => octets(masked(Ipv4Addr::BROADCAST.into(), self.prefix)),
            IpAddr::V6(_) => octets(masked(Ipv6Addr::from_bits(u128::MAX).into(), self.prefix)),
        }
    }
}

impl From<IpAddr> for Cidr {
    /// The network of one address; an IPv4-mapped one becomes the IPv4 address that packets carry.
    fn from(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self {
            address,
            prefix: bits(address),
        }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| CidrError::Address(text.to_owned()))?;
        let max = bits(address);
        let prefix = match prefix {
            None => max,
            // `parse` alone would also take "+8" and "008".
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|value: &u8| *value <= max && value.to_string() == digits)
                .ok_or_else(|| CidrError::Prefix {
                    text: text.to_owned(),
                    prefix: digits.to_owned(),
                    max,
                })?,
        };
        Self::new(address, prefix)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_host() {
            write!(f, "{}", self.address)
        } else {
            write!(f, "{}/{}", self.address, self.prefix)
        }
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// `address` with everything after its first `prefix` bits cleared.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    let prefix = u32::from(prefix);
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - prefix.min(32)).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - prefix.min(128)).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_and_written_in_their_shortest_form() {
        for (text, written) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3"),
            ("10.1.2.3/32", "10.1.2.3"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("fd00:0::/8", "fd00::/8"),
            ("fd00::1/128", "fd00::1"),
        ] {
            let cidr: Cidr = text.parse().unwrap();
            assert_eq!(cidr.to_string(), written, "{text}");
            assert_eq!(cidr.to_string().parse(), Ok(cidr), "{text}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused_with_what_to_write() {
        for (text, says) in [
            ("", "not an IP address"),
            ("example.com", "not an IP address"),
            ("10.0.0/8", "not an IP address"),
            ("10.0.0.0/", "from 0 to 32"),
            ("10.0.0.0/33", "from 0 to 32"),
            ("10.0.0.0/+8", "from 0 to 32"),
            ("10.0.0.0/08", "from 0 to 32"),
            ("fd00::/129", "from 0 to 128"),
            ("10.0.0.1/8", "did you mean 10.0.0.0/8?"),
            ("fd00::1/64", "did you mean fd00::/64?"),
            ("::ffff:10.0.0.0/104", "write the IPv4 network"),
        ] {
            let error = text.parse::<Cidr>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn masks_have_the_prefixs_bits() {
        let mask = |text: &str| text.parse::<Cidr>().unwrap().mask();
        assert_eq!(mask("0.0.0.0/0"), [0, 0, 0, 0]);
        assert_eq!(mask("10.128.0.0/9"), [255, 128, 0, 0]);
        assert_eq!(mask("10.1.2.3"), [255; 4]);
        assert_eq!(mask("fd00::/13")[..3], [255, 248, 0]);
        assert_eq!(mask("fd00::1"), [255; 16]);
    }

    #[test]
    fn a_network_holds_its_addresses_and_no_others() {
        let cidr: Cidr = "10.128.0.0/9".parse().unwrap();
        assert!(cidr.contains("10.200.0.1".parse().unwrap()));
        assert!(!cidr.contains("10.127.0.1".parse().unwrap()));
        assert!(!cidr.contains("::a80:1".parse().unwrap()));
    }
}
