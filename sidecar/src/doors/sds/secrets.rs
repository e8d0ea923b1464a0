//! Names and what is behind them.
//!
//! | name | secret |
//! |---|---|
//! | `default`, or the workload's SPIFFE ID | its certificate and key |
//! | `ROOTCA`, or the SPIFFE ID of the own trust domain | the own trust domain's roots |
//! | the SPIFFE ID of another trust domain | that one's roots |
//! | `ALL` | every trust domain's roots, each good for its own domain only |

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mesh_auth::Secret;
use mesh_auth::bundle::TrustBundle;
use mesh_proto::Any;
use mesh_proto::envoy::config::core::v3::data_source::Specifier;
use mesh_proto::envoy::config::core::v3::{DataSource, TypedExtensionConfig};
use mesh_proto::tls::secret::Type;
use mesh_proto::tls::spiffe_cert_validator_config::TrustDomain as ValidatedDomain;
use mesh_proto::tls::{self, CertificateValidationContext, TlsCertificate};
use prost::Message as _;

use crate::doors::material::{AppSvid, Material};

/// The type of every resource here.
pub const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

const VALIDATOR_TYPE_URL: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";
/// Envoy's name of the validator.
const VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";
const CERTIFICATE: &str = "default";
const OWN_ROOTS: &str = "ROOTCA";
const ALL_ROOTS: &str = "ALL";

/// A secret as it is sent.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Named {
    pub(super) name: String,
    /// Changes when the content does.
    pub(super) version: String,
    pub(super) resource: Any,
}

/// Every name that there is something behind.
pub(super) fn names(material: &Material) -> Vec<String> {
    let mut names = vec![OWN_ROOTS.to_owned(), ALL_ROOTS.to_owned()];
    if let Some(svid) = &material.svid {
        names.extend([CERTIFICATE.to_owned(), svid.id.to_string()]);
    }
    names.extend(material.bundles.iter().map(domain_id));
    names
}

/// What is behind a name.
///
/// # Errors
/// Why there is nothing.
pub(super) fn find(name: &str, material: &Material) -> Result<Named, &'static str> {
    let svid = material.svid.as_deref();
    let own_id = svid.map(|svid| svid.id.as_str());
    if name == CERTIFICATE || Some(name) == own_id {
        let svid = svid.ok_or("there is no certificate")?;
        return Ok(certificate(name, svid));
    }
    match name {
        OWN_ROOTS => {
            let own = material.bundles.get(material.trust_domain.as_str());
            Ok(roots(
                name,
                own.ok_or("there is no bundle of the own trust domain")?,
            ))
        }
        ALL_ROOTS => Ok(all_roots(material)),
        name => match material.bundles.iter().find(|b| domain_id(b) == name) {
            Some(bundle) => Ok(roots(name, bundle)),
            None if name.starts_with("spiffe://") => {
                Err("it is neither this workload's SPIFFE ID nor a trust domain that is trusted")
            }
            None => Err(
                "no such secret: use default, ROOTCA, ALL, or the SPIFFE ID of the workload or of a trust domain",
            ),
        },
    }
}

fn domain_id(bundle: &TrustBundle) -> String {
    format!("spiffe://{}", bundle.trust_domain())
}

fn certificate(name: &str, svid: &AppSvid) -> Named {
    let chain = svid.chain.iter().map(AsRef::as_ref);
    let key = Secret::new(pem("PRIVATE KEY", [svid.key.expose().as_slice()]));
    let secret = Type::TlsCertificate(TlsCertificate {
        certificate_chain: Some(inline(pem("CERTIFICATE", chain.clone()))),
        private_key: Some(inline(key.expose().clone())),
    });
    // The certificate stands for its key.
    named(name, version(chain), secret)
}

fn roots(name: &str, bundle: &TrustBundle) -> Named {
    let authorities = bundle.authorities().iter().map(AsRef::as_ref);
    let secret = Type::ValidationContext(CertificateValidationContext {
        trusted_ca: Some(inline(pem("CERTIFICATE", authorities.clone()))),
        custom_validator_config: None,
    });
    named(name, version(authorities), secret)
}

/// One list of roots for several trust domains would let each speak for all: Envoy's own SPIFFE validator keeps them apart.
fn all_roots(material: &Material) -> Named {
    let trust_domains = material
        .bundles
        .iter()
        .map(|bundle| ValidatedDomain {
            name: bundle.trust_domain().to_string(),
            trust_bundle: Some(inline(pem(
                "CERTIFICATE",
                bundle.authorities().iter().map(AsRef::as_ref),
            ))),
        })
        .collect();
    let config = tls::SpiffeCertValidatorConfig { trust_domains };
    let bytes = config.encode_to_vec();
    let secret = Type::ValidationContext(CertificateValidationContext {
        trusted_ca: None,
        custom_validator_config: Some(TypedExtensionConfig {
            name: VALIDATOR.into(),
            typed_config: Some(Any {
                type_url: VALIDATOR_TYPE_URL.into(),
                value: bytes.clone().into(),
            }),
        }),
    });
    named(ALL_ROOTS, version([bytes.as_slice()]), secret)
}

fn named(name: &str, version: String, secret: Type) -> Named {
    let secret = tls::Secret {
        name: name.to_owned(),
        r#type: Some(secret),
    };
    Named {
        name: name.to_owned(),
        version,
        resource: Any {
            type_url: TYPE_URL.into(),
            value: secret.encode_to_vec().into(),
        },
    }
}

fn inline(bytes: String) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineBytes(bytes.into_bytes())),
    }
}

/// A version that follows from public content.
fn version<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let digest = context.finish();
    digest.as_ref()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// DER in PEM armour, one block after the other.
fn pem<'a>(label: &str, blocks: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut text = String::new();
    for der in blocks {
        let encoded = STANDARD.encode(der);
        text.push_str(&format!("-----BEGIN {label}-----\n"));
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(64));
            text.push_str(line);
            text.push('\n');
            rest = after;
        }
        text.push_str(&format!("-----END {label}-----\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::pem::PemObject as _;
    use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

    use super::*;
    use crate::doors::testing::{ID, material};

    fn decode(named: &Named) -> Type {
        assert_eq!(named.resource.type_url, TYPE_URL);
        let secret = tls::Secret::decode(named.resource.value.as_ref()).expect("a secret");
        assert_eq!(secret.name, named.name);
        secret.r#type.expect("of a kind")
    }

    fn bytes(source: Option<DataSource>) -> Vec<u8> {
        match source.and_then(|source| source.specifier) {
            Some(Specifier::InlineBytes(bytes)) => bytes,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_certificate_goes_by_default_and_by_its_id() {
        let material = material();
        let svid = material.svid.as_ref().expect("an SVID");
        for name in ["default", ID] {
            let Type::TlsCertificate(found) = decode(&find(name, &material).expect(name)) else {
                panic!("{name} is no certificate");
            };
            let chain: Vec<_> = CertificateDer::pem_slice_iter(&bytes(found.certificate_chain))
                .collect::<Result<_, _>>()
                .expect("PEM");
            assert_eq!(chain, svid.chain);
            let key = PrivatePkcs8KeyDer::from_pem_slice(&bytes(found.private_key)).expect("PEM");
            assert_eq!(key.secret_pkcs8_der(), svid.key.expose());
        }
    }

    #[test]
    fn roots_of_trust_domains_are_never_merged() {
        let material = material();
        for (name, domain) in [
            ("ROOTCA", "demo.test"),
            ("spiffe://demo.test", "demo.test"),
            ("spiffe://other.test", "other.test"),
        ] {
            let Type::ValidationContext(found) = decode(&find(name, &material).expect(name)) else {
                panic!("{name} is no validation context");
            };
            let roots: Vec<_> = CertificateDer::pem_slice_iter(&bytes(found.trusted_ca))
                .collect::<Result<_, _>>()
                .expect("PEM");
            let expected = material.bundles.get(domain).expect(domain).authorities();
            assert_eq!(roots, expected, "{name}");
        }
        let Type::ValidationContext(all) = decode(&find("ALL", &material).expect("ALL")) else {
            panic!("ALL is no validation context");
        };
        assert!(all.trusted_ca.is_none(), "no common list");
        let validator = all.custom_validator_config.expect("the SPIFFE validator");
        let config = validator.typed_config.expect("its configuration");
        let config =
            tls::SpiffeCertValidatorConfig::decode(config.value.as_ref()).expect("decodes");
        let names: Vec<_> = config.trust_domains.iter().map(|d| &d.name).collect();
        assert_eq!(names, ["demo.test", "other.test"]);
    }

    #[test]
    fn an_unknown_name_has_a_reason_and_every_listed_name_is_known() {
        let material = material();
        for name in names(&material) {
            find(&name, &material).expect(&name);
        }
        for (name, reason) in [
            ("Default", "no such secret"),
            ("", "no such secret"),
            ("spiffe://demo.test/ns/demo/sa/orders", "neither"),
            ("spiffe://unknown.test", "neither"),
        ] {
            let said = find(name, &material).expect_err(name);
            assert!(said.contains(reason), "{name}: {said}");
        }
    }
}
