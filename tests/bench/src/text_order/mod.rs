//! `mesh-bench text-order`: writes `sidecar/text_order.ld` anew, by which the linker puts functions that run next to each other.
//!
//! A sidecar needs a third of its text to start and to serve. Strewn over all of it, that third keeps all of it in memory,
//! for the kernel maps what lies around a page that is touched as well. Which functions run, callgrind says of the sidecars
//! of `meshctl demo`. Run it with programs of a release build, which inline as what is shipped does.

mod script;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use clap::Args;
use tokio::process::Command;

use crate::args::Common;
use crate::demo;
use crate::instructions::{dumped, order};
use crate::machine::Machine;
use crate::programs::{Ours, Programs};
use crate::report::Report;
use crate::say;
use script::{Symbols, functions};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
}

pub(crate) async fn run(_: &Arguments) -> Report {
    let programs = Programs::find();
    let mut report = Report::new("text-order", Machine::look(&programs).await);
    let outcome = rewrite(&programs, &mut report).await;
    report.concluded(outcome);
    report
}

async fn rewrite(programs: &Programs, report: &mut Report) -> anyhow::Result<()> {
    let valgrind = programs
        .valgrind
        .as_deref()
        .context("valgrind is missing; install the package `valgrind`")?;
    let ours = Ours::find().await?;
    let listing = nm(&ours.sidecar).await?;
    let symbols = Symbols::read(&listing);
    say("starting the demo's mesh under callgrind");
    let start = symbols.with_aliases(&at_start(valgrind, &ours).await?);
    say("running the demo's checks under callgrind");
    let traffic = symbols.with_aliases(&with_traffic(valgrind, &ours).await?);
    let traffic = traffic.difference(&start).copied().collect();
    for (name, functions) in [
        ("all", None),
        ("start", Some(&start)),
        ("traffic", Some(&traffic)),
    ] {
        let (count, bytes) = symbols.size(functions);
        report.figure(format!("functions.{name}"), count);
        report.figure(format!("kilobytes.{name}"), bytes / 1024);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sidecar/text_order.ld");
    std::fs::write(&path, script::write(&symbols, &start, &traffic))
        .with_context(|| format!("cannot write {}", path.display()))
}

async fn nm(program: &Path) -> anyhow::Result<String> {
    let output = Command::new("nm")
        .arg("-S")
        .arg(program)
        .stdin(Stdio::null())
        .output()
        .await
        .context("nm cannot be started; install the package `binutils`")?;
    ensure!(output.status.success(), "nm failed ({})", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Functions that run until sidecars are ready.
async fn at_start(valgrind: &Path, ours: &Ours) -> anyhow::Result<BTreeSet<String>> {
    let folder = tempfile::tempdir()?;
    let ours = profiled(valgrind, ours, folder.path())?;
    let (kid, workloads) = demo::start(&ours, folder.path(), |_| {}).await?;
    let control = valgrind.with_file_name("callgrind_control");
    for pid in [workloads.web.sidecar.pid, workloads.orders.sidecar.pid] {
        order(&control, "--dump", pid).await?;
        dumped(folder.path(), pid).await?;
    }
    let names = read(folder.path());
    drop(kid);
    names
}

/// Functions that run when the demo's checks do.
async fn with_traffic(valgrind: &Path, ours: &Ours) -> anyhow::Result<BTreeSet<String>> {
    let folder = tempfile::tempdir()?;
    let ours = profiled(valgrind, ours, folder.path())?;
    let status = Command::new(&ours.meshctl)
        .args(["demo", "--json"])
        .env("POSTERN_CONTROL_API_BIN", &ours.control_api)
        .env("POSTERN_SIDECAR_BIN", &ours.sidecar)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
        .context("meshctl cannot be started")?;
    ensure!(
        status.success(),
        "the demo's checks failed ({status}): say `meshctl demo`"
    );
    read(folder.path())
}

/// Our programs, with a sidecar that runs under callgrind and leaves what it counted in `folder`.
fn profiled(valgrind: &Path, ours: &Ours, folder: &Path) -> anyhow::Result<Ours> {
    let sidecar = folder.join("sidecar");
    let text = format!(
        "#!/bin/sh\nexec '{}' --tool=callgrind --quiet --demangle=no '--callgrind-out-file={}/out.%p' '{}' \"$@\"\n",
        valgrind.display(),
        folder.display(),
        ours.sidecar.display()
    );
    std::fs::write(&sidecar, text)?;
    std::fs::set_permissions(&sidecar, std::fs::Permissions::from_mode(0o755))?;
    Ok(Ours {
        meshctl: ours.meshctl.clone(),
        control_api: ours.control_api.clone(),
        sidecar,
    })
}

/// The functions in all that callgrind left in a folder.
fn read(folder: &Path) -> anyhow::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder)? {
        let path: PathBuf = entry?.path();
        let is_dump = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"out."));
        if is_dump {
            names.extend(functions(&std::fs::read_to_string(&path)?).map(str::to_owned));
        }
    }
    ensure!(!names.is_empty(), "callgrind saw no function run");
    Ok(names)
}
