//! An authority and two certificates for the peers: ECDSA P-256 with SPIFFE IDs, as the mesh's own are.

use std::path::Path;

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use time::{Duration, OffsetDateTime};

use crate::load::callers::Authority;

/// The name that the server's certificate is for.
pub(super) const SERVER_NAME: &str = "server.bench";
pub(super) const AUTHORITY_FILE: &str = "authority.pem";
const AUTHORITY_KEY_FILE: &str = "authority.key";
pub(super) const CLIENT_FILE: &str = "client.pem";
pub(super) const SERVER_FILE: &str = "server.pem";

const CLIENT_NAME: &str = "client.bench";
/// Organization of both leafs, for proxies that cannot look at URI names.
pub(super) const ORGANIZATION: &str = "mesh";
pub(super) const CLIENT_ID: &str = "spiffe://bench.postern/ns/bench/sa/client";
pub(super) const SERVER_ID: &str = "spiffe://bench.postern/ns/bench/sa/server";

/// Writes the authority's certificate and key, and a file with certificate and key for each side.
pub(super) fn write(folder: &Path) -> anyhow::Result<()> {
    let mut params = params("bench authority", Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let authority = CertifiedIssuer::self_signed(params, key)?;
    save(folder, AUTHORITY_FILE, &authority.pem())?;
    save(folder, AUTHORITY_KEY_FILE, &authority.key().serialize_pem())?;
    for (file, name, id, usage) in [
        (
            CLIENT_FILE,
            CLIENT_NAME,
            CLIENT_ID,
            ExtendedKeyUsagePurpose::ClientAuth,
        ),
        (
            SERVER_FILE,
            SERVER_NAME,
            SERVER_ID,
            ExtendedKeyUsagePurpose::ServerAuth,
        ),
    ] {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = self::params(name, vec![name.to_owned()])?;
        params.subject_alt_names.push(SanType::URI(id.try_into()?));
        params
            .distinguished_name
            .push(DnType::OrganizationName, ORGANIZATION);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&key, &authority)?;
        save(
            folder,
            file,
            &format!("{}{}", leaf.pem(), key.serialize_pem()),
        )?;
    }
    Ok(())
}

fn params(name: &str, alternative: Vec<String>) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(alternative)?;
    params.distinguished_name.push(DnType::CommonName, name);
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::hours(1);
    params.not_after = now + Duration::days(1);
    Ok(params)
}

/// Who signs the certificates of clients that come straight to a peer's server side.
pub(super) fn authority(folder: &Path) -> anyhow::Result<Authority> {
    let [certificate, key] = [AUTHORITY_FILE, AUTHORITY_KEY_FILE].map(|file| folder.join(file));
    Authority::read(&certificate, &key, CLIENT_ID)
}

/// The folder is a temporary one that only this user may enter.
fn save(folder: &Path, file: &str, text: &str) -> anyhow::Result<()> {
    std::fs::write(folder.join(file), text).with_context(|| format!("{file} cannot be written"))
}
