//! The SPIFFE bundle format (SPIFFE Trust Domain and Bundle §4): a JWK set with roots and keys of one trust domain.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mesh_auth::TrustDomain;
use mesh_auth::bundle::TrustBundle;
use mesh_auth::claims::{self, Object, Value};
use mesh_proto::mesh;
use rustls_pki_types::CertificateDer;
use serde_json::json;

/// Largest bundle, bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// Entries that are looked at.
const MAX_ENTRIES: usize = 1_000;
/// Members of a public JWK that are handed on; private ones never are.
const PUBLIC_MEMBERS: [&str; 7] = ["kty", "kid", "alg", "crv", "x", "y", "n"];

/// What a bundle says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BundleDocument {
    /// Roots, DER.
    pub x509_authorities: Vec<Vec<u8>>,
    /// Keys of JWT-SVIDs: a JWK set, JSON; empty without any.
    pub jwt_authorities: String,
    /// `spiffe_sequence`.
    pub sequence: Option<u64>,
    /// `spiffe_refresh_hint`, seconds.
    pub refresh_hint: Option<u32>,
}

/// Reads a bundle of `domain`. Entries of unknown type or use, and without what their use needs, are ignored.
///
/// # Errors
/// It is no bundle, or one of its roots cannot be used.
pub fn read(bytes: &[u8], domain: &TrustDomain) -> Result<BundleDocument, String> {
    if bytes.len() > MAX_BYTES {
        return Err(format!("{} bytes are more than {MAX_BYTES}", bytes.len()));
    }
    let document = claims::parse_within(bytes, claims::Limits::KEY_SET)
        .map_err(|e| format!("not a JSON object: {e}"))?;
    let entries = document
        .get("keys")
        .and_then(Value::as_array)
        .ok_or("keys: missing or no array")?;
    if entries.len() > MAX_ENTRIES {
        return Err(format!(
            "keys: {} are more than {MAX_ENTRIES}",
            entries.len()
        ));
    }
    let mut read = BundleDocument {
        sequence: number(&document, "spiffe_sequence")?,
        refresh_hint: number(&document, "spiffe_refresh_hint")?
            .map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
        ..BundleDocument::default()
    };
    let mut keys = Vec::new();
    for entry in entries.iter().filter_map(Value::as_object) {
        match (entry.string("kty"), entry.string("use")) {
            (Some("EC" | "RSA"), Some("x509-svid")) => {
                // Of several certificates the first is the root; without any there is none.
                let first = entry.get("x5c").and_then(Value::as_array);
                let Some(text) = first.and_then(<[_]>::first).and_then(Value::as_str) else {
                    continue;
                };
                let index = read.x509_authorities.len();
                let der = STANDARD
                    .decode(text)
                    .map_err(|e| format!("root {index}: x5c: {e}"))?;
                read.x509_authorities.push(der);
            }
            (Some("EC" | "RSA"), Some("jwt-svid")) if entry.string("kid").is_some() => {
                keys.push(public(entry));
            }
            _ => {}
        }
    }
    let roots = read.x509_authorities.iter();
    let roots = roots.map(|der| CertificateDer::from(der.clone())).collect();
    TrustBundle::new(domain.clone(), roots, 0).map_err(|e| e.to_string())?;
    if !keys.is_empty() {
        read.jwt_authorities = json!({ "keys": keys }).to_string();
    }
    Ok(read)
}

fn number(document: &Object, name: &str) -> Result<Option<u64>, String> {
    let Some(value) = document.get(name) else {
        return Ok(None);
    };
    let number = value.as_i64().and_then(|n| u64::try_from(n).ok());
    number
        .map(Some)
        .ok_or_else(|| format!("{name}: not a whole number above 0"))
}

fn public(entry: &Object) -> serde_json::Value {
    let mut key = serde_json::Map::new();
    for name in PUBLIC_MEMBERS.iter().chain(&["e"]) {
        if let Some(text) = entry.string(name) {
            key.insert((*name).to_owned(), text.into());
        }
    }
    key.insert("use".into(), "jwt-svid".into());
    key.into()
}

/// Writes a bundle as others read it. It cannot say whom a root vouches for: roots that do for some namespaces stay out of it.
pub fn write(bundle: &mesh::TrustBundle, refresh_hint: u32) -> String {
    let root = |der: &Vec<u8>| {
        let mut entry = spki(der).unwrap_or_default();
        entry.insert("use".into(), "x509-svid".into());
        entry.insert("x5c".into(), json!([STANDARD.encode(der)]));
        serde_json::Value::from(entry)
    };
    let others = bundle.workload_authorities.iter();
    let others = others.filter(|_| bundle.workload_any_namespace);
    let roots = bundle.x509_authorities.iter().chain(others);
    let mut keys: Vec<_> = roots.map(root).collect();
    let jwt = serde_json::from_str::<serde_json::Value>(&bundle.jwt_authorities);
    if let Ok(serde_json::Value::Array(entries)) = jwt.map(|mut set| set["keys"].take()) {
        keys.extend(entries);
    }
    json!({
        "keys": keys,
        "spiffe_sequence": bundle.sequence,
        "spiffe_refresh_hint": refresh_hint,
    })
    .to_string()
}

/// The public key of a certificate as members of a JWK.
fn spki(der: &[u8]) -> Option<serde_json::Map<String, serde_json::Value>> {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use x509_parser::prelude::FromDer as _;
    use x509_parser::public_key::PublicKey;
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(der).ok()?;
    let mut members = serde_json::Map::new();
    let mut member = |name: &str, text: String| members.insert(name.to_owned(), text.into());
    match certificate.public_key().parsed().ok()? {
        PublicKey::EC(point) => {
            let (curve, size) = match point.key_size() {
                256 => ("P-256", 32),
                384 => ("P-384", 48),
                _ => ("P-521", 66),
            };
            let coordinates = point.data().strip_prefix(&[4])?;
            let (x, y) = coordinates.split_at_checked(size)?;
            member("kty", "EC".into());
            member("crv", curve.into());
            member("x", URL_SAFE_NO_PAD.encode(x));
            member("y", URL_SAFE_NO_PAD.encode(y));
        }
        PublicKey::RSA(key) => {
            let trimmed = |bytes: &[u8]| {
                let zeros = bytes.iter().take_while(|b| **b == 0).count();
                URL_SAFE_NO_PAD.encode(&bytes[zeros..])
            };
            member("kty", "RSA".into());
            member("n", trimmed(key.modulus));
            member("e", trimmed(key.exponent));
        }
        _ => return None,
    }
    Some(members)
}

#[cfg(test)]
mod tests;
