//! The few facts of a certificate that path validation does not check for us: a walk over its DER that never panics,
//! never allocates, and refuses what it does not understand.

use crate::svid::SvidError;

const OID_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const OID_SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const OID_BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const OID_EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const OID_SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
const OID_CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];

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
    pub(crate) subject_is_empty: bool,
    pub(crate) is_ca: bool,
    pub(crate) key_usage: Option<KeyUsage>,
    pub(crate) extended_key_usage: Option<ExtendedKeyUsage>,
    pub(crate) uri: Option<&'a [u8]>,
    pub(crate) uri_count: usize,
    pub(crate) san_critical: bool,
}

/// Reads the facts of a certificate.
pub(crate) fn facts(certificate: &[u8]) -> Result<Facts<'_>, SvidError> {
    parse(certificate).ok_or(SvidError::Malformed)
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
            if count == 0 || count > 4 || rest.len() < count {
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

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn parse(certificate: &[u8]) -> Option<Facts<'_>> {
    let mut outer = Reader(certificate);
    let mut certificate = Reader(outer.expect(0x30)?);
    if !outer.is_empty() {
        return None;
    }
    let mut tbs = Reader(certificate.expect(0x30)?);
    // [0] EXPLICIT version: extensions need v3.
    let version = tbs.expect(0xa0)?;
    if version != [0x02, 0x01, 0x02] {
        return None;
    }
    let serial = tbs.expect(0x02)?;
    tbs.expect(0x30)?;
    tbs.expect(0x30)?;
    let mut validity = Reader(tbs.expect(0x30)?);
    let not_before = time(validity.next()?)?;
    let not_after = time(validity.next()?)?;
    let subject = tbs.expect(0x30)?;
    tbs.expect(0x30)?;
    let mut facts = Facts {
        serial,
        not_before,
        not_after,
        subject_is_empty: subject.is_empty(),
        is_ca: false,
        key_usage: None,
        extended_key_usage: None,
        uri: None,
        uri_count: 0,
        san_critical: false,
    };
    let mut seen = [false; 4];
    while !tbs.is_empty() {
        let (tag, content) = tbs.next()?;
        if tag == 0xa3 {
            let mut wrapper = Reader(content);
            let mut extensions = Reader(wrapper.expect(0x30)?);
            while !extensions.is_empty() {
                extension(extensions.expect(0x30)?, &mut facts, &mut seen)?;
            }
        }
    }
    Some(facts)
}

fn extension<'a>(content: &'a [u8], facts: &mut Facts<'a>, seen: &mut [bool; 4]) -> Option<()> {
    let mut reader = Reader(content);
    let oid = reader.expect(0x06)?;
    let (mut tag, mut value) = reader.next()?;
    let mut critical = false;
    if tag == 0x01 {
        critical = value == [0xff];
        (tag, value) = reader.next()?;
    }
    if tag != 0x04 || !reader.is_empty() {
        return None;
    }
    let slot = match oid {
        OID_KEY_USAGE => 0,
        OID_SUBJECT_ALT_NAME => 1,
        OID_BASIC_CONSTRAINTS => 2,
        OID_EXTENDED_KEY_USAGE => 3,
        _ => return Some(()),
    };
    // RFC 5280 §4.2: an extension appears once.
    if std::mem::replace(&mut seen[slot], true) {
        return None;
    }
    let mut value = Reader(value);
    match slot {
        0 => {
            let bits = value.expect(0x03)?;
            let first = bits.get(1).copied().unwrap_or(0);
            facts.key_usage = Some(KeyUsage {
                critical,
                digital_signature: first & 0x80 != 0,
                key_cert_sign: first & 0x04 != 0,
                crl_sign: first & 0x02 != 0,
            });
        }
        1 => {
            facts.san_critical = critical;
            let mut names = Reader(value.expect(0x30)?);
            while !names.is_empty() {
                let (tag, name) = names.next()?;
                if tag == 0x86 {
                    facts.uri_count += 1;
                    facts.uri = Some(name);
                }
            }
        }
        2 => {
            let mut constraints = Reader(value.expect(0x30)?);
            if !constraints.is_empty() {
                let (tag, content) = constraints.next()?;
                facts.is_ca = tag == 0x01 && content != [0x00];
            }
        }
        _ => {
            let mut purposes = Reader(value.expect(0x30)?);
            let mut usage = ExtendedKeyUsage {
                server_auth: false,
                client_auth: false,
            };
            while !purposes.is_empty() {
                match purposes.expect(0x06)? {
                    OID_SERVER_AUTH => usage.server_auth = true,
                    OID_CLIENT_AUTH => usage.client_auth = true,
                    _ => {}
                }
            }
            facts.extended_key_usage = Some(usage);
        }
    }
    Some(())
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
        (0x17, 12) => {
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
        (0x18, 14) => (number(0..4)?, 4),
        _ => return None,
    };
    let (month, day) = (number(rest..rest + 2)?, number(rest + 2..rest + 4)?);
    let (hour, minute, second) = (
        number(rest + 4..rest + 6)?,
        number(rest + 6..rest + 8)?,
        number(rest + 8..rest + 10)?,
    );
    if !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 59
    {
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_read_as_unix_seconds() {
        assert_eq!(time((0x17, b"700101000000Z")), Some(0));
        assert_eq!(time((0x17, b"491231235959Z")), Some(2_524_607_999));
        assert_eq!(time((0x18, b"20240229120000Z")), Some(1_709_208_000));
        for bad in [
            &b"20240229120000"[..],
            b"2024022912000Z",
            b"20241329120000Z",
            b"2024022912+000Z",
        ] {
            assert_eq!(time((0x18, bad)), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn random_damage_to_a_certificate_never_panics(at in 0usize..400, value in any::<u8>()) {
            let mut der = crate::svid::tests::good_leaf();
            let at = at % der.len();
            der[at] = value;
            let _ = parse(&der);
        }
    }
}
