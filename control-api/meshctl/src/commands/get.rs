//! `meshctl get`: what is stored. With `-o yaml` or `-o json` the documents come in the shape that `apply` accepts.

use std::process::ExitCode;

use mesh_proto::admin::{GetRequest, StoredResource};
use serde_json::{Value, json};

use crate::cli::{Format, GetArgs};
use crate::connect::Admin;
use crate::failure::Failure;
use crate::moment;
use crate::output::{self, Table};

pub(super) async fn run(
    admin: &mut Admin,
    arguments: GetArgs,
    format: Format,
) -> Result<ExitCode, Failure> {
    let named = arguments.name.clone();
    let request = GetRequest {
        kind: arguments.kind.unwrap_or_default(),
        namespace: arguments.namespace.unwrap_or_default(),
        name: arguments.name.unwrap_or_default(),
    };
    let answer = admin
        .get(request)
        .await
        .map_err(|status| Failure::from_status("nothing could be listed", &status))?
        .into_inner();
    if let (Some(name), true) = (named, answer.resources.is_empty()) {
        return Err(Failure::problem(format!("there is no `{name}`"))
            .next("run `meshctl get` without a name to see what there is"));
    }
    let now = moment::unix_now();
    match format {
        Format::Table => output::write(&table(&answer.resources, answer.revision, now))?,
        Format::Yaml => output::write(&yaml(&answer.resources)?)?,
        Format::Json => {
            let items = answer
                .resources
                .iter()
                .map(item)
                .collect::<Result<Vec<_>, _>>()?;
            let value = json!({"revision": answer.revision, "items": items});
            output::print(format, &value, String::new)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table(resources: &[StoredResource], revision: u64, now: i64) -> String {
    if resources.is_empty() {
        return "nothing is stored (try `meshctl apply -f FILE`)\n".to_owned();
    }
    let mut table = Table::new(&[
        "KIND",
        "NAMESPACE",
        "NAME",
        "REV",
        "CHANGED",
        "WHAT IT SAYS",
    ]);
    for r in resources {
        table.row([
            r.kind.as_str().into(),
            r.namespace.as_str().into(),
            r.name.as_str().into(),
            r.revision.to_string().into(),
            moment::relative(r.changed_at, now).into(),
            r.summary.as_str().into(),
        ]);
    }
    format!("{}revision {revision}\n", table.render(output::colour()))
}

/// The stored document, with the revision that an edit of it starts from: `apply` refuses it if somebody was faster.
fn document(resource: &StoredResource) -> Result<Value, Failure> {
    let mut document: Value = parsed(resource)?;
    if let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) {
        let version = resource.revision.to_string();
        metadata.insert("resourceVersion".to_owned(), version.into());
    }
    Ok(document)
}

fn parsed(resource: &StoredResource) -> Result<Value, Failure> {
    serde_json::from_str(&resource.document_json).map_err(|error| {
        Failure::problem(format!(
            "the control API sent a {} {}/{} that is no JSON",
            resource.kind, resource.namespace, resource.name
        ))
        .why(error)
        .next("use a meshctl of the control API's version (`meshctl --version`)")
    })
}

fn item(resource: &StoredResource) -> Result<Value, Failure> {
    Ok(json!({
        "kind": resource.kind,
        "namespace": resource.namespace,
        "name": resource.name,
        "revision": resource.revision,
        "changed_at": moment::rfc3339(resource.changed_at),
        "author": resource.author,
        "document": document(resource)?,
    }))
}

fn yaml(resources: &[StoredResource]) -> Result<String, Failure> {
    let documents = resources
        .iter()
        .map(|r| output::yaml(&document(r)?))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(documents.join("---\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(name: &str) -> StoredResource {
        StoredResource {
            kind: "AuthorizationPolicy".into(),
            namespace: "demo".into(),
            name: name.into(),
            revision: 7,
            changed_at: 40,
            author: "uid:0".into(),
            document_json: r#"{"kind":"AuthorizationPolicy","metadata":{"name":"x"}}"#.into(),
            summary: "ALLOW ".repeat(40),
        }
    }

    #[test]
    fn the_table_fits_and_says_when() {
        let text = table(&[stored("orders-callers")], 9, 100);
        assert!(
            text.lines().all(|l| l.chars().count() <= output::WIDTH),
            "{text}"
        );
        assert!(
            text.contains("1m ago") && text.ends_with("revision 9\n"),
            "{text}"
        );
    }

    #[test]
    fn documents_come_back_as_apply_accepts_them() {
        let text = yaml(&[stored("a"), stored("b")]).expect("YAML");
        assert_eq!(text.matches("---\n").count(), 1);
        assert!(text.contains("kind: AuthorizationPolicy"), "{text}");
    }

    #[test]
    fn a_document_that_is_no_json_is_named() {
        let mut broken = stored("a");
        broken.document_json = "{".into();
        let failure = yaml(&[broken]).expect_err("refused");
        assert!(failure.summary().contains("demo/a"));
    }
}
