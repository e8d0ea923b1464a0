//! Where `control-api` and `sidecar` are: named by the environment, beside this executable, or built from this checkout.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use crate::failure::Failure;
use crate::progress;

/// The programs that the demo runs.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(super) control_api: PathBuf,
    pub(super) sidecar: PathBuf,
}

const CONTROL_API: &str = "control-api";
const SIDECAR: &str = "sidecar";
/// The checkout that this executable was built from.
const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// What the two programs are made of.
const SOURCES: [&str; 4] = [
    "proto",
    "sidecar",
    "control-api/src",
    "control-api/manifest",
];

impl Programs {
    /// Finds them; builds them when run from a checkout that has not built them yet.
    pub(super) fn find() -> Result<Self, Failure> {
        let control_api = from_environment("POSTERN_CONTROL_API_BIN")?;
        let sidecar = from_environment("POSTERN_SIDECAR_BIN")?;
        if let (Some(control_api), Some(sidecar)) = (&control_api, &sidecar) {
            return Ok(Self {
                control_api: control_api.clone(),
                sidecar: sidecar.clone(),
            });
        }
        let beside = Self::beside_us()?;
        Ok(Self {
            control_api: control_api.unwrap_or(beside.control_api),
            sidecar: sidecar.unwrap_or(beside.sidecar),
        })
    }

    fn beside_us() -> Result<Self, Failure> {
        let here = std::env::current_exe()
            .ok()
            .and_then(|exe| exe.parent().map(Path::to_owned))
            .ok_or_else(|| lacking("this executable cannot tell where it is"))?;
        let beside = Self::within(&here);
        let workspace = Path::new(WORKSPACE);
        if !workspace.join("Cargo.toml").is_file() {
            return if beside.present() {
                Ok(beside)
            } else {
                Err(lacking(format!("they are not in {}", here.display())))
            };
        }
        // Cargo's own output folders have one of this name; anywhere else this executable is a copy.
        let folder = if here.join("deps").is_dir() {
            here
        } else if beside.present() {
            return Ok(beside);
        } else {
            let profile = if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            };
            workspace.join("target").join(profile)
        };
        let built = Self::within(&folder);
        let under_cargo = std::env::var_os("CARGO").is_some();
        if !built.present() || under_cargo && built.stale(workspace) {
            build(workspace, &folder)?;
        }
        if built.present() {
            Ok(built)
        } else {
            Err(lacking(format!("they are not in {}", folder.display())))
        }
    }

    fn within(folder: &Path) -> Self {
        Self {
            control_api: folder.join(CONTROL_API),
            sidecar: folder.join(SIDECAR),
        }
    }

    fn present(&self) -> bool {
        self.control_api.is_file() && self.sidecar.is_file()
    }

    /// Whether a source is newer than a program. Asked instead of always asking cargo, which rebuilds dependencies whenever
    /// the set of packages on its command line differs from the one before.
    fn stale(&self, workspace: &Path) -> bool {
        let built = [&self.control_api, &self.sidecar]
            .into_iter()
            .filter_map(|program| modified(program))
            .min();
        let changed = SOURCES
            .iter()
            .filter_map(|s| newest(&workspace.join(s)))
            .max();
        changed > built
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().ok()?.modified().ok()
}

/// The latest change to a source file beneath a folder.
fn newest(folder: &Path) -> Option<SystemTime> {
    let entries = std::fs::read_dir(folder).ok()?;
    entries
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            if path.is_dir() {
                newest(&path)
            } else if path
                .extension()
                .is_some_and(|e| e == "rs" || e == "proto" || e == "toml")
            {
                modified(&path)
            } else {
                None
            }
        })
        .max()
}

fn from_environment(name: &str) -> Result<Option<PathBuf>, Failure> {
    let Some(value) = std::env::var_os(name).filter(|v| !v.is_empty()) else {
        return Ok(None);
    };
    let path = PathBuf::from(value);
    if path.is_file() {
        Ok(Some(path))
    } else {
        Err(
            Failure::usage(format!("{name} names {}, which is no file", path.display()))
                .next(format!("unset {name}, or set it to the program")),
        )
    }
}

/// Builds both programs into one of cargo's output folders, with the profile it is named after.
fn build(workspace: &Path, folder: &Path) -> Result<(), Failure> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let profile = match folder.file_name().and_then(|n| n.to_str()) {
        None | Some("debug") => "dev",
        Some(name) => name,
    };
    progress::say(
        "building control-api and sidecar (only when they changed; the first time takes minutes) ...",
    );
    let mut command = Command::new(cargo);
    command
        .current_dir(workspace)
        .args([
            "build",
            "--quiet",
            "-p",
            "mesh-control",
            "-p",
            "mesh-sidecar",
        ])
        .args(["--bin", CONTROL_API, "--bin", SIDECAR, "--profile", profile]);
    if let Some(target) = folder.parent() {
        command.arg("--target-dir").arg(target);
    }
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(lacking(format!(
            "building them failed ({status}; its messages are above)"
        ))),
        Err(error) => Err(lacking(format!("cargo could not be run: {error}"))),
    }
}

fn lacking(why: impl ToString) -> Failure {
    Failure::problem("the demo needs the programs control-api and sidecar")
        .why(why)
        .next("build them with `cargo build --release -p mesh-control -p mesh-sidecar` and put them beside meshctl, or name them in POSTERN_CONTROL_API_BIN and POSTERN_SIDECAR_BIN")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_older_than_its_sources_is_stale() {
        let workspace = Path::new(WORKSPACE);
        let us = std::env::current_exe().expect("an executable");
        let ours = Programs {
            control_api: us.clone(),
            sidecar: us,
        };
        assert!(newest(&workspace.join("proto")).is_some());
        let none = Programs {
            control_api: "/nowhere".into(),
            sidecar: "/nowhere".into(),
        };
        assert!(none.stale(workspace), "what is not there is stale");
        assert!(ours.present() && !none.present());
    }
}
