//! The demo's result, for people and for programs.

use serde_json::{Value, json};

use super::checks::Check;
use super::mesh::Mesh;
use crate::failure::Failure;
use crate::output::{self, Cell, Table, Tone};

/// Prints it.
pub(super) fn print(checks: &[Check], mesh: &Mesh, json: bool) -> Result<(), Failure> {
    if json {
        return output::write(&format!("{}\n", value(checks)));
    }
    output::write(&text(checks, mesh.captured, output::colour()))
}

fn value(checks: &[Check]) -> Value {
    json!({
        "ok": checks.iter().all(|c| c.ok),
        "checks": checks.iter().map(|c| json!({
            "name": c.name, "expected": c.expected, "got": c.got, "ok": c.ok,
        })).collect::<Vec<_>>(),
    })
}

fn text(checks: &[Check], captured: bool, colour: bool) -> String {
    let mut table = Table::new(&["", "TRIED", "EXPECTED", "GOT", "WHY"]);
    for c in checks {
        let (mark, tone) = if c.ok {
            ("✓", Tone::Good)
        } else {
            ("✗", Tone::Bad)
        };
        table.row([
            Cell::toned(mark, tone),
            c.tried.into(),
            c.expected.into(),
            Cell::toned(c.got.as_str(), if c.ok { Tone::Plain } else { Tone::Bad }),
            Cell::toned(c.why.as_str(), Tone::Dim),
        ]);
    }
    let failed = checks.iter().filter(|c| !c.ok).count();
    let place = if captured {
        "every workload in its own network namespace, its traffic captured"
    } else {
        "everything on 127.0.0.1 (`--netns`: own namespaces, captured traffic)"
    };
    let end = match failed {
        0 => output::paint(&format!("all {} hold", checks.len()), Tone::Good, colour),
        n => output::paint(
            &format!("{n} of {} do not hold", checks.len()),
            Tone::Bad,
            colour,
        ),
    };
    format!(
        "{}\n{end}: {place}\nplay with it: `meshctl demo --hold`\n",
        table.render(colour)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ok: bool) -> Check {
        Check {
            name: "web-to-orders",
            tried: "web calls orders over HTTP, with a text long enough to be wrapped",
            expected: "200, caller proven to be web",
            got: if ok { "200".into() } else { "no connection to 127.0.0.1:40000: Connection refused (os error 111)".into() },
            why: "AuthorizationPolicy orders-callers lets web in; the app was told spiffe://demo.postern.internal/ns/demo/sa/web".into(),
            ok,
        }
    }

    #[test]
    fn json_has_exactly_the_promised_fields() {
        let value = value(&[check(true), check(false)]);
        assert_eq!(value["ok"], false);
        let fields: Vec<&String> = value["checks"][0]
            .as_object()
            .expect("an object")
            .keys()
            .collect();
        assert_eq!(fields, ["expected", "got", "name", "ok"]);
        assert_eq!(value.as_object().expect("an object").len(), 2);
    }

    #[test]
    fn the_table_fits_and_marks_what_failed() {
        let text = text(&[check(true), check(false)], false, false);
        assert!(
            text.lines().all(|l| l.chars().count() <= output::WIDTH),
            "{text}"
        );
        assert!(
            text.contains('✓') && text.contains('✗') && text.contains("1 of 2 do not hold"),
            "{text}"
        );
    }
}
