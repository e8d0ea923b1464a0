//! Which addresses may be dialled. Judged after resolution, so that a name cannot lead where an address may not.
//!
//! The threat is a document, or the answer of a server, that makes the control API ask its own machine, its cloud's
//! metadata service, or the network it stands in (server-side request forgery).

use std::net::{IpAddr, SocketAddr, UdpSocket};

use mesh_auth::address::{Class, class, effective};

use super::url::Scheme;

/// Why an address is not dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Link-local, a cloud's metadata service, multicast, or no address of a host.
    #[error("link-local, metadata, multicast and reserved addresses are never fetched from")]
    Never,
    /// The control API itself.
    #[error("that is a port of this control API")]
    Own,
    /// Loopback or private, and that was not allowed.
    #[error("loopback and private addresses are fetched from only with --allow-local-fetch")]
    Local,
    /// In the clear over a network.
    #[error("in the clear (http) only loopback and private addresses are fetched from; use https")]
    Clear,
}

/// The rules.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    /// Loopback and private addresses are allowed, also in the clear.
    pub allow_local: bool,
    /// Ports of this process: never dialled on an address of this machine.
    pub own_ports: Vec<u16>,
}

impl Guard {
    /// Judges one resolved address.
    ///
    /// # Errors
    /// Why it is not dialled.
    pub fn judge(&self, scheme: Scheme, address: SocketAddr) -> Result<(), Refusal> {
        let ip = effective(address.ip());
        let is_local = match class(ip) {
            Class::Never => return Err(Refusal::Never),
            Class::Local => true,
            Class::Global => false,
        };
        if self.own_ports.contains(&address.port()) && is_of_this_machine(ip) {
            return Err(Refusal::Own);
        }
        match (is_local, self.allow_local, scheme) {
            (true, false, _) => Err(Refusal::Local),
            (false, _, Scheme::Http) => Err(Refusal::Clear),
            _ => Ok(()),
        }
    }
}

/// Only an address of this machine can be bound.
fn is_of_this_machine(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(guard: &Guard, scheme: Scheme, address: &str) -> Result<(), Refusal> {
        guard.judge(scheme, address.parse().unwrap())
    }

    #[test]
    fn addresses_that_are_never_fetched_from() {
        let open = Guard {
            allow_local: true,
            own_ports: vec![],
        };
        for address in [
            "169.254.169.254:80",
            "169.254.1.1:443",
            "[fe80::1]:443",
            "[fd00:ec2::254]:80",
            "100.100.100.200:80",
            "168.63.129.16:80",
            "192.0.0.192:80",
            "0.0.0.0:80",
            "0.1.2.3:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "[::]:80",
            "[ff02::1]:80",
            "[::ffff:169.254.169.254]:80",
            "[64:ff9b::a9fe:a9fe]:80",
            "[2002:a9fe:a9fe::1]:80",
            "[::169.254.169.254]:80",
        ] {
            assert_eq!(
                judge(&open, Scheme::Http, address),
                Err(Refusal::Never),
                "{address}"
            );
        }
    }

    #[test]
    fn local_addresses_need_the_flag_and_the_clear_needs_local_addresses() {
        let (strict, open) = (
            Guard::default(),
            Guard {
                allow_local: true,
                own_ports: vec![],
            },
        );
        for address in [
            "127.0.0.1:1",
            "127.9.9.9:1",
            "[::1]:1",
            "10.1.2.3:1",
            "172.31.0.1:1",
            "192.168.1.1:1",
            "100.64.0.1:1",
            "[fd12::1]:1",
            "[::ffff:127.0.0.1]:1",
            "[64:ff9b::7f00:1]:1",
        ] {
            assert_eq!(
                judge(&strict, Scheme::Https, address),
                Err(Refusal::Local),
                "{address}"
            );
            assert_eq!(judge(&open, Scheme::Https, address), Ok(()), "{address}");
            assert_eq!(judge(&open, Scheme::Http, address), Ok(()), "{address}");
        }
        for address in ["93.184.216.34:443", "172.32.0.1:443", "[2606:4700::1]:443"] {
            assert_eq!(judge(&strict, Scheme::Https, address), Ok(()), "{address}");
            assert_eq!(
                judge(&open, Scheme::Http, address),
                Err(Refusal::Clear),
                "{address}"
            );
        }
    }

    #[test]
    fn own_ports_are_refused_on_this_machine_only() {
        let guard = Guard {
            allow_local: true,
            own_ports: vec![15_012],
        };
        assert_eq!(
            judge(&guard, Scheme::Https, "127.0.0.1:15012"),
            Err(Refusal::Own)
        );
        assert_eq!(
            judge(&guard, Scheme::Https, "[::1]:15012"),
            Err(Refusal::Own)
        );
        assert_eq!(judge(&guard, Scheme::Https, "127.0.0.1:15013"), Ok(()));
        assert_eq!(judge(&guard, Scheme::Https, "192.0.2.7:15012"), Ok(()));
    }
}
