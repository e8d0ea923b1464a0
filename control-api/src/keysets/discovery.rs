//! Finding an issuer's keys by OpenID Connect Discovery 1.0 §4, with the issuer compared exactly (§4.3).

use std::time::Duration;

use mesh_auth::claims::{self, Limits};

use crate::fetch::{Fetch, Fetched, Fetcher, Url};

/// Largest discovery document, bytes.
const MAX_BYTES: usize = 64 << 10;

/// The address of the discovery document of `issuer`.
pub(super) fn document_of(issuer: &str) -> Result<Url, String> {
    // §4.1: a terminating slash goes before the well-known part is appended.
    let base = issuer.strip_suffix('/').unwrap_or(issuer);
    if base.contains('?') {
        return Err("issuer: a query is not allowed where keys are found by discovery".into());
    }
    Url::parse(&format!("{base}/.well-known/openid-configuration")).map_err(|e| {
        format!("issuer: {e}; keys are found by discovery only at a URL, else give jwksUri")
    })
}

/// Asks the issuer where its keys are.
pub(super) async fn jwks_uri(
    fetcher: &Fetcher,
    issuer: &str,
    timeout: Duration,
) -> Result<Url, String> {
    let mut fetch = Fetch::get(document_of(issuer)?);
    fetch.timeout = timeout;
    fetch.limit = MAX_BYTES;
    let fetched = fetcher.fetch(&fetch).await.map_err(|e| e.to_string())?;
    jwks_uri_in(&fetched, issuer).map_err(|e| format!("{}: {e}", fetched.url))
}

fn jwks_uri_in(fetched: &Fetched, issuer: &str) -> Result<Url, String> {
    if fetched.status != 200 {
        return Err(format!(
            "the discovery document was answered with status {}",
            fetched.status.as_u16()
        ));
    }
    let document = claims::parse_within(&fetched.body, Limits::KEY_SET)
        .map_err(|e| format!("the discovery document is not JSON: {e}"))?;
    if document.string("issuer") != Some(issuer) {
        return Err(format!(
            "the discovery document is of another issuer than '{issuer}'"
        ));
    }
    let uri = document
        .string("jwks_uri")
        .ok_or("the discovery document has no jwks_uri")?;
    Url::parse(uri).map_err(|e| format!("jwks_uri of the discovery document: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Fetched {
        Fetched {
            status: http::StatusCode::from_u16(status).unwrap(),
            headers: http::HeaderMap::new(),
            body: body.to_owned().into(),
            url: Url::parse("https://a.example/").unwrap(),
        }
    }

    #[test]
    fn the_document_is_below_the_issuer() {
        for issuer in ["https://a.example/realm", "https://a.example/realm/"] {
            assert_eq!(
                document_of(issuer).unwrap().to_string(),
                "https://a.example/realm/.well-known/openid-configuration"
            );
        }
        for issuer in ["accounts.example", "https://a.example/?x", "urn:a"] {
            assert!(document_of(issuer).is_err(), "{issuer}");
        }
    }

    #[test]
    fn only_the_issuers_own_document_counts() {
        let good = r#"{"issuer":"https://a.example","jwks_uri":"https://k.example/keys"}"#;
        let issuer = "https://a.example";
        assert_eq!(
            jwks_uri_in(&answer(200, good), issuer).unwrap().to_string(),
            "https://k.example/keys"
        );
        for (status, body) in [
            (404, good),
            (204, ""),
            (200, "<html>"),
            (
                200,
                r#"{"issuer":"https://a.example/","jwks_uri":"https://k.example/keys"}"#,
            ),
            (
                200,
                r#"{"issuer":"https://b.example","jwks_uri":"https://k.example/keys"}"#,
            ),
            (200, r#"{"jwks_uri":"https://k.example/keys"}"#),
            (200, r#"{"issuer":"https://a.example"}"#),
            (
                200,
                r#"{"issuer":"https://a.example","jwks_uri":"file:///etc/passwd"}"#,
            ),
        ] {
            assert!(
                jwks_uri_in(&answer(status, body), issuer).is_err(),
                "{status} {body}"
            );
        }
    }
}
