//! Names beside its own by which a resource can be subscribed to.
//!
//! Of a service: `/<ip>` for each address, and every host that requests to it carry from any namespace (its bare name counts in
//! its own namespace only and is no alias). Of a workload: `/<ip>` for each address, and `/service/<namespace>/<name>` for each
//! service that it is an endpoint of.

use std::net::IpAddr;

use crate::mesh;

/// The alias of what has this address.
pub fn of_address(address: IpAddr) -> String {
    format!("/{}", address.to_canonical())
}

/// The alias of the workloads that are endpoints of the service with this resource name.
pub fn of_members(service: &str) -> String {
    format!("/service/{service}")
}

/// Parses an address of 4 or 16 bytes; an IPv4-mapped one becomes IPv4.
pub fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes)
        .ok()
        .map(|v6| IpAddr::from(v6).to_canonical())
}

fn of_addresses(addresses: &[Vec<u8>]) -> impl Iterator<Item = String> {
    let parsed = addresses.iter().filter_map(|bytes| ip_address(bytes));
    parsed.map(of_address)
}

/// The hosts of every service: `name.namespace` and what follows from it.
pub fn default_hosts(name: &str, namespace: &str) -> [String; 3] {
    [
        format!("{name}.{namespace}"),
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}.svc.cluster.local"),
    ]
}

impl mesh::Service {
    /// The names beside its own that it can be subscribed to by, each once.
    pub fn aliases(&self) -> Vec<String> {
        let mut aliases: Vec<_> = of_addresses(&self.addresses).collect();
        let declared = self.hosts.iter().map(|host| host.to_ascii_lowercase());
        let hosts = declared
            .filter(|host| *host != self.name)
            .chain(default_hosts(&self.name, &self.namespace));
        for host in hosts {
            if !aliases.contains(&host) {
                aliases.push(host);
            }
        }
        aliases
    }
}

impl mesh::Workload {
    /// The names beside its own that it can be subscribed to by.
    pub fn aliases(&self) -> Vec<String> {
        let services = self.services.iter().map(|m| of_members(&m.service));
        of_addresses(&self.addresses).chain(services).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_goes_by_its_hosts_and_addresses_and_not_by_its_bare_name() {
        let service = mesh::Service {
            name: "orders".into(),
            namespace: "demo".into(),
            hosts: vec!["orders".into(), "Shop.Example".into(), "orders.demo".into()],
            addresses: vec![vec![10, 0, 0, 9], vec![1, 2]],
            ..Default::default()
        };
        assert_eq!(
            service.aliases(),
            [
                "/10.0.0.9",
                "shop.example",
                "orders.demo",
                "orders.demo.svc",
                "orders.demo.svc.cluster.local"
            ]
        );
    }

    #[test]
    fn a_workload_goes_by_its_addresses_and_the_services_it_serves() {
        let mut mapped = vec![0; 10];
        mapped.extend([0xff, 0xff, 10, 0, 0, 1]);
        let workload = mesh::Workload {
            addresses: vec![mapped, vec![0xfd; 16]],
            services: vec![mesh::ServiceMembership {
                service: "demo/orders".into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let v6 = "/fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd";
        assert_eq!(
            workload.aliases(),
            ["/10.0.0.1", v6, "/service/demo/orders"]
        );
    }
}
