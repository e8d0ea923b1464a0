//! The self-check that proves capture from inside the network namespace, without any privilege.
//!
//! How it goes:
//! 1. The sidecar opens a TCP connection *without* its mark to each of [`DESTINATIONS`]: documentation addresses
//!    (RFC 5737, RFC 3849) that no network routes to anybody.
//! 2. If capture works, the connection lands on the sidecar's own outbound listener, and `SO_ORIGINAL_DST` of the accepted
//!    socket is the probe destination ([`is_probe`]).
//! 3. The listener answers with a number that only this process knows and closes; the opener compares. Another answer
//!    means that somebody else's listener got the connection.
//!
//! Anything else (time-out, refusal) means "not captured". "No route" for IPv6 alone means that the workload has no IPv6,
//! and then there is nothing to capture.
//!
//! The check proves nothing when the opener is excluded from capture: with `proxy_uid` the process that opens the
//! connection must run as another user, and the destinations must not be in an excluded network or on an excluded port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Where the self-check connects to: `192.0.2.77:15077` and `[2001:db8::77]:15077`.
pub const DESTINATIONS: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77)), 15077),
    SocketAddr::new(
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x77)),
        15077,
    ),
];

/// The [`DESTINATIONS`].
pub const fn probe_destination() -> [SocketAddr; 2] {
    DESTINATIONS
}

/// True when a captured connection's original destination says that it is the self-check.
pub fn is_probe(original_destination: SocketAddr) -> bool {
    DESTINATIONS.iter().any(|probe| {
        probe.port() == original_destination.port()
            && probe.ip() == original_destination.ip().to_canonical()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_destinations_are_recognised_in_every_spelling() {
        for (address, expected) in [
            ("192.0.2.77:15077", true),
            ("[::ffff:192.0.2.77]:15077", true),
            ("[2001:db8::77]:15077", true),
            ("192.0.2.77:80", false),
            ("192.0.2.78:15077", false),
        ] {
            assert_eq!(is_probe(address.parse().unwrap()), expected, "{address}");
        }
    }
}
