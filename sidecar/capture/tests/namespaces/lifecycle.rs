//! Programming, replacing, checking and removing the rules.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mesh_capture::{CaptureConfig, Installed, Ruleset};

use crate::support::{Namespace, privileged};

const LIST: &str = "list table inet postern";

fn ruleset() -> Ruleset {
    Ruleset::new(&CaptureConfig::default()).unwrap()
}

fn installed(namespace: &Namespace) -> Option<Installed> {
    namespace.run(mesh_capture::installed).unwrap()
}

#[test]
fn programming_twice_is_the_same_as_once() {
    privileged(|| {
        let namespace = Namespace::new();
        namespace.run(|| mesh_capture::apply(&ruleset())).unwrap();
        let once = namespace.nft(LIST, "").unwrap();
        namespace.run(|| mesh_capture::apply(&ruleset())).unwrap();
        assert_eq!(namespace.nft(LIST, "").unwrap(), once);
    });
}

#[test]
fn other_rules_replace_the_old_ones_and_leave_foreign_tables_alone() {
    privileged(|| {
        let namespace = Namespace::new();
        let foreign = "table inet other { chain output { type filter hook output priority 0; counter; }; }\n\
                       table ip postern { chain mine { counter; }; }\n";
        namespace.nft("-f -", foreign).unwrap();
        let foreign = |namespace: &Namespace| {
            ["list table inet other", "list table ip postern"]
                .map(|list| namespace.nft(list, "").unwrap())
        };
        let before = foreign(&namespace);
        namespace.run(|| mesh_capture::apply(&ruleset())).unwrap();
        let other = CaptureConfig {
            outbound_port: 4140,
            ..CaptureConfig::default()
        };
        let other = Ruleset::new(&other).unwrap();
        namespace.run(|| mesh_capture::apply(&other)).unwrap();
        let list = namespace.nft(LIST, "").unwrap();
        assert!(list.contains(":4140") && !list.contains(":15001"), "{list}");
        assert!(
            namespace
                .run(|| mesh_capture::check(&other))
                .unwrap()
                .unwrap()
                .matches
        );
        assert!(
            !namespace
                .run(|| mesh_capture::check(&ruleset()))
                .unwrap()
                .unwrap()
                .matches
        );
        assert!(namespace.run(mesh_capture::remove).unwrap());
        assert_eq!(foreign(&namespace), before);
    });
}

#[test]
fn removing_says_whether_there_was_something() {
    privileged(|| {
        let namespace = Namespace::new();
        assert!(!namespace.run(mesh_capture::remove).unwrap());
        assert_eq!(installed(&namespace), None);
        namespace.run(|| mesh_capture::apply(&ruleset())).unwrap();
        assert!(installed(&namespace).unwrap().matches);
        assert!(namespace.run(mesh_capture::remove).unwrap());
        assert!(namespace.nft(LIST, "").is_err());
        assert_eq!(installed(&namespace), None);
        assert!(!namespace.run(mesh_capture::remove).unwrap());
    });
}

#[test]
fn a_table_that_another_program_owns_is_left_to_it() {
    privileged(|| {
        let namespace = Namespace::new();
        // Owned as long as this `nft` runs.
        let mut owner = Command::new("ip")
            .args(["netns", "exec", namespace.name(), "nft", "-i"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut commands = owner.stdin.take().unwrap();
        writeln!(commands, "add table inet postern {{ flags owner; }}").unwrap();
        let started = Instant::now();
        while installed(&namespace).is_none() {
            assert!(
                started.elapsed() < Duration::from_secs(10),
                "nft made no table"
            );
        }
        let errors = namespace.run(|| {
            [
                mesh_capture::apply(&ruleset()).unwrap_err(),
                mesh_capture::remove().unwrap_err(),
            ]
        });
        drop(commands);
        owner.wait().unwrap();
        for error in errors {
            assert_eq!(error.reason(), "busy");
            assert!(
                error
                    .to_string()
                    .contains("another program holds the table"),
                "{error}"
            );
        }
    });
}

#[test]
fn what_somebody_does_to_the_rules_is_found() {
    privileged(|| {
        let namespace = Namespace::new();
        for (tampering, says) in [
            (
                "flush chain inet postern output",
                "chain `output` has 0 rules; 3 were programmed",
            ),
            ("flush table inet postern", "chain `prerouting` has 0 rules"),
            (
                "insert rule inet postern output accept",
                "chain `output` has 4 rules",
            ),
            (
                "add rule inet postern prerouting counter",
                "chain `prerouting` has 6 rules",
            ),
            (
                "flush chain inet postern output; delete chain inet postern output",
                "chain `output`",
            ),
            ("add chain inet postern extra", "the rules differ"),
            ("add table inet postern { flags dormant; }", "switched off"),
            (
                "add chain inet postern output { policy drop; }",
                "the rules differ",
            ),
        ] {
            namespace.run(|| mesh_capture::apply(&ruleset())).unwrap();
            assert!(installed(&namespace).unwrap().matches);
            namespace.nft("-f -", tampering).unwrap();
            let found = installed(&namespace).unwrap();
            let all = found.missing.join("; ");
            assert!(!found.matches && all.contains(says), "{tampering}: {all}");
            let checked = namespace
                .run(|| mesh_capture::check(&ruleset()))
                .unwrap()
                .unwrap();
            assert!(!checked.matches, "{tampering}");
        }
        // Programming again heals even a table that was switched off.
        namespace.run(|| mesh_capture::apply(&ruleset())).unwrap();
        assert!(installed(&namespace).unwrap().matches);
    });
}

#[test]
fn one_missing_rule_is_named() {
    privileged(|| {
        let namespace = Namespace::new();
        namespace.run(|| mesh_capture::apply(&ruleset())).unwrap();
        let list = namespace
            .nft("-a list chain inet postern prerouting", "")
            .unwrap();
        let rule = list
            .lines()
            .find(|line| line.contains("dport 15020"))
            .unwrap();
        let handle = rule.rsplit(' ').next().unwrap();
        let delete = format!("delete rule inet postern prerouting handle {handle}");
        namespace.nft(&delete, "").unwrap();
        let checked = namespace
            .run(|| mesh_capture::check(&ruleset()))
            .unwrap()
            .unwrap();
        assert_eq!(
            checked.missing,
            ["rule `tcp dport 15020 return` of chain `prerouting`"]
        );
    });
}

#[test]
fn reading_while_others_write_sees_whole_rulesets_only() {
    privileged(|| {
        let namespace = Namespace::new();
        namespace.run(|| mesh_capture::apply(&ruleset())).unwrap();
        let longer = CaptureConfig {
            exclude_uids: (0..40).collect(),
            ..CaptureConfig::default()
        };
        let longer = Ruleset::new(&longer).unwrap();
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                namespace.run(|| {
                    for _ in 0..50 {
                        mesh_capture::apply(&longer).unwrap();
                        mesh_capture::apply(&ruleset()).unwrap();
                    }
                });
            });
            while !writing.is_finished() {
                match namespace.run(mesh_capture::installed) {
                    Ok(found) => assert_eq!(found.unwrap().missing, [""; 0]),
                    Err(error) => assert_eq!(error.reason(), "busy", "{error}"),
                }
            }
        });
    });
}

#[test]
fn the_largest_configuration_fits() {
    privileged(|| {
        let namespace = Namespace::new();
        let config = largest();
        let ruleset = Ruleset::new(&config).unwrap();
        namespace.run(|| mesh_capture::apply(&ruleset)).unwrap();
        let checked = namespace
            .run(|| mesh_capture::check(&ruleset))
            .unwrap()
            .unwrap();
        assert_eq!(checked.missing, [""; 0]);
        assert_eq!(
            namespace.nft("-c -f -", &ruleset.to_string()),
            Ok(String::new())
        );
    });
}

/// As many of the longest rules as are allowed: IPv6 networks under a mask.
pub(crate) fn largest() -> CaptureConfig {
    let networks = 512 - CaptureConfig::default().mesh_ports.len();
    CaptureConfig {
        exclude_cidrs: (0..networks)
            .map(|n| format!("2001:db8:{n:x}::/49").parse().unwrap())
            .collect(),
        ..CaptureConfig::default()
    }
}
