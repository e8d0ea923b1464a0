//! The printed rules: golden files, and the verdict of the real `nft`.

use crate::support::{Namespace, privileged};
use mesh_capture::{CaptureConfig, Ruleset};

fn everything() -> CaptureConfig {
    CaptureConfig {
        outbound_port: 4140,
        inbound_port: 4143,
        proxy_uid: Some(1337),
        exclude_inbound_ports: vec![22, 9090],
        exclude_outbound_ports: vec![25, 5432],
        exclude_cidrs: [
            "10.0.0.0/8",
            "10.128.0.0/9",
            "169.254.169.254",
            "fd00::/13",
            "fe80::/64",
            "::1",
        ]
        .map(|text| text.parse().unwrap())
        .to_vec(),
        exclude_uids: vec![0, 101],
        ..CaptureConfig::default()
    }
}

fn no_addresses() -> CaptureConfig {
    CaptureConfig {
        proxy_mark: None,
        proxy_uid: Some(65534),
        exclude_cidrs: ["0.0.0.0/0", "::/0"]
            .map(|text| text.parse().unwrap())
            .to_vec(),
        ..CaptureConfig::default()
    }
}

#[test]
fn the_script_is_the_golden_one() {
    for (config, golden) in [
        (CaptureConfig::default(), include_str!("golden/default.nft")),
        (everything(), include_str!("golden/everything.nft")),
        (no_addresses(), include_str!("golden/no_addresses.nft")),
    ] {
        let script = Ruleset::new(&config).unwrap().to_string();
        assert_eq!(script, golden, "the script is now:\n{script}");
    }
}

#[test]
fn nft_accepts_the_script() {
    privileged(|| {
        let namespace = Namespace::new();
        for config in [CaptureConfig::default(), everything(), no_addresses()] {
            let script = Ruleset::new(&config).unwrap().to_string();
            assert_eq!(
                namespace.nft("-c -f -", &script),
                Ok(String::new()),
                "{script}"
            );
        }
    });
}

#[test]
fn the_kernel_gets_the_same_rules_from_us_as_from_nft() {
    privileged(|| {
        for config in [CaptureConfig::default(), everything(), no_addresses()] {
            let ruleset = Ruleset::new(&config).unwrap();
            let (ours, theirs) = (Namespace::new(), Namespace::new());
            ours.run(|| mesh_capture::apply(&ruleset)).unwrap();
            theirs.nft("-f -", &ruleset.to_string()).unwrap();
            // As the kernel's instructions, and as people see it.
            let listed = [&ours, &theirs].map(|namespace| {
                let listing = namespace.nft("--debug=netlink list table inet postern", "");
                without_handles(&listing.unwrap())
            });
            assert_eq!(listed[0], listed[1]);
            assert!(listed[0].contains("counter packets 0 bytes 0 redirect to :"));
            // What nft loaded is what we would have programmed, its description included.
            for namespace in [&ours, &theirs] {
                let checked = namespace
                    .run(|| mesh_capture::check(&ruleset))
                    .unwrap()
                    .unwrap();
                assert_eq!(checked.missing, [""; 0]);
                let described = namespace.run(mesh_capture::installed).unwrap().unwrap();
                assert_eq!(described.missing, [""; 0]);
            }
        }
    });
}

/// Without the numbers that the kernel gives to rules in the order in which they came.
fn without_handles(listing: &str) -> String {
    let lines = listing
        .lines()
        .map(|line| match line.strip_prefix("inet postern ") {
            Some(chain) => chain.split(' ').next().unwrap_or_default(),
            None => line,
        });
    lines.collect::<Vec<_>>().join("\n")
}
