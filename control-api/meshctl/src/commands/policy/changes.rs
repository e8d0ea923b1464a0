//! What two JSON documents have differently, field by field.

use serde::Serialize;
use serde_json::Value;

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Change {
    /// Path of the field.
    pub(super) path: String,
    /// What it was; `None`: it was not there.
    pub(super) before: Option<Value>,
    /// What it is; `None`: it is not there.
    pub(super) after: Option<Value>,
}

/// The fields that differ, in the order of the documents.
pub(super) fn between(before: Option<&Value>, after: Option<&Value>) -> Vec<Change> {
    let mut changes = Vec::new();
    walk(String::new(), before, after, &mut changes);
    changes
}

fn walk(path: String, before: Option<&Value>, after: Option<&Value>, changes: &mut Vec<Change>) {
    match (before, after) {
        (a, b) if a == b => {}
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let added = b.keys().filter(|key| !a.contains_key(*key));
            for key in a.keys().chain(added) {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                walk(path, a.get(key), b.get(key), changes);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.iter().chain(b).all(is_scalar) => {
            let gone = a
                .iter()
                .filter(|v| !b.contains(v))
                .cloned()
                .collect::<Vec<_>>();
            let come = b
                .iter()
                .filter(|v| !a.contains(v))
                .cloned()
                .collect::<Vec<_>>();
            let some = |values: Vec<Value>| (!values.is_empty()).then_some(Value::Array(values));
            let (before, after) = match (gone.is_empty(), come.is_empty()) {
                // The same in another order, or as often.
                (true, true) => (Some(Value::Array(a.clone())), Some(Value::Array(b.clone()))),
                _ => (some(gone), some(come)),
            };
            changes.push(Change {
                path,
                before,
                after,
            });
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            for i in 0..a.len().max(b.len()) {
                walk(format!("{path}[{i}]"), a.get(i), b.get(i), changes);
            }
        }
        (a, b) => changes.push(Change {
            path,
            before: a.cloned(),
            after: b.cloned(),
        }),
    }
}

fn is_scalar(value: &Value) -> bool {
    !value.is_array() && !value.is_object()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn changes_are_named_by_their_field() {
        let before = json!({"spec": {"action": "ALLOW", "rules": [{"to": [{"operation": {"ports": ["80", "81"]}}]}], "owner": "a"}});
        let after = json!({"spec": {"action": "DENY", "rules": [{"to": [{"operation": {"ports": ["81", "82"]}}]}, {}]}});
        let changes = between(Some(&before), Some(&after));
        let shown: Vec<_> = changes
            .iter()
            .map(|c| (c.path.as_str(), c.before.clone(), c.after.clone()))
            .collect();
        assert_eq!(
            shown,
            [
                ("spec.action", Some(json!("ALLOW")), Some(json!("DENY"))),
                ("spec.owner", Some(json!("a")), None),
                (
                    "spec.rules[0].to[0].operation.ports",
                    Some(json!(["80"])),
                    Some(json!(["82"]))
                ),
                ("spec.rules[1]", None, Some(json!({}))),
            ]
        );
        assert!(between(Some(&before), Some(&before)).is_empty());
    }
}
