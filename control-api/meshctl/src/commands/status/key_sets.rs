//! The part of `meshctl status` about keys of token issuers.

use mesh_proto::admin::KeySetStatus;
use serde_json::{Value, json};

use crate::moment;
use crate::output::{self, Cell, Table, Tone};

/// Keys that nobody confirmed for so long are worth a colour, seconds.
const OLD: i64 = 3_600;

pub(super) fn value(key_sets: &[KeySetStatus], now: i64) -> Vec<Value> {
    let key_set = |k: &KeySetStatus| {
        let is_held = k.fetched_at != 0;
        json!({
            "issuer": k.issuer,
            "jwks_uri": (!k.jwks_uri.is_empty()).then_some(&k.jwks_uri),
            "keys": k.keys,
            "ignored_keys": k.ignored,
            "confirmed_at": is_held.then(|| moment::rfc3339(k.fetched_at)),
            "age_seconds": is_held.then_some((now - k.fetched_at).max(0)),
            "last_error": (!k.last_error.is_empty()).then_some(&k.last_error),
        })
    };
    key_sets.iter().map(key_set).collect()
}

/// Empty where no issuer's keys are fetched.
pub(super) fn table(key_sets: &[KeySetStatus], now: i64, colour: bool) -> String {
    if key_sets.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["ISSUER", "KEYS", "CONFIRMED", "LAST FETCH"]);
    for k in key_sets {
        let confirmed = match k.fetched_at {
            0 => Cell::toned("never: its tokens are refused", Tone::Bad),
            at if now - at > OLD => Cell::toned(moment::relative(at, now), Tone::Warn),
            at => moment::relative(at, now).into(),
        };
        let keys = match k.ignored {
            0 => k.keys.to_string(),
            ignored => format!("{} ({ignored} unusable)", k.keys),
        };
        let last = match k.last_error.as_str() {
            "" if k.fetched_at == 0 => "under way".into(),
            "" => Cell::toned("good", Tone::Good),
            _ => Cell::toned("failed", Tone::Bad),
        };
        table.row([k.issuer.as_str().into(), keys.into(), confirmed, last]);
    }
    let mut text = format!("\n{}", table.render(colour));
    for k in key_sets.iter().filter(|k| !k.last_error.is_empty()) {
        let line = format!("keys of {}: {}\n", k.issuer, k.last_error);
        text.push_str(&output::paint(&line, Tone::Bad, colour));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_shown_with_their_age_and_last_error() {
        let good = KeySetStatus {
            issuer: "https://a.example".into(),
            keys: 2,
            fetched_at: 940,
            ..KeySetStatus::default()
        };
        let never = KeySetStatus {
            issuer: "https://b.example".into(),
            last_error: "cannot connect".into(),
            ..KeySetStatus::default()
        };
        let text = table(&[good.clone(), never.clone()], 1_000, false);
        for part in [
            "https://a.example",
            "1m ago",
            "never: its tokens are refused",
            "keys of https://b.example: cannot connect",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json = value(&[good, never], 1_000);
        assert_eq!(json[0]["age_seconds"], 60);
        assert_eq!(json[1]["confirmed_at"], Value::Null);
        assert_eq!(table(&[], 0, false), "");
    }
}
