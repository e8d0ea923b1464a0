//! What an address stands for, so that what a document or a server says cannot lead where nobody should be asked
//! (server-side request forgery). The control API's fetches and the sidecar's questions are judged by it, after resolution.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an address stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Link-local, a cloud's metadata service, multicast, or no address of a host: nobody is asked there.
    Never,
    /// Loopback, private, or for documentation.
    Local,
    /// Of the public Internet.
    Global,
}

/// The IPv4 address that an IPv6 address leads to: mapped, compatible, NAT64 (RFC 6052) and 6to4 (RFC 3056).
pub fn effective(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let s = v6.segments();
    let low = || {
        let [.., a, b, c, d] = v6.octets();
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match s {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => low(),
        [0, 0, 0, 0, 0, 0, high, _] if high != 0 => low(),
        [0x2002, high, rest, ..] => {
            let ([a, b], [c, d]) = (high.to_be_bytes(), rest.to_be_bytes());
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        _ => ip,
    }
}

/// What `ip`, or the address that it leads to, stands for.
pub fn class(ip: IpAddr) -> Class {
    match effective(ip) {
        IpAddr::V4(ip) => class_v4(ip),
        IpAddr::V6(ip) => class_v6(ip),
    }
}

fn class_v4(ip: Ipv4Addr) -> Class {
    /// Metadata services outside the link-local range: Alibaba Cloud, Azure, Oracle Cloud.
    const METADATA: [Ipv4Addr; 3] = [
        Ipv4Addr::new(100, 100, 100, 200),
        Ipv4Addr::new(168, 63, 129, 16),
        Ipv4Addr::new(192, 0, 0, 192),
    ];
    match ip.octets() {
        [0 | 224..=255, ..] | [169, 254, ..] => Class::Never,
        _ if METADATA.contains(&ip) => Class::Never,
        // RFC 1918, RFC 6598, RFC 6890, RFC 2544 and the documentation ranges: nothing of the public Internet.
        [10 | 127, ..]
        | [172, 16..=31, ..]
        | [192, 168, ..]
        | [100, 64..=127, ..]
        | [192, 0, 0 | 2, _]
        | [198, 18 | 19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _] => Class::Local,
        _ => Class::Global,
    }
}

fn class_v6(ip: Ipv6Addr) -> Class {
    /// The metadata service of AWS.
    const METADATA: [u16; 8] = [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254];
    let s = ip.segments();
    if ip.is_unspecified() || ip.is_multicast() || s == METADATA {
        return Class::Never;
    }
    match s[0] {
        // Link-local and the old site-local range.
        0xfe80..=0xfeff => Class::Never,
        0xfc00..=0xfdff => Class::Local,
        0x2000..=0x3fff if s[0] != 0x2001 || s[1] != 0xdb8 => Class::Global,
        _ => Class::Local,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_what_it_leads_to() {
        for (address, expected) in [
            ("169.254.169.254", Class::Never),
            ("::ffff:169.254.169.254", Class::Never),
            ("64:ff9b::a9fe:a9fe", Class::Never),
            ("2002:a9fe:a9fe::1", Class::Never),
            ("fd00:ec2::254", Class::Never),
            ("fe80::1", Class::Never),
            ("0.0.0.0", Class::Never),
            ("ff02::1", Class::Never),
            ("127.0.0.1", Class::Local),
            ("::1", Class::Local),
            ("10.1.2.3", Class::Local),
            ("fd12::1", Class::Local),
            ("93.184.216.34", Class::Global),
            ("2606:4700::1", Class::Global),
        ] {
            let ip = address.parse().expect("an address");
            assert_eq!(class(ip), expected, "{address}");
        }
    }
}
