//! `authorization` on the way between sidecars: under a name that HPACK may index.
//!
//! The h2 crate never indexes `authorization`, so that a token would be spelled, Huffman-coded, in each request of its
//! connection; decoding that costs the inbound sidecar more than to look up what it verified. A token that comes again is
//! carried as [`headers::AUTHORIZATION`], and after the first time an index of a byte or two stands for it. Others keep
//! their name: they would only push out of the table what does come again.
//!
//! Only long credentials are carried: who shares a connection and sees its lengths can test guesses of a whole value, and
//! what nobody can guess is safe from that (RFC 7541 §7.1). What came as never to be indexed stays so.

use std::cell::Cell;
use std::hash::BuildHasher;

use http::{HeaderMap, HeaderValue, header};
use mesh_auth::headers;

/// Values that may take turns. The table of a connection has room for few of their length.
const SLOTS: usize = 4;
/// Lengths that are carried, bytes: none that can be guessed, none that the table does not take.
const LENGTHS: std::ops::RangeInclusive<usize> = 128..=2048;

/// Which values of `authorization` came lately: hashes of them, keyed anew in each worker.
#[derive(Debug, Default)]
pub struct Repeated {
    hasher: std::hash::RandomState,
    held: [Cell<u64>; SLOTS],
}

impl Repeated {
    /// Renames `authorization` of a request to a sidecar, if its value came before.
    pub fn carry(&self, headers: &mut HeaderMap) {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return;
        };
        if value.is_sensitive() || !LENGTHS.contains(&value.len()) || !self.came_before(value) {
            return;
        }
        if let Some(value) = headers.remove(header::AUTHORIZATION) {
            headers.insert(headers::AUTHORIZATION, value);
        }
    }

    fn came_before(&self, value: &HeaderValue) -> bool {
        let hash = self.hasher.hash_one(value.as_bytes());
        #[allow(clippy::cast_possible_truncation)] // Only the lowest bits count.
        let slot = &self.held[hash as usize % SLOTS];
        slot.replace(hash) == hash
    }
}

/// Takes what a peer carried; before reserved headers are removed.
pub fn take(headers: &mut HeaderMap) -> Option<HeaderValue> {
    headers.remove(headers::AUTHORIZATION)
}

/// Gives it its name again; after reserved headers were removed. Beside an `authorization` it is one more, which is judged
/// as such.
pub fn give_back(headers: &mut HeaderMap, carried: Option<HeaderValue>) {
    if let Some(value) = carried {
        headers.append(header::AUTHORIZATION, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        headers
    }

    fn token(name: char) -> String {
        format!("Bearer {}", name.to_string().repeat(300))
    }

    #[test]
    fn a_token_that_comes_again_is_carried_and_given_back() {
        let repeated = Repeated::default();
        let token = token('a');
        let mut first = with(&[&token]);
        repeated.carry(&mut first);
        assert!(first.contains_key(header::AUTHORIZATION), "seen once");
        let mut second = with(&[&token]);
        repeated.carry(&mut second);
        assert!(!second.contains_key(header::AUTHORIZATION));
        assert!(headers::is_reserved(
            second.keys().next().expect("it has another name")
        ));
        let carried = take(&mut second);
        give_back(&mut second, carried);
        assert_eq!(second, with(&[&token]));
    }

    #[test]
    fn what_must_not_be_indexed_or_would_not_be_found_again_keeps_its_name() {
        let keeps = |make: &dyn Fn(usize) -> HeaderMap| {
            let repeated = Repeated::default();
            (0..64).all(|i| {
                let mut headers = make(i);
                repeated.carry(&mut headers);
                headers.contains_key(header::AUTHORIZATION)
            })
        };
        assert!(keeps(&|_| with(&["Basic YTpi"])), "can be guessed");
        assert!(keeps(&|_| with(&[&"a".repeat(4000)])), "fits no table");
        assert!(keeps(&|_| with(&[&token('a'), &token('a')])), "two");
        assert!(
            keeps(&|i| with(&[&format!("{}{i}", token('a'))])),
            "another one each time"
        );
        assert!(
            keeps(&|_| {
                let mut headers = with(&[&token('a')]);
                for value in headers.values_mut() {
                    value.set_sensitive(true);
                }
                headers
            }),
            "never to be indexed"
        );
    }

    #[test]
    fn beside_another_one_it_is_not_hidden() {
        let mut headers = with(&[&token('a')]);
        headers.insert(headers::AUTHORIZATION, token('b').parse().unwrap());
        let carried = take(&mut headers);
        give_back(&mut headers, carried);
        assert_eq!(headers, with(&[&token('a'), &token('b')]));
    }
}
