//! Connections from outside to a workload: which of them its sidecar gets.

use mesh_capture::{CaptureConfig, Ruleset};

use crate::support::{Listener, Namespace, privileged};

/// Listeners of the workload: application, sidecar, and what must not be reached from outside.
const PORTS: [u16; 9] = [80, 22, 15000, 15001, 15006, 15008, 15020, 15021, 9090];

fn scene(change: impl FnOnce(&mut CaptureConfig)) -> (Namespace, Namespace, Vec<Listener>) {
    let (workload, outside) = Namespace::pair();
    let listeners = PORTS.map(|port| workload.listen(port)).into();
    let mut config = CaptureConfig::default();
    change(&mut config);
    let ruleset = Ruleset::new(&config).unwrap();
    workload.run(|| mesh_capture::apply(&ruleset)).unwrap();
    (workload, outside, listeners)
}

/// Asserts on which port of the workload a connection from outside to `port` comes out, for both families.
fn assert_lands(outside: &Namespace, port: u16, on: u16) {
    for address in ["10.9.8.1", "[fd00:9::1]"] {
        let answer = outside.ask(&format!("{address}:{port}"));
        assert_eq!(answer, format!("{on} for {address}:{port}"));
    }
}

#[test]
fn only_the_meshs_own_ports_are_reached_without_the_sidecar() {
    privileged(|| {
        let (workload, outside, _listeners) = scene(|_| {});
        for port in [15008, 15020, 15021] {
            assert_lands(&outside, port, port);
        }
        // The sidecar's other listeners too: it sees that they were meant and refuses.
        for port in [80, 22, 9090, 15000, 15001, 15006] {
            assert_lands(&outside, port, 15006);
        }
        let counted = workload.run(mesh_capture::installed).unwrap().unwrap();
        assert_eq!(counted.inbound_connections, 12);
        assert_eq!(counted.outbound_connections, 0);
    });
}

#[test]
fn excluded_ports_are_reached_without_the_sidecar() {
    privileged(|| {
        let (_workload, outside, _listeners) =
            scene(|config| config.exclude_inbound_ports = vec![22, 9090]);
        for port in [22, 9090, 15008] {
            assert_lands(&outside, port, port);
        }
        assert_lands(&outside, 80, 15006);
    });
}

#[test]
fn a_mark_does_not_help_the_outside() {
    privileged(|| {
        let (_workload, outside, _listeners) = scene(|_| {});
        let answer = outside.ask_with("10.9.8.1:80", |socket| socket.set_mark(0x539).unwrap());
        assert_eq!(answer, "15006 for 10.9.8.1:80");
    });
}

#[test]
fn connections_through_the_workload_to_others_are_left_alone() {
    privileged(|| {
        let (workload, outside, _listeners) = scene(|_| {});
        let third = Namespace::new();
        let _behind = third.listen(80);
        workload.ip(&format!(
            "link add eth1 type veth peer name eth0 netns {}",
            third.name()
        ));
        workload.ip("addr add 10.9.9.1/24 dev eth1");
        workload.ip("link set eth1 up");
        third.ip("addr add 10.9.9.2/24 dev eth0");
        third.ip("link set eth0 up");
        third.ip("route add default via 10.9.9.1");
        workload
            .run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))
            .unwrap();
        assert_eq!(outside.ask("10.9.9.2:80"), "80 for 10.9.9.2:80");
    });
}
