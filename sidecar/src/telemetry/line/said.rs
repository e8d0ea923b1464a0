//! What was said in earlier lines and is said again: put together once.

use std::net::SocketAddr;
use std::sync::Arc;

use time::OffsetDateTime;

use super::super::observe::Ended;
use super::Out;

/// Room for the names of what is a connection's, and for an address.
const KEYS_AND_ADDRESS: usize = 128;

/// What was said before and will be again.
#[derive(Debug, Default)]
pub(in super::super) struct Said {
    pub(super) second: Second,
    pub(super) ends: Ends,
}

/// Who is at both ends of the connections that lines were of lately, as text.
#[derive(Debug)]
pub(super) struct Ends([Option<End>; ENDS]);

#[derive(Debug)]
struct End {
    /// Held, so that another identity cannot be at their places.
    peer_id: Option<Arc<str>>,
    own_id: Option<Arc<str>>,
    peer_address: Option<SocketAddr>,
    text: Vec<u8>,
}

/// Connections that are told apart.
const ENDS: usize = 64;

impl Default for Ends {
    fn default() -> Self {
        Self([const { None }; ENDS])
    }
}

impl Ends {
    /// The fields of an entry that are its connection's.
    pub(super) fn of(&mut self, ended: &Ended<'_>) -> &[u8] {
        let place = |id: &Option<Arc<str>>| id.as_ref().map_or(0, |id| id.as_ptr() as usize);
        let port = ended.peer_address.map_or(0, |a| usize::from(a.port()));
        let slot = &mut self.0[(port ^ place(&ended.peer_id) >> 5) % ENDS];
        let is_it = slot.as_ref().is_some_and(|end| {
            place(&end.peer_id) == place(&ended.peer_id)
                && place(&end.own_id) == place(&ended.own_id)
                && end.peer_address == ended.peer_address
        });
        if !is_it {
            *slot = Some(End::new(ended));
        }
        slot.as_ref().map_or(&[], |end| &end.text)
    }
}

impl End {
    fn new(ended: &Ended<'_>) -> Self {
        let length = |id: &Option<Arc<str>>| id.as_ref().map_or(0, |id| id.len());
        let longest = length(&ended.peer_id) + length(&ended.own_id) + KEYS_AND_ADDRESS;
        let mut text = vec![0; longest];
        let mut out = Out::new(&mut text);
        // A SPIFFE ID has no character that JSON would have to escape (SPIFFE-ID §2).
        for (key, id) in [
            (text_key!("peer"), &ended.peer_id),
            (text_key!("workload"), &ended.own_id),
        ] {
            if let Some(id) = id {
                out.plain(key, id);
                out.put(b"\"");
            }
        }
        if let Some(source) = ended.peer_address {
            out.put(text_key!("source"));
            out.address(source);
            out.put(b"\"");
        }
        let length = out.finish().unwrap_or(0);
        text.truncate(length);
        Self {
            peer_id: ended.peer_id.clone(),
            own_id: ended.own_id.clone(),
            peer_address: ended.peer_address,
            text,
        }
    }
}

/// The second that was written last, as text.
#[derive(Debug)]
pub(super) struct Second {
    unix: u64,
    text: [u8; 20],
}

impl Default for Second {
    fn default() -> Self {
        Self {
            unix: 0,
            text: *b"1970-01-01T00:00:00.",
        }
    }
}

impl Second {
    pub(super) fn at(&mut self, unix: u64) -> &[u8; 20] {
        if self.unix != unix
            && let Ok(signed) = i64::try_from(unix)
            && let Ok(at) = OffsetDateTime::from_unix_timestamp(signed)
        {
            let text = format!(
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.",
                at.year(),
                u8::from(at.month()),
                at.day(),
                at.hour(),
                at.minute(),
                at.second()
            );
            if let Ok(text) = text.as_bytes().try_into() {
                (self.unix, self.text) = (unix, text);
            }
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::observe::Line;
    use super::*;

    #[test]
    fn what_is_a_connections_is_said_of_no_other() {
        let ids: Vec<Option<Arc<str>>> = vec![
            None,
            Some("spiffe://a/b".into()),
            Some("spiffe://a/c".into()),
        ];
        let addresses = [
            None,
            Some(([10, 0, 0, 1], 5).into()),
            Some(([10, 0, 0, 2], 21).into()),
        ];
        let mut ends = Ends::default();
        for _ in 0..2 {
            for (peer, own) in ids
                .iter()
                .flat_map(|peer| ids.iter().map(move |own| (peer, own)))
            {
                for address in addresses {
                    let ended = Ended {
                        line: Line::Connection,
                        peer_address: address,
                        port: 0,
                        peer_id: peer.clone(),
                        own_id: own.clone(),
                        sent: 0,
                        received: 0,
                        error: None,
                    };
                    let text = String::from_utf8(ends.of(&ended).to_vec()).expect("ASCII");
                    let read: serde_json::Value =
                        serde_json::from_str(&format!("{{\"a\":0{text}}}")).expect("JSON");
                    let address = address.map(|a: SocketAddr| a.to_string());
                    for (key, expected) in [
                        ("peer", peer.as_deref()),
                        ("workload", own.as_deref()),
                        ("source", address.as_deref()),
                    ] {
                        assert_eq!(read.get(key).and_then(|v| v.as_str()), expected, "{key}");
                    }
                }
            }
        }
    }
}
