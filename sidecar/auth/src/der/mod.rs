//! The few facts of a certificate that path validation does not check for us: a walk over its DER that never panics,
//! never allocates, and refuses what it does not understand.
//!
//! Stricter than `webpki` where two readings of the same bytes could differ: nothing may follow an element that ends,
//! lengths and integers have one spelling, an extension appears once. It does not check signatures or names.

use rustls_pki_types::alg_id;

const OID_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const OID_SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const OID_BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const OID_NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x1e];
const OID_EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const OID_SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
const OID_CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];

/// Extensions a certificate may have; real ones have about ten.
const MAX_EXTENSIONS: usize = 32;

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;

/// What could not be read, in words that follow "the certificate is malformed: ".
pub(crate) type Malformed = &'static str;

/// Bits of the KeyUsage extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyUsage {
    pub(crate) critical: bool,
    pub(crate) digital_signature: bool,
    pub(crate) key_cert_sign: bool,
    pub(crate) crl_sign: bool,
}

/// Purposes of the ExtendedKeyUsage extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExtendedKeyUsage {
    pub(crate) server_auth: bool,
    pub(crate) client_auth: bool,
}

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts<'a> {
    pub(crate) serial: &'a [u8],
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    /// Content of the subject's name; empty for an empty name.
    pub(crate) subject: &'a [u8],
    /// Content of the SubjectPublicKeyInfo.
    pub(crate) public_key: &'a [u8],
    pub(crate) is_ca: bool,
    pub(crate) path_length: Option<u32>,
    pub(crate) key_usage: Option<KeyUsage>,
    pub(crate) extended_key_usage: Option<ExtendedKeyUsage>,
    pub(crate) has_name_constraints: bool,
    /// The last URI SAN; the only one if `uri_count` is 1.
    pub(crate) uri: Option<&'a [u8]>,
    pub(crate) uri_count: usize,
    pub(crate) san_critical: bool,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next element: tag and content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (&first, mut rest) = rest.split_first()?;
        let length = if first < 0x80 {
            usize::from(first)
        } else {
            let count = usize::from(first & 0x7f);
            // Three bytes of length are 16 MiB, more than a handshake message can hold.
            if count == 0 || count > 3 || rest.len() < count {
                return None;
            }
            let (digits, after) = rest.split_at(count);
            rest = after;
            let length = digits
                .iter()
                .fold(0usize, |n, b| (n << 8) | usize::from(*b));
            // DER: the shortest form only.
            if length < 0x80 || digits[0] == 0 {
                return None;
            }
            length
        };
        if rest.len() < length {
            return None;
        }
        let (content, after) = rest.split_at(length);
        self.0 = after;
        Some((tag, content))
    }

    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, content) = self.next()?;
        (found == tag).then_some(content)
    }

    /// The next element if it has this tag; leaves any other where it is.
    fn optional(&mut self, tag: u8) -> Option<Option<&'a [u8]>> {
        if self.0.first() == Some(&tag) {
            self.next().map(|(_, content)| Some(content))
        } else {
            Some(None)
        }
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Cuts elements that lie one after the other apart, each with its tag; `None` if what is left at the end is none.
pub(crate) fn elements(der: &[u8]) -> Option<Vec<&[u8]>> {
    let mut reader = Reader(der);
    let mut elements = Vec::new();
    while !reader.is_empty() {
        let before = reader.0;
        reader.expect(SEQUENCE)?;
        elements.push(&before[..before.len() - reader.0.len()]);
    }
    Some(elements)
}

/// Reads the facts of a certificate.
pub(crate) fn facts(certificate: &[u8]) -> Result<Facts<'_>, Malformed> {
    let (facts, extensions) = to_be_signed(certificate).ok_or("its structure is not X.509 v3")?;
    let mut facts = facts;
    let mut extensions = Reader(extensions);
    let mut seen: [&[u8]; MAX_EXTENSIONS] = [&[]; MAX_EXTENSIONS];
    let mut count = 0;
    while !extensions.is_empty() {
        let (oid, critical, value) = extensions
            .expect(SEQUENCE)
            .and_then(extension)
            .ok_or("an extension cannot be read")?;
        if count == MAX_EXTENSIONS {
            return Err("it has more than 32 extensions");
        }
        // RFC 5280 §4.2: an extension appears once.
        if seen[..count].contains(&oid) {
            return Err("an extension appears twice");
        }
        seen[count] = oid;
        count += 1;
        let mut value = Reader(value);
        match oid {
            OID_KEY_USAGE => {
                facts.key_usage =
                    Some(key_usage(&mut value, critical).ok_or("keyUsage cannot be read")?);
            }
            OID_SUBJECT_ALT_NAME => {
                facts.san_critical = critical;
                uris(&mut value, &mut facts).ok_or("subjectAltName cannot be read")?;
            }
            OID_BASIC_CONSTRAINTS => {
                (facts.is_ca, facts.path_length) =
                    basic_constraints(&mut value).ok_or("basicConstraints cannot be read")?;
            }
            OID_EXTENDED_KEY_USAGE => {
                facts.extended_key_usage =
                    Some(purposes(&mut value).ok_or("extendedKeyUsage cannot be read")?);
            }
            OID_NAME_CONSTRAINTS => facts.has_name_constraints = true,
            _ => {}
        }
    }
    Ok(facts)
}

/// The point of a SubjectPublicKeyInfo's content that is one of P-256 (RFC 5480 §2), as it is encoded.
pub(crate) fn p256_point(public_key: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader(public_key);
    let algorithm = reader.expect(SEQUENCE)?;
    let bits = reader.expect(BIT_STRING)?;
    reader.end()?;
    let point = bits.strip_prefix(&[0])?;
    (algorithm == alg_id::ECDSA_P256.as_ref()).then_some(point)
}

/// The two numbers of an ECDSA-Sig-Value (RFC 3279 §2.2.3) for a curve of 256 bits, 32 bytes each, one after the other.
pub(crate) fn ecdsa_signature(signature: &[u8]) -> Option<[u8; 64]> {
    let mut outer = Reader(signature);
    let mut numbers = Reader(outer.expect(SEQUENCE)?);
    outer.end()?;
    let mut signature = [0; 64];
    for half in signature.chunks_exact_mut(32) {
        let digits = integer(numbers.expect(INTEGER)?)?;
        // Not negative, and the byte that says so taken off.
        let digits = match digits {
            [0, rest @ ..] => rest,
            [first, ..] if first & 0x80 != 0 => return None,
            digits => digits,
        };
        let at = half.len().checked_sub(digits.len())?;
        half[at..].copy_from_slice(digits);
    }
    numbers.end()?;
    Some(signature)
}

/// The fixed part of a certificate, and the content of its extensions (empty if it has none).
fn to_be_signed(certificate: &[u8]) -> Option<(Facts<'_>, &[u8])> {
    let mut outer = Reader(certificate);
    let mut certificate = Reader(outer.expect(SEQUENCE)?);
    outer.end()?;
    let mut tbs = Reader(certificate.expect(SEQUENCE)?);
    certificate.expect(SEQUENCE)?;
    certificate.expect(BIT_STRING)?;
    certificate.end()?;
    // [0] EXPLICIT version: extensions need v3.
    if tbs.expect(0xa0)? != [INTEGER, 0x01, 0x02] {
        return None;
    }
    let serial = integer(tbs.expect(INTEGER)?)?;
    tbs.expect(SEQUENCE)?;
    tbs.expect(SEQUENCE)?;
    let mut validity = Reader(tbs.expect(SEQUENCE)?);
    let not_before = time(validity.next()?)?;
    let not_after = time(validity.next()?)?;
    validity.end()?;
    let subject = tbs.expect(SEQUENCE)?;
    let public_key = tbs.expect(SEQUENCE)?;
    // issuerUniqueID and subjectUniqueID, in this order.
    tbs.optional(0x81)?;
    tbs.optional(0x82)?;
    let extensions = match tbs.optional(0xa3)? {
        None => &[],
        Some(content) => {
            let mut wrapper = Reader(content);
            let extensions = wrapper.expect(SEQUENCE)?;
            wrapper.end()?;
            extensions
        }
    };
    tbs.end()?;
    let facts = Facts {
        serial,
        not_before,
        not_after,
        subject,
        public_key,
        is_ca: false,
        path_length: None,
        key_usage: None,
        extended_key_usage: None,
        has_name_constraints: false,
        uri: None,
        uri_count: 0,
        san_critical: false,
    };
    Some((facts, extensions))
}

/// An extension's identifier, criticality and value.
fn extension(content: &[u8]) -> Option<(&[u8], bool, &[u8])> {
    let mut reader = Reader(content);
    let oid = reader.expect(OBJECT_IDENTIFIER)?;
    let critical = reader.optional(BOOLEAN)?.map_or(Some(false), boolean)?;
    let value = reader.expect(OCTET_STRING)?;
    reader.end()?;
    Some((oid, critical, value))
}

fn key_usage(value: &mut Reader<'_>, critical: bool) -> Option<KeyUsage> {
    let (&unused, bits) = value.expect(BIT_STRING)?.split_first()?;
    value.end()?;
    let last = bits.last().copied().unwrap_or(0);
    // DER: bits that do not count are zero, and none are unused in an empty string.
    if unused > 7 || (bits.is_empty() && unused != 0) || last & ((1 << unused) - 1) != 0 {
        return None;
    }
    let first = bits.first().copied().unwrap_or(0);
    Some(KeyUsage {
        critical,
        digital_signature: first & 0x80 != 0,
        key_cert_sign: first & 0x04 != 0,
        crl_sign: first & 0x02 != 0,
    })
}

fn uris<'a>(value: &mut Reader<'a>, facts: &mut Facts<'a>) -> Option<()> {
    let mut names = Reader(value.expect(SEQUENCE)?);
    value.end()?;
    while !names.is_empty() {
        match names.next()? {
            (0x86, uri) => {
                facts.uri_count += 1;
                facts.uri = Some(uri);
            }
            // otherName, e-mail, DNS, X.400, directory, EDI party, IP address, registered ID.
            (0xa0 | 0x81 | 0x82 | 0xa3 | 0xa4 | 0xa5 | 0x87 | 0x88, _) => {}
            _ => return None,
        }
    }
    Some(())
}

fn basic_constraints(value: &mut Reader<'_>) -> Option<(bool, Option<u32>)> {
    let mut constraints = Reader(value.expect(SEQUENCE)?);
    value.end()?;
    let is_ca = constraints
        .optional(BOOLEAN)?
        .map_or(Some(false), boolean)?;
    let path_length = match constraints.optional(INTEGER)? {
        None => None,
        Some(content) => {
            let digits = integer(content)?;
            if digits.len() > 4 || digits[0] & 0x80 != 0 {
                return None;
            }
            Some(digits.iter().fold(0, |n, b| (n << 8) | u32::from(*b)))
        }
    };
    constraints.end()?;
    // RFC 5280 §4.2.1.9: a path length only with cA.
    (is_ca || path_length.is_none()).then_some((is_ca, path_length))
}

fn purposes(value: &mut Reader<'_>) -> Option<ExtendedKeyUsage> {
    let mut purposes = Reader(value.expect(SEQUENCE)?);
    value.end()?;
    let mut usage = ExtendedKeyUsage {
        server_auth: false,
        client_auth: false,
    };
    while !purposes.is_empty() {
        match purposes.expect(OBJECT_IDENTIFIER)? {
            OID_SERVER_AUTH => usage.server_auth = true,
            OID_CLIENT_AUTH => usage.client_auth = true,
            _ => {}
        }
    }
    Some(usage)
}

fn boolean(content: &[u8]) -> Option<bool> {
    match content {
        [0x00] => Some(false),
        [0xff] => Some(true),
        _ => None,
    }
}

/// The content of an INTEGER if it is spelled as DER spells it: not empty, no needless leading byte.
fn integer(content: &[u8]) -> Option<&[u8]> {
    match content {
        [] => None,
        [0x00, next, ..] if next & 0x80 == 0 => None,
        [0xff, next, ..] if next & 0x80 != 0 => None,
        _ => Some(content),
    }
}

/// UTCTime or GeneralizedTime as RFC 5280 §4.1.2.5 allows them, in Unix seconds.
fn time((tag, content): (u8, &[u8])) -> Option<i64> {
    let digits = content.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        digits
            .get(range)
            .map(|d| d.iter().fold(0, |n, b| n * 10 + i64::from(b - b'0')))
    };
    let (year, rest) = match (tag, digits.len()) {
        (UTC_TIME, 12) => {
            let short = number(0..2)?;
            (
                if short < 50 {
                    2000 + short
                } else {
                    1900 + short
                },
                2,
            )
        }
        (GENERALIZED_TIME, 14) => (number(0..4)?, 4),
        _ => return None,
    };
    let (month, day) = (number(rest..rest + 2)?, number(rest + 2..rest + 4)?);
    let (hour, minute, second) = (
        number(rest + 4..rest + 6)?,
        number(rest + 6..rest + 8)?,
        number(rest + 8..rest + 10)?,
    );
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of_month = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        _ => return None,
    };
    if !(1..=days_of_month).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Days since the epoch of a proleptic Gregorian date.
    let (y, m) = if month <= 2 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let era = y.div_euclid(400);
    let year_of_era = y.rem_euclid(400);
    let day_of_year = (153 * m + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests;
