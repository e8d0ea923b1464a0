//! The keys that JWT-SVIDs are signed with: kept in the store, published before they sign and until their last token is over.
//!
//! A key signs from its time on until the next one does, so that there is never a moment without one. The next key is made
//! at half of the life of the current and published at once: whoever looks at the bundle in time knows it before the first
//! token that it signed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mesh_auth::Secret;
use serde_json::json;

use crate::store::jwt_keys::{self, JwtKeyRecord};
use crate::store::{Store, StoreError, failed};

/// Longest lifetime of a JWT-SVID.
pub const MAX_TOKEN_LIFETIME: Duration = Duration::from_secs(3_600);
/// How long a key stays published after its last token, for clocks that are slow.
const GRACE: i64 = 300;
/// Shortest time between publishing a key and signing with it, as long as half of a key's life allows that.
const AHEAD: i64 = 900;

/// A signing key.
pub struct Key {
    kid: String,
    signs_from: i64,
    pair: EcdsaKeyPair,
    /// Coordinates of the public key, base64url.
    x: String,
    y: String,
}

impl Key {
    /// Its ID: the thumbprint of the public key (RFC 7638).
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// ES256 signature, 64 bytes.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, StoreError> {
        let signature = self.pair.sign(&SystemRandom::new(), message);
        let signature = signature.map_err(|_| failed("the JWT key does not sign"))?;
        Ok(signature.as_ref().to_vec())
    }

    fn of(record: &JwtKeyRecord) -> Result<Self, StoreError> {
        let damaged = |reason: &str| StoreError::Damaged {
            key: record.kid.clone(),
            reason: reason.to_owned(),
        };
        let pair = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            record.pkcs8.expose().as_slice(),
        )
        .map_err(|_| damaged("not a P-256 key in PKCS#8"))?;
        let (x, y) = coordinates(&pair).ok_or_else(|| damaged("not a point of P-256"))?;
        let key = Self {
            kid: thumbprint(&x, &y),
            signs_from: record.signs_from,
            pair,
            x,
            y,
        };
        if key.kid == record.kid {
            Ok(key)
        } else {
            Err(damaged("it is another key"))
        }
    }

    fn jwk(&self, usage: &str) -> serde_json::Value {
        json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": usage, "kid": self.kid, "x": self.x, "y": self.y})
    }
}

/// The owner of the keys.
pub struct JwtKeys {
    store: Arc<Store>,
    /// How long a key signs, seconds.
    life: i64,
    /// Oldest first; never empty.
    keys: ArcSwap<Vec<Arc<Key>>>,
    tending: Mutex<()>,
}

impl JwtKeys {
    /// Opens the keys of a store; makes the first one.
    ///
    /// # Errors
    /// The store failed, or a key in it is damaged.
    pub fn open(store: Arc<Store>, life: Duration, now: i64) -> Result<Self, StoreError> {
        let records = store.read(jwt_keys::load)?;
        let keys = records
            .iter()
            .map(|r| Key::of(r).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()?;
        let this = Self {
            store,
            life: i64::try_from(life.as_secs()).unwrap_or(i64::MAX).max(2),
            keys: ArcSwap::from_pointee(keys),
            tending: Mutex::new(()),
        };
        this.tend(now)?;
        Ok(this)
    }

    /// The key that signs at `now`.
    pub fn signer(&self, now: i64) -> Option<Arc<Key>> {
        let keys = self.keys.load();
        let started = keys.iter().rev().find(|k| k.signs_from <= now);
        // A clock that was set back finds none that has started.
        started.or_else(|| keys.first()).cloned()
    }

    /// The keys as entries of a SPIFFE bundle: a JWK set.
    pub fn authorities(&self) -> String {
        self.set("jwt-svid")
    }

    /// The keys as OpenID Connect clients expect them: a JWK set.
    pub fn public_set(&self) -> String {
        self.set("sig")
    }

    fn set(&self, usage: &str) -> String {
        let keys: Vec<_> = self.keys.load().iter().map(|k| k.jwk(usage)).collect();
        json!({ "keys": keys }).to_string()
    }

    /// Makes the next key when it is time, and forgets those whose last token is over. True if anything changed.
    ///
    /// # Errors
    /// The store failed; nothing changed.
    pub fn tend(&self, now: i64) -> Result<bool, StoreError> {
        let _turn = self.tending.lock().map_err(failed)?;
        let held = self.keys.load_full();
        let starts: Vec<i64> = held.iter().map(|k| k.signs_from).collect();
        let plan = plan(&starts, self.life, now);
        if plan == Plan::default() {
            return Ok(false);
        }
        let mut keys = held[plan.forget..].to_vec();
        let made = plan.make.map(generate).transpose()?;
        self.store.write(|write| {
            for old in &held[..plan.forget] {
                jwt_keys::remove(write, &old.kid)?;
            }
            made.as_ref()
                .map_or(Ok(()), |record| jwt_keys::add(write, record))
        })?;
        if let Some(record) = &made {
            keys.push(Arc::new(Key::of(record)?));
        }
        self.keys.store(Arc::new(keys));
        Ok(true)
    }
}

/// What is to be done about the keys.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// Make a key that signs from then on.
    make: Option<i64>,
    /// Forget that many of the oldest.
    forget: usize,
}

/// `starts`: when each key starts to sign, oldest first.
fn plan(starts: &[i64], life: i64, now: i64) -> Plan {
    let Some(newest) = starts.last().copied() else {
        return Plan {
            make: Some(now),
            forget: 0,
        };
    };
    // Of a clock that was far ahead once, a key may wait for long; the one before it goes on until then.
    let is_due = now >= newest.saturating_add(life / 2);
    let last_token = i64::try_from(MAX_TOKEN_LIFETIME.as_secs()).unwrap_or(i64::MAX) + GRACE;
    // A key's last token is signed when its successor starts.
    let is_over = |successor: &&i64| successor.saturating_add(last_token) <= now;
    Plan {
        make: is_due.then(|| {
            let soonest = now.saturating_add(AHEAD.min(life / 2));
            newest.saturating_add(life).max(soonest)
        }),
        forget: starts.iter().skip(1).take_while(is_over).count(),
    }
}

fn generate(signs_from: i64) -> Result<JwtKeyRecord, StoreError> {
    let no_key = |_| failed("cannot make a key");
    let pkcs8 =
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map_err(no_key)?;
    let pkcs8 = Secret::new(pkcs8.as_ref().to_vec());
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.expose())
        .map_err(|_| failed("cannot read the key made"))?;
    let (x, y) = coordinates(&pair).ok_or_else(|| failed("cannot read the key made"))?;
    Ok(JwtKeyRecord {
        kid: thumbprint(&x, &y),
        signs_from,
        pkcs8,
    })
}

/// Of the uncompressed point: 4, x, y.
fn coordinates(pair: &EcdsaKeyPair) -> Option<(String, String)> {
    let point = pair.public_key().as_ref().strip_prefix(&[4])?;
    let (x, y) = point.split_at_checked(32)?;
    (y.len() == 32).then(|| (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y)))
}

fn thumbprint(x: &str, y: &str) -> String {
    // RFC 7638 §3.2: the required members, in this order, without white space.
    let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, members.as_bytes());
    URL_SAFE_NO_PAD.encode(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_790_000_000;
    const LIFE: Duration = Duration::from_secs(86_400);

    fn open(dir: &std::path::Path, now: i64) -> JwtKeys {
        let store = Arc::new(Store::open(dir, "td").unwrap());
        JwtKeys::open(store, LIFE, now).unwrap()
    }

    #[test]
    fn keys_are_made_ahead_and_forgotten_after_their_last_token() {
        let (day, over) = (86_400, 3_900);
        for (starts, now, make, forget, why) in [
            (&[][..], 0, Some(0), 0, "the first one signs at once"),
            (&[0], day / 2 - 1, None, 0, "half of its life is not over"),
            (&[0], day / 2, Some(day), 0, "published half a life ahead"),
            (
                &[0, day],
                day / 2 + 1,
                None,
                0,
                "the next one is there already",
            ),
            (
                &[0, day],
                day + over - 1,
                None,
                0,
                "its last token may live",
            ),
            (&[0, day], day + over, None, 1, "its last token is over"),
            (
                &[0],
                9 * day,
                Some(9 * day + 900),
                0,
                "late: nobody is surprised all the same",
            ),
            (
                &[0, 9 * day],
                day,
                None,
                0,
                "made by a clock that was ahead: the first goes on",
            ),
        ] {
            assert_eq!(plan(starts, day, now), Plan { make, forget }, "{why}");
        }
    }

    #[test]
    fn there_is_always_a_signer_and_it_was_published_before() {
        let dir = tempfile::tempdir().unwrap();
        let keys = open(dir.path(), NOW);
        let mut published: Vec<String> = vec![];
        let mut signers = std::collections::BTreeSet::new();
        for hour in 0..24 * 7 {
            let now = NOW + hour * 3_600;
            let signer = keys.signer(now).unwrap();
            if hour > 0 {
                assert!(
                    published.iter().any(|set| set.contains(signer.kid())),
                    "hour {hour}"
                );
            }
            signers.insert(signer.kid().to_owned());
            keys.tend(now).unwrap();
            published = vec![keys.authorities()];
        }
        assert_eq!(signers.len(), 7);
        assert!(keys.keys.load().len() <= 3, "old ones are forgotten");
    }

    #[test]
    fn keys_survive_a_restart_and_their_ids_are_thumbprints() {
        let dir = tempfile::tempdir().unwrap();
        let before = open(dir.path(), NOW);
        let set = before.authorities();
        drop(before);
        let after = open(dir.path(), NOW + 5);
        assert_eq!(after.authorities(), set);
        assert!(set.contains(r#""use":"jwt-svid""#) && !set.contains("\"d\""));
        assert_eq!(after.signer(NOW - 99).unwrap().kid().len(), 43);
    }

    #[test]
    fn the_thumbprint_is_that_of_rfc_7638() {
        // RFC 7517 appendix A.1, the EC key; the value was computed by another implementation.
        let x = "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4";
        let y = "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM";
        assert_eq!(
            thumbprint(x, y),
            "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s"
        );
    }
}
