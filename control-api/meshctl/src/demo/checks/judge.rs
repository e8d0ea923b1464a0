//! What an answer means. Pure.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use serde_json::Value;

use crate::demo::app;
use crate::demo::client::Answer;
use crate::demo::issuer;
use crate::demo::wire::Seen;

/// Header by which an application is told who calls.
const XFCC: &str = "x-forwarded-client-cert";

/// What happened, why, and whether that is as it should be.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) ok: bool,
    pub(super) got: String,
    pub(super) why: String,
}

fn good(got: impl Into<String>, why: impl Into<String>) -> Outcome {
    Outcome {
        ok: true,
        got: got.into(),
        why: why.into(),
    }
}

fn bad(got: impl Into<String>, why: impl Into<String>) -> Outcome {
    Outcome {
        ok: false,
        ..good(got, why)
    }
}

/// The text after a URI's last `/`, for tables.
fn short(id: &str) -> &str {
    id.rsplit('/').next().unwrap_or(id)
}

/// What the application was told of its caller: one element that names exactly `caller`.
fn told(app: &Value, caller: &str) -> Result<(), String> {
    let Some(header) = app["headers"][XFCC].as_str() else {
        return Err(format!("the app got no {XFCC}"));
    };
    let named: Vec<&str> = header
        .split([';', ','])
        .filter_map(|part| part.trim().strip_prefix("URI="))
        .collect();
    if named == [caller] {
        Ok(())
    } else {
        Err(format!("the app was told {header}"))
    }
}

/// The thumbprint (RFC 8705 §3.1) of the caller's certificate, of which the application was told the digest.
pub(super) fn thumbprint(app: &Value) -> Result<String, String> {
    let header = app["headers"][XFCC].as_str().unwrap_or_default();
    let mut parts = header.split([';', ',']);
    let digest = parts.find_map(|part| part.trim().strip_prefix("Hash="));
    let bytes: Option<Vec<u8>> = digest
        .filter(|digest| digest.is_ascii() && digest.len() == 64)
        .and_then(|digest| {
            let each = (0..32).map(|i| u8::from_str_radix(&digest[2 * i..2 * i + 2], 16).ok());
            each.collect()
        });
    let bytes = bytes.ok_or_else(|| format!("the app was told no digest: {header:?}"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// An allowed call whose application was told the caller.
pub(super) fn told_caller(answer: Result<Answer, String>, app: &str, caller: &str) -> Outcome {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return bad(error, "no answer at all"),
    };
    let json = answer.json();
    if answer.status != StatusCode::OK || json["app"] != app {
        return bad(
            format!("{}: {}", answer.status.as_u16(), answer.gist()),
            reason(&answer),
        );
    }
    match told(&json, caller) {
        Ok(()) => good(
            format!("200, caller {}", short(caller)),
            format!("policy {app}-callers allows it; the certificate proved {caller}"),
        ),
        Err(error) => bad("200, but the caller is not known", error),
    }
}

/// A call with a forged claim.
pub(super) fn claim_removed(answer: Result<Answer, String>, caller: &str, forged: &str) -> Outcome {
    if let Ok(answer) = &answer
        && String::from_utf8_lossy(&answer.body).contains(forged)
    {
        return bad(
            format!("orders was told of {}", short(forged)),
            "the forged header reached the app",
        );
    }
    match told_caller(answer, "orders", caller) {
        outcome if outcome.ok => good(
            format!("removed; caller {}", short(caller)),
            "identity headers from applications are removed before anything else looks at them",
        ),
        outcome => outcome,
    }
}

/// A call that policy must deny.
pub(super) fn denied(answer: Result<Answer, String>, app: &str) -> Outcome {
    match answer {
        Ok(answer) if answer.json()["app"] == app => bad(
            format!("{}: the app answered", answer.status.as_u16()),
            "nothing denied it",
        ),
        Ok(answer) if answer.status == StatusCode::FORBIDDEN => good(
            "403",
            format!("no ALLOW policy of {app} names web{}", said(&answer)),
        ),
        Ok(answer) => bad(
            format!("{}: {}", answer.status.as_u16(), answer.gist()),
            reason(&answer),
        ),
        Err(error) => bad(error, "a denial is an answer, not a broken connection"),
    }
}

/// A call that the first application made to the second.
pub(super) fn called_on(answer: Result<Answer, String>, caller: &str) -> Outcome {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return bad(error, "web's own call failed"),
    };
    let json = answer.json();
    let payments = &json["payments"];
    match payments["status"].as_u64() {
        Some(200) => match told(&payments["answer"], caller) {
            Ok(()) => good(
                format!("200, caller {}", short(caller)),
                format!("policy payments-callers allows it; the certificate proved {caller}"),
            ),
            Err(error) => bad("200, but the caller is not known", error),
        },
        Some(status) => bad(status.to_string(), "payments' side refused orders"),
        None => bad(
            format!("{}: {}", answer.status.as_u16(), answer.gist()),
            reason(&answer),
        ),
    }
}

/// A plaintext call that must not reach the application.
pub(super) fn refused(answer: Result<Answer, String>) -> Outcome {
    let why = "PeerAuthentication strict: mutual TLS or nothing";
    match answer {
        Ok(answer) if answer.status.is_success() || answer.json()["app"].is_string() => bad(
            format!("{}: the app answered", answer.status.as_u16()),
            "plaintext was let in",
        ),
        Ok(answer) => good(
            format!("refused with {}", answer.status.as_u16()),
            format!("{why}{}", said(&answer)),
        ),
        Err(error) if error.starts_with("no connection") || error.starts_with("no answer") => {
            bad(error, "nobody was there to refuse it")
        }
        Err(_) => good("connection closed", why),
    }
}

/// A TLS client without a certificate; `Ok` holds how it was turned away.
pub(super) fn turned_away(knocked: Result<String, String>) -> Outcome {
    match knocked {
        Ok(how)
            if how.contains("invalid peer certificate") || how.contains("InvalidCertificate") =>
        {
            bad(how, "the port did not prove to be orders")
        }
        Ok(how) => good(
            format!("refused: {}", how.replace("received fatal alert: ", "")),
            "without a certificate there is no identity to decide on",
        ),
        Err(error) => bad(error, "it should have been refused in the handshake"),
    }
}

/// The echo: bytes that came back and whether they were the same.
pub(super) fn echoed(back: Result<(usize, bool), String>) -> Outcome {
    match back {
        Ok((n, true)) => good(
            format!("{} KiB back, then the end", n / 1024),
            "carried in a CONNECT stream over mTLS",
        ),
        Ok((n, false)) => bad(format!("{n} bytes back"), "not what was sent"),
        Err(error) => bad(error, "the echo did not come back"),
    }
}

/// The health service's verdict.
pub(super) fn healthy(status: Result<i32, String>) -> Outcome {
    match status {
        Ok(1) => good("SERVING", "h2 end to end, trailers included"),
        Ok(other) => bad(
            format!("status {other}"),
            "the answer was changed on the way",
        ),
        Err(error) => bad(error, "the call failed"),
    }
}

/// A server's greeting, how long it took, and its last word.
pub(super) fn greeted(greeting: Result<(String, Duration, String), String>) -> Outcome {
    match greeting {
        Ok((first, waited, last)) if first == app::BANNER && last == app::GOODBYE => good(
            format!("\"{}\" after {} ms", first.trim_end(), waited.as_millis()),
            "nobody waits for the client to speak",
        ),
        Ok((first, _, last)) => bad(
            format!("{first:?} and {last:?}"),
            "not what the service says",
        ),
        Err(error) => bad(error, "the greeting did not come"),
    }
}

/// Whether the bytes sent after an Upgrade came back.
pub(super) fn upgraded(back: Result<bool, String>) -> Outcome {
    match back {
        Ok(true) => good(
            "101, frame came back",
            "carried as an extended CONNECT over mTLS",
        ),
        Ok(false) => bad(
            "101, other bytes came back",
            "the frame was changed on the way",
        ),
        Err(error) => bad(error, "the upgrade failed"),
    }
}

/// A good token: the application was told the subject.
pub(super) fn subject_told(answer: Result<Answer, String>) -> Outcome {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return bad(error, "no answer at all"),
    };
    let told = &answer.json()["headers"][issuer::SUBJECT_HEADER];
    match (answer.status, told.as_str()) {
        (StatusCode::OK, Some(issuer::SUBJECT)) => good(
            format!("200, subject {}", issuer::SUBJECT),
            "signature, times, audience and presenter are right",
        ),
        (StatusCode::OK, told) => bad(
            format!("200, subject {told:?}"),
            "orders was not told whom the token speaks of",
        ),
        (status, _) => bad(
            format!("{}: {}", status.as_u16(), answer.gist()),
            reason(&answer),
        ),
    }
}

/// A token that must be refused for `expected`.
pub(super) fn token_refused(answer: Result<Answer, String>, expected: &str, why: &str) -> Outcome {
    let names_it = |challenge: &str| challenge.contains("error=\"invalid_token\"");
    unauthorized(answer, expected, names_it, why)
}

/// No token where one is needed: the challenge must not call it an error (RFC 6750 section 3.1).
pub(super) fn token_missing(answer: Result<Answer, String>) -> Outcome {
    let names_none =
        |challenge: &str| challenge.starts_with("Bearer") && !challenge.contains("error=");
    let why = "this path demands a token, every other goes without";
    unauthorized(answer, "token_missing", names_none, why)
}

/// 401 for the reason `expected`, with a challenge that is as it should be.
fn unauthorized(
    answer: Result<Answer, String>,
    expected: &str,
    is_right: impl Fn(&str) -> bool,
    why: &str,
) -> Outcome {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return bad(error, "a refusal is an answer, not a broken connection"),
    };
    let code = answer.header("postern-reason");
    let challenge = answer.header("www-authenticate");
    let got = format!("{} {code}", answer.status.as_u16());
    if answer.status != StatusCode::UNAUTHORIZED || code != expected {
        bad(got, reason(&answer))
    } else if !is_right(challenge) {
        bad(got, format!("the challenge is {challenge:?}"))
    } else {
        good(got, why)
    }
}

/// A token that was revoked: how long its open stream lived on, and what it is told afterwards.
pub(super) fn revoked(ended: Result<Duration, String>, then: Result<Answer, String>) -> Outcome {
    let took = match ended {
        Ok(took) => took,
        Err(error) => return bad(error, "a revoked token must lose its open streams"),
    };
    match token_refused(then, "token_revoked", "") {
        outcome if outcome.ok => good(
            format!("ended after {}; then {}", micros(took), outcome.got),
            "the revocation was pushed to the sidecar, which ended the stream itself",
        ),
        outcome => outcome,
    }
}

/// Two medians.
pub(super) fn latency(
    through: Result<Duration, String>,
    straight: Result<Duration, String>,
    measured: usize,
) -> Outcome {
    match (through, straight) {
        (Ok(through), Ok(straight)) => good(
            format!("p50 {} with, {} without", micros(through), micros(straight)),
            format!(
                "two sidecars and mTLS add {} ({measured} requests each)",
                micros(through.saturating_sub(straight))
            ),
        ),
        (Err(error), _) => bad(
            format!("with: {error}"),
            "a request through the mesh failed",
        ),
        (_, Err(error)) => bad(
            format!("without: {error}"),
            "a request straight to the app failed",
        ),
    }
}

/// What the wire showed.
pub(super) fn wire(seen: Result<Seen, String>) -> Outcome {
    let seen = match seen {
        Ok(seen) => seen,
        Err(error) => return bad(error, "the wire could not be looked at"),
    };
    let [inside, outside] = seen.hits[..] else {
        return bad("no count", "the wire was looked at for other texts");
    };
    let packets = seen.packets;
    match (inside, outside) {
        _ if seen.mesh_packets == 0 => bad(
            format!("{packets} packets, none to a mesh port"),
            "traffic took another way",
        ),
        (_, 0) => bad(
            "the outsider's plaintext was not seen either",
            "the look at the wire proves nothing",
        ),
        (0, _) => good(
            format!("none in {packets} packets"),
            format!(
                "{} were mTLS between sidecars; the outsider's own plaintext was seen",
                seen.mesh_packets
            ),
        ),
        (n, _) => bad(
            format!("plaintext in {n} of {packets} packets"),
            "something went round the sidecars",
        ),
    }
}

fn micros(time: Duration) -> String {
    match time.as_micros() {
        us if us < 1000 => format!("{us} µs"),
        us => format!("{}.{} ms", us / 1000, us % 1000 / 100),
    }
}

/// The sidecar's own reason, when an answer carries one.
fn reason(answer: &Answer) -> String {
    let json = answer.json();
    for field in ["reason", "detail", "title", "error"] {
        if let Some(text) = json[field].as_str() {
            return text.to_owned();
        }
    }
    format!("answered {}", answer.status)
}

/// ` (reason)`, when an answer carries one.
fn said(answer: &Answer) -> String {
    match answer.headers.get("content-type") {
        Some(kind) if kind.as_bytes().starts_with(b"application/") => {
            format!(" ({})", reason(answer))
        }
        _ if answer.body.is_empty() => String::new(),
        _ => format!(" ({})", answer.gist()),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use serde_json::json;

    use super::*;

    const WEB: &str = "spiffe://td/ns/demo/sa/web";
    const ADMIN: &str = "spiffe://td/ns/demo/sa/admin";

    fn answer(status: u16, body: &Value) -> Result<Answer, String> {
        Ok(Answer {
            status: StatusCode::from_u16(status).expect("a status"),
            headers: HeaderMap::new(),
            body: body.to_string().into(),
        })
    }

    fn mirror(xfcc: &str) -> Value {
        json!({"app": "orders", "headers": {XFCC: xfcc}})
    }

    #[test]
    fn a_thumbprint_is_the_digest_that_the_application_was_told() {
        let told = mirror(&format!("By=x;Hash={}{};URI=y", "00".repeat(31), "ff"));
        let expected = format!("{}P8", "A".repeat(41));
        assert_eq!(thumbprint(&told), Ok(expected));
        for other in ["", "Hash=00", &format!("Hash={}", "z".repeat(64)), "URI=y"] {
            assert!(thumbprint(&mirror(other)).is_err(), "{other}");
        }
    }

    #[test]
    fn an_allowed_call_counts_only_when_exactly_the_caller_was_named() {
        let own = format!("By=spiffe://td/ns/demo/sa/orders;Hash=00;Subject=\"\";URI={WEB}");
        let two = format!("URI={ADMIN},{own}");
        for (case, ok) in [
            (answer(200, &mirror(&own)), true),
            (answer(200, &mirror(&two)), false),
            (answer(200, &mirror(&format!("URI={WEB}2"))), false),
            (answer(200, &json!({"app": "orders", "headers": {}})), false),
            (
                answer(200, &json!({"app": "payments", "headers": {XFCC: own}})),
                false,
            ),
            (answer(403, &mirror(&own)), false),
            (Err("gone".into()), false),
        ] {
            let shown = format!("{case:?}");
            assert_eq!(told_caller(case, "orders", WEB).ok, ok, "{shown}");
        }
        assert!(!claim_removed(answer(200, &mirror(&two)), WEB, ADMIN).ok);
        assert!(claim_removed(answer(200, &mirror(&own)), WEB, ADMIN).ok);
    }

    #[test]
    fn a_denial_is_403_from_somebody_else_than_the_app() {
        for (case, ok) in [
            (
                answer(403, &json!({"reason": "no_allow_policy_matched"})),
                true,
            ),
            (answer(403, &json!({"app": "payments"})), false),
            (answer(200, &json!({"app": "payments"})), false),
            (answer(503, &json!({})), false),
            (Err("reset".into()), false),
        ] {
            let shown = format!("{case:?}");
            assert_eq!(denied(case, "payments").ok, ok, "{shown}");
        }
    }

    #[test]
    fn a_refusal_needs_somebody_who_refuses() {
        for (case, ok) in [
            (answer(403, &json!({})), true),
            (
                Err("connection closed before message completed".into()),
                true,
            ),
            (Err("no connection to 127.0.0.1:1: refused".into()), false),
            (Err("no answer within 10 s".into()), false),
            (answer(200, &json!({})), false),
            (answer(404, &json!({"app": "orders"})), false),
        ] {
            let shown = format!("{case:?}");
            assert_eq!(refused(case).ok, ok, "{shown}");
        }
    }

    #[test]
    fn a_token_is_refused_only_with_its_reason_and_a_challenge() {
        let answer = |status, reason: &'static str, challenge: &'static str| {
            let mut answer = answer(status, &json!({}))?;
            let headers = &mut answer.headers;
            headers.insert("postern-reason", reason.parse().expect("a value"));
            headers.insert("www-authenticate", challenge.parse().expect("a value"));
            Ok(answer)
        };
        let (plain, error) = ("Bearer realm=\"x\"", "Bearer error=\"invalid_token\"");
        for (case, refused, missing) in [
            (answer(401, "token_expired", error), true, false),
            (answer(401, "token_expired", plain), false, false),
            (answer(403, "token_expired", error), false, false),
            (answer(401, "token_malformed", error), false, false),
            (answer(401, "token_missing", plain), false, true),
            (answer(401, "token_missing", error), false, false),
            (answer(200, "", ""), false, false),
            (Err("reset".into()), false, false),
        ] {
            let shown = format!("{case:?}");
            let again = case.as_ref().ok().map(|answer| Answer {
                status: answer.status,
                headers: answer.headers.clone(),
                body: answer.body.clone(),
            });
            assert_eq!(
                token_refused(case, "token_expired", "").ok,
                refused,
                "{shown}"
            );
            let again = again.ok_or_else(|| "reset".to_owned());
            assert_eq!(token_missing(again).ok, missing, "{shown}");
        }
        let late = Duration::from_millis(3);
        let revoked = |ended| super::revoked(ended, answer(401, "token_revoked", error)).ok;
        assert!(revoked(Ok(late)));
        assert!(!revoked(Err("it was still open".into())));
        assert!(!super::revoked(Ok(late), answer(200, "", "")).ok);
    }

    #[test]
    fn the_wire_is_clean_only_when_the_look_at_it_proves_something() {
        let seen = |packets, mesh_packets, inside, outside| {
            Ok(Seen {
                packets,
                mesh_packets,
                hits: vec![inside, outside],
            })
        };
        for (case, ok) in [
            (seen(100, 80, 0, 2), true),
            (seen(100, 80, 1, 2), false),
            (seen(100, 80, 0, 0), false),
            (seen(100, 0, 0, 2), false),
            (Err("no rights".into()), false),
        ] {
            let shown = format!("{case:?}");
            assert_eq!(wire(case).ok, ok, "{shown}");
        }
    }

    #[test]
    fn a_port_that_is_not_orders_did_not_turn_anybody_away() {
        assert!(turned_away(Ok("received fatal alert: CertificateRequired".into())).ok);
        assert!(!turned_away(Ok("invalid peer certificate: UnknownIssuer".into())).ok);
        assert!(!turned_away(Err("it was answered with 9 bytes".into())).ok);
    }
}
