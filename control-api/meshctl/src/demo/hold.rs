//! `meshctl demo --hold`: says where everything is and stays.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::documents;
use super::mesh::{Mesh, Workload};
use super::netns;
use super::stage::Stage;
use super::{NAMESPACE, TRUST_DOMAIN};
use crate::failure::Failure;
use crate::output;
use crate::progress;

/// Reads the extra documents before anything starts.
pub(super) fn read_policies(files: &[PathBuf]) -> Result<Vec<(String, String)>, Failure> {
    let read = |file: &PathBuf| {
        std::fs::read_to_string(file)
            .map(|text| (file.display().to_string(), text))
            .map_err(|error| {
                Failure::usage(format!("cannot read {}", file.display()))
                    .why(error)
                    .next("give a YAML file with policies")
            })
    };
    files.iter().map(read).collect()
}

/// Prints where everything is: one line of JSON, or something to try.
pub(super) fn announce(mesh: &Mesh, stage: &Stage, json: bool) -> Result<(), Failure> {
    if json {
        return output::write(&format!("{}\n", describe(mesh, stage)));
    }
    output::write(&explain(mesh, stage))
}

fn describe(mesh: &Mesh, stage: &Stage) -> Value {
    let workloads: Map<String, Value> = mesh
        .workloads
        .iter()
        .map(|w| (w.name.to_owned(), workload(w)))
        .collect();
    json!({
        "control_api": {
            "pid": mesh.control_api.pid,
            "grpc": mesh.control_api.ready.grpc,
            "admin_socket": mesh.control_api.ready.admin_socket,
            "trust_bundle": mesh.control_api.ready.trust_bundle,
        },
        "trust_domain": TRUST_DOMAIN,
        "workloads": workloads,
        "dir": stage.scratch.dir(),
    })
}

fn workload(w: &Workload) -> Value {
    let mut value = json!({
        "spiffe_id": documents::spiffe_id(w.name),
        "service": w.service,
        "app": w.app,
        "sidecar": {
            "pid": w.sidecar.pid,
            "outbound": w.sidecar.outbound,
            "inbound": w.sidecar.inbound,
            "mesh": w.sidecar.mesh,
            "admin": w.sidecar.admin,
            "workload_api": w.sidecar.workload_api,
        },
    });
    if let Some(path) = w.place.path() {
        value["netns"] = json!(path);
    }
    value
}

fn explain(mesh: &Mesh, stage: &Stage) -> String {
    let mut out = format!(
        "a mesh is running (trust domain {TRUST_DOMAIN}); Ctrl-C ends it and removes everything\n\n"
    );
    let mut table =
        output::Table::new(&["WORKLOAD", "SERVICE", "APP", "OUTBOUND", "MESH", "ADMIN"]);
    for w in &mesh.workloads {
        table.row([
            format!("{NAMESPACE}/{}", w.name).into(),
            w.service.as_str().into(),
            w.app.as_str().into(),
            w.sidecar.outbound.to_string().into(),
            w.sidecar.mesh.to_string().into(),
            w.sidecar.admin.to_string().into(),
        ]);
    }
    out.push_str(&table.render(output::colour()));
    let address = |name: &str| mesh.workload(name).map_or("", |w| w.service.as_str());
    out.push_str("\ntry, as web:\n");
    for (service, comment) in [("orders", "allowed"), ("payments", "denied by policy")] {
        let line = match mesh.workload("web") {
            Some(web) => match web.place.path() {
                Some(path) => format!(
                    "{} curl -s http://{}/",
                    netns::enter_command(&path),
                    address(service)
                ),
                None => format!(
                    "curl -s -H 'Host: {}' http://{}/",
                    address(service),
                    web.sidecar.outbound
                ),
            },
            None => continue,
        };
        out.push_str(&format!("  {line}   # {comment}\n"));
    }
    let socket = mesh.control_api.ready.admin_socket.display();
    out.push_str(&format!(
        "\nlook at it:\n  export POSTERN_SOCKET={socket}\n  meshctl status\n  meshctl check\n  meshctl get\n\n\
         logs are in {dir}/logs; {dir}/commands/NAME.sh starts a program again that you ended\n",
        dir = stage.scratch.dir().display()
    ));
    out
}

/// Says it when a program ends, and goes on: somebody may have ended it to see what happens. Never returns.
pub(super) async fn watch(stage: &mut Stage) {
    loop {
        let (name, how) = stage.next_end().await;
        let dir = stage.scratch.dir().display();
        progress::say(&format!(
            "{name} ended ({how}); its log is {dir}/logs/{name}.log; start it again with `sh {dir}/commands/{name}.sh`"
        ));
    }
}
