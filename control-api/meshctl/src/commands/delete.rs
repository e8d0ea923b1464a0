//! `meshctl delete`: one document out of the store.

use std::process::ExitCode;

use mesh_proto::admin::DeleteRequest;
use serde_json::json;

use crate::cli::{DeleteArgs, Format};
use crate::connect::Admin;
use crate::failure::Failure;
use crate::output;

pub(super) async fn run(
    admin: &mut Admin,
    arguments: DeleteArgs,
    format: Format,
) -> Result<ExitCode, Failure> {
    let DeleteArgs {
        kind,
        name,
        namespace,
        if_revision,
    } = arguments;
    let request = DeleteRequest {
        kind: kind.clone(),
        namespace: namespace.clone(),
        name: name.clone(),
        if_revision: if_revision.unwrap_or(0),
    };
    let answer = admin.delete(request).await.map_err(|status| {
        Failure::from_status(
            &format!("{kind} {namespace}/{name} was not deleted"),
            &status,
        )
    })?;
    let revision = answer.into_inner().revision;
    let value = json!({"kind": kind, "namespace": namespace, "name": name, "outcome": "deleted", "revision": revision});
    output::print(format, &value, || {
        format!("{kind} {namespace}/{name} deleted (revision {revision})\n")
    })?;
    Ok(ExitCode::SUCCESS)
}
