//! Groups for the key exchange (RFC 8446 §4.2.7) whose X25519 key shares are made ahead.
//!
//! Each share is of one handshake; see `mesh_x25519`. What the library has of its own makes one when it is asked.

use mesh_x25519::KeyShare;
use rustls::crypto::aws_lc_rs::kx_group::MLKEM768;
use rustls::crypto::{ActiveKeyExchange, CompletedKeyExchange, SharedSecret, SupportedKxGroup};
use rustls::{Error, NamedGroup, PeerMisbehaved, ProtocolVersion};

/// RFC 7748, RFC 8446 §7.4.2.
pub(super) static X25519: &dyn SupportedKxGroup = &Classical;
/// The same beside ML-KEM-768 (draft-ietf-tls-ecdhe-mlkem §4): as strong as the stronger.
pub(super) static X25519MLKEM768: &dyn SupportedKxGroup = &Hybrid;

/// Bytes of a share of X25519.
const CLASSICAL: usize = 32;
/// Bytes of a key to encapsulate with, which is a client's share (FIPS 203 table 3).
const ENCAPSULATION_KEY: usize = 1184;
/// Bytes of what is encapsulated, which is a server's share.
const CIPHERTEXT: usize = 1088;

const INVALID: Error = Error::PeerMisbehaved(PeerMisbehaved::InvalidKeyShare);

fn share() -> Result<KeyShare, Error> {
    KeyShare::generate().map_err(|_| Error::FailedToGetRandomBytes)
}

fn agree(share: KeyShare, peer: &[u8]) -> Result<SharedSecret, Error> {
    let peer = peer.try_into().map_err(|_| INVALID)?;
    let secret = share.agree(peer).ok_or(INVALID)?;
    Ok(SharedSecret::from(&secret[..]))
}

#[derive(Debug)]
struct Classical;

impl SupportedKxGroup for Classical {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        Ok(Box::new(ActiveClassical(share()?)))
    }

    fn start_and_complete(&self, peer: &[u8]) -> Result<CompletedKeyExchange, Error> {
        let share = share()?;
        Ok(CompletedKeyExchange {
            group: self.name(),
            pub_key: share.public().to_vec(),
            secret: agree(share, peer)?,
        })
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

struct ActiveClassical(KeyShare);

impl ActiveKeyExchange for ActiveClassical {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        agree(self.0, peer)
    }

    fn pub_key(&self) -> &[u8] {
        self.0.public()
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

#[derive(Debug)]
struct Hybrid;

impl SupportedKxGroup for Hybrid {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let (post_quantum, classical) = (MLKEM768.start()?, share()?);
        Ok(Box::new(ActiveHybrid {
            public: [post_quantum.pub_key(), classical.public()].concat(),
            post_quantum,
            classical,
        }))
    }

    fn start_and_complete(&self, peer: &[u8]) -> Result<CompletedKeyExchange, Error> {
        let (to_encapsulate, to_agree) = split(peer, ENCAPSULATION_KEY)?;
        let classical = X25519.start_and_complete(to_agree)?;
        let post_quantum = MLKEM768.start_and_complete(to_encapsulate)?;
        Ok(CompletedKeyExchange {
            group: self.name(),
            pub_key: [&post_quantum.pub_key[..], &classical.pub_key].concat(),
            secret: both(&post_quantum.secret, &classical.secret),
        })
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }

    fn usable_for_version(&self, version: ProtocolVersion) -> bool {
        version == ProtocolVersion::TLSv1_3
    }
}

struct ActiveHybrid {
    post_quantum: Box<dyn ActiveKeyExchange>,
    classical: KeyShare,
    public: Vec<u8>,
}

impl ActiveKeyExchange for ActiveHybrid {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let (encapsulated, to_agree) = split(peer, CIPHERTEXT)?;
        let classical = agree(self.classical, to_agree)?;
        Ok(both(&self.post_quantum.complete(encapsulated)?, &classical))
    }

    /// Offered by itself as well, for servers that know no other (RFC 8446 §4.2.8).
    fn hybrid_component(&self) -> Option<(NamedGroup, &[u8])> {
        Some((NamedGroup::X25519, self.classical.public()))
    }

    fn complete_hybrid_component(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        agree(self.classical, peer)
    }

    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }
}

/// The parts of a share, the post-quantum one first.
fn split(share: &[u8], post_quantum: usize) -> Result<(&[u8], &[u8]), Error> {
    match share.split_at_checked(post_quantum) {
        Some((first, second)) if second.len() == CLASSICAL => Ok((first, second)),
        _ => Err(INVALID),
    }
}

/// One secret of both, in the order of the shares.
fn both(post_quantum: &SharedSecret, classical: &SharedSecret) -> SharedSecret {
    // Whoever holds what this makes wipes it.
    SharedSecret::from([post_quantum.secret_bytes(), classical.secret_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs::kx_group as theirs;

    use super::*;

    /// Each of ours with the library's of the same name.
    const GROUPS: [(&dyn SupportedKxGroup, &dyn SupportedKxGroup); 2] = [
        (&Classical, theirs::X25519),
        (&Hybrid, theirs::X25519MLKEM768),
    ];

    fn agree_between(client: &dyn SupportedKxGroup, server: &dyn SupportedKxGroup) {
        let begun = client.start().unwrap();
        assert_eq!(begun.group(), client.name());
        let answered = server.start_and_complete(begun.pub_key()).unwrap();
        assert_eq!(answered.group, server.name());
        let secret = begun.complete(&answered.pub_key).unwrap();
        assert_eq!(secret.secret_bytes(), answered.secret.secret_bytes());
    }

    #[test]
    fn ours_and_the_librarys_agree_with_each_other() {
        for (ours, theirs) in GROUPS {
            for _ in 0..20 {
                agree_between(ours, ours);
                agree_between(ours, theirs);
                agree_between(theirs, ours);
            }
            let same = |versions: [ProtocolVersion; 2]| {
                versions.map(|v| (ours.usable_for_version(v), theirs.usable_for_version(v)))
            };
            let versions = same([ProtocolVersion::TLSv1_2, ProtocolVersion::TLSv1_3]);
            assert!(versions.iter().all(|(ours, theirs)| ours == theirs));
        }
    }

    #[test]
    fn what_is_offered_beside_the_hybrid_is_its_classical_part() {
        for server in [X25519, theirs::X25519] {
            let begun = X25519MLKEM768.start().unwrap();
            let (group, public) = begun.hybrid_component().unwrap();
            assert_eq!(group, NamedGroup::X25519);
            assert!(begun.pub_key().ends_with(public));
            let answered = server.start_and_complete(public).unwrap();
            let secret = begun.complete_hybrid_component(&answered.pub_key).unwrap();
            assert_eq!(secret.secret_bytes(), answered.secret.secret_bytes());
        }
    }

    #[test]
    fn no_two_handshakes_have_one_share() {
        let shares: std::collections::HashSet<_> = (0..100)
            .map(|_| X25519.start().unwrap().pub_key().to_vec())
            .collect();
        assert_eq!(shares.len(), 100);
    }

    #[test]
    fn a_share_of_another_length_or_of_small_order_is_refused() {
        for (ours, theirs) in GROUPS {
            let good = theirs.start().unwrap().pub_key().to_vec();
            let mut small = good.clone();
            let classical = small.len() - CLASSICAL;
            small[classical..].fill(0);
            let longer = [&good[..], &[0]].concat();
            for bad in [&[][..], &good[1..], &longer, &small] {
                let told = ours.start_and_complete(bad).map(|_| ());
                assert_eq!(told.unwrap_err(), INVALID, "{}", bad.len());
            }
            let answer = theirs.start_and_complete(&good).unwrap().pub_key;
            let mut small = answer.clone();
            let classical = small.len() - CLASSICAL;
            small[classical..].fill(0);
            let longer = [&answer[..], &[0]].concat();
            for bad in [&[][..], &answer[1..], &longer, &small] {
                let told = ours.start().unwrap().complete(bad).map(|_| ());
                assert_eq!(told.unwrap_err(), INVALID, "{}", bad.len());
            }
        }
    }
}
