//! Connections that an application opens: which of them its sidecar gets.

use std::sync::atomic::{AtomicBool, Ordering};

use mesh_capture::probe::{is_probe, probe_destination};
use mesh_capture::{CaptureConfig, Ruleset};

use crate::support::{Listener, Namespace, privileged};

/// A workload with a sidecar's listener, and a server outside with listeners on two ports.
struct Scene {
    workload: Namespace,
    _outside: Namespace,
    _listeners: Vec<Listener>,
}

impl Scene {
    fn new(change: impl FnOnce(&mut CaptureConfig)) -> Self {
        let (workload, outside) = Namespace::pair();
        let listeners = vec![
            workload.listen(15001),
            workload.listen(8080),
            outside.listen(80),
            outside.listen(25),
        ];
        let mut config = CaptureConfig::default();
        change(&mut config);
        let ruleset = Ruleset::new(&config).unwrap();
        workload.run(|| mesh_capture::apply(&ruleset)).unwrap();
        Self {
            workload,
            _outside: outside,
            _listeners: listeners,
        }
    }

    /// Asserts that the sidecar gets the connection and learns where it was going.
    fn assert_captured(&self, address: &str) {
        assert_eq!(self.workload.ask(address), format!("15001 for {address}"));
    }

    /// Asserts that the connection goes where it was going.
    fn assert_direct(&self, address: &str) {
        let port = address.rsplit_once(':').unwrap().1;
        assert_eq!(self.workload.ask(address), format!("{port} for {address}"));
    }
}

const OUTSIDE: [&str; 2] = ["10.9.8.7:80", "[fd00:9::7]:80"];

#[test]
fn connections_of_both_families_land_on_the_sidecar_with_their_destination() {
    privileged(|| {
        let scene = Scene::new(|_| {});
        for address in OUTSIDE {
            scene.assert_captured(address);
        }
        // Nobody listens there, nobody is there.
        scene.assert_captured("10.9.8.7:9");
        scene.assert_captured("203.0.113.5:443");
        scene.assert_captured("[2001:db8:1::5]:443");
        let counted = scene
            .workload
            .run(mesh_capture::installed)
            .unwrap()
            .unwrap();
        assert_eq!(counted.outbound_connections, 5);
        assert_eq!(counted.inbound_connections, 0);
    });
}

#[test]
fn the_sidecars_own_connections_pass() {
    privileged(|| {
        let scene = Scene::new(|_| {});
        for address in OUTSIDE {
            let marked = scene
                .workload
                .ask_with(address, |s| s.set_mark(0x539).unwrap());
            assert_eq!(marked, format!("80 for {address}"));
            let other = scene
                .workload
                .ask_with(address, |s| s.set_mark(0x53a).unwrap());
            assert_eq!(other, format!("15001 for {address}"));
        }
    });
}

#[test]
fn a_workload_talks_to_itself_directly() {
    privileged(|| {
        let scene = Scene::new(|_| {});
        for address in [
            "127.0.0.1:8080",
            "127.0.0.2:8080",
            "10.9.8.1:8080",
            "[::1]:8080",
            "[fd00:9::1]:8080",
        ] {
            scene.assert_direct(address);
        }
        // An IPv4-mapped address is IPv4 on the wire; the unspecified one is loopback.
        assert_eq!(
            scene.workload.ask("[::ffff:127.0.0.1]:8080"),
            "8080 for 127.0.0.1:8080"
        );
        assert_eq!(
            scene.workload.ask("0.0.0.0:8080"),
            "8080 for 127.0.0.1:8080"
        );
        assert_eq!(
            scene.workload.ask("[::ffff:10.9.8.7]:80"),
            "15001 for 10.9.8.7:80"
        );
    });
}

#[test]
fn excluded_ports_pass() {
    privileged(|| {
        let scene = Scene::new(|config| config.exclude_outbound_ports = vec![25]);
        scene.assert_direct("10.9.8.7:25");
        scene.assert_direct("[fd00:9::7]:25");
        OUTSIDE
            .iter()
            .for_each(|address| scene.assert_captured(address));
    });
}

#[test]
fn excluded_networks_pass_whatever_their_prefix() {
    privileged(|| {
        // Prefixes that are and that are not whole bytes, a single address, and everything.
        for (v4, v6) in [
            ("10.9.8.0/24", "fd00:9::/32"),
            ("10.9.8.4/30", "fd00:8::/29"),
            ("10.9.8.7", "fd00:9::7"),
            ("0.0.0.0/0", "::/0"),
        ] {
            let networks = [v4, v6].map(|text| text.parse().unwrap());
            let scene = Scene::new(|config| config.exclude_cidrs = networks.to_vec());
            OUTSIDE
                .iter()
                .for_each(|address| scene.assert_direct(address));
        }
        for (v4, v6) in [
            ("10.9.9.0/24", "fd00:a::/32"),
            ("10.9.8.8/29", "fd00:9::8/125"),
        ] {
            let networks = [v4, v6].map(|text| text.parse().unwrap());
            let scene = Scene::new(|config| config.exclude_cidrs = networks.to_vec());
            OUTSIDE
                .iter()
                .for_each(|address| scene.assert_captured(address));
        }
        // One family does not exclude the other.
        let scene = Scene::new(|config| config.exclude_cidrs = vec!["::/0".parse().unwrap()]);
        scene.assert_captured(OUTSIDE[0]);
        scene.assert_direct(OUTSIDE[1]);
    });
}

#[test]
fn excluded_users_and_the_sidecars_user_pass() {
    privileged(|| {
        let own = rustix::process::geteuid().as_raw();
        let by_exclusion = Scene::new(|config| config.exclude_uids = vec![12345, own]);
        let by_user = Scene::new(|config| {
            config.proxy_mark = None;
            config.proxy_uid = Some(own);
        });
        for scene in [by_exclusion, by_user] {
            OUTSIDE
                .iter()
                .for_each(|address| scene.assert_direct(address));
        }
        let scene = Scene::new(|config| {
            config.proxy_uid = Some(12345);
            config.exclude_uids = vec![12346];
        });
        OUTSIDE
            .iter()
            .for_each(|address| scene.assert_captured(address));
    });
}

#[test]
fn the_self_check_is_captured_and_recognised() {
    privileged(|| {
        let scene = Scene::new(|_| {});
        for destination in probe_destination() {
            let answer = scene.workload.ask(&destination.to_string());
            let original = answer.strip_prefix("15001 for ").unwrap();
            assert!(is_probe(original.parse().unwrap()), "{answer}");
        }
    });
}

#[test]
fn no_connection_slips_through_while_the_rules_are_replaced() {
    privileged(|| {
        let scene = Scene::new(|_| {});
        let others = CaptureConfig {
            exclude_outbound_ports: vec![25],
            ..CaptureConfig::default()
        };
        let rulesets =
            [CaptureConfig::default(), others].map(|config| Ruleset::new(&config).unwrap());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let replacing = scope.spawn(|| {
                scene.workload.run(|| {
                    let mut times = 0;
                    while !done.load(Ordering::Relaxed) || times < 20 {
                        mesh_capture::apply(&rulesets[times % 2]).unwrap();
                        times += 1;
                    }
                    times
                })
            });
            for _ in 0..50 {
                OUTSIDE
                    .iter()
                    .for_each(|address| scene.assert_captured(address));
            }
            done.store(true, Ordering::Relaxed);
            assert!(replacing.join().unwrap() >= 20);
        });
    });
}
