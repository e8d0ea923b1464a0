//! Certificates under which identities presented tokens lately: a token that is bound to one stays good when its holder's
//! certificate rotates (RFC 8705 §3, with certificates that live shorter than tokens).

use std::collections::{HashMap, VecDeque};

use mesh_auth::SpiffeId;

/// Identities remembered.
const MAX_IDENTITIES: usize = 1024;
/// Certificates remembered of each: a token outlives few rotations.
const MAX_CERTIFICATES: usize = 4;

/// What one worker saw.
#[derive(Debug, Default)]
pub(super) struct Recent {
    identities: HashMap<Box<str>, VecDeque<[u8; 32]>>,
}

impl Recent {
    /// `id` presented the certificate with this digest.
    pub(super) fn note(&mut self, id: &SpiffeId, certificate: &[u8; 32]) {
        if let Some(held) = self.identities.get_mut(id.as_str()) {
            if held.back() != Some(certificate) {
                held.retain(|c| c != certificate);
                if held.len() == MAX_CERTIFICATES {
                    held.pop_front();
                }
                held.push_back(*certificate);
            }
            return;
        }
        if self.identities.len() >= MAX_IDENTITIES {
            self.identities.clear();
        }
        self.identities
            .insert(id.as_str().into(), VecDeque::from([*certificate]));
    }

    /// True when `id` presented that certificate not long ago.
    pub(super) fn was_presented(&self, id: &SpiffeId, certificate: &[u8; 32]) -> bool {
        self.identities
            .get(id.as_str())
            .is_some_and(|held| held.contains(certificate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://td/ns/a/sa/{name}")).expect("an id")
    }

    #[test]
    fn the_last_certificates_of_the_same_identity_count_and_no_others() {
        let mut recent = Recent::default();
        let web = id("web");
        for i in 0..6_u8 {
            recent.note(&web, &[i; 32]);
        }
        assert!(recent.was_presented(&web, &[5; 32]) && recent.was_presented(&web, &[2; 32]));
        assert!(!recent.was_presented(&web, &[1; 32]), "too long ago");
        assert!(!recent.was_presented(&id("orders"), &[5; 32]));
        for i in 0..2 * MAX_IDENTITIES {
            recent.note(&id(&format!("w{i}")), &[0; 32]);
        }
        assert!(recent.identities.len() <= MAX_IDENTITIES);
    }
}
