//! Without root: refused with a sentence that helps, except in a user namespace of one's own.

use std::process::Command;

use mesh_capture::{CaptureConfig, Ruleset};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use crate::lifecycle::largest;
use crate::support::{Listener, Namespace, ask, dual_stack, privileged, run};

#[test]
fn without_net_admin_every_operation_says_what_is_needed() {
    privileged(|| {
        let namespace = Namespace::new();
        let ruleset = Ruleset::new(&CaptureConfig::default()).unwrap();
        let errors = namespace.run(|| {
            // Capabilities belong to the thread, and this thread ends here.
            let mut sets = capabilities(None).unwrap();
            sets.effective.remove(CapabilitySet::NET_ADMIN);
            set_capabilities(None, sets).unwrap();
            [
                mesh_capture::apply(&ruleset).unwrap_err(),
                mesh_capture::remove().unwrap_err(),
                mesh_capture::installed().unwrap_err(),
                mesh_capture::check(&ruleset).unwrap_err(),
            ]
        });
        for error in errors {
            assert_eq!(error.reason(), "not_permitted");
            assert!(error.to_string().contains("needs CAP_NET_ADMIN"), "{error}");
        }
    });
}

/// Set for the copy of this test that runs inside the user namespace.
const INSIDE: &str = "POSTERN_TEST_UNPRIVILEGED";

#[test]
fn an_unprivileged_user_namespace_is_enough() {
    if std::env::var_os(INSIDE).is_some() {
        return capture_inside();
    }
    // As nobody where this is root; `unshare` then makes the namespaces without any privilege.
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
            "unshare",
        ]);
        command
    } else {
        Command::new("unshare")
    };
    // A copy, because nobody may not be allowed to see the build's folder.
    let program = std::env::temp_dir().join(format!("postern-capture-{}", std::process::id()));
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let output = command
        .args(["--user", "--map-root-user", "--net"])
        .arg(&program)
        .args([
            "--exact",
            "unprivileged::an_unprivileged_user_namespace_is_enough",
            "--nocapture",
        ])
        .current_dir("/")
        .env(INSIDE, "1")
        .output();
    std::fs::remove_file(&program).unwrap();
    let output = output.expect("cannot start `setpriv` and `unshare`; install util-linux");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "in an unprivileged user namespace (they must be allowed: sysctl user.max_user_namespaces):\n{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Runs in a network namespace of its own. Nobody is at the other end of its cable: only capture can answer.
fn capture_inside() {
    for arguments in [
        "link set lo up",
        "link add eth0 type veth peer name eth1",
        "addr add 10.9.8.1/24 dev eth0",
        "addr add fd00:9::1/64 dev eth0 nodad",
        "link set eth0 up",
        "link set eth1 up",
        "route add default via 10.9.8.2",
        "-6 route add default via fd00:9::2",
    ] {
        run("ip", arguments, "");
    }
    let _sidecar = Listener::start(dual_stack(15001), 15001);
    let config = CaptureConfig {
        exclude_uids: vec![12345],
        ..CaptureConfig::default()
    };
    let ruleset = Ruleset::new(&config).unwrap();
    mesh_capture::apply(&ruleset).unwrap();
    for address in ["10.9.8.7:80", "[2001:db8::7]:80"] {
        assert_eq!(ask(address, |_| {}), format!("15001 for {address}"));
    }
    assert!(mesh_capture::check(&ruleset).unwrap().unwrap().matches);
    assert_eq!(
        mesh_capture::installed()
            .unwrap()
            .unwrap()
            .outbound_connections,
        2
    );
    mesh_capture::apply(&Ruleset::new(&largest()).unwrap()).unwrap();
    assert!(mesh_capture::remove().unwrap());
}
