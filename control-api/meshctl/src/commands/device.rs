//! `meshctl device`: clients that are neither users nor services, each with an entry of an inventory.
//!
//! A device is a workload with the label [`LABEL`]; its owner, posture and day of enrolment are annotations of its document, and
//! quarantine and decommission are revocations of its identity. So whatever holds for workloads holds for devices, and
//! history and rollback know about them.

use std::collections::BTreeMap;
use std::process::ExitCode;

use mesh_proto::admin::{DeleteRequest, GetRequest, StatusRequest, StoredResource};
use serde_json::{Value, json};

use super::{apply, revoke, token};
use crate::cli::{DeviceCommand, DeviceName, EnrollArgs, Format, RevokeOptions};
use crate::connect::Admin;
use crate::failure::Failure;
use crate::moment;
use crate::output::{self, Cell, Table, Tone};

/// Label of a workload that is a device.
const LABEL: &str = "postern.dev/device";
const OWNER: &str = "postern.dev/owner";
const POSTURE: &str = "postern.dev/posture";
const ENROLLED: &str = "postern.dev/enrolled";
/// Namespace of revocations.
const SYSTEM: &str = "postern-system";
const QUARANTINE: &str = "quarantine";
const DECOMMISSION: &str = "decommission";

pub(super) async fn run(
    admin: &mut Admin,
    command: DeviceCommand,
    format: Format,
) -> Result<ExitCode, Failure> {
    match command {
        DeviceCommand::Enroll(arguments) => enroll(admin, arguments, format).await,
        DeviceCommand::List { namespace } => list(admin, namespace, format).await,
        DeviceCommand::Quarantine { device, options } => {
            let entry = find(admin, &device).await?;
            let id = identity(admin, &device).await?;
            revoke_device(
                admin,
                QUARANTINE,
                &device,
                &id,
                annotations(&entry),
                options,
                format,
            )
            .await
        }
        DeviceCommand::Release { device } => {
            let name = revocation_name(QUARANTINE, &device);
            revoke::undo(admin, &name, format).await
        }
        DeviceCommand::Decommission { device, options } => {
            let entry = find(admin, &device).await?;
            let id = identity(admin, &device).await?;
            let kept = annotations(&entry);
            let code =
                revoke_device(admin, DECOMMISSION, &device, &id, kept, options, format).await?;
            // Not before it is believed no longer: without its registration nobody would know what to revoke.
            let request = DeleteRequest {
                kind: "Workload".to_owned(),
                namespace: device.namespace.clone(),
                name: device.name.clone(),
                if_revision: 0,
            };
            admin.delete(request).await.map_err(|status| {
                let what = format!("{device} is revoked, but its registration was not removed");
                Failure::from_status(&what, &status)
            })?;
            Ok(code)
        }
    }
}

/// An inventory entry and the token that the device proves itself with.
async fn enroll(
    admin: &mut Admin,
    arguments: EnrollArgs,
    format: Format,
) -> Result<ExitCode, Failure> {
    let device = arguments.device;
    if let Some(known) = stored(admin, "Workload", &device.namespace, &device.name).await? {
        let what = if is_device(&known) {
            "is enrolled already"
        } else {
            "is the name of a workload"
        };
        return Err(Failure::problem(format!("{device} {what}")).next(format!(
            "`meshctl token create {device}` makes another token for it"
        )));
    }
    let gone = revocation_name(DECOMMISSION, &device);
    if stored(admin, "Revocation", SYSTEM, &gone).await?.is_some() {
        return Err(
            Failure::problem(format!("{device} was decommissioned")).next(format!(
                "take another name, or `meshctl revoke undo {gone}`"
            )),
        );
    }
    let document = json!({
        "apiVersion": "postern.dev/v1alpha1",
        "kind": "Workload",
        "metadata": {
            "name": device.name,
            "namespace": device.namespace,
            "labels": {LABEL: "true"},
            "annotations": {
                OWNER: arguments.owner,
                POSTURE: arguments.posture.unwrap_or_default(),
                ENROLLED: moment::rfc3339(moment::unix_now()),
            },
        },
        "spec": {"serviceAccount": device.name, "addresses": arguments.addresses},
    });
    apply::send(admin, "the device", &document.to_string(), false).await?;
    token::hand_out(
        admin,
        &device.to_string(),
        arguments.ttl,
        arguments.to.as_deref(),
        format,
    )
    .await?;
    Ok(ExitCode::SUCCESS)
}

/// Believes a device no longer. The entry of the inventory is kept in the revocation, too: it outlives the registration.
async fn revoke_device(
    admin: &mut Admin,
    why: &str,
    device: &DeviceName,
    id: &str,
    mut annotations: Value,
    options: RevokeOptions,
    format: Format,
) -> Result<ExitCode, Failure> {
    if options.name.is_some() {
        return Err(Failure::usage(
            "the revocation of a device has its name from the device",
        ));
    }
    annotations[LABEL] = device.to_string().into();
    let name = revocation_name(why, device);
    revoke::store(
        admin,
        &name,
        annotations,
        json!({"spiffeId": id}),
        options,
        format,
    )
    .await
}

fn revocation_name(why: &str, device: &DeviceName) -> String {
    // Labels hold no dots, so no two devices share it.
    format!("{why}.{}.{}", device.namespace, device.name)
}

async fn identity(admin: &mut Admin, device: &DeviceName) -> Result<String, Failure> {
    let domain = revoke::own_domain(admin).await?;
    Ok(format!(
        "spiffe://{domain}/ns/{}/sa/{}",
        device.namespace, device.name
    ))
}

async fn find(admin: &mut Admin, device: &DeviceName) -> Result<StoredResource, Failure> {
    let known = stored(admin, "Workload", &device.namespace, &device.name).await?;
    known.filter(is_device).ok_or_else(|| {
        Failure::problem(format!("there is no device {device}"))
            .next("`meshctl device list` shows those there are")
    })
}

async fn stored(
    admin: &mut Admin,
    kind: &str,
    namespace: &str,
    name: &str,
) -> Result<Option<StoredResource>, Failure> {
    let found = get(admin, kind, namespace).await?;
    Ok(found
        .into_iter()
        .find(|r| r.name == name && r.namespace == namespace))
}

async fn get(
    admin: &mut Admin,
    kind: &str,
    namespace: &str,
) -> Result<Vec<StoredResource>, Failure> {
    let request = GetRequest {
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        ..GetRequest::default()
    };
    let answer = admin.get(request).await;
    answer
        .map(|answer| answer.into_inner().resources)
        .map_err(|status| Failure::from_status("the inventory cannot be read", &status))
}

fn metadata(resource: &StoredResource) -> Value {
    let document: Value = serde_json::from_str(&resource.document_json).unwrap_or_default();
    document["metadata"].clone()
}

fn is_device(resource: &StoredResource) -> bool {
    metadata(resource)["labels"][LABEL] == "true"
}

fn annotations(resource: &StoredResource) -> Value {
    let annotations = metadata(resource)["annotations"].clone();
    if annotations.is_object() {
        annotations
    } else {
        json!({})
    }
}

/// One line of the inventory.
#[derive(Debug, PartialEq)]
struct Entry {
    device: String,
    owner: String,
    posture: String,
    enrolled: String,
    /// Unix seconds; `None`: never.
    last_seen: Option<i64>,
    state: &'static str,
}

impl Entry {
    fn of(device: String, annotations: &Value, state: &'static str) -> Self {
        let text = |name: &str| annotations[name].as_str().unwrap_or_default().to_owned();
        Self {
            device,
            owner: text(OWNER),
            posture: text(POSTURE),
            enrolled: text(ENROLLED),
            last_seen: None,
            state,
        }
    }
}

/// Puts the inventory together: workloads that are devices, and revocations that speak of devices.
fn inventory(
    workloads: &[StoredResource],
    revocations: &[StoredResource],
    seen: &BTreeMap<String, (bool, i64)>,
    now: i64,
) -> Vec<Entry> {
    let mut entries = BTreeMap::new();
    for workload in workloads.iter().filter(|w| is_device(w)) {
        let device = format!("{}/{}", workload.namespace, workload.name);
        let mut entry = Entry::of(device.clone(), &annotations(workload), "enrolled");
        if let Some((connected, since)) = seen.get(&device) {
            entry.last_seen = Some(if *connected { now } else { *since });
            entry.state = if *connected { "connected" } else { "away" };
        }
        entries.insert(device, entry);
    }
    for revocation in revocations {
        let annotations = annotations(revocation);
        let Some(device) = annotations[LABEL].as_str() else {
            continue;
        };
        let state = match revocation.name.split('.').next() {
            Some(QUARANTINE) => "quarantined",
            Some(DECOMMISSION) => "decommissioned",
            _ => continue,
        };
        let entry = entries
            .entry(device.to_owned())
            .or_insert_with(|| Entry::of(device.to_owned(), &annotations, state));
        // What is decommissioned stays that, quarantined before or not.
        if entry.state != "decommissioned" {
            entry.state = state;
        }
    }
    entries.into_values().collect()
}

async fn list(
    admin: &mut Admin,
    namespace: Option<String>,
    format: Format,
) -> Result<ExitCode, Failure> {
    let workloads = get(admin, "Workload", namespace.as_deref().unwrap_or_default()).await?;
    let revocations = get(admin, "Revocation", SYSTEM).await?;
    let status = admin
        .status(StatusRequest {})
        .await
        .map_err(|status| Failure::from_status("who is connected is not known", &status))?
        .into_inner();
    let seen = status
        .sidecars
        .into_iter()
        .map(|s| (s.workload, (s.connected, s.since)))
        .collect();
    let now = moment::unix_now();
    let mut entries = inventory(&workloads, &revocations, &seen, now);
    if let Some(namespace) = &namespace {
        let within = format!("{namespace}/");
        entries.retain(|e| e.device.starts_with(&within));
    }
    let value = json!({"devices": entries.iter().map(|e| json!({
        "device": e.device, "owner": e.owner, "posture": e.posture, "enrolled": e.enrolled,
        "last_seen": e.last_seen.map(moment::rfc3339), "state": e.state,
    })).collect::<Vec<_>>()});
    output::print(format, &value, || {
        if entries.is_empty() {
            return "no devices (enroll one with `meshctl device enroll NAME --owner WHO`)\n"
                .to_owned();
        }
        let mut table = Table::new(&[
            "DEVICE",
            "STATE",
            "OWNER",
            "LAST SEEN",
            "ENROLLED",
            "POSTURE",
        ]);
        for e in &entries {
            let tone = match e.state {
                "connected" => Tone::Good,
                "quarantined" => Tone::Bad,
                _ => Tone::Dim,
            };
            table.row([
                e.device.as_str().into(),
                Cell::toned(e.state, tone),
                e.owner.as_str().into(),
                e.last_seen
                    .map_or_else(|| "-".to_owned(), |at| moment::relative(at, now))
                    .into(),
                e.enrolled.as_str().into(),
                e.posture.as_str().into(),
            ]);
        }
        table.render(output::colour())
    })?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(name: &str, namespace: &str, metadata: &Value) -> StoredResource {
        StoredResource {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            document_json: json!({ "metadata": metadata }).to_string(),
            ..StoredResource::default()
        }
    }

    #[test]
    fn the_inventory_knows_who_is_there_who_is_shut_out_and_who_is_gone() {
        let device = |name: &str| {
            let about = json!({
                "labels": {LABEL: "true"},
                "annotations": {OWNER: "ann", POSTURE: "disk encrypted", ENROLLED: "2026-01-01T00:00:00Z"},
            });
            resource(name, "devices", &about)
        };
        let workloads = [
            device("desk"),
            device("new"),
            device("lost"),
            device("lap"),
            resource("web", "devices", &json!({})),
        ];
        let revoked = |why: &str, of: &str| {
            let name = revocation_name(why, &of.parse().expect("a name"));
            let about = json!({"annotations": {LABEL: of, OWNER: "bob"}});
            resource(&name, SYSTEM, &about)
        };
        let revocations = [
            revoked(QUARANTINE, "devices/lost"),
            revoked(DECOMMISSION, "devices/old"),
            revoked(QUARANTINE, "devices/old"),
            resource("id-other", SYSTEM, &json!({})),
        ];
        let seen = [
            ("devices/desk".to_owned(), (true, 5)),
            ("devices/lap".to_owned(), (false, 7)),
        ];
        let found = inventory(&workloads, &revocations, &seen.into(), 100);
        let told: Vec<_> = found
            .iter()
            .map(|e| (e.device.as_str(), e.state, e.owner.as_str(), e.last_seen))
            .collect();
        assert_eq!(
            told,
            [
                ("devices/desk", "connected", "ann", Some(100)),
                ("devices/lap", "away", "ann", Some(7)),
                ("devices/lost", "quarantined", "ann", None),
                ("devices/new", "enrolled", "ann", None),
                ("devices/old", "decommissioned", "bob", None),
            ]
        );
        assert_eq!(found[0].posture, "disk encrypted");
    }
}
