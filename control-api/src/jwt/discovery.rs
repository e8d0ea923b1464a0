//! OpenID Connect discovery of the keys: for clouds and services that take JWT-SVIDs as tokens of an OpenID provider.

use serde_json::json;

/// Where the discovery document is.
pub const CONFIGURATION_PATH: &str = "/.well-known/openid-configuration";
/// Where the keys are.
pub const KEYS_PATH: &str = "/keys";

/// The discovery document of `issuer`.
pub fn configuration(issuer: &str) -> String {
    json!({
        "issuer": issuer,
        "jwks_uri": format!("{issuer}{KEYS_PATH}"),
        // The specification demands it; there is no such endpoint, tokens are asked for by their subjects alone.
        "authorization_endpoint": format!("{issuer}/no-authorization"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
    .to_string()
}

/// An issuer URL: `https://` (`http://` to a loopback address), a host, no query, fragment, user or trailing slash.
///
/// # Errors
/// What is wrong.
pub fn parse_issuer(text: &str) -> Result<String, String> {
    let rest = match text.split_once("://") {
        Some(("https", rest)) => rest,
        Some(("http", rest)) if is_loopback(rest) => rest,
        _ => return Err(format!("'{text}' is not an https:// URL")),
    };
    let host = rest.split('/').next().unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_graphic() && !"?#@\\\"<>".contains(c);
    if host.is_empty() || rest.ends_with('/') || !rest.chars().all(is_plain) {
        return Err(format!(
            "'{text}' is not an issuer: a host and path without user, query, fragment and trailing slash"
        ));
    }
    Ok(text.to_owned())
}

fn is_loopback(rest: &str) -> bool {
    let authority = rest.split('/').next().unwrap_or_default();
    ["127.0.0.1", "[::1]", "localhost"]
        .iter()
        .any(|host| match authority.strip_prefix(host) {
            Some(port) => port.is_empty() || port.starts_with(':'),
            None => false,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuers_are_https_urls_and_the_keys_are_below_them() {
        for (text, good) in [
            ("https://mesh.example", true),
            ("https://mesh.example:8443/a/b", true),
            ("http://127.0.0.1:9000", true),
            ("http://mesh.example", false),
            ("http://127.0.0.1.example", false),
            ("https://mesh.example/", false),
            ("https://", false),
            ("https:///x", false),
            ("https://a@b", false),
            ("https://a?b", false),
            ("https://a b", false),
            ("mesh.example", false),
        ] {
            assert_eq!(parse_issuer(text).is_ok(), good, "{text}");
        }
        let text = configuration("https://mesh.example/m");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["jwks_uri"], "https://mesh.example/m/keys");
        assert_eq!(value["issuer"], "https://mesh.example/m");
    }
}
