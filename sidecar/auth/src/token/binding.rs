//! Who may present a token: the certificate that it names (RFC 8705 §3), or the caller that a claim of it stands for.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mesh_proto::mesh;

use super::compile::TokenPolicyError;
use crate::claims::{Object, Value};
use crate::{Reason, SpiffeId};

/// The placeholder for the claim's value.
const PLACEHOLDER: &str = "{value}";
/// Claims that can stand for a caller.
const CLAIMS: [&str; 4] = ["client_id", "azp", "sub", "act.sub"];

/// Who presents a token: the peer of the very connection.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    /// Its identity; `None` for plaintext.
    pub id: Option<&'a SpiffeId>,
    /// SHA-256 of its certificate, DER.
    pub certificate: Option<&'a [u8; 32]>,
    /// Tells whether a certificate with this digest was presented by the same identity not long ago: certificates rotate
    /// within the life of a token.
    pub presented_before: &'a dyn Fn(&[u8; 32]) -> bool,
}

/// What a token says about who may present it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Confirmation {
    /// Nothing.
    None,
    /// The holder of this certificate.
    Certificate([u8; 32]),
    /// The holder of something that is not looked at here. Nobody can prove it, so nobody may present it.
    Other,
}

impl Confirmation {
    /// Reads `cnf` (RFC 7800).
    pub(super) fn of(claims: &Object) -> Result<Self, Reason> {
        let confirmation = match claims.get("cnf") {
            None => return Ok(Self::None),
            Some(Value::Object(confirmation)) => confirmation,
            Some(_) => return Err(Reason::TokenClaim),
        };
        let thumbprint = match confirmation.get("x5t#S256") {
            Some(Value::String(text)) if confirmation.len() == 1 => text,
            Some(Value::String(_)) | None => return Ok(Self::Other),
            Some(_) => return Err(Reason::TokenClaim),
        };
        let digest = URL_SAFE_NO_PAD
            .decode(thumbprint.as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok());
        digest.map(Self::Certificate).ok_or(Reason::TokenClaim)
    }
}

/// A rule's demand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Binding {
    certificate: bool,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    claim: &'static str,
    value: Option<Box<str>>,
    /// What stands before and after the placeholder; without one, all of it and `None`.
    principal: (Box<str>, Option<Box<str>>),
}

impl Binding {
    pub(super) fn compile(
        binding: &mesh::PresenterBinding,
        field: &str,
    ) -> Result<Self, TokenPolicyError> {
        let mut rules = Vec::new();
        for (i, rule) in binding.rules.iter().enumerate() {
            rules.push(Rule::compile(rule, &format!("{field}.rules[{i}]"))?);
        }
        Ok(Self {
            certificate: binding.certificate,
            rules,
        })
    }

    /// Checks that `caller` may present the token.
    pub(super) fn check(
        &self,
        confirmation: &Confirmation,
        claims: &Object,
        caller: &Caller<'_>,
    ) -> Result<(), Reason> {
        let held = match confirmation {
            Confirmation::None => !self.certificate,
            Confirmation::Certificate(digest) => {
                caller.certificate == Some(digest)
                    || (caller.id.is_some() && (caller.presented_before)(digest))
            }
            Confirmation::Other => false,
        };
        let rules = self.rules.is_empty()
            || caller.id.is_some_and(|id| {
                self.rules
                    .iter()
                    .any(|rule| rule.holds(claims, id.as_str()))
            });
        if held && rules {
            Ok(())
        } else {
            Err(Reason::TokenBindingMismatch)
        }
    }
}

impl Rule {
    fn compile(rule: &mesh::BindingRule, field: &str) -> Result<Self, TokenPolicyError> {
        let fail = |name: &str, problem: String| {
            Err(TokenPolicyError::new(format!("{field}.{name}"), problem))
        };
        let Some(claim) = CLAIMS.into_iter().find(|c| *c == rule.claim) else {
            return fail(
                "claim",
                format!(
                    "'{}' is not one of {}",
                    rule.claim.escape_default(),
                    CLAIMS.join(", ")
                ),
            );
        };
        let principal = match rule.principal.split_once(PLACEHOLDER) {
            Some((_, after)) if after.contains(PLACEHOLDER) => {
                return fail("principal", format!("has {PLACEHOLDER} more than once"));
            }
            Some((before, after)) => (before.into(), Some(after.into())),
            None => (rule.principal.as_str().into(), None),
        };
        // With a segment in place of the placeholder it must be an identity.
        let example = if rule.principal == PLACEHOLDER {
            "spiffe://example.org/x".to_owned()
        } else {
            rule.principal.replace(PLACEHOLDER, "x")
        };
        if let Err(error) = SpiffeId::parse(&example) {
            return fail("principal", error.to_string());
        }
        Ok(Self {
            claim,
            value: (!rule.value.is_empty()).then(|| rule.value.as_str().into()),
            principal,
        })
    }

    fn holds(&self, claims: &Object, caller: &str) -> bool {
        let value = match self.claim {
            "act.sub" => claims
                .get("act")
                .and_then(Value::as_object)
                .and_then(|act| act.string("sub")),
            claim => claims.string(claim),
        };
        let Some(value) = value.filter(|v| self.value.as_deref().is_none_or(|wanted| wanted == *v))
        else {
            return false;
        };
        match &self.principal {
            (whole, None) => **whole == *caller,
            (before, Some(after)) => {
                let alone = before.is_empty() && after.is_empty();
                // A value with a `/` would reach beyond the segment that it was meant for.
                (alone || (!value.is_empty() && !value.contains('/')))
                    && caller
                        .strip_prefix(&**before)
                        .and_then(|rest| rest.strip_suffix(&**after))
                        == Some(value)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::parse;

    const WEB: &str = "spiffe://td/ns/shop/sa/web";
    const OWN: [u8; 32] = [7; 32];
    const OLD: [u8; 32] = [8; 32];

    fn check(binding: &Binding, claims: &str, caller: Option<&str>) -> Result<(), Reason> {
        let claims = parse(claims.as_bytes()).unwrap();
        let id = caller.map(|c| SpiffeId::parse(c).unwrap());
        let confirmation = Confirmation::of(&claims)?;
        let caller = Caller {
            id: id.as_ref(),
            certificate: id.as_ref().map(|_| &OWN),
            presented_before: &|digest| *digest == OLD,
        };
        binding.check(&confirmation, &claims, &caller)
    }

    fn cnf(digest: &[u8]) -> String {
        format!(
            "{{\"cnf\":{{\"x5t#S256\":\"{}\"}}}}",
            URL_SAFE_NO_PAD.encode(digest)
        )
    }

    #[test]
    fn a_token_that_names_a_certificate_is_held_to_it_without_any_rule() {
        let none = Binding::default();
        let mismatch = Err(Reason::TokenBindingMismatch);
        assert_eq!(check(&none, "{}", Some(WEB)), Ok(()));
        assert_eq!(check(&none, "{}", None), Ok(()));
        assert_eq!(check(&none, &cnf(&OWN), Some(WEB)), Ok(()));
        assert_eq!(check(&none, &cnf(&OLD), Some(WEB)), Ok(()), "rotated since");
        assert_eq!(check(&none, &cnf(&[9; 32]), Some(WEB)), mismatch);
        assert_eq!(check(&none, &cnf(&OWN), None), mismatch, "plaintext");
        assert_eq!(check(&none, &cnf(&OLD), None), mismatch, "plaintext");
        for claims in [
            r#"{"cnf":{"jkt":"x"}}"#,
            r#"{"cnf":{"jwk":{}}}"#,
            r#"{"cnf":{}}"#,
        ] {
            assert_eq!(check(&none, claims, Some(WEB)), mismatch, "{claims}");
        }
        for claims in [
            r#"{"cnf":"x"}"#,
            r#"{"cnf":null}"#,
            r#"{"cnf":{"x5t#S256":1}}"#,
            r#"{"cnf":{"x5t#S256":"AA"}}"#,
            r#"{"cnf":{"x5t#S256":"A"}}"#,
        ] {
            assert_eq!(
                check(&none, claims, Some(WEB)),
                Err(Reason::TokenClaim),
                "{claims}"
            );
        }
        let required = Binding {
            certificate: true,
            rules: vec![],
        };
        assert_eq!(check(&required, "{}", Some(WEB)), mismatch);
        assert_eq!(check(&required, &cnf(&OWN), Some(WEB)), Ok(()));
    }

    #[test]
    fn a_claim_stands_for_a_caller() {
        let binding = |claim: &str, value: &str, principal: &str| {
            let rule = mesh::BindingRule {
                claim: claim.into(),
                value: value.into(),
                principal: principal.into(),
            };
            let binding = mesh::PresenterBinding {
                certificate: false,
                rules: vec![rule],
            };
            Binding::compile(&binding, "binding").unwrap()
        };
        let cases = [
            (
                "azp",
                "",
                "spiffe://td/ns/shop/sa/{value}",
                r#"{"azp":"web"}"#,
                true,
            ),
            (
                "azp",
                "",
                "spiffe://td/ns/shop/sa/{value}",
                r#"{"azp":"orders"}"#,
                false,
            ),
            (
                "azp",
                "",
                "spiffe://td/ns/shop/sa/{value}",
                r#"{"azp":""}"#,
                false,
            ),
            (
                "azp",
                "",
                "spiffe://td/ns/shop/sa/{value}",
                r#"{"azp":["web"]}"#,
                false,
            ),
            (
                "azp",
                "",
                "spiffe://td/ns/shop/sa/{value}",
                r#"{"client_id":"web"}"#,
                false,
            ),
            (
                "azp",
                "",
                "spiffe://td/ns/{value}/web",
                r#"{"azp":"shop/sa"}"#,
                false,
            ),
            (
                "azp",
                "",
                "spiffe://td/ns/{value}/sa/web",
                r#"{"azp":"shop"}"#,
                true,
            ),
            ("client_id", "front", WEB, r#"{"client_id":"front"}"#, true),
            ("client_id", "front", WEB, r#"{"client_id":"Front"}"#, false),
            (
                "client_id",
                "front",
                "spiffe://td/ns/shop/sa/orders",
                r#"{"client_id":"front"}"#,
                false,
            ),
            (
                "sub",
                "",
                "{value}",
                r#"{"sub":"spiffe://td/ns/shop/sa/web"}"#,
                true,
            ),
            (
                "sub",
                "",
                "{value}",
                r#"{"sub":"spiffe://td/ns/shop/sa/webx"}"#,
                false,
            ),
            (
                "act.sub",
                "",
                "{value}",
                r#"{"act":{"sub":"spiffe://td/ns/shop/sa/web"}}"#,
                true,
            ),
            (
                "act.sub",
                "",
                "{value}",
                r#"{"act.sub":"spiffe://td/ns/shop/sa/web"}"#,
                false,
            ),
        ];
        for (claim, value, principal, claims, fine) in cases {
            let binding = binding(claim, value, principal);
            assert_eq!(
                check(&binding, claims, Some(WEB)).is_ok(),
                fine,
                "{principal} {claims}"
            );
            assert!(check(&binding, claims, None).is_err(), "plaintext {claims}");
        }
    }

    #[test]
    fn a_rule_that_cannot_hold_is_refused_with_its_field() {
        for (claim, principal, field) in [
            ("iss", WEB, "b.rules[0].claim"),
            ("azp", "web", "b.rules[0].principal"),
            ("azp", "spiffe://td/{value}/{value}", "b.rules[0].principal"),
            ("azp", "", "b.rules[0].principal"),
        ] {
            let rule = mesh::BindingRule {
                claim: claim.into(),
                value: String::new(),
                principal: principal.into(),
            };
            let binding = mesh::PresenterBinding {
                certificate: false,
                rules: vec![rule],
            };
            assert_eq!(Binding::compile(&binding, "b").unwrap_err().field, field);
        }
    }
}
