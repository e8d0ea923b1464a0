//! The cases: what is sent, and what must become of it.

use mesh_auth::Reason;
use serde_json::{Value, json};

use super::expected::Expected;
use super::forge::{self, ED, Forge, RSA, Secret, claims};
use super::world::Facts;
use crate::token::{segments, unix_seconds};

/// One request.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) path: String,
    /// Header lines, each with its end.
    pub(super) lines: Vec<u8>,
    /// What is searched for afterwards.
    pub(super) token: String,
    pub(super) expected: Expected,
}

const ALICE: Expected = Expected::Subject("alice");
const NOBODY: Expected = Expected::Subject("");

/// Every case.
pub(super) fn all(forge: &Forge, facts: &Facts) -> anyhow::Result<Vec<Case>> {
    let mut table = Table(Vec::new());
    good(&mut table, forge)?;
    compact_form(&mut table, forge)?;
    algorithms(&mut table, forge)?;
    signatures(&mut table, forge)?;
    headers(&mut table, forge)?;
    json(&mut table, forge)?;
    types(&mut table, forge)?;
    issuers_and_audiences(&mut table, forge)?;
    times(&mut table, forge)?;
    callers(&mut table, forge, facts)?;
    places(&mut table, forge)?;
    answers(&mut table, forge)?;
    Ok(table.0)
}

struct Table(Vec<Case>);

impl Table {
    /// A token in the usual place.
    fn bearer(&mut self, name: &'static str, token: String, expected: Expected) {
        let lines = format!("Authorization: Bearer {token}\r\n").into_bytes();
        self.request(name, "/", lines, token, expected);
    }

    fn refused(&mut self, name: &'static str, token: String, reason: Reason) {
        self.bearer(name, token, Expected::Refused(reason));
    }

    fn request(
        &mut self,
        name: &'static str,
        path: &str,
        lines: Vec<u8>,
        token: String,
        expected: Expected,
    ) {
        self.0.push(Case {
            name,
            path: path.to_owned(),
            lines,
            token,
            expected,
        });
    }
}

/// Claims of the plain issuer with one that is another.
fn with(name: &str, value: impl Into<Value>) -> anyhow::Result<Value> {
    let mut claims = claims("plain")?;
    claims[name] = value.into();
    Ok(claims)
}

/// Claims of the plain issuer without one of them.
fn without(name: &str) -> anyhow::Result<Value> {
    let mut claims = claims("plain")?;
    if let Some(members) = claims.as_object_mut() {
        members.remove(name);
    }
    Ok(claims)
}

fn good(table: &mut Table, forge: &Forge) -> anyhow::Result<()> {
    let header = forge.header();
    let plain = claims("plain")?;
    let mut sign = |name, header: &Value, claims: &Value| {
        table.bearer(name, forge.sign(header, claims)?, ALICE);
        anyhow::Ok(())
    };
    sign("good: ES256", &header, &plain)?;
    sign(
        "good: no typ",
        &json!({"alg": "ES256", "kid": "ec"}),
        &plain,
    )?;
    sign("good: no kid", &json!({"alg": "ES256"}), &plain)?;
    sign(
        "good: aud is a list with ours in it",
        &header,
        &with("aud", json!(["x", "store"]))?,
    )?;
    sign(
        "good: exp has a fraction",
        &header,
        &with("exp", unix_seconds(60)? as f64 + 0.5)?,
    )?;
    sign(
        "good: exp is within the leeway",
        &header,
        &with("exp", unix_seconds(-30)?)?,
    )?;
    sign(
        "good: nbf is within the leeway",
        &header,
        &with("nbf", unix_seconds(30)?)?,
    )?;
    sign("good: iat is missing", &header, &without("iat")?)?;
    table.bearer(
        "good: RS256",
        forge.sign_rsa(&named("RS256", RSA), &plain, false)?,
        ALICE,
    );
    table.bearer(
        "good: EdDSA",
        forge.sign_ed(&named("EdDSA", ED), &plain),
        ALICE,
    );
    let token = forge.with_signature(&plain, forge::other_s)?;
    table.bearer(
        "good: the other s of the same signature is one, too",
        token,
        ALICE,
    );
    Ok(())
}

fn named(algorithm: &str, kid: &str) -> Value {
    json!({"alg": algorithm, "typ": "JWT", "kid": kid})
}

fn compact_form(table: &mut Table, forge: &Forge) -> anyhow::Result<()> {
    let malformed = Reason::TokenMalformed;
    let good = forge.sign(&forge.header(), &claims("plain")?)?;
    let parts: Vec<&str> = good.split('.').collect();
    let [header, payload, signature] = parts[..] else {
        anyhow::bail!("a token has three parts");
    };
    table.refused("no token after the scheme", String::new(), malformed);
    table.refused("garbage", "garbage".to_owned(), malformed);
    table.refused("two parts", format!("{header}.{payload}"), malformed);
    table.refused("four parts", format!("{good}.{signature}"), malformed);
    table.refused("five parts, as JWE has", format!("{good}.AA.AA"), malformed);
    table.refused("a dot at the end", format!("{good}."), malformed);
    table.refused("a dot at the start", format!(".{good}"), malformed);
    table.refused("empty header", format!(".{payload}.{signature}"), malformed);
    table.refused("empty payload", format!("{header}..{signature}"), malformed);
    table.refused(
        "empty signature",
        format!("{header}.{payload}."),
        Reason::TokenBadSignature,
    );
    table.refused("only dots", "..".to_owned(), malformed);
    table.refused(
        "padding after the signature",
        format!("{good}=="),
        malformed,
    );
    let padded = forge.sign_segments(&format!("{header}=.{payload}"))?;
    table.refused("padding in the header, signed with it", padded, malformed);
    let spaced = forge.sign_segments(&format!("{header}.{} {}", &payload[..8], &payload[8..]))?;
    table.refused("a space in the payload, signed with it", spaced, malformed);
    let standard = forge.sign_segments(&format!("{header}.+/+/{payload}"))?;
    table.refused(
        "the alphabet of plain base64, signed with it",
        standard,
        malformed,
    );
    let loose = forge::with_loose_bits(signature)?;
    table.refused(
        "bits of the signature that say nothing",
        format!("{header}.{payload}.{loose}"),
        malformed,
    );
    table.refused(
        "a byte after the token",
        format!("{good}A"),
        Reason::TokenBadSignature,
    );
    table.refused(
        "two bytes after the token",
        format!("{good}AA"),
        Reason::TokenBadSignature,
    );
    table.refused(
        "three bytes after the token",
        format!("{good}AAA"),
        malformed,
    );
    table.refused(
        "a comma and a second token",
        format!("{good},{good}"),
        malformed,
    );
    table.refused("a space before the token", format!(" {good}"), malformed);
    let sent = [b"Authorization: Bearer ", good.as_bytes(), b"\xff\xfe\r\n"].concat();
    let expected = Expected::Refused(malformed);
    table.request(
        "bytes that are not ASCII after the token",
        "/",
        sent,
        good.clone(),
        expected,
    );
    table.refused(
        "a token in JSON serialisation",
        format!("{{\"payload\":\"{payload}\"}}"),
        malformed,
    );
    let long = forge.sign(&forge.header(), &with("pad", "x".repeat(9_000))?)?;
    table.refused("longer than 8 KiB", long, Reason::TokenTooLarge);
    let mut small = claims("small")?;
    small["pad"] = "x".repeat(600).into();
    let small = forge.sign(&forge.header(), &small)?;
    table.refused(
        "longer than its issuer's rule allows",
        small,
        Reason::TokenTooLarge,
    );
    Ok(())
}

fn algorithms(table: &mut Table, forge: &Forge) -> anyhow::Result<()> {
    let wrong = Reason::TokenAlgorithm;
    let plain = claims("plain")?;
    let unsigned = |algorithm: Value| {
        let header = json!({"alg": algorithm, "typ": "JWT", "kid": "ec"}).to_string();
        format!(
            "{}.",
            segments(header.as_bytes(), plain.to_string().as_bytes())
        )
    };
    for (name, algorithm) in [
        ("alg none", json!("none")),
        ("alg None", json!("None")),
        ("alg NONE", json!("NONE")),
        ("alg nOnE", json!("nOnE")),
        ("alg empty", json!("")),
        ("alg null", json!(null)),
        ("alg is a number", json!(256)),
        ("alg is a list", json!(["ES256"])),
    ] {
        table.refused(name, unsigned(algorithm), wrong);
    }
    let header = json!({"alg": "none", "kid": "ec"});
    table.refused(
        "alg none with a good signature",
        forge.sign(&header, &plain)?,
        wrong,
    );
    let header = json!({"typ": "JWT", "kid": "ec"});
    table.refused("no alg", forge.sign(&header, &plain)?, wrong);
    for (name, kid, secret) in [
        ("HS256 with the EC key's PEM", "ec", Secret::EcPem),
        ("HS256 with the EC key's JWK", "ec", Secret::EcJwk),
        ("HS256 with the RSA key's DER", RSA, Secret::RsaDer),
        ("HS256 with nothing", "ec", Secret::Empty),
    ] {
        let token = forge.sign_with_public(&named("HS256", kid), &plain, secret)?;
        table.refused(name, token, wrong);
    }
    table.refused("es256", forge.sign(&named("es256", "ec"), &plain)?, wrong);
    table.refused("ES256K", forge.sign(&named("ES256K", "ec"), &plain)?, wrong);
    table.refused(
        "ES384 under a key for ES256",
        forge.sign(&named("ES384", "ec"), &plain)?,
        wrong,
    );
    table.refused(
        "ES256 under the RSA key's name",
        forge.sign(&named("ES256", RSA), &plain)?,
        wrong,
    );
    let token = forge.sign_rsa(&named("RS256", "ec"), &plain, false)?;
    table.refused("RS256 under the EC key's name", token, wrong);
    let token = forge.sign_rsa(&named("PS256", RSA), &plain, true)?;
    table.refused("PS256 with a key for RS256", token, wrong);
    let token = forge.sign_rsa(&named("RS256", RSA), &plain, true)?;
    table.refused("PSS padding called RS256", token, Reason::TokenBadSignature);
    let token = forge.sign(&forge.header(), &claims("rsa")?)?;
    table.refused("ES256 where the rule takes RS256 only", token, wrong);
    Ok(())
}

fn signatures(table: &mut Table, forge: &Forge) -> anyhow::Result<()> {
    let bad = Reason::TokenBadSignature;
    let plain = claims("plain")?;
    let mut change = |name, change: fn(Vec<u8>) -> Vec<u8>| {
        table.refused(name, forge.with_signature(&plain, change)?, bad);
        anyhow::Ok(())
    };
    change("one bit of the signature", |mut s| {
        s[10] ^= 1;
        s
    })?;
    change("a signature of 63 bytes", |mut s| {
        s.pop();
        s
    })?;
    change("a signature of 65 bytes", |mut s| {
        s.push(0);
        s
    })?;
    change("r alone", |s| s[..32].to_vec())?;
    change("ASN.1 in place of r and s", |s| forge::der(&s))?;
    change("r and s are 0", |_| vec![0; 64])?;
    change("r is 0", |s| [&[0; 32], &s[32..]].concat())?;
    change("s is 0", |s| [&s[..32], &[0; 32]].concat())?;
    change("s is the order of the group", forge::s_of_order)?;
    change("r and s are all ones", |_| vec![0xff; 64])?;
    change("r and s changed places", |s| [&s[32..], &s[..32]].concat())?;
    let token = forge.sign_as_stranger(&forge.header(), &plain)?;
    table.refused("a stranger's key under a published name", token, bad);
    let one = forge.sign(&forge.header(), &plain)?;
    let other = forge.sign(&forge.header(), &with("sub", "root")?)?;
    let (signed, _) = other.rsplit_once('.').unwrap_or_default();
    let (_, signature) = one.rsplit_once('.').unwrap_or_default();
    table.refused(
        "another token's signature",
        format!("{signed}.{signature}"),
        bad,
    );
    let mut header = forge.header();
    header["typ"] = "at+jwt".into();
    let header = header.to_string();
    let signed = segments(header.as_bytes(), plain.to_string().as_bytes());
    table.refused(
        "another header than the signed one",
        format!("{signed}.{signature}"),
        bad,
    );
    Ok(())
}

fn headers(table: &mut Table, forge: &Forge) -> anyhow::Result<()> {
    let plain = claims("plain")?;
    let mut sign = |name, change: Value, expected| {
        let mut header = forge.header();
        for (member, value) in change.as_object().into_iter().flatten() {
            header[member] = value.clone();
        }
        table.bearer(name, forge.sign(&header, &plain)?, expected);
        anyhow::Ok(())
    };
    let refused = Expected::Refused;
    let malformed = refused(Reason::TokenMalformed);
    sign(
        "crit names exp",
        json!({"crit": ["exp"], "exp": 1}),
        malformed,
    )?;
    sign("crit is empty", json!({"crit": []}), malformed)?;
    sign("b64 is false", json!({"b64": false}), malformed)?;
    sign("zip", json!({"zip": "DEF"}), malformed)?;
    sign("enc", json!({"enc": "A256GCM"}), malformed)?;
    sign(
        "cty JWT: a token in a token",
        json!({"cty": "JWT"}),
        refused(Reason::TokenWrongType),
    )?;
    let unknown = refused(Reason::TokenUnknownKey);
    sign("unknown kid", json!({"kid": "ec2"}), unknown)?;
    sign("empty kid", json!({"kid": ""}), unknown)?;
    sign(
        "kid with a path in it",
        json!({"kid": "../../dev/null"}),
        unknown,
    )?;
    sign(
        "kid with SQL in it",
        json!({"kid": "ec' OR '1'='1"}),
        unknown,
    )?;
    sign("kid in another case", json!({"kid": "EC"}), unknown)?;
    sign("kid is a number", json!({"kid": 1}), malformed)?;
    sign("kid is null", json!({"kid": null}), malformed)?;
    let links = json!({
        "jku": "https://127.0.0.1/keys", "x5u": "https://127.0.0.1/cert",
        "x5c": ["AA"], "jwk": forge.strangers_jwk(),
    });
    sign(
        "links to keys beside a good signature are not followed",
        links.clone(),
        ALICE,
    )?;
    let mut header = forge.header();
    for (member, value) in links.as_object().into_iter().flatten() {
        header[member] = value.clone();
    }
    let token = forge.sign_as_stranger(&header, &plain)?;
    table.refused(
        "an embedded key, and a signature of it",
        token,
        Reason::TokenBadSignature,
    );
    header["kid"] = "mine".into();
    let token = forge.sign_as_stranger(&header, &plain)?;
    table.refused(
        "an embedded key under its own name",
        token,
        Reason::TokenUnknownKey,
    );
    Ok(())
}

fn json(table: &mut Table, forge: &Forge) -> anyhow::Result<()> {
    let malformed = Reason::TokenMalformed;
    let header = forge.header().to_string();
    let plain = claims("plain")?.to_string();
    let head = plain.trim_end_matches('}').to_owned();
    let mut payload = |name, payload: &[u8]| {
        table.refused(
            name,
            forge.sign_bytes(header.as_bytes(), payload)?,
            malformed,
        );
        anyhow::Ok(())
    };
    payload(
        "a claim twice",
        format!("{head},\"sub\":\"root\"}}").as_bytes(),
    )?;
    payload(
        "a claim twice, one spelled with an escape",
        format!("{head},\"s\\u0075b\":\"root\"}}").as_bytes(),
    )?;
    payload(
        "a claim twice, deep inside",
        format!("{head},\"a\":{{\"b\":1,\"b\":2}}}}").as_bytes(),
    )?;
    payload(
        "nested 17 deep",
        format!("{head},\"a\":{}1{}}}", "[".repeat(17), "]".repeat(17)).as_bytes(),
    )?;
    payload(
        "nested 2,000 deep",
        format!("{head},\"a\":{}1{}}}", "[".repeat(2_000), "]".repeat(2_000)).as_bytes(),
    )?;
    payload(
        "2,100 values",
        format!("{head},\"a\":[{}1]}}", "1,".repeat(2_099)).as_bytes(),
    )?;
    payload("bytes after the claims", format!("{plain}x").as_bytes())?;
    payload(
        "a second object after the claims",
        format!("{plain}{plain}").as_bytes(),
    )?;
    payload("a byte order mark", format!("\u{feff}{plain}").as_bytes())?;
    payload("claims that are a list", b"[1]")?;
    payload("claims that are a string", b"\"alice\"")?;
    payload("no bytes of claims but a space", b" ")?;
    payload("half of the claims", &plain.as_bytes()[..plain.len() / 2])?;
    payload("a comma too many", format!("{head},}}").as_bytes())?;
    payload("single quotes", plain.replace('"', "'").as_bytes())?;
    payload(
        "a NUL in a string",
        plain.replace("alice", "ali\0ce").as_bytes(),
    )?;
    payload(
        "half a surrogate pair",
        plain.replace("alice", "\\ud800").as_bytes(),
    )?;
    payload(
        "a number with a leading zero",
        format!("{head},\"n\":01}}").as_bytes(),
    )?;
    payload("NaN", format!("{head},\"n\":NaN}}").as_bytes())?;
    let mut latin = plain.clone().into_bytes();
    latin.truncate(latin.len() - 1);
    latin.extend_from_slice(b",\"n\":\"\xe9\"}");
    payload("claims that are not UTF-8", &latin)?;
    let inner = forge.sign_bytes(header.as_bytes(), plain.as_bytes())?;
    payload("a token as the payload of a token", inner.as_bytes())?;
    for (name, header) in [
        ("alg twice", r#"{"alg":"ES256","alg":"none","kid":"ec"}"#),
        (
            "alg twice, one spelled with an escape",
            r#"{"alg":"ES256","\u0061lg":"none","kid":"ec"}"#,
        ),
        ("a header that is a list", r#"["ES256"]"#),
        ("a header that is no JSON", "ES256"),
        ("bytes after the header", r#"{"alg":"ES256","kid":"ec"}x"#),
    ] {
        table.refused(
            name,
            forge.sign_bytes(header.as_bytes(), plain.as_bytes())?,
            malformed,
        );
    }
    Ok(())
}

fn types(table: &mut Table, forge: &Forge) -> anyhow::Result<()> {
    let wrong = Expected::Refused(Reason::TokenWrongType);
    let claim = Expected::Refused(Reason::TokenClaim);
    let typed = |typ: &str| json!({"alg": "ES256", "typ": typ, "kid": "ec"});
    let token = forge.sign(&typed("dpop+jwt"), &claims("plain")?)?;
    table.bearer("typ of a proof of possession", token, wrong);
    let token = forge.sign(
        &json!({"alg": "ES256", "typ": 1, "kid": "ec"}),
        &claims("plain")?,
    )?;
    table.bearer("typ is a number", token, wrong);

    let mut access = claims("access")?;
    access["client_id"] = "app".into();
    let mut sign = |name, typ, claims: &Value, expected| {
        table.bearer(name, forge.sign(&typed(typ), claims)?, expected);
        anyhow::Ok(())
    };
    sign("good: access token", "at+jwt", &access, ALICE)?;
    sign(
        "good: access token, media type in full",
        "Application/AT+JWT",
        &access,
        ALICE,
    )?;
    sign("an ID token for an access token", "JWT", &access, wrong)?;
    sign(
        "a logout token for an access token",
        "logout+jwt",
        &access,
        wrong,
    )?;
    for (name, missing, expected) in [
        ("access token without sub", "sub", claim),
        ("access token without client_id", "client_id", claim),
        ("access token without jti", "jti", claim),
        ("access token without iat", "iat", claim),
        (
            "access token without aud",
            "aud",
            Expected::Refused(Reason::TokenWrongAudience),
        ),
    ] {
        let mut lacking = access.clone();
        if let Some(members) = lacking.as_object_mut() {
            members.remove(missing);
        }
        sign(name, "at+jwt", &lacking, expected)?;
    }
    let svid = |sub: &str| -> anyhow::Result<Value> {
        Ok(json!({"sub": sub, "aud": ["shop"], "exp": unix_seconds(300)?}))
    };
    let id = "spiffe://svids.test/ns/a/sa/b";
    sign("good: JWT-SVID", "JWT", &svid(id)?, Expected::Subject(id))?;
    sign(
        "an access token for a JWT-SVID",
        "at+jwt",
        &svid(id)?,
        wrong,
    )?;
    let foreign = Expected::Refused(Reason::TokenUnknownIssuer);
    sign(
        "JWT-SVID of another trust domain",
        "JWT",
        &svid("spiffe://other.test/ns/a/sa/b")?,
        foreign,
    )?;
    sign(
        "JWT-SVID of a longer trust domain",
        "JWT",
        &svid("spiffe://svids.test.evil/a")?,
        foreign,
    )?;
    sign(
        "JWT-SVID whose subject is no SPIFFE ID",
        "JWT",
        &svid("spiffe://svids.test/a//b")?,
        claim,
    )?;
    let header = json!({"alg": "ES256", "typ": "JWT", "kid": "ec", "x": 1});
    let expected = Expected::Refused(Reason::TokenMalformed);
    table.bearer(
        "JWT-SVID with more in its header",
        forge.sign(&header, &svid(id)?)?,
        expected,
    );

    let transaction = json!({
        "iss": "https://txn.test", "aud": "shop", "sub": "alice", "txn": "t-1", "scope": "buy",
        "req_wl": "a", "iat": unix_seconds(-5)?, "exp": unix_seconds(60)?,
    });
    let token = forge.sign(&typed("txntoken+jwt"), &transaction)?;
    let lines = format!("Txn-Token: {token}\r\n").into_bytes();
    table.request("good: transaction token", "/", lines, token, ALICE);
    let token = forge.sign(&typed("JWT"), &transaction)?;
    let lines = format!("Txn-Token: {token}\r\n").into_bytes();
    table.request(
        "an ID token for a transaction token",
        "/",
        lines,
        token,
        wrong,
    );
    let mut lacking = transaction;
    if let Some(members) = lacking.as_object_mut() {
        members.remove("txn");
    }
    let token = forge.sign(&typed("txntoken+jwt"), &lacking)?;
    let lines = format!("Txn-Token: {token}\r\n").into_bytes();
    table.request("transaction token without txn", "/", lines, token, claim);
    Ok(())
}

fn issuers_and_audiences(table: &mut Table, forge: &Forge) -> anyhow::Result<()> {
    let header = forge.header();
    let mut sign = |name, claims: &Value, reason| {
        table.refused(name, forge.sign(&header, claims)?, reason);
        anyhow::Ok(())
    };
    let unknown = Reason::TokenUnknownIssuer;
    sign(
        "unknown issuer",
        &with("iss", "https://evil.test")?,
        unknown,
    )?;
    sign(
        "the issuer with a slash",
        &with("iss", "https://plain.test/")?,
        unknown,
    )?;
    sign(
        "the issuer in capitals",
        &with("iss", "https://PLAIN.test")?,
        unknown,
    )?;
    sign(
        "the issuer in a list",
        &with("iss", json!(["https://plain.test"]))?,
        unknown,
    )?;
    sign("no issuer", &without("iss")?, unknown)?;
    sign(
        "an issuer that uses another's rule",
        &claims("txn")?,
        unknown,
    )?;
    let audience = Reason::TokenWrongAudience;
    sign("another audience", &with("aud", "bank")?, audience)?;
    sign(
        "an audience that begins like ours",
        &with("aud", "shop2")?,
        audience,
    )?;
    sign("our audience in capitals", &with("aud", "SHOP")?, audience)?;
    sign(
        "two audiences in one string",
        &with("aud", "shop bank")?,
        audience,
    )?;
    sign(
        "a list of other audiences",
        &with("aud", json!(["a", "b"]))?,
        audience,
    )?;
    sign(
        "an empty list of audiences",
        &with("aud", json!([]))?,
        audience,
    )?;
    sign("no audience", &without("aud")?, audience)?;
    let claim = Reason::TokenClaim;
    sign("an audience that is a number", &with("aud", 1)?, claim)?;
    sign(
        "a list with ours and a number in it",
        &with("aud", json!(["shop", 1]))?,
        claim,
    )?;
    sign(
        "an audience in an object",
        &with("aud", json!({"shop": true}))?,
        claim,
    )?;
    sign("sub is a number", &with("sub", 1)?, claim)?;
    sign("sub is a list", &with("sub", json!(["alice"]))?, claim)?;
    sign("jti is a number", &with("jti", 1)?, claim)?;
    sign("scope is an object", &with("scope", json!({}))?, claim)?;
    sign(
        "a line end in what becomes a header",
        &with("sub", "a\r\nx-admin: 1")?,
        claim,
    )?;
    let awaited = claims("awaited")?;
    sign("keys that never came", &awaited, Reason::KeysUnavailable)
}

fn times(table: &mut Table, forge: &Forge) -> anyhow::Result<()> {
    let header = forge.header();
    let mut sign = |name, claims: &Value, expected| {
        table.bearer(name, forge.sign(&header, claims)?, expected);
        anyhow::Ok(())
    };
    let refused = Expected::Refused;
    let (expired, claim) = (refused(Reason::TokenExpired), refused(Reason::TokenClaim));
    let early = refused(Reason::TokenNotYetValid);
    sign(
        "expired an hour ago",
        &with("exp", unix_seconds(-3_600)?)?,
        expired,
    )?;
    sign(
        "expired a second beyond the leeway",
        &with("exp", unix_seconds(-61)?)?,
        expired,
    )?;
    sign(
        "expired within the leeway's last second",
        &with("exp", unix_seconds(-61)? as f64 + 0.9)?,
        expired,
    )?;
    sign("exp is 0", &with("exp", 0)?, expired)?;
    sign("no exp", &without("exp")?, claim)?;
    sign("exp is null", &with("exp", Value::Null)?, claim)?;
    sign(
        "exp is a string",
        &with("exp", unix_seconds(600)?.to_string())?,
        claim,
    )?;
    sign("exp is true", &with("exp", true)?, claim)?;
    sign(
        "exp is a list",
        &with("exp", json!([unix_seconds(600)?]))?,
        claim,
    )?;
    sign("exp is negative", &with("exp", -1)?, claim)?;
    sign(
        "exp is after the year 9999",
        &with("exp", 253_402_300_800_i64)?,
        claim,
    )?;
    sign("exp is the largest integer", &with("exp", i64::MAX)?, claim)?;
    sign("exp is 1e300", &with("exp", 1e300)?, claim)?;
    sign("nbf in an hour", &with("nbf", unix_seconds(3_600)?)?, early)?;
    sign("nbf is a string", &with("nbf", "0")?, claim)?;
    sign("iat in an hour", &with("iat", unix_seconds(3_600)?)?, early)?;
    sign("iat is a string", &with("iat", "now")?, claim)?;
    sign("iat is negative", &with("iat", -5)?, claim)?;
    let fresh = |ago: i64| -> anyhow::Result<Value> {
        let mut claims = claims("fresh")?;
        claims["auth_time"] = unix_seconds(-ago)?.into();
        Ok(claims)
    };
    sign("good: authenticated a minute ago", &fresh(60)?, ALICE)?;
    sign(
        "authenticated too long ago",
        &fresh(400)?,
        refused(Reason::TokenTooOld),
    )?;
    let mut never = fresh(0)?;
    if let Some(members) = never.as_object_mut() {
        members.remove("auth_time");
        members.remove("iat");
    }
    sign("does not say when it was authenticated", &never, claim)?;
    let mut late = fresh(60)?;
    late["exp"] = unix_seconds(-1)?.into();
    sign("expired a second ago without leeway", &late, expired)
}

fn callers(table: &mut Table, forge: &Forge, facts: &Facts) -> anyhow::Result<()> {
    let header = forge.header();
    let stolen = Expected::Refused(Reason::TokenBindingMismatch);
    let claim = Expected::Refused(Reason::TokenClaim);
    let mut sign = |name, issuer, member: &str, value: Value, expected| {
        let mut claims = claims(issuer)?;
        claims[member] = value;
        table.bearer(name, forge.sign(&header, &claims)?, expected);
        anyhow::Ok(())
    };
    let held = |thumbprint: &str| json!({"x5t#S256": thumbprint});
    let (own, other) = (&facts.callers_certificate, &facts.others_certificate);
    sign(
        "good: bound to the caller's certificate",
        "plain",
        "cnf",
        held(own),
        ALICE,
    )?;
    sign(
        "good: bound, as the rule demands",
        "held",
        "cnf",
        held(own),
        ALICE,
    )?;
    sign(
        "stolen: bound to another certificate",
        "plain",
        "cnf",
        held(other),
        stolen,
    )?;
    sign(
        "stolen, where the rule demands binding",
        "held",
        "cnf",
        held(other),
        stolen,
    )?;
    sign(
        "not bound, where the rule demands it",
        "held",
        "x",
        json!(1),
        stolen,
    )?;
    sign(
        "bound to a key that nobody can prove",
        "plain",
        "cnf",
        json!({"jkt": own}),
        stolen,
    )?;
    let both = json!({"x5t#S256": own, "jkt": "x"});
    sign(
        "bound to the certificate and something else",
        "plain",
        "cnf",
        both,
        stolen,
    )?;
    sign("cnf is empty", "plain", "cnf", json!({}), stolen)?;
    sign("cnf is a string", "plain", "cnf", json!(own), claim)?;
    sign(
        "a thumbprint of half the length",
        "plain",
        "cnf",
        held(&own[..20]),
        claim,
    )?;
    sign(
        "a thumbprint that is a number",
        "plain",
        "cnf",
        json!({"x5t#S256": 1}),
        claim,
    )?;
    sign(
        "good: azp is the caller",
        "mapped",
        "azp",
        json!("client"),
        ALICE,
    )?;
    sign(
        "stolen: azp is another workload",
        "mapped",
        "azp",
        json!("server"),
        stolen,
    )?;
    sign(
        "azp reaches into the path",
        "mapped",
        "azp",
        json!("x/../client"),
        stolen,
    )?;
    sign("azp is empty", "mapped", "azp", json!(""), stolen)?;
    sign("azp is missing", "mapped", "x", json!(1), stolen)
}

fn places(table: &mut Table, forge: &Forge) -> anyhow::Result<()> {
    let plain = forge.sign(&forge.header(), &claims("plain")?)?;
    let elsewhere = forge.sign(&forge.header(), &claims("elsewhere")?)?;
    let refused = Expected::Refused;
    let (twice, missing) = (
        refused(Reason::TokenDuplicate),
        refused(Reason::TokenMissing),
    );
    let mut send = |name, path: &str, lines: &str, expected| {
        table.request(
            name,
            path,
            lines.as_bytes().to_vec(),
            plain.clone(),
            expected,
        );
    };
    let bearer = format!("Authorization: Bearer {plain}\r\n");
    send("no token", "/", "", NOBODY);
    send("no token where one is required", "/required", "", missing);
    send(
        "good: a token where one is required",
        "/required",
        &bearer,
        ALICE,
    );
    send(
        "good: the scheme in small letters",
        "/",
        &bearer.replace("Bearer", "bearer"),
        ALICE,
    );
    send(
        "good: the scheme in capitals",
        "/",
        &bearer.replace("Bearer", "BEARER"),
        ALICE,
    );
    send(
        "two Authorization headers",
        "/",
        &format!("{bearer}{bearer}"),
        twice,
    );
    let two = format!("{bearer}Authorization: Basic dTpw\r\n");
    send("a token and a password", "/", &two, twice);
    let malformed = refused(Reason::TokenMalformed);
    let hidden = format!("Authorization: Basic dTpw, Bearer {plain}\r\n");
    send("a token behind a password", "/", &hidden, malformed);
    send(
        "a tab after the scheme",
        "/",
        &bearer.replace("Bearer ", "Bearer\t"),
        malformed,
    );
    send(
        "the scheme alone",
        "/",
        "Authorization: Bearer\r\n",
        malformed,
    );
    send(
        "another scheme is no token",
        "/required",
        &bearer.replace("Bearer", "DPoP"),
        missing,
    );
    let query = format!("/required?access_token={plain}");
    send(
        "in a query parameter that no rule names",
        &query,
        "",
        missing,
    );
    let cookie = format!("Cookie: token={plain}\r\n");
    send(
        "in a cookie that no rule names",
        "/required",
        &cookie,
        missing,
    );
    let unknown = refused(Reason::TokenUnknownIssuer);
    let other = format!("X-Token: {plain}\r\n");
    send("in a place of another issuer", "/", &other, unknown);
    send(
        "a header that only the sidecar writes",
        "/",
        "X-Subject: root\r\n",
        NOBODY,
    );

    let mut send = |name, path: &str, lines: &str, expected| {
        table.request(
            name,
            path,
            lines.as_bytes().to_vec(),
            elsewhere.clone(),
            expected,
        );
    };
    send(
        "good: in its own header",
        "/",
        &format!("X-Token: {elsewhere}\r\n"),
        ALICE,
    );
    let cookie = format!("Cookie: a=b; session={elsewhere}\r\n");
    send("good: in its cookie", "/", &cookie, ALICE);
    send(
        "good: in its query parameter",
        &format!("/?a=b&token={elsewhere}"),
        "",
        ALICE,
    );
    send(
        "where its issuer's rule does not look",
        "/",
        &format!("Authorization: Bearer {elsewhere}\r\n"),
        unknown,
    );
    let query = format!("/?token={elsewhere}");
    send("in the query and in a cookie", &query, &cookie, twice);
    send(
        "twice in the query",
        &format!("{query}&tok%65n={elsewhere}"),
        "",
        twice,
    );
    send("in two cookies", "/", &format!("{cookie}{cookie}"), twice);
    Ok(())
}

fn answers(table: &mut Table, forge: &Forge) -> anyhow::Result<()> {
    let scope = Expected::Refused(Reason::InsufficientScope);
    let mut send = |name, path, claims: &Value, more: &str, expected| {
        let token = forge.sign(&forge.header(), claims)?;
        let lines = format!("Authorization: Bearer {token}\r\n{more}").into_bytes();
        table.request(name, path, lines, token, expected);
        anyhow::Ok(())
    };
    let grpc = "Content-Type: application/grpc\r\n";
    let expired = with("exp", 1)?;
    send(
        "good: the scope that the route wants",
        "/scoped",
        &with("scope", "orders.read")?,
        "",
        ALICE,
    )?;
    send(
        "another scope",
        "/scoped",
        &with("scope", "orders.write")?,
        "",
        scope,
    )?;
    send(
        "a scope that begins like the right one",
        "/scoped",
        &with("scope", "orders.readx")?,
        "",
        scope,
    )?;
    send(
        "expired, asked by gRPC",
        "/",
        &expired,
        grpc,
        Expected::GrpcRefused(Reason::TokenExpired),
    )?;
    let wanting = Expected::GrpcRefused(Reason::InsufficientScope);
    send(
        "another scope, asked by gRPC",
        "/scoped",
        &with("scope", "x")?,
        grpc,
        wanting,
    )
}
